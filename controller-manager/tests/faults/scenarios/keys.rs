//! Keys, and what controllers make with them: certificates, tokens, signatures.

use std::{path::PathBuf, sync::LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

/// What flags say in place of the directory of [`files`].
pub(crate) const PLACE: &str = "KEYS";

struct Files {
    directory: tempfile::TempDir,
}

/// A pod that empties volumes, and is done at once.
const RECYCLER: &str = "
kind: Pod
metadata: {namespace: d, labels: {ends: well}}
spec:
  containers: [{name: c, image: 'i:1'}]
  volumes: [{name: v}]
";

/// A directory with the certificate and the key of an authority, `ca.crt` and `ca.key`, and the pod that empties
/// volumes, `recycler.yaml`.
pub(crate) fn files() -> PathBuf {
    static FILES: LazyLock<Files> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.path().join("ca.key"), key.serialize_pem()).unwrap();
        std::fs::write(directory.path().join("recycler.yaml"), RECYCLER).unwrap();
        Files { directory }
    });
    FILES.directory.path().to_owned()
}

fn request(signer: &str, name: &str, organization: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "asked"},
        "spec": {"request": BASE64_STANDARD.encode(pem), "signerName": format!("kubernetes.io/{signer}"),
            "usages": ["digital signature", "client auth"], "username": name, "groups": [organization]}})
}

/// A kubelet's request for its own certificate.
pub(super) fn own_request() -> Value {
    request("kube-apiserver-client-kubelet", "system:node:n1", "system:nodes")
}

/// A request that has been approved.
pub(super) fn approved_request() -> Value {
    let mut out = request("kube-apiserver-client", "somebody", "some");
    out["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Asked"}]});
    out
}

/// A bundle that was the cluster's.
pub(super) fn old_bundle() -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": "kubernetes.io:kube-apiserver-serving:old"},
        "spec": {"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": "old"}})
}

/// A request for a pod's certificate.
pub(super) fn pod_request(name: &str, made: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "PodCertificateRequest",
        "metadata": {"name": name, "creationTimestamp": made},
        "spec": {"signerName": "example.com/pods", "podName": "p", "podUID": "u", "serviceAccountName": "default",
            "serviceAccountUID": "u", "nodeName": "n1", "nodeUID": "u", "pkixPublicKey": "", "proofOfPossession": ""}})
}

/// The secret of an account's token, that has its token or not.
pub(super) fn token_secret(name: &str, filled: bool) -> Value {
    let mut out = json!({"kind": "Secret", "metadata": {"name": name, "creationTimestamp": "2024-01-01T00:00:00Z",
        "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    if filled {
        out["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = "uid-account-".into();
        out["data"] = json!({"token": BASE64_STANDARD.encode("old")});
    }
    out
}

/// One that has long been without use and marked for it.
pub(super) fn marked_secret() -> Value {
    let mut out = token_secret("marked", true);
    out["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-invalid-since": "2024-06-01"});
    out
}

/// The account of these secrets.
pub(super) fn account() -> Value {
    json!({"kind": "ServiceAccount", "metadata": {"name": "default", "uid": "uid-account-"},
        "secrets": [{"name": "unused"}, {"name": "marked"}]})
}

/// Since when the use of tokens is noted.
pub(super) fn tracked() -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": "kube-system",
        "name": "kube-apiserver-legacy-service-account-token-tracking"}, "data": {"since": "2024-01-01"}})
}

/// What is signed with bootstrap tokens.
pub(super) fn information() -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": "kube-public", "name": "cluster-info"},
        "data": {"kubeconfig": "how to get there"}})
}

/// A bootstrap token that signs.
pub(super) fn signing_token(id: &str) -> Value {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    json!({"kind": "Secret", "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token", "data": {"token-id": encoded(id),
            "token-secret": encoded("0123456789abcdef"), "usage-bootstrap-signing": encoded("true")}})
}
