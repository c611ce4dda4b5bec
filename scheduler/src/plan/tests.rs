//! Decisions as the documentation's rules describe them.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::*;
use component_base::features::Gates;

use crate::{
    config::args::DefaultPreemptionArgs,
    framework::Plugin,
    model::SelectorChange,
    plugins::{self, Points, Turns},
    testing::{cluster, node, pod},
};

/// The node picked, or the message shown.
fn decide(pod: &Arc<PodInfo>, cluster: &Cluster) -> Result<String, String> {
    schedule(
        pod,
        cluster,
        &plugins::defaults(Gates::default()),
        &[],
        Options::default(),
        &mut Memo::default(),
    )
    .map(|p| p.node)
    .map_err(|e| e.message(""))
}

fn term(labels: Value, key: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": labels}, "topologyKey": key}])
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

#[test]
fn filters_refuse_with_upstreams_reasons() {
    let cases: Vec<(&str, Value, Arc<PodInfo>, &str)> = vec![
        ("cpu", json!({}), pod("p").cpu("5").info(), "1 Insufficient cpu"),
        (
            "cordoned",
            json!({"spec": {"unschedulable": true}}),
            pod("p").info(),
            "1 node(s) were unschedulable",
        ),
        (
            "taint",
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            pod("p").info(),
            "1 node(s) had untolerated taint(s)",
        ),
        (
            "selector",
            json!({}),
            pod("p").set("/spec/nodeSelector", json!({"disk": "ssd"})).info(),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        ("pods", json!({"status": {"allocatable": {"pods": "0"}}}), pod("p").info(), "1 Too many pods"),
        (
            "gpu",
            json!({}),
            pod("p")
                .set("/spec/containers/0/resources", json!({"requests": {"example.com/gpu": "1"}}))
                .info(),
            "1 Insufficient example.com/gpu",
        ),
        (
            "spread without label",
            json!({}),
            pod("p")
                .set(
                    "/spec/topologySpreadConstraints",
                    json!([{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]),
                )
                .info(),
            "1 node(s) didn't match pod topology spread constraints (missing required label)",
        ),
    ];
    for (name, extra, pod, reason) in cases {
        let cluster = cluster(vec![node("n1", "a", extra)], vec![]);
        assert_eq!(decide(&pod, &cluster), Err(format!("0/1 nodes are available: {reason}.")), "{name}");
    }
}

#[test]
fn reasons_are_counted_and_sorted() {
    let cluster = cluster(
        vec![
            node("n1", "a", json!({"spec": {"unschedulable": true}})),
            node("n2", "a", json!({})),
            node("n3", "a", json!({})),
        ],
        vec![],
    );
    assert_eq!(
        decide(&pod("p").cpu("5").info(), &cluster),
        Err("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.".into())
    );
    assert_eq!(
        decide(&pod("p").info(), &Cluster::default()),
        Err("no nodes available to schedule pods".into())
    );
}

#[test]
fn tolerations_open_tainted_and_cordoned_nodes() {
    let cluster = cluster(
        vec![node(
            "n1",
            "a",
            json!({"spec": {"unschedulable": true, "taints": [
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
        )],
        vec![],
    );
    let pod = pod("p").set("/spec/tolerations", json!([{"operator": "Exists"}])).info();
    assert_eq!(decide(&pod, &cluster), Ok("n1".into()));
}

#[test]
fn host_ports_exclude_each_other() {
    let port = json!([{"containerPort": 80, "hostPort": 8080}]);
    let with_port = |name: &str| pod(name).set("/spec/containers/0/ports", port.clone());
    let taken = cluster(vec![node("n1", "a", json!({}))], vec![with_port("a").on("n1").info()]);
    assert_eq!(
        decide(&with_port("b").info(), &taken),
        Err("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.".into())
    );
}

#[test]
fn the_emptier_node_wins() {
    let cluster = cluster(
        vec![node("n1", "a", json!({})), node("n2", "a", json!({}))],
        vec![pod("a").cpu("2").on("n1").info()],
    );
    assert_eq!(decide(&pod("p").cpu("1").info(), &cluster), Ok("n2".into()));
}

#[test]
fn required_affinity_follows_its_pods_and_the_first_of_a_group_may_start() {
    let nodes = || vec![node("n1", "a", json!({})), node("n2", "b", json!({}))];
    let near = |name: &str| {
        pod(name).label("app", "db").set(
            "/spec/affinity",
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(json!({"app": "db"}), ZONE)}}),
        )
    };
    assert!(decide(&near("first").info(), &cluster(nodes(), vec![])).is_ok());
    let one = cluster(nodes(), vec![near("a").on("n2").info()]);
    assert_eq!(decide(&near("b").info(), &one), Ok("n2".into()));
    let stranger = pod("s").set(
        "/spec/affinity",
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(json!({"app": "none"}), ZONE)}}),
    );
    assert_eq!(
        decide(&stranger.info(), &one),
        Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules.".into())
    );
}

#[test]
fn anti_affinity_works_both_ways() {
    let nodes = || vec![node("n1", "a", json!({})), node("n2", "b", json!({}))];
    let away = |name: &str| {
        pod(name).label("app", "web").set(
            "/spec/affinity",
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(json!({"app": "web"}), HOST)}}),
        )
    };
    let one = cluster(nodes(), vec![away("a").on("n1").info()]);
    assert_eq!(decide(&away("b").info(), &one), Ok("n2".into()));
    let both = cluster(nodes(), vec![away("a").on("n1").info(), away("b").on("n2").info()]);
    assert_eq!(
        decide(&away("c").info(), &both),
        Err("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.".into())
    );
    assert_eq!(
        decide(&pod("plain").label("app", "web").info(), &both),
        Err("0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.".into())
    );
}

#[test]
fn namespaces_of_a_term_are_chosen_by_name_or_label() {
    let other = pod("a").label("app", "web").set("/metadata/namespace", json!("other")).on("n1").info();
    let mut both = cluster(vec![node("n1", "a", json!({})), node("n2", "b", json!({}))], vec![other]);
    both.set_namespace("other", Some([("team".to_owned(), "x".to_owned())].into()));
    for (extra, want) in [
        (json!({}), None),
        (json!({"namespaces": ["other"]}), Some("n2")),
        (json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), Some("n2")),
        (json!({"namespaceSelector": {}}), Some("n2")),
    ] {
        let mut terms = term(json!({"app": "web"}), HOST);
        if let (Some(t), Some(e)) = (terms[0].as_object_mut(), extra.as_object()) {
            t.extend(e.clone());
        }
        let p = pod("p").set(
            "/spec/affinity",
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}),
        );
        let p = p.info();
        let all = plugins::defaults(Gates::default());
        let filters = prepare(&p, &both, &all).ok().unwrap();
        let refused = both.nodes().iter().find(|n| filters.check(n).is_some()).map(|n| n.name.to_string());
        assert_eq!(refused.is_some(), want.is_some(), "{extra}");
    }
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let spread = json!([{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let web =
        |name: &str| pod(name).label("app", "web").set("/spec/topologySpreadConstraints", spread.clone());
    let nodes = vec![node("n1", "a", json!({})), node("n2", "b", json!({})), node("n3", "b", json!({}))];
    let one = cluster(nodes, vec![web("a").on("n2").info()]);
    assert_eq!(decide(&web("b").info(), &one), Ok("n1".into()), "zone b already has one");
    let full = pod("p").cpu("4").on("n1").info();
    let mut blocked = one.clone();
    blocked.place(full);
    assert_eq!(
        decide(&web("b").cpu("1").info(), &blocked),
        Err("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match pod topology spread constraints.".into())
    );
}

#[test]
fn preferences_outweigh_each_other_by_weight() {
    let nodes = vec![
        node("n1", "a", json!({"metadata": {"labels": {"disk": "hdd"}}})),
        node("n2", "a", json!({"metadata": {"labels": {"disk": "ssd"}}})),
    ];
    let prefer = |value: &str, weight: i32| {
        json!({"weight": weight, "preference": {"matchExpressions": [
            {"key": "disk", "operator": "In", "values": [value]}]}})
    };
    let p = pod("p").set(
        "/spec/affinity",
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefer("hdd", 10), prefer("ssd", 90)]}}),
    );
    assert_eq!(decide(&p.info(), &cluster(nodes, vec![])), Ok("n2".into()));
}

#[test]
fn owned_pods_spread_over_nodes_by_default() {
    let owned = |name: &str| {
        pod(name).label("app", "web").set(
            "/metadata/ownerReferences",
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}]),
        )
    };
    let mut cluster = cluster(
        vec![
            node("n1", "a", json!({})),
            node("n2", "b", json!({"status": {"allocatable": {"cpu": "1500m"}}})),
        ],
        vec![owned("a").cpu("1").on("n1").info()],
    );
    let next = owned("b").cpu("1").label("own", "b").info();
    assert_eq!(decide(&next, &cluster), Ok("n1".into()), "nobody selects the pods");
    cluster.selectors.take(SelectorChange::of(
        &serde_json::from_value::<ReplicaSet>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
        }))
        .unwrap(),
    ));
    assert_eq!(decide(&next, &cluster), Ok("n2".into()));
}

#[test]
fn a_pod_pinned_by_field_looks_at_its_node_only() {
    let p = pod("p").set(
        "/spec/affinity",
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}}),
    );
    let nodes = vec![node("n1", "a", json!({})), node("n2", "b", json!({"spec": {"unschedulable": true}}))];
    assert_eq!(
        decide(&p.info(), &cluster(nodes, vec![])),
        Err("0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 1 node(s) were unschedulable.".into())
    );
}

fn means(budgets: &[Budget]) -> Means<'_> {
    Means { budgets, args: DefaultPreemptionArgs::default(), nominated: &[], start: 0 }
}

fn preemption(pod: &Arc<PodInfo>, cluster: &Cluster, budgets: &[Budget]) -> Preemption {
    let all = plugins::defaults(Gates::default());
    let failure = schedule(pod, cluster, &all, &[], Options::default(), &mut Memo::default()).unwrap_err();
    preempt(pod, cluster, &all, &failure, means(budgets))
}

#[test]
fn preemption_takes_the_fewest_and_least_important() {
    let nodes = vec![node("n1", "a", json!({})), node("n2", "a", json!({}))];
    let cluster = cluster(
        nodes,
        vec![
            pod("low1").cpu("2").priority(1).on("n1").info(),
            pod("low2").cpu("2").priority(2).on("n1").info(),
            pod("high").cpu("4").priority(50).on("n2").info(),
        ],
    );
    match preemption(&pod("p").cpu("2").priority(100).info(), &cluster, &[]) {
        Preemption::Evict { node, victims } => {
            assert_eq!(node, "n1");
            assert_eq!(victims.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["low1"]);
        }
        none => panic!("{none:?}"),
    }
}

#[test]
fn preemption_spares_budgets_where_it_can() {
    let nodes = vec![node("n1", "a", json!({})), node("n2", "a", json!({}))];
    let cluster = cluster(
        nodes,
        vec![
            pod("a").cpu("4").label("app", "guarded").priority(1).on("n1").info(),
            pod("b").cpu("4").priority(10).on("n2").info(),
        ],
    );
    let labels = [("app", "guarded")];
    let budget = Budget {
        namespace: "default".into(),
        selector: component_base::selector::LabelSelector::from_map(labels),
        allowed: 0,
        disrupted: vec![],
    };
    match preemption(&pod("p").cpu("4").priority(100).info(), &cluster, &[budget]) {
        Preemption::Evict { node, .. } => {
            assert_eq!(node, "n2", "the higher priority goes, since its budget allows")
        }
        none => panic!("{none:?}"),
    }
}

#[test]
fn preemption_says_why_it_does_not_help() {
    let one =
        cluster(vec![node("n1", "a", json!({}))], vec![pod("a").cpu("4").priority(100).on("n1").info()]);
    let text = |p: Preemption| match p {
        Preemption::Helpless(why) | Preemption::Hopeless(why) => why,
        Preemption::Evict { node, .. } => format!("evicts on {node}"),
    };
    assert_eq!(
        text(preemption(&pod("p").cpu("1").priority(1).info(), &one, &[])),
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(
        text(preemption(&pod("p").cpu("9").priority(200).info(), &one, &[])),
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let never = pod("p").cpu("1").priority(200).set("/spec/preemptionPolicy", json!("Never")).info();
    assert_eq!(
        text(preemption(&never, &one, &[])),
        "preemption: not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn nominated_pods_hold_their_room_against_lesser_ones() {
    let one = cluster(vec![node("n1", "a", json!({}))], vec![]);
    let guest = pod("guest").cpu("4").priority(100).info();
    let nominated = vec![("n1".to_owned(), guest)];
    let try_with = |p: Arc<PodInfo>| {
        schedule(
            &p,
            &one,
            &plugins::defaults(Gates::default()),
            &nominated,
            Options::default(),
            &mut Memo::default(),
        )
        .map(|p| p.node)
        .is_ok()
    };
    assert!(!try_with(pod("lesser").cpu("1").priority(1).info()));
    assert!(try_with(pod("greater").cpu("1").priority(200).info()));
}

#[test]
fn the_search_is_cut_off_as_documented() {
    for (nodes, percentage, want) in [
        (50, 0, 50),
        (100, 0, 100),
        (1000, 0, 420),
        (5000, 0, 500),
        (6000, 0, 300),
        (1000, 30, 300),
        (1000, 100, 1000),
    ] {
        assert_eq!(nodes_to_find(nodes, percentage), want, "{nodes} nodes, {percentage} %");
    }
}

/// Pods of a few kinds come and go while nodes change; what nodes said before never decides otherwise than asking
/// them anew.
#[test]
fn remembered_answers_decide_as_fresh_ones() {
    let plugins = plugins::defaults(Gates::default());
    let mut cluster =
        cluster((0..6).map(|n| node(&format!("n{n}"), ["x", "y"][n % 2], json!({}))).collect(), vec![]);
    let mut memo = Memo::default();
    let kind = |step: usize, name: &str| match step % 4 {
        0 => pod(name).cpu("500m").info(),
        1 => pod(name).cpu("1").set("/spec/nodeSelector", json!({ZONE: "x"})).info(),
        2 => pod(name).set("/spec/containers/0/ports", json!([{"containerPort": 80, "hostPort": 80}])).info(),
        _ => pod(name)
            .label("app", "a")
            .set("/spec/tolerations", json!([{"key": "k", "operator": "Exists"}]))
            .set(
                "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
                term(json!({"app": "a"}), HOST),
            )
            .info(),
    };
    let (mut placed, mut refused) = (0, 0);
    for step in 0..200_usize {
        match step % 11 {
            3 => drop(cluster.displace(&format!("uid-p{}", step.saturating_sub(9)))),
            5 => {
                let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
                let extra = if step % 2 == 0 { tainted } else { json!({}) };
                cluster.set_node(node(&format!("n{}", step % 6), "x", extra));
            }
            7 if step % 3 == 0 => cluster.remove_node(&format!("n{}", step % 6)),
            _ => {}
        }
        let pod = kind(step * step, &format!("p{step}"));
        let options = Options { start: step, tie: step as u64, ..Options::default() };
        let fresh = schedule(&pod, &cluster, &plugins, &[], options, &mut Memo::default());
        let known = schedule(&pod, &cluster, &plugins, &[], options, &mut memo);
        assert_eq!(fresh, known, "step {step}");
        match known {
            Ok(placement) => {
                placed += 1;
                cluster.place(Arc::new(PodInfo { node_name: placement.node, ..PodInfo::clone(&pod) }));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(placed > 20 && refused > 20, "{placed} placed, {refused} refused");
}

/// Says nothing of a node `a`, and takes the others.
struct Speechless;

impl Plugin for Speechless {
    fn name(&self) -> &'static str {
        "Speechless"
    }

    fn filter<'a>(&self, _: &'a PodInfo, _: &'a Cluster) -> Prepared<'a> {
        Prepared::Filter(Box::new(Speechless))
    }
}

impl Filter for Speechless {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match node.name.as_str() {
            "a" => Verdict::Failed("nobody knows".into()),
            _ => Verdict::Fits,
        }
    }
}

#[test]
fn a_plugin_that_cannot_tell_ends_the_attempt() {
    let with = |nodes: &[&str]| {
        let cluster = cluster(nodes.iter().map(|name| node(name, "x", json!({}))).collect(), vec![]);
        let plugin = Weighted {
            plugin: Box::new(Speechless),
            weight: 0,
            domain_weight: 0,
            points: Points::ALL,
            turns: Turns::default(),
        };
        let plugins = [plugin];
        let (pod, options) = (pod("p").info(), Options::default());
        let whole = schedule(&pod, &cluster, &plugins, &[], options, &mut Memo::default());
        let half = search(&pod, &cluster, &plugins, &[], options);
        let failed = |failure: Unschedulable| failure.failed.map(|error| error.to_string());
        (whole.map(|placement| placement.node).map_err(failed), half.map(drop).map_err(failed))
    };
    let told = || Some("running \"Speechless\" filter plugin: nobody knows".to_owned());
    assert_eq!(with(&["a"]), (Err(told()), Err(told())));
    assert_eq!(with(&["a", "b"]), (Err(told()), Err(told())), "others that do are no way out");
    assert_eq!(with(&["b"]), (Ok("b".to_owned()), Ok(())));
}

/// What making room for a pod comes to while others have room kept.
fn make_room(pod: &Arc<PodInfo>, cluster: &Cluster, nominated: &[(String, Arc<PodInfo>)]) -> Preemption {
    let all = plugins::defaults(Gates::default());
    let decided = schedule(pod, cluster, &all, nominated, Options::default(), &mut Memo::default());
    let means = Means { nominated, ..means(&[]) };
    preempt(pod, cluster, &all, &decided.unwrap_err(), means)
}

fn node_of(preemption: Preemption) -> String {
    match preemption {
        Preemption::Evict { node, .. } => node,
        none => panic!("{none:?}"),
    }
}

#[test]
fn one_node_is_enough_where_nobody_scores() {
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, "a", json!({})));
    let cluster = cluster(nodes.into(), vec![pod("full").cpu("4").on("n1").info()]);
    let looked_at = |weight: i64| {
        let mut plugins = plugins::defaults(Gates::default());
        plugins.iter_mut().for_each(|w| w.weight = w.weight.min(weight));
        let next = pod("p").cpu("1").info();
        let placed = schedule(&next, &cluster, &plugins, &[], Options::default(), &mut Memo::default());
        placed.map(|placed| (placed.evaluated, placed.feasible)).unwrap()
    };
    assert_eq!((looked_at(1), looked_at(0)), ((3, 2), (2, 1)));
}

#[test]
fn room_that_is_kept_for_others_as_important_is_not_found_again() {
    let nodes = vec![node("n1", "a", json!({})), node("n2", "a", json!({}))];
    let cluster = cluster(
        nodes,
        vec![
            pod("low").cpu("4").priority(1).on("n1").info(),
            pod("lower").cpu("4").priority(5).on("n2").info(),
        ],
    );
    let urgent = pod("p").cpu("3").priority(100).info();
    let first = |priority: i32| ("n1".to_owned(), pod("first").cpu("3").priority(priority).info());
    assert_eq!(node_of(make_room(&urgent, &cluster, &[])), "n1");
    assert_eq!(node_of(make_room(&urgent, &cluster, &[first(100)])), "n2");
    assert_eq!(node_of(make_room(&urgent, &cluster, &[first(99)])), "n1", "it has to give way");
    let own = ("n1".to_owned(), urgent.clone());
    assert_eq!(node_of(make_room(&urgent, &cluster, &[own])), "n1", "it is kept for itself");
}

#[test]
fn why_nobody_can_make_room_is_told_by_node() {
    let small = json!({"status": {"allocatable": {"cpu": "1"}}});
    let nodes = vec![
        node("full", "a", json!({})),
        node("small", "a", small),
        node("equal", "a", json!({})),
        node("closed", "a", json!({"spec": {"unschedulable": true}})),
    ];
    let cluster = cluster(
        nodes,
        vec![
            pod("keeps").cpu("3").priority(100).on("full").info(),
            pod("gives").cpu("1").priority(1).on("full").info(),
            pod("tiny").cpu("1").priority(1).on("small").info(),
            pod("same").cpu("4").priority(100).on("equal").info(),
        ],
    );
    let none = make_room(&pod("p").cpu("2").priority(100).info(), &cluster, &[]);
    let Preemption::Hopeless(why) = none else { panic!("{none:?}") };
    assert_eq!(
        why,
        "preemption: 0/4 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling.",
        "a node that is too small helps nobody"
    );
}

#[test]
fn only_victims_that_go_for_it_are_waited_for() {
    let told = |reason: &str| {
        pod("v")
            .cpu("4")
            .priority(1)
            .on("n1")
            .set("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))
            .set(
                "/status/conditions",
                json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]),
            )
            .info()
    };
    let waiting = || pod("p").cpu("2").priority(100).set("/status/nominatedNodeName", json!("n1")).info();
    let on = |victim| cluster(vec![node("n1", "a", json!({}))], vec![victim]);
    let waits = make_room(&waiting(), &on(told("PreemptionByScheduler")), &[]);
    let Preemption::Helpless(why) = waits else { panic!("{waits:?}") };
    assert_eq!(why, "preemption: not eligible due to a terminating pod on the nominated node.");
    assert_eq!(node_of(make_room(&waiting(), &on(told("DeletionByTaintManager")), &[])), "n1");
    // Where nobody's going helps the nominated node counts for nothing.
    let mut closed = on(told("PreemptionByScheduler"));
    closed.set_node(node("n1", "a", json!({"spec": {"unschedulable": true}})));
    assert!(matches!(make_room(&waiting(), &closed, &[]), Preemption::Hopeless(_)));
    let never = pod("n").cpu("2").priority(100).set("/spec/preemptionPolicy", json!("Never")).info();
    assert!(matches!(make_room(&never, &on(told("x")), &[]), Preemption::Helpless(_)));
}

#[test]
fn less_important_pods_lose_the_room_that_is_kept_for_them() {
    let mut nominations = Nominations::default();
    for (name, priority, node) in [("low", 1, "a"), ("same", 5, "a"), ("elsewhere", 1, "b")] {
        nominations.add(node, pod(name).priority(priority).info());
    }
    let lesser = nominations.lesser("a", 5);
    assert_eq!(lesser.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["low"]);
    assert!(nominations.contains("uid-low") && !nominations.contains("uid-other"));
}

/// Refuses every pod whatever the node.
struct Rejects(&'static str);

impl Plugin for Rejects {
    fn name(&self) -> &'static str {
        self.0
    }

    fn filter<'a>(&self, _: &'a PodInfo, _: &'a Cluster) -> Prepared<'a> {
        Prepared::Reject(self.0.into())
    }
}

#[test]
fn of_those_that_reject_a_pod_the_first_in_turn_is_heard() {
    let cluster = cluster(vec![node("a", "x", json!({}))], vec![]);
    for (turns, expected) in [([0, 1], "one"), ([1, 0], "two")] {
        let weighted = |(name, prepares): (&'static str, usize)| Weighted {
            plugin: Box::new(Rejects(name)),
            weight: 0,
            domain_weight: 0,
            points: Points::ALL,
            turns: Turns { gates: 0, prepares },
        };
        let plugins: Vec<Weighted> = ["one", "two"].into_iter().zip(turns).map(weighted).collect();
        let pod = pod("p").info();
        let refused = schedule(&pod, &cluster, &plugins, &[], Options::default(), &mut Memo::default());
        assert_eq!(refused.unwrap_err().rejected.as_deref(), Some(expected), "{turns:?}");
    }
}

#[test]
fn what_was_let_go_of_joins_the_message() {
    let cluster = cluster(vec![node("a", "x", json!({}))], vec![]);
    let plugins = plugins::defaults(Gates::default());
    let of = |by: &'static str, rejected: Option<&'static str>| {
        let rejected = rejected.map(Into::into);
        let failure = Unschedulable { nodes: 1, plugins: vec![by], rejected, ..Unschedulable::default() };
        let LetGo { claim, note, next } = let_go(&pod("p").info(), &cluster, &plugins, &failure);
        assert!(claim.is_none());
        (note, next)
    };
    let nothing = "no new claims to deallocate";
    assert_eq!(of("NodeResourcesFit", None), (nothing, Next::MakeRoom));
    assert_eq!(of("DynamicResources", Some("resourceclaim in use")), (nothing, Next::MakeRoom));
    assert_eq!(of("VolumeBinding", Some("no such claim")), ("not found", Next::Wait));
    let nowhere = let_go(&pod("p").info(), &cluster, &plugins, &Unschedulable::default());
    assert_eq!((nowhere.note, nowhere.next), ("", Next::GiveUp), "there are no nodes");
    let joined = |first: &str, second: &str| match Preemption::Helpless(second.to_owned()).after(first) {
        Preemption::Helpless(note) => note,
        other => panic!("{other:?}"),
    };
    assert_eq!(joined(nothing, "preemption: none"), "no new claims to deallocate, preemption: none");
    assert_eq!((joined(nothing, ""), joined("", "none")), (nothing.to_owned(), "none".to_owned()));
    match Preemption::Hopeless("preemption: none".to_owned()).before(nothing) {
        Preemption::Hopeless(note) => assert_eq!(note, "preemption: none, no new claims to deallocate"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_not_to_go_anyway_takes_nothing_of_further_budgets() {
    let budget = |selector: Value, allowed: i64| {
        let selector = serde_json::from_value(json!({"matchLabels": selector})).unwrap();
        let selector = component_base::selector::LabelSelector::from_api(Some(&selector)).unwrap();
        Budget { namespace: "default".to_owned(), selector, allowed, disrupted: Vec::new() }
    };
    let budgets = [budget(json!({"a": "1"}), 0), budget(json!({"b": "1"}), 1)];
    let labelled = |name: &str, labels: Value| pod(name).set("/metadata/labels", labels).info();
    let one = |name: &str| labelled(name, json!({"b": "1"}));
    let all = [labelled("both", json!({"a": "1", "b": "1"})), one("one"), one("two")];
    let of = |units: &[&[Arc<PodInfo>]]| preemption::forbidden(units.iter().copied(), &budgets);
    assert_eq!(of(&[&all[..1], &all[1..2], &all[2..]]), [true, false, true]);
    // Of those that go together one is enough, and the others are not counted.
    assert_eq!(of(&[&all[..2], &all[2..]]), [true, false]);
}
