use serde_json::{Value, json};

use super::*;

struct World {
    graph: Graph,
    set: KindId,
    pod: KindId,
    node: KindId,
    version: u64,
}

impl World {
    fn new() -> World {
        let mut graph = Graph::default();
        let set = graph.add_kind("apps", "ReplicaSet", true);
        let pod = graph.add_kind("", "Pod", true);
        let node = graph.add_kind("", "Node", false);
        World { graph, set, pod, node, version: 0 }
    }

    fn see(&mut self, kind: KindId, name: &str, owners: &[Value], more: Value) -> Vec<Task> {
        self.version += 1;
        let mut meta = json!({"name": name, "uid": name, "resourceVersion": self.version.to_string(),
            "ownerReferences": owners});
        if kind != self.node {
            meta["namespace"] = "default".into();
        }
        for (key, value) in more.as_object().unwrap() {
            meta[key] = value.clone();
        }
        let mut tasks = self.graph.observe(kind, &serde_json::from_value(meta).unwrap());
        tasks.sort_unstable();
        tasks
    }

    fn examine(&self, name: &str) -> Decision {
        self.graph.decide(Task::Examine(Uid::new(name)))
    }
}

fn by_set(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "blockOwnerDeletion": true})
}

fn deleting(finalizer: &str) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
}

fn tasks(names: &[&str]) -> Vec<Task> {
    let mut all: Vec<Task> = names.iter().map(|n| Task::Examine(Uid::new(n))).collect();
    all.sort_unstable();
    all
}

fn policy(decision: &Decision) -> Option<Policy> {
    match decision {
        Decision::Delete { policy, .. } => Some(*policy),
        _ => None,
    }
}

#[test]
fn dependents_go_after_their_owner_is_gone() {
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    assert!(world.see(world.pod, "web-1", &[by_set("web")], json!({})).is_empty());
    assert_eq!(world.examine("web-1"), Decision::Nothing);
    assert_eq!(world.graph.forget(Uid::new("web")), tasks(&["web-1"]));
    let decision = world.examine("web-1");
    assert_eq!(policy(&decision), Some(Policy::Background));
    assert!(
        matches!(decision, Decision::Delete { version: 2, .. }),
        "the version examined is the one deleted"
    );
}

#[test]
fn an_owner_nobody_has_seen_is_verified_before_anything_goes() {
    let mut world = World::new();
    assert_eq!(world.see(world.pod, "web-1", &[by_set("web")], json!({})), tasks(&["web"]));
    let Decision::Verify(asked) = world.examine("web") else { panic!("not verified") };
    assert_eq!(asked[0].name.as_ref(), "web");
    assert!(matches!(world.examine("web-1"), Decision::Verify(_)));
    assert_eq!(world.graph.mark_absent(&asked[0]), tasks(&["web-1"]));
    assert_eq!(policy(&world.examine("web-1")), Some(Policy::Background));
    // It may also turn up.
    let mut world = World::new();
    world.see(world.pod, "web-1", &[by_set("web")], json!({}));
    world.see(world.set, "web", &[], json!({}));
    assert_eq!(world.examine("web-1"), Decision::Nothing);
}

#[test]
fn an_owner_in_another_namespace_is_told_of_and_owns_nothing() {
    let there = json!({"namespace": "other"});
    let misplaced = |world: &mut World| -> Vec<(String, String)> {
        let found = world.graph.take_misplaced();
        found.iter().map(|m| (m.at.name.to_string(), m.owner.namespace.to_string())).collect()
    };
    let expected = vec![("web-1".to_owned(), "default".to_owned())];
    // The owner was seen first.
    let mut world = World::new();
    world.see(world.set, "web", &[], there.clone());
    assert_eq!(world.see(world.pod, "web-1", &[by_set("web")], json!({})), tasks(&["web-1"]));
    assert_eq!(misplaced(&mut world), expected);
    world.see(world.pod, "web-1", &[by_set("web")], json!({}));
    assert!(misplaced(&mut world).is_empty(), "once");
    // The dependent was.
    let mut world = World::new();
    world.see(world.pod, "web-1", &[by_set("web")], json!({}));
    assert!(misplaced(&mut world).is_empty());
    assert_eq!(world.see(world.set, "web", &[], there), tasks(&["web-1"]));
    assert_eq!(misplaced(&mut world), expected);
    let Decision::Verify(asked) = world.examine("web-1") else { panic!("not verified") };
    world.graph.mark_absent(&asked[0]);
    assert_eq!(policy(&world.examine("web-1")), Some(Policy::Background));
}

#[test]
fn one_owner_that_is_there_keeps_an_object_and_the_others_leave_its_list() {
    let mut world = World::new();
    world.see(world.set, "a", &[], json!({}));
    world.see(world.set, "b", &[], json!({}));
    world.see(world.pod, "p", &[by_set("a"), by_set("b")], json!({}));
    world.graph.forget(Uid::new("a"));
    let Decision::DropOwners { uids, .. } = world.examine("p") else { panic!("kept the dangling owner") };
    assert_eq!(uids, [Arc::from("a")]);
    world.graph.forget(Uid::new("b"));
    assert_eq!(policy(&world.examine("p")), Some(Policy::Background));
}

#[test]
fn foreground_deletion_waits_for_dependents_that_block() {
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "p", &[by_set("web")], json!({}));
    let seen = world.see(world.set, "web", &[], deleting(FOREGROUND));
    assert_eq!(seen, tasks(&["web", "p"]));
    assert_eq!(world.examine("web"), Decision::Await(vec![Uid::new("p")]));
    assert_eq!(policy(&world.examine("p")), Some(Policy::Background));
    assert_eq!(world.graph.forget(Uid::new("p")), tasks(&["web"]));
    assert!(matches!(world.examine("web"), Decision::RemoveFinalizer { finalizer: FOREGROUND, .. }));
}

#[test]
fn a_dependent_that_stops_blocking_lets_its_owner_go() {
    let mut world = World::new();
    world.see(world.set, "web", &[], deleting(FOREGROUND));
    world.see(world.pod, "p", &[by_set("web")], json!({}));
    let mut free = by_set("web");
    free["blockOwnerDeletion"] = false.into();
    assert_eq!(world.see(world.pod, "p", &[free], json!({})), tasks(&["web", "p"]));
    assert!(matches!(world.examine("web"), Decision::RemoveFinalizer { .. }));
}

#[test]
fn a_dependent_with_dependents_is_deleted_in_the_foreground_too() {
    let mut world = World::new();
    world.see(world.set, "top", &[], deleting(FOREGROUND));
    world.see(world.set, "middle", &[by_set("top")], json!({}));
    world.see(world.pod, "leaf", &[by_set("middle")], json!({}));
    assert_eq!(policy(&world.examine("middle")), Some(Policy::Foreground));
}

#[test]
fn a_cycle_of_owners_is_broken() {
    let mut world = World::new();
    world.see(world.set, "a", &[by_set("b")], deleting(FOREGROUND));
    world.see(world.set, "b", &[by_set("a")], json!({}));
    assert!(matches!(world.examine("b"), Decision::Unblock { .. }));
}

#[test]
fn orphaning_releases_dependents_first() {
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "p", &[by_set("web")], json!({}));
    let seen = world.see(world.set, "web", &[], deleting(ORPHAN));
    assert_eq!(seen, [Task::Orphan(Uid::new("web"))]);
    let Decision::Release { dependents, .. } = world.graph.decide(seen[0]) else { panic!("not released") };
    assert_eq!(dependents[0].name.as_ref(), "p");
    // Released pods have no owner and stay.
    world.see(world.pod, "p", &[], json!({}));
    world.graph.forget(Uid::new("web"));
    assert_eq!(world.examine("p"), Decision::Nothing);
}

#[test]
fn finalizers_already_there_decide_how_an_object_goes() {
    for (finalizer, expected) in [(ORPHAN, Policy::Orphan), (FOREGROUND, Policy::Foreground)] {
        let mut world = World::new();
        world.see(world.set, "web", &[], json!({}));
        world.see(world.pod, "p", &[by_set("web")], json!({"finalizers": [finalizer]}));
        world.graph.forget(Uid::new("web"));
        assert_eq!(policy(&world.examine("p")), Some(expected));
    }
}

#[test]
fn owners_that_cannot_be_checked_never_cost_an_object() {
    let mut world = World::new();
    let unknown = json!({"apiVersion": "x.io/v1", "kind": "Thing", "name": "t", "uid": "t"});
    assert!(world.see(world.pod, "p", std::slice::from_ref(&unknown), json!({})).is_empty());
    assert_eq!(world.examine("p"), Decision::Nothing);
    // A node cannot belong to something in a namespace.
    world.see(world.node, "n", &[by_set("web")], json!({}));
    assert_eq!(world.examine("n"), Decision::Nothing);
    // One unknown owner keeps an object although the known one is gone.
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "q", &[by_set("web"), unknown], json!({}));
    world.graph.forget(Uid::new("web"));
    assert_eq!(world.examine("q"), Decision::Nothing);
}

#[test]
fn an_owner_whose_kind_comes_late_is_looked_at_then() {
    let mut world = World::new();
    let late = json!({"apiVersion": "x.io/v1", "kind": "Thing", "name": "t", "uid": "t"});
    let meta = |name: &str, version: &str| -> ObjectMeta {
        serde_json::from_value(json!({"uid": name, "resourceVersion": version})).unwrap()
    };
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "p", std::slice::from_ref(&late), json!({}));
    assert!(world.graph.is_puzzled(&meta("p", "2")) && !world.graph.is_puzzled(&meta("web", "1")));
    assert!(!world.graph.is_puzzled(&meta("p", "1")), "it is known in a later state");
    world.graph.add_kind("x.io", "Thing", true);
    assert_eq!(world.see(world.pod, "p", &[late], json!({})), tasks(&["t"]));
    assert!(!world.graph.is_puzzled(&meta("p", "3")));
}

#[test]
fn an_owner_in_another_namespace_is_none() {
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({"namespace": "elsewhere"}));
    assert_eq!(world.see(world.pod, "p", &[by_set("web")], json!({})), tasks(&["p"]));
    let Decision::Verify(asked) = world.examine("p") else { panic!("believed the uid alone") };
    assert_eq!(asked[0].namespace.as_ref(), "default");
    world.graph.mark_absent(&asked[0]);
    assert_eq!(policy(&world.examine("p")), Some(Policy::Background));
}

#[test]
fn nothing_is_left_of_objects_that_are_gone() {
    let mut world = World::new();
    world.see(world.pod, "p", &[by_set("web")], json!({}));
    world.graph.forget(Uid::new("p"));
    assert_eq!(world.graph.len(), 0);
    assert!(world.graph.dependents.is_empty());
}

/// References that lead nowhere, by their name, kind or namespace, say nothing of the object whose uid they have.
#[test]
fn a_wrong_reference_costs_no_object_that_names_its_owner_rightly() {
    let wrong = |kind: &str, version: &str, name: &str| json!({"apiVersion": version, "kind": kind, "name": name, "uid": "web"});
    for bad in
        [wrong("ReplicaSet", "apps/v1", "other"), wrong("Pod", "v1", "web"), wrong("Node", "v1", "web")]
    {
        for good_first in [true, false] {
            let mut world = World::new();
            if good_first {
                world.see(world.pod, "good", &[by_set("web")], json!({}));
            }
            world.see(world.pod, "bad", std::slice::from_ref(&bad), json!({}));
            world.see(world.pod, "good", &[by_set("web")], json!({}));
            let Decision::Verify(asked) = world.examine("bad") else { panic!("not verified: {bad}") };
            assert!(world.graph.mark_absent(&asked[0]).contains(&Task::Examine(Uid::new("good"))));
            assert_eq!(policy(&world.examine("bad")), Some(Policy::Background), "{bad}");
            // Its own owner is asked for, and is there.
            let Decision::Verify(asked) = world.examine("good") else { panic!("not verified: {bad}") };
            assert_eq!((asked[0].kind, asked[0].name.as_ref()), (world.set, "web"));
            assert!(world.graph.is_unseen(&asked[0]), "it is asked for again until a watch shows it");
            world.see(world.set, "web", &[], json!({}));
            assert_eq!(world.examine("good"), Decision::Nothing, "{bad}");
            assert!(!world.graph.is_unseen(&asked[0]));
        }
    }
}

#[test]
fn an_object_in_another_namespace_that_is_gone_costs_none_here() {
    let mut world = World::new();
    world.see(world.pod, "there", &[by_set("web")], json!({"namespace": "other"}));
    world.see(world.pod, "here", &[by_set("web")], json!({}));
    let Decision::Verify(asked) = world.examine("there") else { panic!("not verified") };
    assert_eq!(asked[0].namespace.as_ref(), "other");
    world.graph.mark_absent(&asked[0]);
    assert_eq!(policy(&world.examine("there")), Some(Policy::Background));
    assert!(matches!(world.examine("here"), Decision::Verify(_)));
}

#[test]
fn an_owner_that_cannot_be_checked_hides_none_of_the_others() {
    let unknown = json!({"apiVersion": "x.io/v1", "kind": "Thing", "name": "t", "uid": "t"});
    let owners = [by_set("web"), unknown];
    // Orphans lose the owner that is known.
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "p", &owners, json!({}));
    let seen = world.see(world.set, "web", &[], deleting(ORPHAN));
    let Decision::Release { dependents, .. } = world.graph.decide(seen[0]) else { panic!("not released") };
    assert_eq!(dependents.iter().map(|d| d.name.as_ref()).collect::<Vec<_>>(), ["p"]);
    // One that waits for its dependents waits for this one too, which nobody may delete.
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    world.see(world.pod, "p", &owners, json!({}));
    world.see(world.set, "web", &[], deleting(FOREGROUND));
    assert_eq!(world.examine("web"), Decision::Await(vec![Uid::new("p")]));
    assert_eq!(world.examine("p"), Decision::Nothing);
    world.graph.forget(Uid::new("p"));
    assert!(matches!(world.examine("web"), Decision::RemoveFinalizer { .. }));
    assert!(world.graph.puzzling.is_empty());
}

#[test]
fn a_cluster_scoped_object_is_told_that_its_owner_lives_in_a_namespace() {
    let mut world = World::new();
    world.see(world.set, "web", &[], json!({}));
    for _ in 0..2 {
        world.see(world.node, "n", &[by_set("web")], json!({}));
    }
    let found = world.graph.take_misplaced();
    let told: Vec<(&str, &str, &str)> = found
        .iter()
        .map(|m| (m.at.name.as_ref(), m.owner.name.as_ref(), m.owner.namespace.as_ref()))
        .collect();
    assert_eq!(told, [("n", "web", "")], "once");
    assert_eq!(world.examine("n"), Decision::Nothing);
}
