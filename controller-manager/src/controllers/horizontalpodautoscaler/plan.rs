//! The size of an autoscaler's target, and what its status and events tell. Pure.

use component_base::events::EventType;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{
        HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
        MetricStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    pace::{Memory, Range, normalize},
    proposal::{Failure, Proposal},
};
use crate::settings::AutoscalerSettings;

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";
/// Of an autoscaler that has scaled its target to zero itself, and so may scale it up again.
const AT_ZERO: &str = "ScaledToZero";

/// The sizes of an autoscaler's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Pods asked for.
    pub(super) wanted: i32,
    /// Pods there are.
    pub(super) there: i32,
}

/// What is to be done and told.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) scale_to: Option<i32>,
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) events: Vec<(EventType, String, String)>,
    reason: String,
}

fn bounds(autoscaler: &HorizontalPodAutoscaler) -> (i32, i32) {
    (autoscaler.spec.min_replicas.unwrap_or(1), autoscaler.spec.max_replicas)
}

/// Whether metrics have a say: the target is neither switched off nor out of bounds.
pub(super) fn needs_metrics(
    autoscaler: &HorizontalPodAutoscaler,
    target: Target,
    settings: &AutoscalerSettings,
) -> bool {
    let (min, max) = bounds(autoscaler);
    match target.wanted {
        // Whoever else made it so wants it so.
        0 => brought_to_zero(autoscaler, settings) && (min != 0 || tells_without_pods(autoscaler)),
        wanted => (min..=max).contains(&wanted),
    }
}

/// Whether a target of no pods is this autoscaler's doing.
fn brought_to_zero(autoscaler: &HorizontalPodAutoscaler, settings: &AutoscalerSettings) -> bool {
    let conditions = autoscaler.status.as_ref().and_then(|status| status.conditions.as_deref());
    let did = |c: &HorizontalPodAutoscalerCondition| c.type_ == AT_ZERO && c.status == "True";
    settings.to_zero && conditions.unwrap_or_default().iter().any(did)
}

/// Whether a metric tells something although there are no pods.
fn tells_without_pods(autoscaler: &HorizontalPodAutoscaler) -> bool {
    let metrics = autoscaler.spec.metrics.as_deref().unwrap_or_default();
    metrics.iter().any(|metric| matches!(metric.type_.as_str(), "Object" | "External"))
}

/// The status of an autoscaler whose target's scale is not known.
pub(super) fn no_scale(
    autoscaler: &HorizontalPodAutoscaler,
    why: &str,
    now: Timestamp,
) -> HorizontalPodAutoscalerStatus {
    let mut status = autoscaler.status.clone().unwrap_or_default();
    let message = format!("the HPA controller was unable to get the target's current scale: {why}");
    set(&mut status, ABLE, "False", "FailedGetScale", &message, now);
    status
}

/// Plans for an autoscaler. `proposals` are what its metrics ask for, where they have a say.
pub(super) fn plan(
    autoscaler: &HorizontalPodAutoscaler,
    target: Target,
    proposals: Option<Vec<Result<Proposal, Failure>>>,
    memory: &mut Memory,
    settings: &AutoscalerSettings,
    now: Timestamp,
) -> Plan {
    let (min, max) = bounds(autoscaler);
    let old = autoscaler.status.clone().unwrap_or_default();
    let mut plan = Plan { scale_to: None, status: old.clone(), events: Vec::new(), reason: String::new() };
    let message = "the HPA controller was able to get the target's current scale";
    set(&mut plan.status, ABLE, "True", "SucceededGetScale", message, now);
    memory.begin(target.wanted, now);
    plan.status.current_replicas = Some(target.wanted);
    plan.status.current_metrics = None;
    let desired = match proposals {
        Some(proposals) => {
            match plan.weigh(autoscaler, target, proposals, memory, settings, now) {
                Some(desired) => desired,
                // What metrics ask for is not known: nothing changes, the last wish stays told.
                None => return plan,
            }
        }
        None if target.wanted == 0 => {
            let message = "scaling is disabled since the replica count of the target is zero";
            set(&mut plan.status, ACTIVE, "False", "ScalingDisabled", message, now);
            if !settings.to_zero {
                unset(&mut plan.status, AT_ZERO);
            }
            0
        }
        None if target.wanted > max => {
            plan.reason = "Current number of replicas above Spec.MaxReplicas".into();
            max
        }
        None => {
            plan.reason = "Current number of replicas below Spec.MinReplicas".into();
            min
        }
    };
    plan.status.desired_replicas = desired;
    if desired != target.wanted {
        plan.scale_to = Some(desired);
        plan.status.last_scale_time = Some(Time(now));
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        set(&mut plan.status, ABLE, "True", "SucceededRescale", &message, now);
        let to_zero = desired == 0 && min == 0 && tells_without_pods(autoscaler);
        match (settings.to_zero, to_zero) {
            (false, _) => unset(&mut plan.status, AT_ZERO),
            (true, true) => {
                let message = "the HPA controller scaled the workload to zero";
                set(&mut plan.status, AT_ZERO, "True", "ScaledToZero", message, now);
            }
            (true, false) => {
                let message = "the HPA controller did not scale the workload to zero";
                set(&mut plan.status, AT_ZERO, "False", "NotScaledToZero", message, now);
            }
        }
        let note = format!("New size: {desired}; reason: {}", plan.reason);
        plan.events.push((EventType::Normal, "SuccessfulRescale".into(), note));
    }
    plan
}

impl Plan {
    /// The size that metrics ask for, paced and bounded; `None` when they cannot tell.
    fn weigh(
        &mut self,
        autoscaler: &HorizontalPodAutoscaler,
        target: Target,
        proposals: Vec<Result<Proposal, Failure>>,
        memory: &mut Memory,
        settings: &AutoscalerSettings,
        now: Timestamp,
    ) -> Option<i32> {
        let total = proposals.len();
        let (mut best, mut failures, mut metrics) =
            (None::<(i32, String)>, Vec::new(), Vec::<MetricStatus>::new());
        for proposal in proposals {
            match proposal {
                Ok(p) => {
                    if best.as_ref().is_none_or(|(replicas, _)| p.replicas > *replicas) {
                        best = Some((p.replicas, p.name));
                    }
                    metrics.push(p.status);
                }
                Err(failure) => failures.push(failure),
            }
        }
        self.status.current_metrics = (!metrics.is_empty()).then_some(metrics);
        for failure in &failures {
            self.events.push((EventType::Warning, failure.event.clone(), failure.note.clone()));
        }
        // A metric that failed might have asked for more: no shrinking without it.
        let known = best.filter(|(replicas, _)| failures.is_empty() || *replicas >= target.wanted);
        let Some((asked, name)) = known else {
            if let Some(first) = failures.first() {
                set(&mut self.status, ACTIVE, "False", &first.reason, &first.message, now);
                let note = match &first.of_one {
                    Some(first) => {
                        let count = failures.len();
                        format!("invalid metrics ({count} invalid out of {total}), first error is: {first}")
                    }
                    None => first.note.clone(),
                };
                self.events.push((EventType::Warning, "FailedComputeMetricsReplicas".into(), note));
            }
            return None;
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        set(&mut self.status, ACTIVE, "True", "ValidMetricFound", &message, now);
        let (min, max) = bounds(autoscaler);
        let range = Range { current: target.wanted, min, max };
        let behavior = autoscaler.spec.behavior.as_ref();
        let (stable, limited) =
            normalize(asked, range, behavior, settings.downscale_stabilization, memory, now);
        set(&mut self.status, ABLE, "True", stable.reason, stable.message, now);
        let is_limited = if limited.changed { "True" } else { "False" };
        set(&mut self.status, LIMITED, is_limited, limited.reason, limited.message, now);
        self.reason = match asked.cmp(&target.wanted) {
            std::cmp::Ordering::Greater => format!("{name} above target"),
            std::cmp::Ordering::Less => "All metrics below target".into(),
            // The pace decides alone.
            std::cmp::Ordering::Equal => String::new(),
        };
        // From zero one goes to the least there may be by now, whatever the metrics ask for.
        if target.wanted == 0 && min > limited.replicas {
            if asked == 0 {
                self.reason = "Current number of replicas below Spec.MinReplicas".into();
            }
            return Some(min);
        }
        Some(limited.replicas)
    }

    /// Tells that the target did not take its new size.
    pub(super) fn refused(
        &mut self,
        autoscaler: &HorizontalPodAutoscaler,
        target: Target,
        why: &str,
        now: Timestamp,
    ) {
        let Some(desired) = self.scale_to.take() else { return };
        let old = autoscaler.status.clone().unwrap_or_default();
        self.status.desired_replicas = old.desired_replicas;
        self.status.last_scale_time = old.last_scale_time;
        self.status.current_replicas = Some(target.wanted);
        unset(&mut self.status, AT_ZERO);
        let conditions = old.conditions.as_deref().unwrap_or_default();
        if let Some(before) = conditions.iter().find(|condition| condition.type_ == AT_ZERO) {
            self.status.conditions.get_or_insert_default().push(before.clone());
        }
        let message = format!("the HPA controller was unable to update the target scale: {why}");
        set(&mut self.status, ABLE, "False", "FailedUpdateScale", &message, now);
        self.events.retain(|(_, reason, _)| reason != "SuccessfulRescale");
        let note = format!("New size: {desired}; reason: {}; error: {why}", self.reason);
        self.events.push((EventType::Warning, "FailedRescale".into(), note));
    }
}

fn unset(status: &mut HorizontalPodAutoscalerStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Sets a condition; its time moves with its status only.
fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let new = |since: Option<Time>| HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since.or(Some(Time(now))),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => {
            let since = if old.status == value { old.last_transition_time.take() } else { None };
            *old = new(since);
        }
        None => conditions.push(new(None)),
    }
}

#[cfg(test)]
mod tests;
