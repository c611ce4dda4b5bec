//! The demo: a web server that shows it all works.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    command::{command, try_output},
    control_plane::ControlPlane,
    images,
    layout::Layout,
    objects, screen,
};

/// Applies the demo and shows it answering.
pub fn run(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let labels = json!({"app": "demo"});
    objects::apply(
        layout,
        plane,
        &[
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "demo", "namespace": "default"},
                "spec": {
                    "replicas": 2, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                        "name": "web", "image": images::WEB, "ports": [{"containerPort": 80}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                    }]}},
                },
            }),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "default"},
                "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 80}]},
            }),
        ],
    )?;
    screen::wait("demo deployment available", Duration::from_secs(120), || {
        let d = plane.get(layout, &["deployment", "demo"])?;
        let ready = d["status"]["readyReplicas"].as_i64().unwrap_or(0);
        Ok((ready < 2).then(|| format!("{ready} of 2 replicas ready{}", trouble(layout, plane))))
    })?;
    let service = plane.get(layout, &["service", "demo"])?;
    let ip = service["spec"]["clusterIP"].as_str().context("the demo service has no cluster IP")?.to_owned();
    let node = plane.get(layout, &["nodes"])?;
    let address =
        node["items"][0]["status"]["addresses"][0]["address"].as_str().unwrap_or("127.0.0.1").to_owned();
    let port =
        service["spec"]["ports"][0]["nodePort"].as_i64().context("the demo service has no node port")?;
    let node_port = format!("{address}:{port}");
    // The host has kube-proxy's tables only where it is the node.
    let urls = if node["items"].as_array().is_some_and(|n| n.len() == 1) {
        vec![ip, node_port]
    } else {
        vec![node_port]
    };
    for url in urls {
        let mut page = String::new();
        screen::wait(&format!("http://{url}/ answering"), Duration::from_secs(30), || {
            let out = try_output(&mut command("curl", ["-sS", "-m", "2", &format!("http://{url}/")]))?;
            page = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            Ok(match (out.status.success(), page.is_empty()) {
                (true, false) => None,
                (true, true) => Some("an empty answer".into()),
                (false, _) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
            })
        })?;
        screen::detail(&format!("$ curl http://{url}/  →  {page}"));
    }
    Ok(())
}

/// What keeps the demo's pods waiting, in a few words.
fn trouble(layout: &Layout, plane: &ControlPlane) -> String {
    let pods = plane.get(layout, &["pods", "-l", "app=demo"]).unwrap_or_default();
    let reasons: Vec<String> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| {
            let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
            let reason =
                waiting["reason"].as_str().or(p["status"]["phase"].as_str().filter(|p| *p != "Running"))?;
            Some(format!("{reason} {}", waiting["message"].as_str().unwrap_or_default()).trim().to_owned())
        })
        .collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}
