//! `validatingadmissionpolicies` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Validations", "integer"),
    column("ParamKind", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Count(&["/spec/validations"]), Cell::With(super::param_kind), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: super::reserved,
            warnings: super::warnings,
            validate_over: super::validation::policies::validating,
            validate_status: |new, _, errors| super::validation::policies::status(new, errors),
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
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
    fill::absent(spec, "failurePolicy", "Fail");
    if let Some(matched) = fill::child(spec, "matchConstraints") {
        super::defaults::match_resources(matched);
    }
}
