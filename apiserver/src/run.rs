//! Wiring: config → parts → [`App`] → run until a signal, then drain.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission, alloc,
    auth::Authorizer,
    authn, authz,
    bindings::Bindings,
    bootstrap::{self, authentication_facts::RequestHeader},
    http,
    objects::{self, Objects, stored::StoreObjects},
    openapi::OpenApi,
    options::Config,
    registry::{SideEffects, catalog::Catalog},
    reviews::{self, Virtuals},
    server::Server,
    status::Status,
    storage::{StorageError, Store, StoreConfig, StoredResource},
};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The serving certificate.
    #[error("TLS")]
    Tls(#[from] http::TlsError),
    /// The store's configuration.
    #[error("storage")]
    Store(#[from] StorageError),
    /// Authentication's files.
    #[error("authentication")]
    Authentication(#[from] authn::BuildError),
    /// `--enable-admission-plugins` or its opposite.
    #[error("{0}")]
    Admission(String),
    /// A file named by a flag.
    #[error("reading {0}")]
    Read(std::path::PathBuf, #[source] std::io::Error),
    /// The port.
    #[error("listening on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// A server that listens, but does not answer yet.
pub struct App {
    /// Where it listens; the port is known even when 0 was asked for.
    pub address: SocketAddr,
    server: Arc<Server>,
    authorization: authz::Authorization,
    objects: Arc<dyn Objects>,
    facts: bootstrap::Facts,
    services: Arc<alloc::ServiceAllocator>,
    releases: BoxFuture<'static, ()>,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    config: Config,
}

/// Loads, binds and registers.
pub async fn build(config: Config, catalog: Catalog) -> Result<App, BuildError> {
    let tls = http::tls_config(&config.tls_cert, &config.tls_key)?;
    let resources = catalog.iter().map(|r| StoredResource::of(r)).collect();
    let store = Store::open(StoreConfig {
        tls: config.etcd_tls.clone(),
        prefix: config.etcd_prefix.clone(),
        ..StoreConfig::new(config.etcd_servers.clone(), resources)
    })?;
    let objects: Arc<dyn Objects> = Arc::new(StoreObjects::new(store.clone()));
    let authentication = Arc::new(authn::build(&config.authn, objects.clone())?);
    let authorization = authz::build(&config.modes);
    let parts = admission::Parts {
        objects: objects.clone(),
        authorizer: authorization.authorizer.clone(),
        rbac: authorization.rbac.clone(),
    };
    let chain = admission::chain(&parts, &config.enable_admission, &config.disable_admission);
    let (services, releases) = alloc::ServiceAllocator::new(
        config.service_ranges.clone(),
        config.node_ports.clone(),
        objects.clone(),
    );
    let effects: Arc<dyn SideEffects> = services.clone();
    let wanted = SocketAddr::new(config.bind_address, config.secure_port);
    let listener = TcpListener::bind(wanted).await.map_err(|e| BuildError::Listen(wanted, e))?;
    let address = listener.local_addr().map_err(|e| BuildError::Listen(wanted, e))?;
    let facts = facts(&config, address)?;
    let limit = |n: usize| Semaphore::new(if n == 0 { Semaphore::MAX_PERMITS } else { n });
    let server = Arc::new(Server {
        store,
        catalog: ArcSwap::from_pointee(catalog),
        admission: chain.map_err(BuildError::Admission)?.plugins(),
        virtuals: virtuals(&authentication, &authorization.authorizer, &objects),
        authentication,
        openapi: OpenApi::default(),
        authorizer: authorization.authorizer.clone(),
        side_effects: HashMap::from([(("", "services"), effects)]),
        external: SocketAddr::new(facts.advertise, facts.port).to_string(),
        anonymous: config.anonymous,
        reads: limit(config.reads_inflight),
        writes: limit(config.writes_inflight),
        ready: AtomicBool::new(false),
        drain: CancellationToken::new(),
    });
    Ok(App { address, server, authorization, objects, facts, services, releases, listener, tls, config })
}

/// What the bootstrap objects say of this server.
/// Resources that answer instead of being stored.
fn virtuals(
    authentication: &Arc<authn::Authentication>,
    authorizer: &Arc<dyn Authorizer>,
    objects: &Arc<dyn Objects>,
) -> Virtuals {
    let mut all = reviews::all(authentication, authorizer);
    let binding = Bindings { objects: objects.clone(), pods: objects::PODS };
    all.insert(("", "pods/binding"), Arc::new(binding));
    all
}

fn facts(config: &Config, address: SocketAddr) -> Result<bootstrap::Facts, BuildError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).map_err(|e| BuildError::Read(path.clone(), e))
    };
    let request_header = match &config.request_header {
        None => None,
        Some((path, header)) => Some(RequestHeader { client_ca: read(path)?, ..header.clone() }),
    };
    let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let unique = uuid::Uuid::new_v4();
    Ok(bootstrap::Facts {
        service_ranges: config.service_ranges.clone(),
        advertise: config.advertise.unwrap_or_else(|| own_address(address.ip())),
        port: address.port(),
        node_port: config.kubernetes_node_port,
        client_ca: config.authn.client_ca_file.as_ref().map(read).transpose()?,
        request_header,
        identity: format!("{}_{unique}", bootstrap::identity::lease_name(&hostname)),
        hostname,
    })
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
    /// Serves until `stop` is done, then drains.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let Self {
            server,
            authorization,
            objects,
            facts,
            services,
            releases,
            listener,
            tls,
            config,
            address,
        } = self;
        tracing::info!(%address, "serving securely");
        let tasks = TaskTracker::new();
        drop(tasks.spawn(server.store.clone().run(server.drain.clone())));
        drop(tasks.spawn(http::serve(server.clone(), listener, tls, config.grace)));
        let (leaving, record) = (objects.clone(), facts.clone());
        let starter = Starter { server: server.clone(), authorization, objects, facts, services, releases };
        let (background, starting) = (tasks.clone(), server.clone());
        drop(tasks.spawn(async move {
            let drain = starting.drain.clone();
            let end = drain.clone();
            let spawn = move |_name: &'static str, task: BoxFuture<'static, ()>| {
                let end = end.clone();
                drop(background.spawn(async move {
                    tokio::select! { () = task => {}, () = end.cancelled() => {} }
                }));
            };
            tokio::select! {
                () = starter.start(&spawn) => {}
                () = drain.cancelled() => {}
            }
        }));
        stop.await;
        tracing::info!("draining");
        if server.ready.load(Ordering::Acquire)
            && let Err(status) = bootstrap::leave(&leaving, &record).await
        {
            tracing::warn!(%status, "this server's address stays in the kubernetes service until it expires");
        }
        server.drain.cancel();
        tasks.close();
        if tokio::time::timeout(config.grace + Duration::from_secs(2), tasks.wait()).await.is_err() {
            tracing::warn!("tasks were left at the end of the grace period");
        }
    }
}

/// What happens between listening and ready.
struct Starter {
    server: Arc<Server>,
    authorization: authz::Authorization,
    objects: Arc<dyn Objects>,
    facts: bootstrap::Facts,
    services: Arc<alloc::ServiceAllocator>,
    releases: BoxFuture<'static, ()>,
}

impl Starter {
    /// Caches, bootstrap objects, allocations, authorization's indexes; then ready, and renewals go on.
    async fn start(mut self, spawn: &(dyn Fn(&'static str, BoxFuture<'static, ()>) + Sync)) {
        self.server.store.wait_ready().await;
        let rbac = self.authorization.rbac.is_some();
        while let Err(status) = ensure(&self.objects, &self.facts, &self.services, rbac).await {
            tracing::warn!(%status, "bootstrap objects are not stored yet, trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        spawn("service-releases", self.releases);
        self.authorization.start(&self.objects, spawn).await;
        self.server.ready.store(true, Ordering::Release);
        spawn("bootstrap-renewal", bootstrap::keep_renewing(self.objects, self.facts).boxed());
    }
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

/// Resolves at SIGTERM or SIGINT.
pub async fn stop_signal() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}
