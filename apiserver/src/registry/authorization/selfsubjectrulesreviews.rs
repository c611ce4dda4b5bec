//! `selfsubjectrulesreviews` of authorization.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        verbs: &["create"],
        ..Resource::of(
            "authorization.k8s.io",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
        )
    }
}
