//! Wiring: config → parts → [`App`] → run until a signal, then drain.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use api_rules::capabilities;
use arc_swap::ArcSwap;
use component_base::{
    config::ConfigError,
    daemon::Daemon,
    features::{self, Gate},
    flags::{FlagSet, Values},
    serving::ServingError,
    task::Tasks,
    traces::{self, Tracer, TracesError, TracingConfiguration},
};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    aggregator::{self, Aggregator},
    alloc, audit, authn, authz,
    bootstrap::{self, authentication_facts::RequestHeader, storage_versions::Barrier},
    componentstatuses::ComponentStatuses,
    customresources, debug,
    discovery::Discovery,
    egress::{self, Egress, Network},
    encryption::{self, Encryption},
    engine::ComputedResource,
    flowcontrol::{self, FlowControl},
    front::Front,
    health,
    http::Listener,
    leaderelection,
    logs::Logs,
    metrics,
    objects::{Objects, stored::StoreObjects},
    openapi::OpenApi,
    options::{self, Config, OptionsError},
    peers::{self, Peers},
    proxy::kubelet::{KubeletError, Kubelets},
    registry::{Resource, SideEffects, catalog, stored_forms::StoredForms},
    reload,
    request_path::Impersonations,
    reviews,
    server::{InFlight, Server},
    status::Status,
    storage::{StorageError, Store, StoreConfig, StoredResource, Transformer},
    webhook,
    zpages::Pages,
};

/// The daemon.
#[derive(Debug)]
pub struct ApiServer;

impl Daemon for ApiServer {
    type Config = Config;
    type ConfigError = OptionsError;
    type RunError = BuildError;

    fn flags() -> FlagSet {
        options::flags()
    }

    fn configure(values: &Values) -> Result<Config, OptionsError> {
        Config::new(values)
    }

    /// All of the machine: what a request costs is its processor time.
    fn workers() -> usize {
        thread::available_parallelism().map_or(2, usize::from).max(2)
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), BuildError> {
        let catalog = catalog::builtin().served(&config.served, config.gates);
        features::show(config.gates);
        build(config, catalog, &tasks).await?.run(&tasks).await;
        Ok(())
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The serving certificate or the port.
    #[error("cannot serve")]
    Serving(#[from] ServingError),
    /// The client certificate for kubelets or other API servers.
    #[error("client certificate")]
    Kubelet(#[from] KubeletError),
    /// The store's configuration.
    #[error("storage")]
    Store(#[from] StorageError),
    /// Authentication's files.
    #[error("authentication")]
    Authentication(#[from] authn::BuildError),
    /// Authorization's file.
    #[error("authorization")]
    AuthorizationConfig(#[from] authz::config::LoadError),
    /// `--authorization-policy-file`.
    #[error("authorization")]
    AuthorizationPolicies(#[from] authz::abac::LoadError),
    /// A webhook of authorization.
    #[error("authorization")]
    AuthorizationWebhook(#[from] authz::webhook::BuildError),
    /// `--egress-selector-config-file`.
    #[error("egress selection")]
    Egress(#[from] egress::LoadError),
    /// `--peer-ca-file` or the certificate for other servers.
    #[error("other API servers of the cluster")]
    Peers(#[from] peers::BuildError),
    /// `--tracing-config-file` does not decode.
    #[error("failed to read tracing config")]
    TracingFile(#[from] ConfigError),
    /// It decodes, but makes no sense.
    #[error("failed to validate tracing configuration")]
    Tracing(#[from] TracesError),
    /// Encryption's file.
    #[error("encryption at rest")]
    Encryption(#[from] encryption::config::ConfigError),
    /// Audit's files.
    #[error("audit")]
    Audit(#[from] audit::BuildError),
    /// `--admission-control-config-file`.
    #[error("admission")]
    AdmissionConfig(#[from] admission::config::LoadError),
    /// `--enable-admission-plugins` or its opposite.
    #[error("{0}")]
    Admission(String),
    /// `--debug-socket-path`.
    #[error("serving {0}")]
    DebugSocket(std::path::PathBuf, #[source] std::io::Error),
    /// A file named by a flag.
    #[error("reading {0}")]
    Read(std::path::PathBuf, #[source] std::io::Error),
}

/// A server that listens, but does not answer yet.
pub struct App {
    /// Where it listens; the port is known even when 0 was asked for.
    pub address: SocketAddr,
    server: Arc<Server>,
    authorization: authz::Authorization,
    facts: bootstrap::Facts,
    services: Arc<alloc::ServiceAllocator>,
    releases: BoxFuture<'static, ()>,
    listener: Listener,
    shutdown_delay: Duration,
    grace: Duration,
    storage_patience: Duration,
    leadership: leaderelection::Timers,
    /// Ends the store.
    stored_until: CancellationToken,
}

/// Loads, binds and registers. `tasks` is the process's group: its drain is the order to stop.
///
/// # Errors
/// When a file or the port is unusable.
pub async fn build(config: Config, catalog: catalog::Catalog, tasks: &Tasks) -> Result<App, BuildError> {
    capabilities::PRIVILEGED.allow(config.privileged);
    capabilities::LOOSE_ADDRESSES.allow(!config.gates.has(Gate::StrictIPCIDRValidation));
    capabilities::ANY_DELETION_COST.allow(!config.gates.has(Gate::PodDeletionCost));
    capabilities::MOUNTED_LABELS.allow(config.gates.has(Gate::SELinuxMount));
    let resources = stored(&catalog, config.event_ttl);
    let cbor = config.gates.has(Gate::CBORServingAndStorage);
    let forms: Arc<dyn Transformer> = Arc::new(StoredForms::new(catalog.clone(), cbor));
    // Requests in flight still need the store and what decrypts it, so these end after them.
    let stored_until = CancellationToken::new();
    let keepers = tasks.child_of(stored_until.clone());
    let egress = config.egress.as_deref().map(|path| Egress::load(path, &keepers)).transpose()?;
    let egress = egress.unwrap_or_default();
    let encryption = encryption(&config, &catalog, forms.clone(), &keepers)?;
    if let Some(encryption) = &encryption
        && let Err(why) = encryption.check().await
    {
        // Readiness tells; the plugin may come yet.
        tracing::warn!(why, "encryption at rest is not ready");
    }
    let transformer = encryption.clone().map_or(forms, |encryption| encryption as Arc<dyn Transformer>);
    let store = Store::open(StoreConfig {
        tls: config.etcd_tls.clone(),
        route: egress.of(Network::Etcd),
        traced: config.tracing.is_some(),
        prefix: config.etcd_prefix.clone(),
        compaction_interval: config.compaction_interval,
        size_interval: config.size_interval,
        elsewhere: config.etcd_overrides.clone(),
        transformer: transformer.clone(),
        ..StoreConfig::new(config.etcd_servers.clone(), resources)
    })?;
    let objects: Arc<dyn Objects> = Arc::new(StoreObjects::new(store.clone()));
    let authentication = Arc::new(authn::build(&config.authn, objects.clone(), &egress)?);
    let control_plane = egress.of(Network::ControlPlane);
    let modes = match &config.authorization_config {
        Some(path) => authz::config::load(path)?,
        None => config.modes.clone(),
    };
    // What is not served is not followed.
    let requests = catalog.contains("certificates.k8s.io", "podcertificaterequests");
    let for_nodes = config.gates.with(Gate::PodCertificateRequest, requests);
    let authorization = authz::build_with(&modes, authz::webhooks(&modes, &control_plane)?, for_nodes)?;
    let untold = config.gates.has(Gate::StorageVersionAPI).then(|| Arc::new(Barrier::new(&catalog)));
    let catalog = Arc::new(ArcSwap::from_pointee(catalog));
    let parts = admission::Parts {
        objects: objects.clone(),
        authorizer: authorization.authorizer.clone(),
        rbac: authorization.rbac.clone(),
        catalog: catalog.clone(),
        webhooks: Arc::new(webhook::Clients::new(
            objects.clone(),
            config.aggregator.by_endpoint,
            "admission",
            egress.clone(),
        )),
        toleration_seconds: config.toleration_seconds,
        gates: config.gates,
        directories: admission::Directories::default(),
    };
    let configurations = config.admission_config.as_deref().map(admission::Configurations::load);
    let configurations = configurations.transpose()?.unwrap_or_default();
    let (enable, disable) = (&config.enable_admission, &config.disable_admission);
    let chain = admission::chain(&parts, enable, disable, &configurations);
    let (services, releases) = alloc::ServiceAllocator::new(
        config.service_ranges.clone(),
        config.node_ports.clone(),
        objects.clone(),
    );
    let effects: Arc<dyn SideEffects> = services.clone();
    let listener = Listener::bind(&config.serving)?;
    let address = listener.address();
    let facts = facts(&config, address)?;
    // The server's own group outlives the order to stop by the shutdown delay.
    let serving = tasks.child_of(CancellationToken::new());
    let anonymous = authentication.anonymous.clone();
    let statuses = ComponentStatuses::new(store.clone(), serving.clone());
    let statuses: Arc<dyn ComputedResource> = Arc::new(statuses.map_err(KubeletError::from)?);
    let aggregated = Aggregator::new(&config.aggregator, egress.of(Network::Cluster));
    let server = Arc::new(Server {
        store,
        computed: HashMap::from([(("", "componentstatuses"), statuses)]),
        catalog,
        admission: chain.map_err(BuildError::Admission)?.plugins(),
        virtuals: reviews::all(&authentication, &authorization.authorizer),
        authentication,
        openapi: OpenApi::new(config.gates),
        discovery: Discovery::new(config.gates.has(Gate::StorageVersionHash)),
        authorizer: authorization.authorizer.clone(),
        side_effects: HashMap::from([(("", "services"), effects)]),
        external: external(&config, &facts),
        anonymous,
        health: health::Settings { begun: Instant::now(), ..config.health },
        pages: Pages::new(config.flags.clone(), config.gates),
        profiling: config.profiling,
        logs: config.shows_logs.then(Logs::new),
        impersonation: Impersonations::default(),
        gates: config.gates,
        collects_garbage: config.collects_garbage,
        deletes_at_once: config.deletes_at_once,
        front: Front::new(config.front.clone()),
        compressed: Arc::default(),
        tracer: tracer(&config, &serving)?,
        in_flight: in_flight(&config),
        auditor: audit::build(&config.audit, &control_plane, &serving)?,
        limits: config.limits,
        peers: peers(&config, &egress, &serving)?,
        aggregated: aggregated.map_err(KubeletError::from)?,
        kubelets: Kubelets::new(&config.kubelet, egress.of(Network::Cluster))?,
        egress,
        objects,
        plugins: encryption.clone().filter(|encryption| {
            encryption.has_plugins() || config.encryption.as_ref().is_some_and(|(_, reloads)| *reloads)
        }),
        untold,
        ready: AtomicBool::new(false),
        stopping: tasks.drain(),
        drain: serving.drain(),
        tasks: serving,
    });
    if let Some(path) = &config.debug_socket {
        debug::serve(path, &server.tasks).map_err(|error| BuildError::DebugSocket(path.clone(), error))?;
    }
    component_base::metrics::show(config.metrics.clone());
    show_metrics(&server.store, &config);
    watch_files(&server, &config);
    let identity = bootstrap::identity::lease_name(&facts.hostname);
    watch_configurations(&server, &config, &authorization, &identity);
    parts.directories.follow(&server.tasks, &identity);
    if let (Some(encryption), Some((path, true))) = (encryption, config.encryption.clone()) {
        reload::watch(&server.tasks, "encryption configuration", vec![path.clone()], move || {
            let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
            encryption.reload(&text).map_err(|e| e.to_string())
        });
    }
    let Config { shutdown_delay, grace, storage_patience, leadership, .. } = config;
    Ok(App {
        address,
        server,
        authorization,
        facts,
        services,
        releases,
        listener,
        shutdown_delay,
        grace,
        storage_patience,
        leadership,
        stored_until,
    })
}

/// What follows requests, when a file says where that is told.
fn tracer(config: &Config, tasks: &Tasks) -> Result<Option<Tracer>, BuildError> {
    const VERSIONS: [&str; 3] =
        ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
    let Some(path) = &config.tracing else { return Ok(None) };
    let load = |version: &str| {
        component_base::config::load_content::<TracingConfiguration>(path, version, "TracingConfiguration")
    };
    let [stable, beta, alpha] = VERSIONS;
    let is_other = |error: &ConfigError| matches!(error, ConfigError::Kind { .. });
    let mut read = load(stable);
    for version in [beta, alpha] {
        // What the file is not of any of them is told of the first.
        if read.as_ref().is_err_and(is_other)
            && let Ok(older) = load(version)
        {
            read = Ok(older);
        }
    }
    let server = bootstrap::identity::lease_name(&hostname());
    let who = vec![traces::text("service.name", "apiserver"), traces::text("service.instance.id", &server)];
    Ok(Some(Tracer::start(&read?, "k8s.io/component-base/tracing", who, tasks)?))
}

/// The other API servers of the cluster, when the flags say how they are believed.
fn peers(config: &Config, egress: &Egress, tasks: &Tasks) -> Result<Option<Arc<Peers>>, BuildError> {
    let (Some(ca), Some((cert, key))) = (&config.peer_ca, &config.aggregator.client) else { return Ok(None) };
    let own = bootstrap::identity::lease_name(&hostname());
    let route = egress.of(Network::ControlPlane);
    let peers = Arc::new(Peers::new(ca, (cert.as_path(), key.as_path()), own, route)?);
    peers.watch(tasks);
    Ok(Some(peers))
}

/// What encrypts stored values, when the flags ask for it.
fn encryption(
    config: &Config,
    catalog: &catalog::Catalog,
    forms: Arc<dyn Transformer>,
    tasks: &Tasks,
) -> Result<Option<Arc<Encryption>>, BuildError> {
    encryption::metrics::register();
    let Some((path, _)) = &config.encryption else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|error| BuildError::Read(path.clone(), error))?;
    let server = bootstrap::identity::lease_name(&hostname());
    let encryption = Encryption::new(&text, &config.etcd_prefix, catalog, forms, (&server, tasks))?;
    Ok(Some(Arc::new(encryption)))
}

/// Requests served at once: fairly, or just bounded.
fn in_flight(config: &Config) -> InFlight {
    let (reads, writes) = (config.reads_inflight, config.writes_inflight);
    if config.fair && reads + writes > 0 {
        return InFlight::Fair(Arc::new(FlowControl::new(reads + writes, config.limits.timeout)));
    }
    let limit = |n: usize| Semaphore::new(if n == 0 { Semaphore::MAX_PERMITS } else { n });
    InFlight::Bounded { reads: limit(reads), writes: limit(writes) }
}

/// Metrics that are there before anything is counted, and those counted when they are read. A process has one server.
fn show_metrics(store: &Store, config: &Config) {
    static SHOWN: Once = Once::new();
    SHOWN.call_once(|| {
        metrics::begin();
        metrics::show_sizes(store.clone());
        alloc::ip::show(store, &config.service_ranges);
    });
}

/// Certificates change under a running server.
fn watch_files(server: &Arc<Server>, config: &Config) {
    let tasks = &server.tasks;
    let kubelets = server.clone();
    let reload_kubelets = move || kubelets.kubelets.reload().map_err(|e| e.to_string());
    reload::watch(tasks, "kubelet certificates", server.kubelets.files(), reload_kubelets);
    let text = |e: &dyn std::fmt::Display| e.to_string();
    if let (Some(path), Some(ca)) =
        (config.authn.client_ca_file.clone(), server.authentication.client_ca.clone())
    {
        reload::watch(tasks, "client CA", vec![path.clone()], move || {
            ca.reload(&std::fs::read(&path).map_err(|e| text(&e))?).map_err(|e| text(&e))
        });
    }
    let proxy = server.authentication.front_proxy.clone();
    if let (Some((path, _)), Some(proxy)) = (config.authn.request_header.clone(), proxy) {
        reload::watch(tasks, "front proxy CA", vec![path.clone()], move || {
            proxy.reload(&std::fs::read(&path).map_err(|e| text(&e))?).map_err(|e| text(&e))
        });
    }
}

/// Configurations of authentication and authorization change under a running server.
fn watch_configurations(
    server: &Arc<Server>,
    config: &Config,
    authorization: &authz::Authorization,
    identity: &str,
) {
    if let Some(path) = config.authorization_config.clone() {
        let (chain, counts) = (authorization.chain.clone(), reload::Counts::new("authorization", identity));
        let route = server.egress.of(Network::ControlPlane);
        reload::watch(&server.tasks, "authorization configuration", vec![path.clone()], move || {
            let load = || -> Result<(), String> {
                let modes = authz::config::load(&path).map_err(|error| chain_of(&error))?;
                let webhooks = authz::webhooks(&modes, &route).map_err(|error| chain_of(&error))?;
                chain.replace(&modes, webhooks)
            };
            counts.count(load())
        });
    }
    if let Some(path) = config.authn.config.clone() {
        let (server, options) = (server.clone(), config.authn.clone());
        let counts = reload::Counts::new("authentication", identity);
        reload::watch(&server.tasks.clone(), "authentication configuration", vec![path], move || {
            let reloaded = server.authentication.issuers.reload(&options, &server.egress);
            counts.count(reloaded.map_err(|error| chain_of(&error)))
        });
    }
}

/// An error and what caused it.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    component_base::workqueue::chain(error)
}

/// How the catalog's resources are stored: those that are another group's view of the same objects are one with it.
fn stored(catalog: &catalog::Catalog, event_ttl: Duration) -> Vec<StoredResource> {
    let (own, views): (Vec<_>, Vec<_>) = catalog.iter().partition(|r| r.stored_group() == r.group);
    let one = |resource: &Arc<Resource>| {
        let mut stored = StoredResource::of(resource);
        for view in views.iter().filter(|v| v.stored_group() == resource.group && v.plural == resource.plural)
        {
            let known: Vec<String> = stored.selectable.iter().map(|s| s.name.clone()).collect();
            let fields = StoredResource::of(view).selectable;
            stored.selectable.extend(fields.into_iter().filter(|field| !known.contains(&field.name)));
        }
        stored.ttl = Some(event_ttl).filter(|ttl| resource.storage_prefix == "events" && !ttl.is_zero());
        stored
    };
    own.into_iter().map(one).collect()
}

/// Host and port clients know this server by.
fn external(config: &Config, facts: &bootstrap::Facts) -> String {
    match config.external_hostname.as_str() {
        "" => SocketAddr::new(facts.advertise, facts.port).to_string(),
        name if name.contains(':') => name.to_owned(),
        name => format!("{name}:{}", facts.port),
    }
}

/// What the bootstrap objects say of this server.
fn facts(config: &Config, address: SocketAddr) -> Result<bootstrap::Facts, BuildError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).map_err(|e| BuildError::Read(path.clone(), e))
    };
    let request_header = match &config.request_header {
        None => None,
        Some((path, header)) => Some(RequestHeader { client_ca: read(path)?, ..header.clone() }),
    };
    let hostname = hostname();
    let unique = uuid::Uuid::new_v4();
    Ok(bootstrap::Facts {
        service_ranges: config.service_ranges.clone(),
        advertise: config.advertise.unwrap_or_else(|| own_address(address.ip())),
        port: address.port(),
        node_port: config.kubernetes_node_port,
        publishes: config.publishes_endpoints,
        client_ca: config.authn.client_ca_file.as_ref().map(read).transpose()?,
        gates: config.gates,
        request_header,
        peer_address: match &config.peer_address {
            Some(told) => told.clone(),
            None => {
                let advertised = config.advertise.unwrap_or_else(|| own_address(address.ip()));
                (advertised.to_string(), address.port())
            }
        },
        identity: format!("{}_{unique}", bootstrap::identity::lease_name(&hostname)),
        hostname,
    })
}

/// This machine's name, empty when it has none.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The bind address, or where that is a wildcard the address of the default route.
fn own_address(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    // Connecting a datagram socket sends nothing; it only chooses a route (192.0.2.0/24 is documentation).
    let route = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    route.map_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |local| local.ip())
}

impl App {
    /// What it serves with.
    #[cfg(test)]
    pub(crate) fn server(&self) -> Arc<Server> {
        self.server.clone()
    }

    /// Serves until `tasks` drains, goes on for the shutdown delay, then ends what is in flight.
    pub async fn run(self, tasks: &Tasks) {
        let Self {
            server,
            authorization,
            facts,
            services,
            releases,
            listener,
            shutdown_delay,
            grace,
            storage_patience,
            leadership,
            address,
            stored_until: stored,
        } = self;
        tracing::info!(%address, "Serving securely");
        server.tasks.spawn("storage", server.store.clone().run(stored.clone()));
        let leaving = facts.clone();
        let starter = Starter {
            server: server.clone(),
            authorization,
            facts,
            services,
            releases,
            storage_patience,
            leadership,
        };
        let (group, drain) = (server.tasks.clone(), server.drain.clone());
        server.tasks.spawn("start", async move {
            let spawn = move |name: &'static str, task: BoxFuture<'static, ()>| {
                let drain = group.drain();
                group.spawn(name, async move {
                    drain.run_until_cancelled(task).await;
                });
            };
            drain.run_until_cancelled(starter.start(&spawn)).await;
        });
        let stop = async {
            tasks.drain().cancelled().await;
            tracing::info!(delay = ?shutdown_delay, "told to stop: not ready any more");
            let delay = tokio::time::sleep(shutdown_delay);
            leave(&server, &leaving).await;
            delay.await;
            server.front.close(server.limits.timeout).await;
            server.drain.cancel();
        };
        tokio::join!(stop, listener.serve(server.clone(), grace));
        stored.cancel();
    }
}

/// Takes this server out of the `kubernetes` service, as well as that is possible now.
async fn leave(server: &Server, facts: &bootstrap::Facts) {
    if !server.ready.load(Ordering::Acquire) {
        return;
    }
    let left = tokio::time::timeout(Duration::from_secs(3), bootstrap::leave(&server.objects, facts)).await;
    let why = match left {
        Ok(Ok(())) => return,
        Ok(Err(status)) => status.to_string(),
        Err(_) => "timed out".to_owned(),
    };
    tracing::warn!(why, "this server's address stays in the kubernetes service until it expires");
}

/// What happens between listening and ready.
struct Starter {
    server: Arc<Server>,
    authorization: authz::Authorization,
    facts: bootstrap::Facts,
    services: Arc<alloc::ServiceAllocator>,
    releases: BoxFuture<'static, ()>,
    /// `--storage-initialization-timeout`.
    storage_patience: Duration,
    /// `--coordinated-leadership-*`.
    leadership: leaderelection::Timers,
}

impl Starter {
    /// Caches, bootstrap objects, allocations, authorization's indexes; then ready, and renewals go on.
    async fn start(mut self, spawn: &(dyn Fn(&'static str, BoxFuture<'static, ()>) + Sync)) {
        let (store, patience) = (&self.server.store, self.storage_patience);
        if tokio::time::timeout(patience, store.wait_ready()).await.is_err() {
            tracing::warn!(?patience, "storage is not initialized yet; the server is not ready until it is");
            store.wait_ready().await;
        }
        let rbac = self.authorization.rbac.is_some();
        let objects = self.server.objects.clone();
        while let Err(status) = ensure(&objects, &self.facts, &self.services, rbac).await {
            tracing::warn!(%status, "bootstrap objects are not stored yet, trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if let Some(barrier) = &self.server.untold {
            let (catalog, server) =
                (self.server.catalog.load_full(), bootstrap::storage_versions::server(&self.facts));
            bootstrap::storage_versions::tell(&*objects, &catalog, &server, barrier).await;
            let (objects, barrier) = (objects.clone(), barrier.clone());
            let kept = async move {
                bootstrap::storage_versions::keep_telling(&*objects, &catalog, &server, &barrier).await;
            };
            spawn("storage-versions", kept.boxed());
        }
        spawn("service-releases", self.releases);
        if let InFlight::Fair(filter) = &self.server.in_flight {
            spawn("priority-and-fairness-seats", filter.clone().free_seats().boxed());
            spawn(
                "priority-and-fairness",
                flowcontrol::controller::run(filter.clone(), objects.clone()).boxed(),
            );
        }
        self.authorization.start(&objects, spawn).await;
        let (loaded, custom_loaded) = tokio::sync::oneshot::channel();
        spawn("custom-resources", customresources::run(self.server.clone(), loaded).boxed());
        // It is dropped unsent only when the server ends.
        custom_loaded.await.ok();
        self.server.ready.store(true, Ordering::Release);
        spawn("aggregator", aggregator::run(self.server.clone()).boxed());
        choose_leaders(&self.server, &self.facts, self.leadership);
        if let Some(peers) = self.server.peers.clone() {
            spawn("peers", peers::run(self.server.clone(), peers).boxed());
        }
        if self.server.gates.has(Gate::APIServerIdentity) {
            spawn("identity-leases", bootstrap::collect_identities(objects.clone()).boxed());
        }
        spawn("bootstrap-renewal", bootstrap::keep_renewing(objects, self.facts).boxed());
    }
}

/// Under the gate CoordinatedLeaderElection, where candidates are served.
fn choose_leaders(server: &Server, facts: &bootstrap::Facts, timers: leaderelection::Timers) {
    if !server.gates.has(Gate::CoordinatedLeaderElection) {
        return;
    }
    if !server.catalog.load().contains("coordination.k8s.io", "leasecandidates") {
        let why = "leasecandidates of coordination.k8s.io are not served: see --runtime-config";
        tracing::warn!(why, "leaders are not chosen");
        return;
    }
    let identity = format!("{}_{}", facts.hostname, uuid::Uuid::new_v4());
    let election = leaderelection::run(server.objects.clone(), identity, timers, server.drain.clone());
    server.tasks.spawn("leader-election-controller", election);
}

async fn ensure(
    objects: &Arc<dyn Objects>,
    facts: &bootstrap::Facts,
    services: &alloc::ServiceAllocator,
    rbac: bool,
) -> Result<(), Status> {
    bootstrap::ensure(objects, facts, rbac, Timestamp::now()).await?;
    services.repair().await
}
