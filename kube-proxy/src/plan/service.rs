//! One service port: its chains, and the elements that lead to them.

use std::net::IpAddr;

use super::{endpoints, name, skeleton::AT_ADDRESS, slots::Slots};
use crate::{
    model::{Endpoint, PortName, ServicePort, Settings},
    tables::{Data, Family, Field, Key, Kind, Part, Set, Statement, Table, Value, Verdict},
};

/// Longest chain name the kernel takes is 127 bytes; the hash makes a cut name unique.
const MAX_NAME: usize = 50;

struct Build<'a> {
    table: &'a mut Table,
    family: Family,
    port_name: &'a PortName,
    service: &'a ServicePort,
    settings: &'a Settings,
    slots: &'a mut Slots,
    /// Unique part of the names of this service port's chains.
    stem: String,
}

/// Adds a service port to the table.
pub(super) fn add(
    table: &mut Table,
    family: Family,
    port_name: &PortName,
    service: &ServicePort,
    all: &[Endpoint],
    settings: &Settings,
    slots: &mut Slots,
) {
    let stem = stem(port_name);
    let mut build = Build { table, family, port_name, service, settings, slots, stem };
    let cluster = endpoints::cluster(family, all, settings);
    let local = endpoints::local(family, all);
    for endpoint in cluster.iter().chain(&local).filter(|e| e.local) {
        let address = Part::Address(endpoint.address);
        build.table.element(name::HAIRPIN, vec![address, address], Value::None);
    }
    build.internal(&cluster, &local);
    build.external(&cluster, &local);
}

impl Build<'_> {
    /// Traffic to cluster IPs.
    fn internal(&mut self, cluster: &[&Endpoint], local: &[&Endpoint]) {
        let ips: Vec<Part> = self.of_family(&self.service.cluster_ips);
        if ips.is_empty() {
            return;
        }
        for ip in &ips {
            self.table.element(name::CLUSTER_IPS, vec![*ip], Value::None);
        }
        let (takers, scope) =
            if self.service.internal_local { (local, "local") } else { (cluster, "cluster") };
        if takers.is_empty() {
            // With the Local policy, endpoints elsewhere do not count: nothing answers, nothing refuses.
            let verdict = if cluster.is_empty() { Verdict::Goto(name::REJECT.into()) } else { Verdict::Drop };
            self.lead(name::NO_ENDPOINT_IPS, &ips, &verdict);
            return;
        }
        let target = self.balance(scope, takers);
        let chain = format!("internal-{}", self.stem);
        let from_elsewhere = self.by_pods(true);
        if self.settings.masquerade_all {
            self.rule(&chain, vec![jump(name::MARK)]);
        } else if !from_elsewhere.is_empty() {
            // From elsewhere than the pods the answer must come back through here.
            self.rule(&chain, from_elsewhere.into_iter().chain([jump(name::MARK)]).collect());
        }
        self.rule(&chain, vec![goto(&target)]);
        self.lead(name::SERVICE_IPS, &ips, &Verdict::Goto(chain));
    }

    /// Traffic from outside: node ports, external and load balancer addresses.
    fn external(&mut self, cluster: &[&Endpoint], local: &[&Endpoint]) {
        let external = self.of_family(&self.service.external_ips);
        let balanced = self.of_family(&self.service.load_balancer_ips);
        let ips: Vec<Part> = external.iter().chain(&balanced).copied().collect();
        let has_node_port =
            self.service.node_port != 0 && !self.of_family(&self.service.cluster_ips).is_empty();
        if ips.is_empty() && !has_node_port {
            return;
        }
        self.firewall(&balanced);
        let takers = if self.service.external_local { local } else { cluster };
        if cluster.is_empty() {
            self.lead_external(
                name::NO_ENDPOINT_IPS,
                name::NO_ENDPOINT_NODE_PORTS,
                &ips,
                has_node_port,
                &Verdict::Goto(name::REJECT.into()),
            );
            return;
        }
        let chain = format!("external-{}", self.stem);
        if self.service.external_local {
            // Pods and the node itself reach all endpoints by an external address, as they do by the cluster IP.
            let everywhere = self.balance("cluster", cluster);
            for from_pods in self.by_pods(false) {
                self.rule(&chain, vec![from_pods, goto(&everywhere)]);
            }
            self.rule(&chain, vec![Statement::SourceIsLocal, jump(name::MARK)]);
            self.rule(&chain, vec![Statement::SourceIsLocal, goto(&everywhere)]);
            if takers.is_empty() {
                self.rule(&chain, vec![Statement::Verdict(Verdict::Drop)]);
            } else {
                let here = self.balance("local", takers);
                self.rule(&chain, vec![goto(&here)]);
            }
        } else {
            let everywhere = self.balance("cluster", takers);
            self.rule(&chain, vec![jump(name::MARK)]);
            self.rule(&chain, vec![goto(&everywhere)]);
        }
        self.lead_external(name::SERVICE_IPS, name::NODE_PORTS, &ips, has_node_port, &Verdict::Goto(chain));
    }

    /// `loadBalancerSourceRanges`: everybody else is dropped before the address is replaced.
    fn firewall(&mut self, balanced: &[Part]) {
        let ranges: Vec<_> =
            self.service.source_ranges.iter().filter(|r| self.family.has(&r.addr())).copied().collect();
        if self.service.source_ranges.is_empty() || balanced.is_empty() {
            return;
        }
        let chain = format!("firewall-{}", self.stem);
        for range in ranges {
            let inside = Statement::Within { field: Field::Source, range, negate: false };
            self.rule(&chain, vec![inside, Statement::Verdict(Verdict::Return)]);
        }
        self.rule(&chain, vec![Statement::Verdict(Verdict::Drop)]);
        self.lead(name::FIREWALL_IPS, balanced, &Verdict::Goto(chain));
    }

    /// The chain that sends a connection to one of the endpoints; made once per scope.
    fn balance(&mut self, scope: &str, takers: &[&Endpoint]) -> String {
        let chain = format!("{scope}-{}", self.stem);
        if self.table.chains.contains_key(&chain) {
            return chain;
        }
        let wanted: Vec<_> = takers.iter().map(|e| (e.address, e.port)).collect();
        let (first, members) = self.slots.place(&chain, &wanted);
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let protocol = Statement::ProtocolIs(self.port_name.protocol.number());
        if let Some(seconds) = self.service.affinity {
            let timeout = u64::from(seconds) * 1000;
            for (slot, target) in (first..).zip(&members) {
                let endpoint = self.sticky(scope, *target, timeout);
                let known =
                    Statement::In { key: vec![Field::Source], set: affinity(&endpoint), negate: false };
                self.rule(&chain, vec![known, goto(&endpoint)]);
                self.table.element(
                    name::STICKY,
                    vec![Part::Slot(slot)],
                    Value::Verdict(Verdict::Goto(endpoint)),
                );
            }
            self.rule(
                &chain,
                vec![protocol, Statement::BalanceOver { map: name::STICKY.into(), first, count }],
            );
            return chain;
        }
        for (slot, (address, port)) in (first..).zip(&members) {
            let value = Value::Parts(vec![Part::Address(*address), Part::Port(*port)]);
            self.table.element(name::ENDPOINTS, vec![Part::Slot(slot)], value);
        }
        self.rule(&chain, vec![protocol, Statement::BalanceTo { map: name::ENDPOINTS.into(), first, count }]);
        chain
    }

    /// The chain of one endpoint that remembers its clients, and the set it remembers them in: both go
    /// with the endpoint, so clients of the others stay where they are.
    fn sticky(&mut self, scope: &str, (address, port): (IpAddr, u16), timeout: u64) -> String {
        let chain = format!("{scope}-{}/{address}/{port}", self.stem).replace(':', ".");
        let set = affinity(&chain);
        let memory = Set {
            key: vec![Kind::Address],
            data: Data::None,
            timeout: Some(timeout),
            elements: Default::default(),
        };
        self.table.sets.insert(set.clone(), memory);
        self.rule(&chain, vec![Statement::Remember { set, timeout }]);
        let protocol = Statement::ProtocolIs(self.port_name.protocol.number());
        self.rule(&chain, vec![protocol, Statement::SendTo(address, port)]);
        chain
    }

    /// What holds for packets of pods: any one of these; for packets of others (`negate`): all of these.
    fn by_pods(&self, negate: bool) -> Vec<Statement> {
        if let Some((name, prefix)) = &self.settings.pod_interfaces {
            return vec![Statement::CameBy { name: name.clone(), prefix: *prefix, negate }];
        }
        let ranges = self.settings.pod_ranges.iter().filter(|r| self.family.has(&r.addr()));
        ranges.map(|range| Statement::Within { field: Field::Source, range: *range, negate }).collect()
    }

    fn lead_external(
        &mut self,
        by_ip: &str,
        by_port: &str,
        ips: &[Part],
        node_port: bool,
        verdict: &Verdict,
    ) {
        self.lead(by_ip, ips, verdict);
        if node_port {
            let key =
                vec![Part::Protocol(self.port_name.protocol.number()), Part::Port(self.service.node_port)];
            self.table.element(by_port, key, Value::Verdict(verdict.clone()));
        }
    }

    fn lead(&mut self, map: &str, ips: &[Part], verdict: &Verdict) {
        debug_assert_eq!(AT_ADDRESS.len(), 3, "the key below has the parts of these fields");
        for ip in ips {
            let key: Key =
                vec![*ip, Part::Protocol(self.port_name.protocol.number()), Part::Port(self.service.port)];
            self.table.element(map, key, Value::Verdict(verdict.clone()));
        }
    }

    fn rule(&mut self, chain: &str, statements: Vec<Statement>) {
        self.table.rule(chain, &self.port_name.to_string(), statements);
    }

    fn of_family(&self, ips: &[IpAddr]) -> Vec<Part> {
        ips.iter().filter(|ip| self.family.has(ip)).map(|ip| Part::Address(*ip)).collect()
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

/// A short hash and the readable name, cut to what fits.
fn stem(port_name: &PortName) -> String {
    let text = port_name.to_string();
    // FNV-1a, 32 bits: names are no secrets, and two services would have to share name and hash.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mut out = format!("{hash:08x}-{text}");
    out.truncate(MAX_NAME);
    out
}
