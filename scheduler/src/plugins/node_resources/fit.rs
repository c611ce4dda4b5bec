//! NodeResourcesFit: filters by free resources, scores by how full the node would be.

use std::{cmp::min, sync::Arc};

use component_base::selector::label_key_errors;

use super::amounts::{self, Amount, Amounts};
use crate::{
    config::args::{ArgsError, NodeResourcesFitArgs, ResourceSpec, ScoringStrategy},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Reason, Score, Scorer, Verdict},
    model::{Cluster, DeviceEvent, NodeInfo, PodInfo, Resources, pod::may_be_devices},
    plugins::shape::Shape,
};

/// The field that a function of use stands in.
const SHAPE: &str = "scoringStrategy.requestedToCapacityRatio.shape";

/// The strategy that has such a function.
const RATIO: &str = "RequestedToCapacityRatio";

/// How full nodes should be (NodeResourcesFitArgs.scoringStrategy).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Strategy {
    /// Empty nodes first.
    LeastAllocated,
    /// Full nodes first.
    MostAllocated,
    /// As a function of use says.
    RequestedToCapacityRatio(Shape),
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
    strategy: Strategy,
    amounts: Amounts<'a>,
}

impl Fit {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When the strategy is none, or its function or weights are out of bounds.
    pub fn new(args: NodeResourcesFitArgs) -> Result<Self, ArgsError> {
        let usual = || ScoringStrategy { type_: "LeastAllocated".to_owned(), ..ScoringStrategy::default() };
        let scoring = args.scoring_strategy.unwrap_or_else(usual);
        if scoring.type_ != RATIO && scoring.requested_to_capacity_ratio.is_some() {
            let why = "must be nil when type is not RequestedToCapacityRatio";
            return Err(ArgsError::Value("scoringStrategy.requestedToCapacityRatio", why));
        }
        let strategy = match scoring.type_.as_str() {
            "LeastAllocated" => Strategy::LeastAllocated,
            "MostAllocated" => Strategy::MostAllocated,
            RATIO => {
                let shape = scoring.requested_to_capacity_ratio.unwrap_or_default().shape;
                Strategy::RequestedToCapacityRatio(Shape::new(&shape, SHAPE)?)
            }
            _ => return Err(ArgsError::Value("scoringStrategy.type", "unknown scoring strategy")),
        };
        for (at, resource) in scoring.resources.iter().enumerate() {
            if !(1..=100).contains(&resource.weight()) {
                let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
                return Err(ArgsError::Item(format!("scoringStrategy.resources[{at}].weight"), why));
            }
        }
        check_names("ignoredResources", &args.ignored_resources)?;
        if let Some(at) = args.ignored_resource_groups.iter().position(|group| group.contains('/')) {
            let why = "resource group name can't contain '/'".to_owned();
            return Err(ArgsError::Item(format!("ignoredResourceGroups[{at}]"), why));
        }
        check_names("ignoredResourceGroups", &args.ignored_resource_groups)?;
        let weigh = |r: ResourceSpec| {
            let weight = r.weight();
            (r.name, weight)
        };
        let mut resources: Vec<(String, i64)> = scoring.resources.into_iter().map(weigh).collect();
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

/// Refuses names in a list that are none of labels.
fn check_names(list: &str, names: &[String]) -> Result<(), ArgsError> {
    for (at, name) in names.iter().enumerate() {
        if let Some(why) = label_key_errors(name).into_iter().next() {
            return Err(ArgsError::Item(format!("{list}[{at}]"), why));
        }
    }
    Ok(())
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn is_local(&self) -> bool {
        amounts::are_of_nodes(&self.resources)
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let devices = |name: &str| may_be_devices(name) && cluster.devices.class_for(name).is_some();
        Prepared::Filter(Box::new(self.wanted(&pod.requests, devices)))
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        // A handful of short strings per cycle.
        let amounts = Amounts::new(&self.resources, &pod.counted, cluster);
        Some(Box::new(Fullness { strategy: self.strategy.clone(), amounts }))
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
            ClusterEvent::PodRemoved(_) => true,
            ClusterEvent::PodChanged { old, new } => old.requests.exceeds(&new.requests),
            // Room is made where less is asked for of what the pod wants.
            ClusterEvent::PodUpdated { old, new } => {
                let names = pod.requests.scalar.iter().map(|(name, _)| name.as_str());
                let mut all = names.chain(["cpu", "memory", "ephemeral-storage"]);
                all.any(|name| pod.requests.get(name) > 0 && old.requests.get(name) > new.requests.get(name))
            }
            ClusterEvent::NodeAdded(node) => self.wanted(&pod.requests, may_be_devices).fits_empty(node),
            // There is more of something that the pod wants, or devices may stand for what the node has none of.
            ClusterEvent::NodeUpdated { old, new } => {
                let (had, has) = (&old.allocatable, &new.allocatable);
                let names = pod.requests.scalar.iter().map(|(name, _)| name.as_str());
                let mut all = names.clone().chain(["cpu", "memory", "ephemeral-storage"]);
                let grew = all.any(|name| pod.requests.get(name) > 0 && has.get(name) > had.get(name));
                let devices = || { names }.any(|name| may_be_devices(name) && has.get(name) == 0);
                (grew || has.pods > had.pods || (had != has && devices()))
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
        for Amount { used, asked, have, weight } in self.amounts.on(node, &node.counted) {
            let used = used + asked;
            let score = match &self.strategy {
                Strategy::LeastAllocated if used > have => 0,
                Strategy::LeastAllocated => (have - used) * MAX_SCORE / have,
                Strategy::MostAllocated => min(used, have) * MAX_SCORE / have,
                Strategy::RequestedToCapacityRatio(shape) => {
                    match shape.of(used, have) {
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
        testing::{cluster, node, pod, scores},
    };

    fn fit(args: Value) -> Result<Fit, String> {
        Fit::new(serde_json::from_value(args).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn strategies_score_by_use() {
        let strategy = |type_: &str, more: Value| {
            let ratio = (type_ == RATIO).then(|| json!({"shape": more}));
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

    /// The documented formulas: free share, used share, function of use; weighted means of the resources there are.
    #[test]
    fn resources_weigh_as_they_are_told() {
        let plugin = |type_: &str, resources: Value, shape: Value| {
            let mut scoring = json!({"type": type_, "resources": resources});
            if !shape.is_null() {
                scoring["requestedToCapacityRatio"] = json!({"shape": shape});
            }
            fit(json!({"scoringStrategy": scoring})).unwrap()
        };
        let asks = |name: &str, requests: Value| {
            pod(name).set("/spec/containers/0/resources", json!({"requests": requests}))
        };
        // 4 cores, 8 Gi and, on b, 4 of a device; 1 core and 2 Gi are taken on b.
        let gpu = json!({"status": {"allocatable": {"d.io/gpu": "4"}}});
        let taken = asks("t", json!({"cpu": "1", "memory": "2Gi", "d.io/gpu": "1"})).on("b").info();
        let world = cluster(vec![node("a", "x", json!({})), node("b", "x", gpu)], vec![taken]);
        let even = || json!([{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}]);
        let heavy = || json!([{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}]);
        let third = || json!([{"name": "cpu", "weight": 1}, {"name": "d.io/gpu", "weight": 3}]);
        let rising = || json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]);
        let falling = || json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]);
        let (least, most, ratio) = ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio");
        let both = || json!({"cpu": "1", "memory": "4Gi"});
        let with_gpu = || json!({"cpu": "1", "d.io/gpu": "1"});
        let none = || Value::Null;
        let table = [
            // a: 3/4 and 4/8 free; b: 2/4 and 2/8.
            (plugin(least, even(), none()), both(), [62, 37]),
            (plugin(least, heavy(), none()), both(), [68, 43]),
            (plugin(most, even(), none()), both(), [37, 62]),
            (plugin(most, heavy(), none()), both(), [31, 56]),
            // Rounded, not cut off.
            (plugin(ratio, even(), rising()), both(), [38, 63]),
            (plugin(ratio, even(), falling()), both(), [63, 38]),
            // What is worth nothing does not count: a's cores alone.
            (plugin(ratio, even(), falling()), json!({"cpu": "1", "memory": "8Gi"}), [75, 50]),
            // A device counts where the pod asks for it and a node has it.
            (plugin(least, third(), none()), with_gpu(), [75, 50]),
            (plugin(most, third(), none()), with_gpu(), [25, 50]),
            (plugin(least, third(), none()), json!({"cpu": "1"}), [75, 50]),
            // Who asks for nothing counts as 100m and 200 Mi: 3.9/4 and 7.8/8, 2.9/4 and 5.8/8.
            (plugin(least, even(), none()), json!({}), [97, 72]),
            // More than there is.
            (plugin(least, even(), none()), json!({"cpu": "9", "memory": "9Gi"}), [0, 0]),
            (plugin(most, even(), none()), json!({"cpu": "9", "memory": "9Gi"}), [100, 100]),
        ];
        for (at, (plugin, requests, expected)) in table.into_iter().enumerate() {
            let found = scores(&plugin, &asks("p", requests.clone()).info(), &world, ["a", "b"]);
            assert_eq!(found, Some(expected), "{at}: {requests}");
        }
    }

    #[test]
    fn devices_that_stand_for_a_resource_are_counted() {
        let mut world = cluster(vec![node("a", "x", json!({})), node("b", "x", json!({}))], vec![]);
        let slice = |node: &str| {
            let devices = json!([{"name": "1"}, {"name": "2"}, {"name": "3"}, {"name": "4"},
                {"name": "other", "attributes": {"kind": {"string": "other"}}}]);
            json!({"metadata": {"name": node}, "spec": {"driver": "d.io", "nodeName": node, "devices": devices,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}})
        };
        let plain = "!('kind' in device.attributes['d.io'])";
        let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "d.io/gpu",
            "selectors": [{"cel": {"expression": plain}}]}});
        let held = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {}, "status": {"allocation": {
            "devices": {"results": [{"driver": "d.io", "pool": "b", "device": "1", "request": "r"}]}}}});
        fn added<K: for<'de> serde::Deserialize<'de>>(object: Value) -> Event<K> {
            Event::Added { new: Arc::new(serde_json::from_value(object).unwrap()), initial: true }
        }
        world.devices.take(&DeviceChange::Class(added(class)));
        world.devices.take(&DeviceChange::Slice(added(slice("a"))));
        world.devices.take(&DeviceChange::Slice(added(slice("b"))));
        world.devices.take(&DeviceChange::Claim(added(held)));
        let plugin = fit(json!({"scoringStrategy": {"type": "LeastAllocated",
            "resources": [{"name": "d.io/gpu", "weight": 1}]}}))
        .unwrap();
        let requests = json!({"requests": {"d.io/gpu": "1"}});
        let asking = pod("p").set("/spec/containers/0/resources", requests).info();
        assert_eq!(scores(&plugin, &asking, &world, ["a", "b"]), Some([75, 50]));
        assert!(!plugin.is_local() && fit(json!({})).unwrap().is_local());
    }

    #[test]
    fn pods_wake_when_somebody_asks_for_less_of_what_they_want() {
        let asks = |name: &str, requests: Value| {
            pod(name).set("/spec/containers/0/resources", json!({"requests": requests})).info()
        };
        let plugin = fit(json!({})).unwrap();
        let updated =
            |old: Value, new: Value| ClusterEvent::PodUpdated { old: asks("q", old), new: asks("q", new) };
        let waiting = asks("p", json!({"cpu": "1", "d.io/gpu": "1"}));
        for (old, new, wakes) in [
            (json!({"cpu": "2"}), json!({"cpu": "1"}), true),
            (json!({"cpu": "1"}), json!({"cpu": "2"}), false),
            (json!({"memory": "2Gi"}), json!({"memory": "1Gi"}), false),
            (json!({"d.io/gpu": "2"}), json!({"d.io/gpu": "1"}), true),
            (json!({"cpu": "2"}), json!({"cpu": "2"}), false),
        ] {
            assert_eq!(plugin.wakes(&waiting, &updated(old.clone(), new.clone())), wakes, "{old} to {new}");
        }
    }

    #[test]
    fn pods_wake_when_a_node_they_fit_has_more_of_what_they_want() {
        let of =
            |allocatable: Value| Arc::new(node("a", "x", json!({"status": {"allocatable": allocatable}})));
        let requests = json!({"requests": {"cpu": "2", "d.io/gpu": "1"}});
        let waiting = pod("p").set("/spec/containers/0/resources", requests).info();
        let plain = pod("q").info();
        let plugin = fit(json!({})).unwrap();
        let gpu = |cpu: &str, more: Value| {
            let mut all = json!({"cpu": cpu, "d.io/gpu": "1"});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of(all)
        };
        for (old, new, [of_waiting, of_plain]) in [
            (gpu("1", json!({})), gpu("2", json!({})), [true, false]),
            (gpu("1", json!({})), gpu("1500m", json!({})), [false, false]),
            (gpu("4", json!({})), gpu("3", json!({})), [false, false]),
            (gpu("4", json!({})), gpu("4", json!({"memory": "99Gi"})), [false, false]),
            (gpu("4", json!({"pods": "1"})), gpu("4", json!({"pods": "2"})), [true, true]),
            (of(json!({"d.io/gpu": "0"})), gpu("4", json!({})), [true, false]),
            // Devices may stand for what it has none of.
            (of(json!({"cpu": "3"})), of(json!({"cpu": "2"})), [true, false]),
            (gpu("4", json!({})), gpu("4", json!({})), [false, false]),
        ] {
            let event = ClusterEvent::NodeUpdated { old, new };
            let wakes = [&waiting, &plain].map(|pod| plugin.wakes(pod, &event));
            assert_eq!(wakes, [of_waiting, of_plain], "{event:?}");
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
                Verdict::Failed(reason) => panic!("{reason}"),
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
            json!({"scoringStrategy": {}}),
            json!({"scoringStrategy": {"type": "LeastAllocated", "resources": [{"name": "cpu", "weight": 101}]}}),
            json!({"scoringStrategy": {"type": "LeastAllocated", "resources": [{"name": "cpu", "weight": -1}]}}),
            json!({"scoringStrategy": {"type": "MostAllocated", "requestedToCapacityRatio": {
                "shape": [{"utilization": 0, "score": 0}]}}}),
            json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}}),
            json!({"ignoredResources": ["-bad"]}),
            json!({"ignoredResourceGroups": ["example.com/x"]}),
            json!({"ignoredResourceGroups": ["-bad"]}),
            shape(json!([])),
            shape(json!([{"utilization": 5, "score": 1}, {"utilization": 5, "score": 2}])),
            shape(json!([{"utilization": 5, "score": 11}])),
        ];
        for args in table {
            assert!(fit(args.clone()).is_err(), "{args}");
        }
        let unweighed = json!({"scoringStrategy": {"type": "MostAllocated", "resources": [
            {"name": "cpu", "weight": 0}, {"name": "memory"}, {"name": "x", "weight": 100}]}});
        let expected = [("cpu".to_owned(), 1), ("memory".to_owned(), 1), ("x".to_owned(), 100)];
        assert_eq!(fit(unweighed).unwrap().resources, expected);
        assert!(
            fit(json!({"ignoredResources": ["example.com/x"], "ignoredResourceGroups": ["a.b"]})).is_ok()
        );
    }
}
