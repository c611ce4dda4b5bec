//! Devices that drivers publish, the classes they are asked for by, and the claims that hold them.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use component_base::{
    features::{Gate, Gates},
    informer::Event,
    meta::{ObjectKey, annotate, annotation, controller_of, object_key},
};
use k8s_openapi::{
    api::resource::{
        v1::{Device, DeviceClass, DeviceTaint, ResourceClaim, ResourceSlice},
        v1beta2::DeviceTaintRule,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    Reservation,
    pod::CLASS_PREFIX,
    storage::{Assumable, take},
};

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    slices: HashMap<String, Arc<ResourceSlice>>,
    classes: HashMap<String, Arc<DeviceClass>>,
    /// Taints that administrators set, by the name of the rule.
    rules: HashMap<String, Arc<DeviceTaintRule>>,
    claims: Assumable<ResourceClaim>,
    /// Claims that are being made for pods' extended resources, by the pod's uid, until they are seen with their devices.
    coming: HashMap<String, Arc<ResourceClaim>>,
    /// What devices can be.
    gates: Gates,
}

/// Marks claims that were made for extended resources.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

/// A change of one of them.
pub enum DeviceChange {
    /// Devices of a driver.
    Slice(Event<ResourceSlice>),
    /// A class.
    Class(Event<DeviceClass>),
    /// A taint of devices.
    Rule(Event<DeviceTaintRule>),
    /// A claim.
    Claim(Event<ResourceClaim>),
}

/// What a change may mean to a pod that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// There may be more devices, or other taints.
    Slice,
    /// A class came or changed.
    Class,
    /// This claim came or changed.
    Claim(ObjectKey),
    /// Some claim let go of its devices.
    Released,
}

impl Devices {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    /// All claims, in no order; those that are being made among them.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<ResourceClaim>> {
        self.claims.all().chain(self.coming.values())
    }

    /// The claim that was made for a pod's extended resources.
    pub fn extended_claim(&self, pod_uid: &str) -> Option<&Arc<ResourceClaim>> {
        self.claims.all().find(|claim| extended_for(claim) == Some(pod_uid))
    }

    /// From now on devices are what these gates let them be.
    pub fn gate(&mut self, gates: Gates) {
        self.gates = gates;
    }

    /// Whether a gate is on.
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.has(gate)
    }

    /// Whether devices may have to be made ready before a pod that has them is bound.
    pub fn have_conditions(&self) -> bool {
        self.has(Gate::DRADeviceBindingConditions) && self.has(Gate::DRAResourceClaimDeviceStatus)
    }

    /// The class of the devices that stand for an extended resource: the one that is named after it, or the newest that
    /// names it.
    pub fn class_for(&self, resource: &str) -> Option<&Arc<DeviceClass>> {
        if !self.has(Gate::DRAExtendedResource) {
            return None;
        }
        if let Some(name) = resource.strip_prefix(CLASS_PREFIX) {
            return self.classes.get(name);
        }
        let names =
            |class: &&Arc<DeviceClass>| class.spec.extended_resource_name.as_deref() == Some(resource);
        let age = |class: &&Arc<DeviceClass>| {
            let made = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (made, Reverse(class.metadata.name.clone()))
        };
        self.classes.values().filter(names).max_by_key(age)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<DeviceClass>> {
        self.classes.get(name)
    }

    /// All slices, in no order.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<ResourceSlice>> {
        self.slices.values()
    }

    /// A device, as it is published last.
    pub fn device(&self, driver: &str, pool: &str, name: &str) -> Option<&Device> {
        let of_pool =
            |slice: &&Arc<ResourceSlice>| slice.spec.driver == driver && slice.spec.pool.name == pool;
        let devices = self.slices.values().filter(of_pool).flat_map(|slice| {
            slice.spec.devices.iter().flatten().map(|device| (slice.spec.pool.generation, device))
        });
        let named = devices.filter(|(_, device)| device.name == name);
        named.max_by_key(|(generation, _)| *generation).map(|(_, device)| device)
    }

    /// Taints that rules set on a device. A rule without a selector means no device, an empty selector all.
    pub fn rule_taints(&self, driver: &str, pool: &str, device: &str) -> impl Iterator<Item = DeviceTaint> {
        let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let selects = move |rule: &&Arc<DeviceTaintRule>| {
            rule.spec.device_selector.as_ref().is_some_and(|selector| {
                is(&selector.driver, driver) && is(&selector.pool, pool) && is(&selector.device, device)
            })
        };
        self.rules.values().filter(selects).map(|rule| {
            let taint = rule.spec.taint.clone();
            DeviceTaint {
                effect: taint.effect,
                key: taint.key,
                time_added: taint.time_added,
                value: taint.value,
            }
        })
    }

    /// Takes a change in and tells what it may mean.
    pub fn take(&mut self, change: &DeviceChange) -> Option<DeviceEvent> {
        let event = match change {
            DeviceChange::Slice(event) => {
                take(&mut self.slices, event);
                DeviceEvent::Slice
            }
            DeviceChange::Class(event) => {
                take(&mut self.classes, event);
                DeviceEvent::Class
            }
            DeviceChange::Rule(event) => {
                take(&mut self.rules, event);
                DeviceEvent::Slice
            }
            DeviceChange::Claim(event) => {
                self.claims.take(event);
                let has_devices =
                    |claim: &ResourceClaim| claim.status.as_ref()?.allocation.as_ref().map(drop);
                if let (Some(uid), Some(())) = (extended_for(event.object()), has_devices(event.object())) {
                    self.coming.remove(uid);
                }
                let holds = |claim: &ResourceClaim| {
                    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
                };
                // Finalizers and labels matter to nobody.
                if matches!(event, Event::Updated { old, new } if old.status == new.status) {
                    return None;
                }
                let released = match event {
                    Event::Deleted { last, .. } => holds(last),
                    Event::Updated { old, new } => holds(old) && !holds(new),
                    Event::Added { .. } => false,
                };
                match released {
                    true => DeviceEvent::Released,
                    false => DeviceEvent::Claim(object_key(event.object().as_ref())),
                }
            }
        };
        Some(event)
    }

    /// What a decision is about to write counts from now on.
    pub fn assume(&mut self, reservation: &Reservation) {
        reservation.devices.iter().for_each(|claim| self.claims.assume(claim));
        if let Some(made) = &reservation.extended
            && let Some(uid) = extended_for(&made.claim)
        {
            self.coming.insert(uid.to_owned(), Arc::new(made.claim.clone()));
        }
    }

    /// It was not written after all.
    pub fn forget(&mut self, reservation: &Reservation) {
        reservation.devices.iter().for_each(|claim| self.claims.forget(&object_key(claim)));
        let made = reservation.extended.as_ref().and_then(|made| extended_for(&made.claim));
        if let Some(uid) = made {
            self.coming.remove(uid);
        }
    }
}

/// The uid of the pod that a claim was made for because of its extended resources.
fn extended_for(claim: &ResourceClaim) -> Option<&str> {
    if annotation(&claim.metadata, EXTENDED) != Some("true") {
        return None;
    }
    controller_of(&claim.metadata).map(|owner| owner.uid.as_str())
}

/// What is said of the claim for a pod's extended resources before it is made.
pub fn extended_claim_meta(namespace: &str, pod: &str, uid: &str) -> ObjectMeta {
    let mut meta = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        generate_name: Some(format!("{pod}-extended-resources-")),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    };
    annotate(&mut meta, EXTENDED, "true");
    meta
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::ExtendedClaim;

    fn class(name: &str, resource: Option<&str>, second: u8) -> DeviceChange {
        let made = format!("2026-01-01T00:00:{second:02}Z");
        let class = json!({"metadata": {"name": name, "creationTimestamp": made},
            "spec": {"extendedResourceName": resource}});
        let new = Arc::new(serde_json::from_value(class).unwrap());
        DeviceChange::Class(Event::Added { new, initial: true })
    }

    #[test]
    fn the_newest_class_that_names_a_resource_stands_for_it() {
        let mut devices = Devices::default();
        let all = [("b", 1), ("old", 0), ("c", 1)];
        all.iter().for_each(|(name, at)| drop(devices.take(&class(name, Some("d.io/gpu"), *at))));
        devices.take(&class("none", None, 9));
        let found = |devices: &Devices, resource: &str| {
            devices.class_for(resource).and_then(|class| class.metadata.name.clone())
        };
        assert_eq!(found(&devices, "d.io/gpu").as_deref(), Some("b"));
        assert_eq!(found(&devices, "deviceclass.resource.kubernetes.io/none").as_deref(), Some("none"));
        assert_eq!(found(&devices, "d.io/other"), None);
        devices.gate(Gates::default().with(Gate::DRAExtendedResource, false));
        assert_eq!(found(&devices, "d.io/gpu"), None);
    }

    #[test]
    fn of_a_claim_only_its_status_is_news() {
        let claim = |finalizers: serde_json::Value, allocation: serde_json::Value| {
            let meta = json!({"name": "c", "namespace": "d", "finalizers": finalizers});
            let claim = json!({"metadata": meta, "spec": {}, "status": {"allocation": allocation}});
            Arc::new(serde_json::from_value::<ResourceClaim>(claim).unwrap())
        };
        let (none, some) = (|| json!(null), || json!({}));
        let told = |event| Devices::default().take(&DeviceChange::Claim(event));
        let updated = |old, new| told(Event::Updated { old, new });
        let of_claim = Some(DeviceEvent::Claim(ObjectKey::new("d", "c")));
        assert_eq!(told(Event::Added { new: claim(none(), none()), initial: false }), of_claim);
        assert_eq!(updated(claim(none(), none()), claim(json!(["f"]), none())), None);
        assert_eq!(updated(claim(none(), none()), claim(none(), some())), of_claim);
        assert_eq!(updated(claim(none(), some()), claim(none(), none())), Some(DeviceEvent::Released));
    }

    #[test]
    fn a_claim_that_is_being_made_counts_until_it_is_seen() {
        let (mut devices, meta) = (Devices::default(), extended_claim_meta("d", "p", "u"));
        let claim = ResourceClaim { metadata: meta, ..ResourceClaim::default() };
        let extended = Some(Box::new(ExtendedClaim { claim: claim.clone(), mappings: Vec::new() }));
        let reservation = Reservation { extended, ..Reservation::default() };
        let counts = |devices: &Devices| devices.claims().count();
        devices.assume(&reservation);
        assert_eq!((counts(&devices), devices.extended_claim("u")), (1, None));
        devices.forget(&reservation);
        assert_eq!(counts(&devices), 0);
        devices.assume(&reservation);
        let mut see = |allocation: serde_json::Value| {
            let mut seen = serde_json::to_value(&claim).unwrap();
            seen["metadata"]["name"] = "p-extended-resources-x".into();
            seen["status"] = json!({"allocation": allocation});
            let new = Arc::new(serde_json::from_value(seen).unwrap());
            devices.take(&DeviceChange::Claim(Event::Added { new, initial: false }));
            (counts(&devices), devices.extended_claim("u").is_some())
        };
        assert_eq!(see(json!(null)), (2, true));
        assert_eq!(see(json!({})), (1, true));
    }
}
