//! `statefulsets` of apps.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Ready", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Ratio("/status/readyReplicas", "/spec/replicas"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "apps",
        versions: &["v1"],
        storage_version: "v1",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
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
        storage_prefix: "statefulsets",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
    }
}
