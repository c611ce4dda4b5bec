//! `devicetaintrules` of resource.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "resource.k8s.io",
        versions: &["v1beta2"],
        storage_version: "v1beta2",
        kind: "DeviceTaintRule",
        plural: "devicetaintrules",
        singular: "devicetaintrule",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "devicetaintrules",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
    }
}
