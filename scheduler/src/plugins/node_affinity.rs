//! NodeAffinity: node selector, required and preferred node affinity.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Score, Verdict, normalize_to_max},
    model::{Cluster, NodeInfo, PodInfo},
};

/// The plugin.
pub struct NodeAffinity;

struct Affine<'a>(&'a PodInfo);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        match &pod.node_required {
            None if pod.node_selector.is_empty() => Prepared::Skip,
            None => Prepared::Filter(Box::new(Affine(pod))),
            Some(terms) => match terms.names() {
                // A DaemonSet's pod names its only node: there is no need to ask the others.
                Some(names) => Prepared::Restrict(names, Box::new(Affine(pod))),
                None => Prepared::Filter(Box::new(Affine(pod))),
            },
        }
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        if pod.node_preferred.is_empty() { None } else { Some(Box::new(Affine(pod))) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => pod.accepts_node(&node.name, &node.labels),
            ClusterEvent::NodeUpdated { old, new } => {
                !pod.accepts_node(&old.name, &old.labels) && pod.accepts_node(&new.name, &new.labels)
            }
            _ => false,
        }
    }
}

impl Filter for Affine<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        Verdict::fits_or(self.0.accepts_node(&node.name, &node.labels), || {
            Verdict::unresolvable("node(s) didn't match Pod's node affinity/selector")
        })
    }
}

impl Score for Affine<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let matching =
            self.0.node_preferred.iter().filter(|(term, _)| term.matches(&node.name, &node.labels));
        matching.map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        normalize_to_max(scores, false);
    }
}
