//! Which pods go, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::controllers::pod_disruption::phase;

/// How long a node must be missing.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Finished, and there are more such pods than are kept.
    Terminated,
    /// Ending on a node that is out of service.
    OutOfService,
    /// On a node that is gone.
    Orphaned,
    /// Ending before it was ever bound.
    Unscheduled,
}

impl Reason {
    /// As metrics label it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Reason::Terminated => "terminated",
            Reason::OutOfService => "out-of-service",
            Reason::Orphaned => "orphaned",
            Reason::Unscheduled => "unscheduled",
        }
    }
}

/// Notes which nodes are missing since when, and returns those that have been for long enough.
pub(super) fn quarantine(
    missing: &mut BTreeMap<String, Timestamp>,
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    now: Timestamp,
) -> Vec<String> {
    let known: BTreeSet<&str> = nodes.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
    let named: BTreeSet<&str> = pods.iter().map(|p| node_of(p)).filter(|n| !n.is_empty()).collect();
    missing.retain(|name, _| named.contains(name.as_str()) && !known.contains(name.as_str()));
    for name in named.difference(&known) {
        missing.entry((*name).to_owned()).or_insert(now);
    }
    missing
        .iter()
        .filter(|(_, since)| now.duration_since(**since) >= QUARANTINE)
        .map(|(n, _)| n.clone())
        .collect()
}

/// The pods that go, each once. `threshold` finished pods are kept, all if it is 0.
pub(super) fn doomed<'a>(
    pods: &'a [Arc<Pod>],
    nodes: &[Arc<Node>],
    gone: &BTreeSet<String>,
    threshold: usize,
) -> Vec<(&'a Arc<Pod>, Reason)> {
    let out: BTreeSet<&str> = nodes
        .iter()
        .filter(|n| !is_ready(n) && is_out_of_service(n))
        .filter_map(|n| n.metadata.name.as_deref())
        .collect();
    let surplus = surplus(pods, threshold);
    let reason = |pod: &Pod| {
        let (node, ending) = (node_of(pod), pod.metadata.deletion_timestamp.is_some());
        if surplus.contains(&pod.metadata.uid) {
            Some(Reason::Terminated)
        } else if ending && out.contains(node) {
            Some(Reason::OutOfService)
        } else if gone.contains(node) {
            Some(Reason::Orphaned)
        } else {
            (ending && node.is_empty()).then_some(Reason::Unscheduled)
        }
    };
    pods.iter().filter_map(|pod| Some((pod, reason(pod)?))).collect()
}

/// Finished pods beyond the threshold: evicted ones first, then the oldest.
fn surplus(pods: &[Arc<Pod>], threshold: usize) -> BTreeSet<&Option<String>> {
    if threshold == 0 {
        return BTreeSet::new();
    }
    let mut finished: Vec<&Arc<Pod>> = pods.iter().filter(|p| counts_as_finished(p)).collect();
    let count = finished.len().saturating_sub(threshold);
    if count > 0 {
        finished.sort_by_key(|p| {
            (!is_evicted(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone())
        });
    }
    finished.into_iter().take(count).map(|p| &p.metadata.uid).collect()
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Whether a pod is none that waits or runs, as far as anybody says.
fn counts_as_finished(pod: &Pod) -> bool {
    !matches!(phase(pod), "Pending" | "Running" | "Unknown")
}

fn is_evicted(pod: &Pod) -> bool {
    phase(pod) == "Failed" && pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted")
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, more: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase},
        });
        for (key, field) in more.as_object().unwrap() {
            value["metadata"][key] = field.clone();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, ready: &str, taint: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn names(pods: &[Arc<Pod>], nodes: &[Arc<Node>], gone: &[&str], threshold: usize) -> Vec<String> {
        let gone = gone.iter().map(|s| (*s).to_owned()).collect();
        let doomed = doomed(pods, nodes, &gone, threshold);
        doomed
            .iter()
            .map(|(p, r)| format!("{} {}", p.metadata.name.as_deref().unwrap(), r.as_str()))
            .collect()
    }

    #[test]
    fn a_node_must_be_missing_for_a_while() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let pods = [
            pod("a", "gone", "Running", json!({})),
            pod("b", "n", "Running", json!({})),
            pod("c", "", "Pending", json!({})),
        ];
        let mut nodes = vec![node("n", "True", "x")];
        let mut missing = BTreeMap::new();
        assert!(quarantine(&mut missing, &pods, &nodes, at(0)).is_empty());
        assert!(quarantine(&mut missing, &pods, &nodes, at(39)).is_empty());
        assert_eq!(quarantine(&mut missing, &pods, &nodes, at(40)), vec!["gone"]);
        nodes.push(node("gone", "True", "x"));
        assert!(quarantine(&mut missing, &pods, &nodes, at(41)).is_empty());
        nodes.pop();
        assert!(quarantine(&mut missing, &pods, &nodes, at(42)).is_empty());
        assert!(quarantine(&mut missing, &[], &nodes, at(100)).is_empty() && missing.is_empty());
    }

    #[test]
    fn each_pod_goes_for_one_reason() {
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let pods = [
            pod("orphan", "gone", "Running", json!({})),
            pod("fine", "ok", "Running", json!({})),
            pod("ending", "ok", "Running", ending.clone()),
            pod("unbound", "", "Pending", json!({})),
            pod("unbound-ending", "", "Pending", ending.clone()),
            pod("stuck", "out", "Running", ending.clone()),
            pod("there", "out", "Running", json!({})),
            pod("ready-again", "back", "Running", ending),
        ];
        let nodes = [
            node("ok", "True", "x"),
            node("out", "False", OUT_OF_SERVICE),
            node("back", "True", OUT_OF_SERVICE),
        ];
        assert_eq!(
            names(&pods, &nodes, &["gone"], 100),
            ["orphan orphaned", "unbound-ending unscheduled", "stuck out-of-service"]
        );
    }

    #[test]
    fn evicted_pods_go_first_and_names_decide_between_equals() {
        let mut pods = vec![
            pod("b", "n", "Succeeded", json!({})),
            pod("a", "n", "Failed", json!({})),
            pod("no-phase", "n", "", json!({"creationTimestamp": "2025-12-01T00:00:00Z"})),
            pod("lost", "n", "Unknown", json!({})),
            pod("waits", "n", "Pending", json!({})),
        ];
        let mut evicted =
            (*pod("late", "n", "Failed", json!({"creationTimestamp": "2026-03-01T00:00:00Z"}))).clone();
        evicted.status.as_mut().unwrap().reason = Some("Evicted".into());
        pods.push(Arc::new(evicted));
        let going = |threshold| {
            let mut names = names(&pods, &[], &[], threshold);
            names.sort();
            names
        };
        assert_eq!(going(4), Vec::<String>::new());
        assert_eq!(going(3), ["late terminated"]);
        assert_eq!(going(2), ["late terminated", "no-phase terminated"]);
        assert_eq!(going(1), ["a terminated", "late terminated", "no-phase terminated"]);
        assert_eq!(going(0), Vec::<String>::new(), "none at all");
    }

    #[test]
    fn finished_pods_beyond_the_threshold_go_oldest_first() {
        let mut evicted =
            (*pod("evicted", "n", "Failed", json!({"creationTimestamp": "2026-01-09T00:00:00Z"}))).clone();
        evicted.status.as_mut().unwrap().reason = Some("Evicted".into());
        let pods = [
            pod("young", "n", "Succeeded", json!({"creationTimestamp": "2026-01-03T00:00:00Z"})),
            pod("old", "n", "Failed", json!({})),
            pod("running", "n", "Running", json!({})),
            Arc::new(evicted),
        ];
        assert_eq!(names(&pods, &[], &[], 3), Vec::<String>::new());
        assert_eq!(names(&pods, &[], &[], 2), ["evicted terminated"]);
        assert_eq!(names(&pods, &[], &[], 1), ["old terminated", "evicted terminated"]);
        assert_eq!(names(&pods, &[], &[], 0), Vec::<String>::new());
    }
}
