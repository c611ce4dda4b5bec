//! Which surplus pods go first. Pure.
//!
//! Contract: upstream's `ActivePodsWithRanks`: no node yet, pending, not ready, cheap to delete, crowded on its node, lately
//! ready, often restarted, young. Times count by the power of two their age is of (KEP-2185); of pods of the same power
//! the uid decides, which is as good as chance.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::plan::{is_active, ready_condition};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What the order depends on besides the pods themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'v> {
    /// Pods of the sets of the same owner: those that crowd nodes.
    pub(super) related: &'v [Arc<Pod>],
    /// Whether the annotation with a pod's cost counts (`PodDeletionCost`).
    pub(super) costs: bool,
    pub(super) now: Timestamp,
}

/// What is compared of a pod.
struct Facts<'p> {
    node: &'p str,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: usize,
    ready_since: Option<Timestamp>,
    /// Of its containers, then of its sidecars.
    restarts: (i32, i32),
    created: Option<Timestamp>,
    uid: &'p str,
}

/// As many pods as are to go, the first first.
pub(super) fn first(pods: &[Arc<Pod>], count: usize, view: View<'_>) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut crowds: HashMap<&str, usize> = HashMap::new();
    for pod in view.related.iter().filter(|pod| is_active(pod)) {
        *crowds.entry(node(pod)).or_default() += 1;
    }
    let mut sorted: Vec<(Facts<'_>, &Arc<Pod>)> = Vec::with_capacity(pods.len());
    for pod in pods {
        let facts = facts(pod, &crowds, view.costs);
        // The comparison is no order where times of one power of two meet others: a sort might not bear that.
        let at = sorted.partition_point(|(other, _)| !goes_before(&facts, other, view.now));
        sorted.insert(at, (facts, pod));
    }
    sorted.into_iter().take(count).map(|(_, pod)| pod.clone()).collect()
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn facts<'p>(pod: &'p Pod, crowds: &HashMap<&str, usize>, costs: bool) -> Facts<'p> {
    let status = pod.status.as_ref();
    let ready = ready_condition(pod).filter(|c| c.status == "True");
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(COST)).filter(|_| costs);
    Facts {
        node: node(pod),
        phase: match status.and_then(|s| s.phase.as_deref()) {
            Some("Pending") | None => 0,
            Some("Unknown") => 1,
            Some(_) => 2,
        },
        ready: ready.is_some(),
        cost: cost.and_then(|cost| cost_of(cost)).unwrap_or(0),
        crowd: crowds.get(node(pod)).copied().unwrap_or(0),
        ready_since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
        restarts: restarts(pod),
        created: pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
        uid: pod.metadata.uid.as_deref().unwrap_or_default(),
    }
}

/// A cost as the API lets it be written: no plus sign, no leading zeros.
fn cost_of(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" && digits == text || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    text.parse().ok().filter(|_| plain)
}

fn restarts(pod: &Pod) -> (i32, i32) {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let regular = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    let sidecar = |name: &str| {
        let all = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
        all.filter(|c| c.restart_policy.as_deref() == Some("Always")).any(|c| c.name == name)
    };
    let sidecars = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    (
        regular.map(|c| c.restart_count).fold(0, i32::max),
        sidecars.filter(|c| sidecar(&c.name)).map(|c| c.restart_count).fold(0, i32::max),
    )
}

fn goes_before(a: &Facts<'_>, b: &Facts<'_>, now: Timestamp) -> bool {
    if a.node.is_empty() != b.node.is_empty() {
        return a.node.is_empty();
    }
    let of_state = a.phase.cmp(&b.phase).then(a.ready.cmp(&b.ready));
    let of_use = a.cost.cmp(&b.cost).then(b.crowd.cmp(&a.crowd));
    match of_state.then(of_use) {
        Ordering::Equal => {}
        order => return order.is_lt(),
    }
    if a.ready
        && b.ready
        && let Some(before) = is_later((a.ready_since, a.uid), (b.ready_since, b.uid), now)
    {
        return before;
    }
    if a.restarts != b.restarts {
        return a.restarts > b.restarts;
    }
    is_later((a.created, a.uid), (b.created, b.uid), now).unwrap_or(false)
}

/// Whether the first time is so much later that it matters; nothing where both are the same.
fn is_later(
    (a, a_uid): (Option<Timestamp>, &str),
    (b, b_uid): (Option<Timestamp>, &str),
    now: Timestamp,
) -> Option<bool> {
    if a == b {
        return None;
    }
    let (Some(a), Some(b)) = (a, b) else { return Some(a.is_none()) };
    Some(match power(a, now).cmp(&power(b, now)) {
        Ordering::Equal => a_uid < b_uid,
        order => order.is_lt(),
    })
}

/// The power of two that an age is of; less than all of them for what is not yet.
fn power(at: Timestamp, now: Timestamp) -> i64 {
    let age = now.as_nanosecond() - at.as_nanosecond();
    u128::try_from(age).ok().filter(|age| *age > 0).map_or(-1, |age| i64::from(age.ilog2()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Values at pointers.
    type Changes<'c> = &'c [(&'c str, Value)];

    const NOW: &str = "2026-01-01T12:00:00Z";

    /// A pod that serves since an hour, changed at the pointers given.
    fn pod(name: &str, changes: &[(&str, Value)]) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "annotations": {}, "creationTimestamp": "2026-01-01T11:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [], "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "once"}]},
            "status": {"phase": "Running", "containerStatuses": [], "initContainerStatuses": [],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"}]}});
        for (pointer, change) in changes {
            *value.pointer_mut(pointer).unwrap() = change.clone();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn status(name: &str, restarts: i32) -> Value {
        json!([{"name": name, "restartCount": restarts, "ready": true, "image": "", "imageID": ""}])
    }

    fn ready(since: &str) -> Value {
        json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}])
    }

    fn order(pods: &[Arc<Pod>], related: &[Arc<Pod>], costs: bool) -> Vec<String> {
        let view = View { related, costs, now: NOW.parse().unwrap() };
        let mut all = first(pods, pods.len() - 1, view);
        all.extend(
            pods.iter().filter(|p| !all.iter().any(|o| Arc::ptr_eq(o, p))).cloned().collect::<Vec<_>>(),
        );
        all.iter().map(|p| p.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn each_difference_counts_only_where_those_before_it_say_nothing() {
        let cost = |cost: &str| ("/metadata/annotations", json!({COST: cost}));
        let steps: &[(&str, Changes<'_>, Changes<'_>)] = &[
            (
                "has no node",
                &[("/spec/nodeName", json!("")), cost("9")],
                &[("/status/phase", json!("Pending"))],
            ),
            (
                "is pending",
                &[("/status/phase", json!("Pending")), cost("9")],
                &[("/status/phase", json!("Unknown"))],
            ),
            (
                "is lost",
                &[("/status/phase", json!("Unknown")), cost("9")],
                &[("/status/conditions", json!([]))],
            ),
            ("is not ready", &[("/status/conditions", json!([])), cost("9")], &[cost("-9")]),
            ("is cheap", &[cost("-2")], &[]),
            (
                "is not cheap as it is written",
                &[],
                &[cost("01"), ("/status/conditions", ready("2026-01-01T02:00:00Z"))],
            ),
            (
                "is lately ready",
                &[("/status/conditions", ready("2026-01-01T11:59:00Z"))],
                &[("/status/containerStatuses", status("c", 9))],
            ),
            (
                "was restarted",
                &[("/status/containerStatuses", status("c", 3))],
                &[("/status/initContainerStatuses", status("side", 9))],
            ),
            (
                "has a sidecar that was",
                &[("/status/initContainerStatuses", status("side", 1))],
                &[("/metadata/creationTimestamp", json!("2026-01-01T11:59:59Z"))],
            ),
            (
                "is young",
                &[("/metadata/creationTimestamp", json!("2026-01-01T11:50:00Z"))],
                &[("/status/initContainerStatuses", status("once", 9))],
            ),
        ];
        for (why, goes, stays) in steps {
            let (goes, stays) = (pod("z", goes), pod("a", stays));
            for pods in [[goes.clone(), stays.clone()], [stays, goes]] {
                assert_eq!(order(&pods, &[], true), ["z", "a"], "{why}");
            }
        }
    }

    #[test]
    fn costs_count_only_where_they_may() {
        let dear = pod("a", &[("/metadata/annotations", json!({COST: "10"}))]);
        let young = pod("b", &[]);
        let old = pod("c", &[("/metadata/creationTimestamp", json!("2026-01-01T01:00:00Z"))]);
        let pods = [dear, young, old];
        assert_eq!(order(&pods, &[], true), ["b", "c", "a"]);
        assert_eq!(order(&pods, &[], false), ["a", "b", "c"]);
    }

    #[test]
    fn times_of_the_same_power_of_two_are_left_to_the_uid() {
        let since = |name: &str, time: &str| pod(name, &[("/status/conditions", ready(time))]);
        let pods = [
            since("b", "2026-01-01T11:00:00Z"),
            since("a", "2026-01-01T10:59:00Z"),
            since("c", "2026-01-01T08:00:00Z"),
        ];
        assert_eq!(order(&pods, &[], true), ["a", "b", "c"]);
    }

    #[test]
    fn nodes_are_crowded_by_all_sets_of_an_owner() {
        let on = |name: &str, node: &str| pod(name, &[("/spec/nodeName", json!(node))]);
        let pods = [on("a", "n1"), on("b", "n2")];
        let ended = pod("e", &[("/spec/nodeName", json!("n1")), ("/status/phase", json!("Failed"))]);
        let related = [pods[0].clone(), pods[1].clone(), on("other", "n2"), ended.clone(), ended];
        assert_eq!(order(&pods, &related, true), ["b", "a"]);
        assert_eq!(order(&pods, &[], true), ["a", "b"]);
    }
}
