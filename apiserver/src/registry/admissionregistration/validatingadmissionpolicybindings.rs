//! `validatingadmissionpolicybindings` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Resource,
        kit::{Plain, Rules, fill},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        columns: super::BINDING_COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: super::reserved,
            warnings: super::warnings,
            validate: super::validation::policies::validating_binding,
            ..Rules::new(Plain { status: false, generation: true, cells: super::BINDING_CELLS })
        }),
        ..Resource::of(
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
        )
    }
}

/// Requests are matched in equivalent versions.
fn default(obj: &mut Object) {
    if let Some(matched) = fill::spec(obj).and_then(|s| fill::child(s, "matchResources")) {
        super::defaults::match_resources(matched);
    }
}
