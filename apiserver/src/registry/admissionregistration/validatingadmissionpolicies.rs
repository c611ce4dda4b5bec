//! `validatingadmissionpolicies` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "admissionregistration.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        short_names: &[],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "validatingadmissionpolicies",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
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
