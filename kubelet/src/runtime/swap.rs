//! How much a container may be swapped out. Pure.
//!
//! Contract: "Swap memory management" (KEP-2400): under `NoSwap` nothing, under `LimitedSwap` containers of burstable pods
//! a share of the node's swap as large as the share of its memory that they request.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::cri::LinuxContainerResources;
use crate::{
    admission,
    pod::{
        qos::{self, QosClass},
        resources::{self, MEMORY},
    },
};

/// cgroup v2's file of the limit.
const LIMIT: &str = "memory.swap.max";

/// What pods may do with the node's swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behavior {
    /// Nothing of them is swapped out.
    #[default]
    NoSwap,
    /// Containers of burstable pods get a share.
    LimitedSwap,
}

/// The node's swap, where the kernel limits it by cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// What pods may do with it.
    pub behavior: Behavior,
    /// Bytes there are.
    pub capacity: i64,
    /// Bytes of memory the node has.
    pub memory: i64,
    /// cgroup v2; in the first version the limit is that of memory and swap together.
    pub unified: bool,
}

impl Swap {
    /// Tells the runtime how much of the container may be swapped out; `linux` has its memory limit.
    pub fn apply(&self, pod: &Pod, container: &Container, linux: &mut LinuxContainerResources) {
        if self.unified {
            linux.unified.insert(LIMIT.into(), self.limit(pod, container).to_string());
        } else {
            // As much as memory alone is as much as nothing. Zero is no limit in both.
            linux.memory_swap_limit_in_bytes = linux.memory_limit_in_bytes;
        }
    }

    /// Whether anything of the container may be swapped out.
    #[must_use]
    pub fn allows(&self, pod: &Pod, container: &Container) -> bool {
        if self.behavior == Behavior::NoSwap
            || admission::is_critical(pod)
            || qos::class(pod) != QosClass::Burstable
        {
            return false;
        }
        let request = bytes(resources::request(container, MEMORY));
        // One that may use no more than it requests has all of that in memory.
        request != bytes(resources::limit(container, MEMORY)) && request <= self.memory
    }

    /// Bytes of the container that may be swapped out.
    #[must_use]
    pub fn limit(&self, pod: &Pod, container: &Container) -> i64 {
        if !self.allows(pod, container) {
            return 0;
        }
        let request = bytes(resources::request(container, MEMORY));
        let share = i128::from(self.capacity) * i128::from(request) / i128::from(self.memory.max(1));
        i64::try_from(share).unwrap_or(self.capacity)
    }
}

fn bytes(milli: Option<i64>) -> i64 {
    milli.unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    const NODE: Swap =
        Swap { behavior: Behavior::LimitedSwap, capacity: 4 << 30, memory: 16 << 30, unified: true };

    fn pod(resources: serde_json::Value) -> Pod {
        testing::pod("a").container("c").resources(resources).build()
    }

    #[test]
    fn only_burstable_containers_with_requests_of_their_own_get_a_share() {
        for (resources, share) in [
            (json!({"requests": {"memory": "4Gi"}}), 1 << 30),
            (json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}), 256 << 20),
            (json!({"requests": {"memory": "2Gi", "cpu": "1"}, "limits": {"memory": "2Gi"}}), 0),
            (json!({"requests": {"cpu": "1"}}), 0),
            (json!({"requests": {"memory": "17Gi"}}), 0),
            (json!({"limits": {"memory": "4Gi", "cpu": "1"}}), 0),
            (json!({}), 0),
        ] {
            let pod = pod(resources.clone());
            let limit = |node: Swap| node.limit(&pod, &pod.spec.as_ref().unwrap().containers[0]);
            assert_eq!(limit(NODE), share, "{resources}");
            assert_eq!(limit(Swap { behavior: Behavior::NoSwap, ..NODE }), 0);
            assert_eq!(limit(Swap { memory: 0, ..NODE }), 0);
        }
        let mut critical = pod(json!({"requests": {"memory": "4Gi"}}));
        critical.spec.as_mut().unwrap().priority = Some(2_000_000_000);
        assert_eq!(NODE.limit(&critical, &critical.spec.as_ref().unwrap().containers[0]), 0);
    }

    #[test]
    fn each_version_of_cgroups_is_told_in_its_way() {
        let pod = pod(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}));
        let told = |node: Swap| {
            let mut linux = LinuxContainerResources {
                memory_limit_in_bytes: 2 << 30,
                ..LinuxContainerResources::default()
            };
            node.apply(&pod, &pod.spec.as_ref().unwrap().containers[0], &mut linux);
            (linux.memory_swap_limit_in_bytes, linux.unified.remove(LIMIT))
        };
        assert_eq!(told(NODE), (0, Some((256 << 20).to_string())));
        assert_eq!(told(Swap { unified: false, ..NODE }), (2 << 30, None));
    }
}
