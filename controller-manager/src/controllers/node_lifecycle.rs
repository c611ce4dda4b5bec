//! Nodes that stop reporting, and taints that say what is wrong with a node.
//!
//! Contract: upstream's `node-lifecycle-controller`: a node whose lease and status are older than the grace
//! period becomes Unknown; conditions are mirrored as taints that keep new pods away (NoSchedule) and
//! evict running ones (NoExecute, carried out by the taint eviction of pods' tolerations).

use std::time::Duration;

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Informer, ListWatch},
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Context, enqueue_changes};

/// How long a node may be silent (upstream's --node-monitor-grace-period).
const GRACE: i64 = 50;
/// How often silent nodes are looked for (upstream's --node-monitor-period).
const PERIOD: Duration = Duration::from_secs(5);
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions mirrored as NoSchedule taints: condition, status, taint.
const MIRRORED: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

#[derive(Clone)]
struct Controller {
    api: Api<Node>,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let leases = ListWatch { namespace: Some(LEASES.into()), ..ListWatch::default() };
    let controller = Controller {
        api: Api::all(ctx.client.clone()),
        nodes: ctx.informers.get(ListWatch::default()),
        leases: ctx.informers.get(leases),
        recorder: ctx.recorder("node-controller"),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("node_lifecycle_controller");
    enqueue_changes(&controller.nodes, &queue);
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.nodes.wait_synced().await;
        self.leases.wait_synced().await;
        let Some(node) = self.nodes.store().get(key) else { return Ok(Outcome::Done) };
        let lease = self.leases.store().get(&ObjectKey::new(LEASES, key.name.clone()));
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
        let now = self.clock.now();
        if let Some(conditions) = silent(&node, renewed, now) {
            self.recorder.event(
                &reference(node.as_ref()),
                EventType::Normal,
                "NodeNotReady",
                "NodeNotReady",
                format!("Node {} status is now: NodeNotReady", key.name),
                None,
            );
            let body = json!({"status": {"conditions": conditions}});
            self.write(
                self.api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await,
                key,
            )
            .await?;
        } else if let Some(taints) = taints(&node, now) {
            let body = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
            });
            self.write(self.api.patch(&key.name, &PatchParams::default(), &Patch::Merge(body)).await, key)
                .await?;
        }
        Ok(Outcome::RequeueAfter(PERIOD))
    }

    /// Waits for our own write, so that the next round sees it. A conflict is looked at anew.
    async fn write(&self, result: Result<Node, kube::Error>, key: &ObjectKey) -> Result<(), kube::Error> {
        match result {
            Ok(node) => {
                self.nodes
                    .wait_seen(key, node.metadata.resource_version.as_deref().unwrap_or_default())
                    .await;
                Ok(())
            }
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Conditions a silent node gets: everything about it is unknown. `None` while it reports, or when that is
/// known already.
fn silent(node: &Node, renewed: Option<Timestamp>, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let beat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let last = [beat, renewed, created].into_iter().flatten().max()?;
    if now.as_second() - last.as_second() <= GRACE {
        return None;
    }
    let unknown = |kind: &str| {
        let old = conditions.iter().find(|c| c.type_ == kind);
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
            last_heartbeat_time: old.and_then(|c| c.last_heartbeat_time.clone()).or(created.map(Time)),
            last_transition_time: Some(Time(now)),
        })
    };
    let changed: Vec<NodeCondition> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .iter()
        .filter_map(|k| unknown(k))
        .collect();
    (!changed.is_empty()).then_some(changed)
}

/// The taints a node must have, if they differ from those it has. Taints of others stay.
fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let holds = |kind: &str, status: &str| conditions.iter().any(|c| c.type_ == kind && c.status == status);
    let mut wanted: Vec<(&str, &str)> = MIRRORED
        .iter()
        .filter(|(kind, status, _)| holds(kind, status))
        .map(|(_, _, taint)| (*taint, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node nobody has heard of yet keeps what admission gave it.
    if !conditions.iter().any(|c| c.type_ == "Ready") {
        return None;
    }
    for (kind, status, taint) in MIRRORED.iter().filter(|(kind, ..)| *kind == "Ready") {
        if holds(kind, status) {
            wanted.push((taint, "NoExecute"));
        }
    }
    let had = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let ours = |t: &Taint| {
        let known = MIRRORED.iter().any(|(_, _, key)| *key == t.key) || t.key == UNSCHEDULABLE;
        known && (t.effect == "NoSchedule" || t.effect == "NoExecute")
    };
    let mut next: Vec<Taint> = had
        .iter()
        .filter(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !next.iter().any(|t| t.key == key && t.effect == effect) {
            next.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (next != had).then_some(next)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn node(spec: Value, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:01:00Z"}]},
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn keys(node: &Node) -> Option<Vec<String>> {
        let taints = taints(node, at("2026-01-01T00:00:00Z"))?;
        Some(taints.iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect)).collect())
    }

    #[test]
    fn conditions_are_mirrored_as_taints_and_others_taints_stay() {
        assert_eq!(keys(&node(json!({}), "True")), None);
        let fresh = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]});
        assert_eq!(keys(&node(fresh, "True")), Some(vec!["mine:NoSchedule".into()]));
        assert_eq!(
            keys(&node(json!({}), "False")),
            Some(vec!["not-ready:NoSchedule".into(), "not-ready:NoExecute".into()])
        );
        assert_eq!(
            keys(&node(json!({"unschedulable": true}), "Unknown")),
            Some(vec![
                "unreachable:NoSchedule".into(),
                "unschedulable:NoSchedule".into(),
                "unreachable:NoExecute".into()
            ])
        );
    }

    #[test]
    fn planned_twice_is_planned_once() {
        let mut sick = node(json!({"unschedulable": true}), "False");
        let first = taints(&sick, at("2026-01-01T00:00:00Z"));
        sick.spec.as_mut().unwrap().taints = first;
        assert_eq!(taints(&sick, at("2026-01-01T00:09:00Z")), None);
    }

    #[test]
    fn a_node_is_unknown_only_when_lease_and_status_are_both_old() {
        let healthy = node(json!({}), "True");
        assert!(silent(&healthy, None, at("2026-01-01T00:01:50Z")).is_none());
        assert!(silent(&healthy, Some(at("2026-01-01T00:02:30Z")), at("2026-01-01T00:03:00Z")).is_none());
        let unknown = silent(&healthy, None, at("2026-01-01T00:03:00Z")).unwrap();
        assert_eq!((unknown.len(), unknown[0].reason.as_deref()), (4, Some("NodeStatusUnknown")));
        assert_eq!(unknown[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
    }
}
