//! Rules that taint devices (KEP-5055): what they do to pods that wait and to pods that run, and what they say of it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::{Daemon, Scheduler, node};

pub(crate) const TESTS: &[Test<()>] =
    &[("a rule keeps pods from devices, drives them away, and says how many", rules)];

const RULES: &str = "/apis/resource.k8s.io/v1beta2/devicetaintrules";
const PODS: &str = "/api/v1/namespaces/d/pods";

fn rules(_: &(), _: &str) -> Result<()> {
    let gates = "--feature-gates=DRADeviceTaintRules=true";
    let served = "--runtime-config=resource.k8s.io/v1beta2=true";
    let flags = vec![gates.to_owned(), served.to_owned()];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    plane.namespace("d")?;
    let admin = plane.admin()?;
    node(&admin, "a")?;
    let _scheduler = Scheduler::start(&plane, &json!({}), &[gates])?;
    let _manager = Daemon::start(&plane, "kube-controller-manager", &[gates])?;
    let api = "/apis/resource.k8s.io/v1";
    admin.post(&format!("{api}/deviceclasses"), &json!({"metadata": {"name": "gpu"}, "spec": {}}))?.ok()?;
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "a",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "one"}, {"name": "two"}]}});
    admin.post(&format!("{api}/resourceslices"), &slice)?.ok()?;
    // Nobody comes to the second device.
    admin.post(RULES, &rule("apart", json!({"device": "two"}), "NoSchedule"))?.ok()?;
    for name in ["runs", "waits"] {
        let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}});
        admin.post(&format!("{api}/namespaces/d/resourceclaims"), &claim)?.ok()?;
        let pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "keelson.local/none:1"}],
            "resourceClaims": [{"name": "d", "resourceClaimName": name}]}});
        admin.post(PODS, &pod)?.ok()?;
        if name == "runs" {
            bound(&plane, &admin, name)?;
        }
    }
    plane.eventually("the second pod finds no device", 60, || {
        let found = condition(&admin.get(&format!("{PODS}/waits"))?.ok()?, "PodScheduled");
        let message = found["message"].as_str().unwrap_or_default();
        Ok(message.contains("cannot allocate all claims").then_some(()))
    })?;
    says(&plane, &admin, "apart", "OtherEffect", "Eviction only happens for the NoExecute effect.")?;
    // A rule without effect tells once what it would do, as far as is known then; it is made anew to know better.
    let supposed = "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace \
                    if the effect was NoExecute. ";
    let away = rule("away", json!({"driver": "d.io", "device": "one"}), "None");
    admin.post(RULES, &away)?.ok()?;
    plane.eventually("a rule tells what it would do", 60, || {
        let told = condition(&admin.get(&format!("{RULES}/away"))?.ok()?, "EvictionInProgress");
        let message = told["message"].as_str().unwrap_or_default();
        if !message.is_empty() && !message.starts_with(supposed) {
            admin.delete(&format!("{RULES}/away"))?.ok()?;
            admin.post(RULES, &away)?.ok()?;
        }
        Ok((told["reason"] == "NoEffect" && message.starts_with(supposed)).then_some(()))
    })?;
    let mut away = admin.get(&format!("{RULES}/away"))?.ok()?;
    away["spec"]["taint"]["effect"] = "NoExecute".into();
    admin.put(&format!("{RULES}/away"), &away)?.ok()?;
    plane.eventually("the pod has to go, and says why", 60, || {
        let pod = admin.get(&format!("{PODS}/runs"))?.ok()?;
        let why = condition(&pod, "DisruptionTarget");
        let goes = pod["metadata"]["deletionTimestamp"].is_string();
        Ok((goes && why["reason"] == "DeletionByDeviceTaintManager").then_some(()))
    })?;
    says(&plane, &admin, "away", "Completed", "1 pod evicted since starting the controller.")?;
    admin.delete(&format!("{RULES}/apart"))?.ok()?;
    bound(&plane, &admin, "waits")
}

fn rule(name: &str, selector: Value, effect: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"deviceSelector": selector, "taint": {"key": "d.io/ill", "effect": effect}}})
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

fn bound(plane: &ControlPlane, admin: &Client, pod: &str) -> Result<()> {
    plane.eventually("a pod is bound", 60, || {
        let found = admin.get(&format!("{PODS}/{pod}"))?.ok()?;
        Ok(found["spec"]["nodeName"].is_string().then_some(()))
    })
}

fn says(plane: &ControlPlane, admin: &Client, name: &str, reason: &str, message: &str) -> Result<()> {
    plane.eventually("a rule says what becomes of pods", 60, || {
        let told = condition(&admin.get(&format!("{RULES}/{name}"))?.ok()?, "EvictionInProgress");
        let starts = told["message"].as_str().is_some_and(|told| told.starts_with(message));
        ensure!(told["reason"] == reason && starts, "{name} says {told}, not {reason}: {message}");
        Ok(Some(()))
    })
}
