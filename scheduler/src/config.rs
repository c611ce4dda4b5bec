//! The configuration file: KubeSchedulerConfiguration, kubescheduler.config.k8s.io/v1.
//!
//! Unknown fields are errors, as upstream's strict decoding makes them.

pub mod args;
pub mod configz;
pub mod extenders;

use std::{collections::BTreeSet, path::Path, time::Duration};

use component_base::{client::ClientOptions, config, features::Gates, goduration, leader::LeaderElection};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::extenders::ExtenderConfiguration;
use crate::{
    profile::{DEFAULT_NAME, Profile, ProfileError},
    queue::BackOff,
};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// By how much the time between tries to get the lease may be longer than it is set to.
const JITTER: f64 = 1.2;

/// Why a file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or decoded.
    #[error(transparent)]
    Decode(#[from] config::ConfigError),
    /// A value is out of bounds.
    #[error("{field}: Invalid value: {value:?}: {why}")]
    Value {
        /// Its path.
        field: &'static str,
        /// What was found.
        value: String,
        /// What is expected.
        why: &'static str,
    },
    /// Something is not said that has to be.
    #[error("{0}: Required value")]
    Required(String),
    /// Two profiles have one name.
    #[error("profiles: Duplicate value: {0:?}")]
    Duplicate(String),
    /// What is said of an extender is out of bounds.
    #[error("{field}: Invalid value: {value:?}: {why}")]
    Extender {
        /// Its path.
        field: String,
        /// What was found.
        value: String,
        /// What is expected.
        why: &'static str,
    },
    /// A profile cannot be built.
    #[error("profile {name:?}")]
    Profile {
        /// The profile.
        name: String,
        /// Why.
        #[source]
        source: ProfileError,
    },
}

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeSchedulerConfiguration {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    parallelism: Option<i32>,
    #[serde(default)]
    leader_election: LeaderElectionConfiguration,
    #[serde(default)]
    client_connection: ClientConnectionConfiguration,
    /// The endpoints for profiling are not there; the switches are accepted.
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    percentage_of_nodes_to_score: Option<i32>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<ProfileConfiguration>,
    #[serde(default)]
    extenders: Vec<ExtenderConfiguration>,
    delay_cache_until_active: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeaderElectionConfiguration {
    leader_elect: Option<bool>,
    lease_duration: Option<String>,
    renew_deadline: Option<String>,
    retry_period: Option<String>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClientConnectionConfiguration {
    kubeconfig: Option<String>,
    #[serde(rename = "acceptContentTypes")]
    _accept_content_types: Option<String>,
    content_type: Option<String>,
    qps: Option<f32>,
    burst: Option<u32>,
}

/// One profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileConfiguration {
    /// What pods call it.
    pub scheduler_name: Option<String>,
    /// Overrides the global one.
    pub percentage_of_nodes_to_score: Option<i32>,
    /// What differs from the default plugins.
    #[serde(default)]
    pub plugins: Plugins,
    /// Their arguments.
    #[serde(default)]
    pub plugin_config: Vec<PluginConfig>,
}

/// Plugins by extension point.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Plugins {
    /// All points.
    pub multi_point: PluginSet,
    /// Whether a pod may be tried.
    pub pre_enqueue: PluginSet,
    /// The order of pods.
    pub queue_sort: PluginSet,
    /// What filters prepare.
    pub pre_filter: PluginSet,
    /// Which nodes come into question.
    pub filter: PluginSet,
    /// What to do when none does.
    pub post_filter: PluginSet,
    /// What scores prepare.
    pub pre_score: PluginSet,
    /// Which node is best.
    pub score: PluginSet,
    /// What a decision takes.
    pub reserve: PluginSet,
    /// Whether binding waits.
    pub permit: PluginSet,
    /// What comes before binding.
    pub pre_bind: PluginSet,
    /// Binding.
    pub bind: PluginSet,
    /// What comes after it.
    pub post_bind: PluginSet,
    /// Which nodes a group of pods may go to together.
    pub placement_generate: PluginSet,
    /// Which of those are best.
    pub placement_score: PluginSet,
}

/// What is switched on and off at a point.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSet {
    /// On, in addition to the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enabled: Vec<PluginSwitch>,
    /// Default ones that are off; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<PluginSwitch>,
}

/// A plugin's name, with the weight of its score.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginSwitch {
    /// Its name.
    pub name: String,
    /// Weight of its score; 0 or nothing for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// A plugin's arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig {
    /// Its name.
    pub name: String,
    /// Its `<Name>Args`.
    #[serde(default)]
    pub args: Value,
}

impl PluginSet {
    /// Whether a default plugin is switched off here.
    pub fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|p| p.name == name || p.name == "*")
    }

    /// The switch of a plugin that is switched on here.
    pub fn enables(&self, name: &str) -> Option<&PluginSwitch> {
        self.enabled.iter().find(|p| p.name == name)
    }
}

impl KubeSchedulerConfiguration {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or says what cannot be.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let read: Self = config::load(path, API_VERSION, KIND)?;
        read.check()?;
        Ok(read)
    }

    /// A file that says nothing but what pods call the one profile.
    pub fn of_profile(name: &str) -> Self {
        let profile =
            ProfileConfiguration { scheduler_name: Some(name.to_owned()), ..ProfileConfiguration::default() };
        Self { profiles: vec![profile], ..Self::default() }
    }

    fn check(&self) -> Result<(), FileError> {
        let refuse = |field, value: String, why| Err(FileError::Value { field, value, why });
        if let Some(n) = self.parallelism.filter(|n| *n <= 0) {
            return refuse("parallelism", n.to_string(), "should be an integer value greater than zero");
        }
        let all = self.profiles.iter().map(|p| p.percentage_of_nodes_to_score);
        for n in all.chain([self.percentage_of_nodes_to_score]).flatten() {
            if !(0..=100).contains(&n) {
                return refuse("percentageOfNodesToScore", n.to_string(), "not in valid range [0-100]");
            }
        }
        let (initial, max) = (self.initial_backoff(), self.max_backoff());
        if initial <= 0 {
            return refuse("podInitialBackoffSeconds", initial.to_string(), "must be greater than 0");
        }
        if max < initial {
            let why = "must be greater than or equal to PodInitialBackoffSeconds";
            return refuse("podMaxBackoffSeconds", max.to_string(), why);
        }
        let lock = self.leader_election.resource_lock.as_deref().unwrap_or("leases");
        if lock != "leases" {
            let why = "resourceLock value must be \"leases\"";
            return refuse("leaderElection.resourceLock", lock.to_owned(), why);
        }
        extenders::check(&self.extenders)?;
        self.check_order()?;
        // One profile that says nothing of its name is the default one.
        let unnamed = |profile: &ProfileConfiguration| match &profile.scheduler_name {
            None => self.profiles.len() > 1,
            Some(name) => name.is_empty(),
        };
        if let Some(at) = self.profiles.iter().position(unnamed) {
            return Err(FileError::Required(format!("profiles[{at}].schedulerName")));
        }
        let mut names = BTreeSet::new();
        for name in self.profiles.iter().map(ProfileConfiguration::name) {
            if !names.insert(name) {
                return Err(FileError::Duplicate(name.to_owned()));
            }
        }
        Ok(())
    }

    /// There is one queue, so that all profiles have to say the same of its order.
    fn check_order(&self) -> Result<(), FileError> {
        let refuse = |field, why| Err(FileError::Value { field, value: String::new(), why });
        let mut orders = self.profiles.iter().map(|profile| &profile.plugins.queue_sort);
        let Some(first) = orders.next() else { return Ok(()) };
        if first.enabled.len() > 1 {
            return refuse("profiles.plugins.queueSort", "only one queue sort plugin can be enabled");
        }
        match orders.all(|order| order == first) {
            true => Ok(()),
            false => refuse("profiles.plugins.queueSort", "must be the same for all profiles"),
        }
    }

    fn initial_backoff(&self) -> i64 {
        self.pod_initial_backoff_seconds.unwrap_or(1)
    }

    fn max_backoff(&self) -> i64 {
        self.pod_max_backoff_seconds.unwrap_or(10)
    }

    /// How long pods wait between attempts.
    pub fn back_off(&self) -> BackOff {
        let seconds = |n: i64| Duration::from_secs(n.unsigned_abs());
        let (initial, max) = (seconds(self.initial_backoff()), seconds(self.max_backoff()));
        BackOff { initial, max, ..BackOff::default() }
    }

    /// The profiles; the default one where the file names none.
    ///
    /// # Errors
    /// When one names a plugin that is not there, or gives one arguments it does not have.
    pub fn profiles(&self, features: Gates) -> Result<Vec<Profile>, FileError> {
        let default = [ProfileConfiguration::default()];
        let all = if self.profiles.is_empty() { &default[..] } else { &self.profiles };
        let share = self.percentage_of_nodes_to_score;
        let ignored = extenders::ignored(&self.extenders);
        all.iter()
            .map(|profile| {
                Profile::new(&profile.without(&ignored), share, features)
                    .map_err(|source| FileError::Profile { name: profile.name().to_owned(), source })
            })
            .collect()
    }

    /// The extenders.
    pub fn extenders(&self) -> &[ExtenderConfiguration] {
        &self.extenders
    }

    /// Takes over what the file says about the way to the API server, where no flag does.
    pub fn client(&self, options: &mut ClientOptions, is_set: impl Fn(&str) -> bool) {
        let file = &self.client_connection;
        if let Some(path) = file.kubeconfig.as_deref().filter(|p| !p.is_empty() && !is_set("kubeconfig")) {
            options.kubeconfig = Some(path.into());
        }
        if let Some(qps) = file.qps.filter(|_| !is_set("kube-api-qps")) {
            options.qps = qps;
        }
        if let Some(burst) = file.burst.filter(|_| !is_set("kube-api-burst")) {
            options.burst = burst;
        }
        if let Some(text) = file.content_type.as_ref().filter(|t| !t.is_empty()) {
            options.content_type.clone_from(text);
        }
    }

    /// Takes over what the file says about the lease, where no flag does.
    ///
    /// # Errors
    /// When a duration is none.
    pub fn election(
        &self,
        flags: Option<LeaderElection>,
        is_set: impl Fn(&str) -> bool,
    ) -> Result<Option<LeaderElection>, FileError> {
        let file = &self.leader_election;
        if file.leader_elect == Some(false) && !is_set("leader-elect") {
            return Ok(None);
        }
        let Some(mut out) = flags else { return Ok(None) };
        let duration = |field, flag: &str, text: &Option<String>, slot: &mut Duration| {
            let Some(text) = text.as_ref().filter(|_| !is_set(flag)) else { return Ok(()) };
            let why = "must be a duration";
            *slot =
                goduration::parse(text).map_err(|_| FileError::Value { field, value: text.clone(), why })?;
            Ok::<(), FileError>(())
        };
        let lease = &mut out.lease_duration;
        duration("leaderElection.leaseDuration", "leader-elect-lease-duration", &file.lease_duration, lease)?;
        let renew = &mut out.renew_deadline;
        duration("leaderElection.renewDeadline", "leader-elect-renew-deadline", &file.renew_deadline, renew)?;
        let retry = &mut out.retry_period;
        duration("leaderElection.retryPeriod", "leader-elect-retry-period", &file.retry_period, retry)?;
        if let Some(name) = file.resource_name.as_ref().filter(|_| !is_set("leader-elect-resource-name")) {
            out.name.clone_from(name);
        }
        let namespace = file.resource_namespace.as_ref();
        if let Some(namespace) = namespace.filter(|_| !is_set("leader-elect-resource-namespace")) {
            out.namespace.clone_from(namespace);
        }
        Ok(Some(out))
    }
}

/// Refuses a lease that cannot be held.
///
/// # Errors
/// When its times or names are out of bounds.
pub fn check_election(election: &LeaderElection) -> Result<(), FileError> {
    let LeaderElection { lease_duration, renew_deadline, retry_period, name, namespace, .. } = election;
    let refuse = |field, value: &Duration, why| {
        Err(FileError::Value { field, value: format!("{}s", value.as_secs_f64()), why })
    };
    let (lease, renew, retry) =
        ("leaderElection.leaseDuration", "leaderElection.renewDeadline", "leaderElection.retryPeriod");
    for (field, value) in [(lease, lease_duration), (renew, renew_deadline), (retry, retry_period)] {
        if value.is_zero() {
            return refuse(field, value, "must be greater than zero");
        }
    }
    if lease_duration <= renew_deadline {
        return refuse(lease, lease_duration, "LeaseDuration must be greater than RenewDeadline");
    }
    // Tries are spread by so much.
    if *renew_deadline <= retry_period.mul_f64(JITTER) {
        return refuse(renew, renew_deadline, "RenewDeadline must be greater than RetryPeriod*JitterFactor");
    }
    for (field, text) in [("resourceNamespace", namespace), ("resourceName", name)] {
        if text.is_empty() {
            return Err(FileError::Required(format!("leaderElection.{field}")));
        }
    }
    Ok(())
}

impl ProfileConfiguration {
    /// What pods call it.
    pub fn name(&self) -> &str {
        self.scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME)
    }

    /// The same profile, in which nodes need not have enough of these resources.
    fn without(&self, ignored: &[&str]) -> ProfileConfiguration {
        const FIT: &str = "NodeResourcesFit";
        let mut out = self.clone();
        if ignored.is_empty() {
            return out;
        }
        if !out.plugin_config.iter().any(|config| config.name == FIT) {
            out.plugin_config.push(PluginConfig { name: FIT.to_owned(), args: json!({}) });
        }
        for config in out.plugin_config.iter_mut().filter(|config| config.name == FIT) {
            if config.args.is_null() {
                config.args = json!({});
            }
            // Arguments that are no object are refused when they are read.
            let Some(args) = config.args.as_object_mut() else { continue };
            let all = args.entry("ignoredResources").or_insert_with(|| json!([]));
            if let Some(all) = all.as_array_mut() {
                all.extend(ignored.iter().map(|name| Value::from(*name)));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<KubeSchedulerConfiguration, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
        let read: KubeSchedulerConfiguration =
            config::parse(&text, "test.yaml", API_VERSION, KIND).map_err(|e| e.to_string())?;
        read.check().map_err(|e| e.to_string())?;
        Ok(read)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let read = read("").unwrap();
        let profiles = read.profiles(Gates::default()).unwrap();
        assert_eq!((profiles.len(), profiles[0].name.as_str()), (1, DEFAULT_NAME));
        assert_eq!(read.back_off().max, Duration::from_secs(10));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let table = [
            (
                "parallelism: 0",
                "parallelism: Invalid value: \"0\": should be an integer value greater than zero",
            ),
            (
                "percentageOfNodesToScore: 101",
                "percentageOfNodesToScore: Invalid value: \"101\": not in valid range [0-100]",
            ),
            (
                "podInitialBackoffSeconds: 0",
                "podInitialBackoffSeconds: Invalid value: \"0\": must be greater than 0",
            ),
            (
                "podInitialBackoffSeconds: 20",
                "podMaxBackoffSeconds: Invalid value: \"10\": must be greater than or equal to PodInitialBackoffSeconds",
            ),
            (
                "profiles: [{schedulerName: default-scheduler}, {schedulerName: default-scheduler}]",
                "profiles: Duplicate value: \"default-scheduler\"",
            ),
            ("profiles: [{}, {schedulerName: other}]", "profiles[0].schedulerName: Required value"),
            ("profiles: [{schedulerName: ''}]", "profiles[0].schedulerName: Required value"),
            (
                "profiles: [{schedulerName: a, plugins: {queueSort: {enabled: [{name: PrioritySort}]}}}, {schedulerName: b}]",
                "profiles.plugins.queueSort: Invalid value: \"\": must be the same for all profiles",
            ),
            (
                "profiles: [{plugins: {queueSort: {enabled: [{name: PrioritySort}, {name: Other}]}}}]",
                "profiles.plugins.queueSort: Invalid value: \"\": only one queue sort plugin can be enabled",
            ),
            (
                "extenders: [{urlPrefix: http://x, managedResources: [{name: mykubernetes.io/x}]}]",
                "extenders[0].managedResources[0].name: Invalid value: \"mykubernetes.io/x\": is an invalid extended resource name",
            ),
            (
                "extenders: [{urlPrefix: http://x, managedResources: [{name: -a.b/x}]}]",
                "extenders[0].managedResources[0].name: Invalid value: \"-a.b/x\": is an invalid extended resource name",
            ),
            (
                "extenders: [{urlPrefix: http://x, prioritizeVerb: p}]",
                "extenders[0].weight: Invalid value: \"0\": must have a positive weight applied to it",
            ),
            (
                "extenders: [{urlPrefix: http://x, bindVerb: b}, {urlPrefix: http://y, bindVerb: b}]",
                "extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
            ),
            (
                "extenders: [{urlPrefix: http://x, managedResources: [{name: cpu}]}]",
                "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
            ),
            (
                "extenders: [{urlPrefix: http://x, managedResources: [{name: a.b/c}, {name: a.b/c}]}]",
                "extenders[0].managedResources[1].name: Invalid value: \"a.b/c\": duplicate extender managed resource name",
            ),
            (
                "extenders: [{urlPrefix: http://x, httpTimeout: soon}]",
                "extenders.httpTimeout: Invalid value: \"soon\": must be a duration",
            ),
            (
                "leaderElection: {resourceLock: endpoints}",
                "leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be \"leases\"",
            ),
        ];
        for (body, expected) in table {
            assert_eq!(read(body).unwrap_err(), expected);
        }
        assert!(read("profile: []").unwrap_err().contains("profile"));
    }

    #[test]
    fn what_extenders_keep_for_themselves_is_not_missed() {
        let read = read(
            "profiles: [{schedulerName: w, pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [a.b/c]}}]}, {schedulerName: x}]\n\
             extenders: [{urlPrefix: http://x, filterVerb: f, managedResources: [{name: a.b/d, ignoredByScheduler: true}, {name: a.b/e}]}]\n",
        )
        .unwrap();
        let args = |at: usize| {
            let profile = read.profiles[at].without(&extenders::ignored(&read.extenders));
            profile.plugin_config[0].args["ignoredResources"].clone()
        };
        assert_eq!((args(0), args(1)), (json!(["a.b/c", "a.b/d"]), json!(["a.b/d"])));
        assert_eq!(read.profiles(Gates::default()).unwrap().len(), 2);
        assert_eq!(read.extenders()[0].timeout().unwrap(), Duration::from_secs(5));
    }

    #[test]
    fn a_lease_has_to_last_longer_than_it_takes_to_renew_it() {
        let with = |lease: u64, renew: u64, retry: u64, name: &str| {
            let mut election = LeaderElection::new(name, "kube-system");
            election.lease_duration = Duration::from_secs(lease);
            election.renew_deadline = Duration::from_secs(renew);
            election.retry_period = Duration::from_secs(retry);
            check_election(&election).map_err(|error| error.to_string())
        };
        assert!(with(15, 10, 2, "x").is_ok());
        for ((lease, renew, retry, name), expected) in [
            (
                (0, 10, 2, "x"),
                "leaderElection.leaseDuration: Invalid value: \"0s\": must be greater than zero",
            ),
            (
                (15, 0, 2, "x"),
                "leaderElection.renewDeadline: Invalid value: \"0s\": must be greater than zero",
            ),
            (
                (15, 10, 0, "x"),
                "leaderElection.retryPeriod: Invalid value: \"0s\": must be greater than zero",
            ),
            (
                (10, 10, 2, "x"),
                "leaderElection.leaseDuration: Invalid value: \"10s\": LeaseDuration must be greater than RenewDeadline",
            ),
            (
                (15, 10, 9, "x"),
                "leaderElection.renewDeadline: Invalid value: \"10s\": RenewDeadline must be greater than \
                 RetryPeriod*JitterFactor",
            ),
            ((15, 10, 2, ""), "leaderElection.resourceName: Required value"),
        ] {
            assert_eq!(with(lease, renew, retry, name).unwrap_err(), expected);
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let read = read(
            "clientConnection: {kubeconfig: /a, qps: 7, burst: 9}\nleaderElection: {leaseDuration: 1m, resourceName: x}\n",
        )
        .unwrap();
        let mut options = ClientOptions::new("kube-scheduler");
        read.client(&mut options, |flag| flag == "kube-api-qps");
        assert_eq!((options.kubeconfig, options.burst), (Some("/a".into()), 9));
        let flags = || Some(LeaderElection::new("kube-scheduler", "kube-system"));
        let election = read.election(flags(), |_| false).unwrap().unwrap();
        assert_eq!((election.name.as_str(), election.lease_duration), ("x", Duration::from_secs(60)));
        let election = read.election(flags(), |_| true).unwrap().unwrap();
        assert_eq!(election.name, "kube-scheduler");
    }
}
