//! `secrets`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Type", "string"),
    column("Data", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/type", ""), Cell::Count(&["/data"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "secrets",
        selectable: &[SelectableField { name: "type", pointer: "/type", default: "" }],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}
