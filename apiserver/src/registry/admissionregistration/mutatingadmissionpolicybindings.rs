//! `mutatingadmissionpolicybindings` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "admissionregistration.k8s.io",
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        short_names: &[],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "mutatingadmissionpolicybindings",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// Requests are matched in equivalent versions.
fn default(obj: &mut Object) {
    if let Some(matched) = fill::spec(obj).and_then(|s| fill::child(s, "matchResources")) {
        super::defaults::match_resources(matched);
    }
}
