//! What a budget allows, given its pods and how many there ought to be. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::{
    intstr::{Rounding, ScaleError, scaled},
    meta::set_condition,
    selector::LabelSelector,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

use crate::controllers::{pod_disruption::is_finished, replicaset::is_ready};

/// By when a pod let go must be seen ending; after that it counts as staying.
const DELETION: SignedDuration = SignedDuration::from_mins(2);
/// By when a pod whose end is announced must be ending.
const STALE: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// What follows from a budget and its pods.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// When the next pod let go counts again although nothing happened.
    pub(super) recheck: Option<Duration>,
    /// Pods let go two minutes ago that are still there.
    pub(super) not_deleted: Vec<Arc<Pod>>,
}

/// The selector of a budget as upstream's events write it, which is how Go prints it.
pub(super) fn selector_text(budget: &PodDisruptionBudget) -> String {
    let Some(selector) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else {
        return "nil".to_owned();
    };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let requirements = selector.match_expressions.iter().flatten().map(|r| {
        let values = r.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", r.key, r.operator)
    });
    let requirements: String = requirements.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{requirements}}},}}"
    )
}

/// Whether a budget covers a pod.
pub(super) fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = LabelSelector::from_api(budget.spec.as_ref().and_then(|s| s.selector.as_ref()));
    selector.is_ok_and(|s| s.matches(&pod.metadata.labels))
}

/// Whether a budget is relative to what the pods' controllers are asked for.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// The status for a budget's pods; `scale` is the sum of their controllers' sizes, where the budget needs it.
///
/// # Errors
/// When a share is no percentage.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: Option<i32>,
    now: Timestamp,
) -> Result<Plan, ScaleError> {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let (expected, desired) = wanted(&spec, pods, scale)?;
    let let_go = old.disrupted_pods.unwrap_or_default();
    let mut still = BTreeMap::new();
    let mut not_deleted = Vec::new();
    for pod in pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        match let_go.get(&name) {
            Some(at) if at.0 + DELETION < now => not_deleted.push(pod.clone()),
            Some(at) => drop(still.insert(name, at.clone())),
            None => {}
        }
    }
    let healthy = pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let leaves = still.get(name).is_some_and(|at: &Time| at.0 + DELETION > now);
        pod.metadata.deletion_timestamp.is_none() && !leaves && is_ready(pod)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let spare = healthy.saturating_sub(desired).max(0);
    // A budget that has met no pods yet allows nothing, so that its first pods are safe.
    let allowed = if expected > 0 { spare } else { 0 };
    let generation = budget.metadata.generation;
    let recheck = still.values().map(|at| at.0 + DELETION).min();
    let conditions = allowed_condition(old.conditions, allowed > 0, generation, now);
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!still.is_empty()).then_some(still),
        observed_generation: generation,
        conditions: Some(conditions),
    };
    // A moment later: at the very end the pod still counts as leaving.
    let wait = |at: Timestamp| until(at, now) + Duration::from_secs(1);
    Ok(Plan { status, recheck: recheck.map(wait), not_deleted })
}

/// (pods there ought to be, healthy ones below which nothing goes).
fn wanted(
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    scale: Option<i32>,
) -> Result<(i32, i32), ScaleError> {
    let expected = scale.unwrap_or(0);
    let share = |value: &IntOrString| {
        let scaled = scaled(value, i64::from(expected), Rounding::Up)?;
        Ok::<i32, ScaleError>(i32::try_from(scaled).unwrap_or(i32::MAX))
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => Ok((expected, expected.saturating_sub(share(most)?).max(0))),
        (None, Some(IntOrString::Int(least))) => Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), *least)),
        (None, Some(least)) => Ok((expected, share(least)?)),
        (None, None) => Ok((0, 0)),
    }
}

fn allowed_condition(
    old: Option<Vec<Condition>>,
    allowed: bool,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = old.unwrap_or_default();
    let (status, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let new = Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    set_condition(&mut conditions, new, &Time(now));
    conditions
}

/// The status of a budget that cannot be evaluated: nothing may go.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    message: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let new = Condition {
        type_: ALLOWED.into(),
        status: "False".into(),
        reason: "SyncFailed".into(),
        message,
        observed_generation: status.observed_generation,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    set_condition(status.conditions.get_or_insert_default(), new, &Time(now));
    status
}

/// When the announced end of a pod that goes on running counts as stale. What the kubelet announced never does:
/// it may take any time.
pub(super) fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = target(pod).filter(|c| c.status == "True")?;
    if pod.metadata.deletion_timestamp.is_some()
        || is_finished(pod)
        || condition.reason.as_deref() == Some("TerminationByKubelet")
    {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    Some(until(since + STALE, now))
}

/// The condition that takes the announcement back.
pub(super) fn not_disrupted(pod: &Pod, now: Time) -> PodCondition {
    let observed = target(pod).and_then(|c| c.observed_generation).and(pod.metadata.generation);
    PodCondition {
        type_: TARGET.into(),
        status: "False".into(),
        last_transition_time: Some(now),
        observed_generation: observed,
        reason: Some(String::new()),
        message: Some(String::new()),
        ..PodCondition::default()
    }
}

fn target(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == TARGET)
}

/// Time left; zero when the moment has passed.
fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
