//! The kubelet's flags: one table, from which the parser, the help text and the overlay on the file come.

use std::collections::BTreeMap;

use component_base::{
    features::{self, Switches},
    flags::{Flag, FlagSet, Kind, Values, group},
};
use k8s_openapi::api::core::v1::Taint;

use super::{
    OptionsError,
    file::{GoDuration, KubeletConfiguration},
};
use crate::memory::reserved::{self, Reservation};

/// How a flag that has a field in the file is applied to it.
type Overlay = fn(&mut KubeletConfiguration, &str) -> Result<(), String>;

/// What a flag is for.
#[derive(Clone, Copy)]
enum Use {
    /// It has no field in the file.
    Own,
    /// It sets a field of the file.
    Field(Overlay),
    /// It has no field in the file, and may say only this.
    Only(&'static [&'static str]),
    /// It is taken so that command lines for upstream's kubelet work, and steers nothing.
    Nothing,
}

/// One flag of the kubelet.
struct Entry {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    does: Use,
}

const fn own(name: &'static str, kind: Kind, help: &'static str) -> Entry {
    Entry { name, kind, help, does: Use::Own }
}

const fn field(name: &'static str, kind: Kind, help: &'static str, overlay: Overlay) -> Entry {
    Entry { name, kind, help, does: Use::Field(overlay) }
}

const fn only(name: &'static str, kind: Kind, values: &'static [&'static str], help: &'static str) -> Entry {
    Entry { name, kind, help, does: Use::Only(values) }
}

const fn nothing(name: &'static str, kind: Kind, help: &'static str) -> Entry {
    Entry { name, kind, help, does: Use::Nothing }
}

const CADVISOR: &str = "Of cAdvisor, which this kubelet does without: no effect.";

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that fits"))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn duration(text: &str) -> Result<GoDuration, String> {
    component_base::goduration::parse(text).map(GoDuration).map_err(|e| e.to_string())
}

fn some_duration(text: &str) -> Result<Option<GoDuration>, String> {
    duration(text).map(Some)
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

fn map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = split(text).into_iter().map(|item| {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?} is not key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

fn reservations(text: &str) -> Result<Vec<Reservation>, String> {
    reserved::parse(text).map_err(|error| error.to_string())
}

fn signals(text: &str) -> Result<BTreeMap<String, String>, String> {
    map(&text.replace('<', "="))
}

fn taints(text: &str) -> Result<Vec<Taint>, String> {
    let parse = |item: String| {
        let (key, effect) =
            item.rsplit_once(':').ok_or_else(|| format!("{item:?} is not key=value:effect"))?;
        let (key, value) = key.split_once('=').unwrap_or((key, ""));
        let value = (!value.is_empty()).then(|| value.to_owned());
        Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), ..Taint::default() })
    };
    split(text).into_iter().map(parse).collect()
}

/// Sets a field and reports that all went well.
macro_rules! set {
    ($($field:ident).+ = $value:expr) => {
        |c, v| {
            let parse = $value;
            c.$($field).+ = parse(v)?;
            Ok(())
        }
    };
}

/// `name:value` pairs; a name may come several times.
fn headers(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in split(text) {
        let (name, value) =
            pair.split_once(':').ok_or_else(|| format!("malformed pair, expect string:string: {pair:?}"))?;
        all.entry(name.trim().to_owned()).or_default().push(value.trim().to_owned());
    }
    Ok(all)
}

fn some_path(text: &str) -> Result<Option<std::path::PathBuf>, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn list(value: &str) -> Result<Vec<String>, String> {
    Ok(split(value))
}

fn some_bool(value: &str) -> Result<Option<bool>, String> {
    boolean(value).map(Some)
}

const FLAGS: &[Entry] = &[
    own("config", Kind::String, "Path of the kubelet's configuration file; flags given win over it."),
    own(
        "kubeconfig",
        Kind::String,
        "Path of the kubeconfig for the API server. Without it the kubelet runs standalone.",
    ),
    own(
        "bootstrap-kubeconfig",
        Kind::String,
        "Path of a kubeconfig that may only ask for a client certificate; used when --kubeconfig does not exist yet.",
    ),
    own(
        "config-dir",
        Kind::String,
        "Folder of files that end in .conf, merged over the configuration file in the order of their names.",
    ),
    own(
        "image-credential-provider-config",
        Kind::String,
        "Path of the configuration of programs that know the credentials of registries.",
    ),
    own("image-credential-provider-bin-dir", Kind::String, "Folder of those programs."),
    own("hostname-override", Kind::String, "The node's name, in place of the host's."),
    own("node-ip", Kind::String, "The node's address, or one of each family, separated by a comma."),
    own(
        "root-dir",
        Kind::String,
        "Folder of volumes and of the kubelet's own files. [default /var/lib/kubelet]",
    ),
    own("cert-dir", Kind::String, "Folder of the serving certificate. [default <root-dir>/pki]"),
    own("node-labels", Kind::Map, "Labels of the node when it registers: key=value, separated by commas."),
    own("provider-id", Kind::String, "Identifies the node for a cloud provider."),
    own("cloud-provider", Kind::String, "\"external\" leaves the node's addresses to a cloud controller."),
    field(
        "container-runtime-endpoint",
        Kind::String,
        "Socket of the container runtime.",
        set!(container_runtime_endpoint = text),
    ),
    field(
        "cgroup-driver",
        Kind::String,
        "How cgroups are made: cgroupfs or systemd.",
        set!(cgroup_driver = text),
    ),
    field("cgroup-root", Kind::String, "cgroup below which all pods live.", set!(cgroup_root = text)),
    field(
        "cgroups-per-qos",
        Kind::Bool,
        "Make cgroups of quality-of-service classes and pods.",
        set!(cgroups_per_qos = boolean),
    ),
    field(
        "register-node",
        Kind::Bool,
        "Register the node with the API server.",
        set!(register_node = boolean),
    ),
    field(
        "register-with-taints",
        Kind::Strings,
        "Taints of a new node: key=value:effect.",
        set!(register_with_taints = taints),
    ),
    field("cluster-dns", Kind::Strings, "Addresses of the cluster's DNS.", set!(cluster_dns = list)),
    field("cluster-domain", Kind::String, "Domain of the cluster.", set!(cluster_domain = text)),
    field(
        "pod-manifest-path",
        Kind::String,
        "Folder or file of static pods.",
        set!(static_pod_path = some_path),
    ),
    field(
        "file-check-frequency",
        Kind::Duration,
        "How often manifests are read again.",
        set!(file_check_frequency = duration),
    ),
    field(
        "pods-per-core",
        Kind::Int,
        "Most pods for each processor, within --max-pods; 0 is no limit of its own.",
        set!(pods_per_core = number),
    ),
    field("max-pods", Kind::Int, "Most pods on the node.", set!(max_pods = number)),
    field("pod-cidr", Kind::String, "Range of pod addresses, for standalone use.", |c, v| {
        c.pod_cidr = Some(v.to_owned());
        Ok(())
    }),
    field(
        "allowed-unsafe-sysctls",
        Kind::Strings,
        "Sysctls beyond the safe ones that pods may set; a name may end with '*'.",
        set!(allowed_unsafe_sysctls = list),
    ),
    field("pod-max-pids", Kind::Int, "Most tasks per pod; -1 is no limit.", set!(pod_pids_limit = number)),
    field("address", Kind::String, "Address to serve on.", set!(address = text)),
    field("port", Kind::Int, "Port to serve on.", set!(port = number)),
    field("tls-cert-file", Kind::String, "Serving certificate.", set!(tls_cert_file = some_path)),
    field(
        "tls-private-key-file",
        Kind::String,
        "Key of the serving certificate.",
        set!(tls_private_key_file = some_path),
    ),
    field(
        "tls-cipher-suites",
        Kind::Strings,
        "Cipher suites served with TLS 1.2, by their IANA names.",
        set!(tls_cipher_suites = list),
    ),
    field(
        "tls-min-version",
        Kind::String,
        "Least TLS version served: VersionTLS12 or VersionTLS13.",
        set!(tls_min_version = text),
    ),
    field(
        "client-ca-file",
        Kind::String,
        "CA of client certificates.",
        set!(authentication.x509.client_ca_file = some_path),
    ),
    field(
        "anonymous-auth",
        Kind::Bool,
        "Let in callers without credentials.",
        set!(authentication.anonymous.enabled = some_bool),
    ),
    field(
        "authentication-token-webhook",
        Kind::Bool,
        "Have the API server review tokens.",
        set!(authentication.webhook.enabled = some_bool),
    ),
    field(
        "authentication-token-webhook-cache-ttl",
        Kind::Duration,
        "How long the review of a token counts.",
        set!(authentication.webhook.cache_ttl = some_duration),
    ),
    field(
        "authorization-webhook-cache-authorized-ttl",
        Kind::Duration,
        "How long a caller that may stays so.",
        set!(authorization.webhook.cache_authorized_ttl = some_duration),
    ),
    field(
        "authorization-webhook-cache-unauthorized-ttl",
        Kind::Duration,
        "How long a caller that may not stays so.",
        set!(authorization.webhook.cache_unauthorized_ttl = some_duration),
    ),
    field("authorization-mode", Kind::String, "Webhook or AlwaysAllow.", |c, v| {
        c.authorization.mode = Some(v.to_owned());
        Ok(())
    }),
    field("healthz-port", Kind::Int, "Local health port; 0 is none.", set!(healthz_port = number)),
    field(
        "healthz-bind-address",
        Kind::String,
        "Address of the health port.",
        set!(healthz_bind_address = text),
    ),
    field(
        "node-status-update-frequency",
        Kind::Duration,
        "How often the node's status is worked out.",
        set!(node_status_update_frequency = duration),
    ),
    field(
        "runtime-request-timeout",
        Kind::Duration,
        "Limit of calls to the runtime.",
        set!(runtime_request_timeout = duration),
    ),
    field("resolv-conf", Kind::String, "Resolver configuration pods begin with.", |c, v| {
        c.resolv_conf = v.into();
        Ok(())
    }),
    field("cpu-cfs-quota", Kind::Bool, "Enforce cpu limits.", set!(cpu_cfs_quota = boolean)),
    field(
        "serialize-image-pulls",
        Kind::Bool,
        "One pull at a time.",
        set!(serialize_image_pulls = some_bool),
    ),
    field(
        "image-gc-high-threshold",
        Kind::Int,
        "Disk use in percent at which images go.",
        set!(image_gc_high_threshold_percent = number),
    ),
    field(
        "image-gc-low-threshold",
        Kind::Int,
        "Disk use in percent down to which images go.",
        set!(image_gc_low_threshold_percent = number),
    ),
    field(
        "eviction-hard",
        Kind::String,
        "Thresholds of eviction: signal<value, separated by commas.",
        |c, v| {
            c.eviction_hard = Some(signals(v)?);
            Ok(())
        },
    ),
    field(
        "eviction-soft",
        Kind::String,
        "Thresholds that are acted on only after a while: signal<value, separated by commas.",
        set!(eviction_soft = signals),
    ),
    field(
        "eviction-soft-grace-period",
        Kind::String,
        "How long each soft threshold is waited with: signal=duration, separated by commas.",
        set!(eviction_soft_grace_period = map),
    ),
    field(
        "eviction-minimum-reclaim",
        Kind::String,
        "How much more than the threshold is won back: signal=amount, separated by commas.",
        set!(eviction_minimum_reclaim = map),
    ),
    field(
        "eviction-max-pod-grace-period",
        Kind::Int,
        "Most seconds a pod is given to end when a soft threshold is crossed.",
        set!(eviction_max_pod_grace_period = number),
    ),
    field(
        "eviction-pressure-transition-period",
        Kind::Duration,
        "How long the node says that it is under pressure after it no longer is.",
        set!(eviction_pressure_transition_period = duration),
    ),
    field(
        "container-log-max-size",
        Kind::String,
        "Size at which a log is rotated.",
        set!(container_log_max_size = text),
    ),
    field(
        "container-log-max-files",
        Kind::Int,
        "Log files kept per container.",
        set!(container_log_max_files = number),
    ),
    field("system-reserved", Kind::Map, "Kept for the system: cpu=..,memory=..", set!(system_reserved = map)),
    field(
        "reserved-cpus",
        Kind::String,
        "Processors kept for the system and Kubernetes, by number.",
        set!(reserved_system_cpus = text),
    ),
    field(
        "cpu-manager-policy",
        Kind::String,
        "none, or static: processors of their own for those who ask for whole ones.",
        set!(cpu_manager_policy = text),
    ),
    field(
        "cpu-manager-policy-options",
        Kind::Map,
        "Options of the static policy: full-pcpus-only, strict-cpu-reservation, distribute-cpus-across-numa, align-by-socket, distribute-cpus-across-cores, prefer-align-cpus-by-uncorecache.",
        set!(cpu_manager_policy_options = map),
    ),
    field(
        "cpu-manager-reconcile-period",
        Kind::Duration,
        "How often it is looked whether containers are on their processors.",
        set!(cpu_manager_reconcile_period = duration),
    ),
    field(
        "memory-manager-policy",
        Kind::String,
        "None, or Static: memory from certain nodes for containers of Guaranteed pods.",
        set!(memory_manager_policy = text),
    ),
    field(
        "reserved-memory",
        Kind::String,
        "Memory kept from pods on each node: 0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=2Gi.",
        set!(reserved_memory = reservations),
    ),
    field(
        "topology-manager-policy",
        Kind::String,
        "none, best-effort, restricted or single-numa-node.",
        set!(topology_manager_policy = text),
    ),
    field(
        "topology-manager-scope",
        Kind::String,
        "What is put together: container or pod.",
        set!(topology_manager_scope = text),
    ),
    field(
        "topology-manager-policy-options",
        Kind::Map,
        "prefer-closest-numa-nodes, max-allowable-numa-nodes.",
        set!(topology_manager_policy_options = map),
    ),
    field("kube-reserved", Kind::Map, "Kept for Kubernetes: cpu=..,memory=..", set!(kube_reserved = map)),
    field(
        "seccomp-default",
        Kind::Bool,
        "RuntimeDefault as the default seccomp profile.",
        set!(seccomp_default = boolean),
    ),
    field(
        "rotate-certificates",
        Kind::Bool,
        "Ask for the next client certificate before the present one runs out.",
        set!(rotate_certificates = boolean),
    ),
    field(
        "rotate-server-certificates",
        Kind::Bool,
        "Ask the cluster for the serving certificate.",
        set!(server_tls_bootstrap = boolean),
    ),
    field("fail-cgroupv1", Kind::Bool, "Refuse to run on cgroup v1.", set!(fail_cgroup_v1 = boolean)),
    field("fail-swap-on", Kind::Bool, "Refuse to run with swap.", set!(fail_swap_on = boolean)),
    field("kube-api-qps", Kind::Int, "Calls per second to the API server.", set!(kube_api_qps = number)),
    field("kube-api-burst", Kind::Int, "Burst of calls to the API server.", set!(kube_api_burst = number)),
    field("enable-server", Kind::Bool, "Serve the kubelet's API.", set!(enable_server = boolean)),
    field(
        "enable-debugging-handlers",
        Kind::Bool,
        "Serve logs and commands in containers.",
        set!(enable_debugging_handlers = boolean),
    ),
    field(
        "enforce-node-allocatable",
        Kind::Strings,
        "What is held to what is kept for it: pods, system-reserved, kube-reserved, the latter two also -compressible; or none.",
        set!(enforce_node_allocatable = list),
    ),
    field("event-qps", Kind::Int, "Events per second.", set!(event_record_qps = number)),
    field("event-burst", Kind::Int, "Events that may be sent at once.", set!(event_burst = number)),
    field(
        "image-service-endpoint",
        Kind::String,
        "Socket of the image service, where it is not the runtime's.",
        set!(image_service_endpoint = text),
    ),
    field("max-open-files", Kind::Int, "Files the kubelet may have open.", set!(max_open_files = number)),
    field(
        "minimum-image-ttl-duration",
        Kind::Duration,
        "How long an image is kept at least that nobody uses.",
        set!(image_minimum_gc_age = duration),
    ),
    field(
        "node-status-max-images",
        Kind::Int,
        "Most images in the node's status; -1 is all.",
        set!(node_status_max_images = number),
    ),
    field("oom-score-adj", Kind::Int, "The kubelet's own oom_score_adj.", set!(oom_score_adj = number)),
    field(
        "protect-kernel-defaults",
        Kind::Bool,
        "Refuse to run where kernel settings are not as the kubelet needs them, in place of setting them.",
        set!(protect_kernel_defaults = boolean),
    ),
    field("registry-qps", Kind::Int, "Pulls per second; 0 is no limit.", set!(registry_pull_qps = number)),
    field("registry-burst", Kind::Int, "Pulls that may begin at once.", set!(registry_burst = number)),
    field(
        "sync-frequency",
        Kind::Duration,
        "How often pods in order are looked at; content of volumes is refreshed at this pace.",
        set!(sync_frequency = duration),
    ),
    field(
        "volume-stats-agg-period",
        Kind::Duration,
        "How long what volumes take counts before they are walked through again.",
        set!(volume_stats_agg_period = duration),
    ),
    own(
        "minimum-container-ttl-duration",
        Kind::Duration,
        "How long a container that has ended is kept at least.",
    ),
    own(
        "maximum-dead-containers-per-container",
        Kind::Int,
        "Most ended instances of a container that are kept. [default 1]",
    ),
    own(
        "maximum-dead-containers",
        Kind::Int,
        "Most ended containers that are kept in all; below zero is no limit. [default -1]",
    ),
    own("lock-file", Kind::String, "File that is locked while the kubelet runs."),
    own("exit-on-lock-contention", Kind::Bool, "End when somebody else opens the lock file."),
    field(
        "contention-profiling",
        Kind::Bool,
        "Record waiting for locks: there is no Go runtime, no effect.",
        set!(enable_contention_profiling = boolean),
    ),
    field(
        "cpu-cfs-quota-period",
        Kind::Duration,
        "The period of cpu limits, 1ms to 1s.",
        set!(cpu_cfs_quota_period = duration),
    ),
    field(
        "enable-controller-attach-detach",
        Kind::Bool,
        "Controllers attach volumes; without that, volumes of drivers that have to be attached do not work.",
        set!(enable_controller_attach_detach = boolean),
    ),
    field("hairpin-mode", Kind::String, "The network plugin's matter: no effect.", set!(hairpin_mode = text)),
    field(
        "http-check-frequency",
        Kind::Duration,
        "How often --manifest-url is looked at.",
        set!(http_check_frequency = duration),
    ),
    field("manifest-url", Kind::String, "URL of static pods.", set!(static_pod_url = text)),
    field(
        "manifest-url-header",
        Kind::StringArray,
        "Headers of the request for --manifest-url, as name:value, separated by commas; may be repeated.",
        set!(static_pod_url_header = headers),
    ),
    field(
        "kernel-memcg-notification",
        Kind::Bool,
        "Memory is looked at every ten seconds in any case: no effect.",
        set!(kernel_memcg_notification = boolean),
    ),
    field(
        "kube-reserved-cgroup",
        Kind::String,
        "cgroup of Kubernetes' own daemons, for --enforce-node-allocatable=kube-reserved.",
        set!(kube_reserved_cgroup = text),
    ),
    field(
        "system-reserved-cgroup",
        Kind::String,
        "cgroup of the system's daemons, for --enforce-node-allocatable=system-reserved.",
        set!(system_reserved_cgroup = text),
    ),
    field(
        "kubelet-cgroups",
        Kind::String,
        "cgroup the kubelet moves itself to.",
        set!(kubelet_cgroups = text),
    ),
    field(
        "system-cgroups",
        Kind::String,
        "cgroup that processes of the root cgroup are moved to, but for the kernel's.",
        set!(system_cgroups = text),
    ),
    field(
        "local-storage-capacity-isolation",
        Kind::Bool,
        "Count and limit the local storage that pods use.",
        set!(local_storage_capacity_isolation = boolean),
    ),
    field(
        "make-iptables-util-chains",
        Kind::Bool,
        "There is no iptables here: no effect.",
        set!(make_iptables_util_chains = boolean),
    ),
    field(
        "qos-reserved",
        Kind::Map,
        "Part of the memory that pods ask for which is kept from lower classes: memory=50%; needs the gate QOSReserved.",
        set!(qos_reserved = map),
    ),
    field(
        "read-only-port",
        Kind::Int,
        "Port of health, pods, stats and metrics without authentication; 0 is none.",
        set!(read_only_port = number),
    ),
    field("runonce", Kind::Bool, "Refused: there is no such mode any more.", set!(run_once = boolean)),
    field(
        "streaming-connection-idle-timeout",
        Kind::Duration,
        "Taken and not read, as by upstream's kubelet.",
        set!(streaming_connection_idle_timeout = duration),
    ),
    field(
        "kube-api-content-type",
        Kind::String,
        "Whatever is smaller on the wire: no effect.",
        set!(content_type = text),
    ),
    field(
        "volume-plugin-dir",
        Kind::String,
        "There are no FlexVolumes: no effect.",
        set!(volume_plugin_dir = text),
    ),
    only("experimental-mounter-path", Kind::String, &["", "mount"], "Not supported."),
    only("experimental-allocatable-ignore-eviction", Kind::Bool, &["false"], "Only false."),
    nothing(
        "runtime-cgroups",
        Kind::String,
        "Only statistics of the runtime itself would need it: no effect.",
    ),
    nothing("application-metrics-count-limit", Kind::Int, CADVISOR),
    nothing("boot-id-file", Kind::String, CADVISOR),
    nothing("container-hints", Kind::String, CADVISOR),
    nothing("containerd", Kind::String, CADVISOR),
    nothing("containerd-namespace", Kind::String, CADVISOR),
    nothing("enable-load-reader", Kind::Bool, CADVISOR),
    nothing("event-storage-age-limit", Kind::String, CADVISOR),
    nothing("event-storage-event-limit", Kind::String, CADVISOR),
    nothing("global-housekeeping-interval", Kind::Duration, CADVISOR),
    nothing("housekeeping-interval", Kind::Duration, CADVISOR),
    nothing("log-cadvisor-usage", Kind::Bool, CADVISOR),
    nothing("machine-id-file", Kind::String, CADVISOR),
    nothing("max-housekeeping-interval", Kind::Duration, CADVISOR),
    nothing("storage-driver-buffer-duration", Kind::Duration, CADVISOR),
    nothing("storage-driver-db", Kind::String, CADVISOR),
    nothing("storage-driver-host", Kind::String, CADVISOR),
    nothing("storage-driver-password", Kind::String, CADVISOR),
    nothing("storage-driver-secure", Kind::Bool, CADVISOR),
    nothing("storage-driver-table", Kind::String, CADVISOR),
    nothing("storage-driver-user", Kind::String, CADVISOR),
];

/// All flags of the kubelet.
#[must_use]
pub fn set() -> FlagSet {
    let all = FLAGS.iter().map(|f| {
        let section = match f.does {
            Use::Own => "generic",
            Use::Field(_) => "configuration file",
            Use::Only(_) | Use::Nothing => "compatibility",
        };
        Flag::new(f.name, f.kind, "", f.help).section(section)
    });
    FlagSet::new("kubelet", "Runs the pods of a node through a container runtime.", all)
        .with(group::logging())
        .with([Flag::new(Switches::FLAG, Kind::BoolMap, "", features::help())])
}

/// Applies the given flags to the file's fields.
///
/// # Errors
/// When a value does not fit.
pub fn overlay(given: &Values, file: &mut KubeletConfiguration) -> Result<(), OptionsError> {
    for flag in FLAGS.iter().filter(|f| given.is_set(f.name)) {
        let value = match flag.kind {
            Kind::Bool => given.bool(flag.name).to_string(),
            Kind::Strings | Kind::StringArray => given.list(flag.name).join(","),
            Kind::Map => {
                let pairs: Vec<String> =
                    given.map(flag.name).iter().map(|(k, v)| format!("{k}={v}")).collect();
                pairs.join(",")
            }
            _ => given.string(flag.name).to_owned(),
        };
        match flag.does {
            Use::Field(apply) => {
                apply(file, &value).map_err(|e| OptionsError::Invalid(format!("--{}: {e}", flag.name)))?;
            }
            Use::Only(values) if !values.contains(&value.as_str()) => {
                let text = format!("--{}: {value} is not supported by this kubelet", flag.name);
                return Err(OptionsError::Invalid(text));
            }
            Use::Own | Use::Only(_) | Use::Nothing => {}
        }
    }
    file.feature_gates.extend(given.bool_map(Switches::FLAG));
    Ok(())
}

#[cfg(test)]
mod tests {
    use component_base::flags::Parsed;

    use super::*;
    use crate::options::{gates::SWITCHES, validate};

    fn refused(argument: &str) -> Option<String> {
        let Ok(Parsed::Run(values)) = set().parse([argument.to_owned()]) else {
            return Some(format!("{argument} is no flag"));
        };
        let mut file = KubeletConfiguration::defaulted();
        if let Err(error) = overlay(&values, &mut file) {
            return Some(error.to_string());
        }
        validate::check(&file, SWITCHES.of(&file.feature_gates).unwrap()).into_iter().next()
    }

    #[test]
    fn every_flag_of_upstreams_is_known() {
        assert_eq!(component_base::reference::flags_lacking(&set()), Vec::<String>::new());
    }

    #[test]
    fn flags_of_upstream_are_served_or_refused_by_name() {
        for fine in [
            "--runonce=false",
            "--cpu-cfs-quota-period=10ms",
            "--enable-controller-attach-detach=false",
            "--manifest-url=http://a/b",
            "--manifest-url-header=a:b,c:d",
            "--qos-reserved=memory=50%",
            "--read-only-port=10255",
            "--experimental-mounter-path=",
            "--hairpin-mode=none",
            "--housekeeping-interval=10s",
            "--log-flush-frequency=5s",
            "--registry-qps=0",
        ] {
            assert_eq!(refused(fine), None, "{fine}");
        }
        for (wrong, field) in [
            ("--runonce", "runOnce"),
            ("--cpu-cfs-quota-period=10s", "cpuCFSQuotaPeriod"),
            ("--manifest-url-header=a", "manifest-url-header"),
            ("--qos-reserved=cpu=50%", "qos-reserved"),
            ("--experimental-mounter-path=/x", "experimental-mounter-path"),
            ("--enforce-node-allocatable=system-reserved", "systemReservedCgroup"),
            ("--no-such-flag", "no-such-flag"),
        ] {
            let text = refused(wrong).unwrap_or_default();
            assert!(text.contains(field), "{wrong}: {text}");
        }
    }

    #[test]
    fn no_flag_is_listed_twice() {
        let mut names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
