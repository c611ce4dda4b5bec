//! KubeletConfiguration kubelet.config.k8s.io/v1beta1: the fields that are implemented. Unknown ones are errors.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Deserializer};

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
    pub eviction_hard: Option<BTreeMap<String, String>>,
    pub eviction_pressure_transition_period: GoDuration,
    pub enable_debugging_handlers: bool,
    pub container_log_max_size: String,
    pub container_log_max_files: i32,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub enforce_node_allocatable: Vec<String>,
    pub seccomp_default: bool,
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    pub container_runtime_endpoint: String,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: bool,
    pub fail_swap_on: bool,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: i32,
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
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
            eviction_hard: None,
            eviction_pressure_transition_period: seconds(300),
            enable_debugging_handlers: true,
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            enforce_node_allocatable: vec!["pods".into()],
            seccomp_default: false,
            register_with_taints: vec![],
            register_node: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            fail_cgroup_v1: true,
            fail_swap_on: true,
            kube_api_qps: 50,
            kube_api_burst: 100,
            provider_id: None,
        }
    }
}

/// Decodes the file.
///
/// # Errors
/// Where and why it is not a KubeletConfiguration.
pub fn decode(text: &str) -> Result<KubeletConfiguration, String> {
    let file: KubeletConfiguration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.kind != "KubeletConfiguration" || file.api_version != "kubelet.config.k8s.io/v1beta1" {
        return Err(format!(
            "no kind {:?} is registered for version {:?}, want KubeletConfiguration of kubelet.config.k8s.io/v1beta1",
            file.kind, file.api_version
        ));
    }
    Ok(file)
}
