//! How often autoscalers and their metrics are looked at, how long it takes, and what comes of it.

use std::{cmp::Ordering, sync::LazyLock, time::Duration};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

/// What a look asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scaling {
    None,
    Up,
    Down,
}

/// What kept a look from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The autoscaler's spec.
    Spec,
    Internal,
}

struct Families {
    looks: IntCounterVec,
    look_seconds: HistogramVec,
    computations: IntCounterVec,
    computation_seconds: HistogramVec,
    autoscalers: IntGauge,
    desired: IntGaugeVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let beta = Stability::Beta;
    let buckets = || exponential_buckets(0.001, 2.0, 15);
    Families {
        looks: metrics::counter_vec(
            "horizontal_pod_autoscaler_controller_reconciliations_total",
            "Number of reconciliations of HPA controller, by action (scale_down, scale_up, none) and error (spec, \
             internal, none)",
            beta,
            &["action", "error"],
        ),
        look_seconds: metrics::histogram_vec(
            "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
            "The time(seconds) that the HPA controller takes to reconcile once, by action and error",
            beta,
            &["action", "error"],
            buckets(),
        ),
        computations: metrics::counter_vec(
            "horizontal_pod_autoscaler_controller_metric_computation_total",
            "Number of metric computations, by action, error and type of the metric",
            beta,
            &["action", "error", "metric_type"],
        ),
        computation_seconds: metrics::histogram_vec(
            "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
            "The time(seconds) that the HPA controller takes to calculate one metric, by action, error and type",
            beta,
            &["action", "error", "metric_type"],
            buckets(),
        ),
        autoscalers: metrics::gauge(
            "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
            "Current number of controlled HPA objects.",
            Stability::Alpha,
        ),
        desired: metrics::gauge_vec(
            "horizontal_pod_autoscaler_controller_desired_replicas",
            "Current desired replica count for HPA objects.",
            Stability::Alpha,
            &["namespace", "hpa_name"],
        ),
    }
});

/// Shows what is counted from the start.
pub(super) fn register() {
    LazyLock::force(&FAMILIES);
}

// === impl Scaling ===

impl Scaling {
    /// From so many replicas to so many.
    pub(super) fn between(from: i32, to: i32) -> Self {
        match to.cmp(&from) {
            Ordering::Greater => Self::Up,
            Ordering::Less => Self::Down,
            Ordering::Equal => Self::None,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Up => "scale_up",
            Self::Down => "scale_down",
        }
    }
}

// === impl Fault ===

impl Fault {
    fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Spec => "spec",
            Self::Internal => "internal",
        }
    }
}

/// A look at an autoscaler is over.
pub(super) fn looked(scaling: Scaling, fault: Fault, took: Duration) {
    let labels = [scaling.label(), fault.label()];
    FAMILIES.looks.with_label_values(&labels).inc();
    FAMILIES.look_seconds.with_label_values(&labels).observe(took.as_secs_f64());
}

/// A metric of this type is computed.
pub(super) fn computed(scaling: Scaling, fault: Fault, kind: &str, took: Duration) {
    let labels = [scaling.label(), fault.label(), kind];
    FAMILIES.computations.with_label_values(&labels).inc();
    FAMILIES.computation_seconds.with_label_values(&labels).observe(took.as_secs_f64());
}

/// An autoscaler came.
pub(super) fn came() {
    FAMILIES.autoscalers.inc();
}

/// An autoscaler is gone, and what it wanted with it.
pub(super) fn went(key: &ObjectKey) {
    FAMILIES.autoscalers.dec();
    // One that never got to want anything has no gauge.
    FAMILIES.desired.remove_label_values(&[&key.namespace, &key.name]).ok();
}

/// What an autoscaler wants.
pub(super) fn wants(key: &ObjectKey, replicas: i32) {
    FAMILIES.desired.with_label_values(&[&key.namespace, &key.name]).set(i64::from(replicas));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_told_by_what_came_of_them() {
        let took = Duration::from_millis(3);
        looked(Scaling::between(2, 5), Fault::None, took);
        looked(Scaling::between(5, 2), Fault::None, took);
        computed(Scaling::between(2, 2), Fault::Internal, "Resource", took);
        let key = ObjectKey::new("ns", "web");
        came();
        wants(&key, 7);
        let text = || String::from_utf8(metrics::encode().unwrap()).unwrap();
        let told = text();
        for line in [
            "reconciliations_total{action=\"scale_up\",error=\"none\"} 1",
            "reconciliations_total{action=\"scale_down\",error=\"none\"} 1",
            "metric_computation_total{action=\"none\",error=\"internal\",metric_type=\"Resource\"} 1",
            "desired_replicas{hpa_name=\"web\",namespace=\"ns\"} 7",
            "num_horizontal_pod_autoscalers 1",
        ] {
            assert!(
                told.contains(&format!("horizontal_pod_autoscaler_controller_{line}\n")),
                "{line}: {told}"
            );
        }
        went(&key);
        assert!(!text().contains("hpa_name=\"web\""), "nothing is left of it");
    }
}
