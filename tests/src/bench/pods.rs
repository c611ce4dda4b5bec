//! Pods as a Deployment's look in a real cluster: about three kilobytes each once they run.

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};

use super::http::Client;

/// The namespace of all of them.
pub(super) const NAMESPACE: &str = "default";

/// What admission wants to find before it lets pods in.
pub(super) async fn prepare(client: &mut Client) -> Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    client.json("POST", "/api/v1/namespaces/default/serviceaccounts", body(&account)).await.map(drop)
}

/// The JSON of the pod number `index` as a client creates it.
pub(super) fn pod(name: &str, index: usize) -> Bytes {
    let app = format!("app-{}", index % 50);
    let labels = json!({"app.kubernetes.io/name": app, "app.kubernetes.io/component": "web", "pod-template-hash": "6d4cf56db6"});
    let container = json!({
        "name": "web",
        "image": format!("registry.example.com/team/{app}:v1.{}.0", index % 7),
        "args": ["--listen=:8080", "--log-level=info", format!("--shard={index}")],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "REGION", "value": "eu-central-1"},
            {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "database", "key": "url"}}},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "initialDelaySeconds": 10},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
    });
    body(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": {"example.com/checksum": "9f86d081884c7d659a2feaa0c55ad015"}},
        "spec": {"containers": [container], "volumes": [{"name": "config", "configMap": {"name": app}}],
            "nodeSelector": {"kubernetes.io/os": "linux"}},
    }))
}

/// The status a kubelet would report for the pod number `index`.
pub(super) fn running(name: &str, index: usize) -> Bytes {
    let at = "2026-01-01T00:00:00Z";
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": at});
    let ip = format!("10.{}.{}.{}", 128 + index / 65_536, index / 256 % 256, index % 256);
    let conditions: Vec<Value> =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .map(condition)
            .into();
    let container = json!({"name": "web", "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": at}},
        "lastState": {}, "image": "registry.example.com/team/app:v1.0.0",
        "imageID": "registry.example.com/team/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "containerID": "containerd://2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"});
    body(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": {"phase": "Running", "qosClass": "Burstable",
        "hostIP": "192.0.2.10", "hostIPs": [{"ip": "192.0.2.10"}], "podIP": ip, "podIPs": [{"ip": ip}], "startTime": at,
        "conditions": conditions, "containerStatuses": [container]}}),
    )
}

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
