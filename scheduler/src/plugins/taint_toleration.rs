//! TaintToleration: keeps pods off nodes whose taints they do not tolerate, and prefers nodes with
//! fewer untolerated `PreferNoSchedule` taints.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Score, Scorer, Verdict, normalize_to_max},
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

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        Some(Box::new(Tolerating(pod)))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => pod.untolerated(&node.taints, REPELLING).is_none(),
            ClusterEvent::NodeUpdated { old, new } => {
                pod.untolerated(&old.taints, REPELLING).is_some()
                    && pod.untolerated(&new.taints, REPELLING).is_none()
            }
            ClusterEvent::PodChanged { old, new } => old.tolerations != new.tolerations,
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, node, pod, scores};

    fn tainted(name: &str, taints: Value) -> NodeInfo {
        node(name, "x", json!({"spec": {"taints": taints}}))
    }

    #[test]
    fn fewer_untolerated_soft_taints_score_higher() {
        let soft = |key: &str| json!({"key": key, "value": "v", "effect": "PreferNoSchedule"});
        let world = cluster(
            vec![
                tainted("none", json!([])),
                tainted("one", json!([soft("a"), {"key": "h", "effect": "NoSchedule"}])),
                tainted("three", json!([soft("a"), soft("b"), soft("c")])),
            ],
            vec![],
        );
        let tolerating = |all: Value| pod("p").set("/spec/tolerations", all).info();
        let table = [
            (json!([]), [100, 67, 0]),
            (json!([{"key": "a", "value": "v", "effect": "PreferNoSchedule"}]), [100, 100, 0]),
            (json!([{"key": "a", "operator": "Exists"}]), [100, 100, 0]),
            // Of another effect.
            (json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), [100, 67, 0]),
            (json!([{"operator": "Exists"}]), [100, 100, 100]),
        ];
        for (tolerations, expected) in table {
            let found =
                scores(&TaintToleration, &tolerating(tolerations.clone()), &world, ["none", "one", "three"]);
            assert_eq!(found, Some(expected), "{tolerations}");
        }
    }

    #[test]
    fn pods_wake_when_a_taint_that_kept_them_off_goes() {
        let bare = || std::sync::Arc::new(tainted("n", json!([])));
        let hard = || std::sync::Arc::new(tainted("n", json!([{"key": "a", "effect": "NoExecute"}])));
        let pod = pod("p").info();
        let updated = |old, new| ClusterEvent::NodeUpdated { old, new };
        let changed = |new| ClusterEvent::PodChanged { old: crate::testing::pod("p").info(), new };
        let tolerating =
            || crate::testing::pod("p").set("/spec/tolerations", json!([{"operator": "Exists"}])).info();
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(bare()), true),
            (ClusterEvent::NodeAdded(hard()), false),
            (updated(hard(), bare()), true),
            (updated(bare(), hard()), false),
            (updated(bare(), bare()), false),
            (updated(hard(), hard()), false),
            (changed(tolerating()), true),
            (changed(crate::testing::pod("p").label("a", "b").info()), false),
            (ClusterEvent::NamespaceChanged, false),
        ] {
            assert_eq!(TaintToleration.wakes(&pod, &event), wakes, "{event:?}");
        }
    }
}
