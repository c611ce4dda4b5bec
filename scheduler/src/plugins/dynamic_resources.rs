//! DynamicResources: nodes must have the devices that the pod's claims ask for; claims get them with the node.
//!
//! Contract: KEP-4381 (structured parameters), KEP-4816 (prioritized lists), KEP-5055 (taints), KEP-4815 (partitions),
//! KEP-5075 (devices that several claims share), KEP-5007 (devices that must be made ready), KEP-5004 (devices for
//! extended resources), KEP-5729 (claims that the pods of a group share).

mod allocatable;
mod allocation;
mod backing;
mod extended;
mod selector;
mod sharing;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{
    features::Gate,
    meta::{ObjectKey, add_finalizer, controller_of, is_deleting, object_key},
};
use jiff::Timestamp;
use k8s_openapi::{
    Resource,
    api::{
        core::v1::NodeAllocatableResourceClaimStatus,
        resource::v1::{
            AllocationResult, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference,
        },
        scheduling::v1alpha2::PodGroup,
    },
};

pub(in crate::plugins) use self::backing::Backing;
use self::{
    allocatable::Given,
    allocation::{INVALID, Now, Patience, TIMED_OUT, Wanted},
    extended::{Extended, Made},
};
use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Score, Scorer, Verdict, normalize_to_max},
    model::{
        Cluster, DeviceEvent, ExtendedClaim, GroupInfo, NodeInfo, NodeSelectorTerms, PodInfo, Release,
        Reservation, pod::DeviceClaimUse,
    },
};

/// Keeps a claim that has devices.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Most pods that one claim is reserved for.
const MAX_CONSUMERS: usize = 256;
/// Why a pod is not bound whose devices do not become ready.
const NOT_READY: &str = "device binding failed";
/// Most alternatives of a request.
const MOST_ALTERNATIVES: usize = 8;
/// What versions of groups begin with.
const GROUPS_OF: &str = "scheduling.k8s.io/";
const ELSEWHERE: &str = "resourceclaim not available on the node";
const CANNOT: &str = "cannot allocate all claims";
const NOTHING_TO_GIVE: &str = "no new claims to deallocate";
const STILL: &str = "still not schedulable";
const STALE: &str = "cannot schedule extended resource claim";

/// The plugin.
#[derive(Debug)]
pub struct DynamicResources {
    /// How long devices are tried on one node.
    timeout: Duration,
    now: Now,
    /// How long devices may take to become ready.
    binding: Duration,
    time: fn() -> Timestamp,
}

/// Claims to be written, the one to be made, and what they come to of what the node has.
type Reserved = (Vec<ResourceClaim>, Option<Box<ExtendedClaim>>, Vec<NodeAllocatableResourceClaimStatus>);

/// The claims of a pod.
struct Claims<'a> {
    cluster: &'a Cluster,
    pod: &'a PodInfo,
    /// Claims that have their devices, with where those can be reached.
    allocated: Vec<(Arc<ResourceClaim>, Option<NodeSelectorTerms>)>,
    /// Claims that have none yet.
    open: Vec<Wanted>,
    /// The claim that is made for extended resources.
    extended: Option<Extended>,
    /// Names of claims that are not the pod's own but those of its group, for all of its pods.
    shared: BTreeSet<String>,
    /// The name of the group that the pod may share claims with, and what is said of the group in claims.
    group: Option<(Arc<str>, Option<ResourceClaimConsumerReference>)>,
}

/// The claims of a pod, while it is decided which nodes have devices for them.
struct Asking<'a> {
    claims: Claims<'a>,
    /// Whether devices of some claim will not become ready: the pod has to wait until it has others.
    is_broken: bool,
    timeout: Duration,
    now: Now,
}

impl DynamicResources {
    /// Devices are tried on one node for so long, or for as long as it takes where that is nothing; and may take so long to
    /// become ready.
    pub fn new(timeout: Duration, binding: Duration) -> Self {
        Self { timeout, now: Instant::now, binding, time: Timestamp::now }
    }

    /// Whether devices of a claim failed to become ready, or took too long.
    fn is_broken(&self, claim: &ResourceClaim, cluster: &Cluster) -> bool {
        let left = || time_left(claim, self.binding, (self.time)());
        let may_wait = cluster.devices.have_conditions() && has_conditions(claim);
        may_wait && !left().is_ok_and(|left| left.is_none_or(|left| !left.is_zero()))
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    /// A pod waits until all of its claims are there and are its own.
    fn may_enqueue(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), String> {
        if pod.device_claims.is_empty() {
            return Ok(());
        }
        let claims = Claims::none(pod, cluster, None);
        let refusal = pod.device_claims.iter().find_map(|used| claims.checked(used).err());
        refusal.map_or(Ok(()), |reason| Err(reason.into_owned()))
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        if has_nothing(pod) {
            return Prepared::Skip;
        }
        match Claims::new(pod, cluster) {
            Ok(claims) if claims.is_empty() => Prepared::Skip,
            Ok(claims) => {
                let is_broken = claims.allocated.iter().any(|(claim, _)| self.is_broken(claim, cluster));
                let (timeout, now) = (self.timeout, self.now);
                Prepared::Filter(Box::new(Asking { claims, is_broken, timeout, now }))
            }
            Err(reason) => Prepared::Reject(reason),
        }
    }

    fn reserve(&self, pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Reservation {
        if has_nothing(pod) {
            return Reservation::default();
        }
        let Ok(claims) = Claims::new(pod, cluster) else { return Reservation::default() };
        let (devices, extended, of_node) = claims.reserve(node);
        Reservation { devices, extended, of_node, ..Reservation::default() }
    }

    /// The earlier in their lists the alternatives stand that claims have on a node, the better.
    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        if has_nothing(pod) {
            return None;
        }
        let claims = Claims::new(pod, cluster).ok()?;
        let open = claims.open.iter().map(|wanted| &wanted.claim);
        let mut all = open.chain(claims.allocated.iter().map(|(claim, _)| claim));
        let some = all.any(|claim| alternatives(claim).next().is_some());
        some.then(|| Box::new(claims) as Box<dyn Score + 'a>)
    }

    /// A claim that some node does not reach, or with devices that will not become ready, and that nobody else has: with
    /// other devices the pod may go elsewhere. And one that was made for extended resources when the pod was to go to another node.
    fn release(&self, pod: &PodInfo, cluster: &Cluster) -> Option<Release> {
        let claims = Claims::new(pod, cluster).ok()?;
        let reaches = |at: &NodeSelectorTerms, node: &NodeInfo| at.matches(&node.name, &node.labels);
        let is_bound = |at: &NodeSelectorTerms| cluster.nodes().iter().any(|node| !reaches(at, node));
        let bound = claims
            .allocated
            .iter()
            .filter(|(claim, at)| at.as_ref().is_some_and(is_bound) || self.is_broken(claim, cluster));
        // A group's claim is let go of while none of its pods has a node.
        let is_idle = |key: &ObjectKey| {
            cluster.groups.members(key).all(|member| cluster.placement(&member.uid).is_none())
        };
        let group = pod.group_key().filter(is_idle).and_then(|_| claims.group.as_ref()?.1.as_ref());
        let mut uids = vec![pod.uid.as_str()];
        uids.extend(group.map(|group| group.uid.as_str()));
        let given_back = bound.filter_map(|(claim, _)| given_back(claim, &uids)).next();
        let stale = claims.extended.as_ref().and_then(|extended| extended.stale.clone());
        given_back.map(|claim| Release::GiveBack(Box::new(claim))).or(stale.map(Release::Delete))
    }

    fn kept(&self, pod: &PodInfo, cluster: &Cluster) -> Option<&'static str> {
        let has_claims =
            || !has_nothing(pod) && Claims::new(pod, cluster).is_ok_and(|claims| !claims.is_empty());
        Some(if has_claims() { STILL } else { NOTHING_TO_GIVE })
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            // Claims that were to be made are there.
            ClusterEvent::PodChanged { old, new } => {
                old.device_claims != new.device_claims
                    && new.device_claims.iter().all(|used| used.name.is_some())
            }
            ClusterEvent::NodeUpdated { old, new } => {
                old.labels != new.labels
                    || (!pod.device_asks.is_empty() && old.allocatable != new.allocatable)
            }
            ClusterEvent::DevicesChanged(DeviceEvent::Claim(key)) => {
                let uses = || pod.device_claims.iter().any(|used| used.name.as_deref() == Some(&*key.name));
                // The claim for its extended resources has a name that the pod does not know.
                *key.namespace == *pod.namespace && (!pod.device_asks.is_empty() || uses())
            }
            ClusterEvent::DevicesChanged(_) => true,
            _ => false,
        }
    }
}

/// Whether a pod asks for no devices, whatever classes there are.
fn has_nothing(pod: &PodInfo) -> bool {
    pod.device_claims.is_empty() && pod.device_asks.is_empty()
}

/// Whether some of a claim's devices must be made ready before its pod is bound.
pub fn has_conditions(claim: &ResourceClaim) -> bool {
    results(claim).any(|result| result.binding_conditions.as_ref().is_some_and(|c| !c.is_empty()))
}

/// The drivers of a claim's devices, each with whether the device must be made ready before its pod is bound.
pub fn drivers(claim: &ResourceClaim) -> impl Iterator<Item = (&str, bool)> {
    let waits = |result: &DeviceRequestAllocationResult| {
        result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
    };
    results(claim).map(move |result| (result.driver.as_str(), waits(result)))
}

/// Whether all devices of a claim are ready; the error says which will not be.
///
/// # Errors
/// When one of them failed.
fn is_ready(claim: &ResourceClaim) -> Result<bool, Reason> {
    for result in results(claim) {
        let conditions = result.binding_conditions.as_deref().unwrap_or_default();
        if conditions.is_empty() {
            continue;
        }
        let devices = claim.status.iter().flat_map(|status| status.devices.iter().flatten());
        let told = { devices }.find(|device| {
            (&device.driver, &device.pool, &device.device, &device.share_id)
                == (&result.driver, &result.pool, &result.device, &result.share_id)
        });
        let Some(told) = told else { return Ok(false) };
        let is_true = |kind: &String| {
            let all = told.conditions.iter().flatten();
            all.into_iter().find(|c| c.type_ == *kind && c.status == "True")
        };
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(is_true) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let (reason, message) = (&failed.reason, &failed.message);
            return Err(format!("{NOT_READY}: claim={name}, reason={reason}, message={message:?}").into());
        }
        if !conditions.iter().all(|kind| is_true(kind).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How long devices of a claim that are not ready may still take, `timeout` after they were allocated; none for ready ones.
///
/// # Errors
/// When one of them failed.
pub fn time_left(
    claim: &ResourceClaim,
    timeout: Duration,
    now: Timestamp,
) -> Result<Option<Duration>, Reason> {
    if is_ready(claim)? {
        return Ok(None);
    }
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let since = allocation.and_then(|a| a.allocation_timestamp.as_ref()).map(|time| time.0);
    let gone = since.map(|since| now.duration_since(since)).unwrap_or_default();
    Ok(Some(timeout.saturating_sub(Duration::try_from(gone).unwrap_or_default())))
}

/// A claim without its devices, if nobody but these has it.
pub fn given_back(claim: &ResourceClaim, uids: &[&str]) -> Option<ResourceClaim> {
    let consumers = claim.status.as_ref()?.reserved_for.as_deref().unwrap_or_default();
    let mut out = claim.clone();
    let status = out.status.as_mut()?;
    (status.allocation, status.reserved_for, status.devices) = (None, None, None);
    consumers.iter().all(|consumer| uids.contains(&consumer.uid.as_str())).then_some(out)
}

/// Whether a claim has its devices by the decision for one pod, and not since before; `seen` is what was seen of it last.
pub fn is_new(claim: &ResourceClaim, seen: Option<&ResourceClaim>) -> bool {
    let consumers = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()).count();
    consumers == 1 && !seen.is_some_and(has_devices)
}

fn has_devices(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// A claim as it is to be written on top of what others wrote meanwhile: kept for who it was to be kept for last, with its
/// devices where they are new.
///
/// # Errors
/// When it cannot be had any more.
pub fn rebased(claim: &ResourceClaim, fresh: &ResourceClaim, is_new: bool) -> Result<ResourceClaim, Reason> {
    let gone = |how: &str| Reason::Owned(format!("claim {} got {how} in the meantime", object_key(claim)));
    if is_deleting(&fresh.metadata) || fresh.metadata.uid != claim.metadata.uid {
        return Err(gone("deleted"));
    }
    match (is_new, has_devices(fresh)) {
        (true, true) => return Err(gone("allocated elsewhere")),
        (false, false) => return Err(gone("deallocated elsewhere")),
        _ => {}
    }
    let mut out = fresh.clone();
    // Whether it is there already makes no difference.
    let _was_missing = add_finalizer(&mut out.metadata, FINALIZER);
    let (ours, status) = (claim.status.clone().unwrap_or_default(), out.status.get_or_insert_default());
    if is_new {
        status.allocation = ours.allocation;
    }
    let consumers = status.reserved_for.get_or_insert_default();
    if let Some(consumer) = ours.reserved_for.and_then(|mut all| all.pop())
        && !consumers.iter().any(|other| other.uid == consumer.uid)
    {
        consumers.push(consumer);
    }
    Ok(out)
}

fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    allocation.and_then(|a| a.devices.as_ref()).into_iter().flat_map(|d| d.results.iter().flatten())
}

impl<'a> Claims<'a> {
    /// Before any claim is looked at.
    fn none(pod: &'a PodInfo, cluster: &'a Cluster, extended: Option<Extended>) -> Claims<'a> {
        let sharing = cluster.groups.sharing(pod);
        let group = sharing.map(|(key, group)| (key.name.clone(), group.map(|g| consumer_group(g))));
        let (allocated, open, shared) = (Vec::new(), Vec::new(), BTreeSet::new());
        Claims { cluster, pod, allocated, open, extended, shared, group }
    }

    /// Sorts a pod's claims; the error says why no node can help.
    fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Result<Claims<'a>, Reason> {
        let extended = Extended::new(pod, &cluster.devices)?;
        let sharing = cluster.groups.sharing(pod);
        let known = sharing.as_ref().and_then(|(_, group)| *group);
        let mut out = Claims::none(pod, cluster, extended);
        for used in &pod.device_claims {
            let claim = out.checked(used)?;
            if known.is_some_and(|group| group.claims.contains(&used.asked)) {
                out.shared.extend(claim.metadata.name.clone());
            }
            let status = claim.status.as_ref();
            let Some(allocation) = status.and_then(|s| s.allocation.as_ref()) else {
                out.open.push(Wanted::new(claim, &cluster.devices)?);
                continue;
            };
            let consumers = status.and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
            if consumers.len() >= MAX_CONSUMERS && !out.is_reserved(claim) {
                return Err("resourceclaim in use".into());
            }
            let at = allocation.node_selector.as_ref().map(NodeSelectorTerms::new);
            out.allocated.push((claim.clone(), at));
        }
        Ok(out)
    }

    fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.open.is_empty() && self.extended.is_none()
    }

    /// The claim that is to be made for extended resources on a node.
    fn made(&self, node: &NodeInfo) -> Result<Option<Arc<Made>>, Reason> {
        self.extended.as_ref().map_or(Ok(None), |extended| extended.on(node, &self.cluster.devices))
    }

    /// What there is to allocate on a node: the pod's claims, and after them the one for extended resources.
    fn wanted<'w>(&'w self, made: Option<&'w Arc<Made>>) -> Vec<&'w Wanted> {
        self.open.iter().chain(made.map(|made| &made.wanted)).collect()
    }

    /// What wanted claims come to of what the node has for its pods.
    fn of_node(
        &self,
        wanted: &[&Wanted],
        allocations: &[AllocationResult],
    ) -> Result<Vec<NodeAllocatableResourceClaimStatus>, Verdict> {
        if !self.cluster.devices.has(Gate::DRANodeAllocatableResources) {
            return Ok(Vec::new());
        }
        let given = wanted.iter().zip(allocations).map(|(wanted, allocation)| {
            let name = wanted.claim.metadata.name.as_deref().unwrap_or_default();
            let named = |used: &&DeviceClaimUse| used.name.as_deref() == Some(name) && !name.is_empty();
            let entry = self.pod.device_claims.iter().find(named).map(|used| used.asked.name.as_str());
            Given { name, entry, allocation }
        });
        allocatable::statuses(self.pod, &given.collect::<Vec<_>>(), &self.cluster.devices)
    }

    fn reserve(self, node: &NodeInfo) -> Reserved {
        let mut out: Vec<ResourceClaim> = Vec::new();
        let made = self.made(node).ok().flatten();
        let wanted = self.wanted(made.as_ref());
        let allocations =
            allocation::allocate(&wanted, &self.cluster.devices, node, Patience::default()).ok().flatten();
        let allocations = allocations.unwrap_or_default();
        let of_node = self.of_node(&wanted, &allocations).unwrap_or_default();
        for (wanted, allocation) in wanted.iter().zip(allocations) {
            let mut next = (*wanted.claim).clone();
            next.status.get_or_insert_default().allocation = Some(allocation);
            out.push(next);
        }
        let extended = out.len() > self.open.len();
        let extended = if extended { out.pop() } else { None };
        out.extend(self.allocated.iter().map(|(claim, _)| (**claim).clone()));
        out.retain_mut(|claim| self.hold(claim));
        let extended = extended.zip(made).map(|(mut claim, made)| {
            self.hold(&mut claim);
            Box::new(ExtendedClaim { claim, mappings: made.mappings.clone() })
        });
        (out, extended, of_node)
    }

    /// Keeps a claim for the pod, or for its group where that shares it; whether that is new.
    fn hold(&self, claim: &mut ResourceClaim) -> bool {
        let is_new = add_finalizer(&mut claim.metadata, FINALIZER);
        if self.is_reserved(claim) {
            return is_new;
        }
        let is_shared = claim.metadata.name.as_ref().is_some_and(|name| self.shared.contains(name));
        let group = self.group.as_ref().and_then(|(_, group)| group.clone());
        let consumer = group.filter(|_| is_shared).unwrap_or_else(|| ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
        });
        claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
        true
    }

    /// Whether a claim is kept for the pod, or for its group.
    fn is_reserved(&self, claim: &ResourceClaim) -> bool {
        let mut consumers = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
        consumers.any(|consumer| {
            let of_group = |(name, _): &(Arc<str>, _)| is_group(consumer) && *consumer.name == **name;
            consumer.uid == self.pod.uid || self.group.as_ref().is_some_and(of_group)
        })
    }

    /// A claim of the pod, if it is there and the pod may use it.
    fn checked(&self, used: &DeviceClaimUse) -> Result<&'a Arc<ResourceClaim>, Reason> {
        let (namespace, pod_name) = (&self.pod.namespace, &self.pod.name);
        let Some(name) = &used.name else {
            return Err(format!("pod \"{namespace}/{pod_name}\": ResourceClaim not created yet").into());
        };
        let Some(claim) = self.cluster.devices.claim(namespace, name) else {
            return Err(format!("resourceclaim.resource.k8s.io {name:?} not found").into());
        };
        if is_deleting(&claim.metadata) {
            return Err(format!("resourceclaim {name:?} is being deleted").into());
        }
        let owner = controller_of(&claim.metadata);
        let of_group = |(group, _): &(Arc<str>, _)| {
            owner.is_some_and(|owner| {
                owner.kind == "PodGroup" && *owner.name == **group && owner.api_version.starts_with(GROUPS_OF)
            })
        };
        let is_its =
            owner.is_some_and(|owner| owner.uid == self.pod.uid) || self.group.as_ref().is_some_and(of_group);
        if used.is_own && !is_its {
            let whose = match &self.group {
                Some((group, _)) => format!("neither Pod nor PodGroup {group} is the owner"),
                None => "Pod is not owner".to_owned(),
            };
            let what =
                format!("ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{pod_name}");
            return Err(format!("{what} ({whose})").into());
        }
        Ok(claim)
    }
}

/// What is said in claims of a group that shares them.
fn consumer_group(group: &GroupInfo) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: Some(PodGroup::GROUP.into()),
        resource: "podgroups".into(),
        name: group.name.clone(),
        uid: group.uid.clone(),
    }
}

fn is_group(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.api_group.as_deref() == Some(PodGroup::GROUP) && consumer.resource == "podgroups"
}

impl Filter for Asking<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let claims = &self.claims;
        let reaches = |terms: &NodeSelectorTerms| terms.matches(&node.name, &node.labels);
        let is_elsewhere =
            || claims.allocated.iter().any(|(_, at)| at.as_ref().is_some_and(|at| !reaches(at)));
        if self.is_broken || is_elsewhere() {
            return Verdict::unresolvable(ELSEWHERE);
        }
        if claims.cluster.devices.has(Gate::DRANodeAllocatableResources) {
            let names = claims.allocated.iter().filter_map(|(claim, _)| claim.metadata.name.as_deref());
            if let Some(taken) = { names }.find_map(|name| allocatable::is_taken(claims.pod, name, node)) {
                return taken;
            }
        }
        if claims.extended.as_ref().is_some_and(|extended| extended.stale.is_some()) {
            return Verdict::unschedulable(STALE);
        }
        let made = match claims.made(node) {
            Ok(made) => made,
            Err(reason) => return Verdict::unresolvable(reason),
        };
        let wanted = claims.wanted(made.as_ref());
        if wanted.is_empty() {
            return Verdict::Fits;
        }
        let patience = Patience::new(self.timeout, self.now);
        match allocation::allocate(&wanted, &claims.cluster.devices, node, patience) {
            Ok(Some(given)) => match (claims.of_node(&wanted, &given), &claims.pod.node_side) {
                (Err(verdict), _) => verdict,
                (Ok(of_node), Some(side)) if !of_node.is_empty() => allocatable::check(side, &of_node, node),
                _ => Verdict::Fits,
            },
            Ok(None) => Verdict::unresolvable(CANNOT),
            Err(reason) if reason == INVALID => Verdict::unschedulable(reason),
            Err(reason) if reason == TIMED_OUT => {
                Verdict::Failed(format!("node {}: {reason}", node.name).into())
            }
            Err(reason) => Verdict::Failed(reason),
        }
    }
}

impl Score for Claims<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let made = self.made(node).ok().flatten();
        let wanted = self.wanted(made.as_ref());
        let given =
            allocation::allocate(&wanted, &self.cluster.devices, node, Patience::default()).ok().flatten();
        let given = given.unwrap_or_default();
        let open = self.open.iter().zip(&given).map(|(wanted, allocation)| rank(&wanted.claim, allocation));
        let allocated = self.allocated.iter().filter_map(|(claim, _)| {
            let allocation = claim.status.as_ref()?.allocation.as_ref()?;
            Some(rank(claim, allocation))
        });
        open.chain(allocated).sum()
    }

    fn normalize(&self, _: &[&NodeInfo], scores: &mut [i64]) {
        normalize_to_max(scores, false);
    }
}

/// The alternatives of a claim's requests, by the names that results give them, with their places in their lists.
fn alternatives(claim: &ResourceClaim) -> impl Iterator<Item = (String, usize)> {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    requests.flat_map(|request| {
        let all = request.first_available.iter().flatten().enumerate();
        all.map(|(at, sub)| (format!("{}/{}", request.name, sub.name), at))
    })
}

/// What a claim's alternatives are worth with this allocation.
fn rank(claim: &ResourceClaim, allocation: &AllocationResult) -> i64 {
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    let taken: BTreeSet<&str> = results.map(|result| result.request.as_str()).collect();
    let worth = |(name, at): (String, usize)| {
        let worth = i64::try_from(MOST_ALTERNATIVES.saturating_sub(at)).unwrap_or(0);
        taken.contains(name.as_str()).then_some(worth)
    };
    alternatives(claim).filter_map(worth).sum()
}

#[cfg(test)]
mod tests;
