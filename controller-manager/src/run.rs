//! Wiring: flags, the lease, shared caches, and the controllers of the list.

use std::{path::PathBuf, sync::Arc};

use component_base::{
    auth::{AuthError, AuthOptions, Delegated},
    client::{self, ClientError, ClientOptions},
    clock,
    daemon::Daemon,
    flags::{Flag, FlagSet, Kind, Values, group},
    informer::Informers,
    leader::{LeaderElection, LeaderError},
    serving::{SecureServer, SecureServingOptions, ServingError, Site},
    task::Tasks,
};
use ipnet::IpNet;

use crate::controllers::{self, Context, Settings};

/// The daemon.
#[derive(Debug)]
pub struct ControllerManager;

/// Everything the daemon needs to know.
#[derive(Debug)]
pub struct Config {
    client: ClientOptions,
    serving: SecureServingOptions,
    auth: AuthOptions,
    election: Option<LeaderElection>,
    selection: Vec<String>,
    settings: Settings,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A range is none.
    #[error("--cluster-cidr: {0:?} is no address range")]
    Range(String),
    /// A prefix length is out of bounds.
    #[error("--{0} must be between 1 and {1}")]
    Mask(&'static str, u8),
    /// No such controller.
    #[error("--controllers: {0:?} is no controller; there are {1}")]
    Controller(String, String),
    /// The CA bundle cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the API server.
    #[error("no API client")]
    Client(#[from] ClientError),
    /// The HTTPS endpoint cannot be served.
    #[error("cannot serve")]
    Serving(#[from] ServingError),
    /// Callers of the endpoint cannot be checked.
    #[error("cannot set up delegated authentication")]
    Auth(#[from] AuthError),
    /// The election's settings do not fit together.
    #[error("leader election")]
    Election(#[from] LeaderError),
}

impl Daemon for ControllerManager {
    type Config = Config;
    type ConfigError = ConfigError;
    type RunError = RunError;

    fn flags() -> FlagSet {
        FlagSet::new(
            "kube-controller-manager",
            "Runs the built-in controllers: they bring the cluster to what its objects ask for.",
            [
                Flag::new(
                    "controllers",
                    Kind::Strings,
                    "*",
                    "controllers to run; * for all, -name for all but one",
                ),
                Flag::new(
                    "allocate-node-cidrs",
                    Kind::Bool,
                    "false",
                    "give every node a range of pod addresses",
                ),
                Flag::new("cluster-cidr", Kind::Strings, "", "ranges of pods"),
                Flag::new("node-cidr-mask-size", Kind::Int, "24", "prefix length of a node's IPv4 range"),
                Flag::new(
                    "node-cidr-mask-size-ipv6",
                    Kind::Int,
                    "64",
                    "prefix length of a node's IPv6 range",
                ),
                Flag::new("root-ca-file", Kind::String, "", "CA bundle published to every namespace"),
            ],
        )
        .with(group::secure_serving("10257"))
        .with(group::delegated_auth())
        .with(group::leader_election("kube-controller-manager"))
        .with(group::client("20", "30"))
        .with(group::logging())
        .with(group::feature_gates())
    }

    fn configure(values: &Values) -> Result<Config, ConfigError> {
        let selection = values.list("controllers");
        for name in selection.iter().map(|s| s.strip_prefix('-').unwrap_or(s)).filter(|n| *n != "*") {
            if !controllers::ALL.iter().any(|c| c.name == name) {
                let known = controllers::ALL.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
                return Err(ConfigError::Controller(name.to_owned(), known));
            }
        }
        Ok(Config {
            client: group::client_options(values, "kube-controller-manager"),
            serving: group::secure_serving_options(values, "kube-controller-manager"),
            auth: group::auth_options(values),
            election: group::leader_election_options(values),
            selection,
            settings: settings(values)?,
        })
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), RunError> {
        let auth = Delegated::new(config.auth, "kube-controller-manager").await?;
        SecureServer::bind(&config.serving)?.serve(Site::default(), Arc::new(auth), &tasks);
        let client = client::connect(&config.client).await?;
        let (own, selection, settings) = (client.clone(), config.selection, Arc::new(config.settings));
        let lead = move |group: Tasks| async move {
            let ctx = Context {
                informers: Informers::new(own.clone(), &group),
                client: own,
                tasks: group.clone(),
                clock: clock::real(),
                settings,
            };
            for controller in controllers::ALL.iter().filter(|c| controllers::is_enabled(c.name, &selection))
            {
                (controller.start)(&ctx);
                tracing::info!(controller = controller.name, "started");
            }
            ctx.informers.start();
            group.drain().cancelled().await;
        };
        match config.election {
            Some(election) => election.run(client, clock::real(), &tasks, lead)?,
            None => drop(tasks.spawn("controllers", lead(tasks.clone()))),
        }
        Ok(())
    }
}

fn settings(values: &Values) -> Result<Settings, ConfigError> {
    let mut out = Settings {
        node_mask_v4: mask(values, "node-cidr-mask-size", 32)?,
        node_mask_v6: mask(values, "node-cidr-mask-size-ipv6", 128)?,
        ..Settings::default()
    };
    if values.bool("allocate-node-cidrs") {
        let parse = |text: &String| text.parse::<IpNet>().map_err(|_| ConfigError::Range(text.clone()));
        out.cluster_cidrs = values.list("cluster-cidr").iter().map(parse).collect::<Result<_, _>>()?;
    }
    if let Some(path) = values.optional("root-ca-file").filter(|p| !p.is_empty()).map(PathBuf::from) {
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path, source })?;
        out.root_ca = Some(text);
    }
    Ok(out)
}

fn mask(values: &Values, flag: &'static str, most: u8) -> Result<u8, ConfigError> {
    let value = values.int(flag);
    u8::try_from(value).ok().filter(|m| *m >= 1 && *m <= most).ok_or(ConfigError::Mask(flag, most))
}
