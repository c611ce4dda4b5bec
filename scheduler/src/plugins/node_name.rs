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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, pod};

    #[test]
    fn a_pod_that_names_its_node_goes_nowhere_else() {
        let world = cluster(["a", "b"].map(|name| node(name, "x", json!({}))).into(), vec![]);
        assert!(matches!(NodeName.filter(&pod("p").info(), &world), Prepared::Skip));
        let named = pod("p").on("b").info();
        let Prepared::Filter(filter) = NodeName.filter(&named, &world) else { panic!("no filter") };
        let refusal = Verdict::unresolvable("node(s) didn't match the requested node name");
        assert_eq!(filter.check(world.node("a").unwrap()), refusal);
        assert_eq!(filter.check(world.node("b").unwrap()), Verdict::Fits);
    }

    #[test]
    fn it_wakes_when_that_node_comes() {
        let named = pod("p").on("b").info();
        let added = |name| ClusterEvent::NodeAdded(Arc::new(node(name, "x", json!({}))));
        for (event, wakes) in
            [(added("b"), true), (added("a"), false), (ClusterEvent::NamespaceChanged, false)]
        {
            assert_eq!(NodeName.wakes(&named, &event), wakes, "{event:?}");
        }
    }
}
