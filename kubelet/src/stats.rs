//! What node, pods, containers and volumes use: cpu, memory, disk and network. The API shows it, eviction decides by it.
//!
//! ```text
//! runtime's figures of containers --+
//! cgroups of pods ------------------+-> [`Collector`] -> summary, metrics, eviction
//! folders of logs and volumes ------+
//! drivers of volumes ---------------+
//! ```
//! Nothing is measured while nobody asks, and folders are walked only once in a while.

pub mod disk;
pub mod driven;
pub mod filesystems;
pub mod network;
pub mod processes;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::features::Gate;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Volume};
use parking_lot::Mutex;

use self::{
    disk::{Taken, Walks},
    driven::Driven,
    network::Interface,
};
use crate::{
    cgroup::{
        Cgroups,
        figures::Pressure,
        usage::{Swap, Usage},
    },
    csi::record::{self, Record},
    node::machine::{self, FsUsage},
    pod,
    pods::Pods,
    runtime::{RuntimeError, config::pod_log_dir, cri, observed},
    volume,
    worker::Shared,
};

/// Two looks at a counter that are nearer to each other than this tell no rate.
const LEAST_SPAN: i64 = 1000;

/// Cpu time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Compute {
    /// The counters.
    pub usage: Usage,
    /// Billionths of a cpu, between the last two looks.
    pub cpu_rate: Option<u64>,
    /// Bytes of memory up to the limit, where there is one.
    pub memory_left: Option<u64>,
    /// Bytes that were swapped out.
    pub swap: u64,
    /// Bytes that may be swapped out besides, where that is limited.
    pub swap_left: Option<u64>,
    /// For how long cpu, memory, and input and output were short, where the kernel tells.
    pub pressure: [Option<Pressure>; 3],
}

/// What one container uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Cpu and memory.
    pub compute: Compute,
    /// Its writable layer.
    pub root: Taken,
    /// Its logs.
    pub logs: Taken,
    /// Milliseconds since 1970.
    pub at: i64,
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Its name in the pod.
    pub name: String,
    /// The claim behind it.
    pub claim: Option<String>,
    /// It lives and dies with the pod, on the node's disk.
    pub ephemeral: bool,
    /// What it takes.
    pub taken: Taken,
    /// The file system it is on.
    pub disk: FsUsage,
    /// Its driver says that it is not as it should be, or that it is.
    pub abnormal: Option<bool>,
}

/// What one pod uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodUsage {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod as its source has it, while it has a worker.
    pub pod: Option<Arc<Pod>>,
    /// Its newest status, where that is known better than its source knows it.
    pub newest: Option<Arc<PodStatus>>,
    /// Its containers, by name.
    pub containers: Vec<ContainerUsage>,
    /// Cpu and memory of all of it.
    pub compute: Compute,
    /// Its interfaces; none for pods with the host's network.
    pub network: Vec<Interface>,
    /// Its volumes.
    pub volumes: Vec<VolumeUsage>,
    /// Writable layers, logs and ephemeral volumes on the node's disk.
    pub ephemeral: Taken,
}

impl PodUsage {
    /// How the pod is.
    #[must_use]
    pub fn status(&self) -> Option<&PodStatus> {
        self.newest.as_deref().or(self.pod.as_ref()?.status.as_ref())
    }
}

/// Rates from counters.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: i64,
    total: u64,
    rate: Option<u64>,
    seen: i64,
}

impl Rates {
    /// What is added to the counter in a second, where it was looked at before. `at` in milliseconds.
    #[must_use]
    pub fn of(&self, key: &str, at: i64, total: u64) -> Option<u64> {
        let mut all = self.0.lock();
        let Some(sample) = all.get_mut(key) else {
            all.insert(key.to_owned(), Sample { at, total, rate: None, seen: at });
            return None;
        };
        sample.seen = at;
        let span = at.saturating_sub(sample.at);
        if span >= LEAST_SPAN {
            let more = u128::from(total.saturating_sub(sample.total)) * 1000;
            let rate = more / u128::try_from(span).unwrap_or(1);
            *sample = Sample { at, total, rate: Some(u64::try_from(rate).unwrap_or(u64::MAX)), seen: at };
        }
        sample.rate
    }

    /// Forgets counters that nobody has looked at since.
    pub fn forget(&self, before: i64) {
        self.0.lock().retain(|_, sample| sample.seen >= before);
    }
}

/// Collects what is used.
pub struct Collector {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    rates: Rates,
    walks: Arc<Walks>,
    driven: Arc<Driven>,
}

impl Collector {
    /// Nothing collected yet. A walk through a folder, or a driver's word, counts for `period`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, pods: Arc<Pods>, period: Duration) -> Arc<Self> {
        let walks = Arc::new(Walks::new(period));
        let (csi, tasks) = (Arc::clone(&shared.csi), Arc::clone(&shared.tasks));
        let health = shared.gates.has(Gate::CSIVolumeHealth).then(|| Arc::clone(&shared.events));
        let driven = Arc::new(Driven::new(csi, tasks, period, health));
        Arc::new(Self { shared, pods, rates: Rates::default(), walks, driven })
    }

    /// Cpu and memory of all pods that have running containers, by namespace and name. Cheap enough for every scrape.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn compute(&self) -> Result<Vec<PodUsage>, RuntimeError> {
        let now = Timestamp::now().as_millisecond();
        // Nothing is copied: this goes on every few seconds.
        let known: HashMap<String, Arc<Pod>> =
            self.pods.current().into_iter().map(|p| (pod::uid(&p).to_owned(), p)).collect();
        let mut pods: BTreeMap<(String, String, String), PodUsage> = BTreeMap::new();
        for stats in self.shared.runtime.stats().await? {
            let Some((labels, container)) = self.container(stats) else { continue };
            let [uid, namespace, name] = labels;
            let entry = pods.entry((namespace.clone(), name.clone(), uid.clone())).or_insert_with(|| {
                let (pod, newest) = (known.get(&uid).cloned(), self.shared.statuses.get(&uid));
                PodUsage { pod, newest, uid, namespace, name, ..PodUsage::default() }
            });
            entry.containers.push(container);
        }
        let cgroups = self.shared.cgroups.as_ref();
        for usage in pods.values_mut() {
            usage.containers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            let own = usage.pod.as_ref().zip(cgroups).and_then(|(p, c)| c.usage(&c.pod(p)));
            usage.compute.usage = own.unwrap_or_else(|| sum(&usage.containers));
            usage.compute.cpu_rate = self.rates.of(&usage.uid, now, usage.compute.usage.cpu);
            if let Some((pod, cgroups)) = usage.pod.as_ref().zip(cgroups) {
                usage.compute.swap = usage.containers.iter().map(|c| c.compute.swap).sum();
                look(&mut usage.compute, cgroups, &cgroups.pod(pod));
                for container in &mut usage.containers {
                    look(&mut container.compute, cgroups, &cgroups.container(pod, &container.id));
                }
            }
        }
        self.rates.forget(now.saturating_sub(600_000));
        Ok(pods.into_values().collect())
    }

    /// Everything about all pods that have running containers.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn all(&self) -> Result<Vec<PodUsage>, RuntimeError> {
        let mut pods = self.compute().await?;
        let places = Places {
            pods: self.shared.pods_dir.clone(),
            logs: self.shared.settings.log_root.clone(),
            cgroups: self.shared.cgroups.clone(),
            walks: Arc::clone(&self.walks),
            driven: Arc::clone(&self.driven),
        };
        let walk = move || {
            pods.iter_mut().for_each(|usage| places.fill(usage, Instant::now()));
            pods
        };
        // A walk that panics is a bug; the figures without it are still right.
        match tokio::task::spawn_blocking(walk).await {
            Ok(pods) => Ok(pods),
            Err(error) => {
                tracing::error!(%error, "looking at the pods' folders failed");
                self.compute().await
            }
        }
    }

    /// A rate of the node's own.
    #[must_use]
    pub fn rate(&self, key: &str, total: u64) -> Option<u64> {
        self.rates.of(key, Timestamp::now().as_millisecond(), total)
    }

    /// Uid, namespace and name of the pod, and the figures of a container that runs.
    fn container(&self, stats: cri::ContainerStats) -> Option<([String; 3], ContainerUsage)> {
        let attributes = stats.attributes?;
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let value = |v: Option<cri::UInt64Value>| v.map_or(0, |v| v.value);
        // A container that has ended has no figures, and its successor has its name.
        let cpu = stats.cpu.filter(|c| c.usage_core_nano_seconds.is_some())?;
        let memory = stats.memory.unwrap_or_default();
        let labels = [observed::POD_UID, observed::POD_NAMESPACE, observed::POD_NAME].map(label);
        if labels[0].is_empty() {
            return None;
        }
        let (at, total) = (cpu.timestamp / 1_000_000, value(cpu.usage_core_nano_seconds));
        let measured = self.rates.of(&attributes.id, at, total);
        let layer = stats.writable_layer.unwrap_or_default();
        let container = ContainerUsage {
            name: label(observed::CONTAINER_NAME),
            id: attributes.id,
            compute: Compute {
                usage: Usage {
                    cpu: total,
                    memory: value(memory.usage_bytes),
                    working_set: value(memory.working_set_bytes),
                    rss: value(memory.rss_bytes),
                    faults: value(memory.page_faults),
                    major_faults: value(memory.major_page_faults),
                    tasks: 0,
                },
                cpu_rate: cpu.usage_nano_cores.map(|v| v.value).filter(|v| *v > 0).or(measured),
                memory_left: memory.available_bytes.map(|v| v.value).filter(|v| *v > 0),
                swap: stats.swap.and_then(|s| s.swap_usage_bytes).map_or(0, |v| v.value),
                ..Compute::default()
            },
            root: Taken { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) },
            logs: Taken::default(),
            at,
        };
        Some((labels, container))
    }
}

/// Adds what the kernel tells besides.
fn look(compute: &mut Compute, cgroups: &Cgroups, path: &str) {
    compute.pressure = cgroups.pressure(path);
    if let Some(Swap { used, left }) = cgroups.swap(path) {
        (compute.swap, compute.swap_left) = (used, left);
    }
}

fn sum(containers: &[ContainerUsage]) -> Usage {
    containers.iter().map(|c| c.compute.usage).fold(Usage::default(), |a, b| Usage {
        cpu: a.cpu + b.cpu,
        memory: a.memory + b.memory,
        working_set: a.working_set + b.working_set,
        rss: a.rss + b.rss,
        faults: a.faults + b.faults,
        major_faults: a.major_faults + b.major_faults,
        tasks: a.tasks + b.tasks,
    })
}

/// Where a pod's files and processes are.
struct Places {
    pods: PathBuf,
    logs: PathBuf,
    cgroups: Option<Cgroups>,
    walks: Arc<Walks>,
    driven: Arc<Driven>,
}

impl Places {
    /// Adds network, volumes and logs.
    fn fill(&self, usage: &mut PodUsage, now: Instant) {
        let Some(pod) = usage.pod.clone() else { return };
        let logs = pod_log_dir(&self.logs, &pod);
        for container in &mut usage.containers {
            container.logs = self.walks.taken(&logs.join(&container.name), now);
        }
        if !pod::host_network(&pod) {
            let process = self.cgroups.as_ref().and_then(|c| c.some_process(&c.pod(&pod)));
            usage.network = process
                .map(|id| network::of_process(&Path::new("/proc").join(id.to_string())))
                .unwrap_or_default();
        }
        let folder = self.pods.join(&usage.uid);
        let of_drivers = record::of_pod(&folder);
        let volumes = pod::spec(&pod).volumes.iter().flatten();
        let volumes =
            volumes.filter_map(|v| match of_drivers.iter().find(|(_, record)| record.pod_volume == v.name) {
                Some((folder, record)) => self.driven(&pod, folder, record, v, now),
                None => self.volume(&folder, v, now),
            });
        usage.volumes = volumes.collect();
        usage.ephemeral = ephemeral(usage);
    }

    /// A volume of a driver.
    fn driven(
        &self,
        pod: &Pod,
        folder: &Path,
        record: &Record,
        volume: &Volume,
        now: Instant,
    ) -> Option<VolumeUsage> {
        let held = self.driven.of(pod, record, &folder.join(record.target()), now)?;
        let own = volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod::name(pod), volume.name));
        let claim = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone()).or(own);
        Some(VolumeUsage {
            name: volume.name.clone(),
            claim,
            ephemeral: false,
            taken: held.taken,
            disk: held.disk,
            abnormal: held.abnormal,
        })
    }

    fn volume(&self, folder: &Path, volume: &Volume, now: Instant) -> Option<VolumeUsage> {
        let path = volume::place(folder, volume)?;
        // A volume that is not set up yet takes nothing.
        let disk = machine::fs_usage(&path).ok()?;
        let memory = volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
        let in_memory = memory || volume.secret.is_some() || volume.projected.is_some();
        Some(VolumeUsage {
            name: volume.name.clone(),
            claim: volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone()),
            ephemeral: !in_memory && volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none(),
            taken: self.walks.taken(&path, now),
            disk,
            abnormal: None,
        })
    }
}

/// What the pod takes of the node's disk, all together.
fn ephemeral(usage: &PodUsage) -> Taken {
    let containers = usage.containers.iter().map(|c| c.root.and(c.logs));
    let volumes = usage.volumes.iter().filter(|v| v.ephemeral).map(|v| v.taken);
    containers.chain(volumes).fold(Taken::default(), Taken::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_two_looks_that_are_far_enough_apart() {
        let rates = Rates::default();
        assert_eq!(rates.of("c", 1000, 5_000), None);
        assert_eq!(rates.of("c", 1500, 6_000), None);
        assert_eq!(rates.of("c", 3000, 9_000), Some(2000));
        assert_eq!(rates.of("c", 3500, 9_900), Some(2000));
        assert_eq!(rates.of("c", 5000, 0), Some(0));
        rates.forget(6000);
        assert_eq!(rates.of("c", 9000, 1), None);
    }

    #[test]
    fn only_what_is_on_the_nodes_disk_counts_as_ephemeral() {
        let volume = |name: &str, ephemeral| VolumeUsage {
            name: name.into(),
            claim: None,
            ephemeral,
            taken: Taken { bytes: 10, inodes: 1 },
            disk: FsUsage::default(),
            abnormal: None,
        };
        let container = ContainerUsage {
            root: Taken { bytes: 1, inodes: 1 },
            logs: Taken { bytes: 2, inodes: 1 },
            ..ContainerUsage::default()
        };
        let usage = PodUsage {
            containers: vec![container],
            volumes: vec![volume("disk", true), volume("memory", false)],
            ..PodUsage::default()
        };
        assert_eq!(ephemeral(&usage), Taken { bytes: 13, inodes: 3 });
    }
}
