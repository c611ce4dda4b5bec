//! How often plugins are asked, and how long they take.
//!
//! A plugin measured decides as it does unmeasured. As upstream's, times are taken in a tenth of all cycles only. So are
//! those of what events mean, where upstream takes all: with many pods waiting the clock would cost more than the answers.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use component_base::clock::SharedClock;
use parking_lot::Mutex;
use prometheus::Histogram;

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Score, Scorer, Verdict},
    metrics::{Metrics, PluginPoint, Status},
    model::{Cluster, GroupInfo, NodeInfo, PodInfo, Release, Reservation},
    plan::group::Domain,
};

/// Of so many cycles, and of so many events, one is timed.
const SAMPLED: u32 = 10;

/// Whether the cycle under way, or the event, is timed; shared by all plugins.
#[derive(Clone)]
pub struct Sampling {
    on: Arc<AtomicBool>,
    event_on: Arc<AtomicBool>,
    clock: SharedClock,
}

/// A plugin, its times and counts.
pub struct Measured {
    plugin: Box<dyn Plugin>,
    points: Arc<Points>,
    metrics: Arc<Metrics>,
    /// By event, and whether it makes the plugin ask again.
    hints: Mutex<HashMap<(&'static str, bool), Histogram>>,
}

/// What is known of a plugin.
struct Points {
    sampling: Sampling,
    prepared: PluginPoint,
    added: PluginPoint,
    removed: PluginPoint,
    filtered: PluginPoint,
    began_scoring: PluginPoint,
    scored: PluginPoint,
    normalized: PluginPoint,
    reserved: PluginPoint,
    generated: PluginPoint,
    scored_domains: PluginPoint,
    normalized_domains: PluginPoint,
}

impl Sampling {
    /// No cycle has begun.
    pub fn new(clock: SharedClock) -> Self {
        Self { on: Arc::default(), event_on: Arc::default(), clock }
    }

    /// A cycle begins, the one of this number: the first is timed.
    pub fn begin(&self, number: u32) {
        self.on.store(number.is_multiple_of(SAMPLED), Ordering::Relaxed);
    }

    /// An event is about to be told, the one of this number: the first is timed.
    pub fn begin_event(&self, number: u32) {
        self.event_on.store(number.is_multiple_of(SAMPLED), Ordering::Relaxed);
    }

    /// Whether the cycle under way is timed.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Does something, and tells `point` how long it took if that is to be known.
    /// A step that comes to no status was none of the plugin's.
    fn time<T>(
        &self,
        point: &PluginPoint,
        work: impl FnOnce() -> T,
        status: impl FnOnce(&T) -> Option<Status>,
    ) -> T {
        if !self.is_on() {
            return work();
        }
        let (done, took) = self.timed(work);
        if let Some(status) = status(&done) {
            point.took(status, took);
        }
        done
    }

    fn timed<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        let began = self.clock.now();
        let done = work();
        (done, self.clock.now().duration_since(began).as_secs_f64())
    }
}

impl Measured {
    /// A plugin of a profile.
    pub fn new(plugin: Box<dyn Plugin>, profile: &str, metrics: &Arc<Metrics>, sampling: &Sampling) -> Self {
        let at = |point: &'static str| metrics.plugin(plugin.name(), point, profile);
        let points = Points {
            sampling: sampling.clone(),
            prepared: at("PreFilter"),
            added: at("PreFilterExtensionAddPod"),
            removed: at("PreFilterExtensionRemovePod"),
            filtered: at("Filter"),
            began_scoring: at("PreScore"),
            scored: at("Score"),
            normalized: at("ScoreExtensionNormalize"),
            reserved: at("Reserve"),
            generated: at("PlacementGenerate"),
            scored_domains: at("PlacementScore"),
            normalized_domains: at("PlacementScoreExtensionNormalize"),
        };
        Self { plugin, points: Arc::new(points), metrics: metrics.clone(), hints: Mutex::default() }
    }

    fn measure<'a>(&self, filter: Box<dyn Filter + 'a>) -> Box<dyn Filter + 'a> {
        Box::new(MeasuredFilter { filter, points: self.points.clone(), asked: Cell::new(0) })
    }
}

/// A step that only ever succeeds.
fn success<T>(_: &T) -> Option<Status> {
    Some(Status::Success)
}

struct MeasuredFilter<'a> {
    filter: Box<dyn Filter + 'a>,
    points: Arc<Points>,
    /// Counted here, and told once.
    asked: Cell<u64>,
}

impl Filter for MeasuredFilter<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        self.asked.set(self.asked.get() + 1);
        let status = |verdict: &Verdict| {
            Some(match verdict {
                Verdict::Fits => Status::Success,
                Verdict::Unschedulable(_) => Status::Unschedulable,
                Verdict::Unresolvable(_) => Status::Unresolvable,
                Verdict::Failed(_) => Status::Error,
            })
        };
        self.points.sampling.time(&self.points.filtered, || self.filter.check(node), status)
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        let points = &self.points;
        points.sampling.time(&points.added, || self.filter.pod_added(pod, node), success);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        let points = &self.points;
        points.sampling.time(&points.removed, || self.filter.pod_removed(pod, node), success);
    }
}

impl Drop for MeasuredFilter<'_> {
    fn drop(&mut self) {
        if self.asked.get() > 0 {
            self.points.filtered.evaluated(self.asked.get());
        }
    }
}

struct MeasuredScore<'a> {
    score: Box<dyn Score + 'a>,
    points: Arc<Points>,
    /// As with filters.
    asked: Cell<u64>,
}

impl Score for MeasuredScore<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.asked.set(self.asked.get() + 1);
        self.points.sampling.time(&self.points.scored, || self.score.score(node), success)
    }

    fn normalize(&self, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let points = &self.points;
        points.sampling.time(&points.normalized, || self.score.normalize(nodes, scores), success);
    }
}

impl Drop for MeasuredScore<'_> {
    fn drop(&mut self) {
        if self.asked.get() > 0 {
            self.points.scored.evaluated(self.asked.get());
        }
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
        let status = |prepared: &Prepared<'_>| {
            Some(match prepared {
                Prepared::Skip => Status::Skip,
                Prepared::Reject(_) => Status::Unresolvable,
                Prepared::Filter(_) | Prepared::Restrict(..) => Status::Success,
            })
        };
        let points = &self.points;
        let prepared = points.sampling.time(&points.prepared, || self.plugin.filter(pod, cluster), status);
        if !matches!(prepared, Prepared::Skip) {
            points.prepared.evaluated(1);
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
        let points = &self.points;
        let status = |made: &Reservation| (!made.is_empty()).then_some(Status::Success);
        points.sampling.time(&points.reserved, || self.plugin.reserve(pod, cluster, node), status)
    }

    fn kept(&self, pod: &PodInfo, cluster: &Cluster) -> Option<&'static str> {
        self.plugin.kept(pod, cluster)
    }

    fn permit(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), Reason> {
        self.plugin.permit(pod, cluster)
    }

    fn domains(&self, group: &GroupInfo, cluster: &Cluster) -> Option<Result<Vec<Domain>, String>> {
        let status =
            |said: &Option<Result<Vec<Domain>, String>>| said.as_ref().map(|said| Status::of(said.is_ok()));
        let points = &self.points;
        points.sampling.time(&points.generated, || self.plugin.domains(group, cluster), status)
    }

    fn score_domain(&self, pods: &[Arc<PodInfo>], cluster: &Cluster) -> Option<i64> {
        let points = &self.points;
        let score = || self.plugin.score_domain(pods, cluster);
        let status = |score: &Option<i64>| score.map(|_| Status::Success);
        points.sampling.time(&points.scored_domains, score, status)
    }

    fn normalize_domains(&self, scores: Vec<i64>) -> Vec<i64> {
        let points = &self.points;
        points.sampling.time(&points.normalized_domains, || self.plugin.normalize_domains(scores), success)
    }

    fn release(&self, pod: &PodInfo, cluster: &Cluster) -> Option<Release> {
        self.plugin.release(pod, cluster)
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> Scorer<'a> {
        let points = &self.points;
        let prepare = || self.plugin.score(pod, cluster, nodes);
        let status = |score: &Scorer<'a>| Some(if score.is_some() { Status::Success } else { Status::Skip });
        let score = points.sampling.time(&points.began_scoring, prepare, status)?;
        points.began_scoring.evaluated(1);
        Some(Box::new(MeasuredScore { score, points: points.clone(), asked: Cell::new(0) }))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let sampling = &self.points.sampling;
        if !sampling.event_on.load(Ordering::Relaxed) {
            return self.plugin.wakes(pod, event);
        }
        let (wakes, took) = sampling.timed(|| self.plugin.wakes(pod, event));
        let mut hints = self.hints.lock();
        let make = || self.metrics.hint(self.plugin.name(), event.label(), wakes);
        hints.entry((event.label(), wakes)).or_insert_with(make).observe(took);
        wakes
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
        let metrics = Arc::new(Metrics::register(Gates::default()));
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
        let of = |plugin, point| metrics.plugin(plugin, point, "measured").evaluations();
        // Of two nodes one is refused before this plugin is asked; where no node takes a pod all are asked again why.
        assert_eq!((of("NodeResourcesFit", "PreFilter"), of("NodeResourcesFit", "Filter")), (3, 5));
        assert_eq!(of("VolumeZone", "PreFilter"), 0, "the pods have no volumes");
        let unschedulable = metrics.plugin("NodeUnschedulable", "Filter", "measured");
        let refused = || unschedulable.timed(Status::Unresolvable);
        let timed = refused();
        assert!(timed > 0);
        sampling.begin(1);
        let pod = pod("p").info();
        schedule(&pod, &cluster, &measured, &[], Options::default(), &mut Memo::default()).unwrap();
        assert_eq!(refused(), timed, "this cycle was not timed");
        let waiting = crate::testing::pod("w").cpu("1").info();
        sampling.begin_event(0);
        let fit = measured.iter().find(|w| w.plugin.name() == "NodeResourcesFit").unwrap();
        assert!(
            fit.plugin.wakes(
                &waiting,
                &ClusterEvent::PodRemoved(crate::testing::pod("gone").cpu("1").on("a").info())
            )
        );
        assert!(!fit.plugin.wakes(&waiting, &ClusterEvent::NamespaceChanged));
        sampling.begin_event(1);
        assert!(!fit.plugin.wakes(&waiting, &ClusterEvent::NamespaceChanged), "this event is not timed");
        let hints = |event, wakes| metrics.hint("NodeResourcesFit", event, wakes).get_sample_count();
        assert_eq!((hints("AssignedPodDelete", true), hints("AssignedPodDelete", false)), (1, 0));
        assert_eq!((hints("NamespaceUpdate", true), hints("NamespaceUpdate", false)), (0, 1));
    }
}
