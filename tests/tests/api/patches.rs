//! The four kinds of patches, and who owns which field.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    client::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("JSON patches test, add, remove, replace, move and copy", json_patches),
    ("a new object has the empty status that a JSON patch adds to", status_patches),
    ("merge patches set, and remove with null", merge_patches),
    ("strategic patches merge lists by key", strategic_patches),
    ("applying makes, keeps and removes what the applier owns", apply),
    ("appliers that disagree get a conflict, and force takes over", conflicts),
    ("applied lists are merged by key and shared by owners", apply_lists),
    ("updates own what they set, and applying can take it over", update_owners),
    ("apply tells what it cannot take", bad_apply),
];

fn deployment(ns: &str, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{ns}/deployments/{name}")
}

fn make_deployment(admin: &Client, ns: &str) -> Result<Value> {
    admin
        .post(
            deployment(ns, "").trim_end_matches('/'),
            &json!({"metadata": {"name": "d"}, "spec": {
                "selector": {"matchLabels": {"app": "d"}},
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {
                    "containers": [
                        {"name": "one", "image": "i:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                        {"name": "two", "image": "j:1"},
                    ],
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                }},
            }}),
        )?
        .ok()
}

fn json_patches(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body = json!({"metadata": {"name": "a", "annotations": {"example.com/a.b": "3"}}, "data": {"one": "1", "two": "2"}});
    admin.post(&config_maps(ns, ""), &body)?.ok()?;
    let patch = json!([
        {"op": "test", "path": "/data/one", "value": "1"},
        {"op": "add", "path": "/data/three", "value": "3"},
        {"op": "remove", "path": "/data/two"},
        {"op": "replace", "path": "/data/one", "value": "eins"},
        {"op": "copy", "from": "/data/one", "path": "/data/four"},
        {"op": "move", "from": "/data/three", "path": "/data/five"},
        {"op": "replace", "path": "/metadata/annotations/example.com~1a.b", "value": "drei"},
    ]);
    admin.patch(&config_maps(ns, "a"), JSON_PATCH, &patch)?.ok()?;
    let now = admin.get(&config_maps(ns, "a"))?.ok()?;
    ensure!(now["data"] == json!({"one": "eins", "four": "eins", "five": "3"}), "{now}");
    // All or nothing.
    let half = json!([{"op": "remove", "path": "/data/one"}, {"op": "remove", "path": "/data/missing"}]);
    admin.patch(&config_maps(ns, "a"), JSON_PATCH, &half)?.refused(422, "Invalid")?;
    ensure!(admin.get(&config_maps(ns, "a"))?.ok()? == now, "half of it was done");
    Ok(())
}

fn status_patches(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let claims = format!("/apis/resource.k8s.io/v1/namespaces/{ns}/resourceclaims");
    let device = json!({"name": "one", "exactly": {"deviceClassName": "example.com"}});
    let body = json!({"metadata": {"name": "a"}, "spec": {"devices": {"requests": [device]}},
        "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
    let made = admin.post(&claims, &body)?.ok()?;
    ensure!(made["status"] == json!({}), "{made}");
    let patch = json!([{"op": "add", "path": "/status/allocation", "value": {}}]);
    let now = admin.patch(&format!("{claims}/a/status"), JSON_PATCH, &patch)?.ok()?;
    ensure!(now["status"]["allocation"].is_object(), "{now}");
    Ok(())
}

fn merge_patches(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    make_deployment(&admin, ns)?;
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {
        "tolerations": null, "containers": [{"name": "three", "image": "k:1"}]}}}});
    let now = admin.patch(&deployment(ns, "d"), MERGE_PATCH, &patch)?.ok()?;
    let spec = &now["spec"]["template"]["spec"];
    ensure!(spec.get("tolerations").is_none(), "{spec}");
    ensure!(
        spec["containers"].as_array().map(Vec::len) == Some(1) && spec["containers"][0]["name"] == "three",
        "{spec}"
    );
    ensure!(now["metadata"]["labels"] == json!({"a": "b"}), "{now}");
    Ok(())
}

fn strategic_patches(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    make_deployment(&admin, ns)?;
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "one", "image": "i:2", "env": [{"name": "B", "value": "zwei"}, {"name": "C", "value": "3"}]},
        {"name": "two", "$patch": "delete"},
        {"name": "three", "image": "k:1"},
    ]}}}});
    let now = admin.patch(&deployment(ns, "d"), STRATEGIC_PATCH, &patch)?.ok()?;
    let containers = now["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let find = |name: &str| containers.iter().find(|c| c["name"] == name).cloned().unwrap_or_default();
    ensure!(containers.len() == 2 && find("three")["image"] == "k:1", "{containers:?}");
    ensure!(find("one")["image"] == "i:2", "{containers:?}");
    let mut env = find("one")["env"].as_array().cloned().unwrap_or_default();
    env.sort_by_key(|e| e["name"].to_string());
    let want =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "zwei"}, {"name": "C", "value": "3"}]);
    ensure!(Value::Array(env.clone()) == want, "{env:?}");
    let order = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "three"}, {"name": "one"}],
        "containers": [{"name": "one", "image": "i:3"}]}}}});
    let now = admin.patch(&deployment(ns, "d"), STRATEGIC_PATCH, &order)?.ok()?;
    ensure!(now["spec"]["template"]["spec"]["containers"][0]["name"] == "three", "{now}");
    let replace = json!({"spec": {"template": {"spec": {"$retainKeys": ["containers"], "containers": [
        {"$patch": "replace"}, {"name": "only", "image": "z"}]}}}});
    let now = admin.patch(&deployment(ns, "d"), STRATEGIC_PATCH, &replace)?.ok()?;
    ensure!(now["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len) == Some(1), "{now}");
    let gone = json!({"spec": {"template": {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}}});
    admin.patch(&deployment(ns, "d"), STRATEGIC_PATCH, &gone)?.ok()?;
    Ok(())
}

/// Applies as a manager.
fn applied(admin: &Client, path: &str, manager: &str, more: &str, body: &Value) -> Result<tests::Answer> {
    let path = format!("{path}?fieldManager={manager}{more}");
    admin.send(Method::PATCH, &path, APPLY_PATCH, body.to_string())
}

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn apply(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    let first = applied(&admin, &path, "one", "", &config_map(&json!({"a": "1", "b": "2"})))?;
    ensure!(first.code == 201, "{}: {}", first.code, first.text());
    let entry = &first.ok()?["metadata"]["managedFields"][0];
    ensure!(entry["manager"] == "one" && entry["operation"] == "Apply", "{entry}");
    ensure!(entry["fieldsV1"]["f:data"]["f:a"] == json!({}), "{entry}");
    let again = applied(&admin, &path, "one", "", &config_map(&json!({"a": "1", "b": "2"})))?;
    ensure!(again.code == 200, "{}", again.text());
    ensure!(
        again.ok()?["metadata"]["resourceVersion"] == first.ok()?["metadata"]["resourceVersion"],
        "nothing changed"
    );
    // What the applier no longer says goes; what others set stays.
    admin.patch(&path, MERGE_PATCH, &json!({"data": {"other": "x"}}))?.ok()?;
    let now = applied(&admin, &path, "one", "", &config_map(&json!({"a": "eins"})))?.ok()?;
    ensure!(now["data"] == json!({"a": "eins", "other": "x"}), "{now}");
    let tried = applied(&admin, &path, "one", "&dryRun=All", &config_map(&json!({"a": "nur"})))?.ok()?;
    ensure!(tried["data"]["a"] == "nur", "{tried}");
    ensure!(admin.get(&path)?.ok()?["data"]["a"] == "eins", "a dry run stored something");
    Ok(())
}

fn conflicts(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    applied(&admin, &path, "one", "", &config_map(&json!({"a": "1"})))?.ok()?;
    // Agreeing is no conflict: both own it then.
    let both = applied(&admin, &path, "two", "", &config_map(&json!({"a": "1"})))?.ok()?;
    ensure!(both["metadata"]["managedFields"].as_array().map(Vec::len) == Some(2), "{both}");
    let refused = applied(&admin, &path, "two", "", &config_map(&json!({"a": "2"})))?;
    let status = refused.refused_with(409, "Conflict", "conflict with \"one\": .data.a")?;
    ensure!(status["details"]["causes"][0]["reason"] == "FieldManagerConflict", "{status}");
    ensure!(status["details"]["causes"][0]["field"] == ".data.a", "{status}");
    ensure!(admin.get(&path)?.ok()?["data"]["a"] == "1", "it was written");
    let forced = applied(&admin, &path, "two", "&force=true", &config_map(&json!({"a": "2"})))?.ok()?;
    ensure!(forced["data"]["a"] == "2", "{forced}");
    let owners = forced["metadata"]["managedFields"].to_string();
    ensure!(!owners.contains("\"one\""), "the old owner is still there: {owners}");
    // The loser takes it back only by force as well.
    applied(&admin, &path, "one", "", &config_map(&json!({"a": "1"})))?.refused(409, "Conflict")?;
    Ok(())
}

fn apply_lists(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = format!("/api/v1/namespaces/{ns}/services/s");
    let service = |port: i64, name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": [{"name": name, "port": port, "protocol": "TCP"}]}})
    };
    applied(&admin, &path, "one", "", &service(80, "http"))?.ok()?;
    let both = applied(&admin, &path, "two", "", &service(443, "https"))?.ok()?;
    ensure!(both["spec"]["ports"].as_array().map(Vec::len) == Some(2), "{both}");
    let mut none = service(443, "https");
    none["spec"] = json!({"selector": {"app": "s"}});
    let now = applied(&admin, &path, "two", "", &none)?.ok()?;
    ensure!(
        now["spec"]["ports"].as_array().map(Vec::len) == Some(1) && now["spec"]["ports"][0]["port"] == 80,
        "{now}"
    );
    Ok(())
}

fn update_owners(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    let manager = |path: String, name: &str| format!("{path}?fieldManager={name}");
    admin
        .post(
            &manager(config_maps(ns, ""), "maker"),
            &json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "1"}}),
        )?
        .ok()?;
    let now =
        admin.patch(&manager(path.clone(), "patcher"), MERGE_PATCH, &json!({"data": {"b": "2"}}))?.ok()?;
    let entries = now["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let of = |name: &str| entries.iter().find(|e| e["manager"] == name).cloned().unwrap_or_default();
    ensure!(of("maker")["fieldsV1"]["f:data"].get("f:b").is_none(), "{entries:?}");
    ensure!(of("patcher")["fieldsV1"] == json!({"f:data": {"f:b": {}}}), "{entries:?}");
    ensure!(of("patcher")["operation"] == "Update", "{entries:?}");
    applied(&admin, &path, "applier", "", &config_map(&json!({"a": "9"})))?.refused_with(
        409,
        "Conflict",
        "conflict with \"maker\"",
    )?;
    applied(&admin, &path, "applier", "&force=true", &config_map(&json!({"a": "9"})))?.ok()?;
    // One empty entry starts over.
    let mut plain = admin.get(&path)?.ok()?;
    plain["metadata"]["managedFields"] = json!([{}]);
    let reset = admin.put(&path, &plain)?.ok()?;
    let owners = reset["metadata"]["managedFields"].to_string();
    ensure!(!owners.contains("applier"), "{owners}");
    Ok(())
}

fn bad_apply(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    let body = config_map(&json!({"a": "1"}));
    admin.send(Method::PATCH, &path, APPLY_PATCH, body.to_string())?.refused_with(
        422,
        "Invalid",
        "fieldManager",
    )?;
    let mut unknown = body.clone();
    unknown["colour"] = json!("red");
    let told = applied(&admin, &path, "one", "", &unknown)?;
    ensure!(told.code >= 400 && told.text().contains("field not declared in schema"), "{}", told.text());
    let mut managed = body.clone();
    managed["metadata"]["managedFields"] =
        json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1"}]);
    applied(&admin, &path, "one", "", &managed)?.refused_with(
        400,
        "BadRequest",
        "metadata.managedFields must be nil",
    )?;
    let mut other = body.clone();
    other["metadata"]["name"] = json!("b");
    applied(&admin, &path, "one", "", &other)?.refused(400, "BadRequest")?;
    let mut nameless = body;
    nameless["kind"] = json!("Secret");
    let told = applied(&admin, &path, "one", "", &nameless)?;
    ensure!((400..500).contains(&told.code), "{}: {}", told.code, told.text());
    let long = "m".repeat(200);
    applied(&admin, &path, &long, "", &config_map(&json!({})))?.refused(422, "Invalid")?;
    admin.get(&path)?.refused(404, "NotFound")?;
    Ok(())
}
