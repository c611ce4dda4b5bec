//! What a service needs: pure decisions about addresses, families and ports.
//!
//! Contract: core/v1 Service (type, clusterIPs, ipFamilies, ipFamilyPolicy, nodePort), KEP-563.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Held, families};
use crate::{field::Path, object::Object, status::Status};

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where one cluster IP comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// The service has it already.
    Keep(IpAddr),
    /// The user wants this one.
    Exact(IpAddr),
    /// Any of the family.
    Any(Family),
}

/// One node port to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Indices in `spec.ports` it is written to; none for the health check port.
    pub indices: Vec<usize>,
    /// The port the user wants.
    pub exact: Option<u16>,
}

/// What a write takes, and what it fills in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// All addresses in order, kept and taken; empty when none is taken.
    pub ips: Vec<Ip>,
    /// Ports to take.
    pub ports: Vec<Port>,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The one that is not this.
    pub(super) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// By its name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }
}

impl Port {
    /// The field an error speaks of.
    pub fn path(&self) -> Path {
        match self.indices.first() {
            Some(i) => Path::new("spec").child("ports").index(*i).child("nodePort"),
            None => Path::new("spec").child("healthCheckNodePort"),
        }
    }

    /// Fills the port in.
    pub fn write(&self, service: &mut Object, port: u16) {
        let Some(spec) = service.as_map_mut().get_mut("spec") else { return };
        if self.indices.is_empty() {
            spec["healthCheckNodePort"] = json!(port);
        }
        for i in &self.indices {
            spec["ports"][*i]["nodePort"] = json!(port);
        }
    }
}

impl Demand {
    /// Fills in addresses.
    pub fn write_ips(&self, service: &mut Object, ips: &[String]) {
        let Some(spec) = service.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
        if let Some(first) = ips.first() {
            spec.insert("clusterIP".to_owned(), json!(first));
            spec.insert("clusterIPs".to_owned(), json!(ips));
        }
    }
}

/// What a stored service holds.
pub fn held(service: &Object) -> Held {
    let mut held = Held::default();
    if kind(service) == "ExternalName" {
        return held;
    }
    held.ips = stated_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect();
    if needs_ports(service) {
        held.ports = ports(service).iter().filter_map(node_port).collect();
    }
    held.ports.extend(health_port(service).filter(|_| needs_health_port(service)));
    held.ports.sort_unstable();
    held.ports.dedup();
    held
}

/// What `old` held and `new` does not.
pub fn obsolete(old: &Held, new: &Held) -> Held {
    Held {
        ips: old.ips.iter().filter(|ip| !new.ips.contains(ip)).copied().collect(),
        ports: old.ports.iter().filter(|p| !new.ports.contains(p)).copied().collect(),
    }
}

/// What a write must take. `available` are the families of the cluster's ranges, primary first.
///
/// # Errors
/// Addresses, families and a policy that do not go together, or not with the cluster.
pub fn plan(new: &mut Object, old: Option<&Object>, available: &[Family]) -> Result<Demand, Status> {
    let mut demand = Demand::default();
    let before = old.and_then(spec);
    if let (Some(old), Some(before)) = (old, before) {
        carry_over(new, old);
        if let Some(spec) = new.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) {
            families::normalize(spec, Some(before));
        }
    } else if let Some(spec) = new.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) {
        families::normalize(spec, None);
    }
    if kind(new) == "ExternalName" {
        return Ok(demand);
    }
    let Some(Value::Object(fields)) = new.as_map_mut().get_mut("spec") else { return Ok(demand) };
    families::settle(fields, before, available).map_err(|errors| super::refused(new, &errors))?;
    plan_ips(new, old, &mut demand);
    let previous = old.filter(|old| kind(old) != "ExternalName");
    plan_ports(new, &previous.map(held).unwrap_or_default(), &mut demand);
    Ok(demand)
}

/// A service that had none gets an address of each family; one that is given a second family gets the second address.
fn plan_ips(new: &Object, old: Option<&Object>, demand: &mut Demand) {
    let old = old.filter(|old| kind(old) != "ExternalName");
    let (before, families) = (old.map(families_of), families_of(new));
    let (stated, first) = (stated_ips(new), old.map(stated_ips).unwrap_or_default());
    if stated.first().or(first.first()).is_some_and(|ip| ip == "None") {
        return;
    }
    match before {
        Some(before) if (before.len(), families.len()) == (1, 2) => {}
        Some(_) => return,
        None => {}
    }
    let kept = usize::from(old.is_some());
    let one = |(i, family): (usize, &Family)| match stated.get(i).and_then(|ip| ip.parse().ok()) {
        Some(ip) if i < kept => Ip::Keep(ip),
        Some(ip) => Ip::Exact(ip),
        None => Ip::Any(*family),
    };
    demand.ips = families.iter().enumerate().map(one).collect();
}

fn families_of(service: &Object) -> Vec<Family> {
    let listed = service.pointer("/spec/ipFamilies").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|f| Family::parse(f.as_str()?)).collect()
}

fn spec(service: &Object) -> Option<&Map<String, Value>> {
    service.get("spec").and_then(Value::as_object)
}

fn plan_ports(new: &Object, held: &Held, demand: &mut Demand) {
    if !needs_ports(new) {
        return;
    }
    let list = ports(new);
    for (i, port) in list.iter().enumerate() {
        match node_port(port) {
            Some(stated) if held.ports.contains(&stated) => {}
            Some(stated) => match demand.ports.iter_mut().find(|p| p.exact == Some(stated)) {
                // Two protocols of one service may share a node port.
                Some(same) => same.indices.push(i),
                None => demand.ports.push(Port { indices: vec![i], exact: Some(stated) }),
            },
            None => {
                let number = |p: &Value| p.get("port").and_then(Value::as_u64);
                let shared = demand.ports.iter_mut().find(|p| {
                    p.indices
                        .iter()
                        .any(|j| number(&list[*j]) == number(port) && protocol(&list[*j]) != protocol(port))
                });
                match shared {
                    Some(same) => same.indices.push(i),
                    None => demand.ports.push(Port { indices: vec![i], exact: None }),
                }
            }
        }
    }
    if needs_health_port(new) {
        match health_port(new) {
            Some(stated) if held.ports.contains(&stated) => {}
            exact => demand.ports.push(Port { indices: Vec::new(), exact }),
        }
    }
}

/// An update that leaves out what was allocated keeps it: addresses, node ports of the same name, the port of health
/// checks.
fn carry_over(new: &mut Object, old: &Object) {
    let keep_ips = kind(old) != "ExternalName" && kind(new) != "ExternalName";
    let keep_ports = has_node_ports(new) && has_node_ports(old);
    let keep_health = needs_health_port(new) && needs_health_port(old) && health_port(new).is_none();
    let old_ports = ports(old);
    let (Some(spec), Some(before)) =
        (new.as_map_mut().get_mut("spec").and_then(Value::as_object_mut), spec(old))
    else {
        return;
    };
    for field in ["clusterIP", "clusterIPs"].into_iter().filter(|_| keep_ips) {
        if families::is_nothing(spec.get(field))
            && let Some(value) = before.get(field)
        {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(port) = health_port(old).filter(|_| keep_health) {
        spec.insert("healthCheckNodePort".to_owned(), json!(port));
    }
    if !keep_ports {
        return;
    }
    let Some(list) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
    let still: Vec<u16> = list.iter().filter_map(node_port).collect();
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    for port in list.iter_mut().filter(|p| node_port(p).is_none()) {
        let found = old_ports.iter().rfind(|old| name(old) == name(port)).and_then(node_port);
        if let Some(kept) = found.filter(|kept| !still.contains(kept)) {
            port["nodePort"] = json!(kept);
        }
    }
}

/// Whether the service is given a node port for each of its ports.
fn has_node_ports(service: &Object) -> bool {
    let declined = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    kind(service) == "NodePort" || kind(service) == "LoadBalancer" && !declined
}

fn kind(service: &Object) -> &str {
    match service.pointer("/spec/type").and_then(Value::as_str).unwrap_or_default() {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn needs_ports(service: &Object) -> bool {
    let declined = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => !declined || ports(service).iter().any(|p| node_port(p).is_some()),
        _ => false,
    }
}

fn needs_health_port(service: &Object) -> bool {
    let policy = service.pointer("/spec/externalTrafficPolicy").and_then(Value::as_str);
    kind(service) == "LoadBalancer" && policy == Some("Local")
}

fn health_port(service: &Object) -> Option<u16> {
    let port = service.pointer("/spec/healthCheckNodePort")?.as_u64()?;
    u16::try_from(port).ok().filter(|p| *p > 0)
}

/// `clusterIPs`, or `clusterIP` alone; empty strings left out.
fn stated_ips(service: &Object) -> Vec<String> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
    let ips: Vec<String> =
        list.filter_map(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    if !ips.is_empty() {
        return ips;
    }
    let single = service.pointer("/spec/clusterIP").and_then(Value::as_str).filter(|s| !s.is_empty());
    single.map(str::to_owned).into_iter().collect()
}

fn ports(service: &Object) -> Vec<Value> {
    service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn node_port(port: &Value) -> Option<u16> {
    u16::try_from(port.get("nodePort")?.as_u64()?).ok().filter(|p| *p > 0)
}

fn protocol(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}
