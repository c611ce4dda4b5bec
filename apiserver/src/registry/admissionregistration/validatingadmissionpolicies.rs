//! `validatingadmissionpolicies` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Resource, Subresource,
        kit::{NAME_AND_AGE, Plain, Rules, fill},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate: super::validation::policies::validating,
            validate_status: |new, _, errors| super::validation::policies::status(new, errors),
            ..Rules::new(Plain { status: true, generation: true, cells: NAME_AND_AGE })
        }),
        ..Resource::of(
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
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
