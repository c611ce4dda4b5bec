//! Leases of objects with a lifetime (events), shared so that etcd has few of them.
//!
//! Contract: upstream's lease manager: a lease serves for 5 % of the lifetime, at most a minute, and
//! at most 1000 objects.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{
    ResourceId,
    etcd::{Etcd, EtcdError},
    metrics,
};

const MAX_REUSE: Duration = Duration::from_secs(60);
const MAX_OBJECTS: u32 = 1000;

/// The lease in use.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Option<Lease>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    id: i64,
    expires: Instant,
    objects: u32,
}

// === impl Leases ===

impl Leases {
    /// A lease that lasts at least `ttl` from now.
    pub(super) async fn lease(&self, etcd: &Etcd, id: &ResourceId, ttl: Duration) -> Result<i64, EtcdError> {
        let mut current = self.0.lock().await;
        let now = Instant::now();
        if let Some(lease) = current.as_mut().filter(|lease| lease.serves(now, ttl)) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let lifetime = ttl + reuse(ttl);
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX).max(1);
        let lease = Lease { id: etcd.grant(id, seconds).await?, expires: now + lifetime, objects: 1 };
        if let Some(old) = current.replace(lease) {
            metrics::lease_objects(old.objects);
        }
        Ok(lease.id)
    }

    /// Forgets the lease, which etcd no longer knows.
    pub(super) async fn forget(&self, id: i64) {
        let mut current = self.0.lock().await;
        if current.is_some_and(|lease| lease.id == id) {
            *current = None;
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Whether another object may use the lease: it outlives the object, but not by far.
    fn serves(&self, now: Instant, ttl: Duration) -> bool {
        let left = self.expires.saturating_duration_since(now);
        left > ttl && left < ttl + reuse(ttl) + Duration::from_secs(1) && self.objects < MAX_OBJECTS
    }
}

/// How long a lease is given out.
fn reuse(ttl: Duration) -> Duration {
    (ttl / 20).min(MAX_REUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_serves_its_share_of_the_lifetime() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let at = |left: u64, objects| Lease { id: 1, expires: now + Duration::from_secs(left), objects };
        assert!(at(3660, 1).serves(now, hour));
        assert!(at(3601, 999).serves(now, hour));
        assert!(!at(3600, 1).serves(now, hour), "would end too early");
        assert!(!at(3601, 1000).serves(now, hour), "is full");
        assert!(!at(7200, 1).serves(now, hour), "would keep the object too long");
        assert_eq!(reuse(Duration::from_secs(100)), Duration::from_secs(5));
        assert_eq!(reuse(hour), Duration::from_secs(60));
    }
}
