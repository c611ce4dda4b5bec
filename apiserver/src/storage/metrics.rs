//! Metrics of storage, by upstream's names and labels (`etcd3/metrics`, `cacher/metrics`).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use component_base::metrics::{self, Stability, hot::Hot as _};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::ResourceId;
use crate::metrics::list;

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

list! {
    CACHE_LISTS: IntCounterVec = counter_vec("apiserver_cache_list_total", "Lists answered from the watch cache.", Alpha,
        &["group", "resource", "index"]);
    CACHE_LIST_FETCHED: IntCounterVec = counter_vec("apiserver_cache_list_fetched_objects_total",
        "Objects of the watch cache that were looked at for lists.", Alpha, &["group", "resource", "index"]);
    CACHE_LIST_RETURNED: IntCounterVec = counter_vec("apiserver_cache_list_returned_objects_total",
        "Objects of lists answered from the watch cache.", Alpha, BY_RESOURCE);
    ETCD_LISTS: IntCounterVec = counter_vec("apiserver_storage_list_total", "Lists answered by etcd.", Alpha, BY_RESOURCE);
    ETCD_LIST_FETCHED: IntCounterVec = counter_vec("apiserver_storage_list_fetched_objects_total",
        "Objects read from etcd for lists.", Alpha, BY_RESOURCE);
    ETCD_LIST_EVALUATED: IntCounterVec = counter_vec("apiserver_storage_list_evaluated_objects_total",
        "Objects read from etcd for lists that were compared with what is asked for.", Alpha, BY_RESOURCE);
    ETCD_LIST_RETURNED: IntCounterVec = counter_vec("apiserver_storage_list_returned_objects_total",
        "Objects of lists answered by etcd.", Alpha, BY_RESOURCE);
    SIZE: IntGaugeVec = gauge_vec("apiserver_storage_size_bytes", "Bytes of etcd's database.", Stable,
        &["storage_cluster_id"]);
    INIT_EVENTS: IntCounterVec = counter_vec("apiserver_init_events_total",
        "Objects that watchers were shown at their beginning.", Alpha, BY_RESOURCE);
    CACHE_EVENTS: IntCounterVec = counter_vec("apiserver_watch_cache_events_received_total",
        "Events taken into the watch cache.", Alpha, BY_RESOURCE);
    CACHE_REVISION: IntGaugeVec = gauge_vec("apiserver_watch_cache_resource_version",
        "Revision of the last event in the watch cache.", Alpha, BY_RESOURCE);
    GRPC_STARTED: IntCounterVec = counter_vec("grpc_client_started_total", "Calls of etcd that were begun.", Alpha, CALL);
    GRPC_HANDLED: IntCounterVec = counter_vec("grpc_client_handled_total", "Calls of etcd that ended, by outcome.", Alpha,
        &["grpc_type", "grpc_service", "grpc_method", "grpc_code"]);
    GRPC_SENT: IntCounterVec = counter_vec("grpc_client_msg_sent_total", "Messages sent to etcd.", Alpha, CALL);
    GRPC_RECEIVED: IntCounterVec = counter_vec("grpc_client_msg_received_total", "Messages from etcd.", Alpha, CALL);
}

const CALL: &[&str] = &["grpc_type", "grpc_service", "grpc_method"];
/// The stream that follows etcd.
const WATCH: [&str; 3] = ["bidi_stream", "etcdserverpb.Watch", "Watch"];

/// How gRPC calls a request.
fn call_of(operation: &str) -> [&'static str; 3] {
    match operation {
        "get" | "list" => ["unary", "etcdserverpb.KV", "Range"],
        "put" => ["unary", "etcdserverpb.KV", "Put"],
        "compact" => ["unary", "etcdserverpb.KV", "Compact"],
        "grant" => ["unary", "etcdserverpb.Lease", "LeaseGrant"],
        "watch" => WATCH,
        // All other writes are guarded.
        _ => ["unary", "etcdserverpb.KV", "Txn"],
    }
}

/// A call of etcd begins.
pub(super) fn call_begins(operation: &str) {
    let call = call_of(operation);
    GRPC_STARTED.hot(&call, IntCounter::inc);
    GRPC_SENT.hot(&call, IntCounter::inc);
}

/// A call of etcd ended with a code; a stream does not end with its first answer.
pub(super) fn call_ended(operation: &str, code: &str) {
    let call @ [kind, service, method] = call_of(operation);
    if call == WATCH && code == "OK" {
        return;
    }
    GRPC_HANDLED.hot(&[kind, service, method, code], IntCounter::inc);
    if code == "OK" {
        GRPC_RECEIVED.hot(&call, IntCounter::inc);
    }
}

/// A message of the stream that follows etcd.
pub(super) fn stream_message() {
    GRPC_RECEIVED.hot(&WATCH, IntCounter::inc);
}

/// That stream ended.
pub(super) fn stream_ended(code: &str) {
    let [kind, service, method] = WATCH;
    GRPC_HANDLED.hot(&[kind, service, method, code], IntCounter::inc);
}

/// A list was answered from the cache after so many objects were looked at.
pub(super) fn cache_list(id: &ResourceId, fetched: usize, returned: usize) {
    let of = [id.group(), id.plural()];
    let by_index = [id.group(), id.plural(), ""];
    CACHE_LISTS.hot(&by_index, IntCounter::inc);
    CACHE_LIST_FETCHED.hot(&by_index, |count| count.inc_by(fetched as u64));
    CACHE_LIST_RETURNED.hot(&of, |count| count.inc_by(returned as u64));
}

/// A list was answered by etcd after so many objects were read.
pub(super) fn etcd_list(id: &ResourceId, fetched: usize, returned: usize) {
    let of = [id.group(), id.plural()];
    ETCD_LISTS.hot(&of, IntCounter::inc);
    ETCD_LIST_FETCHED.hot(&of, |count| count.inc_by(fetched as u64));
    ETCD_LIST_EVALUATED.hot(&of, |count| count.inc_by(fetched as u64));
    ETCD_LIST_RETURNED.hot(&of, |count| count.inc_by(returned as u64));
}

/// The database of one of the etcd clusters has so many bytes.
pub(super) fn size(cluster: usize, bytes: i64) {
    SIZE.with_label_values(&[format!("etcd-{cluster}")]).set(bytes);
}

/// A watcher is shown so many objects at its beginning.
pub(super) fn init_events(id: &ResourceId, count: usize) {
    INIT_EVENTS.hot(&[id.group(), id.plural()], |sum| sum.inc_by(count as u64));
}

/// One etcd request.
pub(super) fn etcd_request(operation: &str, id: &ResourceId, started: Instant, failed: bool) {
    let labels = [operation, id.group(), id.plural()];
    REQUEST_DURATION.hot(&labels, |sum| sum.observe(started.elapsed().as_secs_f64()));
    REQUESTS.hot(&labels, IntCounter::inc);
    if failed {
        REQUEST_ERRORS.hot(&labels, IntCounter::inc);
    }
}

/// The number of stored objects.
pub(super) fn objects(id: &ResourceId, count: usize) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    OBJECTS.hot(&[id.group(), id.plural()], |now| now.set(count));
    STORAGE_OBJECTS.hot(&[&id.to_string()], |now| now.set(count));
}

/// One event of the stream, sent to so many watchers.
pub(super) fn event(id: &ResourceId, rev: u64, dispatched: u64) {
    EVENTS_RECEIVED.hot(&[id.group(), id.plural()], IntCounter::inc);
    CACHE_EVENTS.hot(&[id.group(), id.plural()], IntCounter::inc);
    CACHE_REVISION.hot(&[id.group(), id.plural()], |now| now.set(i64::try_from(rev).unwrap_or(i64::MAX)));
    EVENTS_DISPATCHED.hot(&[id.group(), id.plural()], |count| count.inc_by(dispatched));
}

/// A cache was loaded as of a revision.
pub(super) fn initialized(id: &ResourceId, rev: u64, objects: usize) {
    etcd_list(id, objects, objects);
    CACHE_REVISION.hot(&[id.group(), id.plural()], |now| now.set(i64::try_from(rev).unwrap_or(i64::MAX)));
    INITIALIZATIONS.hot(&[id.group(), id.plural()], IntCounter::inc);
}

/// A stored value could not be read.
pub(super) fn decode_error(id: &ResourceId) {
    DECODE_ERRORS.hot(&[id.group(), id.plural()], IntCounter::inc);
}

/// A watcher was closed for being slow.
pub(super) fn watcher_terminated(id: &ResourceId) {
    TERMINATED.hot(&[id.group(), id.plural()], IntCounter::inc);
}

/// A read waited for its point, and whether it was reached.
pub(super) fn read_wait(id: &ResourceId, waited: Duration, success: bool) {
    READ_WAIT.hot(&[id.group(), id.plural()], |sum| sum.observe(waited.as_secs_f64()));
    let success = if success { "true" } else { "false" };
    CONSISTENT_READS.hot(&[id.group(), id.plural(), success, "false"], IntCounter::inc);
}

/// A lease was replaced after so many objects.
pub(super) fn lease_objects(count: u32) {
    LEASE_OBJECTS.observe(f64::from(count));
}

fn by_resource(name: &str, help: &str) -> IntCounterVec {
    metrics::counter_vec(name, help, Stability::Alpha, BY_RESOURCE)
}
