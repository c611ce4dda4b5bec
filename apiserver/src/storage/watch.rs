//! A running watch as the engine reads it: initial events, then changes, with bookmarks between.
//!
//! Contract: API concepts, "Watch bookmarks"; KEP-3157 for the bookmark that ends initial events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{
    Entry, ListPoint, ResourceId, Result, StorageError, WatchEvent, WatchFrom, WatchKind, WatchRequest,
    cache::{Cache, End, Next, SubscribeFrom, Watcher},
    entry::frame_head,
    list::{in_range, key_range},
    metrics,
    shared::Shared,
};

/// The last bookmark comes this long before the watch's timeout.
const BEFORE_TIMEOUT: Duration = Duration::from_secs(2);

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct WatchStream {
    shared: Arc<Shared>,
    cache: Arc<Cache>,
    watcher: Arc<Watcher>,
    /// What is left of the initial objects.
    initial: VecDeque<Arc<Entry>>,
    /// The end of the initial events is to be marked, with this revision.
    mark: Option<u64>,
    /// The revision the watch began after.
    began: u64,
    /// When the next bookmark is due; none without bookmarks.
    bookmark_at: Option<Instant>,
    /// When the last bookmark is due.
    last_bookmark_at: Option<Instant>,
}

impl Shared {
    /// Opens a watch.
    pub(super) async fn watch(
        self: &Arc<Self>,
        id: &ResourceId,
        request: WatchRequest,
    ) -> Result<WatchStream> {
        let (from, mark_end) = match request.from {
            WatchFrom::Rev(rev) => {
                self.loaded(id).await?;
                (SubscribeFrom::Rev(rev), false)
            }
            WatchFrom::Initial { point, mark_end } => {
                let point = match point {
                    ListPoint::Exact(rev) => ListPoint::NotOlderThan(rev),
                    other => other,
                };
                (SubscribeFrom::Snapshot { reached: self.fresh(id, point).await? }, mark_end)
            }
        };
        let cache = self.cache(id)?;
        let WatchRequest { namespace, selection, bookmarks, timeout, .. } = request;
        let range = key_range(namespace.as_deref());
        let (watcher, began, objects) = cache.subscribe(namespace, selection.clone(), from)?;
        let initial = objects.iter().flat_map(|objects| in_range(objects, &range));
        let initial: VecDeque<_> = initial.filter(|entry| selection.matches(entry)).cloned().collect();
        metrics::init_events(id, initial.len());
        let now = Instant::now();
        Ok(WatchStream {
            initial,
            mark: mark_end.then_some(began),
            began,
            bookmark_at: bookmarks.then(|| now + self.config.limits.bookmark_interval),
            last_bookmark_at: timeout
                .filter(|t| bookmarks && *t > BEFORE_TIMEOUT)
                .map(|t| now + (t - BEFORE_TIMEOUT)),
            shared: self.clone(),
            cache,
            watcher,
        })
    }
}

// === impl WatchStream ===

impl WatchStream {
    /// The next event. `Ok(None)`: the watch ended (the reader was too slow, the resource is gone,
    /// the server stops) and the client should watch again from its last revision. An error
    /// (`TooOldResourceVersion`) is sent to the client as an ERROR event and ends the watch.
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.initial_event() {
                return Ok(Some(event));
            }
            // Read before the queue is found empty: everything up to here was queued by then.
            let applied = *self.shared.applied.borrow();
            match self.cache.next(&self.watcher) {
                Next::Event(event) => return Ok(Some(event)),
                Next::End(End::Closed) => return Ok(None),
                Next::End(End::Expired) => {
                    let oldest = self.cache.floor();
                    return Err(StorageError::TooOldResourceVersion { requested: self.began, oldest });
                }
                Next::Idle => {}
            }
            let due = self.next_bookmark();
            if due.is_some_and(|due| due <= Instant::now()) {
                self.bookmark_sent();
                return Ok(Some(self.bookmark(applied.max(self.began), false)));
            }
            tokio::select! {
                () = self.watcher.notify.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// An event that is ready without waiting, so that frames can be sent together.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        if let Some(event) = self.initial_event() {
            return Some(event);
        }
        match self.cache.next(&self.watcher) {
            Next::Event(event) => Some(event),
            Next::Idle | Next::End(_) => None,
        }
    }

    fn initial_event(&mut self) -> Option<WatchEvent> {
        if let Some(entry) = self.initial.pop_front() {
            let (kind, rev) = (WatchKind::Added, entry.rev());
            return Some(WatchEvent {
                kind,
                rev,
                frame: entry.frame(kind),
                entry: Some(entry),
                before: None,
            });
        }
        self.mark.take().map(|rev| self.bookmark(rev, true))
    }

    fn next_bookmark(&self) -> Option<Instant> {
        match (self.bookmark_at, self.last_bookmark_at) {
            (Some(next), Some(last)) => Some(next.min(last)),
            (next, last) => next.or(last),
        }
    }

    fn bookmark_sent(&mut self) {
        let now = Instant::now();
        self.last_bookmark_at = self.last_bookmark_at.filter(|last| *last > now);
        self.bookmark_at = self.bookmark_at.map(|_| now + self.shared.config.limits.bookmark_interval);
    }

    fn bookmark(&self, rev: u64, ends_initial: bool) -> WatchEvent {
        let kind = if ends_initial { WatchKind::InitialEventsEnd } else { WatchKind::Bookmark };
        let mut metadata = serde_json::json!({"resourceVersion": rev.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = serde_json::json!({"k8s.io/initial-events-end": "true"});
        }
        let resource = &self.cache.resource;
        let object = serde_json::json!({
            "kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata,
        });
        let frame = [frame_head(kind), object.to_string().as_bytes(), b"}\n"].concat();
        WatchEvent { kind, rev, frame: Bytes::from(frame), entry: None, before: None }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.cache.unsubscribe(&self.watcher);
    }
}
