//! The extension points plugins implement, and the outcomes that steer a scheduling cycle.
//!
//! Contract: KEP-624. A plugin parses the pod once per cycle (`prepare_*`) and returns an object that
//! answers for single nodes; nothing is kept between cycles, so plugins have no state of their own.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use crate::{
    model::{Cluster, DeviceEvent, GroupInfo, NodeInfo, PodInfo, Release, Reservation, StorageEvent},
    plan::group::Domain,
};

/// Scores range from 0 to this, after normalisation.
pub const MAX_SCORE: i64 = 100;

/// Why a node, or the whole cluster, does not take a pod.
pub type Reason = Cow<'static, str>;

/// What a filter says about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod fits.
    Fits,
    /// It does not, but removing pods could help.
    Unschedulable(Vec<Reason>),
    /// It does not, and removing pods from the node does not help.
    Unresolvable(Vec<Reason>),
    /// It cannot be told: the attempt is over, and made again after its back-off. Never said by a local plugin.
    Failed(Reason),
}

/// What a plugin's preparation of the filter phase came to.
pub enum Prepared<'a> {
    /// The plugin has nothing to say about this pod.
    Skip,
    /// Ask this filter for each node.
    Filter(Box<dyn Filter + 'a>),
    /// Only these nodes come into question; ask the filter for them.
    Restrict(BTreeSet<&'a str>, Box<dyn Filter + 'a>),
    /// No node can take the pod.
    Reject(Reason),
}

/// Things that happen in the cluster and may make a waiting pod schedulable (queueing hints).
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A node came, or something of it that scheduling reads changed.
    NodeAdded(Arc<NodeInfo>),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: Arc<NodeInfo>,
        /// After.
        new: Arc<NodeInfo>,
    },
    /// A node is gone.
    NodeRemoved(Arc<NodeInfo>),
    /// A bound pod went away or ended.
    PodRemoved(Arc<PodInfo>),
    /// A pod was bound.
    PodPlaced(Arc<PodInfo>),
    /// A bound pod has other labels, or asks for less of something.
    PodUpdated {
        /// Before.
        old: Arc<PodInfo>,
        /// After.
        new: Arc<PodInfo>,
    },
    /// The waiting pod itself changed.
    PodChanged {
        /// Before.
        old: Arc<PodInfo>,
        /// After.
        new: Arc<PodInfo>,
    },
    /// A namespace's labels changed.
    NamespaceChanged,
    /// A claim, volume, class or volume capacity changed.
    StorageChanged(StorageEvent),
    /// Devices, their classes or claims changed.
    DevicesChanged(DeviceEvent),
}

// === impl ClusterEvent ===

impl ClusterEvent {
    /// What metrics call it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeUpdated { old, new } if old.allocatable != new.allocatable => {
                "NodeUpdateNodeAllocatable"
            }
            Self::NodeUpdated { old, new } if old.labels != new.labels => "NodeUpdateNodeLabel",
            Self::NodeUpdated { old, new } if old.features != new.features => "NodeUpdateNodeDeclaredFeature",
            // Being unschedulable goes by this name as well.
            Self::NodeUpdated { .. } => "NodeUpdateNodeTaint",
            Self::NodeRemoved(_) => "NodeDelete",
            Self::PodRemoved(_) => "AssignedPodDelete",
            Self::PodPlaced(_) => "AssignedPodAdd",
            Self::PodUpdated { old, new } if old.labels != new.labels => "AssignedPodUpdatePodLabel",
            Self::PodUpdated { .. } => "AssignedPodUpdatePodScaleDown",
            Self::PodChanged { old, new } if old.labels != new.labels => "UnschedulablePodUpdatePodLabel",
            Self::PodChanged { old, new } if old.requests.exceeds(&new.requests) => {
                "UnschedulablePodUpdatePodScaleDown"
            }
            Self::PodChanged { old, new } if !old.gates.is_empty() && new.gates.is_empty() => {
                "UnschedulablePodUpdatePodSchedulingGatesEliminated"
            }
            Self::PodChanged { old, new } if old.tolerations != new.tolerations => {
                "UnschedulablePodUpdatePodToleration"
            }
            Self::PodChanged { old, new } if old.device_claims != new.device_claims => {
                "UnschedulablePodUpdatePodGeneratedResourceClaim"
            }
            Self::PodChanged { .. } => "UnschedulablePodUpdate",
            Self::NamespaceChanged => "NamespaceUpdate",
            Self::StorageChanged(event) => match event {
                StorageEvent::Claim { new: true, .. } => "PersistentVolumeClaimAdd",
                StorageEvent::Claim { .. } => "PersistentVolumeClaimUpdate",
                StorageEvent::Volume { new: true, .. } => "PersistentVolumeAdd",
                StorageEvent::Volume { .. } => "PersistentVolumeUpdate",
                StorageEvent::Class { new: true, .. } => "storage.k8s.io/StorageClassAdd",
                StorageEvent::Class { .. } => "storage.k8s.io/StorageClassUpdate",
                StorageEvent::Driver => "storage.k8s.io/CSIDriverUpdate",
                StorageEvent::Node { new: true, .. } => "storage.k8s.io/CSINodeAdd",
                StorageEvent::Node { .. } => "storage.k8s.io/CSINodeUpdate",
                StorageEvent::Capacity { new: true } => "storage.k8s.io/CSIStorageCapacityAdd",
                StorageEvent::Capacity { .. } => "storage.k8s.io/CSIStorageCapacityUpdate",
                StorageEvent::Detached(_) => "storage.k8s.io/VolumeAttachmentDelete",
            },
            Self::DevicesChanged(event) => match event {
                DeviceEvent::Slice => "resource.k8s.io/ResourceSliceUpdate",
                DeviceEvent::Class => "resource.k8s.io/DeviceClassUpdate",
                DeviceEvent::Claim(_) | DeviceEvent::Released => "resource.k8s.io/ResourceClaimUpdate",
            },
        }
    }
}

/// Filters nodes for one pod.
pub trait Filter {
    /// The verdict on a node (with the pods it has in this cycle).
    fn check(&self, node: &NodeInfo) -> Verdict;
    /// A pod is put on a node hypothetically.
    fn pod_added(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}
    /// A pod is taken off a node hypothetically.
    fn pod_removed(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}
}

/// Scores nodes for one pod.
pub trait Score {
    /// The raw score of a node.
    fn score(&self, node: &NodeInfo) -> i64;
    /// Brings raw scores, in the order of the nodes, to 0..=100.
    fn normalize(&self, _nodes: &[&NodeInfo], _scores: &mut [i64]) {}
}

/// Scores nodes for a pod, if the plugin cares.
pub type Scorer<'a> = Option<Box<dyn Score + 'a>>;

/// A scheduling plugin. Every method is pure.
pub trait Plugin: Send + Sync {
    /// Upstream's name: it stands in configurations, metrics and events.
    fn name(&self) -> &'static str;
    /// Whether the pod may enter the queue; the error says why not.
    fn may_enqueue(&self, _pod: &PodInfo, _cluster: &Cluster) -> Result<(), String> {
        Ok(())
    }
    /// Prepares filtering.
    fn filter<'a>(&self, _pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        Prepared::Skip
    }
    /// Whether its verdict on a node and the node's raw score follow from that node with its pods alone, and are the
    /// same for pods that are alike ([`PodInfo::is_like`]): they are then remembered until the node changes.
    fn is_local(&self) -> bool {
        false
    }
    /// What must be written before the pod is bound to a node that passed the filters.
    fn reserve(&self, _pod: &PodInfo, _cluster: &Cluster, _node: &NodeInfo) -> Reservation {
        Reservation::default()
    }
    /// Whether a pod of a group may be bound now that it has a node, which the cluster shows; the error says what it
    /// waits for.
    fn permit(&self, _pod: &PodInfo, _cluster: &Cluster) -> Result<(), Reason> {
        Ok(())
    }
    /// The sets of nodes that a group may be placed on, if the plugin has a say about it.
    fn domains(&self, _group: &GroupInfo, _cluster: &Cluster) -> Option<Result<Vec<Domain>, String>> {
        None
    }
    /// The raw score of a domain that has taken these pods of a group; the cluster shows the domain alone, with them.
    fn score_domain(&self, _pods: &[Arc<PodInfo>], _cluster: &Cluster) -> Option<i64> {
        None
    }
    /// Brings the raw scores of domains to 0..=100.
    fn normalize_domains(&self, scores: Vec<i64>) -> Vec<i64> {
        scores
    }
    /// A claim that is let go of because no node takes the pod while it has it. Asked only where this plugin refused
    /// nodes.
    fn release(&self, _pod: &PodInfo, _cluster: &Cluster) -> Option<Release> {
        None
    }
    /// What is said of a pod that no node takes and for which nothing was let go, by a plugin that looks for something to
    /// let go of.
    fn kept(&self, _pod: &PodInfo, _cluster: &Cluster) -> Option<&'static str> {
        None
    }
    /// Prepares scoring of `nodes`, those that passed the filters; `None` when the plugin does not care.
    fn score<'a>(&self, _pod: &'a PodInfo, _cluster: &'a Cluster, _nodes: &[&'a NodeInfo]) -> Scorer<'a> {
        None
    }
    /// Whether an event may make a pod this plugin rejected schedulable.
    fn wakes(&self, _pod: &PodInfo, _event: &ClusterEvent) -> bool {
        false
    }
}

impl Verdict {
    /// One reason that removing pods may cure.
    pub fn unschedulable(reason: impl Into<Reason>) -> Self {
        Self::Unschedulable(vec![reason.into()])
    }

    /// One reason that removing pods does not cure.
    pub fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self::Unresolvable(vec![reason.into()])
    }

    /// Fits, or the reason.
    pub fn fits_or(fits: bool, otherwise: impl FnOnce() -> Self) -> Self {
        if fits { Self::Fits } else { otherwise() }
    }
}

/// Scales scores so that the highest becomes 100; `reverse` makes the lowest best.
pub fn normalize_to_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        if max == 0 {
            *score = if reverse { MAX_SCORE } else { 0 };
            continue;
        }
        *score = MAX_SCORE * *score / max;
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}
