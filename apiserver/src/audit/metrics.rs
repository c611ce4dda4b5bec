//! Metrics of audit, by upstream's names.

use std::sync::LazyLock;

use component_base::metrics::{self, Stability};
use prometheus::{IntCounter, IntCounterVec};

static EVENTS: LazyLock<IntCounter> =
    LazyLock::new(|| metrics::counter("apiserver_audit_event_total", "Audit events made.", Stability::Alpha));
static REJECTED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Requests refused because their audit event could not be kept.";
    metrics::counter("apiserver_audit_requests_rejected_total", help, Stability::Alpha)
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Audit events that were lost, by the plugin that lost them.";
    metrics::counter_vec("apiserver_audit_error_total", help, Stability::Alpha, &["plugin"])
});
static LEVELS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_audit_level_total",
        "Requests by their audit level.",
        Stability::Alpha,
        &["level"],
    )
});

/// Shows the counters that have not counted yet.
pub(super) fn register() {
    LazyLock::force(&EVENTS);
    LazyLock::force(&REJECTED);
}

pub(super) fn made() {
    EVENTS.inc();
}

pub(super) fn level(level: &str) {
    LEVELS.with_label_values(&[level]).inc();
}

pub(super) fn failed(plugin: &str, events: usize) {
    ERRORS.with_label_values(&[plugin]).inc_by(events as u64);
}

/// Counts a request that was refused because its event could not be kept.
pub fn rejected() {
    REJECTED.inc();
}
