//! What is done to etcd from time to time. Compaction: every five minutes it forgets what is older than five minutes. Its size
//! is told.
//!
//! Several servers, upstream's among them, take turns by a guarded write of `compact_rev_key`: who
//! moves its version from the one it saw last does the work.
//!
//! Contract: `etcd3/compact.go`, key and value included.

use std::sync::atomic::Ordering;

use super::{etcd::EtcdError, metrics, shared::Shared};

const KEY: &str = "compact_rev_key";

/// What one server remembers between turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// The key's version when last seen.
    version: i64,
    /// The revision to compact at the next turn: etcd's at the last.
    rev: u64,
}

impl Shared {
    /// Tells for ever how large the database is.
    pub(super) async fn measure_forever(&self, cluster: usize) {
        let interval = self.config.size_interval;
        if interval.is_zero() {
            return std::future::pending().await;
        }
        loop {
            if let Some(bytes) = self.etcd.size().await {
                metrics::size(cluster, bytes);
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Takes turns for ever; zero interval leaves it to others.
    pub(super) async fn compact_forever(&self) {
        let interval = self.config.compaction_interval;
        if interval.is_zero() {
            return std::future::pending().await;
        }
        let mut turn = Turn::default();
        loop {
            tokio::time::sleep(interval).await;
            match self.compact_once(turn).await {
                Ok(next) => turn = next,
                Err(error) => tracing::error!(%error, "compaction failed"),
            }
        }
    }

    /// One turn: compacts at the last turn's revision if no one else took it.
    pub(super) async fn compact_once(&self, turn: Turn) -> Result<Turn, EtcdError> {
        let value = turn.rev.to_string();
        let (won, version, compacted, rev) =
            self.etcd.put_if_version(&self.own_id, KEY, turn.version, &value).await?;
        if won && turn.rev > 0 {
            match self.etcd.compact(&self.own_id, turn.rev).await {
                // Someone compacted further already.
                Ok(()) | Err(EtcdError::Compacted) => {}
                Err(error) => return Err(error),
            }
            tracing::debug!(revision = turn.rev, "etcd compacted");
        }
        // The key holds the revision of the last compaction, whoever did it.
        self.compacted.fetch_max(compacted.parse().unwrap_or(0), Ordering::Relaxed);
        Ok(Turn { version, rev })
    }
}
