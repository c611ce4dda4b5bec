//! `mutatingadmissionpolicies` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Mutations", "integer"),
    column("ParamKind", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Count(&["/spec/mutations"]), Cell::With(super::param_kind), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1", "v1alpha1"],
        storage_version: "v1",
        categories: &["api-extensions"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: super::reserved,
            warnings: super::warnings,
            validate_over: super::validation::policies::mutating,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
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
    fill::absent(spec, "failurePolicy", "Fail");
    if let Some(matched) = fill::child(spec, "matchConstraints") {
        super::defaults::match_resources(matched);
    }
}
