//! The configuration file: KubeSchedulerConfiguration, kubescheduler.config.k8s.io/v1.
//!
//! Unknown fields are errors, as upstream's strict decoding makes them.

pub mod args;
pub mod configz;
pub mod extenders;

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

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
/// Requests per second where nothing is said, and at once.
const QPS: f32 = 50.0;
const BURST: u32 = 100;
const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// By how much the time between tries to get the lease may be longer than it is set to.
const JITTER: f64 = 1.2;

/// Why a file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or decoded.
    #[error(transparent)]
    Decode(#[from] config::ConfigError),
    /// Fields are out of bounds, or not there: each by its path.
    #[error("{}", together(.0))]
    Fields(Vec<String>),
    /// A profile cannot be built.
    #[error("initializing profiles: creating profile for scheduler name {name}")]
    Profile {
        /// The profile.
        name: String,
        /// Why.
        #[source]
        source: ProfileError,
    },
}

/// Several errors as one.
fn together(all: &[String]) -> String {
    match all {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Says that the value of a field is out of bounds.
fn invalid(field: &str, value: impl std::fmt::Debug, why: &str) -> String {
    format!("{field}: Invalid value: {value:?}: {why}")
}

/// The same of a duration.
fn invalid_time(field: &str, value: &Duration, why: &str) -> String {
    format!("{field}: Invalid value: {}: {why}", goduration::format(*value))
}

/// Says that a field has to be there.
fn required(field: &str) -> String {
    format!("{field}: Required value")
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
    pub weight: Option<i32>,
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

impl Plugins {
    /// What is switched at each point, by its name.
    pub fn points(&self) -> [(&'static str, &PluginSet); 14] {
        [
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("reserve", &self.reserve),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
            ("permit", &self.permit),
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("placementGenerate", &self.placement_generate),
            ("placementScore", &self.placement_score),
        ]
    }
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

    /// Refuses what is out of bounds, all of it at once. What flags say of the lease comes before what the file does, so
    /// that its times are checked with theirs ([`check_election`]).
    fn check(&self) -> Result<(), FileError> {
        let mut wrong = Vec::new();
        let elects = self.leader_election.leader_elect != Some(false);
        let lock = self.leader_election.resource_lock.as_deref().filter(|lock| !lock.is_empty());
        if let Some(lock) = lock.filter(|lock| elects && *lock != "leases") {
            wrong.push(invalid("leaderElection.resourceLock", lock, "resourceLock value must be \"leases\""));
        }
        if let Some(n) = self.parallelism.filter(|n| *n <= 0) {
            wrong.push(invalid("parallelism", n, "should be an integer value greater than zero"));
        }
        self.check_profiles(&mut wrong);
        check_share("percentageOfNodesToScore", self.percentage_of_nodes_to_score, &mut wrong);
        let (initial, max) = (self.initial_backoff(), self.max_backoff());
        if initial <= 0 {
            wrong.push(invalid("podInitialBackoffSeconds", initial, "must be greater than 0"));
        }
        if max < initial {
            let why = "must be greater than or equal to PodInitialBackoffSeconds";
            wrong.push(invalid("podMaxBackoffSeconds", max, why));
        }
        extenders::check(&self.extenders, &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(FileError::Fields(wrong)) }
    }

    fn check_profiles(&self, wrong: &mut Vec<String>) {
        let mut names: HashMap<&str, usize> = HashMap::new();
        for (at, profile) in self.profiles.iter().enumerate() {
            let path = format!("profiles[{at}]");
            // One profile that says nothing of its name is the default one.
            let name = match profile.scheduler_name.as_deref() {
                None if self.profiles.len() == 1 => DEFAULT_NAME,
                name => name.unwrap_or_default(),
            };
            if name.is_empty() {
                wrong.push(required(&format!("{path}.schedulerName")));
            }
            check_share(
                &format!("{path}.percentageOfNodesToScore"),
                profile.percentage_of_nodes_to_score,
                wrong,
            );
            profile.check_plugins(&path, wrong);
            if let Some(other) = names.insert(name, at) {
                let field = format!("profiles[{other}].schedulerName");
                wrong.push(format!("{path}.schedulerName: Duplicate value: {field:?}"));
            }
        }
        self.check_order(wrong);
    }

    /// There is one queue, so that all profiles have to say the same of its order.
    fn check_order(&self, wrong: &mut Vec<String>) {
        let mut orders = self.profiles.iter().map(|profile| &profile.plugins.queue_sort).enumerate();
        let Some((_, first)) = orders.next() else { return };
        let count = first.enabled.len();
        if count > 1 {
            let why = "only one queue sort plugin can be enabled";
            wrong.push(invalid("profiles[0].plugins.queueSort.Enabled", count, why));
        }
        for (at, order) in orders.filter(|(_, order)| *order != first) {
            let names: Vec<&str> = order.enabled.iter().map(|switch| switch.name.as_str()).collect();
            let why = "must be the same for all profiles";
            wrong.push(invalid(&format!("profiles[{at}].plugins.queueSort"), names, why));
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

    /// The way to the API server as the file says it. Flags that say the same count for nothing beside a file.
    pub fn client(&self, flags: ClientOptions) -> ClientOptions {
        let file = &self.client_connection;
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        ClientOptions {
            kubeconfig: text(&file.kubeconfig).map(Into::into),
            qps: file.qps.filter(|qps| *qps != 0.0).unwrap_or(QPS),
            burst: file.burst.filter(|burst| *burst != 0).unwrap_or(BURST),
            content_type: text(&file.content_type).unwrap_or_else(|| CONTENT_TYPE.to_owned()),
            ..flags
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
        // None at all means the usual time.
        let duration = |field, flag: &str, text: &Option<String>, slot: &mut Duration| {
            let Some(text) = text.as_ref().filter(|_| !is_set(flag)) else { return Ok(()) };
            let parsed = goduration::parse(text)
                .map_err(|_| FileError::Fields(vec![invalid(field, text, "must be a duration")]))?;
            if !parsed.is_zero() {
                *slot = parsed;
            }
            Ok::<(), FileError>(())
        };
        let lease = &mut out.lease_duration;
        duration("leaderElection.leaseDuration", "leader-elect-lease-duration", &file.lease_duration, lease)?;
        let renew = &mut out.renew_deadline;
        duration("leaderElection.renewDeadline", "leader-elect-renew-deadline", &file.renew_deadline, renew)?;
        let retry = &mut out.retry_period;
        duration("leaderElection.retryPeriod", "leader-elect-retry-period", &file.retry_period, retry)?;
        let name = file.resource_name.as_ref().filter(|name| !name.is_empty());
        if let Some(name) = name.filter(|_| !is_set("leader-elect-resource-name")) {
            out.name.clone_from(name);
        }
        let namespace = file.resource_namespace.as_ref().filter(|name| !name.is_empty());
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
    let mut wrong = Vec::new();
    let (lease, renew, retry) =
        ("leaderElection.leaseDuration", "leaderElection.renewDeadline", "leaderElection.retryPeriod");
    for (field, value) in [(lease, lease_duration), (renew, renew_deadline), (retry, retry_period)] {
        if value.is_zero() {
            wrong.push(invalid_time(field, value, "must be greater than zero"));
        }
    }
    if lease_duration <= renew_deadline {
        let why = "LeaseDuration must be greater than RenewDeadline";
        wrong.push(invalid_time(lease, lease_duration, why));
    }
    // Tries are spread by so much.
    if *renew_deadline <= retry_period.mul_f64(JITTER) {
        let why = "RenewDeadline must be greater than RetryPeriod*JitterFactor";
        wrong.push(invalid_time(renew, renew_deadline, why));
    }
    for (field, text) in [("resourceNamespace", namespace), ("resourceName", name)] {
        if text.is_empty() {
            wrong.push(required(&format!("leaderElection.{field}")));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(FileError::Fields(wrong)) }
}

fn check_share(field: &str, percent: Option<i32>, wrong: &mut Vec<String>) {
    if let Some(n) = percent.filter(|n| !(0..=100).contains(n)) {
        wrong.push(invalid(field, n, "not in valid range [0-100]"));
    }
}

/// Plugins that there were in versions before this one.
const REMOVED: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

impl ProfileConfiguration {
    /// Refuses plugins that are gone, and arguments that are given twice.
    fn check_plugins(&self, path: &str, wrong: &mut Vec<String>) {
        let is_gone = |name: &str| REMOVED.contains(&name);
        let gone = |field: &str, name: &str| {
            let why = format!("was invalid in version {API_VERSION:?} ({KIND} is version {API_VERSION:?})");
            invalid(field, name, &why)
        };
        for (point, set) in self.plugins.points() {
            for (at, switch) in set.enabled.iter().enumerate().filter(|(_, switch)| is_gone(&switch.name)) {
                wrong.push(gone(&format!("{path}.plugins.{point}.enabled[{at}]"), &switch.name));
            }
        }
        let mut seen = BTreeSet::new();
        for (at, config) in self.plugin_config.iter().enumerate() {
            let field = format!("{path}.pluginConfig[{at}]");
            if !seen.insert(config.name.as_str()) {
                wrong.push(format!("{field}: Duplicate value: {:?}", config.name));
            }
            if is_gone(&config.name) {
                wrong.push(gone(&field, &config.name));
            }
        }
    }

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
            ("parallelism: 0", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
            (
                "percentageOfNodesToScore: 101",
                "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
            ),
            (
                "profiles: [{schedulerName: a}, {schedulerName: b, percentageOfNodesToScore: -1}]",
                "profiles[1].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]",
            ),
            (
                "podInitialBackoffSeconds: 0",
                "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                "podInitialBackoffSeconds: 20",
                "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds",
            ),
            (
                "profiles: [{schedulerName: default-scheduler}, {schedulerName: default-scheduler}]",
                "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
            ),
            ("profiles: [{}, {schedulerName: other}]", "profiles[0].schedulerName: Required value"),
            ("profiles: [{schedulerName: ''}]", "profiles[0].schedulerName: Required value"),
            (
                "profiles: [{schedulerName: a, plugins: {queueSort: {enabled: [{name: PrioritySort}]}}}, {schedulerName: b}]",
                "profiles[1].plugins.queueSort: Invalid value: []: must be the same for all profiles",
            ),
            (
                "profiles: [{plugins: {queueSort: {enabled: [{name: PrioritySort}, {name: Other}]}}}]",
                "profiles[0].plugins.queueSort.Enabled: Invalid value: 2: only one queue sort plugin can be enabled",
            ),
            (
                "profiles: [{plugins: {score: {enabled: [{name: EBSLimits}]}}}]",
                "profiles[0].plugins.score.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \
                 \"kubescheduler.config.k8s.io/v1\" (KubeSchedulerConfiguration is version \
                 \"kubescheduler.config.k8s.io/v1\")",
            ),
            (
                "profiles: [{pluginConfig: [{name: NodeName}, {name: NodeName}]}]",
                "profiles[0].pluginConfig[1]: Duplicate value: \"NodeName\"",
            ),
            (
                "extenders: [{urlPrefix: http://x, managedResources: [{name: mykubernetes.io/x}]}]",
                "extenders[0].managedResources[0].name: Invalid value: \"mykubernetes.io/x\": is an invalid extended resource name",
            ),
            (
                "extenders: [{urlPrefix: http://x, prioritizeVerb: p, weight: -1}]",
                "extenders[0].weight: Invalid value: -1: must have a positive weight applied to it",
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
            (
                "parallelism: -1\npodInitialBackoffSeconds: 0",
                "[parallelism: Invalid value: -1: should be an integer value greater than zero, \
                 podInitialBackoffSeconds: Invalid value: 0: must be greater than 0]",
            ),
        ];
        for (body, expected) in table {
            assert_eq!(read(body).unwrap_err(), expected);
        }
        assert!(read("profile: []").unwrap_err().contains("profile"));
        let unusual =
            read("extenders: [{urlPrefix: http://x, managedResources: [{name: -a.b/x}]}]").unwrap_err();
        assert!(unusual.starts_with("extenders[0].managedResources[0].name: Invalid value: \"-a.b/x\": "));
        let heavy = "profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: 3000000000}]}}}]";
        assert!(read(heavy).is_err(), "weights have 32 bits");
    }

    #[test]
    fn a_lease_that_nobody_takes_may_be_of_any_kind_and_nothing_is_the_usual() {
        let off = read("leaderElection: {leaderElect: false, resourceLock: endpoints}").unwrap();
        let flags = || Some(LeaderElection::new("kube-scheduler", "kube-system"));
        assert!(off.election(flags(), |_| false).unwrap().is_none());
        let empty = "leaderElection: {leaseDuration: 0s, renewDeadline: 0s, retryPeriod: 0s, resourceLock: '', \
                     resourceName: '', resourceNamespace: ''}";
        let usual = read(empty).unwrap().election(flags(), |_| false).unwrap().unwrap();
        assert_eq!((usual.lease_duration.as_secs(), usual.name.as_str()), (15, "kube-scheduler"));
        assert!(check_election(&usual).is_ok());
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
                "[leaderElection.leaseDuration: Invalid value: 0s: must be greater than zero, \
                 leaderElection.leaseDuration: Invalid value: 0s: LeaseDuration must be greater than RenewDeadline]",
            ),
            (
                (15, 0, 2, "x"),
                "[leaderElection.renewDeadline: Invalid value: 0s: must be greater than zero, \
                 leaderElection.renewDeadline: Invalid value: 0s: RenewDeadline must be greater than \
                 RetryPeriod*JitterFactor]",
            ),
            ((15, 10, 0, "x"), "leaderElection.retryPeriod: Invalid value: 0s: must be greater than zero"),
            (
                (10, 10, 2, "x"),
                "leaderElection.leaseDuration: Invalid value: 10s: LeaseDuration must be greater than RenewDeadline",
            ),
            (
                (15, 10, 9, "x"),
                "leaderElection.renewDeadline: Invalid value: 10s: RenewDeadline must be greater than \
                 RetryPeriod*JitterFactor",
            ),
            ((15, 10, 2, ""), "leaderElection.resourceName: Required value"),
        ] {
            assert_eq!(with(lease, renew, retry, name).unwrap_err(), expected);
        }
    }

    #[test]
    fn flags_of_the_lease_win_over_the_file_and_others_do_not() {
        let read = read(
            "clientConnection: {kubeconfig: /a, qps: 7, burst: 0}\nleaderElection: {leaseDuration: 1m, resourceName: x}\n",
        )
        .unwrap();
        let options = ClientOptions { burst: 9, qps: 3.0, ..ClientOptions::new("kube-scheduler") };
        let options = read.client(options);
        assert_eq!((options.kubeconfig, options.qps, options.burst), (Some("/a".into()), 7.0, 100));
        let flags = || Some(LeaderElection::new("kube-scheduler", "kube-system"));
        let election = read.election(flags(), |_| false).unwrap().unwrap();
        assert_eq!((election.name.as_str(), election.lease_duration), ("x", Duration::from_secs(60)));
        let election = read.election(flags(), |_| true).unwrap().unwrap();
        assert_eq!(election.name, "kube-scheduler");
    }
}
