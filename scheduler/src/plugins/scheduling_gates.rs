//! SchedulingGates: a pod with gates does not enter the queue (KEP-3521).

use crate::{
    framework::{ClusterEvent, Plugin},
    model::{Cluster, PodInfo},
};

/// The plugin.
pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn may_enqueue(&self, pod: &PodInfo, _: &Cluster) -> Result<(), String> {
        if pod.gates.is_empty() {
            Ok(())
        } else {
            Err(format!("waiting for scheduling gates: [{}]", pod.gates.join(" ")))
        }
    }

    fn wakes(&self, _pod: &PodInfo, event: &ClusterEvent) -> bool {
        matches!(event, ClusterEvent::PodChanged { old, new } if !old.gates.is_empty() && new.gates.is_empty())
    }
}
