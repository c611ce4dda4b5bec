//! Shared informers: one list and watch per kind and selector in the process, a store with indexes, and events with the old
//! object (client-go's reflector, store and shared informer).
//!
//! ```text
//! list pages -> watch lines -> decode one object at a time -> Store (BTreeMap + indexes) -> handlers -> work queues
//! ```
//! Watches end after 5 to 10 minutes and resume at the last version; 410 means list again, and what has vanished meanwhile is
//! reported as deleted with `unknown_state`. An object that does not decode is logged, counted and skipped.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    meta::{ObjectKey, key_of},
    task::Tasks,
};

mod kept;
mod reflector;
mod store;

pub use kept::{Digest, Kept};
pub use store::Store;

/// What an informer lists and watches of a kind. The default is everything in all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListWatch {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Label selector text.
    pub labels: Option<String>,
    /// Field selector text.
    pub fields: Option<String>,
}

/// A resource by its names, for informers on kinds unknown at compile time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupVersionResource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// Plural, lower case.
    pub resource: String,
}

impl GroupVersionResource {
    fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.resource),
            None => format!("{root}/{}", self.resource),
        }
    }
}

/// The metadata of any object, as the API server sends it for `PartialObjectMetadata`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Resource for Metadata {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "PartialObjectMetadata".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "meta.k8s.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "partialobjectmetadatas".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An informer on the metadata of any resource.
pub type DynamicInformer = Informer<Metadata>;

/// A change of the store, told to handlers in order.
#[derive(Debug)]
pub enum Event<K> {
    /// `initial`: it was there when the handler began to listen.
    Added {
        new: Arc<K>,
        initial: bool,
    },
    Updated {
        old: Arc<K>,
        new: Arc<K>,
    },
    /// `unknown_state`: the deletion itself was missed, `last` may be stale.
    Deleted {
        last: Arc<K>,
        unknown_state: bool,
    },
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Event<K> {
        match self {
            Event::Added { new, initial } => Event::Added { new: new.clone(), initial: *initial },
            Event::Updated { old, new } => Event::Updated { old: old.clone(), new: new.clone() },
            Event::Deleted { last, unknown_state } => {
                Event::Deleted { last: last.clone(), unknown_state: *unknown_state }
            }
        }
    }
}

impl<K> Event<K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Event::Added { new, .. } | Event::Updated { new, .. } => new,
            Event::Deleted { last, .. } => last,
        }
    }
}

/// A kind of the API.
pub trait Object: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// What an informer can hold: any kind of the API, or what is [`Kept`] of one, without its metadata.
pub trait Cached: DeserializeOwned + Send + Sync + 'static {
    /// Path of the collection, in one namespace or in all.
    fn path(namespace: Option<&str>) -> String;

    /// Namespace and name.
    fn key(&self) -> ObjectKey;

    /// The resource version.
    fn resource_version(&self) -> Option<Cow<'_, str>>;

    /// Is called before the object is kept, with the key it is kept by: what nobody reads may go, and an object that has
    /// its key may share this one.
    fn settle(&mut self, key: &ObjectKey);
}

impl<K: Object> Cached for K {
    fn path(namespace: Option<&str>) -> String {
        K::url_path(&(), namespace)
    }

    fn key(&self) -> ObjectKey {
        key_of(self.meta())
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        self.meta().resource_version.as_deref().map(Cow::Borrowed)
    }

    fn settle(&mut self, _key: &ObjectKey) {
        self.meta_mut().managed_fields = None;
    }
}

type Handler<K> = Box<dyn Fn(Event<K>) + Send + Sync>;

/// How far an informer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    synced: bool,
    /// Version of the newest event or bookmark.
    version: u64,
}

/// One shared list and watch. Clones share it.
pub struct Informer<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Informer<K> {
        Informer { inner: self.inner.clone() }
    }
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Informer").field("path", &self.inner.source.path).finish_non_exhaustive()
    }
}

struct Inner<K> {
    source: reflector::Source,
    store: Store<K>,
    /// Held while a change is applied and told, so that a late handler neither misses nor repeats one.
    handlers: Mutex<Vec<Handler<K>>>,
    progress: watch::Sender<Progress>,
    started: AtomicBool,
    /// Cancelled when nobody wants it any more.
    stopped: CancellationToken,
}

impl<K: Cached> Informer<K> {
    fn new(source: reflector::Source) -> Informer<K> {
        let inner = Inner {
            source,
            store: Store::default(),
            handlers: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
            started: AtomicBool::new(false),
            stopped: CancellationToken::new(),
        };
        Informer { inner: Arc::new(inner) }
    }

    /// The cached objects.
    pub fn store(&self) -> &Store<K> {
        &self.inner.store
    }

    /// Calls `handler` for every change, in order, from the informer's task: it must be quick (put keys on queues) and must
    /// not add handlers itself. What is in the store already is told first, as initial additions.
    pub fn on_event(&self, handler: impl Fn(Event<K>) + Send + Sync + 'static) {
        let mut handlers = self.inner.handlers.lock();
        for object in self.inner.store.list() {
            handler(Event::Added { new: object, initial: true });
        }
        handlers.push(Box::new(handler));
    }

    /// Adds an index: `values` tells under which values an object is found by [`Store::by_index`]. Objects already stored
    /// are indexed too; a second index of the same name is ignored, the first one stays.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.inner.store.add_index(name, values);
    }

    /// Whether the first list has been stored and told.
    pub fn synced(&self) -> bool {
        self.inner.progress.borrow().synced
    }

    /// Returns once [`Informer::synced`].
    pub async fn wait_synced(&self) {
        self.wait(|progress| progress.synced).await;
    }

    /// Whether the store is at least as new as a resource version; an unreadable version counts as seen.
    pub fn seen(&self, resource_version: &str) -> bool {
        let version = resource_version.parse().unwrap_or(0);
        self.inner.progress.borrow().version >= version
    }

    /// Returns once the object as written at `resource_version` (or a later state of it) is in the store, or its deletion.
    /// An informer with selectors may learn of an unselected object's version only with the next bookmark.
    pub async fn wait_seen(&self, key: &ObjectKey, resource_version: &str) {
        let version: u64 = resource_version.parse().unwrap_or(0);
        let stored =
            |key| self.store().get(key).is_some_and(|object| number(object.resource_version()) >= version);
        if !stored(key) {
            self.wait(|progress| progress.version >= version).await;
        }
    }

    async fn wait(&self, condition: impl FnMut(&Progress) -> bool) {
        let mut receiver = self.inner.progress.subscribe();
        // The sender lives in self, so the channel cannot close while this waits.
        if receiver.wait_for(condition).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Starts listing and watching, once; later calls do nothing.
    pub fn start(&self, client: &kube::Client, tasks: &Tasks) {
        self.start_with(client, tasks, false);
    }

    fn start_with(&self, client: &kube::Client, tasks: &Tasks, streaming: bool) {
        if self.inner.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let (informer, client, drain) = (self.clone(), client.clone(), tasks.drain());
        tasks.spawn(format!("informer {}", self.inner.source.path), async move {
            let stopped = informer.inner.stopped.clone();
            let reflector = stopped.run_until_cancelled(reflector::run(&informer, &client, streaming));
            drain.run_until_cancelled(reflector).await;
        });
    }

    /// Whether it follows the server no more, by [`Informers::stop`].
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.is_cancelled()
    }

    /// Tells an applied change to all handlers.
    fn tell(handlers: &[Handler<K>], event: &Event<K>) {
        for handler in handlers {
            handler(event.clone());
        }
    }

    /// Applies one watch event.
    fn apply(&self, change: Change, mut object: K) {
        let version = number(object.resource_version());
        let handlers = self.inner.handlers.lock();
        let event = match change {
            Change::Set => match self.inner.store.insert(object) {
                (new, Some(old)) => Some(Event::Updated { old, new }),
                (new, None) => Some(Event::Added { new, initial: false }),
            },
            Change::Delete => {
                let key = object.key();
                object.settle(&key);
                let last = Arc::new(object);
                self.inner.store.remove(&key).map(|_| Event::Deleted { last, unknown_state: false })
            }
        };
        if let Some(event) = event {
            Self::tell(&handlers, &event);
        }
        drop(handlers);
        self.advance(version);
    }

    /// Makes the store equal to a complete list, telling only the differences.
    fn replace(&self, objects: Vec<K>, version: u64) {
        let handlers = self.inner.handlers.lock();
        let initial = !self.synced();
        let mut vanished = self.inner.store.keys();
        for object in objects {
            if !vanished.is_empty() {
                vanished.remove(&object.key());
            }
            match self.inner.store.insert(object) {
                (new, Some(old)) if old.resource_version() == new.resource_version() => {}
                (new, Some(old)) => Self::tell(&handlers, &Event::Updated { old, new }),
                (new, None) => Self::tell(&handlers, &Event::Added { new, initial }),
            }
        }
        for key in vanished {
            if let Some(last) = self.inner.store.remove(&key) {
                Self::tell(&handlers, &Event::Deleted { last, unknown_state: true });
            }
        }
        drop(handlers);
        self.inner.progress.send_modify(|progress| {
            progress.synced = true;
            progress.version = progress.version.max(version);
        });
    }

    fn advance(&self, version: u64) {
        self.inner.progress.send_if_modified(|progress| {
            let newer = version > progress.version;
            progress.version = progress.version.max(version);
            newer
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Delete,
}

/// The numeric resource version, 0 if absent.
pub fn version_of(meta: &ObjectMeta) -> u64 {
    number(meta.resource_version.as_deref().map(Cow::Borrowed))
}

fn number(version: Option<Cow<'_, str>>) -> u64 {
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// All informers of a process. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: kube::Client,
    tasks: Tasks,
    streaming: bool,
    known: Arc<Mutex<HashMap<(TypeId, String), Known>>>,
}

impl fmt::Debug for Informers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Informers").field("count", &self.known.lock().len()).finish_non_exhaustive()
    }
}

type Starter = Box<dyn Fn(&kube::Client, &Tasks, bool) + Send + Sync>;

struct Known {
    informer: Box<dyn Any + Send + Sync>,
    start: Starter,
    progress: watch::Receiver<Progress>,
}

impl Informers {
    /// No informers yet; those to come use this client and task group.
    pub fn new(client: kube::Client, tasks: &Tasks) -> Informers {
        Informers { client, tasks: tasks.clone(), streaming: false, known: Arc::default() }
    }

    /// Lets the server stream the first list (`sendInitialEvents`) instead of paging it: no page is ever held as a whole. A
    /// server that refuses is paged; one that silently ignores the parameter costs ten seconds to find out.
    #[must_use]
    pub fn with_streaming_lists(mut self) -> Informers {
        self.streaming = true;
        self
    }

    /// The client the informers use.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The shared informer for a kind and selection; [`Informers::start`] makes it run.
    pub fn get<K: Cached>(&self, selection: ListWatch) -> Informer<K> {
        let path = K::path(selection.namespace.as_deref());
        self.shared(reflector::Source::new(path, false, &selection))
    }

    /// The shared informer for the metadata of any resource.
    pub fn metadata(&self, resource: &GroupVersionResource, selection: ListWatch) -> DynamicInformer {
        let path = resource.path(selection.namespace.as_deref());
        self.shared(reflector::Source::new(path, true, &selection))
    }

    fn shared<K: Cached>(&self, source: reflector::Source) -> Informer<K> {
        let mut known = self.known.lock();
        let entry = known.entry((TypeId::of::<K>(), source.identity())).or_insert_with(|| {
            let informer = Informer::<K>::new(source);
            let starter = informer.clone();
            Known {
                progress: informer.inner.progress.subscribe(),
                start: Box::new(move |client, tasks, streaming| starter.start_with(client, tasks, streaming)),
                informer: Box::new(informer),
            }
        });
        // The type is part of the key.
        #[allow(clippy::expect_used, reason = "the type is part of the key")]
        entry.informer.downcast_ref::<Informer<K>>().expect("informers are keyed by their type").clone()
    }

    /// Ends an informer for everybody who has it: what it lists is served no more. Its objects stay as they were last seen,
    /// and nobody is told of their end. Who asks for the same again gets another one.
    pub fn stop<K: Cached>(&self, informer: &Informer<K>) {
        let key = (TypeId::of::<K>(), informer.inner.source.identity());
        let mut known = self.known.lock();
        let is_this = |known: &Known| {
            let other = known.informer.downcast_ref::<Informer<K>>();
            other.is_some_and(|other| Arc::ptr_eq(&other.inner, &informer.inner))
        };
        if known.get(&key).is_some_and(is_this) {
            known.remove(&key);
        }
        informer.inner.stopped.cancel();
    }

    /// Starts all informers got so far that are not running yet.
    pub fn start(&self) {
        for known in self.known.lock().values() {
            (known.start)(&self.client, &self.tasks, self.streaming);
        }
    }

    /// Starts all and returns once every one of them is synced.
    pub async fn wait_synced(&self) {
        self.start();
        let receivers: Vec<_> = self.known.lock().values().map(|known| known.progress.clone()).collect();
        for mut receiver in receivers {
            // A closed channel means that the informer is gone; there is nothing to wait for.
            let _gone = receiver.wait_for(|progress| progress.synced).await.is_err();
        }
    }

    /// Whether every informer got so far is synced.
    pub fn synced(&self) -> bool {
        self.known.lock().values().all(|known| known.progress.borrow().synced)
    }
}

#[cfg(test)]
mod tests;
