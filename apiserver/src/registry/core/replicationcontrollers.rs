//! `replicationcontrollers`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/replicas", "0"),
    Cell::Field("/status/replicas", "0"),
    Cell::Field("/status/readyReplicas", "0"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[
            Subresource::Scale {
                spec: "/spec/replicas",
                status: "/status/replicas",
                selector: "/spec/selector",
            },
            Subresource::Status,
        ],
        storage_prefix: "controllers",
        selectable: const { &[SelectableField::at("status.replicas", "/status/replicas").or("0")] },
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
    }
}
