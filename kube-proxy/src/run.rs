//! Wiring: informers wake the sync loop, which makes the kernel's tables those of the API.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{
    client::{self, ClientError, ClientOptions},
    config::{self, ConfigError},
    daemon::Daemon,
    features::{self, Gate},
    flags::{FlagSet, Values},
    informer::{Cached, Event, Informer, Informers, ListWatch},
    memory,
    meta::ObjectKey,
    metrics::{self, Stability},
    serving::ServingError,
    task::Tasks,
    workqueue,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    kernel::{self, KernelError, POLICIES},
    model::{self, HealthCheck, Model, Settings},
    node,
    objects::{EndpointSlice, Node, Service, service_of},
    options::{self, Config, OptionsError},
    pace::Pace,
    policy::Enforcer,
    server::{self, Health, ServiceChecks},
    sync::{self, Syncer},
    sysctl,
};

/// Services and slices other proxies serve, and those that have no cluster IP.
const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
/// Index of slices by service.
const BY_SERVICE: &str = "service";
/// Time between looks at the machine's addresses while services change.
const LOOK: Duration = Duration::from_secs(1);
/// Time the tasks have to end.
const GRACE: Duration = Duration::from_secs(5);

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No API client.
    #[error("cannot make a client of the API server")]
    Client(#[from] ClientError),
    /// No conversation with the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A port cannot be opened, and that was said to be fatal.
    #[error(transparent)]
    Listen(#[from] ServingError),
    /// The configuration cannot be written where it was asked for.
    #[error(transparent)]
    Write(#[from] ConfigError),
}

/// A proxy that is built and not running yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    tasks: Tasks,
    health: Arc<Health>,
    syncer: Syncer,
    informers: Informers,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    node: Informer<Node>,
    changed: Arc<Changed>,
    /// When the tables were looked at.
    looked: Instant,
    enforcer: Option<Enforcer>,
}

/// What the sync loop has to look at.
#[derive(Debug, Default)]
struct Changed {
    /// Services.
    services: Mutex<BTreeSet<ObjectKey>>,
    wake: Notify,
}

/// What the tables were last made with.
#[derive(Debug)]
struct Carried {
    settings: Settings,
    /// When the machine's addresses were looked at.
    looked: Cell<Instant>,
    health_checks: BTreeMap<ObjectKey, HealthCheck>,
}

/// The daemon.
#[derive(Debug)]
pub struct Proxy;

impl Daemon for Proxy {
    type Config = Config;
    type ConfigError = OptionsError;
    type RunError = RunError;

    fn flags() -> FlagSet {
        options::flags()
    }

    fn configure(values: &Values) -> Result<Config, OptionsError> {
        options::load(values)
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), RunError> {
        features::show(config.gates);
        if let Some(path) = &config.write_to {
            config::save(&config.file, path)?;
            tasks.cancel();
            return Ok(());
        }
        if config.cleanup {
            sync::cleanup()?;
            tasks.cancel();
            return Ok(());
        }
        sysctl::apply(&sysctl::wanted(&config.file, cores()));
        if config.init_only {
            tasks.cancel();
            return Ok(());
        }
        build(config, tasks).await?.start();
        Ok(())
    }

    fn grace() -> Duration {
        GRACE
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Builds the proxy: client, informers, listeners.
///
/// # Errors
/// When a part cannot be had.
pub async fn build(config: Config, tasks: Tasks) -> Result<App, RunError> {
    let options = ClientOptions {
        kubeconfig: config.kubeconfig.clone(),
        master: config.master.clone(),
        qps: config.qps,
        burst: config.burst,
        ..ClientOptions::new("kube-proxy")
    };
    // Thousands of services come in one stream: their pages would each be held as a whole, and wait for their turn.
    let informers = Informers::new(client::connect(&options).await?, &tasks).with_streaming_lists();
    let ours = || ListWatch { labels: Some(OURS.to_owned()), ..ListWatch::default() };
    let own =
        ListWatch { fields: Some(format!("metadata.name={}", config.node_name)), ..ListWatch::default() };
    let app = App {
        health: Arc::new(Health::new(config.sync_period)),
        syncer: Syncer::open()?,
        services: informers.get(ours()),
        slices: informers.get(ours()),
        node: informers.get(own),
        enforcer: enforcer(&config, &informers)?,
        changed: Arc::default(),
        looked: Instant::now(),
        informers,
        tasks,
        config,
    };
    app.listen()?;
    app.slices
        .add_index(BY_SERVICE, |slice| service_of(slice).into_iter().map(|key| key.to_string()).collect());
    app.hear(&app.services, Some("service"), |service| Some(service.key.clone()));
    app.hear(&app.slices, Some("endpoint"), service_of);
    app.hear(&app.node, None, |_| None);
    Ok(app)
}

/// The enforcer of network policies, if wanted; else what an earlier proxy enforced ends.
fn enforcer(config: &Config, informers: &Informers) -> Result<Option<Enforcer>, KernelError> {
    if config.network_policy {
        return Enforcer::new(informers, &config.node_name).map(Some);
    }
    sync::remove(POLICIES).map(|()| None)
}

// === impl App ===

impl App {
    /// Starts what runs until the drain.
    pub fn start(mut self) {
        let tasks = self.tasks.clone();
        if let Some(score) = self.config.file.oom_score_adj
            && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
        {
            tracing::debug!(%error, score, "oom_score_adj not applied");
        }
        memory::give_back(&tasks);
        self.informers.start();
        if let Some(enforcer) = self.enforcer.take() {
            tasks.spawn("network-policies", enforcer.run(tasks.clone()));
        }
        tasks.spawn("sync", self.follow());
    }

    fn listen(&self) -> Result<(), RunError> {
        let fatal = |outcome: Result<(), ServingError>| match outcome {
            Err(error) if !self.config.bind_hard_fail => {
                tracing::error!(error = workqueue::chain(&error), "cannot listen");
                Ok(())
            }
            outcome => outcome,
        };
        if let Some(address) = self.config.healthz {
            fatal(server::serve_health(&self.tasks, address, self.health.clone()))?;
        }
        if let Some(address) = self.config.metrics {
            let configz = serde_json::to_value(&self.config.file).unwrap_or_default();
            fatal(server::serve_metrics(
                &self.tasks,
                address,
                configz,
                self.config.gates,
                self.health.clone(),
            ))?;
        }
        Ok(())
    }

    /// Every change of a kind wakes the sync loop, which looks at the services concerned.
    fn hear<K: Cached>(
        &self,
        informer: &Informer<K>,
        counted: Option<&str>,
        service: fn(&K) -> Option<ObjectKey>,
    ) {
        let (changed, health) = (self.changed.clone(), self.health.clone());
        let counter = counted.map(|kind| {
            metrics::counter(
                &format!("kubeproxy_sync_proxy_rules_{kind}_changes_total"),
                "Changes of objects the tables are made of",
                Stability::Alpha,
            )
        });
        informer.on_event(move |event| {
            if let Some(counter) = &counter {
                counter.inc();
            }
            let old = if let Event::Updated { old, .. } = &event { service(old) } else { None };
            changed.services.lock().extend(service(event.object()).into_iter().chain(old));
            health.changed(Instant::now());
            changed.wake.notify_one();
        });
    }

    /// The sync loop.
    async fn follow(mut self) {
        let drain = self.tasks.drain();
        tokio::select! {
            () = self.synced() => {}
            () = drain.cancelled() => return,
        }
        let mut checks = ServiceChecks::new(self.tasks.clone(), self.health.clone());
        let (mut carried, mut pace) = (None, Pace::new(self.config.min_sync_period));
        loop {
            let wait = pace.wait(tokio::time::Instant::now());
            // Even no time at all is a turn of the timer.
            if !wait.is_zero() && drain.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            let done = self.sync(&mut carried, &mut checks);
            // A refusal is tried again soon; else the next change or the repair is waited for.
            let rest = if done { self.config.sync_period } else { self.config.min_sync_period };
            tokio::select! {
                () = self.something_to_do(rest.max(Duration::from_millis(100))) => {}
                () = drain.cancelled() => return,
            }
        }
    }

    async fn something_to_do(&mut self, rest: Duration) {
        let lost = || match self.syncer.lost(Instant::now()) {
            Ok(false) => false,
            Ok(true) => {
                tracing::warn!("our tables were changed by others; they are made anew");
                true
            }
            Err(error) => {
                tracing::warn!(error = workqueue::chain(&error), "tables not looked at");
                false
            }
        };
        kernel::something_to_do(rest, &self.changed.wake, &mut self.looked, lost).await;
    }

    /// Services do not wait for what network policies need.
    async fn synced(&self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        self.node.wait_synced().await;
    }

    /// One sync; whether it succeeded.
    fn sync(&mut self, carried: &mut Option<Carried>, checks: &mut ServiceChecks) -> bool {
        let began = Instant::now();
        let services = std::mem::take(&mut *self.changed.services.lock());
        // Netlink answers within the call; other tasks move to other threads meanwhile.
        let outcome = tokio::task::block_in_place(|| match carried {
            Some(now) if self.may_follow(now) => self.sync_some(services, now, checks),
            _ => self.sync_all(carried, checks),
        });
        match outcome {
            Ok(()) => {
                self.health.synced(began, jiff::Timestamp::now());
                true
            }
            Err(error) => {
                *carried = None;
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "sync failed; the tables are made anew");
                false
            }
        }
    }

    /// Whether looking at the changed services is enough: the tables are known, and nothing else has changed.
    fn may_follow(&self, carried: &Carried) -> bool {
        if !self.syncer.follows() {
            return false;
        }
        if carried.looked.get().elapsed() < LOOK {
            return true;
        }
        carried.looked.set(Instant::now());
        carried.settings == self.settings()
    }

    /// This node as it is now.
    fn settings(&self) -> Settings {
        let node = self.node.store().get(&ObjectKey::cluster(self.config.node_name.as_str()));
        self.health.set_node_eligible(node::is_eligible(node.as_deref()));
        node::settings(&self.config, node.as_deref(), &node::machine_addresses())
    }

    /// What these objects say, as far as the gates let it count.
    fn model(&self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Model {
        let mut model = model::build(services, slices, &self.config.node_name);
        if !self.config.gates.has(Gate::AllowServiceExternalIPs) {
            model.forget_external_ips();
        }
        model
    }

    fn sync_all(
        &mut self,
        carried: &mut Option<Carried>,
        checks: &mut ServiceChecks,
    ) -> Result<(), KernelError> {
        let settings = self.settings();
        let (services, slices) = (self.services.store().list(), self.slices.store().list());
        let model = self.model(&services, &slices);
        let outcome = self.syncer.sync(&model, &settings);
        checks.set(&model.health_checks);
        let looked = Cell::new(Instant::now());
        *carried = Some(Carried { settings, looked, health_checks: model.health_checks });
        outcome
    }

    fn sync_some(
        &mut self,
        services: BTreeSet<ObjectKey>,
        carried: &mut Carried,
        checks: &mut ServiceChecks,
    ) -> Result<(), KernelError> {
        let mut outcome = Ok(());
        // What could not be opened is tried again when nothing else is to do.
        let mut checked = services.is_empty();
        for key in services {
            let service: Vec<_> = self.services.store().get(&key).into_iter().collect();
            let slices = self.slices.store().by_index(BY_SERVICE, &key.to_string());
            let mut model = self.model(&service, &slices);
            outcome = outcome.and(self.syncer.change(&key, &model));
            let check = model.health_checks.remove(&key);
            checked |= check.as_ref() != carried.health_checks.get(&key);
            match check {
                Some(check) => drop(carried.health_checks.insert(key, check)),
                None => drop(carried.health_checks.remove(&key)),
            }
        }
        self.syncer.report();
        if checked {
            checks.set(&carried.health_checks);
        }
        outcome
    }
}
