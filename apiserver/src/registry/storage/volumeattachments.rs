//! `volumeattachments` of storage.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Attacher", "string"),
    column("PV", "string"),
    column("Node", "string"),
    column("Attached", "boolean"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/attacher", ""),
    Cell::Field("/spec/source/persistentVolumeName", ""),
    Cell::Field("/spec/nodeName", ""),
    Cell::Field("/status/attached", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "volumeattachments",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
    }
}
