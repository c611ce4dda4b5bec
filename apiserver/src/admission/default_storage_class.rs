//! DefaultStorageClass: a claim that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Parts, Plugin, Request};
use crate::{
    objects::{Objects, PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES},
    status::Status,
};

pub(super) const NAME: &str = "DefaultStorageClass";

const ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

struct DefaultStorageClass {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(DefaultStorageClass { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PERSISTENT_VOLUME_CLAIMS) {
            return Ok(());
        }
        let Some(claim) = request.object.as_deref() else { return Ok(()) };
        let stated = claim.pointer("/spec/storageClassName").is_some_and(|v| !v.is_null());
        if stated || claim.annotation("volume.beta.kubernetes.io/storage-class").is_some() {
            return Ok(());
        }
        let classes = self.objects.list(STORAGE_CLASSES, None).await?;
        let defaults = classes.iter().filter(|c| ANNOTATIONS.iter().any(|a| c.annotation(a) == Some("true")));
        // Of several the newest; of equally old ones the first by name.
        let chosen = defaults.max_by(|a, b| {
            let created = |o: &crate::object::Object| o.meta_str("creationTimestamp").to_owned();
            created(a).cmp(&created(b)).then_with(|| b.name().cmp(a.name()))
        });
        if let (Some(class), Some(spec)) = (chosen, request.spec()) {
            spec.insert("storageClassName".to_owned(), json!(class.name()));
        }
        Ok(())
    }
}
