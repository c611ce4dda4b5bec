//! PodTopologySpread: keeps the counts of matching pods even over places (zones, hosts).
//!
//! Contract: the "Pod Topology Spread Constraints" page; KEP-895, KEP-3022 (minDomains), KEP-3094 (policies).

use std::{collections::HashSet, sync::Arc};

use component_base::selector::LabelSelector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::{
    config::args::{ArgsError, PodTopologySpreadArgs},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Score, Verdict},
    model::{Cluster, HOSTNAME_LABEL, NodeInfo, PodInfo, SpreadConstraint, SpreadTally, ZONE_LABEL},
};

const NO_MATCH: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// The plugin.
#[derive(Default)]
pub struct PodTopologySpread {
    /// For pods that have none; upstream's own where a profile names none.
    defaults: Option<Vec<TopologySpreadConstraint>>,
}

impl PodTopologySpread {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When default constraints are named that cannot count, or select pods themselves.
    pub fn new(args: PodTopologySpreadArgs) -> Result<Self, ArgsError> {
        match args.defaulting_type.as_deref().unwrap_or("System") {
            "List" => {}
            "System" if args.default_constraints.is_empty() => return Ok(Self::default()),
            "System" => {
                let why = "when .defaultingType is System, default constraints must be empty";
                return Err(ArgsError::Value("defaultConstraints", why));
            }
            _ => return Err(ArgsError::Value("defaultingType", "must be System or List")),
        }
        if args.default_constraints.iter().any(|c| c.label_selector.is_some()) {
            let why = "constraint must not define a selector, as they deduced for each pod";
            return Err(ArgsError::Value("defaultConstraints", why));
        }
        Ok(Self { defaults: Some(args.default_constraints) })
    }

    /// The constraints of a pod, hard or soft ones: its own, else the default ones.
    fn constraints(&self, pod: &PodInfo, hard: bool) -> Vec<SpreadConstraint> {
        let mut out = match (&self.defaults, pod.spread.is_empty()) {
            (_, false) => pod.spread.clone(),
            (None, true) => system_constraints(pod),
            (Some(list), true) => listed_constraints(pod, list),
        };
        out.retain(|c| c.hard == hard);
        out
    }
}

struct HardFilter<'a> {
    cluster: &'a Cluster,
    constraints: Vec<SpreadConstraint>,
    counts: Arc<SpreadTally>,
    /// Per constraint: 1 if the pod itself matches, as it will count where it lands.
    own: Vec<i64>,
    /// Per constraint: the lowest count of a place.
    least: Vec<i64>,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let hard = self.constraints(pod, true);
        if hard.is_empty() {
            return Prepared::Skip;
        }
        let counts = cluster.spread(pod, &hard, true);
        let own = hard.iter().map(|c| i64::from(c.selector.matches(&pod.labels))).collect();
        let mut filter = HardFilter { cluster, constraints: hard, counts, own, least: Vec::new() };
        filter.find_least();
        Prepared::Filter(Box::new(filter))
    }

    fn score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        nodes: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let system_defaults = pod.spread.is_empty() && self.defaults.is_none();
        let soft = self.constraints(pod, false);
        if soft.is_empty() {
            return None;
        }
        Some(Box::new(SoftScore::new(pod, cluster, nodes, soft, !system_defaults)))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let counts = |other: &PodInfo| {
            other.namespace == pod.namespace && pod.spread.iter().any(|c| c.selector.matches(&other.labels))
        };
        match event {
            ClusterEvent::PodRemoved(other) | ClusterEvent::PodPlaced(other) => counts(other),
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels || old.taints != new.taints,
            _ => false,
        }
    }
}

/// Upstream's system defaults: hosts with skew 3, zones with skew 5, over the pods of the same owner.
/// Owners are told by the labels they select with, which their pods share: the pod's own labels.
fn system_constraints(pod: &PodInfo) -> Vec<SpreadConstraint> {
    if pod.controller.is_none() || pod.labels.is_empty() {
        return Vec::new();
    }
    let selector = LabelSelector::from_map(&pod.labels);
    let constraint = |key: &str, max_skew| SpreadConstraint {
        max_skew,
        topology_key: key.to_owned(),
        hard: false,
        selector: selector.clone(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    vec![constraint(HOSTNAME_LABEL, 3), constraint(ZONE_LABEL, 5)]
}

/// The constraints that a profile lists, over the pods of the same owner.
fn listed_constraints(pod: &PodInfo, list: &[TopologySpreadConstraint]) -> Vec<SpreadConstraint> {
    if pod.controller.is_none() || pod.labels.is_empty() {
        return Vec::new();
    }
    let selector = LabelSelector::from_map(&pod.labels);
    let of = |c| SpreadConstraint { selector: selector.clone(), ..SpreadConstraint::new(c, &pod.labels) };
    list.iter().map(of).collect()
}

fn matching(node: &NodeInfo, namespace: &str, selector: &LabelSelector) -> i64 {
    let pods = node.pods.iter().filter(|p| !p.terminating && p.namespace == namespace);
    pods.filter(|p| selector.matches(&p.labels)).fold(0, |n, _| n + 1)
}

impl HardFilter<'_> {
    fn find_least(&mut self) {
        let least = |(at, constraint): (usize, &SpreadConstraint)| {
            let places = self.counts.places(at);
            match i64::try_from(places.len()) {
                Ok(count) if count < constraint.min_domains => 0,
                _ => places.values().copied().min().unwrap_or(0),
            }
        };
        self.least = self.constraints.iter().enumerate().map(least).collect();
    }

    fn shift(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        // Node states in a cycle are copies; which of them count is asked of those in the cluster.
        let Some(node) = self.cluster.node(&node.name) else { return };
        Arc::make_mut(&mut self.counts).count(other, node, by);
        self.find_least();
    }
}

impl Filter for HardFilter<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        for (at, constraint) in self.constraints.iter().enumerate() {
            let Some(place) = node.labels.get(&constraint.topology_key) else {
                return Verdict::unresolvable(NO_LABEL);
            };
            let here = self.counts.places(at).get(place).copied().unwrap_or(0);
            if here + self.own[at] - self.least[at] > constraint.max_skew {
                return Verdict::unschedulable(NO_MATCH);
            }
        }
        Verdict::Fits
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.shift(pod, node, 1);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.shift(pod, node, -1);
    }
}

/// Soft constraints: fewer matching pods in a place score higher.
struct SoftScore {
    namespace: String,
    constraints: Vec<SpreadConstraint>,
    /// Count per place, per constraint; hosts are counted when scored.
    counts: Arc<SpreadTally>,
    weights: Vec<f64>,
    /// Whether nodes lacking a label are left out.
    all_labels: bool,
}

impl SoftScore {
    fn new(
        pod: &PodInfo,
        cluster: &Cluster,
        nodes: &[&NodeInfo],
        constraints: Vec<SpreadConstraint>,
        all_labels: bool,
    ) -> Self {
        let complete =
            |n: &NodeInfo| !all_labels || constraints.iter().all(|c| n.labels.contains_key(&c.topology_key));
        let candidates: Vec<&NodeInfo> = nodes.iter().copied().filter(|n| complete(n)).collect();
        let places = |c: &SpreadConstraint| {
            if c.topology_key == HOSTNAME_LABEL {
                return candidates.len();
            }
            // A missing label is a place of its own, as upstream counts it.
            candidates.iter().map(|node| node.labels.get(&c.topology_key)).collect::<HashSet<_>>().len()
        };
        let weights = constraints.iter().map(|c| ((places(c) + 2) as f64).ln()).collect();
        let counts = cluster.spread(pod, &constraints, all_labels);
        Self { namespace: pod.namespace.clone(), constraints, counts, weights, all_labels }
    }

    fn ignored(&self, node: &NodeInfo) -> bool {
        self.all_labels && !self.constraints.iter().all(|c| node.labels.contains_key(&c.topology_key))
    }
}

impl Score for SoftScore {
    #[expect(clippy::cast_possible_truncation, reason = "counts of pods are far below 2^53")]
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored(node) {
            return 0;
        }
        let mut sum = 0.0;
        for (at, (c, weight)) in self.constraints.iter().zip(&self.weights).enumerate() {
            let Some(place) = node.labels.get(&c.topology_key) else { continue };
            let count = if c.topology_key == HOSTNAME_LABEL {
                matching(node, &self.namespace, &c.selector)
            } else {
                self.counts.places(at).get(place).copied().unwrap_or(0)
            };
            sum += count as f64 * weight + (c.max_skew - 1) as f64;
        }
        sum.round() as i64
    }

    fn normalize(&self, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let counted = || nodes.iter().zip(scores.iter()).filter(|(n, _)| !self.ignored(n)).map(|(_, s)| *s);
        let (min, max) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            *score = match max {
                _ if self.ignored(node) => 0,
                0 => MAX_SCORE,
                max => MAX_SCORE * (max + min - *score) / max,
            };
        }
    }
}
