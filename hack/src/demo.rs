//! What `up` puts into a fresh cluster: roles, the DNS service, and a web server that shows it all works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    command::{command, feed, try_output},
    control_plane::{ControlPlane, DNS_PORT},
    images,
    layout::Layout,
    network, screen,
};

/// The role of proxies that enforce network policies.
pub const NETWORK_POLICY_ROLE: &str = "keelson:network-policy";

/// Lets the proxies read what network policies are about; upstream's role for them knows of services only.
pub fn network_policy_role(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let name = NETWORK_POLICY_ROLE;
    apply(
        layout,
        plane,
        &[
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
                "rules": [
                    {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
                    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
                ],
            }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:node-proxier"},
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"},
                ],
            }),
        ],
    )
}

/// Lets the DNS daemon read what its names are made of.
pub fn dns_role(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    apply(
        layout,
        plane,
        &[
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "keelson:cluster-dns"},
                "rules": [
                    {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                ],
            }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "keelson:cluster-dns"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "keelson:cluster-dns"},
                "subjects": [{"kind": "ServiceAccount", "name": "kube-dns", "namespace": "kube-system"}],
            }),
        ],
    )
}

/// The `kube-dns` service, leading to the DNS daemon on the host.
pub fn dns_service(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": DNS_PORT});
    let endpoint = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": DNS_PORT});
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
    dns_role(layout, plane)?;
    apply(
        layout,
        plane,
        &[
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
                "spec": {"clusterIP": network::DNS_IP, "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "kube-dns-host", "namespace": "kube-system", "labels": {
                    "kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "hack.keelson"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [plane.address.to_string()], "conditions": {"ready": true}}],
                "ports": [endpoint("dns", "UDP"), endpoint("dns-tcp", "TCP")],
            }),
        ],
    )
}

/// Applies the demo and shows it answering.
pub fn run(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let labels = json!({"app": "demo"});
    apply(
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

/// Applies objects as administrator.
pub fn apply(layout: &Layout, plane: &ControlPlane, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut c = command(&plane.kubectl.to_string_lossy(), ["apply", "--validate=false", "-f", "-"]);
    c.env("KUBECONFIG", layout.admin_kubeconfig());
    let out = feed(&mut c, &list.to_string())?;
    ensure!(!out.is_empty(), "kubectl apply printed nothing");
    Ok(())
}
