//! What a service needs: pure decisions about addresses, families and ports.
//!
//! Contract: core/v1 Service (type, clusterIPs, ipFamilies, ipFamilyPolicy, nodePort), KEP-563.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Held;
use crate::{
    field::{Error as FieldError, Path},
    object::Object,
    status::Status,
};

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
    /// Addresses in order; empty when the service has none.
    pub ips: Vec<Ip>,
    /// Families to state; empty leaves them alone.
    pub families: Vec<Family>,
    /// Policy to state; empty leaves it alone.
    pub policy: String,
    /// The service is headless.
    pub headless: bool,
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

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    fn parse(name: &str) -> Option<Self> {
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
    /// Fills in addresses, families and policy.
    pub fn write_ips(&self, service: &mut Object, ips: &[String]) {
        let Some(spec) = service.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
        if self.headless {
            spec.insert("clusterIP".to_owned(), json!("None"));
            spec.insert("clusterIPs".to_owned(), json!(["None"]));
        } else if let Some(first) = ips.first() {
            spec.insert("clusterIP".to_owned(), json!(first));
            spec.insert("clusterIPs".to_owned(), json!(ips));
        }
        if !self.families.is_empty() {
            let names: Vec<&str> = self.families.iter().map(|f| f.name()).collect();
            spec.insert("ipFamilies".to_owned(), json!(names));
        }
        if !self.policy.is_empty() {
            spec.insert("ipFamilyPolicy".to_owned(), json!(self.policy));
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
pub fn plan(new: &mut Object, old: Option<&Object>, available: &[Family]) -> Result<Demand, Status> {
    let mut demand = Demand::default();
    if kind(new) == "ExternalName" {
        return Ok(demand);
    }
    let previous = old.filter(|old| kind(old) != "ExternalName");
    if let Some(old) = previous {
        carry_over(new, old);
    }
    let held = previous.map(held).unwrap_or_default();
    plan_ips(new, &held, available, &mut demand)?;
    plan_ports(new, &held, &mut demand);
    Ok(demand)
}

fn plan_ips(new: &Object, held: &Held, available: &[Family], demand: &mut Demand) -> Result<(), Status> {
    let stated = stated_ips(new);
    demand.headless = stated.first().is_some_and(|ip| ip == "None");
    let ips: Vec<IpAddr> = stated.iter().filter_map(|ip| ip.parse().ok()).collect();
    let listed = new.pointer("/spec/ipFamilies").and_then(Value::as_array).into_iter().flatten();
    let mut families: Vec<Family> = listed.filter_map(|f| Family::parse(f.as_str()?)).collect();
    for (i, ip) in ips.iter().enumerate() {
        if i >= families.len() {
            families.push(Family::of(*ip));
        }
    }
    let primary = available.first().copied().unwrap_or(Family::V4);
    let stated_policy = new.pointer("/spec/ipFamilyPolicy").and_then(Value::as_str).unwrap_or_default();
    let selects = new.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    demand.policy = match stated_policy {
        "" if families.len() > 1 => "RequireDualStack".to_owned(),
        "" if demand.headless && !selects && families.is_empty() => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        stated => stated.to_owned(),
    };
    let selectorless_headless = demand.headless && !selects;
    if demand.policy == "RequireDualStack" && available.len() < 2 && !selectorless_headless {
        let path = Path::new("spec").child("ipFamilyPolicy");
        let detail = "this cluster is not configured for dual-stack services";
        return Err(super::invalid(new, FieldError::invalid(&path, "RequireDualStack", detail)));
    }
    if let Some(missing) = families.iter().find(|f| !available.contains(f)).filter(|_| !selectorless_headless)
    {
        let path = Path::new("spec").child("ipFamilies").index(0);
        let detail = format!("not configured on this cluster: {}", missing.name());
        return Err(super::invalid(new, FieldError::invalid(&path, missing.name(), detail)));
    }
    if families.is_empty() {
        families.push(primary);
    }
    let both = match demand.policy.as_str() {
        "RequireDualStack" => true,
        "PreferDualStack" => available.len() > 1 || selectorless_headless,
        _ => false,
    };
    if both && families.len() == 1 {
        families.push(families[0].other());
    }
    if !both {
        families.truncate(1);
    }
    if !demand.headless {
        demand.ips = families
            .iter()
            .enumerate()
            .map(|(i, family)| match ips.get(i) {
                Some(ip) if held.ips.contains(ip) => Ip::Keep(*ip),
                Some(ip) => Ip::Exact(*ip),
                None => Ip::Any(*family),
            })
            .collect();
    }
    demand.families = families;
    Ok(())
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

/// An update that leaves out what was allocated keeps it.
fn carry_over(new: &mut Object, old: &Object) {
    let old_ips = stated_ips(old);
    let keep_ips = stated_ips(new).is_empty() && !old_ips.is_empty();
    let keep_ports = needs_ports(new) && needs_ports(old);
    let keep_health = needs_health_port(new) && needs_health_port(old) && health_port(new).is_none();
    let old_ports = ports(old);
    let Some(spec) = new.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
    if keep_ips {
        spec.insert("clusterIP".to_owned(), json!(old_ips[0]));
        spec.insert("clusterIPs".to_owned(), json!(old_ips));
    }
    if let Some(port) = health_port(old).filter(|_| keep_health) {
        spec.insert("healthCheckNodePort".to_owned(), json!(port));
    }
    if !keep_ports {
        return;
    }
    let Some(list) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
    let mut used: Vec<(u16, String)> =
        list.iter().filter_map(|p| Some((node_port(p)?, protocol(p).to_owned()))).collect();
    for port in list.iter_mut().filter(|p| node_port(p).is_none()) {
        let same = |o: &&Value| o.get("port") == port.get("port") && protocol(o) == protocol(port);
        let found = old_ports.iter().find(same).and_then(node_port);
        if let Some(kept) = found.filter(|kept| !used.contains(&(*kept, protocol(port).to_owned()))) {
            used.push((kept, protocol(port).to_owned()));
            port["nodePort"] = json!(kept);
        }
    }
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
