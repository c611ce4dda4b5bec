//! The tables say what the reference says, and reconciling adds without taking away.

use std::collections::BTreeMap;

use component_base::reference::reference;

use super::*;
use crate::objects::memory::Memory;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// Without uid and creation time, which every object gets anew.
fn bare(object: &Object) -> Value {
    let mut object = object.clone();
    object.metadata_mut().remove("uid");
    object.metadata_mut().remove("creationTimestamp");
    object.metadata_mut().remove("resourceVersion");
    object.into_value()
}

fn by_key(items: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let key = |v: &Value| format!("{} {}/{}", v["kind"], v["metadata"]["namespace"], v["metadata"]["name"]);
    items.into_iter().map(|v| (key(&v), v)).collect()
}

#[test]
fn tables_equal_the_reference() {
    let Some(folder) = reference("rbac") else { return };
    let mut expected = Vec::new();
    for file in [
        "cluster-roles",
        "cluster-role-bindings",
        "controller-roles",
        "controller-role-bindings",
        "namespace-roles",
        "namespace-role-bindings",
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.yaml"))).unwrap();
        let list: Value = serde_saphyr::from_str(&text).unwrap();
        expected.extend(list["items"].as_array().unwrap().iter().cloned());
    }
    let ours = by_key(policy(now(), Gates::default()).iter().map(|(_, o)| bare(o)));
    let theirs = by_key(expected);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (key, value) in &ours {
        assert_eq!(value, &theirs[key], "{key}");
    }
}

#[test]
fn what_gates_open_equals_the_reference() {
    let Some(folder) = reference("rbac") else { return };
    let text = std::fs::read_to_string(folder.join("cluster-roles-featuregates.yaml")).unwrap();
    let list: Value = serde_saphyr::from_str(&text).unwrap();
    let theirs = by_key(list["items"].as_array().unwrap().iter().cloned());
    let all = Gates::parse(&["AllAlpha=true", "AllBeta=true"]).unwrap();
    let ours = by_key(policy(now(), all).iter().map(|(_, o)| bare(o)));
    for (key, value) in &theirs {
        assert_eq!(Some(value), ours.get(key), "{key}");
    }
    let controllers = |gates| {
        policy(now(), gates).iter().filter(|(_, o)| o.name().starts_with("system:controller:")).count()
    };
    let opened = controllers::GATED.iter().filter(|(gate, _)| !Gates::default().has(*gate)).count();
    assert_eq!(controllers(all) - controllers(Gates::default()), 2 * opened);
}

#[tokio::test]
async fn reconciling_is_idempotent_and_keeps_additions() {
    let objects = Memory::with(vec![]);
    reconcile(&*objects, now(), Gates::default()).await.unwrap();
    let before = objects.get(CLUSTER_ROLES, "", "system:kube-dns").await.unwrap().unwrap();
    reconcile(&*objects, now(), Gates::default()).await.unwrap();
    let after = objects.get(CLUSTER_ROLES, "", "system:kube-dns").await.unwrap().unwrap();
    assert_eq!(before, after, "a second run writes nothing");

    let mut changed = (*after).clone();
    changed.set("rules", json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]));
    objects.update(CLUSTER_ROLES, changed).await.unwrap();
    reconcile(&*objects, now(), Gates::default()).await.unwrap();
    let healed = objects.get(CLUSTER_ROLES, "", "system:kube-dns").await.unwrap().unwrap();
    assert_eq!(uncovered(&rules_of(&healed), &rules_of(&before)), [], "what was missing is back");
    assert_eq!(healed.pointer("/rules/0/apiGroups/0"), Some(&json!("x")), "what was added stays");
}

#[test]
fn declined_updates_change_nothing() {
    let (_, wanted) =
        policy(now(), Gates::default()).into_iter().find(|(_, o)| o.name() == "system:kube-dns").unwrap();
    let mut current = wanted.clone();
    current.set("rules", json!([]));
    assert!(merged(&current, &wanted).is_some());
    current.set_annotation(AUTO_UPDATE, "false");
    assert_eq!(merged(&current, &wanted), None);
}

#[test]
fn a_binding_gains_missing_subjects() {
    let (_, wanted) = policy(now(), Gates::default())
        .into_iter()
        .find(|(_, o)| o.name() == "system:discovery" && o.kind() == "ClusterRoleBinding")
        .unwrap();
    let mut current = wanted.clone();
    let own = json!({"kind": "User", "name": "me", "apiGroup": API_GROUP});
    current.set("subjects", vec![own.clone()]);
    let next = merged(&current, &wanted).unwrap();
    let subjects = next.get("subjects").unwrap().as_array().unwrap();
    assert_eq!(subjects.len(), 2);
    assert_eq!(subjects[0], own);
}
