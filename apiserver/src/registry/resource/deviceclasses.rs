//! `deviceclasses` of resource.k8s.io.

use std::sync::Arc;

use component_base::features::Gates;

use super::claims;
use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, at::At, resources, semantic},
    },
};

const MAX_CONFIG: usize = 32;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        namespaced: false,
        strategy: Arc::new(Rules {
            validate_gated,
            ..Rules::new(Plain { status: false, generation: true, cells: NAME_AND_AGE })
        }),
        returns_deleted: true,
        ..Resource::of("resource.k8s.io", "DeviceClass", "deviceclasses", "deviceclass")
    }
}

/// Configurations that stay as they were may be larger than new ones, and expressions may say what they said.
fn validate_gated(class: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let spec = At::spec(class);
    let is_kept = |field: &str| {
        old.is_some_and(|old| semantic::same(At::spec(old).get(field).value(), spec.get(field).value()))
    };
    claims::check_selectors(&spec.get("selectors"), is_kept("selectors"), gates, errors);
    claims::each(&spec.get("config"), MAX_CONFIG, None, errors, |config, errors| {
        claims::check_config_after(config, is_kept("config"), errors);
    });
    let name = spec.get("extendedResourceName");
    if name.is_set() && !resources::is_extended(name.text()) {
        name.invalid(errors, "must be a valid extended resource name");
    }
}
