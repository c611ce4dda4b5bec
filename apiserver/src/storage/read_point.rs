//! Consistent reads: learn etcd's revision, wait until the stream has reached it.
//!
//! One linearizable read serves every reader that was waiting when it began. Where the revision moved
//! outside our prefix, no event will come; then our own marker key is written, which moves the stream.
//! (etcd's progress notifications would do, but are broken in the 3.4 and 3.5 releases in use.)
//!
//! Contract: KEP-2340.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use tokio::{sync::Mutex, time::timeout};

use super::{ResourceId, Result, StorageError, etcd::EtcdError, metrics, shared::Shared};

/// Turns of the scheduler for which a read waits for more readers, as long as each brings some.
const GATHERING: usize = 8;

/// What readers share.
#[derive(Debug, Default)]
pub(super) struct ReadPoint {
    /// Counts arriving readers.
    arrivals: AtomicU64,
    /// The last answer of etcd.
    last: Mutex<Option<Answer>>,
    /// The last marker's revision.
    marker: Mutex<u64>,
}

#[derive(Clone, Debug)]
struct Answer {
    /// Readers that arrived before this count were waiting when the read began.
    serves: u64,
    revision: Result<u64, EtcdError>,
}

impl ReadPoint {
    /// Readers that have arrived by now, and those that come while others are let go first: a request to etcd costs more
    /// than a reader does.
    async fn gathered(&self) -> u64 {
        let mut arrived = self.arrivals.load(Ordering::Acquire);
        for _ in 0..GATHERING {
            tokio::task::yield_now().await;
            let now = self.arrivals.load(Ordering::Acquire);
            if now == arrived {
                break;
            }
            arrived = now;
        }
        arrived
    }
}

impl Shared {
    /// The key whose only purpose is to move the stream; upstream lists nothing that contains it.
    pub(super) fn marker_key(&self) -> String {
        format!("{}.keelson/marker", self.root)
    }

    /// Waits until the caches hold everything acknowledged before the call; answers the revision.
    pub(super) async fn consistent(&self, id: &ResourceId) -> Result<u64> {
        let target = self.current_revision().await?;
        self.reached(id, target).await
    }

    /// etcd's revision, by a read that began after the call.
    async fn current_revision(&self) -> Result<u64, EtcdError> {
        let ticket = self.read_point.arrivals.fetch_add(1, Ordering::AcqRel);
        let mut last = self.read_point.last.lock().await;
        if let Some(answer) = last.as_ref().filter(|answer| answer.serves > ticket) {
            return answer.revision.clone();
        }
        let serves = self.read_point.gathered().await;
        let revision = self.etcd.revision(&self.own_id, &self.marker_key()).await;
        *last = Some(Answer { serves, revision: revision.clone() });
        revision
    }

    /// Waits until the stream has reached `target`; moves it if nothing else does.
    pub(super) async fn reached(&self, id: &ResourceId, target: u64) -> Result<u64> {
        let started = Instant::now();
        let limits = &self.config.limits;
        if let Some(applied) = self.applied_within(target, limits.marker_delay).await {
            metrics::read_wait(id, started.elapsed(), true);
            return Ok(applied);
        }
        self.write_marker(target).await?;
        let applied = self.applied_within(target, limits.read_point_timeout).await;
        metrics::read_wait(id, started.elapsed(), applied.is_some());
        applied.ok_or_else(|| {
            self.stalled.notify_one();
            StorageError::Timeout(format!("the watch cache did not reach revision {target} in time"))
        })
    }

    /// Waits for a revision a client names; it may lie in the future, which no marker should force.
    pub(super) async fn not_older_than(&self, id: &ResourceId, requested: u64) -> Result<u64> {
        let current = *self.applied.borrow();
        if requested <= current {
            return Ok(current);
        }
        let actual = self.current_revision().await?;
        if requested <= actual {
            return self.reached(id, requested).await;
        }
        match self.applied_within(requested, self.config.limits.read_point_timeout).await {
            Some(applied) => Ok(applied),
            None => Err(StorageError::TooLargeResourceVersion { requested, current: *self.applied.borrow() }),
        }
    }

    async fn applied_within(&self, target: u64, within: std::time::Duration) -> Option<u64> {
        let mut applied = self.applied.subscribe();
        let reached = timeout(within, applied.wait_for(|applied| *applied >= target)).await;
        // The sender lives in `self`, so only time can run out.
        reached.ok()?.ok().map(|applied| *applied)
    }

    /// Writes the marker unless one at or after `target` was written.
    async fn write_marker(&self, target: u64) -> Result<(), EtcdError> {
        let mut written = self.read_point.marker.lock().await;
        if *written < target {
            *written = self.etcd.put(&self.own_id, &self.marker_key(), b"{}").await?;
        }
        Ok(())
    }
}
