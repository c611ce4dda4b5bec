//! The plan: policies, pods and namespaces in, the policy table of a family out. Pure.
//!
//! ```text
//! hook forward ─ map of isolated pods ─▶ chain of a set of policies ─▶ chain of a policy ─▶ ports of a rule
//!                                        (drops what none allows)      (peers of its rules)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sha2::{Digest, Sha256};
use smallvec::smallvec;

use super::{Namespaces, Peer, Pod, Policies, Policy, PortRef, Rule, ranges};
use crate::tables::{
    Chain, Command, Data, Family, Field, Hook, HookPoint, Key, Kind, Part, Set, Statement, Table, Value,
    Verdict, diff,
};

/// Addresses (twice) of isolated pods: a pod always reaches itself.
const SELF: &str = "self";
/// A chain of packets that pass through; it always has rules.
pub(super) const ENTRY: &str = "ingress";
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
/// Bytes of a chain's readable name; the hash before it makes a cut name unique.
const MAX_NAME: usize = 60;

/// What sets of ports hold, and the fields of a packet that are looked up in them.
type Ports = (&'static [Kind], &'static [Field]);
const NUMBERS: Ports = (&[Kind::Protocol, Kind::Port], &[Field::Protocol, Field::DestinationPort]);
const NAMES: Ports = (
    &[Kind::Address, Kind::Protocol, Kind::Port],
    &[Field::Destination, Field::Protocol, Field::DestinationPort],
);

/// Which way a pod's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Ingress,
    Egress,
}

/// The table of a family: what pods of this node may do.
pub fn plan(family: Family, model: &Policies) -> Table {
    let mut planner = Planner::new(family);
    planner.change(model, &BTreeSet::new());
    planner.table()
}

/// The plan of a family, kept up to date policy by policy.
#[derive(Clone, Debug)]
pub struct Planner {
    family: Family,
    /// Which pods are isolated and by what; `None` before the first plan.
    isolation: Option<Table>,
    /// What the policies that isolate them allow.
    policies: BTreeMap<(Direction, PolicyName), Table>,
    /// How many of them use a set of ranges.
    ranges: BTreeMap<String, usize>,
}

/// A policy's namespace and name.
pub type PolicyName = (String, String);

// === impl Planner ===

impl Planner {
    /// Nothing is planned yet.
    pub fn new(family: Family) -> Self {
        Self { family, isolation: None, policies: BTreeMap::new(), ranges: BTreeMap::new() }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether there has been a plan since [`Planner::forget`].
    pub fn has_planned(&self) -> bool {
        self.isolation.is_some()
    }

    /// What the kernel has is not known any more: the next change makes the table anew.
    pub fn forget(&mut self) {
        *self = Self::new(self.family);
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        let mut table = self.isolation.clone().unwrap_or_default();
        self.policies.values().for_each(|part| merge(&mut table, part));
        table
    }

    /// Takes in a model that differs from the last one in what concerns these policies; the commands that carry it
    /// out.
    pub fn change(&mut self, model: &Policies, concerned: &BTreeSet<PolicyName>) -> Vec<Command> {
        let (isolation, wanted) = Build::new(self.family, model).isolation();
        let mut new = isolation.clone();
        let old = self.isolation.replace(isolation);
        let known = old.is_some();
        let mut old = old.unwrap_or_default();
        let mut used = BTreeMap::new();
        let stays = |key: &(Direction, PolicyName)| {
            wanted.contains_key(&(key.0, &key.1)) && !concerned.contains(&key.1)
        };
        let gone: Vec<_> = self.policies.keys().filter(|key| !stays(key)).cloned().collect();
        for key in &gone {
            let Some(part) = self.policies.remove(key) else { continue };
            self.count(&part, &mut used, false);
            merge(&mut old, &part);
        }
        for ((direction, name), pods) in wanted {
            let key = (direction, name.clone());
            if let (false, Some(policy)) = (self.policies.contains_key(&key), model.policies.get(name)) {
                let selected = Selected { namespace: &name.0, name: &name.1, policy };
                let part = Build::new(self.family, model).policy(direction, selected, &pods);
                self.count(&part, &mut used, true);
                merge(&mut new, &part);
                self.policies.insert(key, part);
            }
        }
        for (name, (set, was)) in used {
            let is = self.ranges.contains_key(&name);
            if was {
                old.sets.insert(name.clone(), set.clone());
            }
            if is {
                new.sets.insert(name, set);
            }
        }
        diff(known.then_some(&old), &new)
    }

    /// Counts who uses sets of ranges, and notes of each whether it was used before.
    fn count(&mut self, part: &Table, used: &mut BTreeMap<String, (Set, bool)>, more: bool) {
        for (name, set) in part.sets.iter().filter(|(_, set)| set.data == Data::Ranges) {
            let before = self.ranges.get(name).copied().unwrap_or_default();
            used.entry(name.clone()).or_insert_with(|| (set.clone(), before > 0));
            match if more { before + 1 } else { before.saturating_sub(1) } {
                0 => drop(self.ranges.remove(name)),
                now => drop(self.ranges.insert(name.clone(), now)),
            }
        }
    }
}

/// Puts a part into a table; none has what another one has, but for sets of ranges, which are equal.
fn merge(table: &mut Table, part: &Table) {
    table.sets.extend(part.sets.iter().map(|(name, set)| (name.clone(), set.clone())));
    table.chains.extend(part.chains.iter().map(|(name, chain)| (name.clone(), chain.clone())));
}

struct Build<'a> {
    table: Table,
    family: Family,
    model: &'a Policies,
}

/// A policy with its place.
#[derive(Clone, Copy)]
struct Selected<'a> {
    namespace: &'a str,
    name: &'a str,
    policy: &'a Policy,
}

/// The same set of policies isolates many pods.
type Groups<'a> = BTreeMap<Vec<&'a PolicyName>, Vec<&'a Pod>>;
/// The pods that policies isolate.
type Isolated<'a> = BTreeMap<(Direction, &'a PolicyName), Vec<&'a Pod>>;

// === impl Build ===

impl<'a> Build<'a> {
    fn new(family: Family, model: &'a Policies) -> Self {
        Self { table: Table::default(), family, model }
    }

    /// The table of who is isolated by what, without the chains of the policies, and whom these isolate.
    fn isolation(mut self) -> (Table, Isolated<'a>) {
        self.table.declare(SELF, &[Kind::Address, Kind::Address], Data::None);
        let mut isolated = Isolated::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            self.direction(direction, &mut isolated);
        }
        (self.table, isolated)
    }

    fn direction(&mut self, direction: Direction, isolated: &mut Isolated<'a>) {
        let map = format!("{}-pods", direction.name());
        self.table.declare(&map, &[Kind::Address], Data::Verdict);
        self.base(direction, &map);
        for (policies, pods) in &self.groups(direction) {
            let chain = self.group(direction, policies);
            for address in pods.iter().flat_map(|pod| &pod.addresses).filter(|a| self.family.has(a)) {
                let part = Part::Address(*address);
                self.table.element(&map, smallvec![part], Value::Verdict(Verdict::Jump(chain.clone())));
                self.table.element(SELF, smallvec![part, part], Value::None);
            }
            for policy in policies {
                isolated.entry((direction, policy)).or_default().extend(pods);
            }
        }
    }

    /// The chain the kernel enters for every packet that passes through.
    fn base(&mut self, direction: Direction, map: &str) {
        let chain = direction.name();
        let hook = Some(Hook { kind: "filter", point: HookPoint::Forward, priority: FILTER });
        self.table.chains.insert(chain.to_owned(), Chain { hook, rules: vec![] });
        let accept = || Statement::Verdict(Verdict::Accept);
        self.table.rule(chain, "answers", vec![Statement::Reply, accept()]);
        self.table.rule(chain, "errors", vec![Statement::Related, accept()]);
        let pod = Statement::VerdictMap { key: vec![direction.own()], map: map.to_owned() };
        self.table.rule(chain, "", vec![pod]);
    }

    /// This node's isolated pods by the policies that isolate them.
    fn groups(&self, direction: Direction) -> Groups<'a> {
        let mut out = Groups::new();
        for ((namespace, _), pod) in self.model.pods.iter().filter(|(_, pod)| pod.local) {
            let of_namespace = self.model.policies.range((namespace.clone(), String::new())..);
            let selecting: Vec<_> = of_namespace
                .take_while(|((other, _), _)| other == namespace)
                .filter(|(_, p)| direction.rules(p).is_some() && p.pods.matches(&pod.labels))
                .map(|(key, _)| key)
                .collect();
            if !selecting.is_empty() {
                out.entry(selecting).or_default().push(pod);
            }
        }
        out
    }

    /// The chain of pods isolated by these policies: what none of them accepts is dropped.
    fn group(&mut self, direction: Direction, policies: &[&(String, String)]) -> String {
        let names: Vec<String> =
            policies.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        let chain = unique(&format!("{}-pods", direction.name()), &names.join(","));
        for name in &names {
            let policy = Verdict::Jump(unique(direction.name(), name));
            self.table.rule(&chain, name, vec![Statement::Verdict(policy)]);
        }
        let itself = In { key: &[Field::Source, Field::Destination], set: SELF.to_owned() };
        self.table.rule(&chain, "a pod and itself", vec![itself.into(), Statement::Verdict(Verdict::Accept)]);
        self.table.rule(&chain, "", vec![Statement::Verdict(Verdict::Drop)]);
        chain
    }

    /// The chain of a policy: accepts what one of its rules allows. With the chains and sets that takes.
    fn policy(mut self, direction: Direction, selected: Selected<'_>, pods: &[&Pod]) -> Table {
        let name = unique(direction.name(), &format!("{}/{}", selected.namespace, selected.name));
        self.table.chains.entry(name.clone()).or_default();
        for (at, rule) in direction.rules(selected.policy).into_iter().flatten().enumerate() {
            let stem = format!("{name}-{at}");
            let peers = Peers::of(self.family, self.model, selected.namespace, rule);
            let then = self.ports(direction, &stem, rule, &peers, pods);
            self.peers(direction, &name, &stem, &peers, &then);
        }
        self.table
    }

    /// Leads traffic with a rule's peers to `then`.
    fn peers(&mut self, direction: Direction, chain: &str, stem: &str, peers: &Peers<'_>, then: &Verdict) {
        let then = || Statement::Verdict(then.clone());
        if peers.everybody {
            self.table.rule(chain, "", vec![then()]);
            return;
        }
        if peers.any_pods {
            let set = format!("{stem}-pods");
            self.table.declare(&set, &[Kind::Address], Data::None);
            for (address, _) in peers.pods.iter().filter(|(a, _)| self.family.has(a)) {
                self.table.element(&set, smallvec![Part::Address(*address)], Value::None);
            }
            self.table.rule(chain, "", vec![In { key: &[direction.other()], set }.into(), then()]);
        }
        if !peers.ranges.is_empty() {
            let set = self.ranges(&peers.ranges);
            self.table.rule(chain, "", vec![In { key: &[direction.other()], set }.into(), then()]);
        }
    }

    /// The set of ranges, named after what it holds: it never changes.
    fn ranges(&mut self, ranges: &[(IpAddr, IpAddr)]) -> String {
        let text: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let name = format!("ranges-{}", digest(&text.join(",")));
        let elements =
            ranges.iter().map(|(first, last)| (smallvec![Part::Address(*first)], Value::Until(*last)));
        let set =
            Set { key: vec![Kind::Address], data: Data::Ranges, timeout: None, elements: elements.collect() };
        self.table.sets.insert(name.clone(), set);
        name
    }

    /// What happens to traffic with a rule's peers: acceptance, or the chain that looks at the port.
    fn ports(
        &mut self,
        direction: Direction,
        stem: &str,
        rule: &Rule,
        peers: &Peers<'_>,
        pods: &[&Pod],
    ) -> Verdict {
        let Some(ports) = &rule.ports else { return Verdict::Accept };
        let chain = format!("{stem}-ports");
        self.table.chains.entry(chain.clone()).or_default();
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut any_name = false;
        for port in ports {
            let protocol = port.protocol.number();
            let is = Statement::ProtocolIs(protocol);
            match &port.port {
                PortRef::Any => self.accept(&chain, vec![is]),
                PortRef::Range(first, last) if first == last => {
                    numbers.insert(smallvec![Part::Protocol(protocol), Part::Port(*first)]);
                }
                PortRef::Range(first, last) => {
                    self.accept(&chain, vec![is, Statement::PortIn(*first, *last)]);
                }
                PortRef::Named(name) => {
                    any_name = true;
                    let receivers = self.receivers(direction, peers, pods).into_iter();
                    names.extend(receivers.filter(|(address, _)| self.family.has(address)).flat_map(
                        |(address, pod)| {
                            let own = pod.ports.iter();
                            own.filter(|p| p.name == *name && p.protocol == port.protocol).map(move |p| {
                                smallvec![
                                    Part::Address(address),
                                    Part::Protocol(protocol),
                                    Part::Port(p.port)
                                ]
                            })
                        },
                    ));
                }
            }
        }
        if !numbers.is_empty() {
            self.accept_members(&chain, format!("{stem}-numbers"), NUMBERS, numbers);
        }
        if any_name {
            self.accept_members(&chain, format!("{stem}-names"), NAMES, names);
        }
        Verdict::Jump(chain)
    }

    /// The pods whose ports a rule names, with their addresses: the isolated ones, or the peers of what they send.
    fn receivers<'p>(
        &self,
        direction: Direction,
        peers: &Peers<'p>,
        pods: &[&'p Pod],
    ) -> Vec<(IpAddr, &'p Pod)>
    where
        'a: 'p,
    {
        match direction {
            Direction::Ingress => of(pods.iter().copied()).collect(),
            // Any pod may have an address in a range.
            Direction::Egress if peers.everybody || !peers.ranges.is_empty() => {
                of(self.model.pods.values().map(|pod| &**pod)).collect()
            }
            Direction::Egress => peers.pods.clone(),
        }
    }

    /// Accepts in a chain what the statements let through.
    fn accept(&mut self, chain: &str, mut statements: Vec<Statement>) {
        statements.push(Statement::Verdict(Verdict::Accept));
        self.table.rule(chain, "", statements);
    }

    /// Accepts in a chain what is in a set of these elements.
    fn accept_members(&mut self, chain: &str, set: String, (kinds, key): Ports, elements: BTreeSet<Key>) {
        self.table.declare(&set, kinds, Data::None);
        for element in elements {
            self.table.element(&set, element, Value::None);
        }
        self.accept(chain, vec![In { key, set }.into()]);
    }
}

/// The addresses of pods.
fn of<'a>(
    pods: impl IntoIterator<Item = impl std::borrow::Borrow<&'a Pod>>,
) -> impl Iterator<Item = (IpAddr, &'a Pod)> {
    pods.into_iter().flat_map(|pod| {
        let pod: &'a Pod = pod.borrow();
        pod.addresses.iter().map(move |address| (*address, pod))
    })
}

/// The other side of a rule, found out.
struct Peers<'a> {
    /// No matter who.
    everybody: bool,
    /// Whether pods are named at all, though none may be there.
    any_pods: bool,
    /// Pods with their addresses.
    pods: Vec<(IpAddr, &'a Pod)>,
    /// Ranges of addresses.
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl<'a> Peers<'a> {
    fn of(family: Family, model: &'a Policies, own: &str, rule: &Rule) -> Self {
        let list = rule.peers.as_deref().unwrap_or_default();
        let ranges = list.iter().filter_map(|peer| match peer {
            Peer::Range(range, except) => Some((range, except.as_slice())),
            Peer::Pods(..) => None,
        });
        let mut pods = Vec::new();
        for peer in list {
            let Peer::Pods(namespaces, selector) = peer else { continue };
            match namespaces {
                Namespaces::Own => {
                    pods.extend(of(in_namespace(model, own).filter(|p| selector.matches(&p.labels))))
                }
                Namespaces::Matching(chosen) => {
                    let matching = model.namespaces.iter().filter(|(_, labels)| chosen.matches(*labels));
                    for (namespace, _) in matching {
                        pods.extend(of(
                            in_namespace(model, namespace).filter(|p| selector.matches(&p.labels))
                        ));
                    }
                }
            }
        }
        Self {
            everybody: rule.peers.is_none(),
            any_pods: list.iter().any(|peer| matches!(peer, Peer::Pods(..))),
            pods,
            ranges: ranges::union(family, ranges),
        }
    }
}

fn in_namespace<'a>(model: &'a Policies, namespace: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
    let namespace = namespace.to_owned();
    let from = model.pods.range((namespace.clone(), String::new())..);
    from.take_while(move |((other, _), _)| *other == namespace).map(|(_, pod)| &**pod)
}

// === impl Direction ===

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The isolated pod's side of a packet.
    fn own(self) -> Field {
        match self {
            Self::Ingress => Field::Destination,
            Self::Egress => Field::Source,
        }
    }

    /// The peer's side of a packet.
    fn other(self) -> Field {
        match self {
            Self::Ingress => Field::Source,
            Self::Egress => Field::Destination,
        }
    }

    fn rules(self, policy: &Policy) -> Option<&[Rule]> {
        match self {
            Self::Ingress => policy.ingress.as_deref(),
            Self::Egress => policy.egress.as_deref(),
        }
    }
}

/// Membership of fields in a set.
struct In<'a> {
    key: &'a [Field],
    set: String,
}

impl From<In<'_>> for Statement {
    fn from(given: In<'_>) -> Self {
        Self::In { key: given.key.to_vec(), set: given.set, negate: false }
    }
}

/// A name the kernel takes, unique for the text.
fn unique(kind: &str, text: &str) -> String {
    let readable: String = text.chars().take(MAX_NAME - kind.len()).filter(char::is_ascii).collect();
    format!("{kind}-{}-{readable}", digest(text))
}

/// 128 bits of SHA-256: whoever writes policies must not be able to make one that takes another's name.
fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
