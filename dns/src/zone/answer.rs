//! The plan: a query and the index in, records out. No clock, no I/O.

use std::net::IpAddr;

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};

use super::{
    Labels,
    index::{Endpoint, Index, Port, Service, ServiceKind, dashed},
};

/// The version of the specification answered to `dns-version`.
const SCHEMA_VERSION: &str = "1.1.0";

/// How the zone is served (`kubernetes` in the Corefile).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone, for example `cluster.local`.
    pub zone: Labels,
    /// TTL of all answers, in seconds.
    pub ttl: u32,
    /// Whether names of pods' addresses are answered (`pods insecure`).
    pub pods: bool,
    /// Of pods' addresses only those that pods have (`pods verified`).
    pub verified: bool,
    /// Only these namespaces are answered for; empty is all.
    pub namespaces: Vec<String>,
    /// Services without endpoints do not exist.
    pub ignore_empty: bool,
    /// Only namespaces that are known are answered for.
    pub listed_only: bool,
    /// Endpoints are not known: what they alone would answer does not exist.
    pub no_endpoints: bool,
}

/// What the zone says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, and addresses of the names they mention.
    Records {
        /// Answer section.
        answers: Vec<Record>,
        /// Additional section.
        additionals: Vec<Record>,
    },
    /// The name exists, but not with this type.
    NoData,
    /// There is no such name.
    NxDomain,
}

/// What stands behind a name.
enum Target<'a> {
    /// Exists without records of its own.
    Node,
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// The name server's own name.
    NameServer,
    /// A pod's address.
    Address(IpAddr),
    /// A service.
    Service { namespace: &'a str, name: &'a str, service: &'a Service },
    /// One endpoint of a headless service (several addresses may share a hostname).
    Endpoints(Vec<&'a Endpoint>),
    /// Ports of a service by name and protocol.
    Ports { namespace: &'a str, name: &'a str, service: &'a Service, port: &'a str, protocol: &'a str },
}

/// Answers a forward query for a name inside the zone; `None` if the name lies outside.
pub fn answer(
    index: &Index,
    settings: &Settings,
    name: &Name,
    kind: RecordType,
    own: &[IpAddr],
) -> Option<Answer> {
    let labels = Labels::of(name);
    let left: Vec<&str> = labels.within(&settings.zone)?.iter().map(String::as_str).collect();
    let zone = Zone { index, settings, own };
    let Some(target) = zone.find(&left) else {
        return Some(Answer::NxDomain);
    };
    let (answers, additionals) = zone.records(name, &target, kind);
    Some(if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals } })
}

impl Settings {
    /// Whether names of this namespace are answered for.
    fn serves(&self, index: &Index, namespace: &str) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == namespace))
            && (!self.listed_only || index.has_namespace(namespace))
    }

    /// The SOA of the zone, for negative answers.
    pub fn soa(&self) -> Option<Record> {
        let apex = self.zone.prefixed([]).ok()?;
        let soa = SOA::new(
            self.zone.prefixed(["ns", "dns"]).ok()?,
            self.zone.prefixed(["hostmaster"]).ok()?,
            // The zone has no secondaries: nobody compares serials.
            1,
            7200,
            1800,
            86400,
            self.ttl,
        );
        Some(Record::from_rdata(apex, self.ttl, RData::SOA(soa)))
    }

    /// Names for an address (reverse queries).
    pub fn pointers(&self, index: &Index, name: &Name, address: IpAddr) -> Vec<Record> {
        let cluster = index.by_cluster_ip(address).filter(|(ns, _)| self.serves(index, ns));
        let cluster = cluster.map(|(ns, service)| self.zone.prefixed([service, ns, "svc"]));
        let endpoints = index.by_endpoint_ip(address).filter(|(ns, _, _)| self.serves(index, ns)).map(
            |(ns, service, endpoint)| {
                let label = endpoint.label();
                self.zone.prefixed([label.as_str(), service, ns, "svc"])
            },
        );
        let names = cluster.into_iter().chain(endpoints).filter_map(Result::ok);
        names.map(|n| Record::from_rdata(name.clone(), self.ttl, RData::PTR(PTR(n)))).collect()
    }
}

struct Zone<'a> {
    index: &'a Index,
    settings: &'a Settings,
    /// Addresses of the server itself, for the NS record's glue.
    own: &'a [IpAddr],
}

impl<'a> Zone<'a> {
    fn find<'n>(&self, left: &[&'n str]) -> Option<Target<'n>>
    where
        'a: 'n,
    {
        if let [.., namespace, "svc" | "pod"] = left
            && !self.settings.serves(self.index, namespace)
        {
            return None;
        }
        match left {
            [] => Some(Target::Apex),
            ["svc"] | ["pod"] | ["dns"] => Some(Target::Node),
            ["dns-version"] => Some(Target::Version),
            ["ns", "dns"] => Some(Target::NameServer),
            [namespace, "svc"] | [namespace, "pod"] => {
                let exists = self.index.has_namespace(namespace) || self.index.has_services(namespace);
                exists.then_some(Target::Node)
            }
            [address, namespace, "pod"] if self.settings.pods && self.index.has_namespace(namespace) => {
                let address = undashed(address)?;
                let there = !self.settings.verified || self.index.pod_namespace(address) == Some(namespace);
                there.then_some(Target::Address(address))
            }
            [rest @ .., name, namespace, "svc"] => {
                let service = self.index.service(namespace, name)?;
                let empty = self.settings.ignore_empty
                    && !matches!(service.kind, ServiceKind::External(_))
                    && self.index.endpoints(namespace, name).next().is_none();
                let unknown = self.settings.no_endpoints && service.kind == ServiceKind::Headless;
                if empty || unknown {
                    return None;
                }
                self.below_service(rest, namespace, name, service)
            }
            _ => None,
        }
    }

    fn below_service<'n>(
        &self,
        rest: &[&'n str],
        namespace: &'n str,
        name: &'n str,
        service: &'a Service,
    ) -> Option<Target<'n>>
    where
        'a: 'n,
    {
        match rest {
            [] => Some(Target::Service { namespace, name, service }),
            [protocol] if protocol.starts_with('_') => {
                let has = self.all_ports(namespace, name, service).any(|p| matches(protocol, &p.protocol));
                has.then_some(Target::Node)
            }
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let mut all = self.all_ports(namespace, name, service);
                all.any(|p| matches(port, &p.name) && matches(protocol, &p.protocol))
                    .then_some(Target::Ports { namespace, name, service, port, protocol })
            }
            [endpoint] if service.kind == ServiceKind::Headless => {
                let all = self.index.endpoints(namespace, name).map(|(e, _)| e);
                let same: Vec<&Endpoint> = all.filter(|e| e.label() == *endpoint).collect();
                (!same.is_empty()).then_some(Target::Endpoints(same))
            }
            _ => None,
        }
    }

    /// Ports of a service: its own, or for a headless one those its endpoints have.
    fn all_ports(
        &self,
        namespace: &str,
        name: &str,
        service: &'a Service,
    ) -> Box<dyn Iterator<Item = &'a Port> + 'a> {
        match service.kind {
            ServiceKind::Headless => {
                Box::new(self.index.endpoints(namespace, name).flat_map(|(_, ports)| ports))
            }
            _ => Box::new(service.ports.iter()),
        }
    }

    fn records(&self, name: &Name, target: &Target<'_>, kind: RecordType) -> (Vec<Record>, Vec<Record>) {
        let one = |data: RData| (vec![self.record(name, data)], Vec::new());
        let none = (Vec::new(), Vec::new());
        match target {
            Target::Node => none,
            Target::Apex => match kind {
                RecordType::SOA => (self.settings.soa().into_iter().collect(), Vec::new()),
                RecordType::NS => match self.settings.zone.prefixed(["ns", "dns"]) {
                    Ok(ns) => (
                        vec![self.record(name, RData::NS(NS(ns.clone())))],
                        self.addresses(&ns, self.own, None),
                    ),
                    Err(_) => none,
                },
                _ => none,
            },
            Target::Version if kind == RecordType::TXT => {
                one(RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()])))
            }
            Target::Version => none,
            Target::NameServer => (self.addresses(name, self.own, Some(kind)), Vec::new()),
            Target::Address(address) => (self.addresses(name, &[*address], Some(kind)), Vec::new()),
            Target::Endpoints(endpoints) => {
                let all: Vec<IpAddr> = endpoints.iter().map(|e| e.address).collect();
                (self.addresses(name, &all, Some(kind)), Vec::new())
            }
            Target::Service { namespace, name: service_name, service } => {
                self.service_records(name, namespace, service_name, service, kind)
            }
            Target::Ports { namespace, name: service_name, service, port, protocol }
                if kind == RecordType::SRV =>
            {
                self.srv(name, namespace, service_name, service, |p| {
                    matches(port, &p.name) && matches(protocol, &p.protocol)
                })
            }
            Target::Ports { .. } => none,
        }
    }

    fn service_records(
        &self,
        name: &Name,
        namespace: &str,
        service_name: &str,
        service: &Service,
        kind: RecordType,
    ) -> (Vec<Record>, Vec<Record>) {
        match (&service.kind, kind) {
            (ServiceKind::External(target), RecordType::A | RecordType::AAAA | RecordType::CNAME) => {
                let target = Labels::parse(target).prefixed([]);
                (target.into_iter().map(|t| self.record(name, RData::CNAME(CNAME(t)))).collect(), Vec::new())
            }
            (ServiceKind::External(_), _) => (Vec::new(), Vec::new()),
            (_, RecordType::SRV) => self.srv(name, namespace, service_name, service, |_| true),
            (ServiceKind::Cluster(addresses), _) => (self.addresses(name, addresses, Some(kind)), Vec::new()),
            (ServiceKind::Headless, _) => {
                let mut all: Vec<IpAddr> =
                    self.index.endpoints(namespace, service_name).map(|(e, _)| e.address).collect();
                all.sort_unstable();
                all.dedup();
                (self.addresses(name, &all, Some(kind)), Vec::new())
            }
        }
    }

    /// SRV records of the ports wanted, with the addresses of their targets.
    fn srv(
        &self,
        name: &Name,
        namespace: &str,
        service_name: &str,
        service: &Service,
        wanted: impl Fn(&Port) -> bool,
    ) -> (Vec<Record>, Vec<Record>) {
        // (target, port, addresses); a target is named once per port.
        let mut targets: Vec<(Name, u16, Vec<IpAddr>)> = Vec::new();
        match &service.kind {
            ServiceKind::Cluster(addresses) => {
                let Ok(target) = self.settings.zone.prefixed([service_name, namespace, "svc"]) else {
                    return (Vec::new(), Vec::new());
                };
                for port in service.ports.iter().filter(|p| wanted(p)) {
                    targets.push((target.clone(), port.number, addresses.clone()));
                }
            }
            ServiceKind::Headless => {
                for (endpoint, ports) in self.index.endpoints(namespace, service_name) {
                    let label = endpoint.label();
                    let Ok(target) =
                        self.settings.zone.prefixed([label.as_str(), service_name, namespace, "svc"])
                    else {
                        continue;
                    };
                    for port in ports.iter().filter(|p| wanted(p)) {
                        targets.push((target.clone(), port.number, vec![endpoint.address]));
                    }
                }
            }
            ServiceKind::External(_) => {}
        }
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let mut additionals: Vec<Record> = Vec::new();
        let mut answers: Vec<Record> = Vec::new();
        for (target, port, addresses) in targets {
            let record = self.record(name, RData::SRV(SRV::new(0, weight, port, target.clone())));
            if !answers.contains(&record) {
                answers.push(record);
            }
            for glue in self.addresses(&target, &addresses, None) {
                if !additionals.contains(&glue) {
                    additionals.push(glue);
                }
            }
        }
        (answers, additionals)
    }

    /// Address records; of both families without a kind.
    fn addresses(&self, name: &Name, addresses: &[IpAddr], kind: Option<RecordType>) -> Vec<Record> {
        addresses
            .iter()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(v4), None | Some(RecordType::A)) => Some(RData::A(A(*v4))),
                (IpAddr::V6(v6), None | Some(RecordType::AAAA)) => Some(RData::AAAA(AAAA(*v6))),
                _ => None,
            })
            .map(|data| self.record(name, data))
            .collect()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl, data)
    }
}

/// Whether a label such as `_http` names `http`.
fn matches(label: &str, name: &str) -> bool {
    !name.is_empty() && label.strip_prefix('_') == Some(name)
}

/// The address behind a pod label: `10-0-0-1`, `fd00--1`.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().map(IpAddr::V4).ok();
    let address =
        v4.or_else(|| label.replace('-', ":").parse::<std::net::Ipv6Addr>().map(IpAddr::V6).ok())?;
    // One name per address: other spellings do not exist.
    (dashed(address) == label).then_some(address)
}
