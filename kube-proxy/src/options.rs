//! Flags and configuration file of the proxy: one typed, validated [`Config`].
//!
//! Contract: upstream's flag names; KubeProxyConfiguration kubeproxy.config.k8s.io/v1alpha1, strictly
//! decoded. As upstream, the file wins over flags; only `--hostname-override`, `--kubeconfig` less a
//! file's own, `--cleanup` and log flags count beside a file, and `--network-policy`, which is this proxy's own.

mod file;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use component_base::{
    config::{self, ConfigError},
    features::{self, Gate, Gates, Reader, Switches},
    flags::{Flag, FlagSet, Kind, Values, group},
    goduration,
    logging::LoggingError,
};
use ipnet::IpNet;

pub use file::KubeProxyConfiguration;

/// A configuration that cannot be used; the process ends with exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The configuration file cannot be read or is not what it should be.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// Logs cannot be written so.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// A value that does not fit.
    #[error("{field}: {why}")]
    Invalid {
        /// Flag or field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// The gates it does something else by.
const SWITCHES: Switches = Switches {
    program: "kube-proxy",
    reader: Reader::Proxy,
    gates: &[Gate::AllowServiceExternalIPs, Gate::ComponentFlagz, Gate::ComponentStatusz],
};

/// How the proxy knows traffic of its own pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's pod ranges; none means that nothing is known.
    ClusterCidr(Vec<IpNet>),
    /// By the node's `spec.podCIDRs`.
    NodeCidr,
    /// By the bridge they come in by.
    Bridge(String),
    /// By how the names of their interfaces begin.
    InterfacePrefix(String),
}

/// Where node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On the node's main addresses.
    Primary,
    /// On the machine's addresses within these ranges.
    Within(Vec<IpNet>),
}

/// Everything the proxy is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which features are on.
    pub gates: Gates,
    /// How to reach the API server.
    pub kubeconfig: Option<PathBuf>,
    /// Overrides the server's URL.
    pub master: Option<String>,
    /// Requests per second.
    pub qps: f32,
    /// Requests at once.
    pub burst: u32,
    /// This node.
    pub node_name: String,
    /// Node addresses when the API knows none (`--bind-address`).
    pub bind_address: IpAddr,
    /// Where `/healthz` is served; none disables it.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is served; none disables it.
    pub metrics: Option<SocketAddr>,
    /// Whether failing to listen ends the process.
    pub bind_hard_fail: bool,
    /// Masquerade all service traffic.
    pub masquerade_all: bool,
    /// The bit of the packet mark.
    pub masquerade_mark: u32,
    /// Shortest time between syncs.
    pub min_sync_period: Duration,
    /// Time after which a change that is not carried out makes the proxy unhealthy (doubled).
    pub sync_period: Duration,
    /// How local traffic is known.
    pub detect_local: DetectLocal,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Enforce network policies on this node.
    pub network_policy: bool,
    /// The file's fields with flags applied, for `/configz` and the conntrack settings.
    pub file: KubeProxyConfiguration,
    /// Only delete the tables and end.
    pub cleanup: bool,
    /// Only do what needs privileges and end.
    pub init_only: bool,
    /// Only write `file` there and end.
    pub write_to: Option<PathBuf>,
}

/// Only for a library that upstream's proxy is linked with.
const NO_CADVISOR: &str = "accepted; nothing is asked of cAdvisor";

/// Only for the other modes of upstream's proxy.
const OTHER_MODES: &str = "accepted; this proxy has one mode, nftables";

/// The flags, with upstream's names and defaults.
pub fn flags() -> FlagSet {
    let own = [
        ("bind-address", Kind::Ip, "0.0.0.0", "address the node is known by when the API names none"),
        ("bind-address-hard-fail", Kind::Bool, "false", "end when a port cannot be opened"),
        ("boot-id-file", Kind::String, "/proc/sys/kernel/random/boot_id", NO_CADVISOR),
        ("cleanup", Kind::Bool, "false", "delete the proxy's nftables tables and exit"),
        (
            "cluster-cidr",
            Kind::String,
            "",
            "ranges of the cluster's pods; traffic from elsewhere to cluster IPs is masqueraded",
        ),
        ("config", Kind::String, "", "configuration file; it wins over flags"),
        ("config-sync-period", Kind::Duration, "15m0s", "accepted; watches are kept without refresh"),
        (
            "conntrack-max-per-core",
            Kind::Int,
            "32768",
            "connections tracked per core; 0 leaves the limit alone",
        ),
        ("conntrack-min", Kind::Int, "131072", "connections tracked at least"),
        (
            "conntrack-tcp-be-liberal",
            Kind::Bool,
            "false",
            "accept out-of-window packets of tracked connections",
        ),
        (
            "conntrack-tcp-timeout-close-wait",
            Kind::Duration,
            "1h0m0s",
            "timeout of connections in CLOSE_WAIT",
        ),
        (
            "conntrack-tcp-timeout-established",
            Kind::Duration,
            "24h0m0s",
            "timeout of idle connections; 0 leaves it alone",
        ),
        ("conntrack-udp-timeout", Kind::Duration, "0s", "timeout of UDP flows; 0 leaves it alone"),
        (
            "conntrack-udp-timeout-stream",
            Kind::Duration,
            "0s",
            "timeout of two-way UDP flows; 0 leaves it alone",
        ),
        (
            "detect-local-mode",
            Kind::String,
            "",
            "how traffic of pods is known: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
        ),
        (
            "healthz-bind-address",
            Kind::String,
            "0.0.0.0:10256",
            "address and port of the health server; empty disables it",
        ),
        ("hostname-override", Kind::String, "", "name of this node"),
        ("init-only", Kind::Bool, "false", "apply what needs privileges (conntrack settings) and exit"),
        ("iptables-localhost-nodeports", Kind::Bool, "true", OTHER_MODES),
        ("iptables-masquerade-bit", Kind::Int, "14", "bit of the packet mark for masquerading"),
        ("iptables-min-sync-period", Kind::Duration, "1s", "shortest time between syncs"),
        ("iptables-sync-period", Kind::Duration, "30s", "longest time a change may wait"),
        ("ipvs-exclude-cidrs", Kind::Strings, "", OTHER_MODES),
        ("ipvs-min-sync-period", Kind::Duration, "1s", OTHER_MODES),
        ("ipvs-scheduler", Kind::String, "", OTHER_MODES),
        ("ipvs-strict-arp", Kind::Bool, "false", OTHER_MODES),
        ("ipvs-sync-period", Kind::Duration, "30s", OTHER_MODES),
        ("ipvs-tcp-timeout", Kind::Duration, "0s", OTHER_MODES),
        ("ipvs-tcpfin-timeout", Kind::Duration, "0s", OTHER_MODES),
        ("ipvs-udp-timeout", Kind::Duration, "0s", OTHER_MODES),
        ("machine-id-file", Kind::String, "/etc/machine-id,/var/lib/dbus/machine-id", NO_CADVISOR),
        ("masquerade-all", Kind::Bool, "false", "masquerade all traffic to services"),
        (
            "metrics-bind-address",
            Kind::String,
            "127.0.0.1:10249",
            "address and port of the metrics server; empty disables it",
        ),
        (
            "network-policy",
            Kind::Bool,
            "false",
            "enforce network policies on this node; needs list and watch on them, pods and namespaces",
        ),
        ("nodeport-addresses", Kind::Strings, "", "primary, or ranges of addresses node ports are served on"),
        ("oom-score-adj", Kind::Int, "-999", "oom_score_adj of the process"),
        ("pod-bridge-interface", Kind::String, "", "bridge of the pods, for BridgeInterface"),
        (
            "pod-interface-name-prefix",
            Kind::String,
            "",
            "how names of pods' interfaces begin, for InterfaceNamePrefix",
        ),
        ("profiling", Kind::Bool, "false", "accepted; there is no profiler"),
        ("proxy-mode", Kind::String, "", "nftables"),
        ("show-hidden-metrics-for-version", Kind::String, "", "accepted; nothing is hidden"),
        (
            "write-config-to",
            Kind::String,
            "",
            "file the default configuration is written to instead of running",
        ),
    ];
    let own = own.map(|(name, kind, default, help)| Flag::new(name, kind, default, help));
    FlagSet::new("kube-proxy", "Makes Kubernetes services reachable on this node with nftables.", own)
        .with(group::client("5", "10"))
        .with([Flag::new(Switches::FLAG, Kind::BoolMap, "", features::help())])
        .with(group::logging())
}

/// Reads flags and the file they name.
///
/// # Errors
/// When the file or a value is bad.
pub fn load(given: &Values) -> Result<Config, OptionsError> {
    let mut file = match given.optional("config") {
        Some(path) => config::load(Path::new(path), file::API_VERSION, file::KIND)?,
        None => from_flags(given)?,
    };
    if let Some(name) = given.optional("hostname-override") {
        file.hostname_override = name.to_owned();
    }
    file.feature_gates.extend(given.bool_map(Switches::FLAG));
    let gates =
        SWITCHES.of(&file.feature_gates).map_err(|error| invalid("featureGates", error.to_string()))?;
    group::check_logging(given, gates)?;
    check_mode(&file.mode)?;
    Ok(Config {
        gates,
        kubeconfig: Some(&file.client_connection.kubeconfig).filter(|p| !p.is_empty()).map(PathBuf::from),
        master: given.optional("master").map(str::to_owned),
        qps: file.client_connection.qps,
        burst: file.client_connection.burst,
        node_name: node_name(&file.hostname_override)?,
        bind_address: parse("bindAddress", &file.bind_address)?,
        healthz: address("healthzBindAddress", &file.healthz_bind_address, 10256)?,
        metrics: address("metricsBindAddress", &file.metrics_bind_address, 10249)?,
        bind_hard_fail: file.bind_address_hard_fail,
        masquerade_all: file.nftables.masquerade_all,
        masquerade_mark: mark(file.nftables.masquerade_bit)?,
        min_sync_period: duration("nftables.minSyncPeriod", &file.nftables.min_sync_period)?,
        sync_period: duration("nftables.syncPeriod", &file.nftables.sync_period)?,
        detect_local: detect_local(&file)?,
        node_port_addresses: node_port_addresses(&file.node_port_addresses)?,
        network_policy: given.bool("network-policy"),
        cleanup: given.bool("cleanup"),
        init_only: given.bool("init-only"),
        write_to: given.optional("write-config-to").map(PathBuf::from),
        file,
    })
}

/// A number that was given.
fn number<T: TryFrom<i64>>(given: &Values, name: &'static str) -> Result<Option<T>, OptionsError> {
    let set = given.is_set(name).then(|| given.int(name));
    let fit =
        |number: i64| T::try_from(number).map_err(|_| invalid(name, format!("{number} is out of range")));
    set.map(fit).transpose()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    value: &str,
) -> Result<T, OptionsError> {
    value.parse().map_err(|error: T::Err| invalid(field, format!("{value:?}: {error}")))
}

fn invalid(field: &'static str, why: impl Into<String>) -> OptionsError {
    OptionsError::Invalid { field, why: why.into() }
}

/// The configuration flags alone make.
fn from_flags(given: &Values) -> Result<KubeProxyConfiguration, OptionsError> {
    let mut file = KubeProxyConfiguration::default();
    let set = |target: &mut String, name: &str| {
        if given.is_set(name) {
            given.string(name).clone_into(target);
        }
    };
    set(&mut file.client_connection.kubeconfig, "kubeconfig");
    set(&mut file.bind_address, "bind-address");
    set(&mut file.healthz_bind_address, "healthz-bind-address");
    set(&mut file.metrics_bind_address, "metrics-bind-address");
    set(&mut file.mode, "proxy-mode");
    set(&mut file.cluster_cidr, "cluster-cidr");
    set(&mut file.detect_local_mode, "detect-local-mode");
    set(&mut file.detect_local.bridge_interface, "pod-bridge-interface");
    set(&mut file.detect_local.interface_name_prefix, "pod-interface-name-prefix");
    let set = |target: &mut String, name: &str| {
        if given.is_set(name) {
            *target = goduration::format(given.duration(name));
        }
    };
    set(&mut file.nftables.sync_period, "iptables-sync-period");
    set(&mut file.nftables.min_sync_period, "iptables-min-sync-period");
    set(&mut file.conntrack.tcp_established_timeout, "conntrack-tcp-timeout-established");
    set(&mut file.conntrack.tcp_close_wait_timeout, "conntrack-tcp-timeout-close-wait");
    set(&mut file.conntrack.udp_timeout, "conntrack-udp-timeout");
    set(&mut file.conntrack.udp_stream_timeout, "conntrack-udp-timeout-stream");
    if given.is_set("kube-api-qps") {
        file.client_connection.qps = given.float("kube-api-qps") as f32;
    }
    file.nftables.masquerade_bit = number(given, "iptables-masquerade-bit")?.or(file.nftables.masquerade_bit);
    file.client_connection.burst = number(given, "kube-api-burst")?.unwrap_or(file.client_connection.burst);
    file.conntrack.max_per_core = number(given, "conntrack-max-per-core")?.or(file.conntrack.max_per_core);
    file.conntrack.min = number(given, "conntrack-min")?.or(file.conntrack.min);
    file.oom_score_adj = number(given, "oom-score-adj")?.or(file.oom_score_adj);
    file.conntrack.tcp_be_liberal = given.bool("conntrack-tcp-be-liberal");
    file.nftables.masquerade_all = given.bool("masquerade-all");
    file.bind_address_hard_fail = given.bool("bind-address-hard-fail");
    if given.is_set("nodeport-addresses") {
        file.node_port_addresses = given.list("nodeport-addresses");
    }
    Ok(file)
}

fn check_mode(mode: &str) -> Result<(), OptionsError> {
    match mode {
        // The default of upstream is iptables; this proxy has one mode, and says so on /proxyMode.
        "" | "nftables" => Ok(()),
        "iptables" | "ipvs" => {
            Err(invalid("mode", format!("{mode:?} is not supported: this proxy is nftables only")))
        }
        other => Err(invalid("mode", format!("must be iptables, ipvs or nftables, not {other:?}"))),
    }
}

fn node_name(given: &str) -> Result<String, OptionsError> {
    let name = match given.trim() {
        "" => nix::unistd::gethostname()
            .map_err(|error| invalid("hostnameOverride", error.to_string()))?
            .to_string_lossy()
            .into_owned(),
        name => name.to_owned(),
    };
    match name.trim().to_lowercase() {
        name if name.is_empty() => Err(invalid("hostnameOverride", "the node's name is empty")),
        name => Ok(name),
    }
}

/// `address:port`, `address` alone with the default port; empty disables.
fn address(field: &'static str, text: &str, port: u16) -> Result<Option<SocketAddr>, OptionsError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(address, port)));
    }
    parse(field, text).map(Some)
}

fn mark(bit: Option<u32>) -> Result<u32, OptionsError> {
    match bit.unwrap_or(14) {
        bit @ 0..=31 => Ok(1 << bit),
        _ => Err(invalid("nftables.masqueradeBit", "must be within the range [0, 31]")),
    }
}

fn duration(field: &'static str, text: &str) -> Result<Duration, OptionsError> {
    goduration::parse(text).map_err(|error| invalid(field, error.to_string()))
}

fn detect_local(file: &KubeProxyConfiguration) -> Result<DetectLocal, OptionsError> {
    match file.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => {
            let ranges = file.cluster_cidr.split(',').map(str::trim).filter(|range| !range.is_empty());
            ranges
                .map(|range| parse("clusterCIDR", range))
                .collect::<Result<_, _>>()
                .map(DetectLocal::ClusterCidr)
        }
        "NodeCIDR" => Ok(DetectLocal::NodeCidr),
        "BridgeInterface" => interface("detectLocal.bridgeInterface", &file.detect_local.bridge_interface)
            .map(DetectLocal::Bridge),
        "InterfaceNamePrefix" => {
            let prefix = &file.detect_local.interface_name_prefix;
            interface("detectLocal.interfaceNamePrefix", prefix).map(DetectLocal::InterfacePrefix)
        }
        other => {
            let why = "use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
            Err(invalid("detectLocalMode", format!("{other:?} is not supported: {why}")))
        }
    }
}

/// A name, or the beginning of one, that the kernel takes.
fn interface(field: &'static str, name: &str) -> Result<String, OptionsError> {
    if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
        return Err(invalid(field, format!("{name:?} is no name of an interface")));
    }
    Ok(name.to_owned())
}

fn node_port_addresses(given: &[String]) -> Result<NodePortAddresses, OptionsError> {
    match given {
        [] => Ok(NodePortAddresses::Primary),
        [one] if one == "primary" => Ok(NodePortAddresses::Primary),
        ranges => ranges
            .iter()
            .map(|range| parse("nodePortAddresses", range))
            .collect::<Result<_, _>>()
            .map(NodePortAddresses::Within),
    }
}

/// The configuration of a command line.
#[cfg(test)]
pub(crate) fn configured(given: &[&str]) -> Result<Config, OptionsError> {
    use component_base::flags::Parsed;
    match flags().parse(given.iter().map(|flag| (*flag).to_owned())) {
        Ok(Parsed::Run(values)) => load(&values),
        Ok(Parsed::Print(text)) => panic!("{text}"),
        Err(error) => Err(invalid("flags", error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_upstreams_is_known() {
        assert_eq!(component_base::reference::flags_lacking(&flags()), Vec::<String>::new());
    }

    #[test]
    fn flags_make_a_configuration() {
        let config = configured(&[
            "--kubeconfig=/k",
            "--hostname-override= Node-1 ",
            "--proxy-mode=nftables",
            "--cluster-cidr=10.244.0.0/16, fd00::/64",
            "--iptables-masquerade-bit=3",
            "--nodeport-addresses=192.168.0.0/24",
            "--healthz-bind-address=",
            "--metrics-bind-address=127.0.0.1",
            "-v=4",
        ])
        .unwrap();
        assert_eq!((config.node_name.as_str(), config.masquerade_mark), ("node-1", 8));
        assert_eq!((config.healthz, config.metrics), (None, Some("127.0.0.1:10249".parse().unwrap())));
        let DetectLocal::ClusterCidr(ranges) = config.detect_local else { panic!() };
        assert_eq!(ranges.len(), 2);
        assert_eq!(config.min_sync_period, Duration::from_secs(1));
    }

    #[test]
    fn a_configuration_that_was_written_is_one_that_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.yaml");
        let name = path.to_str().unwrap();
        let written = configured(&[
            &format!("--write-config-to={name}"),
            "--hostname-override=n",
            "--cluster-cidr=10.244.0.0/16",
            "--masquerade-all",
        ])
        .unwrap();
        assert_eq!(written.write_to.as_deref(), Some(path.as_path()));
        config::save(&written.file, &path).unwrap();
        let read = configured(&[&format!("--config={name}")]).unwrap();
        let value = |config: &Config| serde_json::to_value(&config.file).unwrap();
        assert_eq!(value(&read), value(&written));
        assert!(read.masquerade_all && read.write_to.is_none());
    }

    #[test]
    fn pods_are_known_by_ranges_or_interfaces() {
        let of = |given: &[&str]| {
            configured(&[&["--hostname-override=n"], given].concat()).map(|c| c.detect_local)
        };
        let bridge = of(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"]);
        assert_eq!(bridge.unwrap(), DetectLocal::Bridge("cni0".into()));
        let prefix = of(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"]);
        assert_eq!(prefix.unwrap(), DetectLocal::InterfacePrefix("veth".into()));
        assert!(
            of(&[
                "--detect-local-mode=InterfaceNamePrefix",
                "--pod-interface-name-prefix=longer-than-a-name"
            ])
            .is_err()
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            "--proxy-mode=iptables",
            "--proxy-mode=x",
            "--cluster-cidr=10.0.0.0",
            "--iptables-masquerade-bit=32",
            "--iptables-sync-period=soon",
            "--detect-local-mode=BridgeInterface",
            "--detect-local-mode=Other",
            "--nodeport-addresses=x",
            "--no-such-flag",
        ] {
            assert!(configured(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_is_read_strictly_and_wins() {
        let directory = std::env::temp_dir().join(format!("kube-proxy-options-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("config.yaml");
        let with = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let path = format!("--config={}", path.display());
            configured(&[&path, "--hostname-override=n2", "--proxy-mode=iptables"])
        };
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let config = with(&format!(
            "{head}mode: nftables\nhostnameOverride: n1\nclusterCIDR: 10.1.0.0/16\nnftables: {{masqueradeAll: true, syncPeriod: 5s, minSyncPeriod: 0s, masqueradeBit: null}}\nclientConnection: {{kubeconfig: /etc/k}}\nconntrack: {{maxPerCore: null}}\nnodePortAddresses: null\n"
        ))
        .unwrap();
        assert_eq!((config.node_name.as_str(), config.masquerade_all), ("n2", true));
        assert_eq!(config.min_sync_period, Duration::ZERO);
        assert_eq!(config.kubeconfig, Some(PathBuf::from("/etc/k")));
        assert!(matches!(with(&format!("{head}modus: nftables\n")), Err(OptionsError::File(_))));
        assert!(matches!(with("kind: KubeProxyConfiguration\n"), Err(OptionsError::File(_))));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
