//! Load balancers for services of type LoadBalancer (upstream's `service` controller).
//!
//! Level-triggered over all services at once: the plan says which addresses services have, which
//! objects must change, and which load balancers exist. Contract: finalizer
//! `service.kubernetes.io/load-balancer-cleanup` (KEP-980); nodes labelled
//! `node.kubernetes.io/exclude-from-external-load-balancers` or not ready take no traffic.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Service};

use crate::provider::{LoadBalancer, NodeAddress, Provider};

/// Keeps a service until its load balancer is gone.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What must happen to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add the finalizer, before anything is made for the service.
    AddFinalizer,
    /// Remove the finalizer, after its load balancer is gone.
    RemoveFinalizer,
    /// Publish the address in the status.
    SetAddress(IpAddr),
    /// Take the address out of the status.
    ClearAddress,
    /// Tell the user why there is no load balancer.
    Refuse(String),
}

/// Everything that must happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Load balancers that must exist, by service.
    pub load_balancers: Vec<LoadBalancer>,
    /// Changes per service (namespace, name), in order.
    pub actions: Vec<(String, String, Action)>,
}

/// Plans for all services and nodes.
pub fn plan(services: &[Arc<Service>], nodes: &[Arc<Node>], provider: &dyn Provider) -> Plan {
    let targets = targets(nodes);
    let mut plan = Plan::default();
    let mut sorted: Vec<&Arc<Service>> = services.iter().collect();
    // Older services keep their addresses when two claim the same.
    sorted.sort_by_key(|s| (s.metadata.creation_timestamp.clone(), key(s)));
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let published: Vec<Option<IpAddr>> =
        sorted.iter().map(|s| if wanted(s) { address_of(s) } else { None }).collect();
    for (at, service) in sorted.iter().enumerate() {
        let (namespace, name) = key(service);
        let mut act = |action| plan.actions.push((namespace.clone(), name.clone(), action));
        if !wanted(service) {
            if address_of(service).is_some() && service.metadata.deletion_timestamp.is_none() {
                act(Action::ClearAddress);
            }
            if has_finalizer(service) {
                act(Action::RemoveFinalizer);
            }
            continue;
        }
        if !has_finalizer(service) {
            act(Action::AddFinalizer);
        }
        // A younger service that shows the same address is the one that moves.
        let current = published[at].filter(|ip| !taken.contains(ip));
        let later = published[at + 1..].iter().flatten().filter(|ip| Some(**ip) != current);
        let others: BTreeSet<IpAddr> = taken.iter().chain(later).copied().collect();
        match provider.choose_address(current, requested(service), &others) {
            Ok(address) => {
                taken.insert(address);
                if published[at] != Some(address) {
                    act(Action::SetAddress(address));
                }
                let service = format!("{namespace}/{name}");
                plan.load_balancers.push(LoadBalancer { service, address, nodes: targets.clone() });
            }
            Err(error) => act(Action::Refuse(error.to_string())),
        }
    }
    plan
}

/// The internal address of a node in a family.
pub fn internal_address(node: &Node, v4: bool) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses
        .iter()
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv4() == v4)
}

fn key(service: &Service) -> (String, String) {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    (text(&service.metadata.namespace), text(&service.metadata.name))
}

/// Whether a service is to have a load balancer from us.
fn wanted(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer")
        && spec.is_some_and(|s| s.load_balancer_class.is_none())
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn requested(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.load_balancer_ip.as_ref()?.parse().ok()
}

fn address_of(service: &Service) -> Option<IpAddr> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.first()?.ip.as_ref()?.parse().ok()
}

fn targets(nodes: &[Arc<Node>]) -> Vec<NodeAddress> {
    let takes = |n: &Node| {
        let excluded = n.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDE));
        let ready = n.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        !excluded && ready.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let mut out: Vec<NodeAddress> = nodes
        .iter()
        .filter(|n| takes(n))
        .filter_map(|n| {
            let address = internal_address(n, true).or_else(|| internal_address(n, false))?;
            Some(NodeAddress { name: n.metadata.name.clone().unwrap_or_default(), address })
        })
        .collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::provider::bare_metal::{BareMetal, Config};

    fn provider() -> BareMetal {
        let config: Config =
            serde_json::from_value(json!({"loadBalancer": {"pool": ["10.97.0.0/31"]}})).unwrap();
        BareMetal::new(config)
    }

    fn service(name: &str, second: u32, extra: Value) -> Arc<Service> {
        let mut v = json!({
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "finalizers": [FINALIZER]},
            "spec": {"type": "LoadBalancer"},
        });
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            let (parent, leaf) = pointer.split_once('/').unwrap();
            v[parent][leaf] = value.clone();
        }
        serde_json::from_value(v).map(Arc::new).unwrap()
    }

    fn ingress(ip: &str) -> Value {
        json!({"ingress": [{"ip": ip}]})
    }

    fn actions(services: &[Arc<Service>]) -> Vec<String> {
        let plan = plan(services, &[], &provider());
        plan.actions.iter().map(|(_, name, action)| format!("{name} {action:?}")).collect()
    }

    #[test]
    fn a_new_service_gets_finalizer_and_address_and_then_rests() {
        let fresh = service("a", 1, json!({"metadata/finalizers": []}));
        assert_eq!(actions(&[fresh]), ["a AddFinalizer", "a SetAddress(10.97.0.0)"]);
        let settled = service("a", 1, json!({"status/loadBalancer": ingress("10.97.0.0")}));
        assert!(actions(&[settled]).is_empty());
    }

    #[test]
    fn two_services_never_share_an_address_and_the_older_keeps_it() {
        let older = service("older", 1, json!({"status/loadBalancer": ingress("10.97.0.1")}));
        let newer = service("newer", 2, json!({"status/loadBalancer": ingress("10.97.0.1")}));
        assert_eq!(actions(&[newer, older.clone()]), ["newer SetAddress(10.97.0.0)"]);
        let third = service("third", 3, json!({}));
        let second = service("second", 2, json!({"status/loadBalancer": ingress("10.97.0.0")}));
        assert_eq!(
            actions(&[older, second, third]),
            [r#"third Refuse("no free address in the load balancer pool 10.97.0.0/31")"#]
        );
    }

    #[test]
    fn a_deleted_or_retyped_service_is_let_go() {
        let deleted = service(
            "a",
            1,
            json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z",
            "status/loadBalancer": ingress("10.97.0.0")}),
        );
        assert_eq!(actions(&[deleted]), ["a RemoveFinalizer"]);
        let retyped =
            service("a", 1, json!({"spec/type": "ClusterIP", "status/loadBalancer": ingress("10.97.0.0")}));
        assert_eq!(actions(&[retyped]), ["a ClearAddress", "a RemoveFinalizer"]);
        let foreign = service("a", 1, json!({"spec/loadBalancerClass": "x.io/y", "metadata/finalizers": []}));
        assert!(actions(&[foreign]).is_empty());
    }

    #[test]
    fn only_ready_and_not_excluded_nodes_take_traffic() {
        let node = |name: &str, ready: &str, labels: Value| -> Arc<Node> {
            let v = json!({"metadata": {"name": name, "labels": labels}, "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "InternalIP", "address": "10.98.0.11"}]}});
            serde_json::from_value(v).map(Arc::new).unwrap()
        };
        let nodes = [
            node("ok", "True", json!({})),
            node("down", "Unknown", json!({})),
            node("out", "True", json!({EXCLUDE: ""})),
        ];
        let plan = plan(&[service("a", 1, json!({}))], &nodes, &provider());
        assert_eq!(plan.load_balancers[0].nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["ok"]);
    }
}
