//! `resourceslices` of resource.k8s.io.

use std::sync::Arc;

use super::{conversion, slices};

use crate::{
    object::Object,
    objects::rfc3339,
    registry::{
        Column, Resource, SelectableField, StrategyContext,
        kit::{Cell, Plain, Rules, at::At, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Node", "string"),
    column("Driver", "string"),
    column("Pool", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/nodeName", ""),
    Cell::Field("/spec/driver", ""),
    Cell::Field("/spec/pool/name", ""),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        namespaced: false,
        selectable: const {
            &[
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.driver", "/spec/driver"),
            ]
        },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            create: |slice, ctx| date_taints(slice, None, ctx),
            change: |new, old, ctx| date_taints(new, Some(old), ctx),
            validate_new: |slice, errors| slices::check(slice, None, errors),
            validate_change: |new, old, errors| slices::check(new, Some(old), errors),
            warnings,
            convert: conversion::slice,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("resource.k8s.io", "ResourceSlice", "resourceslices", "resourceslice")
    }
}

/// Taints tell since when they are there; one without a time keeps that of the same taint before.
fn date_taints(slice: &mut Object, old: Option<&Object>, ctx: &StrategyContext<'_>) {
    let before = old.map(|old| At::spec(old).get("devices"));
    let known = |device: &str, taint: &fill::Fields| {
        let devices = before.as_ref()?.items();
        let taints =
            devices.filter(|one| one.text_of("name") == device).flat_map(|one| one.get("taints").items());
        let same = |one: &At<'_>| {
            ["key", "value", "effect"].iter().all(|field| one.text_of(field) == fill::string(taint, field))
        };
        taints.filter(same).map(|one| one.text_of("timeAdded").to_owned()).find(|time| !time.is_empty())
    };
    let Some(spec) = fill::child(slice.as_map_mut(), "spec") else { return };
    for device in fill::members(spec, "devices") {
        let name = fill::string(device, "name").to_owned();
        for taint in fill::members(device, "taints") {
            let time = known(&name, taint).unwrap_or_else(|| rfc3339(ctx.now));
            fill::missing(taint, "timeAdded", time);
        }
    }
}

fn warnings(slice: &Object, _old: Option<&Object>) -> Vec<String> {
    let driver = At::spec(slice).text_of("driver");
    if driver == driver.to_lowercase() {
        return Vec::new();
    }
    vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
}
