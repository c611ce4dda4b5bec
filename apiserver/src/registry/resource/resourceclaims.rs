//! `resourceclaims` of resource.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use super::{claims, conversion};
use crate::{
    field::{ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Cell, Rules, at::At, column, fill, items, semantic},
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
        strategy: Arc::new(Rules {
            default: |claim| {
                if let Some(spec) = fill::child(claim.as_map_mut(), "spec") {
                    claims::fill_requests(spec);
                }
            },
            change,
            // What was stored once does not change, and so is not looked at again.
            validate_gated: |claim, old, gates, errors| {
                if old.is_none() {
                    claims::check_spec(&At::spec(claim), gates, errors);
                }
            },
            validate_change,
            validate_status,
            convert: conversion::claim,
            ..Rules::apart(CELLS)
        }),
        returns_deleted: true,
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

/// What was asked for stays.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    if !semantic::same(was.value(), spec.value()) {
        spec.invalid(errors, "field is immutable");
    }
}

fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    claims::check_status(&At::status(new), &At::status(old), &At::spec(new), new.is_terminating(), errors);
}

/// What drivers told of devices goes with their allocation.
fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    if ctx.subresource != "status" {
        return;
    }
    let allocated = |claim: &Object| -> Vec<String> {
        let results = At::status(claim).get("allocation").get("devices").get("results");
        results.items().map(|result| claims::identity(&result)).collect()
    };
    let kept = allocated(new);
    let gone: Vec<String> = allocated(old).into_iter().filter(|device| !kept.contains(device)).collect();
    let Some(status) = fill::child(new.as_map_mut(), "status") else { return };
    if gone.is_empty() {
        return;
    }
    if let Some(Value::Array(devices)) = status.get_mut("devices") {
        devices.retain(|device| !gone.contains(&claims::identity(&At::new(device, Path::root()))));
    }
    if fill::none(status, "devices") {
        status.remove("devices");
    }
}
