//! ExtendedResourceToleration: who asks for a device tolerates the taint of the nodes that are kept for it.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request, items};
use crate::{objects::PODS, status::Status};

pub(super) const NAME: &str = "ExtendedResourceToleration";

struct ExtendedResourceToleration;

pub(super) fn new(_: &Parts) -> Arc<dyn Plugin> {
    Arc::new(ExtendedResourceToleration)
}

/// Whether a resource is neither Kubernetes' own nor a quota's name of one.
fn is_extended(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native && !name.starts_with("requests.")
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref().filter(|_| request.is(PODS)) else { return Ok(()) };
        let requests = ["/spec/containers", "/spec/initContainers"]
            .into_iter()
            .flat_map(|list| items(pod, list))
            .filter_map(|container| container.pointer("/resources/requests").and_then(Value::as_object))
            .flatten();
        let names: BTreeSet<String> =
            requests.map(|(name, _)| name.clone()).filter(|name| is_extended(name)).collect();
        let wanted: Vec<Value> = names
            .iter()
            .map(|name| json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}))
            .collect();
        let Some(spec) = request.spec().filter(|_| !wanted.is_empty()) else { return Ok(()) };
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(tolerations) = tolerations.as_array_mut() {
            let missing: Vec<Value> = wanted.into_iter().filter(|one| !tolerations.contains(one)).collect();
            tolerations.extend(missing);
        }
        Ok(())
    }
}
