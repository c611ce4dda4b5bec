//! Objects that a cluster of ours has from the start: roles of its agents, and the DNS service.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    command::{command, feed},
    control_plane::{ControlPlane, DNS_PORT},
    layout::Layout,
    network,
};

const RBAC: &str = "rbac.authorization.k8s.io";
/// The role of proxies that enforce network policies.
pub const NETWORK_POLICY_ROLE: &str = "keelson:network-policy";

/// Lets the proxies read what network policies are about; upstream's role for them knows of services only.
pub fn network_policy_role(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let name = NETWORK_POLICY_ROLE;
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]);
    let proxy = json!({"apiGroup": RBAC, "kind": "User", "name": "system:kube-proxy"});
    let proxies = [group("system:node-proxier"), proxy];
    apply(layout, plane, &[role("", name, &rules), binding("", name, "ClusterRole", name, &proxies)])
}

/// Lets the DNS daemon read what its names are made of.
pub fn dns_role(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let name = "keelson:cluster-dns";
    let rules = json!([
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    let dns = [json!({"kind": "ServiceAccount", "name": "kube-dns", "namespace": "kube-system"})];
    apply(layout, plane, &[role("", name, &rules), binding("", name, "ClusterRole", name, &dns)])
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

/// Applies objects as administrator.
pub fn apply(layout: &Layout, plane: &ControlPlane, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut c = command(&plane.kubectl.to_string_lossy(), ["apply", "--validate=false", "-f", "-"]);
    c.env("KUBECONFIG", layout.admin_kubeconfig());
    let out = feed(&mut c, &list.to_string())?;
    ensure!(!out.is_empty(), "kubectl apply printed nothing");
    Ok(())
}

/// A group of users.
pub fn group(name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": "Group", "name": name})
}

/// A role, of the cluster when there is no namespace.
pub fn role(namespace: &str, name: &str, rules: &Value) -> Value {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    let mut role = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules,
    });
    if !namespace.is_empty() {
        role["metadata"]["namespace"] = json!(namespace);
    }
    role
}

/// A binding of a role to subjects, of the cluster when there is no namespace.
pub fn binding(namespace: &str, name: &str, kind: &str, role: &str, subjects: &[Value]) -> Value {
    let own = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut binding = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": own, "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role}, "subjects": subjects,
    });
    if !namespace.is_empty() {
        binding["metadata"]["namespace"] = json!(namespace);
    }
    binding
}
