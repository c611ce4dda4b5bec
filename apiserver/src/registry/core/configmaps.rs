//! `configmaps`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Data", "integer"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/data", "/binaryData"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "configmaps",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}
