//! `leasecandidates` of coordination.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "coordination.k8s.io",
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        kind: "LeaseCandidate",
        plural: "leasecandidates",
        singular: "leasecandidate",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "leasecandidates",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}
