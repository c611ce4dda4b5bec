//! TaintToleration: keeps pods off nodes whose taints they do not tolerate, and prefers nodes with
//! fewer untolerated `PreferNoSchedule` taints.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Score, Verdict, normalize_to_max},
    model::{Cluster, NodeInfo, PodInfo, TaintEffect},
};

const REPELLING: &[TaintEffect] = &[TaintEffect::NoSchedule, TaintEffect::NoExecute];

/// The plugin.
pub struct TaintToleration;

struct Tolerating<'a>(&'a PodInfo);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        Prepared::Filter(Box::new(Tolerating(pod)))
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Tolerating(pod)))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => pod.untolerated(&node.taints, REPELLING).is_none(),
            ClusterEvent::NodeUpdated { old, new } => {
                pod.untolerated(&old.taints, REPELLING).is_some()
                    && pod.untolerated(&new.taints, REPELLING).is_none()
            }
            ClusterEvent::PodChanged => true,
            _ => false,
        }
    }
}

impl Filter for Tolerating<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        Verdict::fits_or(self.0.untolerated(&node.taints, REPELLING).is_none(), || {
            Verdict::unresolvable("node(s) had untolerated taint(s)")
        })
    }
}

impl Score for Tolerating<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.taints.iter().filter(|t| t.effect == TaintEffect::PreferNoSchedule);
        soft.filter(|t| !self.0.tolerations.iter().any(|toleration| toleration.tolerates(t)))
            .fold(0, |n, _| n + 1)
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        normalize_to_max(scores, true);
    }
}
