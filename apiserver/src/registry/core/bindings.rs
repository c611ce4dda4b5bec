//! `bindings`.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource { verbs: &["create"], ..Resource::of("", "Binding", "bindings", "binding") }
}
