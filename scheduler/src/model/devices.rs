//! Devices that drivers publish, the classes they are asked for by, and the claims that hold them.

use std::{collections::HashMap, sync::Arc};

use component_base::{
    informer::Event,
    meta::{ObjectKey, object_key},
};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};

use super::{
    Reservation,
    storage::{Assumable, take},
};

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    slices: HashMap<String, Arc<ResourceSlice>>,
    classes: HashMap<String, Arc<DeviceClass>>,
    claims: Assumable<ResourceClaim>,
}

/// A change of one of them.
pub enum DeviceChange {
    /// Devices of a driver.
    Slice(Event<ResourceSlice>),
    /// A class.
    Class(Event<DeviceClass>),
    /// A claim.
    Claim(Event<ResourceClaim>),
}

/// What a change may mean to a pod that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// There may be more devices.
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

    /// All claims, in no order.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<ResourceClaim>> {
        self.claims.all()
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<DeviceClass>> {
        self.classes.get(name)
    }

    /// All slices, in no order.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<ResourceSlice>> {
        self.slices.values()
    }

    /// Takes a change in and tells what it may mean.
    pub fn take(&mut self, change: &DeviceChange) -> DeviceEvent {
        match change {
            DeviceChange::Slice(event) => {
                take(&mut self.slices, event);
                DeviceEvent::Slice
            }
            DeviceChange::Class(event) => {
                take(&mut self.classes, event);
                DeviceEvent::Class
            }
            DeviceChange::Claim(event) => {
                self.claims.take(event);
                let holds = |claim: &ResourceClaim| {
                    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
                };
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
        }
    }

    /// What a decision is about to write counts from now on.
    pub fn assume(&mut self, reservation: &Reservation) {
        reservation.devices.iter().for_each(|claim| self.claims.assume(claim));
    }

    /// It was not written after all.
    pub fn forget(&mut self, reservation: &Reservation) {
        reservation.devices.iter().for_each(|claim| self.claims.forget(&object_key(claim)));
    }
}
