//! The plugins, one file each, one line each in [`REGISTRY`].

use serde_json::Value;

use component_base::features::{Gate, Gates};

use crate::{
    config::args::{self, ArgsError, NoArgs},
    framework::Plugin,
};

pub mod dynamic_resources;
pub mod gang_scheduling;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod measured;
pub mod node_affinity;
pub mod node_declared_features;
pub mod node_name;
pub mod node_ports;
pub mod node_resources;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_group_pods_count;
pub mod pod_topology_spread;
pub mod scheduling_gates;
mod shape;
pub mod taint_toleration;
pub mod topology_placement;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

/// A plugin of a profile.
pub struct Weighted {
    /// The plugin.
    pub plugin: Box<dyn Plugin>,
    /// Weight of its score (0 where it does not score).
    pub weight: i64,
    /// Weight of its score of places for groups (0 where it does not score them).
    pub domain_weight: i64,
    /// Where it is asked.
    pub points: Points,
    /// When, where that is not the order of the list.
    pub turns: Turns,
}

/// The place of a plugin among those that are asked the same. The list itself is in the order of filtering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Whether a pod may be tried.
    pub gates: usize,
    /// What there is to filter by.
    pub prepares: usize,
}

/// Where a plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// Whether a pod may be tried.
    pub gates: bool,
    /// Which nodes come into question.
    pub filters: bool,
    /// Which node is best.
    pub scores: bool,
    /// What is let go of where no node takes the pod.
    pub lets_go: bool,
    /// What is written before binding.
    pub reserves: bool,
    /// Whether a pod of a group may be bound.
    pub permits: bool,
    /// Which nodes a group may go to together.
    pub generates: bool,
}

/// Makes a plugin with the arguments of a profile, for these gates.
pub type Make = fn(Option<&Value>, Gates) -> Result<Box<dyn Plugin>, ArgsError>;

/// A plugin there is.
pub struct Registered {
    /// Upstream's name.
    pub name: &'static str,
    /// Default weight of its score (0 where it does not score).
    pub weight: i64,
    /// The feature it is on with where nothing else is said; always if there is none.
    pub gate: Option<Gate>,
    /// The feature with which it scores although it has no weight of its own.
    pub scoring: Option<Gate>,
    /// Makes it with the arguments of a profile.
    pub make: Make,
}

/// All plugins in the order upstream runs them, with the default weights (KubeSchedulerConfiguration v1,
/// "MultiPoint").
pub const REGISTRY: &[Registered] = &[
    on("SchedulingGates", 0, |a, _| plain("SchedulingGates", a, scheduling_gates::SchedulingGates)),
    on("NodeUnschedulable", 0, |a, _| plain("NodeUnschedulable", a, node_unschedulable::NodeUnschedulable)),
    on("NodeName", 0, |a, _| plain("NodeName", a, node_name::NodeName)),
    on("TaintToleration", 3, |a, _| plain("TaintToleration", a, taint_toleration::TaintToleration)),
    on("NodeAffinity", 2, |a, _| {
        Ok(Box::new(node_affinity::NodeAffinity::new(&args::read("NodeAffinity", a)?)?))
    }),
    on("NodePorts", 0, |a, _| plain("NodePorts", a, node_ports::NodePorts)),
    on("NodeResourcesFit", 1, |a, _| {
        Ok(Box::new(node_resources::Fit::new(args::read("NodeResourcesFit", a)?)?))
    }),
    on("VolumeRestrictions", 0, |a, _| {
        plain("VolumeRestrictions", a, volume_restrictions::VolumeRestrictions)
    }),
    on("NodeVolumeLimits", 0, |a, _| plain("NodeVolumeLimits", a, node_volume_limits::NodeVolumeLimits)),
    on("VolumeBinding", 0, |a, gates| {
        Ok(Box::new(volume_binding::VolumeBinding::new(&args::read("VolumeBinding", a)?, gates)?))
    })
    .scoring_with(Gate::StorageCapacityScoring),
    on("VolumeZone", 0, |a, _| plain("VolumeZone", a, volume_zone::VolumeZone)),
    on("PodTopologySpread", 2, |a, _| {
        Ok(Box::new(pod_topology_spread::PodTopologySpread::new(args::read("PodTopologySpread", a)?)?))
    }),
    on("InterPodAffinity", 2, |a, _| {
        Ok(Box::new(inter_pod_affinity::InterPodAffinity::new(&args::read("InterPodAffinity", a)?)?))
    }),
    on("DynamicResources", 2, |a, gates| {
        let read: args::DynamicResourcesArgs = args::read("DynamicResources", a)?;
        let (filter, binding) = (read.filter_timeout(gates)?, read.binding_timeout(gates)?);
        Ok(Box::new(dynamic_resources::DynamicResources::new(filter, binding)))
    }),
    on("NodeResourcesBalancedAllocation", 1, |a, _| {
        let read = args::read("NodeResourcesBalancedAllocation", a)?;
        Ok(Box::new(node_resources::BalancedAllocation::new(read)?))
    }),
    on("ImageLocality", 1, |a, _| plain("ImageLocality", a, image_locality::ImageLocality)),
    with(Gate::NodeDeclaredFeatures, "NodeDeclaredFeatures", 0, |a, _| {
        plain("NodeDeclaredFeatures", a, node_declared_features::NodeDeclaredFeatures)
    }),
    with(Gate::GangScheduling, "GangScheduling", 0, |a, _| {
        plain("GangScheduling", a, gang_scheduling::GangScheduling)
    }),
    with(Gate::TopologyAwareWorkloadScheduling, "TopologyPlacementGenerator", 0, |a, _| {
        plain("TopologyPlacementGenerator", a, topology_placement::TopologyPlacementGenerator)
    }),
    with(Gate::TopologyAwareWorkloadScheduling, "PodGroupPodsCount", 1, |a, _| {
        plain("PodGroupPodsCount", a, pod_group_pods_count::PodGroupPodsCount)
    }),
];

/// The points at which a plugin may be switched, in the order upstream goes through them; nothing for a plugin that there
/// is not.
pub fn points(name: &str) -> Option<&'static [&'static str]> {
    const FILTER: &[&str] = &["preFilter", "filter"];
    const BOTH: &[&str] = &["preFilter", "filter", "preScore", "score"];
    Some(match name {
        "PrioritySort" => &["queueSort"],
        "DefaultBinder" => &["bind"],
        "DefaultPreemption" => &["postFilter", "preEnqueue"],
        "SchedulingGates" => &["preEnqueue"],
        "NodeUnschedulable" | "NodeName" => &["filter"],
        "TaintToleration" => &["filter", "preScore", "score"],
        "NodeAffinity" | "PodTopologySpread" | "InterPodAffinity" => BOTH,
        "NodePorts" | "VolumeRestrictions" | "NodeVolumeLimits" | "VolumeZone" | "NodeDeclaredFeatures" => {
            FILTER
        }
        "NodeResourcesFit" => &["preFilter", "filter", "preScore", "score", "placementScore"],
        "VolumeBinding" => &["preFilter", "filter", "reserve", "preScore", "score", "preBind"],
        "DynamicResources" => {
            &["preFilter", "filter", "postFilter", "reserve", "score", "preBind", "preEnqueue"]
        }
        "NodeResourcesBalancedAllocation" => &["preScore", "score"],
        "ImageLocality" => &["score"],
        "GangScheduling" => &["permit", "preEnqueue"],
        "TopologyPlacementGenerator" => &["placementGenerate"],
        "PodGroupPodsCount" => &["placementScore"],
        _ => return None,
    })
}

const fn on(name: &'static str, weight: i64, make: Make) -> Registered {
    Registered { name, weight, gate: None, scoring: None, make }
}

const fn with(gate: Gate, name: &'static str, weight: i64, make: Make) -> Registered {
    Registered { name, weight, gate: Some(gate), scoring: None, make }
}

impl Registered {
    const fn scoring_with(self, gate: Gate) -> Self {
        Self { scoring: Some(gate), ..self }
    }

    /// The weight of its score where nothing else is said: at least 1 for all that score.
    pub fn usual_weight(&self, features: Gates) -> i64 {
        match self.scoring {
            Some(gate) if features.has(gate) => self.weight.max(1),
            _ => self.weight,
        }
    }

    /// Whether it is on where nothing else is said.
    pub fn is_default(&self, features: Gates) -> bool {
        self.gate.is_none_or(|gate| features.has(gate))
    }
}

/// A plugin that has no arguments.
fn plain(
    name: &str,
    args: Option<&Value>,
    plugin: impl Plugin + 'static,
) -> Result<Box<dyn Plugin>, ArgsError> {
    args::read::<NoArgs>(name, args)?;
    Ok(Box::new(plugin))
}

impl Points {
    /// Everywhere.
    pub const ALL: Points = Points {
        gates: true,
        filters: true,
        scores: true,
        lets_go: true,
        reserves: true,
        permits: true,
        generates: true,
    };
    /// Nowhere.
    pub const NONE: Points = Points {
        gates: false,
        filters: false,
        scores: false,
        lets_go: false,
        reserves: false,
        permits: false,
        generates: false,
    };
}

/// The default plugins with their default arguments.
pub fn defaults(features: Gates) -> Vec<Weighted> {
    let all = REGISTRY.iter().filter(|p| p.is_default(features));
    all.enumerate()
        .filter_map(|(at, p)| {
            // Default arguments are right ones: a test makes them all.
            let plugin = (p.make)(None, features).ok()?;
            let (weight, turns) = (p.usual_weight(features), Turns { gates: at, prepares: at });
            Some(Weighted { plugin, weight, domain_weight: p.weight, points: Points::ALL, turns })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_plugin_is_listed_once_under_its_name() {
        let names: BTreeSet<&str> = REGISTRY.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), REGISTRY.len());
        for registered in REGISTRY {
            assert!(points(registered.name).is_some_and(|points| !points.is_empty()), "{}", registered.name);
            assert_eq!((registered.make)(None, Gates::default()).unwrap().name(), registered.name);
        }
        let usual = REGISTRY.iter().filter(|p| p.gate.is_none_or(|gate| gate.feature().default)).count();
        assert_eq!(defaults(Gates::default()).len(), usual);
        let without = Gates::default().with(Gate::NodeDeclaredFeatures, false);
        assert_eq!(defaults(without).len(), usual - 1);
        assert_eq!(defaults(crate::testing::all_gates()).len(), REGISTRY.len());
    }
}
