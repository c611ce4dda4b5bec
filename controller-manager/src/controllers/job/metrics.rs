//! What is measured of jobs, under upstream's names.

use std::sync::LazyLock;

use component_base::{
    meta::has_finalizer,
    metrics::{self, Stability, exponential_buckets},
};
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobStatus},
    core::v1::Pod,
};
use prometheus::{HistogramVec, IntCounterVec};

use super::{
    indexes,
    plan::{Plan, TRACKING},
};
use crate::controllers::{pod_control::Created, pod_disruption::is_finished};

const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";

/// What a look at a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// There was nothing to do with pods.
    Reconciling,
    /// Pods were counted.
    Tracking,
    PodsCreated,
    PodsDeleted,
}

// === impl Action ===

impl Action {
    /// What a plan does with pods.
    pub(super) fn of(plan: &Plan) -> Action {
        let deletes = !plan.kill.is_empty() || !plan.remove.is_empty();
        match (deletes, plan.create.is_empty(), ended(&plan.status).is_some()) {
            (true, ..) => Action::PodsDeleted,
            (false, false, _) => Action::PodsCreated,
            (false, true, true) if plan.untrack.is_empty() => Action::Reconciling,
            (false, true, _) => Action::Tracking,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Action::Reconciling => "reconciling",
            Action::Tracking => "tracking",
            Action::PodsCreated => "pods_created",
            Action::PodsDeleted => "pods_deleted",
        }
    }
}

fn mode(job: &Job) -> &str {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed")
}

fn is_indexed(job: &Job) -> bool {
    mode(job) == "Indexed"
}

/// The condition that says that a job has ended.
fn ended(status: &JobStatus) -> Option<&JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")
}

/// A look at a job is over.
pub(super) fn synced(job: &Job, action: Action, well: bool, seconds: f64) {
    let labels = [mode(job), if well { "success" } else { "error" }, action.label()];
    SYNCS.with_label_values(&labels).inc();
    SYNC_SECONDS.with_label_values(&labels).observe(seconds);
}

/// Pods were made, or some of them.
pub(super) fn created(job: &Job, created: &Created) {
    let policy = job.spec.as_ref().and_then(|s| s.pod_replacement_policy.as_deref());
    let status = job.status.clone().unwrap_or_default();
    let failed = status.failed.unwrap_or(0) > 0;
    let reason = match policy {
        Some("Failed") if failed => "recreate_failed",
        _ if failed || status.terminating.unwrap_or(0) > 0 => "recreate_terminating_or_failed",
        _ => "new",
    };
    let failed = usize::from(created.error.is_some());
    for (count, status) in [(created.made, SUCCEEDED), (failed, FAILED)] {
        if count > 0 {
            PODS_CREATED.with_label_values(&[reason, status]).inc_by(count as u64);
        }
    }
}

/// A status was written: what it says beyond the one before has come to an end.
pub(super) fn counted(old: &Job, new: &Job) {
    let status = |job: &Job| job.status.clone().unwrap_or_default();
    let (before, now) = (status(old), status(new));
    let grown = |before: Option<i32>, now: Option<i32>| {
        u64::try_from(now.unwrap_or(0) - before.unwrap_or(0)).unwrap_or(0)
    };
    let mut succeeded = grown(before.succeeded, now.succeeded);
    if is_indexed(new) {
        let per_index = new.spec.as_ref().is_some_and(|s| s.backoff_limit_per_index.is_some());
        let limit = if per_index { "perIndex" } else { "global" };
        let completions = new.spec.as_ref().and_then(|s| s.completions).unwrap_or(0);
        let more = |before: &Option<String>, now: &Option<String>| more(before, now, completions);
        succeeded = more(&before.completed_indexes, &now.completed_indexes);
        INDEXES.with_label_values(&[SUCCEEDED, limit]).inc_by(succeeded);
        if per_index {
            let failed = more(&before.failed_indexes, &now.failed_indexes);
            INDEXES.with_label_values(&[FAILED, limit]).inc_by(failed);
        }
    }
    PODS_FINISHED.with_label_values(&[mode(new), SUCCEEDED]).inc_by(succeeded);
    PODS_FINISHED.with_label_values(&[mode(new), FAILED]).inc_by(grown(before.failed, now.failed));
    if let Some(end) = ended(&now).filter(|_| ended(&before).is_none()) {
        let result = if end.type_ == "Complete" { SUCCEEDED } else { FAILED };
        let reason = end.reason.as_deref().unwrap_or_default();
        FINISHED.with_label_values(&[mode(new), result, reason]).inc();
    }
}

/// How many indexes came to a list of them.
fn more(before: &Option<String>, now: &Option<String>, completions: i32) -> u64 {
    let count =
        |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), completions).len();
    count(now).saturating_sub(count(before)) as u64
}

/// Somebody else's job came.
pub(super) fn external(controller: &str) {
    EXTERNAL.with_label_values(&[controller]).inc();
}

/// A pod was seen: one that has ended may be kept for its job, or let go. The one before it is absent when it came, the
/// one now when it went.
pub(super) fn tracked(before: Option<&Pod>, now: Option<&Pod>) {
    let is =
        |pod: Option<&Pod>| pod.is_some_and(|pod| is_finished(pod) && has_finalizer(&pod.metadata, TRACKING));
    match (is(before), is(now)) {
        (false, true) => TRACKED.with_label_values(&["add"]).inc(),
        (true, false) => TRACKED.with_label_values(&["delete"]).inc(),
        _ => {}
    }
}

static SYNC_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "job_controller_job_sync_duration_seconds",
        "The time it took to sync a job",
        Stability::Stable,
        &["completion_mode", "result", "action"],
        exponential_buckets(0.004, 2.0, 15),
    )
});

static SYNCS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_job_syncs_total",
        "The number of job syncs",
        Stability::Stable,
        &["completion_mode", "result", "action"],
    )
});

static FINISHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_jobs_finished_total",
        "The number of finished jobs",
        Stability::Stable,
        &["completion_mode", "result", "reason"],
    )
});

static PODS_FINISHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_job_pods_finished_total",
        "The number of finished Pods that are fully tracked",
        Stability::Stable,
        &["completion_mode", "result"],
    )
});

static EXTERNAL: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_jobs_by_external_controller_total",
        "The number of Jobs managed by an external controller",
        Stability::Alpha,
        &["controller_name"],
    )
});

static TRACKED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_terminated_pods_tracking_finalizer_total",
        "The number of ended pods that have the finalizer batch.kubernetes.io/job-tracking, by what became of it",
        Stability::Beta,
        &["event"],
    )
});

static INDEXES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_job_finished_indexes_total",
        "The number of finished indexes, by status and by what limits their failures",
        Stability::Alpha,
        &["status", "backoffLimit"],
    )
});

static PODS_CREATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "job_controller_job_pods_creation_total",
        "The number of Pods created for Jobs, by why and with what success",
        Stability::Alpha,
        &["reason", "status"],
    )
});

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value, status: Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"template": {}, "completions": 9},
            "status": status}))
        .map(|mut job: Job| {
            let own: Job = serde_json::from_value(json!({"spec": spec})).unwrap();
            let (all, own) = (job.spec.get_or_insert_default(), own.spec.unwrap());
            all.completion_mode = own.completion_mode;
            all.backoff_limit_per_index = own.backoff_limit_per_index;
            job
        })
        .unwrap()
    }

    #[test]
    fn a_look_is_named_after_what_it_does_with_pods() {
        let pod = Arc::new(Pod::default());
        let done = JobStatus {
            conditions: job(
                json!({"template": {}}),
                json!({"conditions": [{"type": "Complete", "status": "True"}]}),
            )
            .status
            .and_then(|s| s.conditions),
            ..JobStatus::default()
        };
        let table = [
            (Plan::default(), Action::Tracking),
            (Plan { create: vec![None], ..Plan::default() }, Action::PodsCreated),
            (Plan { kill: vec![pod.clone()], create: vec![None], ..Plan::default() }, Action::PodsDeleted),
            (Plan { remove: vec![pod.clone()], ..Plan::default() }, Action::PodsDeleted),
            (Plan { status: done.clone(), ..Plan::default() }, Action::Reconciling),
            (Plan { status: done, untrack: vec![pod], ..Plan::default() }, Action::Tracking),
        ];
        for (plan, action) in table {
            assert_eq!(Action::of(&plan), action);
        }
    }

    #[test]
    fn what_ends_is_counted_once() {
        let indexed = json!({"template": {}, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
        let old = job(indexed.clone(), json!({"completedIndexes": "0-1", "failed": 1}));
        let new = job(
            indexed,
            json!({"completedIndexes": "0-3", "failedIndexes": "5", "failed": 3, "conditions": [
            {"type": "Failed", "status": "True", "reason": "FailedIndexes"}]}),
        );
        let read = || {
            [
                INDEXES.with_label_values(&[SUCCEEDED, "perIndex"]).get(),
                INDEXES.with_label_values(&[FAILED, "perIndex"]).get(),
                PODS_FINISHED.with_label_values(&["Indexed", SUCCEEDED]).get(),
                PODS_FINISHED.with_label_values(&["Indexed", FAILED]).get(),
                FINISHED.with_label_values(&["Indexed", FAILED, "FailedIndexes"]).get(),
            ]
        };
        let before = read();
        counted(&old, &new);
        counted(&new, &new);
        let now = read();
        let grown: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(grown, [2, 1, 2, 2, 1]);
    }

    #[test]
    fn pods_that_ended_are_kept_and_let_go() {
        let pod = |phase: &str, finalizers: &[&str]| -> Pod {
            let pod = json!({"metadata": {"finalizers": finalizers}, "status": {"phase": phase}});
            serde_json::from_value(pod).unwrap()
        };
        let (running, kept, free) =
            (pod("Running", &[TRACKING]), pod("Failed", &[TRACKING]), pod("Failed", &[]));
        let read = || ["add", "delete"].map(|event| TRACKED.with_label_values(&[event]).get());
        let before = read();
        tracked(None, Some(&running));
        tracked(Some(&running), Some(&kept));
        tracked(Some(&kept), Some(&kept));
        tracked(Some(&kept), Some(&free));
        tracked(Some(&free), None);
        let now = read();
        assert_eq!([now[0] - before[0], now[1] - before[1]], [1, 1]);
    }
}
