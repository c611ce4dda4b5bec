//! How often what the cluster publishes of itself was brought up to date, how long that took, and what the server said to it.

use std::time::Duration;

use component_base::metrics::{self, Stability, exponential_buckets};
use prometheus::{HistogramVec, IntCounterVec};

/// The two metrics of a publisher, by the code of the server's answer.
#[derive(Debug)]
pub(super) struct Syncs {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl Syncs {
    /// Metrics of these names and helps; they are there from now on, once in a process.
    pub(super) fn register(total: [&str; 2], seconds: [&str; 2]) -> Self {
        let buckets = exponential_buckets(0.001, 2.0, 15);
        Self {
            total: metrics::counter_vec(total[0], total[1], Stability::Alpha, &["code"]),
            seconds: metrics::histogram_vec(seconds[0], seconds[1], Stability::Alpha, &["code"], buckets),
        }
    }

    /// Counts one.
    pub(super) fn observe(&self, took: Duration, done: &Result<(), kube::Error>) {
        let code = match done {
            Ok(()) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(_) => 500,
        };
        let code = code.to_string();
        self.total.with_label_values(&[&code]).inc();
        self.seconds.with_label_values(&[&code]).observe(took.as_secs_f64());
    }
}
