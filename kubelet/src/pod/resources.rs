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

/// Shares to thousandths of a cpu; they round down, so the way back rounds up.
fn from_shares(shares: i64) -> i64 {
    shares.saturating_mul(1000).saturating_add(1023) / 1024
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
        let value = quantity::Quantity::from_milli(from_shares(shares), quantity::Format::DecimalSI);
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

/// Whether the pod has resources of its own as a whole that count.
#[must_use]
pub fn has_pod_level(pod: &Pod) -> bool {
    let level = super::spec(pod).resources.iter().flat_map(|r| [&r.requests, &r.limits]);
    level.flatten().flat_map(BTreeMap::keys).any(|name| is_of_pods(name))
}

/// What the names of huge pages begin with.
const HUGE_PAGES: &str = "hugepages-";

/// The pod's request of `name` in thousandths: the larger of what its regular containers and sidecars need together
/// and what any init container needs beside the sidecars started before it; pod-level requests win.
#[must_use]
pub fn pod_request(pod: &Pod, name: &str) -> i64 {
    let spec = super::spec(pod);
    let level = spec.resources.as_ref().and_then(|r| amount(r.requests.as_ref(), name));
    let containers = || pod_total(pod, |c| Some(request(c, name).unwrap_or(0))).unwrap_or(0);
    level.unwrap_or_else(containers).saturating_add(amount(spec.overhead.as_ref(), name).unwrap_or(0))
}

/// What the pod's containers request of `name` in thousandths, whatever the pod says as a whole.
#[must_use]
pub fn containers_request(pod: &Pod, name: &str) -> i64 {
    let own = |c: &Container| amount(c.resources.as_ref().and_then(|r| r.requests.as_ref()), name);
    pod_total(pod, |c| Some(own(c).unwrap_or(0))).unwrap_or(0)
}

/// The pod's limit of `name` in thousandths, or `None` when some container is unlimited.
#[must_use]
pub fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    let spec = super::spec(pod);
    let level = spec.resources.as_ref().and_then(|r| amount(r.limits.as_ref(), name));
    let total = level.or_else(|| pod_total(pod, |c| limit(c, name).filter(|v| *v > 0)))?;
    Some(total.saturating_add(amount(spec.overhead.as_ref(), name).unwrap_or(0)))
}

type List = BTreeMap<String, Quantity>;

/// Which of the two lists of a container's or pod's resources is meant.
type Which = fn(&ResourceRequirements) -> Option<&List>;

/// All that the pod asks for, by resource: what its containers need at most at once, or what it says as a whole, with what
/// the sandbox takes.
#[must_use]
pub fn all_requests(pod: &Pod) -> List {
    let which: Which = |r| r.requests.as_ref();
    let mut all = level_or_total(pod, which);
    for (name, amount) in read(super::spec(pod).overhead.as_ref()) {
        add(&mut all, &name, amount);
    }
    written(all)
}

/// Bytes of huge pages in a list, by the size of a page.
#[must_use]
pub fn huge_pages(list: Option<&List>) -> BTreeMap<i64, i64> {
    let one = |(name, amount): (&String, &Quantity)| {
        Some((whole(name.strip_prefix(HUGE_PAGES)?)?, whole(&amount.0)?))
    };
    list.into_iter().flatten().filter_map(one).collect()
}

/// A size of huge pages in the words of the kernel's cgroups and of runtimes: `2MB`.
#[must_use]
pub fn huge_page_name(size: i64) -> String {
    match size {
        size if size >= 1 << 30 => format!("{}GB", size >> 30),
        size if size >= 1 << 20 => format!("{}MB", size >> 20),
        size => format!("{}KB", size >> 10),
    }
}

/// All that the pod may have at most, by resource; containers without a limit count for nothing.
fn all_limits(pod: &Pod) -> List {
    let mut all = level_or_total(pod, |r| r.limits.as_ref());
    for (name, amount) in read(super::spec(pod).overhead.as_ref()) {
        if let Some(limit) = all.get_mut(&name) {
            *limit = *limit + amount;
        }
    }
    written(all)
}

type Amounts = BTreeMap<String, quantity::Quantity>;

fn read(list: Option<&List>) -> Amounts {
    let parsed =
        |(name, amount): (&String, &Quantity)| Some((name.clone(), quantity::Quantity::from_api(amount)?));
    list.into_iter().flatten().filter_map(parsed).collect()
}

fn written(list: Amounts) -> List {
    list.into_iter().map(|(name, amount)| (name, amount.to_api())).collect()
}

fn add(list: &mut Amounts, name: &str, amount: quantity::Quantity) {
    let sum = list.get(name).map_or(amount, |before| *before + amount);
    list.insert(name.to_owned(), sum);
}

fn level_or_total(pod: &Pod, which: Which) -> Amounts {
    let mut all = total(pod, which);
    let level = super::spec(pod).resources.as_ref().and_then(which);
    all.extend(read(level).into_iter().filter(|(name, _)| is_of_pods(name)));
    all
}

/// What containers need at most at once.
fn total(pod: &Pod, which: Which) -> Amounts {
    let of = |container: &Container| read(container.resources.as_ref().and_then(which));
    let (mut sum, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in super::containers(pod) {
        of(container).iter().for_each(|(name, amount)| add(&mut sum, name, *amount));
    }
    for container in super::init_containers(pod) {
        let own = of(container);
        let sidecar = super::is_sidecar(container);
        if sidecar {
            own.iter().for_each(|(name, amount)| add(&mut sidecars, name, *amount));
            own.iter().for_each(|(name, amount)| add(&mut sum, name, *amount));
        }
        let mut beside = if sidecar { Amounts::new() } else { own };
        sidecars.iter().for_each(|(name, amount)| add(&mut beside, name, *amount));
        larger(&mut peak, beside);
    }
    larger(&mut sum, peak);
    sum
}

fn larger(list: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let before = list.get(&name).copied();
        list.insert(name, before.map_or(amount, |before| before.max(amount)));
    }
}

/// Resources that pods can have as a whole.
fn is_of_pods(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES)
}

/// The pod's resources as a whole as its status tells them: what it was given, and once it `runs` what its cgroup has of
/// processors and memory (KEP-5419).
#[must_use]
pub fn level_reported(pod: &Pod, runs: bool, cgroup: &CgroupLimits) -> ResourceRequirements {
    let mut told = super::spec(pod).resources.clone().unwrap_or_default();
    if !runs {
        (told.requests, told.limits) = (Some(all_requests(pod)), Some(all_limits(pod)));
        return tidied(told);
    }
    let said = |list: &Option<List>, name| amount(list.as_ref(), name).unwrap_or(0);
    let set = |list: &mut Option<List>, name: &str, value: quantity::Quantity| {
        list.get_or_insert_default().insert(name.to_owned(), value.to_api());
    };
    let milli = |value| quantity::Quantity::from_milli(value, quantity::Format::DecimalSI);
    // The least the kernel takes says nothing of what was asked for.
    let cpu = from_shares(cgroup.cpu_shares.unwrap_or(0));
    if cpu > 0 && cpu.max(said(&told.requests, CPU)) > MIN_SHARES {
        set(&mut told.requests, CPU, milli(cpu));
    }
    let all = all_requests(pod);
    if let (0, Some(memory)) = (said(&told.requests, MEMORY), all.get(MEMORY)) {
        told.requests.get_or_insert_default().insert(MEMORY.to_owned(), memory.clone());
    }
    let cpu = cgroup
        .cpu_quota
        .map_or(0, |quota| quota.saturating_mul(1000) / cgroup.cpu_period.unwrap_or(CFS_PERIOD).max(1));
    if cpu > 0 && cpu.max(said(&told.limits, CPU)) > MIN_MILLI_LIMIT {
        set(&mut told.limits, CPU, milli(cpu));
    }
    if let Some(memory) = cgroup.memory_limit.filter(|m| *m > 0) {
        set(&mut told.limits, MEMORY, quantity::Quantity::new(memory, quantity::Format::BinarySI));
    }
    tidied(told)
}

/// What the runtime is told that the pod's containers may have together, the sandbox's own share apart. Containers without
/// a limit count for nothing. Cpu limits are told where there is a period.
#[must_use]
pub fn sandbox_limits(pod: &Pod, cfs_period: Option<i64>) -> CgroupLimits {
    let of = |all: &Amounts, name: &str| all.get(name).map(|amount| amount.milli_value());
    let requests = level_or_total(pod, |r| r.requests.as_ref());
    let limits = level_or_total(pod, |r| r.limits.as_ref());
    let cpu = of(&limits, CPU);
    linux(of(&requests, CPU).or(cpu), cpu, of(&limits, MEMORY), cfs_period)
}

/// What the runtime is told that the sandbox itself takes, of pods of which that is known.
#[must_use]
pub fn overhead_limits(pod: &Pod, cfs_period: Option<i64>) -> Option<CgroupLimits> {
    let overhead = super::spec(pod).overhead.as_ref()?;
    let cpu = amount(Some(overhead), CPU);
    Some(linux(cpu, cpu, amount(Some(overhead), MEMORY), cfs_period))
}

/// Amounts in thousandths as a cgroup has them.
fn linux(request: Option<i64>, cpu: Option<i64>, memory: Option<i64>, period: Option<i64>) -> CgroupLimits {
    CgroupLimits {
        cpu_shares: Some(shares(request.unwrap_or(0))),
        cpu_quota: cpu.filter(|milli| *milli > 0).zip(period).map(|(milli, period)| quota(milli, period)),
        cpu_period: period,
        memory_limit: memory.map(|milli| milli / 1000).filter(|bytes| *bytes > 0),
        ..CgroupLimits::default()
    }
}

/// Thousandths of a cpu whose quota is the least the kernel takes.
const MIN_MILLI_LIMIT: i64 = 10;

/// Empty lists are none.
fn tidied(mut list: ResourceRequirements) -> ResourceRequirements {
    list.requests = list.requests.filter(|l| !l.is_empty());
    list.limits = list.limits.filter(|l| !l.is_empty());
    list
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

    fn lists(told: &ResourceRequirements) -> serde_json::Value {
        serde_json::to_value(told).unwrap()
    }

    #[test]
    fn a_pods_resources_as_a_whole_are_told_though_it_says_none_itself() {
        let pod = testing::pod("a")
            .container("c")
            .resources(json!({"requests": {"cpu": "100m", "memory": "1Gi", "example.com/d": "1"}, "limits": {"cpu": "200m", "example.com/d": "1"}}))
            .container("d")
            .resources(json!({"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"cpu": "100m"}}))
            .init("i")
            .sidecar("s")
            .with(|p| {
                let spec = p.spec.get_or_insert_default();
                spec.overhead = serde_json::from_value(json!({"cpu": "10m", "memory": "1Mi"})).unwrap();
                let of = |r| serde_json::from_value(r).unwrap();
                let inits = spec.init_containers.as_mut().unwrap();
                inits[0].resources = of(json!({"requests": {"cpu": "1", "ephemeral-storage": "2Gi"}}));
                inits[1].resources = of(json!({"requests": {"cpu": "5m"}}));
            })
            .build();
        let requests =
            json!({"cpu": "1010m", "memory": "1537Mi", "ephemeral-storage": "2Gi", "example.com/d": "1"});
        assert_eq!(serde_json::to_value(all_requests(&pod)).unwrap(), requests);
        let limits = pod_limits(&pod, Some(CFS_PERIOD), None);
        let expected = json!({"requests": requests, "limits": {"cpu": "310m", "example.com/d": "1"}});
        assert_eq!(lists(&level_reported(&pod, false, &limits)), expected);
        let running = json!({"requests": {"cpu": "1010m", "memory": "1537Mi"}, "limits": {"cpu": "310m"}});
        let cgroup = CgroupLimits { cpu_quota: Some(31_000), ..limits };
        assert_eq!(lists(&level_reported(&pod, true, &cgroup)), running);
    }

    #[test]
    fn what_a_pod_says_as_a_whole_counts_and_what_the_kernel_has_is_told() {
        let best_effort = testing::pod("a").container("c").build();
        let least = pod_limits(&best_effort, Some(CFS_PERIOD), None);
        for runs in [false, true] {
            assert_eq!(lists(&level_reported(&best_effort, runs, &least)), json!({}));
        }
        let pod = testing::pod("a")
            .container("c")
            .with(|p| {
                let level = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}});
                let spec = p.spec.get_or_insert_default();
                spec.resources = serde_json::from_value(level).unwrap();
                spec.overhead = serde_json::from_value(json!({"cpu": "500m"})).unwrap();
            })
            .build();
        assert_eq!(pod_request(&pod, CPU), 1500, "the sandbox comes on top");
        assert_eq!(pod_limit(&pod, CPU), Some(2500));
        let before = CgroupLimits {
            cpu_shares: Some(512),
            cpu_quota: Some(100_000),
            memory_limit: Some(1 << 30),
            ..CgroupLimits::default()
        };
        let told =
            json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(lists(&level_reported(&pod, true, &before)), told);
    }

    #[test]
    fn the_runtime_is_told_of_containers_and_sandbox_apart() {
        let pod = testing::pod("a")
            .container("c")
            .resources(json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}))
            .container("d")
            .resources(json!({"requests": {"cpu": "250m"}}))
            .with(|p| {
                let overhead = json!({"cpu": "100m", "memory": "16Mi"});
                p.spec.get_or_insert_default().overhead = serde_json::from_value(overhead).unwrap();
            })
            .build();
        let shown = |l: &CgroupLimits| (l.cpu_shares, l.cpu_quota, l.cpu_period, l.memory_limit);
        let (period, own) = (Some(CFS_PERIOD), sandbox_limits(&pod, Some(CFS_PERIOD)));
        assert_eq!(shown(&own), (Some(512), Some(50_000), period, Some(64 << 20)));
        let overhead = overhead_limits(&pod, period).unwrap();
        assert_eq!(shown(&overhead), (Some(102), Some(10_000), period, Some(16 << 20)));
        assert_eq!(shown(&sandbox_limits(&pod, None)), (Some(512), None, None, Some(64 << 20)));
        assert_eq!(overhead_limits(&testing::pod("b").build(), period), None);
    }
}
