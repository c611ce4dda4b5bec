//! NodeDeclaredFeatureValidator: a running pod is not changed in ways its node does not know.
//!
//! Nodes tell in `status.declaredFeatures` what they know beyond the minimum. Contract: KEP-5328.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::Value;

use super::{Parts, Plugin, Request, items, text};
use crate::{
    object::Object,
    objects::{NODES, Objects, PODS},
    status::Status,
};

pub(super) const NAME: &str = "NodeDeclaredFeatureValidator";

/// A feature, and whether a change of a pod needs it.
type Feature = (&'static str, fn(&Object, &Object) -> bool);

const FEATURES: [Feature; 2] = [
    ("InPlacePodLevelResourcesVerticalScaling", resizes_pod),
    ("InPlacePodVerticalScalingInitContainers", resizes_init_containers),
];

struct NodeDeclaredFeatureValidator {
    objects: Arc<dyn Objects>,
    on: bool,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let on = parts.gates.has(Gate::NodeDeclaredFeatures);
    Arc::new(NodeDeclaredFeatureValidator { objects: parts.objects.clone(), on })
}

fn resizes_pod(old: &Object, new: &Object) -> bool {
    old.pointer("/spec/resources") != new.pointer("/spec/resources")
}

/// Whether an init container changes that is no sidecar.
fn resizes_init_containers(old: &Object, new: &Object) -> bool {
    const LIST: &str = "/spec/initContainers";
    let changes = |(old, new): (&Value, &Value)| {
        old["restartPolicy"] != "Always" && old.get("resources") != new.get("resources")
    };
    items(old, LIST).zip(items(new, LIST)).any(changes)
}

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !self.on
            || !request.is_any(PODS)
            || !["", "resize"].contains(&request.attributes.subresource.as_str())
        {
            return Ok(());
        }
        let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let name = text(new, "/spec/nodeName");
        let needed: Vec<&str> =
            FEATURES.iter().filter(|(_, needs)| needs(old, new)).map(|(feature, _)| *feature).collect();
        if name.is_empty() || needed.is_empty() {
            return Ok(());
        }
        let node = self.objects.get(NODES, "", name).await?;
        let node = node.ok_or_else(|| request.forbid(format!("node {name:?} not found")))?;
        let declares = |feature: &&str| items(&node, "/status/declaredFeatures").any(|one| one == *feature);
        let missing: Vec<&str> = needed.into_iter().filter(|feature| !declares(feature)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(request.forbid(format!(
            "pod update requires features {} which are not available on node {name:?}",
            missing.join(", ")
        )))
    }
}
