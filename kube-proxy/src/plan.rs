//! The plan: services and endpoints in, the tables of both families out. Pure.
//!
//! ```text
//! cluster IP ─▶ set of those with n endpoints ─▶ a random one of the n in the map of endpoints
//! other address, node port, many endpoints ─▶ verdict map ─▶ chain that services of the kind share ─▶ the same
//! affinity to clients ─▶ verdict map ─▶ chains of the service's own
//! ```
//!
//! The kernel checks every verdict of a table when one changes, and walks all chains of all tables at every
//! change: so ordinary services are elements of sets and maps alone, and a change of theirs costs the same
//! however many there are.

mod claims;
mod endpoints;
mod route;
mod service;
mod skeleton;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use claims::{Claims, Frontend};
use service::{Fragment, Placed, Shared};
use slots::Slots;

use crate::{
    model::{Endpoint, Model, PortName, Protocol, ServicePort, Settings},
    tables::{Command, Family, Table, diff},
};

/// Names in our tables that several files mention.
mod name {
    pub(super) const SERVICES: &str = "services";
    pub(super) const INSIDE: &str = "cluster-ip-services";
    pub(super) const MARK: &str = "mark-for-masquerade";
    pub(super) const SERVICE_IPS: &str = "service-ips";
    pub(super) const NODE_PORTS: &str = "service-nodeports";
    pub(super) const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
    pub(super) const NO_LOCAL_ENDPOINT_IPS: &str = "no-local-endpoint-services";
    pub(super) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
    pub(super) const FIREWALL_IPS: &str = "firewall-ips";
    pub(super) const CLUSTER_IPS: &str = "cluster-ips";
    pub(super) const NODE_PORT_IPS: &str = "nodeport-ips";
    pub(super) const HAIRPIN: &str = "hairpin-connections";
    pub(super) const ENDPOINTS: &str = "endpoints";
    pub(super) const NODE_PORT_ENDPOINTS: &str = "nodeport-endpoints";
    pub(super) const STICKY: &str = "sticky-endpoints";
    /// Cluster IPs and ports by their number of endpoints, from one on. These few are asked one after the other.
    pub(super) const BY_COUNT: [&str; 8] = [
        "services-1",
        "services-2",
        "services-3",
        "services-4",
        "services-5",
        "services-6",
        "services-7",
        "services-8",
    ];
}

/// Ports planned at a time when all are: bounds the memory that takes.
const CHUNK: usize = 256;

/// A change of a service's port: what it is now and which endpoints it has, or that it is gone.
pub type Change<'a> = (PortName, Option<(Arc<ServicePort>, &'a [Endpoint])>);

/// The plan of a family, kept up to date change by change.
#[derive(Clone, Debug)]
pub struct Planner {
    family: Family,
    settings: Settings,
    ports: BTreeMap<Arc<PortName>, Placed>,
    claims: Claims,
    /// How many ports want what several may want.
    shared: HashMap<Shared, u32>,
    slots: Slots,
}

// === impl Planner ===

impl Planner {
    /// A plan without services.
    pub fn new(family: Family, settings: Settings) -> Self {
        Self {
            family,
            settings,
            ports: BTreeMap::new(),
            claims: Claims::default(),
            shared: HashMap::new(),
            slots: Slots::default(),
        }
    }

    /// The plan of a model.
    pub fn of(family: Family, settings: &Settings, model: &Model) -> Self {
        let mut planner = Self::new(family, settings.clone());
        planner.replace(settings, model);
        planner
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes this the plan of a model. Endpoints keep their places as far as they can.
    pub fn replace(&mut self, settings: &Settings, model: &Model) {
        self.settings = settings.clone();
        let gone: Vec<Arc<PortName>> =
            self.ports.keys().filter(|name| !model.services.contains_key(&***name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
        for (name, service) in &model.services {
            let endpoints = model.endpoints.get(name).map(Vec::as_slice).unwrap_or_default();
            let name =
                self.ports.get_key_value(name).map_or_else(|| Arc::new(name.clone()), |(k, _)| k.clone());
            self.put(&name, Arc::new(service.clone()), endpoints);
        }
        self.shared.clear();
        for (name, placed) in &self.ports {
            for wanted in self.fragment(name, placed).shared {
                *self.shared.entry(wanted).or_default() += 1;
            }
        }
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        let mut table = skeleton::table(self.family, &self.settings);
        self.shared.keys().for_each(|shared| shared.pour(&mut table, self.family, &self.settings));
        for (name, placed) in &self.ports {
            self.fragment(name, placed).pour(&mut table);
        }
        table
    }

    /// The commands that make the table anew, a part at a time.
    pub fn anew(&self) -> impl Iterator<Item = Command> + '_ {
        let mut first = skeleton::table(self.family, &self.settings);
        self.shared.keys().for_each(|shared| shared.pour(&mut first, self.family, &self.settings));
        let mut ports = self.ports.iter();
        let parts = std::iter::from_fn(move || {
            let mut part = Table::default();
            let chunk =
                ports.by_ref().take(CHUNK).map(|(name, placed)| self.fragment(name, placed).pour(&mut part));
            (chunk.count() > 0).then(|| {
                let mut nothing = Table::default();
                skeleton::agree(&mut nothing, &mut part);
                diff(Some(&nothing), &part)
            })
        });
        diff(None, &first).into_iter().chain(parts.flatten())
    }

    /// Takes in changes; the commands that carry them out.
    pub fn change(&mut self, changes: Vec<Change<'_>>) -> Vec<Command> {
        let touched = self.touched(&changes);
        let (mut old, mut new) = (Table::default(), Table::default());
        let mut had: BTreeMap<Shared, bool> = BTreeMap::new();
        for (name, placed) in touched.iter().filter_map(|name| self.ports.get_key_value(name)) {
            let fragment = self.fragment(name, placed);
            for wanted in &fragment.shared {
                had.insert(wanted.clone(), true);
                if let Some(count) = self.shared.get_mut(wanted) {
                    *count -= 1;
                }
            }
            fragment.pour(&mut old);
        }
        for (name, now) in changes {
            match now {
                Some((service, endpoints)) => {
                    let name =
                        self.ports.get_key_value(&name).map_or_else(|| Arc::new(name), |(k, _)| k.clone());
                    self.put(&name, service, endpoints);
                }
                None => self.remove(&name),
            }
        }
        for (name, placed) in touched.iter().filter_map(|name| self.ports.get_key_value(name)) {
            let fragment = self.fragment(name, placed);
            for wanted in &fragment.shared {
                let count = self.shared.entry(wanted.clone()).or_default();
                had.entry(wanted.clone()).or_insert(*count > 0);
                *count += 1;
            }
            fragment.pour(&mut new);
        }
        for (shared, had) in had {
            let has = self.shared.get(&shared).is_some_and(|count| *count > 0);
            if !has {
                self.shared.remove(&shared);
            }
            if had != has {
                let part = if has { &mut new } else { &mut old };
                shared.pour(part, self.family, &self.settings);
            }
        }
        skeleton::agree(&mut old, &mut new);
        diff(Some(&old), &new)
    }

    /// Ports whose part of the plan may be another one after these changes: they, and those that claim the same.
    fn touched(&self, changes: &[Change<'_>]) -> BTreeSet<Arc<PortName>> {
        let mut out = BTreeSet::new();
        for (name, now) in changes {
            let key =
                self.ports.get_key_value(name).map_or_else(|| Arc::new(name.clone()), |(k, _)| k.clone());
            let before = self.ports.get(name).map(|placed| &*placed.service);
            for service in before.into_iter().chain(now.as_ref().map(|(service, _)| &**service)) {
                for frontend in claims::frontends(self.family, name, service) {
                    out.extend(self.claims.claimants(&frontend).cloned());
                }
            }
            out.insert(key);
        }
        out
    }

    /// Ports of a service that are planned.
    pub fn ports_of(&self, namespace: &str, service: &str) -> impl Iterator<Item = &PortName> {
        let first = PortName {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port: String::new(),
            protocol: Protocol::Tcp,
        };
        let from = self.ports.range::<PortName, _>(&first..).map(|(name, _)| &**name);
        from.take_while(move |name| name.namespace == first.namespace && name.service == first.service)
    }

    fn put(&mut self, name: &Arc<PortName>, service: Arc<ServicePort>, endpoints: &[Endpoint]) {
        let new = self.frontends(name, &service);
        if new.is_empty() {
            // Of the other family.
            return self.remove(name);
        }
        let had = self.ports.remove(name);
        let old = had.as_ref().map(|placed| self.frontends(name, &placed.service)).unwrap_or_default();
        old.difference(&new).for_each(|frontend| self.claims.release(frontend, name));
        new.difference(&old).for_each(|frontend| self.claims.claim(*frontend, name));
        let placed = Placed::of(self.family, service, endpoints, &self.settings, had, &mut self.slots);
        self.ports.insert(name.clone(), placed);
    }

    fn remove(&mut self, name: &PortName) {
        if let Some(placed) = self.ports.remove(name) {
            let frontends = self.frontends(name, &placed.service);
            frontends.iter().for_each(|frontend| self.claims.release(frontend, name));
            placed.release(&mut self.slots);
        }
    }

    fn frontends(&self, name: &PortName, service: &ServicePort) -> BTreeSet<Frontend> {
        claims::frontends(self.family, name, service).collect()
    }

    fn fragment(&self, name: &PortName, placed: &Placed) -> Fragment {
        service::fragment(self.family, name, placed, &self.settings, &self.claims)
    }
}

impl Family {
    /// Whether an address is of this family.
    pub fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

#[cfg(test)]
mod tests;
