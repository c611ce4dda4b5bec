//! Wiring: flags, the lease, one loop that brings infrastructure to what services and nodes ask for, and those that bring
//! nodes to what their machines are.

mod fixed;
mod instances;

use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use component_base::{
    auth::Delegated,
    client::{self, ClientOptions},
    clock::{self, SharedClock},
    daemon::{self, Daemon, StartError},
    events::{EventType, Recorder, reference},
    features::{self, GateErrors, Gates, Reader, Switches},
    flags::{
        Flag, FlagSet, Kind, Values,
        fixed::{self as common, Refused},
        group,
    },
    goduration,
    informer::{Event, Informer, Informers, ListWatch},
    leader::LeaderElection,
    logging::LoggingError,
    meta::ObjectKey,
    serving::{SecureServer, SecureServingOptions, Site},
    task::Tasks,
    workqueue::{Outcome, RateLimits, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::instances::{NodeKeeper, Periods};

use crate::{
    controllers::{
        names, route,
        service::{self, Action, Changed, FINALIZER, Told},
    },
    metrics,
    provider::{
        NodeAddress, Provider, ProviderError,
        bare_metal::{self, BareMetal},
    },
};

/// Everything is looked at this often even when nothing changed, so that strangers' changes are mended.
const RESYNC: Duration = Duration::from_secs(60);
/// Pause after a round with a failure, growing while rounds fail.
const RETRY: RateLimits =
    RateLimits { base: Duration::from_secs(5), max: Duration::from_secs(300), qps: 10.0, burst: 100.0 };

/// The daemon.
#[derive(Debug)]
pub struct CloudController;

/// Everything the daemon needs to know.
#[derive(Debug)]
pub struct Config {
    client: ClientOptions,
    provider: bare_metal::Config,
    periods: Periods,
    /// Nodes looked at at once.
    workers: usize,
    serving: SecureServingOptions,
    auth: component_base::auth::AuthOptions,
    election: Option<LeaderElection>,
    routes: bool,
    /// Controllers that run.
    enabled: BTreeSet<&'static str>,
    gates: Gates,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Gates that cannot be switched so.
    #[error("--feature-gates: {0}")]
    Gates(#[from] GateErrors),
    /// Logs cannot be written so.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// A value that cannot be served.
    #[error(transparent)]
    Fixed(#[from] Refused),
    /// No such controller.
    #[error("--controllers: {0}")]
    Controllers(#[from] names::Unknown),
    /// No such provider.
    #[error("unknown --cloud-provider {0:?}: there is \"bare-metal\"")]
    Provider(String),
    /// The provider's file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The provider's file is wrong.
    #[error("invalid {path:?}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
}

/// It does nothing else by any gate.
const SWITCHES: Switches =
    Switches { program: "cloud-controller-manager", reader: Reader::Controllers, gates: &[] };

impl Daemon for CloudController {
    type Config = Config;
    type ConfigError = ConfigError;
    type RunError = StartError;

    fn flags() -> FlagSet {
        FlagSet::new(
            "cloud-controller-manager",
            "Makes load balancers and routes exist on the infrastructure below the cluster.",
            [
                Flag::new("cloud-provider", Kind::String, "bare-metal", "the infrastructure: bare-metal"),
                Flag::new("cloud-config", Kind::String, "", "the provider's configuration file"),
                Flag::new("cluster-cidr", Kind::Strings, "", "ranges of pods"),
                Flag::new(
                    "controllers",
                    Kind::Strings,
                    "*",
                    "controllers to run: * for all, a name for one, -name for all but one",
                ),
                Flag::new(
                    "configure-cloud-routes",
                    Kind::Bool,
                    "true",
                    "make routes to the pods of other nodes",
                ),
                Flag::new(
                    "node-status-update-frequency",
                    Kind::Duration,
                    "5m0s",
                    "how often the addresses of nodes are looked at",
                ),
                Flag::new(
                    "node-monitor-period",
                    Kind::Duration,
                    "5s",
                    "how often machines of nodes that do not report are looked for",
                ),
                Flag::new("concurrent-node-syncs", Kind::Int, "1", "nodes looked at at once"),
            ],
        )
        .with(common::flags(fixed::FLAGS))
        .with(group::secure_serving("10258"))
        .with(group::delegated_auth(false))
        .with(group::leader_election("cloud-controller-manager"))
        .with(group::client("20", "30"))
        .with(group::logging())
        .with(Switches::flag())
    }

    fn configure(values: &Values) -> Result<Config, ConfigError> {
        common::check(fixed::FLAGS, values)?;
        let gates = SWITCHES.read(values)?;
        group::check_logging(values, gates)?;
        let enabled = names::enabled(&values.list("controllers"))?;
        let provider = values.string("cloud-provider");
        if provider != "bare-metal" {
            return Err(ConfigError::Provider(provider.to_owned()));
        }
        Ok(Config {
            client: group::client_options(values, "cloud-controller-manager"),
            provider: provider_config(values.optional("cloud-config"))?,
            serving: group::secure_serving_options(values, "cloud-controller-manager"),
            auth: group::auth_options(values),
            election: group::leader_election_options(values),
            periods: Periods {
                addresses: values.duration("node-status-update-frequency"),
                machines: values.duration("node-monitor-period"),
            },
            workers: usize::try_from(values.int("concurrent-node-syncs")).unwrap_or(1).max(1),
            routes: values.bool("configure-cloud-routes") && enabled.contains(names::ROUTE),
            enabled,
            gates,
        })
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), StartError> {
        features::show(config.gates);
        metrics::register();
        let auth = Delegated::new(config.auth, "cloud-controller-manager").await?;
        SecureServer::bind(&config.serving)?.serve(Site::default(), Arc::new(auth), &tasks);
        let client = client::connect(&config.client).await?;
        let (provider, routes) = (Arc::new(BareMetal::new(config.provider)), config.routes);
        let (workers, periods, enabled) = (config.workers, config.periods, config.enabled);
        let lead = move |group: Tasks| async move {
            let informers = Informers::new(client.clone(), &group);
            let controller = Controller {
                recorder: Recorder::new(client.clone(), clock::real(), "service-controller", "", &group),
                router: Recorder::new(client.clone(), clock::real(), "route_controller", "", &group),
                services: informers.get(ListWatch::default()),
                nodes: informers.get(ListWatch::default()),
                client,
                provider,
                balances: enabled.contains(names::SERVICE),
                routes,
                clock: clock::real(),
                hosts: Mutex::default(),
                changed: Arc::default(),
            };
            let keeper = NodeKeeper {
                client: controller.client.clone(),
                provider: controller.provider.clone(),
                nodes: controller.nodes.clone(),
                clock: controller.clock.clone(),
                node: Recorder::new(
                    controller.client.clone(),
                    clock::real(),
                    "cloud-node-controller",
                    "",
                    &group,
                ),
                lifecycle: Recorder::new(
                    controller.client.clone(),
                    clock::real(),
                    "cloud-node-lifecycle-controller",
                    "",
                    &group,
                ),
            };
            let drain = group.drain();
            drain.run_until_cancelled(controller.start(&informers, &group)).await;
            keeper.start(&group, workers, periods, &enabled);
            drain.cancelled().await;
        };
        daemon::lead(config.election, &config.client, &tasks, lead).await
    }
}

fn provider_config(path: Option<&str>) -> Result<bare_metal::Config, ConfigError> {
    let Some(path) = path.filter(|p| !p.is_empty()).map(PathBuf::from) else {
        return Ok(bare_metal::Config::default());
    };
    let text =
        std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    serde_saphyr::from_str(&text).map_err(|source| ConfigError::Parse { path, source: Box::new(source) })
}

/// What is looked at: all of it. Load balancers share addresses and routes share tables, so one look decides on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Infrastructure;

impl fmt::Display for Infrastructure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("infrastructure")
    }
}

/// What a round reads and writes.
struct Controller {
    client: Client,
    provider: Arc<BareMetal>,
    recorder: Recorder,
    /// Tells of routes.
    router: Recorder,
    services: Informer<Service>,
    nodes: Informer<Node>,
    /// Whether load balancers are made.
    balances: bool,
    /// Whether routes are made.
    routes: bool,
    clock: SharedClock,
    /// Nodes that took the traffic of load balancers after the last round.
    hosts: Mutex<Option<Vec<NodeAddress>>>,
    /// Services whose load balancers are to do something else since then.
    changed: Arc<Mutex<Changed>>,
}

impl Controller {
    /// Runs a round after every change, and after a while without one.
    async fn start(self, informers: &Informers, tasks: &Tasks) {
        let queue = WorkQueue::with_limits("service", RETRY);
        let (of_service, of_node) = (queue.clone(), queue.clone());
        let changed = self.changed.clone();
        self.services.on_event(move |event| {
            if let Event::Updated { old, new } = &event
                && service::is_changed(old, new)
            {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                changed.lock().insert((text(&new.metadata.namespace), text(&new.metadata.name)));
            }
            of_service.add(Infrastructure);
        });
        self.nodes.on_event(move |_| of_node.add(Infrastructure));
        informers.start();
        informers.wait_synced().await;
        // Where there is nothing, no event says so.
        queue.add(Infrastructure);
        let this = Arc::new(self);
        run_workers(tasks, &queue, 1, move |Infrastructure| {
            let this = this.clone();
            async move { this.round().await.map(|()| Outcome::RequeueAfter(RESYNC)) }
        });
    }

    /// Plans for everything there is, and acts.
    async fn round(&self) -> Result<(), RoundError> {
        let nodes = self.nodes.store().list();
        // A load balancer that cannot be made leaves no node without its routes.
        let balanced = if self.balances { self.balance(&nodes).await } else { Ok(()) };
        if self.routes { balanced.and(self.route(&nodes).await) } else { balanced }
    }

    /// Makes load balancers, and tells of them.
    async fn balance(&self, nodes: &[Arc<Node>]) -> Result<(), RoundError> {
        let plan = service::plan(&self.services.store().list(), nodes, self.provider.as_ref());
        let actor =
            Actor { client: &self.client, provider: self.provider.as_ref(), recorder: &self.recorder };
        let lookup =
            |namespace: &str, name: &str| self.services.store().get(&ObjectKey::new(namespace, name));
        let tell = |told: Vec<Told>| {
            for told in told {
                if let Some(service) = lookup(&told.namespace, &told.name) {
                    let kind = if told.warns { EventType::Warning } else { EventType::Normal };
                    actor.event(&service, kind, told.reason, &told.note);
                }
            }
        };
        let changed = std::mem::take(&mut *self.changed.lock());
        tell(plan.before());
        tell(plan.told_of(&changed, false));
        let before = self.hosts.lock().clone();
        let begun = self.clock.now();
        let balanced = actor.carry_out(&plan, lookup).await;
        metrics::balanced(&plan, before.as_deref(), balanced.is_ok(), self.clock.since(begun));
        match &balanced {
            Ok(()) => {
                *self.hosts.lock() = Some(service::targets(nodes));
                tell(plan.after(before.as_deref()));
                tell(plan.told_of(&changed, true));
            }
            Err(error) => {
                if let RoundError::Provider(why) = error {
                    tell(plan.failed(before.as_deref(), &chain(why)));
                    tell(plan.unchanged(&changed, &chain(why)));
                }
                // They are changed by the next round, if at all.
                self.changed.lock().extend(changed);
            }
        }
        balanced
    }

    /// Makes routes, and has nodes say so.
    async fn route(&self, nodes: &[Arc<Node>]) -> Result<(), RoundError> {
        metrics::ROUTED.inc();
        let began = self.clock.now();
        let routed = self.provider.set_routes(&route::plan(nodes)).await;
        if let Err(why) = &routed {
            let took = goduration::format(self.clock.since(began));
            route::unrouted(nodes).for_each(|node| self.tell_unrouted(node, &took, why));
        }
        let api: Api<Node> = Api::all(self.client.clone());
        for (name, condition) in route::conditions(nodes, routed.is_ok(), &self.clock.time()) {
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            match api.patch_status(&name, &PatchParams::default(), &patch).await {
                Err(e) if !client::is_not_found(&e) => {
                    return Err(RoundError::Node { node: name, source: Box::new(e) });
                }
                _ => {}
            }
        }
        Ok(routed?)
    }

    fn tell_unrouted(&self, node: &Node, took: &str, why: &ProviderError) {
        let (name, uid) = (node.metadata.name.as_deref(), node.metadata.uid.as_deref().unwrap_or_default());
        let (name, reason) = (name.unwrap_or_default(), "FailedToCreateRoute");
        for range in node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten()) {
            let note =
                format!("Could not create route {uid} {range} for node {name} after {took}: {}", chain(why));
            self.router.event(&reference(node), EventType::Warning, reason, "Sync", note, None);
        }
    }
}

/// Why a round did not do everything.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("cannot change node {node}")]
    Node {
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot change service {service}")]
    Api {
        service: String,
        #[source]
        source: Box<kube::Error>,
    },
}

struct Actor<'a> {
    client: &'a Client,
    provider: &'a dyn Provider,
    recorder: &'a Recorder,
}

impl Actor<'_> {
    /// Finalizers first, then the infrastructure, then addresses; finalizers go last.
    async fn carry_out(
        &self,
        plan: &service::Plan,
        lookup: impl Fn(&str, &str) -> Option<Arc<Service>>,
    ) -> Result<(), RoundError> {
        let rank = |action: &Action| match action {
            Action::AddFinalizer => 0,
            Action::SetAddress(_) | Action::ClearAddress | Action::Refuse(_) => 1,
            Action::RemoveFinalizer => 2,
        };
        for stage in 0..3 {
            if stage == 1 {
                self.provider.set_load_balancers(&plan.load_balancers).await?;
            }
            for (namespace, name, action) in plan.actions.iter().filter(|(_, _, a)| rank(a) == stage) {
                if let Some(service) = lookup(namespace, name) {
                    self.act(namespace, name, &service, action).await?;
                }
            }
        }
        Ok(())
    }

    async fn act(
        &self,
        namespace: &str,
        name: &str,
        service: &Service,
        action: &Action,
    ) -> Result<(), RoundError> {
        let finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        let with = |list: Vec<String>| json!({"metadata": {"finalizers": list, "resourceVersion": service.metadata.resource_version}});
        match action {
            Action::AddFinalizer => {
                let list = finalizers.into_iter().chain([FINALIZER.to_owned()]).collect();
                self.patch(namespace, name, "", with(list)).await
            }
            Action::RemoveFinalizer => {
                let list = finalizers.into_iter().filter(|f| f != FINALIZER).collect();
                self.patch(namespace, name, "", with(list)).await?;
                self.event(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
                Ok(())
            }
            Action::SetAddress(address) => {
                self.patch(namespace, name, "status", status(Some(*address))).await?;
                self.event(service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
                Ok(())
            }
            Action::ClearAddress => self.patch(namespace, name, "status", status(None)).await,
            Action::Refuse(why) => {
                self.event(
                    service,
                    EventType::Warning,
                    "SyncLoadBalancerFailed",
                    &format!("Error syncing load balancer: {why}"),
                );
                Ok(())
            }
        }
    }

    async fn patch(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: Value,
    ) -> Result<(), RoundError> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(body));
        let result = if subresource.is_empty() {
            api.patch(name, &params, &patch).await
        } else {
            api.patch_status(name, &params, &patch).await
        };
        match result {
            Ok(_) => Ok(()),
            // Gone or changed meanwhile: the next round sees it.
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
            Err(source) => {
                Err(RoundError::Api { service: format!("{namespace}/{name}"), source: Box::new(source) })
            }
        }
    }

    fn event(&self, service: &Service, kind: EventType, reason: &str, note: &str) {
        self.recorder.event(&reference(service), kind, reason, "Sync", note, None);
    }
}

fn status(address: Option<IpAddr>) -> Value {
    let ingress = address.map(|ip| json!([{"ip": ip.to_string(), "ipMode": "VIP"}]));
    json!({"status": {"loadBalancer": {"ingress": ingress}}})
}
