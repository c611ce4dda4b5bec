//! Metrics under upstream's names.

use std::{sync::OnceLock, time::Duration};

use component_base::{
    features::{Gate, Gates},
    metrics::{self, Stability, exponential_buckets},
};
use jiff::Timestamp;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use crate::queue::{Failures, Incoming, Pending, Queue};

/// From here on attempts are not told apart.
const MANY_ATTEMPTS: u32 = 15;

/// The scheduler's metrics.
#[derive(Debug)]
pub struct Metrics {
    evictions: Option<Evictions>,
    calls: Option<Calls>,
    attempts: IntCounterVec,
    duration: HistogramVec,
    algorithm: Histogram,
    pending: IntGaugeVec,
    incoming: IntCounterVec,
    unschedulable: IntGaugeVec,
    pod_attempts: Histogram,
    pod_duration: HistogramVec,
    preemptions: IntCounter,
    victims: Histogram,
    points: HistogramVec,
    evaluations: IntCounterVec,
    executions: HistogramVec,
    hints: HistogramVec,
    events: HistogramVec,
    flushed: IntCounter,
    running: IntGaugeVec,
    cache: IntGaugeVec,
    volume_errors: IntCounterVec,
    claims_made: Option<IntCounterVec>,
    groups: Option<GroupMetrics>,
    conditions: Option<Conditions>,
}

/// What a plugin, or all of them, came to at an extension point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// Not now; removing pods could help.
    Unschedulable,
    /// Not now, and removing pods does not help.
    Unresolvable,
    /// It could not be told.
    Error,
    /// The plugin has nothing to say.
    Skip,
    /// Others have to come first.
    Wait,
}

impl Status {
    const COUNT: usize = 6;

    /// Success, or an error.
    pub const fn of(well: bool) -> Self {
        if well { Self::Success } else { Self::Error }
    }

    /// Upstream's word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Unschedulable => "Unschedulable",
            Self::Unresolvable => "UnschedulableAndUnresolvable",
            Self::Error => "Error",
            Self::Skip => "Skip",
            Self::Wait => "Wait",
        }
    }
}

/// What is known of a plugin at one extension point. There are series of what has happened alone.
#[derive(Debug)]
pub struct PluginPoint {
    plugin: &'static str,
    point: &'static str,
    profile: String,
    evaluations: IntCounterVec,
    executions: HistogramVec,
    counted: OnceLock<IntCounter>,
    timed: [OnceLock<Histogram>; Status::COUNT],
}

impl PluginPoint {
    /// It had a say so many times.
    pub fn evaluated(&self, times: u64) {
        let labels = [self.plugin, self.point, self.profile.as_str()];
        self.counted.get_or_init(|| self.evaluations.with_label_values(&labels)).inc_by(times);
    }

    /// It took so long to come to this.
    pub fn took(&self, status: Status, seconds: f64) {
        let make = || self.executions.with_label_values(&[self.plugin, self.point, status.label()]);
        self.timed[status as usize].get_or_init(make).observe(seconds);
    }

    #[cfg(test)]
    pub(crate) fn evaluations(&self) -> u64 {
        self.evaluations.with_label_values(&[self.plugin, self.point, &self.profile]).get()
    }

    #[cfg(test)]
    pub(crate) fn timed(&self, status: Status) -> u64 {
        self.executions.with_label_values(&[self.plugin, self.point, status.label()]).get_sample_count()
    }
}

/// Of devices that are made ready before their pods are bound (`DRADeviceBindingConditions`).
#[derive(Debug)]
struct Conditions {
    allocations: IntCounterVec,
    waited: HistogramVec,
}

impl Conditions {
    fn register() -> Self {
        let labels = ["profile", "driver", "status"];
        Self {
            allocations: metrics::counter_vec(
                "scheduler_dra_bindingconditions_allocations_total",
                "Number of allocations using devices with BindingConditions, counted per driver per scheduling \
                 attempt",
                Stability::Alpha,
                &labels,
            ),
            waited: metrics::histogram_vec(
                "scheduler_dra_bindingconditions_wait_duration_seconds",
                "Time a binding waited for devices to become ready, in seconds.",
                Stability::Alpha,
                &labels,
                exponential_buckets(0.1, 2.0, 14),
            ),
        }
    }
}

/// Of groups of pods, where there are some.
#[derive(Debug)]
struct GroupMetrics {
    attempts: IntCounterVec,
    duration: HistogramVec,
    algorithm: Histogram,
}

/// What was written without anybody waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A pod's status.
    Status,
    /// A pod's node.
    Binding,
}

impl Call {
    const fn label(self) -> &'static str {
        match self {
            Self::Status => "pod_status_patch",
            Self::Binding => "pod_binding",
        }
    }
}

/// Evictions in the background (`SchedulerAsyncPreemption`).
#[derive(Debug)]
struct Evictions {
    duration: HistogramVec,
    total: IntCounterVec,
}

/// Calls in the background (`SchedulerAsyncAPICalls`).
#[derive(Debug)]
struct Calls {
    total: IntCounterVec,
    duration: HistogramVec,
    pending: IntGaugeVec,
}

impl Evictions {
    fn register() -> Self {
        Self {
            duration: metrics::histogram_vec(
                "scheduler_preemption_goroutines_duration_seconds",
                "Duration in seconds for running goroutines for the preemption.",
                Stability::Alpha,
                &["result"],
                exponential_buckets(0.01, 2.0, 20),
            ),
            total: metrics::counter_vec(
                "scheduler_preemption_goroutines_execution_total",
                "Number of preemption goroutines executed.",
                Stability::Alpha,
                &["result"],
            ),
        }
    }
}

impl Calls {
    fn register() -> Self {
        Self {
            total: metrics::counter_vec(
                "scheduler_async_api_call_execution_total",
                "Total number of API calls executed by the async dispatcher.",
                Stability::Alpha,
                &["call_type", "result"],
            ),
            duration: metrics::histogram_vec(
                "scheduler_async_api_call_execution_duration_seconds",
                "Duration in seconds for executing API call in the async dispatcher.",
                Stability::Alpha,
                &["call_type", "result"],
                exponential_buckets(0.001, 2.0, 15),
            ),
            pending: metrics::gauge_vec(
                "scheduler_pending_async_api_calls",
                "Number of API calls currently pending in the async queue.",
                Stability::Alpha,
                &["call_type"],
            ),
        }
    }
}

const fn result(well: bool) -> &'static str {
    if well { "success" } else { "error" }
}

/// An attempt to place a pod, until it is known what became of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The profile's name.
    pub profile: String,
    /// When it began.
    pub began: Timestamp,
    /// The pod's first is 1.
    pub number: u32,
    /// How long the pod had waited by then, since it first could be tried.
    pub waited: Duration,
    /// Whether it is tried because no event came that would help.
    pub was_forgotten: bool,
    /// Whether its plugins are timed.
    pub timed: bool,
    /// How often placing the pod had failed by then.
    pub failures: Failures,
}

impl Metrics {
    /// Registers those there are with these gates in the process's registry.
    pub fn register(gates: Gates) -> Self {
        Self {
            evictions: gates.has(Gate::SchedulerAsyncPreemption).then(Evictions::register),
            calls: gates.has(Gate::SchedulerAsyncAPICalls).then(Calls::register),
            attempts: metrics::counter_vec(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result",
                Stability::Stable,
                &["profile", "result"],
            ),
            duration: metrics::histogram_vec(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                Stability::Stable,
                &["profile", "result"],
                exponential_buckets(0.001, 2.0, 15),
            ),
            algorithm: metrics::histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                Stability::Alpha,
                exponential_buckets(0.001, 2.0, 15),
            ),
            pending: metrics::gauge_vec(
                "scheduler_pending_pods",
                "Number of pending pods, by the queue",
                Stability::Stable,
                &["queue"],
            ),
            incoming: metrics::counter_vec(
                "scheduler_queue_incoming_pods_total",
                "Number of pods added to scheduling queues by event and queue type.",
                Stability::Stable,
                &["queue", "event"],
            ),
            unschedulable: metrics::gauge_vec(
                "scheduler_unschedulable_pods",
                "The number of unschedulable pods by each plugin that refused them",
                Stability::Beta,
                &["plugin", "profile"],
            ),
            pod_attempts: metrics::histogram(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod.",
                Stability::Stable,
                exponential_buckets(1.0, 2.0, 5),
            ),
            pod_duration: metrics::histogram_vec(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "Latency for a pod being scheduled, from when it enters the queue, in all its attempts",
                Stability::Beta,
                &["attempts"],
                exponential_buckets(0.01, 2.0, 20),
            ),
            preemptions: metrics::counter(
                "scheduler_preemption_attempts_total",
                "Total preemption attempts in the cluster till now",
                Stability::Stable,
            ),
            victims: metrics::histogram(
                "scheduler_preemption_victims",
                "Pods that had to give way to one that took their place.",
                Stability::Stable,
                exponential_buckets(1.0, 2.0, 7),
            ),
            points: metrics::histogram_vec(
                "scheduler_framework_extension_point_duration_seconds",
                "Time all plugins of an extension point take, in seconds.",
                Stability::Stable,
                &["extension_point", "status", "profile"],
                exponential_buckets(0.0001, 2.0, 12),
            ),
            evaluations: metrics::counter_vec(
                "scheduler_plugin_evaluation_total",
                "Times a plugin was asked about a pod, by extension point: of filters and scores alone.",
                Stability::Beta,
                &["plugin", "extension_point", "profile"],
            ),
            executions: metrics::histogram_vec(
                "scheduler_plugin_execution_duration_seconds",
                "Time one plugin takes at an extension point, in seconds.",
                Stability::Alpha,
                &["plugin", "extension_point", "status"],
                exponential_buckets(0.000_01, 1.5, 20),
            ),
            hints: metrics::histogram_vec(
                "scheduler_queueing_hint_execution_duration_seconds",
                "Time a plugin takes to say whether an event may help a pod, in seconds.",
                Stability::Alpha,
                &["plugin", "event", "hint"],
                exponential_buckets(0.000_01, 1.5, 20),
            ),
            events: metrics::histogram_vec(
                "scheduler_event_handling_duration_seconds",
                "Time taking in an event takes, in seconds.",
                Stability::Alpha,
                &["event"],
                exponential_buckets(0.0001, 2.0, 12),
            ),
            flushed: metrics::counter(
                "scheduler_pod_scheduled_after_flush_total",
                "Number of pods that were successfully scheduled after they had waited for an event in vain",
                Stability::Alpha,
            ),
            running: metrics::gauge_vec(
                "scheduler_goroutines",
                "Number of running tasks split by the work they do such as binding.",
                Stability::Beta,
                &["operation"],
            ),
            cache: metrics::gauge_vec(
                "scheduler_cache_size",
                "Nodes and pods the scheduler knows of, and pods it takes for bound before it has seen that.",
                Stability::Alpha,
                &["type"],
            ),
            volume_errors: metrics::counter_vec(
                "scheduler_volume_scheduling_stage_error_total",
                "Failed attempts to make or bind the volumes of a pod.",
                Stability::Alpha,
                &["operation"],
            ),
            claims_made: gates.has(Gate::DRAExtendedResource).then(|| {
                metrics::counter_vec(
                    "scheduler_resourceclaim_creates_total",
                    "Claims of devices the scheduler has asked for by itself, by outcome.",
                    Stability::Alpha,
                    &["status"],
                )
            }),
            groups: None,
            conditions: gates.has(Gate::DRADeviceBindingConditions).then(Conditions::register),
        }
    }

    /// The same with those of groups of pods (the feature `GenericWorkload`).
    pub fn with_groups(self) -> Self {
        let groups = GroupMetrics {
            attempts: metrics::counter_vec(
                "scheduler_podgroup_schedule_attempts_total",
                "Number of attempts to schedule pod group, by the result",
                Stability::Alpha,
                &["result", "profile"],
            ),
            duration: metrics::histogram_vec(
                "scheduler_podgroup_scheduling_attempt_duration_seconds",
                "Pod group scheduling attempt latency in seconds",
                Stability::Alpha,
                &["result", "profile"],
                exponential_buckets(0.001, 2.0, 15),
            ),
            algorithm: metrics::histogram(
                "scheduler_podgroup_scheduling_algorithm_duration_seconds",
                "Pod group scheduling algorithm latency in seconds",
                Stability::Alpha,
                exponential_buckets(0.001, 2.0, 15),
            ),
        };
        Self { groups: Some(groups), ..self }
    }

    /// A group was tried: `scheduled`, `unschedulable`, `waiting_on_preemption` or `error`.
    pub fn group(&self, result: &str, profile: &str, (decided, took): (f64, f64)) {
        let Some(groups) = &self.groups else { return };
        groups.algorithm.observe(decided);
        groups.attempts.with_label_values(&[result, profile]).inc();
        groups.duration.with_label_values(&[result, profile]).observe(took);
    }

    /// Counts an attempt that has ended: `scheduled`, `unschedulable` or `error`.
    pub fn attempt(&self, profile: &str, result: &str, seconds: f64) {
        self.attempts.with_label_values(&[profile, result]).inc();
        self.duration.with_label_values(&[profile, result]).observe(seconds);
    }

    /// Pods were told in the background to go.
    pub fn evicted(&self, well: bool, seconds: f64) {
        if let Some(evictions) = &self.evictions {
            evictions.duration.with_label_values(&[result(well)]).observe(seconds);
            evictions.total.with_label_values(&[result(well)]).inc();
        }
    }

    /// So many more calls wait for their turn.
    pub fn call_waits(&self, call: Call, more: i64) {
        if let Some(calls) = &self.calls {
            calls.pending.with_label_values(&[call.label()]).add(more);
        }
    }

    /// A call was made.
    pub fn called(&self, call: Call, well: bool, seconds: f64) {
        if let Some(calls) = &self.calls {
            let labels = [call.label(), result(well)];
            calls.total.with_label_values(&labels).inc();
            calls.duration.with_label_values(&labels).observe(seconds);
        }
    }

    /// How long a decision took.
    pub fn decided(&self, seconds: f64) {
        self.algorithm.observe(seconds);
    }

    /// A pod was bound.
    pub fn bound(&self, attempt: &Attempt, now: Timestamp) {
        let took = now.duration_since(attempt.began).as_secs_f64();
        self.attempt(&attempt.profile, "scheduled", took);
        self.pod_attempts.observe(f64::from(attempt.number));
        if attempt.was_forgotten {
            self.flushed.inc();
        }
        let number = match attempt.number {
            MANY_ATTEMPTS.. => format!("{MANY_ATTEMPTS}+"),
            few => few.to_string(),
        };
        self.pod_duration.with_label_values(&[&number]).observe(attempt.waited.as_secs_f64() + took);
    }

    /// Room for a pod was looked for among those of less importance; how many have to go for it.
    pub fn preempted(&self, victims: Option<usize>) {
        self.preemptions.inc();
        if let Some(victims) = victims {
            self.victims.observe(u32::try_from(victims).map_or(f64::INFINITY, f64::from));
        }
    }

    /// All plugins of an extension point have run.
    pub fn point(&self, point: &str, status: Status, profile: &str, seconds: f64) {
        self.points.with_label_values(&[point, status.label(), profile]).observe(seconds);
    }

    /// A plugin's share in what happens at a point.
    pub fn plugin(&self, plugin: &'static str, point: &'static str, profile: &str) -> PluginPoint {
        PluginPoint {
            plugin,
            point,
            profile: profile.to_owned(),
            evaluations: self.evaluations.clone(),
            executions: self.executions.clone(),
            counted: OnceLock::new(),
            timed: Default::default(),
        }
    }

    /// What is no plugin here, but is one for upstream, took so long at a point.
    pub fn execution(&self, plugin: &str, point: &str, status: Status, seconds: f64) {
        self.executions.with_label_values(&[plugin, point, status.label()]).observe(seconds);
    }

    /// How long a plugin takes to tell whether an event makes it ask again for a pod it refused.
    pub fn hint(&self, plugin: &str, event: &str, wakes: bool) -> Histogram {
        self.hints.with_label_values(&[plugin, event, if wakes { "Queue" } else { "QueueSkip" }])
    }

    /// A claim of devices was made for a pod's extended resources, or could not be.
    pub fn claim_made(&self, well: bool) {
        if let Some(made) = &self.claims_made {
            made.with_label_values(&[if well { "success" } else { "failure" }]).inc();
        }
    }

    /// Volumes could not be bound for a pod that has its node.
    pub fn volumes_failed(&self) {
        self.volume_errors.with_label_values(&["bind"]).inc();
    }

    /// A pod's wait for its devices to be made ready is over: `success`, `failure`, `timeout` or `error`. `drivers` are those of
    /// all its devices, each with whether it was waited for that device.
    pub fn devices_waited<'d>(
        &self,
        (profile, status): (&str, &str),
        drivers: impl IntoIterator<Item = (&'d str, bool)>,
        seconds: f64,
    ) {
        let Some(conditions) = &self.conditions else { return };
        for (driver, is_conditional) in drivers {
            let labels = [profile, driver, status];
            conditions.waited.with_label_values(&labels).observe(seconds);
            if is_conditional {
                conditions.allocations.with_label_values(&labels).inc();
            }
        }
    }

    /// How long the queue took over an event.
    pub fn handled(&self, event: &str, seconds: f64) {
        self.events.with_label_values(&[event]).observe(seconds);
    }

    /// A binding began or ended.
    pub fn binding(&self, begins: bool) {
        self.running.with_label_values(&["binding"]).add(if begins { 1 } else { -1 });
    }

    /// Extenders began or ended to score nodes.
    pub fn prioritizing(&self, begins: bool) {
        self.running.with_label_values(&["prioritizing_extender"]).add(if begins { 1 } else { -1 });
    }

    /// How much the model holds; `assumed` pods are placed, and the server has not said so yet.
    pub fn model(&self, nodes: usize, pods: usize, assumed: usize) {
        for (kind, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            self.cache.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Shows how many pods wait where, and because of whom.
    pub fn queue(&self, queue: &mut Queue) {
        self.pending(queue.pending());
        self.came(queue.take_incoming());
        self.unschedulable.reset();
        for ((plugin, profile), count) in queue.refusals() {
            self.unschedulable.with_label_values(&[plugin, profile]).set(count);
        }
    }

    fn came(&self, incoming: Incoming) {
        for ((queue, event), count) in incoming {
            self.incoming.with_label_values(&[queue, event]).inc_by(count);
        }
    }

    fn pending(&self, pending: Pending) {
        for (queue, count) in [
            ("active", pending.active),
            ("backoff", pending.backoff),
            ("unschedulable", pending.unschedulable),
            ("gated", pending.gated),
        ] {
            self.pending.with_label_values(&[queue]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::queue::BackOff;

    #[test]
    fn a_bound_pod_is_counted_with_its_attempts() {
        let metrics = Metrics::register(Gates::default());
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let attempt = |number: u32| Attempt {
            profile: "counted".into(),
            began,
            number,
            waited: Duration::from_secs(3),
            was_forgotten: false,
            timed: false,
            failures: Failures::default(),
        };
        let now = began + Duration::from_secs(1);
        [2, 2, 15, 40].into_iter().for_each(|number| metrics.bound(&attempt(number), now));
        let took = metrics.duration.with_label_values(&["counted", "scheduled"]);
        assert_eq!((took.get_sample_count(), took.get_sample_sum()), (4, 4.0));
        let sums = ["2", "15+"].map(|n| metrics.pod_duration.with_label_values(&[n]).get_sample_sum());
        assert_eq!(sums, [8.0, 8.0]);
    }

    #[test]
    fn what_happens_in_the_background_is_counted_where_it_does() {
        let of = |gate, on| Metrics::register(Gates::default().with(gate, on));
        assert!(of(Gate::SchedulerAsyncPreemption, true).evictions.is_some());
        assert!(of(Gate::SchedulerAsyncPreemption, false).evictions.is_none());
        assert!(of(Gate::SchedulerAsyncAPICalls, false).calls.is_none());
        let metrics = of(Gate::SchedulerAsyncAPICalls, true);
        metrics.call_waits(Call::Binding, 1);
        metrics.called(Call::Binding, false, 0.1);
        let calls = metrics.calls.unwrap();
        assert_eq!(calls.pending.with_label_values(&["pod_binding"]).get(), 1);
        assert_eq!(calls.total.with_label_values(&["pod_binding", "error"]).get(), 1);
    }

    /// Upstream's metrics of this subsystem that are not here, and why.
    const ABSENT: &[(&str, &str)] = &[
        (
            "scheduler_batch_attempts_total",
            "what a node said to a pod is kept for all pods like it, not for the next one",
        ),
        ("scheduler_batch_cache_flushed_total", "as above"),
        ("scheduler_get_node_hint_duration_seconds", "as above"),
        ("scheduler_store_schedule_results_duration_seconds", "as above"),
        (
            "scheduler_inflight_events",
            "decisions and events take turns: none comes while a pod is decided on, so that none is kept",
        ),
        (
            "scheduler_permit_wait_duration_seconds",
            "a group's pods are bound once all that it takes have their nodes: none waits between",
        ),
        ("scheduler_volume_binder_cache_requests_total", "upstream counts nothing there either"),
    ];

    /// All of upstream's metrics of this subsystem.
    const UPSTREAM: &[&str] = &[
        "scheduler_async_api_call_execution_duration_seconds",
        "scheduler_async_api_call_execution_total",
        "scheduler_batch_attempts_total",
        "scheduler_batch_cache_flushed_total",
        "scheduler_cache_size",
        "scheduler_dra_bindingconditions_allocations_total",
        "scheduler_dra_bindingconditions_wait_duration_seconds",
        "scheduler_event_handling_duration_seconds",
        "scheduler_framework_extension_point_duration_seconds",
        "scheduler_get_node_hint_duration_seconds",
        "scheduler_goroutines",
        "scheduler_inflight_events",
        "scheduler_pending_async_api_calls",
        "scheduler_pending_pods",
        "scheduler_permit_wait_duration_seconds",
        "scheduler_plugin_evaluation_total",
        "scheduler_plugin_execution_duration_seconds",
        "scheduler_pod_scheduled_after_flush_total",
        "scheduler_pod_scheduling_attempts",
        "scheduler_pod_scheduling_sli_duration_seconds",
        "scheduler_podgroup_schedule_attempts_total",
        "scheduler_podgroup_scheduling_algorithm_duration_seconds",
        "scheduler_podgroup_scheduling_attempt_duration_seconds",
        "scheduler_preemption_attempts_total",
        "scheduler_preemption_goroutines_duration_seconds",
        "scheduler_preemption_goroutines_execution_total",
        "scheduler_preemption_victims",
        "scheduler_queue_incoming_pods_total",
        "scheduler_queueing_hint_execution_duration_seconds",
        "scheduler_resourceclaim_creates_total",
        "scheduler_schedule_attempts_total",
        "scheduler_scheduling_algorithm_duration_seconds",
        "scheduler_scheduling_attempt_duration_seconds",
        "scheduler_store_schedule_results_duration_seconds",
        "scheduler_unschedulable_pods",
        "scheduler_volume_binder_cache_requests_total",
        "scheduler_volume_scheduling_stage_error_total",
    ];

    /// Tells a test that it has the process for itself.
    const ALONE: &str = "KEELSON_TEST_ALONE";

    /// Something of everything that is told.
    fn tell_all(metrics: &Metrics) {
        let attempt = Attempt {
            profile: "p".into(),
            began: Timestamp::UNIX_EPOCH,
            number: 1,
            waited: Duration::ZERO,
            was_forgotten: true,
            timed: false,
            failures: Failures::default(),
        };
        metrics.bound(&attempt, attempt.began);
        metrics.decided(1.0);
        metrics.group("scheduled", "p", (1.0, 1.0));
        metrics.evicted(true, 1.0);
        metrics.call_waits(Call::Status, 1);
        metrics.called(Call::Status, true, 1.0);
        metrics.preempted(Some(1));
        metrics.point("Filter", Status::Success, "p", 1.0);
        metrics.plugin("NodeName", "Filter", "p").evaluated(1);
        metrics.execution("DefaultBinder", "Bind", Status::Success, 1.0);
        metrics.hint("NodeName", "NodeAdd", true).observe(1.0);
        metrics.volumes_failed();
        metrics.devices_waited(("p", "success"), [("driver", true)], 1.0);
        metrics.handled("NodeAdd", 1.0);
        metrics.binding(true);
        metrics.model(1, 1, 1);
        metrics.claim_made(true);
        let mut queue = Queue::new(BackOff::default());
        queue.add(crate::testing::pod("gated").info(), Some("SchedulingGates"), Duration::ZERO);
        metrics.queue(&mut queue);
    }

    /// In a process of its own: of metrics that are registered twice, only the first are shown, and other tests register them
    /// as well.
    #[test]
    fn every_metric_of_upstreams_is_told_or_it_is_said_why_not() {
        if std::env::var_os(ALONE).is_none() {
            let name = "metrics::tests::every_metric_of_upstreams_is_told_or_it_is_said_why_not";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let done = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(
                done.status.success() && said.contains("1 passed"),
                "{said}{}",
                String::from_utf8_lossy(&done.stderr)
            );
            return;
        }
        let gates = crate::testing::all_gates().with(Gate::SchedulerAsyncAPICalls, true);
        tell_all(&Metrics::register(gates).with_groups());
        let families = metrics::registry().gather();
        let names: BTreeSet<&str> = families.iter().map(|family| family.name()).collect();
        let told: Vec<&str> = names.into_iter().filter(|name| name.starts_with("scheduler_")).collect();
        let is_absent = |name: &&&str| ABSENT.iter().any(|(absent, _)| absent == *name);
        let expected: Vec<&str> = UPSTREAM.iter().filter(|name| !is_absent(name)).copied().collect();
        assert_eq!(told, expected);
        assert!(ABSENT.iter().all(|(absent, why)| UPSTREAM.contains(absent) && !why.is_empty()));
    }

    #[test]
    fn devices_that_are_waited_for_are_counted_by_driver() {
        let metrics = Metrics::register(Gates::default().with(Gate::DRADeviceBindingConditions, true));
        metrics.devices_waited(("waits", "timeout"), [("slow", true), ("slow", true), ("other", false)], 2.0);
        let conditions = metrics.conditions.as_ref().unwrap();
        let of = |driver| {
            let labels = ["waits", driver, "timeout"];
            let allocations = conditions.allocations.with_label_values(&labels).get();
            (conditions.waited.with_label_values(&labels).get_sample_count(), allocations)
        };
        assert_eq!((of("slow"), of("other")), ((2, 2), (1, 0)));
        let off = Gates::default().with(Gate::DRADeviceBindingConditions, false);
        assert!(Metrics::register(off).conditions.is_none());
    }
}
