//! `networkpolicies` of networking.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Pod-Selector", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Pairs("/spec/podSelector/matchLabels"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "networking.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "networkpolicies",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: true, cells: CELLS }),
    }
}
