//! `csinodes` of storage.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Drivers", "integer"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/spec/drivers"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("storage.k8s.io", "CSINode", "csinodes", "csinode")
    }
}
