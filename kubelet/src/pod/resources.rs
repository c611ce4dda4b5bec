//! Amounts of cpu and memory of containers and pods, in the units of the kernel.

use std::collections::{BTreeMap, BTreeSet};

use component_base::quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// The name of the memory resource.
pub const MEMORY: &str = "memory";
/// The name of the cpu resource.
pub const CPU: &str = "cpu";

/// Fewest cpu shares the kernel takes.
pub const MIN_SHARES: i64 = 2;
/// Most cpu shares the kernel takes.
pub const MAX_SHARES: i64 = 262_144;
/// The CFS period in microseconds, where nothing else is asked for.
pub const CFS_PERIOD: i64 = 100_000;

/// What a cgroup is told. Zero and `None` mean: no setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Relative weight, 2..=262144.
    pub cpu_shares: Option<i64>,
    /// Microseconds of cpu time per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<i64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Number of tasks.
    pub pids_limit: Option<i64>,
    /// Bytes that the kernel never takes back (cgroup v2).
    pub memory_min: Option<i64>,
    /// Bytes that the kernel takes back last (cgroup v2).
    pub memory_low: Option<i64>,
}

/// The amount of `name` in thousandths, or `None` when it is not listed or does not parse.
#[must_use]
pub fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    let text = &list?.get(name)?.0;
    milli(text)
}

/// A quantity in thousandths, rounded up.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    text.parse::<quantity::Quantity>().ok().map(|q| q.milli_value())
}

/// A quantity in whole units, rounded up.
#[must_use]
pub fn whole(text: &str) -> Option<i64> {
    text.parse::<quantity::Quantity>().ok().map(|q| q.value())
}

/// Thousandths of a cpu to shares: 1024 per cpu.
#[must_use]
pub fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        return MIN_SHARES;
    }
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Thousandths of a cpu to microseconds per period, at least 1 ms.
#[must_use]
pub fn quota(milli_cpu: i64, period: i64) -> i64 {
    (milli_cpu.saturating_mul(period) / 1000).max(1000)
}

/// A request or limit of the container: thousandths.
#[must_use]
pub fn request(container: &Container, name: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    amount(resources.requests.as_ref(), name).or_else(|| amount(resources.limits.as_ref(), name))
}

/// A limit of the container: thousandths.
#[must_use]
pub fn limit(container: &Container, name: &str) -> Option<i64> {
    amount(container.resources.as_ref()?.limits.as_ref(), name)
}

/// Where cpu limits are enforced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Their period in microseconds; none where none are.
    pub period: Option<i64>,
    /// Containers that have processors of their own: a limit would only keep them from using what is theirs.
    pub free: BTreeSet<String>,
}

impl Quotas {
    /// The period for a container, if its limit is enforced.
    #[must_use]
    pub fn of(&self, container: &str) -> Option<i64> {
        self.period.filter(|_| !self.free.contains(container))
    }

    /// The period for the pod as a whole, whose limit would be one of all its containers.
    #[must_use]
    pub fn of_pod(&self) -> Option<i64> {
        self.period.filter(|_| self.free.is_empty())
    }
}

/// The limits of one container's cgroup; a limit it does not have itself is its pod's, where that has one. Cpu limits are
/// enforced where there is a period, in microseconds.
#[must_use]
pub fn container_limits(pod: &Pod, container: &Container, cfs_period: Option<i64>) -> CgroupLimits {
    let level = super::spec(pod).resources.as_ref();
    let limit = |name| {
        let pods = || amount(level?.limits.as_ref(), name);
        limit(container, name).filter(|v| *v > 0).or_else(pods).filter(|v| *v > 0)
    };
    CgroupLimits {
        cpu_shares: Some(shares(request(container, CPU).unwrap_or(0))),
        cpu_quota: limit(CPU).zip(cfs_period).map(|(milli, period)| quota(milli, period)),
        cpu_period: Some(cfs_period.unwrap_or(CFS_PERIOD)),
        memory_limit: limit(MEMORY).map(|m| m / 1000).filter(|m| *m > 0),
        ..CgroupLimits::default()
    }
}

impl CgroupLimits {
    /// The looser of two, limit by limit.
    #[must_use]
    pub fn larger(&self, other: &Self) -> Self {
        let looser = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
        Self {
            cpu_shares: self.cpu_shares.max(other.cpu_shares),
            // No quota is written as -1, since a cgroup keeps what it is not told to change.
            cpu_quota: looser(self.cpu_quota, other.cpu_quota).or(Some(-1)),
            memory_limit: looser(self.memory_limit, other.memory_limit),
            ..*self
        }
    }
}

/// Which resources of a running container differ from what they should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Weight or quota.
    pub cpu: bool,
    /// The limit.
    pub memory: bool,
}

impl Difference {
    /// Between what the cgroup has and what it should have. The period is no resource of its own.
    #[must_use]
    pub fn between(actual: &CgroupLimits, wanted: &CgroupLimits) -> Self {
        Self {
            cpu: actual.cpu_shares.unwrap_or(MIN_SHARES) != wanted.cpu_shares.unwrap_or(MIN_SHARES)
                || actual.cpu_quota != wanted.cpu_quota,
            memory: actual.memory_limit != wanted.memory_limit,
        }
    }

    /// There is one.
    #[must_use]
    pub fn any(self) -> bool {
        self.cpu || self.memory
    }
}

/// A container's resources as its status tells them: what it was given, except where the kernel still has something else.
#[must_use]
pub fn reported(
    container: &Container,
    actual: Option<&CgroupLimits>,
    wanted: &CgroupLimits,
) -> ResourceRequirements {
    let mut told = container.resources.clone().unwrap_or_default();
    let Some(actual) = actual else { return told };
    let mut set = |list: fn(&mut ResourceRequirements) -> &mut Option<BTreeMap<String, Quantity>>,
                   name: &str,
                   value: quantity::Quantity| {
        list(&mut told).get_or_insert_default().insert(name.to_owned(), value.to_api());
    };
    if let Some(shares) = actual.cpu_shares.filter(|s| Some(*s) != wanted.cpu_shares) {
        // Shares round down, so the way back rounds up.
        let milli = shares.saturating_mul(1000).saturating_add(1023) / 1024;
        let value = quantity::Quantity::from_milli(milli, quantity::Format::DecimalSI);
        set(|r| &mut r.requests, CPU, value);
    }
    if let Some(quota) = actual.cpu_quota.filter(|q| Some(*q) != wanted.cpu_quota) {
        let milli = quota.saturating_mul(1000) / actual.cpu_period.unwrap_or(CFS_PERIOD).max(1);
        let value = quantity::Quantity::from_milli(milli, quantity::Format::DecimalSI);
        set(|r| &mut r.limits, CPU, value);
    }
    if let Some(bytes) = actual.memory_limit.filter(|m| Some(*m) != wanted.memory_limit) {
        set(|r| &mut r.limits, MEMORY, quantity::Quantity::new(bytes, quantity::Format::BinarySI));
    }
    told
}

/// The pod's request of `name` in thousandths: the larger of what its regular containers and sidecars need together
/// and what any init container needs beside the sidecars started before it; pod-level requests win.
#[must_use]
pub fn pod_request(pod: &Pod, name: &str) -> i64 {
    let spec = super::spec(pod);
    if let Some(level) = spec.resources.as_ref().and_then(|r| amount(r.requests.as_ref(), name)) {
        return level;
    }
    let total = pod_total(pod, |c| Some(request(c, name).unwrap_or(0))).unwrap_or(0);
    total + amount(spec.overhead.as_ref(), name).unwrap_or(0)
}

/// The pod's limit of `name` in thousandths, or `None` when some container is unlimited.
#[must_use]
pub fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    let spec = super::spec(pod);
    if let Some(level) = spec.resources.as_ref().and_then(|r| amount(r.limits.as_ref(), name)) {
        return Some(level);
    }
    let total = pod_total(pod, |c| limit(c, name).filter(|v| *v > 0))?;
    Some(total + amount(spec.overhead.as_ref(), name).unwrap_or(0))
}

fn pod_total(pod: &Pod, of: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let mut regular = 0i64;
    for container in super::containers(pod) {
        regular = regular.saturating_add(of(container)?);
    }
    let mut sidecars = 0i64;
    let mut peak = 0i64;
    for container in super::init_containers(pod) {
        let need = of(container)?;
        if super::is_sidecar(container) {
            sidecars = sidecars.saturating_add(need);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(need));
        }
    }
    Some(peak.max(regular.saturating_add(sidecars)))
}

/// The limits of the pod's own cgroup.
#[must_use]
pub fn pod_limits(pod: &Pod, cfs_period: Option<i64>, pids: Option<i64>) -> CgroupLimits {
    let best_effort = super::qos::class(pod) == super::qos::QosClass::BestEffort;
    let cpu = pod_request(pod, CPU);
    CgroupLimits {
        cpu_shares: Some(if best_effort { MIN_SHARES } else { shares(cpu) }),
        cpu_quota: pod_limit(pod, CPU)
            .filter(|v| *v > 0)
            .zip(cfs_period)
            .map(|(milli, period)| quota(milli, period)),
        cpu_period: Some(cfs_period.unwrap_or(CFS_PERIOD)),
        memory_limit: pod_limit(pod, MEMORY).map(|m| m / 1000).filter(|m| *m > 0),
        pids_limit: pids,
        ..CgroupLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn sized(resources: serde_json::Value) -> Container {
        Container { resources: serde_json::from_value(resources).unwrap(), ..testing::container("c") }
    }

    #[test]
    fn what_the_kernel_has_is_told_until_it_has_what_was_given() {
        let pod = testing::pod("a").build();
        let before = sized(json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "30m", "memory": "40Mi"}}));
        let after = sized(json!({"requests": {"cpu": "25m"}, "limits": {"cpu": "35m", "memory": "50Mi"}}));
        let (old, new) = (
            container_limits(&pod, &before, Some(CFS_PERIOD)),
            container_limits(&pod, &after, Some(CFS_PERIOD)),
        );
        assert_eq!(Difference::between(&old, &new), Difference { cpu: true, memory: true });
        assert!(!Difference::between(&new, &new).any());
        assert_eq!(reported(&after, Some(&new), &new), after.resources.clone().unwrap());
        assert_eq!(reported(&after, Some(&old), &new), before.resources.unwrap());
    }

    #[test]
    fn a_container_without_limits_has_its_pods() {
        let pod = testing::pod("a")
            .with(|p| {
                let level = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
                p.spec.get_or_insert_default().resources = serde_json::from_value(level).unwrap();
            })
            .build();
        let limits = container_limits(&pod, &sized(json!({"limits": {"cpu": "500m"}})), Some(CFS_PERIOD));
        assert_eq!((limits.cpu_quota, limits.memory_limit), (Some(50_000), Some(64 << 20)));
    }

    #[test]
    fn quotas_are_of_the_period_that_is_asked_for() {
        let (pod, spec) = (testing::pod("a").build(), sized(json!({"limits": {"cpu": "500m"}})));
        let of = |period| {
            let limits = container_limits(&pod, &spec, period);
            (limits.cpu_quota, limits.cpu_period)
        };
        assert_eq!(of(Some(10_000)), (Some(5000), Some(10_000)));
        assert_eq!(of(Some(1000)), (Some(1000), Some(1000)), "the kernel takes no less than a millisecond");
        assert_eq!(of(None), (None, Some(CFS_PERIOD)));
    }

    #[test]
    fn tiny_requests_share_the_least_weight() {
        let pod = testing::pod("a").build();
        let one = container_limits(&pod, &sized(json!({"requests": {"cpu": "1m"}})), Some(CFS_PERIOD));
        let two = container_limits(&pod, &sized(json!({"requests": {"cpu": "2m"}})), Some(CFS_PERIOD));
        assert!(!Difference::between(&one, &two).any());
    }
}
