//! PodTopologySpread: keeps the counts of matching pods even over places (zones, hosts).
//!
//! Contract: the "Pod Topology Spread Constraints" page; KEP-895, KEP-3022 (minDomains), KEP-3094 (policies).

use std::sync::{Arc, LazyLock};

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
    fn constraints(&self, pod: &PodInfo, cluster: &Cluster, hard: bool) -> Vec<SpreadConstraint> {
        if !pod.spread.is_empty() {
            return pod.spread.iter().filter(|c| c.hard == hard).cloned().collect();
        }
        let listed = self.defaults.as_ref().unwrap_or(&SYSTEM_DEFAULTS);
        let compile = |c| SpreadConstraint::new(c, &pod.labels);
        let mut out: Vec<SpreadConstraint> = listed.iter().map(compile).filter(|c| c.hard == hard).collect();
        if out.is_empty() {
            return out;
        }
        let Some(selector) = cluster.selectors.of_pod(pod) else { return Vec::new() };
        out.iter_mut().for_each(|constraint| constraint.selector = selector.clone());
        out
    }
}

/// Hosts with skew 3 and zones with skew 5, as scores.
static SYSTEM_DEFAULTS: LazyLock<Vec<TopologySpreadConstraint>> = LazyLock::new(|| {
    let constraint = |key: &str, max_skew| TopologySpreadConstraint {
        max_skew,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    };
    vec![constraint(HOSTNAME_LABEL, 3), constraint(ZONE_LABEL, 5)]
});

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
        let hard = self.constraints(pod, cluster, true);
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
        let soft = self.constraints(pod, cluster, false);
        if soft.is_empty() {
            return None;
        }
        Some(Box::new(SoftScore::new(pod, cluster, nodes, &soft, !system_defaults)))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        // What the default constraints select is not known here.
        let selects = |other: &PodInfo| {
            pod.spread.is_empty() || pod.spread.iter().any(|c| c.selector.matches(&other.labels))
        };
        let counts = |other: &PodInfo| other.namespace == pod.namespace && selects(other);
        match event {
            ClusterEvent::PodRemoved(other) | ClusterEvent::PodPlaced(other) => counts(other),
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels || old.taints != new.taints,
            _ => false,
        }
    }
}

impl HardFilter<'_> {
    fn find_least(&mut self) {
        let least = |(at, constraint): (usize, &SpreadConstraint)| {
            let too_few =
                i64::try_from(self.counts.open_places(at)).is_ok_and(|n| n < constraint.min_domains);
            if too_few { 0 } else { self.counts.least(at) }
        };
        self.least = self.constraints.iter().enumerate().map(least).collect();
    }

    fn shift(&mut self, other: &PodInfo, node: &NodeInfo, by: i32) {
        // Node states in a cycle are copies; which of them count is asked of those in the cluster.
        let Some(node) = self.cluster.node(&node.name) else { return };
        Arc::make_mut(&mut self.counts).count(other, node, by);
        self.find_least();
    }
}

impl Filter for HardFilter<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        for (at, constraint) in self.constraints.iter().enumerate() {
            let Some(here) = self.counts.at(at, node) else { return Verdict::unresolvable(NO_LABEL) };
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
    counts: Arc<SpreadTally>,
    /// By constraint.
    terms: Vec<Term>,
    /// Whether nodes lacking a label are left out.
    all_labels: bool,
}

/// What a constraint adds to a score.
struct Term {
    /// For each pod that is meant.
    weight: f64,
    /// In any case: differences below the skew matter less so.
    offset: f64,
}

impl SoftScore {
    fn new(
        pod: &PodInfo,
        cluster: &Cluster,
        nodes: &[&NodeInfo],
        constraints: &[SpreadConstraint],
        all_labels: bool,
    ) -> Self {
        let counts = cluster.spread(pod, constraints, all_labels);
        let mut out = Self { counts, terms: Vec::new(), all_labels };
        let candidates: Vec<&NodeInfo> = nodes
            .iter()
            .copied()
            .filter(|node| !all_labels || out.has_all(node, constraints.len()))
            .collect();
        for (at, constraint) in constraints.iter().enumerate() {
            let topology = out.counts.topology(at);
            // A missing label is a place of its own, as upstream counts it.
            let places = if topology.is_each() { candidates.len() } else { topology.spans(&candidates) };
            let (weight, offset) = (((places + 2) as f64).ln(), (constraint.max_skew - 1) as f64);
            out.terms.push(Term { weight, offset });
        }
        out
    }

    fn has_all(&self, node: &NodeInfo, constraints: usize) -> bool {
        (0..constraints).all(|at| self.counts.topology(at).place(node).is_some())
    }

    fn ignored(&self, node: &NodeInfo) -> bool {
        self.all_labels && !self.has_all(node, self.terms.len())
    }
}

impl Score for SoftScore {
    #[expect(clippy::cast_possible_truncation, reason = "counts of pods are far below 2^53")]
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored(node) {
            return 0;
        }
        let of = |(at, term): (usize, &Term)| {
            self.counts.at(at, node).map_or(0.0, |count| count as f64 * term.weight + term.offset)
        };
        self.terms.iter().enumerate().map(of).sum::<f64>().round() as i64
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
