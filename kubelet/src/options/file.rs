//! KubeletConfiguration kubelet.config.k8s.io/v1beta1: all its fields. Unknown ones are errors; what no part of this kubelet
//! reads is listed in the tests, each with its reason.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use component_base::{quantity::Quantity, traces::TracingConfiguration};
use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::{memory::reserved::Reservation, shutdown::plan::Period, worker::backoff};

/// Its kind.
const KIND: &str = "KubeletConfiguration";
/// The version of its API.
const VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// A duration as Go writes it (`10s`, `1h30m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        component_base::goduration::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&component_base::goduration::format(self.0))
    }
}

/// Who may call the kubelet's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct X509 {
    /// The CA that signs them.
    #[serde(rename = "clientCAFile", skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// Reviews by the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Webhook {
    /// On or off; on by default.
    pub enabled: Option<bool>,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Option<GoDuration>,
}

/// On or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// Off by default.
    pub enabled: Option<bool>,
}

/// What callers may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Authorization {
    /// `Webhook` (default) or `AlwaysAllow`.
    pub mode: Option<String>,
    /// How long answers are kept.
    pub webhook: AuthorizationWebhook,
}

/// How long answers about access are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MemorySwap {
    /// `NoSwap` (default) or `LimitedSwap`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub swap_behavior: String,
}

/// How the kubelet writes its log; flags win over it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Logging {
    /// `text` (default) or `json`.
    pub format: String,
    /// Longest time that lines wait, as a duration or in nanoseconds.
    pub flush_frequency: Value,
    /// Up to which level messages are written.
    pub verbosity: u32,
    /// The same for certain files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<ModuleVerbosity>,
    /// Of formats: streams and buffers, all of them alpha.
    pub options: Value,
}

/// A level for certain files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ModuleVerbosity {
    /// Names of files without their extension, with `*` and `?`.
    pub file_pattern: String,
    /// Up to which level.
    pub verbosity: u32,
}

impl Default for Logging {
    fn default() -> Self {
        let options = json!({ "text": { "infoBufferSize": "0" }, "json": { "infoBufferSize": "0" } });
        let (format, flush_frequency) = ("text".to_owned(), json!("5s"));
        Self { format, flush_frequency, verbosity: 0, vmodule: vec![], options }
    }
}

impl Logging {
    /// Whether what is no error goes to standard output, in a format.
    pub fn splits(&self, format: &str) -> bool {
        self.options[format]["splitStream"] == true
    }

    /// How many bytes of that may wait; none where the file's quantity is not one.
    pub fn buffer(&self, format: &str) -> Option<usize> {
        let size = match &self.options[format]["infoBufferSize"] {
            Value::Null => return Some(0),
            Value::String(text) => text.parse::<Quantity>().ok()?.value(),
            number => number.as_i64()?,
        };
        usize::try_from(size).ok()
    }

    /// How long it waits at most; nothing where that is no time.
    pub fn flush_period(&self) -> Option<Duration> {
        let period = match &self.flush_frequency {
            Value::String(text) => component_base::goduration::parse(text).ok()?,
            number => Duration::from_nanos(number.as_u64()?),
        };
        // Zero is the default's value as well.
        Some(if period.is_zero() { Duration::from_secs(5) } else { period })
    }
}

/// User namespaces of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct UserNamespaces {
    /// Ids that each pod gets: a multiple of 65536, which is the default.
    #[serde(rename = "idsPerPod", skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<i64>,
}

/// The configuration file. Defaults are upstream's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the API's reference has them")]
pub struct KubeletConfiguration {
    pub api_version: String,
    pub kind: String,
    pub enable_server: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_pod_path: Option<PathBuf>,
    pub pod_logs_dir: PathBuf,
    pub sync_frequency: GoDuration,
    pub file_check_frequency: GoDuration,
    pub http_check_frequency: GoDuration,
    #[serde(rename = "staticPodURL", skip_serializing_if = "String::is_empty")]
    pub static_pod_url: String,
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "BTreeMap::is_empty")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    pub port: u16,
    pub read_only_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_private_key_file: Option<PathBuf>,
    /// TLS 1.2 suites that are served; none leaves the choice to the library.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_cipher_suites: Vec<String>,
    /// `VersionTLS12` (default) or `VersionTLS13`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_min_version: String,
    /// Numbers of the key exchanges that are taken (IANA's TLS supported groups).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_curve_preferences: Vec<u16>,
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub authentication: Authentication,
    pub authorization: Authorization,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    pub registry_burst: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_pull_credentials_verification_policy: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    pub event_burst: i32,
    pub enable_debugging_handlers: bool,
    pub enable_contention_profiling: bool,
    pub healthz_port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub healthz_bind_address: String,
    pub oom_score_adj: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS", skip_serializing_if = "Vec::is_empty")]
    pub cluster_dns: Vec<String>,
    pub streaming_connection_idle_timeout: GoDuration,
    #[serde(default = "unsaid")]
    pub node_status_update_frequency: GoDuration,
    #[serde(default = "unsaid")]
    pub node_status_report_frequency: GoDuration,
    pub node_lease_duration_seconds: i32,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    pub volume_stats_agg_period: GoDuration,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubelet_cgroups: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_cgroups: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_driver: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu_manager_policy: String,
    #[serde(rename = "singleProcessOOMKill", skip_serializing_if = "Option::is_none")]
    pub single_process_oom_kill: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    pub cpu_manager_reconcile_period: GoDuration,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub memory_manager_policy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_manager_policy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_manager_scope: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub topology_manager_policy_options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub qos_reserved: BTreeMap<String, String>,
    pub runtime_request_timeout: GoDuration,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hairpin_mode: String,
    pub max_pods: i32,
    #[serde(rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    pub pod_pids_limit: i64,
    pub resolv_conf: PathBuf,
    pub run_once: bool,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: GoDuration,
    pub node_status_max_images: i32,
    pub max_open_files: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: i32,
    /// One pull at a time; unless said otherwise, where not more are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serialize_image_pulls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_hard: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_soft: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    pub eviction_pressure_transition_period: GoDuration,
    pub eviction_max_pod_grace_period: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    pub merge_default_eviction_settings: bool,
    pub pods_per_core: i32,
    pub enable_controller_attach_detach: bool,
    pub protect_kernel_defaults: bool,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    pub iptables_masquerade_bit: i32,
    pub iptables_drop_bit: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub fail_swap_on: bool,
    pub memory_swap: MemorySwap,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_log_max_size: String,
    pub container_log_max_files: i32,
    pub container_log_max_workers: i32,
    pub container_log_monitor_interval: GoDuration,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config_map_and_secret_change_detection_strategy: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub system_reserved: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kube_reserved: BTreeMap<String, String>,
    #[serde(rename = "reservedSystemCPUs", skip_serializing_if = "String::is_empty")]
    pub reserved_system_cpus: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub show_hidden_metrics_for_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_reserved_cgroup: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_reserved_cgroup: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enforce_node_allocatable: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_plugin_dir: String,
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    pub kernel_memcg_notification: bool,
    pub logging: Logging,
    pub enable_system_log_handler: bool,
    pub enable_system_log_query: bool,
    pub shutdown_grace_period: GoDuration,
    pub shutdown_grace_period_critical_pods: GoDuration,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shutdown_grace_period_by_pod_priority: Vec<Period>,
    pub crash_loop_back_off: CrashLoopBackOff,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved_memory: Vec<Reservation>,
    pub enable_profiling_handler: bool,
    pub enable_debug_flags_handler: bool,
    pub seccomp_default: bool,
    pub memory_throttling_factor: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub memory_reservation_policy: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfiguration>,
    pub local_storage_capacity_isolation: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_runtime_endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_service_endpoint: String,
    pub fail_cgroup_v1: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<UserNamespaces>,
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
            http_check_frequency: seconds(20),
            static_pod_url: String::new(),
            static_pod_url_header: BTreeMap::new(),
            address: "0.0.0.0".into(),
            port: 10250,
            read_only_port: 0,
            tls_cert_file: None,
            tls_private_key_file: None,
            tls_cipher_suites: vec![],
            tls_min_version: String::new(),
            tls_curve_preferences: vec![],
            rotate_certificates: false,
            server_tls_bootstrap: false,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            registry_pull_qps: 5,
            registry_burst: 10,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".into(),
            preloaded_images_verification_allowlist: vec![],
            event_record_qps: 50,
            event_burst: 100,
            enable_debugging_handlers: true,
            enable_contention_profiling: false,
            healthz_port: 10248,
            healthz_bind_address: "127.0.0.1".into(),
            oom_score_adj: -999,
            cluster_domain: String::new(),
            cluster_dns: vec![],
            streaming_connection_idle_timeout: seconds(4 * 3600),
            node_status_update_frequency: seconds(10),
            node_status_report_frequency: seconds(300),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: seconds(120),
            image_maximum_gc_age: seconds(0),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            volume_stats_agg_period: seconds(60),
            kubelet_cgroups: String::new(),
            system_cgroups: String::new(),
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".into(),
            cpu_manager_policy: "none".into(),
            single_process_oom_kill: None,
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: seconds(10),
            memory_manager_policy: "None".into(),
            topology_manager_policy: "none".into(),
            topology_manager_scope: "container".into(),
            topology_manager_policy_options: BTreeMap::new(),
            qos_reserved: BTreeMap::new(),
            runtime_request_timeout: seconds(120),
            hairpin_mode: "promiscuous-bridge".into(),
            max_pods: 110,
            pod_cidr: None,
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".into(),
            run_once: false,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: GoDuration(Duration::from_millis(100)),
            node_status_max_images: 50,
            max_open_files: 1_000_000,
            content_type: "application/vnd.kubernetes.protobuf".into(),
            kube_api_qps: 50,
            kube_api_burst: 100,
            serialize_image_pulls: None,
            max_parallel_image_pulls: None,
            eviction_hard: None,
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: seconds(300),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            merge_default_eviction_settings: false,
            pods_per_core: 0,
            enable_controller_attach_detach: true,
            protect_kernel_defaults: false,
            make_iptables_util_chains: true,
            iptables_masquerade_bit: 14,
            iptables_drop_bit: 15,
            feature_gates: BTreeMap::new(),
            fail_swap_on: true,
            memory_swap: MemorySwap::default(),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: seconds(10),
            config_map_and_secret_change_detection_strategy: "Watch".into(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            show_hidden_metrics_for_version: String::new(),
            system_reserved_cgroup: String::new(),
            kube_reserved_cgroup: String::new(),
            enforce_node_allocatable: vec!["pods".into()],
            allowed_unsafe_sysctls: vec![],
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into(),
            provider_id: None,
            kernel_memcg_notification: false,
            logging: Logging::default(),
            enable_system_log_handler: true,
            enable_system_log_query: false,
            shutdown_grace_period: seconds(0),
            shutdown_grace_period_critical_pods: seconds(0),
            shutdown_grace_period_by_pod_priority: vec![],
            crash_loop_back_off: CrashLoopBackOff::default(),
            reserved_memory: vec![],
            enable_profiling_handler: true,
            enable_debug_flags_handler: true,
            seccomp_default: false,
            memory_throttling_factor: 0.9,
            memory_reservation_policy: "None".into(),
            register_with_taints: vec![],
            register_node: true,
            tracing: None,
            local_storage_capacity_isolation: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            image_service_endpoint: String::new(),
            fail_cgroup_v1: true,
            user_namespaces: None,
        }
    }
}

/// Zero, which is the default of what others decide about.
const fn unsaid() -> GoDuration {
    GoDuration(Duration::ZERO)
}

/// Decodes the file.
///
/// # Errors
/// Where and why it is not a KubeletConfiguration.
pub fn decode(text: &str) -> Result<KubeletConfiguration, String> {
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
pub fn from_value(value: Map<String, Value>) -> Result<KubeletConfiguration, String> {
    finish(serde_json::from_value(Value::Object(value)).map_err(|e| e.to_string())?)
}

/// Checks the type and fills what was left empty.
fn finish(mut file: KubeletConfiguration) -> Result<KubeletConfiguration, String> {
    if file.kind != KIND || file.api_version != VERSION {
        return Err(format!(
            "no kind {:?} is registered for version {:?}, want {KIND} of {VERSION}",
            file.kind, file.api_version
        ));
    }
    file.fill();
    Ok(file)
}

impl KubeletConfiguration {
    /// The defaults, also of what the type itself leaves open.
    #[must_use]
    pub fn defaulted() -> Self {
        let mut file = Self { kind: KIND.to_owned(), api_version: VERSION.to_owned(), ..Self::default() };
        file.fill();
        file
    }

    /// Fills what was left empty or at zero: in this API that means the default.
    fn fill(&mut self) {
        let default = Self::default();
        // A report that is not spaced by itself goes along with the update.
        if self.node_status_report_frequency.0.is_zero() && !self.node_status_update_frequency.0.is_zero() {
            self.node_status_report_frequency = self.node_status_update_frequency;
        }
        for (value, default) in [
            (&mut self.sync_frequency, default.sync_frequency),
            (&mut self.file_check_frequency, default.file_check_frequency),
            (&mut self.http_check_frequency, default.http_check_frequency),
            (&mut self.streaming_connection_idle_timeout, default.streaming_connection_idle_timeout),
            (&mut self.node_status_update_frequency, default.node_status_update_frequency),
            (&mut self.node_status_report_frequency, default.node_status_report_frequency),
            (&mut self.image_minimum_gc_age, default.image_minimum_gc_age),
            (&mut self.runtime_request_timeout, default.runtime_request_timeout),
            (&mut self.cpu_manager_reconcile_period, default.cpu_manager_reconcile_period),
            (&mut self.eviction_pressure_transition_period, default.eviction_pressure_transition_period),
            (&mut self.volume_stats_agg_period, default.volume_stats_agg_period),
        ] {
            if value.0.is_zero() {
                *value = default;
            }
        }
        for (value, default) in [
            (&mut self.registry_burst, default.registry_burst),
            (&mut self.event_burst, default.event_burst),
            (&mut self.kube_api_burst, default.kube_api_burst),
            (&mut self.max_pods, default.max_pods),
            (&mut self.node_lease_duration_seconds, default.node_lease_duration_seconds),
        ] {
            if *value == 0 {
                *value = default;
            }
        }
        for (value, default) in [
            (&mut self.address, default.address),
            (&mut self.healthz_bind_address, default.healthz_bind_address),
            (&mut self.cgroup_driver, default.cgroup_driver),
            (&mut self.cpu_manager_policy, default.cpu_manager_policy),
            (&mut self.memory_manager_policy, default.memory_manager_policy),
            (&mut self.topology_manager_policy, default.topology_manager_policy),
            (&mut self.topology_manager_scope, default.topology_manager_scope),
            (&mut self.hairpin_mode, default.hairpin_mode),
            (&mut self.content_type, default.content_type),
            (&mut self.container_log_max_size, default.container_log_max_size),
            (
                &mut self.config_map_and_secret_change_detection_strategy,
                default.config_map_and_secret_change_detection_strategy,
            ),
            (&mut self.volume_plugin_dir, default.volume_plugin_dir),
            (&mut self.logging.format, default.logging.format),
            (&mut self.memory_reservation_policy, default.memory_reservation_policy),
            (&mut self.container_runtime_endpoint, default.container_runtime_endpoint),
            (
                &mut self.image_pull_credentials_verification_policy,
                default.image_pull_credentials_verification_policy,
            ),
        ] {
            if value.is_empty() {
                *value = default;
            }
        }
        if self.pod_logs_dir.as_os_str().is_empty() {
            self.pod_logs_dir = default.pod_logs_dir;
        }
        if self.port == 0 {
            self.port = default.port;
        }
        if self.max_open_files == 0 {
            self.max_open_files = default.max_open_files;
        }
        // Every number below zero is no limit.
        self.pod_pids_limit = self.pod_pids_limit.max(-1);
        self.fill_access();
        self.crash_loop_back_off.max_container_restart_period.get_or_insert(GoDuration(backoff::MAX));
    }

    /// Who may call.
    fn fill_access(&mut self) {
        let long = |value: &mut Option<GoDuration>, seconds| {
            let default = GoDuration(Duration::from_secs(seconds));
            *value = Some(value.filter(|said| !said.0.is_zero()).unwrap_or(default));
        };
        let Authentication { webhook, anonymous, .. } = &mut self.authentication;
        anonymous.enabled.get_or_insert(false);
        webhook.enabled.get_or_insert(true);
        long(&mut webhook.cache_ttl, 120);
        let Authorization { mode, webhook } = &mut self.authorization;
        *mode = Some(mode.take().filter(|mode| !mode.is_empty()).unwrap_or_else(|| "Webhook".to_owned()));
        long(&mut webhook.cache_authorized_ttl, 300);
        long(&mut webhook.cache_unauthorized_ttl, 30);
    }
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

    fn with(line: &str) -> Result<KubeletConfiguration, String> {
        decode(&format!("{JOINED}{line}\n"))
    }

    #[test]
    fn a_joined_nodes_file_is_taken_and_zero_is_the_default() {
        let file = decode(JOINED).unwrap();
        assert!(file.rotate_certificates);
        assert_eq!(file.sync_frequency, KubeletConfiguration::default().sync_frequency);
        assert_eq!(file.node_status_report_frequency.0, Duration::from_secs(300));
        assert_eq!(file.cluster_dns, ["10.96.0.10"]);
        assert!(with("maxPodz: 5").unwrap_err().contains("maxPodz"));
    }

    #[test]
    fn what_is_left_empty_is_the_default_of_its_circumstances() {
        let seconds = Duration::from_secs;
        let head = format!("apiVersion: {VERSION}\nkind: {KIND}\n");
        let of = |line: &str| decode(&format!("{head}{line}\n")).unwrap();
        let file = of("nodeStatusUpdateFrequency: 4s");
        assert_eq!(file.node_status_report_frequency.0, seconds(4), "reports go along with updates");
        let file = of("");
        assert_eq!(file.node_status_update_frequency.0, seconds(10));
        assert_eq!(file.node_status_report_frequency.0, seconds(300));
        assert_eq!(file, KubeletConfiguration::defaulted());
        let file = of("cgroupDriver: ''\nport: 0\npodPidsLimit: -7\nenforceNodeAllocatable: []");
        assert_eq!((file.cgroup_driver.as_str(), file.port, file.pod_pids_limit), ("cgroupfs", 10250, -1));
        assert!(file.enforce_node_allocatable.is_empty());
    }

    /// The file of a cluster's defaults as upstream's kubelet fills it, with what it leaves out as empty.
    const DEFAULTS: &str = "
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 2m0s, enabled: true}, x509: {}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 5m0s, cacheUnauthorizedTTL: 30s}}
logging: {flushFrequency: 5s, format: text, options: {json: {infoBufferSize: '0'}, text: {infoBufferSize: '0'}}, verbosity: 0}
containerLogMonitorInterval: 10s
cpuCFSQuotaPeriod: 100ms
crashLoopBackOff: {maxContainerRestartPeriod: 5m0s}
httpCheckFrequency: 20s
hairpinMode: promiscuous-bridge
iptablesDropBit: 15
iptablesMasqueradeBit: 14
memoryThrottlingFactor: 0.9
memoryReservationPolicy: None
nodeStatusReportFrequency: 5m0s
streamingConnectionIdleTimeout: 4h0m0s
volumePluginDir: /usr/libexec/kubernetes/kubelet-plugins/volume/exec/
";

    #[test]
    fn it_is_written_as_it_is_read() {
        let file = KubeletConfiguration::defaulted();
        let written = serde_json::to_value(&file).unwrap();
        for (name, value) in parse(DEFAULTS).unwrap() {
            assert_eq!(written[&name], value, "{name}");
        }
        let read = from_value(written.as_object().unwrap().clone()).unwrap();
        assert_eq!(read, file);
    }

    /// Fields that nothing but the check of the configuration reads, and why.
    const UNREAD: &[(&str, &str)] = &[
        ("streaming_connection_idle_timeout", "nothing of upstream's kubelet reads it either"),
        ("hairpin_mode", "checked and no more, as upstream: it is a matter of the network plugin"),
        ("run_once", "refused, as upstream"),
        ("iptables_masquerade_bit", "checked and no more, as upstream: proxies mark packets"),
        ("iptables_drop_bit", "checked and no more, as upstream: proxies mark packets"),
        ("make_iptables_util_chains", "there is no iptables here, whose users upstream leaves a hint"),
        ("enable_contention_profiling", "of Go's runtime"),
        ("content_type", "of Go's client; what is smaller on the wire is asked for"),
        ("show_hidden_metrics_for_version", "checked; no metric of 1.35 is hidden"),
        ("volume_plugin_dir", "there are no FlexVolumes"),
        ("kernel_memcg_notification", "memory is looked at every ten seconds in any case"),
    ];

    /// The code beside the type, its flags and its check, without tests and comments.
    fn readers() -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let own = ["options/file.rs", "options/flags.rs", "options/validate.rs"].map(|name| root.join(name));
        let (mut folders, mut all) = (vec![root], String::new());
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if !own.contains(&path) && !path.ends_with("tests.rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    let code = text.split("#[cfg(test)]").next().unwrap().lines();
                    all.extend(
                        code.filter(|line| !line.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]),
                    );
                }
            }
        }
        all
    }

    #[test]
    fn every_field_is_read_by_something_or_listed() {
        let (this, code) = (include_str!("file.rs"), readers());
        let fields =
            this.split("pub struct KubeletConfiguration {").nth(1).unwrap().split("\n}\n").next().unwrap();
        let names: Vec<&str> =
            fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()).collect();
        assert!(names.len() > 120, "{}", names.len());
        for name in &names {
            let after = |at: usize| code[at..].chars().next();
            let reads = code
                .match_indices(&format!(".{name}"))
                .any(|(at, found)| !after(at + found.len()).is_some_and(|c| c.is_alphanumeric() || c == '_'));
            let listed = UNREAD.iter().any(|(unread, _)| unread == name);
            assert!(reads != listed, "{name}: read {reads}, listed as unread {listed}");
        }
        for (name, why) in UNREAD {
            assert!(names.contains(name) && !why.is_empty(), "{name} is no field");
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
