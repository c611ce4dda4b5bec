//! `storageversionmigrations` of storagemigration.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, at::At, column, items, text},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string"), column("Resource", "string"), column("Status", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(resource_of), Cell::With(state)];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
        ..Resource::of(
            "storagemigration.k8s.io",
            "StorageVersionMigration",
            "storageversionmigrations",
            "storageversionmigration",
        )
    }
}

/// What is migrated, as `resource.group`.
fn resource_of(migration: &Object) -> Value {
    let resource = At::spec(migration).get("resource");
    match (resource.text_of("resource"), resource.text_of("group")) {
        (name, "") => name.into(),
        (name, group) => format!("{name}.{group}").into(),
    }
}

/// How far the migration is.
fn state(migration: &Object) -> Value {
    let conditions = items(migration.pointer("/status/conditions"));
    let met = conditions.filter(|condition| text(condition, "/status") == "True");
    let kinds = met.map(|condition| text(condition, "/type"));
    kinds
        .filter(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded"))
        .last()
        .unwrap_or("Unknown")
        .into()
}
