//! `poddisruptionbudgets` of policy.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Min Available", "string"),
    column("Max Unavailable", "string"),
    column("Allowed Disruptions", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/minAvailable", "N/A"),
    Cell::Field("/spec/maxUnavailable", "N/A"),
    Cell::Field("/status/disruptionsAllowed", "0"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "policy",
        versions: &["v1"],
        storage_version: "v1",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "poddisruptionbudgets",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
    }
}
