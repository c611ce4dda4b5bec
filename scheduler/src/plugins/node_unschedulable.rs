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
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: String::new(),
            effect: TaintEffect::NoSchedule,
        };
        Prepared::Filter(Box::new(Cordon { tolerated: pod.tolerations.iter().any(|t| t.tolerates(&taint)) }))
    }

    fn wakes(&self, _pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => !node.unschedulable,
            ClusterEvent::NodeUpdated { old, new } => old.unschedulable && !new.unschedulable,
            ClusterEvent::PodChanged => true,
            _ => false,
        }
    }
}

impl Filter for Cordon {
    fn check(&self, node: &NodeInfo) -> Verdict {
        Verdict::fits_or(!node.unschedulable || self.tolerated, || {
            Verdict::unresolvable("node(s) were unschedulable")
        })
    }
}
