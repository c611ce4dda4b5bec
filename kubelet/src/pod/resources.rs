//! Amounts of cpu and memory of containers and pods, in the units of the kernel.

use std::collections::BTreeMap;

use component_base::quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
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
/// The CFS period in microseconds.
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
pub fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(CFS_PERIOD) / 1000).max(1000)
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

/// The limits of one container's cgroup.
#[must_use]
pub fn container_limits(container: &Container, cfs_quota: bool) -> CgroupLimits {
    let cpu_limit = limit(container, CPU).filter(|v| *v > 0);
    CgroupLimits {
        cpu_shares: Some(shares(request(container, CPU).unwrap_or(0))),
        cpu_quota: cpu_limit.filter(|_| cfs_quota).map(quota),
        cpu_period: Some(CFS_PERIOD),
        memory_limit: limit(container, MEMORY).map(|m| m / 1000).filter(|m| *m > 0),
        pids_limit: None,
    }
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
pub fn pod_limits(pod: &Pod, cfs_quota: bool, pids: Option<i64>) -> CgroupLimits {
    let best_effort = super::qos::class(pod) == super::qos::QosClass::BestEffort;
    let cpu = pod_request(pod, CPU);
    CgroupLimits {
        cpu_shares: Some(if best_effort { MIN_SHARES } else { shares(cpu) }),
        cpu_quota: pod_limit(pod, CPU).filter(|v| *v > 0 && cfs_quota).map(quota),
        cpu_period: Some(CFS_PERIOD),
        memory_limit: pod_limit(pod, MEMORY).map(|m| m / 1000).filter(|m| *m > 0),
        pids_limit: pids,
    }
}
