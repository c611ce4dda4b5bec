//! What queues tell of themselves, in the names of client-go's `workqueue`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::metrics::{self, Stability, exponential_buckets};

/// The metrics of one queue that are counted as it goes.
#[derive(Debug)]
pub(super) struct QueueMetrics {
    pub(super) adds: IntCounter,
    pub(super) retries: IntCounter,
    pub(super) depth: IntGauge,
    pub(super) queued: Histogram,
    pub(super) worked: Histogram,
}

/// How long items have been in work that still are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Worked {
    total: Duration,
    longest: Duration,
}

/// A queue as its observer sees it.
pub(super) trait Progress: Send + Sync {
    fn worked(&self) -> Worked;
}

struct Families {
    adds: IntCounterVec,
    retries: IntCounterVec,
    depth: IntGaugeVec,
    queued: HistogramVec,
    worked: HistogramVec,
    in_work: InWork,
}

/// Queues and their names; those that are gone are still in it.
type Queues = Vec<(String, Weak<dyn Progress>)>;

/// Asks the queues when it is asked itself: what is in work changes with time alone.
#[derive(Clone)]
struct InWork {
    queues: Arc<Mutex<Queues>>,
    unfinished: GaugeVec,
    longest: GaugeVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let labels = &["name"];
    let buckets = || exponential_buckets(10e-9, 10.0, 10);
    let beta = Stability::Beta;
    Families {
        adds: metrics::counter_vec(
            "workqueue_adds_total",
            "Total number of adds handled by workqueue",
            beta,
            labels,
        ),
        retries: metrics::counter_vec(
            "workqueue_retries_total",
            "Total number of retries handled by workqueue",
            beta,
            labels,
        ),
        depth: metrics::gauge_vec("workqueue_depth", "Current depth of workqueue", beta, labels),
        queued: metrics::histogram_vec(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
            beta,
            labels,
            buckets(),
        ),
        worked: metrics::histogram_vec(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
            beta,
            labels,
            buckets(),
        ),
        in_work: metrics::collector(InWork::new),
    }
});

/// Tells of a queue's progress as long as the queue is there.
pub(super) fn watch(name: &str, queue: &Arc<dyn Progress>) {
    let mut queues = FAMILIES.in_work.queues.lock();
    queues.retain(|(_, queue)| queue.strong_count() > 0);
    queues.push((name.to_owned(), Arc::downgrade(queue)));
}

// === impl QueueMetrics ===

impl QueueMetrics {
    pub(super) fn new(name: &str) -> QueueMetrics {
        QueueMetrics {
            adds: FAMILIES.adds.with_label_values(&[name]),
            retries: FAMILIES.retries.with_label_values(&[name]),
            depth: FAMILIES.depth.with_label_values(&[name]),
            queued: FAMILIES.queued.with_label_values(&[name]),
            worked: FAMILIES.worked.with_label_values(&[name]),
        }
    }
}

// === impl Worked ===

impl Worked {
    /// Adds an item that has been in work for so long.
    pub(super) fn add(&mut self, age: Duration) {
        self.total += age;
        self.longest = self.longest.max(age);
    }

    fn join(&mut self, other: Worked) {
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }
}

// === impl InWork ===

impl InWork {
    fn new() -> prometheus::Result<InWork> {
        let gauges =
            |name: &str, help: &str| GaugeVec::new(metrics::opts(name, help, Stability::Beta), &["name"]);
        Ok(InWork {
            queues: Arc::default(),
            unfinished: gauges(
                "workqueue_unfinished_work_seconds",
                "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large \
                 values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at \
                 which this increases.",
            )?,
            longest: gauges(
                "workqueue_longest_running_processor_seconds",
                "How many seconds has the longest running processor for workqueue been running.",
            )?,
        })
    }

    /// Queues of one name count as one.
    fn by_name(&self) -> BTreeMap<String, Worked> {
        let mut all: BTreeMap<String, Worked> = BTreeMap::new();
        for (name, queue) in &*self.queues.lock() {
            if let Some(queue) = queue.upgrade() {
                all.entry(name.clone()).or_default().join(queue.worked());
            }
        }
        all
    }
}

impl Collector for InWork {
    fn desc(&self) -> Vec<&Desc> {
        [self.unfinished.desc(), self.longest.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (name, worked) in self.by_name() {
            self.unfinished.with_label_values(&[&name]).set(worked.total.as_secs_f64());
            self.longest.with_label_values(&[&name]).set(worked.longest.as_secs_f64());
        }
        [self.unfinished.collect(), self.longest.collect()].concat()
    }
}
