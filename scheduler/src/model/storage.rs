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
    meta::{ObjectKey, annotation, object_key},
    quantity::Quantity,
};
use k8s_openapi::api::{
    core::v1::{
        ContainerExtendedResourceRequest, NodeAllocatableResourceClaimStatus, PersistentVolume,
        PersistentVolumeClaim,
    },
    resource::v1::ResourceClaim,
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
};

/// The annotation that names the in-tree plugins whose work drivers do on a node.
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";

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
    Claim {
        /// Which.
        key: ObjectKey,
        /// It came.
        new: bool,
    },
    /// A volume came or changed.
    Volume {
        /// It came.
        new: bool,
        /// It says another zone or region of itself.
        moved: bool,
    },
    /// A class came, or allows other places.
    Class {
        /// It came.
        new: bool,
        /// Its claims wait for their first pods.
        waits: bool,
    },
    /// A driver does not tell any more how much room its pools have.
    Driver,
    /// Drivers of a node.
    Node {
        /// It came.
        new: bool,
        /// Some limit grew.
        room: bool,
        /// Drivers do the work of other in-tree plugins.
        migrated: bool,
    },
    /// A pool came or has more room.
    Capacity {
        /// It came.
        new: bool,
    },
    /// A volume of this driver was detached.
    Detached(String),
}

/// Whether a driver's limit on a node grew.
fn has_more_room(old: &CSINode, new: &CSINode) -> bool {
    let limit = |node: &CSINode, driver: &str| {
        let drivers = node.spec.drivers.iter();
        let found = drivers.into_iter().find(|d| d.name == driver);
        found.and_then(|d| d.allocatable.as_ref()?.count).unwrap_or(0)
    };
    new.spec.drivers.iter().any(|d| limit(new, &d.name) > limit(old, &d.name))
}

/// What an object was before, if it is not new.
fn before<K>(event: &Event<K>) -> Option<&K> {
    match event {
        Event::Updated { old, .. } => Some(old),
        _ => None,
    }
}

fn claim_event(event: &Event<PersistentVolumeClaim>) -> StorageEvent {
    StorageEvent::Claim { key: object_key(event.object().as_ref()), new: before(event).is_none() }
}

fn volume_event(event: &Event<PersistentVolume>) -> StorageEvent {
    let places = |volume: &PersistentVolume| {
        let labels = volume.metadata.labels.iter().flatten();
        let places = labels.filter(|(key, _)| key.ends_with("/zone") || key.ends_with("/region"));
        places.map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    let moved = before(event).is_some_and(|old| places(old) != places(event.object()));
    StorageEvent::Volume { new: before(event).is_none(), moved }
}

fn class_event(event: &Event<StorageClass>) -> Option<StorageEvent> {
    let class = event.object();
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let matters = before(event).is_none_or(|old| old.allowed_topologies != class.allowed_topologies);
    matters.then_some(StorageEvent::Class { new: before(event).is_none(), waits })
}

fn driver_event(event: &Event<CSIDriver>) -> Option<StorageEvent> {
    let tells = |driver: &CSIDriver| driver.spec.storage_capacity == Some(true);
    let matters = before(event).is_some_and(|old| tells(old) && !tells(event.object()));
    matters.then_some(StorageEvent::Driver)
}

fn node_event(event: &Event<CSINode>) -> Option<StorageEvent> {
    let node = event.object();
    let migrated = |node: &CSINode| annotation(&node.metadata, MIGRATED).map(str::to_owned);
    let Some(old) = before(event) else {
        return Some(StorageEvent::Node { new: true, room: true, migrated: true });
    };
    let (room, migrated) = (has_more_room(old, node), migrated(old) != migrated(node));
    (room || migrated).then_some(StorageEvent::Node { new: false, room, migrated })
}

fn capacity_event(event: &Event<CSIStorageCapacity>) -> Option<StorageEvent> {
    // The size of the largest volume, if that is told, says more than all that is left.
    let room = |capacity: &CSIStorageCapacity| {
        let told = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref())?;
        told.0.parse::<Quantity>().ok().map(Quantity::value)
    };
    let grew = before(event).is_none_or(|old| room(event.object()) > room(old));
    grew.then_some(StorageEvent::Capacity { new: before(event).is_none() })
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

impl Release {
    /// What is said of it to the pod.
    pub const fn done(&self) -> &'static str {
        match self {
            Self::GiveBack(_) => "deallocation of ResourceClaim completed",
            Self::Delete(_) => "deletion of ResourceClaim completed",
        }
    }
}

impl Reservation {
    /// The volume that is chosen for a claim, unless one is made.
    pub fn volume_for(&self, claim: &ObjectKey) -> Option<&PersistentVolume> {
        let is_for = |volume: &&PersistentVolume| {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            reference.is_some_and(|r| ObjectKey::new(text(&r.namespace), text(&r.name)) == *claim)
        };
        self.volumes.iter().find(is_for)
    }

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
                (Some(claim_event(event)), is_gone(event))
            }
            StorageChange::Volume(event) => {
                self.volumes.take(event);
                (Some(volume_event(event)), is_gone(event))
            }
            StorageChange::Class(event) => {
                take(&mut self.classes, event);
                (class_event(event), is_gone(event))
            }
            StorageChange::Driver(event) => {
                take(&mut self.drivers, event);
                (driver_event(event), is_gone(event))
            }
            StorageChange::Node(event) => {
                take(&mut self.nodes, event);
                (node_event(event), is_gone(event))
            }
            StorageChange::Capacity(event) => {
                let key = object_key(event.object().as_ref());
                match is_gone(event) {
                    true => drop(self.capacities.remove(&key)),
                    false => drop(self.capacities.insert(key, event.object().clone())),
                }
                (capacity_event(event), is_gone(event))
            }
            StorageChange::Attachment(event) => {
                let attachment = event.object();
                let name = attachment.metadata.name.clone().unwrap_or_default();
                let of_node = self.attachments.entry(attachment.spec.node_name.clone()).or_default();
                match is_gone(event) {
                    true => drop(of_node.remove(&name)),
                    false => drop(of_node.insert(name, attachment.clone())),
                }
                (Some(StorageEvent::Detached(attachment.spec.attacher.clone())), !is_gone(event))
            }
        };
        event.filter(|_| !gone)
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
        let new = StorageEvent::Volume { new: true, moved: false };
        assert_eq!(tell(&mut storage, volume("5", None)), Some(new));
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

    /// What a change of an object from one state to another means; it comes where there is no first state.
    fn means<K: serde::de::DeserializeOwned>(
        change: fn(Event<K>) -> StorageChange,
        old: serde_json::Value,
        new: serde_json::Value,
    ) -> Option<StorageEvent> {
        let object = |value| Arc::new(serde_json::from_value::<K>(value).unwrap());
        let event = match old.is_null() {
            true => Event::Added { new: object(new), initial: false },
            false => Event::Updated { old: object(old), new: object(new) },
        };
        Storage::default().take(&change(event))
    }

    #[test]
    fn only_changes_that_may_help_a_pod_are_told() {
        let none = || json!(null);
        let zone =
            |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone, "a": zone}}});
        let volume = |old, new| means(StorageChange::Volume, old, new);
        assert_eq!(volume(zone("x"), zone("y")), Some(StorageEvent::Volume { new: false, moved: true }));
        assert_eq!(volume(zone("x"), zone("x")), Some(StorageEvent::Volume { new: false, moved: false }));
        let class = |mode: &str, zone: &str| {
            json!({"metadata": {}, "provisioner": "p", "volumeBindingMode": mode, "allowedTopologies": [
                {"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]})
        };
        let told = |old, new| means(StorageChange::Class, old, new);
        let waits = "WaitForFirstConsumer";
        assert_eq!(told(none(), class(waits, "x")), Some(StorageEvent::Class { new: true, waits: true }));
        assert_eq!(
            told(none(), class("Immediate", "x")),
            Some(StorageEvent::Class { new: true, waits: false })
        );
        assert_eq!(told(class(waits, "x"), class(waits, "x")), None);
        assert_eq!(
            told(class(waits, "x"), class(waits, "y")),
            Some(StorageEvent::Class { new: false, waits: true })
        );
        let driver = |tells: bool| json!({"metadata": {}, "spec": {"storageCapacity": tells}});
        let told = |old, new| means(StorageChange::Driver, old, new);
        assert_eq!(told(driver(true), driver(false)), Some(StorageEvent::Driver));
        for (old, new) in
            [(none(), driver(false)), (driver(false), driver(true)), (driver(true), driver(true))]
        {
            assert_eq!(told(old, new), None);
        }
        let capacity = |capacity: &str, largest: Option<&str>| json!({"metadata": {}, "storageClassName": "c", "capacity": capacity, "maximumVolumeSize": largest});
        let told = |old, new| means(StorageChange::Capacity, old, new);
        let grew = Some(StorageEvent::Capacity { new: false });
        assert_eq!(told(none(), capacity("1Gi", None)), Some(StorageEvent::Capacity { new: true }));
        assert_eq!(told(capacity("1Gi", None), capacity("2Gi", None)), grew);
        assert_eq!(told(capacity("2Gi", None), capacity("1Gi", None)), None);
        assert_eq!(told(capacity("1Gi", Some("1Gi")), capacity("2Gi", Some("1Gi"))), None);
        assert_eq!(told(capacity("2Gi", Some("1Gi")), capacity("2Gi", Some("2Gi"))), grew);
        let node = |limit: i32, migrated: &str| {
            json!({"metadata": {"annotations": {MIGRATED: migrated}}, "spec": {"drivers": [
                {"name": "d", "nodeID": "n", "allocatable": {"count": limit}}]}})
        };
        let told = |old, new| means(StorageChange::Node, old, new);
        let event = |new, room, migrated| Some(StorageEvent::Node { new, room, migrated });
        assert_eq!(told(none(), node(1, "")), event(true, true, true));
        assert_eq!(told(node(1, ""), node(2, "")), event(false, true, false));
        assert_eq!(told(node(2, ""), node(1, "")), None);
        assert_eq!(told(node(1, ""), node(1, "kubernetes.io/aws-ebs")), event(false, false, true));
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
