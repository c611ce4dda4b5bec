//! The server's flags and the one [`Config`] they become.
//!
//! Contract: upstream's kube-apiserver flags of the same names.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use component_base::{
    features::{Gate, Gates, Switches},
    flags::{Flag, FlagSet, Kind, Values, group},
    logging::LoggingError,
    serving::SecureServingOptions,
};

use crate::{
    admission,
    aggregator::AggregatorOptions,
    audit, authn, authz,
    bootstrap::authentication_facts::RequestHeader,
    health, leaderelection,
    proxy::kubelet::{AddressType, KubeletOptions},
    registry::served::RuntimeConfig,
    storage::{Elsewhere, ResourceId},
};

mod fixed;
mod front;
mod gates;

/// Everything [`crate::run::build`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--bind-address`, `--secure-port` (0 picks a free one), `--tls-*`, `--cert-dir`.
    pub serving: SecureServingOptions,
    /// `--etcd-servers`.
    pub etcd_servers: Vec<String>,
    /// `--etcd-servers-overrides`.
    pub etcd_overrides: Vec<Elsewhere>,
    /// `--etcd-prefix`.
    pub etcd_prefix: String,
    /// `--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`.
    pub etcd_tls: crate::storage::TlsFiles,
    /// `--etcd-compaction-interval`.
    pub compaction_interval: Duration,
    /// `--etcd-db-metric-poll-interval`.
    pub size_interval: Duration,
    /// `--encryption-provider-config`, and whether it is read again when it changes.
    pub encryption: Option<(PathBuf, bool)>,
    /// `--event-ttl`: how long events are kept.
    pub event_ttl: Duration,
    /// `--authorization-config`: the chain in a file instead of flags.
    pub authorization_config: Option<PathBuf>,
    /// `--authorization-mode`.
    pub modes: Vec<authz::Mode>,
    /// `--enable-priority-and-fairness`.
    pub fair: bool,
    /// `--max-requests-inflight`.
    pub reads_inflight: usize,
    /// `--max-mutating-requests-inflight`.
    pub writes_inflight: usize,
    /// `--request-timeout`, `--min-request-timeout`.
    pub limits: RequestLimits,
    /// `--shutdown-delay-duration`: how long a server that is told to stop goes on serving while readyz fails.
    pub shutdown_delay: Duration,
    /// Time for requests in flight after that.
    pub grace: Duration,
    /// `--storage-initialization-timeout`: after so long, waiting for storage is told of.
    pub storage_patience: Duration,
    /// `--livez-grace-period`, `--etcd-healthcheck-timeout`, `--etcd-readycheck-timeout`.
    pub health: health::Settings,
    /// All flags with their values, for `/flagz`.
    pub flags: std::collections::BTreeMap<&'static str, String>,
    /// `--disabled-metrics`, `--allow-metric-labels`.
    pub metrics: component_base::metrics::view::View,
    /// `--coordinated-leadership-*`.
    pub leadership: leaderelection::Timers,
    /// `--tracing-config-file`.
    pub tracing: Option<PathBuf>,
    /// `--profiling`.
    pub profiling: bool,
    /// `--enable-logs-handler`.
    pub shows_logs: bool,
    /// `--debug-socket-path`.
    pub debug_socket: Option<PathBuf>,
    /// `--enable-garbage-collector`.
    pub collects_garbage: bool,
    /// `--delete-collection-workers`.
    pub deletes_at_once: usize,
    /// `--endpoint-reconciler-type`: whether this server is among the endpoints of `kubernetes`.
    pub publishes_endpoints: bool,
    /// `--cors-*`, `--goaway-chance` and what else is decided before anybody asks who sends a request.
    pub front: crate::front::Options,
    /// Authentication.
    pub authn: authn::Options,
    /// `--audit-*`.
    pub audit: audit::Options,
    /// `--admission-control-config-file`.
    pub admission_config: Option<PathBuf>,
    /// `--enable-admission-plugins`.
    pub enable_admission: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable_admission: Vec<String>,
    /// `--service-cluster-ip-range`, primary family first.
    pub service_ranges: Vec<ipnet::IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// `--advertise-address`; the bind address, or the address of the default route, when not given.
    pub advertise: Option<IpAddr>,
    /// `--external-hostname`; the advertised address when empty.
    pub external_hostname: String,
    /// `--kubernetes-service-node-port`, 0 = none.
    pub kubernetes_node_port: u16,
    /// `--requestheader-client-ca-file` and the flags beside it.
    pub request_header: Option<(PathBuf, RequestHeader)>,
    /// `--proxy-client-*`, `--enable-aggregator-routing`.
    pub aggregator: AggregatorOptions,
    /// `--peer-ca-file`.
    pub peer_ca: Option<PathBuf>,
    /// `--peer-advertise-ip`, `--peer-advertise-port`.
    pub peer_address: Option<(String, u16)>,
    /// `--egress-selector-config-file`.
    pub egress: Option<PathBuf>,
    /// `--kubelet-*`.
    pub kubelet: KubeletOptions,
    /// `--allow-privileged`.
    pub privileged: bool,
    /// `--runtime-config`: what is served.
    pub served: RuntimeConfig,
    /// `--feature-gates`.
    pub gates: Gates,
    /// `--default-not-ready-toleration-seconds`, `--default-unreachable-toleration-seconds`.
    pub toleration_seconds: (i64, i64),
}

/// How long requests may take.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// `--request-timeout`, for requests that are not long-running.
    pub timeout: Duration,
    /// `--min-request-timeout`: watches without a timeout of their own last this long, up to twice of it.
    pub min_watch: Duration,
}

/// Why flags do not make a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A flag that has no default.
    #[error("--{0} must be specified")]
    Missing(&'static str),
    /// A value out of range or malformed.
    #[error("invalid argument {value:?} for \"--{flag}\" flag: {reason}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// Logs cannot be written so.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Flags that say the same.
    #[error("--{0} and --{1} cannot be given together")]
    Both(&'static str, &'static str),
    /// Times of which one has to be longer.
    #[error("--{0} must be greater than --{1}")]
    Order(String, String),
    /// Flags that belong together.
    #[error("--{0} and --{1} must be given together")]
    Half(&'static str, &'static str),
}

const POLICY_FILE: &str = "authorization-policy-file";

/// One line of the table: name, kind, default, help.
type Line = (&'static str, Kind, &'static str, &'static str);

const ETCD: &[Line] = &[
    ("etcd-servers", Kind::Strings, "", "URLs of etcd's members"),
    (
        "etcd-servers-overrides",
        Kind::Strings,
        "",
        "etcd clusters of single resources, each as group/resource#servers with servers separated by semicolons",
    ),
    ("etcd-prefix", Kind::String, "/registry", "prefix of all keys in etcd"),
    ("etcd-cafile", Kind::String, "", "file with the CA that signs etcd's certificate"),
    ("etcd-certfile", Kind::String, "", "file with the client certificate for etcd"),
    ("etcd-keyfile", Kind::String, "", "file with the key of the client certificate for etcd"),
    (
        "encryption-provider-config",
        Kind::String,
        "",
        "file that says which resources are stored encrypted, and how",
    ),
    (
        "encryption-provider-config-automatic-reload",
        Kind::Bool,
        "false",
        "read that file again when it changes",
    ),
    (
        "etcd-healthcheck-timeout",
        Kind::Duration,
        "2s",
        "time etcd has to answer when the server's health is asked",
    ),
    ("etcd-readycheck-timeout", Kind::Duration, "2s", "the same for whether the server is ready"),
    (
        "etcd-count-metric-poll-period",
        Kind::Duration,
        "1m0s",
        "0 leaves out the metrics of numbers of objects; else they are right whenever they are asked",
    ),
    (
        "etcd-db-metric-poll-interval",
        Kind::Duration,
        "30s",
        "0 leaves out the metrics of the size of etcd's database",
    ),
    (
        "storage-initialization-timeout",
        Kind::Duration,
        "1m0s",
        "time after which the log tells that storage is not initialized; the server is ready only when it is",
    ),
    ("enable-garbage-collector", Kind::Bool, "true", "mark deleted objects for the garbage collector"),
    ("delete-collection-workers", Kind::Int, "1", "objects of a collection that are deleted at once"),
    ("event-ttl", Kind::Duration, "1h0m0s", "time to keep events"),
    ("etcd-compaction-interval", Kind::Duration, "5m0s", "time between compactions; 0 leaves them to others"),
];

const SERVER: &[Line] = &[
    ("advertise-address", Kind::Ip, "", "address other members of the cluster reach this server at"),
    (
        "external-hostname",
        Kind::String,
        "",
        "host name in URLs for clients, such as those of the OpenID documents",
    ),
    (
        "enable-priority-and-fairness",
        Kind::Bool,
        "true",
        "share what is served at once by flow schemas and levels",
    ),
    ("max-requests-inflight", Kind::Int, "400", "reads served at once; 0 has no limit"),
    ("max-mutating-requests-inflight", Kind::Int, "200", "writes served at once; 0 has no limit"),
    ("request-timeout", Kind::Duration, "1m0s", "time a request may take that is not long-running"),
    (
        "min-request-timeout",
        Kind::Int,
        "1800",
        "seconds a watch without a timeout of its own lasts at least; it ends at random before twice of that",
    ),
    (
        "endpoint-reconciler-type",
        Kind::String,
        "lease",
        "how this server's address gets into the kubernetes service: lease, or none for not at all",
    ),
    (
        "coordinated-leadership-lease-duration",
        Kind::Duration,
        "15s",
        "life of the lease of the server that chooses leaders of others, under the gate CoordinatedLeaderElection",
    ),
    ("coordinated-leadership-renew-deadline", Kind::Duration, "10s", "time to renew that lease in"),
    ("coordinated-leadership-retry-period", Kind::Duration, "2s", "pause between attempts at that lease"),
    (
        "livez-grace-period",
        Kind::Duration,
        "0s",
        "time in which /livez holds although the work of starting is not done",
    ),
    (
        "tracing-config-file",
        Kind::String,
        "",
        "file that says where traces of requests are sent, and of how many",
    ),
    ("profiling", Kind::Bool, "true", "serve /debug, to those who may ask for it"),
    (
        "enable-logs-handler",
        Kind::Bool,
        "false",
        "serve files of /var/log under /logs, to those who may ask for them",
    ),
    ("debug-socket-path", Kind::String, "", "socket that /debug is served at, to this machine's user only"),
    (
        "shutdown-delay-duration",
        Kind::Duration,
        "0s",
        "time to go on serving after a signal to stop, while /readyz fails already",
    ),
];

const AUTHENTICATION: &[Line] = &[
    ("anonymous-auth", Kind::Bool, "true", "take requests without credentials for system:anonymous"),
    ("authentication-config", Kind::String, "", "file with issuers of tokens and who may be anonymous"),
    (
        "authentication-token-webhook-config-file",
        Kind::String,
        "",
        "kubeconfig of the webhook that knows tokens",
    ),
    ("authentication-token-webhook-version", Kind::String, "v1beta1", "version of reviews it is sent"),
    ("authentication-token-webhook-cache-ttl", Kind::Duration, "2m0s", "time its answers are kept"),
    ("oidc-issuer-url", Kind::String, "", "URL of the OpenID provider whose tokens are taken"),
    ("oidc-client-id", Kind::String, "", "audience of the OpenID provider's tokens"),
    ("oidc-ca-file", Kind::String, "", "file with the CA of the OpenID provider's certificate"),
    ("oidc-username-claim", Kind::String, "sub", "claim with the user's name"),
    ("oidc-username-prefix", Kind::String, "", "what comes before users' names; - for nothing"),
    ("oidc-groups-claim", Kind::String, "", "claim with the user's groups"),
    ("oidc-groups-prefix", Kind::String, "", "what comes before groups' names"),
    ("oidc-required-claim", Kind::Map, "", "claims that must have a value"),
    ("oidc-signing-algs", Kind::Strings, "RS256", "algorithms of signatures that are taken"),
    ("client-ca-file", Kind::String, "", "file with the CA of client certificates"),
    ("token-auth-file", Kind::String, "", "file with static tokens"),
    ("enable-bootstrap-token-auth", Kind::Bool, "false", "accept bootstrap tokens of kube-system"),
    ("service-account-key-file", Kind::StringArray, "", "file with keys that verify service account tokens"),
    (
        "service-account-signing-key-file",
        Kind::String,
        "",
        "file with the key that signs service account tokens",
    ),
    (
        "service-account-issuer",
        Kind::StringArray,
        "",
        "issuer of service account tokens; the first one signs",
    ),
    ("api-audiences", Kind::Strings, "", "audiences of this server's tokens; the issuers if empty"),
    ("service-account-lookup", Kind::Bool, "true", "refuse tokens of service accounts that are gone"),
    ("service-account-jwks-uri", Kind::String, "", "where the OpenID document says the keys are"),
    (
        "service-account-max-token-expiration",
        Kind::Duration,
        "0s",
        "longest life of an issued token; 0 has no limit",
    ),
    (
        "service-account-extend-token-expiration",
        Kind::Bool,
        "true",
        "let tokens mounted into pods live on for a year, so that they can be warned of",
    ),
    ("requestheader-client-ca-file", Kind::String, "", "file with the CA of the front proxy's certificate"),
    ("requestheader-allowed-names", Kind::Strings, "", "common names the front proxy may have"),
    ("requestheader-username-headers", Kind::Strings, "", "headers with the user's name"),
    ("requestheader-uid-headers", Kind::Strings, "", "headers with the user's uid"),
    ("requestheader-group-headers", Kind::Strings, "", "headers with the user's groups"),
    ("requestheader-extra-headers-prefix", Kind::Strings, "", "prefixes of headers with extra values"),
];

const REST: &[Line] = &[
    (
        "authorization-mode",
        Kind::Strings,
        "AlwaysAllow",
        "authorizers in their order: AlwaysAllow, AlwaysDeny, ABAC, Node, RBAC, Webhook",
    ),
    ("authorization-config", Kind::String, "", "file with the chain of authorizers, instead of the mode"),
    ("authorization-policy-file", Kind::String, "", "file with policies of the mode ABAC, one in each line"),
    ("authorization-webhook-config-file", Kind::String, "", "kubeconfig of the webhook that authorizes"),
    ("authorization-webhook-version", Kind::String, "v1beta1", "version of reviews it is sent"),
    ("authorization-webhook-cache-authorized-ttl", Kind::Duration, "5m0s", "time a yes is kept"),
    ("authorization-webhook-cache-unauthorized-ttl", Kind::Duration, "30s", "time anything else is kept"),
    ("admission-control-config-file", Kind::String, "", "configurations of admission plugins"),
    (
        "admission-control",
        Kind::Strings,
        "",
        "all admission plugins that are on; deprecated, use --enable-admission-plugins",
    ),
    ("enable-admission-plugins", Kind::Strings, "", "admission plugins to switch on beside the default ones"),
    (
        "disable-admission-plugins",
        Kind::Strings,
        "",
        "admission plugins to switch off although they are default",
    ),
    (
        "service-cluster-ip-range",
        Kind::Strings,
        "10.0.0.0/24",
        "CIDRs of cluster IPs, at most one per family",
    ),
    ("service-node-port-range", Kind::String, "30000-32767", "ports of services of type NodePort"),
    ("allow-privileged", Kind::Bool, "false", "let containers be privileged"),
    (
        "runtime-config",
        Kind::Strings,
        "",
        "what is served and what is not: group/version, group/version/resource, api/all, api/ga, api/beta or api/alpha, each =true or =false",
    ),
    (
        "default-not-ready-toleration-seconds",
        Kind::Int,
        "300",
        "seconds that pods tolerate a node that is not ready, where they do not say",
    ),
    (
        "default-unreachable-toleration-seconds",
        Kind::Int,
        "300",
        "seconds that pods tolerate a node that is unreachable, where they do not say",
    ),
    ("kubernetes-service-node-port", Kind::Int, "0", "node port of the kubernetes service; 0 for none"),
];

const AGGREGATOR: &[Line] = &[
    ("proxy-client-cert-file", Kind::String, "", "file with the client certificate for other API servers"),
    (
        "proxy-client-key-file",
        Kind::String,
        "",
        "file with the key of the client certificate for other API servers",
    ),
    (
        "aggregator-reject-forwarding-redirect",
        Kind::Bool,
        "true",
        "answer 502 instead of passing on redirects of other API servers",
    ),
    (
        "enable-aggregator-routing",
        Kind::Bool,
        "false",
        "reach other API servers by the endpoints of their service instead of its cluster IP",
    ),
];

const PEERS: &[Line] = &[
    (
        "peer-ca-file",
        Kind::String,
        "",
        "file with the CA of other API servers of this cluster, to which requests go on for what only they serve",
    ),
    (
        "peer-advertise-ip",
        Kind::String,
        "",
        "address other API servers reach this one at, with --peer-advertise-port",
    ),
    ("peer-advertise-port", Kind::String, "", "port other API servers reach this one at"),
];

const EGRESS: &[Line] = &[(
    "egress-selector-config-file",
    Kind::String,
    "",
    "file that says by which proxy which network is reached",
)];

const KUBELET: &[Line] = &[
    ("kubelet-certificate-authority", Kind::String, "", "file with the CA of kubelets' serving certificates"),
    ("kubelet-client-certificate", Kind::String, "", "file with the client certificate for kubelets"),
    ("kubelet-client-key", Kind::String, "", "file with the key of the client certificate for kubelets"),
    (
        "kubelet-preferred-address-types",
        Kind::Strings,
        "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP",
        "kinds of node addresses to reach a kubelet at, best first",
    ),
    ("kubelet-timeout", Kind::Duration, "5s", "time a connection to a kubelet may take"),
];

/// The table of flags.
pub fn flags() -> FlagSet {
    let section = |name: &'static str, lines: &'static [Line]| {
        lines
            .iter()
            .map(move |(flag, kind, default, help)| Flag::new(flag, *kind, *default, help).section(name))
    };
    let cert_dir = Flag::new(
        "cert-dir",
        Kind::String,
        "/var/run/kubernetes",
        "directory of the serving certificate when no --tls-cert-file is given",
    );
    FlagSet::new("kube-apiserver", "Serves and stores the cluster's objects.", section("generic", SERVER))
        .with(section("generic", front::FLAGS))
        .with(fixed::flags())
        .with(section("etcd", ETCD))
        .with(group::secure_serving("6443"))
        .with([cert_dir.section("secure serving")])
        .with(section("authentication", AUTHENTICATION))
        .with(audit::options::flags().into_iter().map(|flag| flag.section("auditing")))
        .with(section("misc", REST))
        .with(section("aggregator", AGGREGATOR))
        .with(section("mixed version proxy", PEERS))
        .with(section("egress selector", EGRESS))
        .with(section("kubelet", KUBELET))
        .with(group::metrics())
        .with(group::logging())
        .with(Switches::flag())
}

impl Config {
    /// The configuration that checked flags make.
    ///
    /// # Errors
    /// For what a flag's kind alone does not tell.
    pub fn new(values: &Values) -> Result<Self, OptionsError> {
        fixed::check(values)?;
        let etcd_servers = values.list("etcd-servers");
        if etcd_servers.is_empty() {
            return Err(OptionsError::Missing("etcd-servers"));
        }
        let modes = values.list("authorization-mode");
        let config = path(values, "authorization-config");
        if config.is_some() && values.is_set("authorization-mode") {
            return Err(OptionsError::Both("authorization-config", "authorization-mode"));
        }
        if values.is_set(POLICY_FILE) && !modes.iter().any(|mode| mode == "ABAC") {
            let why = "only the authorization mode ABAC has policies in a file";
            return Err(invalid(POLICY_FILE, values.string(POLICY_FILE), why));
        }
        let gates = gates::switched(values)?;
        group::check_logging(values, gates)?;
        let (enable_admission, disable_admission) = plugins(values)?;
        Ok(Self {
            serving: serving(values)?,
            etcd_servers,
            etcd_overrides: overrides(values)?,
            etcd_prefix: values.string("etcd-prefix").to_owned(),
            etcd_tls: crate::storage::TlsFiles {
                ca: path(values, "etcd-cafile"),
                cert: path(values, "etcd-certfile"),
                key: path(values, "etcd-keyfile"),
            },
            compaction_interval: values.duration("etcd-compaction-interval"),
            size_interval: values.duration("etcd-db-metric-poll-interval"),
            encryption: path(values, "encryption-provider-config")
                .map(|path| (path, values.bool("encryption-provider-config-automatic-reload"))),
            event_ttl: values.duration("event-ttl"),
            leadership: leadership(values)?,
            tracing: path(values, "tracing-config-file"),
            modes: modes.iter().map(|text| mode(values, text)).collect::<Result<_, _>>()?,
            authorization_config: config,
            fair: values.bool("enable-priority-and-fairness"),
            reads_inflight: number(values, "max-requests-inflight")?,
            writes_inflight: number(values, "max-mutating-requests-inflight")?,
            limits: request_limits(values)?,
            shutdown_delay: values.duration("shutdown-delay-duration"),
            grace: Duration::from_secs(10),
            storage_patience: values.duration("storage-initialization-timeout"),
            health: health(values),
            flags: values.effective(),
            metrics: metrics(values)?,
            profiling: values.bool("profiling"),
            shows_logs: values.bool("enable-logs-handler"),
            debug_socket: path(values, "debug-socket-path"),
            collects_garbage: values.bool("enable-garbage-collector"),
            deletes_at_once: at_least_one(values, "delete-collection-workers")?,
            publishes_endpoints: publishes_endpoints(values)?,
            front: front::options(values)?,
            authn: authentication(values, gates)?,
            audit: audit::Options::new(values)
                .map_err(|(flag, value)| invalid(flag, value, "is none of the allowed values"))?,
            admission_config: path(values, "admission-control-config-file"),
            enable_admission,
            disable_admission,
            service_ranges: service_ranges(values)?,
            node_ports: node_ports(values.string("service-node-port-range"))?,
            advertise: values.ip("advertise-address"),
            external_hostname: values.string("external-hostname").to_owned(),
            kubernetes_node_port: number(values, "kubernetes-service-node-port")?,
            request_header: request_header(values),
            aggregator: aggregator(values)?,
            egress: path(values, "egress-selector-config-file"),
            kubelet: kubelet(values)?,
            privileged: values.bool("allow-privileged"),
            peer_ca: peer_ca(values, gates)?,
            peer_address: peer_address(values)?,
            served: told(served(values)?, gates)?,
            gates,
            toleration_seconds: (
                values.int("default-not-ready-toleration-seconds"),
                values.int("default-unreachable-toleration-seconds"),
            ),
        })
    }
}

/// Admission plugins to switch on and off. What the old flag names is all there is.
fn plugins(values: &Values) -> Result<(Vec<String>, Vec<String>), OptionsError> {
    const OLD: &str = "admission-control";
    const ON: &str = "enable-admission-plugins";
    const OFF: &str = "disable-admission-plugins";
    if !values.is_set(OLD) {
        return Ok((values.list(ON), values.list(OFF)));
    }
    if let Some(other) = [ON, OFF].into_iter().find(|flag| values.is_set(flag)) {
        return Err(OptionsError::Both(OLD, other));
    }
    let on = values.list(OLD);
    if let Some(unknown) = on.iter().find(|name| !admission::names().any(|known| known == name.as_str())) {
        return Err(invalid(OLD, unknown, "no plugin has this name"));
    }
    let off = admission::names().filter(|name| !on.iter().any(|n| n == name)).map(str::to_owned).collect();
    Ok((on, off))
}

fn health(values: &Values) -> health::Settings {
    health::Settings {
        livez_grace: values.duration("livez-grace-period"),
        etcd: values.duration("etcd-healthcheck-timeout"),
        etcd_ready: values.duration("etcd-readycheck-timeout"),
        begun: std::time::Instant::now(),
    }
}

/// How metrics are shown. Those that upstream asks etcd for are shown unless their period is zero.
fn metrics(values: &Values) -> Result<component_base::metrics::view::View, OptionsError> {
    const POLLED: [(&str, &[&str]); 2] = [
        (
            "etcd-count-metric-poll-period",
            &[
                "apiserver_resource_objects",
                "apiserver_resource_size_estimate_bytes",
                "apiserver_storage_objects",
            ],
        ),
        ("etcd-db-metric-poll-interval", &["apiserver_storage_size_bytes"]),
    ];
    let mut view = group::metrics_view(values).map_err(|(flag, value, why)| invalid(flag, value, why))?;
    for (flag, names) in POLLED {
        if values.duration(flag).is_zero() {
            view.disabled.extend(names.iter().map(|name| (*name).to_owned()));
        }
    }
    Ok(view)
}

fn at_least_one(values: &Values, flag: &'static str) -> Result<usize, OptionsError> {
    let number: usize = number(values, flag)?;
    if number == 0 { Err(invalid(flag, "0", "must be at least 1")) } else { Ok(number) }
}

fn publishes_endpoints(values: &Values) -> Result<bool, OptionsError> {
    const FLAG: &str = "endpoint-reconciler-type";
    match values.string(FLAG) {
        "lease" => Ok(true),
        "none" => Ok(false),
        "master-count" => Err(invalid(
            FLAG,
            "master-count",
            "servers are told apart by their leases, not counted; use lease",
        )),
        other => Err(invalid(FLAG, other, "must be one of: [master-count lease none]")),
    }
}

fn invalid(flag: &'static str, value: impl Into<String>, reason: impl Into<String>) -> OptionsError {
    OptionsError::Invalid { flag, value: value.into(), reason: reason.into() }
}

/// The CA of other API servers; these flags mean nothing without their gate.
fn peer_ca(values: &Values, gates: Gates) -> Result<Option<PathBuf>, OptionsError> {
    let is_on = gates.has(Gate::UnknownVersionInteroperabilityProxy);
    if let Some((flag, ..)) = PEERS.iter().find(|(flag, ..)| !is_on && values.optional(flag).is_some()) {
        let why = "requires UnknownVersionInteroperabilityProxy feature to be turned on";
        return Err(invalid(flag, values.string(flag), why));
    }
    let ca = path(values, "peer-ca-file");
    if ca.is_some() && path(values, "proxy-client-cert-file").is_none() {
        return Err(OptionsError::Half("peer-ca-file", "proxy-client-cert-file"));
    }
    Ok(ca)
}

/// Where others reach this server, if not as clients do; said in full or not at all.
fn peer_address(values: &Values) -> Result<Option<(String, u16)>, OptionsError> {
    let (ip, port) = ("peer-advertise-ip", "peer-advertise-port");
    let told = values.optional(ip).zip(values.optional(port));
    let Some((host, text)) = told else { return Ok(None) };
    host.parse::<IpAddr>().map_err(|_| invalid(ip, host, "must be an IP address"))?;
    let number = text.parse::<u16>().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| invalid(port, text, "must be a port"))?;
    Ok(Some((host.to_owned(), number)))
}

/// What is served, where what the server itself tells of can be told.
fn told(served: RuntimeConfig, gates: Gates) -> Result<RuntimeConfig, OptionsError> {
    let can_tell = served.serves("internal.apiserver.k8s.io", "v1alpha1", "storageversions");
    if gates.has(Gate::StorageVersionAPI) && !can_tell {
        let why = "StorageVersionAPI needs --runtime-config=internal.apiserver.k8s.io/v1alpha1=true";
        return Err(invalid(Switches::FLAG, "StorageVersionAPI=true", why));
    }
    Ok(served)
}

/// How the server that chooses leaders is found.
fn leadership(values: &Values) -> Result<leaderelection::Timers, OptionsError> {
    let flags =
        ["lease-duration", "renew-deadline", "retry-period"].map(|of| format!("coordinated-leadership-{of}"));
    let [lease, renew, retry] = flags.each_ref().map(|flag| values.duration(flag));
    let longer = |at: usize, than: usize, fits: bool| match fits {
        true => Ok(()),
        false => Err(OptionsError::Order(flags[at].clone(), flags[than].clone())),
    };
    longer(0, 1, lease > renew)?;
    longer(1, 2, renew > retry)?;
    Ok(leaderelection::Timers { lease, renew, retry })
}

/// One word of `--authorization-mode`, with what the flags say of the webhook.
fn mode(values: &Values, text: &str) -> Result<authz::Mode, OptionsError> {
    if text == "ABAC" {
        let file = path(values, POLICY_FILE).ok_or(OptionsError::Missing(POLICY_FILE))?;
        return Ok(authz::Mode::Abac(file));
    }
    if text != "Webhook" {
        return text.parse().map_err(|e: String| invalid("authorization-mode", text, e));
    }
    let kubeconfig = path(values, "authorization-webhook-config-file")
        .ok_or(OptionsError::Missing("authorization-webhook-config-file"))?;
    Ok(authz::Mode::Webhook(authz::webhook::Options {
        name: "default".to_owned(),
        kubeconfig,
        version: review_version(values, "authorization-webhook-version")?,
        timeout: Duration::from_secs(30),
        allowed_ttl: values.duration("authorization-webhook-cache-authorized-ttl"),
        denied_ttl: values.duration("authorization-webhook-cache-unauthorized-ttl"),
        fails_closed: false,
        conditions: Vec::new(),
    }))
}

fn review_version(values: &Values, flag: &'static str) -> Result<&'static str, OptionsError> {
    match values.string(flag) {
        "v1" => Ok("v1"),
        "v1beta1" => Ok("v1beta1"),
        other => Err(invalid(flag, other, "must be v1 or v1beta1")),
    }
}

/// The issuer that the `--oidc-*` flags describe, and the file of its CA.
fn oidc(values: &Values) -> Result<Option<(authn::oidc::Options, Option<PathBuf>)>, OptionsError> {
    let Some(url) = values.optional("oidc-issuer-url") else { return Ok(None) };
    let client =
        values.optional("oidc-client-id").ok_or(OptionsError::Half("oidc-issuer-url", "oidc-client-id"))?;
    if !url.starts_with("https://") {
        return Err(invalid("oidc-issuer-url", url, "URL scheme must be https"));
    }
    let claim = values.string("oidc-username-claim");
    let prefix = match values.string("oidc-username-prefix") {
        "-" => String::new(),
        "" if claim == "email" => String::new(),
        "" => format!("{url}#"),
        prefix => prefix.to_owned(),
    };
    let mapped =
        |claim: &str, prefix: String| authn::oidc::Mapping::Claim { claim: claim.to_owned(), prefix };
    let groups = values.optional("oidc-groups-claim");
    let options = authn::oidc::Options {
        url: url.to_owned(),
        audiences: vec![client.to_owned()],
        algorithms: values.list("oidc-signing-algs"),
        required: values.map("oidc-required-claim").into_iter().collect(),
        username: mapped(claim, prefix),
        groups: groups.map_or(authn::oidc::Mapping::Nothing, |claim| {
            mapped(claim, values.string("oidc-groups-prefix").to_owned())
        }),
        ..authn::oidc::Options::default()
    };
    Ok(Some((options, path(values, "oidc-ca-file"))))
}

/// Clusters of `--etcd-servers-overrides`: those with the same members are one.
fn overrides(values: &Values) -> Result<Vec<Elsewhere>, OptionsError> {
    const FLAG: &str = "etcd-servers-overrides";
    let mut all: Vec<Elsewhere> = Vec::new();
    for text in values.list(FLAG) {
        let read = |text: &str| -> Option<(ResourceId, Vec<String>)> {
            let [name, servers] = *text.split('#').collect::<Vec<_>>() else { return None };
            let [group, resource] = *name.split('/').collect::<Vec<_>>() else { return None };
            let servers: Vec<String> = servers.split(';').map(str::to_owned).collect();
            let is_there = servers.iter().all(|server| !server.is_empty());
            is_there.then(|| (ResourceId::new(group, resource), servers))
        };
        let (id, servers) = read(&text).ok_or_else(|| {
            let why =
                "must be of format: group/resource#servers, where servers are URLs, semicolon separated";
            invalid(FLAG, &text, why)
        })?;
        let sorted = |servers: &[String]| servers.iter().cloned().collect::<std::collections::BTreeSet<_>>();
        // Who is named last has it.
        all.iter_mut().for_each(|one| one.resources.retain(|other| *other != id));
        match all.iter_mut().find(|one| sorted(&one.servers) == sorted(&servers)) {
            Some(known) => known.resources.push(id),
            None => all.push(Elsewhere { servers, resources: vec![id] }),
        }
    }
    Ok(all)
}

fn path(values: &Values, flag: &str) -> Option<PathBuf> {
    values.optional(flag).map(PathBuf::from)
}

fn number<T: TryFrom<i64>>(values: &Values, flag: &'static str) -> Result<T, OptionsError> {
    let number = values.int(flag);
    T::try_from(number).map_err(|_| invalid(flag, number.to_string(), "out of range"))
}

fn serving(values: &Values) -> Result<SecureServingOptions, OptionsError> {
    let _: u16 = number(values, "secure-port")?;
    let options = group::secure_serving_options(values, "apiserver");
    if options.certificate.is_some() != options.key.is_some() {
        return Err(OptionsError::Half("tls-cert-file", "tls-private-key-file"));
    }
    Ok(options)
}

fn request_limits(values: &Values) -> Result<RequestLimits, OptionsError> {
    let timeout = values.duration("request-timeout");
    if timeout.is_zero() {
        return Err(invalid(
            "request-timeout",
            values.string("request-timeout"),
            "must be greater than zero",
        ));
    }
    let min_watch = Duration::from_secs(number(values, "min-request-timeout")?);
    Ok(RequestLimits { timeout, min_watch })
}

fn service_ranges(values: &Values) -> Result<Vec<ipnet::IpNet>, OptionsError> {
    const FLAG: &str = "service-cluster-ip-range";
    let given = values.list(FLAG);
    let parse = |text: &String| {
        text.parse().map_err(|_| invalid(FLAG, text, format!("invalid CIDR address: {text}")))
    };
    let ranges: Vec<ipnet::IpNet> = given.iter().map(parse).collect::<Result<_, _>>()?;
    match ranges.as_slice() {
        [_] => Ok(ranges),
        [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(ranges),
        _ => Err(invalid(FLAG, given.join(","), "must be one CIDR, or one of each family")),
    }
}

fn node_ports(text: &str) -> Result<std::ops::RangeInclusive<u16>, OptionsError> {
    let parse = || -> Option<std::ops::RangeInclusive<u16>> {
        if let Some((low, size)) = text.split_once('+') {
            let low: u16 = low.parse().ok()?;
            return Some(low..=low.checked_add(size.parse().ok()?)?);
        }
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let range = low.trim().parse().ok()?..=high.trim().parse().ok()?;
        (!range.is_empty() && *range.start() > 0).then_some(range)
    };
    parse().ok_or_else(|| invalid("service-node-port-range", text, "is not a valid port range"))
}

/// What `--runtime-config` switches on and off; nothing stands for on.
fn served(values: &Values) -> Result<RuntimeConfig, OptionsError> {
    const FLAG: &str = "runtime-config";
    let words = values.list(FLAG);
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.trim().to_owned(), value.trim().to_owned())
    };
    RuntimeConfig::new(&words.iter().map(pair).collect())
        .map_err(|error| invalid(FLAG, words.join(","), error.to_string()))
}

fn request_header(values: &Values) -> Option<(PathBuf, RequestHeader)> {
    let header = RequestHeader {
        client_ca: String::new(),
        allowed_names: values.list("requestheader-allowed-names"),
        username_headers: values.list("requestheader-username-headers"),
        uid_headers: values.list("requestheader-uid-headers"),
        group_headers: values.list("requestheader-group-headers"),
        extra_headers_prefix: values.list("requestheader-extra-headers-prefix"),
    };
    Some((path(values, "requestheader-client-ca-file")?, header))
}

fn authentication(values: &Values, gates: Gates) -> Result<authn::Options, OptionsError> {
    const UIDS: &str = "requestheader-uid-headers";
    let uids = values.list(UIDS);
    if !uids.is_empty() && !gates.has(Gate::RemoteRequestHeaderUID) {
        let gate = Gate::RemoteRequestHeaderUID.to_string();
        return Err(invalid(UIDS, uids.join(","), format!("requires the {gate:?} feature to be enabled")));
    }
    let webhook = match path(values, "authentication-token-webhook-config-file") {
        Some(path) => Some((
            path,
            review_version(values, "authentication-token-webhook-version")?,
            values.duration("authentication-token-webhook-cache-ttl"),
        )),
        None => None,
    };
    Ok(authn::Options {
        client_ca_file: path(values, "client-ca-file"),
        request_header: request_header(values),
        token_auth_file: path(values, "token-auth-file"),
        bootstrap_tokens: values.bool("enable-bootstrap-token-auth"),
        service_account_key_files: values
            .list("service-account-key-file")
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        service_account_signing_key_file: path(values, "service-account-signing-key-file"),
        service_account_issuers: values.list("service-account-issuer"),
        api_audiences: values.list("api-audiences"),
        service_account_lookup: values.bool("service-account-lookup"),
        jwks_uri: values.optional("service-account-jwks-uri").map(str::to_owned),
        max_token_expiration: values.duration("service-account-max-token-expiration"),
        extend_token_expiration: values.bool("service-account-extend-token-expiration"),
        anonymous: values.is_set("anonymous-auth").then(|| values.bool("anonymous-auth")),
        config: path(values, "authentication-config"),
        gates,
        oidc: oidc(values)?,
        webhook,
    })
}

fn aggregator(values: &Values) -> Result<AggregatorOptions, OptionsError> {
    let (certificate, key) = (path(values, "proxy-client-cert-file"), path(values, "proxy-client-key-file"));
    if certificate.is_some() != key.is_some() {
        return Err(OptionsError::Half("proxy-client-cert-file", "proxy-client-key-file"));
    }
    Ok(AggregatorOptions {
        client: certificate.zip(key),
        by_endpoint: values.bool("enable-aggregator-routing"),
        refuses_redirects: values.bool("aggregator-reject-forwarding-redirect"),
    })
}

fn kubelet(values: &Values) -> Result<KubeletOptions, OptionsError> {
    const TYPES: &str = "kubelet-preferred-address-types";
    let (certificate, key) = (path(values, "kubelet-client-certificate"), path(values, "kubelet-client-key"));
    if certificate.is_some() != key.is_some() {
        return Err(OptionsError::Half("kubelet-client-certificate", "kubelet-client-key"));
    }
    let preferred = values.list(TYPES);
    let kind =
        |text: &String| AddressType::parse(text).ok_or_else(|| invalid(TYPES, text, "no type of address"));
    Ok(KubeletOptions {
        client: certificate.zip(key),
        ca: path(values, "kubelet-certificate-authority"),
        preferred: preferred.iter().map(kind).collect::<Result<_, _>>()?,
        timeout: values.duration("kubelet-timeout"),
    })
}

#[cfg(test)]
mod tests {
    use component_base::flags::Parsed;

    use super::*;

    fn parse(extra: &[&str]) -> Result<Config, String> {
        let arguments = ["--etcd-servers=a,b"].iter().chain(extra).map(|s| (*s).to_owned());
        match flags().parse(arguments).map_err(|e| e.to_string())? {
            Parsed::Run(values) => Config::new(&values).map_err(|e| e.to_string()),
            Parsed::Print(text) => Err(text),
        }
    }

    #[test]
    fn every_flag_of_upstreams_is_known() {
        assert_eq!(component_base::reference::flags_lacking(&flags()), Vec::<String>::new());
    }

    #[test]
    fn values_that_change_nothing_are_taken() {
        let taken = parse(&[
            "--storage-backend=etcd3",
            "--watch-cache-sizes=pods#100,leases.coordination.k8s.io#5000",
            "--emulated-version=kube=1.36",
            "--min-compatibility-version=1.35",
            "--show-hidden-metrics-for-version=1.35",
            "--log-flush-frequency=1s",
            "--contention-profiling=false",
            "--coordinated-leadership-retry-period=3s",
        ]);
        assert!(taken.is_ok(), "{taken:?}");
        let quiet = parse(&["--etcd-count-metric-poll-period=0s", "--disabled-metrics=a,b"]).unwrap().metrics;
        assert_eq!(quiet.disabled.len(), 5);
        let only = parse(&["--admission-control=NamespaceLifecycle,ResourceQuota"]).unwrap();
        assert_eq!(only.enable_admission, ["NamespaceLifecycle", "ResourceQuota"]);
        assert!(only.disable_admission.iter().any(|name| name == "PodSecurity"));
        let both = parse(&["--admission-control=PodSecurity", "--enable-admission-plugins=Priority"]);
        assert!(both.unwrap_err().contains("cannot be given together"));
        let front = parse(&[
            "--goaway-chance=0.01",
            "--cors-allowed-origins=//a.test$,^https://b.test(:|$)",
            "--strict-transport-security-directives=max-age=1,includeSubDomains",
            "--shutdown-watch-termination-grace-period=3s",
        ]);
        let front = front.unwrap().front;
        assert_eq!((front.goaway, front.origins.len(), front.watch_grace.as_secs()), (0.01, 2, 3));
        assert_eq!(front.transport_security.unwrap(), "max-age=1; includeSubDomains");
    }

    #[test]
    fn defaults_lists_and_refusals() {
        let config = parse(&["--authorization-mode=Node,RBAC", "--anonymous-auth=false"]).unwrap();
        assert_eq!((config.serving.port, config.etcd_servers.len(), config.modes.len()), (6443, 2, 2));
        assert_eq!(config.authn.anonymous, Some(false));
        assert_eq!(config.limits.timeout, Duration::from_secs(60));
        assert_eq!(config.kubelet.preferred.len(), 5);
        let told =
            |port: &str| parse(&["--peer-advertise-ip=192.0.2.7", &format!("--peer-advertise-port={port}")]);
        assert_eq!(told("7443").unwrap().peer_address, Some(("192.0.2.7".to_owned(), 7443)));
        assert!(told("0").unwrap_err().contains("must be a port"));
        let overrides = parse(&[
            "--etcd-servers-overrides=/events#http://a:1;http://b:1,apps/deployments#http://c:1",
            "--etcd-servers-overrides=coordination.k8s.io/leases#http://b:1;http://a:1,apps/deployments#http://a:1",
        ]);
        let overrides = overrides.unwrap().etcd_overrides;
        let of = |at: usize| overrides[at].resources.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(overrides.len(), 3);
        assert_eq!(
            (of(0), of(1)),
            (vec!["events".to_owned(), "leases.coordination.k8s.io".to_owned()], vec![])
        );
        assert_eq!(of(2), ["deployments.apps"]);
        assert_eq!(parse(&["--secure-port=1", "--secure-port=2"]).unwrap().serving.port, 2);
        let twice = parse(&["--service-account-issuer=https://a,b", "--service-account-issuer=c"]).unwrap();
        assert_eq!(twice.authn.service_account_issuers, ["https://a,b", "c"]);
        let served = parse(&["--runtime-config=api/beta,batch/v1=false", "--runtime-config=api/beta=true"]);
        let served = served.unwrap().served;
        assert!(served.serves("networking.k8s.io", "v1beta1", "ipaddresses"));
        assert!(!served.serves("batch", "v1", "jobs"));
        let gates =
            parse(&["--feature-gates=kube:MemoryQoS=true", "--feature-gates=kube:ContainerStopSignals=true"]);
        let gates = gates.unwrap().gates;
        assert!(gates.has(Gate::MemoryQoS) && gates.has(Gate::ContainerStopSignals));
        let ports = parse(&["--service-node-port-range=100+5"]).unwrap().node_ports;
        assert_eq!(ports, 100..=105);
        for (bad, why) in [
            ("--secure-prt=1", "did you mean --secure-port?"),
            ("--secure-port=x", "invalid syntax"),
            ("--secure-port=70000", "out of range"),
            ("--authorization-mode=Foo", "Foo"),
            ("--authorization-mode=ABAC", "--authorization-policy-file must be specified"),
            ("--authorization-policy-file=p", "only the authorization mode ABAC"),
            ("--tls-cert-file=c", "must be given together"),
            ("--kubelet-client-key=k", "must be given together"),
            ("--kubelet-preferred-address-types=Street", "no type of address"),
            ("--service-cluster-ip-range=10.0.0.0/8,11.0.0.0/8", "one of each family"),
            ("--service-node-port-range=9-1", "valid port range"),
            ("--max-requests-inflight=-1", "out of range"),
            ("--request-timeout=0s", "greater than zero"),
            ("--runtime-config=batch/v1=maybe", "invalid value of batch/v1: maybe"),
            ("--runtime-config=v1=true", "runtime-config invalid key v1"),
            ("--feature-gates=Nothing=true", "unrecognized feature gate: Nothing"),
            ("--feature-gates=WinDSR=false", "feature is locked to true"),
            ("--feature-gates=NativeHistograms=true", "this kube-apiserver has it off only"),
            ("--peer-ca-file=f", "--peer-ca-file and --proxy-client-cert-file must be given together"),
            (
                "--coordinated-leadership-renew-deadline=15s",
                "lease-duration must be greater than --coordinated",
            ),
            (
                "--coordinated-leadership-retry-period=10s",
                "renew-deadline must be greater than --coordinated",
            ),
            ("--feature-gates=AllAlpha=true", "NativeHistograms"),
            (
                "--requestheader-uid-headers=X-Uid --feature-gates=RemoteRequestHeaderUID=false",
                "requires the \"RemoteRequestHeaderUID\" feature to be enabled",
            ),
            ("--feature-gates=StorageVersionAPI=true", "internal.apiserver.k8s.io/v1alpha1"),
            (
                "--feature-gates=APIServerIdentity=false",
                "UnknownVersionInteroperabilityProxy is enabled, but depends",
            ),
            ("--version", "Kubernetes v1.36.0"),
            ("--endpoint-reconciler-type=master-count", "use lease"),
            ("--endpoint-reconciler-type=x", "must be one of"),
            ("--delete-collection-workers=0", "at least 1"),
            ("--admission-control=Nothing", "no plugin has this name"),
            ("--allow-metric-labels=a=b", "metric,label=value"),
            ("--allow-metric-labels-manifest=/no/such/file", "No such file"),
            ("--max-connection-bytes-per-sec=1", "not throttled"),
            ("--goaway-chance=0.03", "greater than 0.02"),
            ("--goaway-chance=NaN", "greater than 0.02"),
            ("--cors-allowed-origins=a.test", "does not pin"),
            ("--cors-allowed-origins=//(.test$", "regex parse error"),
            ("--strict-transport-security-directives=max-age=1,forever", "allowed values"),
            ("--storage-backend=etcd2", "\"--storage-backend\" flag: etcd3 is the only"),
            ("--watch-cache=false", "cannot be switched off"),
            ("--watch-cache-sizes=pods#0", "every resource has a cache"),
            ("--watch-cache-sizes=pods", "resource[.group]#size"),
            ("--emulated-version=kube=1.35", "no version but 1.36"),
            ("--min-compatibility-version=1.33", "must be 1.35"),
            ("--show-hidden-metrics-for-version=1.34", "previous minor version"),
            ("--contention-profiling", "not recorded"),
            ("--lease-reuse-duration-seconds=30", "60 seconds"),
            ("--etcd-servers-overrides=events#http://e:2379", "must be of format: group/resource#servers"),
            ("--etcd-servers-overrides=/events#http://e:2379;", "must be of format: group/resource#servers"),
            ("--etcd-servers-overrides=/events", "must be of format: group/resource#servers"),
        ] {
            let error = parse(&bad.split(' ').collect::<Vec<_>>()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
