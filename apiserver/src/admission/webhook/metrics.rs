//! Metrics of webhooks, by upstream's names and labels.

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability};
use prometheus::{HistogramVec, IntCounterVec};

use super::Failure;
use crate::audit::{self, Part};

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "apiserver_admission_webhook_admission_duration_seconds",
        "Time of calls to admission webhooks, in seconds.",
        Stability::Stable,
        &["name", "operation", "rejected", "type"],
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0],
    )
});
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_admission_webhook_request_total",
        "Calls to admission webhooks; codes above 600 count as 600.",
        Stability::Alpha,
        &["code", "name", "operation", "rejected", "type"],
    )
});
static REJECTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_admission_webhook_rejection_count",
        "Writes refused by admission webhooks, or because they failed; codes above 600 count as 600.",
        Stability::Alpha,
        &["error_type", "name", "operation", "rejection_code", "type"],
    )
});
static FAILED_OPEN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_admission_webhook_fail_open_count",
        "Writes that went on although an admission webhook failed.",
        Stability::Alpha,
        &["name", "type"],
    )
});

/// Counts a call: how long it took, and how it ended.
pub(super) fn called(
    name: &str,
    step: &str,
    operation: &str,
    took: Duration,
    failure: Option<(&Failure, bool)>,
) {
    let (code, kind, rejected) = match failure {
        None => (200, None, false),
        Some((Failure::Calling { .. }, true)) => (code(failure), None, false),
        Some((Failure::Calling { .. }, false)) => (code(failure), Some("calling_webhook_error"), true),
        Some((Failure::Refused(_), _)) => (code(failure), Some("no_error"), true),
        Some((Failure::Server(_), _)) => (0, Some("apiserver_internal_error"), true),
    };
    audit::spend(if step == "admit" { Part::MutatingWebhooks } else { Part::ValidatingWebhooks }, took);
    let (code, word) = (code.min(600).to_string(), if rejected { "true" } else { "false" });
    DURATION.with_label_values(&[name, operation, word, step]).observe(took.as_secs_f64());
    REQUESTS.with_label_values(&[code.as_str(), name, operation, word, step]).inc();
    if let Some(kind) = kind {
        REJECTIONS.with_label_values(&[kind, name, operation, code.as_str(), step]).inc();
    }
}

fn code(failure: Option<(&Failure, bool)>) -> u16 {
    match failure {
        Some((Failure::Calling { code, .. }, _)) => *code,
        Some((Failure::Refused(status), _)) => status.code,
        _ => 0,
    }
}

/// Counts a failure that did not matter.
pub(super) fn failed_open(name: &str, step: &str) {
    FAILED_OPEN.with_label_values(&[name, step]).inc();
}
