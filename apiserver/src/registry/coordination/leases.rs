//! `leases` of coordination.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Holder", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/spec/holderIdentity", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "coordination.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "leases",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}
