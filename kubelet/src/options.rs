//! Flags and configuration file of the kubelet: one typed, validated [`Config`].
//!
//! Contract: upstream's flag names; KubeletConfiguration kubelet.config.k8s.io/v1beta1, strictly decoded. A flag that is
//! given wins over the file, the file over the default.

pub mod file;
pub mod flags;
pub mod gates;
pub mod validate;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use component_base::{
    features::{Gate, Gates},
    flags::{Values, group},
    logging::{self, LoggingError, ModuleLevel, Settings, streams::Streams},
};
use k8s_openapi::api::core::v1::Taint;

pub use self::file::KubeletConfiguration;
use crate::{
    cpus::{self, set::CpuSet},
    eviction::threshold::{self, Threshold},
    images::verified::Policy,
    memory::{self, reserved},
    orphans,
    pod::resources,
    runtime::swap,
    shutdown::{self, plan::Period},
    topology, userns,
    worker::backoff,
};

/// Options of the static policy of the CPU manager.
const FULL: &str = "full-pcpus-only";
const STRICT: &str = "strict-cpu-reservation";
const CACHES: &str = "prefer-align-cpus-by-uncorecache";
const NODES: &str = "distribute-cpus-across-numa";
const SOCKETS: &str = "align-by-socket";
const CORES: &str = "distribute-cpus-across-cores";

/// A configuration that cannot be used; the process ends with exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The configuration file cannot be read.
    #[error("failed to load kubelet config file, path: {path}, error: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("failed to load kubelet config file, path: {path}, error: {message}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A value that does not fit.
    #[error("invalid configuration: {0}")]
    Invalid(String),
    /// Several things are wrong with the file or the flags over it.
    #[error("[{}]", .0.iter().map(|text| format!("invalid configuration: {text}")).collect::<Vec<_>>().join(", "))]
    Several(Vec<String>),
}

/// Everything the kubelet is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the API server; without it the kubelet is standalone.
    pub kubeconfig: Option<PathBuf>,
    /// A kubeconfig that may only ask for a certificate; used while there is no other.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// The node's name.
    pub node_name: String,
    /// The node's addresses, primary first; empty is: find out.
    pub node_ips: Vec<IpAddr>,
    /// Folder of pods and the kubelet's own files.
    pub root_dir: PathBuf,
    /// Folder of serving certificates.
    pub cert_dir: PathBuf,
    /// Labels of a new node.
    pub node_labels: Vec<(String, String)>,
    /// Taints of a new node.
    pub taints: Vec<Taint>,
    /// `spec.providerID` of a new node.
    pub provider_id: Option<String>,
    /// `external` makes a cloud controller fill in addresses.
    pub external_cloud: bool,
    /// Which features are on.
    pub gates: Gates,
    /// The file's fields with flags applied.
    pub file: KubeletConfiguration,
    /// Thresholds of eviction.
    pub thresholds: Vec<Threshold>,
    /// Who may have processors of their own.
    pub cpus: cpus::Settings,
    /// Whose memory comes from certain nodes.
    pub memory: memory::Settings,
    /// What of a pod's resources has to be near each other.
    pub topology: topology::Settings,
    /// How many containers that have ended are kept.
    pub dead: orphans::Keep,
    /// File that is locked while the kubelet runs.
    pub lock_file: Option<PathBuf>,
    /// The kubelet ends when somebody else opens that file.
    pub exit_on_lock_contention: bool,
    /// What pods may do with the node's swap.
    pub swap: swap::Behavior,
    /// Who may use images that are there.
    pub verification: Policy,
    /// The configuration of image credential providers, and the folder of their programs.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
}

/// Reads flags and file.
///
/// # Errors
/// When the file or a value is bad.
pub fn load(given: &Values) -> Result<Config, OptionsError> {
    let path = |name| given.optional(name).map(PathBuf::from);
    let mut file = match path("config") {
        Some(file) => read(file, path("config-dir"))?,
        None => KubeletConfiguration::defaulted(),
    };
    flags::overlay(given, &mut file)?;
    let gates = gates::SWITCHES
        .of(&file.feature_gates)
        .map_err(|e| OptionsError::Invalid(format!("featureGates (--feature-gates): {e}")))?;
    group::check_logging(given, gates).map_err(|e| OptionsError::Invalid(format!("logging.{e}")))?;
    let cpus = processors(&mut file, gates)?;
    let (memory, topology) = (memory_nodes(&file)?, alignment(&file)?);
    let (policy, list) =
        (&file.image_pull_credentials_verification_policy, &file.preloaded_images_verification_allowlist);
    let verification = match gates.has(Gate::KubeletEnsureSecretPulledImages) {
        true => Policy::named(policy, list).map_err(|e| OptionsError::Invalid(e.to_string()))?,
        false => Policy::Never,
    };
    let swap = swapping(&file.memory_swap.swap_behavior)?;
    let both = ["image-credential-provider-config", "image-credential-provider-bin-dir"]
        .map(|n| given.optional(n).is_some());
    if both[0] != both[1] {
        let text = "--image-credential-provider-config and --image-credential-provider-bin-dir go together";
        return Err(OptionsError::Invalid(text.to_owned()));
    }
    let node_name = match given.optional("hostname-override") {
        Some(name) => name.trim().to_lowercase(),
        None => host_name()?,
    };
    let address = |ip: &str| {
        ip.trim().parse().map_err(|_| OptionsError::Invalid(format!("--node-ip {ip:?} is no address")))
    };
    let node_ips = given.optional("node-ip").into_iter().flat_map(|text| text.split(','));
    let thresholds = threshold::thresholds(&file).map_err(|e| OptionsError::Invalid(e.to_string()))?;
    let root_dir = path("root-dir").unwrap_or_else(|| "/var/lib/kubelet".into());
    let config = Config {
        gates,
        kubeconfig: path("kubeconfig"),
        bootstrap_kubeconfig: path("bootstrap-kubeconfig"),
        node_name,
        node_ips: node_ips.map(address).collect::<Result<_, _>>()?,
        cert_dir: path("cert-dir").unwrap_or_else(|| root_dir.join("pki")),
        root_dir,
        node_labels: given.map("node-labels").into_iter().collect(),
        taints: file.register_with_taints.clone(),
        provider_id: given.optional("provider-id").map(str::to_owned).or_else(|| file.provider_id.clone()),
        external_cloud: given.optional("cloud-provider") == Some("external"),
        file,
        thresholds,
        cpus,
        memory,
        topology,
        dead: dead(given)?,
        lock_file: path("lock-file"),
        exit_on_lock_contention: given.bool("exit-on-lock-contention"),
        swap,
        verification,
        credential_providers: path("image-credential-provider-config")
            .zip(path("image-credential-provider-bin-dir")),
    };
    validate(&config)?;
    Ok(config)
}

/// Installs the logger as the flags have it, and where they say nothing, the file.
///
/// # Errors
/// When a flag is not usable. What is wrong with the file is told by [`load`].
pub fn log(given: &Values) -> Result<(), LoggingError> {
    let path = |name| given.optional(name).map(PathBuf::from);
    let file = path("config").and_then(|file| read(file, path("config-dir")).ok());
    logging::init(log_settings(given, &file.unwrap_or_default().logging)?);
    Ok(())
}

/// What flags and file say of the log.
fn log_settings(given: &Values, file: &file::Logging) -> Result<Settings, LoggingError> {
    let mut settings = group::logging_settings(given)?;
    let level = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    if !given.is_set("logging-format") {
        settings.format = file.format.parse()?;
    }
    if !given.is_set("v") {
        settings.verbosity = level(file.verbosity);
    }
    if !given.is_set("vmodule") {
        let module = |one: &file::ModuleVerbosity| ModuleLevel {
            pattern: one.file_pattern.clone(),
            level: level(one.verbosity),
        };
        settings.modules = file.vmodule.iter().map(module).collect();
    }
    let name = settings.format.name();
    let flag = |option: &str| format!("log-{name}-{option}");
    settings.streams = Streams {
        split: match given.is_set(&flag("split-stream")) {
            true => given.bool(&flag("split-stream")),
            false => file.splits(name),
        },
        buffer: match given.quantity(&flag("info-buffer-size")) {
            Some(size) => usize::try_from(size.value()).unwrap_or(0),
            None => file.buffer(name).unwrap_or(0),
        },
        flush: match given.is_set("log-flush-frequency") {
            true => settings.streams.flush,
            false => file.flush_period().unwrap_or(settings.streams.flush),
        },
    };
    Ok(settings)
}

/// The file, with the drop-in files of a folder merged over it: those that end in `.conf`, in the order of their names.
fn read(path: PathBuf, drop_ins: Option<PathBuf>) -> Result<KubeletConfiguration, OptionsError> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| OptionsError::Read { path: path.to_owned(), source })
    };
    let bad = |path: &Path| {
        let path = path.to_owned();
        |message| OptionsError::Decode { path, message }
    };
    let base = text(&path)?;
    let Some(folder) = drop_ins else { return file::decode(&base).map_err(bad(&path)) };
    let listed = std::fs::read_dir(&folder)
        .map_err(|source| OptionsError::Read { path: folder.clone(), source })?
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let mut overs: Vec<PathBuf> = listed.filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    overs.sort();
    let mut merged = file::parse(&base).map_err(bad(&path))?;
    for over in overs {
        let next = file::parse(&text(&over)?).map_err(bad(&over))?;
        // Each has to be right by itself, so that a mistake is told with the file it is in.
        file::from_value(next.clone()).map_err(bad(&over))?;
        file::merge(&mut merged, next);
    }
    file::from_value(merged).map_err(bad(&path))
}

/// What the file says of processors. Those that are reserved by number count in place of the amounts, as upstream's.
fn processors(file: &mut KubeletConfiguration, gates: Gates) -> Result<cpus::Settings, OptionsError> {
    let invalid = |text: String| OptionsError::Invalid(text);
    let reserved: CpuSet = file
        .reserved_system_cpus
        .parse()
        .map_err(|error| invalid(format!("reservedSystemCPUs (--reserved-cpus): {error}")))?;
    if !reserved.is_empty() {
        file.kube_reserved.remove(resources::CPU);
        file.system_reserved.insert(resources::CPU.to_owned(), reserved.len().to_string());
    }
    let exclusive = match file.cpu_manager_policy.as_str() {
        "" | "none" => false,
        "static" => true,
        other => return Err(invalid(format!("unknown policy: {other:?}"))),
    };
    let options = processor_options(file, gates).map_err(invalid)?;
    if !exclusive && !file.cpu_manager_policy_options.is_empty() {
        return Err(invalid("cpuManagerPolicyOptions are of the static policy".to_owned()));
    }
    let amounts = [&file.system_reserved, &file.kube_reserved];
    let milli = amounts.into_iter().filter_map(|list| resources::milli(list.get(resources::CPU)?)).sum();
    Ok(cpus::Settings { exclusive, options, reserved, reserved_milli: milli })
}

/// The options of the static policy, as far as their stage is switched on and they go together.
fn processor_options(file: &KubeletConfiguration, gates: Gates) -> Result<cpus::plan::Options, String> {
    let mut options = cpus::plan::Options::default();
    for (name, value) in &file.cpu_manager_policy_options {
        let (option, gate) = match name.as_str() {
            FULL => (&mut options.full_cores, None),
            STRICT => (&mut options.strict_reservation, None),
            CACHES => (&mut options.by_cache, None),
            NODES => (&mut options.across_nodes, Some(("Beta", Gate::CPUManagerPolicyBetaOptions))),
            SOCKETS => (&mut options.by_socket, Some(("Alpha", Gate::CPUManagerPolicyAlphaOptions))),
            CORES => (&mut options.across_cores, Some(("Alpha", Gate::CPUManagerPolicyAlphaOptions))),
            _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
        };
        if let Some((stage, _)) = gate.filter(|(_, gate)| !gates.has(*gate)) {
            let text =
                format!("CPU Manager Policy {stage}-level Options not enabled, but option {name:?} provided");
            return Err(text);
        }
        *option = flags::boolean(value).map_err(|error| format!("bad value for option {name:?}: {error}"))?;
    }
    let on =
        |name: &str| file.cpu_manager_policy_options.get(name).is_some_and(|v| flags::boolean(v) == Ok(true));
    for (one, other) in [(FULL, CORES), (NODES, CORES), (CACHES, CORES), (CACHES, NODES)] {
        if on(one) && on(other) {
            return Err(format!("static policy options {one} and {other} can not be used at the same time"));
        }
    }
    if options.by_socket && file.topology_manager_policy == "single-numa-node" {
        let text = "Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option";
        return Err(text.to_owned());
    }
    Ok(options)
}

/// What the file says of memory from certain nodes.
fn memory_nodes(file: &KubeletConfiguration) -> Result<memory::Settings, OptionsError> {
    let pinned = match file.memory_manager_policy.as_str() {
        "" | "None" => false,
        memory::STATIC => true,
        other => return Err(OptionsError::Invalid(format!("unknown policy: {other:?}"))),
    };
    // What is wrong with the reservations is told even where nobody needs them.
    reserved::amounts(&file.reserved_memory).map_err(|e| OptionsError::Invalid(e.to_string()))?;
    Ok(memory::Settings { pinned, reserved: file.reserved_memory.clone() })
}

/// What the file says of resources that are near each other.
fn alignment(file: &KubeletConfiguration) -> Result<topology::Settings, OptionsError> {
    let invalid = |text: String| OptionsError::Invalid(text);
    let name = &file.topology_manager_policy;
    let policy = topology::Policy::named(name).ok_or_else(|| {
        invalid(format!(
            "topologyManagerPolicy (--topology-manager-policy) {name:?} must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]"
        ))
    })?;
    let scope = match file.topology_manager_scope.as_str() {
        "" | "container" => topology::Scope::Container,
        "pod" => topology::Scope::Pod,
        other => {
            let text = "must be one of: \"container\", or \"pod\"";
            return Err(invalid(format!("topologyManagerScope (--topology-manager-scope) {other:?} {text}")));
        }
    };
    let mut settings = topology::Settings { policy, scope, ..topology::Settings::default() };
    for (name, value) in &file.topology_manager_policy_options {
        let bad = || invalid(format!("bad value for option {name:?}: {value:?}"));
        match name.as_str() {
            "prefer-closest-numa-nodes" => settings.closest = value.parse().map_err(|_| bad())?,
            "max-allowable-numa-nodes" => {
                settings.most_nodes = value.parse().map_err(|_| bad())?;
                if settings.most_nodes < topology::MOST_NODES {
                    let least = topology::MOST_NODES;
                    return Err(invalid(format!(
                        "the minimum value of {name:?} should not be less than {least}"
                    )));
                }
            }
            _ => return Err(invalid(format!("unknown Topology Manager Policy option: {name:?}"))),
        }
    }
    Ok(settings)
}

/// What flags say of containers that have ended.
fn dead(given: &Values) -> Result<orphans::Keep, OptionsError> {
    let default = orphans::Keep::default();
    let number = |name: &str, default| if given.is_set(name) { given.int(name) } else { default };
    let age = match given.optional("minimum-container-ttl-duration") {
        None => default.age,
        Some(text) => component_base::goduration::parse(text)
            .map_err(|error| OptionsError::Invalid(format!("--minimum-container-ttl-duration: {error}")))?,
    };
    Ok(orphans::Keep {
        age,
        each: number("maximum-dead-containers-per-container", default.each),
        all: number("maximum-dead-containers", default.all),
    })
}

fn swapping(behavior: &str) -> Result<swap::Behavior, OptionsError> {
    match behavior {
        "" | "NoSwap" => Ok(swap::Behavior::NoSwap),
        "LimitedSwap" => Ok(swap::Behavior::LimitedSwap),
        other => Err(OptionsError::Invalid(format!(
            "memorySwap.swapBehavior {other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""
        ))),
    }
}

fn host_name() -> Result<String, OptionsError> {
    let name = nix::unistd::gethostname().map_err(|e| OptionsError::Invalid(format!("no host name: {e}")))?;
    let name = name.to_string_lossy().trim().to_lowercase();
    if name.is_empty() {
        return Err(OptionsError::Invalid("empty hostname is invalid".to_owned()));
    }
    Ok(name)
}

/// What cannot be told from the file alone, after what can.
fn validate(config: &Config) -> Result<(), OptionsError> {
    let file = &config.file;
    let mut wrong = validate::check(file, config.gates);
    let mut must = |is: bool, text: &str| {
        if !is {
            wrong.push(text.to_owned());
        }
    };
    must(
        !file.rotate_certificates || config.kubeconfig.is_some(),
        "rotateCertificates (--rotate-certificates) needs a kubeconfig (--kubeconfig)",
    );
    must(
        config.bootstrap_kubeconfig.is_none() || config.kubeconfig.is_some(),
        "--bootstrap-kubeconfig needs --kubeconfig, where the new one is written",
    );
    must(
        !config.exit_on_lock_contention || config.lock_file.is_some(),
        "cannot exit on lock file contention: no lock file specified",
    );
    match wrong.len() {
        0 => Ok(()),
        1 => Err(OptionsError::Invalid(wrong.remove(0))),
        _ => Err(OptionsError::Several(wrong)),
    }
}

impl Config {
    /// Most pods of a node with so many processors.
    #[must_use]
    pub fn most_pods(&self, cpus: i64) -> i32 {
        let file = &self.file;
        let by_core = i32::try_from(cpus.saturating_mul(i64::from(file.pods_per_core))).unwrap_or(i32::MAX);
        if file.pods_per_core > 0 { file.max_pods.min(by_core) } else { file.max_pods }
    }

    /// How many images are pulled at a time.
    #[must_use]
    pub fn parallel_pulls(&self) -> usize {
        let most =
            self.file.max_parallel_image_pulls.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        match (self.file.serialize_image_pulls, most) {
            (Some(true), _) | (None, None) => 1,
            (_, Some(most)) => most,
            // Without a limit there is still one that no node comes near.
            (Some(false), None) => 1 << 16,
        }
    }

    /// The period of cpu limits in microseconds, where they are enforced.
    #[must_use]
    pub fn cfs_period(&self) -> Option<i64> {
        let period =
            i64::try_from(self.file.cpu_cfs_quota_period.0.as_micros()).unwrap_or(resources::CFS_PERIOD);
        self.file.cpu_cfs_quota.then_some(period)
    }

    /// Ids of users and groups that a pod with a namespace of its own gets.
    #[must_use]
    pub fn ids_per_pod(&self) -> u32 {
        let said = self.file.user_namespaces.as_ref().and_then(|users| users.ids_per_pod);
        said.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(userns::LENGTH)
    }

    /// The first and the longest delay of containers that crash again and again.
    #[must_use]
    pub fn back_off(&self) -> (Duration, Duration) {
        let default = match self.gates.has(Gate::ReduceDefaultCrashLoopBackOffDecay) {
            true => backoff::SHORT,
            false => (backoff::INITIAL, backoff::MAX),
        };
        match self.gates.has(Gate::KubeletCrashLoopBackOffMax) {
            true => (default.0, self.file.crash_loop_back_off.longest()),
            false => default,
        }
    }

    /// How much time pods get when the machine goes down, by priority.
    #[must_use]
    pub fn shutdown_periods(&self) -> Vec<Period> {
        let file = &self.file;
        if !self.gates.has(Gate::GracefulNodeShutdown) {
            return Vec::new();
        }
        let (all, critical) = (file.shutdown_grace_period.0, file.shutdown_grace_period_critical_pods.0);
        shutdown::plan::periods(all, critical, &file.shutdown_grace_period_by_pod_priority)
    }

    /// Timeout of calls to the runtime.
    #[must_use]
    pub fn runtime_timeout(&self) -> Duration {
        self.file.runtime_request_timeout.0
    }
}

#[cfg(test)]
mod tests {
    use component_base::{flags::Parsed, logging::Format};

    use super::*;

    fn load_with(arguments: &[&str]) -> Result<Config, Box<dyn std::error::Error>> {
        match flags::set().parse(arguments.iter().map(|a| (*a).to_owned()))? {
            Parsed::Run(values) => Ok(load(&values)?),
            Parsed::Print(text) => Err(text.into()),
        }
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = load_with(&["--hostname-override=Node1"]).unwrap();
        assert_eq!(config.node_name, "node1");
        assert_eq!(config.file.port, 10250);
        assert_eq!(config.file.max_pods, 110);
        assert_eq!(config.file.container_runtime_endpoint, "unix:///run/containerd/containerd.sock");
    }

    #[test]
    fn pods_and_pulls_are_limited_as_asked() {
        let config = load_with(&["--hostname-override=n", "--pods-per-core=10"]).unwrap();
        assert_eq!((config.most_pods(2), config.most_pods(64)), (20, 110));
        assert_eq!(config.parallel_pulls(), 1);
        let config = load_with(&["--hostname-override=n", "--serialize-image-pulls=false"]).unwrap();
        assert!(config.parallel_pulls() > 1000);
        assert_eq!(config.most_pods(1), 110);
        assert_eq!((config.cfs_period(), config.ids_per_pod()), (Some(100_000), 65_536));
        let config = load_with(&["--hostname-override=n", "--cpu-cfs-quota-period=10ms"]).unwrap();
        assert_eq!(config.cfs_period(), Some(10_000));
        let config = load_with(&["--hostname-override=n", "--cpu-cfs-quota=false"]).unwrap();
        assert_eq!(config.cfs_period(), None);
    }

    #[test]
    fn memory_and_alignment_are_as_asked() {
        let load = |arguments: &[&str]| load_with(&[&["--hostname-override=n"], arguments].concat());
        let config = load(&[]).unwrap();
        assert_eq!((config.memory, config.topology), Default::default());
        let config = load(&[
            "--memory-manager-policy=Static",
            "--reserved-memory=0:memory=1Gi;1:memory=2Gi",
            "--topology-manager-policy=restricted",
            "--topology-manager-scope=pod",
            "--topology-manager-policy-options=prefer-closest-numa-nodes=true,max-allowable-numa-nodes=10",
        ])
        .unwrap();
        assert!(config.memory.pinned && config.memory.reserved.len() == 2);
        let (policy, scope) = (topology::Policy::Restricted, topology::Scope::Pod);
        assert_eq!(config.topology, topology::Settings { policy, scope, closest: true, most_nodes: 10 });
        for bad in [
            "--memory-manager-policy=static",
            "--reserved-memory=0:cpu=1",
            "--reserved-memory=0",
            "--topology-manager-policy=best",
            "--topology-manager-scope=node",
            "--topology-manager-policy-options=max-allowable-numa-nodes=7",
            "--topology-manager-policy-options=prefer-closest-numa-nodes=often",
            "--topology-manager-policy-options=x=true",
        ] {
            assert!(load(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_kept_and_given_as_asked() {
        let load = |arguments: &[&str]| {
            let all: Vec<&str> = [&["--hostname-override=n"], arguments].concat();
            load_with(&all)
        };
        let shared = load(&["--kube-reserved=cpu=300m"]).unwrap();
        assert!(!shared.cpus.exclusive && shared.cpus.reserved_milli == 300);
        let config = load(&[
            "--cpu-manager-policy=static",
            "--reserved-cpus=0,2-3",
            "--kube-reserved=cpu=300m",
            "--cpu-manager-policy-options=full-pcpus-only=true,distribute-cpus-across-numa=false",
        ])
        .unwrap();
        assert!(config.cpus.exclusive && config.cpus.options.full_cores);
        assert_eq!((config.cpus.reserved.to_string().as_str(), config.cpus.reserved_milli), ("0,2-3", 3000));
        assert_eq!(config.file.system_reserved["cpu"], "3");
        for bad in [
            &["--cpu-manager-policy=dynamic"][..],
            &["--reserved-cpus=x"],
            &["--cpu-manager-policy-options=full-pcpus-only=true"],
            &["--cpu-manager-policy=static", "--cpu-manager-policy-options=align-by-socket=true"],
            &["--cpu-manager-policy=static", "--cpu-manager-policy-options=full-pcpus-only=often"],
        ] {
            assert!(load(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn options_of_processors_need_their_stage_and_go_together() {
        let load = |options: &str, more: &[&str]| {
            let options = format!("--cpu-manager-policy-options={options}");
            let all = [&["--hostname-override=n", "--cpu-manager-policy=static", &options], more].concat();
            load_with(&all).map(|config| config.cpus.options).map_err(|error| error.to_string())
        };
        let alpha = "--feature-gates=CPUManagerPolicyAlphaOptions=true";
        let caches = load("prefer-align-cpus-by-uncorecache=true,strict-cpu-reservation=true", &[]).unwrap();
        assert!(caches.by_cache && caches.strict_reservation);
        assert!(load("distribute-cpus-across-numa=true,full-pcpus-only=true", &[]).unwrap().across_nodes);
        let apart = load("align-by-socket=true,distribute-cpus-across-cores=true", &[alpha]).unwrap();
        assert!(apart.by_socket && apart.across_cores);
        for (options, more, said) in [
            ("align-by-socket=false", "", "Alpha-level Options not enabled, but option \"align-by-socket\""),
            (
                "distribute-cpus-across-numa=true",
                "--feature-gates=CPUManagerPolicyBetaOptions=false",
                "Beta-level Options not enabled, but option \"distribute-cpus-across-numa\"",
            ),
            ("fast=true", "", "unknown CPU Manager Policy option: \"fast\""),
            (
                "full-pcpus-only=true,distribute-cpus-across-cores=true",
                alpha,
                "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used",
            ),
            (
                "prefer-align-cpus-by-uncorecache=true,distribute-cpus-across-numa=true",
                "",
                "prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used",
            ),
        ] {
            let more: Vec<&str> = Some(more).filter(|more| !more.is_empty()).into_iter().collect();
            let error = load(options, &more).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let single = [alpha, "--topology-manager-policy=single-numa-node"];
        assert!(load("align-by-socket=true", &single).unwrap_err().contains("is incompatible with"));
    }

    #[test]
    fn gates_take_away_what_they_are_for() {
        let load = |gates: &str, lines: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c.yaml");
            let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
            std::fs::write(&path, format!("{head}featureGates: {{{gates}}}\n{lines}")).unwrap();
            load_with(&["--hostname-override=n", &format!("--config={}", path.display())])
        };
        let seconds = Duration::from_secs;
        let back_off = |gates: &str, lines: &str| load(gates, lines).unwrap().back_off();
        let own = "crashLoopBackOff: {maxContainerRestartPeriod: 7s}";
        assert_eq!(back_off("", own), (seconds(10), seconds(7)));
        assert_eq!(back_off("ReduceDefaultCrashLoopBackOffDecay: true", own), (seconds(1), seconds(7)));
        let both = "ReduceDefaultCrashLoopBackOffDecay: true, KubeletCrashLoopBackOffMax: false";
        assert_eq!(back_off(both, ""), (seconds(1), seconds(60)));
        assert_eq!(back_off("KubeletCrashLoopBackOffMax: false", ""), (seconds(10), seconds(300)));
        let listed = "shutdownGracePeriodByPodPriority: [{priority: 5, shutdownGracePeriodSeconds: 7}]";
        let neither = "GracefulNodeShutdown: false, GracefulNodeShutdownBasedOnPodPriority: false, WindowsGracefulNodeShutdown: false";
        assert!(load(neither, "").unwrap().shutdown_periods().is_empty());
        for (gates, lines, said) in [
            ("KubeletCrashLoopBackOffMax: false", own, "KubeletCrashLoopBackOffMax not enabled"),
            (neither, "shutdownGracePeriod: 30s", "requires feature gate GracefulNodeShutdown"),
            (
                "GracefulNodeShutdownBasedOnPodPriority: false",
                listed,
                "requires feature gate GracefulNodeShutdownBasedOnPodPriority",
            ),
            (
                "RotateKubeletServerCertificate: false",
                "serverTLSBootstrap: true",
                "requires feature gate RotateKubeletServerCertificate",
            ),
        ] {
            let error = load(gates, lines).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let verification = "imagePullCredentialsVerificationPolicy: AlwaysVerify";
        let off = load("KubeletEnsureSecretPulledImages: false", verification).unwrap();
        assert_eq!(off.verification, Policy::Never);
    }

    #[test]
    fn a_shutdown_has_one_plan_and_whole_seconds() {
        let load = |lines: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c.yaml");
            let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
            std::fs::write(&path, format!("{head}{lines}")).unwrap();
            load_with(&["--hostname-override=n", &format!("--config={}", path.display())])
        };
        assert!(load("").unwrap().shutdown_periods().is_empty());
        let old = load("shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s").unwrap();
        assert_eq!(shutdown::plan::all(&old.shutdown_periods()), Duration::from_secs(30));
        let listed = "shutdownGracePeriodByPodPriority: [{priority: 5, shutdownGracePeriodSeconds: 7}]\n";
        assert_eq!(load(listed).unwrap().shutdown_periods(), [Period { priority: 5, seconds: 7 }]);
        for bad in [
            "shutdownGracePeriodCriticalPods: 10s".to_owned(),
            "shutdownGracePeriod: 500ms".to_owned(),
            format!("{listed}shutdownGracePeriod: 30s"),
        ] {
            assert!(load(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_tells_of_the_log_what_flags_do_not() {
        let file: file::Logging = serde_json::from_value(serde_json::json!({
            "format": "json", "verbosity": 4, "vmodule": [{"filePattern": "po*", "verbosity": 6}],
            "flushFrequency": "1s", "options": {"json": {"splitStream": true, "infoBufferSize": "1Ki"}},
        }))
        .unwrap();
        let of = |arguments: &[&str]| {
            let Parsed::Run(values) = flags::set().parse(arguments.iter().map(|a| (*a).to_owned())).unwrap()
            else {
                panic!("{arguments:?}")
            };
            log_settings(&values, &file).unwrap()
        };
        let modules = vec![ModuleLevel { pattern: "po*".into(), level: 6 }];
        let streams = Streams { split: true, buffer: 1024, flush: Duration::from_secs(1) };
        let said = Settings { format: Format::Json, verbosity: 4, modules: modules.clone(), streams };
        assert_eq!(of(&[]), said);
        let text = Streams { split: false, buffer: 0, ..streams };
        let said = Settings { format: Format::Text, verbosity: 1, modules, streams: text };
        assert_eq!(of(&["--logging-format=text", "--v=1"]), said);
        assert_eq!(of(&["--vmodule=a=2"]).modules, [ModuleLevel { pattern: "a".into(), level: 2 }]);
        let flags =
            ["--log-json-split-stream=false", "--log-json-info-buffer-size=2k", "--log-flush-frequency=2s"];
        let flush = Duration::from_secs(2);
        assert_eq!(of(&flags).streams, Streams { split: false, buffer: 2000, flush });
    }

    #[test]
    fn swap_is_off_limited_or_refused() {
        for (text, behavior) in [
            ("", Some(swap::Behavior::NoSwap)),
            ("NoSwap", Some(swap::Behavior::NoSwap)),
            ("LimitedSwap", Some(swap::Behavior::LimitedSwap)),
            ("UnlimitedSwap", None),
        ] {
            assert_eq!(swapping(text).ok(), behavior, "{text:?}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(
            &path,
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 7\nport: 1\nclusterDNS: [10.0.0.10]\n",
        )
        .unwrap();
        let path = format!("--config={}", path.display());
        let config = load_with(&[&path, "--port=2", "--cluster-dns=1.1.1.1,1.1.1.2"]).unwrap();
        assert_eq!((config.file.max_pods, config.file.port), (7, 2));
        assert_eq!(config.file.cluster_dns, ["1.1.1.1", "1.1.1.2"]);
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(load_with(&["--no-such-flag"]).is_err());
        assert!(load_with(&["--cgroup-driver=none"]).is_err());
        let both = load_with(&["--cgroup-driver=none", "--event-qps=-1"]).unwrap_err().to_string();
        assert!(
            both.starts_with("[invalid configuration: eventRecordQPS") && both.contains(", invalid"),
            "{both}"
        );
        assert!(load_with(&["--node-ip=x"]).is_err());
        assert!(load_with(&["--max-pods=many"]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        for text in [
            "kind: KubeletConfiguration\n",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nnope: 1\n",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: x\n",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(load_with(&[&format!("--config={}", path.display())]).is_err(), "{text}");
        }
    }
}
