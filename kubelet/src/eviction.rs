//! Eviction under pressure: the node is measured every ten seconds, what nobody needs is thrown away, and when that is not
//! enough, one pod has to go. Pods that take more of the disk than their own limits allow go in any case.
//!
//! ```text
//! measurements -> judge (thresholds, times) -> conditions of the node
//!                        `-> collect containers and images -> rank -> one pod is ended
//! ```
//! `threshold`, `judge` and `rank` are pure. Contract: node-pressure eviction; reasons and messages as upstream's.

pub mod judge;
pub mod rank;
pub mod threshold;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::task::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use self::{
    judge::{Judgement, Observation, Observations, State},
    threshold::{Signal, Starved, Threshold},
};
use crate::{
    admission,
    cgroup::Cgroups,
    events::{Severity, node_reference, pod_reference},
    image_gc::ImageGc,
    metrics,
    node::{
        machine::{self, FsUsage},
        status::Pressure,
    },
    options::Config,
    orphans, pod,
    pods::Pods,
    stats::{Collector, PodUsage},
    status::generate::Verdict,
    worker::{End, Shared},
};

const PERIOD: Duration = Duration::from_secs(10);
/// How long the end of an evicted pod is waited for before the next round.
const CLEANUP: Duration = Duration::from_secs(30);

/// What eviction works with.
pub struct Eviction {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The pods.
    pub pods: Arc<Pods>,
    /// What they use.
    pub stats: Arc<Collector>,
    /// The collector of images.
    pub images: Arc<ImageGc>,
    /// The configuration.
    pub config: Config,
    /// The thresholds of the configuration.
    pub thresholds: Vec<Threshold>,
}

/// Watches for pressure until the drain; the result goes into the node's conditions.
pub fn run(eviction: Eviction, tasks: &Tasks) -> Arc<Mutex<Pressure>> {
    let result = Arc::new(Mutex::new(Pressure::default()));
    let (pressure, mut ticks) = (Arc::clone(&result), tasks.ticks(PERIOD));
    tasks.spawn("eviction", async move {
        let mut state = State::default();
        while ticks.next().await {
            let evicted = eviction.round(&mut state, &pressure).await;
            ticks.until_drain(eviction.wait_for(&evicted)).await;
        }
    });
    result
}

impl Eviction {
    /// One round. Answers with the uids of the pods that have to go.
    async fn round(&self, state: &mut State, pressure: &Mutex<Pressure>) -> Vec<String> {
        let images = self.images.folder().await;
        let observed = Instant::now();
        let seen = self.observe(images.as_deref());
        let transition = self.config.file.eviction_pressure_transition_period.0;
        let found = state.judge(&self.thresholds, &seen, transition, Timestamp::now());
        *pressure.lock() = found.pressure;
        self.shared.allocations.set_pressure(found.pressure);
        let separate = images.as_deref().is_some_and(|folder| separate(folder, &self.config.root_dir));
        let evicted = self.end_overruns(separate).await;
        if !evicted.is_empty() {
            return evicted;
        }
        let Some(threshold) = found.act.first().copied() else { return vec![] };
        let what = threshold.signal.starved().as_str();
        let text = format!("Attempting to reclaim {what}");
        let node = node_reference(&self.config.node_name);
        self.shared.events.send(node, Severity::Warning, "EvictionThresholdMet", &text);
        tracing::warn!(
            signal = threshold.signal.as_str(),
            "eviction threshold met, attempting to reclaim {what}"
        );
        if self.reclaim(&found, threshold.signal, separate, images.as_deref()).await {
            return vec![];
        }
        let evicted = self.evict_one(&threshold, &seen, separate).await;
        if evicted.is_some() {
            let age = metrics::get().eviction_age.with_label_values(&[threshold.signal.as_str()]);
            age.observe(observed.elapsed().as_secs_f64());
        }
        evicted.into_iter().collect()
    }

    fn observe(&self, images: Option<&Path>) -> Observations {
        let mut all = observe(&self.config.root_dir, images);
        let kept = self.shared.cgroups.as_ref().and_then(all_pods);
        all.extend(kept.map(|seen| (Signal::AllocatableMemoryAvailable, seen)));
        all
    }

    /// Throws away what nobody needs. Answers whether all is well after that.
    async fn reclaim(
        &self,
        found: &Judgement,
        signal: Signal,
        separate: bool,
        images: Option<&Path>,
    ) -> bool {
        let disk = matches!(signal.starved(), Starved::Disk | Starved::Inodes);
        // With a file system of their own, images and containers take nothing of the kubelet's.
        if !disk || (separate && !signal.of_images()) {
            return false;
        }
        orphans::collect_dead(&self.shared.runtime, &self.pods).await;
        self.images.delete_unused().await;
        let now = self.observe(images);
        !found.act.iter().any(|t| judge::crossed(t, &now, true))
    }

    /// Ends the first pod that may go.
    async fn evict_one(&self, threshold: &Threshold, seen: &Observations, separate: bool) -> Option<String> {
        let pods: Vec<Pod> = self.active();
        let usage = self.usage(threshold.signal.starved()).await;
        for (pod, found) in rank::rank(&pods, &usage, threshold.signal, separate) {
            if admission::is_critical(pod) {
                continue;
            }
            let observed = seen.get(&threshold.signal);
            let message = rank::message(pod, found.map(|i| &usage[i]), threshold, observed);
            let grace = match threshold.grace {
                None => 1,
                Some(_) => {
                    i64::from(self.config.file.eviction_max_pod_grace_period).min(pod::grace_seconds(pod))
                }
            };
            self.end(pod, grace, &message, true);
            metrics::get().evictions.with_label_values(&[threshold.signal.as_str()]).inc();
            return Some(pod::uid(pod).to_owned());
        }
        tracing::warn!("unable to evict any pods from the node");
        None
    }

    /// Ends pods that take more of the disk than they may.
    async fn end_overruns(&self, separate: bool) -> Vec<String> {
        let counts = self.config.file.local_storage_capacity_isolation;
        if !counts || !self.pods.current().iter().any(|pod| rank::is_limited(pod)) {
            return vec![];
        }
        let pods = self.active();
        let usage = self.usage(Starved::Disk).await;
        let mut ended = Vec::new();
        for pod in pods.iter().filter(|p| rank::is_limited(p) && !admission::is_critical(p)) {
            let used = usage.iter().find(|u| u.uid == pod::uid(pod));
            let Some(over) = used.and_then(|used| rank::overrun(pod, used, separate)) else { continue };
            self.end(pod, 1, &over.message, false);
            metrics::get().evictions.with_label_values(&[over.signal]).inc();
            ended.push(pod::uid(pod).to_owned());
        }
        ended
    }

    fn active(&self) -> Vec<Pod> {
        let live = |p: &Pod| !pod::is_terminal(p) && self.shared.allocations.holds(pod::uid(p));
        self.pods.list().into_iter().filter(live).collect()
    }

    async fn usage(&self, starved: Starved) -> Vec<PodUsage> {
        let found = match starved {
            Starved::Memory | Starved::Pids => self.stats.compute().await,
            Starved::Disk | Starved::Inodes => self.stats.all().await,
        };
        // Pods without figures are ranked all the same.
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot measure what pods use");
            vec![]
        })
    }

    fn end(&self, pod: &Pod, grace: i64, message: &str, disrupted: bool) {
        self.shared.events.send(pod_reference(pod), Severity::Warning, "Evicted", message);
        tracing::warn!(pod = %pod::display(pod), message, "pod is evicted");
        let verdict = Verdict { reason: "Evicted".to_owned(), message: message.to_owned(), disrupted };
        self.pods.end(pod::uid(pod), End { grace: Some(grace), verdict: Some(verdict), gone: false });
    }

    /// Waits until the pods have ended, for a while.
    async fn wait_for(&self, uids: &[String]) {
        let gone = async {
            while uids.iter().any(|uid| self.shared.allocations.holds(uid)) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        if tokio::time::timeout(CLEANUP, gone).await.is_err() {
            tracing::warn!("evicted pods have not ended yet");
        }
    }
}

fn separate(images: &Path, own: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|m| m.dev());
    device(images) != device(own)
}

/// What the cgroup of all pods may still take; `None` without a limit.
fn all_pods(cgroups: &Cgroups) -> Option<Observation> {
    let path = cgroups.kubepods();
    let limit = cgroups.limits(&path).memory_limit?;
    let used = i64::try_from(cgroups.usage(&path)?.working_set).ok()?;
    Some(Observation { available: limit.saturating_sub(used), capacity: limit })
}

fn observe(own: &Path, images: Option<&Path>) -> Observations {
    let mut all = BTreeMap::new();
    if let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo")
        && let (Some(available), Some(total)) =
            (machine::kilobytes(&meminfo, "MemAvailable:"), machine::kilobytes(&meminfo, "MemTotal:"))
    {
        let seen = Observation { available: available * 1024, capacity: total * 1024 };
        all.insert(Signal::MemoryAvailable, seen);
    }
    if let Ok(usage) = machine::fs_usage(own) {
        all.extend(of_disk(usage, Signal::NodeFsAvailable, Signal::NodeFsInodesFree));
    }
    if let Some(Ok(usage)) = images.map(machine::fs_usage) {
        all.extend(of_disk(usage, Signal::ImageFsAvailable, Signal::ImageFsInodesFree));
    }
    if let Some(most) = machine::most_tasks(Path::new("/"))
        && let Ok(load) = std::fs::read_to_string("/proc/loadavg")
        && let Some(used) = load.split(['/', ' ']).nth(4).and_then(|n| n.parse::<i64>().ok())
    {
        all.insert(Signal::PidAvailable, Observation { available: most - used, capacity: most });
    }
    all
}

/// Bytes and inodes of a file system; some have no inodes to speak of.
fn of_disk(usage: FsUsage, bytes: Signal, inodes: Signal) -> Vec<(Signal, Observation)> {
    let FsUsage { capacity, available, inodes: all, inodes_free } = usage;
    let mut seen = vec![(bytes, Observation { available, capacity })];
    if all > 0 {
        seen.push((inodes, Observation { available: inodes_free, capacity: all }));
    }
    seen
}
