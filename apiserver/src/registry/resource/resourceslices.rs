//! `resourceslices` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Column, Resource, SelectableField,
    kit::{Cell, Converted, Plain, column},
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
        strategy: Arc::new(Converted {
            plain: Plain { status: false, generation: true, cells: CELLS },
            convert: conversion::slice,
        }),
        ..Resource::of("resource.k8s.io", "ResourceSlice", "resourceslices", "resourceslice")
    }
}
