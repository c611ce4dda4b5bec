use serde_json::{Value, json};

use super::*;
use crate::controllers::faults::{Write, survives};

const NAMES: Names<'static> = Names { current: "w-old", update: "w-new" };

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn view(several: bool) -> View<'static> {
    View { names: NAMES, several, now: now() }
}

fn set(spec: Value, status: Value) -> StatefulSet {
    let mut all = json!({"replicas": 3, "selector": {}, "serviceName": "w", "template": {}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "w", "uid": "w"}, "spec": all, "status": status}))
        .unwrap()
}

fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let ready = if state == "ready" { "True" } else { "False" };
    let phase = if state == "failed" { "Failed" } else { "Running" };
    let mut value = json!({
        "metadata": {"name": format!("w-{ordinal}"), "uid": format!("u{ordinal}"),
            "labels": {"controller-revision-hash": revision}},
        "spec": {"containers": []}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    if state == "ending" {
        value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn all(states: &[&str]) -> Vec<Arc<Pod>> {
    let new = |(o, state): (usize, &&str)| pod(i32::try_from(o).unwrap(), "w-new", state);
    states.iter().enumerate().map(new).collect()
}

/// Ordinals made and pods deleted.
fn step(set: &StatefulSet, pods: &[Arc<Pod>]) -> (Vec<i32>, Vec<i32>) {
    let plan = plan(set, pods, view(false));
    let gone = plan.delete.iter().filter_map(|p| ordinal(set, p)).collect();
    (plan.create.iter().map(|(o, _)| *o).collect(), gone)
}

#[test]
fn pods_come_up_one_after_the_other() {
    let set = set(json!({}), json!({}));
    assert_eq!(step(&set, &[]), (vec![0], vec![]));
    assert_eq!(step(&set, &all(&["pending"])), (vec![], vec![]));
    assert_eq!(step(&set, &all(&["ready"])), (vec![1], vec![]));
    assert_eq!(step(&set, &all(&["ready", "ending"])), (vec![], vec![]));
    assert_eq!(step(&set, &all(&["ready", "ready", "ready"])), (vec![], vec![]));
}

#[test]
fn parallel_sets_do_all_at_once() {
    let parallel = set(json!({"podManagementPolicy": "Parallel"}), json!({}));
    assert_eq!(step(&parallel, &[]), (vec![0, 1, 2], vec![]));
    let fewer = set(json!({"podManagementPolicy": "Parallel", "replicas": 1}), json!({}));
    assert_eq!(step(&fewer, &all(&["pending", "pending", "ready"])), (vec![], vec![2, 1]));
}

#[test]
fn surplus_pods_go_from_the_top_one_by_one() {
    let one = set(json!({"replicas": 1}), json!({}));
    assert_eq!(step(&one, &all(&["ready", "ready", "ready"])), (vec![], vec![2]));
    assert_eq!(step(&one, &all(&["ready", "ready", "ending"])), (vec![], vec![]));
    assert_eq!(
        step(&one, &all(&["pending", "ready", "ready"])),
        (vec![], vec![]),
        "not while one is in trouble"
    );
}

#[test]
fn a_failed_pod_is_made_anew() {
    let set = set(json!({}), json!({}));
    assert_eq!(step(&set, &all(&["ready", "failed", "ready"])), (vec![], vec![1]));
    let mut without = all(&["ready", "x", "ready"]);
    without.remove(1);
    assert_eq!(step(&set, &without), (vec![1], vec![]));
}

#[test]
fn ordinals_may_start_anywhere() {
    let set = set(json!({"ordinals": {"start": 5}, "replicas": 2}), json!({}));
    assert_eq!(step(&set, &[]), (vec![5], vec![]));
    let pods = [pod(5, "w-new", "ready"), pod(6, "w-new", "ready"), pod(0, "w-new", "ready")];
    assert_eq!(step(&set, &pods), (vec![], vec![0]));
}

#[test]
fn an_update_goes_from_the_top_down_to_the_partition() {
    let old = |states: &[&str]| -> Vec<Arc<Pod>> {
        states.iter().enumerate().map(|(o, s)| pod(i32::try_from(o).unwrap(), "w-old", s)).collect()
    };
    let whole = set(json!({}), json!({"currentReplicas": 3}));
    let mut pods = old(&["ready", "ready", "ready"]);
    assert_eq!(step(&whole, &pods), (vec![], vec![2]));
    pods[2] = pod(2, "w-new", "pending");
    assert_eq!(step(&whole, &pods), (vec![], vec![]), "the new pod must serve first");
    pods[2] = pod(2, "w-new", "ready");
    assert_eq!(step(&whole, &pods), (vec![], vec![1]));
    let rolling = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    assert_eq!(step(&set(rolling(2), json!({})), &pods), (vec![], vec![]));
    assert_eq!(step(&set(rolling(1), json!({})), &pods), (vec![], vec![1]));
    let on_delete = set(json!({"updateStrategy": {"type": "OnDelete"}}), json!({}));
    assert_eq!(step(&on_delete, &pods), (vec![], vec![]));
}

#[test]
fn several_may_be_updated_at_once_where_the_set_may_say_so() {
    let old = |states: &[&str]| -> Vec<Arc<Pod>> {
        states.iter().enumerate().map(|(o, s)| pod(i32::try_from(o).unwrap(), "w-old", s)).collect()
    };
    let of = |most: Value, partition: i32| {
        let rolling = json!({"maxUnavailable": most, "partition": partition});
        let spec = json!({"replicas": 5, "podManagementPolicy": "Parallel", "updateStrategy": {"rollingUpdate": rolling}});
        set(spec, json!({}))
    };
    let gone = |set: &StatefulSet, pods: &[Arc<Pod>], several: bool| {
        let plan = plan(set, pods, view(several));
        plan.delete.iter().filter_map(|p| ordinal(set, p)).collect::<Vec<_>>()
    };
    let well = old(&["ready", "ready", "ready", "ready", "ready"]);
    let one_down = old(&["pending", "ready", "ready", "ready", "ready"]);
    for (most, partition, pods, together, one_by_one) in [
        (json!(2), 0, &well, vec![4, 3], vec![4]),
        // Shares are rounded down, and one is always taken.
        (json!("50%"), 0, &well, vec![4, 3], vec![4]),
        (json!("1%"), 0, &well, vec![4], vec![4]),
        (json!(2), 4, &well, vec![4], vec![4]),
        // What is away counts, wherever it is; without the gate only what comes before in the order.
        (json!(2), 0, &one_down, vec![4], vec![4]),
        (json!(1), 0, &one_down, vec![], vec![4]),
    ] {
        let set = of(most.clone(), partition);
        assert_eq!(gone(&set, pods, true), together, "{most} {partition}");
        assert_eq!(gone(&set, pods, false), one_by_one, "{most} {partition}");
        assert_eq!(plan(&set, pods, view(false)).unavailable, None);
    }
    let set = of(json!(3), 0);
    assert_eq!(plan(&set, &one_down[..4], view(true)).unavailable, Some(2), "one waits, one is not there");
}

#[test]
fn parallel_sets_shrink_and_update_without_waiting() {
    let spec = json!({"podManagementPolicy": "Parallel", "replicas": 2});
    let pods = [
        pod(0, "w-old", "ready"),
        pod(1, "w-old", "ready"),
        pod(2, "w-old", "ending"),
        pod(3, "w-old", "pending"),
    ];
    assert_eq!(step(&set(spec.clone(), json!({})), &pods), (vec![], vec![3, 1]));
    assert_eq!(step(&set(spec, json!({})), &pods[..1]), (vec![1], vec![]), "a new pod has to serve first");
}

#[test]
fn of_surplus_pods_one_in_trouble_goes_only_when_it_is_its_turn() {
    let none = set(json!({"replicas": 0}), json!({}));
    for (states, gone) in [
        (&["ready", "ready"][..], vec![1]),
        (&["pending", "ready"], vec![1]),
        (&["ready", "pending"], vec![1]),
        (&["pending", "pending"], vec![]),
    ] {
        assert_eq!(step(&none, &all(states)).1, gone, "{states:?}");
    }
    let slow = set(json!({"replicas": 0, "minReadySeconds": 7200}), json!({}));
    assert_eq!(step(&slow, &all(&["ready", "ready"])).1, Vec::<i32>::new(), "ready is not long enough");
}

#[test]
fn pods_that_wait_may_lack_claims() {
    let mut pods = all(&["ready", "pending", "pending", "pending"]);
    for at in [1, 2, 3] {
        Arc::make_mut(&mut pods[at]).status.as_mut().unwrap().phase = Some("Pending".to_owned());
    }
    Arc::make_mut(&mut pods[2]).metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    assert_eq!(pending(&set(json!({}), json!({})), &pods), [1]);
}

#[test]
fn pods_below_the_partition_come_back_as_they_were() {
    let spec = json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}});
    let set = set(spec, json!({}));
    let made = |pods: &[Arc<Pod>]| plan(&set, pods, view(false)).create;
    assert_eq!(made(&[]), [(0, Template::Current)]);
    assert_eq!(made(&[pod(0, "w-old", "ready"), pod(1, "w-old", "ready")]), [(2, Template::Update)]);
}

#[test]
fn a_complete_update_becomes_what_is_current() {
    let set = set(json!({}), json!({"currentReplicas": 1}));
    let status = |pods: &[Arc<Pod>]| status(&set, pods, NAMES, 0, now());
    let small = status(&all(&["ready", "ready"]));
    assert_eq!(small.current_revision.as_deref(), Some("w-old"), "not all that are wanted are there");
    let half = status(&[pod(0, "w-old", "ready"), pod(1, "w-new", "ready")]);
    assert_eq!((half.current_replicas, half.updated_replicas), (Some(1), Some(1)));
    assert_eq!(half.current_revision.as_deref(), Some("w-old"));
    let done = status(&all(&["ready", "ready", "ready"]));
    assert_eq!((done.current_replicas, done.current_revision.as_deref()), (Some(3), Some("w-new")));
}

#[test]
fn faults_change_nothing_in_the_end() {
    let old = |count: i32| (0..count).map(|o| pod(o, "w-old", "ready")).collect::<Vec<_>>();
    let cases = [
        ("it comes up", json!({}), old(0)),
        ("all at once", json!({"podManagementPolicy": "Parallel"}), old(0)),
        ("fewer", json!({"replicas": 1}), old(4)),
        ("another version", json!({}), old(3)),
        ("another version, in part", json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}), old(3)),
    ];
    for ((what, spec, start), several) in
        cases.into_iter().flat_map(|case| [(case.clone(), false), (case, true)])
    {
        println!("{what}, several at once: {several}");
        let set = set(spec, Value::Null);
        let writes = |seen: &[Arc<Pod>]| {
            let plan = plan(&set, seen, view(several));
            let made = plan.create.into_iter().map(|(ordinal, template)| {
                let revision = if template == Template::Current { NAMES.current } else { NAMES.update };
                let mut made = (*pod(ordinal, revision, "pending")).clone();
                made.status = None;
                Write::Create(Box::new(made))
            });
            let gone = plan.delete.into_iter().filter_map(|p| p.metadata.name.clone()).map(Write::Delete);
            made.chain(gone).collect()
        };
        let says = |pod: &Pod| format!("{:?} {}", pod.metadata.name, revision(pod));
        survives(&start, writes, says);
    }
}
