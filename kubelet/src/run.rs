//! Wiring: builds the parts, starts them, waits for a signal, drains. Containers go on running.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use component_base::{
    auth::{AuthError, AuthOptions, Delegated},
    client::{self, ClientError, ClientOptions},
    clock,
    daemon::Daemon,
    events::Recorder,
    features,
    files::Files,
    flags::{FlagSet, Values},
    health::Health,
    logging::LoggingError,
    memory as heap,
    serving::{ServingError, Site, serve_plain, spawn_reload},
    task::Tasks,
    tls::{self, ClientCertificate, ServingCertificate, TlsError},
    traces::{self, Tracer, TracesError},
};
use jiff::Timestamp;
use kube::{Client, config::Kubeconfig};
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    allocation::{self, Allocations, Exclusive},
    api::{ApiObjects, ObjectSource, Standalone},
    certificate::{
        self, CertificateError, Purpose, bootstrap,
        pod::PodCertificates,
        request::Subject,
        store::{Held, Store},
    },
    cgroup::{
        self, CgroupError, Cgroups, Driver, Version,
        classes::{self, Kept, Reserve},
        system::System,
        systemd,
    },
    claims::{self, Claims, drivers::Drivers as ClaimDrivers, state::StateError},
    cpus::{self, CpuError, Cpus},
    csi::{driver::Drivers, mount::Csi},
    devices::{self, Devices, pod_resources, registration},
    env::NodeFacts,
    events::{ApiEvents, EventSink, LogOnly, Severity, node_reference},
    eviction::{
        self, Eviction,
        threshold::{self, Signal},
    },
    image_gc::ImageGc,
    images::{
        PullGate,
        providers::{ProviderError, Providers},
        verified::Records,
    },
    manifest::{self, url},
    memory::{Memory, MemoryError, plan::Amounts},
    metrics, mirror,
    network::dns::{self, DnsSettings},
    node::{self, Observer, machine::Machine, report::StatusSource},
    options::{self, Config, OptionsError, validate},
    orphans, pleg, plugin,
    pod::{
        qos::QosClass,
        resources::{self, CgroupLimits},
    },
    pods::{Pods, Source},
    pods_api, rotation,
    runtime::{
        Runtime, RuntimeError,
        config::NodeSettings,
        cri,
        logs::Rotation,
        memory_qos::MemoryQos,
        security::{self, NodeSecurity},
        swap::Swap,
    },
    server::{
        Server, Switches,
        auth::Gate,
        listener::{serve, serve_read_only},
        node_logs::NodeLogs,
    },
    shutdown,
    stats::Collector,
    status::Statuses,
    topology::{Provider, Topology, TopologyError, nodes},
    userns::{self, UserNamespaceError, UserNamespaces},
    watchdog::{Watchdog, WatchdogError},
    watched::Watched,
    worker::{ServiceSource, Shared, turns::Turns},
};

/// Where else than at `/statusz` to look, sorted.
const PATHS: &[&str] = &[
    "/attach",
    "/checkpoint",
    "/configz",
    "/containerLogs",
    "/debug/flags/v",
    "/debug/pprof",
    "/exec",
    "/flagz",
    "/healthz",
    "/logs",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/metrics/resource",
    "/pods",
    "/portForward",
    "/run",
    "/runningpods",
    "/stats/summary",
    "/statusz",
    "/version",
];
/// Where the kernel's cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime does not answer.
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] RuntimeError),
    /// There are no ids for user namespaces of pods.
    #[error(transparent)]
    UserNamespaces(#[from] UserNamespaceError),
    /// A file or folder cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cgroups cannot be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel is not as it has to be.
    #[error("failed to setup kernel tunables: {0}")]
    Kernel(#[from] node::own::KernelError),
    /// cgroup v1 without consent.
    #[error(
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode; \
         to run all the same, set failCgroupV1 to false (--fail-cgroupv1=false)"
    )]
    CgroupV1,
    /// What cgroup v1 cannot.
    #[error(
        "invalid configuration: singleProcessOOMKill must not be explicitly set to false when using cgroup v1"
    )]
    OomGroup,
    /// What is kept for others cannot be enforced.
    #[error("{0}")]
    Enforcement(String),
    /// Swap without consent.
    #[error("running with swap on is not supported, please disable swap or set failSwapOn to false")]
    Swap,
    /// The API server's address or credentials are bad.
    #[error("cannot use the kubeconfig: {0}")]
    Client(#[from] ClientError),
    /// The node could not join.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A certificate is bad.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The health port cannot be served.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// Something that should be an address is none.
    #[error("{0:?} is no address")]
    Address(String),
    /// Processors cannot be managed.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// Memory cannot be managed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Resources cannot be aligned.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// What pods were given does not read.
    #[error(transparent)]
    Allocations(#[from] allocation::state::StateError),
    /// Claims of dynamic resources cannot be managed.
    #[error("cannot restore the claims of dynamic resources: {0}")]
    Claims(#[from] StateError),
    /// The programs that know credentials cannot be used.
    #[error("cannot use the image credential providers: {0}")]
    Providers(#[from] ProviderError),
    /// The CA of client certificates is bad.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The machine's facts cannot be read.
    #[error("cannot read the machine's facts: {0}")]
    Machine(#[source] io::Error),
    /// The unit's watchdog makes no sense.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// Spans cannot be told of.
    #[error("could not configure tracer provider: {0}")]
    Traces(#[from] TracesError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
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
    api: Option<(Client, Watched)>,
    network: watch::Sender<Option<String>>,
    machine: Machine,
    ips: Vec<IpAddr>,
    listener: Option<(TcpListener, rustls::ServerConfig)>,
    read_only: Option<TcpListener>,
    tracer: Option<Tracer>,
    watchdog: Watchdog,
}

/// The daemon.
#[derive(Debug)]
pub struct Kubelet;

impl Daemon for Kubelet {
    type Config = Config;
    type ConfigError = OptionsError;
    type RunError = RunError;

    fn flags() -> FlagSet {
        options::flags::set()
    }

    fn log(values: &Values) -> Result<(), LoggingError> {
        options::log(values)
    }

    fn configure(values: &Values) -> Result<Config, OptionsError> {
        options::load(values)
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), RunError> {
        features::show(config.gates);
        heap::trim(&tasks);
        build(config, Arc::new(tasks)).await?.start()
    }
}

/// Builds everything that can fail.
///
/// # Errors
/// When a part cannot be had.
pub async fn build(config: Config, tasks: Arc<Tasks>) -> Result<App, RunError> {
    if let Some(path) = &config.lock_file {
        let locked = node::own::lock(path.clone()).await.map_err(at(path))?;
        node::own::hold(locked, path, config.exit_on_lock_contention, &tasks).map_err(at(path))?;
    }
    node::own::limits(config.file.oom_score_adj, config.file.max_open_files);
    let confined = config.gates.has(features::Gate::KubeletInUserNamespace);
    node::own::kernel(Path::new("/proc"), config.file.protect_kernel_defaults, confined)?;
    let machine = node::machine::read(Path::new("/")).map_err(RunError::Machine)?;
    if machine.swap > 0 && config.file.fail_swap_on {
        return Err(RunError::Swap);
    }
    if config.file.cgroups_per_qos
        && config.file.fail_cgroup_v1
        && cgroup::version(Path::new(CGROUPS)) == Version::V1
    {
        return Err(RunError::CgroupV1);
    }
    let unified = cgroup::version(Path::new(CGROUPS)) == Version::V2;
    if !unified && config.file.single_process_oom_kill == Some(false) {
        return Err(RunError::OomGroup);
    }
    let (tracer, watchdog) = (tracer(&config, &tasks)?, Watchdog::of_process()?);
    let (endpoint, images) = (&config.file.container_runtime_endpoint, &config.file.image_service_endpoint);
    let streams = config.gates.has(features::Gate::CRIListStreaming);
    let runtime = Runtime::connect(endpoint, images, config.runtime_timeout(), streams)?;
    let version = first_answer(&runtime).await?;
    let cgroups = prepare_cgroups(&config, &runtime).await?;
    let ips = node::addresses::of_node(&config.node_ips, &config.node_name).map_err(RunError::Machine)?;
    let api = match &config.kubeconfig {
        Some(path) => {
            let client = connect(&config, path, &tasks).await?;
            let certificates = config.gates.has(features::Gate::PodCertificateRequest);
            let watched = Watched::new(client.clone(), &config.node_name, certificates, &tasks);
            Some((client, watched))
        }
        None => None,
    };
    let network = watch::Sender::new(Some("the container runtime has not been asked yet".to_owned()));
    let ids = userns::slots(config.ids_per_pod(), u32::try_from(config.file.max_pods).unwrap_or(0)).await?;
    let shared = Arc::new(share(
        &config,
        &tasks,
        &runtime,
        &version,
        &machine,
        cgroups,
        &ips,
        api.as_ref(),
        &network,
        ids,
    )?);
    if shared.pulled.has_intents() {
        shared.pulled.recover(&runtime.list_images().await?, Timestamp::now());
    }
    let mut expected = Vec::new();
    expected.extend(config.file.static_pod_path.as_ref().map(|_| Source::File));
    if !config.file.static_pod_url.is_empty() {
        expected.push(Source::Http);
    }
    expected.extend(api.as_ref().map(|_| Source::Api));
    if let Some(cgroups) = &shared.cgroups {
        enforce(&config, &machine, cgroups, &*shared.events).await?;
    }
    let pods = Pods::new(Arc::clone(&shared), expected);
    let listener = listen(&config, &ips, api.as_ref(), &tasks).await?;
    let read_only = match config.file.read_only_port {
        port if port > 0 && config.file.enable_server => Some(bind(&config.file.address, port).await?),
        _ => None,
    };
    Ok(App { tasks, shared, pods, config, api, network, machine, ips, listener, read_only, tracer, watchdog })
}

/// What tells of requests and of rounds, when the configuration says whom.
fn tracer(config: &Config, tasks: &Tasks) -> Result<Option<Tracer>, TracesError> {
    let Some(tracing) = &config.file.tracing else { return Ok(None) };
    let who = vec![traces::text("service.name", "kubelet"), traces::text("host.name", &config.node_name)];
    let tracer = Tracer::start(tracing, "k8s.io/kubernetes/pkg/kubelet", who, tasks)?;
    tracer.follow_process();
    Ok(Some(tracer))
}

/// The client for the API server, after joining the cluster where that is still to be done.
async fn connect(config: &Config, path: &Path, tasks: &Tasks) -> Result<Client, RunError> {
    #[allow(clippy::cast_precision_loss, reason = "a rate of requests is a small number")]
    let qps = config.file.kube_api_qps as f32;
    // Zero is no limit there.
    #[allow(clippy::cast_precision_loss, reason = "a rate of requests is a small number")]
    let events_per_second =
        if config.file.event_record_qps == 0 { -1.0 } else { config.file.event_record_qps as f32 };
    let options = ClientOptions {
        kubeconfig: Some(path.to_owned()),
        qps,
        burst: u32::try_from(config.file.kube_api_burst).unwrap_or(0),
        events: Some((events_per_second, u32::try_from(config.file.event_burst).unwrap_or(0))),
        ..ClientOptions::new("kubelet")
    };
    let store = Store::new(&config.cert_dir, Purpose::Client);
    if let Some(first) = &config.bootstrap_kubeconfig
        && bootstrap::needed(path, &store, Timestamp::now())
    {
        bootstrap::run(first, path, &config.node_name, &store).await?;
    }
    let own = Kubeconfig::read_from(path).is_ok_and(|c| bootstrap::refers_to(&c, &store.current()));
    let Some((pair, _)) = store.load().filter(|_| own && config.file.rotate_certificates) else {
        return Ok(client::connect(&options).await?);
    };
    let held = Held::of(&pair);
    let certificate = Arc::new(ClientCertificate::new(pair));
    let client = client::connect_with_certificate(&options, Arc::clone(&certificate)).await?;
    let (_, subject) = watch::channel(Subject::client(&config.node_name));
    let replace = move |pair| certificate.replace(pair);
    certificate::rotation::run(client.clone(), subject, true, store, held, replace, tasks);
    Ok(client)
}

/// Waits for the runtime's first answer, half a minute at most.
async fn first_answer(runtime: &Runtime) -> Result<cri::VersionResponse, RunError> {
    for _ in 0..60 {
        match runtime.version().await {
            Ok(version) => return Ok(version),
            Err(error) => tracing::warn!(%error, "waiting for the container runtime"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(runtime.version().await?)
}

/// Who makes cgroups: the runtime's word counts, and what the configuration says where the runtime has none.
async fn cgroup_driver(config: &Config, runtime: &Runtime) -> Result<Driver, RunError> {
    match runtime.cgroup_driver().await? {
        Some(driver) => Ok(driver),
        // The configuration has been checked.
        None => Ok(Driver::named(&config.file.cgroup_driver).unwrap_or(Driver::Cgroupfs)),
    }
}

async fn prepare_cgroups(config: &Config, runtime: &Runtime) -> Result<Option<Cgroups>, RunError> {
    if !config.file.cgroups_per_qos {
        return Ok(None);
    }
    let systemd = match cgroup_driver(config, runtime).await? {
        Driver::Cgroupfs => None,
        Driver::Systemd => Some(systemd::connect(Path::new("/")).await.map_err(CgroupError::Systemd)?),
    };
    let cgroups = Cgroups::new(Path::new(CGROUPS), &config.file.cgroup_root, systemd);
    let none = CgroupLimits::default();
    for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
        cgroups.ensure(&cgroups.class(class), &none).await?;
    }
    let least = CgroupLimits { cpu_shares: Some(resources::MIN_SHARES), ..none };
    cgroups.set(&cgroups.class(QosClass::BestEffort), &least).await?;
    Ok(Some(cgroups))
}

/// Limits all pods to what the node has for them, and others to what is kept for them.
///
/// # Errors
/// When a cgroup of others is not there, or cannot be limited.
async fn enforce(
    config: &Config,
    machine: &Machine,
    cgroups: &Cgroups,
    events: &dyn EventSink,
) -> Result<(), RunError> {
    let (good, bad) = ("NodeAllocatableEnforced", "FailedNodeAllocatableEnforcement");
    let tell = |severity, reason, text: &str| {
        events.send(node_reference(&config.node_name), severity, reason, text);
    };
    let enforced = config.file.enforce_node_allocatable.iter().any(|e| e == "pods");
    let limits = classes::of_all(machine, &reserved(config), enforced);
    let all = cgroups.kubepods();
    match cgroups.set(&all, &limits).await {
        Ok(()) => tell(Severity::Normal, good, "Updated Node Allocatable limit across pods"),
        Err(error) => {
            // Pods run as well without; only what is reserved is not safe from them.
            let text = format!("Failed to update Node Allocatable Limits {all:?}: {error}");
            tracing::error!("{text}");
            tell(Severity::Warning, bad, &text);
        }
    }
    for Kept { name, cgroup, limits } in classes::kept(&config.file, memory_qos(config, machine).is_some()) {
        let path = cgroups.named(&cgroup);
        let set = match cgroups.exists(&path) {
            true => cgroups.set(&path, &limits).await.map_err(|error| error.to_string()),
            false => Err(format!("cgroup {path} does not exist")),
        };
        if let Err(error) = set {
            let text = format!("Failed to enforce {name} Cgroup Limits on {cgroup:?}: {error}");
            tell(Severity::Warning, bad, &text);
            return Err(RunError::Enforcement(text));
        }
        let text = format!("Updated limits on {} cgroup {cgroup}", name.to_lowercase());
        tell(Severity::Normal, good, &text);
    }
    Ok(())
}

/// What is kept for the system and for Kubernetes, in thousandths.
fn reserved(config: &Config) -> BTreeMap<String, i64> {
    let file = &config.file;
    node::status::reserved([&file.system_reserved, &file.kube_reserved].into_iter(), 0, 0)
}

/// How the kernel protects and throttles memory, where that is switched on and it can.
fn memory_qos(config: &Config, machine: &Machine) -> Option<MemoryQos> {
    let can = cgroup::version(Path::new(CGROUPS)) == Version::V2;
    let kept = reserved(config).get(resources::MEMORY).copied().unwrap_or(0) / 1000;
    (can && config.gates.has(features::Gate::MemoryQoS)).then(|| MemoryQos {
        factor: config.file.memory_throttling_factor,
        tiered: config.file.memory_reservation_policy == "TieredReservation",
        allocatable: machine.memory.saturating_sub(kept),
    })
}

/// What of the memory that pods ask for is kept from those of lower classes.
fn reserve(config: &Config, machine: &Machine) -> Option<Reserve> {
    if !config.gates.has(features::Gate::QOSReserved) {
        return None;
    }
    // The configuration has been checked.
    let percent = validate::qos_reserved(&config.file.qos_reserved).ok().flatten()?;
    let kept = reserved(config).get(resources::MEMORY).copied().unwrap_or(0) / 1000;
    Some(Reserve { allocatable: machine.memory.saturating_sub(kept), percent })
}

#[allow(clippy::too_many_arguments, reason = "the one place where all parts meet")]
fn share(
    config: &Config,
    tasks: &Arc<Tasks>,
    runtime: &Runtime,
    version: &cri::VersionResponse,
    machine: &Machine,
    cgroups: Option<Cgroups>,
    ips: &[IpAddr],
    api: Option<&(Client, Watched)>,
    network: &watch::Sender<Option<String>>,
    ids: RangeInclusive<u32>,
) -> Result<Shared, RunError> {
    let file = &config.file;
    let pods_dir = config.root_dir.join("pods");
    let container_logs = file.pod_logs_dir.parent().unwrap_or(Path::new("/var/log")).join("containers");
    let registry = config.root_dir.join("plugins_registry");
    for folder in [&pods_dir, &container_logs, &file.pod_logs_dir, &config.cert_dir, &registry] {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let objects: Arc<dyn ObjectSource> = match api {
        Some((client, _)) => {
            let strategy = &file.config_map_and_secret_change_detection_strategy;
            Arc::new(ApiObjects::new(client.clone(), strategy))
        }
        None => Arc::new(Standalone),
    };
    let services: Arc<dyn ServiceSource> = match api {
        Some((_, watched)) => watched.services(),
        None => Arc::new(NoServices),
    };
    let providers = match &config.credential_providers {
        Some((path, folder)) => {
            let gate = features::Gate::KubeletServiceAccountTokenForCredentialProviders;
            Providers::load(path, folder, config.gates.has(gate))?
        }
        None => Providers::default(),
    };
    let drivers = Arc::new(Drivers::new(api.map(|(client, _)| client.clone()), &config.node_name));
    let csi =
        Csi::new(Arc::clone(&drivers), Arc::clone(&objects), config.root_dir.clone(), &config.node_name);
    let devices = Arc::new(Devices::new(config.root_dir.join("device-plugins")));
    let registrar = registration::run(Arc::clone(&devices), tasks).map_err(at(devices.folder()))?;
    if api.is_some() {
        let (drivers, objects, drain) = (Arc::clone(&drivers), Arc::clone(&objects), tasks.drain());
        tasks.spawn("csinode", async move {
            let kept = async {
                drivers.ensure_node().await;
                drivers.keep_counts(&*objects).await;
            };
            drain.run_until_cancelled(kept).await;
        });
    }
    let cpus = Arc::new(Cpus::new(&config.cpus, Path::new("/"), &config.root_dir)?);
    let nodes = nodes::read(Path::new("/")).map_err(TopologyError::Read)?;
    let memory = Memory::new(&config.memory, &nodes, &kept_memory(config, machine), &config.root_dir)?;
    let memory = Arc::new(memory);
    let sources: Vec<Arc<dyn Provider>> =
        vec![Arc::clone(&devices) as _, Arc::clone(&cpus) as _, Arc::clone(&memory) as _];
    let topology = Topology::new(config.topology, nodes, sources)?;
    let claim_drivers = Arc::new(ClaimDrivers::new(
        api.map(|(client, _)| client.clone()),
        &config.node_name,
        Arc::clone(tasks),
    ));
    let claims = Claims::new(Arc::clone(&claim_drivers), Arc::clone(&objects), &config.root_dir)?
        .of_groups(config.gates.has(features::Gate::DRAWorkloadResourceClaims));
    if api.is_some() {
        let (drivers, drain) = (Arc::clone(&claim_drivers), tasks.drain());
        tasks.spawn("resource-slices", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = drivers.keep_slices() => {}
            }
        });
    }
    let events = events(config, api, tasks);
    let dns = DnsSettings {
        cluster_dns: file.cluster_dns.clone(),
        cluster_domain: file.cluster_domain.clone(),
        resolver: file.resolv_conf.clone(),
        ips: ips.iter().map(ToString::to_string).collect(),
    };
    if let Some(text) = dns::excess(&dns, &dns.host()) {
        let reason = "CheckLimitsForResolvConf";
        events.send(node_reference(&config.node_name), Severity::Warning, reason, &text);
    }
    let certificates = api.and_then(|(client, watched)| {
        let (client, events) = (client.clone(), Arc::clone(&events));
        Some(PodCertificates::new(client, watched.certificate_requests()?, watched.node(), events))
    });
    plugin::run(registry, vec![drivers, Arc::new(registrar), claim_drivers], tasks);
    Ok(Shared {
        gates: config.gates,
        began: Timestamp::now(),
        devices,
        csi: Arc::new(csi),
        certificates,
        claims,
        shutdown: Arc::default(),
        handlers: Mutex::default(),
        resync: file.sync_frequency.0,
        back_off: config.back_off(),
        pods: OnceLock::new(),
        users: UserNamespaces::new(pods_dir.clone(), ids, config.ids_per_pod()),
        runtime: runtime.clone(),
        runtime_name: version.runtime_name.clone(),
        settings: NodeSettings {
            security: NodeSecurity {
                seccomp_root: config.root_dir.join("seccomp").to_string_lossy().into_owned(),
                seccomp_default: file.seccomp_default,
                apparmor: Path::new("/sys/kernel/security/apparmor/profiles").exists(),
                hidden: security::hidden(Path::new("/")),
            },
            memory_capacity: machine.memory,
            huge_pages: machine.huge_pages.iter().map(|(size, _)| *size).collect(),
            cfs_period: config.cfs_period(),
            stop_signals: config.gates.has(features::Gate::ContainerStopSignals),
            log_root: file.pod_logs_dir.clone(),
            oom_group: cgroup::version(Path::new(CGROUPS)) == Version::V2
                && !file.single_process_oom_kill.unwrap_or(false),
            cgroup_v2: cgroups.as_ref().is_some_and(|c| c.version() == Version::V2),
            memory_qos: memory_qos(config, machine),
            swap: swap(config, machine),
        },
        cgroups,
        objects,
        events,
        services,
        statuses: Arc::new(Statuses::default()),
        dns,
        node: NodeFacts {
            name: config.node_name.clone(),
            ips: ips.iter().map(ToString::to_string).collect(),
            pod_ips: vec![],
            allocatable_milli_cpu: machine.cpus.saturating_mul(1000),
            allocatable_memory: machine.memory,
            allocatable_disk: 0,
        },
        allocations: Allocations::new(
            &config.root_dir,
            api.map(|(_, watched)| watched.node()),
            file.allowed_unsafe_sysctls.clone(),
            config.gates,
            Exclusive { cpus: cpus.are_exclusive(), memory: memory.is_pinned(), swap: swap(config, machine) },
        )?,
        cpus,
        memory,
        topology,
        pulls: PullGate::new(config.parallel_pulls(), file.registry_pull_qps, file.registry_burst),
        providers,
        pulled: Records::new(&config.root_dir, config.verification.clone()).map_err(at(&config.root_dir))?,
        pods_dir,
        container_logs,
        pod_pids: Some(file.pod_pids_limit).filter(|p| *p > 0),
        turns: Turns::on(usize::try_from(machine.cpus).unwrap_or(1), Arc::clone(tasks)),
        tasks: Arc::clone(tasks),
        network_ready: network.subscribe(),
    })
}

/// What node allocatable keeps of memory and huge pages, in bytes.
fn kept_memory(config: &Config, machine: &Machine) -> Amounts {
    let file = &config.file;
    let evicted = threshold::kept(&config.thresholds, Signal::MemoryAvailable, machine.memory);
    let kept = node::status::reserved([&file.system_reserved, &file.kube_reserved].into_iter(), evicted, 0);
    kept.into_iter().map(|(kind, milli)| (kind, u64::try_from(milli / 1000).unwrap_or(0))).collect()
}

/// The node's swap, where the kernel limits it by cgroup.
fn swap(config: &Config, machine: &Machine) -> Option<Swap> {
    // Without the kernel's word on the own cgroup there is nothing to tell from.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let version = cgroup::limits_swap(Path::new("/sys/fs/cgroup"), &own)?;
    Some(Swap {
        behavior: config.swap,
        capacity: machine.swap,
        memory: machine.memory,
        unified: version == Version::V2,
    })
}

/// Names the path of an I/O error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::File { path, source }
}

fn events(config: &Config, api: Option<&(Client, Watched)>, tasks: &Tasks) -> Arc<dyn EventSink> {
    match api {
        Some((client, _)) => {
            let recorder = Recorder::new(client.clone(), clock::real(), "kubelet", &config.node_name, tasks);
            Arc::new(ApiEvents(recorder))
        }
        None => Arc::new(LogOnly),
    }
}

async fn bind(address: &str, port: u16) -> Result<TcpListener, RunError> {
    let address = crate::probe::join(address, port);
    TcpListener::bind(&address).await.map_err(|source| RunError::Listen { address, source })
}

async fn listen(
    config: &Config,
    ips: &[IpAddr],
    api: Option<&(Client, Watched)>,
    tasks: &Tasks,
) -> Result<Option<(TcpListener, rustls::ServerConfig)>, RunError> {
    let file = &config.file;
    if !file.enable_server {
        return Ok(None);
    }
    let certificate = match (&file.tls_cert_file, &file.tls_private_key_file) {
        (Some(certificate), Some(key)) => {
            let follows = config.gates.has(features::Gate::ReloadKubeletServerCertificateFile);
            from_files(certificate.clone(), key.clone(), Some(tasks).filter(|_| follows))?
        }
        _ => {
            let mut hosts = vec![config.node_name.clone()];
            hosts.extend(ips.iter().map(ToString::to_string));
            let own = tls::self_signed(&config.cert_dir, "kubelet", &hosts)?;
            match api.filter(|_| file.server_tls_bootstrap) {
                Some(api) => signed_serving(config, ips, api, own, tasks),
                None => Arc::new(ServingCertificate::new(own)),
            }
        }
    };
    let protocol = tls::Protocol {
        min_version: file.tls_min_version.clone(),
        cipher_suites: file.tls_cipher_suites.clone(),
        curves: file.tls_curve_preferences.iter().map(ToString::to_string).collect(),
        disable_http2: false,
    };
    let tls = tls::server_config(certificate, &protocol)?;
    Ok(Some((bind(&file.address, file.port).await?, tls)))
}

/// The serving certificate of these files, also when they change, where there are tasks to look at them.
fn from_files(
    certificate: PathBuf,
    key: PathBuf,
    tasks: Option<&Tasks>,
) -> Result<Arc<ServingCertificate>, TlsError> {
    let served = Arc::new(ServingCertificate::new(tls::load_pair(&certificate, &key)?));
    let Some(tasks) = tasks else { return Ok(served) };
    let (replaced, files) = (Arc::clone(&served), vec![certificate.clone(), key.clone()]);
    spawn_reload(tasks, "serving certificate", files, move || {
        replaced.replace(tls::load_pair(&certificate, &key)?);
        Ok(())
    });
    Ok(served)
}

/// The serving certificate that the cluster signs. Until it has, the kubelet serves with one of its own making.
fn signed_serving(
    config: &Config,
    ips: &[IpAddr],
    (client, watched): &(Client, Watched),
    own: CertifiedKey,
    tasks: &Tasks,
) -> Arc<ServingCertificate> {
    let store = Store::new(&config.cert_dir, Purpose::Serving);
    let (pair, held) = match store.load() {
        Some((pair, _)) => {
            let held = Held::of(&pair);
            (pair, held)
        }
        None => (own, None),
    };
    let certificate = Arc::new(ServingCertificate::new(pair));
    // Where a cloud's controller has the last word on the addresses, they are known once the node's status tells them.
    let addresses =
        if config.external_cloud { vec![] } else { node::status::addresses(ips, &config.node_name) };
    let (wanted, subjects) = watch::channel(Subject::serving(&config.node_name, &addresses));
    let by_name = config.gates.has(features::Gate::AllowDNSOnlyNodeCSR);
    let (mut node, drain, name) = (watched.node(), tasks.drain(), config.node_name.clone());
    tasks.spawn("serving-names", async move {
        let follow = async {
            while node.changed().await.is_ok() {
                let known = node.borrow_and_update().clone();
                let told = known.as_ref().and_then(|node| node.status.as_ref()?.addresses.as_ref());
                if let Some(told) = told.filter(|told| !told.is_empty()) {
                    let now = Subject::serving(&name, told);
                    wanted.send_if_modified(|before| {
                        let differs = *before != now;
                        *before = now;
                        differs
                    });
                }
            }
        };
        drain.run_until_cancelled(follow).await;
    });
    let served = Arc::clone(&certificate);
    let replace = move |pair| served.replace(pair);
    certificate::rotation::run(client.clone(), subjects, by_name, store, held, replace, tasks);
    certificate
}

fn gate(config: &Config, client: Option<Client>) -> Result<Gate, AuthError> {
    let (authentication, access) = (&config.file.authentication, &config.file.authorization.webhook);
    let default = AuthOptions::default();
    let options = AuthOptions {
        client_ca: authentication.x509.client_ca_file.clone(),
        follows_files: config.gates.has(features::Gate::ReloadKubeletClientCAFile),
        anonymous: authentication.anonymous.enabled == Some(true),
        token_ttl: authentication.webhook.cache_ttl.map_or(default.token_ttl, |ttl| ttl.0),
        allowed_ttl: access.cache_authorized_ttl.map_or(default.allowed_ttl, |ttl| ttl.0),
        refused_ttl: access.cache_unauthorized_ttl.map_or(default.refused_ttl, |ttl| ttl.0),
        ..default
    };
    let open = config.file.authorization.mode.as_deref() == Some("AlwaysAllow");
    let delegated = client.map(|client| Delegated::with_client(options.clone(), client)).transpose()?;
    let delegated = match authentication.webhook.enabled {
        Some(false) => delegated.map(Delegated::without_tokens),
        _ => delegated,
    };
    Ok(Gate { node: config.node_name.clone(), delegated, open, anonymous: options.anonymous })
}

impl App {
    /// The address the kubelet's API is served on.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        // A bound listener has an address.
        self.listener.as_ref().and_then(|(l, _)| l.local_addr().ok())
    }

    /// Starts all tasks; they end with the drain, and containers go on running.
    ///
    /// # Errors
    /// When the client CA cannot be read or the health port is taken.
    pub fn start(self) -> Result<(), RunError> {
        let Self { tasks, shared, pods, config, api, network, machine, ips, listener, .. } = self;
        let (read_only, tracer, watchdog) = (self.read_only, self.tracer, self.watchdog);
        let client = api.as_ref().map(|(client, _)| client.clone());
        let reserve = reserve(&config, &machine);
        let gate = Arc::new(gate(&config, client)?);
        let about = node_reference(&config.node_name);
        // What runs is asked of the runtime, and cgroups for what it does not tell.
        metrics::get().provider.with_label_values(&["cadvisor"]).set(1);
        metrics::get().node_name.with_label_values(&[&config.node_name]).set(1);
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        node::startup::begin(crate::server::stats::boot_time(&stat), Timestamp::now());
        let (began, ended) = shutdown::last(&config.root_dir);
        metrics::get().shutdown_start.set(began);
        metrics::get().shutdown_end.set(ended);
        metrics::get().cgroup_version.set(if shared.settings.cgroup_v2 { 2 } else { 1 });
        shared.events.send(about, Severity::Normal, "Starting", "Starting kubelet.");
        let evented = config.gates.has(features::Gate::EventedPLEG);
        let seen = pleg::run(shared.runtime.clone(), Arc::clone(&pods), evented, &tasks);
        let ready = network.subscribe();
        node::network::run(Arc::clone(&shared), network, Arc::clone(&pods), &tasks);
        let stats = {
            let period = config.file.volume_stats_agg_period.0;
            Collector::new(Arc::clone(&shared), Arc::clone(&pods), period)
        };
        let images = ImageGc::new(Arc::clone(&shared), &config);
        images.run(&tasks);
        let eviction = Eviction {
            shared: Arc::clone(&shared),
            pods: Arc::clone(&pods),
            stats: Arc::clone(&stats),
            images,
            config: config.clone(),
            thresholds: config.thresholds.clone(),
        };
        let pressure = eviction::run(eviction, &tasks);
        if let Some((client, watched)) = &api {
            let observer = Observer {
                config: config.clone(),
                machine,
                ips,
                runtime: shared.runtime.clone(),
                seen: Arc::clone(&seen),
                network: ready,
                pressure: Arc::clone(&pressure),
                csi: Arc::clone(&shared.csi),
                devices: Arc::clone(&shared.devices),
                shutdown: Arc::clone(&shared.shutdown),
            };
            start_reporting(client, watched, observer, &shared, &pods, &config, &tasks);
        }
        let folder = config.root_dir.join("pod-resources");
        pod_resources::run(folder.clone(), Arc::clone(&shared), Arc::clone(&pods), &tasks)
            .map_err(at(&folder))?;
        if config.gates.has(features::Gate::PodsAPI) {
            let root = &config.root_dir;
            pods_api::run(root, Arc::clone(&pods), Arc::clone(&shared.statuses), &tasks).map_err(at(root))?;
        }
        start_upkeep(&shared, &pods, &config, &tasks);
        classes::run(Arc::clone(&shared), reserve, &tasks);
        let (own, others) = (&config.file.kubelet_cgroups, &config.file.system_cgroups);
        if let Some(system) = System::new(Path::new(CGROUPS), Path::new("/proc"), own, others) {
            system.run(&tasks);
        }
        let health = health(seen, &pods);
        watchdog.run(health.clone(), &tasks);
        let file = &config.file;
        let server = Arc::new(Server {
            shared: Arc::clone(&shared),
            pods: Arc::clone(&pods),
            stats,
            root_dir: config.root_dir.clone(),
            node_logs: file_logs(&config),
            switches: Switches {
                debugging: file.enable_debugging_handlers,
                profiling: file.enable_profiling_handler,
                debug_flags: file.enable_debug_flags_handler,
            },
            site: site(&config, health.clone()),
            tracer,
        });
        if let Some(listener) = read_only {
            serve_read_only(listener, Arc::clone(&server), &tasks);
        }
        if let Some((listener, tls)) = listener {
            serve(listener, tls, gate, server, &tasks);
        }
        if config.file.healthz_port != 0 {
            serve_health(&config, health, &tasks)?;
        }
        Ok(())
    }
}

fn start_reporting(
    client: &Client,
    watched: &Watched,
    observer: Observer,
    shared: &Arc<Shared>,
    pods: &Arc<Pods>,
    config: &Config,
    tasks: &Arc<Tasks>,
) {
    shared.statuses.run(client.clone(), tasks);
    watched.run(pods, tasks);
    let source: Arc<dyn StatusSource> = Arc::new(observer);
    node::report::run(client.clone(), config.clone(), source, Arc::clone(&shared.events), tasks);
    let statuses = Arc::clone(&shared.statuses);
    mirror::run(client.clone(), config.node_name.clone(), watched.pods(), Arc::clone(pods), statuses, tasks);
}

/// The folder of logs that the API shows, if it shows one.
fn file_logs(config: &Config) -> Option<NodeLogs> {
    let file = &config.file;
    file.enable_system_log_handler.then(|| NodeLogs {
        files: Files::new(file.pod_logs_dir.parent().unwrap_or(Path::new("/var/log"))),
        queries: file.enable_system_log_query,
    })
}

/// What the kubelet's health is made of: the runtime answers and, to be ready, every source of pods has spoken.
fn health(seen: Arc<pleg::Seen>, pods: &Arc<Pods>) -> Health {
    let health = Health::default();
    health.add("syncloop", move || {
        if seen.is_fresh() { Ok(()) } else { Err("the container runtime does not answer".to_owned()) }
    });
    let pods = Arc::clone(pods);
    health.add_readiness("sources", move || {
        if pods.is_synced() { Ok(()) } else { Err("not every source has told its pods".to_owned()) }
    });
    health
}

/// What the kubelet tells of itself as every daemon does.
fn site(config: &Config, health: Health) -> Site {
    use features::Gate::{ComponentFlagz, ComponentStatusz};
    let mut site = Site::about(health).with_version().with_configz();
    for (gate, path) in [(ComponentStatusz, "/statusz"), (ComponentFlagz, "/flagz")] {
        if config.gates.has(gate) {
            site = site.with_zpage(path, PATHS);
        }
    }
    // Plain fields can always be written.
    site.configz("kubeletconfig", serde_json::to_value(&config.file).unwrap_or_default());
    site
}

/// The local health port, without TLS.
fn serve_health(config: &Config, health: Health, tasks: &Tasks) -> Result<(), RunError> {
    let text = crate::probe::join(&config.file.healthz_bind_address, config.file.healthz_port);
    let address = text.parse().map_err(|_| RunError::Address(text.clone()))?;
    serve_plain(address, Site::about(health), tasks)?;
    Ok(())
}

fn start_upkeep(shared: &Arc<Shared>, pods: &Arc<Pods>, config: &Config, tasks: &Arc<Tasks>) {
    orphans::run(Arc::clone(shared), Arc::clone(pods), config.dead, tasks);
    shutdown::run(config.shutdown_periods(), &config.root_dir, Arc::clone(shared), Arc::clone(pods), tasks);
    let size = resources::whole(&config.file.container_log_max_size).and_then(|s| u64::try_from(s).ok());
    let rotation = Rotation {
        period: config.file.container_log_monitor_interval.0,
        max_size: size.unwrap_or(10 << 20),
        max_files: usize::try_from(config.file.container_log_max_files).unwrap_or(5),
    };
    let workers = usize::try_from(config.file.container_log_max_workers).unwrap_or(1);
    rotation::run(Arc::clone(shared), Arc::clone(pods), rotation, workers, tasks);
    let period = config.file.cpu_manager_reconcile_period.0;
    cpus::run(Arc::clone(shared), Arc::clone(pods), period, tasks);
    claims::run(Arc::clone(shared), Arc::clone(pods), tasks);
    devices::run(Arc::clone(shared), Arc::clone(pods), tasks);
    let strict = config.gates.has(features::Gate::PreventStaticPodAPIReferences);
    let comparing = config.gates.has(features::Gate::TaintTolerationComparisonOperators);
    let host = manifest::Host { name: config.node_name.clone(), strict, comparing };
    if let Some(path) = config.file.static_pod_path.clone() {
        let period = config.file.file_check_frequency.0;
        manifest::run(path, host.clone(), period, Arc::clone(pods), tasks);
    }
    if !config.file.static_pod_url.is_empty() {
        let (url, headers) = (config.file.static_pod_url.clone(), config.file.static_pod_url_header.clone());
        let place = url::Place { url, headers, period: config.file.http_check_frequency.0 };
        url::run(place, host, Arc::clone(pods), tasks);
    }
}
