//! Groups of pods, and their pods.

use serde_json::{Value, json};

use super::backend;

/// A group that is protected.
pub(super) fn group(name: &str) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup",
        "metadata": {"name": name, "finalizers": ["scheduling.k8s.io/podgroup-protection"]},
        "spec": {"schedulingPolicy": {"basic": {}}}})
}

/// A pod of a group.
pub(super) fn member(name: &str, group: &str) -> Value {
    let mut out = backend(name, 23);
    out["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    out
}

/// A group whose pods share a claim.
pub(super) fn sharing(name: &str) -> Value {
    let mut out = group(name);
    out["spec"]["resourceClaims"] = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
    out
}

/// A pod that shares it.
pub(super) fn sharer(name: &str, group: &str) -> Value {
    let mut out = member(name, group);
    out["spec"]["resourceClaims"] = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
    out
}
