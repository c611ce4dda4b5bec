//! `servicecidrs` of networking.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("CIDRs", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::List("/spec/cidrs"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "networking.k8s.io",
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "servicecidrs",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
    }
}
