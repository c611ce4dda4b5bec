//! PersistentVolumeClaimResize: a bound claim grows only where its storage class allows it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Parts, Plugin, Request, text};
use crate::{
    objects::{Objects, PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES},
    status::Status,
};

pub(super) const NAME: &str = "PersistentVolumeClaimResize";

const SIZE: &str = "/spec/resources/requests/storage";

struct PersistentVolumeClaimResize {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PersistentVolumeClaimResize { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PERSISTENT_VOLUME_CLAIMS) {
            return Ok(());
        }
        let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        // Shrinking is for validation to refuse; here any other size counts as a resize.
        if new.pointer(SIZE) == old.pointer(SIZE) || old.pointer(SIZE).is_none() {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(request.forbid("Only bound persistent volume claims can be expanded"));
        }
        let class = text(old, "/spec/storageClassName");
        let found = self.objects.get(STORAGE_CLASSES, "", class).await?;
        let allowed = found.is_some_and(|c| c.get("allowVolumeExpansion") == Some(&Value::Bool(true)));
        if allowed {
            return Ok(());
        }
        Err(request.forbid(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
             resize",
        ))
    }
}
