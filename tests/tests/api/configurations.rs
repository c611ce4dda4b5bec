//! Admission plugins as a file configures them: each has a control plane of its own, since the file is read once.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{
    ControlPlane,
    control_plane::Options,
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("what is limited may be used only as far as a quota covers it", limited),
    ("events come only so fast", events),
    ("pod security has levels for namespaces that name none, and exempts whom it is told", levels),
    ("webhooks are called as a file says", credentials),
    ("images are asked about", images),
];

/// A control plane with these plugins switched on beside the others, each configured so.
fn start(plugins: &[(&str, Value)]) -> Result<(ControlPlane, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let plane = ControlPlane::start(Options { flags: flags(dir.path(), plugins)?, ..Options::default() })?;
    Ok((plane, dir))
}

fn flags(dir: &Path, plugins: &[(&str, Value)]) -> Result<Vec<String>> {
    let path = dir.join("admission.yaml");
    let configured =
        |(name, configuration): &(&str, Value)| json!({"name": name, "configuration": configuration});
    let all: Vec<Value> = plugins.iter().map(configured).collect();
    let file =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": all});
    fs::write(&path, file.to_string())?;
    let names: Vec<&str> = plugins.iter().map(|(name, _)| *name).collect();
    Ok(vec![
        format!("--admission-control-config-file={}", path.display()),
        format!("--enable-admission-plugins={}", names.join(",")),
    ])
}

fn pod(name: &str, image: &str, more: &Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": image}]}});
    if let (Some(spec), Some(more)) = (pod["spec"].as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    pod
}

fn limited(_: &(), _: &str) -> Result<()> {
    let (plane, _dir) = start(&[(
        "ResourceQuota",
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
            "limitedResources": [{"resource": "secrets", "matchContains": ["count/secrets"]}]}),
    )])?;
    let admin = plane.admin()?;
    let secrets = "/api/v1/namespaces/default/secrets";
    let named = |name: &str| json!({"metadata": {"name": name}});
    let uncovered = "insufficient quota to consume: count/secrets";
    admin.post(secrets, &named("none"))?.refused_with(403, "Forbidden", uncovered)?;
    admin.post(&config_maps("default", ""), &named("free"))?.ok()?;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"count/secrets": "1"});
    let mut quota = admin.post(quotas, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}))?.ok()?;
    quota["status"] = json!({"hard": hard, "used": {"count/secrets": "0"}});
    admin.put(&format!("{quotas}/q/status"), &quota)?.ok()?;
    // The plugin sees the quota some moments after it is there.
    plane.eventually("the quota covers secrets", 20, || {
        let made = admin.post(secrets, &named("one"))?;
        Ok((made.code == 201).then_some(()))
    })?;
    admin.post(secrets, &named("two"))?.refused_with(403, "Forbidden", "exceeded quota: q").map(drop)
}

fn events(_: &(), _: &str) -> Result<()> {
    let limit = |of: &str| json!({"type": of, "qps": 1, "burst": 1, "cacheSize": 10});
    let (plane, _dir) = start(&[(
        "EventRateLimit",
        json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "limits": [limit("Namespace")]}),
    )])?;
    let admin = plane.admin()?;
    let event = |i: usize| {
        json!({"metadata": {"name": format!("e{i}")}, "involvedObject": {"kind": "Pod", "namespace": "default",
            "name": "p"}, "reason": "Tested", "message": "m", "type": "Normal", "source": {"component": "test"}})
    };
    let post = |i: usize| admin.post("/api/v1/namespaces/default/events", &event(i));
    post(0)?.ok()?;
    // One a second may come: of many at once some are too many.
    for i in 1..200 {
        let answer = post(i)?;
        if answer.code != 201 {
            return answer
                .refused_with(429, "TooManyRequests", "limit reached on type Namespace for key default")
                .map(drop);
        }
    }
    anyhow::bail!("events come as fast as they are made")
}

fn levels(_: &(), _: &str) -> Result<()> {
    let (plane, _dir) = start(&[(
        "PodSecurity",
        json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": {"enforce": "baseline", "enforce-version": "latest", "warn": "restricted"},
            "exemptions": {"usernames": ["trusted"], "namespaces": ["exempt"]}}),
    )])?;
    for ns in ["plain", "exempt", "open"] {
        plane.namespace(ns)?;
    }
    let admin = plane.admin()?;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    admin.patch("/api/v1/namespaces/open", tests::client::MERGE_PATCH, &labels)?.ok()?;
    let host = json!({"hostNetwork": true});
    let post = |client: &tests::Client, ns: &str, name: &str, more: &Value| {
        client.post(&format!("/api/v1/namespaces/{ns}/pods"), &pod(name, "i", more))
    };
    let why = "violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    post(&admin, "plain", "host", &host)?.refused_with(403, "Forbidden", why)?;
    let plain = post(&admin, "plain", "plain", &json!({}))?;
    plain.ok()?;
    ensure!(plain.header("warning").contains("would violate PodSecurity"), "{:?}", plain.headers);
    let exempt = post(&admin, "exempt", "host", &host)?;
    exempt.ok()?;
    ensure!(!exempt.header("warning").contains("PodSecurity"), "{:?}", exempt.headers);
    post(&plane.user("trusted", "system:masters")?, "plain", "trusted", &host)?.ok()?;
    // A namespace that names a level has that one, as soon as the server sees it.
    plane.eventually("the label counts", 20, || {
        let made = post(&admin, "open", "host", &host)?;
        Ok((made.code == 201).then_some(()))
    })
}

/// A kubeconfig of one cluster, whose user has this token.
fn kubeconfig(path: &Path, server: &str, authority: &Authority, user: &str, token: &str) -> Result<()> {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server,
            "certificate-authority-data": BASE64_STANDARD.encode(&authority.cert)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": user}}]});
    Ok(fs::write(path, config.to_string())?)
}

fn answer(call: &Call) -> Reply {
    match call.path.as_str() {
        "/review" => Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": call.body["request"]["uid"], "allowed": true}})),
        "/images" => {
            let denied = call.body["spec"]["containers"][0]["image"] == "denied";
            let status = if denied {
                json!({"allowed": false, "reason": "not this one"})
            } else {
                json!({"allowed": true})
            };
            Reply::Json(
                json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview", "status": status}),
            )
        }
        _ => Reply::Code(404, json!({})),
    }
}

fn credentials(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("outside")?;
    let receiver = Receiver::start(&authority, answer)?;
    let path = dir.path().join("webhooks");
    // The user of every webhook that has none of its own.
    kubeconfig(&path, &receiver.url(""), &authority, "*", "secret")?;
    let (plane, _dir) = start(&[(
        "ValidatingAdmissionWebhook",
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": path}),
    )])?;
    let admin = plane.admin()?;
    let hook = json!({"name": "review.example.com", "clientConfig": receiver.client_config("/review"),
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    let configurations = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    admin.post(configurations, &json!({"metadata": {"name": "review"}, "webhooks": [hook]}))?.ok()?;
    let mut made = 0;
    let call = plane.eventually("the webhook is called", 20, || {
        made += 1;
        admin.post(&config_maps("default", ""), &json!({"metadata": {"name": format!("m{made}")}}))?.ok()?;
        Ok(receiver.calls("/review").pop())
    })?;
    let token = call.headers.get("authorization").and_then(|value| value.to_str().ok());
    ensure!(token == Some("Bearer secret"), "{:?}", call.headers);
    Ok(())
}

fn images(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("outside")?;
    let receiver = Receiver::start(&authority, answer)?;
    let path = dir.path().join("images");
    kubeconfig(&path, &receiver.url("/images"), &authority, "u", "secret")?;
    let (plane, _dir) = start(&[(
        "ImagePolicyWebhook",
        json!({"imagePolicy": {"kubeConfigFile": path, "allowTTL": 50, "denyTTL": 50, "retryBackoff": 500,
            "defaultAllow": false}}),
    )])?;
    plane.namespace("images")?;
    let admin = plane.admin()?;
    let pods = "/api/v1/namespaces/images/pods";
    admin.post(pods, &pod("good", "allowed", &json!({})))?.ok()?;
    admin.post(pods, &pod("again", "allowed", &json!({})))?.ok()?;
    let why = "image policy webhook backend denied one or more images: not this one";
    admin.post(pods, &pod("bad", "denied", &json!({})))?.refused_with(403, "Forbidden", why)?;
    let asked = receiver.calls("/images");
    ensure!(asked.len() == 2, "an answer is kept, {} questions were asked", asked.len());
    ensure!(asked[0].body["spec"]["namespace"] == "images", "{}", asked[0].body);
    Ok(())
}
