//! The process's metrics registry and constructors for metrics under upstream's names.
//!
//! Help texts carry upstream's stability level in front (`[ALPHA] ..`). Keep the handles that `with_label_values` returns,
//! as each call hashes and locks, or where labels differ from request to request let [`hot`] keep them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, OnceLock},
};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

pub mod hot;
pub mod slis;
pub mod view;

use view::View;

static VIEW: OnceLock<View> = OnceLock::new();

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process)).unwrap_or_else(|error| {
        tracing::warn!(%error, "process metrics are not available");
    });
    registry
});

/// How firmly upstream promises a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    Alpha,
    Beta,
    Stable,
}

impl Stability {
    const fn prefix(self) -> &'static str {
        match self {
            Stability::Alpha => "[ALPHA] ",
            Stability::Beta => "[BETA] ",
            Stability::Stable => "[STABLE] ",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Stability::Alpha => "ALPHA",
            Stability::Beta => "BETA",
            Stability::Stable => "STABLE",
        }
    }
}

/// Where all metrics of the process are registered.
pub fn registry() -> &'static Registry {
    &REGISTRY
}

/// How many metrics there are by what is promised of them, and how many are not shown.
struct Own {
    registered: IntCounterVec,
    disabled: IntCounter,
}

static OWN: LazyLock<Own> = LazyLock::new(|| {
    let help = |help: &str| format!("{}{help}", Stability::Beta.prefix());
    let made = IntCounterVec::new(
        Opts::new(
            "registered_metrics_total",
            help("The count of registered metrics broken by stability level and deprecation version."),
        ),
        &["stability_level", "deprecated_version"],
    );
    let total = |name: &str, text: &str| register_as_is(IntCounter::with_opts(Opts::new(name, help(text))));
    // None of ours are old enough to be hidden.
    total("hidden_metrics_total", "The count of hidden metrics.");
    Own {
        registered: register_as_is(made),
        disabled: total("disabled_metrics_total", "The count of disabled metrics."),
    }
});

/// Says how metrics are shown from now on; only the first call of a process does.
pub fn show(view: View) {
    let disabled = view.disabled.len() as u64;
    // What was said first stays.
    if VIEW.set(view).is_ok() {
        OWN.disabled.inc_by(disabled);
    }
}

/// The Prometheus text exposition of everything registered, as far as it is shown.
///
/// # Errors
/// When a collector yields metrics that cannot be written as text.
pub fn encode() -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(16 * 1024);
    let mut families = REGISTRY.gather();
    if let Some(view) = VIEW.get() {
        view.apply(&mut families);
    }
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

/// The content type of [`encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `count` buckets, each `factor` times the one before.
pub fn exponential_buckets(start: f64, factor: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(start), |bound| Some(bound * factor)).take(count).collect()
}

pub(crate) fn opts(name: &str, help: &str, stability: Stability) -> Opts {
    Opts::new(name, format!("{}{help}", stability.prefix()))
}

fn register<C: Collector + Clone + 'static>(stability: Stability, made: prometheus::Result<C>) -> C {
    OWN.registered.with_label_values(&[stability.label(), ""]).inc();
    register_as_is(made)
}

/// Registers what was made; a second registration of a name is a bug in a metrics list, reported and otherwise harmless.
fn register_as_is<C: Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    // Names and labels are constants of the program, checked by any test that touches the metric.
    #[allow(clippy::expect_used, reason = "constants of the program")]
    let collector = made.expect("metric names, labels and buckets are valid constants");
    if let Err(error) = REGISTRY.register(Box::new(collector.clone())) {
        tracing::error!(%error, "metric registered twice");
    }
    collector
}

/// A collector of its own making.
pub fn collector<C: Collector + Clone + 'static>(make: impl FnOnce() -> prometheus::Result<C>) -> C {
    register_as_is(make())
}

/// A counter.
pub fn counter(name: &str, help: &str, stability: Stability) -> IntCounter {
    register(stability, IntCounter::with_opts(opts(name, help, stability)))
}

/// Counters by labels.
pub fn counter_vec(name: &str, help: &str, stability: Stability, labels: &[&str]) -> IntCounterVec {
    register(stability, IntCounterVec::new(opts(name, help, stability), labels))
}

/// A gauge of whole numbers.
pub fn gauge(name: &str, help: &str, stability: Stability) -> IntGauge {
    register(stability, IntGauge::with_opts(opts(name, help, stability)))
}

/// Gauges of whole numbers by labels.
pub fn gauge_vec(name: &str, help: &str, stability: Stability, labels: &[&str]) -> IntGaugeVec {
    register(stability, IntGaugeVec::new(opts(name, help, stability), labels))
}

/// A gauge of floats.
pub fn float_gauge(name: &str, help: &str, stability: Stability) -> Gauge {
    register(stability, Gauge::with_opts(opts(name, help, stability)))
}

/// Gauges of floats by labels.
pub fn float_gauge_vec(name: &str, help: &str, stability: Stability, labels: &[&str]) -> GaugeVec {
    register(stability, GaugeVec::new(opts(name, help, stability), labels))
}

/// A histogram.
pub fn histogram(name: &str, help: &str, stability: Stability, buckets: Vec<f64>) -> Histogram {
    register(
        stability,
        Histogram::with_opts(HistogramOpts::from(opts(name, help, stability)).buckets(buckets)),
    )
}

/// Histograms by labels.
pub fn histogram_vec(
    name: &str,
    help: &str,
    stability: Stability,
    labels: &[&str],
    buckets: Vec<f64>,
) -> HistogramVec {
    register(
        stability,
        HistogramVec::new(HistogramOpts::from(opts(name, help, stability)).buckets(buckets), labels),
    )
}

/// How many there are, by the values of the labels.
pub type Counts = BTreeMap<Vec<String>, i64>;

/// Gauges that are counted anew whenever somebody reads them.
pub fn counted(
    name: &str,
    help: &str,
    stability: Stability,
    labels: &[&str],
    count: impl Fn() -> Counts + Send + Sync + 'static,
) {
    let gauges = IntGaugeVec::new(opts(name, help, stability), labels);
    register(stability, gauges.map(|gauges| Counted { gauges, count: Arc::new(count) }));
}

#[derive(Clone)]
struct Counted {
    gauges: IntGaugeVec,
    count: Arc<dyn Fn() -> Counts + Send + Sync>,
}

impl Collector for Counted {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauges.reset();
        for (values, count) in (self.count)() {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            self.gauges.with_label_values(&values).set(count);
        }
        self.gauges.collect()
    }
}

/// Registers `kubernetes_build_info`, which every daemon serves; harmless when repeated.
pub fn register_build_info() {
    static REGISTERED: std::sync::Once = std::sync::Once::new();
    REGISTERED.call_once(build_info);
}

fn build_info() {
    let info = crate::version::info();
    let labels = [
        ("major", info.major),
        ("minor", info.minor),
        ("git_version", info.git_version),
        ("git_commit", info.git_commit),
        ("git_tree_state", info.git_tree_state),
        ("build_date", info.build_date),
        ("go_version", info.go_version),
        ("compiler", info.compiler),
        ("platform", info.platform.as_str()),
    ];
    let help = "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build \
                date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    let names: Vec<&str> = labels.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
    gauge_vec("kubernetes_build_info", help, Stability::Alpha, &names).with_label_values(&values).set(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposes_text_with_stability() {
        counter("test_things_total", "Things.", Stability::Stable).inc();
        let text = String::from_utf8(encode().unwrap()).unwrap();
        assert!(text.contains(
            "# HELP test_things_total [STABLE] Things.\n# TYPE test_things_total counter\ntest_things_total 1"
        ));
        let left = std::sync::atomic::AtomicI64::new(3);
        let count = move || {
            let n = left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            Counts::from([(vec![format!("of-{n}")], n)])
        };
        counted("test_left", "Left.", Stability::Alpha, &["kind"], count);
        for n in [3, 2] {
            let text = String::from_utf8(encode().unwrap()).unwrap();
            assert!(text.contains(&format!("test_left{{kind=\"of-{n}\"}} {n}\n")), "{text}");
            assert_eq!(text.matches("test_left{").count(), 1, "what is gone is not told any more");
        }
        assert!(text.contains("process_resident_memory_bytes"));
        assert!(text.contains("# HELP hidden_metrics_total [BETA] The count of hidden metrics."));
        assert!(text.contains("\nhidden_metrics_total 0\n") && text.contains("\ndisabled_metrics_total "));
        let registered = "registered_metrics_total{deprecated_version=\"\",stability_level=\"STABLE\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(registered)).unwrap();
        assert!(line.parse::<u64>().unwrap() > 0);
        assert_eq!(exponential_buckets(1.0, 2.0, 4), [1.0, 2.0, 4.0, 8.0]);
    }
}
