//! The one ordered stream: a single etcd watch over the registry prefix that feeds every cache in
//! revision order, and the loads that begin it.
//!
//! ```text
//! start:      revision R ─► watch from R+1 ─► load every resource as of R (events wait meanwhile)
//! lost:       watch again from the last applied revision
//! compacted:  start over; watchers expire, for they cannot be served exactly
//! registered: load that resource as of the applied revision, while the others go on
//! ```
//!
//! "The caches are at revision R" is published once every event up to R is applied.

use std::{
    collections::HashSet,
    num::NonZero,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{WatchResponse, WatchStream};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::task::JoinSet;

use super::{
    ResourceId,
    cache::{Cache, Change, Loaded, Phase, Taken},
    etcd::{EtcdError, Page, Stored, prefix_end},
    metrics,
    shared::{Shared, well_formed},
};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Messages that are applied together at most.
const TOGETHER: usize = 64;
/// Bytes of values a page of a load is to have at most, about.
const PAGE_BYTES: usize = 24 << 20;
/// Bytes of values that are worth a page of their own, about.
const LAST_PAGE_BYTES: usize = 4 << 20;
/// The part of what is left that a page brings.
const PAGE_PART: usize = 8;
/// Objects of a page of a load at most.
const MAX_PAGE: usize = 10_000;
/// Objects taken in before others get their turn.
const TURN: usize = 32;
/// Objects that are not worth a task of their own.
const SMALL_PART: usize = 128;

/// Why the stream broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("the watch ended: {0}")]
    Ended(String),
    #[error("the watch stands still")]
    Stalled,
}

type Load = BoxFuture<'static, (Arc<Cache>, u64, Result<Loaded, EtcdError>)>;

/// The loads under way.
struct Loads {
    running: FuturesUnordered<Load>,
    of: HashSet<ResourceId>,
}

/// What came together, for each cache in its order.
#[derive(Default)]
struct Batch {
    changes: Vec<(Arc<Cache>, Vec<Change>)>,
    messages: usize,
    /// Revision of the last event; 0 without events.
    reached: u64,
}

impl Batch {
    fn add(&mut self, cache: Arc<Cache>, change: Change) {
        match self.changes.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &cache)) {
            Some((_, changes)) => changes.push(change),
            None => self.changes.push((cache, vec![change])),
        }
    }
}

impl Shared {
    /// Follows etcd for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        loop {
            let before = *self.applied.borrow();
            let Err(error) = self.session().await;
            if *self.applied.borrow() > before {
                retry = FIRST_RETRY;
            }
            tracing::warn!(%error, "etcd watch broke off; trying again");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// One connection's worth of following.
    async fn session(self: &Arc<Self>) -> Result<std::convert::Infallible, Broken> {
        let now = self.etcd.revision(&self.own_id, &self.marker_key()).await?;
        let mut position = *self.applied.borrow();
        // A revision below ours means that etcd was restored from a backup.
        if position == 0 || now < position || self.resync.swap(false, Ordering::AcqRel) {
            for cache in self.caches() {
                cache.begin_load();
            }
            position = now;
        }
        let mut watch = self.etcd.watch(&self.own_id, &self.root, position + 1).await?;
        self.applied.send_replace(position);
        let mut loads = Loads { running: FuturesUnordered::new(), of: HashSet::new() };
        self.start_loads(&mut loads, position);
        loop {
            tokio::select! {
                message = watch.message() => {
                    let mut batch = Batch::default();
                    let outcome = self.take(message, &mut batch).and_then(|()| self.take_more(&mut watch, &mut batch));
                    // What came before the stream broke off counts.
                    position = self.apply(batch, position);
                    outcome?;
                }
                Some((cache, rev, result)) = loads.running.next() => {
                    self.finish_load(&mut loads, &cache, rev, result, position);
                }
                () = self.registered.notified() => self.start_loads(&mut loads, position),
                () = self.stalled.notified() => return Err(Broken::Stalled),
            }
        }
    }

    /// Applies a batch and publishes the revision reached.
    fn apply(&self, batch: Batch, position: u64) -> u64 {
        for (cache, changes) in batch.changes {
            cache.apply(changes);
        }
        if batch.reached <= position {
            return position;
        }
        self.applied.send_replace(batch.reached);
        batch.reached
    }

    /// Takes the messages that are there already, up to a bound.
    fn take_more(&self, watch: &mut WatchStream, batch: &mut Batch) -> Result<(), Broken> {
        while batch.messages < TOGETHER
            && let Some(message) = watch.message().now_or_never()
        {
            self.take(message, batch)?;
        }
        Ok(())
    }

    /// Adds one message to a batch.
    fn take(
        &self,
        message: Result<Option<WatchResponse>, etcd_client::Error>,
        batch: &mut Batch,
    ) -> Result<(), Broken> {
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => {
                metrics::stream_ended("OK");
                return Err(Broken::Ended("by the server".to_owned()));
            }
            Err(error) => {
                metrics::stream_ended("Unavailable");
                return Err(Broken::Ended(error.to_string()));
            }
        };
        if response.compact_revision() > 0 {
            self.resync.store(true, Ordering::Release);
            return Err(EtcdError::Compacted.into());
        }
        if response.canceled() {
            return Err(Broken::Ended(response.cancel_reason().to_owned()));
        }
        metrics::stream_message();
        batch.messages += 1;
        let catalog = self.catalog.load();
        for event in response.0.events {
            let deleted = event.r#type == 1;
            let Some(kv) = event.kv else { continue };
            let rev = u64::try_from(kv.mod_revision).unwrap_or(0);
            batch.reached = rev;
            let Ok(key) = std::str::from_utf8(&kv.key) else { continue };
            if let Some((cache, key)) = self.route(&catalog, key) {
                let value = (!deleted).then(|| Bytes::from(kv.value));
                batch.add(cache, Change { key: key.into(), rev, value });
            }
        }
        Ok(())
    }

    /// Starts loads of caches that have none.
    fn start_loads(self: &Arc<Self>, loads: &mut Loads, rev: u64) {
        for cache in self.caches() {
            let waiting = *cache.phase().borrow() == Phase::Loading;
            if waiting && loads.of.insert(cache.resource.id.clone()) {
                loads.running.push(self.clone().load(cache, rev, Duration::ZERO));
            }
        }
    }

    fn load(self: Arc<Self>, cache: Arc<Cache>, rev: u64, delay: Duration) -> Load {
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let result = self.read_all(&cache, rev).await;
            (cache, rev, result)
        })
    }

    /// Installs a load, or tries it again as of the revision reached by now.
    fn finish_load(
        self: &Arc<Self>,
        loads: &mut Loads,
        cache: &Arc<Cache>,
        rev: u64,
        result: Result<Loaded, EtcdError>,
        position: u64,
    ) {
        let id = &cache.resource.id;
        // A registration may have replaced the cache meanwhile.
        let current = self.cache(id).is_ok_and(|current| Arc::ptr_eq(&current, cache));
        match result {
            Ok(loaded) if current => {
                tracing::debug!(resource = %id, objects = loaded.len(), revision = rev, "cache loaded");
                cache.install(rev, loaded);
                loads.of.remove(id);
            }
            Err(error) if current => {
                tracing::warn!(resource = %id, %error, "cache load failed; trying again");
                loads.running.push(self.clone().load(cache.clone(), position, LAST_RETRY / 4));
            }
            _ => {
                loads.of.remove(id);
                self.start_loads(loads, position);
            }
        }
    }

    /// All objects of a resource as of a revision, page by page. While one page is taken in, the next is on its way.
    async fn read_all(&self, cache: &Arc<Cache>, rev: u64) -> Result<Loaded, EtcdError> {
        let resource = &cache.resource;
        let root: Arc<str> = self.resource_root(resource).into();
        let end = prefix_end(&root);
        let mut loaded = Loaded::default();
        let mut parts = JoinSet::new();
        let mut page = self.etcd.range(&resource.id, &root, &end, rev, self.config.limits.load_page).await?;
        loop {
            let next = page.stored.last().filter(|_| page.more).map(|last| format!("{}\0", last.key));
            let limit = page_after(&page);
            // Two pages are in memory at most.
            gather(&mut parts, &mut loaded).await?;
            for part in split(page.stored) {
                parts.spawn(take_in(cache.clone(), root.clone(), part));
            }
            let Some(start) = next else {
                gather(&mut parts, &mut loaded).await?;
                return Ok(loaded);
            };
            page = self.etcd.range(&resource.id, &start, &end, rev, limit).await?;
        }
    }
}

/// Objects to ask for after this page. A read of etcd 3.4 costs it a look at every key of the rest of the range, so pages
/// are large at first. Their memory goes to what is read later, so that the last ones, which cost little, are small.
fn page_after(page: &Page) -> usize {
    let bytes: usize = page.stored.iter().map(|stored| stored.value.len()).sum();
    let mean = (bytes / page.stored.len().max(1)).max(1);
    let left = usize::try_from(page.count).unwrap_or(usize::MAX).saturating_sub(page.stored.len());
    let most = (PAGE_BYTES / mean).clamp(1, MAX_PAGE);
    let least = (LAST_PAGE_BYTES / mean).clamp(1, most);
    (left / PAGE_PART).clamp(least, most)
}

/// A page in as many equal parts as there are processors, or fewer where they would be small.
fn split(mut page: Vec<Stored>) -> Vec<Vec<Stored>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let count = (page.len() / SMALL_PART).clamp(1, processors);
    let size = page.len().div_ceil(count);
    let mut parts = Vec::with_capacity(count);
    while page.len() > size {
        parts.push(page.split_off(page.len() - size));
    }
    parts.push(page);
    parts
}

/// Takes in a part of a page, in turns: what else waits for the processor goes on between them.
async fn take_in(cache: Arc<Cache>, root: Arc<str>, part: Vec<Stored>) -> Vec<Taken> {
    let mut taken = Vec::with_capacity(part.len());
    for (index, stored) in part.into_iter().enumerate() {
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let key = stored.key.strip_prefix(&*root).unwrap_or_default();
        if well_formed(&cache.resource, key) {
            taken.push(cache.load(key.into(), stored));
        } else {
            metrics::decode_error(&cache.resource.id);
        }
    }
    taken
}

/// Waits for the parts under way and adds them to the load.
async fn gather(parts: &mut JoinSet<Vec<Taken>>, loaded: &mut Loaded) -> Result<(), EtcdError> {
    while let Some(part) = parts.join_next().await {
        loaded.extend(part.map_err(|panicked| EtcdError::Other(panicked.to_string()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_large_while_much_is_left_and_never_larger_than_memory_allows() {
        let after = |left: u64, size: usize| {
            let value = Bytes::from(vec![b' '; size]);
            page_after(&Page {
                stored: vec![Stored { key: String::new(), value, rev: 1 }],
                count: left + 1,
                more: true,
            })
        };
        assert_eq!(after(1_000_000, 6_000), PAGE_BYTES / 6_000);
        assert_eq!(after(16_000, 6_000), 2_000);
        assert_eq!(after(1_000, 6_000), LAST_PAGE_BYTES / 6_000);
        assert_eq!(after(1_000_000, 10), MAX_PAGE);
        assert_eq!(after(1_000_000, 0), MAX_PAGE);
        assert_eq!(after(1_000_000, 1 << 20), 24);
        assert_eq!(after(10, 64 << 20), 1);
    }

    #[test]
    fn a_page_is_split_into_parts_that_are_all_of_it() {
        let page = |count: u64| -> Vec<Stored> {
            (0..count).map(|rev| Stored { key: String::new(), value: Bytes::new(), rev }).collect()
        };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        for count in [0, 1, SMALL_PART, SMALL_PART + 1, SMALL_PART * processors, 10_007] {
            let parts = split(page(count as u64));
            assert!(parts.len() <= processors, "{} parts of {count}", parts.len());
            // Equal but for the rounding.
            let is_worth_it = |part: &Vec<Stored>| part.len() + processors > SMALL_PART;
            assert!(parts.len() == 1 || parts.iter().all(is_worth_it), "{count}");
            let mut revisions: Vec<u64> = parts.iter().flatten().map(|stored| stored.rev).collect();
            revisions.sort_unstable();
            assert_eq!(revisions, (0..count as u64).collect::<Vec<_>>());
        }
    }
}
