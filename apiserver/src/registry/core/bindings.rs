//! `bindings`.

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
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: &["create"],
        subresources: &[],
        storage_prefix: "bindings",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}
