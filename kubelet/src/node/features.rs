//! What this kubelet can and others may not: the node declares it, and pods that need more are turned away. Pure.
//!
//! Contract: KEP-5328 (`NodeDeclaredFeatures`); a declared feature is named as its gate.

use component_base::features::{Gate, Gates};
use k8s_openapi::api::core::v1::Pod;

use crate::{pod, status::generate::Verdict};

/// What this kubelet can, sorted.
const KNOWN: [(Gate, &str); 4] = [
    (Gate::ExtendWebSocketsToKubelet, "ExtendWebSocketsToKubelet"),
    (Gate::InPlacePodLevelResourcesVerticalScaling, "InPlacePodLevelResourcesVerticalScaling"),
    (Gate::InPlacePodVerticalScalingInitContainers, "InPlacePodVerticalScalingInitContainers"),
    (Gate::RestartAllContainersOnContainerExits, RESTART_ALL),
];
/// Containers of a pod that start anew together.
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// What pods may need that this kubelet cannot.
const OWN_USERS_ON_HOST_NETWORK: &str = "UserNamespacesHostNetworkSupport";

/// What the node declares.
#[must_use]
pub fn declared(gates: Gates) -> Vec<String> {
    if !gates.has(Gate::NodeDeclaredFeatures) {
        return vec![];
    }
    KNOWN.into_iter().filter(|(gate, _)| gates.has(*gate)).map(|(_, name)| name.to_owned()).collect()
}

/// What a pod needs of its node.
fn needed(pod: &Pod) -> Vec<&'static str> {
    let restarts = pod::may_restart_all(pod);
    let users = pod::host_network(pod) && pod::spec(pod).host_users == Some(false);
    let all = [(restarts, RESTART_ALL), (users, OWN_USERS_ON_HOST_NETWORK)];
    all.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}

/// Whether the node can what the pod needs.
///
/// # Errors
/// When it cannot.
pub fn admit(pod: &Pod, gates: Gates) -> Result<(), Verdict> {
    let declared = declared(gates);
    let missing: Vec<&str> =
        needed(pod).into_iter().filter(|name| !declared.iter().any(|known| known == name)).collect();
    if missing.is_empty() || !gates.has(Gate::NodeDeclaredFeatures) {
        return Ok(());
    }
    Err(Verdict {
        reason: "PodFeatureUnsupported".to_owned(),
        message: format!("Pod requires node features that are not available: {}", missing.join(", ")),
        disrupted: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_is_declared_follows_the_gates() {
        let names: Vec<&str> = KNOWN.iter().map(|(_, name)| *name).collect();
        assert_eq!(declared(Gates::default()), names);
        assert!(names.is_sorted());
    }

    #[test]
    fn pods_that_need_more_are_turned_away() {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}});
        let restarts = pod(json!({"containers": [{"name": "c", "restartPolicyRules": [rule]}]}));
        let users = pod(json!({"hostNetwork": true, "hostUsers": false, "containers": []}));
        assert!(admit(&restarts, Gates::default()).is_ok());
        let refused = admit(&users, Gates::default()).unwrap_err();
        assert_eq!(refused.reason, "PodFeatureUnsupported");
        let text = "Pod requires node features that are not available: UserNamespacesHostNetworkSupport";
        assert_eq!(refused.message, text);
        let plain = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
        let pod =
            pod(json!({"hostNetwork": true, "containers": [{"name": "c", "restartPolicyRules": [plain]}]}));
        assert!(admit(&pod, Gates::default()).is_ok());
    }
}
