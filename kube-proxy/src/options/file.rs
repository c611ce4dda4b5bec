//! KubeProxyConfiguration kubeproxy.config.k8s.io/v1alpha1. Unknown fields are errors; fields of other
//! modes and systems are known and not used.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// The configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the API reference")]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: serde_json::Value,
    #[serde(deserialize_with = "or_default")]
    pub hostname_override: String,
    #[serde(deserialize_with = "or_default")]
    pub bind_address: String,
    #[serde(deserialize_with = "or_default")]
    pub healthz_bind_address: String,
    #[serde(deserialize_with = "or_default")]
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: serde_json::Value,
    pub ipvs: serde_json::Value,
    pub nftables: Nftables,
    pub winkernel: serde_json::Value,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR", deserialize_with = "or_default")]
    pub cluster_cidr: String,
    #[serde(deserialize_with = "or_default")]
    pub node_port_addresses: Vec<String>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: serde_json::Value,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// `clientConnection`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the API reference")]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: u32,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the API reference")]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// `nftables`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the API reference")]
pub struct Nftables {
    pub masquerade_bit: Option<u32>,
    pub masquerade_all: bool,
    pub sync_period: String,
    pub min_sync_period: String,
}

/// `conntrack`; empty durations and missing numbers leave the kernel's settings alone.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the API reference")]
pub struct Conntrack {
    pub max_per_core: Option<u32>,
    pub min: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub tcp_established_timeout: String,
    #[serde(deserialize_with = "or_default")]
    pub tcp_close_wait_timeout: String,
    pub tcp_be_liberal: bool,
    #[serde(deserialize_with = "or_default")]
    pub udp_timeout: String,
    #[serde(deserialize_with = "or_default")]
    pub udp_stream_timeout: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Default for KubeProxyConfiguration {
    fn default() -> Self {
        let nothing = serde_json::Value::Null;
        Self {
            // What is read has to name itself; see `config::load`.
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            feature_gates: BTreeMap::new(),
            client_connection: ClientConnection::default(),
            logging: nothing.clone(),
            hostname_override: String::new(),
            bind_address: "0.0.0.0".to_owned(),
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            metrics_bind_address: "127.0.0.1:10249".to_owned(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: nothing.clone(),
            ipvs: nothing.clone(),
            nftables: Nftables::default(),
            winkernel: nothing.clone(),
            detect_local_mode: String::new(),
            detect_local: DetectLocal::default(),
            cluster_cidr: String::new(),
            node_port_addresses: Vec::new(),
            oom_score_adj: Some(-999),
            conntrack: Conntrack::default(),
            config_sync_period: nothing,
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}

impl Default for ClientConnection {
    fn default() -> Self {
        Self {
            kubeconfig: String::new(),
            accept_content_types: String::new(),
            content_type: "application/json".to_owned(),
            qps: 5.0,
            burst: 10,
        }
    }
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            masquerade_bit: Some(14),
            masquerade_all: false,
            sync_period: "30s".to_owned(),
            min_sync_period: "1s".to_owned(),
        }
    }
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: Some(32_768),
            min: Some(131_072),
            tcp_established_timeout: "24h0m0s".to_owned(),
            tcp_close_wait_timeout: "1h0m0s".to_owned(),
            tcp_be_liberal: false,
            udp_timeout: String::new(),
            udp_stream_timeout: String::new(),
        }
    }
}
