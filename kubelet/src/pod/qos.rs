//! Quality of service: the class of a pod and the out-of-memory score of its containers.
//!
//! Reference: "Pod Quality of Service Classes" and `pkg/kubelet/qos/policy.go` for the numbers.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::resources::{MEMORY, amount};

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
/// larger its share of the node's memory that it requests.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if matches!(super::spec(pod).priority_class_name.as_deref(), Some("system-node-critical"))
        || super::spec(pod).priority.is_some_and(|p| p >= 2_000_001_000)
    {
        return -997;
    }
    match class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = amount(requests, MEMORY).unwrap_or(0) / 1000;
            if memory_capacity <= 0 {
                return 999;
            }
            let adjusted = 1000 - (1000 * i128::from(request) / i128::from(memory_capacity));
            i64::try_from(adjusted.clamp(3, 999)).unwrap_or(999)
        }
    }
}
