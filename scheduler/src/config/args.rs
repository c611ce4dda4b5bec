//! Arguments of plugins, `<Name>Args` of kubescheduler.config.k8s.io/v1.

use std::time::Duration;

use component_base::{
    features::{Gate, Gates},
    goduration,
};
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

const GROUP: &str = "kubescheduler.config.k8s.io";
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// Why arguments are not usable.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// They cannot be decoded.
    #[error("decoding args")]
    Decode(#[from] serde_json::Error),
    /// They are another plugin's, or of another version.
    #[error("args for plugin {0} were not of type {1}, got {2}")]
    Kind(String, String, String),
    /// A value is out of bounds.
    #[error("{0}: {1}")]
    Value(&'static str, &'static str),
    /// The same of a field in a list.
    #[error("{0}: {1}")]
    Item(String, String),
}

/// Reads the arguments of a plugin; all defaults where there are none. Type information may be left out.
///
/// # Errors
/// When they are no arguments of this plugin.
pub fn read<T: DeserializeOwned>(plugin: &str, args: Option<&Value>) -> Result<T, ArgsError> {
    let mut args = args.cloned().filter(|v| !v.is_null()).unwrap_or_else(|| serde_json::json!({}));
    if let Some(map) = args.as_object_mut() {
        let kind = format!("{plugin}Args");
        for (key, expected) in [("apiVersion", API_VERSION), ("kind", kind.as_str())] {
            if let Some(found) = map.remove(key).filter(|found| found != expected) {
                let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
                // Kinds are told with their group.
                let whole = |said: &str| match key {
                    "kind" => format!("{said}.{GROUP}"),
                    _ => said.to_owned(),
                };
                return Err(ArgsError::Kind(plugin.to_owned(), whole(expected), whole(&found)));
            }
        }
    }
    Ok(serde_json::from_value(args)?)
}

/// Of a plugin that has none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// Of NodeAffinity.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeAffinityArgs {
    /// Added to every pod's own.
    pub added_affinity: Option<NodeAffinity>,
}

/// Of InterPodAffinity.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InterPodAffinityArgs {
    /// What a required term of a running pod adds to places near it.
    pub hard_pod_affinity_weight: i64,
    /// Whether preferences of running pods count only for pods that have terms of their own.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

/// Of PodTopologySpread.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodTopologySpreadArgs {
    /// For pods that have none.
    pub default_constraints: Vec<TopologySpreadConstraint>,
    /// `System` (the default) or `List`.
    pub defaulting_type: Option<String>,
}

/// Of NodeResourcesFit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeResourcesFitArgs {
    /// Extended resources nobody looks at.
    pub ignored_resources: Vec<String>,
    /// The same, by the part before the slash.
    pub ignored_resource_groups: Vec<String>,
    /// How nodes are scored.
    pub scoring_strategy: Option<ScoringStrategy>,
}

/// How nodes are scored by how full they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScoringStrategy {
    /// `LeastAllocated`, `MostAllocated` or `RequestedToCapacityRatio`.
    #[serde(rename = "type")]
    pub type_: String,
    /// What is looked at.
    pub resources: Vec<ResourceSpec>,
    /// For `RequestedToCapacityRatio`.
    pub requested_to_capacity_ratio: Option<RequestedToCapacityRatio>,
}

/// A resource with its weight.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceSpec {
    /// Its name.
    pub name: String,
    /// 1 to 100; 1 when unset or 0.
    #[serde(default)]
    weight: i64,
}

impl ResourceSpec {
    /// Its weight.
    pub fn weight(&self) -> i64 {
        if self.weight == 0 { 1 } else { self.weight }
    }
}

/// A function of use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestedToCapacityRatio {
    /// Its points, linear between.
    pub shape: Vec<UtilizationShapePoint>,
}

/// A point.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UtilizationShapePoint {
    /// Percent.
    pub utilization: i64,
    /// 0 to 10.
    pub score: i64,
}

/// Of NodeResourcesBalancedAllocation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeResourcesBalancedAllocationArgs {
    /// What is looked at; CPU and memory when empty.
    pub resources: Vec<ResourceSpec>,
}

/// Of VolumeBinding.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeBindingArgs {
    /// How long a pod waits for its claims to be bound; 600 when unset.
    pub bind_timeout_seconds: Option<i64>,
    /// How good it is when so much of the storage there is would be used (`StorageCapacityScoring`).
    pub shape: Option<Vec<UtilizationShapePoint>>,
}

/// Of DynamicResources.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DynamicResourcesArgs {
    /// How long devices are tried on one node; ten seconds when unset, 0 for as long as it takes.
    pub filter_timeout: Option<String>,
    /// How long devices may take to be ready; ten minutes when unset.
    pub binding_timeout: Option<String>,
}

impl DynamicResourcesArgs {
    /// How long devices are tried on one node; nothing for as long as it takes.
    ///
    /// # Errors
    /// When it is no duration, or less than nothing, or the gate is off and something is said.
    pub fn filter_timeout(&self, gates: Gates) -> Result<Duration, ArgsError> {
        const WHAT: &str = "filterTimeout";
        let on = gates.has(Gate::DRASchedulerFilterTimeout);
        match &self.filter_timeout {
            Some(_) if !on => {
                Err(ArgsError::Value(WHAT, "DRASchedulingFilterTimeout feature gate is disabled"))
            }
            None if !on => Ok(Duration::ZERO),
            None => Ok(Duration::from_secs(10)),
            Some(text) if text.starts_with('-') => Err(ArgsError::Value(WHAT, "must be zero or positive")),
            Some(text) => goduration::parse(text).map_err(|_| ArgsError::Value(WHAT, "not a duration")),
        }
    }

    /// How long devices may take to be ready.
    ///
    /// # Errors
    /// When it is no duration of a second at least, or a gate is off and something is said.
    pub fn binding_timeout(&self, gates: Gates) -> Result<Duration, ArgsError> {
        const WHAT: &str = "bindingTimeout";
        const OFF: &str =
            "DRADeviceBindingConditions or DRAResourceClaimDeviceStatus feature gate is disabled";
        let needed = [Gate::DRADeviceBindingConditions, Gate::DRAResourceClaimDeviceStatus];
        if self.binding_timeout.is_some() && !needed.into_iter().all(|gate| gates.has(gate)) {
            return Err(ArgsError::Value(WHAT, OFF));
        }
        let Some(text) = &self.binding_timeout else { return Ok(Duration::from_secs(600)) };
        let parsed = goduration::parse(text).map_err(|_| ArgsError::Value(WHAT, "not a duration"))?;
        let least = Duration::from_secs(1);
        Some(parsed)
            .filter(|timeout| *timeout >= least)
            .ok_or(ArgsError::Value(WHAT, "must be at least 1 second"))
    }
}

/// Of DefaultPreemption.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DefaultPreemptionArgs {
    /// Percent of the nodes looked at for victims, at least.
    pub min_candidate_nodes_percentage: usize,
    /// Number of nodes looked at, at least.
    pub min_candidate_nodes_absolute: usize,
}

impl DefaultPreemptionArgs {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// When it is.
    pub fn check(&self) -> Result<(), ArgsError> {
        const PERCENTAGE: &str = "minCandidateNodesPercentage";
        if self.min_candidate_nodes_percentage > 100 {
            return Err(ArgsError::Value(PERCENTAGE, "not in valid range [0, 100]"));
        }
        if self.min_candidate_nodes_percentage == 0 && self.min_candidate_nodes_absolute == 0 {
            let why = "cannot be zero at the same time as minCandidateNodesAbsolute";
            return Err(ArgsError::Value(PERCENTAGE, why));
        }
        Ok(())
    }
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

impl Default for DefaultPreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_another_plugin_are_told_by_their_kind() {
        let of = |args: Value| {
            let read = read::<DefaultPreemptionArgs>("DefaultPreemption", Some(&args));
            read.map(|args| args.min_candidate_nodes_percentage).map_err(|error| error.to_string())
        };
        let named = serde_json::json!({
            "apiVersion": API_VERSION, "kind": "DefaultPreemptionArgs", "minCandidateNodesPercentage": 50,
        });
        assert_eq!(of(named), Ok(50));
        assert_eq!(of(Value::Null), Ok(10));
        assert_eq!(
            of(serde_json::json!({"apiVersion": API_VERSION, "kind": "InterPodAffinityArgs"})).unwrap_err(),
            "args for plugin DefaultPreemption were not of type DefaultPreemptionArgs.kubescheduler.config.k8s.io, \
             got InterPodAffinityArgs.kubescheduler.config.k8s.io"
        );
        assert_eq!(
            of(serde_json::json!({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"})).unwrap_err(),
            "args for plugin DefaultPreemption were not of type kubescheduler.config.k8s.io/v1, \
             got kubescheduler.config.k8s.io/v1beta3"
        );
    }

    #[test]
    fn the_time_for_devices_is_a_duration_of_its_gate() {
        let off = Gates::default().with(Gate::DRASchedulerFilterTimeout, false);
        let of = |text: Option<&str>, gates: Gates| {
            let args =
                DynamicResourcesArgs { filter_timeout: text.map(str::to_owned), binding_timeout: None };
            args.filter_timeout(gates).map(|timeout| timeout.as_secs()).map_err(|error| error.to_string())
        };
        assert_eq!(of(None, Gates::default()), Ok(10));
        assert_eq!(of(Some("0s"), Gates::default()), Ok(0));
        assert_eq!(of(Some("1m"), Gates::default()), Ok(60));
        assert_eq!(of(Some("-1s"), Gates::default()).unwrap_err(), "filterTimeout: must be zero or positive");
        assert_eq!(of(Some("soon"), Gates::default()).unwrap_err(), "filterTimeout: not a duration");
        assert_eq!(of(None, off), Ok(0));
        let why = "filterTimeout: DRASchedulingFilterTimeout feature gate is disabled";
        assert_eq!(of(Some("1m"), off).unwrap_err(), why);
    }

    #[test]
    fn devices_have_time_to_be_ready_only_where_they_may_need_it() {
        let args: DynamicResourcesArgs =
            serde_json::from_value(serde_json::json!({"bindingTimeout": "5s"})).unwrap();
        assert_eq!(args.binding_timeout(Gates::default()).unwrap().as_secs(), 5);
        for gate in [Gate::DRADeviceBindingConditions, Gate::DRAResourceClaimDeviceStatus] {
            let off = Gates::default().with(gate, false);
            let refused = args.binding_timeout(off).unwrap_err().to_string();
            assert!(refused.contains("feature gate is disabled"), "{refused}");
            assert!(DynamicResourcesArgs::default().binding_timeout(off).is_ok());
        }
    }
}
