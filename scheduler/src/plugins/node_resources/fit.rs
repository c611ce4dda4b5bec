//! NodeResourcesFit: filters by free resources, scores by how full the node would be.

use std::cmp::min;

use crate::{
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Reason, Score, Verdict},
    model::{Cluster, NodeInfo, PodInfo, Resources},
};

/// How full nodes should be (NodeResourcesFitArgs.scoringStrategy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Empty nodes first.
    LeastAllocated,
    /// Full nodes first.
    MostAllocated,
}

/// The plugin.
pub struct Fit {
    strategy: Strategy,
    /// Resources scored, with weights.
    resources: Vec<(String, i64)>,
}

struct Wanted<'a>(&'a Resources);

struct Fullness<'a> {
    pod: &'a PodInfo,
    strategy: Strategy,
    resources: Vec<(String, i64)>,
}

impl Default for Fit {
    fn default() -> Self {
        Self { strategy: Strategy::LeastAllocated, resources: vec![("cpu".into(), 1), ("memory".into(), 1)] }
    }
}

impl Fit {
    /// The plugin with a strategy and weighted resources.
    pub fn new(strategy: Strategy, resources: Vec<(String, i64)>) -> Self {
        Self { strategy, resources }
    }
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        Prepared::Filter(Box::new(Wanted(&pod.requests)))
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        // A handful of short strings per cycle.
        let resources = self.resources.clone();
        Some(Box::new(Fullness { pod, strategy: self.strategy, resources }))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodRemoved(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeAdded(node) => Wanted(&pod.requests).fits_empty(node),
            ClusterEvent::NodeUpdated { old, new } => {
                old.allocatable != new.allocatable && Wanted(&pod.requests).fits_empty(new)
            }
            _ => false,
        }
    }
}

impl Wanted<'_> {
    /// Every resource the node lacks.
    fn lacking(&self, node: &NodeInfo, used: &Resources, pods: usize) -> (Vec<Reason>, bool) {
        let (want, have) = (self.0, &node.allocatable);
        let (mut reasons, mut hopeless) = (Vec::new(), false);
        if i64::try_from(pods).unwrap_or(i64::MAX) + 1 > have.pods {
            reasons.push(Reason::Borrowed("Too many pods"));
        }
        let mut check = |name: &str, want: i64, have: i64, used: i64| {
            if want > 0 && want > have - used {
                reasons.push(Reason::Owned(format!("Insufficient {name}")));
                hopeless |= want > have;
            }
        };
        check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
        check("memory", want.memory, have.memory, used.memory);
        check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &want.scalar {
            check(name, *amount, have.get(name), used.get(name));
        }
        (reasons, hopeless)
    }

    fn fits_empty(&self, node: &NodeInfo) -> bool {
        self.lacking(node, &Resources::default(), 0).0.is_empty()
    }
}

impl Filter for Wanted<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match self.lacking(node, &node.requested, node.pods.len()) {
            (reasons, _) if reasons.is_empty() => Verdict::Fits,
            (reasons, true) => Verdict::Unresolvable(reasons),
            (reasons, false) => Verdict::Unschedulable(reasons),
        }
    }
}

impl Score for Fullness<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &self.resources {
            let have = node.allocatable.get(name);
            if have == 0 {
                continue;
            }
            let used = node.counted.get(name) + self.pod.counted.get(name);
            let score = match self.strategy {
                Strategy::LeastAllocated if used > have => 0,
                Strategy::LeastAllocated => (have - used) * MAX_SCORE / have,
                Strategy::MostAllocated => min(used, have) * MAX_SCORE / have,
            };
            sum += score * weight;
            weights += weight;
        }
        if weights == 0 { 0 } else { sum / weights }
    }
}
