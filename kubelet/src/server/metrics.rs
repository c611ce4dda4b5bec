//! Metrics in Prometheus' text format: the process's own, and what containers use (`/metrics/resource`, `/metrics/cadvisor`).
//!
//! Contract: names and labels as upstream's kubelet; only cpu and memory of containers are measured.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use parking_lot::Mutex;

use super::{
    ServeError, Server,
    stats::{Usage, node_cpu, usages},
};
use crate::node::machine;

/// A family of samples being written.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing into a String does not fail.
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { out, name }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
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
fn number(value: u64) -> f64 {
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
#[derive(Debug, Default)]
pub struct ProbeCounts(BTreeMap<ProbeLabels, u64>);

/// Counts of probes.
pub static PROBES: Mutex<ProbeCounts> = Mutex::new(ProbeCounts(BTreeMap::new()));

impl ProbeCounts {
    /// Counts one probe.
    pub fn add(&mut self, labels: ProbeLabels) {
        *self.0.entry(labels).or_default() += 1;
    }

    /// Forgets a pod.
    pub fn forget(&mut self, uid: &str) {
        self.0.retain(|labels, _| labels.uid != uid);
    }
}

/// `/metrics/probes`.
#[must_use]
pub fn probes() -> String {
    let mut out = String::new();
    let help =
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    let mut family = Family::new(&mut out, "prober_probe_total", "counter", help);
    for (labels, count) in &PROBES.lock().0 {
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
    out
}

/// `/metrics/resource`: what autoscalers read.
pub(super) async fn resource(server: &Arc<Server>) -> Result<String, ServeError> {
    let all = usages(server).await?;
    let mut out = String::new();
    let labels = |u: &Usage| {
        [("container", u.name.clone()), ("namespace", u.namespace.clone()), ("pod", u.pod.clone())]
    };
    let help = "[STABLE] Cumulative cpu time consumed by the container in core-seconds";
    let mut family = Family::new(&mut out, "container_cpu_usage_seconds_total", "counter", help);
    for usage in &all {
        family.add(&borrowed(&labels(usage)), seconds(usage.cpu), Some(usage.at));
    }
    let help = "[STABLE] Current working set of the container in bytes";
    let mut family = Family::new(&mut out, "container_memory_working_set_bytes", "gauge", help);
    for usage in &all {
        family.add(&borrowed(&labels(usage)), number(usage.working_set), Some(usage.at));
    }
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    Family::new(&mut out, "node_cpu_usage_seconds_total", "counter", help).add(
        &[],
        seconds(node_cpu()),
        None,
    );
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| machine::kilobytes(&meminfo, key).unwrap_or(0);
    let used = u64::try_from(kilobytes("MemTotal:") - kilobytes("MemAvailable:")).unwrap_or(0);
    let help = "[STABLE] Current working set of the node in bytes";
    let mut family = Family::new(&mut out, "node_memory_working_set_bytes", "gauge", help);
    family.add(&[], number(used * 1024), None);
    let mut pods: BTreeMap<(&str, &str), (u64, u64, i64)> = BTreeMap::new();
    for usage in &all {
        let entry = pods.entry((&usage.namespace, &usage.pod)).or_default();
        *entry = (entry.0 + usage.cpu, entry.1 + usage.working_set, entry.2.max(usage.at));
    }
    let help = "[STABLE] Cumulative cpu time consumed by the pod in core-seconds";
    let mut family = Family::new(&mut out, "pod_cpu_usage_seconds_total", "counter", help);
    for ((namespace, pod), (cpu, _, at)) in &pods {
        family.add(&[("namespace", namespace), ("pod", pod)], seconds(*cpu), Some(*at));
    }
    let help = "[STABLE] Current working set of the pod in bytes";
    let mut family = Family::new(&mut out, "pod_memory_working_set_bytes", "gauge", help);
    for ((namespace, pod), (_, memory, at)) in &pods {
        family.add(&[("namespace", namespace), ("pod", pod)], number(*memory), Some(*at));
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    Family::new(&mut out, "resource_scrape_error", "gauge", help).add(&[], 0.0, None);
    Ok(out)
}

fn borrowed<'a>(labels: &'a [(&'static str, String); 3]) -> [(&'static str, &'a str); 3] {
    [(labels[0].0, &labels[0].1), (labels[1].0, &labels[1].1), (labels[2].0, &labels[2].1)]
}

/// `/metrics/cadvisor`: cpu and memory of containers.
pub(super) async fn cadvisor(server: &Arc<Server>) -> Result<String, ServeError> {
    type Read = fn(&Usage) -> f64;
    let all = usages(server).await?;
    let families: [(&'static str, &str, &str, Read); 4] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |u| {
            seconds(u.cpu)
        }),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |u| number(u.memory)),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |u| {
            number(u.working_set)
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| number(u.rss)),
    ];
    let mut out = String::new();
    for (name, kind, help, read) in families {
        let mut family = Family::new(&mut out, name, kind, help);
        for usage in &all {
            let labels = [
                ("container", usage.name.as_str()),
                ("id", &usage.id),
                ("name", &usage.id),
                ("namespace", &usage.namespace),
                ("pod", &usage.pod),
            ];
            family.add(&labels, read(usage), Some(usage.at));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut out = String::new();
        Family::new(&mut out, "x", "gauge", "h").add(&[("a", "q\"\\")], 1.5, Some(7));
        assert_eq!(out, "# HELP x h\n# TYPE x gauge\nx{a=\"q\\\"\\\\\"} 1.5 7\n");
    }
}
