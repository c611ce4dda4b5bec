//! PodResizeValidator: a pod is not resized to what its node can never give.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::quota;

use super::{Parts, Plugin, Request, text};
use crate::{
    object::Object,
    objects::{NODES, Objects, PODS},
    status::{Cause, Status},
};

pub(super) const NAME: &str = "PodResizeValidator";

struct PodResizeValidator {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PodResizeValidator { objects: parts.objects.clone() })
}

/// Why a node cannot have the pod, and the reason's word.
fn obstacle(pod: &Object, node: &Object) -> Option<(String, &'static str)> {
    let os = node.meta_pairs("labels").find(|(key, _)| *key == "kubernetes.io/os");
    if let Some((_, os)) = os.filter(|(_, os)| *os != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {:?} is {os:?}", node.name());
        return Some((why, "UnsupportedPlatform"));
    }
    let (requests, _) = quota::pod_amounts(pod);
    let of = |name: &str| {
        let wanted = *requests.get(name)?;
        let there = node.pointer(&format!("/status/allocatable/{name}")).and_then(quota::quantity)?;
        (wanted > there).then_some((wanted, there))
    };
    let mut lacking = Vec::new();
    if let Some((wanted, there)) = of("cpu") {
        let (wanted, there) = (wanted.milli_value(), there.milli_value());
        lacking.push(format!("cpu, requested: {wanted}, allocatable: {there}"));
    }
    if let Some((wanted, there)) = of("memory") {
        lacking.push(format!("memory, requested: {}, allocatable: {}", wanted.value(), there.value()));
    }
    let why = format!("node didn't have enough allocatable resources: {}", lacking.join("; "));
    (!lacking.is_empty()).then_some((why, "NodeCapacity"))
}

#[async_trait]
impl Plugin for PodResizeValidator {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is_any(PODS) || request.attributes.subresource != "resize" {
            return Ok(());
        }
        let (Some(pod), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let node = text(pod, "/spec/nodeName");
        if node.is_empty() || pod.get("spec") == old.get("spec") {
            return Ok(());
        }
        let found = self.objects.get(NODES, "", node).await?;
        let found = found.ok_or_else(|| request.forbid(format!("node {node:?} not found")))?;
        let Some((why, reason)) = obstacle(pod, &found) else { return Ok(()) };
        let mut refusal = request.forbid(why);
        let cause = Cause { kind: reason.to_owned(), message: String::new(), field: String::new() };
        refusal.details.get_or_insert_default().causes.push(cause);
        Err(refusal)
    }
}
