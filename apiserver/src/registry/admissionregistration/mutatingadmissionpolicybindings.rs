//! `mutatingadmissionpolicybindings` of admissionregistration.k8s.io.

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
        versions: &["v1", "v1beta1", "v1alpha1"],
        storage_version: "v1",
        categories: &["api-extensions"],
        namespaced: false,
        columns: super::BINDING_COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: super::reserved,
            warnings: super::warnings,
            validate: super::validation::policies::mutating_binding,
            ..Rules::new(Plain { status: false, generation: true, cells: super::BINDING_CELLS })
        }),
        ..Resource::of(
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
        )
    }
}

/// Requests are matched in equivalent versions.
fn default(obj: &mut Object) {
    if let Some(matched) = fill::spec(obj).and_then(|s| fill::child(s, "matchResources")) {
        super::defaults::match_resources(matched);
    }
}
