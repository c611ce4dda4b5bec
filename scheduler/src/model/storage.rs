//! Claims, volumes, classes and drivers, as the API has them and as decisions under way will have them.
//!
//! What a decision is about to write is assumed at once, so that the next decision does not give the same volume
//! away again; the assumption ends when something newer comes or the decision fails.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use component_base::{
    features::{Gate, Gates},
    informer::{Event, Object, version_of},
    meta::{ObjectKey, object_key},
};
use k8s_openapi::api::{
    core::v1::{
        ContainerExtendedResourceRequest, NodeAllocatableResourceClaimStatus, PersistentVolume,
        PersistentVolumeClaim,
    },
    resource::v1::ResourceClaim,
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
};

/// Objects of one kind, with those that are about to be written in front.
#[derive(Clone, Debug)]
pub(super) struct Assumable<K> {
    known: HashMap<ObjectKey, Arc<K>>,
    assumed: HashMap<ObjectKey, Arc<K>>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    claims: Assumable<PersistentVolumeClaim>,
    volumes: Assumable<PersistentVolume>,
    classes: HashMap<String, Arc<StorageClass>>,
    drivers: HashMap<String, Arc<CSIDriver>>,
    nodes: HashMap<String, Arc<CSINode>>,
    capacities: HashMap<ObjectKey, Arc<CSIStorageCapacity>>,
    /// By node, then by name.
    attachments: HashMap<String, BTreeMap<String, Arc<VolumeAttachment>>>,
    gates: Gates,
}

/// A change of one of them.
pub enum StorageChange {
    /// A claim.
    Claim(Event<PersistentVolumeClaim>),
    /// A volume.
    Volume(Event<PersistentVolume>),
    /// A class.
    Class(Event<StorageClass>),
    /// A driver.
    Driver(Event<CSIDriver>),
    /// The drivers of a node.
    Node(Event<CSINode>),
    /// What is left of a pool.
    Capacity(Event<CSIStorageCapacity>),
    /// An attachment.
    Attachment(Event<VolumeAttachment>),
}

/// What a change may mean to a pod that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageEvent {
    /// This claim came or changed.
    Claim(ObjectKey),
    /// A volume came or changed.
    Volume,
    /// A class came or changed.
    Class,
    /// A driver came or changed.
    Driver,
    /// Drivers of a node; whether it may take more volumes.
    Node {
        /// It is new, or some limit grew.
        room: bool,
    },
    /// A pool has more room.
    Capacity,
    /// A volume of this driver was detached.
    Detached(String),
}

/// Whether a node is new or some driver's limit on it grew.
fn has_more_room(event: &Event<CSINode>) -> bool {
    let Event::Updated { old, new } = event else { return true };
    let limit = |node: &CSINode, driver: &str| {
        let drivers = node.spec.drivers.iter();
        let found = drivers.into_iter().find(|d| d.name == driver);
        found.and_then(|d| d.allocatable.as_ref()?.count).unwrap_or(0)
    };
    new.spec.drivers.iter().any(|d| limit(new, &d.name) > limit(old, &d.name))
}

/// What must be written before a pod is bound, and what must come of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reservation {
    /// Volumes, each with its reference to a claim of the pod.
    pub volumes: Vec<PersistentVolume>,
    /// Claims, each with the node that a volume is to be made for.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Claims that must be bound before the pod is.
    pub awaited: Vec<ObjectKey>,
    /// Claims of devices, each with what it gets and the pod among its consumers.
    pub devices: Vec<ResourceClaim>,
    /// A claim to be made for the devices that stand for resources of the pod.
    pub extended: Option<Box<ExtendedClaim>>,
    /// What claims come to of what the node has for its pods: what the pod's status says of that.
    pub of_node: Vec<NodeAllocatableResourceClaimStatus>,
}

/// A claim that is made with its devices, for what containers ask of extended resources.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtendedClaim {
    /// The claim with what it gets; it has no name yet.
    pub claim: ResourceClaim,
    /// Which container has which of its requests.
    pub mappings: Vec<ContainerExtendedResourceRequest>,
}

/// What becomes of a claim of devices with which no node takes its pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Release {
    /// It is written so, without devices.
    GiveBack(Box<ResourceClaim>),
    /// It goes: it was made for extended resources, and another will be.
    Delete(Arc<ResourceClaim>),
}

impl Reservation {
    /// Whether there is nothing to write or to wait for.
    pub fn is_empty(&self) -> bool {
        self.awaited.is_empty() && self.devices.is_empty() && self.extended.is_none()
    }
}

impl<K> Default for Assumable<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), assumed: HashMap::new() }
    }
}

impl<K: Object> Assumable<K> {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.assumed.get(key).or_else(|| self.known.get(key))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.known.iter().map(|(key, object)| self.assumed.get(key).unwrap_or(object))
    }

    pub(super) fn take(&mut self, event: &Event<K>) {
        let object = event.object();
        let key = object_key(object.as_ref());
        if matches!(event, Event::Deleted { .. }) {
            self.known.remove(&key);
            self.assumed.remove(&key);
            return;
        }
        let newer = |old: &Arc<K>| version_of(object.meta()) > version_of(old.meta());
        if self.assumed.get(&key).is_some_and(newer) {
            self.assumed.remove(&key);
        }
        self.known.insert(key, object.clone());
    }

    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
    }

    pub(super) fn assume(&mut self, object: &K)
    where
        K: Clone,
    {
        self.assumed.insert(object_key(object), Arc::new(object.clone()));
    }
}

pub(super) fn take<K: Object>(map: &mut HashMap<String, Arc<K>>, event: &Event<K>) {
    let name = event.object().meta().name.clone().unwrap_or_default();
    match event {
        Event::Deleted { .. } => drop(map.remove(&name)),
        event => drop(map.insert(name, event.object().clone())),
    }
}

impl Storage {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(&ObjectKey::cluster(name))
    }

    /// All volumes, in no order.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<PersistentVolume>> {
        self.volumes.all()
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(name)
    }

    /// A driver.
    pub fn driver(&self, name: &str) -> Option<&Arc<CSIDriver>> {
        self.drivers.get(name)
    }

    /// The drivers of a node.
    pub fn node(&self, name: &str) -> Option<&Arc<CSINode>> {
        self.nodes.get(name)
    }

    /// What is left of all pools.
    pub fn capacities(&self) -> impl Iterator<Item = &Arc<CSIStorageCapacity>> {
        self.capacities.values()
    }

    /// The attachments to a node.
    pub fn attachments(&self, node: &str) -> impl Iterator<Item = &Arc<VolumeAttachment>> {
        self.attachments.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// From now on volumes are looked at as these gates say.
    pub fn gate(&mut self, gates: Gates) {
        self.gates = gates;
    }

    /// Whether a gate is on.
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.has(gate)
    }

    /// Takes a change in; what it may mean, unless nothing.
    pub fn take(&mut self, change: &StorageChange) -> Option<StorageEvent> {
        let (event, gone) = match change {
            StorageChange::Claim(event) => {
                self.claims.take(event);
                (StorageEvent::Claim(object_key(event.object().as_ref())), is_gone(event))
            }
            StorageChange::Volume(event) => {
                self.volumes.take(event);
                (StorageEvent::Volume, is_gone(event))
            }
            StorageChange::Class(event) => {
                take(&mut self.classes, event);
                (StorageEvent::Class, is_gone(event))
            }
            StorageChange::Driver(event) => {
                take(&mut self.drivers, event);
                (StorageEvent::Driver, is_gone(event))
            }
            StorageChange::Node(event) => {
                take(&mut self.nodes, event);
                (StorageEvent::Node { room: has_more_room(event) }, is_gone(event))
            }
            StorageChange::Capacity(event) => {
                let key = object_key(event.object().as_ref());
                match is_gone(event) {
                    true => drop(self.capacities.remove(&key)),
                    false => drop(self.capacities.insert(key, event.object().clone())),
                }
                (StorageEvent::Capacity, is_gone(event))
            }
            StorageChange::Attachment(event) => {
                let attachment = event.object();
                let name = attachment.metadata.name.clone().unwrap_or_default();
                let of_node = self.attachments.entry(attachment.spec.node_name.clone()).or_default();
                match is_gone(event) {
                    true => drop(of_node.remove(&name)),
                    false => drop(of_node.insert(name, attachment.clone())),
                }
                (StorageEvent::Detached(attachment.spec.attacher.clone()), !is_gone(event))
            }
        };
        (!gone).then_some(event)
    }

    /// What a decision is about to write counts from now on.
    pub fn assume(&mut self, reservation: &Reservation) {
        reservation.volumes.iter().for_each(|volume| self.volumes.assume(volume));
        reservation.claims.iter().for_each(|claim| self.claims.assume(claim));
    }

    /// It was not written after all.
    pub fn forget(&mut self, reservation: &Reservation) {
        for volume in &reservation.volumes {
            self.volumes.forget(&object_key(volume));
        }
        for claim in &reservation.claims {
            self.claims.forget(&object_key(claim));
        }
    }
}

fn is_gone<K>(event: &Event<K>) -> bool {
    matches!(event, Event::Deleted { .. })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(version: &str, claim: Option<&str>) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "v", "resourceVersion": version},
            "spec": {"claimRef": claim.map(|name| json!({"name": name}))},
        }))
        .unwrap()
    }

    fn claim_of(storage: &Storage) -> Option<String> {
        storage.volume("v")?.spec.as_ref()?.claim_ref.as_ref()?.name.clone()
    }

    #[test]
    fn an_assumption_lasts_until_something_newer_comes_or_it_fails() {
        let tell = |storage: &mut Storage, volume: PersistentVolume| {
            storage.take(&StorageChange::Volume(Event::Added { new: Arc::new(volume), initial: false }))
        };
        let mut storage = Storage::default();
        assert_eq!(tell(&mut storage, volume("5", None)), Some(StorageEvent::Volume));
        let reservation = Reservation { volumes: vec![volume("5", Some("c"))], ..Reservation::default() };
        storage.assume(&reservation);
        assert_eq!(claim_of(&storage).as_deref(), Some("c"));
        tell(&mut storage, volume("5", None));
        assert_eq!(claim_of(&storage).as_deref(), Some("c"), "nothing new");
        assert_eq!(storage.volumes().count(), 1);
        tell(&mut storage, volume("6", Some("d")));
        assert_eq!(claim_of(&storage).as_deref(), Some("d"));
        storage.assume(&reservation);
        storage.forget(&reservation);
        assert_eq!(claim_of(&storage).as_deref(), Some("d"));
        let gone =
            StorageChange::Volume(Event::Deleted { last: Arc::new(volume("7", None)), unknown_state: false });
        assert_eq!(storage.take(&gone), None);
        assert!(storage.volume("v").is_none());
    }

    #[test]
    fn attachments_are_kept_by_node() {
        let attachment: VolumeAttachment = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"attacher": "d", "nodeName": "n", "source": {}},
        }))
        .unwrap();
        let attachment = Arc::new(attachment);
        let mut storage = Storage::default();
        let added = StorageChange::Attachment(Event::Added { new: attachment.clone(), initial: true });
        assert_eq!(storage.take(&added), None);
        assert_eq!((storage.attachments("n").count(), storage.attachments("m").count()), (1, 0));
        let gone = StorageChange::Attachment(Event::Deleted { last: attachment, unknown_state: false });
        assert_eq!(storage.take(&gone), Some(StorageEvent::Detached("d".to_owned())));
        assert_eq!(storage.attachments("n").count(), 0);
    }
}
