//! `storageclasses` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Provisioner", "string"),
    column("ReclaimPolicy", "string"),
    column("VolumeBindingMode", "string"),
    column("AllowVolumeExpansion", "boolean"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/provisioner", ""),
    Cell::Field("/reclaimPolicy", "Delete"),
    Cell::Field("/volumeBindingMode", "Immediate"),
    Cell::Field("/allowVolumeExpansion", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "storageclasses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}

/// Volumes are bound at once and go with their claims.
fn default(obj: &mut Object) {
    fill::missing(obj.as_map_mut(), "reclaimPolicy", "Delete");
    fill::missing(obj.as_map_mut(), "volumeBindingMode", "Immediate");
}
