//! What is counted of load balancers, routes and new nodes, under upstream's names.

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability};
use prometheus::{Histogram, IntCounter, exponential_buckets};

use crate::{controllers::service::Plan, provider::NodeAddress};

static BALANCED: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "service_controller_loadbalancer_sync_total",
        "Load balancers that were given other nodes.",
        Stability::Alpha,
    )
});
static NOT_BALANCED: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "service_controller_nodesync_error_total",
        "Load balancers that could not be given other nodes.",
        Stability::Alpha,
    )
});
static NODE_SYNC: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "service_controller_nodesync_latency_seconds",
        "How long all load balancers took to be given other nodes.",
        Stability::Alpha,
        seconds(2.0, 15),
    )
});
static UPDATE: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "service_controller_update_loadbalancer_host_latency_seconds",
        "How long a load balancer took to be given other nodes.",
        Stability::Alpha,
        seconds(2.0, 15),
    )
});
/// Looks at all routes.
pub(crate) static ROUTED: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "route_controller_route_sync_total",
        "How often all routes were brought to what nodes need.",
        Stability::Alpha,
    )
});
/// New nodes that lost their taint.
pub(crate) static UNTAINTED: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "node_controller_cloud_provider_taint_removal_delay_seconds",
        "The age at which nodes lose the taint of new ones.",
        Stability::Alpha,
        seconds(4.0, 6),
    )
});
/// New nodes that say what their machines are.
pub(crate) static INTRODUCED: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "node_controller_initial_node_sync_delay_seconds",
        "The age at which nodes first say what their machines are.",
        Stability::Alpha,
        seconds(4.0, 6),
    )
});

/// From a second on.
fn seconds(factor: f64, count: usize) -> Vec<f64> {
    // One below is no bucket, and so many are never none: only then are these refused.
    exponential_buckets(1.0, factor, count).unwrap_or_default()
}

/// Shows everything from the start, with nothing.
pub(crate) fn register() {
    for counter in [&BALANCED, &NOT_BALANCED, &ROUTED] {
        LazyLock::force(counter);
    }
    for histogram in [&NODE_SYNC, &UPDATE, &UNTAINTED, &INTRODUCED] {
        LazyLock::force(histogram);
    }
}

/// Counts a look at all load balancers, whose traffic nodes took as in `before`.
pub(crate) fn balanced(plan: &Plan, before: Option<&[NodeAddress]>, done: bool, took: Duration) {
    let moved = plan.moved(before);
    if moved == 0 {
        return;
    }
    NODE_SYNC.observe(took.as_secs_f64());
    let moved = u64::try_from(moved).unwrap_or(u64::MAX);
    BALANCED.inc_by(moved);
    // They are all given at once.
    (0..moved).for_each(|_| UPDATE.observe(took.as_secs_f64()));
    if !done {
        NOT_BALANCED.inc_by(moved);
    }
}
