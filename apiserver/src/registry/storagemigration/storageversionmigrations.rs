//! `storageversionmigrations` of storagemigration.k8s.io.

use std::sync::Arc;

use component_base::features::Gate;
use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Rules, at::At, column, conditions, format, items, semantic, text},
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
        gate: Some(Gate::StorageVersionMigrator),
        strategy: Arc::new(Rules {
            validate,
            validate_change,
            validate_status,
            unconditional_update: false,
            ..Rules::apart(CELLS)
        }),
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

fn validate(migration: &Object, errors: &mut ErrorList) {
    let of = At::spec(migration).get("resource");
    let (name, group) = (of.get("resource"), of.get("group"));
    if name.is_empty() {
        name.required(errors, "resource is required to be set");
    }
    let wrong = format::dns_1035_label(name.text());
    if !name.is_empty() && !wrong.is_empty() {
        name.invalid(errors, wrong.join(","));
    }
    let wrong = format::dns_subdomain(group.text());
    if !group.is_empty() && !wrong.is_empty() {
        group.invalid(errors, wrong.join(","));
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    if !semantic::same(was.value(), spec.value()) {
        spec.invalid(errors, "field is immutable");
    }
}

/// A migration starts at one version, and ends well or badly, for good.
fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    let (version, all) = (status.get("resourceVersion"), status.get("conditions"));
    let number =
        |text: &str| !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if !version.is_empty() && !number(version.text()) {
        version.invalid(errors, format!("resource version is not well formed: {}", version.text()));
    }
    conditions::check(&all, errors);
    let before = At::status(old).text_of("resourceVersion");
    if !before.is_empty() && before != version.text() {
        version.invalid_as(errors, version.text(), "field is immutable");
    }
    let is = |object: &Object, kind: &str| {
        items(object.pointer("/status/conditions"))
            .find(|condition| text(condition, "/type") == kind)
            .is_some_and(|condition| text(condition, "/status") == "True")
    };
    if is(new, "Succeeded") && is(new, "Failed") {
        all.invalid(errors, "Both success and failed conditions cannot be true at the same time");
    }
    for (kind, told) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if is(old, kind) && !is(new, kind) {
            all.invalid(errors, format!("{told} condition cannot be set to false once it is true"));
        }
    }
}
