//! Policies, pods and namespaces in the plan's terms. Values the API's validation would refuse match nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use component_base::selector::LabelSelector;
use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector as ApiSelector, util::intstr::IntOrString},
};

use crate::{model::Protocol, objects};

/// Labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// Everything the plan reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// Labels of namespaces by name.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods that have addresses of their own, by namespace and name.
    pub pods: BTreeMap<(String, String), Arc<Pod>>,
    /// Policies by namespace and name.
    pub policies: BTreeMap<(String, String), Arc<Policy>>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Labels.
    pub labels: Labels,
    /// Addresses of all families.
    pub addresses: Vec<IpAddr>,
    /// Whether it runs on this node.
    pub local: bool,
    /// Ports that have names.
    pub ports: Vec<PodPort>,
}

/// A named port of a pod's container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodPort {
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whom it isolates.
    pub pods: LabelSelector,
    /// What they may receive; `None` when the policy does not speak of it.
    pub ingress: Option<Vec<Rule>>,
    /// What they may send; `None` when the policy does not speak of it.
    pub egress: Option<Vec<Rule>>,
}

/// What is allowed: traffic with any of the peers over any of the ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// With whom; `None` is everybody.
    pub peers: Option<Vec<Peer>>,
    /// Over what; `None` is everything.
    pub ports: Option<Vec<Port>>,
}

/// The other side.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Pods with these labels in these namespaces.
    Pods(Namespaces, LabelSelector),
    /// Addresses of a range, without those of some ranges inside.
    Range(IpNet, Vec<IpNet>),
}

/// Namespaces of peers.
#[derive(Clone, Debug, PartialEq)]
pub enum Namespaces {
    /// The policy's.
    Own,
    /// Those with these labels.
    Matching(LabelSelector),
}

/// Ports of the receiving side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Protocol.
    pub protocol: Protocol,
    /// Which.
    pub port: PortRef,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// All.
    Any,
    /// From first to last.
    Range(u16, u16),
    /// What the receiving pod's containers call so.
    Named(String),
}

impl Pod {
    /// A pod as the API has it, seen from node `node`; `None` for one that has no address of its own: of the host's
    /// network, not started yet, or ended, when its address may be another's.
    pub fn of(pod: &objects::Pod, node: &str) -> Option<Self> {
        if pod.spec.host_network || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let mut addresses: Vec<IpAddr> =
            pod.status.pod_ips.iter().filter_map(|a| a.ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(pod.status.pod_ip.parse::<IpAddr>());
        }
        let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
        let ports = pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
        let named = ports.filter(|p| !p.name.is_empty()).filter_map(|p| {
            let protocol = protocol(Some(p.protocol.as_str()).filter(|word| !word.is_empty()))?;
            Some(PodPort { name: p.name.clone(), protocol, port: p.container_port })
        });
        (!addresses.is_empty()).then(|| Self {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            local: pod.spec.node_name == node,
            ports: named.collect(),
        })
    }
}

impl Policy {
    /// A policy as the API has it.
    pub fn of(policy: &NetworkPolicy) -> Self {
        let spec = policy.spec.clone().unwrap_or_default();
        let types: BTreeSet<&str> = spec.policy_types.iter().flatten().map(String::as_str).collect();
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let ingress = spec.ingress.iter().flatten().map(|r| Rule::of(r.from.as_deref(), r.ports.as_deref()));
        let egress = spec.egress.iter().flatten().map(|r| Rule::of(r.to.as_deref(), r.ports.as_deref()));
        Self {
            pods: selector(spec.pod_selector.as_ref()).unwrap_or_else(LabelSelector::everything),
            ingress: (types.is_empty() || types.contains("Ingress")).then(|| ingress.collect()),
            egress: (types.contains("Egress") || types.is_empty() && has_egress).then(|| egress.collect()),
        }
    }
}

impl Policy {
    /// Whether what the policy comes to may depend on this pod: it isolates the pod, or the pod is a peer.
    pub fn concerns(&self, own: &str, namespaces: &BTreeMap<String, Labels>, of: &str, pod: &Pod) -> bool {
        let peer = |peer: &Peer| match peer {
            Peer::Range(..) => false,
            Peer::Pods(Namespaces::Own, selector) => own == of && selector.matches(&pod.labels),
            Peer::Pods(Namespaces::Matching(chosen), selector) => {
                namespaces.get(of).is_some_and(|labels| chosen.matches(labels))
                    && selector.matches(&pod.labels)
            }
        };
        let rules = || self.ingress.iter().chain(&self.egress).flatten();
        let named = |port: &Port| matches!(port.port, PortRef::Named(_));
        // What is sent to anybody's named port depends on everybody.
        let to_anybody = |rule: &Rule| {
            let anybody =
                rule.peers.as_ref().is_none_or(|all| all.iter().any(|p| matches!(p, Peer::Range(..))));
            anybody && !pod.ports.is_empty() && rule.ports.iter().flatten().any(named)
        };
        (own == of && self.pods.matches(&pod.labels))
            || rules().any(|rule| rule.peers.iter().flatten().any(peer))
            || self.egress.iter().flatten().any(to_anybody)
    }

    /// Whether what the policy comes to may depend on which pods are in a namespace with these labels.
    pub fn concerns_namespace(&self, labels: &Labels) -> bool {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        rules.flat_map(|rule| rule.peers.iter().flatten()).any(|peer| match peer {
            Peer::Pods(Namespaces::Matching(chosen), _) => chosen.matches(labels),
            _ => false,
        })
    }
}

impl Rule {
    /// Missing and empty lists both stand for everything; a list of which nothing can be read allows nothing.
    fn of(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Self {
        let given = peers.filter(|list| !list.is_empty());
        let ports = ports.filter(|list| !list.is_empty());
        Self {
            peers: given.map(|list| list.iter().filter_map(Peer::of).collect()),
            ports: ports.map(|list| list.iter().filter_map(Port::of).collect()),
        }
    }
}

impl Peer {
    fn of(peer: &NetworkPolicyPeer) -> Option<Self> {
        if let Some(block) = &peer.ip_block {
            return range(block);
        }
        let pods = selector(peer.pod_selector.as_ref());
        match selector(peer.namespace_selector.as_ref()) {
            Some(namespaces) => {
                let pods = pods.unwrap_or_else(LabelSelector::everything);
                Some(Self::Pods(Namespaces::Matching(namespaces), pods))
            }
            None => pods.map(|pods| Self::Pods(Namespaces::Own, pods)),
        }
    }
}

impl Port {
    fn of(port: &NetworkPolicyPort) -> Option<Self> {
        let number = |number: i32| u16::try_from(number).ok().filter(|n| *n != 0);
        let which = match (&port.port, port.end_port) {
            (None, _) => PortRef::Any,
            (Some(IntOrString::Int(first)), None) => PortRef::Range(number(*first)?, number(*first)?),
            (Some(IntOrString::Int(first)), Some(last)) => PortRef::Range(number(*first)?, number(last)?),
            (Some(IntOrString::String(name)), _) => PortRef::Named(name.clone()),
        };
        Some(Self { protocol: protocol(port.protocol.as_deref())?, port: which })
    }
}

fn range(block: &IPBlock) -> Option<Peer> {
    let range = block.cidr.trim().parse().ok()?;
    // An exception that cannot be read excepts everything: what was meant to be shut must not be open.
    let except = block.except.iter().flatten().map(|e| e.trim().parse().unwrap_or(range));
    Some(Peer::Range(range, except.collect()))
}

/// `None` when there is none; one that cannot be read selects nothing.
fn selector(selector: Option<&ApiSelector>) -> Option<LabelSelector> {
    selector.map(|s| LabelSelector::from_api(Some(s)).unwrap_or_else(|_| LabelSelector::nothing()))
}

fn protocol(word: Option<&str>) -> Option<Protocol> {
    word.map_or(Some(Protocol::Tcp), Protocol::parse)
}
