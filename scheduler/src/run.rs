//! Wiring: flags, the lease, informers, and the loop that owns model and queue.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use component_base::{
    auth::{AuthOptions, Delegated},
    client::{self, ClientOptions},
    clock::{self, SharedClock},
    daemon::{self, Daemon, StartError},
    events::Recorder,
    features::{self, Gate, Gates, Reader, Switches},
    flags::{Flag, FlagSet, Kind, Values, fixed, group},
    health::Endpoint,
    informer::{Event, Informer, Informers, Kept, ListWatch},
    leader::LeaderElection,
    logging::LoggingError,
    metrics::{self, view::View},
    serving::{SecureServer, SecureServingOptions, Site},
    task::Tasks,
    version,
};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{
        Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
    },
    policy::v1::PodDisruptionBudget,
    resource::v1::ResourceClaim,
};
use tokio::sync::{mpsc, watch};

use crate::{
    act::{Actor, Caches},
    config::{self, FileError, KubeSchedulerConfiguration, configz, extenders::ExtenderConfiguration},
    cycle::{Advisers, Change, Cycle},
    extender::{ConnectError, Extenders},
    metrics::Metrics,
    model::{
        DeviceChange, SelectorChange, StorageChange,
        selectors::{SelectorOf, Selects},
    },
    options,
    profile::Profile,
    queue::BackOff,
};

/// The daemon.
#[derive(Debug)]
pub struct Scheduler;

/// The gates it does something else by.
const SWITCHES: Switches = Switches {
    program: "kube-scheduler",
    reader: Reader::Scheduler,
    gates: &[
        Gate::ComponentFlagz,
        Gate::ComponentStatusz,
        Gate::CoordinatedLeaderElection,
        Gate::DRAConsumableCapacity,
        Gate::DRADeviceBindingConditions,
        Gate::DRADeviceTaintRules,
        Gate::DRADeviceTaints,
        Gate::DRAExtendedResource,
        Gate::DRAListTypeAttributes,
        Gate::DRANodeAllocatableResources,
        Gate::DRAPartitionableDevices,
        Gate::DRAPrioritizedList,
        Gate::DRAResourceClaimDeviceStatus,
        Gate::DRASchedulerFilterTimeout,
        Gate::DRAWorkloadResourceClaims,
        Gate::GangScheduling,
        Gate::GenericWorkload,
        Gate::InPlacePodLevelResourcesVerticalScaling,
        Gate::MatchLabelKeysInPodTopologySpread,
        Gate::NodeDeclaredFeatures,
        Gate::NominatedNodeNameForExpectation,
        Gate::OpportunisticBatching,
        Gate::PodLevelResources,
        Gate::SchedulerAsyncAPICalls,
        Gate::SchedulerAsyncPreemption,
        Gate::SchedulerPopFromBackoffQ,
        Gate::StorageCapacityScoring,
        Gate::TaintTolerationComparisonOperators,
        Gate::TopologyAwareWorkloadScheduling,
        Gate::VolumeLimitScaling,
        Gate::WorkloadAwarePreemption,
    ],
};

/// Everything the daemon needs to know.
#[derive(Debug)]
pub struct Config {
    client: ClientOptions,
    serving: SecureServingOptions,
    auth: AuthOptions,
    election: Option<LeaderElection>,
    profiles: Vec<Profile>,
    back_off: BackOff,
    extenders: Vec<ExtenderConfiguration>,
    features: Gates,
    /// How metrics are shown.
    view: View,
    /// What `/configz` shows.
    configz: serde_json::Value,
    /// Where that is written to instead of running.
    write_to: Option<PathBuf>,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Pods name their scheduler; an empty name is none.
    #[error("--scheduler-name must not be empty")]
    Name,
    /// A flag's value cannot be served.
    #[error(transparent)]
    Refused(#[from] fixed::Refused),
    /// Gates that cannot be switched so.
    #[error("--feature-gates: {0}")]
    Gates(#[from] features::GateErrors),
    /// How logs look.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// What is shown of metrics.
    #[error("--{0}: Invalid value: {1:?}: {2}")]
    Metrics(&'static str, String, String),
    /// The configuration, of a file or by flags.
    #[error("the configuration")]
    File(#[from] FileError),
}

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What all daemons need.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The extenders.
    #[error("extenders")]
    Extenders(#[from] ConnectError),
    /// The configuration cannot be written.
    #[error(transparent)]
    Write(#[from] component_base::config::ConfigError),
}

impl Daemon for Scheduler {
    type Config = Config;
    type ConfigError = ConfigError;
    type RunError = RunError;

    fn flags() -> FlagSet {
        FlagSet::new(
            "kube-scheduler",
            "Picks a node for every pod.",
            [
                Flag::new("config", Kind::String, "", "file of kind KubeSchedulerConfiguration"),
                Flag::new(
                    "write-config-to",
                    Kind::String,
                    "",
                    "write the configuration in effect to this file, and end",
                ),
                Flag::new(
                    "scheduler-name",
                    Kind::String,
                    "default-scheduler",
                    "pods naming this scheduler are placed, where no --config says otherwise",
                ),
                Flag::new(
                    "pod-max-in-unschedulable-pods-duration",
                    Kind::Duration,
                    "5m0s",
                    "how long a pod no node takes waits for something that may help before it is tried anyway",
                ),
            ],
        )
        .with(fixed::flags(options::FIXED))
        .with(fixed::flags(fixed::COMMON))
        .with(group::secure_serving("10259"))
        .with(group::delegated_auth(true))
        .with(group::leader_election("kube-scheduler"))
        .with(group::client("50", "100"))
        .with(group::logging())
        .with(group::metrics())
        .with(Switches::flag())
    }

    fn configure(values: &Values) -> Result<Config, ConfigError> {
        fixed::check(options::FIXED, values)?;
        fixed::check(fixed::COMMON, values)?;
        let name = values.string("scheduler-name").to_owned();
        if name.is_empty() {
            return Err(ConfigError::Name);
        }
        let features = SWITCHES.read(values)?;
        group::check_logging(values, features)?;
        let mut out = Config {
            client: group::client_options(values, "kube-scheduler"),
            serving: group::secure_serving_options(values, "kube-scheduler"),
            auth: group::auth_options(values),
            election: group::leader_election_options(values),
            profiles: Vec::new(),
            back_off: BackOff::default(),
            extenders: Vec::new(),
            features,
            view: view(values)?,
            configz: serde_json::Value::Null,
            write_to: values.optional("write-config-to").filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        let path = values.optional("config").filter(|path| !path.is_empty());
        let by_flags = path.is_none();
        let file = match path {
            None => {
                let file = KubeSchedulerConfiguration::of_profile(&name);
                out.profiles.push(Profile::with_defaults(name, out.features));
                file
            }
            Some(path) => {
                let file = KubeSchedulerConfiguration::load(Path::new(path))?;
                let is_set = |flag: &str| values.is_set(flag);
                out.client = file.client(out.client);
                out.election = file.election(out.election, is_set)?;
                out.back_off = file.back_off();
                out.extenders = file.extenders().to_vec();
                out.profiles = file.profiles(out.features)?;
                file
            }
        };
        if let Some(election) = &mut out.election {
            config::check_election(election)?;
            election.coordinated = out.features.has(Gate::CoordinatedLeaderElection);
        }
        let flags = configz::Flags {
            client: &out.client,
            election: out.election.as_ref(),
            // Beside a file they count for nothing, as those of the client.
            profiling: !by_flags || values.bool("profiling"),
            contention_profiling: !by_flags || values.bool("contention-profiling"),
            features: out.features,
        };
        out.configz = configz::configuration(&file, flags);
        out.back_off.early = out.features.has(Gate::SchedulerPopFromBackoffQ);
        out.back_off.forgotten = values.duration("pod-max-in-unschedulable-pods-duration");
        Ok(out)
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), RunError> {
        if let Some(path) = &config.write_to {
            component_base::config::save(&config.configz, path)?;
            tracing::info!(file = %path.display(), "wrote configuration");
            tasks.cancel();
            return Ok(());
        }
        metrics::show(config.view);
        features::show(config.features);
        version::show_compatibility();
        let auth = Delegated::new(config.auth, "kube-scheduler").await.map_err(StartError::from)?;
        let server = SecureServer::bind(&config.serving).map_err(StartError::from)?;
        let site = Site::gated(config.features);
        site.configz(configz::NAME, config.configz);
        if let Some(election) = &config.election {
            election.watched(site.health(), &[Endpoint::Healthz, Endpoint::Readyz]);
        }
        let drain = tasks.drain();
        site.health().add_readiness("shutdown", move || match drain.is_cancelled() {
            true => Err("process is shutting down".into()),
            false => Ok(()),
        });
        // Who waits for the lease reads nothing yet, and is ready to.
        let synced = Arc::new(AtomicBool::new(true));
        let is_synced = synced.clone();
        site.health().add_readiness("sched-handler-sync", move || match is_synced.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("handlers are not fully synchronized".into()),
        });
        server.serve(site, Arc::new(auth), &tasks);
        let client = client::connect(&config.client).await.map_err(StartError::from)?;
        let office = Office {
            client,
            clock: clock::real(),
            profiles: config.profiles,
            back_off: config.back_off,
            extenders: Extenders::connect(&config.extenders).await?,
            metrics: Arc::new(match config.features.has(Gate::GenericWorkload) {
                true => Metrics::register(config.features).with_groups(),
                false => Metrics::register(config.features),
            }),
            features: config.features,
            synced,
        };
        let lead = move |group: Tasks| async move {
            let drain = group.drain();
            drain.run_until_cancelled(lead(office, &group)).await;
        };
        Ok(daemon::lead(config.election, &config.client, &tasks, lead).await?)
    }
}

fn view(values: &Values) -> Result<View, ConfigError> {
    group::metrics_view(values).map_err(|(flag, value, why)| ConfigError::Metrics(flag, value, why))
}

/// What a leader begins with.
struct Office {
    client: kube::Client,
    clock: SharedClock,
    profiles: Vec<Profile>,
    back_off: BackOff,
    extenders: Extenders,
    features: Gates,
    metrics: Arc<Metrics>,
    /// Whether the caches are complete.
    synced: Arc<AtomicBool>,
}

/// Everything a leader does.
async fn lead(office: Office, tasks: &Tasks) {
    let Office { client, clock, profiles, back_off, extenders, features, metrics, synced } = office;
    synced.store(false, Ordering::Relaxed);
    // Each entry is a pointer to an object the caches hold anyway, so the channel is bounded by them.
    let (sender, receiver) = mpsc::unbounded_channel();
    let informers = Informers::new(client.clone(), tasks);
    let budgets = informers.get::<PodDisruptionBudget>(ListWatch::default());
    feed(&informers, &sender);
    feed_storage(&informers, &sender);
    feed_devices(&informers, &sender);
    feed_selectors::<Service>(&informers, &sender);
    feed_selectors::<ReplicationController>(&informers, &sender);
    feed_selectors::<ReplicaSet>(&informers, &sender);
    feed_selectors::<StatefulSet>(&informers, &sender);
    if features.has(Gate::DRADeviceTaintRules) {
        feed_all(&informers, &sender, |event| Change::Devices(DeviceChange::Rule(event)));
    }
    if features.has(Gate::GenericWorkload) {
        feed_all(&informers, &sender, Change::Group);
    }
    let claims = informers.get::<PersistentVolumeClaim>(ListWatch::default());
    let volumes = informers.get::<PersistentVolume>(ListWatch::default());
    let devices = informers.get::<ResourceClaim>(ListWatch::default());
    let (tell, changed) = watch::channel(());
    let tell = Arc::new(tell);
    let (of_volumes, of_devices) = (tell.clone(), tell.clone());
    claims.on_event(move |_| tell.send_replace(()));
    volumes.on_event(move |_| of_volumes.send_replace(()));
    devices.on_event(move |_| of_devices.send_replace(()));
    informers.start();
    informers.wait_synced().await;
    synced.store(true, Ordering::Relaxed);
    let recorder = |profile: &Profile| {
        let name = &profile.name;
        (name.clone(), Recorder::new(client.clone(), clock.clone(), name, "", tasks))
    };
    let recorders = profiles.iter().map(recorder).collect();
    let pods = informers.get::<Pod>(ListWatch::default());
    let nodes = informers.get::<Node>(ListWatch::default());
    let caches = Caches { pods: pods.clone(), nodes: nodes.clone(), claims, volumes, devices, changed };
    let foretells = features.has(Gate::NominatedNodeNameForExpectation);
    let with = (extenders.clone(), metrics.clone(), foretells);
    let actor = Actor::new(client.clone(), recorders, clock.clone(), sender, tasks.clone(), caches, with);
    let advisers = Advisers { extenders, pods, nodes };
    let cycle = Cycle::new((profiles, features), back_off, actor, budgets, advisers, clock, metrics);
    cycle.run(receiver).await;
}

fn feed(informers: &Informers, sender: &mpsc::UnboundedSender<Change>) {
    let tell = |sender: &mpsc::UnboundedSender<Change>| {
        let sender = sender.clone();
        // The loop is gone only when the daemon drains.
        move |change: Change| drop(sender.send(change))
    };
    let on = tell(sender);
    forward(&informers.get::<Pod>(ListWatch::default()), move |event| on(Change::Pod(event)));
    let on = tell(sender);
    forward(&informers.get::<Node>(ListWatch::default()), move |event| on(Change::Node(event)));
    let on = tell(sender);
    forward(&informers.get::<Namespace>(ListWatch::default()), move |event| on(Change::Namespace(event)));
}

/// Feeds all objects of a kind into the loop.
fn feed_all<K: component_base::informer::Object>(
    informers: &Informers,
    sender: &mpsc::UnboundedSender<Change>,
    change: impl Fn(Event<K>) -> Change + Send + Sync + 'static,
) {
    let sender = sender.clone();
    // The loop is gone only when the daemon drains.
    forward(&informers.get::<K>(ListWatch::default()), move |event| drop(sender.send(change(event))));
}

fn feed_storage(informers: &Informers, sender: &mpsc::UnboundedSender<Change>) {
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Claim(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Volume(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Class(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Driver(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Node(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Capacity(event)));
    feed_all(informers, sender, |event| Change::Storage(StorageChange::Attachment(event)));
}

fn feed_devices(informers: &Informers, sender: &mpsc::UnboundedSender<Change>) {
    feed_all(informers, sender, |event| Change::Devices(DeviceChange::Slice(event)));
    feed_all(informers, sender, |event| Change::Devices(DeviceChange::Class(event)));
    feed_all(informers, sender, |event| Change::Devices(DeviceChange::Claim(event)));
}

fn feed_selectors<K: Selects>(informers: &Informers, sender: &mpsc::UnboundedSender<Change>) {
    let sender = sender.clone();
    let informer = informers.get::<Kept<SelectorOf<K>>>(ListWatch::default());
    // The loop is gone only when the daemon drains.
    // The loop is gone only when the daemon drains.
    informer.on_event(move |event| drop(sender.send(Change::Selector(SelectorChange::new(&event)))));
}

fn forward<K: component_base::informer::Object>(
    informer: &Informer<K>,
    on: impl Fn(Event<K>) + Send + Sync + 'static,
) {
    informer.on_event(on);
}

#[cfg(test)]
mod tests {
    use component_base::flags::Parsed;

    use super::*;

    fn configure(flags: &[&str]) -> Result<Config, String> {
        let given = flags.iter().map(|flag| (*flag).to_owned());
        match Scheduler::flags().parse(given).map_err(|e| e.to_string())? {
            Parsed::Run(values) => Scheduler::configure(&values).map_err(|e| e.to_string()),
            Parsed::Print(text) => Err(text),
        }
    }

    #[test]
    fn every_flag_of_upstreams_is_known() {
        assert_eq!(component_base::reference::flags_lacking(&Scheduler::flags()), Vec::<String>::new());
        assert_eq!(component_base::reference::flags_differing(&Scheduler::flags()), Vec::<String>::new());
    }

    #[test]
    fn beside_a_file_only_flags_of_the_lease_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let body = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
            clientConnection: {kubeconfig: /of/the/file}\nleaderElection: {leaseDuration: 1m}\nenableProfiling: false\n";
        std::fs::write(&path, body).unwrap();
        let file = format!("--config={}", path.display());
        let flags = [
            "--kubeconfig=/of/flags",
            "--kube-api-qps=7",
            "--kube-api-burst=8",
            "--leader-elect-lease-duration=2m",
            "--master=https://one",
        ];
        let both = configure(&[&[file.as_str()], &flags[..]].concat()).unwrap();
        let client = &both.configz["clientConnection"];
        assert_eq!(client["kubeconfig"], "/of/the/file");
        assert_eq!((client["qps"].as_f64(), client["burst"].as_u64()), (Some(50.0), Some(100)));
        assert_eq!(both.configz["leaderElection"]["leaseDuration"], "2m0s");
        assert_eq!(both.configz["enableContentionProfiling"], false);
        assert_eq!(both.client.master.as_deref(), Some("https://one"));
        let alone = configure(&[&flags[..], &["--profiling=false"]].concat()).unwrap();
        let client = &alone.configz["clientConnection"];
        assert_eq!((client["kubeconfig"].as_str(), client["qps"].as_f64()), (Some("/of/flags"), Some(7.0)));
        assert_eq!(alone.configz["enableProfiling"], false);
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("one.yaml"), folder.path().join("two.yaml"));
        let config = configure(&[&format!("--write-config-to={}", path.display())]).unwrap();
        assert_eq!(config.write_to.as_deref(), Some(path.as_path()));
        component_base::config::save(&config.configz, &path).unwrap();
        let read = configure(&[&format!("--config={}", path.display())]).unwrap();
        assert!(read.write_to.is_none());
        component_base::config::save(&read.configz, &again).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(&again).unwrap());
    }

    #[test]
    fn every_gate_of_the_daemon_can_be_switched() {
        assert_eq!(SWITCHES.not_switched(), []);
        let refused = configure(&["--logging-format=json", "--feature-gates=LoggingBetaOptions=false"]);
        assert!(refused.unwrap_err().contains("Log format json is disabled, see LoggingBetaOptions feature"));
        assert!(configure(&["--logging-format=json"]).is_ok());
    }

    #[test]
    fn flags_are_served_or_refused_by_name() {
        let config =
            configure(&["--pod-max-in-unschedulable-pods-duration=1m", "--profiling=false"]).unwrap();
        assert_eq!(config.back_off.forgotten.as_secs(), 60);
        for flag in ["--emulated-version=kube=1.30", "--allow-metric-labels=x"] {
            let name = flag.split('=').next().unwrap();
            assert!(configure(&[flag]).unwrap_err().starts_with(&format!("{name}: Invalid value")), "{flag}");
        }
    }
}
