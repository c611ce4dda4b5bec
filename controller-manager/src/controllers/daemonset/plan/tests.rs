use serde_json::{Value, json};

use super::*;
use crate::controllers::faults::{Write, survives};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": {"selector": {"matchLabels": {"a": "d"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"a": "d"}}, "spec": {"containers": [], "nodeSelector": {"os": "linux"}}}},
    }))
    .unwrap()
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let value = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn nodes(all: impl IntoIterator<Item = Arc<Node>>) -> Nodes {
    Nodes { all: all.into_iter().collect(), compare: false }
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"a": "d", "controller-revision-hash": hash},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap(),
    )
}

fn deleted(changes: &Changes) -> Vec<&str> {
    changes.delete.iter().filter_map(|p| p.metadata.name.as_deref()).collect()
}

#[test]
fn nodes_that_take_the_pod_get_one() {
    let nodes = nodes([
        node("a", json!([])),
        node("b", json!([{"key": "k", "effect": "NoSchedule"}])),
        node("c", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])),
        node("d", json!([{"key": "k", "effect": "NoExecute"}])),
    ]);
    let pods = by_node(&[pod("on-b", "b", "h", true), pod("on-d", "d", "h", true)]);
    let changes = manage(&set(json!({})), &nodes, &pods, "h", now());
    assert_eq!(changes.create, ["a", "c"]);
    assert_eq!(deleted(&changes), ["on-d"], "NoSchedule keeps what runs, NoExecute does not");
    let status = status(&set(json!({})), &nodes, &pods, "h", 0, now());
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
        (2, 0, 2)
    );
}

#[test]
fn numbers_of_taints_are_compared_where_the_gate_is_on() {
    let mut set = set(json!({}));
    let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    let above = json!([{"key": "sla", "operator": "Gt", "value": "900", "effect": "NoExecute"}]);
    spec.tolerations = serde_json::from_value(above).unwrap();
    let tainted = |value: &str| node("a", json!([{"key": "sla", "value": value, "effect": "NoExecute"}]));
    for (value, compare, stays) in [("950", true, true), ("900", true, false), ("950", false, false)] {
        let nodes = Nodes { all: vec![tainted(value)], compare };
        let changes = manage(&set, &nodes, &by_node(&[pod("p", "a", "h", true)]), "h", now());
        assert_eq!(deleted(&changes).is_empty(), stays, "{value} {compare}");
        let wanted = status(&set, &nodes, &by_node(&[]), "h", 0, now()).desired_number_scheduled;
        assert_eq!(wanted, i32::from(stays), "{value} {compare}");
    }
}

#[test]
fn a_pod_is_pinned_to_its_node_and_tolerates_what_nodes_suffer_from() {
    let made = pod_for(&set(json!({})), "a", "h");
    assert_eq!(node_of(&made).as_deref(), Some("a"));
    let spec = made.spec.unwrap();
    assert!(
        spec.tolerations.unwrap().iter().any(|t| t.key.as_deref() == Some("node.kubernetes.io/not-ready"))
    );
    assert!(spec.node_name.is_none(), "the scheduler places it");
    assert_eq!(made.metadata.labels.unwrap()["controller-revision-hash"], "h");
}

#[test]
fn surplus_failed_and_finished_pods_go() {
    let nodes = nodes([node("a", json!([]))]);
    let mut failed = (*pod("failed", "a", "h", false)).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let pods = by_node(&[pod("one", "a", "h", true), pod("two", "a", "h", true), Arc::new(failed)]);
    let changes = manage(&set(json!({})), &nodes, &pods, "h", now());
    assert_eq!(deleted(&changes), ["two"]);
    assert_eq!(changes.failed.len(), 1);
    // A pod that waits for a node that is gone goes too.
    let mut waiting = (*pod("waiting", "gone", "h", false)).clone();
    waiting.spec = pod_for(&set(json!({})), "gone", "h").spec;
    let changes = manage(&set(json!({})), &nodes, &by_node(&[Arc::new(waiting)]), "h", now());
    assert_eq!(deleted(&changes), ["waiting"]);
}

#[test]
fn a_rolling_update_never_takes_more_than_it_may() {
    let rolling =
        |n: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": n, "maxSurge": 0}});
    let names = ["a", "b", "c", "d"];
    let nodes = nodes(names.iter().map(|n| node(n, json!([]))));
    for (limit, allowed) in [(json!(1), 1), (json!(2), 2), (json!("50%"), 2), (json!("1%"), 1)] {
        let set = set(rolling(limit));
        let mut hashes = BTreeMap::from(names.map(|n| (n, ("old", true))));
        for _ in 0..20 {
            let all: Vec<Arc<Pod>> = hashes.iter().map(|(n, (h, r))| pod(n, n, h, *r)).collect();
            let serving = hashes.values().filter(|(_, ready)| *ready).count();
            assert!(serving >= names.len() - allowed, "too few serve");
            let step = roll(&set, &nodes, &by_node(&all), "new", now());
            let gone: Vec<String> = deleted(&step).into_iter().map(str::to_owned).collect();
            // What was started in an earlier step becomes ready, what goes now is replaced by one that is not.
            hashes.values_mut().for_each(|(h, r)| *r |= *h == "new");
            for name in &gone {
                *hashes.get_mut(name.as_str()).unwrap() = ("new", false);
            }
        }
        assert!(hashes.values().all(|(h, _)| *h == "new"), "{hashes:?}");
    }
}

#[test]
fn dead_pods_are_replaced_beyond_the_limit() {
    let nodes = nodes([node("a", json!([])), node("b", json!([])), node("c", json!([]))]);
    let pods =
        by_node(&[pod("a", "a", "old", false), pod("b", "b", "old", false), pod("c", "c", "old", true)]);
    let set = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
    // They are the ones that do not serve: one that does has to wait.
    assert_eq!(deleted(&roll(&set, &nodes, &pods, "new", now())), ["a", "b"]);
}

#[test]
fn a_node_without_a_pod_counts_as_one_that_does_not_serve() {
    let nodes = nodes([
        node("a", json!([])),
        node("b", json!([])),
        node("tainted", json!([{"key": "k", "effect": "NoExecute"}])),
    ]);
    let set = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
    let left = by_node(&[pod("b", "b", "old", true)]);
    assert!(deleted(&roll(&set, &nodes, &left, "new", now())).is_empty());
    let made = by_node(&[pod("a", "a", "new", true), pod("b", "b", "old", true)]);
    assert_eq!(deleted(&roll(&set, &nodes, &made, "new", now())), ["b"]);
}

#[test]
fn a_surging_update_starts_the_new_pod_first() {
    let set = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}));
    let nodes = nodes([node("a", json!([])), node("b", json!([]))]);
    let start = by_node(&[pod("a", "a", "old", true), pod("b", "b", "old", true)]);
    let step = roll(&set, &nodes, &start, "new", now());
    assert_eq!((step.create, step.delete.len()), (vec!["a".to_owned()], 0));
    let both = [pod("a", "a", "old", true), pod("a2", "a", "new", false), pod("b", "b", "old", true)];
    assert!(roll(&set, &nodes, &by_node(&both), "new", now()).create.is_empty());
    assert!(manage(&set, &nodes, &by_node(&both), "new", now()).delete.is_empty());
    let both = [pod("a", "a", "old", true), pod("a2", "a", "new", true), pod("b", "b", "old", true)];
    assert_eq!(deleted(&manage(&set, &nodes, &by_node(&both), "new", now())), ["a"]);
}

#[test]
fn on_delete_leaves_updates_to_the_user() {
    assert!(!rolls(&set(json!({"type": "OnDelete"}))) && rolls(&set(json!({}))));
}

#[test]
fn the_status_counts_nodes() {
    let nodes = nodes([node("a", json!([])), node("b", json!([])), node("c", json!([]))]);
    let pods = by_node(&[pod("a", "a", "h", true), pod("b", "b", "old", false)]);
    let status = status(&set(json!({})), &nodes, &pods, "h", 0, now());
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_ready),
        (3, 2, 1)
    );
    assert_eq!(
        (status.updated_number_scheduled, status.number_available, status.number_unavailable),
        (Some(1), Some(1), Some(2))
    );
}

#[test]
fn faults_change_nothing_in_the_end() {
    let nodes = nodes(["a", "b", "c", "d"].map(|name| node(name, json!([]))));
    let old: Vec<Arc<Pod>> =
        ["a", "b", "c"].map(|name| pod(&format!("old-{name}"), name, "old", true)).into();
    let surging = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    for strategy in [json!({}), json!({"rollingUpdate": {"maxUnavailable": 2}}), surging] {
        let set = set(strategy);
        let writes = |seen: &[Arc<Pod>]| {
            let pods = by_node(seen);
            let mut all = manage(&set, &nodes, &pods, "new", now());
            let step = roll(&set, &nodes, &pods, "new", now());
            all.create.extend(step.create);
            all.delete.extend(step.delete);
            let made = all.create.iter().map(|node| Write::Create(Box::new(pod_for(&set, node, "new"))));
            let gone = all.delete.iter().filter_map(|p| p.metadata.name.clone()).map(Write::Delete);
            made.chain(gone).collect()
        };
        let says = |pod: &Pod| format!("{:?} {}", node_of(pod), is_new(pod, "new"));
        survives(&old, writes, says);
    }
}

fn changed(pod: &Arc<Pod>, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut out = (**pod).clone();
    change(&mut out);
    Arc::new(out)
}

fn ending(pod: &Arc<Pod>) -> Arc<Pod> {
    let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
    changed(pod, |pod| pod.metadata.deletion_timestamp = Some(at))
}

fn surging() -> DaemonSet {
    set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}))
}

#[test]
fn a_pod_on_its_way_out_holds_up_the_next_unless_there_is_a_surge_or_it_has_ended() {
    let nodes = nodes([node("a", json!([]))]);
    let last = ending(&pod("p", "a", "h", true));
    let over = changed(&last, |pod| pod.status.as_mut().unwrap().phase = Some("Failed".to_owned()));
    for (set, pod, makes) in [
        (set(json!({})), &last, false),
        (surging(), &last, true),
        (set(json!({})), &over, true),
        (surging(), &over, true),
    ] {
        let changes = manage(&set, &nodes, &by_node(std::slice::from_ref(pod)), "h", now());
        assert_eq!(!changes.create.is_empty(), makes, "{pod:?}");
        assert!(changes.delete.is_empty());
    }
}

#[test]
fn of_two_pods_the_one_that_has_a_node_stays() {
    let nodes = nodes([node("a", json!([]))]);
    let old = changed(&pod("waits", "", "h", false), |pod| {
        pod.spec = pod_for(&set(json!({})), "a", "h").spec;
    });
    let placed = changed(&pod("placed", "a", "h", true), |pod| {
        let later = "2026-01-01T00:30:00Z".parse().unwrap();
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later));
    });
    let changes = manage(&set(json!({})), &nodes, &by_node(&[old, placed]), "h", now());
    assert_eq!(deleted(&changes), ["waits"]);
}

#[test]
fn an_old_pod_stays_beside_the_new_one_while_it_is_ready() {
    let nodes = nodes([node("a", json!([]))]);
    let mut slow = surging();
    slow.spec.as_mut().unwrap().min_ready_seconds = Some(7200);
    let both = |old_is_ready| by_node(&[pod("old", "a", "old", old_is_ready), pod("new", "a", "new", true)]);
    assert!(deleted(&manage(&slow, &nodes, &both(true), "new", now())).is_empty());
    assert_eq!(deleted(&manage(&slow, &nodes, &both(false), "new", now())), ["old"]);
}

#[test]
fn misplaced_pods_that_serve_go_when_enough_others_do() {
    let tainted = || node("t", json!([{"key": "k", "effect": "NoSchedule"}]));
    let nodes = nodes([node("a", json!([])), tainted()]);
    let with = |a_serves: bool, t_serves: bool| {
        let pods = by_node(&[pod("a", "a", "new", a_serves), pod("t", "t", "old", t_serves)]);
        let changes = roll(&surging(), &nodes, &pods, "new", now());
        deleted(&changes).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(with(true, true), ["t"]);
    assert!(with(false, true).is_empty(), "it is the only one that serves");
    assert_eq!(with(true, false), ["t"]);
}

#[test]
fn pods_of_old_controllers_tell_their_template_by_its_generation() {
    let mut set = set(json!({}));
    let annotation = ("deprecated.daemonset.template.generation".to_owned(), "4".to_owned());
    set.metadata.annotations = Some([annotation].into());
    let of = |generation: &str| {
        changed(&pod("a", "a", "other", true), |pod| {
            pod.metadata.labels.get_or_insert_default().insert(GENERATION.to_owned(), generation.to_owned());
        })
    };
    let nodes = nodes([node("a", json!([]))]);
    let gone = |pod: Arc<Pod>| roll(&set, &nodes, &by_node(&[pod]), "h", now()).delete.len();
    assert_eq!((gone(of("4")), gone(of("3"))), (0, 1));
}
