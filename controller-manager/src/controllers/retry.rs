//! How often failures are tried again, where it is not as in most queues. Contract: upstream's limits of its queues.

use std::time::Duration;

use component_base::workqueue::RateLimits;

const fn limits(base: Duration, max: Duration) -> RateLimits {
    RateLimits { base, max, qps: 10.0, burst: 100.0 }
}

/// Jobs wait each for themselves, and none for long.
pub(super) const JOBS: RateLimits = RateLimits {
    base: Duration::from_secs(1),
    max: Duration::from_secs(60),
    qps: f64::INFINITY,
    burst: f64::INFINITY,
};
/// What is left in a namespace may go any moment.
pub(super) const NAMESPACES: RateLimits = limits(Duration::from_millis(5), Duration::from_secs(60));
/// Slices of services.
pub(super) const SLICES: RateLimits = limits(Duration::from_secs(1), Duration::from_secs(1000));
/// Slices of endpoints that others keep.
pub(super) const MIRRORED: RateLimits = limits(Duration::from_secs(1), Duration::from_secs(100));
/// Requests for certificates.
pub(super) const CERTIFICATES: RateLimits = limits(Duration::from_millis(200), Duration::from_secs(1000));

/// What is looked at again and again is not looked at more often because it failed.
pub(super) const fn every(period: Duration) -> RateLimits {
    RateLimits { base: period, max: period, qps: f64::INFINITY, burst: f64::INFINITY }
}
