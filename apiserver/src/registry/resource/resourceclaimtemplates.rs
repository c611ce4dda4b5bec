//! `resourceclaimtemplates` of resource.k8s.io.

use std::sync::Arc;

use component_base::features::Gates;

use super::{claims, conversion};
use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, at::At, fill, metadata, semantic},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        strategy: Arc::new(Rules {
            default: |template| {
                let spec = fill::child(template.as_map_mut(), "spec");
                if let Some(spec) = spec.and_then(|spec| fill::child(spec, "spec")) {
                    claims::fill_requests(spec);
                }
            },
            // What was stored once does not change, and so is not looked at again.
            validate_gated: validate,
            validate_change,
            convert: conversion::template,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        returns_deleted: true,
        ..Resource::of(
            "resource.k8s.io",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            "resourceclaimtemplate",
        )
    }
}

fn validate(template: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    if old.is_some() {
        return;
    }
    let spec = At::spec(template);
    metadata::check_of_template(&spec.get("metadata"), errors);
    claims::check_spec(&spec.get("spec"), gates, errors);
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    if !semantic::same(was.value(), spec.value()) {
        spec.invalid(errors, "field is immutable");
    }
}
