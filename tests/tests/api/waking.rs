//! Pods that wait are tried as soon as what they wait for happens, and not only once in five minutes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::{Scheduler, node};

pub(crate) const TESTS: &[Test<()>] = &[
    ("pods that wait for others are tried when those are bound or have other labels", others),
    ("room that a pod's status says is made for it is kept until the pod goes", room),
];

const PODS: &str = "/api/v1/namespaces/w/pods";

fn others(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("w")?;
    let admin = plane.admin()?;
    node(&admin, "a")?;
    let _scheduler = Scheduler::start(&plane, &json!({}), &[])?;
    let waiting = |name: &str, kind: &str, app: &str, why: &str| -> Result<()> {
        let term =
            json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"});
        let affinity = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let mut made = pod(name, "own");
        made["spec"]["affinity"] = affinity;
        admin.post(PODS, &made)?.ok()?;
        plane.eventually("a pod waits", 60, || {
            let found = admin.get(&format!("{PODS}/{name}"))?.ok()?;
            let told = found.pointer("/status/conditions/0/message").and_then(Value::as_str);
            Ok(told.unwrap_or_default().contains(why).then_some(()))
        })
    };
    waiting("seeks", "podAffinity", "web", "didn't match pod affinity rules")?;
    admin.post(PODS, &pod("web", "web"))?.ok()?;
    bound(&plane, &admin, "web")?;
    bound(&plane, &admin, "seeks")?;
    waiting("shuns", "podAntiAffinity", "web", "didn't match pod anti-affinity rules")?;
    let other = json!({"metadata": {"labels": {"app": "none"}}});
    admin.patch(&format!("{PODS}/web"), "application/merge-patch+json", &other)?.ok()?;
    bound(&plane, &admin, "shuns")
}

fn room(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("w")?;
    let admin = plane.admin()?;
    node(&admin, "a")?;
    let scheduler = Scheduler::start(&plane, &json!({}), &[])?;
    let waits = |name: &str| {
        plane.eventually("a pod waits", 60, || {
            let found = admin.get(&format!("{PODS}/{name}"))?.ok()?;
            ensure!(found["spec"]["nodeName"].is_null(), "{name} is bound");
            let told = found.pointer("/status/conditions/0/message").and_then(Value::as_str);
            Ok(told.unwrap_or_default().contains("0/1 nodes are available").then_some(()))
        })
    };
    let asking = |name: &str, cpu: &str| {
        let mut made = pod(name, "own");
        made["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        made
    };
    admin.post(PODS, &asking("victim", "1"))?.ok()?;
    bound(&plane, &admin, "victim")?;
    let mut urgent = asking("urgent", "4");
    urgent["spec"]["priorityClassName"] = "system-node-critical".into();
    admin.post(PODS, &urgent)?.ok()?;
    // The victim goes and never is gone: there is no kubelet.
    plane.eventually("room is made", 60, || {
        let found = admin.get(&format!("{PODS}/urgent"))?.ok()?;
        Ok((found["status"]["nominatedNodeName"] == "a").then_some(()))
    })?;
    // One that starts anew knows it of the pod's status alone.
    drop(scheduler);
    admin.post(PODS, &asking("lesser", "1"))?.ok()?;
    let _scheduler = Scheduler::start(&plane, &json!({}), &[])?;
    waits("lesser")?;
    admin.delete(&format!("{PODS}/urgent?gracePeriodSeconds=0"))?.ok()?;
    bound(&plane, &admin, "lesser")
}

fn pod(name: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "keelson.local/none:1"}]}})
}

fn bound(plane: &ControlPlane, admin: &Client, name: &str) -> Result<()> {
    plane.eventually("a pod is bound", 60, || {
        let found = admin.get(&format!("{PODS}/{name}"))?.ok()?;
        ensure!(found["spec"]["nodeName"] == "a", "{}", found["status"]);
        Ok(Some(()))
    })
}
