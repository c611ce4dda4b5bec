//! NodePorts: host ports a pod wants must be free.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, HostPort, NodeInfo, PodInfo},
};

/// The plugin.
pub struct NodePorts;

struct Wanted<'a>(&'a [HostPort]);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        if pod.ports.is_empty() { Prepared::Skip } else { Prepared::Filter(Box::new(Wanted(&pod.ports))) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodRemoved(gone) => {
                gone.ports.iter().any(|p| pod.ports.iter().any(|wanted| wanted.conflicts(p)))
            }
            ClusterEvent::NodeAdded(_) => true,
            _ => false,
        }
    }
}

impl Filter for Wanted<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let taken = self.0.iter().any(|wanted| node.ports.iter().any(|used| used.conflicts(wanted)));
        Verdict::fits_or(!taken, || {
            Verdict::unschedulable("node(s) didn't have free ports for the requested pod ports")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, node, pod};

    fn with(name: &str, port: Value) -> crate::testing::Pod {
        pod(name).set("/spec/containers/0/ports", json!([port]))
    }

    #[test]
    fn a_port_of_a_node_is_given_once_for_each_address_and_protocol() {
        let taken = json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1", "protocol": "TCP"});
        let world = cluster(vec![node("a", "x", json!({}))], vec![with("q", taken).on("a").info()]);
        let fits = |port: Value| {
            let pod = with("p", port).info();
            let Prepared::Filter(filter) = NodePorts.filter(&pod, &world) else { return None };
            Some(filter.check(world.node("a").unwrap()) == Verdict::Fits)
        };
        for (port, expected) in [
            (json!({"containerPort": 80}), None),
            (json!({"containerPort": 80, "hostPort": 80}), Some(false)),
            (json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}), Some(false)),
            (json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2"}), Some(true)),
            (json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}), Some(true)),
            (json!({"containerPort": 80, "hostPort": 81}), Some(true)),
        ] {
            assert_eq!(fits(port.clone()), expected, "{port}");
        }
    }

    #[test]
    fn it_wakes_when_its_port_is_free_again_or_a_node_comes() {
        let port = |number: u16| json!({"containerPort": 80, "hostPort": number});
        let waiting = with("p", port(80)).info();
        let gone = |number| ClusterEvent::PodRemoved(with("q", port(number)).on("a").info());
        for (event, wakes) in [
            (gone(80), true),
            (gone(81), false),
            (ClusterEvent::PodRemoved(pod("r").on("a").info()), false),
            (ClusterEvent::PodPlaced(with("q", port(80)).on("a").info()), false),
            (ClusterEvent::NodeAdded(Arc::new(node("b", "x", json!({})))), true),
        ] {
            assert_eq!(NodePorts.wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
