//! NodePorts: host ports a pod wants must be free.

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, HostPort, NodeInfo, PodInfo},
};

/// The plugin.
pub struct NodePorts;

struct Wanted<'a>(&'a [HostPort]);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        if pod.ports.is_empty() { Prepared::Skip } else { Prepared::Filter(Box::new(Wanted(&pod.ports))) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodRemoved(gone) => {
                gone.ports.iter().any(|p| pod.ports.iter().any(|wanted| wanted.conflicts(p)))
            }
            ClusterEvent::NodeAdded(_) => true,
            _ => false,
        }
    }
}

impl Filter for Wanted<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let taken = self.0.iter().any(|wanted| node.ports.iter().any(|used| used.conflicts(wanted)));
        Verdict::fits_or(!taken, || {
            Verdict::unschedulable("node(s) didn't have free ports for the requested pod ports")
        })
    }
}
