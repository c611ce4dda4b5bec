//! `customresourcedefinitions` of apiextensions.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Created At", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/metadata/creationTimestamp", "")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "apiextensions.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "apiextensions.k8s.io/customresourcedefinitions",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: true, cells: CELLS }),
    }
}
