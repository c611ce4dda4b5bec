//! `mutatingadmissionpolicies` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, fill},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        categories: &["api-extensions"],
        namespaced: false,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate: super::validation::policies::mutating,
            ..Rules::new(Plain { status: false, generation: true, cells: NAME_AND_AGE })
        }),
        ..Resource::of(
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
        )
    }
}

/// Failures deny, and requests are matched in equivalent versions.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "failurePolicy", "Fail");
    if let Some(matched) = fill::child(spec, "matchConstraints") {
        super::defaults::match_resources(matched);
    }
}
