//! `priorityclasses` of scheduling.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Value", "integer"),
    column("Global-Default", "boolean"),
    column("Age", "date"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/value", "0"), Cell::Field("/globalDefault", "false"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "scheduling.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "priorityclasses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// Its pods may push others out.
fn default(obj: &mut Object) {
    fill::missing(obj.as_map_mut(), "preemptionPolicy", "PreemptLowerPriority");
}
