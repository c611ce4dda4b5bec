//! `resourceclaims` of resource.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use super::conversion;
use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Converted, Plain, column, items},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("State", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(state), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Converted {
            plain: Plain { status: true, generation: false, cells: CELLS },
            convert: conversion::claim,
        }),
        ..Resource::of("resource.k8s.io", "ResourceClaim", "resourceclaims", "resourceclaim")
    }
}

/// Whether the claim has its devices, somebody who uses them, and a future.
fn state(claim: &Object) -> Value {
    let mut states = Vec::new();
    if claim.is_terminating() {
        states.push("deleted");
    }
    if claim.pointer("/status/allocation").is_some_and(|allocation| !allocation.is_null()) {
        states.push("allocated");
        if items(claim.pointer("/status/reservedFor")).next().is_some() {
            states.push("reserved");
        }
    } else if !claim.is_terminating() {
        states.push("pending");
    }
    states.join(",").into()
}
