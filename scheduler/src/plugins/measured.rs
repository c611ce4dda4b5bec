//! How often plugins are asked, and how long they take.
//!
//! A plugin measured decides as it does unmeasured. As upstream's, times are taken in a tenth of all cycles only.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use component_base::clock::SharedClock;
use prometheus::{Histogram, IntCounter};

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Score, Scorer, Verdict},
    metrics::Metrics,
    model::{Cluster, GroupInfo, NodeInfo, PodInfo, Release, Reservation},
    plan::group::Domain,
};

/// Of so many cycles one is timed.
const SAMPLED: u32 = 10;

/// Whether the cycle under way is timed; shared by all plugins.
#[derive(Clone)]
pub struct Sampling {
    on: Arc<AtomicBool>,
    clock: SharedClock,
}

/// A plugin, its times and counts.
pub struct Measured {
    plugin: Box<dyn Plugin>,
    points: Arc<Points>,
}

/// What is known of a plugin.
struct Points {
    sampling: Sampling,
    prepared: Point,
    filtered: Point,
    scored: Point,
    reserved: Point,
}

/// What is known of a plugin at one extension point.
struct Point {
    evaluations: IntCounter,
    success: Histogram,
    /// What it says besides: that the pod is not its business, that a node does not do, or that it could not tell.
    otherwise: Vec<Histogram>,
}

impl Sampling {
    /// No cycle has begun.
    pub fn new(clock: SharedClock) -> Self {
        Self { on: Arc::default(), clock }
    }

    /// A cycle begins; `number` picks those that are timed.
    pub fn begin(&self, number: u32) {
        self.on.store(number.is_multiple_of(SAMPLED), Ordering::Relaxed);
    }

    /// Does something, and how long it took in seconds if that is to be known.
    fn time<T>(&self, work: impl FnOnce() -> T) -> (T, Option<f64>) {
        if !self.on.load(Ordering::Relaxed) {
            return (work(), None);
        }
        let began = self.clock.now();
        let done = work();
        (done, Some(self.clock.now().duration_since(began).as_secs_f64()))
    }
}

impl Measured {
    /// A plugin of a profile.
    pub fn new(plugin: Box<dyn Plugin>, profile: &str, metrics: &Metrics, sampling: &Sampling) -> Self {
        let name = plugin.name();
        let point = |point: &str, otherwise: &[&str]| Point {
            evaluations: metrics.evaluations(name, point, profile),
            success: metrics.execution(name, point, "Success"),
            otherwise: otherwise.iter().map(|status| metrics.execution(name, point, status)).collect(),
        };
        let refusals = ["Unschedulable", "UnschedulableAndUnresolvable", "Error"];
        let points = Points {
            prepared: point("PreFilter", &["Skip", "UnschedulableAndUnresolvable"]),
            filtered: point("Filter", &refusals),
            scored: point("Score", &["Skip", "Error"]),
            reserved: point("Reserve", &["Skip", "Error"]),
            sampling: sampling.clone(),
        };
        Self { plugin, points: Arc::new(points) }
    }

    fn measure<'a>(&self, filter: Box<dyn Filter + 'a>) -> Box<dyn Filter + 'a> {
        Box::new(MeasuredFilter { filter, points: self.points.clone(), was_asked: Cell::new(false) })
    }
}

struct MeasuredFilter<'a> {
    filter: Box<dyn Filter + 'a>,
    points: Arc<Points>,
    was_asked: Cell<bool>,
}

impl Filter for MeasuredFilter<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let point = &self.points.filtered;
        if !self.was_asked.replace(true) {
            point.evaluations.inc();
        }
        let (verdict, took) = self.points.sampling.time(|| self.filter.check(node));
        if let Some(took) = took {
            let of = match verdict {
                Verdict::Fits => &point.success,
                Verdict::Unschedulable(_) => &point.otherwise[0],
                Verdict::Unresolvable(_) => &point.otherwise[1],
                Verdict::Failed(_) => &point.otherwise[2],
            };
            of.observe(took);
        }
        verdict
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.filter.pod_added(pod, node);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.filter.pod_removed(pod, node);
    }
}

struct MeasuredScore<'a> {
    score: Box<dyn Score + 'a>,
    points: Arc<Points>,
}

impl Score for MeasuredScore<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (score, took) = self.points.sampling.time(|| self.score.score(node));
        if let Some(took) = took {
            self.points.scored.success.observe(took);
        }
        score
    }

    fn normalize(&self, nodes: &[&NodeInfo], scores: &mut [i64]) {
        self.score.normalize(nodes, scores);
    }
}

impl Plugin for Measured {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn may_enqueue(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), String> {
        self.plugin.may_enqueue(pod, cluster)
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let (prepared, took) = self.points.sampling.time(|| self.plugin.filter(pod, cluster));
        let of = match prepared {
            Prepared::Skip => &self.points.prepared.otherwise[0],
            Prepared::Reject(_) => &self.points.prepared.otherwise[1],
            Prepared::Filter(_) | Prepared::Restrict(..) => &self.points.prepared.success,
        };
        if let Some(took) = took {
            of.observe(took);
        }
        if !matches!(prepared, Prepared::Skip) {
            self.points.prepared.evaluations.inc();
        }
        match prepared {
            Prepared::Filter(filter) => Prepared::Filter(self.measure(filter)),
            Prepared::Restrict(names, filter) => Prepared::Restrict(names, self.measure(filter)),
            other => other,
        }
    }

    fn is_local(&self) -> bool {
        self.plugin.is_local()
    }

    fn reserve(&self, pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Reservation {
        let (reservation, took) = self.points.sampling.time(|| self.plugin.reserve(pod, cluster, node));
        if let Some(took) = took {
            self.points.reserved.success.observe(took);
        }
        reservation
    }

    fn permit(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), Reason> {
        self.plugin.permit(pod, cluster)
    }

    fn domains(&self, group: &GroupInfo, cluster: &Cluster) -> Option<Result<Vec<Domain>, String>> {
        self.plugin.domains(group, cluster)
    }

    fn score_domain(&self, pods: &[Arc<PodInfo>], cluster: &Cluster) -> Option<i64> {
        self.plugin.score_domain(pods, cluster)
    }

    fn normalize_domains(&self, scores: Vec<i64>) -> Vec<i64> {
        self.plugin.normalize_domains(scores)
    }

    fn release(&self, pod: &PodInfo, cluster: &Cluster) -> Option<Release> {
        self.plugin.release(pod, cluster)
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> Scorer<'a> {
        let score = self.plugin.score(pod, cluster, nodes)?;
        self.points.scored.evaluations.inc();
        Some(Box::new(MeasuredScore { score, points: self.points.clone() }))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        self.plugin.wakes(pod, event)
    }
}

#[cfg(test)]
mod tests {
    use component_base::{clock, features::Gates};
    use serde_json::json;

    use super::*;
    use crate::{
        plan::{Memo, Options, schedule},
        plugins::{self, Weighted},
        testing::{all_gates, cluster, node, pod},
    };

    #[test]
    fn plugins_decide_as_they_do_unmeasured_and_are_counted() {
        let metrics = Metrics::register(Gates::default());
        let sampling = Sampling::new(clock::real());
        sampling.begin(0);
        let wrap = |w: Weighted| Weighted {
            plugin: Box::new(Measured::new(w.plugin, "measured", &metrics, &sampling)),
            ..w
        };
        let measured: Vec<Weighted> = plugins::defaults(all_gates()).into_iter().map(wrap).collect();
        let plain = plugins::defaults(all_gates());
        let nodes = vec![node("a", "x", json!({})), node("b", "x", json!({"spec": {"unschedulable": true}}))];
        let cluster = cluster(nodes, vec![pod("there").cpu("3").on("a").info()]);
        for cpu in ["1", "2", "9"] {
            let pod = pod("p").cpu(cpu).info();
            let decide = |plugins: &[Weighted]| {
                schedule(&pod, &cluster, plugins, &[], Options::default(), &mut Memo::default())
            };
            assert_eq!(decide(&measured), decide(&plain), "{cpu}");
        }
        let of = |plugin: &str, point: &str| metrics.evaluations(plugin, point, "measured").get();
        assert_eq!((of("NodeResourcesFit", "PreFilter"), of("NodeResourcesFit", "Filter")), (3, 3));
        assert_eq!(of("VolumeZone", "PreFilter"), 0, "the pods have no volumes");
        let refused = metrics.execution("NodeUnschedulable", "Filter", "UnschedulableAndUnresolvable");
        let timed = refused.get_sample_count();
        assert!(timed > 0);
        sampling.begin(1);
        let pod = pod("p").info();
        schedule(&pod, &cluster, &measured, &[], Options::default(), &mut Memo::default()).unwrap();
        assert_eq!(refused.get_sample_count(), timed, "this cycle was not timed");
    }
}
