//! What the flags of the controllers say, as one typed value, and the flags themselves.
//!
//! Contract: upstream's `cmd/kube-controller-manager/app/options`: names, defaults and bounds.

mod fixed;
mod recycler;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use component_base::{
    features::{Gate, GateErrors, Gates, Reader, Switches},
    flags::{Flag, Kind, Values, fixed as common},
};
use ipnet::IpNet;

pub use self::recycler::{RecyclerLimits, RecyclerSettings};

/// Flags that say how many objects of a kind are worked on at once, with their defaults.
const CONCURRENCY: &[(&str, &str)] = &[
    ("concurrent-cron-job-syncs", "5"),
    ("concurrent-daemonset-syncs", "2"),
    ("concurrent-deployment-syncs", "5"),
    ("concurrent-device-taint-eviction-syncs", "8"),
    ("concurrent-endpoint-syncs", "5"),
    ("concurrent-ephemeralvolume-syncs", "5"),
    ("concurrent-gc-syncs", "20"),
    ("concurrent-horizontal-pod-autoscaler-syncs", "5"),
    ("concurrent-job-syncs", "5"),
    ("concurrent-namespace-syncs", "10"),
    ("concurrent-rc-syncs", "5"),
    ("concurrent-replicaset-syncs", "5"),
    ("concurrent-resource-quota-syncs", "5"),
    ("concurrent-resourceclaim-syncs", "50"),
    ("concurrent-service-endpoint-syncs", "5"),
    ("concurrent-serviceaccount-token-syncs", "5"),
    ("concurrent-statefulset-syncs", "5"),
    ("concurrent-ttl-after-finished-syncs", "5"),
    ("concurrent-validating-admission-policy-status-syncs", "5"),
    ("mirroring-concurrent-service-endpoint-syncs", "5"),
];

/// The gates controllers are on with.
const SWITCHES: Switches = Switches {
    program: "kube-controller-manager",
    reader: Reader::Controllers,
    gates: &[
        Gate::APIServerIdentity,
        Gate::ClusterTrustBundle,
        Gate::ComponentFlagz,
        Gate::ComponentStatusz,
        Gate::ControllerManagerReleaseLeaderElectionLockOnExit,
        Gate::CoordinatedLeaderElection,
        Gate::DeploymentReplicaSetTerminatingReplicas,
        Gate::DRADeviceTaintRules,
        Gate::DRADeviceTaints,
        Gate::DRAExtendedResource,
        Gate::DRAPrioritizedList,
        Gate::DRAResourcePoolStatus,
        Gate::DRAWorkloadResourceClaims,
        Gate::GenericWorkload,
        Gate::HPAConfigurableTolerance,
        Gate::HPAScaleToZero,
        Gate::MaxUnavailableStatefulSet,
        Gate::MutableSchedulingDirectivesForSuspendedJobs,
        Gate::PersistentVolumeClaimUnusedSinceTime,
        Gate::PodCertificateRequest,
        Gate::PodDeletionCost,
        Gate::PodLevelResources,
        Gate::StaleControllerConsistencyDaemonSet,
        Gate::StaleControllerConsistencyJob,
        Gate::StaleControllerConsistencyReplicaSet,
        Gate::StaleControllerConsistencyStatefulSet,
        Gate::StatefulSetSemanticRevisionComparison,
        Gate::StorageVersionAPI,
        Gate::StorageVersionMigrator,
        Gate::TaintTolerationComparisonOperators,
        Gate::WorkloadWithJob,
        // The cloud's manager goes by them: here they change nothing.
        Gate::CloudControllerManagerWatchBasedRoutesReconciliation,
        Gate::CloudControllerManagerWebhook,
    ],
};

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--feature-gates`.
    pub gates: Gates,
    /// Pods' ranges, for the range allocator; empty when nodes get none.
    pub cluster_cidrs: Vec<IpNet>,
    /// Services' ranges: no node gets addresses of them.
    pub service_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub node_mask_v6: u8,
    /// The CA bundle published to every namespace, PEM.
    pub root_ca: Option<String>,
    /// Workers by flag.
    pub concurrency: BTreeMap<&'static str, usize>,
    /// Most endpoints in a slice.
    pub slice_endpoints: usize,
    /// Most endpoints mirrored to a slice.
    pub mirrored_endpoints: usize,
    /// How workloads are scaled.
    pub autoscaler: AutoscalerSettings,
    /// How volumes are attached and detached.
    pub attach: AttachSettings,
    /// Silence and eviction of nodes.
    pub nodes: NodeSettings,
    /// Finished pods kept before the oldest go; 0 keeps all.
    pub terminated_pods: usize,
    /// How often claims and volumes are looked at again.
    pub binder_period: Duration,
    /// Whether claims are handed to the provisioners of their classes.
    pub provision: bool,
    /// Whether paths on this machine are made for claims.
    pub host_paths: bool,
    /// How volumes are emptied.
    pub recycler: RecyclerSettings,
    /// How long changes of pods gather until the endpoints of their services are written.
    pub endpoints_batch: Duration,
    /// The same for endpoint slices.
    pub slices_batch: Duration,
    /// How long changes of endpoints gather until they are mirrored.
    pub mirroring_batch: Duration,
    /// Whether objects without owners stay, as the API server was told as well.
    pub garbage_stays: bool,
    /// Between the starts of two controllers.
    pub start_interval: Duration,
    /// How often quotas are counted anew.
    pub quota_period: Duration,
    /// How long an unused token secret of a service account is kept.
    pub legacy_token_period: Duration,
    /// Signs tokens of service accounts.
    pub service_account_key: Option<PathBuf>,
    /// The signers' files and the longest life of what they sign.
    pub signing: SigningSettings,
}

/// When a node counts as silent, and how fast the pods of silent nodes go.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// How often nodes are looked at.
    pub period: Duration,
    /// Silence of a node that has reported.
    pub grace: Duration,
    /// Silence of a node that never has.
    pub startup_grace: Duration,
    /// Nodes per second whose pods are evicted while most of a zone is well.
    pub rate: f64,
    /// The same while most of a large zone is not.
    pub secondary_rate: f64,
    /// Nodes beyond which a cluster is large.
    pub large: usize,
    /// Share of silent nodes from which a zone counts as disrupted.
    pub unhealthy_share: f64,
}

/// How volumes are attached and detached.
#[derive(Clone, Debug, Default)]
pub struct AttachSettings {
    /// How often everything is looked at, whatever has happened; `None` for never.
    pub sync: Option<Duration>,
    /// Whether volumes are taken from sick nodes that do not let them go in time.
    pub force_after_timeout: bool,
}

/// How HorizontalPodAutoscalers look at metrics.
#[derive(Clone, Debug, Default)]
pub struct AutoscalerSettings {
    /// How often each is looked at.
    pub period: Duration,
    /// By how much use may differ from the target without consequence, as a share.
    pub tolerance: f64,
    /// How long a recommendation keeps a workload from shrinking below it.
    pub downscale_stabilization: Duration,
    /// How long after its start a pod's CPU counts only once it is ready.
    pub cpu_initialization: Duration,
    /// How long after its start a pod that turns unready counts as never ready.
    pub initial_readiness: Duration,
    /// Whether workloads may be scaled to nothing, and up again (`HPAScaleToZero`).
    pub to_zero: bool,
    /// Whether an autoscaler's own tolerances count (`HPAConfigurableTolerance`).
    pub own_tolerance: bool,
    /// Whether what a pod requests as a whole counts instead of what its containers do (`PodLevelResources`).
    pub pod_level: bool,
}

/// Files of the certificate signers. A signer of its own takes precedence over the cluster's.
#[derive(Clone, Debug, Default)]
pub struct SigningSettings {
    /// Longest life of a certificate.
    pub duration: Duration,
    /// Certificate and key by the flag's infix: "", "kubelet-serving", "kubelet-client",
    /// "kube-apiserver-client", "legacy-unknown".
    pub pairs: BTreeMap<&'static str, (PathBuf, PathBuf)>,
}

/// Why flags are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A range is none.
    #[error("--{0}: {1:?} is no address range")]
    Range(&'static str, String),
    /// Gates that cannot be switched so.
    #[error("--feature-gates: {0}")]
    Gates(#[from] GateErrors),
    /// A value cannot be served.
    #[error(transparent)]
    Refused(#[from] common::Refused),
    /// A period would never end.
    #[error("--{0} must be at least one second, but got {1:?}")]
    Period(&'static str, Duration),
    /// A prefix length is out of bounds.
    #[error("--{0} must be between 1 and {1}")]
    Mask(&'static str, u8),
    /// Prefix lengths that do not go together.
    #[error("--{0} {1}")]
    Masks(&'static str, &'static str),
    /// A number of workers is none.
    #[error("{0} must be {1} got {2}")]
    Concurrency(&'static str, &'static str, i64),
    /// A number is too small.
    #[error("{0} must not be less than 1, but got {1}")]
    Few(&'static str, i64),
    /// A number is too large.
    #[error("{0} must not be more than {1}, but got {2}")]
    Many(&'static str, i64, i64),
    /// There are more ranges of services than families of addresses.
    #[error("--service-cluster-ip-range can not contain more than two entries")]
    Services,
    /// The period of the attachments is too short.
    #[error(
        "duration time must be greater than one second as set via command line option reconcile-sync-loop-period"
    )]
    AttachPeriod,
    /// Half of a pair of files.
    #[error("\"cluster-signing{0}\": cannot specify {1}")]
    Pair(String, &'static str),
    /// Files for all signers beside files for some.
    #[error(
        "cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at the same time"
    )]
    Signers,
    /// The CA bundle cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A pod cannot be read.
    #[error("invalid {path:?}")]
    Pod {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A pod that is to empty volumes has none.
    #[error("pod specification ({path:?}): does not contain any volume(s)")]
    Template {
        /// The file.
        path: PathBuf,
    },
}

/// Why nodes cannot be given ranges.
#[derive(Debug, thiserror::Error)]
pub enum RangesError {
    /// There is none.
    #[error("invalid CIDR address: ")]
    None,
    /// There are several of one family.
    #[error(
        "len of ClusterCIDRs=={0} and they are not configured as dual stack (at least one from each IPFamily"
    )]
    Family(usize),
    /// There are too many.
    #[error("length of clusterCIDRs is:{0} more than max allowed of 2")]
    Many(usize),
    /// Services have several of one family.
    #[error("serviceCIDR and secondaryServiceCIDR are not dualstack (from different IPfamiles)")]
    Services,
    /// A node's is larger than the whole.
    #[error(
        "Controller: Invalid --cluster-cidr, mask size of cluster CIDR must be less than or equal to \
         --node-cidr-mask-size configured for CIDR family: {0}"
    )]
    Mask(IpNet),
    /// There would be more of them than can be kept account of.
    #[error("New CIDR set failed; the node CIDR size is too big: {0} for nodes' /{1}")]
    Wide(IpNet, u8),
}

/// Flags of certificate and key by signer.
const SIGNERS: &[(&str, &str, &str)] = &[
    ("", "cluster-signing-cert-file", "cluster-signing-key-file"),
    (
        "kubelet-serving",
        "cluster-signing-kubelet-serving-cert-file",
        "cluster-signing-kubelet-serving-key-file",
    ),
    ("kubelet-client", "cluster-signing-kubelet-client-cert-file", "cluster-signing-kubelet-client-key-file"),
    (
        "kube-apiserver-client",
        "cluster-signing-kube-apiserver-client-cert-file",
        "cluster-signing-kube-apiserver-client-key-file",
    ),
    ("legacy-unknown", "cluster-signing-legacy-unknown-cert-file", "cluster-signing-legacy-unknown-key-file"),
];

/// The flags.
pub fn flags() -> Vec<Flag> {
    let mut flags = vec![
        Flag::new("allocate-node-cidrs", Kind::Bool, "false", "give every node a range of pod addresses"),
        Flag::new(
            "cluster-cidr",
            Kind::String,
            "",
            "range of pods, or one of each family with a comma between",
        ),
        Flag::new(
            "node-cidr-mask-size",
            Kind::Int,
            "0",
            "prefix length of nodes' ranges, for clusters of one family; 0 for 24 with IPv4 and 64 with IPv6",
        ),
        Flag::new(
            "node-cidr-mask-size-ipv4",
            Kind::Int,
            "0",
            "prefix length of a node's IPv4 range; 0 for 24",
        ),
        Flag::new(
            "service-cluster-ip-range",
            Kind::String,
            "",
            "range of services, or one of each family, which nodes get nothing of",
        ),
        Flag::new(
            "enable-garbage-collector",
            Kind::Bool,
            "true",
            "delete what has lost its owners; must be what the API server is told",
        ),
        Flag::new(
            "pvclaimbinder-sync-period",
            Kind::Duration,
            "15s",
            "how often claims and volumes are looked at whatever has happened",
        ),
        Flag::new(
            "enable-dynamic-provisioning",
            Kind::Bool,
            "true",
            "hand claims to the provisioner of their class",
        ),
        Flag::new(
            "endpoint-updates-batch-period",
            Kind::Duration,
            "0s",
            "how long changes of pods gather until endpoints are written",
        ),
        Flag::new(
            "endpointslice-updates-batch-period",
            Kind::Duration,
            "0s",
            "how long changes of pods gather until endpoint slices are written",
        ),
        Flag::new(
            "mirroring-endpointslice-updates-batch-period",
            Kind::Duration,
            "0s",
            "how long changes of endpoints gather until they are mirrored",
        ),
        Flag::new(
            "controller-start-interval",
            Kind::Duration,
            "0s",
            "pause between the starts of two controllers",
        ),
        Flag::new(
            "node-cidr-mask-size-ipv6",
            Kind::Int,
            "0",
            "prefix length of a node's IPv6 range; 0 for 64",
        ),
        Flag::new("root-ca-file", Kind::String, "", "CA bundle published to every namespace"),
        Flag::new(
            "service-account-private-key-file",
            Kind::String,
            "",
            "key that signs service accounts' tokens",
        ),
        Flag::new(
            "legacy-service-account-token-clean-up-period",
            Kind::Duration,
            "8760h0m0s",
            "how long unused token secrets are kept",
        ),
        Flag::new("resource-quota-sync-period", Kind::Duration, "5m0s", "how often quotas are counted anew"),
        Flag::new("terminated-pod-gc-threshold", Kind::Int, "12500", "finished pods kept; 0 keeps all"),
        Flag::new("max-endpoints-per-slice", Kind::Int, "100", "endpoints in one endpoint slice"),
        Flag::new(
            "mirroring-max-endpoints-per-subset",
            Kind::Int,
            "1000",
            "endpoints of one subset that are mirrored",
        ),
        Flag::new(
            "horizontal-pod-autoscaler-sync-period",
            Kind::Duration,
            "15s",
            "how often autoscalers are looked at",
        ),
        Flag::new(
            "horizontal-pod-autoscaler-tolerance",
            Kind::Float,
            "0.1",
            "share by which use may differ from its target without scaling",
        ),
        Flag::new(
            "horizontal-pod-autoscaler-downscale-stabilization",
            Kind::Duration,
            "5m0s",
            "how long the highest recommendation keeps a workload from shrinking",
        ),
        Flag::new(
            "horizontal-pod-autoscaler-cpu-initialization-period",
            Kind::Duration,
            "5m0s",
            "how long after a pod's start its CPU counts only once it is ready",
        ),
        Flag::new(
            "horizontal-pod-autoscaler-initial-readiness-delay",
            Kind::Duration,
            "30s",
            "how long after a pod's start turning unready counts as never having been ready",
        ),
        Flag::new(
            "attach-detach-reconcile-sync-period",
            Kind::Duration,
            "1m0s",
            "how often all attachments of volumes are looked at",
        ),
        Flag::new(
            "disable-attach-detach-reconcile-sync",
            Kind::Bool,
            "false",
            "look at attachments of volumes only when something changes",
        ),
        Flag::new(
            "disable-force-detach-on-timeout",
            Kind::Bool,
            "false",
            "never take volumes from sick nodes, however long they keep them",
        ),
        Flag::new("node-monitor-period", Kind::Duration, "5s", "how often nodes are looked at"),
        Flag::new(
            "node-monitor-grace-period",
            Kind::Duration,
            "50s",
            "silence after which a node is unhealthy",
        ),
        Flag::new(
            "node-startup-grace-period",
            Kind::Duration,
            "1m0s",
            "the same for a node that has not reported yet",
        ),
        Flag::new(
            "node-eviction-rate",
            Kind::Float,
            "0.1",
            "nodes per second whose pods are evicted in a healthy zone",
        ),
        Flag::new("secondary-node-eviction-rate", Kind::Float, "0.01", "the same in a large unhealthy zone"),
        Flag::new("large-cluster-size-threshold", Kind::Int, "50", "nodes beyond which a zone is large"),
        Flag::new(
            "unhealthy-zone-threshold",
            Kind::Float,
            "0.55",
            "share of silent nodes that makes a zone unhealthy",
        ),
        Flag::new(
            "cluster-signing-duration",
            Kind::Duration,
            "8760h0m0s",
            "longest life of a signed certificate",
        ),
    ];
    for (_, cert, key) in SIGNERS {
        flags.push(Flag::new(cert, Kind::String, "", "CA certificate of the signer, PEM"));
        flags.push(Flag::new(key, Kind::String, "", "CA key of the signer, PEM"));
    }
    for (flag, default) in CONCURRENCY {
        flags.push(Flag::new(flag, Kind::Int, *default, "objects worked on at once"));
    }
    flags.extend(Switches::flag());
    flags.extend(recycler::flags());
    flags.extend(common::flags(fixed::FLAGS));
    flags.extend(common::flags(common::COMMON));
    flags
}

impl Settings {
    /// Reads the flags.
    ///
    /// # Errors
    /// When a value is out of bounds or a file cannot be read.
    pub fn from_values(values: &Values) -> Result<Settings, SettingsError> {
        common::check(fixed::FLAGS, values)?;
        common::check(common::COMMON, values)?;
        let gates = SWITCHES.read(values)?;
        let mut out = Settings {
            gates,
            service_cidrs: services(values)?,
            binder_period: at_least_a_second(values, "pvclaimbinder-sync-period")?,
            provision: values.bool("enable-dynamic-provisioning"),
            host_paths: values.bool("enable-hostpath-provisioner"),
            recycler: recycler::read(values)?,
            endpoints_batch: values.duration("endpoint-updates-batch-period"),
            slices_batch: values.duration("endpointslice-updates-batch-period"),
            mirroring_batch: values.duration("mirroring-endpointslice-updates-batch-period"),
            garbage_stays: !values.bool("enable-garbage-collector"),
            start_interval: values.duration("controller-start-interval"),
            concurrency: concurrency(values)?,
            slice_endpoints: slice_size(values, "max-endpoints-per-slice")?,
            mirrored_endpoints: slice_size(values, "mirroring-max-endpoints-per-subset")?,
            autoscaler: AutoscalerSettings {
                period: values.duration("horizontal-pod-autoscaler-sync-period"),
                tolerance: values.float("horizontal-pod-autoscaler-tolerance"),
                downscale_stabilization: values.duration("horizontal-pod-autoscaler-downscale-stabilization"),
                cpu_initialization: values.duration("horizontal-pod-autoscaler-cpu-initialization-period"),
                initial_readiness: values.duration("horizontal-pod-autoscaler-initial-readiness-delay"),
                to_zero: gates.has(Gate::HPAScaleToZero),
                own_tolerance: gates.has(Gate::HPAConfigurableTolerance),
                pod_level: gates.has(Gate::PodLevelResources),
            },
            attach: attach(values)?,
            nodes: NodeSettings {
                period: values.duration("node-monitor-period"),
                grace: values.duration("node-monitor-grace-period"),
                startup_grace: values.duration("node-startup-grace-period"),
                rate: values.float("node-eviction-rate"),
                secondary_rate: values.float("secondary-node-eviction-rate"),
                large: count(values, "large-cluster-size-threshold"),
                unhealthy_share: values.float("unhealthy-zone-threshold"),
            },
            terminated_pods: count(values, "terminated-pod-gc-threshold"),
            quota_period: values.duration("resource-quota-sync-period"),
            legacy_token_period: values.duration("legacy-service-account-token-clean-up-period"),
            service_account_key: file(values, "service-account-private-key-file"),
            signing: SigningSettings {
                duration: values.duration("cluster-signing-duration"),
                pairs: signing_pairs(values)?,
            },
            ..Settings::default()
        };
        if values.bool("allocate-node-cidrs") {
            out.cluster_cidrs = ranges(values, "cluster-cidr")?;
        }
        (out.node_mask_v4, out.node_mask_v6) = masks(values, &out.cluster_cidrs)?;
        if let Some(path) = file(values, "root-ca-file") {
            let text =
                std::fs::read_to_string(&path).map_err(|source| SettingsError::Read { path, source })?;
            out.root_ca = Some(text);
        }
        Ok(out)
    }
}

/// Whether there are ranges of both families.
fn are_both(ranges: &[IpNet]) -> bool {
    let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
    ranges.iter().any(is_v4) && !ranges.iter().all(is_v4)
}

impl Settings {
    /// Refuses ranges that nodes cannot be given.
    ///
    /// # Errors
    /// When they are none, too many, of one family, or smaller than what a node gets.
    pub fn check_ranges(&self) -> Result<(), RangesError> {
        let (ranges, services) = (&self.cluster_cidrs, &self.service_cidrs);
        match ranges.len() {
            0 => return Err(RangesError::None),
            count if count > 1 && !are_both(ranges) => return Err(RangesError::Family(count)),
            count if count > 2 => return Err(RangesError::Many(count)),
            _ => {}
        }
        if services.len() > 1 && !are_both(services) {
            return Err(RangesError::Services);
        }
        let mask = |range: &IpNet| if range.addr().is_ipv4() { self.node_mask_v4 } else { self.node_mask_v6 };
        if let Some(range) = ranges.iter().find(|range| range.prefix_len() > mask(range)) {
            return Err(RangesError::Mask(*range));
        }
        let is_wide =
            |range: &&IpNet| !range.addr().is_ipv4() && mask(range) - range.prefix_len() > MOST_BITS;
        match ranges.iter().find(is_wide) {
            Some(range) => Err(RangesError::Wide(*range, mask(range))),
            None => Ok(()),
        }
    }
}

/// By how many bits nodes' ranges may be smaller than the IPv6 range they are of.
const MOST_BITS: u8 = 16;

fn ranges(values: &Values, flag: &'static str) -> Result<Vec<IpNet>, SettingsError> {
    let parse = |text: &str| {
        let parsed = text.parse().map_err(|_| SettingsError::Range(flag, text.to_owned()));
        parsed.map(|range: IpNet| range.trunc())
    };
    values.string(flag).split(',').map(str::trim).filter(|text| !text.is_empty()).map(parse).collect()
}

fn at_least_a_second(values: &Values, flag: &'static str) -> Result<Duration, SettingsError> {
    let period = values.duration(flag);
    (period >= Duration::from_secs(1)).then_some(period).ok_or(SettingsError::Period(flag, period))
}

fn file(values: &Values, flag: &str) -> Option<PathBuf> {
    values.optional(flag).filter(|p| !p.is_empty()).map(PathBuf::from)
}

fn attach(values: &Values) -> Result<AttachSettings, SettingsError> {
    let period = values.duration("attach-detach-reconcile-sync-period");
    if period < Duration::from_secs(1) {
        return Err(SettingsError::AttachPeriod);
    }
    Ok(AttachSettings {
        sync: (!values.bool("disable-attach-detach-reconcile-sync")).then_some(period),
        force_after_timeout: !values.bool("disable-force-detach-on-timeout"),
    })
}

/// A number that says "none" with anything below one.
fn count(values: &Values, flag: &str) -> usize {
    usize::try_from(values.int(flag)).unwrap_or(0)
}

/// A number that is at least one.
fn within(values: &Values, flag: &'static str, most: i64) -> Result<usize, SettingsError> {
    match values.int(flag) {
        few if few < 1 => Err(SettingsError::Few(flag, few)),
        many if many > most => Err(SettingsError::Many(flag, most, many)),
        value => Ok(usize::try_from(value).unwrap_or(usize::MAX)),
    }
}

/// A number of endpoints that the API lets a slice hold.
fn slice_size(values: &Values, flag: &'static str) -> Result<usize, SettingsError> {
    within(values, flag, 1000)
}

fn services(values: &Values) -> Result<Vec<IpNet>, SettingsError> {
    const FLAG: &str = "service-cluster-ip-range";
    if values.string(FLAG).split(',').count() > 2 {
        return Err(SettingsError::Services);
    }
    ranges(values, FLAG)
}

/// Flags of workers of which there may not be any number.
const BOUNDED: &[&str] =
    &["concurrent-service-endpoint-syncs", "mirroring-concurrent-service-endpoint-syncs"];

/// Flags of workers that may not be none, with what is said of it. Controllers of the others rest where there are none.
const NEEDED: &[(&str, &str)] = &[
    ("concurrent-cron-job-syncs", "greater than 0, but"),
    ("concurrent-daemonset-syncs", "greater than 0, but"),
    ("concurrent-device-taint-eviction-syncs", "greater than zero,"),
    ("concurrent-ephemeralvolume-syncs", "greater than 0, but"),
    ("concurrent-horizontal-pod-autoscaler-syncs", "greater than 0, but"),
    ("concurrent-job-syncs", "greater than 0, but"),
    ("concurrent-resourceclaim-syncs", "larger than 0,"),
    ("concurrent-statefulset-syncs", "greater than 0, but"),
];

fn concurrency(values: &Values) -> Result<BTreeMap<&'static str, usize>, SettingsError> {
    let read = |(flag, _): &(&'static str, &str)| {
        if BOUNDED.contains(flag) {
            return Ok((*flag, within(values, flag, 50)?));
        }
        let needed = NEEDED.iter().find(|(name, _)| name == flag);
        match (values.int(flag), needed) {
            (none, Some((_, why))) if none < 1 => Err(SettingsError::Concurrency(flag, why, none)),
            _ => Ok((*flag, count(values, flag))),
        }
    };
    CONCURRENCY.iter().map(read).collect()
}

/// The files of signers: one pair for all, or pairs for some. Half a pair for all signs nothing.
fn signing_pairs(values: &Values) -> Result<BTreeMap<&'static str, (PathBuf, PathBuf)>, SettingsError> {
    let mut out = BTreeMap::new();
    let mut own = false;
    for (signer, cert, key) in SIGNERS.iter().filter(|(signer, ..)| !signer.is_empty()) {
        let half = |which| SettingsError::Pair(format!("-{signer}"), which);
        match (file(values, cert), file(values, key)) {
            (Some(cert), Some(key)) => drop(out.insert(*signer, (cert, key))),
            (None, None) => continue,
            (None, Some(_)) => return Err(half("key without cert")),
            (Some(_), None) => return Err(half("cert without key")),
        }
        own = true;
    }
    let (_, cert, key) = SIGNERS[0];
    let all = (file(values, cert), file(values, key));
    if own && (all.0.is_some() || all.1.is_some()) {
        return Err(SettingsError::Signers);
    }
    if let (Some(cert), Some(key)) = all {
        out.insert("", (cert, key));
    }
    Ok(out)
}

/// The prefix lengths of nodes' IPv4 and IPv6 ranges, where pods have these ranges.
fn masks(values: &Values, ranges: &[IpNet]) -> Result<(u8, u8), SettingsError> {
    const BOTH: &str = "node-cidr-mask-size";
    const V4: &str = "node-cidr-mask-size-ipv4";
    const V6: &str = "node-cidr-mask-size-ipv6";
    let is_given = |flag| values.int(flag) != 0;
    let mask = |flag, most: u8, default: u8| match values.int(flag) {
        0 => Ok(default),
        value => {
            let fits = |mask: &u8| (1..=most).contains(mask);
            u8::try_from(value).ok().filter(fits).ok_or(SettingsError::Mask(flag, most))
        }
    };
    let has_v4 = ranges.iter().any(|range| matches!(range, IpNet::V4(_)));
    let has_v6 = ranges.iter().any(|range| matches!(range, IpNet::V6(_)));
    if is_given(BOTH) {
        if ranges.len() > 1 {
            return Err(SettingsError::Masks(BOTH, "is not allowed with dual-stack clusters"));
        }
        if is_given(V4) || is_given(V6) {
            return Err(SettingsError::Masks(BOTH, "is not allowed with those of families"));
        }
        return Ok((mask(BOTH, if has_v6 { 128 } else { 32 }, 24)?.min(32), mask(BOTH, 128, 64)?));
    }
    for (flag, has_other, has) in [(V4, has_v6, has_v4), (V6, has_v4, has_v6)] {
        if is_given(flag) && has_other && !has {
            return Err(SettingsError::Masks(
                flag,
                "is not allowed for a cluster without ranges of this family",
            ));
        }
    }
    Ok((mask(V4, 32, 24)?, mask(V6, 128, 64)?))
}

#[cfg(test)]
mod tests {
    use component_base::{
        daemon::Daemon,
        flags::{FlagSet, Parsed},
    };

    use super::*;
    use crate::run::ControllerManager;

    fn read(given: &[&str]) -> Result<Settings, String> {
        let set: FlagSet = ControllerManager::flags();
        match set.parse(given.iter().map(|flag| (*flag).to_owned())).map_err(|e| e.to_string())? {
            Parsed::Run(values) => Settings::from_values(&values).map_err(|e| e.to_string()),
            Parsed::Print(text) => Err(text),
        }
    }

    #[test]
    fn every_flag_of_upstreams_is_known() {
        assert_eq!(
            component_base::reference::flags_lacking(&ControllerManager::flags()),
            Vec::<String>::new()
        );
        assert_eq!(
            component_base::reference::flags_differing(&ControllerManager::flags()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_gate_of_the_daemon_can_be_switched() {
        assert_eq!(SWITCHES.not_switched(), []);
        for gate in SWITCHES.gates {
            let said = format!("--feature-gates={gate}={}", !gate.feature().default);
            let needs = gate.feature().needs.iter().map(|needed| format!(",{needed}=true"));
            let settings = read(&[&(said + &needs.collect::<String>())]);
            // One that others need cannot be switched off alone.
            let is_needed = |error: &String| error.contains("depends on features that are disabled");
            assert!(settings.as_ref().err().is_none_or(is_needed), "{gate}: {settings:?}");
        }
    }

    #[test]
    fn what_installers_say_starts_the_daemon() {
        let settings = read(&[
            "--allocate-node-cidrs=true",
            "--cluster-cidr=10.244.0.0/16",
            "--cluster-name=kubernetes",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--node-cidr-mask-size-ipv4=26",
            "--profiling=false",
            "--cloud-provider=external",
            "--configure-cloud-routes=false",
            "--endpoint-updates-batch-period=1s",
        ])
        .unwrap();
        assert_eq!((settings.node_mask_v4, settings.service_cidrs.len()), (26, 1));
        assert_eq!(
            (settings.endpoints_batch, settings.slices_batch),
            (Duration::from_secs(1), Duration::ZERO)
        );
        assert_eq!((settings.binder_period, settings.garbage_stays), (Duration::from_secs(15), false));
    }

    #[test]
    fn prefix_lengths_are_those_of_the_families_there_are() {
        let masks = |ranges: &str, more: &[&str]| {
            let ranges = format!("--cluster-cidr={ranges}");
            let given: Vec<&str> =
                ["--allocate-node-cidrs", &ranges].into_iter().chain(more.iter().copied()).collect();
            read(&given).map(|settings| (settings.node_mask_v4, settings.node_mask_v6))
        };
        let (v4, v6, both) = ("10.4.0.0/16", "fd00::/48", "10.4.0.0/16,fd00::/48");
        for (ranges, flags, expected) in [
            (v4, vec![], Ok((24, 64))),
            (both, vec![], Ok((24, 64))),
            (both, vec!["--node-cidr-mask-size-ipv4=26", "--node-cidr-mask-size-ipv6=80"], Ok((26, 80))),
            (v4, vec!["--node-cidr-mask-size=25"], Ok((25, 25))),
            (v6, vec!["--node-cidr-mask-size=72"], Ok((32, 72))),
            (
                both,
                vec!["--node-cidr-mask-size=25"],
                Err("--node-cidr-mask-size is not allowed with dual-stack clusters"),
            ),
            (
                v4,
                vec!["--node-cidr-mask-size=25", "--node-cidr-mask-size-ipv4=26"],
                Err("--node-cidr-mask-size is not allowed with those of families"),
            ),
            (
                v4,
                vec!["--node-cidr-mask-size-ipv6=80"],
                Err("--node-cidr-mask-size-ipv6 is not allowed for a cluster without ranges of this family"),
            ),
            (
                v6,
                vec!["--node-cidr-mask-size-ipv4=26"],
                Err("--node-cidr-mask-size-ipv4 is not allowed for a cluster without ranges of this family"),
            ),
            (v4, vec!["--node-cidr-mask-size=33"], Err("--node-cidr-mask-size must be between 1 and 32")),
        ] {
            assert_eq!(masks(ranges, &flags), expected.map_err(str::to_owned), "{ranges} {flags:?}");
        }
    }

    #[test]
    fn numbers_and_files_out_of_bounds_are_told_in_upstreams_words() {
        const BOTH: &str = "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file \
                            flags at the same time";
        const PERIOD: &str = "duration time must be greater than one second as set via command line option \
                              reconcile-sync-loop-period";
        for (flags, expected) in [
            (vec!["--concurrent-job-syncs=0"], "concurrent-job-syncs must be greater than 0, but got 0"),
            (
                vec!["--concurrent-device-taint-eviction-syncs=-1"],
                "concurrent-device-taint-eviction-syncs must be greater than zero, got -1",
            ),
            (
                vec!["--concurrent-resourceclaim-syncs=0"],
                "concurrent-resourceclaim-syncs must be larger than 0, got 0",
            ),
            (
                vec!["--concurrent-service-endpoint-syncs=0"],
                "concurrent-service-endpoint-syncs must not be less than 1, but got 0",
            ),
            (
                vec!["--mirroring-concurrent-service-endpoint-syncs=51"],
                "mirroring-concurrent-service-endpoint-syncs must not be more than 50, but got 51",
            ),
            (
                vec!["--max-endpoints-per-slice=1001"],
                "max-endpoints-per-slice must not be more than 1000, but got 1001",
            ),
            (
                vec!["--mirroring-max-endpoints-per-subset=0"],
                "mirroring-max-endpoints-per-subset must not be less than 1, but got 0",
            ),
            (
                vec!["--service-cluster-ip-range=10.0.0.0/16,fd00::/108,10.1.0.0/16"],
                "--service-cluster-ip-range can not contain more than two entries",
            ),
            (vec!["--attach-detach-reconcile-sync-period=999ms"], PERIOD),
            (
                vec!["--cluster-signing-kubelet-serving-key-file=k"],
                "\"cluster-signing-kubelet-serving\": cannot specify key without cert",
            ),
            (
                vec!["--cluster-signing-legacy-unknown-cert-file=c"],
                "\"cluster-signing-legacy-unknown\": cannot specify cert without key",
            ),
            (
                vec![
                    "--cluster-signing-cert-file=all",
                    "--cluster-signing-kubelet-client-cert-file=c",
                    "--cluster-signing-kubelet-client-key-file=k",
                ],
                BOTH,
            ),
        ] {
            assert_eq!(read(&flags).unwrap_err(), expected, "{flags:?}");
        }
        let pairs = |flags: &[&str]| read(flags).unwrap().signing.pairs;
        assert!(
            pairs(&["--cluster-signing-cert-file=c"]).is_empty(),
            "half of the pair for all signs nothing"
        );
        assert_eq!(pairs(&["--cluster-signing-cert-file=c", "--cluster-signing-key-file=k"]).len(), 1);
        assert!(read(&["--concurrent-service-endpoint-syncs=50", "--max-endpoints-per-slice=1000"]).is_ok());
    }

    #[test]
    fn controllers_without_workers_are_refused_or_rest() {
        for (flag, default) in CONCURRENCY {
            let of = |value: &str| read(&[&format!("--{flag}={value}")]).map(|s| s.concurrency[flag]);
            let is_needed = BOUNDED.contains(flag) || NEEDED.iter().any(|(name, _)| name == flag);
            for none in ["0", "-3"] {
                match of(none) {
                    Ok(workers) => assert!(!is_needed && workers == 0, "{flag}={none}: {workers}"),
                    Err(refusal) => {
                        assert!(
                            is_needed && refusal.starts_with(flag) && refusal.ends_with(none),
                            "{refusal}"
                        );
                    }
                }
            }
            assert_eq!(of("7"), Ok(7), "{flag}");
            assert_eq!(read(&[]).unwrap().concurrency[flag].to_string(), **default);
        }
        for (flag, _) in NEEDED {
            assert!(CONCURRENCY.iter().any(|(known, _)| known == flag), "{flag}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for flag in [
            "--cloud-provider=aws",
            "--cloud-config=/x",
            "--cidr-allocator-type=CloudAllocator",
            "--enable-leader-migration",
            "--leader-migration-config=/x",
            "--contention-profiling",
            "--emulated-version=kube=1.30",
            "--pvclaimbinder-sync-period=0s",
            "--service-cluster-ip-range=x",
        ] {
            let name = flag.split('=').next().unwrap();
            let refusal = read(&[flag]).unwrap_err();
            assert!(refusal.starts_with(name), "{flag}: {refusal}");
        }
    }
}
