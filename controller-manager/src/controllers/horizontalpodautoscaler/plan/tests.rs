//! Rounds of an autoscaler whose metrics are given.

use serde_json::{Value, json};

use super::*;
use crate::controllers::horizontalpodautoscaler::testing::{at, settings};

fn autoscaler() -> HorizontalPodAutoscaler {
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"minReplicas": 2, "maxReplicas": 10,
        "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}))
    .unwrap()
}

fn asks(replicas: i32) -> Result<Proposal, Failure> {
    Ok(Proposal {
        replicas,
        name: "cpu".into(),
        status: MetricStatus { type_: "Resource".into(), ..MetricStatus::default() },
    })
}

fn fails() -> Result<Proposal, Failure> {
    Err(Failure {
        event: "FailedGetPodsMetric".into(),
        note: "gone".into(),
        reason: "FailedGetPodsMetric".into(),
        message: "cannot: gone".into(),
        of_one: Some("failed: gone".into()),
    })
}

fn shown(plan: &Plan, kind: &str) -> Value {
    let conditions = plan.status.conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|c| c.type_ == kind);
    found.map_or(Value::Null, |c| json!([c.status, c.reason]))
}

fn run(
    autoscaler: &HorizontalPodAutoscaler,
    wanted: i32,
    proposals: Option<Vec<Result<Proposal, Failure>>>,
) -> Plan {
    let target = Target { wanted, there: wanted };
    run_with(autoscaler, target, proposals, &settings())
}

fn run_with(
    autoscaler: &HorizontalPodAutoscaler,
    target: Target,
    proposals: Option<Vec<Result<Proposal, Failure>>>,
    settings: &AutoscalerSettings,
) -> Plan {
    assert_eq!(needs_metrics(autoscaler, target, settings), proposals.is_some());
    plan(autoscaler, target, proposals, &mut Memory::default(), settings, at(0))
}

#[test]
fn the_largest_wish_is_followed_within_bounds() {
    for (wanted, wishes, expected, limited) in [
        (3, vec![4, 5], Some(5), "DesiredWithinRange"),
        (3, vec![3, 1], None, "DesiredWithinRange"),
        (3, vec![50], Some(6), "ScaleUpLimit"),
        (8, vec![50], Some(10), "TooManyReplicas"),
    ] {
        let plan = run(&autoscaler(), wanted, Some(wishes.iter().map(|w| asks(*w)).collect()));
        assert_eq!(plan.scale_to, expected, "{wanted} {wishes:?}");
        assert_eq!(shown(&plan, LIMITED)[1], limited);
        assert_eq!(shown(&plan, ACTIVE), json!(["True", "ValidMetricFound"]));
        assert_eq!(plan.status.desired_replicas, expected.unwrap_or(wanted));
        assert_eq!(plan.status.last_scale_time.is_some(), expected.is_some());
    }
}

#[test]
fn sizes_out_of_bounds_are_brought_back_without_metrics() {
    for (wanted, expected, reason) in [(1, 2, "below Spec.MinReplicas"), (12, 10, "above Spec.MaxReplicas")] {
        let plan = run(&autoscaler(), wanted, None);
        assert_eq!(plan.scale_to, Some(expected));
        assert!(plan.events[0].2.contains(reason), "{:?}", plan.events);
        assert_eq!(shown(&plan, ABLE), json!(["True", "SucceededRescale"]));
    }
    let off = run(&autoscaler(), 0, None);
    assert_eq!((off.scale_to, shown(&off, ACTIVE)), (None, json!(["False", "ScalingDisabled"])));
}

#[test]
fn a_metric_that_fails_forbids_shrinking_only() {
    let up = run(&autoscaler(), 3, Some(vec![fails(), asks(5)]));
    assert_eq!((up.scale_to, shown(&up, ACTIVE)), (Some(5), json!(["True", "ValidMetricFound"])));
    let down = run(&autoscaler(), 3, Some(vec![fails(), asks(2)]));
    assert_eq!((down.scale_to, shown(&down, ACTIVE)), (None, json!(["False", "FailedGetPodsMetric"])));
    let none = run(&autoscaler(), 3, Some(vec![fails()]));
    let reasons: Vec<&str> = none.events.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["FailedGetPodsMetric", "FailedComputeMetricsReplicas"]);
    let note = |plan: &Plan| plan.events.last().map(|(_, _, note)| note.clone());
    let first = "first error is: failed: gone";
    assert_eq!(note(&none), Some(format!("invalid metrics (1 invalid out of 1), {first}")));
    assert_eq!(note(&down), Some(format!("invalid metrics (1 invalid out of 2), {first}")));
    let of_all = fails().map_err(|failure| Failure { of_one: None, ..failure });
    assert_eq!(note(&run(&autoscaler(), 3, Some(vec![of_all]))), Some("gone".into()));
}

#[test]
fn a_scale_that_is_refused_is_not_told_as_done() {
    let mut plan = run(&autoscaler(), 3, Some(vec![asks(5)]));
    plan.refused(&autoscaler(), Target { wanted: 3, there: 3 }, "conflict", at(0));
    assert_eq!((plan.status.desired_replicas, plan.status.last_scale_time.is_some()), (0, false));
    assert_eq!(shown(&plan, ABLE), json!(["False", "FailedUpdateScale"]));
    assert_eq!(plan.events.last().unwrap().1, "FailedRescale");
    let lost = no_scale(&autoscaler(), "gone", at(0));
    assert_eq!(lost.conditions.unwrap()[0].reason.as_deref(), Some("FailedGetScale"));
}

#[test]
fn a_status_rests_while_nothing_changes() {
    let mut scaled = autoscaler();
    let mut memory = Memory::default();
    let target = Target { wanted: 3, there: 3 };
    let first = plan(&scaled, target, Some(vec![asks(3)]), &mut memory, &settings(), at(0));
    scaled.status = Some(first.status.clone());
    let second = plan(&scaled, target, Some(vec![asks(3)]), &mut memory, &settings(), at(15));
    assert_eq!((second.scale_to, second.status), (None, first.status));
}

#[test]
fn what_was_scaled_to_zero_is_scaled_up_again_and_what_others_switched_off_is_not() {
    let on = AutoscalerSettings {
        to_zero: true,
        downscale_stabilization: std::time::Duration::ZERO,
        ..settings()
    };
    let none = Target { wanted: 0, there: 0 };
    let mut scaler: HorizontalPodAutoscaler = serde_json::from_value(json!({"metadata": {"name": "web"},
        "spec": {"minReplicas": 0, "maxReplicas": 10, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "metrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "5"}}}]}}))
    .unwrap();
    // Switched off by somebody else.
    let off = run_with(&scaler, none, None, &on);
    assert_eq!((off.scale_to, shown(&off, ACTIVE)[1].as_str()), (None, Some("ScalingDisabled")));
    let down = run_with(&scaler, Target { wanted: 2, there: 2 }, Some(vec![asks(0)]), &on);
    assert_eq!((down.scale_to, shown(&down, AT_ZERO)), (Some(0), json!(["True", "ScaledToZero"])));
    let mut refused = down.clone();
    refused.refused(&scaler, Target { wanted: 2, there: 2 }, "conflict", at(0));
    assert_eq!(shown(&refused, AT_ZERO), Value::Null);
    scaler.status = Some(down.status.clone());
    let rests = run_with(&scaler, none, Some(vec![asks(0)]), &on);
    assert_eq!((rests.scale_to, shown(&rests, AT_ZERO)[0].as_str()), (None, Some("True")));
    let up = run_with(&scaler, none, Some(vec![asks(3)]), &on);
    assert_eq!((up.scale_to, shown(&up, AT_ZERO)), (Some(3), json!(["False", "NotScaledToZero"])));
    // Another least size brings it back without any wish.
    scaler.spec.min_replicas = Some(2);
    let back = run_with(&scaler, none, Some(vec![asks(0)]), &on);
    assert_eq!(back.scale_to, Some(2));
    // Without the gate the condition means nothing, and goes.
    let gone = run_with(&scaler, none, None, &settings());
    assert_eq!((gone.scale_to, shown(&gone, AT_ZERO)), (None, Value::Null));
}
