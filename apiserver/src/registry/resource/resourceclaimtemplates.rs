//! `resourceclaimtemplates` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Resource,
    kit::{Converted, NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        strategy: Arc::new(Converted {
            plain: Plain { status: false, generation: false, cells: NAME_AND_AGE },
            convert: conversion::template,
        }),
        ..Resource::of(
            "resource.k8s.io",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            "resourceclaimtemplate",
        )
    }
}
