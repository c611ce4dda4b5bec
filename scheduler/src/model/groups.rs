//! Groups of pods that are placed together: what each asks for, and which pods are its members.
//!
//! Contract: KEP-4671, `scheduling.k8s.io/v1alpha2` PodGroup. Pods name their group (`spec.schedulingGroup`), and may do
//! so before there is one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use component_base::{
    informer::Event,
    meta::{ObjectKey, object_key},
};
use k8s_openapi::{
    api::{
        core::v1::PodResourceClaim,
        scheduling::v1alpha2::{PodGroup, PodGroupResourceClaim},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};

use super::PodInfo;

/// A group's facts for scheduling.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupInfo {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// How many of its pods must have a node before any of them is bound (policy `gang`).
    pub min_count: Option<usize>,
    /// The node label of which all its nodes have one value.
    pub topology_key: Option<String>,
    /// Whether it has constraints at all.
    pub is_constrained: bool,
    /// Priority; 0 when unset.
    pub priority: i32,
    /// Whether its pods are disrupted all at once (disruption mode `PodGroup`).
    pub ends_as_one: bool,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// Claims on devices that its pods share, in the words that its pods ask for them.
    pub claims: Vec<PodResourceClaim>,
}

fn shared(claim: &PodGroupResourceClaim) -> PodResourceClaim {
    let claim = claim.clone();
    PodResourceClaim {
        name: claim.name,
        resource_claim_name: claim.resource_claim_name,
        resource_claim_template_name: claim.resource_claim_template_name,
    }
}

/// All groups, with their members.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Whether pods of a group may share claims on devices.
    shares_devices: bool,
    groups: HashMap<ObjectKey, Arc<GroupInfo>>,
    /// Pods that have not ended, by uid, of groups that there are and of those that are yet to come.
    members: HashMap<ObjectKey, BTreeMap<String, Arc<PodInfo>>>,
}

// === impl GroupInfo ===

impl GroupInfo {
    /// Parses a group.
    pub fn new(group: &PodGroup) -> Arc<Self> {
        let (meta, spec) = (&group.metadata, &group.spec);
        let constraints = spec.scheduling_constraints.as_ref();
        let topology = constraints.and_then(|c| c.topology.as_ref()?.first());
        let status = group.status.as_ref();
        Arc::new(Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation,
            min_count: spec
                .scheduling_policy
                .gang
                .as_ref()
                .map(|gang| gang.min_count.try_into().unwrap_or(0)),
            topology_key: topology.map(|constraint| constraint.key.clone()),
            is_constrained: constraints.is_some(),
            priority: spec.priority.unwrap_or(0),
            ends_as_one: spec.disruption_mode.as_deref() == Some("PodGroup"),
            conditions: status.and_then(|s| s.conditions.clone()).unwrap_or_default(),
            claims: spec.resource_claims.iter().flatten().map(shared).collect(),
        })
    }

    /// Its name with its namespace.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.as_str(), self.name.as_str())
    }
}

// === impl Groups ===

impl Groups {
    /// From now on pods of a group may share claims on devices.
    pub fn share_devices(&mut self) {
        self.shares_devices = true;
    }

    /// The group of a pod, where pods of a group may share claims on devices: its key, and what is known of it.
    pub fn sharing(&self, pod: &PodInfo) -> Option<(ObjectKey, Option<&Arc<GroupInfo>>)> {
        let key = pod.group_key().filter(|_| self.shares_devices)?;
        let group = self.groups.get(&key);
        Some((key, group))
    }

    /// Takes in a change of a group.
    pub fn take(&mut self, event: &Event<PodGroup>) {
        let key = object_key(event.object().as_ref());
        match event {
            Event::Deleted { .. } => drop(self.groups.remove(&key)),
            event => drop(self.groups.insert(key, GroupInfo::new(event.object()))),
        }
    }

    /// A pod came or changed.
    pub fn join(&mut self, pod: &Arc<PodInfo>) {
        if let Some(key) = pod.group_key() {
            self.members.entry(key).or_default().insert(pod.uid.clone(), pod.clone());
        }
    }

    /// A pod went or ended.
    pub fn leave(&mut self, pod: &PodInfo) {
        let Some(key) = pod.group_key() else { return };
        let Some(members) = self.members.get_mut(&key) else { return };
        members.remove(&pod.uid);
        if members.is_empty() {
            self.members.remove(&key);
        }
    }

    /// A group, if there is one of that name.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<GroupInfo>> {
        self.groups.get(key)
    }

    /// The members of a group, whether it is there or not, ordered by uid.
    pub fn members(&self, key: &ObjectKey) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.members.get(key).into_iter().flat_map(BTreeMap::values)
    }
}
