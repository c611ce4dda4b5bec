//! Eviction under pressure, and removal of images that nobody uses.
//!
//! [`plan`] is pure: from signals and thresholds to what presses and whom to evict. The loop observes every ten seconds.
//! Contract: node-pressure eviction, hard thresholds; defaults as upstream's.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use component_base::task::Tasks;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    cgroup::{Cgroups, Version},
    events::{EventSink, Severity, node_reference},
    node::{
        machine::{self, FsUsage},
        status::Pressure,
    },
    options::Config,
    pod::{self, resources},
    pods::Pods,
    runtime::{Runtime, cri},
    status::generate::Verdict,
    worker::Shared,
};

const PERIOD: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Bytes of memory that can still be had.
    MemoryAvailable,
    /// Bytes of the kubelet's file system.
    NodeFsAvailable,
    /// Inodes of the kubelet's file system.
    NodeFsInodesFree,
    /// Bytes of the images' file system.
    ImageFsAvailable,
    /// Process ids.
    PidAvailable,
}

impl Signal {
    /// As thresholds and messages name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::PidAvailable => "pid.available",
        }
    }

    const ALL: [Self; 5] = [
        Self::MemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::PidAvailable,
    ];

    /// The resource that is reclaimed.
    fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
            _ => "ephemeral-storage",
        }
    }
}

/// How little is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So much.
    Amount(i64),
    /// Such a part, 0.0 to 1.0.
    Part(f64),
}

impl Limit {
    /// The amount, of so much in all.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    pub fn amount(&self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => *amount,
            // Rounding of bytes does not matter here.
            Self::Part(part) => (capacity as f64 * part) as i64,
        }
    }
}

/// The hard thresholds: those given, else the defaults. A value that does not parse is left out with a word in the log.
#[must_use]
pub fn thresholds(given: Option<&BTreeMap<String, String>>) -> BTreeMap<Signal, Limit> {
    let defaults = || {
        BTreeMap::from([
            (Signal::MemoryAvailable, Limit::Amount(100 << 20)),
            (Signal::NodeFsAvailable, Limit::Part(0.10)),
            (Signal::NodeFsInodesFree, Limit::Part(0.05)),
            (Signal::ImageFsAvailable, Limit::Part(0.15)),
        ])
    };
    let Some(given) = given else { return defaults() };
    let mut limits = BTreeMap::new();
    for (name, text) in given {
        let signal = Signal::ALL.into_iter().find(|s| s.as_str() == name);
        let limit = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(|p| Limit::Part(p / 100.0)),
            None => resources::whole(text).map(Limit::Amount),
        };
        match (signal, limit) {
            (Some(signal), Some(limit)) => {
                limits.insert(signal, limit);
            }
            _ => tracing::warn!(name, text, "unknown eviction threshold"),
        }
    }
    limits
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// What there is in all.
    pub capacity: i64,
}

/// A pod as eviction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The pod.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// Bytes of memory it uses.
    pub usage: i64,
    /// Bytes of memory it requests.
    pub request: i64,
    /// Static and node-critical pods are never evicted.
    pub critical: bool,
}

/// What to do about pressure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the node's conditions say.
    pub pressure: Pressure,
    /// Signals below their threshold: what is left, and the threshold.
    pub met: Vec<(Signal, i64, i64)>,
    /// The pod to evict.
    pub evict: Option<String>,
}

/// Decides.
#[must_use]
pub fn plan(
    observed: &BTreeMap<Signal, Observation>,
    limits: &BTreeMap<Signal, Limit>,
    pods: &[Candidate],
) -> Plan {
    let mut plan = Plan::default();
    for (signal, limit) in limits {
        let Some(now) = observed.get(signal) else { continue };
        let threshold = limit.amount(now.capacity);
        if now.available >= threshold {
            continue;
        }
        plan.met.push((*signal, now.available, threshold));
        match signal {
            Signal::MemoryAvailable => plan.pressure.memory = true,
            Signal::PidAvailable => plan.pressure.pids = true,
            _ => plan.pressure.disk = true,
        }
    }
    if !plan.met.is_empty() {
        // Beyond its request first, then lower priority, then the larger excess.
        let mut ranked: Vec<&Candidate> = pods.iter().filter(|p| !p.critical).collect();
        ranked.sort_by_key(|p| (p.usage <= p.request, p.priority, std::cmp::Reverse(p.usage - p.request)));
        plan.evict = ranked.first().map(|p| p.uid.clone());
    }
    plan
}

/// Bytes of memory in use that cannot be dropped, of one cgroup.
#[must_use]
pub fn working_set(cgroups: &Cgroups, path: &str) -> Option<i64> {
    let folder = cgroups.stats_folder("memory", path);
    let (usage, key) = match cgroups.version() {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file "),
        Version::V2 => ("memory.current", "inactive_file "),
    };
    // A cgroup that is gone has no figures.
    let usage: i64 = std::fs::read_to_string(folder.join(usage)).ok()?.trim().parse().ok()?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).ok()?;
    let inactive: i64 = stat.lines().find_map(|l| l.strip_prefix(key))?.trim().parse().ok()?;
    Some((usage - inactive).max(0))
}

fn observe(config: &Config, images: Option<&Path>) -> BTreeMap<Signal, Observation> {
    let mut all = BTreeMap::new();
    if let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo")
        && let (Some(available), Some(total)) =
            (machine::kilobytes(&meminfo, "MemAvailable:"), machine::kilobytes(&meminfo, "MemTotal:"))
    {
        let seen = Observation { available: available * 1024, capacity: total * 1024 };
        all.insert(Signal::MemoryAvailable, seen);
    }
    if let Ok(FsUsage { capacity, available, inodes, inodes_free }) = machine::fs_usage(&config.root_dir) {
        all.insert(Signal::NodeFsAvailable, Observation { available, capacity });
        if inodes > 0 {
            all.insert(Signal::NodeFsInodesFree, Observation { available: inodes_free, capacity: inodes });
        }
    }
    if let Some(Ok(usage)) = images.map(|path| machine::fs_usage(&path.to_path_buf())) {
        let seen = Observation { available: usage.available, capacity: usage.capacity };
        all.insert(Signal::ImageFsAvailable, seen);
    }
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    if let Some(most) = number("/proc/sys/kernel/pid_max")
        && let Ok(load) = std::fs::read_to_string("/proc/loadavg")
        && let Some(used) = load.split(['/', ' ']).nth(4).and_then(|n| n.parse::<i64>().ok())
    {
        all.insert(Signal::PidAvailable, Observation { available: most - used, capacity: most });
    }
    all
}

fn candidates(pods: &[Pod], cgroups: Option<&Cgroups>) -> Vec<Candidate> {
    pods.iter()
        .filter(|p| !pod::is_terminal(p))
        .map(|p| Candidate {
            uid: pod::uid(p).to_owned(),
            priority: pod::spec(p).priority.unwrap_or(0),
            usage: cgroups.and_then(|c| working_set(c, &c.pod(p))).unwrap_or(0),
            request: resources::pod_request(p, resources::MEMORY) / 1000,
            critical: pod::is_static(p) || pod::spec(p).priority.is_some_and(|v| v >= 2_000_000_000),
        })
        .collect()
}

/// Watches for pressure until the drain; the result goes into the node's conditions.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, config: Config, tasks: &Tasks) -> Arc<Mutex<Pressure>> {
    let result = Arc::new(Mutex::new(Pressure::default()));
    let (pressure, drain) = (Arc::clone(&result), tasks.drain());
    let limits = thresholds(config.file.eviction_hard.as_ref());
    tasks.spawn("eviction", async move {
        let mut since: Option<Instant> = None;
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let images = image_folder(&shared.runtime).await;
            let observed = observe(&config, images.as_deref());
            let list = pods.list();
            let plan = plan(&observed, &limits, &candidates(&list, shared.cgroups.as_ref()));
            collect_images(&shared, &config, images.as_deref(), plan.pressure.disk).await;
            if plan.met.is_empty() {
                // Conditions stay for a while so that they do not flap.
                if since.is_none_or(|at| at.elapsed() > config.file.eviction_pressure_transition_period.0) {
                    *pressure.lock() = Pressure::default();
                    shared.allocations.set_pressure(Pressure::default());
                }
                continue;
            }
            since = Some(Instant::now());
            *pressure.lock() = plan.pressure;
            shared.allocations.set_pressure(plan.pressure);
            evict(&plan, &pods, &*shared.events, &config.node_name);
        }
    });
    result
}

fn evict(plan: &Plan, pods: &Pods, events: &dyn EventSink, node: &str) {
    for (signal, available, threshold) in &plan.met {
        let text = format!("Attempting to reclaim {}", signal.resource());
        events.send(node_reference(node), Severity::Warning, "EvictionThresholdMet", &text);
        tracing::warn!(signal = signal.as_str(), available, threshold, "eviction threshold met");
    }
    let (Some(uid), Some((signal, available, threshold))) = (&plan.evict, plan.met.first()) else { return };
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {threshold}, available: {available}. ",
        signal.resource()
    );
    pods.end(uid, Some(0), Verdict { reason: "Evicted".to_owned(), message });
}

async fn image_folder(runtime: &Runtime) -> Option<PathBuf> {
    // Without an answer there is nothing to observe this time.
    let filesystems = runtime.image_filesystems().await.ok()?;
    Some(PathBuf::from(filesystems.into_iter().next()?.fs_id?.mountpoint))
}

/// Removes unused images while their disk is fuller than it may be.
async fn collect_images(shared: &Shared, config: &Config, folder: Option<&Path>, pressed: bool) {
    let Some(Ok(usage)) = folder.map(|f| machine::fs_usage(&f.to_path_buf())) else { return };
    if usage.capacity <= 0 {
        return;
    }
    let used = 100 - usage.available.saturating_mul(100) / usage.capacity;
    if used < i64::from(config.file.image_gc_high_threshold_percent) && !pressed {
        return;
    }
    let goal = usage.capacity / 100 * (used - i64::from(config.file.image_gc_low_threshold_percent)).max(0);
    let Ok(images) = shared.runtime.list_images().await else { return };
    let Ok(in_use) = shared.runtime.images_in_use().await else { return };
    let sandbox = shared.runtime.sandbox_image().await;
    let is_sandbox = |image: &cri::Image| sandbox.as_ref().is_some_and(|s| image.repo_tags.contains(s));
    let mut freed = 0i64;
    for image in unused(images, &in_use).filter(|i| !is_sandbox(i)) {
        if freed >= goal && !pressed {
            break;
        }
        match shared.runtime.remove_image(&image.id).await {
            Ok(()) => freed = freed.saturating_add(i64::try_from(image.size).unwrap_or(0)),
            Err(error) => tracing::warn!(image = image.id, %error, "cannot remove the image"),
        }
    }
}

fn unused(images: Vec<cri::Image>, in_use: &HashSet<String>) -> impl Iterator<Item = cri::Image> {
    images.into_iter().filter(|i| !i.pinned && !in_use.contains(&i.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(uid: &str, priority: i32, usage: i64, request: i64) -> Candidate {
        Candidate { uid: uid.into(), priority, usage, request, critical: false }
    }

    #[test]
    fn the_largest_excess_of_the_lowest_priority_goes_first() {
        let limits = thresholds(None);
        let low =
            BTreeMap::from([(Signal::MemoryAvailable, Observation { available: 1, capacity: 1 << 30 })]);
        let pods = [
            candidate("modest", 0, 10, 20),
            candidate("important", 9, 90, 10),
            candidate("greedy", 0, 80, 10),
            candidate("small", 0, 20, 10),
        ];
        let made = plan(&low, &limits, &pods);
        assert_eq!(made.evict.as_deref(), Some("greedy"));
        assert!(made.pressure.memory && !made.pressure.disk);
        let critical = [Candidate { critical: true, ..candidate("c", 0, 99, 0) }];
        assert_eq!(plan(&low, &limits, &critical).evict, None);
        let fine = BTreeMap::from([(
            Signal::MemoryAvailable,
            Observation { available: 1 << 30, capacity: 1 << 30 },
        )]);
        assert_eq!(plan(&fine, &limits, &pods), Plan::default());
    }

    #[test]
    fn thresholds_are_amounts_or_parts() {
        let given = BTreeMap::from([
            ("memory.available".to_owned(), "1Mi".to_owned()),
            ("nodefs.available".to_owned(), "10%".to_owned()),
            ("nope".to_owned(), "1".to_owned()),
        ]);
        let limits = thresholds(Some(&given));
        assert_eq!(limits.len(), 2);
        assert_eq!(limits[&Signal::MemoryAvailable].amount(0), 1 << 20);
        assert_eq!(limits[&Signal::NodeFsAvailable].amount(1000), 100);
    }
}
