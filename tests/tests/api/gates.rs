//! What is not there when its gate is switched off; each test has a control plane of its own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{ControlPlane, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("gates that are off take away what they stand for", off),
    ("gates that are on open fields", on),
    ("servers tell what they store resources in", told),
];

fn start(gates: &str) -> Result<ControlPlane> {
    ControlPlane::start(Options { flags: vec![format!("--feature-gates={gates}")], ..Options::default() })
}

fn off(_: &(), _: &str) -> Result<()> {
    let plane = start("WatchList=false,APIResponseCompression=false,StorageVersionHash=false")?;
    let admin = plane.admin()?;
    let path = config_maps("default", "");
    let streamed = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    admin.get(&format!("{path}?{streamed}"))?.refused_with(422, "Invalid", why)?;
    // Watches from nowhere begin with what there is all the same.
    admin.post(&path, &json!({"metadata": {"name": "m"}, "data": {"k": "v".repeat(200_000)}}))?.ok()?;
    admin.watch(&format!("{path}?watch=true&fieldSelector=metadata.name%3Dm"))?.expect("ADDED")?;
    // A list this long is compressed otherwise.
    let list = admin.with_header("accept-encoding", "gzip")?.get(&path)?;
    ensure!(list.header("content-encoding").is_empty(), "{:?}", list.headers);
    ensure!(list.ok()?["kind"] == "ConfigMapList", "no list");
    let resources = admin.get("/api/v1")?.ok()?;
    let hashed = |resource: &Value| resource.get("storageVersionHash").is_some();
    ensure!(!resources["resources"].as_array().is_some_and(|all| all.iter().any(hashed)), "{resources}");
    Ok(())
}

fn on(_: &(), _: &str) -> Result<()> {
    let plane = start("MutablePVNodeAffinity=true,CrossNamespaceVolumeDataSource=true,HPAScaleToZero=true")?;
    let admin = plane.admin()?;
    let zone = |zone: &str| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}})
    };
    let volumes = "/api/v1/persistentvolumes";
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.example.com", "volumeHandle": "h"}, "nodeAffinity": zone("a")}});
    let mut made = admin.post(volumes, &volume)?.ok()?;
    made["spec"]["nodeAffinity"] = zone("b");
    let moved = admin.put(&format!("{volumes}/v"), &made)?.ok()?;
    ensure!(moved["spec"]["nodeAffinity"] == zone("b"), "{moved}");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "o", "namespace": "other"}}});
    let claim = admin.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim)?.ok()?;
    ensure!(claim["spec"]["dataSourceRef"]["namespace"] == "other", "{claim}");
    ensure!(claim["spec"].get("dataSource").is_none(), "{claim}");
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |metric: Value| {
        json!({"metadata": {"name": "s"}, "spec": {"minReplicas": 0, "maxReplicas": 3, "metrics": [metric],
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let target = json!({"type": "Value", "value": "5"});
    let used = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let why = "must specify at least one Object or External metric to support scaling to zero replicas";
    admin.post(scalers, &scaler(used))?.refused_with(422, "Invalid", why)?;
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}});
    let made = admin.post(scalers, &scaler(queue))?.ok()?;
    ensure!(made["spec"]["minReplicas"] == 0, "{made}");
    Ok(())
}

fn told(_: &(), _: &str) -> Result<()> {
    let flags = vec![
        "--feature-gates=StorageVersionAPI=true".to_owned(),
        "--runtime-config=internal.apiserver.k8s.io/v1alpha1=true".to_owned(),
    ];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    // A server that is ready has told of everything, and takes writes.
    let path = "/apis/internal.apiserver.k8s.io/v1alpha1/storageversions";
    let pods = admin.get(&format!("{path}/core.pods"))?.ok()?;
    ensure!(pods["status"]["commonEncodingVersion"] == "v1", "{pods}");
    let own = &pods["status"]["storageVersions"][0];
    let name = own["apiServerID"].as_str().context("no server")?;
    ensure!(own["decodableVersions"] == json!(["v1"]) && own["servedVersions"] == json!(["v1"]), "{pods}");
    admin.get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}"))?.ok()?;
    let condition = &pods["status"]["conditions"][0];
    ensure!(condition["type"] == "AllEncodingVersionsEqual" && condition["status"] == "True", "{pods}");
    let all = admin.get(path)?.ok()?;
    ensure!(all["items"].as_array().is_some_and(|items| items.len() > 40), "{all}");
    admin.get(&format!("{path}/events.k8s.io.events"))?.refused(404, "NotFound")?;
    admin.post(&config_maps("default", ""), &json!({"metadata": {"name": "m"}}))?.ok()?;
    // The status goes through validation as everybody's does.
    let mut wrong = pods.clone();
    wrong["status"]["commonEncodingVersion"] = "v2".into();
    admin.put(&format!("{path}/core.pods/status"), &wrong)?.refused(422, "Invalid").map(drop)
}
