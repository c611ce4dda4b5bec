//! Metrics of storage, by upstream's names and labels (`etcd3/metrics`, `cacher/metrics`).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use component_base::metrics::{self, Stability};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::ResourceId;

const REQUEST_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

const WAIT_BUCKETS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];
const LEASE_BUCKETS: &[f64] = &[10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0];

const BY_RESOURCE: &[&str] = &["group", "resource"];
const BY_OPERATION: &[&str] = &["operation", "group", "resource"];

static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time of requests to etcd by operation and kind of object, in seconds.";
    let buckets = REQUEST_BUCKETS.to_vec();
    metrics::histogram_vec("etcd_request_duration_seconds", help, Stability::Beta, BY_OPERATION, buckets)
});
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec("etcd_requests_total", "Requests to etcd.", Stability::Beta, BY_OPERATION)
});
static REQUEST_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "etcd_request_errors_total",
        "Failed requests to etcd.",
        Stability::Beta,
        BY_OPERATION,
    )
});
static OBJECTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Stored objects by kind.";
    metrics::gauge_vec("apiserver_resource_objects", help, Stability::Alpha, BY_RESOURCE)
});
static STORAGE_OBJECTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Stored objects by kind.";
    metrics::gauge_vec("apiserver_storage_objects", help, Stability::Stable, &["resource"])
});
static EVENTS_RECEIVED: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_resource("apiserver_storage_events_received_total", "Events received from etcd."));
static EVENTS_DISPATCHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    by_resource("apiserver_watch_cache_events_dispatched_total", "Events handed to watchers.")
});
static INITIALIZATIONS: LazyLock<IntCounterVec> =
    LazyLock::new(|| by_resource("apiserver_watch_cache_initializations_total", "Loads of the watch cache."));
static DECODE_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    by_resource("apiserver_storage_decode_errors_total", "Stored objects that failed to decode.")
});
static TERMINATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    by_resource("apiserver_terminated_watchers_total", "Watchers closed because they were too slow.")
});
static READ_WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time reads waited for the watch cache to become fresh, in seconds.";
    let name = "apiserver_watch_cache_read_wait_seconds";
    metrics::histogram_vec(name, help, Stability::Alpha, BY_RESOURCE, WAIT_BUCKETS.to_vec())
});
static CONSISTENT_READS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &["group", "resource", "success", "fallback"];
    let help = "Consistent reads from the cache by outcome.";
    metrics::counter_vec("apiserver_watch_cache_consistent_read_total", help, Stability::Alpha, labels)
});
static LEASE_OBJECTS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Objects attached to one etcd lease.";
    metrics::histogram("etcd_lease_object_counts", help, Stability::Alpha, LEASE_BUCKETS.to_vec())
});

static SHARDED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Watches of a part of all objects, by kind.";
    metrics::gauge_vec("apiserver_watch_shards_total", help, Stability::Alpha, BY_RESOURCE)
});
static FILTERED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Events that watches of a part of all objects were spared, by kind.";
    by_resource("apiserver_watch_filtered_events_total", help)
});

/// A watch of a part of all objects, counted as long as this lasts.
#[derive(Debug)]
pub(super) struct Sharded {
    watches: IntGauge,
    /// Events that are not of its part.
    pub(super) filtered: IntCounter,
}

impl Sharded {
    /// Counts one more.
    pub(super) fn begin(id: &ResourceId) -> Self {
        let labels = [id.group(), id.plural()];
        let sharded = Self {
            watches: SHARDED.with_label_values(&labels),
            filtered: FILTERED.with_label_values(&labels),
        };
        sharded.watches.inc();
        sharded
    }
}

impl Drop for Sharded {
    fn drop(&mut self) {
        self.watches.dec();
    }
}

/// One etcd request.
pub(super) fn etcd_request(operation: &str, id: &ResourceId, started: Instant, failed: bool) {
    let labels = [operation, id.group(), id.plural()];
    REQUEST_DURATION.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
    REQUESTS.with_label_values(&labels).inc();
    if failed {
        REQUEST_ERRORS.with_label_values(&labels).inc();
    }
}

/// The number of stored objects.
pub(super) fn objects(id: &ResourceId, count: usize) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    OBJECTS.with_label_values(&[id.group(), id.plural()]).set(count);
    STORAGE_OBJECTS.with_label_values(&[&id.to_string()]).set(count);
}

/// One event of the stream, sent to so many watchers.
pub(super) fn event(id: &ResourceId, dispatched: u64) {
    EVENTS_RECEIVED.with_label_values(&[id.group(), id.plural()]).inc();
    EVENTS_DISPATCHED.with_label_values(&[id.group(), id.plural()]).inc_by(dispatched);
}

/// A cache was loaded.
pub(super) fn initialized(id: &ResourceId) {
    INITIALIZATIONS.with_label_values(&[id.group(), id.plural()]).inc();
}

/// A stored value could not be read.
pub(super) fn decode_error(id: &ResourceId) {
    DECODE_ERRORS.with_label_values(&[id.group(), id.plural()]).inc();
}

/// A watcher was closed for being slow.
pub(super) fn watcher_terminated(id: &ResourceId) {
    TERMINATED.with_label_values(&[id.group(), id.plural()]).inc();
}

/// A read waited for its point, and whether it was reached.
pub(super) fn read_wait(id: &ResourceId, waited: Duration, success: bool) {
    READ_WAIT.with_label_values(&[id.group(), id.plural()]).observe(waited.as_secs_f64());
    let success = if success { "true" } else { "false" };
    CONSISTENT_READS.with_label_values(&[id.group(), id.plural(), success, "false"]).inc();
}

/// A lease was replaced after so many objects.
pub(super) fn lease_objects(count: u32) {
    LEASE_OBJECTS.observe(f64::from(count));
}

fn by_resource(name: &str, help: &str) -> IntCounterVec {
    metrics::counter_vec(name, help, Stability::Alpha, BY_RESOURCE)
}
