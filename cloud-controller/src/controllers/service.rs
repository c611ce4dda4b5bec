//! Load balancers for services of type LoadBalancer (upstream's `service` controller).
//!
//! Level-triggered over all services at once: the plan says which addresses services have, which
//! objects must change, and which load balancers exist. Contract: finalizer
//! `service.kubernetes.io/load-balancer-cleanup` (KEP-980); nodes labelled
//! `node.kubernetes.io/exclude-from-external-load-balancers`, on their way out or not ready take no traffic. Events are
//! upstream's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Service};

use crate::provider::{LoadBalancer, NodeAddress, Provider};

/// Keeps a service until its load balancer is gone.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taint of nodes that an autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

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

/// Something to tell about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether something is wrong.
    pub warns: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub note: &'static str,
}

impl Told {
    fn new(of: &(String, String, Action), warns: bool, reason: &'static str, note: &'static str) -> Self {
        Self { namespace: of.0.clone(), name: of.1.clone(), warns, reason, note }
    }
}

impl Plan {
    /// What is told before anything is done.
    pub fn before(&self) -> Vec<Told> {
        let told = |of: &(String, String, Action)| match of.2 {
            Action::SetAddress(_) => {
                Some(Told::new(of, false, "EnsuringLoadBalancer", "Ensuring load balancer"))
            }
            Action::RemoveFinalizer => {
                Some(Told::new(of, false, "DeletingLoadBalancer", "Deleting load balancer"))
            }
            _ => None,
        };
        self.actions.iter().filter_map(told).collect()
    }

    /// What is told of the nodes that take the traffic, once they do. `before` are those that took it so far; `None`
    /// while nobody knows.
    pub fn after(&self, before: Option<&[NodeAddress]>) -> Vec<Told> {
        let told = |balancer: &LoadBalancer| {
            let (namespace, name) = balancer.service.split_once('/')?;
            let is_new = self.actions.iter().any(|(of_namespace, of_name, action)| {
                matches!(action, Action::SetAddress(_)) && of_namespace == namespace && of_name == name
            });
            let moved = before.is_some_and(|before| before != balancer.nodes);
            let (warns, reason, note) = match balancer.nodes.is_empty() {
                true if is_new || moved => {
                    (true, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
                }
                false if moved && !is_new => {
                    (false, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
                }
                _ => return None,
            };
            Some(Told { namespace: namespace.to_owned(), name: name.to_owned(), warns, reason, note })
        };
        self.load_balancers.iter().filter_map(told).collect()
    }
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

/// Whether a node's label keeps it out: with any value but one that says no.
fn is_excluded(node: &Node) -> bool {
    let value = node.metadata.labels.as_ref().and_then(|l| l.get(EXCLUDE));
    value.is_some_and(|v| !matches!(v.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False"))
}

/// Nodes that take traffic.
pub fn targets(nodes: &[Arc<Node>]) -> Vec<NodeAddress> {
    let takes = |n: &Node| {
        let mut taints = n.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let goes = n.metadata.deletion_timestamp.is_some() || taints.any(|t| t.key == TO_BE_DELETED);
        let excluded = is_excluded(n) || goes;
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

    fn node(name: &str, ready: &str, labels: Value) -> Node {
        let v = json!({"metadata": {"name": name, "labels": labels}, "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": "10.98.0.11"}]}});
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_ready_nodes_that_stay_and_are_not_excluded_take_traffic() {
        let mut going = node("going", "True", json!({}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut doomed = node("doomed", "True", json!({}));
        doomed.spec =
            serde_json::from_value(json!({"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}))
                .unwrap();
        let nodes = [
            node("ok", "True", json!({})),
            node("down", "Unknown", json!({})),
            node("out", "True", json!({EXCLUDE: ""})),
            node("really", "True", json!({EXCLUDE: "true"})),
            node("whatever", "True", json!({EXCLUDE: "whatever"})),
            node("not", "True", json!({EXCLUDE: "false"})),
            going,
            doomed,
        ];
        let nodes: Vec<Arc<Node>> = nodes.into_iter().map(Arc::new).collect();
        let plan = plan(&[service("a", 1, json!({}))], &nodes, &provider());
        let names: Vec<&str> = plan.load_balancers[0].nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["not", "ok"]);
    }

    #[test]
    fn what_is_done_is_told_before_and_of_nodes_afterwards() {
        let one = [Arc::new(node("n", "True", json!({})))];
        let reasons = |told: Vec<Told>| told.iter().map(|t| t.reason).collect::<Vec<_>>();
        let fresh = plan(&[service("a", 1, json!({}))], &one, &provider());
        let settled = service("a", 1, json!({"status/loadBalancer": ingress("10.97.0.0")}));
        let (rests, alone) =
            (plan(std::slice::from_ref(&settled), &one, &provider()), plan(&[settled], &[], &provider()));
        let gone = plan(
            &[service("a", 1, json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}))],
            &one,
            &provider(),
        );
        let before = |plan: &Plan| reasons(plan.before());
        assert_eq!(before(&fresh), ["EnsuringLoadBalancer"]);
        assert_eq!((before(&rests), before(&gone)), (vec![], vec!["DeletingLoadBalancer"]));
        let some = targets(&one);
        let after = |plan: &Plan, nodes: Option<&[NodeAddress]>| reasons(plan.after(nodes));
        assert!(after(&fresh, None).is_empty() && after(&fresh, Some(&[])).is_empty());
        assert!(after(&rests, None).is_empty() && after(&rests, Some(&some)).is_empty());
        assert_eq!(after(&rests, Some(&[])), ["UpdatedLoadBalancer"]);
        assert_eq!(after(&alone, Some(&some)), ["UnAvailableLoadBalancer"]);
        assert!(after(&alone, Some(&[])).is_empty(), "once");
        let lonely = plan(&[service("a", 1, json!({}))], &[], &provider());
        assert_eq!(after(&lonely, None), ["UnAvailableLoadBalancer"]);
    }
}
