//! The kubelet's flags: one table, from which the parser, the help text and the overlay on the file come.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use k8s_openapi::api::core::v1::Taint;

use super::{
    OptionsError,
    file::{GoDuration, KubeletConfiguration},
};

/// How a flag that has a field in the file is applied to it.
type Overlay = fn(&mut KubeletConfiguration, &str) -> Result<(), String>;

/// One flag.
struct Flag {
    name: &'static str,
    help: &'static str,
    overlay: Option<Overlay>,
}

const fn own(name: &'static str, help: &'static str) -> Flag {
    Flag { name, help, overlay: None }
}

const fn field(name: &'static str, help: &'static str, overlay: Overlay) -> Flag {
    Flag { name, help, overlay: Some(overlay) }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that fits"))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn duration(text: &str) -> Result<GoDuration, String> {
    component_base::goduration::parse(text).map(GoDuration).map_err(|e| e.to_string())
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

const FLAGS: &[Flag] = &[
    own("config", "Path of the kubelet's configuration file; flags given win over it."),
    own("kubeconfig", "Path of the kubeconfig for the API server. Without it the kubelet runs standalone."),
    own("hostname-override", "The node's name, in place of the host's."),
    own("node-ip", "The node's address, or one of each family, separated by a comma."),
    own("root-dir", "Folder of volumes and of the kubelet's own files. [default /var/lib/kubelet]"),
    own("cert-dir", "Folder of the serving certificate. [default <root-dir>/pki]"),
    own("node-labels", "Labels of the node when it registers: key=value, separated by commas."),
    own("provider-id", "Identifies the node for a cloud provider."),
    own("cloud-provider", "\"external\" leaves the node's addresses to a cloud controller."),
    own("v", "Log verbosity, 0 to 10. [default 0]"),
    field(
        "container-runtime-endpoint",
        "Socket of the container runtime.",
        set!(container_runtime_endpoint = text),
    ),
    field("cgroup-driver", "How cgroups are made; only cgroupfs.", set!(cgroup_driver = text)),
    field("cgroup-root", "cgroup below which all pods live.", set!(cgroup_root = text)),
    field(
        "cgroups-per-qos",
        "Make cgroups of quality-of-service classes and pods.",
        set!(cgroups_per_qos = boolean),
    ),
    field("register-node", "Register the node with the API server.", set!(register_node = boolean)),
    field(
        "register-with-taints",
        "Taints of a new node: key=value:effect.",
        set!(register_with_taints = taints),
    ),
    field("cluster-dns", "Addresses of the cluster's DNS.", set!(cluster_dns = list)),
    field("cluster-domain", "Domain of the cluster.", set!(cluster_domain = text)),
    field("pod-manifest-path", "Folder or file of static pods.", set!(static_pod_path = some_path)),
    field(
        "file-check-frequency",
        "How often manifests are read again.",
        set!(file_check_frequency = duration),
    ),
    field("max-pods", "Most pods on the node.", set!(max_pods = number)),
    field("pod-cidr", "Range of pod addresses, for standalone use.", |c, v| {
        c.pod_cidr = Some(v.to_owned());
        Ok(())
    }),
    field("pod-max-pids", "Most tasks per pod; -1 is no limit.", set!(pod_pids_limit = number)),
    field("address", "Address to serve on.", set!(address = text)),
    field("port", "Port to serve on.", set!(port = number)),
    field("tls-cert-file", "Serving certificate.", set!(tls_cert_file = some_path)),
    field("tls-private-key-file", "Key of the serving certificate.", set!(tls_private_key_file = some_path)),
    field(
        "client-ca-file",
        "CA of client certificates.",
        set!(authentication.x509.client_ca_file = some_path),
    ),
    field(
        "anonymous-auth",
        "Let in callers without credentials.",
        set!(authentication.anonymous.enabled = some_bool),
    ),
    field(
        "authentication-token-webhook",
        "Have the API server review tokens.",
        set!(authentication.webhook.enabled = some_bool),
    ),
    field("authorization-mode", "Webhook or AlwaysAllow.", |c, v| {
        c.authorization.mode = Some(v.to_owned());
        Ok(())
    }),
    field("healthz-port", "Local health port; 0 is none.", set!(healthz_port = number)),
    field("healthz-bind-address", "Address of the health port.", set!(healthz_bind_address = text)),
    field(
        "node-status-update-frequency",
        "How often the node's status is worked out.",
        set!(node_status_update_frequency = duration),
    ),
    field(
        "runtime-request-timeout",
        "Limit of calls to the runtime.",
        set!(runtime_request_timeout = duration),
    ),
    field("resolv-conf", "Resolver configuration pods begin with.", |c, v| {
        c.resolv_conf = v.into();
        Ok(())
    }),
    field("cpu-cfs-quota", "Enforce cpu limits.", set!(cpu_cfs_quota = boolean)),
    field("serialize-image-pulls", "One pull at a time.", set!(serialize_image_pulls = boolean)),
    field(
        "image-gc-high-threshold",
        "Disk use in percent at which images go.",
        set!(image_gc_high_threshold_percent = number),
    ),
    field(
        "image-gc-low-threshold",
        "Disk use in percent down to which images go.",
        set!(image_gc_low_threshold_percent = number),
    ),
    field("eviction-hard", "Thresholds of eviction: signal<value, separated by commas.", |c, v| {
        c.eviction_hard = Some(signals(v)?);
        Ok(())
    }),
    field("container-log-max-size", "Size at which a log is rotated.", set!(container_log_max_size = text)),
    field("container-log-max-files", "Log files kept per container.", set!(container_log_max_files = number)),
    field("system-reserved", "Kept for the system: cpu=..,memory=..", set!(system_reserved = map)),
    field("kube-reserved", "Kept for Kubernetes: cpu=..,memory=..", set!(kube_reserved = map)),
    field(
        "seccomp-default",
        "RuntimeDefault as the default seccomp profile.",
        set!(seccomp_default = boolean),
    ),
    field("fail-cgroupv1", "Refuse to run on cgroup v1.", set!(fail_cgroup_v1 = boolean)),
    field("fail-swap-on", "Refuse to run with swap.", set!(fail_swap_on = boolean)),
    field("kube-api-qps", "Calls per second to the API server.", set!(kube_api_qps = number)),
    field("kube-api-burst", "Burst of calls to the API server.", set!(kube_api_burst = number)),
    field("enable-server", "Serve the kubelet's API.", set!(enable_server = boolean)),
];

/// Flags that may stand without a value, which then is `true`.
const BOOLEANS: [&str; 11] = [
    "cgroups-per-qos",
    "register-node",
    "anonymous-auth",
    "authentication-token-webhook",
    "cpu-cfs-quota",
    "serialize-image-pulls",
    "seccomp-default",
    "fail-cgroupv1",
    "fail-swap-on",
    "enable-server",
    "enable-debugging-handlers",
];

/// The flags of one call.
pub struct Given(ArgMatches);

impl Given {
    /// The last value of a flag.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.list(name).pop()
    }

    /// All values of a flag.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        self.0.get_many::<String>(name).into_iter().flatten().cloned().collect()
    }
}

fn command() -> Command {
    let mut command = Command::new("kubelet")
        .about("Runs the pods of a node through a container runtime.")
        .version("v1.36.0")
        .help_template("{about}\n\nUsage: {usage}\n\n{options}");
    for flag in FLAGS {
        let mut arg = Arg::new(flag.name).long(flag.name).help(flag.help).action(ArgAction::Append);
        if BOOLEANS.contains(&flag.name) {
            arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        } else {
            arg = arg.num_args(1).allow_hyphen_values(true);
        }
        if flag.name == "v" {
            arg = arg.short('v');
        }
        command = command.arg(arg);
    }
    command
}

/// Parses the command line; underscores in flag names count as dashes.
///
/// # Errors
/// Unknown flags (with the nearest known one), missing values; `--help` and `--version` come this way too.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Given, OptionsError> {
    let normal = arguments.into_iter().map(|argument| match argument.strip_prefix("--") {
        Some(rest) => {
            let (name, value) = rest.split_once('=').map_or((rest, None), |(n, v)| (n, Some(v)));
            let name = name.replace('_', "-");
            value.map_or_else(|| format!("--{name}"), |v| format!("--{name}={v}"))
        }
        None => argument,
    });
    Ok(Given(command().try_get_matches_from(normal)?))
}

/// Applies the given flags to the file's fields.
///
/// # Errors
/// When a value does not fit.
pub fn overlay(given: &Given, file: &mut KubeletConfiguration) -> Result<(), OptionsError> {
    for flag in FLAGS {
        let Some(apply) = flag.overlay else { continue };
        let values = given.list(flag.name);
        if values.is_empty() {
            continue;
        }
        // Lists add up over repeats; of single values the last one counts.
        let lists =
            ["cluster-dns", "eviction-hard", "system-reserved", "kube-reserved", "register-with-taints"];
        let value =
            if lists.contains(&flag.name) { values.join(",") } else { values[values.len() - 1].clone() };
        apply(file, &value).map_err(|e| OptionsError::Invalid(format!("--{}: {e}", flag.name)))?;
    }
    Ok(())
}

/// `key=value` pairs of repeated, comma-separated values.
///
/// # Errors
/// When one has no `=`.
pub fn pairs(values: &[String]) -> Result<Vec<(String, String)>, OptionsError> {
    let map = map(&values.join(",")).map_err(OptionsError::Invalid)?;
    Ok(map.into_iter().collect())
}
