//! Audit: what a policy asks for is in the log and goes to a webhook, and nothing else.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{
    ControlPlane, binary,
    client::MERGE_PATCH,
    control_plane::Options,
    pki::Authority,
    receiver::{Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("the log tells who did what, as much as the policy says", log),
    ("events go to a webhook in batches", webhook),
    ("a policy without sense keeps the server from starting", bad_policy),
];

/// A folder with a policy.
fn policy(rules: &Value) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
    fs::write(dir.path().join("policy.yaml"), policy.to_string())?;
    Ok(dir)
}

fn start(dir: &tempfile::TempDir, flags: &[String]) -> Result<ControlPlane> {
    let policy = format!("--audit-policy-file={}", dir.path().join("policy.yaml").display());
    let flags = std::iter::once(policy).chain(flags.iter().cloned()).collect();
    ControlPlane::start(Options { flags, ..Options::default() })
}

fn log(_: &(), _: &str) -> Result<()> {
    let dir = policy(&json!([
        {"level": "None", "users": ["silent"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}], "namespaces": ["default"]},
        {"level": "RequestResponse", "omitManagedFields": true, "omitStages": ["RequestReceived"],
            "resources": [{"group": "", "resources": ["configmaps"]}], "namespaces": ["default"]},
        {"level": "Metadata", "userGroups": ["system:unauthenticated"]},
    ]))?;
    let path = dir.path().join("audit.log");
    let plane = start(&dir, &[format!("--audit-log-path={}", path.display())])?;
    let admin = plane.admin()?;
    let jane =
        admin.with_header("impersonate-user", "jane")?.with_header("impersonate-group", "system:masters")?;
    let made =
        jane.post(&config_maps("default", ""), &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))?;
    let id = made.header("audit-id").to_owned();
    made.ok()?;
    jane.patch(&config_maps("default", "a"), MERGE_PATCH, &json!({"data": {"k": "w"}}))?.ok()?;
    admin.get(&config_maps("default", "missing"))?.refused(404, "NotFound")?;
    admin
        .post(
            "/api/v1/namespaces/default/secrets",
            &json!({"metadata": {"name": "s"}, "stringData": {"p": "hidden"}}),
        )?
        .ok()?;
    plane.user("silent", "system:masters")?.get(&config_maps("default", ""))?.ok()?;
    plane.client(None)?.get("/api/v1/nodes")?.refused(403, "Forbidden")?;
    let constrained = plane.user("held", "system:masters")?.with_header("impersonate-user", "ann")?;
    constrained.get(&config_maps("default", "theirs"))?.refused(403, "Forbidden")?;
    let mut watch = admin.watch(&format!("{}?watch=1&timeoutSeconds=1", config_maps("default", "")))?;
    while watch.more()?.is_some() {}
    let events = plane.eventually("the watch's end is in the log", 10, || {
        let events = read(&path)?;
        let ended = events.iter().any(|e| e["verb"] == "watch" && e["stage"] == "ResponseComplete");
        Ok(ended.then_some(events))
    })?;
    let find = |verb: &str, resource: &str, stage: &str| {
        let found = events.iter().find(|event| {
            event["verb"] == verb && event["objectRef"]["resource"] == resource && event["stage"] == stage
        });
        found.with_context(|| format!("no {stage} of {verb} {resource}"))
    };
    let created = find("create", "configmaps", "ResponseComplete")?;
    ensure!(created["auditID"] == id.as_str() && created["level"] == "RequestResponse", "{created}");
    ensure!(created.get("authenticationMetadata").is_none(), "{created}");
    let held = events
        .iter()
        .find(|event| event["user"]["username"] == "held" && event["stage"] == "ResponseComplete");
    let held = held.context("nothing of who was held")?;
    ensure!(
        held["authenticationMetadata"]["impersonationConstraint"] == "impersonate:user-info"
            && held["impersonatedUser"]["username"] == "ann",
        "{held}"
    );
    ensure!(
        created["user"]["username"] == "admin"
            && created["impersonatedUser"]["username"] == "jane"
            && created["objectRef"]["name"] == "a"
            && created["responseStatus"]["code"] == 201
            && created["requestObject"]["data"] == json!({"k": "v"})
            && created["responseObject"]["metadata"]["uid"].is_string()
            && created["responseObject"]["metadata"].get("managedFields").is_none()
            && created["annotations"]["authorization.k8s.io/decision"] == "allow"
            && created["sourceIPs"] == json!(["127.0.0.1"]),
        "{created}"
    );
    ensure!(
        find("patch", "configmaps", "ResponseComplete")?["requestObject"] == json!({"data": {"k": "w"}}),
        "no patch"
    );
    let missing = find("get", "configmaps", "ResponseComplete")?;
    ensure!(
        missing["responseStatus"]["reason"] == "NotFound" && missing["responseStatus"]["code"] == 404,
        "{missing}"
    );
    ensure!(find("create", "configmaps", "RequestReceived").is_err(), "an omitted stage is there");
    find("watch", "configmaps", "ResponseStarted")?;
    let secret = find("create", "secrets", "ResponseComplete")?;
    ensure!(secret.get("requestObject").is_none() && !secret.to_string().contains("hidden"), "{secret}");
    find("create", "secrets", "RequestReceived")?;
    let refused = find("list", "nodes", "ResponseComplete")?;
    ensure!(refused["annotations"]["authorization.k8s.io/decision"] == "forbid", "{refused}");
    ensure!(!events.iter().any(|event| event["user"]["username"] == "silent"), "silence was recorded");
    Ok(())
}

fn read(path: &std::path::Path) -> Result<Vec<Value>> {
    fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn webhook(_: &(), _: &str) -> Result<()> {
    let dir = policy(&json!([
        {"level": "Metadata", "resources": [{"group": "", "resources": ["configmaps"]}], "namespaces": ["default"]},
    ]))?;
    let authority = Authority::new("receiver")?;
    let receiver = Receiver::start(&authority, |_| Reply::Code(200, json!({})))?;
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": receiver.url("/events"),
            "certificate-authority-data": BASE64_STANDARD.encode(&authority.cert)}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    let path = dir.path().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string())?;
    let flags = [
        format!("--audit-webhook-config-file={}", path.display()),
        "--audit-webhook-batch-max-wait=100ms".to_owned(),
    ];
    let plane = start(&dir, &flags)?;
    let admin = plane.admin()?;
    for at in 0..5 {
        admin.post(&config_maps("default", ""), &json!({"metadata": {"name": format!("m{at}")}}))?.ok()?;
    }
    plane.eventually("all events arrive", 10, || {
        let calls = receiver.calls("/events");
        ensure!(calls.iter().all(|call| call.headers["authorization"] == "Bearer secret"), "no token");
        ensure!(calls.iter().all(|call| call.body["kind"] == "EventList"), "no lists");
        let items = calls.iter().flat_map(|call| call.body["items"].as_array().into_iter().flatten());
        let complete = items.filter(|e| e["stage"] == "ResponseComplete" && e["verb"] == "create").count();
        Ok((complete == 5).then_some(()))
    })
}

fn bad_policy(_: &(), _: &str) -> Result<()> {
    let dir = policy(&json!([{"level": "Everything"}]))?;
    let output = Command::new(binary("kube-apiserver")?)
        .args(["--etcd-servers=http://127.0.0.1:1", "--secure-port=0", "--audit-log-path=-"])
        .arg(format!("--cert-dir={}", dir.path().display()))
        .arg(format!("--audit-policy-file={}", dir.path().join("policy.yaml").display()))
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && told.contains("rules[0].level"), "{}: {told}", output.status);
    Ok(())
}
