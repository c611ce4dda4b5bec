//! DynamicResources: nodes must have the devices that the pod's claims ask for; claims get them with the node.
//!
//! Contract: KEP-4381 (structured parameters), KEP-4816 (prioritized lists), KEP-5055 (taints), KEP-4815 (partitions),
//! KEP-5075 (devices that several claims share). Binding conditions (KEP-5007) and claims for extended resources
//! (KEP-5004) are not there: such devices are given to nobody.

mod allocation;
mod selector;
mod sharing;

use std::sync::Arc;

use component_base::meta::{add_finalizer, is_deleting};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};

use self::allocation::Wanted;
use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Verdict},
    model::{Cluster, DeviceEvent, NodeInfo, NodeSelectorTerms, PodInfo, Reservation, pod::DeviceClaimUse},
};

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Most pods that one claim is reserved for.
const MAX_CONSUMERS: usize = 256;
const ELSEWHERE: &str = "resourceclaim not available on the node";
const CANNOT: &str = "cannot allocate all claims";

/// The plugin.
pub struct DynamicResources;

/// The claims of a pod.
struct Claims<'a> {
    cluster: &'a Cluster,
    pod: &'a PodInfo,
    /// Claims that have their devices, with where those can be reached.
    allocated: Vec<(Arc<ResourceClaim>, Option<NodeSelectorTerms>)>,
    /// Claims that have none yet.
    open: Vec<Wanted>,
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        if pod.device_claims.is_empty() {
            return Prepared::Skip;
        }
        match Claims::new(pod, cluster) {
            Ok(claims) => Prepared::Filter(Box::new(claims)),
            Err(reason) => Prepared::Reject(reason),
        }
    }

    fn reserve(&self, pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Reservation {
        if pod.device_claims.is_empty() {
            return Reservation::default();
        }
        let Ok(claims) = Claims::new(pod, cluster) else { return Reservation::default() };
        Reservation { devices: claims.reserve(node), ..Reservation::default() }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
            ClusterEvent::DevicesChanged(DeviceEvent::Claim(key)) => {
                *key.namespace == *pod.namespace
                    && pod.device_claims.iter().any(|used| used.name.as_deref() == Some(&*key.name))
            }
            ClusterEvent::DevicesChanged(_) => true,
            _ => false,
        }
    }
}

impl<'a> Claims<'a> {
    /// Sorts a pod's claims; the error says why no node can help.
    fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Result<Claims<'a>, Reason> {
        let mut out = Claims { cluster, pod, allocated: Vec::new(), open: Vec::new() };
        for used in &pod.device_claims {
            let claim = checked(pod, used, cluster)?;
            let status = claim.status.as_ref();
            let Some(allocation) = status.and_then(|s| s.allocation.as_ref()) else {
                out.open.push(Wanted::new(claim, &cluster.devices)?);
                continue;
            };
            let consumers = status.and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
            if consumers.len() >= MAX_CONSUMERS && !consumers.iter().any(|c| c.uid == pod.uid) {
                return Err("resourceclaim in use".into());
            }
            let at = allocation.node_selector.as_ref().map(NodeSelectorTerms::new);
            out.allocated.push((claim.clone(), at));
        }
        Ok(out)
    }

    fn reserve(self, node: &NodeInfo) -> Vec<ResourceClaim> {
        let mut out: Vec<ResourceClaim> = Vec::new();
        let allocations = allocation::allocate(&self.open, &self.cluster.devices, node).ok().flatten();
        for (wanted, allocation) in self.open.iter().zip(allocations.unwrap_or_default()) {
            let mut next = (*wanted.claim).clone();
            next.status.get_or_insert_default().allocation = Some(allocation);
            out.push(next);
        }
        out.extend(self.allocated.iter().map(|(claim, _)| (**claim).clone()));
        let pod = self.pod;
        out.retain_mut(|claim| {
            let is_new = add_finalizer(&mut claim.metadata, FINALIZER);
            let consumers = claim.status.get_or_insert_default().reserved_for.get_or_insert_default();
            if consumers.iter().any(|c| c.uid == pod.uid) {
                return is_new;
            }
            consumers.push(ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".into(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            });
            true
        });
        out
    }
}

impl Filter for Claims<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let reaches = |terms: &NodeSelectorTerms| terms.matches(&node.name, &node.labels);
        if self.allocated.iter().any(|(_, at)| at.as_ref().is_some_and(|at| !reaches(at))) {
            return Verdict::unresolvable(ELSEWHERE);
        }
        if self.open.is_empty() {
            return Verdict::Fits;
        }
        match allocation::allocate(&self.open, &self.cluster.devices, node) {
            Ok(Some(_)) => Verdict::Fits,
            Ok(None) => Verdict::unresolvable(CANNOT),
            Err(reason) => Verdict::unresolvable(reason),
        }
    }
}

/// A claim of the pod, if it is there and the pod may use it.
fn checked<'a>(
    pod: &PodInfo,
    used: &DeviceClaimUse,
    cluster: &'a Cluster,
) -> Result<&'a Arc<ResourceClaim>, Reason> {
    let (namespace, pod_name) = (&pod.namespace, &pod.name);
    let Some(name) = &used.name else {
        return Err(format!("pod \"{namespace}/{pod_name}\": ResourceClaim not created yet").into());
    };
    let Some(claim) = cluster.devices.claim(namespace, name) else {
        return Err(format!("resourceclaim.resource.k8s.io {name:?} not found").into());
    };
    if is_deleting(&claim.metadata) {
        return Err(format!("resourceclaim {name:?} is being deleted").into());
    }
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    if used.is_own && !owners.iter().any(|o| o.controller == Some(true) && o.uid == pod.uid) {
        return Err(format!(
            "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{pod_name} (Pod is not owner)"
        )
        .into());
    }
    Ok(claim)
}

#[cfg(test)]
mod tests;
