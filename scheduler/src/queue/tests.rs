//! The queue's promises, with time passed in.

use std::time::Duration;

use super::*;
use component_base::{features::Gates, meta::ObjectKey};
use serde_json::json;

use crate::{
    model::DeviceEvent,
    plugins,
    testing::{node, pod},
};

fn at(seconds: u64) -> Instant {
    Duration::from_secs(seconds)
}

fn with_plugins(queue: &mut Queue, event: &ClusterEvent, now: Instant) {
    let all = plugins::defaults(Gates::default());
    let all: Vec<&dyn Plugin> = all.iter().map(|w| w.plugin.as_ref()).collect();
    queue.event(event, &all, now);
}

#[test]
fn higher_priority_first_then_first_come() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("a").info(), None, at(1));
    q.add(pod("b").info(), None, at(0));
    q.add(pod("c").priority(5).info(), None, at(2));
    let order: Vec<String> = std::iter::from_fn(|| q.pop(at(3))).map(|(p, ..)| p.name.clone()).collect();
    assert_eq!(order, ["c", "b", "a"]);
}

#[test]
fn a_refused_pod_waits_for_an_event_its_refuser_cares_about() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("p").cpu("1").info(), None, at(0));
    q.pop(at(0)).unwrap();
    q.failed("uid-p", vec!["NodeResourcesFit"], at(0));
    with_plugins(&mut q, &ClusterEvent::NamespaceChanged, at(5));
    assert_eq!(q.pop(at(5)).map(|p| p.0.name.clone()), None);
    with_plugins(&mut q, &ClusterEvent::PodRemoved(pod("other").on("n1").info()), at(5));
    assert_eq!(q.pop(at(5)).map(|p| p.1), Some(2), "its second attempt");
}

#[test]
fn pods_that_were_refused_are_tried_early_while_no_other_is_ready() {
    let mut q = Queue::new(BackOff { early: true, ..BackOff::default() });
    for (name, priority) in [("low", 0), ("high", 5), ("broken", 9)] {
        q.add(pod(name).priority(priority).info(), None, at(0));
    }
    let next = |q: &mut Queue, now| q.pop(now).map(|(pod, attempt, _)| (pod.name.clone(), attempt));
    for (name, refused_by) in
        [("broken", vec![]), ("high", vec!["NodeResourcesFit"]), ("low", vec!["NodeResourcesFit"])]
    {
        assert_eq!(next(&mut q, at(0)), Some((name.to_owned(), 1)));
        q.failed(&format!("uid-{name}"), refused_by, at(0));
    }
    let room = ClusterEvent::PodRemoved(pod("other").on("n1").info());
    with_plugins(&mut q, &room, at(0));
    q.add(pod("fresh").info(), None, at(0));
    q.take_incoming();
    assert_eq!((q.pending().active, q.pending().backoff), (1, 3));
    for (name, attempt) in [("fresh", 1), ("high", 2), ("low", 2)] {
        assert_eq!(next(&mut q, at(0)), Some((name.to_owned(), attempt)));
    }
    assert_eq!(q.take_incoming().get(&("active", "PopFromBackoffQ")), Some(&2));
    // What failed by an error keeps its time.
    assert_eq!((next(&mut q, at(0)), q.is_ready()), (None, false));
    assert_eq!(next(&mut q, at(1)), None, "the second in which it is over has to pass");
    assert_eq!(next(&mut q, at(2)), Some(("broken".to_owned(), 2)));
    // Whose time has come is not there twice, and who leaves is not there at all.
    for name in ["high", "low"] {
        q.failed(&format!("uid-{name}"), vec!["NodeResourcesFit"], at(1));
    }
    with_plugins(&mut q, &room, at(1));
    q.remove("uid-low");
    assert_eq!((next(&mut q, at(9)), next(&mut q, at(9))), (Some(("high".to_owned(), 3)), None));
    assert_eq!((q.pending().backoff, q.is_ready(), q.next_deadline()), (0, false, None));
}

#[test]
fn back_offs_end_together_with_their_second_where_pods_are_tried_early() {
    let millis = Duration::from_millis;
    for (early, max, failed_at, ends) in [
        (true, 10, millis(300), Some(at(2))),
        (true, 10, millis(999), Some(at(2))),
        (true, 10, at(1), Some(at(3))),
        (false, 10, millis(300), Some(millis(1300))),
        (true, 0, millis(300), None),
        (false, 0, millis(300), None),
    ] {
        let mut q = Queue::new(BackOff { early, max: at(max), ..BackOff::default() });
        q.add(pod("p").info(), None, at(0));
        q.pop(failed_at).unwrap();
        q.failed("uid-p", vec![], failed_at);
        assert_eq!((q.next_deadline(), q.is_ready()), (ends, ends.is_none()), "{early} {max} {failed_at:?}");
        let Some(ends) = ends else { continue };
        assert!(q.pop(ends - millis(1)).is_none() && q.pop(ends).is_some(), "{early} {failed_at:?}");
    }
}

#[test]
fn who_is_held_back_is_told_of_when_that_may_be_over() {
    let mut q = Queue::new(BackOff::default());
    let entries = json!([{"name": "e", "resourceClaimName": "c"}]);
    q.add(pod("p").set("/spec/resourceClaims", entries).info(), Some("DynamicResources"), at(0));
    q.add(pod("gated").info(), Some("SchedulingGates"), at(0));
    let all = plugins::defaults(Gates::default());
    let all: Vec<&dyn Plugin> = all.iter().map(|w| w.plugin.as_ref()).collect();
    let mut told = |name: &str| -> Vec<String> {
        let claim = DeviceEvent::Claim(ObjectKey::new("default", name));
        let told = q.event_for(|_| true, &ClusterEvent::DevicesChanged(claim), &all, at(1));
        assert_eq!(q.pending().gated, 2, "they are asked about first");
        told.iter().map(|pod| pod.name.clone()).collect()
    };
    assert_eq!(told("other"), Vec::<String>::new());
    assert_eq!(told("c"), ["p"]);
}

#[test]
fn back_off_doubles_up_to_its_limit() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("p").info(), None, at(0));
    let mut now = at(0);
    for want in [1, 2, 4, 8, 10, 10] {
        q.pop(now).unwrap();
        q.failed("uid-p", vec![], now);
        assert_eq!(q.next_deadline(), Some(now + at(want)));
        assert!(q.pop(now + at(want) - Duration::from_millis(1)).is_none());
        now += at(want);
    }
}

#[test]
fn a_pod_that_could_not_be_bound_backs_off_by_its_attempts() {
    let mut q = Queue::new(BackOff::default());
    let mut now = at(0);
    q.add(pod("p").info(), None, now);
    for (number, want) in [(1, 1), (2, 2), (3, 4)] {
        let (popped, attempt, waited) = q.pop(now).unwrap();
        assert_eq!((attempt, waited), (number, now));
        let failures = q.failures("uid-p");
        q.remove("uid-p");
        q.put_back(popped, (attempt, failures), waited, now);
        assert_eq!((q.is_ready(), q.next_deadline()), (false, Some(now + at(want))));
        assert!(q.pop(now + at(want) - Duration::from_millis(1)).is_none());
        now += at(want);
    }
}

#[test]
fn who_failed_last_stands_behind_others_of_its_priority() {
    let mut q = Queue::new(BackOff::default());
    for (name, at_second) in [("old", 0), ("new", 1)] {
        q.add(pod(name).info(), None, at(at_second));
    }
    assert_eq!(q.pop(at(2)).map(|p| p.0.name.clone()), Some("old".into()));
    q.failed("uid-old", vec![], at(2));
    q.add(pod("later").info(), None, at(4));
    q.add(pod("gated").info(), Some("SchedulingGates"), at(1));
    q.add(pod("gated").info(), None, at(5));
    let order: Vec<String> = std::iter::from_fn(|| q.pop(at(5))).map(|(p, ..)| p.name.clone()).collect();
    assert_eq!(order, ["new", "gated", "old", "later"], "a gate does not cost a pod its place");
}

#[test]
fn errors_and_refusals_are_counted_apart() {
    let mut q = Queue::new(BackOff { initial: at(1), max: at(60), ..BackOff::default() });
    q.add(pod("p").cpu("1").info(), None, at(0));
    let room = ClusterEvent::PodRemoved(pod("other").cpu("1").on("n").info());
    let mut now = at(0);
    // What failed, and how long the pod backs off.
    let fit = || vec!["NodeResourcesFit"];
    for (refused_by, want) in
        [(fit(), 1), (fit(), 2), (fit(), 4), (vec![], 1), (vec![], 2), (fit(), 8), (vec![], 1), (fit(), 16)]
    {
        q.pop(now).unwrap();
        q.failed("uid-p", refused_by.clone(), now);
        with_plugins(&mut q, &room, now);
        assert_eq!(q.next_deadline(), Some(now + at(want)), "{refused_by:?}");
        now += at(want);
    }
    assert_eq!(q.failures("uid-p"), Failures { refusals: 5, errors: 0 });
}

#[test]
fn pods_of_groups_are_tried_again_whatever_happens() {
    for (groups, member, backs_off) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut q = Queue::new(BackOff { groups, ..BackOff::default() });
        let pod = if member { pod("p").group("g") } else { pod("p") };
        q.add(pod.info(), None, at(0));
        q.pop(at(0)).unwrap();
        q.failed("uid-p", vec!["NodeName"], at(0));
        assert_eq!(q.pending().backoff, usize::from(backs_off), "{groups} {member}");
    }
}

#[test]
fn only_those_are_woken_that_are_told() {
    let mut q = Queue::new(BackOff::default());
    for (name, priority) in [("low", 1), ("high", 3)] {
        q.add(pod(name).cpu("1").priority(priority).info(), None, at(0));
        q.pop(at(0)).unwrap();
        q.failed(&format!("uid-{name}"), vec!["NodeResourcesFit"], at(0));
    }
    let all = plugins::defaults(Gates::default());
    let all: Vec<&dyn Plugin> = all.iter().map(|w| w.plugin.as_ref()).collect();
    let room = ClusterEvent::PodRemoved(pod("nominated").cpu("1").priority(2).info());
    q.event_for(|pod| pod.priority <= 2, &room, &all, at(0));
    assert_eq!((q.pending().backoff, q.pending().unschedulable), (1, 1));
    assert_eq!(q.pop(at(1)).map(|p| p.0.name.clone()), Some("low".into()));
}

#[test]
fn a_pod_that_changes_is_tried_when_those_who_refused_it_care() {
    let base = || pod("p").cpu("2").label("a", "b");
    let tolerating = base().set("/spec/tolerations", serde_json::json!([{"operator": "Exists"}]));
    let spread = serde_json::json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "c"}}, "nodeTaintsPolicy": "Honor"}]);
    let spread = |pod: crate::testing::Pod| pod.set("/spec/topologySpreadConstraints", spread.clone());
    let claim = |name: Option<&str>| {
        let status = name.map(|n| serde_json::json!([{"name": "d", "resourceClaimName": n}]));
        base()
            .set("/spec/resourceClaims", serde_json::json!([{"name": "d", "resourceClaimTemplateName": "t"}]))
            .set("/status/resourceClaimStatuses", status.into())
    };
    type Row = (&'static str, crate::testing::Pod, crate::testing::Pod, bool);
    let table: Vec<Row> = vec![
        ("NodeResourcesFit", base(), base().cpu("1"), true),
        ("NodeResourcesFit", base(), base().cpu("3"), false),
        ("NodeResourcesFit", base(), base().label("a", "c"), false),
        ("InterPodAffinity", base(), base().label("a", "c"), true),
        ("InterPodAffinity", base(), base().cpu("1"), false),
        ("TaintToleration", base(), tolerating.clone(), true),
        ("NodeUnschedulable", base(), tolerating.clone(), true),
        ("NodeUnschedulable", base(), base().label("a", "c"), false),
        ("NodeAffinity", base(), tolerating.clone(), false),
        ("PodTopologySpread", spread(base()), spread(base().label("a", "c")), true),
        ("PodTopologySpread", spread(base()), spread(base().label("a", "d")), false),
        ("PodTopologySpread", spread(base()), spread(tolerating.clone()), true),
        ("DynamicResources", claim(None), claim(Some("made")), true),
        ("DynamicResources", claim(None), claim(None).label("a", "c"), false),
    ];
    for (plugin, old, new, wakes) in table {
        let mut q = Queue::new(BackOff::default());
        let told = format!("{plugin} {new:?}");
        let (old, new) = (old.info(), new.info());
        q.add(old.clone(), None, at(0));
        q.pop(at(0)).unwrap();
        q.failed("uid-p", vec![plugin], at(0));
        with_plugins(&mut q, &ClusterEvent::PodChanged { old, new }, at(9));
        assert_eq!(q.is_ready(), wakes, "{told}");
    }
}

#[test]
fn an_event_during_the_decision_is_not_lost() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("p").cpu("1").info(), None, at(0));
    q.pop(at(0)).unwrap();
    with_plugins(&mut q, &ClusterEvent::NodeAdded(node("n", "a", serde_json::json!({})).into()), at(0));
    q.failed("uid-p", vec!["NodeResourcesFit"], at(0));
    assert_eq!(q.pending().backoff, 1);
}

#[test]
fn gates_hold_a_pod_until_they_open() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("p").info(), Some("SchedulingGates"), at(0));
    assert_eq!((q.pending().gated, q.is_ready()), (1, false));
    q.add(pod("p").info(), None, at(1));
    assert!(q.pop(at(1)).is_some());
}

#[test]
fn a_forgotten_pod_is_tried_again_and_a_removed_one_never() {
    let mut q = Queue::new(BackOff::default());
    for name in ["stays", "goes"] {
        q.add(pod(name).info(), None, at(0));
        q.pop(at(0)).unwrap();
        q.failed(&format!("uid-{name}"), vec!["NodeName"], at(0));
    }
    q.remove("uid-goes");
    assert!(q.pop(at(299)).is_none());
    assert_eq!(q.pop(at(300)).map(|p| p.0.name.clone()), Some("stays".into()));
    assert!(q.was_forgotten("uid-stays"));
    q.failed("uid-stays", vec![], at(300));
    assert!(!q.was_forgotten("uid-stays"));
    q.remove("uid-stays");
    assert!(q.pop(at(300)).is_none());
}

#[test]
fn what_comes_to_each_queue_is_counted_by_its_cause() {
    let mut q = Queue::new(BackOff::default());
    q.add(pod("gated").info(), Some("SchedulingGates"), at(0));
    q.add(pod("gated").info(), None, at(0));
    q.add(pod("p").cpu("1").info(), None, at(0));
    while q.pop(at(0)).is_some() {}
    q.failed("uid-p", vec!["NodeResourcesFit"], at(0));
    q.failed("uid-gated", Vec::new(), at(0));
    assert_eq!(q.refusals(), BTreeMap::from([(("NodeResourcesFit", ""), 1)]));
    with_plugins(&mut q, &ClusterEvent::PodRemoved(pod("x").info()), at(0));
    assert_eq!(q.pop(at(1)).map(|(_, attempt, _)| attempt), Some(2));
    let expected = [
        (("active", "BackoffComplete"), 2),
        (("active", "UnschedulablePodAdd"), 1),
        (("active", "UnschedulablePodUpdate"), 1),
        (("backoff", "AssignedPodDelete"), 1),
        (("backoff", "ScheduleAttemptFailure"), 1),
        (("unschedulable", "ScheduleAttemptFailure"), 1),
        (("unschedulable", "UnschedulablePodAdd"), 1),
    ];
    assert_eq!(q.take_incoming(), BTreeMap::from(expected));
    assert!(q.take_incoming().is_empty());
}

#[test]
fn members_of_a_group_are_taken_out_of_their_turn_and_held_back_again() {
    let mut q = Queue::new(BackOff::default());
    for name in ["active", "backs-off", "waits"] {
        q.add(pod(name).info(), None, at(0));
    }
    q.add(pod("gated").info(), Some("SchedulingGates"), at(0));
    q.pop_pod("uid-backs-off", at(0)).unwrap();
    q.failed("uid-backs-off", vec![], at(0));
    q.pop_pod("uid-waits", at(0)).unwrap();
    q.failed("uid-waits", vec!["NodeName"], at(0));
    let attempts = ["active", "backs-off", "waits", "gated"]
        .map(|name| q.pop_pod(&format!("uid-{name}"), at(0)).map(|(_, number, _)| number));
    assert_eq!(attempts, [Some(1), Some(2), Some(2), None]);
    assert!(q.pop_pod("uid-active", at(0)).is_none() && q.pop(at(9)).is_none(), "all are being decided on");
    q.gate("uid-active", "GangScheduling");
    assert_eq!(q.pending().gated, 2);
    q.ungate("uid-active", "X", at(1));
    q.ungate("uid-waits", "X", at(1));
    assert_eq!(q.pop(at(1)).map(|p| p.0.name.clone()), Some("active".into()));
    assert!(q.pop(at(1)).is_none());
    assert_eq!(q.take_incoming().get(&("active", "X")), Some(&1));
}
