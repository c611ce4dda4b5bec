//! Metrics of admission, by upstream's names and labels.

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use component_base::metrics::{self, Stability, hot::Hot as _};
use prometheus::{Histogram, HistogramVec};

use super::{Operation, Step, webhook};

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

/// Histograms of one plugin, each found once: a write passes some forty plugins.
#[derive(Debug, Default)]
pub(super) struct Meters([[[OnceLock<Histogram>; 2]; 2]; 4]);

impl Meters {
    /// Counts one turn of the plugin `name`.
    pub(super) fn observe(
        &self,
        name: &str,
        (operation, step): (Operation, Step),
        rejected: bool,
        time: Duration,
    ) {
        let meter = &self.0[operation as usize][step as usize][usize::from(rejected)];
        let meter = meter.get_or_init(|| {
            PLUGIN.with_label_values(&[name, webhook::word(operation), word(rejected), step.word()])
        });
        meter.observe(time.as_secs_f64());
    }
}

/// Counts a step, all plugins together.
pub(super) fn step(operation: Operation, rejected: bool, step: Step, time: Duration) {
    let labels = [webhook::word(operation), word(rejected), step.word()];
    STEP.hot(&labels, |sum| sum.observe(time.as_secs_f64()));
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

fn word(rejected: bool) -> &'static str {
    if rejected { "true" } else { "false" }
}
