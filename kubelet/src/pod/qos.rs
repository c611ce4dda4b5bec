//! Quality of service: the class of a pod and the out-of-memory score of its containers.
//!
//! Reference: "Pod Quality of Service Classes" and `pkg/kubelet/qos/policy.go` for the numbers.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::resources::{self, MEMORY, amount};

/// A pod's quality of service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Every container has equal, non-zero requests and limits for cpu and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is requested or limited.
    BestEffort,
}

impl QosClass {
    /// The value of `status.qosClass`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of `pod`; pod-level resources count in place of the containers' when given (KEP-2837).
#[must_use]
pub fn class(pod: &Pod) -> QosClass {
    let spec = super::spec(pod);
    if let Some(resources) = spec.resources.as_ref().filter(|r| r.limits.is_some() || r.requests.is_some()) {
        return class_of([Some(resources)].into_iter());
    }
    let all = super::init_containers(pod).iter().chain(&spec.containers);
    class_of(all.map(|c| c.resources.as_ref()))
}

fn class_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> QosClass {
    let mut guaranteed = true;
    let mut any = false;
    for resources in all {
        for name in ["cpu", MEMORY] {
            let limit = resources.and_then(|r| amount(r.limits.as_ref(), name)).filter(|v| *v > 0);
            let request = resources.and_then(|r| amount(r.requests.as_ref(), name)).filter(|v| *v > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
        (false, _) => QosClass::BestEffort,
    }
}

/// The container's `oom_score_adj`, from -997 (guaranteed) to 1000 (best effort); a burstable one is the safer the
/// larger its share of the node's memory that it requests. What the pod requests as a whole beyond its containers is theirs in
/// equal parts (KEP-2837), and a sidecar is as safe at least as the least safe of those it serves (KEP-753).
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let is_critical = super::spec(pod).priority.is_some_and(|p| p >= CRITICAL);
    if is_critical && super::spec(pod).priority_class_name.as_deref() == Some("system-node-critical") {
        return SAFEST;
    }
    match class(pod) {
        QosClass::Guaranteed => SAFEST,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => burstable(pod, container, memory_capacity),
    }
}

const SAFEST: i64 = -997;
/// Priority from which a pod is critical.
const CRITICAL: i32 = 2_000_000_000;

/// Bytes of memory that a container requests.
fn memory(container: &Container) -> i64 {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    amount(requests, MEMORY).unwrap_or(0) / 1000
}

fn burstable(pod: &Pod, container: &Container, capacity: i64) -> i64 {
    if capacity <= 0 {
        return 999;
    }
    let more = share_of_rest(pod);
    let score = |bytes: i64| 1000 - 1000 * i128::from(bytes.saturating_add(more)) / i128::from(capacity);
    let mut adjusted = score(memory(container));
    let is_beside = super::init_containers(pod).iter().any(|c| c.name == container.name);
    if is_beside && super::is_sidecar(container) {
        let least = super::containers(pod).iter().map(memory).min().unwrap_or(0);
        adjusted = adjusted.min(score(least));
    }
    i64::try_from(adjusted.clamp(3, 999)).unwrap_or(999)
}

/// Each container's part of what the pod requests as a whole beyond what they do, in bytes.
fn share_of_rest(pod: &Pod) -> i64 {
    let level = super::spec(pod).resources.as_ref().and_then(|r| amount(r.requests.as_ref(), MEMORY));
    let Some(level) = level.filter(|level| *level > 0) else { return 0 };
    let count = super::containers(pod).len() + super::init_containers(pod).len();
    let rest = level.saturating_sub(resources::containers_request(pod, MEMORY)) / 1000;
    rest / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Scores of all containers on a node with 8000 bytes.
    fn scores(spec: serde_json::Value) -> Vec<i64> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        let all = super::super::init_containers(&pod).iter().chain(super::super::containers(&pod));
        all.map(|c| oom_score_adj(&pod, c, 8000)).collect()
    }

    fn asks(name: &str, memory: &str) -> serde_json::Value {
        json!({"name": name, "resources": {"requests": {"memory": memory}}})
    }

    fn sidecar(memory: &str) -> serde_json::Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"memory": memory}}})
    }

    #[test]
    fn the_more_is_requested_the_safer_a_container_is() {
        for (spec, expected) in [
            (json!({"containers": [{"name": "c"}]}), vec![1000]),
            (json!({"containers": [asks("c", "4000")]}), vec![500]),
            (json!({"containers": [asks("c", "8000")]}), vec![3]),
            (json!({"containers": [asks("c", "1"), asks("d", "0")]}), vec![999, 999]),
            (
                json!({"priority": 2_000_000_000, "priorityClassName": "system-cluster-critical", "containers": [{"name": "c"}]}),
                vec![1000],
            ),
            (
                json!({"priority": 2_000_001_000, "priorityClassName": "system-node-critical", "containers": [{"name": "c"}]}),
                vec![-997],
            ),
        ] {
            assert_eq!(scores(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn a_sidecar_is_as_safe_as_those_it_serves() {
        let with = |memory: &str| json!({"initContainers": [sidecar(memory), asks("i", "1000")], "containers": [asks("c", "1000"), asks("d", "2000")]});
        assert_eq!(scores(with("500")), [875, 875, 875, 750], "no less");
        assert_eq!(scores(with("4000")), [500, 875, 875, 750], "but more where it asks for more");
    }

    #[test]
    fn what_the_pod_requests_as_a_whole_is_its_containers() {
        let level = |memory: &str, mut spec: serde_json::Value| {
            spec["resources"] = json!({"requests": {"memory": memory}});
            scores(spec)
        };
        assert_eq!(level("4000", json!({"containers": [{"name": "c"}, {"name": "d"}]})), [750, 750]);
        assert_eq!(level("4000", json!({"containers": [asks("c", "2000"), {"name": "d"}]})), [625, 875]);
        let beside =
            json!({"initContainers": [sidecar("200")], "containers": [asks("c", "1800"), asks("d", "800")]});
        assert_eq!(level("4000", beside), [850, 725, 850]);
    }
}
