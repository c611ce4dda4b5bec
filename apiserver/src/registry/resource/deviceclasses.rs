//! `deviceclasses` of resource.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource,
    kit::{NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta2", "v1beta1"],
        storage_version: "v1",
        namespaced: false,
        strategy: Arc::new(Plain { status: false, generation: true, cells: NAME_AND_AGE }),
        ..Resource::of("resource.k8s.io", "DeviceClass", "deviceclasses", "deviceclass")
    }
}
