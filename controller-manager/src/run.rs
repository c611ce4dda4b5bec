//! Wiring: flags, the lease, shared caches, and the controllers of the list.

use std::sync::Arc;

use component_base::{
    auth::{AuthOptions, Delegated},
    client::{self, ClientOptions, SharedConnection},
    clock,
    daemon::{self, Daemon, StartError},
    features::{self, Gate},
    flags::{Flag, FlagSet, Kind, Values, group},
    health::Endpoint,
    informer::Informers,
    leader::LeaderElection,
    logging::LoggingError,
    metrics::{self, view::View},
    serving::{SecureServer, SecureServingOptions, Site},
    task::Tasks,
    version,
};

use crate::{
    configz,
    controllers::{self, Context},
    identity::Identities,
    settings::{self, RangesError, Settings, SettingsError},
};

/// Controllers whose requests are many and short: they may send twenty times as many as others, and a hundred times as
/// many at once, as upstream's may.
const HURRIED: &[&str] = &["namespace-controller", "storage-version-migrator-controller"];

/// The controller that gives nodes their ranges.
const RANGES: &str = "node-ipam-controller";

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
    /// Whether every controller has its own identity.
    separate: bool,
    settings: Settings,
    /// How metrics are shown.
    metrics: View,
    /// What `/configz` shows.
    configz: serde_json::Value,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A controller's flag.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What is shown of metrics.
    #[error("--{0}: Invalid value: {1:?}: {2}")]
    Metrics(&'static str, String, String),
    /// How logs look.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// No such controller.
    #[error("{0:?} is not in the list of known controllers: {1}")]
    Controller(String, String),
    /// Ranges that nodes cannot be given.
    #[error(transparent)]
    Ranges(#[from] RangesError),
}

impl Daemon for ControllerManager {
    type Config = Config;
    type ConfigError = ConfigError;
    type RunError = StartError;

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
                    "use-service-account-credentials",
                    Kind::Bool,
                    "false",
                    "every controller acts as its own service account",
                ),
            ],
        )
        .with(settings::flags())
        .with(group::secure_serving("10257"))
        .with(group::delegated_auth(false))
        .with(group::leader_election("kube-controller-manager"))
        .with(group::client("20", "30"))
        .with(group::logging())
        .with(group::metrics())
    }

    fn configure(values: &Values) -> Result<Config, ConfigError> {
        let selection = values.list("controllers");
        if let Some(entry) = selection.iter().find(|entry| !controllers::is_known(entry)) {
            let known = controllers::ALL.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
            let name = entry.strip_prefix('-').unwrap_or(entry);
            return Err(ConfigError::Controller(name.to_owned(), known));
        }
        let settings = Settings::from_values(values)?;
        if values.bool("allocate-node-cidrs") && controllers::is_enabled(RANGES, &selection) {
            settings.check_ranges()?;
        }
        group::check_logging(values, settings.gates)?;
        let coordinated = settings.gates.has(Gate::CoordinatedLeaderElection);
        let mut election = group::leader_election_options(values);
        if let Some(election) = &mut election {
            election.coordinated = coordinated;
            election.release_on_cancel =
                settings.gates.has(Gate::ControllerManagerReleaseLeaderElectionLockOnExit);
        }
        Ok(Config {
            client: group::client_options(values, "kube-controller-manager"),
            serving: group::secure_serving_options(values, "kube-controller-manager"),
            auth: group::auth_options(values),
            election,
            selection,
            separate: values.bool("use-service-account-credentials"),
            settings,
            metrics: group::metrics_view(values)
                .map_err(|(flag, value, why)| ConfigError::Metrics(flag, value, why))?,
            configz: configz::configuration(&Self::flags(), values),
        })
    }

    async fn run(config: Config, tasks: Tasks) -> Result<(), StartError> {
        metrics::show(config.metrics);
        features::show(config.settings.gates);
        version::show_compatibility();
        let auth = Delegated::new(config.auth, "kube-controller-manager").await?;
        let site = Site::gated(config.settings.gates);
        site.configz(configz::NAME, config.configz);
        let health = site.health().clone();
        if let Some(election) = &config.election {
            election.watched(&health, &[Endpoint::Healthz]);
        }
        SecureServer::bind(&config.serving)?.serve(site.clone(), Arc::new(auth), &tasks);
        let client = client::connect(&config.client).await?;
        let identities = match config.separate {
            true => {
                let connection = SharedConnection::new(&config.client).await?;
                // Tokens are few, and every controller waits for its own: they do not queue behind the first lists.
                let own = client::connect(&ClientOptions { qps: -1.0, ..config.client.clone() }).await?;
                Some(Identities::new(connection, own))
            }
            false => None,
        };
        let hurried = config.client.scaled(20.0, 100);
        let hurried_client = client::connect(&hurried).await?;
        let (selection, mut settings) = (config.selection, config.settings);
        if settings.root_ca.is_none() {
            settings.root_ca = client::authority(&config.client).await?;
        }
        let settings = Arc::new(settings);
        let lead = move |group: Tasks| async move {
            let ctx = Context {
                informers: Informers::new(client.clone(), &group),
                client,
                tasks: group.clone(),
                clock: clock::real(),
                settings,
                site,
            };
            for controller in controllers::chosen(&selection, ctx.settings.gates) {
                let mut ctx = ctx.clone();
                let hurries = HURRIED.contains(&controller.name);
                if hurries {
                    ctx.client = hurried_client.clone();
                }
                if let Some(identities) = &identities {
                    let hurried = hurries.then_some(&hurried);
                    match identities.client(controller.name, &ctx.client, hurried, &group) {
                        Ok(client) => ctx.client = client,
                        Err(error) => return group.fail(format!("{}: {error}", controller.name)),
                    }
                }
                (controller.start)(&ctx);
                health.add_to(&[Endpoint::Healthz], controller.name, || Ok(()));
                if !ctx.settings.start_interval.is_zero() {
                    let pause = tokio::time::sleep(ctx.settings.start_interval);
                    group.drain().run_until_cancelled(pause).await;
                }
                tracing::info!(controller = controller.name, "started");
            }
            ctx.informers.start();
            group.drain().cancelled().await;
        };
        daemon::lead(config.election, &config.client, &tasks, lead).await
    }
}

#[cfg(test)]
mod tests {
    use component_base::flags::Parsed;

    use super::*;

    fn configure(flags: &[&str]) -> Result<Config, String> {
        let given = flags.iter().map(|flag| (*flag).to_owned());
        match ControllerManager::flags().parse(given).map_err(|e| e.to_string())? {
            Parsed::Run(values) => ControllerManager::configure(&values).map_err(|e| e.to_string()),
            Parsed::Print(text) => Err(text),
        }
    }

    #[test]
    fn controllers_are_named_as_upstream_names_them() {
        for named in
            ["*,-cloud-node-lifecycle-controller", "*,bootstrapsigner,tokencleaner", "-nodeipam,*", "route"]
        {
            assert_eq!(configure(&[&format!("--controllers={named}")]).err(), None, "{named}");
        }
        let refused = configure(&["--controllers=*,-none-such"]).unwrap_err();
        assert!(refused.starts_with("\"none-such\" is not in the list of known controllers"), "{refused}");
    }

    #[test]
    fn ranges_that_nodes_cannot_be_given_are_refused_at_once() {
        let with = |flags: &[&str]| configure(&[&["--allocate-node-cidrs"], flags].concat()).err();
        assert_eq!(with(&["--cluster-cidr=10.4.0.0/16,fd00::/48"]), None);
        assert_eq!(with(&["--cluster-cidr=10.0.0.0/8", "--node-cidr-mask-size=30"]), None);
        for (flags, expected) in [
            (vec![], "invalid CIDR address: "),
            (
                vec!["--cluster-cidr=10.4.0.0/16,10.5.0.0/16"],
                "len of ClusterCIDRs==2 and they are not configured as dual stack (at least one from each IPFamily",
            ),
            (
                vec!["--cluster-cidr=10.4.0.0/16,fd00::/48,10.5.0.0/16"],
                "length of clusterCIDRs is:3 more than max allowed of 2",
            ),
            (
                vec!["--cluster-cidr=10.4.0.0/16", "--service-cluster-ip-range=10.96.0.0/12,10.97.0.0/16"],
                "serviceCIDR and secondaryServiceCIDR are not dualstack (from different IPfamiles)",
            ),
            (
                vec!["--cluster-cidr=10.4.0.0/25"],
                "Controller: Invalid --cluster-cidr, mask size of cluster CIDR must be less than or equal to \
                 --node-cidr-mask-size configured for CIDR family: 10.4.0.0/25",
            ),
            (
                vec!["--cluster-cidr=fd00::/47"],
                "New CIDR set failed; the node CIDR size is too big: fd00::/47 for nodes' /64",
            ),
        ] {
            assert_eq!(with(&flags).as_deref(), Some(expected), "{flags:?}");
            let elsewhere = with(&[&flags[..], &["--controllers=*,-node-ipam-controller"]].concat());
            assert_eq!(elsewhere, None, "nobody gives them out: {flags:?}");
        }
    }
}
