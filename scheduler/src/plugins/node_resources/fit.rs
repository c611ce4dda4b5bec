//! NodeResourcesFit: filters by free resources, scores by how full the node would be.

use std::{cmp::min, sync::Arc};

use crate::{
    config::args::{ArgsError, NodeResourcesFitArgs, UtilizationShapePoint},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Reason, Score, Verdict},
    model::{Cluster, DeviceEvent, NodeInfo, PodInfo, Resources, pod::may_be_devices},
};

/// How full nodes should be (NodeResourcesFitArgs.scoringStrategy).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Strategy {
    /// Empty nodes first.
    LeastAllocated,
    /// Full nodes first.
    MostAllocated,
    /// As a function of use says: points of percent and score (0 to 100), linear between.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// The plugin.
pub struct Fit {
    strategy: Strategy,
    /// Resources scored, with weights.
    resources: Vec<(String, i64)>,
    /// Extended resources nobody looks at, and groups of them.
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
}

struct Wanted<'a> {
    requests: &'a Resources,
    /// Extended resources of the pod that count, the others being ignored.
    scalar: Vec<Scalar<'a>>,
}

struct Scalar<'a> {
    name: &'a str,
    amount: i64,
    /// Devices stand for it where a node has none itself: another plugin decides there.
    devices: bool,
}

struct Fullness<'a> {
    pod: &'a PodInfo,
    strategy: Strategy,
    resources: Vec<(String, i64)>,
}

/// Scores in the arguments reach from 0 to this.
const MAX_CUSTOM: i64 = 10;

impl Fit {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When the strategy is none, or its function or weights are out of bounds.
    pub fn new(args: NodeResourcesFitArgs) -> Result<Self, ArgsError> {
        let scoring = args.scoring_strategy.unwrap_or_default();
        let strategy = match scoring.type_.as_str() {
            "" | "LeastAllocated" => Strategy::LeastAllocated,
            "MostAllocated" => Strategy::MostAllocated,
            "RequestedToCapacityRatio" => {
                let shape = scoring.requested_to_capacity_ratio.unwrap_or_default().shape;
                Strategy::RequestedToCapacityRatio(checked(&shape)?)
            }
            _ => return Err(ArgsError::Value("scoringStrategy.type", "unknown scoring strategy")),
        };
        if scoring.resources.iter().any(|r| !(1..=100).contains(&r.weight)) {
            let why = "resource weight of is not in valid range (0-100]";
            return Err(ArgsError::Value("scoringStrategy.resources", why));
        }
        let mut resources: Vec<(String, i64)> =
            scoring.resources.into_iter().map(|r| (r.name, r.weight)).collect();
        if resources.is_empty() {
            resources = vec![("cpu".into(), 1), ("memory".into(), 1)];
        }
        Ok(Self {
            strategy,
            resources,
            ignored: args.ignored_resources,
            ignored_groups: args.ignored_resource_groups,
        })
    }

    /// What counts of a pod's requests; `devices` says for which resources devices may stand.
    fn wanted<'a>(&self, requests: &'a Resources, devices: impl Fn(&str) -> bool) -> Wanted<'a> {
        let counts = |name: &str| {
            let group = name.split_once('/').map(|(group, _)| group);
            !self.ignored.iter().any(|i| i == name)
                && !group.is_some_and(|group| self.ignored_groups.iter().any(|i| i == group))
        };
        let scalar = requests.scalar.iter().filter(|(name, _)| counts(name));
        let scalar = scalar.map(|(name, amount)| Scalar { name, amount: *amount, devices: devices(name) });
        Wanted { requests, scalar: scalar.collect() }
    }
}

/// The points of a function, if they are in order and within bounds; scores up to 100.
fn checked(shape: &[UtilizationShapePoint]) -> Result<Vec<(i64, i64)>, ArgsError> {
    let field = "scoringStrategy.requestedToCapacityRatio.shape";
    if shape.is_empty() {
        return Err(ArgsError::Value(field, "at least one point must be specified"));
    }
    if !shape.is_sorted_by(|a, b| a.utilization < b.utilization) {
        return Err(ArgsError::Value(field, "utilization values must be sorted in increasing order"));
    }
    let within =
        |p: &UtilizationShapePoint| (0..=100).contains(&p.utilization) && (0..=MAX_CUSTOM).contains(&p.score);
    if !shape.iter().all(within) {
        return Err(ArgsError::Value(field, "not in valid range: utilization 0-100, score 0-10"));
    }
    Ok(shape.iter().map(|p| (p.utilization, p.score * MAX_SCORE / MAX_CUSTOM)).collect())
}

/// The value of a function between its points; beyond them it stays.
fn interpolate(shape: &[(i64, i64)], at: i64) -> i64 {
    let Some(after) = shape.iter().position(|(x, _)| at <= *x) else {
        return shape.last().map_or(0, |(_, y)| *y);
    };
    let (x, y) = shape[after];
    let Some((x0, y0)) = after.checked_sub(1).map(|before| shape[before]) else { return y };
    y0 + (y - y0) * (at - x0) / (x - x0)
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let devices = |name: &str| may_be_devices(name) && cluster.devices.class_for(name).is_some();
        Prepared::Filter(Box::new(self.wanted(&pod.requests, devices)))
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        // A handful of short strings per cycle.
        let resources = self.resources.clone();
        Some(Box::new(Fullness { pod, strategy: self.strategy.clone(), resources }))
    }

    /// How full the domain is, whatever the strategy for nodes: a group leaves others as much room together as it can.
    fn score_domain(&self, _: &[Arc<PodInfo>], cluster: &Cluster) -> Option<i64> {
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &self.resources {
            let have: i64 = cluster.nodes().iter().map(|node| node.allocatable.get(name)).sum();
            if have == 0 {
                continue;
            }
            let used: i64 = cluster.nodes().iter().map(|node| node.counted.get(name)).sum();
            sum += min(used, have) * MAX_SCORE / have * weight;
            weights += weight;
        }
        Some(if weights == 0 { 0 } else { sum / weights })
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodRemoved(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeAdded(node) => self.wanted(&pod.requests, may_be_devices).fits_empty(node),
            ClusterEvent::NodeUpdated { old, new } => {
                old.allocatable != new.allocatable
                    && self.wanted(&pod.requests, may_be_devices).fits_empty(new)
            }
            // There may be devices for what no node has.
            ClusterEvent::DevicesChanged(DeviceEvent::Class) => !pod.device_asks.is_empty(),
            _ => false,
        }
    }
}

impl Wanted<'_> {
    /// Every resource the node lacks.
    fn lacking(&self, node: &NodeInfo, used: &Resources, pods: usize) -> (Vec<Reason>, bool) {
        let (want, have) = (self.requests, &node.allocatable);
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
        for Scalar { name, amount, devices } in &self.scalar {
            let own = have.get(name);
            if own > 0 || !devices {
                check(name, *amount, own, used.get(name));
            }
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
            let score = match &self.strategy {
                Strategy::LeastAllocated if used > have => 0,
                Strategy::LeastAllocated => (have - used) * MAX_SCORE / have,
                Strategy::MostAllocated => min(used, have) * MAX_SCORE / have,
                Strategy::RequestedToCapacityRatio(shape) => {
                    match interpolate(shape, if used > have { 100 } else { used * 100 / have }) {
                        // What is worth nothing does not count at all.
                        0 => continue,
                        score => score,
                    }
                }
            };
            sum += score * weight;
            weights += weight;
        }
        match &self.strategy {
            _ if weights == 0 => 0,
            Strategy::RequestedToCapacityRatio(_) => (2 * sum + weights) / (2 * weights),
            _ => sum / weights,
        }
    }
}

#[cfg(test)]
mod tests {
    use component_base::informer::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::DeviceChange,
        testing::{cluster, node, pod},
    };

    fn fit(args: Value) -> Result<Fit, String> {
        Fit::new(serde_json::from_value(args).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_function_of_use_is_linear_between_its_points() {
        let shape = [(0, 0), (50, 100), (100, 20)];
        let table = [(0, 0), (25, 50), (50, 100), (75, 60), (100, 20), (120, 20)];
        for (at, expected) in table {
            assert_eq!(interpolate(&shape, at), expected, "at {at}");
        }
        assert_eq!(interpolate(&[(30, 70)], 10), 70);
    }

    #[test]
    fn strategies_score_by_use() {
        let strategy = |type_: &str, more: Value| {
            let ratio = json!({"shape": more});
            let resources = json!([{"name": "cpu", "weight": 1}]);
            fit(json!({"scoringStrategy": {
                "type": type_, "resources": resources, "requestedToCapacityRatio": ratio}}))
            .unwrap()
        };
        let points = json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]);
        let (cluster, pod) = (cluster(vec![node("a", "x", json!({}))], vec![]), pod("p").cpu("1").info());
        let table = [("LeastAllocated", 75), ("MostAllocated", 25), ("RequestedToCapacityRatio", 25)];
        for (name, expected) in table {
            let plugin = strategy(name, points.clone());
            let node = cluster.node("a").unwrap();
            assert_eq!(plugin.score(&pod, &cluster, &[]).unwrap().score(node), expected, "{name}");
        }
    }

    #[test]
    fn ignored_resources_are_not_missed() {
        let requests = json!({"requests": {"example.com/gpu": "1", "other.com/x": "1"}});
        let pod = pod("p").set("/spec/containers/0/resources", requests).info();
        let cluster = cluster(vec![node("a", "x", json!({}))], vec![]);
        let lacks = |args: Value| {
            let plugin = fit(args).unwrap();
            let Prepared::Filter(filter) = plugin.filter(&pod, &cluster) else { panic!() };
            match filter.check(cluster.node("a").unwrap()) {
                Verdict::Fits => 0,
                Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => reasons.len(),
            }
        };
        assert_eq!(lacks(json!({})), 2);
        assert_eq!(lacks(json!({"ignoredResources": ["example.com/gpu"]})), 1);
        assert_eq!(lacks(json!({"ignoredResourceGroups": ["example.com", "other.com"]})), 0);
    }

    #[test]
    fn devices_may_stand_for_what_a_node_does_not_have() {
        let requests = json!({"requests": {"d.io/gpu": "2"}});
        let pod = pod("p").set("/spec/containers/0/resources", requests).info();
        let own = json!({"status": {"allocatable": {"d.io/gpu": "1"}}});
        let mut cluster = cluster(vec![node("a", "x", json!({})), node("b", "x", own)], vec![]);
        let plugin = fit(json!({})).unwrap();
        let fits = |cluster: &Cluster| {
            let Prepared::Filter(filter) = plugin.filter(&pod, cluster) else { panic!() };
            ["a", "b"].map(|name| filter.check(cluster.node(name).unwrap()) == Verdict::Fits)
        };
        assert_eq!(fits(&cluster), [false, false]);
        let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "d.io/gpu"}});
        let new = Arc::new(serde_json::from_value(class).unwrap());
        cluster.devices.take(&DeviceChange::Class(Event::Added { new, initial: true }));
        assert_eq!(fits(&cluster), [true, false]);
        assert!(plugin.wakes(&pod, &ClusterEvent::DevicesChanged(DeviceEvent::Class)));
        let unasked = crate::testing::pod("q").info();
        assert!(!plugin.wakes(&unasked, &ClusterEvent::DevicesChanged(DeviceEvent::Class)));
    }

    #[test]
    fn arguments_out_of_bounds_are_told() {
        let shape = |points: Value| {
            json!({"scoringStrategy": {"type": "RequestedToCapacityRatio",
                "requestedToCapacityRatio": {"shape": points}}})
        };
        let table = [
            json!({"scoringStrategy": {"type": "X"}}),
            json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}}),
            shape(json!([])),
            shape(json!([{"utilization": 5, "score": 1}, {"utilization": 5, "score": 2}])),
            shape(json!([{"utilization": 5, "score": 11}])),
        ];
        for args in table {
            assert!(fit(args.clone()).is_err(), "{args}");
        }
    }
}
