//! Devices, claims of them, and pods that use them.

use serde_json::{Value, json};

use super::backend;

/// The devices of a node: one, with a taint that drives pods away.
pub(super) fn tainted_slice() -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": {
        "driver": "d.io", "nodeName": "n1",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu", "taints": [{"key": "k", "effect": "NoExecute",
            "timeAdded": "2026-03-02T11:59:30Z"}]}]}})
}

/// A rule that taints the devices of a driver.
pub(super) fn rule(name: &str, driver: &str, effect: &str) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1beta2", "kind": "DeviceTaintRule", "metadata": {"name": name}, "spec": {
        "deviceSelector": {"driver": driver},
        "taint": {"key": "k", "effect": effect, "timeAdded": "2026-03-02T11:59:30Z"}}})
}

/// A claim that has the device, used by a pod that bears the taint for so long.
pub(super) fn claim(name: &str, user: &str, seconds: i64) -> Value {
    let tolerations = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "r"}]}}, "status": {
            "allocation": {"devices": {"results": [{"driver": "d.io", "pool": "p", "device": "gpu", "request": "r",
                "tolerations": tolerations}]}},
            "reservedFor": [{"resource": "pods", "name": user, "uid": format!("uid-{user}-")}]}})
}

/// A pod that uses a claim.
pub(super) fn user(name: &str, claim: &str) -> Value {
    let mut out = backend(name, 20);
    out["metadata"]["uid"] = format!("uid-{name}-").into();
    out["spec"]["resourceClaims"] = json!([{"name": "e", "resourceClaimName": claim}]);
    out
}

/// What claims are made from.
pub(super) fn template() -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "t"},
        "spec": {"spec": {"devices": {"requests": [{"name": "r"}]}}}})
}

/// A pod that wants a claim made.
pub(super) fn asking() -> Value {
    let mut out = backend("asking", 21);
    out["spec"]["resourceClaims"] = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
    out
}

/// A request for the state of the driver's pools.
pub(super) fn asked_pools(name: &str) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1alpha3", "kind": "ResourcePoolStatusRequest",
        "metadata": {"name": name}, "spec": {"driver": "d.io"}})
}

/// One that was answered long ago.
pub(super) fn answered_pools() -> Value {
    let mut out = asked_pools("old");
    out["status"] = json!({"poolCount": 0, "conditions": [{"type": "Complete", "status": "True", "reason": "Done",
        "message": "", "lastTransitionTime": "2026-03-02T08:00:00Z"}]});
    out
}
