//! Storage: etcd, the one ordered stream that follows it, and the caches of bytes that answer reads. Resources that are kept in
//! another etcd cluster have such a stream of their own there.
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

mod cache;
mod compaction;
mod config;
mod entry;
mod error;
mod etcd;
mod lease;
mod list;
mod metrics;
mod parts;
mod read_point;
mod resource;
mod scan;
mod selection;
pub mod shard;
mod shared;
mod stream;
mod watch;
mod write;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use component_base::traces;
use tokio_util::sync::CancellationToken;

pub(crate) use self::metrics::register as register_metrics;
use self::{cache::Phase, shared::Shared};
pub use self::{
    config::{Elsewhere, Limits, StoreConfig, TlsFiles, Transformer, Undecoded},
    entry::Entry,
    error::{StorageError, Unreadable},
    list::ContinueToken,
    parts::Parts,
    resource::{ResourceId, SelectablePath, StoredResource},
    selection::{FieldRequirement, LabelOperator, LabelRequirement, Selection},
    watch::WatchStream,
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
    /// Of a modified object, what it was before.
    pub before: Option<Arc<Entry>>,
}

/// The store: cheap to clone, one per server.
///
/// What is said of revisions holds within one etcd cluster: each has its own stream, read points, leases and compaction.
#[derive(Clone, Debug)]
pub struct Store {
    /// `--etcd-servers`: everything that has no other place.
    main: Arc<Shared>,
    /// `--etcd-servers-overrides`.
    others: Arc<[Arc<Shared>]>,
    /// Which of the others has a resource.
    placed: Arc<HashMap<ResourceId, usize>>,
}

// === impl Store ===

impl Store {
    /// Reads certificates and sets the clients up; connects when first used. Nothing is served
    /// before [`Store::run`] runs. Must be called within a tokio runtime.
    pub fn open(config: StoreConfig) -> Result<Self> {
        let placed = config.placed();
        let open = |place: Option<usize>| {
            let one = config.cluster(place, &placed);
            Shared::open(one).map(Arc::new)
        };
        let others = (0..config.elsewhere.len()).map(|at| open(Some(at))).collect::<Result<_>>()?;
        Ok(Self { main: open(None)?, others, placed: Arc::new(placed) })
    }

    /// The cluster that has a resource.
    fn of(&self, id: &ResourceId) -> &Arc<Shared> {
        self.placed.get(id).and_then(|at| self.others.get(*at)).unwrap_or(&self.main)
    }

    /// All clusters, that of `--etcd-servers` first.
    fn clusters(&self) -> impl Iterator<Item = &Arc<Shared>> {
        std::iter::once(&self.main).chain(self.others.iter())
    }

    /// Follows etcd until `drain` is cancelled: fills the caches, keeps them true, compacts.
    /// The caller spawns this as one task.
    pub async fn run(self, drain: CancellationToken) {
        let one = async |(at, cluster): (usize, &Arc<Shared>)| {
            tokio::select! {
                () = cluster.clone().follow() => {}
                () = cluster.compact_forever() => {}
                () = cluster.measure_forever(at) => {}
                () = drain.cancelled() => {}
            }
        };
        futures::future::join_all(self.clusters().enumerate().map(one)).await;
        for cache in self.clusters().flat_map(|cluster| cluster.caches()) {
            cache.close();
        }
    }

    /// Adds a resource (at start, or a custom resource later); loaded in the background, reads wait
    /// for it. Registering an id again replaces its selectable fields and reloads it; its watches end.
    pub fn register(&self, resource: StoredResource) {
        self.of(&resource.id).register(resource);
    }

    /// Drops a resource: its cache goes, its watches end.
    pub fn unregister(&self, id: &ResourceId) {
        self.of(id).unregister(id);
    }

    /// Waits until every resource registered so far is loaded.
    pub async fn wait_ready(&self) {
        for cache in self.clusters().flat_map(|cluster| cluster.caches()) {
            // Nobody else can drop the sender while the cache is held here.
            cache.phase().wait_for(|phase| *phase != Phase::Loading).await.ok();
        }
    }

    /// Whether every registered resource is loaded (the `watch-cache`/informer-sync readiness).
    pub fn is_ready(&self) -> bool {
        self.clusters().all(|cluster| cluster.ready())
    }

    /// Whether an etcd cluster answers, for the health checks (`etcd`, `etcd-readiness`): 0 is that of `--etcd-servers`, then
    /// come those of overrides. One that is not there has no fault.
    pub async fn ping(&self, cluster: usize) -> Result<()> {
        if let Some(cluster) = self.clusters().nth(cluster) {
            cluster.etcd.revision(&cluster.own_id, &cluster.marker_key()).await?;
        }
        Ok(())
    }

    /// How many etcd clusters there are beside that of `--etcd-servers`.
    pub fn overrides(&self) -> usize {
        self.others.len()
    }

    /// Every etcd server, and which cluster it is asked about as (see [`Self::ping`]).
    pub fn servers(&self) -> BTreeMap<String, usize> {
        let of = |(at, cluster): (usize, &Arc<Shared>)| {
            cluster.config.servers.iter().map(move |server| (server.clone(), at)).collect::<Vec<_>>()
        };
        self.clusters().enumerate().flat_map(of).collect()
    }

    /// The revision the caches of `--etcd-servers` have reached.
    pub fn revision(&self) -> u64 {
        *self.main.applied.borrow()
    }

    /// Reads one object at a consistent read point.
    pub async fn get(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>> {
        self.get_at(id, namespace, name, ListPoint::Consistent).await
    }

    /// Reads one object as fresh as asked (`Exact` means `NotOlderThan`).
    pub async fn get_at(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        point: ListPoint,
    ) -> Result<Option<Arc<Entry>>> {
        let cluster = self.of(id);
        let cache = cluster.cache(id)?;
        let (_, key) = cluster.keys(&cache.resource, namespace, name)?;
        cluster.fresh(id, point).await?;
        cluster.cache(id)?.get(&key)
    }

    /// Reads one object from the cache as it is now, without waiting; for first tries of guarded
    /// updates and for authorization, admission and other readers of settings.
    pub fn get_cached(&self, id: &ResourceId, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let cluster = self.of(id);
        let cache = cluster.cache(id).ok()?;
        let (_, key) = cluster.keys(&cache.resource, namespace, name).ok()?;
        // An unreadable value is as good as none to these readers; it was logged when it arrived.
        cache.get(&key).ok().flatten()
    }

    /// All objects of a resource (or one namespace of it) in the cache as it is now, without waiting.
    pub fn list_cached(&self, id: &ResourceId, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        let Ok(cache) = self.of(id).cache(id) else { return Vec::new() };
        let (_, objects) = cache.snapshot(0);
        list::in_range(&objects, &list::key_range(namespace)).cloned().collect()
    }

    /// Whether what is stored would be written otherwise today although it is the same object, as with a new key.
    pub async fn is_stale(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<bool> {
        self.of(id).is_stale(id, namespace, name).await
    }

    /// Bytes of all objects of each resource.
    pub fn sizes(&self) -> Vec<(ResourceId, usize)> {
        let caches = self.clusters().flat_map(|cluster| cluster.caches());
        caches.map(|cache| (cache.resource.id.clone(), cache.bytes())).collect()
    }

    /// How many objects of a resource the cache has; 0 for an unknown one.
    pub fn count(&self, id: &ResourceId) -> usize {
        self.of(id).cache(id).map_or(0, |cache| cache.count())
    }

    /// Bytes of the objects that the cache has of a resource, as they are sent.
    pub fn bytes(&self, id: &ResourceId) -> usize {
        self.of(id).cache(id).map_or(0, |cache| cache.bytes())
    }

    /// Reads one object straight from etcd.
    pub async fn get_latest(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>> {
        self.of(id).get_latest(id, namespace, name).await
    }

    /// Stores a new object. `json` needs no `resourceVersion`. `ttl` lets etcd delete it.
    /// Errors: `AlreadyExists`.
    pub async fn create(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        json: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        let _span = traces::step("Create etcd3");
        self.of(id).create(id, namespace, name, json, ttl).await
    }

    /// Replaces an object that is still at revision `expected`. Errors: `Conflict` with the object
    /// as it is, or without one when it is gone. `ttl` is that of `create` (a write drops the old lease).
    pub async fn update(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        expected: u64,
        json: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        let _span = traces::step("GuaranteedUpdate etcd3");
        self.of(id).update(id, namespace, name, expected, json, ttl).await
    }

    /// Deletes an object that is still at revision `expected`; answers its last state, carrying the
    /// revision of the deletion. Errors: `Conflict` as for `update`.
    pub async fn delete(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        expected: u64,
    ) -> Result<Arc<Entry>> {
        let _span = traces::step("Delete etcd3");
        self.of(id).delete(id, namespace, name, expected).await
    }

    /// Where an object is in etcd; nothing where none can be.
    pub fn key_of(&self, id: &ResourceId, namespace: &str, name: &str) -> String {
        let cluster = self.of(id);
        let keys = cluster.cache(id).and_then(|cache| cluster.keys(&cache.resource, namespace, name));
        keys.map(|(key, _)| key).unwrap_or_default()
    }

    /// Deletes an object that cannot be read, and only such a one.
    pub async fn delete_unread(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<()> {
        self.of(id).delete_unread(id, namespace, name).await
    }

    /// Objects of a resource (or one namespace of it) that cannot be read: their keys in etcd, and why; at most so many.
    pub fn unreadable(
        &self,
        id: &ResourceId,
        namespace: Option<&str>,
        most: usize,
    ) -> Vec<(String, Unreadable)> {
        let cluster = self.of(id);
        let Ok(cache) = cluster.cache(id) else { return Vec::new() };
        let prefix = cluster.resource_root(&cache.resource);
        let full = |(key, why): (Arc<str>, Unreadable)| (format!("{prefix}{key}"), why);
        cache.broken(namespace, most).into_iter().map(full).collect()
    }

    /// Lists objects. Errors: `TooOldResourceVersion`, `TooLargeResourceVersion`, `ExpiredContinue`,
    /// `InvalidContinue`.
    pub async fn list(&self, id: &ResourceId, request: ListRequest<'_>) -> Result<Listing> {
        let _span = traces::work("cacher.GetList");
        self.of(id).list(id, request).await
    }

    /// Opens a watch. Errors: `TooOldResourceVersion`, `TooLargeResourceVersion`.
    pub async fn watch(&self, id: &ResourceId, request: WatchRequest) -> Result<WatchStream> {
        self.of(id).watch(id, request).await
    }
}
