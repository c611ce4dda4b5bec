//! Wiring: Corefile → blocks → sockets; informers → index; then until a signal, and the lame duck's time after.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use component_base::{
    daemon::Daemon,
    flags::{FlagSet, Values},
    informer::Informers,
    memory,
    task::Tasks,
    tls::TlsError,
};
use parking_lot::RwLock;
use rustls::ServerConfig;
use sha2::{Digest as _, Sha512};

use crate::{
    corefile::{self, CorefileError, Kubernetes, Reach, Sources, Tls, Transport},
    feed::{self, Wanted},
    listen::{Current, Sockets, local_addresses},
    metrics::Metrics,
    options::{self, Config, OptionsError},
    pages::{self, Page},
    reach,
    secure::Served,
    server::{Block, BlockError, Server},
    zone::Index,
};

/// How often local addresses, the Corefile and the files it names are looked at.
const REFRESH: Duration = Duration::from_secs(5);
/// Time for queries under way once the lame duck is over.
const GRACE: Duration = Duration::from_secs(2);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Corefile, or a file it names, could not be read.
    #[error("reading {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The Corefile is wrong.
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    /// A server block cannot be set up.
    #[error("server block of port {0}")]
    Block(u16, #[source] BlockError),
    /// What is served over TLS is unusable.
    #[error("certificate of port {0}")]
    Tls(u16, #[source] TlsError),
    /// Blocks of one port are served with one certificate.
    #[error("the server blocks of port {0} differ in what they are served with over TLS")]
    SeveralCertificates(u16),
    /// All blocks answer for one cluster.
    #[error("the server blocks differ in how the cluster is reached or in what is read of it")]
    SeveralClusters,
    /// What the Corefile says of the API server.
    #[error("API server of the Corefile")]
    Reach(#[from] reach::ReachError),
    /// A DNS socket.
    #[error("listening on port {0}")]
    Listen(u16, #[source] std::io::Error),
    /// A metric is registered twice.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Port and addresses of one listener, and how it is asked.
type Place = (u16, Vec<IpAddr>, Transport);

/// What a Corefile says, ready to serve.
struct Plan {
    blocks: Vec<corefile::Block>,
    /// What the blocks that answer for a cluster say of it.
    reach: Reach,
    /// All that was read.
    text: String,
}

/// A server that listens, but does not answer from the cluster yet.
pub struct App {
    config: Config,
    plan: Plan,
    current: BTreeMap<Place, Arc<ArcSwap<Server>>>,
    /// What looks after the upstreams of the servers in use.
    watch: Option<Tasks>,
    sockets: Vec<Sockets>,
    certificates: Vec<Served>,
    index: Arc<RwLock<Index>>,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
}

/// The daemon.
#[derive(Debug)]
pub struct Dns;

impl Daemon for Dns {
    type Config = Config;
    type ConfigError = OptionsError;
    type RunError = BuildError;

    fn flags() -> FlagSet {
        options::flags()
    }

    fn configure(values: &Values) -> Result<Config, OptionsError> {
        options::configure(values)
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), BuildError> {
        build(config)?.run(&tasks).await
    }

    fn grace() -> Duration {
        GRACE
    }
}

/// Loads the Corefile and binds its ports.
pub fn build(config: Config) -> Result<App, BuildError> {
    let plan = Plan::load(&config)?;
    let metrics = Metrics::register(component_base::metrics::registry())?;
    metrics.count_panics();
    metrics.reloaded(&plan.hash());
    let mut index = Index::default();
    index.loading = true;
    let index = Arc::new(RwLock::new(index));
    let mut app = App {
        config,
        current: BTreeMap::new(),
        watch: None,
        sockets: Vec::new(),
        certificates: Vec::new(),
        index,
        metrics,
        ready: Arc::default(),
        plan,
    };
    for (place, server) in app.servers(&app.plan)? {
        let current = Arc::new(ArcSwap::from_pointee(server));
        let tls = app.certificate(&place)?;
        let sockets = Sockets::bind(Current(current.clone()), &place.1, place.0, tls);
        app.sockets.push(sockets.map_err(|e| BuildError::Listen(place.0, e))?);
        app.current.insert(place, current);
    }
    Ok(app)
}

impl Plan {
    fn load(config: &Config) -> Result<Self, BuildError> {
        let path = &config.corefile;
        let text = std::fs::read_to_string(path).map_err(|e| BuildError::Read(path.clone(), e))?;
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        // One that is no UTF-8 cannot stand in a Corefile and counts as unset.
        let variable = |name: &str| std::env::var(name).ok();
        // What is imported may change as well.
        let all = RefCell::new(text.clone());
        let files = |pattern: &str| {
            let files = corefile::files_of(&base, pattern)?;
            files.iter().for_each(|file| all.borrow_mut().push_str(&file.text));
            Ok(files)
        };
        let mut blocks = corefile::parse_with(&text, &Sources { variable: &variable, files: &files })?;
        for block in &mut blocks {
            if let (Transport::Plain, 53, Some(port)) = (block.transport, block.port, config.port) {
                block.port = port;
            }
        }
        let mut reaches = blocks.iter().filter_map(|block| Some(&block.kubernetes.as_ref()?.reach));
        let reach = reaches.next().cloned().unwrap_or_default();
        if reaches.any(|other| *other != reach) {
            return Err(BuildError::SeveralClusters);
        }
        Ok(Self { blocks, reach, text: all.into_inner() })
    }

    /// The hash of all that was read.
    fn hash(&self) -> String {
        Sha512::digest(&self.text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where is listened, and with which certificates.
    fn listens(&self) -> BTreeMap<Place, Vec<&Tls>> {
        let mut places: BTreeMap<Place, Vec<&Tls>> = BTreeMap::new();
        for block in &self.blocks {
            let directives = places.entry(Self::place_of(block)).or_default();
            directives.extend(block.tls.as_ref().filter(|tls| !directives.contains(tls)));
        }
        places
    }

    fn place_of(block: &corefile::Block) -> Place {
        (block.port, block.bind.clone(), block.transport)
    }

    fn lameduck(&self) -> Duration {
        self.blocks.iter().map(|b| b.lameduck).max().unwrap_or_default()
    }
}

impl App {
    /// Ports in use, in order.
    pub fn ports(&self) -> Vec<u16> {
        self.sockets.iter().map(Sockets::port).collect()
    }

    /// One server per port and addresses.
    fn servers(&self, plan: &Plan) -> Result<BTreeMap<Place, Server>, BuildError> {
        let mut places: BTreeMap<Place, Vec<Block>> = BTreeMap::new();
        for block in &plan.blocks {
            let built = Block::new(block, &self.metrics).map_err(|e| BuildError::Block(block.port, e))?;
            places.entry(Plan::place_of(block)).or_default().push(built);
        }
        let own = |bind: &[IpAddr]| -> Vec<IpAddr> {
            let all = if bind.is_empty() { local_addresses() } else { bind.to_vec() };
            all.into_iter().filter(|ip| !ip.is_loopback()).collect()
        };
        let server = |place: &Place, blocks| {
            Server::new(blocks, self.index.clone(), own(&place.1), self.metrics.clone())
        };
        Ok(places.into_iter().map(|(place, blocks)| (place.clone(), server(&place, blocks))).collect())
    }

    /// How a place is served over TLS, if it is.
    fn certificate(&mut self, place: &Place) -> Result<Option<Arc<ServerConfig>>, BuildError> {
        let directives = self.plan.listens().remove(place).unwrap_or_default();
        let directive = match directives.as_slice() {
            [] => return Ok(None),
            [directive] => *directive,
            _ => return Err(BuildError::SeveralCertificates(place.0)),
        };
        let (served, config) = Served::load(directive).map_err(|e| BuildError::Tls(place.0, e))?;
        self.certificates.push(served);
        Ok(Some(config))
    }

    /// Serves until the tasks drain, then through the lame duck's time.
    pub async fn run(mut self, tasks: &Tasks) -> Result<(), BuildError> {
        memory::give_back(tasks);
        self.serve_pages(tasks).await?;
        self.follow_cluster(tasks).await?;
        self.watch_loops(tasks);
        self.watch_upstreams(tasks);
        let drain = tasks.drain();
        let mut tick = tokio::time::interval(REFRESH);
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                _ = tick.tick() => {
                    self.sockets.iter_mut().for_each(Sockets::refresh);
                    self.certificates.iter_mut().for_each(Served::refresh);
                    self.current.values().for_each(|server| server.load().refresh());
                    self.reload(tasks);
                }
            }
        }
        tokio::time::sleep(self.plan.lameduck()).await;
        for sockets in std::mem::take(&mut self.sockets) {
            if tokio::time::timeout(GRACE, sockets.shutdown()).await.is_err() {
                tracing::warn!("queries were left at the end of the grace period");
            }
        }
        Ok(())
    }

    async fn serve_pages(&self, tasks: &Tasks) -> Result<(), BuildError> {
        let mut pages = BTreeMap::new();
        for block in &self.plan.blocks {
            pages.extend(block.health.map(|a| (a, Page::Health)));
            pages.extend(block.ready.map(|a| (a, Page::Ready(self.ready.clone()))));
            pages.extend(block.metrics.map(|a| (a, Page::Metrics)));
        }
        for (address, page) in pages {
            let is_health = matches!(page, Page::Health);
            let served = pages::serve(page, address, tasks).await;
            let address = served.map_err(|e| BuildError::Listen(address.port(), e))?;
            if is_health {
                pages::look_after_health(address, self.metrics.clone(), tasks);
            }
        }
        Ok(())
    }

    /// Fills the index from the API server, if a block answers for a cluster.
    async fn follow_cluster(&self, tasks: &Tasks) -> Result<(), BuildError> {
        let (index, ready) = (self.index.clone(), self.ready.clone());
        let loaded = move || {
            index.write().loading = false;
            ready.store(true, Ordering::Release);
        };
        if self.plan.blocks.iter().all(|b| b.kubernetes.is_none()) {
            loaded();
            return Ok(());
        }
        let informers = Informers::new(reach::connect(&self.plan.reach, &self.config).await?, tasks);
        let any = |has: fn(&Kubernetes) -> bool| {
            self.plan.blocks.iter().filter_map(|block| block.kubernetes.as_ref()).any(has)
        };
        let wanted = Wanted {
            pod_names: any(|kubernetes| kubernetes.pod_names),
            pods: any(|kubernetes| kubernetes.verified),
            endpoints: !self.plan.reach.no_endpoints,
            labels: self.plan.reach.labels.clone(),
            namespace_labels: self.plan.reach.namespace_labels.clone(),
        };
        self.metrics.count_requests();
        feed::subscribe(&informers, &self.index, &wanted, &self.metrics);
        let drain = tasks.drain();
        tasks.spawn("sync", async move {
            tokio::select! {
                () = informers.wait_synced() => {
                    loaded();
                    tracing::info!("names of the cluster are loaded");
                    // The informers live as long as somebody holds them.
                    drain.cancelled().await;
                }
                () = drain.cancelled() => {}
            }
        });
        Ok(())
    }

    /// Ends the process when a forwarder leads back here, as the `loop` directive asks.
    fn watch_loops(&self, tasks: &Tasks) {
        for current in self.current.values() {
            let (server, tasks_in, drain) = (current.load_full(), tasks.clone(), tasks.drain());
            tasks.spawn("loop", async move {
                let loops = tokio::select! {
                    loops = server.find_loops() => loops,
                    () = drain.cancelled() => return,
                };
                if !loops.is_empty() {
                    tasks_in.fail(format!("forwarding of {} leads back to this server", loops.join(", ")));
                }
            });
        }
    }

    /// Looks after the upstreams of the servers in use, and no more after those of others.
    fn watch_upstreams(&mut self, tasks: &Tasks) {
        let watch = tasks.child();
        for current in self.current.values() {
            let (server, end) = (current.load_full(), watch.drain());
            watch.spawn("upstreams", async move {
                tokio::select! {
                    () = server.watch() => {}
                    () = end.cancelled() => {}
                }
            });
        }
        if let Some(before) = self.watch.replace(watch) {
            before.cancel();
        }
    }

    /// Takes a changed Corefile over, if it asks for that and listens where the old one did.
    fn reload(&mut self, tasks: &Tasks) {
        if !self.plan.blocks.iter().any(|b| b.reload) {
            return;
        }
        let next = match Plan::load(&self.config) {
            Ok(next) if next.text == self.plan.text => return,
            Ok(next) => next,
            Err(error) => {
                self.metrics.reload_failed();
                return tracing::error!(%error, "the changed Corefile is not taken over");
            }
        };
        if next.listens() != self.plan.listens() || next.reach != self.plan.reach {
            self.metrics.reload_failed();
            let error = "the changed Corefile listens elsewhere or reads another cluster; it is taken over by a restart only";
            return tracing::error!("{error}");
        }
        // What a block has is told anew as it is made.
        self.metrics.forget_plugins();
        match self.servers(&next) {
            Err(error) => {
                self.metrics.reload_failed();
                tracing::error!(%error, "the changed Corefile is not taken over");
            }
            Ok(servers) => {
                for (place, server) in servers {
                    self.current[&place].store(Arc::new(server));
                }
                tracing::info!("the changed Corefile is in use");
                self.metrics.reloaded(&next.hash());
                self.plan = next;
                self.watch_upstreams(tasks);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_what_is_imported_is_a_change() {
        let folder = std::env::temp_dir().join(format!("dns-plan-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = Config { corefile: folder.join("Corefile"), port: Some(1053), ..Config::default() };
        let load = || Plan::load(&config).unwrap();
        std::fs::write(&config.corefile, ". {\n reload\n import *.override\n}\ntls://. {\n tls a b\n}")
            .unwrap();
        let before = load();
        assert_eq!(before.text, load().text);
        assert!(before.blocks[0].cache.is_none());
        let ports: Vec<u16> = before.blocks.iter().map(|block| block.port).collect();
        assert_eq!(ports, [1053, 853], "the flag is for plain DNS");
        std::fs::write(folder.join("more.override"), "cache 30").unwrap();
        let after = load();
        assert!(before.text != after.text && after.blocks[0].cache.is_some());
        std::fs::write(folder.join("more.override"), "cache 30\noops").unwrap();
        let error = Plan::load(&config).err().unwrap().to_string();
        assert!(error.ends_with("more.override:2: unknown directive oops"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
