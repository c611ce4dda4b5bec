//! Amounts of resources, in the units the scheduler counts in.

use std::collections::BTreeMap;

use component_base::{
    features::{Gate, Gates},
    quantity::Quantity,
};
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

    /// Whether there is less of something in `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.milli_cpu > other.milli_cpu
            || self.memory > other.memory
            || self.ephemeral_storage > other.ephemeral_storage
            || self.scalar.iter().any(|(name, amount)| *amount > other.get(name))
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
/// Contract: the effective request of the "Pod Overhead", "Sidecar containers" (KEP-753), "Pod-level resources"
/// (KEP-2837) and "Resize CPU and Memory" (KEP-1287, KEP-5419) pages: max(sum of containers and sidecars, each init
/// container plus the sidecars started before it), plus overhead; pod-level requests win for the resources they name;
/// what is being resized counts as the most of what is asked for, given out and in force.
pub fn pod_requests(
    spec: &core::PodSpec,
    status: Option<&core::PodStatus>,
    gates: Gates,
) -> (Resources, Resources) {
    let exact = effective(spec, status, gates, Resources::from_list);
    let counted = effective(spec, status, gates, |list| {
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

/// Amounts by name, as the API has them.
type List = BTreeMap<String, ApiQuantity>;

fn effective(
    spec: &core::PodSpec,
    status: Option<&core::PodStatus>,
    gates: Gates,
    of: impl Fn(&List) -> Resources,
) -> Resources {
    let container = |c: &core::Container, resizes: bool| {
        let asked = requests_of(c.resources.as_ref());
        let status = status.filter(|_| resizes);
        let found = status.and_then(|status| Some((status, in_force(status, &c.name)?)));
        match found {
            Some((status, (given, real))) => of(&most(status, asked, given, Some(real))),
            None => of(asked),
        }
    };
    let mut total = Resources::default();
    for c in &spec.containers {
        total.add(&container(c, true), 1);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for c in spec.init_containers.iter().flatten() {
        let lasts = c.restart_policy.as_deref() == Some("Always");
        let mut need = container(c, lasts);
        if lasts {
            sidecars.add(&need, 1);
            total.add(&need, 1);
            need = sidecars.clone();
        } else {
            need.add(&sidecars, 1);
        }
        peak.max(&need);
    }
    total.max(&peak);
    if gates.has(Gate::DRANodeAllocatableResources) {
        let claims = status.and_then(|status| status.node_allocatable_resource_claim_statuses.as_ref());
        for claim in claims.into_iter().flatten() {
            total.add(&Resources::from_list(&claim.resources), 1);
        }
    }
    let whole = spec.resources.as_ref().filter(|_| gates.has(Gate::PodLevelResources));
    if let Some(asked) = whole.and_then(|r| r.requests.as_ref()) {
        let resized = status.filter(|_| gates.has(Gate::InPlacePodLevelResourcesVerticalScaling));
        let real = resized.and_then(|status| Some((status, status.resources.as_ref()?.requests.as_ref())));
        let pod = match real {
            Some((status, real)) => {
                Resources::from_list(&most(status, asked, status.allocated_resources.as_ref(), real))
            }
            None => Resources::from_list(asked),
        };
        if asked.contains_key("cpu") {
            total.milli_cpu = pod.milli_cpu;
        }
        if asked.contains_key("memory") {
            total.memory = pod.memory;
        }
        for (name, value) in pod.scalar.into_iter().filter(|(name, _)| asked.contains_key(name.as_str())) {
            *total.scalar_mut(&name) = value;
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead), 1);
    }
    total
}

fn requests_of(resources: Option<&core::ResourceRequirements>) -> &List {
    static NONE: List = List::new();
    resources.and_then(|r| r.requests.as_ref()).unwrap_or(&NONE)
}

/// What the kubelet says that a container was given and that it has; nothing where it does not say.
fn in_force<'a>(status: &'a core::PodStatus, name: &str) -> Option<(Option<&'a List>, &'a List)> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = all.into_iter().find(|found| found.name == name)?;
    found.resources.as_ref().map(|real| (found.allocated_resources.as_ref(), requests_of(Some(real))))
}

/// The most of what is asked for, given out and in force. What the node will never have does not count as asked for.
fn most(status: &core::PodStatus, asked: &List, given: Option<&List>, real: Option<&List>) -> List {
    let pending = status.conditions.iter().flatten().find(|c| c.type_ == "PodResizePending");
    let hopeless = pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"));
    let parsed = |amount: &ApiQuantity| amount.0.parse::<Quantity>().ok();
    let mut out = List::new();
    for (name, amount) in Some(asked).filter(|_| !hopeless).into_iter().chain(given).chain(real).flatten() {
        let known = out.get(name).and_then(parsed);
        if known.is_none() || known < parsed(amount) {
            out.insert(name.clone(), amount.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn requests(spec: serde_json::Value) -> Resources {
        pod_requests(&serde_json::from_value(spec).unwrap(), None, Gates::default()).0
    }

    #[test]
    fn what_is_being_resized_counts_as_the_most_of_it() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let container = json!({"name": "c", "resources": of("2")});
        let side = json!({"name": "s", "restartPolicy": "Always", "resources": of("1")});
        let first = json!({"name": "f", "resources": of("1")});
        let spec = json!({"containers": [container], "initContainers": [side, first]});
        let has = |name: &str, given: &str, real: &str| json!({"name": name, "allocatedResources": {"cpu": given}, "resources": of(real)});
        let bare = json!({"name": "c", "allocatedResources": {"cpu": "9"}});
        let hopeless = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        let deferred = json!([{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]);
        let whole = |asked: &str| json!({"containers": [{"name": "c", "resources": of("1")}], "resources": of(asked)});
        let table = [
            (spec.clone(), json!({}), 3000),
            (spec.clone(), json!({"containerStatuses": [has("c", "3", "1")]}), 4000),
            (spec.clone(), json!({"containerStatuses": [has("c", "1", "5")]}), 6000),
            (spec.clone(), json!({"containerStatuses": [has("c", "1", "1")]}), 3000),
            (spec.clone(), json!({"containerStatuses": [has("c", "1", "1")], "conditions": deferred}), 3000),
            (spec.clone(), json!({"containerStatuses": [has("c", "1", "1")], "conditions": hopeless}), 2000),
            (spec.clone(), json!({"containerStatuses": [bare]}), 3000),
            (spec.clone(), json!({"initContainerStatuses": [has("s", "4", "1")]}), 6000),
            // Only what lasts is resized.
            (spec, json!({"initContainerStatuses": [has("f", "9", "9")]}), 3000),
            (whole("2"), json!({}), 2000),
            (whole("2"), json!({"resources": of("4"), "allocatedResources": {"cpu": "3"}}), 4000),
            (whole("5"), json!({"resources": of("4"), "conditions": hopeless}), 4000),
            (whole("2"), json!({"allocatedResources": {"cpu": "3"}}), 2000),
        ];
        for (spec, status, milli) in table {
            let (read, now) = (serde_json::from_value(spec.clone()), serde_json::from_value(status.clone()));
            let found = pod_requests(&read.unwrap(), Some(&now.unwrap()), Gates::default()).0;
            assert_eq!(found.milli_cpu, milli, "{spec} with {status}");
        }
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_counts_where_it_may() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let spec = json!({"containers": [{"name": "c", "resources": of("1")}], "resources": of("3")});
        let status = json!({"resources": of("5"), "allocatedResources": {"cpu": "4"}});
        let found = |gates: Gates| {
            let (spec, status) =
                (serde_json::from_value(spec.clone()), serde_json::from_value(status.clone()));
            pod_requests(&spec.unwrap(), Some(&status.unwrap()), gates).0.milli_cpu
        };
        let without = |gate| Gates::default().with(gate, false);
        assert_eq!(found(Gates::default()), 5000);
        assert_eq!(found(without(Gate::InPlacePodLevelResourcesVerticalScaling)), 3000);
        assert_eq!(found(without(Gate::PodLevelResources)), 1000);
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
        let (exact, counted) = pod_requests(&spec, None, Gates::default());
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
