//! What a cluster needs so that machines can join it, and what joining reads.

use anyhow::Result;
use serde_json::{Value, json};

use super::Token;
use crate::{
    control_plane::ControlPlane,
    kubeconfig,
    layout::Layout,
    objects::{self, binding, group, role},
};

/// Group of who holds a token of ours.
const JOINERS: &str = "system:bootstrappers:keelson:default-node-token";
/// How a proxy's token is asked for: good for a year, as the nodes' certificates are.
pub(super) const PROXY_TOKEN: &[&str] =
    &["create", "token", "kube-proxy", "--namespace=kube-system", "--duration=8760h"];
/// Signer of kubelets' serving certificates.
const SERVING: &str = "kubernetes.io/kubelet-serving";

/// Publishes what the cluster is, and lets holders of tokens bring nodes in.
pub fn allow_joining(layout: &Layout, plane: &ControlPlane) -> Result<()> {
    let joiners = group(JOINERS);
    let proxy = json!({"kind": "ServiceAccount", "name": "kube-proxy", "namespace": "kube-system"});
    let cluster = kubeconfig::cluster_only(&plane.server(), &plane.ca.cert())?;
    objects::apply(
        layout,
        plane,
        &[
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
                "data": {"kubeconfig": cluster},
            }),
            role(
                "kube-public",
                "keelson:cluster-info",
                &json!([
                    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]},
                ]),
            ),
            binding(
                "kube-public",
                "keelson:cluster-info",
                "Role",
                "keelson:cluster-info",
                &[group("system:unauthenticated")],
            ),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "kube-proxy", "namespace": "kube-system"}}),
            role(
                "kube-system",
                "keelson:proxy-token",
                &json!([
                    {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["kube-proxy"], "verbs": ["create"]},
                ]),
            ),
            binding(
                "kube-system",
                "keelson:proxy-token",
                "Role",
                "keelson:proxy-token",
                std::slice::from_ref(&joiners),
            ),
            role(
                "",
                "keelson:kubelet-serving",
                &json!([
                    {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update", "patch"]},
                    {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [SERVING], "verbs": ["approve"]},
                ]),
            ),
            binding(
                "",
                "keelson:kubelet-serving",
                "ClusterRole",
                "keelson:kubelet-serving",
                std::slice::from_ref(&joiners),
            ),
            binding(
                "",
                "keelson:join",
                "ClusterRole",
                "system:node-bootstrapper",
                std::slice::from_ref(&joiners),
            ),
            binding(
                "",
                "keelson:join-approval",
                "ClusterRole",
                "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
                std::slice::from_ref(&joiners),
            ),
            binding(
                "",
                "keelson:node-renewal",
                "ClusterRole",
                "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
                &[group("system:nodes")],
            ),
            binding(
                "",
                "keelson:kube-proxy",
                "ClusterRole",
                "system:node-proxier",
                std::slice::from_ref(&proxy),
            ),
            binding(
                "",
                "keelson:kube-proxy-policies",
                "ClusterRole",
                objects::NETWORK_POLICY_ROLE,
                std::slice::from_ref(&proxy),
            ),
        ],
    )
}

/// The secret that makes a token known (kubernetes.io: "Bootstrap Token Secret Format").
pub(super) fn secret(token: &Token, expires: time::OffsetDateTime) -> Result<Value> {
    let expires = expires.replace_nanosecond(0)?.format(&time::format_description::well_known::Rfc3339)?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "stringData": {
            "token-id": token.id, "token-secret": token.secret, "expiration": expires, "auth-extra-groups": JOINERS,
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        },
    }))
}

/// Names of requests for a node's serving certificate that nobody has decided on.
pub(super) fn pending_serving<'a>(list: &'a Value, node: &str) -> Vec<&'a str> {
    let user = format!("system:node:{node}");
    let items = list["items"].as_array().into_iter().flatten();
    let ours = items.filter(|r| r["spec"]["signerName"] == SERVING && r["spec"]["username"] == user.as_str());
    ours.filter(|r| r["status"]["conditions"].is_null())
        .filter_map(|r| r["metadata"]["name"].as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nodes_own_undecided_serving_requests_are_approved() {
        let request = |name: &str, signer: &str, user: &str, status: Value| json!({"metadata": {"name": name}, "spec": {"signerName": signer, "username": user}, "status": status});
        let decided = json!({"conditions": [{"type": "Denied"}]});
        let list = json!({"items": [
            request("a", SERVING, "system:node:n1", json!({})),
            request("b", SERVING, "system:node:n2", json!({})),
            request("c", "kubernetes.io/kube-apiserver-client", "system:node:n1", json!({})),
            request("d", SERVING, "system:node:n1", decided),
        ]});
        assert_eq!(pending_serving(&list, "n1"), ["a"]);
        assert!(pending_serving(&json!({}), "n1").is_empty());
    }
}
