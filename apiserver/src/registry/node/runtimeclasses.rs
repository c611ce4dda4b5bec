//! `runtimeclasses` of node.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Handler", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/handler", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "node.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "runtimeclasses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}
