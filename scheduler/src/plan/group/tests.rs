//! Groups as a whole: all that are wanted, or none.

use serde_json::{Value, json};

use super::*;
use component_base::features::Gates;

use crate::{
    model::ZONE_LABEL,
    plugins,
    testing::{cluster, gang, node, pod},
};

/// `count` members of group `g`, each asking for `cpu`.
fn members(count: usize, cpu: &str) -> Vec<Arc<PodInfo>> {
    (0..count).map(|i| pod(&format!("p{i}")).group("g").priority(5).cpu(cpu).info()).collect()
}

/// A cluster of nodes of 4 cores with a gang of these members, with `spec` merged into it.
fn with_gang(nodes: &[(&str, &str)], min: usize, pods: &[Arc<PodInfo>], spec: Value) -> Cluster {
    let nodes = nodes.iter().map(|(name, zone)| node(name, zone, json!({}))).collect();
    let mut out = cluster(nodes, vec![]);
    let event = gang("g", json!({"gang": {"minCount": min}}));
    let mut object = serde_json::to_value(&**event.object()).unwrap();
    crate::testing::merge(&mut object["spec"], spec);
    let new = serde_json::from_value(object).unwrap();
    out.groups.take(&component_base::informer::Event::Added { new: Arc::new(new), initial: false });
    pods.iter().for_each(|pod| out.groups.join(pod));
    out
}

const NO_ROOM: Result<(&[Budget], DefaultPreemptionArgs), &str> = Err("");

fn rules<'a>(
    plugins: &'a [Weighted],
    room: Result<(&'a [Budget], DefaultPreemptionArgs), &'static str>,
) -> Rules<'a> {
    Rules { plugins, nominated: &[], options: Options::default(), room }
}

/// What was decided in one word per pod, and how the group stands.
fn decide(cluster: &Cluster, pods: &[Arc<PodInfo>], makes_room: bool) -> (Standing, Vec<String>) {
    let plugins = plugins::defaults(crate::testing::all_gates());
    let room = if makes_room { Ok((&[][..], DefaultPreemptionArgs::default())) } else { NO_ROOM };
    let decision = rehearse(Rehearsal::new(cluster.clone()), pods, rules(&plugins, room)).end();
    (decision.standing, decision.tried.iter().map(|tried| word(tried, &decision)).collect())
}

fn word(tried: &Tried, decision: &GroupDecision) -> String {
    match (&tried.turn, decision.standing) {
        (Turn::Placed(placement), Standing::Fits) => placement.node.clone(),
        (Turn::Refused { failure, note, .. }, _) => failure.message(note),
        (Turn::MakesRoom { node, victims, .. }, Standing::MakesRoom) => {
            let victims: Vec<&str> = victims.iter().map(|v| v.name.as_str()).collect();
            format!("{node} after {}", victims.join(" "))
        }
        _ => tried.message(decision.standing, &decision.message),
    }
}

#[test]
fn enough_fit_and_those_that_do_not_wait_alone() {
    let pods = members(3, "3");
    let cluster = with_gang(&[("a", "z"), ("b", "z")], 2, &pods, json!({}));
    let (standing, mut words) = decide(&cluster, &pods, false);
    assert_eq!(standing, Standing::Fits);
    assert_eq!(words.pop().unwrap(), "0/2 nodes are available: 2 Insufficient cpu.");
    words.sort();
    assert_eq!(words, ["a", "b"]);
}

#[test]
fn one_too_many_and_none_is_bound() {
    let pods = members(3, "3");
    let cluster = with_gang(&[("a", "z"), ("b", "z")], 3, &pods, json!({}));
    let held = "pod group is unschedulable, waiting for minCount pods from a gang to be scheduled";
    let (standing, words) = decide(&cluster, &pods, false);
    assert_eq!(standing, Standing::Refused);
    assert_eq!(words, [held, held, "0/2 nodes are available: 2 Insufficient cpu."]);
}

#[test]
fn members_that_have_a_node_count() {
    let pods = members(2, "3");
    let mut cluster = with_gang(&[("a", "z"), ("b", "z"), ("c", "z")], 3, &pods, json!({}));
    assert_eq!(decide(&cluster, &pods, false).0, Standing::Refused);
    let placed = pod("first").group("g").cpu("3").on("c").info();
    cluster.groups.join(&placed);
    cluster.place(placed);
    assert_eq!(decide(&cluster, &pods, false).0, Standing::Fits);
}

#[test]
fn without_the_plugin_or_with_a_basic_policy_each_pod_stands_for_itself() {
    let pods = members(2, "3");
    let mut cluster = with_gang(&[("a", "z")], 2, &pods, json!({}));
    let plain = plugins::defaults(Gates::default());
    let done = rehearse(Rehearsal::new(cluster.clone()), &pods, rules(&plain, NO_ROOM));
    assert_eq!(done.standing(), Standing::Fits);
    cluster.groups.take(&gang("g", json!({"basic": {}})));
    assert_eq!(decide(&cluster, &pods, false).0, Standing::Fits);
}

#[test]
fn nobody_is_evicted_unless_the_group_fits_then() {
    let pods = members(2, "3");
    let lesser = |name: &str, on: &str, priority| pod(name).cpu("2").priority(priority).on(on).info();
    let mut cluster = with_gang(&[("a", "z"), ("b", "z")], 2, &pods, json!({}));
    cluster.place(lesser("small", "a", 1));
    let (standing, mut words) = decide(&cluster, &pods, true);
    words.sort();
    assert_eq!(standing, Standing::MakesRoom);
    let held = "pod group is unschedulable, pod group is waiting for preemption to complete";
    assert_eq!(words, ["a after small", held]);
    cluster.place(lesser("great", "b", 9));
    let (standing, words) = decide(&cluster, &pods, true);
    assert_eq!(standing, Standing::Refused);
    assert_eq!(words[0], "pod group is unschedulable, waiting for minCount pods from a gang to be scheduled");
}

#[test]
fn room_for_all_takes_the_fewest_and_keeps_what_ends_together() {
    let pods = members(2, "3");
    let lesser = |name: &str, on: &str, priority| pod(name).cpu("2").priority(priority).on(on);
    let mut cluster = with_gang(&[("a", "z"), ("b", "z"), ("c", "z")], 2, &pods, json!({"priority": 5}));
    cluster.place(lesser("one", "a", 1).info());
    cluster.place(lesser("two", "b", 2).info());
    cluster.place(lesser("three", "c", 3).info());
    let plugins = plugins::defaults(crate::testing::all_gates());
    let room = |cluster: &Cluster, priority: i32, budgets: &[Budget]| {
        let group = GroupInfo { priority, ..GroupInfo::default() };
        room_for(&group, &pods, cluster.clone(), rules(&plugins, NO_ROOM), budgets)
            .map(|all| all.iter().map(|p| p.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(room(&cluster, 5, &[]), Ok(vec!["two".to_owned(), "one".to_owned()]));
    assert_eq!(room(&cluster, 3, &[]), Ok(vec!["two".to_owned(), "one".to_owned()]));
    assert_eq!(room(&cluster, 2, &[]), Err(UNSCHEDULABLE.to_owned()));
    assert_eq!(room(&cluster, 1, &[]), Err("No preemption victims found for incoming preemptor".to_owned()));
    // The two least important end together: one of them would do, but both go.
    let mut other = gang("h", json!({"gang": {"minCount": 2}}));
    if let component_base::informer::Event::Added { new, .. } = &mut other {
        let group = Arc::make_mut(new);
        group.spec.disruption_mode = Some("PodGroup".to_owned());
        group.spec.priority = Some(1);
    }
    let mut tied = cluster.clone();
    tied.groups.take(&other);
    tied.place(lesser("two", "b", 1).group("h").info());
    tied.place(lesser("three", "c", 1).group("h").info());
    assert_eq!(room(&tied, 5, &[]).unwrap(), ["two", "three"]);
}

#[test]
fn a_group_that_wants_to_be_near_goes_where_most_of_it_fits() {
    let pods = members(3, "3");
    let nodes = [("a", "1"), ("b", "2"), ("c", "2"), ("d", "3"), ("e", "3"), ("f", "3")];
    let spec = json!({"schedulingConstraints": {"topology": [{"key": ZONE_LABEL}]}});
    let plugins = plugins::defaults(crate::testing::all_gates());
    let decide = |min: usize, zones: &[&str]| {
        let nodes: Vec<(&str, &str)> = nodes.iter().filter(|(_, z)| zones.contains(z)).copied().collect();
        let cluster = with_gang(&nodes, min, &pods, spec.clone());
        let group = cluster.groups.get(&pods[0].group_key().unwrap()).unwrap();
        let found = domains(group, &cluster, rules(&plugins, NO_ROOM)).unwrap().unwrap();
        let rehearsed = found.iter().map(|domain| {
            let within = cluster.within(|node| domain.nodes.contains(&node.name));
            assert_eq!(within.nodes().len(), domain.nodes.len());
            rehearse(Rehearsal::new(within), &pods, rules(&plugins, NO_ROOM))
        });
        best_domain(rehearsed.collect(), rules(&plugins, NO_ROOM))
    };
    let near = decide(2, &["1", "2", "3"]);
    let mut nodes: Vec<String> = near.tried.iter().map(|tried| word(tried, &near)).collect();
    nodes.sort();
    assert_eq!((near.standing, nodes), (Standing::Fits, vec!["d".to_owned(), "e".into(), "f".into()]));
    let refused = decide(3, &["1", "2"]);
    assert_eq!(refused.standing, Standing::Refused);
    assert_eq!(
        refused.message,
        "0/2 placements are available, first placement status: pod group is unschedulable"
    );
    assert_eq!(decide(2, &[]).message, "no feasible placements found");
}

#[test]
fn a_rehearsal_leaves_no_trace() {
    let pods = members(3, "1");
    let cluster = with_gang(&[("a", "z"), ("b", "z")], 3, &pods, json!({}));
    let plugins = plugins::defaults(crate::testing::all_gates());
    let (after, _) = rehearse(Rehearsal::new(cluster.clone()), &pods, rules(&plugins, NO_ROOM)).undo();
    let counted = |cluster: &Cluster| -> Vec<(usize, i64)> {
        cluster.nodes().iter().map(|node| (node.pods.len(), node.requested.milli_cpu)).collect()
    };
    assert_eq!((counted(&after), after.placed()), (counted(&cluster), cluster.placed()));
}

#[test]
fn room_is_given_up_where_it_was_looked_for_in_vain() {
    let pods = members(1, "9");
    let cluster = with_gang(&[("a", "z")], 1, &pods, json!({}));
    let plugins = plugins::defaults(crate::testing::all_gates());
    let gives_up = |room| {
        let decision = rehearse(Rehearsal::new(cluster.clone()), &pods, rules(&plugins, room)).end();
        matches!(decision.tried[0].turn, Turn::Refused { hopeless: true, .. })
    };
    assert!(gives_up(Ok((&[][..], DefaultPreemptionArgs::default()))));
    assert!(!gives_up(NO_ROOM), "nobody looked");
}
