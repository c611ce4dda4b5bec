//! `resourceclaims` of resource.k8s.io.

use std::sync::Arc;

use super::conversion;
use crate::registry::{
    Resource, Subresource,
    kit::{Converted, NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        subresources: &[Subresource::Status],
        strategy: Arc::new(Converted {
            plain: Plain { status: true, generation: false, cells: NAME_AND_AGE },
            convert: conversion::claim,
        }),
        ..Resource::of("resource.k8s.io", "ResourceClaim", "resourceclaims", "resourceclaim")
    }
}
