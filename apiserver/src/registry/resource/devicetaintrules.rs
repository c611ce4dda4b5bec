//! `devicetaintrules` of resource.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Key", "string"),
    column("Value", "string"),
    column("Effect", "string"),
    column("TimeAdded", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/taint/key", ""),
    Cell::Field("/spec/taint/value", ""),
    Cell::Field("/spec/taint/effect", ""),
    Cell::Since("/spec/taint/timeAdded", ""),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta2"],
        storage_version: "v1beta2",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
        ..Resource::of("resource.k8s.io", "DeviceTaintRule", "devicetaintrules", "devicetaintrule")
    }
}
