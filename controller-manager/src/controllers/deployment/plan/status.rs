//! What a deployment's status says. Pure.
//!
//! Contract: upstream's `pkg/controller/deployment/progress.go`: a condition is written again only when its status or
//! reason changes, but for progress, whose time moves with every step made.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Mode, Sets, available, size, sizes::margins, total, wanted};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The status; `made` is the name of a set that is being made.
pub(super) fn status(
    deployment: &Deployment,
    sets: &Sets,
    mode: Mode,
    made: Option<&str>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let mut out = counts(deployment, sets);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    if mode != Mode::Ending && time_limit(deployment).is_some() {
        pause(deployment, &mut conditions, now);
        announce(sets, made, &mut conditions, now);
    }
    let enough = out.available_replicas.unwrap_or(0) >= wanted(deployment) - margins(deployment).1;
    let (status, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(&mut conditions, AVAILABLE, (status, reason, message.to_owned()), now);
    if mode == Mode::Rolling {
        match time_limit(deployment) {
            None => conditions.retain(|c| c.type_ != PROGRESSING),
            Some(limit) => progress(deployment, sets, &out, limit, &mut conditions, now),
        }
        match failure(sets) {
            None => conditions.retain(|c| c.type_ != FAILURE),
            Some(new) => put(&mut conditions, new),
        }
    }
    out.conditions = Some(conditions);
    out
}

fn counts(deployment: &Deployment, sets: &Sets) -> DeploymentStatus {
    let running = |s: &ReplicaSet| s.status.as_ref().map_or(0, |st| st.replicas);
    let ready = |s: &ReplicaSet| s.status.as_ref().and_then(|st| st.ready_replicas).unwrap_or(0);
    let usable = total(&sets.all, available);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(total(&sets.all, running)),
        updated_replicas: Some(sets.current.as_ref().map_or(0, |c| running(c))),
        ready_replicas: Some(total(&sets.all, ready)),
        available_replicas: Some(usable),
        unavailable_replicas: Some((total(&sets.all, size) - usable).max(0)),
        collision_count: deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: None,
        terminating_replicas: sets.all.iter().map(|s| ending(s)).sum(),
    }
}

/// A set's pods on their way out; `None` where whoever looked at the set does not count them.
fn ending(set: &ReplicaSet) -> Option<i32> {
    let status = set.status.as_ref();
    let unseen = status.and_then(|s| s.observed_generation).unwrap_or(0) == 0;
    status.and_then(|s| s.terminating_replicas).or(unseen.then_some(0))
}

/// Seconds a rollout may go without progress; `None` when nobody looks.
fn time_limit(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.unwrap_or(600);
    (seconds != i32::MAX).then(|| i64::from(seconds))
}

fn reason(conditions: &[DeploymentCondition]) -> Option<&str> {
    conditions.iter().find(|c| c.type_ == PROGRESSING).map(|c| c.reason.as_deref().unwrap_or_default())
}

/// Pausing and resuming are told, so that the time between does not count; a deadline that was missed stays told.
fn pause(deployment: &Deployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
    let (reason, message) = match (paused, reason(conditions)) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => return,
        (true, _) => (PAUSED, "Deployment is paused"),
        (false, Some(PAUSED)) => ("DeploymentResumed", "Deployment is resumed"),
        (false, _) => return,
    };
    set(conditions, PROGRESSING, ("Unknown", reason, message.to_owned()), now);
}

/// A set that is made, or was found by a deployment that never told of progress.
fn announce(sets: &Sets, made: Option<&str>, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    if let Some(name) = made {
        let message = format!("Created new replica set {name:?}");
        set(conditions, PROGRESSING, ("True", "NewReplicaSetCreated", message), now);
    } else if reason(conditions).is_none()
        && let Some(name) = sets.current.as_ref().and_then(|c| c.metadata.name.as_ref())
    {
        let message = format!("Found new replica set {name:?}");
        set(conditions, PROGRESSING, ("True", "FoundNewReplicaSet", message), now);
    }
}

/// The Progressing condition of a rollout: complete, moving, or stuck past the deadline.
fn progress(
    deployment: &Deployment,
    sets: &Sets,
    status: &DeploymentStatus,
    limit: i64,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let old = deployment.status.as_ref();
    let told = reason(old.and_then(|s| s.conditions.as_deref()).unwrap_or_default());
    // Once a rollout is complete, pods that come and go are no progress of it.
    if told == Some(COMPLETE) && status.replicas == status.updated_replicas {
        return;
    }
    let subject = match sets.current.as_ref().and_then(|c| c.metadata.name.as_ref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(conditions, PROGRESSING, ("True", COMPLETE, message), now);
    } else if moved(old, status) {
        let known = conditions.iter().find(|c| c.type_ == PROGRESSING).cloned();
        let since = known.filter(|c| c.status == "True").and_then(|c| c.last_transition_time);
        let message = format!("{subject} is progressing.");
        put(conditions, condition(PROGRESSING, ("True", "ReplicaSetUpdated", message), since, now));
    } else if conditions.iter().any(|c| c.type_ == PROGRESSING && is_overdue(c, limit, now)) {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, PROGRESSING, ("False", TIMED_OUT, message), now);
    }
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(wanted(deployment));
    let all =
        status.updated_replicas == wanted && status.replicas == wanted && status.available_replicas == wanted;
    all && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn moved(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let old = old.cloned().unwrap_or_default();
    let count = |n: Option<i32>| n.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| count(s.replicas) - count(s.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
        || outdated(new) < outdated(&old)
}

fn is_overdue(condition: &DeploymentCondition, limit: i64, now: Timestamp) -> bool {
    let since = condition.last_update_time.as_ref().map_or(now.as_second(), |t| t.0.as_second());
    condition.reason.as_deref() != Some(COMPLETE) && since + limit < now.as_second()
}

/// When to look whether the deadline has passed.
pub(super) fn deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let limit = time_limit(deployment)?;
    let condition = status.conditions.as_ref()?.iter().find(|c| c.type_ == PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT | PAUSED)) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0.as_second();
    Some(Duration::from_secs(u64::try_from(since + limit + 1 - now.as_second()).unwrap_or(1).max(1)))
}

/// Why sets cannot make pods, the current one's reason first.
fn failure(sets: &Sets) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == FAILURE).cloned()
    };
    let current = sets.current.as_ref().and_then(|c| of(c));
    let found = current.or_else(|| sets.all.iter().find_map(|s| of(s)))?;
    Some(DeploymentCondition {
        type_: found.type_,
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time,
    })
}

/// What is told of a replica set that could not be made, and the status of its deployment, if anybody waits for progress.
pub(in super::super) fn create_failed(
    deployment: &Deployment,
    set_name: &str,
    why: &str,
    now: Timestamp,
) -> (String, Option<DeploymentStatus>) {
    let message = format!("Failed to create new replica set {set_name:?}: {why}");
    let status = time_limit(deployment).map(|_| {
        let mut status = deployment.status.clone().unwrap_or_default();
        let told = ("False", "ReplicaSetCreateError", message.clone());
        set(status.conditions.get_or_insert_default(), PROGRESSING, told, now);
        status
    });
    (message, status)
}

fn condition(
    kind: &str,
    (status, reason, message): (&str, &str, String),
    since: Option<Time>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    }
}

/// Sets a condition unless it says the same already; the transition time moves only with the status.
fn set(conditions: &mut Vec<DeploymentCondition>, kind: &str, told: (&str, &str, String), now: Timestamp) {
    let old = conditions.iter().find(|c| c.type_ == kind);
    if old.is_some_and(|c| c.status == told.0 && c.reason.as_deref() == Some(told.1)) {
        return;
    }
    let since = old.filter(|c| c.status == told.0).and_then(|c| c.last_transition_time.clone());
    put(conditions, condition(kind, told, since, now));
}

fn put(conditions: &mut Vec<DeploymentCondition>, new: DeploymentCondition) {
    let same =
        |c: &DeploymentCondition| c.type_ == new.type_ && c.status == new.status && c.reason == new.reason;
    if new.type_ == FAILURE && conditions.iter().any(same) {
        return;
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}
