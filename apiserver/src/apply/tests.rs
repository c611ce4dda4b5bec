use proto::{node::Node, table};
use serde_json::{Value, json};

use super::*;
use crate::schema;

const NOW: &str = "2024-01-01T00:00:00Z";

fn form() -> Form<'static> {
    Form::of_object(table::builtin().by_kind("apps", "v1", "Deployment"))
}

fn empty() -> Value {
    schema::decode(&Node::Null, schema::type_of("apps/v1", "Deployment").unwrap()).unwrap().object
}

fn shaped(value: &Value) -> Value {
    schema::decode(&value.into(), schema::type_of("apps/v1", "Deployment").unwrap()).unwrap().object
}

fn is_status(field: &str) -> bool {
    field == "status"
}

fn scope() -> Scope<'static> {
    Scope { form: form(), ignored: &is_status }
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "apps/v1", subresource: "", now: NOW.parse().unwrap() }
}

fn deployment(replicas: Option<i32>, image: &str) -> Value {
    let mut out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    if let Some(replicas) = replicas {
        out["spec"]["replicas"] = json!(replicas);
    }
    out
}

fn fields<'o>(object: &'o Value, manager: &str) -> &'o Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|e| e["manager"] == manager).unwrap()["fieldsV1"]
}

#[test]
fn a_created_object_is_owned_by_its_creator() {
    let mut new = shaped(&deployment(Some(1), "i"));
    update(None, &empty(), &mut new, writer("kubectl-create"), scope());
    let want = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:replicas": {},
        "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}});
    assert_eq!(fields(&new, "kubectl-create"), &want);
    let entry = &new["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["time"]), (&json!("Update"), &json!(NOW)));
}

#[test]
fn an_apply_owns_what_it_names_and_meets_conflicts() {
    let first = apply(None, &empty(), &deployment(Some(1), "i"), false, writer("one"), scope()).unwrap();
    let want = json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {},
        "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}});
    assert_eq!(fields(&first, "one"), &want);

    // The same values are shared; other values are a conflict.
    let same =
        apply(Some(&first), &empty(), &deployment(Some(1), "i"), false, writer("two"), scope()).unwrap();
    assert_eq!(fields(&same, "two"), &want);
    let conflicts =
        apply(Some(&first), &empty(), &deployment(Some(2), "j"), false, writer("two"), scope()).unwrap_err();
    let message = conflict_message(&conflicts);
    let want = "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image";
    assert_eq!(message, want);
    let forced =
        apply(Some(&first), &empty(), &deployment(Some(2), "j"), true, writer("two"), scope()).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert!(fields(&forced, "one")["f:spec"].get("f:replicas").is_none());
    assert_eq!(fields(&forced, "one")["f:metadata"], json!({"f:labels": {"f:a": {}}}));
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_has_it() {
    let first = apply(None, &empty(), &deployment(Some(1), "i"), false, writer("one"), scope()).unwrap();
    let mut scaled = first.clone();
    scaled["spec"]["replicas"] = json!(5);
    update(Some(&first), &empty(), &mut scaled, writer("scaler"), scope());
    assert_eq!(fields(&scaled, "scaler"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields(&scaled, "one")["f:spec"].get("f:replicas").is_none());

    let without = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "e", "image": "k"}]}}}});
    let second = apply(Some(&scaled), &empty(), &without, false, writer("one"), scope()).unwrap();
    assert_eq!(second["spec"]["replicas"], 5, "another's");
    assert_eq!(second["metadata"].get("labels"), None);
    let containers = &second["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers, &json!([{"name": "e", "image": "k"}]));
}

#[test]
fn lists_keep_their_order_and_keys_their_defaults() {
    let field = table::builtin().by_name("core.v1.Container").unwrap();
    let form = Form::Struct(field);
    let live = json!({"name": "c", "ports": [{"containerPort": 1, "protocol": "TCP", "name": "a"},
        {"containerPort": 2, "protocol": "UDP"}, {"containerPort": 3, "protocol": "TCP"}]});
    let patch = json!({"name": "c", "ports": [{"containerPort": 3}, {"containerPort": 4, "protocol": "TCP"},
        {"containerPort": 1, "name": "b"}]});
    let merged = merge::merge(Some(&live), &patch, form);
    let ports: Vec<i64> =
        merged["ports"].as_array().unwrap().iter().map(|p| p["containerPort"].as_i64().unwrap()).collect();
    assert_eq!(ports, [2, 3, 4, 1]);
    assert_eq!(merged["ports"][3], json!({"containerPort": 1, "protocol": "TCP", "name": "b"}));
    assert_eq!(merge::merge(Some(&json!({})), &patch, form), patch);
}

#[test]
fn ownership_that_was_never_noted_begins_with_the_first_apply() {
    let live = shaped(&deployment(Some(1), "i"));
    let mut updated = live.clone();
    updated["spec"]["replicas"] = json!(2);
    update(Some(&live), &empty(), &mut updated, writer("kubectl"), scope());
    assert_eq!(updated["metadata"].get("managedFields"), None);
    let conflicts =
        apply(Some(&live), &empty(), &deployment(Some(3), "i"), false, writer("one"), scope()).unwrap_err();
    let want = Conflict {
        manager: "\"before-first-apply\" using apps/v1".to_owned(),
        field: ".spec.replicas".to_owned(),
    };
    assert_eq!(conflicts, [want]);
}

#[test]
fn ownership_can_be_reset_and_many_updates_become_one() {
    let mut object = shaped(&deployment(Some(0), "i"));
    update(None, &empty(), &mut object, writer("creator"), scope());
    for i in 0..15 {
        let live = object.clone();
        object["metadata"]["labels"][format!("l{i}")] = json!("x");
        update(Some(&live), &empty(), &mut object, writer(&format!("m{i}")), scope());
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"));
    let live = object.clone();
    object["metadata"]["managedFields"] = json!([{}]);
    update(Some(&live), &empty(), &mut object, writer("m"), scope());
    assert_eq!(object["metadata"].get("managedFields"), None);
}

#[test]
fn sets_are_written_as_fields_v1() {
    let text = json!({"f:a": {".": {}, "k:{\"name\":\"x\",\"a\":1}": {"f:b": {}}}, "f:l": {"v:\"s\"": {}, "i:3": {}}});
    let set = FieldSet::from_fields_v1(&text);
    assert_eq!(set.paths(), [".a", ".a[a=1,name=\"x\"].b", ".l[=\"s\"]", ".l[3]"]);
    let want = json!({"f:a": {".": {}, "k:{\"a\":1,\"name\":\"x\"}": {"f:b": {}}}, "f:l": {"v:\"s\"": {}, "i:3": {}}});
    assert_eq!(set.into_fields_v1(), want);
}
