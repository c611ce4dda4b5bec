//! Metrics of admission, by upstream's names and labels.

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability};
use prometheus::HistogramVec;

use super::{Operation, webhook};

static PLUGIN: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "apiserver_admission_controller_admission_duration_seconds",
        "Time of one plugin, in seconds.",
        Stability::Stable,
        &["name", "operation", "rejected", "type"],
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5],
    )
});
static STEP: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "apiserver_admission_step_admission_duration_seconds",
        "Time of all plugins of a step, in seconds.",
        Stability::Stable,
        &["operation", "rejected", "type"],
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5],
    )
});

/// Counts one plugin's turn.
pub(super) fn plugin(name: &str, operation: Operation, rejected: bool, step: &str, time: Duration) {
    let labels = [name, webhook::word(operation), word(rejected), step];
    PLUGIN.with_label_values(&labels).observe(time.as_secs_f64());
}

/// Counts a step, all plugins together.
pub(super) fn step(operation: Operation, rejected: bool, step: &str, time: Duration) {
    let labels = [webhook::word(operation), word(rejected), step];
    STEP.with_label_values(&labels).observe(time.as_secs_f64());
}

fn word(rejected: bool) -> &'static str {
    if rejected { "true" } else { "false" }
}
