//! The cache of one resource: the objects in key order, the recent events, and who watches.
//!
//! One writer (the stream) applies events in revision order; readers take an O(1) snapshot. History
//! is bounded by bytes and age. Watchers are found by what they watch (one object, one value of a
//! selectable field, one namespace), so an event wakes only those it may concern.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map},
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::{
    Entry, Limits, Selection, StorageError, StoredResource, Transformer, Undecoded, Unreadable, WatchEvent,
    WatchKind,
    etcd::Stored,
    metrics,
    scan::{Found, Scanner},
};

/// Objects by `namespace/name`: the byte order of etcd's keys.
pub(super) type Objects = OrdMap<Arc<str>, Arc<Entry>>;

/// The cache of one resource.
pub(super) struct Cache {
    pub(super) resource: StoredResource,
    pub(super) scanner: Arc<Scanner>,
    transformer: Arc<dyn Transformer>,
    limits: Limits,
    inner: RwLock<Inner>,
    /// What is being written here, or was and the stream has not brought yet.
    written: Mutex<HashMap<Arc<str>, Written>>,
    ready: watch::Sender<Phase>,
}

/// A write of this server, so that the stream's news of it need not be read again.
#[derive(Clone)]
enum Written {
    /// Under way; the stream may be faster than etcd's answer.
    Sent(Arc<Prepared>),
    /// Done.
    Done(Arc<Entry>),
}

/// A value about to be written.
pub(super) struct Prepared {
    /// The object.
    pub(super) json: Vec<u8>,
    /// What a scan of it found.
    pub(super) found: Found,
    /// As etcd gets it.
    pub(super) value: Vec<u8>,
}

/// Forgets a write under way when it ends, however it ends.
pub(super) struct UnderWay<'c> {
    cache: &'c Cache,
    key: Arc<str>,
    pub(super) prepared: Arc<Prepared>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let hash_map::Entry::Occupied(held) = self.cache.written.lock().entry(self.key.clone())
            && matches!(held.get(), Written::Sent(other) if Arc::ptr_eq(other, &self.prepared))
        {
            held.remove();
        }
    }
}

/// Where a cache stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The initial load runs; events are held back.
    Loading,
    /// Objects are those of the stream's revision.
    Ready,
    /// The resource is no longer served.
    Closed,
}

#[derive(Default)]
struct Inner {
    objects: Objects,
    /// Of all objects, as they are sent.
    bytes: usize,
    /// Keys whose value cannot be read, and why.
    broken: HashMap<Arc<str>, Unreadable>,
    /// Events that arrived while loading.
    pending: Vec<Change>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// All events after this revision are in `history`.
    floor: u64,
    /// Revision of the last event or load.
    rev: u64,
    watchers: HashMap<u64, Arc<Watcher>>,
    /// Every watcher is in one of them.
    buckets: HashMap<Bucket, HashMap<u64, Arc<Watcher>>>,
    lagging: HashSet<u64>,
    next_watcher: u64,
}

/// A load under way: values become entries page by page, so that all of both never lie in memory at once.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    objects: Objects,
    broken: HashMap<Arc<str>, Unreadable>,
}

/// A stored value, taken in.
#[derive(Debug)]
pub(super) enum Taken {
    Object(Arc<str>, Arc<Entry>),
    /// Why it cannot be read.
    Broken(Arc<str>, Unreadable),
}

/// One change of the stream.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// `namespace/name`.
    pub(super) key: Arc<str>,
    pub(super) rev: u64,
    /// The new value; none for a deletion.
    pub(super) value: Option<Bytes>,
}

/// A change as history keeps it and watchers share it.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) rev: u64,
    deleted: bool,
    /// The object after the change; its last state when deleted.
    entry: Arc<Entry>,
    prev: Option<Arc<Entry>>,
    at: Instant,
    cost: usize,
    /// The ADDED frame of a change, for watchers the object newly matches.
    added: OnceLock<Bytes>,
    /// What a watcher is sent when the object leaves its selection.
    left: OnceLock<Arc<Entry>>,
}

/// What a watcher can be limited to, finest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Object(String),
    Field(usize, String),
    Namespace(String),
    All,
}

/// A watcher's side of a watch.
#[derive(Debug)]
pub(super) struct Watcher {
    id: u64,
    /// Only events after this revision count; the stream may not have reached it yet.
    after: u64,
    namespace: Option<String>,
    selection: Selection,
    bucket: Bucket,
    /// Counts the watch and what it leaves out, where it is about a part of all objects.
    sharded: Option<metrics::Sharded>,
    queue: Mutex<Queue>,
    pub(super) notify: Notify,
}

#[derive(Debug)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    mode: Mode,
}

/// How a watcher gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// From its queue.
    Live,
    /// From history, after this revision, once the queue is empty: new watchers and slow ones.
    Lagging(u64),
    /// No more.
    Closed(End),
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The reader was too slow, or the resource or server goes away.
    Closed,
    /// The stream lost events; only a new list helps.
    Expired,
}

/// What a watcher finds when it looks.
#[derive(Debug)]
pub(super) enum Next {
    Event(WatchEvent),
    /// Everything up to the stream's revision was seen.
    Idle,
    End(End),
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(resource: StoredResource, transformer: Arc<dyn Transformer>, limits: Limits) -> Self {
        Self {
            scanner: Arc::new(Scanner::new(resource.selectable.clone())),
            resource,
            transformer,
            limits,
            inner: RwLock::default(),
            written: Mutex::default(),
            ready: watch::Sender::new(Phase::Loading),
        }
    }

    /// Follows the phase.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.ready.subscribe()
    }

    /// Decodes a stored value into an entry.
    pub(super) fn decode(
        &self,
        key: Arc<str>,
        rev: u64,
        value: Bytes,
        kind: Option<WatchKind>,
    ) -> Result<Entry, StorageError> {
        let fail = |key: &str, why: Undecoded| {
            metrics::decode_error(&self.resource.id);
            let why = match why {
                Undecoded::Sealed(why) => Unreadable::Sealed(why),
                Undecoded::Malformed(why) => Unreadable::Malformed { rev, why },
            };
            StorageError::Undecodable { key: format!("{}/{key}", self.resource.prefix), why }
        };
        let json = self.transformer.decode(&self.resource.id, &key, value).map_err(|why| fail(&key, why))?;
        Entry::build(key.clone(), self.resource.namespaced, rev, &json, &self.scanner, kind)
            .map_err(|malformed| fail(&key, Undecoded::Malformed(malformed.to_string())))
    }

    /// What a stored value becomes in a load.
    pub(super) fn load(&self, key: Arc<str>, stored: Stored) -> Taken {
        let rev = stored.rev;
        match self.decode(key.clone(), rev, stored.value, None) {
            Ok(entry) => Taken::Object(key, Arc::new(entry)),
            Err(error) => {
                tracing::error!(%error, "stored object skipped");
                Taken::Broken(key, unreadable(error, rev))
            }
        }
    }

    /// Takes the result of a load as of `rev`: replaces the objects, forgets history, applies what
    /// arrived meanwhile. Watchers of before cannot be served exactly any more and expire.
    pub(super) fn install(&self, rev: u64, loaded: Loaded) {
        let Loaded { objects, broken } = loaded;
        // Of an etcd that was restored, revisions may come a second time.
        self.written.lock().clear();
        let mut inner = self.inner.write();
        inner.bytes = objects.values().map(|entry| entry.json().len()).sum();
        inner.objects = objects;
        inner.broken = broken;
        inner.history.clear();
        inner.history_bytes = 0;
        inner.floor = rev;
        inner.rev = rev;
        inner.end_watchers(End::Expired);
        for change in std::mem::take(&mut inner.pending) {
            if change.rev > rev {
                let prev = inner.objects.get(&*change.key).cloned();
                let entry = self.changed(&change, prev.is_some());
                // There are no watchers to wake.
                self.apply_locked(&mut inner, change, entry, prev, &mut Vec::new());
            }
        }
        metrics::initialized(&self.resource.id, rev, inner.objects.len());
        metrics::objects(&self.resource.id, inner.objects.len());
        drop(inner);
        self.ready.send_replace(Phase::Ready);
    }

    /// Holds events back until the next `install`.
    pub(super) fn begin_load(&self) {
        let mut inner = self.inner.write();
        inner.pending.clear();
        self.ready.send_if_modified(|phase| {
            let changed = *phase == Phase::Ready;
            if changed {
                *phase = Phase::Loading;
            }
            changed
        });
    }

    /// The resource is no longer served.
    pub(super) fn close(&self) {
        self.inner.write().end_watchers(End::Closed);
        self.ready.send_replace(Phase::Closed);
    }

    /// Applies changes of the stream in their order. Watchers are woken once, when all is applied, so that
    /// what came together is sent together.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut woken = Vec::new();
        for change in changes {
            // Only the stream, which calls this, begins and ends loads and changes objects.
            if *self.ready.borrow() == Phase::Loading {
                self.inner.write().pending.push(change);
                continue;
            }
            let prev = self.inner.read().objects.get(&*change.key).cloned();
            let entry = self.changed(&change, prev.is_some());
            self.apply_locked(&mut self.inner.write(), change, entry, prev, &mut woken);
        }
        let (reached, count) = {
            let inner = self.inner.read();
            (inner.rev, inner.objects.len())
        };
        self.written.lock().retain(|_, written| match written {
            Written::Sent(_) => true,
            Written::Done(entry) => entry.rev() > reached,
        });
        if *self.ready.borrow() == Phase::Ready {
            metrics::objects(&self.resource.id, count);
        }
        for watcher in woken {
            watcher.notify.notify_one();
        }
    }

    /// Notes what is about to be written.
    pub(super) fn writing(&self, key: &Arc<str>, prepared: Prepared) -> UnderWay<'_> {
        let prepared = Arc::new(prepared);
        self.written.lock().insert(key.clone(), Written::Sent(prepared.clone()));
        UnderWay { cache: self, key: key.clone(), prepared }
    }

    /// The entry of what was written at `rev`: the stream's where that was first, else one that the stream's news of
    /// it will find.
    pub(super) fn done(&self, write: &UnderWay<'_>, rev: u64, kind: WatchKind) -> Arc<Entry> {
        if let Some(entry) = self.at_revision(&write.key, rev) {
            return entry;
        }
        let entry = Arc::new(self.laid_out(&write.key, &write.prepared, rev, kind));
        self.written.lock().insert(write.key.clone(), Written::Done(entry.clone()));
        entry
    }

    fn laid_out(&self, key: &Arc<str>, written: &Prepared, rev: u64, kind: WatchKind) -> Entry {
        let scanned = (written.json.as_slice(), &written.found);
        Entry::laid_out(key.clone(), self.resource.namespaced, rev, scanned, &self.scanner, Some(kind))
    }

    /// The entry of a change; none for a deletion.
    fn changed(&self, change: &Change, there: bool) -> Option<Result<Arc<Entry>, StorageError>> {
        let kind = if there { WatchKind::Modified } else { WatchKind::Added };
        let value = change.value.clone()?;
        let written = self.written.lock().get(&change.key).cloned();
        match written {
            // etcd gives a revision to one transaction, so that this is what it stored.
            Some(Written::Done(entry)) if entry.rev() == change.rev && entry.has_frame(kind) => {
                return Some(Ok(entry));
            }
            // The same value is the same object, whoever wrote it.
            Some(Written::Sent(prepared)) if prepared.value == value => {
                return Some(Ok(Arc::new(self.laid_out(&change.key, &prepared, change.rev, kind))));
            }
            _ => {}
        }
        Some(self.decode(change.key.clone(), change.rev, value, Some(kind)).map(Arc::new))
    }

    fn apply_locked(
        &self,
        inner: &mut Inner,
        change: Change,
        entry: Option<Result<Arc<Entry>, StorageError>>,
        prev: Option<Arc<Entry>>,
        woken: &mut Vec<Arc<Watcher>>,
    ) {
        let Change { key, rev, .. } = change;
        inner.rev = inner.rev.max(rev);
        let entry = match entry {
            Some(Ok(entry)) => Some(entry),
            Some(Err(error)) => {
                tracing::error!(%error, "stored object skipped");
                inner.broken.insert(key.clone(), unreadable(error, rev));
                None
            }
            None => {
                inner.broken.remove(&key);
                None
            }
        };
        inner.bytes += entry.as_ref().map_or(0, |entry| entry.json().len());
        inner.bytes -= prev.as_ref().map_or(0, |entry| entry.json().len());
        let event = match (entry, prev) {
            (Some(entry), prev) => {
                inner.broken.remove(&key);
                inner.objects.insert(key, entry.clone());
                Event::new(rev, false, entry, prev)
            }
            (None, Some(prev)) => {
                inner.objects.remove(&*key);
                Event::new(rev, true, Arc::new(prev.at(rev, WatchKind::Deleted)), Some(prev))
            }
            (None, None) => return,
        };
        let event = Arc::new(event);
        let dispatched = self.dispatch(inner, &event, woken);
        metrics::event(&self.resource.id, event.rev, dispatched);
        inner.history_bytes += event.cost;
        inner.history.push_back(event);
        self.trim(inner);
    }

    /// Queues an event for every watcher it may concern. Those that may be waiting are `woken`: a watcher waits
    /// only once it has found its queue empty.
    fn dispatch(&self, inner: &mut Inner, event: &Arc<Event>, woken: &mut Vec<Arc<Watcher>>) -> u64 {
        let mut dispatched = 0;
        let Inner { buckets, lagging, .. } = inner;
        let concerned = self.buckets_of(event);
        for (id, watcher) in concerned.iter().filter_map(|bucket| buckets.get(bucket)).flatten() {
            let mut queue = watcher.queue.lock();
            if queue.mode != Mode::Live || !event.concerns(watcher) {
                continue;
            }
            if queue.events.is_empty() {
                woken.push(watcher.clone());
            }
            if queue.events.len() < self.limits.watcher_queue {
                queue.events.push_back(event.clone());
                dispatched += 1;
            } else {
                let seen = queue.events.back().map_or(event.rev - 1, |last| last.rev);
                queue.mode = Mode::Lagging(seen);
                lagging.insert(*id);
            }
        }
        dispatched
    }

    /// Buckets with watchers the event may concern.
    fn buckets_of(&self, event: &Event) -> Vec<Bucket> {
        let entry = &event.entry;
        let mut buckets = vec![Bucket::All, Bucket::Object(entry.key().to_string())];
        if self.resource.namespaced {
            buckets.push(Bucket::Namespace(entry.namespace().to_owned()));
        }
        for index in 0..self.scanner.selectable.len() {
            let now = entry.field_at(index);
            buckets.push(Bucket::Field(index, now.to_owned()));
            if let Some(before) = event.prev.as_ref().map(|p| p.field_at(index)).filter(|b| *b != now) {
                buckets.push(Bucket::Field(index, before.to_owned()));
            }
        }
        buckets
    }

    /// Drops events that are too many, and watchers that would have needed them.
    fn trim(&self, inner: &mut Inner) {
        let now = Instant::now();
        while let Some(oldest) = inner.history.front() {
            let old = now.duration_since(oldest.at) > self.limits.history_age
                && inner.history.len() > self.limits.history_floor;
            if inner.history_bytes <= self.limits.history_bytes && !old {
                break;
            }
            inner.floor = oldest.rev;
            inner.history_bytes -= oldest.cost;
            inner.history.pop_front();
        }
        let floor = inner.floor;
        let (watchers, lagging) = (&inner.watchers, &mut inner.lagging);
        lagging.retain(|id| {
            let Some(watcher) = watchers.get(id) else { return false };
            let mut queue = watcher.queue.lock();
            match queue.mode {
                Mode::Lagging(seen) if seen < floor => {
                    queue.mode = Mode::Closed(End::Closed);
                    queue.events.clear();
                    metrics::watcher_terminated(&self.resource.id);
                    watcher.notify.notify_one();
                    false
                }
                Mode::Lagging(_) => true,
                Mode::Live | Mode::Closed(_) => false,
            }
        });
    }

    /// One object.
    pub(super) fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, StorageError> {
        let inner = self.inner.read();
        match inner.objects.get(key) {
            Some(entry) => Ok(Some(entry.clone())),
            None => match inner.broken.get(key) {
                Some(why) => Err(StorageError::Undecodable {
                    key: format!("{}/{key}", self.resource.prefix),
                    why: why.clone(),
                }),
                None => Ok(None),
            },
        }
    }

    /// Keys of objects that cannot be read, and why; at most so many, in their order.
    pub(super) fn broken(&self, namespace: Option<&str>, most: usize) -> Vec<(Arc<str>, Unreadable)> {
        let inner = self.inner.read();
        let is_in =
            |key: &str| namespace.is_none_or(|ns| key.split_once('/').is_some_and(|(of, _)| of == ns));
        let mut all: Vec<_> = inner.broken.iter().filter(|(key, _)| is_in(key)).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all.into_iter().take(most).map(|(key, why)| (key.clone(), why.clone())).collect()
    }

    /// How many objects there are.
    pub(super) fn count(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Bytes of all objects, as they are sent.
    pub(super) fn bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// One object, if it is at this revision.
    pub(super) fn at_revision(&self, key: &str, rev: u64) -> Option<Arc<Entry>> {
        self.inner.read().objects.get(key).filter(|entry| entry.rev() == rev).cloned()
    }

    /// The objects now, and their revision: at least `reached`, which the caller read before.
    pub(super) fn snapshot(&self, reached: u64) -> (u64, Objects) {
        let inner = self.inner.read();
        (inner.rev.max(reached), inner.objects.clone())
    }

    /// The objects as they were at `rev`, by undoing history; none when history is gone.
    pub(super) fn snapshot_at(&self, rev: u64) -> Option<Objects> {
        let inner = self.inner.read();
        if rev < inner.floor {
            return None;
        }
        let mut objects = inner.objects.clone();
        for event in inner.history.iter().rev().take_while(|event| event.rev > rev) {
            match &event.prev {
                Some(prev) => drop(objects.insert(prev.key().clone(), prev.clone())),
                None => drop(objects.remove(event.entry.key())),
            }
        }
        Some(objects)
    }

    /// The oldest revision a watch can begin after.
    pub(super) fn floor(&self) -> u64 {
        self.inner.read().floor
    }

    /// Registers a watcher of events after `rev`, or after the snapshot it is given.
    pub(super) fn subscribe(
        &self,
        namespace: Option<String>,
        selection: Selection,
        from: SubscribeFrom,
    ) -> Result<(Arc<Watcher>, u64, Option<Objects>), StorageError> {
        let mut inner = self.inner.write();
        let (rev, objects) = match from {
            SubscribeFrom::Rev(rev) if rev < inner.floor => {
                return Err(StorageError::TooOldResourceVersion { requested: rev, oldest: inner.floor });
            }
            SubscribeFrom::Rev(rev) => (rev, None),
            SubscribeFrom::Snapshot { reached } => (inner.rev.max(reached), Some(inner.objects.clone())),
        };
        let id = inner.next_watcher;
        inner.next_watcher += 1;
        let bucket = self.bucket_of(namespace.as_deref(), &selection);
        let watcher = Arc::new(Watcher {
            id,
            after: rev,
            namespace,
            sharded: selection.shard.is_some().then(|| metrics::Sharded::begin(&self.resource.id)),
            selection,
            bucket: bucket.clone(),
            queue: Mutex::new(Queue { events: VecDeque::new(), mode: Mode::Lagging(rev) }),
            notify: Notify::new(),
        });
        inner.buckets.entry(bucket).or_default().insert(id, watcher.clone());
        inner.lagging.insert(id);
        inner.watchers.insert(id, watcher.clone());
        Ok((watcher, rev, objects))
    }

    fn bucket_of(&self, namespace: Option<&str>, selection: &Selection) -> Bucket {
        let namespace = namespace.or_else(|| selection.required_field("metadata.namespace"));
        match (selection.required_field("metadata.name"), namespace) {
            (Some(name), Some(ns)) if self.resource.namespaced => {
                return Bucket::Object(format!("{ns}/{name}"));
            }
            (Some(name), _) if !self.resource.namespaced => return Bucket::Object(name.to_owned()),
            _ => {}
        }
        for (index, field) in self.scanner.selectable.iter().enumerate() {
            if let Some(value) = selection.required_field(&field.name).filter(|v| !v.is_empty()) {
                return Bucket::Field(index, value.to_owned());
            }
        }
        namespace
            .filter(|_| self.resource.namespaced)
            .map_or(Bucket::All, |ns| Bucket::Namespace(ns.to_owned()))
    }

    /// Ends a watch from the reader's side.
    pub(super) fn unsubscribe(&self, watcher: &Watcher) {
        let mut inner = self.inner.write();
        inner.watchers.remove(&watcher.id);
        inner.lagging.remove(&watcher.id);
        if let Some(watchers) = inner.buckets.get_mut(&watcher.bucket) {
            watchers.remove(&watcher.id);
            if watchers.is_empty() {
                inner.buckets.remove(&watcher.bucket);
            }
        }
    }

    /// The watcher's next event, from its queue or from history.
    pub(super) fn next(&self, watcher: &Watcher) -> Next {
        loop {
            let mode = {
                let mut queue = watcher.queue.lock();
                if let Some(event) = queue.events.pop_front() {
                    drop(queue);
                    match event.seen_by(watcher) {
                        Some(seen) => return Next::Event(seen),
                        None => continue,
                    }
                }
                queue.mode
            };
            match mode {
                Mode::Live => return Next::Idle,
                Mode::Closed(end) => return Next::End(end),
                Mode::Lagging(_) => self.replay(watcher),
            }
        }
    }

    /// Fills a lagging watcher's queue from history; live again once it holds all.
    fn replay(&self, watcher: &Watcher) {
        let inner = self.inner.read();
        let mut queue = watcher.queue.lock();
        let Mode::Lagging(seen) = queue.mode else { return };
        if seen < inner.floor {
            queue.mode = Mode::Closed(End::Closed);
            metrics::watcher_terminated(&self.resource.id);
            return;
        }
        let start = inner.history.partition_point(|event| event.rev <= seen);
        for event in inner.history.iter().skip(start) {
            if queue.events.len() >= self.limits.watcher_queue {
                return;
            }
            queue.mode = Mode::Lagging(event.rev);
            if event.concerns(watcher) {
                queue.events.push_back(event.clone());
            }
        }
        queue.mode = Mode::Live;
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum SubscribeFrom {
    Rev(u64),
    Snapshot { reached: u64 },
}

// === impl Watcher ===

impl Watcher {
    /// Whether objects of this one's part are watched; a part is never left, since neither uid nor namespace change.
    fn is_meant(&self, entry: &Entry) -> bool {
        if let Some(sharded) = &self.sharded
            && self.selection.is_elsewhere(entry)
        {
            sharded.filtered.inc();
            return false;
        }
        true
    }
}

/// Why a value written at `rev` cannot be read.
fn unreadable(error: StorageError, rev: u64) -> Unreadable {
    match error {
        StorageError::Undecodable { why, .. } => why,
        other => Unreadable::Malformed { rev, why: other.to_string() },
    }
}

// === impl Loaded ===

impl Loaded {
    /// Objects read so far.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Adds what was taken in.
    pub(super) fn extend(&mut self, part: Vec<Taken>) {
        for taken in part {
            match taken {
                Taken::Object(key, entry) => drop(self.objects.insert(key, entry)),
                Taken::Broken(key, why) => drop(self.broken.insert(key, why)),
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    fn end_watchers(&mut self, end: End) {
        for watcher in self.watchers.values() {
            let mut queue = watcher.queue.lock();
            queue.mode = Mode::Closed(end);
            watcher.notify.notify_one();
        }
        self.watchers.clear();
        self.buckets.clear();
        self.lagging.clear();
    }
}

// === impl Event ===

impl Event {
    fn new(rev: u64, deleted: bool, entry: Arc<Entry>, prev: Option<Arc<Entry>>) -> Self {
        let cost = entry.cost() + size_of::<Self>();
        let (added, left) = (OnceLock::new(), OnceLock::new());
        Self { rev, deleted, entry, prev, at: Instant::now(), cost, added, left }
    }

    /// Whether the watcher sees the object before or after.
    fn concerns(&self, watcher: &Watcher) -> bool {
        self.rev > watcher.after
            && watcher.namespace.as_deref().is_none_or(|ns| ns == self.entry.namespace())
            && watcher.is_meant(&self.entry)
            && (watcher.selection.matches(&self.entry)
                || self.prev.as_ref().is_some_and(|prev| watcher.selection.matches(prev)))
    }

    /// The event as a watcher sees it: an object that enters its selection is ADDED, one that
    /// leaves it DELETED.
    fn seen_by(&self, watcher: &Watcher) -> Option<WatchEvent> {
        let before = self.prev.as_ref().is_some_and(|prev| watcher.selection.matches(prev));
        let after = !self.deleted && watcher.selection.matches(&self.entry);
        let (kind, entry) = match (before, after) {
            (false, false) => return None,
            (false, true) => (WatchKind::Added, &self.entry),
            (true, true) => (WatchKind::Modified, &self.entry),
            (true, false) if self.deleted => (WatchKind::Deleted, &self.entry),
            (true, false) => {
                let prev = self.prev.as_ref()?;
                (
                    WatchKind::Deleted,
                    self.left.get_or_init(|| Arc::new(prev.at(self.rev, WatchKind::Deleted))),
                )
            }
        };
        let frame = if entry.has_frame(kind) {
            entry.frame(kind)
        } else {
            self.added.get_or_init(|| entry.frame(kind)).clone()
        };
        let before = self.prev.clone().filter(|_| kind == WatchKind::Modified);
        Some(WatchEvent { kind, rev: self.rev, frame, entry: Some(entry.clone()), before })
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("resource", &self.resource.id).finish_non_exhaustive()
    }
}
