//! `resourcequotas`.

use std::sync::Arc;

use crate::registry::{
    Resource, Subresource,
    kit::{NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["quota"],
        subresources: &[Subresource::Status],
        strategy: Arc::new(Plain { status: true, generation: false, cells: NAME_AND_AGE }),
        ..Resource::of("", "ResourceQuota", "resourcequotas", "resourcequota")
    }
}
