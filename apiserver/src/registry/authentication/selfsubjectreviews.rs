//! `selfsubjectreviews` of authentication.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        verbs: &["create"],
        ..Resource::of(
            "authentication.k8s.io",
            "SelfSubjectReview",
            "selfsubjectreviews",
            "selfsubjectreview",
        )
    }
}
