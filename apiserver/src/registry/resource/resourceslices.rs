//! `resourceslices` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Resource, SelectableField,
    kit::{Converted, NAME_AND_AGE, Plain},
};

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
        strategy: Arc::new(Converted {
            plain: Plain { status: false, generation: true, cells: NAME_AND_AGE },
            convert: conversion::slice,
        }),
        ..Resource::of("resource.k8s.io", "ResourceSlice", "resourceslices", "resourceslice")
    }
}
