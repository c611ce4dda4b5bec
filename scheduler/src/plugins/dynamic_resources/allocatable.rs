//! Devices that are made of what a node has for its pods anyway, such as processors and memory: what they come to for a pod,
//! and whether the node has that much left. Pure.
//!
//! Contract: KEP-5517 (`DRANodeAllocatableResources`): mappings of devices to resources, `nodeAllocatableResourceClaimStatuses`
//! of pods, and that such claims are for one pod alone.

use std::collections::BTreeMap;

use component_base::quantity::Quantity;
use k8s_openapi::api::{
    core::v1::NodeAllocatableResourceClaimStatus,
    resource::v1::{AllocationResult, DeviceRequestAllocationResult, NodeAllocatableResourceMapping},
};

use crate::{
    framework::{Reason, Verdict},
    model::{Devices, NodeInfo, PodInfo, pod::NodeSide},
};

/// A claim that gets its devices now.
pub(super) struct Given<'g> {
    /// The claim's name.
    pub(super) name: &'g str,
    /// What the pod calls it; nothing for the claim of its extended resources.
    pub(super) entry: Option<&'g str>,
    pub(super) allocation: &'g AllocationResult,
}

/// What claims come to, those that come to anything.
pub(super) fn statuses(
    pod: &PodInfo,
    given: &[Given<'_>],
    devices: &Devices,
) -> Result<Vec<NodeAllocatableResourceClaimStatus>, Verdict> {
    let mut out = Vec::new();
    for claim in given {
        let results =
            claim.allocation.devices.as_ref().and_then(|d| d.results.as_deref()).unwrap_or_default();
        let mut resources: BTreeMap<String, Quantity> = BTreeMap::new();
        for result in results {
            let device = devices.device(&result.driver, &result.pool, &result.device);
            let mappings = device.and_then(|device| device.node_allocatable_resource_mappings.as_ref());
            for (resource, mapping) in mappings.into_iter().flatten() {
                let amount = amount(mapping, result).map_err(|key| {
                    let (namespace, name, device) = (&pod.namespace, claim.name, &result.device);
                    Verdict::Failed(Reason::Owned(format!(
                        "claim {namespace}/{name}, device {device}: ConsumedCapacity is nil, but Capacity key '{key}' is set \
                         in NodeAllocatableResourceMappings for resource {resource}"
                    )))
                })?;
                if let Some(amount) = amount {
                    let sum = resources.entry(resource.clone()).or_default();
                    *sum = *sum + amount;
                }
            }
        }
        if resources.is_empty() {
            continue;
        }
        let users = pod.node_side.iter().flat_map(|side| &side.users);
        let containers: Vec<String> =
            users.filter(|(entry, _)| Some(entry.as_str()) == claim.entry).map(|(_, c)| c.clone()).collect();
        if containers.is_empty() {
            return Err(Verdict::unresolvable(format!(
                "claim {}: node-allocatable resource claim not referenced by any container within the pod",
                claim.name
            )));
        }
        out.push(NodeAllocatableResourceClaimStatus {
            containers: Some(containers),
            resource_claim_name: claim.name.to_owned(),
            resources: resources.into_iter().map(|(name, amount)| (name, amount.to_api())).collect(),
        });
    }
    out.sort_by(|a, b| a.resource_claim_name.cmp(&b.resource_claim_name));
    Ok(out)
}

/// What a device comes to of a resource; nothing where the mapping is of a capacity it does not use. The error names the
/// capacity where none was said to be used.
fn amount(
    mapping: &NodeAllocatableResourceMapping,
    result: &DeviceRequestAllocationResult,
) -> Result<Option<Quantity>, String> {
    let times = mapping.allocation_multiplier.as_ref().and_then(Quantity::from_api);
    let Some(key) = mapping.capacity_key.as_ref().filter(|key| !key.is_empty()) else {
        return Ok(Some(times.unwrap_or(Quantity::ZERO)));
    };
    let consumed = result.consumed_capacity.as_ref().ok_or_else(|| key.clone())?;
    let consumed = consumed.get(key).and_then(Quantity::from_api);
    Ok(consumed.map(|consumed| times.map_or(consumed, |times| consumed * times)))
}

/// Whether a node has what the pod requests with its claims.
pub(super) fn check(
    side: &NodeSide,
    claims: &[NodeAllocatableResourceClaimStatus],
    node: &NodeInfo,
) -> Verdict {
    let (total, together) = (side.requests(claims), side.together(claims));
    let short = |name: &&String| together.get(name) > total.get(name);
    if let Some(name) = side.whole.iter().find(short) {
        return Verdict::unresolvable(format!(
            "pod level request for {name} is insufficient to cover the aggregated container and node-allocatable DRA requests"
        ));
    }
    let huge =
        total.scalar.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("hugepages-"));
    let names = ["cpu", "memory", "ephemeral-storage"].into_iter().chain(huge);
    let (mut reasons, mut hopeless) = (Vec::new(), false);
    for name in names {
        let (wanted, has) = (total.get(name), node.allocatable.get(name));
        if wanted > 0 && wanted > has.saturating_sub(node.requested.get(name)) {
            reasons.push(Reason::Owned(format!("Insufficient {name}")));
            hopeless |= wanted > has;
        }
    }
    match (reasons.is_empty(), hopeless) {
        (true, _) => Verdict::Fits,
        (false, true) => Verdict::Unresolvable(reasons),
        (false, false) => Verdict::Unschedulable(reasons),
    }
}

/// Whether other pods of a node have a claim of that kind already: it is for one alone.
pub(super) fn is_taken(pod: &PodInfo, claim: &str, node: &NodeInfo) -> Option<Verdict> {
    let holds = |other: &&std::sync::Arc<PodInfo>| {
        let held = other.node_side.as_ref().map(|side| &side.held);
        other.namespace == pod.namespace && held.is_some_and(|held| held.iter().any(|name| name == claim))
    };
    let holders: Vec<&str> = node.pods.iter().filter(holds).map(|other| other.uid.as_str()).collect();
    let why = match holders.as_slice() {
        [] => return None,
        [one] if *one == pod.uid => return None,
        [_] => "is already used by another pod",
        _ => "shared by multiple pods",
    };
    Some(Verdict::unresolvable(format!("node allocatable resource claim {claim} {why}")))
}
