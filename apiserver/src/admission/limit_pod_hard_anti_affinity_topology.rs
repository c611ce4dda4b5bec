//! LimitPodHardAntiAffinityTopology: a pod may keep others off its node, not off a whole zone.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Parts, Plugin, Request, items};
use crate::{objects::PODS, status::Status};

pub(super) const NAME: &str = "LimitPodHardAntiAffinityTopology";

const HOST: &str = "kubernetes.io/hostname";
const TERMS: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

struct LimitTopology;

pub(super) fn new(_: &Parts) -> Arc<dyn Plugin> {
    Arc::new(LimitTopology)
}

#[async_trait]
impl Plugin for LimitTopology {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref().filter(|_| request.is(PODS)) else { return Ok(()) };
        let key = |term: &Value| term["topologyKey"].as_str().unwrap_or_default().to_owned();
        match items(pod, TERMS).map(key).find(|key| key != HOST) {
            Some(key) => Err(request.forbid(format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"
            ))),
            None => Ok(()),
        }
    }
}
