//! Objects that storage cannot give back, and their unsafe deletion (KEP-3926) under its gate.

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    client::{Answer, MERGE_PATCH},
    control_plane::Options,
    runner::Test,
};

use crate::{config_maps, encryption::store};

pub(crate) const TESTS: &[Test<()>] = &[
    ("who may do that deletes what cannot be read, and nothing else that way", deleted),
    ("without the gate the option is not there", off),
];

const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

fn start(gate: bool) -> Result<(ControlPlane, Client)> {
    let flags = vec![format!("--feature-gates=AllowUnsafeMalformedObjectDeletion={gate}")];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    Ok((plane, admin))
}

fn delete(client: &Client, path: &str, options: &Value) -> Result<Answer> {
    client.send(Method::DELETE, path, "application/json", options.to_string())
}

fn make(admin: &Client, name: &str) -> Result<()> {
    let map = json!({"metadata": {"name": name, "finalizers": ["example.com/stays"]}});
    admin.post(&config_maps("default", ""), &map)?.ok().map(drop)
}

fn deleted(_: &(), _: &str) -> Result<()> {
    let (plane, admin) = start(true)?;
    let (maps, bad) = (config_maps("default", ""), config_maps("default", "bad"));
    let key = "/registry/configmaps/default/bad";
    make(&admin, "good")?;
    make(&admin, "bad")?;
    store(&plane, key, b"{\"metadata\": nonsense")?;
    let asked = json!({"kind": "DeleteOptions", "apiVersion": "v1", OPTION: true});
    // It is told of by whoever looks at it.
    let corrupt = |key: &str| {
        format!(
            "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: object not decodable"
        )
    };
    admin.get(&bad)?.refused_with(500, "InternalError", &corrupt("/configmaps/default/bad"))?;
    let list = admin.get(&maps)?.refused(500, "StoreReadError")?;
    ensure!(list["message"] == "failed to read one or more configmaps from the storage", "{list}");
    let causes = list["details"]["causes"].as_array().context("no causes")?;
    ensure!(causes.len() == 1 && causes[0]["field"] == key, "{list}");
    ensure!(causes[0]["reason"] == "UnexpectedServerResponse", "{list}");
    ensure!(causes[0]["message"].as_str().is_some_and(|m| m.starts_with(&corrupt(key))), "{list}");
    admin.get(&config_maps("kube-system", ""))?.ok()?;
    admin.delete(&bad)?.refused_with(500, "InternalError", "corrupt object")?;
    let change = json!({"data": {"a": "b"}});
    admin.patch(&bad, MERGE_PATCH, &change)?.refused_with(500, "", "object not decodable revision=")?;
    admin.get(&format!("{maps}?watch=true"))?.refused_with(
        429,
        "TooManyRequests",
        "storage is (re)initializing",
    )?;
    // Only by who may do just that.
    let role = json!({"metadata": {"name": "d"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{roles}/roles"), &role)?.ok()?;
    let binding = json!({"metadata": {"name": "d"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "d", "apiGroup": "rbac.authorization.k8s.io"}});
    admin.post(&format!("{roles}/rolebindings"), &binding)?.ok()?;
    let jane = plane.user("jane", "")?;
    let why = "not permitted to do \"unsafe-delete-ignore-read-errors\"";
    plane.eventually("jane may delete", 10, || {
        let refused = delete(&jane, &bad, &asked)?;
        let message = refused.json()?["message"].as_str().unwrap_or_default().to_owned();
        Ok(message.contains(why).then_some(()))
    })?;
    delete(&jane, &bad, &asked)?.refused_with(403, "Forbidden", why)?;
    // Not with other wishes, not of what can be read, not of many.
    for (field, value) in [
        ("dryRun", json!(["All"])),
        ("gracePeriodSeconds", json!(0)),
        ("propagationPolicy", json!("Orphan")),
        ("preconditions", json!({"uid": "x"})),
    ] {
        let mut more = asked.clone();
        more[field] = value;
        let why = format!("cannot be set together with .{field}");
        delete(&admin, &bad, &more)?.refused_with(422, "Invalid", &why)?;
    }
    let good = config_maps("default", "good");
    for readable in [&good, &config_maps("default", "none")] {
        delete(&admin, readable, &asked)?.refused_with(
            422,
            "Invalid",
            "is exclusively used to delete corrupt",
        )?;
    }
    delete(&admin, &maps, &asked)?.refused_with(422, "Invalid", "is not allowed with DELETECOLLECTION")?;
    // Neither finalizers nor its own state keep it.
    let gone = delete(&admin, &format!("{bad}?{OPTION}=true"), &asked)?.ok()?;
    ensure!(gone["status"] == "Success" && gone["details"]["name"] == "bad", "{gone}");
    ensure!(gone["details"]["kind"] == "ConfigMap", "{gone}");
    admin.get(&bad)?.refused(404, "NotFound")?;
    let list = admin.get(&maps)?.ok()?;
    ensure!(
        list["items"].as_array().is_some_and(|items| items.iter().any(|i| i["metadata"]["name"] == "good")),
        "{list}"
    );
    make(&admin, "bad")
}

fn off(_: &(), _: &str) -> Result<()> {
    let (plane, admin) = start(false)?;
    make(&admin, "good")?;
    make(&admin, "bad")?;
    store(&plane, "/registry/configmaps/default/bad", b"nonsense")?;
    let asked = json!({"kind": "DeleteOptions", "apiVersion": "v1", OPTION: true, "gracePeriodSeconds": 0});
    ensure!(delete(&admin, &config_maps("default", "bad"), &asked)?.code == 500, "it is deleted");
    // Neither has upstream a reason for it.
    for path in [config_maps("default", "bad"), config_maps("default", ""), "/api/v1/configmaps".to_owned()] {
        admin.get(&path)?.refused(500, "")?;
    }
    admin.delete(&config_maps("default", ""))?.refused(500, "")?;
    admin.get(&config_maps("kube-system", ""))?.ok()?;
    // What does not even open is the server's trouble.
    make(&admin, "sealed")?;
    let key = "/registry/configmaps/default/sealed";
    store(&plane, key, b"k8s:enc:aescbc:v1:gone:nonsense")?;
    let why = "identity transformer tried to read encrypted data";
    let sealed = config_maps("default", "sealed");
    let refused =
        admin.get(&sealed)?.refused_with(500, "InternalError", &format!("Internal error occurred: {why}"))?;
    ensure!(refused["details"]["causes"] == json!([{"message": why}]), "{refused}");
    admin.patch(&sealed, MERGE_PATCH, &json!({"data": {"a": "b"}}))?.refused_with(
        500,
        "InternalError",
        why,
    )?;
    admin.delete(&sealed)?.refused_with(500, "InternalError", why)?;
    store(
        &plane,
        "/registry/configmaps/default/bad",
        br#"{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "bad", "namespace": "default"}}"#,
    )?;
    let told = format!("unable to transform key {key:?}: {why}");
    admin.get(&config_maps("default", ""))?.refused_with(500, "InternalError", &told)?;
    let marked = delete(&admin, &config_maps("default", "good"), &asked)?.ok()?;
    ensure!(marked["metadata"].get("deletionTimestamp").is_some(), "{marked}");
    Ok(())
}
