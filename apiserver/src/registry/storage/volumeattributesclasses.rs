//! `volumeattributesclasses` of storage.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        short_names: &["vac"],
        namespaced: false,
        ..Resource::of(
            "storage.k8s.io",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            "volumeattributesclass",
        )
    }
}
