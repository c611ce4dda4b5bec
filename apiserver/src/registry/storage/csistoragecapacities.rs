//! `csistoragecapacities` of storage.k8s.io.

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
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "csistoragecapacities",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}
