//! What this kubelet can and others may not: the node declares it, and pods that need more are turned away. What a gate
//! takes away is not looked at in any pod. Pure.
//!
//! Contract: KEP-5328 (`NodeDeclaredFeatures`); a declared feature is named as its gate.

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    pod::{self, resources},
    status::generate::Verdict,
};

/// What this kubelet can, sorted. Streams over the newest WebSocket protocol (`ExtendWebSocketsToKubelet`) are not among it:
/// runtimes do not speak that, so API servers have to go on translating.
const KNOWN: [(Gate, &str); 3] = [
    (Gate::InPlacePodLevelResourcesVerticalScaling, "InPlacePodLevelResourcesVerticalScaling"),
    (Gate::InPlacePodVerticalScalingInitContainers, "InPlacePodVerticalScalingInitContainers"),
    (Gate::RestartAllContainersOnContainerExits, RESTART_ALL),
];
/// What newer versions of pods may need: init containers that end resized, and pods resized as a whole.
const INITIAL: &str = "InPlacePodVerticalScalingInitContainers";
const AS_A_WHOLE: &str = "InPlacePodLevelResourcesVerticalScaling";
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

/// What a newer version of a pod needs beyond the older one.
fn needed_by_change(old: &Pod, new: &Pod) -> Vec<&'static str> {
    let ends = |c: &&Container| !pod::is_sidecar(c);
    let resized = |new: &Container| {
        let mut before = pod::init_containers(old).iter();
        before.any(|old| old.name == new.name && old.resources != new.resources)
    };
    let initial = pod::init_containers(new).iter().filter(ends).any(resized);
    let whole = pod::spec(old).resources != pod::spec(new).resources;
    let all = [(whole, AS_A_WHOLE), (initial, INITIAL)];
    all.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}

/// What of these is not declared, in words.
fn missing(needed: &[&str], gates: Gates) -> Option<String> {
    let declared = declared(gates);
    let missing: Vec<&str> =
        needed.iter().copied().filter(|name| !declared.iter().any(|known| known == name)).collect();
    if missing.is_empty() || !gates.has(Gate::NodeDeclaredFeatures) {
        return None;
    }
    Some(format!("Pod requires node features that are not available: {}", missing.join(", ")))
}

/// What the node cannot of that which a newer version of a pod asks for, in words.
#[must_use]
pub fn missing_for_change(old: &Pod, new: &Pod, gates: Gates) -> Option<String> {
    missing(&needed_by_change(old, new), gates)
}

/// Whether the node can what the pod needs.
///
/// # Errors
/// When it cannot.
pub fn admit(pod: &Pod, gates: Gates) -> Result<(), Verdict> {
    let refuse =
        |reason: &str, message| Err(Verdict { reason: reason.to_owned(), message, disrupted: false });
    if let Some(message) = missing(&needed(pod), gates) {
        return refuse("PodFeatureUnsupported", message);
    }
    if resources::has_pod_level(pod) && !gates.has(Gate::PodLevelResources) {
        return refuse(
            "PodLevelResourcesNotSupported",
            "PodLevelResources feature gate is disabled".to_owned(),
        );
    }
    Ok(())
}

/// The pod without what is not looked at with these gates. What the node would have to declare stays: such a pod is turned
/// away.
#[must_use]
pub fn understood(mut pod: Arc<Pod>, gates: Gates) -> Arc<Pod> {
    let has = |gate| gates.has(gate);
    if !has(Gate::DRAExtendedResource)
        && pod.status.as_ref().is_some_and(|s| s.extended_resource_claim_status.is_some())
    {
        Arc::make_mut(&mut pod).status.get_or_insert_default().extended_resource_claim_status = None;
    }
    let rules = has(Gate::ContainerRestartRules);
    let all_anew = has(Gate::RestartAllContainersOnContainerExits) || has(Gate::NodeDeclaredFeatures);
    let keeps = |action: &str| rules && (all_anew || action != RESTART_ALL_ACTION);
    let drops_rule = |c: &Container| c.restart_policy_rules.iter().flatten().any(|rule| !keeps(&rule.action));
    let drops_policy = |c: &Container| !rules && c.restart_policy.is_some() && !pod::is_sidecar(c);
    let drops = |c: &Container| drops_rule(c) || drops_policy(c);
    if !pod::init_containers(&pod).iter().any(drops) && !pod::containers(&pod).iter().any(drops) {
        return pod;
    }
    let spec = Arc::make_mut(&mut pod).spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if drops_policy(container) {
            container.restart_policy = None;
        }
        if let Some(list) = &mut container.restart_policy_rules {
            list.retain(|rule| keeps(&rule.action));
        }
    }
    pod
}

/// The action of rules by which all containers start anew.
const RESTART_ALL_ACTION: &str = "RestartAllContainers";

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

    fn off(gates: &[Gate]) -> Gates {
        gates.iter().fold(Gates::default(), |all, gate| all.with(*gate, false))
    }

    #[test]
    fn resources_of_pods_as_a_whole_need_their_gate() {
        let whole = pod(json!({"containers": [], "resources": {"requests": {"cpu": "1"}}}));
        let none = pod(json!({"containers": [], "resources": {}}));
        let gates = off(&[Gate::PodLevelResources, Gate::InPlacePodLevelResourcesVerticalScaling]);
        assert!(admit(&whole, Gates::default()).is_ok() && admit(&none, gates).is_ok());
        let refused = admit(&whole, gates).unwrap_err();
        assert_eq!(refused.reason, "PodLevelResourcesNotSupported");
        assert_eq!(refused.message, "PodLevelResources feature gate is disabled");
    }

    #[test]
    fn newer_versions_may_need_more() {
        let of = |cpu: &str, init: &str, policy: Option<&str>| {
            let resources = |cpu: &str| json!({"requests": {"cpu": cpu}});
            pod(json!({"resources": resources(cpu), "containers": [],
                "initContainers": [{"name": "i", "resources": resources(init), "restartPolicy": policy}]}))
        };
        let old = of("1", "1", None);
        assert_eq!(missing_for_change(&old, &of("2", "2", None), Gates::default()), None);
        let gates = off(&[Gate::InPlacePodVerticalScalingInitContainers]);
        assert_eq!(missing_for_change(&old, &of("2", "1", None), gates), None);
        let text =
            "Pod requires node features that are not available: InPlacePodVerticalScalingInitContainers";
        assert_eq!(missing_for_change(&old, &of("1", "2", None), gates).as_deref(), Some(text));
        let (before, after) = (of("1", "1", Some("Always")), of("1", "2", Some("Always")));
        assert_eq!(missing_for_change(&before, &after, gates), None, "sidecars always could");
        let none = off(&[Gate::NodeDeclaredFeatures, Gate::InPlacePodVerticalScalingInitContainers]);
        assert_eq!(missing_for_change(&old, &of("1", "2", None), none), None);
    }

    #[test]
    fn what_a_gate_takes_away_is_not_looked_at() {
        let rule = |action: &str| json!({"action": action, "exitCodes": {"operator": "In", "values": [1]}});
        let whole = || {
            let rules = json!([rule("Restart"), rule("RestartAllContainers")]);
            Arc::new(pod(json!({
                "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i", "restartPolicy": "Never"}],
                "containers": [{"name": "c", "restartPolicy": "OnFailure", "restartPolicyRules": rules}],
            })))
        };
        let before = whole();
        assert!(Arc::ptr_eq(&understood(Arc::clone(&before), Gates::default()), &before), "as it came");
        let all = [Gate::RestartAllContainersOnContainerExits, Gate::NodeDeclaredFeatures];
        let some = understood(whole(), off(&all));
        let rules = |pod: &Pod| pod::containers(pod)[0].restart_policy_rules.clone().unwrap_or_default();
        assert_eq!(rules(&some).len(), 1);
        assert!(admit(&some, off(&all)).is_ok());
        let declaring = off(&all[..1]);
        assert!(admit(&understood(whole(), declaring), declaring).is_err(), "the node does not declare it");
        let none = understood(whole(), off(&[Gate::ContainerRestartRules]));
        assert!(rules(&none).is_empty());
        assert!(pod::is_sidecar(&pod::init_containers(&none)[0]));
        assert_eq!(pod::containers(&none)[0].restart_policy, None);
        assert_eq!(pod::init_containers(&none)[1].restart_policy, None);
    }
}
