//! Webhooks and policies of files (KEP-5793), under their gate.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    control_plane::Options,
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("policies and webhooks of files are there from the start, and follow the files", followed),
    ("without the gate no directory is read, and names are only warned of", off),
];

const GROUP: &str = "admissionregistration.k8s.io/v1";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";

/// A policy for creations of these resources, and what binds it.
fn policy(name: &str, group: &str, resource: &str, expression: &str) -> Vec<Value> {
    let rules = json!([{"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE"], "resources": [resource]}]);
    vec![
        json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": format!("{name}.static.k8s.io")},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": expression, "message": name}]}}),
        json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": format!("{name}.static.k8s.io")},
            "spec": {"policyName": format!("{name}.static.k8s.io"), "validationActions": ["Deny"]}}),
    ]
}

fn write(path: &Path, documents: &[Value]) -> Result<()> {
    let all: Vec<String> = documents.iter().map(ToString::to_string).collect();
    Ok(fs::write(path, all.join("\n---\n"))?)
}

/// A configuration of admission that names these directories.
fn configured(dir: &Path, plugins: &[(&str, &str, &Path)]) -> Result<String> {
    let plugin = |(name, kind, folder): &(&str, &str, &Path)| json!({"name": name, "configuration": {"apiVersion": "apiserver.config.k8s.io/v1", "kind": kind, "staticManifestsDir": folder}});
    let all: Vec<Value> = plugins.iter().map(plugin).collect();
    let path = dir.join("admission.json");
    let file =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": all});
    fs::write(&path, file.to_string())?;
    Ok(format!("--admission-control-config-file={}", path.display()))
}

fn answer(call: &Call) -> Reply {
    let allowed = call.body["request"]["name"] != "unwanted";
    Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": call.body["request"]["uid"], "allowed": allowed, "status": {"message": "asked outside"}}}))
}

/// What a creation would be answered.
fn make(admin: &Client, name: &str) -> Result<tests::client::Answer> {
    let path = format!("{}?dryRun=All", config_maps("default", ""));
    admin.post(&path, &json!({"metadata": {"name": name}}))
}

fn followed(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (policies, hooks) = (dir.path().join("policies"), dir.path().join("hooks"));
    fs::create_dir(&policies)?;
    fs::create_dir(&hooks)?;
    let first = policies.join("a.yaml");
    write(&first, &policy("no-first", "", "configmaps", "object.metadata.name != 'first'"))?;
    let guards = policy(
        "guarded",
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "object.metadata.name != 'evil'",
    );
    write(&policies.join("b.json"), &[json!({"apiVersion": "v1", "kind": "List", "items": guards})])?;
    let authority = Authority::new("hooks")?;
    let receiver = Receiver::start(&authority, answer)?;
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]);
    let hook = json!({"apiVersion": GROUP, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "h.static.k8s.io"},
        "webhooks": [{"name": "h.example.com", "clientConfig": receiver.client_config("/"), "rules": rules,
            "sideEffects": "None", "admissionReviewVersions": ["v1"]}]});
    write(&hooks.join("h.yaml"), &[hook])?;
    let flags = vec![
        "--feature-gates=ManifestBasedAdmissionControlConfig=true".to_owned(),
        configured(
            dir.path(),
            &[
                ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyConfiguration", &policies),
                ("ValidatingAdmissionWebhook", "WebhookAdmissionConfiguration", &hooks),
            ],
        )?,
    ];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    make(&admin, "first")?.refused_with(422, "Invalid", "no-first")?;
    let unwanted = make(&admin, "unwanted")?;
    ensure!(unwanted.code == 400 && unwanted.text().contains("asked outside"), "{}", unwanted.text());
    make(&admin, "good")?.ok()?;
    // They see what those of the API do not, and the API does not see them.
    let mut evil = policy("x", "", "secrets", "true")[0].clone();
    evil["metadata"]["name"] = "evil".into();
    admin.post(POLICIES, &evil)?.refused_with(422, "Invalid", "guarded")?;
    let reserved = "reserved for static manifest-based configurations and cannot be managed via the API";
    admin.post(POLICIES, &policy("x", "", "secrets", "true")[0])?.refused_with(422, "Invalid", reserved)?;
    let listed = admin.get(POLICIES)?.ok()?;
    ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "{listed}");
    // The files change: what is of no use changes nothing.
    write(&first, &policy("no-second", "", "configmaps", "object.metadata.name != 'second'"))?;
    plane
        .eventually("the new policy holds", 30, || Ok((make(&admin, "second")?.code == 422).then_some(())))?;
    make(&admin, "first")?.ok()?;
    fs::write(&first, "kind: Nonsense")?;
    plane.eventually("a failure is counted", 30, || {
        let page = admin.get("/metrics")?.text();
        let failed = "apiserver_manifest_admission_config_controller_automatic_reloads_total{";
        let told = page.lines().any(|line| {
            line.starts_with(failed)
                && line.contains("status=\"failure\"")
                && line.contains("plugin=\"ValidatingAdmissionPolicy\"")
        });
        Ok(told.then_some(()))
    })?;
    make(&admin, "second")?.refused(422, "Invalid")?;
    fs::remove_file(&first)?;
    plane.eventually("the policy is gone with its file", 30, || {
        Ok((make(&admin, "second")?.code == 201).then_some(()))
    })?;
    let info = "apiserver_manifest_admission_config_controller_last_config_info{";
    let page = admin.get("/metrics")?.text();
    ensure!(page.lines().filter(|line| line.starts_with(info)).count() == 2, "one line for each plugin");
    Ok(())
}

fn off(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let made = admin.post(POLICIES, &policy("x", "", "secrets", "true")[0])?;
    ensure!(
        made.code == 201 && made.warnings().iter().any(|w| w.contains("reserved for static")),
        "{:?}",
        made.headers
    );
    let dir = tempfile::tempdir()?;
    let folder = [("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyConfiguration", dir.path())];
    let flag = configured(dir.path(), &folder)?;
    plane.terminate_api()?;
    plane.set_flags(&[flag.as_str()]);
    plane.launch_api()?;
    plane.eventually("the server ends", 20, || Ok((!plane.is_running()?).then_some(())))?;
    let log = plane.api_log()?;
    ensure!(log.contains("requires the ManifestBasedAdmissionControlConfig feature gate"), "{log}");
    Ok(())
}
