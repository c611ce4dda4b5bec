//! `persistentvolumes`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, column, items, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("Reclaim Policy", "string"),
    column("Status", "string"),
    column("Claim", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Reason", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/capacity/storage", ""),
    Cell::With(|o| access_modes(o, "/spec/accessModes")),
    Cell::Field("/spec/persistentVolumeReclaimPolicy", ""),
    Cell::Field("/status/phase", ""),
    Cell::With(claim),
    Cell::Field("/spec/storageClassName", ""),
    Cell::Field("/spec/volumeAttributesClassName", "<unset>"),
    Cell::Field("/status/reason", ""),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pv"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
        ..Resource::of("", "PersistentVolume", "persistentvolumes", "persistentvolume")
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

fn claim(obj: &Object) -> Value {
    match obj.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")).into(),
        None => "".into(),
    }
}
