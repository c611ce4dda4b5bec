//! Budgets over small sets of pods.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:10:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let mut budget =
        json!({"metadata": {"name": "b", "namespace": "d", "generation": 3}, "spec": spec, "status": status});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    for field in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
        if budget["status"].get(field).is_none() {
            budget["status"][field] = json!(0);
        }
    }
    serde_json::from_value(budget).unwrap()
}

fn pod(name: &str, ready: bool, extra: Value) -> Arc<Pod> {
    let mut v = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
    for (key, value) in extra.as_object().into_iter().flatten() {
        v["metadata"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(v).unwrap())
}

fn pods(ready: usize, not: usize) -> Vec<Arc<Pod>> {
    (0..ready + not).map(|n| pod(&format!("p{n}"), n < ready, json!({}))).collect()
}

/// Plans, checks that planning again on the result changes nothing, and shows healthy/desired/expected/allowed.
fn settle(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale: Option<i32>) -> (Plan, [i32; 4]) {
    let first = plan(budget, pods, scale, now()).unwrap();
    let next = PodDisruptionBudget { status: Some(first.status.clone()), ..budget.clone() };
    let later = now() + SignedDuration::from_secs(1);
    assert_eq!(
        plan(&next, pods, scale, later).unwrap().status,
        first.status,
        "planned twice is planned once"
    );
    let s = &first.status;
    let shown =
        [s.current_healthy, s.desired_healthy, s.expected_pods, s.disruptions_allowed].map(Option::unwrap);
    (first, shown)
}

#[test]
fn numbers_follow_the_budget() {
    // (spec, ready, not ready, scale) → healthy, desired, expected, allowed.
    let table = [
        (json!({"minAvailable": 2}), 3, 0, None, [3, 2, 3, 1]),
        (json!({"minAvailable": 2}), 2, 1, None, [2, 2, 3, 0]),
        (json!({"minAvailable": 0}), 0, 0, None, [0, 0, 0, 0]),
        (json!({"minAvailable": 5}), 1, 0, None, [1, 5, 1, 0]),
        (json!({"minAvailable": "50%"}), 4, 0, Some(5), [4, 3, 5, 1]),
        (json!({"minAvailable": "0%"}), 2, 0, Some(2), [2, 0, 2, 2]),
        (json!({"maxUnavailable": 1}), 3, 0, Some(3), [3, 2, 3, 1]),
        (json!({"maxUnavailable": 5}), 3, 0, Some(3), [3, 0, 3, 3]),
        (json!({"maxUnavailable": "30%"}), 10, 0, Some(10), [10, 7, 10, 3]),
        (json!({"maxUnavailable": "25%"}), 7, 0, Some(7), [7, 5, 7, 2]),
        (json!({"maxUnavailable": 1}), 2, 0, Some(0), [2, 0, 0, 0]),
        (json!({}), 2, 0, None, [2, 0, 0, 0]),
    ];
    for (spec, ready, not, scale, expected) in table {
        let budget = budget(spec.clone(), json!({}));
        assert_eq!(needs_scale(&budget), scale.is_some(), "{spec}");
        let (plan, shown) = settle(&budget, &pods(ready, not), scale);
        assert_eq!(shown, expected, "{spec} {ready}+{not} of {scale:?}");
        let condition = &plan.status.conditions.unwrap()[0];
        let said = (condition.status.as_str(), condition.reason.as_str(), condition.observed_generation);
        let told = if expected[3] > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!(said, (told.0, told.1, Some(3)));
    }
}

#[test]
fn pods_that_leave_do_not_count() {
    let all = [
        pod("stays", true, json!({})),
        pod("ends", true, json!({"deletionTimestamp": NOW})),
        pod("let-go", true, json!({})),
        pod("forgotten", true, json!({})),
    ];
    let let_go = json!({"disruptedPods": {"let-go": "2026-01-01T00:09:00Z", "forgotten": "2026-01-01T00:07:00Z",
        "ends": "2026-01-01T00:09:30Z", "gone": "2026-01-01T00:09:30Z"}});
    let (plan, shown) = settle(&budget(json!({"minAvailable": 1}), let_go), &all, None);
    assert_eq!(shown, [2, 1, 4, 1]);
    let names: Vec<String> = plan.status.disrupted_pods.unwrap().into_keys().collect();
    assert_eq!(names, ["let-go"]);
    let late: Vec<_> = plan.not_deleted.iter().map(|p| p.metadata.name.as_deref().unwrap()).collect();
    assert_eq!(late, ["forgotten"]);
    assert_eq!(plan.recheck, Some(Duration::from_secs(61)));
}

#[test]
fn a_budget_nobody_can_evaluate_lets_nothing_go() {
    let broken =
        budget(json!({"maxUnavailable": "many"}), json!({"disruptionsAllowed": 2, "currentHealthy": 4}));
    assert!(plan(&broken, &pods(4, 0), Some(4), now()).is_err());
    let status = failed(&broken, "why".into(), now());
    assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(4)));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "why"));
    let again = PodDisruptionBudget { status: Some(status.clone()), ..broken };
    assert_eq!(failed(&again, "why".into(), now() + STALE), status);
}

#[test]
fn a_budget_without_selector_covers_nothing_and_an_empty_one_everything() {
    let mut b = budget(json!({"minAvailable": 1}), json!({}));
    assert!(selects(&b, &pod("a", true, json!({}))));
    assert!(!selects(&b, &pod("a", true, json!({"labels": {"app": "db"}}))));
    b.spec.as_mut().unwrap().selector = Some(Default::default());
    assert!(selects(&b, &pod("a", true, json!({"labels": {"app": "db"}}))));
    b.spec.as_mut().unwrap().selector = None;
    assert!(!selects(&b, &pod("a", true, json!({}))));
}

#[test]
fn announced_ends_grow_stale_unless_the_kubelet_said_so() {
    let announced = |status: &str, reason: &str, phase: &str, deleted: Value| -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "generation": 2, "deletionTimestamp": deleted},
            "status": {"phase": phase, "conditions": [{"type": "DisruptionTarget", "status": status,
                "reason": reason, "lastTransitionTime": "2026-01-01T00:09:00Z"}]}}),
        )
        .unwrap()
    };
    let by_eviction = announced("True", "EvictionByEvictionAPI", "Running", Value::Null);
    assert_eq!(stale_in(&by_eviction, now()), Some(Duration::from_secs(60)));
    assert_eq!(stale_in(&by_eviction, now() + STALE), Some(Duration::ZERO));
    for (status, reason, phase, deleted) in [
        ("False", "EvictionByEvictionAPI", "Running", Value::Null),
        ("True", "TerminationByKubelet", "Running", Value::Null),
        ("True", "EvictionByEvictionAPI", "Failed", Value::Null),
        ("True", "EvictionByEvictionAPI", "Running", json!(NOW)),
    ] {
        assert_eq!(
            stale_in(&announced(status, reason, phase, deleted), now()),
            None,
            "{status} {reason} {phase}"
        );
    }
    let mut cleaned = by_eviction.clone();
    cleaned.status.as_mut().unwrap().conditions = Some(vec![not_disrupted(&by_eviction, Time(now()))]);
    assert_eq!(stale_in(&cleaned, now() + STALE), None);
}

#[test]
fn selectors_are_written_as_upstream_writes_them() {
    let of = |selector: Value| {
        let budget = json!({"metadata": {"name": "b"}, "spec": {"selector": selector}});
        selector_text(&serde_json::from_value(budget).unwrap())
    };
    let empty =
        "&LabelSelector{MatchLabels:map[string]string{},MatchExpressions:[]LabelSelectorRequirement{},}";
    assert_eq!(of(json!({})), empty);
    assert_eq!(
        of(json!({"matchLabels": {"a": "b", "c": "d"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]})),
        "&LabelSelector{MatchLabels:map[string]string{a: b,c: d,},MatchExpressions:[]LabelSelectorRequirement{\
         LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
    );
}
