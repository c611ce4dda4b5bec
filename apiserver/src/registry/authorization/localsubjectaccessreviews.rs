//! `localsubjectaccessreviews` of authorization.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        verbs: &["create"],
        ..Resource::of(
            "authorization.k8s.io",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
        )
    }
}
