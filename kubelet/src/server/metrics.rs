//! Metrics in Prometheus' text format: the process's own, and what containers use (`/metrics/resource`).
//!
//! Contract: names and labels as upstream's kubelet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::DEFAULT_BUCKETS;

use super::{
    ServeError, Server,
    stats::{begun, node_cpu},
};
use crate::{
    node::machine,
    stats::{ContainerUsage, PodUsage, VolumeUsage},
};

/// A family of samples being written.
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl<'a> Family<'a> {
    pub(super) fn new(out: &'a mut String, name: &'a str, kind: &str, help: &str) -> Self {
        // Writing into a String does not fail.
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { out, name }
    }

    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let stamp = at.map(|at| format!(" {at}")).unwrap_or_default();
        let name = self.name;
        // Writing into a String does not fail.
        let _infallible = writeln!(self.out, "{name}{braces} {value}{stamp}");
    }
}

#[allow(clippy::cast_precision_loss, reason = "samples are floating point numbers")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "samples are floating point numbers")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss, reason = "samples are floating point numbers")]
fn signed(value: i64) -> f64 {
    value as f64
}

/// The process's metrics.
#[must_use]
pub fn process() -> String {
    match component_base::metrics::encode() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            tracing::error!(%error, "cannot encode metrics");
            String::new()
        }
    }
}

/// One series of `prober_probe_total`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeLabels {
    /// `Startup`, `Readiness` or `Liveness`.
    pub kind: &'static str,
    /// `successful`, `failed` or `unknown`.
    pub result: &'static str,
    /// The container.
    pub container: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod's name.
    pub pod: String,
    /// Its pod's uid.
    pub uid: String,
}

/// Counts of probes of the pods that are on the node.
#[derive(Debug)]
pub struct ProbeCounts {
    counts: BTreeMap<ProbeLabels, u64>,
    /// Of those that did not fail. The result among the labels says nothing here.
    times: BTreeMap<ProbeLabels, Times>,
}

/// How often something took so long.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// By the bounds of `DEFAULT_BUCKETS`.
    within: [u64; DEFAULT_BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Times {
    fn add(&mut self, took: f64) {
        self.count += 1;
        self.sum += took;
        let holds = self.within.iter_mut().zip(DEFAULT_BUCKETS).filter(|(_, bound)| took <= **bound);
        holds.for_each(|(count, _)| *count += 1);
    }
}

/// Counts of probes.
pub static PROBES: Mutex<ProbeCounts> =
    Mutex::new(ProbeCounts { counts: BTreeMap::new(), times: BTreeMap::new() });

impl ProbeCounts {
    /// Counts one probe.
    pub fn add(&mut self, labels: ProbeLabels, took: Duration) {
        if labels.result != "failed" {
            let of_all = ProbeLabels { result: "", ..labels.clone() };
            self.times.entry(of_all).or_default().add(took.as_secs_f64());
        }
        *self.counts.entry(labels).or_default() += 1;
    }

    /// Forgets a pod.
    pub fn forget(&mut self, uid: &str) {
        self.counts.retain(|labels, _| labels.uid != uid);
        self.times.retain(|labels, _| labels.uid != uid);
    }
}

/// `/metrics/probes`.
#[must_use]
pub fn probes() -> String {
    let mut out = String::new();
    let help =
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    let known = PROBES.lock();
    let mut family = Family::new(&mut out, "prober_probe_total", "counter", help);
    for (labels, count) in &known.counts {
        let pairs = [
            ("container", labels.container.as_str()),
            ("namespace", &labels.namespace),
            ("pod", &labels.pod),
            ("pod_uid", &labels.uid),
            ("probe_type", labels.kind),
            ("result", labels.result),
        ];
        family.add(&pairs, number(*count), None);
    }
    let help = "[ALPHA] Duration in seconds for a probe response.";
    Family::new(&mut out, "prober_probe_duration_seconds", "histogram", help);
    for (labels, times) in &known.times {
        let pairs = [
            ("container", labels.container.as_str()),
            ("namespace", &labels.namespace),
            ("pod", &labels.pod),
            ("probe_type", labels.kind),
        ];
        let mut buckets = Family { out: &mut out, name: "prober_probe_duration_seconds_bucket" };
        let bounds = DEFAULT_BUCKETS.iter().map(ToString::to_string).zip(times.within);
        for (bound, count) in bounds.chain([("+Inf".to_owned(), times.count)]) {
            let le = [("le", bound.as_str())];
            buckets.add(&[&pairs[..], &le].concat(), number(count), None);
        }
        Family { out: &mut out, name: "prober_probe_duration_seconds_sum" }.add(&pairs, times.sum, None);
        let count = number(times.count);
        Family { out: &mut out, name: "prober_probe_duration_seconds_count" }.add(&pairs, count, None);
    }
    out
}

/// `/metrics/resource`: what autoscalers read.
pub(super) async fn resource(server: &Arc<Server>) -> Result<String, ServeError> {
    let pods = server.stats.compute().await?;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |key: &str| {
        u64::try_from(machine::kilobytes(&meminfo, key).unwrap_or(0)).unwrap_or(0).saturating_mul(1024)
    };
    let node = NodeFigures {
        cpu: node_cpu(),
        working_set: bytes("MemTotal:").saturating_sub(bytes("MemAvailable:")),
        swap: bytes("SwapTotal:").saturating_sub(bytes("SwapFree:")),
        now: Timestamp::now().as_millisecond(),
    };
    Ok(resource_text(&pods, &node))
}

/// The node's own part of `/metrics/resource`.
struct NodeFigures {
    cpu: u64,
    working_set: u64,
    swap: u64,
    now: i64,
}

fn resource_text(pods: &[PodUsage], node: &NodeFigures) -> String {
    type OfContainer = fn(&PodUsage, &ContainerUsage) -> Option<f64>;
    type OfPod = fn(&PodUsage) -> f64;
    let of_containers: [(&str, &str, &str, OfContainer); 5] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            |_, c| Some(seconds(c.compute.usage.cpu)),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            |_, c| Some(number(c.compute.usage.working_set)),
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            |p, c| begun(p.status(), &c.name).map(|at| at.as_duration().as_secs_f64()),
        ),
        (
            "container_swap_limit_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            |_, c| c.compute.swap_left.map(|left| number(left.saturating_add(c.compute.swap))),
        ),
        (
            "container_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            |_, c| Some(number(c.compute.swap)),
        ),
    ];
    let of_pods: [(&str, &str, &str, OfPod); 3] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            |p| seconds(p.compute.usage.cpu),
        ),
        ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", |p| {
            number(p.compute.usage.working_set)
        }),
        (
            "pod_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            |p| number(p.compute.swap),
        ),
    ];
    let mut out = String::new();
    for (name, kind, help, read) in of_containers {
        let mut family = Family::new(&mut out, name, kind, help);
        for (pod, container) in pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
            let labels =
                [("container", container.name.as_str()), ("namespace", &pod.namespace), ("pod", &pod.name)];
            if let Some(value) = read(pod, container) {
                family.add(&labels, value, Some(container.at));
            }
        }
    }
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    let mut family = Family::new(&mut out, "node_cpu_usage_seconds_total", "counter", help);
    family.add(&[], seconds(node.cpu), Some(node.now));
    let help = "[STABLE] Current working set of the node in bytes";
    let mut family = Family::new(&mut out, "node_memory_working_set_bytes", "gauge", help);
    family.add(&[], number(node.working_set), Some(node.now));
    let help = "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems";
    let mut family = Family::new(&mut out, "node_swap_usage_bytes", "gauge", help);
    family.add(&[], number(node.swap), Some(node.now));
    for (name, kind, help, read) in of_pods {
        let mut family = Family::new(&mut out, name, kind, help);
        for pod in pods {
            family.add(&[("namespace", &pod.namespace), ("pod", &pod.name)], read(pod), Some(node.now));
        }
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    Family::new(&mut out, "resource_scrape_error", "gauge", help).add(&[], 0.0, None);
    out
}

/// The volumes of claims and the logs of containers, for the end of `/metrics`.
pub(super) async fn disks(server: &Arc<Server>) -> Result<String, ServeError> {
    let pods = server.stats.all().await?;
    Ok(volumes_text(&pods) + &logs_text(&pods))
}

fn logs_text(pods: &[PodUsage]) -> String {
    let mut out = String::new();
    let help = "[ALPHA] Bytes used by the container's logs on the filesystem.";
    let mut family = Family::new(&mut out, "kubelet_container_log_filesystem_used_bytes", "gauge", help);
    for (pod, container) in pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
        let labels = [
            ("container", container.name.as_str()),
            ("namespace", &pod.namespace),
            ("pod", &pod.name),
            ("uid", &pod.uid),
        ];
        family.add(&labels, number(container.logs.bytes), None);
    }
    out
}

fn volumes_text(pods: &[PodUsage]) -> String {
    type Read = fn(&VolumeUsage) -> f64;
    let families: [(&str, &str, Read); 6] = [
        ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |v| {
            signed(v.disk.available)
        }),
        ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |v| {
            signed(v.disk.capacity)
        }),
        ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |v| signed(v.disk.inodes)),
        ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |v| {
            signed(v.disk.inodes_free)
        }),
        ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |v| {
            number(v.taken.inodes)
        }),
        ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |v| number(v.taken.bytes)),
    ];
    let claims = || {
        pods.iter().flat_map(|p| {
            p.volumes.iter().filter_map(move |v| Some((p.namespace.as_str(), v.claim.as_deref()?, v)))
        })
    };
    let mut out = String::new();
    if claims().next().is_none() {
        return out;
    }
    for (name, help, read) in families {
        let mut family = Family::new(&mut out, name, "gauge", &format!("[ALPHA] {help}"));
        // Pods may share a claim; it is shown once.
        let mut shown = BTreeSet::new();
        for (namespace, claim, volume) in claims().filter(|(n, c, _)| shown.insert((*n, *c))) {
            family.add(&[("namespace", namespace), ("persistentvolumeclaim", claim)], read(volume), None);
        }
    }
    health_text(claims().filter_map(|(n, c, v)| Some((n, c, v.abnormal?))), &mut out);
    out
}

/// How volumes of claims are, as far as their drivers say.
fn health_text<'a>(told: impl Iterator<Item = (&'a str, &'a str, bool)>, out: &mut String) {
    let all: BTreeMap<(&str, &str), bool> = told.map(|(n, c, abnormal)| ((n, c), abnormal)).collect();
    if all.is_empty() {
        return;
    }
    let help = "[ALPHA] 1 for a volume that its driver says is not as it should be, 0 for one that is";
    let mut family = Family::new(out, "kubelet_volume_stats_health_status_abnormal", "gauge", help);
    for ((namespace, claim), abnormal) in all {
        let value = if abnormal { 1.0 } else { 0.0 };
        family.add(&[("namespace", namespace), ("persistentvolumeclaim", claim)], value, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{stats::disk::Taken, testing};

    #[test]
    fn containers_and_pods_have_their_lines() {
        let node = NodeFigures { cpu: 0, working_set: 0, swap: 0, now: 9 };
        let text = resource_text(&[testing::usage()], &node);
        let line = "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"a\"} 1.5 7\n";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("container_start_time_seconds{"), "it has not been started: {text}");
    }

    #[test]
    fn probes_are_counted_and_timed_until_their_pod_is_gone() {
        let labels = |result| ProbeLabels {
            kind: "Liveness",
            result,
            container: "c".into(),
            namespace: "ns".into(),
            pod: "a".into(),
            uid: "probed".into(),
        };
        for (result, took) in [("successful", 20), ("successful", 7000), ("failed", 1)] {
            PROBES.lock().add(labels(result), Duration::from_millis(took));
        }
        let text = probes();
        let of = "container=\"c\",namespace=\"ns\",pod=\"a\"";
        for line in [
            format!(
                "prober_probe_total{{{of},pod_uid=\"probed\",probe_type=\"Liveness\",result=\"failed\"}} 1\n"
            ),
            format!("prober_probe_duration_seconds_bucket{{{of},probe_type=\"Liveness\",le=\"0.01\"}} 0\n"),
            format!("prober_probe_duration_seconds_bucket{{{of},probe_type=\"Liveness\",le=\"0.025\"}} 1\n"),
            format!("prober_probe_duration_seconds_bucket{{{of},probe_type=\"Liveness\",le=\"+Inf\"}} 2\n"),
            format!("prober_probe_duration_seconds_count{{{of},probe_type=\"Liveness\"}} 2\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        PROBES.lock().forget("probed");
        assert!(!probes().contains("pod=\"a\""));
    }

    #[test]
    fn logs_of_containers_are_shown_with_their_pod() {
        let mut pod = testing::usage();
        pod.uid = "u".into();
        pod.containers[0].logs.bytes = 5;
        let line = "kubelet_container_log_filesystem_used_bytes{container=\"c\",namespace=\"ns\",pod=\"a\",uid=\"u\"} 5\n";
        assert!(logs_text(&[pod]).ends_with(line));
    }

    #[test]
    fn a_claim_of_two_pods_is_shown_once() {
        let volume = VolumeUsage {
            name: "v".into(),
            claim: Some("data".into()),
            ephemeral: false,
            taken: Taken { bytes: 5, inodes: 0 },
            disk: machine::FsUsage { capacity: 10, available: 4, ..Default::default() },
            abnormal: Some(true),
        };
        let pod = PodUsage { volumes: vec![volume], ..testing::usage() };
        let text = volumes_text(&[pod.clone(), pod]);
        let line = "kubelet_volume_stats_used_bytes{namespace=\"ns\",persistentvolumeclaim=\"data\"} 5\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        let line = "kubelet_volume_stats_health_status_abnormal{namespace=\"ns\",persistentvolumeclaim=\"data\"} 1\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert_eq!(volumes_text(&[testing::usage()]), "");
    }

    #[test]
    fn samples_are_escaped() {
        let mut out = String::new();
        Family::new(&mut out, "x", "gauge", "h").add(&[("a", "q\"\\")], 1.5, Some(7));
        assert_eq!(out, "# HELP x h\n# TYPE x gauge\nx{a=\"q\\\"\\\\\"} 1.5 7\n");
    }
}
