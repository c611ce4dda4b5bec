//! When a node was last heard of, and what is said of one that is silent.
//!
//! A node is heard of when its lease or its heartbeat changes, at the time the change is seen: its own clock may
//! be wrong.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::settings::NodeSettings;

/// Conditions that are unknown of a silent node; its network is not the kubelet's to tell.
const OF_THE_KUBELET: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// When a node was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    uid: Option<String>,
    /// When a change was last seen.
    pub heard: Timestamp,
    /// The heartbeat it reported with its readiness; `None` while it says nothing of it.
    heartbeat: Option<Option<Timestamp>>,
    /// When its lease was last renewed; `None` without one.
    renewed: Option<Option<Timestamp>>,
}

/// The node's health after a look at its status and lease.
pub(super) fn observe(before: Option<&Health>, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Health {
    let heartbeat = condition(node, "Ready").map(|c| c.last_heartbeat_time.as_ref().map(|t| t.0));
    let renewed = lease.map(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
    let heard = match before.filter(|b| b.uid == node.metadata.uid) {
        Some(before) => {
            let beaten = before.heartbeat != heartbeat;
            // A lease that is gone is no sign of life.
            if beaten || renewed > before.renewed { now } else { before.heard }
        }
        // One that has never reported has been silent since it was made.
        None if heartbeat.is_none() && renewed.is_none() => {
            node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0)
        }
        None => now,
    };
    Health { uid: node.metadata.uid.clone(), heard, heartbeat, renewed }
}

/// Conditions a silent node gets: everything about it is unknown. `None` while it reports, or when that is
/// known already.
pub(super) fn silent(
    node: &Node,
    health: &Health,
    settings: &NodeSettings,
    now: Timestamp,
) -> Option<Vec<NodeCondition>> {
    let grace = if condition(node, "Ready").is_some() { settings.grace } else { settings.startup_grace };
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    if now.duration_since(health.heard) <= grace {
        return None;
    }
    let changed: Vec<NodeCondition> = OF_THE_KUBELET.iter().filter_map(|k| unknown(node, k, now)).collect();
    (!changed.is_empty()).then_some(changed)
}

fn unknown(node: &Node, kind: &str, now: Timestamp) -> Option<NodeCondition> {
    let old = condition(node, kind);
    if old.is_some_and(|c| c.status == "Unknown") {
        return None;
    }
    let (reason, message) = match old {
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    Some(NodeCondition {
        type_: kind.into(),
        status: "Unknown".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: old
            .and_then(|c| c.last_heartbeat_time.clone())
            .or_else(|| node.metadata.creation_timestamp.clone()),
        last_transition_time: Some(Time(now)),
    })
}

/// Whether a node says it is ready.
pub(super) fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The condition of a pod whose node is silent; `None` when it is not ready anyway.
pub(super) fn not_ready(pod: &Pod, now: Time) -> Option<PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(PodCondition { status: "False".into(), last_transition_time: Some(now), ..ready.clone() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settings() -> NodeSettings {
        NodeSettings {
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            ..NodeSettings::default()
        }
    }

    fn node(ready: Option<(&str, i64)>) -> Node {
        let conditions: Vec<_> = ready
            .iter()
            .map(|(status, beat)| json!({"type": "Ready", "status": status, "lastHeartbeatTime": at(*beat)}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "u", "creationTimestamp": at(0)}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn lease(renewed: i64) -> Lease {
        serde_json::from_value(json!({"spec": {"renewTime": at(renewed)}})).unwrap()
    }

    #[test]
    fn a_change_is_heard_when_it_is_seen_whatever_the_nodes_clock_says() {
        let sick_clock = node(Some(("True", -9000)));
        let first = observe(None, &sick_clock, None, at(100));
        assert_eq!(first.heard, at(100));
        let same = observe(Some(&first), &sick_clock, None, at(110));
        assert_eq!(same.heard, at(100));
        let beat = observe(Some(&same), &node(Some(("True", -8990))), None, at(120));
        assert_eq!(beat.heard, at(120));
        let leased = observe(Some(&beat), &node(Some(("True", -8990))), Some(&lease(7)), at(130));
        assert_eq!(leased.heard, at(130));
        let renewed = observe(Some(&leased), &node(Some(("True", -8990))), Some(&lease(17)), at(140));
        assert_eq!(renewed.heard, at(140));
    }

    #[test]
    fn readiness_that_comes_or_goes_is_a_sign_of_life() {
        let (says, silent) = (node(Some(("True", 10))), node(None));
        let first = observe(None, &silent, None, at(100));
        assert_eq!(first.heard, at(0), "since it was made");
        let came = observe(Some(&first), &says, None, at(110));
        assert_eq!(came.heard, at(110));
        let went = observe(Some(&came), &silent, None, at(120));
        assert_eq!(went.heard, at(120));
        assert_eq!(observe(Some(&went), &silent, None, at(130)).heard, at(120));
        // A lease counts from when it is first seen, and is not missed when it goes.
        let leased = observe(None, &silent, Some(&lease(1)), at(100));
        assert_eq!(leased.heard, at(100));
        assert_eq!(observe(Some(&leased), &silent, None, at(110)).heard, at(100));
    }

    #[test]
    fn silence_is_unknown_once() {
        let mut sick = node(Some(("True", 10)));
        let health = observe(None, &sick, None, at(100));
        assert!(silent(&sick, &health, &settings(), at(150)).is_none());
        let unknown = silent(&sick, &health, &settings(), at(151)).unwrap();
        assert_eq!((unknown.len(), unknown[0].reason.as_deref()), (4, Some("NodeStatusUnknown")));
        assert_eq!(unknown[0].last_heartbeat_time, Some(Time(at(10))));
        assert_eq!(unknown[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        sick.status.as_mut().unwrap().conditions = Some(unknown);
        let health = observe(Some(&health), &sick, None, at(156));
        assert_eq!(health.heard, at(100));
        assert!(silent(&sick, &health, &settings(), at(156)).is_none());
    }

    #[test]
    fn a_node_that_never_reported_is_silent_since_it_was_made() {
        let fresh = node(None);
        let health = observe(None, &fresh, None, at(30));
        assert!(silent(&fresh, &health, &settings(), at(60)).is_none());
        assert_eq!(silent(&fresh, &health, &settings(), at(61)).unwrap().len(), 4);
        let leased = observe(Some(&health), &fresh, Some(&lease(40)), at(45));
        assert!(silent(&fresh, &leased, &settings(), at(100)).is_none());
    }

    #[test]
    fn only_ready_pods_become_not_ready() {
        let pod = |status: &str| -> Pod {
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
                .unwrap()
        };
        assert_eq!(not_ready(&pod("True"), Time(at(1))).unwrap().status, "False");
        assert!(not_ready(&pod("False"), Time(at(1))).is_none());
        assert!(not_ready(&Pod::default(), Time(at(1))).is_none());
    }
}
