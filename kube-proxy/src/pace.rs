//! How often the tables are synced.
//!
//! Contract: `minSyncPeriod`, the least time between syncs. A change after a quiet time is synced at once, as upstream's runner
//! does; so is the one right after it, as it did for as long as it had a burst: a new service comes before its endpoints, and
//! would refuse connections until the period is over.

use std::time::Duration;

use component_base::workqueue::Bucket;
use tokio::time::Instant;

/// Syncs at once after a quiet time.
const BURST: f64 = 2.0;

/// When the next sync may be.
#[derive(Debug)]
pub struct Pace(Option<Bucket>);

impl Pace {
    /// A sync each period over time; no limit for none.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self((!period.is_zero()).then(|| Bucket::new(1.0 / period.as_secs_f64(), BURST)))
    }

    /// How long a sync that is wanted now has to wait; it counts as made then.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.0.as_mut().map_or(Duration::ZERO, |bucket| bucket.reserve(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(period: Duration, at: &[u64]) -> Vec<u128> {
        let (mut pace, start) = (Pace::new(period), Instant::now());
        let mut clock = Duration::ZERO;
        let mut wait = |at: &u64| {
            // The loop asks again only after it has waited.
            clock = clock.max(Duration::from_millis(*at));
            let wait = pace.wait(start + clock);
            clock += wait;
            wait.as_millis()
        };
        at.iter().map(&mut wait).collect()
    }

    #[test]
    fn a_service_and_its_endpoints_do_not_wait_after_a_quiet_time() {
        let second = Duration::from_secs(1);
        assert_eq!(waits(second, &[0, 500, 750]), [0, 0, 250]);
        assert_eq!(waits(second, &[0, 5_000, 5_004, 9_000, 9_001]), [0; 5]);
        // Changes without end are synced once in a period.
        let busy: u128 = waits(second, &[0; 22]).iter().sum();
        assert_eq!(busy, 20_000);
    }

    #[test]
    fn without_a_period_nobody_waits() {
        assert_eq!(waits(Duration::ZERO, &[0; 9]), [0; 9]);
    }
}
