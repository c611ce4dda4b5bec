//! Who owns an address and port when several services claim it: the first by name, and the next one when it leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use foldhash::HashMap;
use smallvec::smallvec;

use crate::{
    model::{PortName, ServicePort},
    tables::{Family, Key, Part},
};

/// Where clients find a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Frontend {
    /// Address, protocol number and port.
    At(IpAddr, u8, u16),
    /// Protocol number and port on the nodes.
    Node(u8, u16),
}

/// Owners of frontends, and those who wait for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<Frontend, Arc<PortName>>,
    waiting: BTreeMap<Frontend, BTreeSet<Arc<PortName>>>,
}

/// The frontends of a service's port in a family.
pub(super) fn frontends<'a>(
    family: Family,
    name: &PortName,
    service: &'a ServicePort,
) -> impl Iterator<Item = Frontend> + use<'a> {
    let (protocol, port) = (name.protocol.number(), service.port);
    let all = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
    let served = service.cluster_ips.iter().any(|ip| family.has(ip));
    let node = (service.node_port != 0 && served).then_some(Frontend::Node(protocol, service.node_port));
    all.filter(move |ip| family.has(ip)).map(move |ip| Frontend::At(*ip, protocol, port)).chain(node)
}

// === impl Frontend ===

impl Frontend {
    /// The key packets to it have in maps.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::At(ip, protocol, port) => {
                smallvec![Part::Address(*ip), Part::Protocol(*protocol), Part::Port(*port)]
            }
            Self::Node(protocol, port) => smallvec![Part::Protocol(*protocol), Part::Port(*port)],
        }
    }
}

// === impl Claims ===

impl Claims {
    /// Whether a port of a service owns a frontend.
    pub(super) fn owns(&self, name: &PortName, frontend: &Frontend) -> bool {
        // Mostly they are one and the same, which is seen without reading them.
        self.owners.get(frontend).is_some_and(|owner| std::ptr::eq(&**owner, name) || **owner == *name)
    }

    /// The same for a frontend that this port has claimed.
    pub(super) fn won(&self, name: &PortName, frontend: &Frontend) -> bool {
        !self.anybody_waits() || self.owns(name, frontend)
    }

    /// The owner and those who wait.
    pub(super) fn claimants(&self, frontend: &Frontend) -> impl Iterator<Item = &Arc<PortName>> {
        self.owners.get(frontend).into_iter().chain(self.waiting.get(frontend).into_iter().flatten())
    }

    /// Whether anybody waits for a frontend.
    pub(super) fn anybody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A port of a service wants a frontend.
    pub(super) fn claim(&mut self, frontend: Frontend, name: &Arc<PortName>) {
        let owner = self.owners.entry(frontend).or_insert_with(|| name.clone());
        if owner != name {
            let waits = if name < owner { std::mem::replace(owner, name.clone()) } else { name.clone() };
            self.waiting.entry(frontend).or_default().insert(waits);
        }
    }

    /// A port of a service wants a frontend no more.
    pub(super) fn release(&mut self, frontend: &Frontend, name: &PortName) {
        let owned = self.owns(name, frontend);
        let next = self.waiting.get_mut(frontend).and_then(|waiting| {
            waiting.remove(name);
            if owned { waiting.pop_first() } else { None }
        });
        if self.waiting.get(frontend).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(frontend);
        }
        match next {
            Some(next) => drop(self.owners.insert(*frontend, next)),
            None if owned => drop(self.owners.remove(frontend)),
            None => {}
        }
    }
}
