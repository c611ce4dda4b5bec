//! Routes to the pods of every node (upstream's `node-route-controller`), and what their nodes say of them: the condition
//! `NetworkUnavailable`.

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::service::internal_address;
use crate::provider::Route;

/// The routes the nodes' pod ranges need, in order. Nodes without range or address need none yet.
pub fn plan(nodes: &[impl AsRef<Node>]) -> Vec<Route> {
    let mut routes: Vec<Route> = nodes
        .iter()
        .map(AsRef::as_ref)
        .flat_map(|node| {
            let ranges = node.spec.as_ref().and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
            ranges.into_iter().filter_map(move |range| {
                let destination: IpNet = range.parse().ok()?;
                let gateway = internal_address(node, destination.addr().is_ipv4())?;
                Some(Route { destination, gateway })
            })
        })
        .collect();
    routes.sort();
    routes.dedup();
    routes
}

/// The condition that says whether pods of other nodes reach those of this one.
const UNAVAILABLE: &str = "NetworkUnavailable";

/// What nodes with ranges of pods must say of their routes, where they say something else. `made` is whether the routes of
/// the plan are there.
pub fn conditions(nodes: &[impl AsRef<Node>], made: bool, now: &Time) -> Vec<(String, NodeCondition)> {
    let condition = |node: &Node| {
        let ranges = node.spec.as_ref().and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
        if ranges.is_empty() {
            return None;
        }
        let routed = |range: &String| {
            let range = range.parse::<IpNet>().ok();
            range.is_some_and(|range| internal_address(node, range.addr().is_ipv4()).is_some())
        };
        let (status, reason, message) = match made && ranges.iter().all(routed) {
            true => ("False", "RouteCreated", "RouteController created a route"),
            false => ("True", "NoRouteCreated", "RouteController failed to create a route"),
        };
        let mut there = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let told = there.find(|c| c.type_ == UNAVAILABLE);
        if told.is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
            return None;
        }
        // Routes that were made are not gone because others could not be made now.
        if !made && told.is_some_and(|c| c.reason.as_deref() == Some("RouteCreated")) {
            return None;
        }
        let name = node.metadata.name.clone()?;
        let condition = NodeCondition {
            type_: UNAVAILABLE.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        };
        Some((name, condition))
    };
    nodes.iter().filter_map(|node| condition(node.as_ref())).collect()
}

/// Nodes with ranges of pods of which it was never said that their routes are there.
pub fn unrouted<N: AsRef<Node>>(nodes: &[N]) -> impl Iterator<Item = &Node> {
    nodes.iter().map(AsRef::as_ref).filter(|node| {
        let ranges = node.spec.as_ref().and_then(|s| s.pod_cidrs.as_ref());
        let mut told = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let is_routed = told.any(|c| c.type_ == UNAVAILABLE && c.reason.as_deref() == Some("RouteCreated"));
        ranges.is_some_and(|ranges| !ranges.is_empty()) && !is_routed
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_say_whether_they_are_reached() {
        let node = |ranges: &[&str], ip: Option<&str>, told: Option<(&str, &str)>| -> Arc<Node> {
            let addresses: Vec<_> = ip.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
            let told: Vec<_> = told
                .iter()
                .map(|(status, reason)| json!({"type": UNAVAILABLE, "status": status, "reason": reason}))
                .collect();
            let object = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ranges},
                "status": {"addresses": addresses, "conditions": told}});
            serde_json::from_value(object).map(Arc::new).unwrap()
        };
        let now: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let said = |node: Arc<Node>, made: bool| {
            let all = conditions(&[node], made, &now);
            all.into_iter().next().map(|(_, c)| format!("{} {}", c.status, c.reason.unwrap()))
        };
        let (range, ip) = (&["10.244.1.0/24"][..], Some("10.98.0.12"));
        let (good, bad) = (Some(("False", "RouteCreated")), Some(("True", "NoRouteCreated")));
        assert_eq!(said(node(range, ip, None), true).as_deref(), Some("False RouteCreated"));
        assert_eq!(said(node(range, ip, None), false).as_deref(), Some("True NoRouteCreated"));
        assert_eq!(said(node(range, None, None), true).as_deref(), Some("True NoRouteCreated"));
        assert_eq!(
            said(node(&["10.244.1.0/24", "fd00::/64"], ip, good), true).as_deref(),
            Some("True NoRouteCreated")
        );
        assert_eq!(
            said(node(range, ip, Some(("False", "SomebodyElse"))), true).as_deref(),
            Some("False RouteCreated")
        );
        assert_eq!(said(node(range, ip, good), true), None);
        assert_eq!(said(node(range, ip, good), false), None, "its routes are still there");
        assert_eq!(said(node(range, ip, bad), false), None);
        assert_eq!(said(node(range, ip, bad), true).as_deref(), Some("False RouteCreated"));
        assert_eq!(said(node(&[], ip, None), true), None, "it has no pods to be reached");
        let all = [node(range, ip, None), node(range, ip, bad), node(range, ip, good), node(&[], ip, None)];
        assert_eq!(unrouted(&all).count(), 2, "each time it fails they are told of");
    }

    #[test]
    fn a_node_gets_a_route_per_range_once_it_has_an_address() {
        let node = |name: &str, ranges: &[&str], ip: Option<&str>| -> Arc<Node> {
            let addresses: Vec<_> = ip.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
            let object = json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges}, "status": {"addresses": addresses}});
            serde_json::from_value(object).map(Arc::new).unwrap()
        };
        let nodes = [
            node("b", &["10.244.1.0/24"], Some("10.98.0.12")),
            node("a", &["10.244.0.0/24", "fd00::/64"], Some("10.98.0.11")),
            node("new", &[], Some("10.98.0.13")),
            node("unregistered", &["10.244.9.0/24"], None),
        ];
        let got: Vec<String> =
            plan(&nodes).iter().map(|r| format!("{} {}", r.destination, r.gateway)).collect();
        assert_eq!(got, ["10.244.0.0/24 10.98.0.11", "10.244.1.0/24 10.98.0.12"]);
    }
}
