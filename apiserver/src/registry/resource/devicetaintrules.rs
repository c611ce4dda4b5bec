//! `devicetaintrules` of resource.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource, Subresource,
    kit::{NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta2"],
        storage_version: "v1beta2",
        namespaced: false,
        subresources: &[Subresource::Status],
        strategy: Arc::new(Plain { status: true, generation: true, cells: NAME_AND_AGE }),
        ..Resource::of("resource.k8s.io", "DeviceTaintRule", "devicetaintrules", "devicetaintrule")
    }
}
