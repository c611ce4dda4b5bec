//! Storage: etcd, the one ordered stream that follows it, and the caches of bytes that answer reads.
//!
//! ```text
//!            writes: one guarded transaction each              reads: from memory, after a read point
//!  engine ──────────────────────────► etcd ◄───────────┐      ┌──────────────────────────► engine
//!                                      │ one watch     │ "revision now?"     │
//!                                      ▼               │ (shared)            │
//!                                   stream ──► caches (one per resource: map, history, watchers)
//! ```
//!
//! Keys and continue tokens are upstream's, so a cluster's data can be served by either. Values are
//! written as JSON. An object is kept once, as the JSON that is sent, with its `resourceVersion` in
//! place; selection reads the few facts noted beside it, and nothing decodes an object to serve a
//! read.
//!
//! Contract: upstream's `storage.Interface` (`apiserver/pkg/storage`, `etcd3`, `cacher`); API
//! concepts, "Efficient detection of changes" and "Resource versions"; KEP-2340 (consistent reads
//! from cache), KEP-3157 (streaming lists).

mod config;
mod entry;
mod error;
mod resource;
mod selection;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{Limits, StoreConfig, TlsFiles, Transformer},
    entry::Entry,
    error::StorageError,
    resource::{ResourceId, SelectablePath, StoredResource},
    selection::{FieldRequirement, LabelOperator, LabelRequirement, Selection},
};

/// The result of a storage operation.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListPoint {
    /// At least as new as every write acknowledged before the read began (no `resourceVersion`).
    Consistent,
    /// Whatever is at hand (`resourceVersion=0`).
    Any,
    /// At least this revision (`resourceVersionMatch=NotOlderThan`).
    NotOlderThan(u64),
    /// Exactly this revision (`resourceVersionMatch=Exact`).
    Exact(u64),
}

/// A list to make.
#[derive(Clone, Debug)]
pub struct ListRequest<'a> {
    /// One namespace, or all with `None`. Cluster-scoped resources take `None`.
    pub namespace: Option<&'a str>,
    /// One object only (a `metadata.name` field selector); needs the namespace where there are any.
    pub selection: &'a Selection,
    /// How fresh; ignored when `continue_token` is set.
    pub point: ListPoint,
    /// At most so many objects; 0 is no limit.
    pub limit: usize,
    /// The token of the page before; empty starts a list.
    pub continue_token: &'a str,
}

/// A list, or one page of it.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The list's `metadata.resourceVersion`.
    pub rev: u64,
    /// The objects in key order.
    pub entries: Vec<Arc<Entry>>,
    /// `metadata.continue`; empty at the end.
    pub continue_token: String,
    /// `metadata.remainingItemCount`; only without selectors.
    pub remaining: Option<u64>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// After this revision: replay history, then go on.
    Rev(u64),
    /// The present objects as ADDED, as fresh as the point asks, then go on. With `mark_end`
    /// (`sendInitialEvents=true`) a bookmark closes them.
    Initial {
        /// How fresh; `Exact` is treated as `NotOlderThan`.
        point: ListPoint,
        /// Whether `InitialEventsEnd` is sent.
        mark_end: bool,
    },
}

/// A watch to open.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// One namespace, or all with `None`.
    pub namespace: Option<String>,
    /// What the watcher sees; an object that leaves it is DELETED for this watcher.
    pub selection: Selection,
    /// Where to begin.
    pub from: WatchFrom,
    /// Whether bookmarks are sent: about every minute and shortly before `timeout`.
    pub bookmarks: bool,
    /// When the caller will end the watch, for the last bookmark.
    pub timeout: Option<Duration>,
}

/// The kind of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// The object is new to this watcher.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone, for this watcher.
    Deleted,
    /// Only the revision.
    Bookmark,
    /// The bookmark that ends the initial events.
    InitialEventsEnd,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// The event's revision: the one the object carries.
    pub rev: u64,
    /// `{"type":…,"object":…}` and a newline, in the stored version; shared by all watchers.
    pub frame: Bytes,
    /// The object (its last state when deleted); none for bookmarks.
    pub entry: Option<Arc<Entry>>,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct WatchStream {}

/// The store: cheap to clone, one per server.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Reads certificates and sets the clients up; connects when first used. Nothing is served
    /// before [`Store::run`] runs.
    pub fn open(config: StoreConfig) -> Result<Self> {
        drop(config);
        Ok(Self {})
    }

    /// Follows etcd until `drain` is cancelled: fills the caches, keeps them true, compacts.
    /// The caller spawns this as one task.
    pub async fn run(self, drain: CancellationToken) {
        drain.cancelled().await;
    }

    /// Adds a resource (at start, or a custom resource later); loaded in the background, reads wait
    /// for it. Registering an id again replaces its selectable fields and reloads it.
    pub fn register(&self, resource: StoredResource) {
        drop(resource);
    }

    /// Drops a resource: its cache goes, its watches end.
    pub fn unregister(&self, id: &ResourceId) {
        let _id = id;
    }

    /// Waits until every resource registered so far is loaded.
    pub async fn wait_ready(&self) {}

    /// Whether every registered resource is loaded (the `watch-cache`/informer-sync readiness).
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Whether etcd answers, for the health checks (`etcd`, `etcd-readiness`).
    pub async fn ping(&self) -> Result<()> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// The revision the caches have reached.
    pub fn revision(&self) -> u64 {
        0
    }

    /// Reads one object at a consistent read point.
    pub async fn get(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>> {
        self.get_at(id, namespace, name, ListPoint::Consistent).await
    }

    /// Reads one object as fresh as asked (`Exact` means `NotOlderThan`).
    pub async fn get_at(
        &self,
        _id: &ResourceId,
        _namespace: &str,
        _name: &str,
        _point: ListPoint,
    ) -> Result<Option<Arc<Entry>>> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Reads one object from the cache as it is now, without waiting; for first tries of guarded
    /// updates and for authorization, admission and other readers of settings.
    pub fn get_cached(&self, _id: &ResourceId, _namespace: &str, _name: &str) -> Option<Arc<Entry>> {
        None
    }

    /// All objects of a resource (or one namespace of it) in the cache as it is now, without waiting.
    pub fn list_cached(&self, _id: &ResourceId, _namespace: Option<&str>) -> Vec<Arc<Entry>> {
        Vec::new()
    }

    /// Reads one object straight from etcd.
    pub async fn get_latest(
        &self,
        _id: &ResourceId,
        _namespace: &str,
        _name: &str,
    ) -> Result<Option<Arc<Entry>>> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Stores a new object. `json` needs no `resourceVersion`. `ttl` lets etcd delete it.
    /// Errors: `AlreadyExists`.
    pub async fn create(
        &self,
        _id: &ResourceId,
        _namespace: &str,
        _name: &str,
        _json: Vec<u8>,
        _ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Replaces an object that is still at revision `expected`. Errors: `Conflict` with the object
    /// as it is, or without one when it is gone. `ttl` is that of `create` (a write drops the old lease).
    pub async fn update(
        &self,
        _id: &ResourceId,
        _namespace: &str,
        _name: &str,
        _expected: u64,
        _json: Vec<u8>,
        _ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Deletes an object that is still at revision `expected`; answers its last state, carrying the
    /// revision of the deletion. Errors: `Conflict` as for `update`.
    pub async fn delete(
        &self,
        _id: &ResourceId,
        _namespace: &str,
        _name: &str,
        _expected: u64,
    ) -> Result<Arc<Entry>> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Lists objects. Errors: `TooOldResourceVersion`, `TooLargeResourceVersion`, `ExpiredContinue`,
    /// `InvalidContinue`.
    pub async fn list(&self, _id: &ResourceId, _request: ListRequest<'_>) -> Result<Listing> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }

    /// Opens a watch. Errors: `TooOldResourceVersion`, `TooLargeResourceVersion`.
    pub async fn watch(&self, _id: &ResourceId, _request: WatchRequest) -> Result<WatchStream> {
        Err(StorageError::Unavailable("etcd is not connected".to_owned()))
    }
}

impl WatchStream {
    /// The next event. `Ok(None)`: the watch ended (the reader was too slow, the resource is gone,
    /// the server stops) and the client should watch again from its last revision. An error
    /// (`TooOldResourceVersion`) is sent to the client as an ERROR event and ends the watch.
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        Ok(None)
    }

    /// An event that is ready without waiting, so that frames can be sent together.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        None
    }
}
