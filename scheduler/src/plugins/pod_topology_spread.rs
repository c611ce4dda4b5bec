//! PodTopologySpread: keeps the counts of matching pods even over places (zones, hosts).
//!
//! Contract: the "Pod Topology Spread Constraints" page; KEP-895, KEP-3022 (minDomains), KEP-3094 (policies).

use std::sync::{Arc, LazyLock};

use component_base::selector::label_key_errors;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::{
    config::args::{ArgsError, PodTopologySpreadArgs},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Score, Scorer, Verdict},
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
        for (at, constraint) in args.default_constraints.iter().enumerate() {
            let before = &args.default_constraints[..at];
            if let Some((field, why)) = wrong_default(constraint, before) {
                return Err(ArgsError::Item(format!("defaultConstraints[{at}]{field}"), why));
            }
        }
        Ok(Self { defaults: Some(args.default_constraints) })
    }

    /// The places of a node that a pod's constraints tell apart; none of a node that lacks one.
    fn places(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Vec<String>> {
        let listed = self.defaults.as_ref().unwrap_or(&SYSTEM_DEFAULTS);
        let own = pod.spread.iter().map(|c| c.topology_key.as_str());
        let usual = listed.iter().filter(|_| pod.spread.is_empty()).map(|c| c.topology_key.as_str());
        own.chain(usual).map(|key| node.labels.get(key).cloned()).collect()
    }

    /// The constraints of a pod, hard or soft ones: its own, else the default ones.
    fn constraints(&self, pod: &PodInfo, cluster: &Cluster, hard: bool) -> Vec<SpreadConstraint> {
        if !pod.spread.is_empty() {
            return pod.spread.iter().filter(|c| c.hard == hard).cloned().collect();
        }
        let listed = self.defaults.as_ref().unwrap_or(&SYSTEM_DEFAULTS);
        let compile = |c| SpreadConstraint::new(c, &pod.labels, true);
        let mut out: Vec<SpreadConstraint> = listed.iter().map(compile).filter(|c| c.hard == hard).collect();
        if out.is_empty() {
            return out;
        }
        let Some(selector) = cluster.selectors.of_pod(pod) else { return Vec::new() };
        out.iter_mut().for_each(|constraint| constraint.selector = selector.clone());
        out
    }
}

/// The field of a default constraint that is wrong, and why.
fn wrong_default(
    constraint: &TopologySpreadConstraint,
    before: &[TopologySpreadConstraint],
) -> Option<(&'static str, String)> {
    let (key, action) = (constraint.topology_key.as_str(), constraint.when_unsatisfiable.as_str());
    let repeats = |other: &TopologySpreadConstraint| {
        other.topology_key == key && other.when_unsatisfiable == constraint.when_unsatisfiable
    };
    if constraint.max_skew <= 0 {
        Some((".maxSkew", "not in valid range (0, inf)".to_owned()))
    } else if key.is_empty() {
        Some((".topologyKey", "can not be empty".to_owned()))
    } else if let Some(why) = label_key_errors(key).into_iter().next() {
        Some((".topologyKey", why))
    } else if action.is_empty() {
        Some((".whenUnsatisfiable", "can not be empty".to_owned()))
    } else if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
        Some((".whenUnsatisfiable", format!("Unsupported value: {action:?}")))
    } else if constraint.label_selector.is_some() {
        let why = "constraint must not define a selector, as they deduced for each pod";
        Some((".labelSelector", why.to_owned()))
    } else if before.iter().any(repeats) {
        Some(("", format!("Duplicate value: \"{{{key}, {action}}}\"")))
    } else {
        None
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

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> Scorer<'a> {
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
        let places = |node: &NodeInfo| self.places(pod, node);
        match event {
            ClusterEvent::PodRemoved(other) | ClusterEvent::PodPlaced(other) => counts(other),
            ClusterEvent::PodUpdated { old, new } => {
                let differs =
                    |c: &SpreadConstraint| c.selector.matches(&old.labels) != c.selector.matches(&new.labels);
                new.namespace == pod.namespace
                    && old.labels != new.labels
                    && (pod.spread.is_empty() || pod.spread.iter().any(differs))
            }
            ClusterEvent::PodChanged { old, new } => {
                let honors = new.spread.iter().any(|c| c.honor_taints);
                let differs =
                    |c: &SpreadConstraint| c.selector.matches(&old.labels) != c.selector.matches(&new.labels);
                (old.tolerations != new.tolerations && honors)
                    || (old.labels != new.labels && (new.spread.is_empty() || new.spread.iter().any(differs)))
            }
            ClusterEvent::NodeAdded(node) | ClusterEvent::NodeRemoved(node) => places(node).is_some(),
            ClusterEvent::NodeUpdated { old, new } => {
                let (before, after) = (places(old), places(new));
                before != after || (after.is_some() && old.taints != new.taints)
            }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Pod, cluster, node, pod, scores};

    /// Zones x (nodes a, b) and y (c); d has no zone.
    fn world(pods: &[(&str, usize)]) -> Cluster {
        let mut nodes = vec![node("a", "x", json!({})), node("b", "x", json!({})), node("c", "y", json!({}))];
        let mut without = node("d", "", json!({}));
        Arc::make_mut(&mut without.labels).remove(ZONE_LABEL);
        nodes.push(without);
        let placed = pods.iter().flat_map(|(on, count)| {
            (0..*count).map(move |n| pod(&format!("{on}{n}")).label("app", "web").on(on).info())
        });
        cluster(nodes, placed.collect())
    }

    fn soft(key: &str, skew: i32) -> Value {
        json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}}})
    }

    fn web(constraints: Value) -> Pod {
        pod("p").label("app", "web").set("/spec/topologySpreadConstraints", constraints)
    }

    /// `round(Σ count × ln(places + 2) + skew − 1)`, then 100 × (most + least − own) / most.
    #[test]
    fn fewer_pods_in_a_place_score_higher() {
        let usual = PodTopologySpread::default();
        let of = |pod: Pod, pods: &[(&str, usize)]| {
            scores(&usual, &pod.info(), &world(pods), ["a", "b", "c", "d"])
        };
        let (host, zone) = (HOSTNAME_LABEL, ZONE_LABEL);
        // Four hosts weigh ln 6 = 1.79 a pod: 4, 0, 2, 0.
        assert_eq!(of(web(json!([soft(host, 1)])), &[("a", 2), ("c", 1)]), Some([0, 100, 50, 100]));
        // Two zones weigh ln 4 = 1.39 a pod: 3 pods are 4, 1 pod is 1; who has no zone is worth nothing.
        assert_eq!(of(web(json!([soft(zone, 1)])), &[("a", 2), ("b", 1), ("c", 1)]), Some([25, 25, 100, 0]));
        // A skew that is allowed takes differences off: 4 and 1 become 8 and 5.
        assert_eq!(of(web(json!([soft(zone, 5)])), &[("a", 2), ("b", 1), ("c", 1)]), Some([62, 62, 100, 0]));
        // Both: three hosts that count weigh ln 5 = 1.61 a pod. a 2×1.61+3×1.39 = 7, b 1.61+3×1.39 = 6, c 1.61+1.39 = 3.
        let both = json!([soft(host, 1), soft(zone, 1)]);
        assert_eq!(of(web(both), &[("a", 2), ("b", 1), ("c", 1)]), Some([42, 57, 100, 0]));
        assert_eq!(of(web(json!([soft(host, 1)])), &[]), Some([100; 4]), "nobody is there yet");
        assert_eq!(of(pod("p"), &[("a", 2)]), None, "no constraints, and nobody owns it");
        // Pods of others do not count.
        let others = web(json!([soft(host, 1)])).set("/metadata/namespace", json!("other"));
        assert_eq!(of(others, &[("a", 2)]), Some([100; 4]));
    }

    #[test]
    fn a_profile_has_default_constraints_of_its_own() {
        let args = |value: Value| PodTopologySpread::new(serde_json::from_value(value).unwrap());
        let constraint = json!({"topologyKey": "k", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"});
        let but = |field: &str, value: Value| {
            let mut other = constraint.clone();
            other[field] = value;
            other
        };
        let selecting = but("labelSelector", json!({"matchLabels": {"a": "b"}}));
        for (value, good) in [
            (json!({}), true),
            (json!({"defaultingType": "System"}), true),
            (json!({"defaultingType": "List"}), true),
            (json!({"defaultingType": "List", "defaultConstraints": [constraint]}), true),
            (json!({"defaultConstraints": [constraint]}), false),
            (json!({"defaultingType": "List", "defaultConstraints": [selecting]}), false),
            (json!({"defaultingType": "List", "defaultConstraints": [but("maxSkew", json!(0))]}), false),
            (json!({"defaultingType": "List", "defaultConstraints": [but("topologyKey", json!(""))]}), false),
            (
                json!({"defaultingType": "List", "defaultConstraints": [but("topologyKey", json!("-k"))]}),
                false,
            ),
            (
                json!({"defaultingType": "List", "defaultConstraints": [but("whenUnsatisfiable", json!(""))]}),
                false,
            ),
            (
                json!({"defaultingType": "List", "defaultConstraints": [but("whenUnsatisfiable", json!("No"))]}),
                false,
            ),
            (json!({"defaultingType": "List", "defaultConstraints": [constraint, constraint]}), false),
            (
                json!({"defaultingType": "List", "defaultConstraints": [
                    constraint, but("whenUnsatisfiable", json!("DoNotSchedule")), but("topologyKey", json!("l"))]}),
                true,
            ),
            (json!({"defaultingType": "Other"}), false),
        ] {
            assert_eq!(args(value.clone()).is_ok(), good, "{value}");
        }
    }

    #[test]
    fn pods_wake_when_those_that_count_come_or_go() {
        let waiting = web(json!([soft(ZONE_LABEL, 1)])).info();
        let one = |app: &str| pod("w").label("app", app).on("a").info();
        let of_zone = |zone: &str| Arc::new(node("a", zone, json!({})));
        let mut without = node("a", "x", json!({}));
        Arc::make_mut(&mut without.labels).remove(ZONE_LABEL);
        let updated = |old, new| ClusterEvent::NodeUpdated { old: of_zone(old), new: of_zone(new) };
        for (event, wakes) in [
            (ClusterEvent::PodRemoved(one("web")), true),
            (ClusterEvent::PodPlaced(one("web")), true),
            (ClusterEvent::PodRemoved(one("db")), false),
            (ClusterEvent::NodeAdded(of_zone("x")), true),
            (updated("x", "y"), true),
            (updated("x", "x"), false),
            (ClusterEvent::NodeRemoved(of_zone("x")), true),
            (ClusterEvent::NodeAdded(Arc::new(without)), false),
            (ClusterEvent::PodUpdated { old: one("db"), new: one("web") }, true),
            (ClusterEvent::PodUpdated { old: one("db"), new: one("dns") }, false),
            (ClusterEvent::NamespaceChanged, false),
        ] {
            assert_eq!(PodTopologySpread::default().wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
