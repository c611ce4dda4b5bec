//! `componentstatuses`.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["cs"],
        namespaced: false,
        verbs: &["get", "list"],
        ..Resource::of("", "ComponentStatus", "componentstatuses", "componentstatus")
    }
}
