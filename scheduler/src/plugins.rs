//! The plugins, one file each, one line each in [`defaults`].

use crate::framework::Plugin;

pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

/// A plugin with the weight its scores count with (0 where it does not score).
pub struct Weighted {
    /// The plugin.
    pub plugin: Box<dyn Plugin>,
    /// Weight of its score.
    pub weight: i64,
}

/// The default plugins in the order upstream runs them, with the default weights
/// (KubeSchedulerConfiguration v1, "MultiPoint").
pub fn defaults() -> Vec<Weighted> {
    let on = |plugin: Box<dyn Plugin>, weight| Weighted { plugin, weight };
    vec![
        on(Box::new(scheduling_gates::SchedulingGates), 0),
        on(Box::new(node_unschedulable::NodeUnschedulable), 0),
        on(Box::new(node_name::NodeName), 0),
        on(Box::new(taint_toleration::TaintToleration), 3),
        on(Box::new(node_affinity::NodeAffinity), 2),
        on(Box::new(node_ports::NodePorts), 0),
        on(Box::<node_resources::Fit>::default(), 1),
        on(Box::new(volume_restrictions::VolumeRestrictions), 0),
        on(Box::new(node_volume_limits::NodeVolumeLimits), 0),
        on(Box::new(volume_binding::VolumeBinding), 0),
        on(Box::new(volume_zone::VolumeZone), 0),
        on(Box::new(pod_topology_spread::PodTopologySpread), 2),
        on(Box::<inter_pod_affinity::InterPodAffinity>::default(), 2),
        on(Box::new(node_resources::BalancedAllocation), 1),
        on(Box::new(image_locality::ImageLocality), 1),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_plugin_is_listed_once() {
        let all = defaults();
        let names: BTreeSet<&str> = all.iter().map(|w| w.plugin.name()).collect();
        assert_eq!(names.len(), all.len());
    }
}
