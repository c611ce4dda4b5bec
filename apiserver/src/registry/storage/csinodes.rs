//! `csinodes` of storage.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Drivers", "integer"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/spec/drivers"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "csinodes",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}
