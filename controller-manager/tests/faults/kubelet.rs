//! Kubelets and a scheduler that do what they are told: every pod gets a node, runs, is ready, and ends when it is to.
//! An attacher attaches what is asked for.
//!
//! The label `ends` says how a pod ends: `well`, `badly`, or `badly-at-1` for the pod of that index of a job; without
//! it the pod runs for ever.

use std::{sync::Arc, time::Duration};

use component_base::task::Tasks;
use serde_json::{Value, json};

use crate::{
    api::Api,
    store::{Key, Part, Store},
};

/// How long everything takes that kubelets do.
const PACE: Duration = Duration::from_millis(300);

pub(crate) fn start(api: &Arc<Api>, tasks: &Tasks) {
    let (api, mut versions) = (api.clone(), api.versions());
    tasks.spawn("kubelets", async move {
        loop {
            versions.borrow_and_update();
            tokio::time::sleep(PACE).await;
            api.with(step);
            if versions.changed().await.is_err() {
                return;
            }
        }
    });
}

fn step(store: &mut Store, now: &str) {
    attach(store);
    let pods = store.all().filter(|(key, _)| key.resource.plural == "pods");
    let pods: Vec<(Key, Value)> = pods.map(|(key, pod)| (key.clone(), pod.clone())).collect();
    for (key, pod) in pods {
        let phase = pod["status"]["phase"].as_str().unwrap_or("Pending").to_owned();
        let over = matches!(phase.as_str(), "Succeeded" | "Failed");
        let mut next = pod.clone();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if over {
                // One that something else still holds stays.
                drop(store.delete(&key, None, true, now));
                continue;
            }
            end(&mut next, "Failed", now);
        } else if pod["spec"]["nodeName"].is_null() {
            next["spec"]["nodeName"] = node_of(&pod).into();
            drop(store.replace(&key, Part::Main, next));
            continue;
        } else if phase == "Pending" {
            run(&mut next, store.version(), now);
        } else if !over {
            let Some(phase) = phase_at_end(&pod) else { continue };
            end(&mut next, phase, now);
        }
        // Whoever was faster is seen the next time.
        drop(store.replace(&key, Part::Status, next));
    }
}

fn attach(store: &mut Store) {
    let asked =
        store.all().filter(|(key, a)| key.resource.plural == "volumeattachments" && a["status"].is_null());
    let asked: Vec<(Key, Value)> = asked.map(|(key, attachment)| (key.clone(), attachment.clone())).collect();
    for (key, mut attachment) in asked {
        attachment["status"] = json!({"attached": true});
        drop(store.replace(&key, Part::Status, attachment));
    }
}

/// The node that a daemon set's pod is for, or the only other one.
fn node_of(pod: &Value) -> String {
    let pointer = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/\
                   matchFields/0/values/0";
    pod.pointer(pointer).and_then(Value::as_str).unwrap_or("n1").to_owned()
}

fn run(pod: &mut Value, number: usize, now: &str) {
    let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    let status = &mut pod["status"];
    status["phase"] = "Running".into();
    status["startTime"] = now.into();
    if status["podIP"].is_null() {
        status["podIP"] = address.clone().into();
        status["podIPs"] = json!([{"ip": address}]);
    }
    status["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
}

fn end(pod: &mut Value, phase: &str, now: &str) {
    pod["status"]["phase"] = phase.into();
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "lastTransitionTime": now}]);
}

fn phase_at_end(pod: &Value) -> Option<&'static str> {
    let labels = &pod["metadata"]["labels"];
    match labels["ends"].as_str()? {
        "badly" => Some("Failed"),
        "badly-at-1" if labels["batch.kubernetes.io/job-completion-index"] == "1" => Some("Failed"),
        _ => Some("Succeeded"),
    }
}
