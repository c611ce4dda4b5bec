//! NodeName: a pod that names its node goes there or nowhere.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, NodeInfo, PodInfo},
};

/// The plugin.
pub struct NodeName;

struct Named<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        if pod.node_name.is_empty() {
            Prepared::Skip
        } else {
            Prepared::Filter(Box::new(Named(&pod.node_name)))
        }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdded(node) if node.name == pod.node_name)
    }
}

impl Filter for Named<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        Verdict::fits_or(node.name == self.0, || {
            Verdict::unresolvable("node(s) didn't match the requested node name")
        })
    }
}
