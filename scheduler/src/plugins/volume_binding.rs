//! VolumeBinding: nodes must be where the pod's volumes are or can be; claims that wait for their first pod get a
//! volume there.
//!
//! Contract: KEP-490 (topology-aware volume scheduling), KEP-1472 (storage capacity). Which volume a claim gets, or
//! for which node one is made, is decided with the node and written before the pod is bound.

mod matching;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use component_base::{
    features::{Gate, Gates},
    meta::{annotate, annotation, is_deleting, object_key},
    quantity::Quantity,
    selector::LabelSelector,
    volumes::{self, BIND_COMPLETED, SELECTED_NODE},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm},
    storage::v1::{CSIStorageCapacity, StorageClass},
};

use super::shape::{self, Shape};
use crate::{
    config::args::{ArgsError, UtilizationShapePoint, VolumeBindingArgs},
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Score, Scorer, Verdict},
    model::{
        Cluster, Labels, NodeInfo, NodeSelectorTerms, PodInfo, Reservation, Storage, StorageEvent,
        pod::ClaimUse,
    },
};

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const WAITS: &str = "WaitForFirstConsumer";

const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// The field that the function for scores stands in.
const SHAPE: &str = "shape";
const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";

/// The plugin.
#[derive(Debug, Default)]
pub struct VolumeBinding {
    /// How nodes are scored by the storage they reach; they are not without it.
    shape: Option<Shape>,
}

impl VolumeBinding {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When they are out of bounds, or the gate of some of them is off.
    pub fn new(args: &VolumeBindingArgs, gates: Gates) -> Result<Self, ArgsError> {
        if args.bind_timeout_seconds.is_some_and(|seconds| seconds < 0) {
            let why = "invalid BindTimeoutSeconds, should not be a negative value";
            return Err(ArgsError::Value("bindTimeoutSeconds", why));
        }
        let points = args.shape.as_deref();
        if !gates.has(Gate::StorageCapacityScoring) {
            let why =
                "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
            return if points.is_some() { Err(ArgsError::Value(SHAPE, why)) } else { Ok(Self::default()) };
        }
        // Most room first.
        let usual = [(0, shape::MAX_CUSTOM), (100, 0)];
        let usual = usual.map(|(utilization, score)| UtilizationShapePoint { utilization, score });
        let points = points.filter(|points| !points.is_empty()).unwrap_or(&usual);
        Ok(Self { shape: Some(Shape::new(points, SHAPE)?) })
    }
}

/// A volume with what its node affinity says, parsed once per cycle.
struct Volume {
    volume: Arc<PersistentVolume>,
    affinity: Option<NodeSelectorTerms>,
}

/// The claims of a pod.
struct Claims<'a> {
    storage: &'a Storage,
    /// Volumes of claims that are bound; `None` where the volume is missing.
    bound: Vec<Option<Volume>>,
    /// Claims to be bound with the pod, smallest first.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
    /// Volumes that those may get, by class.
    candidates: HashMap<String, Vec<Volume>>,
}

/// What a pod's claims get on a node.
#[derive(Default)]
struct Choice {
    bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims that volumes are made for, with how much their pools have left, where that is known.
    provision: Vec<(Arc<PersistentVolumeClaim>, Option<i64>)>,
}

/// Scores nodes by how much of the storage they reach would be used.
struct Room<'a> {
    claims: Claims<'a>,
    shape: Shape,
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        if pod.claims.is_empty() {
            return Prepared::Skip;
        }
        match Claims::new(pod, &cluster.storage) {
            Ok(claims) => Prepared::Filter(Box::new(claims)),
            Err(reason) => Prepared::Reject(reason),
        }
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        let shape = self.shape.clone().filter(|_| !pod.claims.is_empty())?;
        let claims = Claims::new(pod, &cluster.storage).ok()?;
        Some(Box::new(Room { claims, shape }))
    }

    fn reserve(&self, pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Reservation {
        if pod.claims.is_empty() {
            return Reservation::default();
        }
        let Ok(claims) = Claims::new(pod, &cluster.storage) else { return Reservation::default() };
        claims.find(node).map(|choice| choice.reserve(&node.name)).unwrap_or_default()
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
            ClusterEvent::StorageChanged(StorageEvent::Claim { key, .. }) => pod.has_claim(key),
            ClusterEvent::StorageChanged(StorageEvent::Node { new, migrated, .. }) => *new || *migrated,
            ClusterEvent::StorageChanged(event) => !matches!(event, StorageEvent::Detached(_)),
            _ => false,
        }
    }
}

impl Filter for Claims<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match self.find(node) {
            Ok(_) => Verdict::Fits,
            Err(reasons) => Verdict::Unresolvable(reasons),
        }
    }
}

impl Score for Room<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let Ok(choice) = self.claims.find(node) else { return 0 };
        let size = |claim: &PersistentVolumeClaim| volumes::asked(claim).map_or(0, Quantity::value);
        // By class: how much is asked for, of how much.
        let mut classes: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for (volume, claim) in &choice.bind {
            let class = classes.entry(volumes::class_of_volume(volume)).or_default();
            class.0 += size(claim);
            class.1 += volumes::capacity(volume).map_or(0, Quantity::value);
        }
        let made = choice.provision.iter().filter(|_| choice.bind.is_empty());
        for (claim, room) in made.filter_map(|(claim, room)| Some((claim, (*room)?))) {
            let class = classes.entry(class_of_claim(claim)).or_default();
            class.0 += size(claim);
            // All claims of a class are for the same pool.
            class.1 = room;
        }
        let count = i64::try_from(classes.len()).unwrap_or(i64::MAX);
        let sum: i64 = classes.values().map(|(asked, room)| self.shape.of(*asked, *room)).sum();
        if count == 0 { 0 } else { (2 * sum + count) / (2 * count) }
    }
}

impl<'a> Claims<'a> {
    /// Sorts a pod's claims; the error says why no node can help.
    fn new(pod: &PodInfo, storage: &'a Storage) -> Result<Claims<'a>, Reason> {
        let mut out = Claims { storage, bound: Vec::new(), waiting: Vec::new(), candidates: HashMap::new() };
        let mut immediate = false;
        for used in &pod.claims {
            let claim = checked(pod, used, storage)?;
            let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
            if !volume.is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some() {
                out.bound.push(storage.volume(volume).map(Volume::new));
            } else if volume.is_empty() && waits(claim, storage) {
                out.waiting.push(claim.clone());
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err(UNBOUND.into());
        }
        out.waiting.sort_by_key(|claim| volumes::asked(claim));
        for class in out.waiting.iter().map(|claim| class_of_claim(claim)) {
            if !out.candidates.contains_key(class) {
                let of_class = storage.volumes().filter(|v| volumes::class_of_volume(v) == class);
                let mut volumes: Vec<Volume> = of_class.map(Volume::new).collect();
                volumes.sort_by(|a, b| a.volume.metadata.name.cmp(&b.volume.metadata.name));
                out.candidates.insert(class.to_owned(), volumes);
            }
        }
        Ok(out)
    }

    /// What the claims get on a node, or why not.
    fn find(&self, node: &NodeInfo) -> Result<Choice, Vec<Reason>> {
        let mut reasons: Vec<Reason> = Vec::new();
        if self.bound.iter().flatten().any(|volume| !volume.is_at(node)) {
            reasons.push(NODE_CONFLICT.into());
        }
        let choice = self.choose(node);
        if let Err(reason) = &choice {
            reasons.push(reason.clone());
        }
        if self.bound.iter().any(Option::is_none) {
            reasons.push(NO_VOLUME.into());
        }
        match choice {
            Ok(choice) if reasons.is_empty() => Ok(choice),
            _ => Err(reasons),
        }
    }

    fn choose(&self, node: &NodeInfo) -> Result<Choice, Reason> {
        let mut out = Choice::default();
        let mut chosen: Vec<&str> = Vec::new();
        for claim in &self.waiting {
            if let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) {
                if selected != node.name {
                    return Err(BIND_CONFLICT.into());
                }
                out.provision.push((claim.clone(), None));
                continue;
            }
            let volumes = self.candidates.get(class_of_claim(claim)).map(Vec::as_slice).unwrap_or_default();
            let free = volumes.iter().filter(|v| !chosen.contains(&v.name()));
            match matching::best(claim, free.map(|v| (&v.volume, v.is_at(node)))) {
                Some(volume) => {
                    chosen.extend(volume.metadata.name.as_deref());
                    out.bind.push((volume.clone(), claim.clone()));
                }
                None => out.provision.push((claim.clone(), None)),
            }
        }
        for (claim, room) in &mut out.provision {
            *room = self.can_provision(claim, node)?;
        }
        Ok(out)
    }

    /// How much room there is for a volume that is made for a node, where that is known.
    fn can_provision(&self, claim: &PersistentVolumeClaim, node: &NodeInfo) -> Result<Option<i64>, Reason> {
        let name = class_of_claim(claim);
        let Some(class) = self.storage.class(name) else {
            return Err(format!("failed to find storage class {name:?}").into());
        };
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER {
            return Err(BIND_CONFLICT.into());
        }
        if !is_allowed(class.allowed_topologies.as_deref().unwrap_or_default(), &node.labels) {
            return Err(BIND_CONFLICT.into());
        }
        self.room(claim, class, node)
    }

    /// How much a pool that the node reaches has left, where the driver tells about its pools at all: the one with most.
    fn room(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        node: &NodeInfo,
    ) -> Result<Option<i64>, Reason> {
        let Some(size) = volumes::asked(claim) else { return Ok(None) };
        let driver = self.storage.driver(&class.provisioner);
        if driver.and_then(|d| d.spec.storage_capacity) != Some(true) {
            return Ok(None);
        }
        let fits = |pool: &Arc<CSIStorageCapacity>| {
            let limit = pool.maximum_volume_size.as_ref().or(pool.capacity.as_ref());
            Some(&pool.storage_class_name) == class.metadata.name.as_ref()
                && limit.and_then(Quantity::from_api).is_some_and(|limit| limit >= size)
                && pool.node_topology.as_ref().is_some_and(|topology| {
                    LabelSelector::from_api(Some(topology)).is_ok_and(|s| s.matches(node.labels.as_ref()))
                })
        };
        let left = |pool: &Arc<CSIStorageCapacity>| {
            pool.capacity.as_ref().and_then(Quantity::from_api).map_or(0, Quantity::value)
        };
        let fitting = self.storage.capacities().filter(|pool| fits(pool));
        fitting.map(left).max().map(Some).ok_or_else(|| NO_SPACE.into())
    }
}

impl Volume {
    fn new(volume: &Arc<PersistentVolume>) -> Volume {
        let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
        Volume { volume: volume.clone(), affinity: affinity.map(NodeSelectorTerms::new) }
    }

    fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }

    fn is_at(&self, node: &NodeInfo) -> bool {
        self.affinity.as_ref().is_none_or(|affinity| affinity.matches(&node.name, &node.labels))
    }
}

impl Choice {
    /// What must be written for it.
    fn reserve(self, node: &str) -> Reservation {
        let provision = self.provision.iter().map(|(claim, _)| claim);
        let both = self.bind.iter().map(|(_, claim)| claim).chain(provision.clone());
        let awaited = both.map(|claim| object_key(claim.as_ref())).collect();
        let select = |claim: &Arc<PersistentVolumeClaim>| {
            let mut next = (**claim).clone();
            annotate(&mut next.metadata, SELECTED_NODE, node);
            next
        };
        let anew =
            |claim: &&Arc<PersistentVolumeClaim>| annotation(&claim.metadata, SELECTED_NODE) != Some(node);
        Reservation {
            volumes: self.bind.iter().map(|(volume, claim)| volumes::reserved(volume, claim)).collect(),
            claims: provision.filter(anew).map(select).collect(),
            awaited,
            ..Reservation::default()
        }
    }
}

/// Whether a claim that a volume is made for has it for good, or, as an error, why it never will have that of this decision.
/// `volume` is the one that it names, if that is known; `node` has its name and labels.
///
/// # Errors
/// When whoever makes volumes has given the node up, or made one elsewhere.
pub fn is_made(
    claim: &PersistentVolumeClaim,
    volume: Option<&Arc<PersistentVolume>>,
    node: (&str, &Labels),
) -> Result<bool, Reason> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if claim.metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty) {
        return Err(format!("selectedNode annotation reset for PVC {name:?}").into());
    }
    // Who cannot make one for the node takes the node away.
    if annotation(&claim.metadata, SELECTED_NODE) != Some(node.0) {
        return Err(format!("provisioning failed for PVC {name:?}").into());
    }
    match volume {
        None => Ok(false),
        Some(volume) => reaches(volume, node).map(|()| is_bound(claim)),
    }
}

/// Whether a claim has for good the volume that was chosen for it, or, as an error, why it never will.
///
/// # Errors
/// When the volume is taken from it again, or the node does not reach it any more.
pub fn is_given(
    claim: &PersistentVolumeClaim,
    volume: &Arc<PersistentVolume>,
    node: (&str, &Labels),
) -> Result<bool, Reason> {
    reaches(volume, node)?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.and_then(|claim| claim.uid.as_deref()).unwrap_or_default().is_empty() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("ClaimRef got reset for pv {name:?}").into());
    }
    Ok(is_bound(claim))
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    !volume.is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

fn reaches(volume: &Arc<PersistentVolume>, (name, labels): (&str, &Labels)) -> Result<(), Reason> {
    let volume = Volume::new(volume);
    match volume.affinity.as_ref().is_none_or(|affinity| affinity.matches(name, labels)) {
        true => Ok(()),
        false => {
            let why = "no matching NodeSelectorTerms";
            Err(format!("pv {:?} node affinity doesn't match node {name:?}: {why}", volume.name()).into())
        }
    }
}

/// The class a claim asks for; empty for none.
fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    volumes::class_of_claim(claim).unwrap_or_default()
}

/// A claim of the pod, if it is there and the pod may use it.
fn checked<'a>(
    pod: &PodInfo,
    used: &ClaimUse,
    storage: &'a Storage,
) -> Result<&'a Arc<PersistentVolumeClaim>, Reason> {
    let name = &used.name;
    let Some(claim) = storage.claim(&pod.namespace, name) else {
        return Err(match used.ephemeral {
            true => {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            }
            false => format!("persistentvolumeclaim {name:?} not found"),
        }
        .into());
    };
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        )
        .into());
    }
    if is_deleting(&claim.metadata) {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted").into());
    }
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    if used.ephemeral && !owners.iter().any(|o| o.controller == Some(true) && o.uid == pod.uid) {
        let (namespace, pod) = (&pod.namespace, &pod.name);
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        )
        .into());
    }
    Ok(claim)
}

/// Whether a claim's class leaves binding to the scheduler.
fn waits(claim: &PersistentVolumeClaim, storage: &Storage) -> bool {
    let class = storage.class(class_of_claim(claim));
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some(WAITS))
}

/// Whether volumes may be made for a node with these labels.
fn is_allowed(terms: &[TopologySelectorTerm], labels: &Labels) -> bool {
    let fits = |term: &TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        !expressions.is_empty()
            && expressions.iter().all(|e| labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(fits)
}

#[cfg(test)]
mod tests;
