//! `daemonsets` of apps.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Up-to-date", "integer"),
    column("Available", "integer"),
    column("Node Selector", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/status/desiredNumberScheduled", "0"),
    Cell::Field("/status/currentNumberScheduled", "0"),
    Cell::Field("/status/numberReady", "0"),
    Cell::Field("/status/updatedNumberScheduled", "0"),
    Cell::Field("/status/numberAvailable", "0"),
    Cell::Pairs("/spec/template/spec/nodeSelector"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "apps",
        versions: &["v1"],
        storage_version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "daemonsets",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
    }
}
