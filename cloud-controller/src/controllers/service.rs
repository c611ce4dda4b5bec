//! Load balancers for services of type LoadBalancer (upstream's `service` controller).
//!
//! Level-triggered over all services at once: the plan says which addresses services have, which
//! objects must change, and which load balancers exist. Contract: finalizer
//! `service.kubernetes.io/load-balancer-cleanup` (KEP-980); nodes labelled
//! `node.kubernetes.io/exclude-from-external-load-balancers` or on their way out take no traffic; those that are not ready
//! stay (KEP-3458). Services with a class are somebody else's, and only lose the finalizer, which others share, once
//! they are deleted. Events are upstream's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Service};

use super::node_lifecycle::is_ready;
use crate::provider::{LoadBalancer, NodeAddress, Provider};

/// Keeps a service until its load balancer is gone.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taint of nodes that an autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// No more names of nodes are told than this.
const MAX_NAMES: usize = 20;

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
            let deleted = service.metadata.deletion_timestamp.is_some();
            if address_of(service).is_some() && !deleted && !is_balanced(service) {
                act(Action::ClearAddress);
            }
            if has_finalizer(service) && (deleted || !is_balanced(service)) {
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
            Err(error) => act(Action::Refuse(format!("failed to ensure load balancer: {error}"))),
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
    pub note: String,
}

impl Told {
    fn new(
        of: &(String, String, Action),
        warns: bool,
        reason: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { namespace: of.0.clone(), name: of.1.clone(), warns, reason, note: note.into() }
    }
}

/// Services whose load balancers are to do something else than before, by namespace and name.
pub type Changed = BTreeSet<(String, String)>;

impl Plan {
    /// The services of load balancers that are there already and do something else now.
    fn changing<'a>(&'a self, changed: &'a Changed) -> impl Iterator<Item = &'a LoadBalancer> {
        self.load_balancers.iter().filter(|balancer| {
            let key = balancer.service.split_once('/');
            let is_among =
                |(namespace, name): (&str, &str)| changed.contains(&(namespace.to_owned(), name.to_owned()));
            key.is_some_and(is_among) && !self.is_new(balancer)
        })
    }

    /// What is told of those that do something else: before, and once they do.
    pub fn told_of(&self, changed: &Changed, is_done: bool) -> Vec<Told> {
        let (reason, note) = match is_done {
            false => ("EnsuringLoadBalancer", "Ensuring load balancer"),
            true => ("EnsuredLoadBalancer", "Ensured load balancer"),
        };
        self.changing(changed).filter_map(|balancer| of(balancer, false, reason, note.to_owned())).collect()
    }

    /// What is told of them when the infrastructure did not do it.
    pub fn unchanged(&self, changed: &Changed, why: &str) -> Vec<Told> {
        let note = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
        let told = |balancer| of(balancer, true, "SyncLoadBalancerFailed", note.clone());
        self.changing(changed).filter_map(told).collect()
    }

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
            let is_new = self.is_new(balancer);
            let moved = moved(before, balancer);
            let (warns, reason, note) = match balancer.nodes.is_empty() {
                true if is_new || moved => {
                    (true, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
                }
                false if moved && !is_new => {
                    (false, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
                }
                _ => return None,
            };
            of(balancer, warns, reason, note.to_owned())
        };
        self.load_balancers.iter().filter_map(told).collect()
    }

    /// What is told when the infrastructure did not do it.
    pub fn failed(&self, before: Option<&[NodeAddress]>, why: &str) -> Vec<Told> {
        let sync = |of: &(String, String, Action)| {
            let what = match of.2 {
                Action::SetAddress(_) => "ensure",
                Action::RemoveFinalizer => "delete",
                _ => return None,
            };
            let note = format!("Error syncing load balancer: failed to {what} load balancer: {why}");
            Some(Told::new(of, true, "SyncLoadBalancerFailed", note))
        };
        let update = |balancer: &LoadBalancer| {
            let (names, count) = (shown(&balancer.nodes), balancer.nodes.len());
            let note = format!(
                "Error updating load balancer with new hosts [{names}] [node names limited, total number of \
                 nodes: {count}], error: {why}"
            );
            of(balancer, true, "UpdateLoadBalancerFailed", note)
        };
        self.actions.iter().filter_map(sync).chain(self.moving(before).filter_map(update)).collect()
    }

    /// How many load balancers that are there already have their traffic taken by others than before.
    pub fn moved(&self, before: Option<&[NodeAddress]>) -> usize {
        self.moving(before).count()
    }

    fn moving<'a>(&'a self, before: Option<&'a [NodeAddress]>) -> impl Iterator<Item = &'a LoadBalancer> {
        self.load_balancers.iter().filter(move |balancer| !self.is_new(balancer) && moved(before, balancer))
    }

    /// Whether a load balancer is made now.
    fn is_new(&self, balancer: &LoadBalancer) -> bool {
        self.actions.iter().any(|(namespace, name, action)| {
            matches!(action, Action::SetAddress(_)) && balancer.service == format!("{namespace}/{name}")
        })
    }
}

fn of(balancer: &LoadBalancer, warns: bool, reason: &'static str, note: String) -> Option<Told> {
    let (namespace, name) = balancer.service.split_once('/')?;
    Some(Told { namespace: namespace.to_owned(), name: name.to_owned(), warns, reason, note })
}

/// Whether others take the traffic than took it before. That a node is ready or not any more makes it no other.
fn moved(before: Option<&[NodeAddress]>, balancer: &LoadBalancer) -> bool {
    let who = |nodes: &[NodeAddress]| -> Vec<(String, IpAddr)> {
        nodes.iter().map(|node| (node.name.clone(), node.address)).collect()
    };
    before.is_some_and(|before| who(before) != who(&balancer.nodes))
}

/// Names of nodes, in order, not too many.
fn shown(nodes: &[NodeAddress]) -> String {
    let mut names: Vec<String> = nodes.iter().take(MAX_NAMES).map(|node| node.name.clone()).collect();
    names.sort_unstable();
    if let Some(more) = nodes.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        names.push(format!("<{more} more>"));
    }
    names.join(" ")
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

/// Whether the load balancer of a service is to do something else than before.
pub fn is_changed(old: &Service, new: &Service) -> bool {
    if !wanted(old) || !wanted(new) {
        return false;
    }
    let of_spec = |service: &Service| {
        let spec = service.spec.clone().unwrap_or_default();
        (
            (spec.load_balancer_source_ranges, spec.session_affinity, spec.session_affinity_config),
            (spec.load_balancer_ip, spec.external_ips, spec.ports),
            (spec.external_traffic_policy, spec.health_check_node_port),
            spec.ip_families.map(|families| families.len()),
        )
    };
    let of_meta = |service: &Service| (service.metadata.annotations.clone(), service.metadata.uid.clone());
    of_spec(old) != of_spec(new) || of_meta(old) != of_meta(new)
}

/// Whether a service is to have a load balancer from us.
fn wanted(service: &Service) -> bool {
    let is_ours = service.spec.as_ref().is_some_and(|s| s.load_balancer_class.is_none());
    service.metadata.deletion_timestamp.is_none() && is_balanced(service) && is_ours
}

/// Whether a service is to have a load balancer from somebody.
fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer")
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

/// Nodes that may take traffic.
pub fn targets(nodes: &[Arc<Node>]) -> Vec<NodeAddress> {
    let takes = |n: &Node| {
        let mut taints = n.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let goes = n.metadata.deletion_timestamp.is_some() || taints.any(|t| t.key == TO_BE_DELETED);
        !is_excluded(n) && !goes
    };
    let mut out: Vec<NodeAddress> = nodes
        .iter()
        .filter(|n| takes(n))
        .filter_map(|n| {
            let address = internal_address(n, true).or_else(|| internal_address(n, false))?;
            let name = n.metadata.name.clone().unwrap_or_default();
            Some(NodeAddress { name, address, ready: is_ready(n) })
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
    fn what_load_balancers_do_otherwise_is_told_each_time() {
        let there = |name: &str, ip: &str, more: Value| {
            let mut all = json!({"status/loadBalancer": ingress(ip)});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            service(name, 1, all)
        };
        let before = there("a", "10.97.0.0", json!({}));
        let port = |port: i32| json!([{"port": port, "protocol": "TCP"}]);
        for (more, expected) in [
            (json!({}), false),
            (json!({"metadata/finalizers": []}), false),
            (json!({"metadata/labels": {"a": "b"}}), false),
            (json!({"spec/selector": {"a": "b"}}), false),
            (json!({"spec/ports": port(80)}), true),
            (json!({"spec/sessionAffinity": "ClientIP"}), true),
            (json!({"spec/loadBalancerSourceRanges": ["10.0.0.0/8"]}), true),
            (json!({"spec/loadBalancerIP": "10.97.0.1"}), true),
            (json!({"spec/externalIPs": ["10.1.1.1"]}), true),
            (json!({"spec/externalTrafficPolicy": "Local"}), true),
            (json!({"spec/healthCheckNodePort": 30000}), true),
            (json!({"spec/ipFamilies": ["IPv4", "IPv6"]}), true),
            (json!({"metadata/annotations": {"a": "b"}}), true),
            (json!({"metadata/uid": "other"}), true),
            (json!({"spec/type": "NodePort"}), false),
            (json!({"spec/loadBalancerClass": "other", "spec/ports": port(80)}), false),
        ] {
            assert_eq!(is_changed(&before, &there("a", "10.97.0.0", more.clone())), expected, "{more}");
        }
        let changed: Changed =
            ["a", "new", "gone"].map(|name| ("default".to_owned(), name.to_owned())).into();
        let new = service("new", 2, json!({}));
        let plan = plan(&[before, new], &[], &provider());
        let told =
            |all: Vec<Told>| all.iter().map(|t| format!("{} {}", t.name, t.reason)).collect::<Vec<_>>();
        assert_eq!(
            told(plan.told_of(&changed, false)),
            ["a EnsuringLoadBalancer"],
            "of new ones it is told anyway"
        );
        assert_eq!(told(plan.told_of(&changed, true)), ["a EnsuredLoadBalancer"]);
        let failed = plan.unchanged(&changed, "no way");
        assert_eq!(failed[0].note, "Error syncing load balancer: failed to ensure load balancer: no way");
        assert_eq!(told(failed), ["a SyncLoadBalancerFailed"]);
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
            [concat!(
                r#"third Refuse("failed to ensure load balancer: "#,
                r#"no free address in the load balancer pool 10.97.0.0/31")"#
            )]
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
    }

    #[test]
    fn services_of_others_are_left_alone_until_they_are_deleted() {
        let class = json!({"spec/loadBalancerClass": "x.io/y", "status/loadBalancer": ingress("10.97.0.0")});
        let with = |more: Value| {
            let mut extra = class.clone();
            extra.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            service("a", 1, extra)
        };
        assert!(actions(&[with(json!({}))]).is_empty(), "the finalizer is theirs as well");
        assert!(actions(&[with(json!({"metadata/finalizers": []}))]).is_empty());
        let deleted = with(json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(actions(&[deleted]), ["a RemoveFinalizer"]);
    }

    fn node(name: &str, ready: &str, labels: Value) -> Node {
        let v = json!({"metadata": {"name": name, "labels": labels}, "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": "10.98.0.11"}]}});
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn nodes_that_stay_and_are_not_excluded_take_traffic_ready_or_not() {
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
        let names: Vec<(&str, bool)> =
            plan.load_balancers[0].nodes.iter().map(|n| (n.name.as_str(), n.ready)).collect();
        assert_eq!(names, [("down", false), ("not", true), ("ok", true)]);
    }

    #[test]
    fn what_the_infrastructure_did_not_do_is_told() {
        let nodes: Vec<Arc<Node>> =
            (0..22).map(|n| Arc::new(node(&format!("n{n:02}"), "True", json!({})))).collect();
        let settled = service("a", 1, json!({"status/loadBalancer": ingress("10.97.0.0")}));
        let all = targets(&nodes);
        let told = |services: &[Arc<Service>], nodes: &[Arc<Node>], before: Option<&[NodeAddress]>| {
            let told = plan(services, nodes, &provider()).failed(before, "no route");
            told.into_iter().map(|t| format!("{} {}: {}", t.name, t.reason, t.note)).collect::<Vec<_>>()
        };
        let failed = "SyncLoadBalancerFailed: Error syncing load balancer: failed to";
        let fresh = service("a", 1, json!({}));
        assert_eq!(
            told(&[fresh], &nodes, Some(&[])),
            [format!("a {failed} ensure load balancer: no route")],
            "a new one is no update"
        );
        let deleted = service("a", 1, json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(told(&[deleted], &nodes, None), [format!("a {failed} delete load balancer: no route")]);
        let one = std::slice::from_ref(&settled);
        assert!(told(one, &nodes, None).is_empty() && told(one, &nodes, Some(&all)).is_empty());
        let error = "a UpdateLoadBalancerFailed: Error updating load balancer with new hosts";
        let limited = "[node names limited, total number of nodes:";
        assert_eq!(
            told(one, &nodes[..2], Some(&all)),
            [format!("{error} [n00 n01] {limited} 2], error: no route")]
        );
        let many: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
        let many = many.join(" ");
        assert_eq!(
            told(one, &nodes, Some(&[])),
            [format!("{error} [{many} <2 more>] {limited} 22], error: no route")]
        );
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
        let mut sick = some.clone();
        sick[0].ready = false;
        assert!(after(&rests, Some(&sick)).is_empty(), "it is the same node");
        let lonely = plan(&[service("a", 1, json!({}))], &[], &provider());
        assert_eq!(after(&lonely, None), ["UnAvailableLoadBalancer"]);
    }
}
