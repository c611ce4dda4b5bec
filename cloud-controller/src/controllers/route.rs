//! Routes to the pods of every node (upstream's `node-route-controller`).

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

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
