//! AlwaysPullImages: a private image already on the node is not for everyone there.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request};
use crate::{objects::PODS, status::Status};

pub(super) const NAME: &str = "AlwaysPullImages";

struct AlwaysPullImages;

pub(super) fn new(_parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(AlwaysPullImages)
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let covered = ["", "ephemeralcontainers"].contains(&request.attributes.subresource.as_str());
        if !request.is_any(PODS) || !covered {
            return Ok(());
        }
        let Some(spec) = request.spec() else { return Ok(()) };
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = json!("Always");
            }
        }
        Ok(())
    }
}
