//! Nodes and their machines: what the cloud controller manager says of nodes whose machines its provider knows.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::Daemon;

pub(crate) const TESTS: &[Test<()>] = &[("nodes take after their machines and go with them", machines)];

const NODES: &str = "/api/v1/nodes";

fn machines(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cloud.yaml");
    let config = json!({"machines": {
        "here": {"providerId": "metal://here", "instanceType": "big", "zone": "z1", "region": "r1",
            "addresses": [{"type": "InternalIP", "address": "10.9.0.1"}], "labels": {"rack": "7"}},
        "off": {"shutDown": true},
    }});
    fs::write(&file, config.to_string())?;
    // Routes are this machine's: they are not made here.
    let flags = [
        format!("--cloud-config={}", file.display()),
        "--configure-cloud-routes=false".to_owned(),
        "--node-monitor-period=1s".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _manager = Daemon::start(&plane, "cloud-controller-manager", &flags)?;
    let fresh = json!([{"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"}]);
    let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
    for (name, status) in [("here", "True"), ("off", "False"), ("stranger", "Unknown")] {
        let taints = if name == "here" { &fresh } else { &json!([]) };
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}, "status": ready(status)});
        admin.post(NODES, &node)?.ok()?;
    }
    let node = |name: &str| admin.get(&format!("{NODES}/{name}"))?.ok();
    let tainted = |node: &Value, key: &str| {
        let taints = node["spec"]["taints"].as_array();
        taints.is_some_and(|all| all.iter().any(|taint| taint["key"] == key))
    };
    let here = plane.eventually("the node is introduced", 60, || {
        let node = node("here")?;
        let new = tainted(&node, "node.cloudprovider.kubernetes.io/uninitialized");
        Ok((!new).then_some(node))
    })?;
    ensure!(here["spec"]["providerID"] == "metal://here", "{here}");
    ensure!(here["status"]["addresses"][0]["address"] == "10.9.0.1", "{here}");
    for (key, value) in [
        ("node.kubernetes.io/instance-type", "big"),
        ("topology.kubernetes.io/zone", "z1"),
        ("failure-domain.beta.kubernetes.io/region", "r1"),
        ("rack", "7"),
    ] {
        ensure!(here["metadata"]["labels"][key] == value, "{key}: {here}");
    }
    plane.eventually("the node of a machine that is off is tainted", 60, || {
        Ok(tainted(&node("off")?, "node.cloudprovider.kubernetes.io/shutdown").then_some(()))
    })?;
    plane.eventually("the node without a machine goes", 60, || {
        Ok((admin.get(&format!("{NODES}/stranger"))?.code == 404).then_some(()))
    })?;
    plane.eventually("all of it is told", 60, || {
        let events = admin.get("/apis/events.k8s.io/v1/namespaces/default/events")?.ok()?;
        let told = |reason: &str, note: &str| {
            let all = events["items"].as_array();
            all.is_some_and(|all| all.iter().any(|event| event["reason"] == reason && event["note"] == note))
        };
        let goes = "Deleting node stranger because it does not exist in the cloud provider";
        Ok((told("Synced", "Node synced successfully") && told("DeletingNode", goes)).then_some(()))
    })?;
    ensure!(node("here")?["metadata"]["name"] == "here", "a machine that runs keeps its node");
    Ok(())
}
