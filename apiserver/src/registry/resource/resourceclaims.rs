//! `resourceclaims` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Column, Resource, Subresource,
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
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "resourceclaims",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Converted {
            plain: Plain { status: true, generation: true, cells: CELLS },
            convert: conversion::claim,
        }),
    }
}
