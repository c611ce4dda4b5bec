//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, NodeInfo, PodInfo, Taint, TaintEffect},
};

/// The plugin.
pub struct NodeUnschedulable;

struct Cordon {
    tolerated: bool,
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        Prepared::Filter(Box::new(Cordon { tolerated: tolerates(pod) }))
    }

    fn wakes(&self, _: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => !node.unschedulable,
            ClusterEvent::NodeUpdated { old, new } => old.unschedulable && !new.unschedulable,
            ClusterEvent::PodChanged { old, new } => old.tolerations != new.tolerations && tolerates(new),
            _ => false,
        }
    }
}

/// Whether a pod goes to nodes that are closed.
fn tolerates(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: String::new(),
        effect: TaintEffect::NoSchedule,
    };
    pod.tolerations.iter().any(|toleration| toleration.tolerates(&taint))
}

impl Filter for Cordon {
    fn check(&self, node: &NodeInfo) -> Verdict {
        Verdict::fits_or(!node.unschedulable || self.tolerated, || {
            Verdict::unresolvable("node(s) were unschedulable")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, node, pod};

    #[test]
    fn a_cordoned_node_takes_who_tolerates_it() {
        let cordoned = json!({"spec": {"unschedulable": true}});
        let world = cluster(vec![node("a", "x", json!({})), node("b", "x", cordoned)], vec![]);
        let fits = |tolerations: Value| {
            let pod = pod("p").set("/spec/tolerations", tolerations).info();
            let Prepared::Filter(filter) = NodeUnschedulable.filter(&pod, &world) else {
                panic!("no filter")
            };
            ["a", "b"].map(|name| filter.check(world.node(name).unwrap()) == Verdict::Fits)
        };
        let key = "node.kubernetes.io/unschedulable";
        assert_eq!(fits(json!([])), [true, false]);
        assert_eq!(fits(json!([{"operator": "Exists"}])), [true, true]);
        assert_eq!(fits(json!([{"key": key, "operator": "Exists", "effect": "NoSchedule"}])), [true, true]);
        assert_eq!(fits(json!([{"key": key, "operator": "Exists", "effect": "NoExecute"}])), [true, false]);
    }

    #[test]
    fn it_wakes_when_a_node_is_open() {
        let waiting = pod("p").info();
        let of = |cordoned: bool| Arc::new(node("a", "x", json!({"spec": {"unschedulable": cordoned}})));
        let updated = |before, after| ClusterEvent::NodeUpdated { old: of(before), new: of(after) };
        let changed = |tolerations: Value| ClusterEvent::PodChanged {
            old: pod("p").info(),
            new: pod("p").set("/spec/tolerations", tolerations).info(),
        };
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(of(false)), true),
            (ClusterEvent::NodeAdded(of(true)), false),
            (updated(true, false), true),
            (updated(false, true), false),
            (updated(true, true), false),
            (changed(json!([{"operator": "Exists"}])), true),
            (changed(json!([{"key": "other", "operator": "Exists"}])), false),
            (changed(json!([])), false),
            (ClusterEvent::NamespaceChanged, false),
        ] {
            assert_eq!(NodeUnschedulable.wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
