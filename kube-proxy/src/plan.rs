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
    collections::{BTreeSet, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use claims::{Claims, Frontend};
use component_base::meta::ObjectKey;
use foldhash::HashMap;
use route::Place;
use service::{Fragment, Placed, Shared, leads_to};
use slots::Slots;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::{
    model::{Model, Port, PortName, ServicePort, Settings},
    tables::{Command, Family, Key, Table, diff},
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

/// The chain all connections go through.
pub const ENTRY: &str = name::SERVICES;
/// Ports planned at a time when all are: bounds the memory that takes.
const CHUNK: usize = 256;

/// A port of a service, planned.
type Planned = (Arc<PortName>, Placed);
/// The ports of a service: mostly there is one, and then it is where the service is found.
type Ports = SmallVec<[Planned; 1]>;

/// The plan of a family, kept up to date change by change.
#[derive(Clone, Debug)]
pub struct Planner {
    family: Family,
    settings: Settings,
    /// The ports of services.
    services: HashMap<ObjectKey, Ports>,
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
            services: HashMap::default(),
            claims: Claims::default(),
            shared: HashMap::default(),
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
        let there = |service: &ObjectKey| model.ports_of(service).next().is_some();
        let gone: Vec<ObjectKey> = self.services.keys().filter(|service| !there(service)).cloned().collect();
        for service in gone {
            self.put(&service, &[]);
        }
        let mut last = None;
        for name in model.services.keys().filter(|name| {
            let service = Some((&name.namespace, &name.service));
            std::mem::replace(&mut last, service) != service
        }) {
            let service = name.key();
            let ports: Vec<Port<'_>> =
                model.ports_of(&service).filter(|(name, port, _)| self.serves(name, port)).collect();
            self.put(&service, &ports);
        }
        let mut all = Fragment::default();
        self.shared.clear();
        for (name, placed) in self.services.values().flatten() {
            self.fragment(&mut all, name, placed);
            for wanted in std::mem::take(&mut all).shared {
                *self.shared.entry(wanted).or_default() += 1;
            }
        }
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        let mut table = skeleton::table(self.family, &self.settings);
        self.shared.keys().for_each(|shared| shared.pour(&mut table, self.family, &self.settings));
        for (name, placed) in self.services.values().flatten() {
            let mut part = Fragment::default();
            self.fragment(&mut part, name, placed);
            part.pour(&mut table);
        }
        table
    }

    /// The commands that make the table anew, a part at a time.
    pub fn anew(&self) -> impl Iterator<Item = Command> + '_ {
        let mut first = skeleton::table(self.family, &self.settings);
        self.shared.keys().for_each(|shared| shared.pour(&mut first, self.family, &self.settings));
        let mut ports = self.services.values().flatten();
        let parts = std::iter::from_fn(move || {
            let mut part = Fragment::default();
            let chunk =
                ports.by_ref().take(CHUNK).map(|(name, placed)| self.fragment(&mut part, name, placed));
            let size = chunk.count();
            let nothing = (&[][..], &[][..]);
            (size > 0).then(|| Fragment::default().lead(part, nothing, (self.family, &self.settings)))
        });
        diff(None, &first).into_iter().chain(parts.flatten())
    }

    /// Takes in what the ports of a service are now, all of them; the commands that carry it out.
    pub fn change(&mut self, service: &ObjectKey, now: &[Port<'_>]) -> Vec<Command> {
        let now: SmallVec<[Port<'_>; 4]> =
            now.iter().copied().filter(|(name, port, _)| self.serves(name, port)).collect();
        let mut out = Vec::new();
        if self.exchange(service, &now, &mut out) {
            return out;
        }
        let had = self.services.get_mut(service).map(std::mem::take);
        if now.is_empty() && had.is_none() {
            return out;
        }
        let had = had.unwrap_or_default();
        let rivals = self.rivals(service, &had, &now);
        let (mut old, mut new) = (Fragment::default(), Fragment::default());
        self.part(&mut old, &had, &rivals);
        let placed = self.place(had, &now);
        self.part(&mut new, &placed, &rivals);
        match self.services.get_mut(service) {
            Some(_) if placed.is_empty() => drop(self.services.remove(service)),
            Some(kept) => *kept = placed,
            None => drop(self.services.insert(service.clone(), placed)),
        }
        let (gone, come) = self.share(std::mem::take(&mut old.shared), std::mem::take(&mut new.shared));
        let (gone, come) = (old.own(gone), new.own(come));
        out.extend(old.lead(new, (&gone, &come), (self.family, &self.settings)));
        out
    }

    /// Takes in that endpoints stand where others stood, as far as that is what changed: mostly it is all, and then nothing
    /// has to be compared but they. Whether there is nothing else.
    fn exchange(&mut self, service: &ObjectKey, now: &[Port<'_>], out: &mut Vec<Command>) -> bool {
        if self.claims.anybody_waits() {
            return false;
        }
        let Some(had) = self.services.get_mut(service).filter(|had| had.len() == now.len()) else {
            return false;
        };
        // What goes and what comes, by place.
        let (mut at_addresses, mut at_nodes) = <((Vec<_>, Vec<_>), (Vec<_>, Vec<_>))>::default();
        let all = had.iter_mut().zip(now).all(|((had, placed), (name, port, endpoints))| {
            let tell = |place: Place, key: Key, had, has| {
                let (gone, come) = match place {
                    Place::Address => &mut at_addresses,
                    Place::Node => &mut at_nodes,
                };
                gone.push((Key::from_slice(&key), leads_to(had)));
                come.push((key, leads_to(has)));
            };
            had == *name
                && placed.service == **port
                && placed.hand_over(self.family, name, endpoints, &self.settings, tell)
        });
        for (place, (gone, come)) in [(Place::Address, at_addresses), (Place::Node, at_nodes)] {
            if !gone.is_empty() {
                let map = SmolStr::new_static(place.endpoints());
                out.extend([Command::DeleteElements(map.clone(), gone), Command::AddElements(map, come)]);
            }
        }
        all
    }

    /// Other services whose part of the plan may be another one after a change of this one: they claim the same.
    fn rivals(&self, service: &ObjectKey, had: &[Planned], now: &[Port<'_>]) -> BTreeSet<ObjectKey> {
        let before = had.iter().map(|(name, placed)| (name, &placed.service));
        let after = now.iter().map(|(name, port, _)| (*name, *port));
        let after = after.filter(|(name, port)| !before.clone().any(|had| had == (*name, *port)));
        if !self.claims.anybody_waits() && after.clone().next().is_none() {
            // All is its own, and stays so.
            return BTreeSet::new();
        }
        let ports = before.clone().chain(after);
        let frontends = ports.flat_map(|(name, port)| claims::frontends(self.family, name, port));
        let mut rivals = BTreeSet::new();
        for frontend in frontends {
            let others = self.claims.claimants(&frontend).filter(|name| !name.is_of(service));
            rivals.extend(others.map(|name| name.key()));
        }
        rivals
    }

    /// Counts who wants what is shared; what nobody wants any more, and what nobody had wanted.
    fn share(&mut self, mut old: Vec<Shared>, mut new: Vec<Shared>) -> (Vec<Shared>, Vec<Shared>) {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        old.sort_unstable();
        new.sort_unstable();
        if old == new {
            return (gone, come);
        }
        for wanted in new {
            let count = self.shared.entry(wanted.clone()).or_default();
            if *count == 0 {
                come.push(wanted);
            }
            *count += 1;
        }
        for wanted in old {
            if let Entry::Occupied(mut entry) = self.shared.entry(wanted.clone()) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                    gone.push(wanted);
                }
            }
        }
        (gone, come)
    }

    /// Makes these the ports of a service, all of this family; none when it is gone.
    fn put(&mut self, service: &ObjectKey, ports: &[Port<'_>]) {
        let had = self.services.remove_entry(service);
        let (key, had) = had.unwrap_or_else(|| (service.clone(), Ports::new()));
        let placed = self.place(had, ports);
        if !placed.is_empty() {
            self.services.insert(key, placed);
        }
    }

    /// Places the ports a service has now, where it had these.
    fn place(&mut self, mut had: Ports, ports: &[Port<'_>]) -> Ports {
        let mut placed = Ports::with_capacity(ports.len());
        for (name, port, endpoints) in ports {
            let before = had.iter().position(|(had, _)| had == *name).map(|at| had.swap_remove(at));
            let (name, before) = before.map_or_else(|| (Arc::clone(name), None), |(n, p)| (n, Some(p)));
            if before.as_ref().is_none_or(|before| before.service != **port) {
                let new = self.frontends(&name, port);
                let old = before.as_ref().map(|b| self.frontends(&name, &b.service)).unwrap_or_default();
                old.difference(&new).for_each(|frontend| self.claims.release(frontend, &name));
                new.difference(&old).for_each(|frontend| self.claims.claim(*frontend, &name));
            }
            let port = Arc::clone(port);
            let now = Placed::of(self.family, port, endpoints, &self.settings, before, &mut self.slots);
            placed.push((name, now));
        }
        for (name, placed) in had {
            let frontends = self.frontends(&name, &placed.service);
            frontends.iter().for_each(|frontend| self.claims.release(frontend, &name));
            placed.release(&mut self.slots);
        }
        placed
    }

    /// Whether a port of a service is of this family.
    fn serves(&self, name: &PortName, port: &ServicePort) -> bool {
        claims::frontends(self.family, name, port).next().is_some()
    }

    fn frontends(&self, name: &PortName, service: &ServicePort) -> BTreeSet<Frontend> {
        claims::frontends(self.family, name, service).collect()
    }

    /// Adds the part of these ports and of these services.
    fn part(&self, out: &mut Fragment, ports: &[Planned], services: &BTreeSet<ObjectKey>) {
        let services = services.iter().filter_map(|service| self.services.get(service));
        for (name, placed) in services.flatten().chain(ports) {
            self.fragment(out, name, placed);
        }
    }

    /// Adds a port's part.
    fn fragment(&self, out: &mut Fragment, name: &PortName, placed: &Placed) {
        service::fragment(out, self.family, name, placed, &self.settings, &self.claims);
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
