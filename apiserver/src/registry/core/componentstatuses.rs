//! `componentstatuses`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ComponentStatus",
        plural: "componentstatuses",
        singular: "componentstatus",
        short_names: &["cs"],
        categories: &[],
        namespaced: false,
        verbs: &["get", "list"],
        subresources: &[],
        storage_prefix: "componentstatuses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}
