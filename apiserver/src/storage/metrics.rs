//! Metrics of storage, by upstream's names and labels (`etcd3/metrics`, `cacher/metrics`).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, register};

use super::ResourceId;

const REQUEST_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let opts = HistogramOpts::new(
        "etcd_request_duration_seconds",
        "[BETA] Time of requests to etcd by operation and kind of object, in seconds.",
    );
    registered(HistogramVec::new(opts.buckets(REQUEST_BUCKETS.to_vec()), &["operation", "group", "resource"]))
});
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("etcd_requests_total", "[BETA] Requests to etcd.", &["operation", "group", "resource"])
});
static REQUEST_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "etcd_request_errors_total",
        "[BETA] Failed requests to etcd.",
        &["operation", "group", "resource"],
    )
});
static OBJECTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("apiserver_resource_objects", "[ALPHA] Stored objects by kind.", &["group", "resource"])
});
static STORAGE_OBJECTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("apiserver_storage_objects", "[STABLE] Stored objects by kind.", &["resource"]));
static EVENTS_RECEIVED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Events received from etcd by kind.";
    counter("apiserver_storage_events_received_total", help, &["group", "resource"])
});
static EVENTS_DISPATCHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Events handed to watchers by kind.";
    counter("apiserver_watch_cache_events_dispatched_total", help, &["group", "resource"])
});
static INITIALIZATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Loads of the watch cache by kind.";
    counter("apiserver_watch_cache_initializations_total", help, &["group", "resource"])
});
static DECODE_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Stored objects that failed to decode, by kind.";
    counter("apiserver_storage_decode_errors_total", help, &["group", "resource"])
});
static TERMINATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Watchers closed because they were too slow, by kind.";
    counter("apiserver_terminated_watchers_total", help, &["group", "resource"])
});
static READ_WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let opts = HistogramOpts::new(
        "apiserver_watch_cache_read_wait_seconds",
        "[ALPHA] Time reads waited for the watch cache to become fresh, in seconds.",
    );
    let buckets = vec![0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];
    registered(HistogramVec::new(opts.buckets(buckets), &["group", "resource"]))
});
static CONSISTENT_READS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Consistent reads from the cache by outcome.";
    counter(
        "apiserver_watch_cache_consistent_read_total",
        help,
        &["group", "resource", "success", "fallback"],
    )
});
static LEASE_OBJECTS: LazyLock<prometheus::Histogram> = LazyLock::new(|| {
    let opts = HistogramOpts::new("etcd_lease_object_counts", "[ALPHA] Objects attached to one etcd lease.");
    registered(prometheus::Histogram::with_opts(
        opts.buckets(vec![10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0]),
    ))
});

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

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("the names and labels above are well-formed");
    if let Err(error) = register(Box::new(collector.clone())) {
        tracing::warn!(%error, "storage metric not registered");
    }
    collector
}
