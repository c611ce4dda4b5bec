//! StorageObjectInUseProtection: volumes, claims and their classes of attributes carry the finalizer that keeps them while in use.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Parts, Plugin, Request};
use crate::{
    objects::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, VOLUME_ATTRIBUTES_CLASSES},
    status::Status,
};

pub(super) const NAME: &str = "StorageObjectInUseProtection";

struct StorageObjectInUseProtection;

pub(super) fn new(_parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(StorageObjectInUseProtection)
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let finalizer = if request.is(PERSISTENT_VOLUMES) {
            "kubernetes.io/pv-protection"
        } else if request.is(PERSISTENT_VOLUME_CLAIMS) {
            "kubernetes.io/pvc-protection"
        } else if request.is(VOLUME_ATTRIBUTES_CLASSES) {
            "kubernetes.io/vac-protection"
        } else {
            return Ok(());
        };
        if let Some(object) = request.object.as_deref_mut() {
            object.add_finalizer(finalizer);
        }
        Ok(())
    }
}
