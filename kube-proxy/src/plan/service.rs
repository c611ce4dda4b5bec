//! One service port: what it needs of what all share, its elements, and chains of its own where it must have some.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use smallvec::{SmallVec, smallvec};
use smol_str::SmolStr;

use super::{
    claims::{self, Claims, Frontend},
    endpoints::{self, Takers},
    name,
    route::{LOCAL_FIRST, Place, Route, by_pods},
    skeleton,
    slots::{Block, Slots, Target, Targets, arrange},
};
use crate::{
    model::{Endpoint, PortName, ServicePort, Settings},
    tables::{
        Chain, Command, Data, Family, Field, Key, Kind, Part, Rule, Set, Statement, Table, Value, Verdict,
        diff,
    },
};

/// Longest chain name the kernel takes is 127 bytes; the hash makes a cut name unique.
const MAX_NAME: usize = 50;

/// A service port with the endpoints that take its connections, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// The service port.
    pub(super) service: Arc<ServicePort>,
    cluster: Group,
    local: Group,
    /// Addresses of those that may reach themselves.
    here: Box<[IpAddr]>,
}

/// Endpoints for one purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    members: Targets,
    /// For affinity: slots of their own.
    block: Option<Block>,
}

/// Where the endpoints of a frontend begin, and which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    place: Place,
    frontend: Frontend,
    first: u32,
    /// Those on this node alone.
    local: bool,
}

/// What several service ports may want, and one of it is enough.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shared {
    /// An address of the cluster's services.
    ClusterIp(IpAddr),
    /// An endpoint that may reach itself.
    Hairpin(IpAddr),
    /// A chain.
    Route(Route),
}

/// An element with its set.
pub(super) type Element = (&'static str, Key, Value);

/// The part of the table that some service ports have.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// What they share with others.
    pub(super) shared: Vec<Shared>,
    elements: Vec<Element>,
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Set>,
}

struct Build<'a> {
    out: &'a mut Fragment,
    family: Family,
    name: &'a PortName,
    port: &'a Placed,
    settings: &'a Settings,
    claims: &'a Claims,
}

/// Who takes connections of a service port, everywhere and (where that is asked) on this node.
fn takers<'a>(
    family: Family,
    service: &ServicePort,
    all: &'a [Endpoint],
    settings: &Settings,
) -> (Takers<'a>, Takers<'a>) {
    let local = match service.internal_local || service.external_local {
        true => endpoints::local(family, all),
        false => Takers::default(),
    };
    (endpoints::cluster(family, all, settings), local)
}

/// Addresses of those that may reach themselves.
fn here(cluster: &[&Endpoint], local: &[&Endpoint]) -> Vec<IpAddr> {
    let mut here: Vec<IpAddr> = cluster.iter().chain(local).filter(|e| e.local).map(|e| e.address).collect();
    here.sort();
    here.dedup();
    here
}

fn target(endpoint: &Endpoint) -> Target {
    (endpoint.address, endpoint.port)
}

/// The key of an endpoint of a frontend.
fn at_place(frontend: Frontend, at: u32) -> Key {
    let mut key = frontend.key();
    key.push(Part::Slot(at));
    key
}

/// What the key of an endpoint leads to.
pub(super) fn leads_to((address, port): Target) -> Value {
    Value::Parts(smallvec![Part::Address(address), Part::Port(port)])
}

/// Adds a service port's part to a fragment.
pub(super) fn fragment(
    out: &mut Fragment,
    family: Family,
    name: &PortName,
    port: &Placed,
    settings: &Settings,
    claims: &Claims,
) {
    out.shared.extend(port.here.iter().map(|ip| Shared::Hairpin(*ip)));
    // A frontend inside and one outside, each with its endpoints.
    out.elements.reserve(2 + port.cluster.members.len());
    let mut build = Build { out, family, name, port, settings, claims };
    build.members();
    build.inside();
    build.outside();
}

// === impl Placed ===

impl Placed {
    /// Chooses the endpoints; those that were there keep their places.
    pub(super) fn of(
        family: Family,
        service: Arc<ServicePort>,
        all: &[Endpoint],
        settings: &Settings,
        had: Option<Self>,
        slots: &mut Slots,
    ) -> Self {
        let (had_cluster, had_local) = had.map(|had| (had.cluster, had.local)).unwrap_or_default();
        let sticky = service.affinity.is_some();
        let (cluster, local) = takers(family, &service, all, settings);
        let here = here(&cluster, &local).into_boxed_slice();
        Self {
            cluster: Group::of(&cluster, sticky, had_cluster, slots),
            local: Group::of(&local, sticky, had_local, slots),
            service,
            here,
        }
    }

    /// Gives places to others, if that is all these endpoints ask for: there are as many of each kind, and those that may
    /// reach themselves are the same. With affinity endpoints have chains, so there it is never so. Tells of every place
    /// that changes hands: its map, its key, who had it and who has it.
    pub(super) fn hand_over(
        &mut self,
        family: Family,
        name: &PortName,
        all: &[Endpoint],
        settings: &Settings,
        mut tell: impl FnMut(Place, Key, Target, Target),
    ) -> bool {
        let (cluster, local) = takers(family, &self.service, all, settings);
        let like = self.service.affinity.is_none()
            && cluster.len() == self.cluster.members.len()
            && local.len() == self.local.members.len()
            && here(&cluster, &local)[..] == *self.here;
        if !like {
            return false;
        }
        let stands = self.stands(family, name);
        for (group, takers, is_local) in
            [(&mut self.cluster, &cluster, false), (&mut self.local, &local, true)]
        {
            group.hand_over(takers, |slot, had, has| {
                for stand in stands.iter().filter(|stand| stand.local == is_local) {
                    tell(stand.place, at_place(stand.frontend, stand.first + slot), had, has);
                }
            });
        }
        true
    }

    /// Where its endpoints stand in maps, unless clients are bound to them: for each frontend, whether or not it has it.
    fn stands(&self, family: Family, name: &PortName) -> SmallVec<[Stand; 2]> {
        let service = &self.service;
        let mut out = SmallVec::new();
        for frontend in claims::frontends(family, name, service) {
            let (place, inside) = match frontend {
                Frontend::At(ip, ..) => (Place::Address, service.cluster_ips.contains(&ip)),
                Frontend::Node(..) => (Place::Node, false),
            };
            let stand = Stand { place, frontend, first: 0, local: inside && service.internal_local };
            // An external address may be a load balancer's as well.
            if out.contains(&stand) {
                continue;
            }
            out.push(stand);
            if !inside && service.external_local {
                out.push(Stand { first: LOCAL_FIRST, local: true, ..stand });
            }
        }
        out
    }

    /// Gives up what it took of the slots.
    pub(super) fn release(self, slots: &mut Slots) {
        [self.cluster, self.local].into_iter().filter_map(|group| group.block).for_each(|b| slots.release(b));
    }
}

impl Group {
    fn of(takers: &[&Endpoint], sticky: bool, had: Self, slots: &mut Slots) -> Self {
        let wanted: SmallVec<[Target; 16]> = takers.iter().map(|endpoint| target(endpoint)).collect();
        let members = arrange(&had.members, &wanted);
        let block = match sticky && !members.is_empty() {
            true => Some(slots.place(had.block, members.len())),
            false => {
                had.block.into_iter().for_each(|block| slots.release(block));
                None
            }
        };
        Self { members, block }
    }

    /// Puts as many others in their places; those that stay keep theirs. Tells of every place that changes hands.
    fn hand_over(&mut self, takers: &[&Endpoint], mut tell: impl FnMut(u32, Target, Target)) {
        let (mut stay, mut free) = (SmallVec::<[bool; 64]>::new(), SmallVec::<[u32; 16]>::new());
        stay.resize(takers.len(), false);
        for (slot, member) in (0..).zip(&self.members) {
            match takers.binary_search_by_key(member, |endpoint| target(endpoint)) {
                Ok(at) => stay[at] = true,
                Err(_) => free.push(slot),
            }
        }
        let come = takers.iter().zip(stay).filter(|(_, stays)| !stays).map(|(endpoint, _)| target(endpoint));
        for (slot, has) in free.into_iter().zip(come) {
            tell(slot, std::mem::replace(&mut self.members[slot as usize], has), has);
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }
}

// === impl Shared ===

impl Shared {
    /// Puts it into a table.
    pub(super) fn pour(&self, table: &mut Table, family: Family, settings: &Settings) {
        match (self.element(), self) {
            (Some((set, key, value)), _) => skeleton::element(table, set, key, value),
            (None, Self::Route(route)) => {
                table.chains.insert(route.name(), route.chain(family, settings));
            }
            (None, _) => {}
        }
    }

    /// The element it is, if it is one.
    fn element(&self) -> Option<Element> {
        match self {
            Self::ClusterIp(ip) => Some((name::CLUSTER_IPS, smallvec![Part::Address(*ip)], Value::None)),
            Self::Hairpin(ip) => {
                let both = smallvec![Part::Address(*ip), Part::Address(*ip)];
                Some((name::HAIRPIN, both, Value::None))
            }
            Self::Route(_) => None,
        }
    }
}

// === impl Fragment ===

impl Fragment {
    /// Takes in things that had been shared by nobody else, or are now; what is left is no element.
    pub(super) fn own(&mut self, shared: Vec<Shared>) -> Vec<Shared> {
        self.elements.extend(shared.iter().filter_map(Shared::element));
        shared.into_iter().filter(|shared| shared.element().is_none()).collect()
    }

    /// Whether it has nothing but elements.
    fn is_plain(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }

    /// Puts all but what is shared into a table.
    pub(super) fn pour(self, table: &mut Table) {
        table.chains.extend(self.chains);
        table.sets.extend(self.sets);
        for (set, key, value) in self.elements {
            skeleton::element(table, set, key, value);
        }
    }

    /// The commands that lead from this fragment, with these chains of what is shared, to another one.
    pub(super) fn lead(
        mut self,
        mut to: Self,
        shared: (&[Shared], &[Shared]),
        (family, settings): (Family, &Settings),
    ) -> Vec<Command> {
        if shared.0.is_empty() && shared.1.is_empty() && self.is_plain() && to.is_plain() {
            return lead(sorted(&mut self.elements), sorted(&mut to.elements));
        }
        let (mut old, mut new) = (Table::default(), Table::default());
        self.pour(&mut old);
        to.pour(&mut new);
        shared.0.iter().for_each(|shared| shared.pour(&mut old, family, settings));
        shared.1.iter().for_each(|shared| shared.pour(&mut new, family, settings));
        skeleton::agree(&mut old, &mut new);
        diff(Some(&old), &new)
    }
}

/// Elements in order, the first of each key.
fn sorted(elements: &mut Vec<Element>) -> &[Element] {
    if elements.is_sorted_by(|(set, key, _), (other_set, other, _)| (set, key) < (other_set, other)) {
        return elements;
    }
    elements.sort_by(|(set, key, _), (other_set, other, _)| (set, key).cmp(&(other_set, other)));
    elements.dedup_by(|(set, key, _), (other_set, other, _)| set == other_set && key == other);
    elements
}

/// The commands that lead from some elements in order to others.
fn lead(old: &[Element], new: &[Element]) -> Vec<Command> {
    let mut out = Vec::new();
    for (this, other, delete) in [(old, new, true), (new, old, false)] {
        let mut rest = other.iter().peekable();
        let mut of_set: Option<(&'static str, Vec<(Key, Value)>)> = None;
        let command = |(name, elements): (&'static str, Vec<(Key, Value)>)| match delete {
            true => Command::DeleteElements(SmolStr::new_static(name), elements),
            false => Command::AddElements(SmolStr::new_static(name), elements),
        };
        for element in this {
            let key = (element.0, &element.1);
            while rest.next_if(|other| (other.0, &other.1) < key).is_some() {}
            if rest.peek() == Some(&element) {
                continue;
            }
            match &mut of_set {
                Some((set, elements)) if *set == element.0 => {
                    elements.push((element.1.clone(), element.2.clone()));
                }
                of_set => {
                    let next = (element.0, vec![(element.1.clone(), element.2.clone())]);
                    out.extend(of_set.replace(next).map(command));
                }
            }
        }
        out.extend(of_set.map(command));
    }
    out
}

// === impl Build ===

impl Build<'_> {
    /// Traffic to cluster IPs.
    fn inside(&mut self) {
        let service = &self.port.service;
        let ips: SmallVec<[IpAddr; 2]> =
            service.cluster_ips.iter().filter(|ip| self.family.has(ip)).copied().collect();
        self.out.shared.extend(ips.iter().map(|ip| Shared::ClusterIp(*ip)));
        let (takers, scope) = match service.internal_local {
            true => (&self.port.local, "local"),
            false => (&self.port.cluster, "cluster"),
        };
        let frontends = self.owned(&ips);
        if takers.members.is_empty() {
            // With the Local policy, endpoints elsewhere do not count: nothing answers, nothing refuses.
            let refused = self.port.cluster.members.is_empty();
            let set = if refused { name::NO_ENDPOINT_IPS } else { name::NO_LOCAL_ENDPOINT_IPS };
            return self.list(set, &frontends);
        }
        if service.affinity.is_some() {
            let chain = self.sticky_balance(scope, takers);
            return self.lead(name::SERVICE_IPS, &frontends, &Verdict::Goto(chain));
        }
        match name::BY_COUNT.get(takers.members.len() - 1) {
            Some(set) => self.list(set, &frontends),
            None => self.route(name::SERVICE_IPS, &frontends, Route::Inside(takers.count())),
        }
    }

    /// Traffic from outside: node ports, external and load balancer addresses.
    fn outside(&mut self) {
        let service = &self.port.service;
        // What is a cluster IP as well is served as one.
        let ours = |ip: &&IpAddr| self.family.has(ip) && !service.cluster_ips.contains(ip);
        let balanced: Vec<IpAddr> = service.load_balancer_ips.iter().filter(ours).copied().collect();
        let mut ips: Vec<IpAddr> = service.external_ips.iter().filter(ours).copied().collect();
        ips.extend(&balanced);
        ips.sort();
        ips.dedup();
        let addresses = self.owned(&ips);
        let node = (service.node_port != 0)
            .then_some(Frontend::Node(self.name.protocol.number(), service.node_port))
            .filter(|node| self.claims.owns(self.name, node));
        let nodes: SmallVec<[Frontend; 2]> = node.into_iter().collect();
        if addresses.is_empty() && nodes.is_empty() {
            return;
        }
        self.firewall(&self.owned(&balanced));
        if self.port.cluster.members.is_empty() {
            self.list(name::NO_ENDPOINT_IPS, &addresses);
            self.list(name::NO_ENDPOINT_NODE_PORTS, &nodes);
            return;
        }
        if service.affinity.is_some() {
            let chain = self.sticky_outside();
            self.lead(name::SERVICE_IPS, &addresses, &Verdict::Goto(chain.clone()));
            return self.lead(name::NODE_PORTS, &nodes, &Verdict::Goto(chain));
        }
        for (place, map, frontends) in
            [(Place::Address, name::SERVICE_IPS, addresses), (Place::Node, name::NODE_PORTS, nodes)]
        {
            let (all, here) = (self.port.cluster.count(), self.port.local.count());
            let route = match service.external_local {
                true => Route::OutsideLocal(place, all, here),
                false => Route::Outside(place, all),
            };
            self.route(map, &frontends, route);
        }
    }

    /// `loadBalancerSourceRanges`: everybody else is dropped before the address is replaced.
    fn firewall(&mut self, balanced: &[Frontend]) {
        let port = self.port;
        let ranges = &port.service.source_ranges;
        if ranges.is_empty() || balanced.is_empty() {
            return;
        }
        let chain = format!("firewall-{}", self.stem());
        let family = self.family;
        for range in ranges.iter().filter(|r| family.has(&r.addr())) {
            let inside = Statement::Within { field: Field::Source, range: *range, negate: false };
            self.rule(&chain, vec![inside, Statement::Verdict(Verdict::Return)]);
        }
        self.rule(&chain, vec![Statement::Verdict(Verdict::Drop)]);
        self.lead(name::FIREWALL_IPS, balanced, &Verdict::Goto(chain));
    }

    /// The service's own chain for clients outside, with affinity.
    fn sticky_outside(&mut self) -> String {
        let chain = format!("external-{}", self.stem());
        let everywhere = self.sticky_balance("cluster", &self.port.cluster);
        if !self.port.service.external_local {
            self.rule(&chain, vec![jump(name::MARK)]);
            self.rule(&chain, vec![goto(&everywhere)]);
            return chain;
        }
        for from_pods in by_pods(self.family, self.settings, false) {
            self.rule(&chain, vec![from_pods, goto(&everywhere)]);
        }
        self.rule(&chain, vec![Statement::SourceIsLocal, jump(name::MARK)]);
        self.rule(&chain, vec![Statement::SourceIsLocal, goto(&everywhere)]);
        if self.port.local.members.is_empty() {
            self.rule(&chain, vec![Statement::Verdict(Verdict::Drop)]);
        } else {
            let here = self.sticky_balance("local", &self.port.local);
            self.rule(&chain, vec![goto(&here)]);
        }
        chain
    }

    /// The chain that sends a connection to one of the endpoints, the one its client knows if it does; made once per scope.
    fn sticky_balance(&mut self, scope: &str, takers: &Group) -> String {
        let chain = format!("{scope}-{}", self.stem());
        let (Some(block), false) = (takers.block, self.out.chains.contains_key(&chain)) else { return chain };
        let first = block.first();
        for (slot, target) in (first..).zip(&*takers.members) {
            let endpoint = self.sticky(scope, *target);
            let known = Statement::In { key: vec![Field::Source], set: affinity(&endpoint), negate: false };
            self.rule(&chain, vec![known, goto(&endpoint)]);
            let leads = Value::Verdict(Verdict::Goto(endpoint));
            self.out.elements.push((name::STICKY, smallvec![Part::Slot(slot)], leads));
        }
        let over = Statement::BalanceOver { map: name::STICKY.into(), first, count: takers.count() };
        self.rule(&chain, vec![over]);
        chain
    }

    /// The chain of one endpoint that remembers its clients, and the set it remembers them in: both go
    /// with the endpoint, so clients of the others stay where they are.
    fn sticky(&mut self, scope: &str, (address, port): Target) -> String {
        let chain = format!("{scope}-{}/{address}/{port}", self.stem()).replace(':', ".");
        let set = affinity(&chain);
        let timeout = u64::from(self.port.service.affinity.unwrap_or_default()) * 1000;
        let memory = Set {
            key: vec![Kind::Address],
            data: Data::None,
            timeout: Some(timeout),
            elements: BTreeMap::default(),
        };
        self.out.sets.insert(set.clone(), memory);
        self.rule(&chain, vec![Statement::Remember { set, timeout }]);
        let protocol = Statement::ProtocolIs(self.name.protocol.number());
        self.rule(&chain, vec![protocol, Statement::SendTo(address, port)]);
        chain
    }

    /// The frontends at these addresses of its own that no other service port has.
    fn owned(&self, ips: &[IpAddr]) -> SmallVec<[Frontend; 2]> {
        let at = |ip: &IpAddr| Frontend::At(*ip, self.name.protocol.number(), self.port.service.port);
        ips.iter().map(at).filter(|frontend| self.claims.won(self.name, frontend)).collect()
    }

    /// The endpoints of its frontends.
    fn members(&mut self) {
        let port = self.port;
        if port.service.affinity.is_some() {
            return;
        }
        let stands = port.stands(self.family, self.name);
        for stand in stands.into_iter().filter(|stand| self.claims.won(self.name, &stand.frontend)) {
            let group = if stand.local { &port.local } else { &port.cluster };
            let members = (stand.first..).zip(&*group.members);
            self.out.elements.extend(members.map(|(at, target)| {
                (stand.place.endpoints(), at_place(stand.frontend, at), leads_to(*target))
            }));
        }
    }

    /// Leads frontends to a chain that services share.
    fn route(&mut self, map: &'static str, frontends: &[Frontend], route: Route) {
        if !frontends.is_empty() {
            self.out.shared.push(Shared::Route(route));
            self.lead(map, frontends, &Verdict::Goto(route.name()));
        }
    }

    fn lead(&mut self, map: &'static str, frontends: &[Frontend], verdict: &Verdict) {
        let elements = frontends.iter().map(|f| (map, f.key(), Value::Verdict(verdict.clone())));
        self.out.elements.extend(elements);
    }

    fn list(&mut self, set: &'static str, frontends: &[Frontend]) {
        self.out.elements.extend(frontends.iter().map(|f| (set, f.key(), Value::None)));
    }

    fn rule(&mut self, chain: &str, statements: Vec<Statement>) {
        let rule = Rule { comment: self.name.to_string(), statements };
        self.out.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    /// Unique part of the names of this service port's own chains: a short hash and the readable name, cut to what fits.
    fn stem(&self) -> String {
        let text = self.name.to_string();
        // FNV-1a, 32 bits: names are no secrets, and two services would have to share name and hash.
        let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let mut out = format!("{hash:08x}-{text}");
        out.truncate(MAX_NAME);
        out
    }
}

/// The set of an endpoint's clients.
fn affinity(chain: &str) -> String {
    format!("affinity-{chain}")
}

fn jump(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.to_owned()))
}
