//! Metrics of authentication and authorization, by upstream's names and labels.

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability, hot::Hot as _};
use prometheus::{HistogramVec, IntCounter, IntCounterVec};

use crate::auth::Decision;

static BODIES: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Bytes of requests' bodies.";
    // Up to what a body may have, in steps of a hundred kilobytes.
    let buckets = (0..31).map(|step| 50_000.0 + f64::from(step) * 100_000.0).collect();
    let labels = ["group", "resource", "verb"];
    metrics::histogram_vec("apiserver_request_body_size_bytes", help, Stability::Alpha, &labels, buckets)
});
static USERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests by user; users that are none of the system's own count together.";
    metrics::counter_vec("authenticated_user_requests", help, Stability::Alpha, &["username"])
});
static ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "authentication_attempts",
        "Attempts to authenticate.",
        Stability::Alpha,
        &["result"],
    )
});
static AUTHENTICATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time of authentication, in seconds.";
    let buckets = metrics::exponential_buckets(0.001, 2.0, 15);
    metrics::histogram_vec("authentication_duration_seconds", help, Stability::Alpha, &["result"], buckets)
});
static DECISIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "authorization_attempts_total",
        "Attempts to authorize.",
        Stability::Alpha,
        &["result"],
    )
});
static AUTHORIZATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time of authorization, in seconds.";
    let buckets = metrics::exponential_buckets(0.001, 2.0, 15);
    metrics::histogram_vec("authorization_duration_seconds", help, Stability::Alpha, &["result"], buckets)
});

/// Counts the bytes of a write's body.
pub(super) fn body(group: &str, resource: &str, verb: &str, bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    BODIES.hot(&[group, resource, verb], |sum| sum.observe(f64::from(bytes)));
}

/// Counts an authentication: whose request it is, or that it is nobody's, or that it could not be told.
pub(super) fn authenticated(user: Option<&str>, failed: bool, time: Duration) {
    let result = match (user, failed) {
        (Some(user), _) => {
            USERS.hot(&[known(user)], IntCounter::inc);
            "success"
        }
        (None, true) => "error",
        (None, false) => "failure",
    };
    ATTEMPTS.hot(&[result], IntCounter::inc);
    AUTHENTICATION.hot(&[result], |sum| sum.observe(time.as_secs_f64()));
}

/// The label of a user; there are more users than metrics should have.
fn known(user: &str) -> &str {
    match user {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => user,
        _ => "other",
    }
}

/// Counts an authorization.
pub(super) fn authorized(decision: &Decision, time: Duration) {
    let result = match decision {
        Decision::Allow(_) => "allowed",
        Decision::Deny(_) => "denied",
        Decision::NoOpinion(_) => "no-opinion",
        Decision::Failed { .. } => "error",
    };
    DECISIONS.hot(&[result], IntCounter::inc);
    AUTHORIZATION.hot(&[result], |sum| sum.observe(time.as_secs_f64()));
}
