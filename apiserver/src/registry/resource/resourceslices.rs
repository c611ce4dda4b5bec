//! `resourceslices` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Column, Resource, SelectableField,
    kit::{Cell, Converted, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "resource.k8s.io",
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "resourceslices",
        selectable: const {
            &[
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.driver", "/spec/driver"),
            ]
        },
        columns: COLUMNS,
        strategy: Arc::new(Converted {
            plain: Plain { status: false, generation: true, cells: CELLS },
            convert: conversion::slice,
        }),
    }
}
