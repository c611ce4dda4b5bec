//! Metrics under upstream's names.

use component_base::metrics::{self, Stability};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::queue::Pending;

/// The scheduler's metrics.
#[derive(Debug)]
pub struct Metrics {
    attempts: IntCounterVec,
    duration: HistogramVec,
    pending: IntGaugeVec,
}

impl Metrics {
    /// Registers them in the process's registry.
    pub fn register() -> Self {
        let buckets = metrics::exponential_buckets(0.001, 2.0, 15);
        Self {
            attempts: metrics::counter_vec(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result",
                Stability::Stable,
                &["profile", "result"],
            ),
            duration: metrics::histogram_vec(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds",
                Stability::Stable,
                &["profile", "result"],
                buckets,
            ),
            pending: metrics::gauge_vec(
                "scheduler_pending_pods",
                "Number of pending pods, by the queue",
                Stability::Stable,
                &["queue"],
            ),
        }
    }

    /// Counts an attempt: `scheduled`, `unschedulable` or `error`.
    pub fn attempt(&self, profile: &str, result: &str, seconds: f64) {
        self.attempts.with_label_values(&[profile, result]).inc();
        self.duration.with_label_values(&[profile, result]).observe(seconds);
    }

    /// Shows how many pods wait where.
    pub fn pending(&self, pending: Pending) {
        for (queue, count) in [
            ("active", pending.active),
            ("backoff", pending.backoff),
            ("unschedulable", pending.unschedulable),
            ("gated", pending.gated),
        ] {
            self.pending.with_label_values(&[queue]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
