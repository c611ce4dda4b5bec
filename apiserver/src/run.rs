//! Wiring: config → parts → [`App`] → run until a signal, then drain.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authn, authz, http,
    objects::{Objects, stored::StoreObjects},
    options::Config,
    registry::catalog::Catalog,
    server::Server,
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
    let authentication = authn::build(&config.authn, objects.clone())?;
    let authorization = authz::build(&config.modes);
    let wanted = SocketAddr::new(config.bind_address, config.secure_port);
    let listener = TcpListener::bind(wanted).await.map_err(|e| BuildError::Listen(wanted, e))?;
    let address = listener.local_addr().map_err(|e| BuildError::Listen(wanted, e))?;
    let limit = |n: usize| Semaphore::new(if n == 0 { Semaphore::MAX_PERMITS } else { n });
    let server = Arc::new(Server {
        store,
        catalog: ArcSwap::from_pointee(catalog),
        admission: Vec::new(),
        authentication,
        authorizer: authorization.authorizer.clone(),
        virtuals: HashMap::new(),
        anonymous: config.anonymous,
        reads: limit(config.reads_inflight),
        writes: limit(config.writes_inflight),
        ready: AtomicBool::new(false),
        drain: CancellationToken::new(),
    });
    Ok(App { address, server, authorization, objects, listener, tls, config })
}

impl App {
    /// Serves until `stop` is done, then drains.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let Self { server, mut authorization, objects, listener, tls, config, address } = self;
        tracing::info!(%address, "serving securely");
        let tasks = TaskTracker::new();
        drop(tasks.spawn(server.store.clone().run(server.drain.clone())));
        drop(tasks.spawn(http::serve(server.clone(), listener, tls, config.grace)));
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
                () = start(&starting, &mut authorization, &objects, &spawn) => {}
                () = drain.cancelled() => {}
            }
        }));
        stop.await;
        tracing::info!("draining");
        server.drain.cancel();
        tasks.close();
        if tokio::time::timeout(config.grace + Duration::from_secs(2), tasks.wait()).await.is_err() {
            tracing::warn!("tasks were left at the end of the grace period");
        }
    }
}

/// What happens between listening and ready: caches, bootstrap policy, authorization's indexes.
async fn start(
    server: &Server,
    authorization: &mut authz::Authorization,
    objects: &Arc<dyn Objects>,
    spawn: &(dyn Fn(&'static str, BoxFuture<'static, ()>) + Sync),
) {
    server.store.wait_ready().await;
    if authorization.rbac.is_some() {
        while let Err(status) = authz::bootstrap::reconcile(&**objects, Timestamp::now()).await {
            tracing::warn!(%status, "bootstrap policy is not stored yet, trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    authorization.start(objects, spawn).await;
    server.ready.store(true, Ordering::Release);
}

/// Resolves at SIGTERM or SIGINT.
pub async fn stop_signal() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}
