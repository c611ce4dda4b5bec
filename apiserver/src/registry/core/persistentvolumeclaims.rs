//! `persistentvolumeclaims`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, column, items},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Volume", "string"),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/status/phase", ""),
    Cell::Field("/spec/volumeName", ""),
    Cell::Field("/status/capacity/storage", ""),
    Cell::With(|o| access_modes(o, "/status/accessModes")),
    Cell::Field("/spec/storageClassName", ""),
    Cell::Field("/spec/volumeAttributesClassName", "<unset>"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
        ..Resource::of("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
    }
}

/// Access modes as their initials.
fn access_modes(obj: &Object, pointer: &str) -> Value {
    let initial = |mode: &Value| match mode.as_str()? {
        "ReadWriteOnce" => Some("RWO"),
        "ReadOnlyMany" => Some("ROX"),
        "ReadWriteMany" => Some("RWX"),
        "ReadWriteOncePod" => Some("RWOP"),
        _ => None,
    };
    items(obj.pointer(pointer)).filter_map(initial).collect::<Vec<_>>().join(",").into()
}
