//! What happens to an object between its creation and its end.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::{
    ControlPlane,
    client::{JSON, JSON_PATCH, MERGE_PATCH},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("the system's fields are the system's", system_fields),
    ("a stale resourceVersion is a conflict", stale),
    ("concurrent writers lose nothing", counters),
    ("generateName makes names nobody has", generated_names),
    ("finalizers hold an object until the last is gone", finalizers),
    ("pods end gracefully, or at once when asked", graceful),
    ("deletes hold their preconditions", preconditions),
    ("a collection is deleted by selector", collections),
    ("an update creates what its kind lets it create", create_by_update),
    ("what is too large with its managers is kept without them", without_managers),
    ("a dry run answers as the request would and stores nothing", dry_run),
    ("status and spec are written through their own doors", status),
    ("scale is a door to replicas", scale),
    ("a pod is bound once", binding),
    ("a namespace that ends takes nothing new", ending_namespace),
];

fn system_fields(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let made = admin
        .post(
            &config_maps(ns, ""),
            &json!({"metadata": {"name": "a", "uid": "mine", "generation": 7, "creationTimestamp": "2001-01-01T00:00:00Z",
                "deletionTimestamp": "2001-01-01T00:00:00Z", "selfLink": "/mine"}}),
        )?
        .ok()?;
    let meta = &made["metadata"];
    ensure!(meta["uid"] != "mine" && meta["uid"].as_str().is_some_and(|u| u.len() == 36), "{meta}");
    ensure!(meta["creationTimestamp"] != "2001-01-01T00:00:00Z", "{meta}");
    ensure!(meta.get("deletionTimestamp").is_none() && meta.get("selfLink").is_none(), "{meta}");
    ensure!(meta["namespace"] == ns && made["kind"] == "ConfigMap" && made["apiVersion"] == "v1", "{made}");
    let mut changed = made.clone();
    changed["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    changed["data"] = json!({"a": "b"});
    let put = admin.put(&config_maps(ns, "a"), &changed)?.ok()?;
    ensure!(put["metadata"]["creationTimestamp"] == meta["creationTimestamp"], "{put}");
    ensure!(put["metadata"]["resourceVersion"] != meta["resourceVersion"], "{put}");
    // A write that changes nothing is none.
    let again = admin.put(&config_maps(ns, "a"), &put)?.ok()?;
    ensure!(again["metadata"]["resourceVersion"] == put["metadata"]["resourceVersion"], "{again}");
    changed["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    changed["metadata"]["resourceVersion"] = json!("");
    admin.put(&config_maps(ns, "a"), &changed)?.refused(409, "Conflict")?;
    let deployments = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    let made = admin.post(&deployments, &deployment("d"))?.ok()?;
    ensure!(made["metadata"]["generation"] == 1, "{made}");
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = admin.patch(&format!("{deployments}/d"), MERGE_PATCH, &labelled)?.ok()?;
    ensure!(patched["metadata"]["generation"] == 1, "labels are no new generation: {patched}");
    let patched =
        admin.patch(&format!("{deployments}/d"), MERGE_PATCH, &json!({"spec": {"replicas": 3}}))?.ok()?;
    ensure!(patched["metadata"]["generation"] == 2, "{patched}");
    Ok(())
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn stale(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let first = admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "a"}}))?.ok()?;
    let mut second = first.clone();
    second["data"] = json!({"who": "second"});
    admin.put(&config_maps(ns, "a"), &second)?.ok()?;
    let mut third = first.clone();
    third["data"] = json!({"who": "third"});
    admin.put(&config_maps(ns, "a"), &third)?.refused_with(
        409,
        "Conflict",
        "the object has been modified; please apply your changes to the latest version and try again",
    )?;
    let guarded = json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"who": "patch"}});
    admin.patch(&config_maps(ns, "a"), MERGE_PATCH, &guarded)?.refused(409, "Conflict")?;
    third["metadata"]["resourceVersion"] = json!("");
    let put = admin.put(&config_maps(ns, "a"), &third)?.ok()?;
    ensure!(put["data"]["who"] == "third", "{put}");
    third["metadata"]["resourceVersion"] = json!("latest");
    admin.put(&config_maps(ns, "a"), &third)?.refused_with(500, "", "parsing \"latest\": invalid syntax")?;
    Ok(())
}

/// Several writers count in one object, each with read, change, write; conflicts are tried again.
fn counters(plane: &ControlPlane, ns: &str) -> Result<()> {
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let path = config_maps(ns, "counter");
    plane
        .admin()?
        .post(&config_maps(ns, ""), &json!({"metadata": {"name": "counter"}, "data": {"n": "0"}}))?
        .ok()?;
    let count = || -> Result<usize> {
        let (admin, mut conflicts) = (plane.admin()?, 0);
        for _ in 0..EACH {
            loop {
                let mut object = admin.get(&path)?.ok()?;
                let n: usize = object["data"]["n"].as_str().context("it counts")?.parse()?;
                object["data"]["n"] = json!((n + 1).to_string());
                let answer = admin.put(&path, &object)?;
                match answer.code {
                    200 => break,
                    409 => conflicts += 1,
                    _ => drop(answer.ok()?),
                }
            }
        }
        Ok(conflicts)
    };
    thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = (0..WRITERS).map(|_| scope.spawn(count)).collect();
        for one in all {
            one.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok(())
    })?;
    let total = plane.admin()?.get(&path)?.ok()?;
    ensure!(total["data"]["n"] == json!((WRITERS * EACH).to_string()), "{total}");
    Ok(())
}

fn generated_names(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let mut names = Vec::new();
    for _ in 0..20 {
        let made = admin.post(&config_maps(ns, ""), &json!({"metadata": {"generateName": "made-"}}))?.ok()?;
        names.push(made["metadata"]["name"].as_str().context("it has a name")?.to_owned());
        ensure!(made["metadata"]["generateName"] == "made-", "{made}");
    }
    ensure!(names.iter().all(|n| n.starts_with("made-") && n.len() == 10), "{names:?}");
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == 20, "{names:?}");
    let long = json!({"metadata": {"generateName": "x".repeat(300)}});
    let made = admin.post(&config_maps(ns, ""), &long)?;
    ensure!(
        made.code == 422 || made.ok()?["metadata"]["name"].as_str().is_some_and(|n| n.len() <= 63),
        "{}",
        made.text()
    );
    let named = json!({"metadata": {"name": "own", "generateName": "made-"}});
    ensure!(admin.post(&config_maps(ns, ""), &named)?.ok()?["metadata"]["name"] == "own", "the name counts");
    Ok(())
}

fn finalizers(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "held");
    let body = json!({"metadata": {"name": "held", "finalizers": ["example.com/one", "example.com/two"]}});
    admin.post(&config_maps(ns, ""), &body)?.ok()?;
    let deleted = admin.delete(&path)?.ok()?;
    ensure!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    let ending = admin.get(&path)?.ok()?;
    let stamp = &ending["metadata"]["deletionTimestamp"];
    // A second delete changes nothing; new finalizers come too late; other changes are fine.
    admin.delete(&path)?.ok()?;
    ensure!(&admin.get(&path)?.ok()?["metadata"]["deletionTimestamp"] == stamp, "the time of its end moved");
    let add = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/three"}]);
    admin.patch(&path, JSON_PATCH, &add)?.refused(422, "Invalid")?;
    admin.patch(&path, MERGE_PATCH, &json!({"data": {"still": "here"}}))?.ok()?;
    admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "held"}}))?.refused_with(
        409,
        "AlreadyExists",
        "already exists",
    )?;
    let remove = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
    admin.patch(&path, JSON_PATCH, &remove)?.ok()?;
    admin.get(&path)?.ok()?;
    admin.patch(&path, JSON_PATCH, &remove)?.ok()?;
    admin.get(&path)?.refused(404, "NotFound")?;
    let bad = json!({"metadata": {"name": "bad", "finalizers": ["no slash"]}});
    admin.post(&config_maps(ns, ""), &bad)?.refused(422, "Invalid")?;
    Ok(())
}

fn graceful(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    // Without a node nobody has to be waited for.
    admin.post(&pods, &pod("unscheduled"))?.ok()?;
    admin.delete(&format!("{pods}/unscheduled"))?.ok()?;
    admin.get(&format!("{pods}/unscheduled"))?.refused(404, "NotFound")?;
    let mut on_node = pod("running");
    on_node["spec"]["nodeName"] = json!("somewhere");
    admin.post(&pods, &on_node)?.ok()?;
    let path = format!("{pods}/running");
    let first = admin.delete(&path)?.ok()?;
    ensure!(first["metadata"]["deletionGracePeriodSeconds"] == 30, "{first}");
    ensure!(first["metadata"]["deletionTimestamp"].is_string(), "{first}");
    let with = |seconds: i64| json!({"gracePeriodSeconds": seconds}).to_string();
    let shorter = admin.send(Method::DELETE, &path, JSON, with(5))?.ok()?;
    ensure!(shorter["metadata"]["deletionGracePeriodSeconds"] == 5, "{shorter}");
    let longer = admin.send(Method::DELETE, &path, JSON, with(60))?.ok()?;
    ensure!(longer["metadata"]["deletionGracePeriodSeconds"] == 5, "it was made longer: {longer}");
    admin.send(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), "", "")?.ok()?;
    admin.get(&path)?.refused(404, "NotFound")?;
    admin
        .send(Method::DELETE, &path, JSON, "{\"gracePeriodSeconds\": \"soon\"}")?
        .refused(400, "BadRequest")?;
    Ok(())
}

fn preconditions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    let made = admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "a"}}))?.ok()?;
    for (wrong, why) in [
        (json!({"uid": "other"}), "the UID in the precondition (other) does not match the UID in record ("),
        (json!({"resourceVersion": "1"}), "the ResourceVersion in the precondition (1) does not match"),
    ] {
        let body = json!({"preconditions": wrong}).to_string();
        let why = format!("Operation cannot be fulfilled on ConfigMap \"a\": {why}");
        admin.send(Method::DELETE, &path, JSON, body)?.refused_with(409, "Conflict", &why)?;
    }
    // Another object of this name is not the one that is written.
    let other = |name: &str| json!({"metadata": {"name": name, "uid": "other"}});
    for name in ["a", "b"] {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/configmaps/{ns}/{name}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: "
        );
        admin.put(&config_maps(ns, name), &other(name))?.refused_with(409, "Conflict", &why)?;
    }
    let merge = "application/merge-patch+json";
    let immutable = "metadata.uid: Invalid value: \"other\": field is immutable";
    let changed = admin.send(Method::PATCH, &path, merge, other("a").to_string())?;
    changed.refused_with(422, "Invalid", immutable)?;
    let right =
        json!({"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]});
    let gone = admin.send(Method::DELETE, &path, JSON, json!({"preconditions": right}).to_string())?.ok()?;
    ensure!(gone["kind"] == "Status" && gone["status"] == "Success", "{gone}");
    ensure!(gone["details"]["uid"] == made["metadata"]["uid"], "{gone}");
    Ok(())
}

fn collections(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for (name, colour) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        let body = json!({"metadata": {"name": name, "labels": {"colour": colour}}});
        admin.post(&config_maps(ns, ""), &body)?.ok()?;
    }
    admin.delete(&format!("{}?labelSelector=colour%3Dred", config_maps(ns, "")))?.ok()?;
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|i| Some(i["metadata"]["name"].as_str()?.to_owned())).collect()
    };
    ensure!(names(admin.get(&config_maps(ns, ""))?.ok()?) == ["b"], "the blue one stays");
    admin.delete(&format!("{}?labelSelector=%3D", config_maps(ns, "")))?.refused(400, "BadRequest")?;
    ensure!(names(admin.get(&config_maps(ns, ""))?.ok()?) == ["b"], "a selector that is none took something");
    admin.delete(&config_maps(ns, ""))?.ok()?;
    ensure!(names(admin.get(&config_maps(ns, ""))?.ok()?).is_empty(), "all are gone");
    Ok(())
}

fn create_by_update(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let core = format!("/api/v1/namespaces/{ns}");
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let cases = [
        (format!("{core}/limitranges"), json!({"spec": {"limits": []}}), true),
        (format!("{core}/endpoints"), json!({}), true),
        (format!("{core}/services"), json!({"spec": {"ports": [{"port": 80}]}}), true),
        (format!("/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"), json!({"spec": {}}), true),
        (format!("{rbac}/roles"), json!({"rules": []}), true),
        (format!("{core}/configmaps"), json!({}), false),
        (format!("{core}/secrets"), json!({}), false),
    ];
    for (path, mut object, creates) in cases {
        let one = format!("{path}/by-update");
        // The version it is said to have means nothing.
        object["metadata"] = json!({"name": "by-update", "resourceVersion": "1"});
        let answer = admin.put(&one, &object)?;
        if !creates {
            answer.refused(404, "NotFound")?;
            continue;
        }
        ensure!(answer.code == 201, "{path}: {}", answer.text());
        let made = answer.ok()?;
        ensure!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"] != "1", "{made}");
        ensure!(admin.put(&one, &made)?.code == 200, "{path} again");
        // Nor does a part of what is not there make it.
        admin.delete(&one)?.ok()?;
        admin
            .patch(&one, MERGE_PATCH, &json!({"metadata": {"labels": {"a": "b"}}}))?
            .refused(404, "NotFound")?;
    }
    let lost = json!({"metadata": {"name": "lost", "uid": "6a2c9c9e-0000-4000-8000-000000000000"}});
    admin.put(&format!("{core}/endpoints/lost"), &lost)?.refused(409, "Conflict")?;
    Ok(())
}

/// etcd takes a megabyte and a half.
fn without_managers(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let data: serde_json::Map<String, Value> =
        (0..22_000).map(|n| (format!("a-key-that-is-rather-long-{n:014}"), json!(""))).collect();
    let large = json!({"metadata": {"name": "large"}, "data": data});
    let made = admin.post(&config_maps(ns, ""), &large)?;
    ensure!(made.code == 201, "{}", made.text().chars().take(300).collect::<String>());
    ensure!(made.ok()?["metadata"].get("managedFields").is_none(), "its managers are kept");
    let other = admin
        .post(&config_maps(ns, ""), &json!({"metadata": {"name": "other"}, "data": {"a": "b"}}))?
        .ok()?;
    ensure!(other["metadata"]["managedFields"].is_array(), "{other}");
    let mut changed = large;
    changed["metadata"]["labels"] = json!({"a": "b"});
    let changed = admin.put(&config_maps(ns, "large"), &changed)?.ok()?;
    ensure!(changed["metadata"].get("managedFields").is_none(), "its managers are kept");
    let small = admin.put(&config_maps(ns, "large"), &json!({"metadata": {"name": "large"}}))?.ok()?;
    ensure!(small["metadata"]["labels"].is_null(), "{small}");
    Ok(())
}

fn dry_run(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let all = |path: String| format!("{path}?dryRun=All");
    let made = admin.post(&all(config_maps(ns, "")), &json!({"metadata": {"name": "a"}}))?.ok()?;
    ensure!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string(),
        "{made}"
    );
    admin.get(&config_maps(ns, "a"))?.refused(404, "NotFound")?;
    admin.post(&all(config_maps(ns, "")), &json!({"metadata": {"name": "B"}}))?.refused(422, "Invalid")?;
    let before = admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "a"}}))?.ok()?;
    let patched = admin.patch(&all(config_maps(ns, "a")), MERGE_PATCH, &json!({"data": {"a": "b"}}))?.ok()?;
    ensure!(patched["data"]["a"] == "b", "{patched}");
    admin.delete(&all(config_maps(ns, "a")))?.ok()?;
    admin.delete(&all(config_maps(ns, "")))?.ok()?;
    ensure!(admin.get(&config_maps(ns, "a"))?.ok()? == before, "something was stored");
    // A service that is only tried takes no address.
    let services = format!("/api/v1/namespaces/{ns}/services");
    let body =
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.77.77", "ports": [{"port": 80}]}});
    admin.post(&all(services.clone()), &body)?.ok()?;
    admin.post(&services, &body)?.ok()?;
    Ok(())
}

fn status(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let deployments = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    let mut body = deployment("d");
    body["status"] = json!({"replicas": 9});
    let made = admin.post(&deployments, &body)?.ok()?;
    ensure!(made["status"].get("replicas").is_none(), "a status came in with the spec: {made}");
    let both = json!({"spec": {"replicas": 5}, "status": {"replicas": 4}});
    let path = format!("{deployments}/d");
    let whole = admin.patch(&path, MERGE_PATCH, &both)?.ok()?;
    ensure!(whole["spec"]["replicas"] == 5 && whole["status"].get("replicas").is_none(), "{whole}");
    let both = json!({"spec": {"replicas": 7}, "status": {"replicas": 4}});
    let part = admin.patch(&format!("{path}/status"), MERGE_PATCH, &both)?.ok()?;
    ensure!(part["spec"]["replicas"] == 5 && part["status"]["replicas"] == 4, "{part}");
    ensure!(part["metadata"]["generation"] == whole["metadata"]["generation"], "{part}");
    Ok(())
}

fn scale(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let deployments = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    admin.post(&deployments, &deployment("d"))?.ok()?;
    let path = format!("{deployments}/d/scale");
    let mut scale = admin.get(&path)?.ok()?;
    ensure!(scale["kind"] == "Scale" && scale["apiVersion"] == "autoscaling/v1", "{scale}");
    ensure!(scale["status"]["selector"] == "app=d", "{scale}");
    scale["spec"]["replicas"] = json!(4);
    admin.put(&path, &scale)?.ok()?;
    admin.put(&path, &scale)?.refused(409, "Conflict")?;
    admin.patch(&path, MERGE_PATCH, &json!({"spec": {"replicas": -1}}))?.refused(422, "Invalid")?;
    ensure!(admin.get(&format!("{deployments}/d"))?.ok()?["spec"]["replicas"] == 4, "it was not scaled");
    Ok(())
}

fn binding(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    admin.post(&pods, &pod("a"))?.ok()?;
    let to = |node: &str| json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}});
    admin.post(&format!("{pods}/a/binding?dryRun=All"), &to("first"))?.ok()?;
    let unbound = admin.get(&format!("{pods}/a"))?.ok()?;
    ensure!(unbound["spec"]["nodeName"].is_null(), "a dry run has bound it: {unbound}");
    admin.post(&format!("{pods}/b/binding"), &to("first"))?.refused_with(
        400,
        "BadRequest",
        "name in URL does not match name in Binding object",
    )?;
    admin.post(&format!("{pods}/a/binding"), &to(""))?.refused_with(
        500,
        "",
        "target.name: Required value",
    )?;
    let mut other = to("first");
    other["metadata"]["uid"] = json!("other");
    admin.post(&format!("{pods}/a/binding"), &other)?.refused_with(
        409,
        "Conflict",
        "UID in precondition: other",
    )?;
    admin.post(&format!("{pods}/a/binding"), &to("first"))?.ok()?;
    admin.post(&format!("{pods}/a/binding"), &to("second"))?.refused_with(
        409,
        "Conflict",
        "already assigned to node",
    )?;
    let bound = admin.get(&format!("{pods}/a"))?.ok()?;
    ensure!(bound["spec"]["nodeName"] == "first", "{bound}");
    // The older resource does the same.
    admin.post(&pods, &pod("b"))?.ok()?;
    let older = format!("/api/v1/namespaces/{ns}/bindings");
    let binding = json!({"metadata": {"name": "b"}, "target": {"name": "second"}});
    let done = admin.post(&older, &binding)?.ok()?;
    ensure!((&done["kind"], &done["status"]) == (&json!("Status"), &json!("Success")), "{done}");
    ensure!(admin.get(&format!("{pods}/b"))?.ok()?["spec"]["nodeName"] == "second", "it is not bound");
    admin.post(&older, &json!({"target": {"name": "second"}}))?.refused(400, "BadRequest")?;
    admin
        .post(&older, &json!({"metadata": {"name": "none"}, "target": {"name": "second"}}))?
        .refused(404, "NotFound")?;
    Ok(())
}

fn ending_namespace(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let other = format!("{ns}-ending");
    plane.namespace(&other)?;
    admin.post(&config_maps(&other, ""), &json!({"metadata": {"name": "a"}}))?.ok()?;
    let ending = admin.delete(&format!("/api/v1/namespaces/{other}"))?.ok()?;
    ensure!(ending["status"]["phase"] == "Terminating", "{ending}");
    admin.post(&config_maps(&other, ""), &json!({"metadata": {"name": "b"}}))?.refused_with(
        403,
        "Forbidden",
        "because it is being terminated",
    )?;
    admin.patch(&config_maps(&other, "a"), MERGE_PATCH, &json!({"data": {"a": "b"}}))?.ok()?;
    admin.delete(&config_maps(&other, "a"))?.ok()?;
    // What a namespace controller does when all is gone.
    let mut empty = admin.get(&format!("/api/v1/namespaces/{other}"))?.ok()?;
    empty["spec"]["finalizers"] = json!([]);
    admin.put(&format!("/api/v1/namespaces/{other}/finalize"), &empty)?.ok()?;
    admin.get(&format!("/api/v1/namespaces/{other}"))?.refused(404, "NotFound")?;
    for kept in ["default", "kube-system"] {
        admin.delete(&format!("/api/v1/namespaces/{kept}"))?.refused(403, "Forbidden")?;
    }
    Ok(())
}
