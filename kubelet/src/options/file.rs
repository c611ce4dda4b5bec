//! KubeletConfiguration kubelet.config.k8s.io/v1beta1: the fields that are implemented. Unknown ones are errors.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{memory::reserved::Reservation, shutdown::plan::Period, worker::backoff};

/// A duration as Go writes it (`10s`, `1h30m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        component_base::goduration::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Who may call the kubelet's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Authentication {
    /// Client certificates.
    pub x509: X509,
    /// Tokens, reviewed by the API server.
    pub webhook: Webhook,
    /// Callers without credentials.
    pub anonymous: Switch,
}

/// Client certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct X509 {
    /// The CA that signs them.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<PathBuf>,
}

/// Reviews by the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Webhook {
    /// On or off; on by default.
    pub enabled: Option<bool>,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Option<GoDuration>,
}

/// On or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// Off by default.
    pub enabled: Option<bool>,
}

/// What callers may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Authorization {
    /// `Webhook` (default) or `AlwaysAllow`.
    pub mode: Option<String>,
    /// How long answers are kept.
    pub webhook: AuthorizationWebhook,
}

/// How long answers about access are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AuthorizationWebhook {
    /// When allowed.
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: Option<GoDuration>,
    /// When not.
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: Option<GoDuration>,
}

/// How long containers that crash again and again wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct CrashLoopBackOff {
    /// At most; five minutes by default.
    pub max_container_restart_period: Option<GoDuration>,
}

impl CrashLoopBackOff {
    /// The longest delay.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.max_container_restart_period.map(|d| d.0).filter(|d| !d.is_zero()).unwrap_or(backoff::MAX)
    }
}

/// What pods may do with the node's swap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MemorySwap {
    /// `NoSwap` (default) or `LimitedSwap`.
    pub swap_behavior: String,
}

/// The configuration file. Defaults are upstream's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct KubeletConfiguration {
    pub api_version: String,
    pub kind: String,
    pub enable_server: bool,
    pub static_pod_path: Option<PathBuf>,
    pub pod_logs_dir: PathBuf,
    pub sync_frequency: GoDuration,
    pub file_check_frequency: GoDuration,
    pub address: String,
    pub port: u16,
    pub read_only_port: u16,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_private_key_file: Option<PathBuf>,
    /// TLS 1.2 suites that are served; none leaves the choice to the library.
    pub tls_cipher_suites: Vec<String>,
    /// `VersionTLS12` (default) or `VersionTLS13`.
    pub tls_min_version: String,
    /// Numbers of the key exchanges that are taken (IANA's TLS supported groups).
    pub tls_curve_preferences: Vec<u16>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub healthz_port: u16,
    pub healthz_bind_address: String,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    pub node_status_update_frequency: GoDuration,
    pub node_status_report_frequency: GoDuration,
    pub node_lease_duration_seconds: i32,
    pub node_status_max_images: i32,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    pub cgroup_driver: String,
    pub runtime_request_timeout: GoDuration,
    pub max_pods: i32,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    pub pod_pids_limit: i64,
    #[serde(rename = "resolvConf")]
    pub resolv_conf: PathBuf,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<i32>,
    pub image_pull_credentials_verification_policy: String,
    pub preloaded_images_verification_allowlist: Vec<String>,
    pub pods_per_core: i32,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub container_log_monitor_interval: GoDuration,
    pub eviction_hard: Option<BTreeMap<String, String>>,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    pub eviction_max_pod_grace_period: i32,
    pub merge_default_eviction_settings: bool,
    pub eviction_pressure_transition_period: GoDuration,
    pub enable_debugging_handlers: bool,
    pub enable_system_log_handler: bool,
    pub container_log_max_size: String,
    pub container_log_max_files: i32,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub cpu_manager_policy: String,
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    pub cpu_manager_reconcile_period: GoDuration,
    pub memory_manager_policy: String,
    pub reserved_memory: Vec<Reservation>,
    pub topology_manager_policy: String,
    pub topology_manager_scope: String,
    pub topology_manager_policy_options: BTreeMap<String, String>,
    pub enforce_node_allocatable: Vec<String>,
    pub seccomp_default: bool,
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    pub container_runtime_endpoint: String,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: bool,
    pub fail_swap_on: bool,
    pub memory_swap: MemorySwap,
    pub shutdown_grace_period: GoDuration,
    pub shutdown_grace_period_critical_pods: GoDuration,
    pub shutdown_grace_period_by_pod_priority: Vec<Period>,
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: i32,
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
    pub feature_gates: BTreeMap<String, bool>,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    pub registry_burst: i32,
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    pub event_burst: i32,
    pub oom_score_adj: i32,
    pub max_open_files: i64,
    pub protect_kernel_defaults: bool,
    pub image_service_endpoint: String,
    pub volume_stats_agg_period: GoDuration,
    /// Fields of [`OTHER`] that the file has.
    #[serde(skip)]
    pub other: BTreeMap<String, Value>,
}

/// What a field that this kubelet does nothing with may say.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// Anything: it steers something that this kubelet does not have, and nobody misses it.
    Anything,
    /// Only what means "off" or upstream's default, which is what this kubelet does. Absent, empty and zero values always do.
    Only(&'static [&'static str]),
    /// Only true, which is upstream's default as well.
    OnlyTrue,
}

/// Fields of the API that this kubelet knows and does nothing with.
const OTHER: &[(&str, Says)] = &[
    ("httpCheckFrequency", Says::Anything),
    ("staticPodURL", Says::Only(&[])),
    ("staticPodURLHeader", Says::Only(&[])),
    ("enableContentionProfiling", Says::Anything),
    ("streamingConnectionIdleTimeout", Says::Anything),
    ("kubeletCgroups", Says::Only(&[])),
    ("systemCgroups", Says::Only(&[])),
    ("singleProcessOOMKill", Says::Only(&["false"])),
    ("qosReserved", Says::Only(&[])),
    ("hairpinMode", Says::Anything),
    ("runOnce", Says::Only(&[])),
    ("cpuCFSQuotaPeriod", Says::Only(&["100ms"])),
    ("contentType", Says::Anything),
    ("enableControllerAttachDetach", Says::OnlyTrue),
    ("makeIPTablesUtilChains", Says::Anything),
    ("iptablesMasqueradeBit", Says::Anything),
    ("iptablesDropBit", Says::Anything),
    ("containerLogMaxWorkers", Says::Anything),
    ("configMapAndSecretChangeDetectionStrategy", Says::Anything),
    ("showHiddenMetricsForVersion", Says::Anything),
    ("volumePluginDir", Says::Anything),
    ("kernelMemcgNotification", Says::Anything),
    ("logging", Says::Anything),
    ("enableProfilingHandler", Says::Anything),
    ("localStorageCapacityIsolation", Says::Anything),
    ("enableSystemLogQuery", Says::Only(&[])),
    ("enableDebugFlagsHandler", Says::Anything),
    ("memoryThrottlingFactor", Says::Anything),
    ("memoryReservationPolicy", Says::Only(&["None"])),
    ("tracing", Says::Only(&[])),
    ("userNamespaces", Says::Anything),
    ("systemReservedCgroup", Says::Only(&[])),
    ("kubeReservedCgroup", Says::Only(&[])),
    // Of flags alone.
    ("experimentalMounterPath", Says::Only(&[])),
    ("experimentalAllocatableIgnoreEviction", Says::Only(&[])),
];

/// Says nothing: absent, empty, zero, "0s", or made of such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "0s",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// The first field that asks for what this kubelet cannot do, in a sentence.
#[must_use]
pub fn unsupported(other: &BTreeMap<String, Value>) -> Option<String> {
    other.iter().find_map(|(name, value)| {
        let (_, says) = OTHER.iter().find(|(n, _)| *n == name.as_str())?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let works = match says {
            Says::Anything => true,
            Says::Only(fine) => is_empty(value) || fine.contains(&text.as_str()),
            Says::OnlyTrue => value.is_null() || value == &Value::Bool(true),
        };
        (!works).then(|| format!("{name}: {text} is not supported by this kubelet"))
    })
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        let seconds = |s| GoDuration(Duration::from_secs(s));
        Self {
            api_version: String::new(),
            kind: String::new(),
            enable_server: true,
            static_pod_path: None,
            pod_logs_dir: "/var/log/pods".into(),
            sync_frequency: seconds(60),
            file_check_frequency: seconds(20),
            address: "0.0.0.0".into(),
            port: 10250,
            read_only_port: 0,
            tls_cert_file: None,
            tls_private_key_file: None,
            tls_cipher_suites: Vec::new(),
            tls_min_version: String::new(),
            tls_curve_preferences: Vec::new(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            healthz_port: 10248,
            healthz_bind_address: "127.0.0.1".into(),
            cluster_domain: String::new(),
            cluster_dns: vec![],
            node_status_update_frequency: seconds(10),
            node_status_report_frequency: seconds(300),
            node_lease_duration_seconds: 40,
            node_status_max_images: 50,
            image_minimum_gc_age: seconds(120),
            image_maximum_gc_age: seconds(0),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".into(),
            runtime_request_timeout: seconds(120),
            max_pods: 110,
            pod_cidr: None,
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".into(),
            cpu_cfs_quota: true,
            allowed_unsafe_sysctls: vec![],
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".into(),
            preloaded_images_verification_allowlist: vec![],
            pods_per_core: 0,
            crash_loop_back_off: CrashLoopBackOff::default(),
            container_log_monitor_interval: seconds(10),
            eviction_hard: None,
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_max_pod_grace_period: 0,
            merge_default_eviction_settings: false,
            eviction_pressure_transition_period: seconds(300),
            enable_debugging_handlers: true,
            enable_system_log_handler: true,
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            cpu_manager_policy: "none".into(),
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: seconds(10),
            memory_manager_policy: "None".into(),
            reserved_memory: vec![],
            topology_manager_policy: "none".into(),
            topology_manager_scope: "container".into(),
            topology_manager_policy_options: BTreeMap::new(),
            enforce_node_allocatable: vec!["pods".into()],
            seccomp_default: false,
            register_with_taints: vec![],
            register_node: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            fail_cgroup_v1: true,
            fail_swap_on: true,
            memory_swap: MemorySwap::default(),
            shutdown_grace_period: seconds(0),
            shutdown_grace_period_critical_pods: seconds(0),
            shutdown_grace_period_by_pod_priority: vec![],
            rotate_certificates: false,
            server_tls_bootstrap: false,
            other: BTreeMap::new(),
            kube_api_qps: 50,
            kube_api_burst: 100,
            provider_id: None,
            feature_gates: BTreeMap::new(),
            registry_pull_qps: 5,
            registry_burst: 10,
            event_record_qps: 50,
            event_burst: 100,
            oom_score_adj: -999,
            max_open_files: 1_000_000,
            protect_kernel_defaults: false,
            image_service_endpoint: String::new(),
            volume_stats_agg_period: seconds(60),
        }
    }
}

/// Decodes the file.
///
/// # Errors
/// Where and why it is not a KubeletConfiguration.
pub fn decode(text: &str) -> Result<KubeletConfiguration, String> {
    let value = parse(text)?;
    if value.keys().any(|key| OTHER.iter().any(|(name, _)| *name == key.as_str())) {
        return from_value(value);
    }
    // Straight from the text, mistakes are told with their line.
    finish(serde_saphyr::from_str(text).map_err(|e| e.to_string())?)
}

/// The file as plain fields.
///
/// # Errors
/// When it is no YAML, or no object.
pub fn parse(text: &str) -> Result<Map<String, Value>, String> {
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

/// Lays a drop-in over what is there: objects are merged, everything else is replaced.
pub fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(fields)), Value::Object(more)) => merge(fields, more),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Decodes plain fields.
///
/// # Errors
/// What is not as a KubeletConfiguration has it.
pub fn from_value(mut value: Map<String, Value>) -> Result<KubeletConfiguration, String> {
    let mut other = BTreeMap::new();
    for (name, _) in OTHER {
        if let Some(said) = value.remove(*name) {
            other.insert((*name).to_owned(), said);
        }
    }
    let file: KubeletConfiguration =
        serde_json::from_value(Value::Object(value)).map_err(|e| e.to_string())?;
    finish(KubeletConfiguration { other, ..file })
}

/// Checks the type and fills what was left at zero: in this API that means the default.
fn finish(mut file: KubeletConfiguration) -> Result<KubeletConfiguration, String> {
    if file.kind != "KubeletConfiguration" || file.api_version != "kubelet.config.k8s.io/v1beta1" {
        return Err(format!(
            "no kind {:?} is registered for version {:?}, want KubeletConfiguration of kubelet.config.k8s.io/v1beta1",
            file.kind, file.api_version
        ));
    }
    let default = KubeletConfiguration::default();
    // A report that is not spaced by itself goes along with the update.
    if file.node_status_report_frequency.0.is_zero() && !file.node_status_update_frequency.0.is_zero() {
        file.node_status_report_frequency = file.node_status_update_frequency;
    }
    for (value, default) in [
        (&mut file.sync_frequency, default.sync_frequency),
        (&mut file.file_check_frequency, default.file_check_frequency),
        (&mut file.node_status_update_frequency, default.node_status_update_frequency),
        (&mut file.node_status_report_frequency, default.node_status_report_frequency),
        (&mut file.image_minimum_gc_age, default.image_minimum_gc_age),
        (&mut file.runtime_request_timeout, default.runtime_request_timeout),
        (&mut file.cpu_manager_reconcile_period, default.cpu_manager_reconcile_period),
        (&mut file.container_log_monitor_interval, default.container_log_monitor_interval),
        (&mut file.eviction_pressure_transition_period, default.eviction_pressure_transition_period),
        (&mut file.volume_stats_agg_period, default.volume_stats_agg_period),
    ] {
        if value.0.is_zero() {
            *value = default;
        }
    }
    for (value, default) in [
        (&mut file.registry_burst, default.registry_burst),
        (&mut file.event_burst, default.event_burst),
        (&mut file.kube_api_burst, default.kube_api_burst),
        (&mut file.max_pods, default.max_pods),
    ] {
        if *value == 0 {
            *value = default;
        }
    }
    if file.max_open_files == 0 {
        file.max_open_files = default.max_open_files;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubeadm writes it.
    const JOINED: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: cgroupfs
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";

    #[test]
    fn a_joined_nodes_file_is_taken_and_zero_is_the_default() {
        let file = decode(JOINED).unwrap();
        assert!(file.rotate_certificates);
        assert_eq!(unsupported(&file.other), None);
        assert_eq!(file.sync_frequency, KubeletConfiguration::default().sync_frequency);
        assert_eq!(file.node_status_report_frequency.0, Duration::from_secs(300));
        assert_eq!(file.cluster_dns, ["10.96.0.10"]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |line: &str| {
            let file = decode(&format!("{JOINED}{line}\n"))?;
            unsupported(&file.other).map_or(Ok(()), Err)
        };
        assert_eq!(with("memoryReservationPolicy: None"), Ok(()));
        assert_eq!(
            with("memoryReservationPolicy: TieredReservation"),
            Err("memoryReservationPolicy: TieredReservation is not supported by this kubelet".into())
        );
        assert!(with("qosReserved: {memory: 50%}").unwrap_err().starts_with("qosReserved"));
        assert!(with("maxPodz: 5").unwrap_err().contains("maxPodz"));
    }

    #[test]
    fn every_field_is_listed_once_and_not_implemented_as_well() {
        for (name, _) in OTHER {
            assert_eq!(OTHER.iter().filter(|(n, _)| n == name).count(), 1, "{name}");
            let only = format!("{{\"{name}\": null}}");
            assert!(serde_json::from_str::<KubeletConfiguration>(&only).is_err(), "{name}");
        }
    }

    #[test]
    fn drop_ins_are_laid_over_field_by_field() {
        let mut base = parse(JOINED).unwrap();
        let over = parse("maxPods: 7\nauthentication: {anonymous: {enabled: true}}\nclusterDNS: [10.0.0.1]");
        merge(&mut base, over.unwrap());
        let file = from_value(base).unwrap();
        assert_eq!((file.max_pods, file.cluster_dns), (7, vec!["10.0.0.1".to_owned()]));
        assert_eq!(file.authentication.anonymous.enabled, Some(true));
        assert_eq!(file.authentication.webhook.enabled, Some(true));
    }
}
