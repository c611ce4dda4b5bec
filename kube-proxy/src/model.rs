//! What the proxy knows: ports of services and endpoints behind them.

mod build;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use component_base::meta::ObjectKey;
use ipnet::IpNet;
use smallvec::SmallVec;
use smol_str::SmolStr;

pub use build::{build, ports, protocol};

/// Identity of a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service.
    pub service: Arc<str>,
    /// Port name, may be empty.
    pub port: SmolStr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Transport protocols services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One port of a service with everything that leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Cluster IPs of all families.
    pub cluster_ips: SmallVec<[IpAddr; 1]>,
    /// Port on cluster, external and load balancer IPs.
    pub port: u16,
    /// Port on the nodes; 0 for none.
    pub node_port: u16,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses of mode VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means all.
    pub source_ranges: Vec<IpNet>,
    /// `sessionAffinity: ClientIP`: timeout in seconds.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

/// An endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Whether it runs on this node.
    pub local: bool,
    /// Zones it is meant for (`hints.forZones`).
    pub zones: Vec<Arc<str>>,
    /// Nodes it is meant for (`hints.forNodes`).
    pub nodes: Vec<Arc<str>>,
}

/// A port of a service with its endpoints.
pub type Port<'a> = (&'a Arc<PortName>, &'a Arc<ServicePort>, &'a [Endpoint]);

/// The ports of a service, in order.
pub type Ports = Box<[(Arc<PortName>, Arc<ServicePort>)]>;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Ports of services.
    pub services: BTreeMap<Arc<PortName>, Arc<ServicePort>>,
    /// Endpoints per port of a service.
    pub endpoints: BTreeMap<Arc<PortName>, Vec<Endpoint>>,
    /// Health check ports of services.
    pub health_checks: BTreeMap<ObjectKey, HealthCheck>,
}

/// What a service's health check port tells (`externalTrafficPolicy: Local`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// What the node is and how the proxy is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node: Arc<str>,
    /// Zone of this node; empty for none.
    pub zone: Arc<str>,
    /// Addresses node ports are served on.
    pub node_port_ips: Vec<IpAddr>,
    /// Pods' ranges: traffic from elsewhere to cluster IPs is masqueraded.
    pub pod_ranges: Vec<IpNet>,
    /// Pods' interfaces, where they are known by those: a name, and whether it is only how names begin.
    pub pod_interfaces: Option<(String, bool)>,
    /// Masquerade all service traffic.
    pub masquerade_all: bool,
    /// Packet mark of traffic to be masqueraded: a single bit.
    pub masquerade_mark: u32,
}

impl PortName {
    /// Whether it is a port of this service.
    pub fn is_of(&self, service: &ObjectKey) -> bool {
        self.service == service.name && self.namespace == service.namespace
    }

    /// The service it is a port of.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.service.clone() }
    }

    /// What comes before all ports of a service, in order.
    fn before(service: &ObjectKey) -> Self {
        let ObjectKey { namespace, name } = service.clone();
        Self { namespace, service: name, port: SmolStr::default(), protocol: Protocol::Tcp }
    }
}

impl Model {
    /// All ports with their endpoints.
    pub fn ports(&self) -> impl Iterator<Item = Port<'_>> {
        self.services.iter().map(|(name, port)| (name, port, self.endpoints(name)))
    }

    /// The ports of a service with their endpoints.
    pub fn ports_of<'a>(&'a self, service: &'a ObjectKey) -> impl Iterator<Item = Port<'a>> {
        let from = self.services.range(PortName::before(service)..);
        from.take_while(|(name, _)| name.is_of(service))
            .map(|(name, port)| (name, port, self.endpoints(name)))
    }

    fn endpoints(&self, name: &PortName) -> &[Endpoint] {
        self.endpoints.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Serves nobody at `spec.externalIPs`.
    pub fn forget_external_ips(&mut self) {
        for port in self.services.values_mut().filter(|port| !port.external_ips.is_empty()) {
            Arc::make_mut(port).external_ips.clear();
        }
    }

    /// Forgets a service; whether there was one.
    pub fn remove(&mut self, service: &ObjectKey) -> bool {
        if self.services.is_empty() {
            return false;
        }
        let names: Vec<_> = self.ports_of(service).map(|(name, ..)| name.clone()).collect();
        for name in &names {
            self.services.remove(name);
            self.endpoints.remove(name);
        }
        !names.is_empty()
    }
}

impl Protocol {
    /// From the API's word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.namespace, self.service, self.protocol.name(), self.port)
    }
}
