//! `storageversionmigrations` of storagemigration.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource, Subresource,
    kit::{NAME_AND_AGE, Plain},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        namespaced: false,
        subresources: &[Subresource::Status],
        strategy: Arc::new(Plain { status: true, generation: false, cells: NAME_AND_AGE }),
        ..Resource::of(
            "storagemigration.k8s.io",
            "StorageVersionMigration",
            "storageversionmigrations",
            "storageversionmigration",
        )
    }
}
