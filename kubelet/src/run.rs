//! Wiring: builds the parts, starts them, waits for a signal, drains. Containers go on running.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use component_base::task::Tasks;
use tokio::sync::watch;

use crate::{
    api::{ObjectSource, Standalone},
    cgroup::{Cgroups, Version},
    env::NodeFacts,
    events::{EventSink, LogOnly, Severity, node_reference},
    images::PullGate,
    manifest,
    network::dns::{self, DnsSettings},
    node,
    options::Config,
    orphans, pleg,
    pod::{qos::QosClass, resources::CgroupLimits},
    pods::{Pods, Source},
    runtime::{Runtime, RuntimeError, config::NodeSettings, security::NodeSecurity},
    status::Statuses,
    worker::{ServiceSource, Shared},
};

/// The kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime does not answer.
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] RuntimeError),
    /// A folder cannot be made.
    #[error("cannot make {path}: {source}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// cgroups cannot be made.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// cgroup v1 without consent.
    #[error(
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode; set failCgroupV1 to false (--fail-cgroupv1=false)"
    )]
    CgroupV1,
    /// The API server's address or credentials are bad.
    #[error("cannot use the kubeconfig: {0}")]
    Client(String),
    /// The machine's facts cannot be read.
    #[error("cannot read the machine's facts: {0}")]
    Machine(std::io::Error),
}

/// No services: a kubelet without an API server.
struct NoServices;

impl ServiceSource for NoServices {
    fn variables(&self, _: &str, _: bool) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    fn is_ready(&self) -> bool {
        true
    }
}

/// A kubelet that is ready to run.
pub struct App {
    tasks: Arc<Tasks>,
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    config: Config,
}

/// Builds everything that can fail.
///
/// # Errors
/// When a part cannot be had.
pub async fn build(config: Config) -> Result<App, RunError> {
    let tasks = Arc::new(Tasks::new());
    let runtime = Runtime::connect(&config.file.container_runtime_endpoint, config.runtime_timeout())?;
    let version = first_answer(&runtime).await?;
    let machine = node::machine::read(Path::new("/")).map_err(RunError::Machine)?;
    let cgroups = prepare_cgroups(&config)?;
    let pods_dir = config.root_dir.join("pods");
    let container_logs =
        config.file.pod_logs_dir.parent().unwrap_or(Path::new("/var/log")).join("containers");
    for folder in [&pods_dir, &container_logs, &config.file.pod_logs_dir, &config.cert_dir] {
        std::fs::create_dir_all(folder)
            .map_err(|source| RunError::Folder { path: folder.clone(), source })?;
    }
    let objects: Arc<dyn ObjectSource> = Arc::new(Standalone);
    let events: Arc<dyn EventSink> = Arc::new(LogOnly);
    let ips = node::addresses::of_node(&config.node_ips).map_err(RunError::Machine)?;
    let network = watch::Sender::new(Some("not checked yet".to_owned()));
    // A node without the file resolves nothing of its own.
    let host_resolver = std::fs::read_to_string(&config.file.resolv_conf).unwrap_or_default();
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        runtime_name: version.runtime_name.clone(),
        settings: NodeSettings {
            security: NodeSecurity {
                seccomp_root: config.root_dir.join("seccomp").to_string_lossy().into_owned(),
                seccomp_default: config.file.seccomp_default,
                apparmor: Path::new("/sys/kernel/security/apparmor/profiles").exists(),
            },
            memory_capacity: machine.memory,
            cfs_quota: config.file.cpu_cfs_quota,
            log_root: config.file.pod_logs_dir.clone(),
            cgroup_v2: cgroups.as_ref().is_some_and(|c| c.version() == Version::V2),
        },
        cgroups,
        objects,
        events,
        services: Arc::new(NoServices),
        statuses: Arc::new(Statuses::default()),
        dns: DnsSettings {
            cluster_dns: config.file.cluster_dns.clone(),
            cluster_domain: config.file.cluster_domain.clone(),
            host: dns::parse(&host_resolver),
        },
        node: NodeFacts {
            name: config.node_name.clone(),
            ips: ips.iter().map(ToString::to_string).collect(),
            pod_ips: vec![],
            allocatable_milli_cpu: machine.cpus.saturating_mul(1000),
            allocatable_memory: machine.memory,
        },
        pulls: PullGate::new(if config.file.serialize_image_pulls { 1 } else { 16 }),
        pods_dir,
        container_logs,
        pod_pids: Some(config.file.pod_pids_limit).filter(|p| *p > 0),
        tasks: Arc::clone(&tasks),
        network_ready: network.subscribe(),
    });
    let expected = config.file.static_pod_path.as_ref().map(|_| Source::File).into_iter().collect();
    let pods = Pods::new(Arc::clone(&shared), expected);
    node::network::run(runtime, network, Arc::clone(&pods), &tasks);
    Ok(App { tasks, shared, pods, config })
}

/// Waits for the runtime's first answer, half a minute at most.
async fn first_answer(runtime: &Runtime) -> Result<crate::runtime::cri::VersionResponse, RunError> {
    for _ in 0..30 {
        match runtime.version().await {
            Ok(version) => return Ok(version),
            Err(error) => tracing::warn!(%error, "waiting for the container runtime"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(runtime.version().await?)
}

fn prepare_cgroups(config: &Config) -> Result<Option<Cgroups>, RunError> {
    if !config.file.cgroups_per_qos {
        return Ok(None);
    }
    let cgroups = Cgroups::new(Path::new("/sys/fs/cgroup"), &config.file.cgroup_root);
    if cgroups.version() == Version::V1 && config.file.fail_cgroup_v1 {
        return Err(RunError::CgroupV1);
    }
    let none = CgroupLimits::default();
    for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
        cgroups.ensure(&cgroups.class(class), &none)?;
    }
    let least = CgroupLimits { cpu_shares: Some(2), ..none };
    cgroups.set(&cgroups.class(QosClass::BestEffort), &least)?;
    Ok(Some(cgroups))
}

impl App {
    /// Runs until `stop` and drains.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { tasks, shared, pods, config } = self;
        let about = node_reference(&config.node_name);
        shared.events.send(about, Severity::Normal, "Starting", "Starting kubelet.");
        pleg::run(shared.runtime.clone(), Arc::clone(&pods), &tasks);
        orphans::run(Arc::clone(&shared), Arc::clone(&pods), &tasks);
        if let Some(path) = config.file.static_pod_path.clone() {
            let period = config.file.file_check_frequency.0;
            manifest::run(path, config.node_name.clone(), period, Arc::clone(&pods), &tasks);
        }
        stop.await;
        tasks.shutdown(Duration::from_secs(5)).await;
    }
}
