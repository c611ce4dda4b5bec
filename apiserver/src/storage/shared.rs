//! What the parts of one store share: the client, the caches by id and by key, how far the stream is.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    ResourceId, Result, StorageError, StoreConfig, StoredResource,
    cache::{Cache, Phase},
    etcd::Etcd,
    lease::Leases,
    read_point::ReadPoint,
};

/// The state of a store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) etcd: Etcd,
    pub(super) config: StoreConfig,
    /// The id requests about no resource count under in metrics.
    pub(super) own_id: ResourceId,
    /// The registry prefix with a closing slash.
    pub(super) root: String,
    pub(super) catalog: ArcSwap<Catalog>,
    registering: Mutex<()>,
    /// The revision all caches have reached.
    pub(super) applied: watch::Sender<u64>,
    /// The revision etcd was compacted at, as far as this server knows.
    pub(super) compacted: AtomicU64,
    /// A resource was registered.
    pub(super) registered: Notify,
    /// The stream stands still although etcd moved on.
    pub(super) stalled: Notify,
    /// The stream cannot go on from where it is.
    pub(super) resync: AtomicBool,
    pub(super) read_point: ReadPoint,
    pub(super) leases: Leases,
}

/// The caches.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    by_id: HashMap<ResourceId, Arc<Cache>, foldhash::fast::RandomState>,
    by_prefix: HashMap<String, Arc<Cache>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn open(config: StoreConfig) -> Result<Self> {
        let root = format!("{}/", config.prefix.trim_end_matches('/'));
        let etcd = Etcd::open(&config)?;
        let shared = Self {
            etcd,
            own_id: ResourceId::new("", "registry"),
            root,
            catalog: ArcSwap::default(),
            registering: Mutex::default(),
            applied: watch::Sender::new(0),
            compacted: AtomicU64::new(0),
            registered: Notify::new(),
            stalled: Notify::new(),
            resync: AtomicBool::new(false),
            read_point: ReadPoint::default(),
            leases: Leases::default(),
            config,
        };
        for resource in shared.config.resources.clone() {
            shared.register(resource);
        }
        Ok(shared)
    }

    /// Adds or replaces a cache.
    pub(super) fn register(&self, resource: StoredResource) {
        let cache = Cache::new(resource, self.config.transformer.clone(), self.config.limits.clone());
        self.change(|catalog| catalog.insert(Arc::new(cache)));
        self.registered.notify_one();
    }

    /// Drops a cache.
    pub(super) fn unregister(&self, id: &ResourceId) {
        self.change(|catalog| catalog.remove(id));
    }

    fn change(&self, edit: impl FnOnce(&mut Catalog) -> Option<Arc<Cache>>) {
        let _one_at_a_time = self.registering.lock();
        let mut catalog = Catalog::clone(&self.catalog.load());
        let gone = edit(&mut catalog);
        self.catalog.store(Arc::new(catalog));
        if let Some(cache) = gone {
            cache.close();
        }
    }

    /// The cache of a resource.
    pub(super) fn cache(&self, id: &ResourceId) -> Result<Arc<Cache>> {
        let catalog = self.catalog.load();
        catalog.by_id.get(id).cloned().ok_or_else(|| StorageError::NotFound(format!("resource {id}")))
    }

    /// All caches.
    pub(super) fn caches(&self) -> Vec<Arc<Cache>> {
        self.catalog.load().by_id.values().cloned().collect()
    }

    /// Whether every cache is loaded.
    pub(super) fn ready(&self) -> bool {
        self.catalog.load().by_id.values().all(|cache| *cache.phase().borrow() != Phase::Loading)
    }

    /// `/registry/pods/`.
    pub(super) fn resource_root(&self, resource: &StoredResource) -> String {
        format!("{}{}/", self.root, resource.prefix)
    }

    /// etcd's key of an object, and the cache's. Names are checked by the caller's validation; what
    /// would leave the resource's range is refused here all the same.
    pub(super) fn keys(
        &self,
        resource: &StoredResource,
        namespace: &str,
        name: &str,
    ) -> Result<(String, Arc<str>)> {
        let bad = |part: &str| part.contains('/') || part.contains('\0') || part == "." || part == "..";
        if bad(namespace) || bad(name) || name.is_empty() || namespace.is_empty() == resource.namespaced {
            return Err(StorageError::NotFound(format!("{} {namespace:?}/{name:?}", resource.id)));
        }
        let key = if resource.namespaced { format!("{namespace}/{name}") } else { name.to_owned() };
        Ok((format!("{}{}/{key}", self.root, resource.prefix), key.into()))
    }

    /// The cache an etcd key belongs to, and the key within it.
    pub(super) fn route<'k>(&self, catalog: &Catalog, key: &'k str) -> Option<(Arc<Cache>, &'k str)> {
        let path = key.strip_prefix(&self.root)?;
        let first = path.find('/')?;
        let second = path[first + 1..].find('/').map(|at| first + 1 + at);
        let (cache, at) = second
            .and_then(|at| Some((catalog.by_prefix.get(&path[..at])?, at)))
            .or_else(|| Some((catalog.by_prefix.get(&path[..first])?, first)))?;
        let key = &path[at + 1..];
        well_formed(&cache.resource, key).then(|| (cache.clone(), key))
    }
}

/// Whether a key has as many parts as the resource's objects.
pub(super) fn well_formed(resource: &StoredResource, key: &str) -> bool {
    match key.split_once('/') {
        Some((namespace, name)) => {
            resource.namespaced && !namespace.is_empty() && !name.is_empty() && !name.contains('/')
        }
        None => !resource.namespaced && !key.is_empty(),
    }
}

// === impl Catalog ===

impl Catalog {
    fn insert(&mut self, cache: Arc<Cache>) -> Option<Arc<Cache>> {
        self.by_prefix.insert(cache.resource.prefix.clone(), cache.clone());
        self.by_id.insert(cache.resource.id.clone(), cache)
    }

    fn remove(&mut self, id: &ResourceId) -> Option<Arc<Cache>> {
        let cache = self.by_id.remove(id)?;
        self.by_prefix.remove(&cache.resource.prefix);
        Some(cache)
    }
}
