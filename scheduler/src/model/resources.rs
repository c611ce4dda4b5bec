//! Amounts of resources, in the units the scheduler counts in.

use std::collections::BTreeMap;

use component_base::quantity::Quantity;
use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::api::resource::Quantity as ApiQuantity};
use smallvec::SmallVec;
use smol_str::SmolStr;

/// CPU in millicores a container without a request counts as for scoring.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory in bytes a container without a request counts as for scoring.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Millicores.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Pods a node takes; unused in requests.
    pub pods: i64,
    /// Extended resources, hugepages and the like, in whole units, sorted by name.
    pub scalar: SmallVec<[(SmolStr, i64); 2]>,
}

impl Resources {
    /// The amounts of a resource list; values that are no quantities count as zero (validation refuses them).
    pub fn from_list(list: &BTreeMap<String, ApiQuantity>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list {
            let Ok(quantity) = quantity.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli_value(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => out.pods = quantity.value(),
                other => *out.scalar_mut(other) = quantity.value(),
            }
        }
        out
    }

    /// The amount of a resource by name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            other => self.scalar.iter().find(|(n, _)| n == other).map_or(0, |(_, v)| *v),
        }
    }

    /// Adds `other` (`sign` 1) or takes it away (`sign` -1); `pods` stays.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.milli_cpu = self.milli_cpu.saturating_add(sign * other.milli_cpu);
        self.memory = self.memory.saturating_add(sign * other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(sign * other.ephemeral_storage);
        for (name, value) in &other.scalar {
            let slot = self.scalar_mut(name);
            *slot = slot.saturating_add(sign * value);
        }
    }

    /// Raises every amount to at least that of `other`.
    pub fn max(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, value) in &other.scalar {
            let slot = self.scalar_mut(name);
            *slot = (*slot).max(*value);
        }
    }

    fn scalar_mut(&mut self, name: &str) -> &mut i64 {
        let at = match self.scalar.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.scalar.insert(at, (SmolStr::new(name), 0));
                at
            }
        };
        &mut self.scalar[at].1
    }
}

/// What a pod requests, and what it counts as for scoring (defaults for containers without requests).
///
/// Contract: the effective request of the "Pod Overhead", "Sidecar containers" (KEP-753) and
/// "Pod-level resources" (KEP-2837) pages: max(sum of containers and sidecars, each init container
/// plus the sidecars started before it), plus overhead; pod-level requests win for the resources they name.
pub fn pod_requests(spec: &core::PodSpec) -> (Resources, Resources) {
    let exact = effective(spec, Resources::from_list);
    let counted = effective(spec, |list| {
        let mut r = Resources::from_list(list);
        if !list.contains_key("cpu") {
            r.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !list.contains_key("memory") {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    (exact, counted)
}

fn effective(spec: &core::PodSpec, of: impl Fn(&BTreeMap<String, ApiQuantity>) -> Resources) -> Resources {
    let empty = BTreeMap::new();
    let container =
        |c: &core::Container| of(c.resources.as_ref().and_then(|r| r.requests.as_ref()).unwrap_or(&empty));
    let mut total = Resources::default();
    for c in &spec.containers {
        total.add(&container(c), 1);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for c in spec.init_containers.iter().flatten() {
        let mut need = container(c);
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&need, 1);
            total.add(&need, 1);
            need = sidecars.clone();
        } else {
            need.add(&sidecars, 1);
        }
        peak.max(&need);
    }
    total.max(&peak);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod = Resources::from_list(list);
        if list.contains_key("cpu") {
            total.milli_cpu = pod.milli_cpu;
        }
        if list.contains_key("memory") {
            total.memory = pod.memory;
        }
        for (name, value) in pod.scalar {
            *total.scalar_mut(&name) = value;
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead), 1);
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn requests(spec: serde_json::Value) -> Resources {
        pod_requests(&serde_json::from_value(spec).unwrap()).0
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_by_their_sum() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let side = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let cases = [
            (json!({"containers": [c("1"), c("2")]}), 3000),
            (json!({"containers": [c("1")], "initContainers": [c("4"), c("2")]}), 4000),
            (json!({"containers": [c("1")], "initContainers": [side("1"), c("4")]}), 5000),
            (json!({"containers": [c("3")], "initContainers": [side("1"), c("2")]}), 4000),
            (json!({"containers": [c("1")], "overhead": {"cpu": "250m"}}), 1250),
            (json!({"containers": [c("1")], "resources": {"requests": {"cpu": "6"}}}), 6000),
        ];
        for (spec, milli) in cases {
            assert_eq!(requests(spec.clone()).milli_cpu, milli, "{spec}");
        }
    }

    #[test]
    fn containers_without_requests_count_with_defaults_for_scoring_only() {
        let spec = serde_json::from_value(json!({"containers": [{"name": "a"}, {"name": "b"}]})).unwrap();
        let (exact, counted) = pod_requests(&spec);
        assert_eq!(exact, Resources::default());
        assert_eq!((counted.milli_cpu, counted.memory), (200, 2 * DEFAULT_MEMORY));
    }

    #[test]
    fn adding_and_taking_away_cancel_out() {
        let list = [("cpu", "1500m"), ("memory", "1Gi"), ("example.com/gpu", "2")];
        let list = list.iter().map(|(k, v)| ((*k).to_owned(), ApiQuantity((*v).to_owned()))).collect();
        let r = Resources::from_list(&list);
        let mut sum = Resources::default();
        sum.add(&r, 1);
        assert_eq!(sum.get("example.com/gpu"), 2);
        sum.add(&r, -1);
        assert_eq!((sum.milli_cpu, sum.memory, sum.get("example.com/gpu")), (0, 0, 0));
    }
}
