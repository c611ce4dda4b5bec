//! Objects in the store.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, future, stream::BoxStream};
use parking_lot::Mutex;

use super::{Change, Kind, MASTER_LEASES, Objects, PEER_LEASES, RANGES, Relevant};
use crate::{
    object::Object,
    status::Status,
    storage::{
        Entry, FieldRequirement, ListPoint, ListRequest, Parts, ResourceId, Selection, StorageError, Store,
        StoredResource, WatchEvent, WatchFrom, WatchKind, WatchRequest,
    },
};

/// How long an API server counts as live that says nothing (upstream's `DefaultEndpointReconcilerTTL`).
const MASTER_LEASE: Duration = Duration::from_secs(15);

/// The server's own access to its store.
#[derive(Clone)]
pub struct StoreObjects {
    store: Store,
    kept: Arc<Mutex<HashMap<Kind, Vec<Kept>>>>,
    decoded: Arc<Decoded>,
}

/// Entries that were decoded lately, by address: what admission looks at in every write.
#[derive(Default)]
struct Decoded(Mutex<HashMap<usize, Remembered>>);

/// An entry beside what it decodes to; only the latter is kept alive.
type Remembered = (Weak<Entry>, Arc<Object>);

/// Decoded entries that are remembered; a full memory forgets those that are gone, or all.
const REMEMBERED: usize = 1024;
/// Lists that are longer than this are not remembered.
const SHORT: usize = 64;

impl Decoded {
    fn of(&self, entry: &Arc<Entry>) -> Result<Arc<Object>, Status> {
        // As long as the entry is named here, nothing else can lie at its address.
        let address = Arc::as_ptr(entry).addr();
        if let Some((_, object)) = self.0.lock().get(&address) {
            return Ok(object.clone());
        }
        let object = decode(entry)?;
        let mut decoded = self.0.lock();
        if decoded.len() >= REMEMBERED {
            decoded.retain(|_, (entry, _)| entry.strong_count() > 0);
        }
        if decoded.len() >= REMEMBERED {
            decoded.clear();
        }
        decoded.insert(address, (Arc::downgrade(entry), object.clone()));
        Ok(object)
    }
}

/// A stored object beside what it decodes to.
type Kept = (Arc<Entry>, Arc<Object>);

impl StoreObjects {
    /// Reads and writes `store`; registers what only the server itself stores.
    pub fn new(store: Store) -> Self {
        for (kind, name, ttl) in [
            (RANGES, "RangeAllocation", None),
            (MASTER_LEASES, "Endpoints", Some(MASTER_LEASE)),
            (PEER_LEASES, "Endpoints", Some(MASTER_LEASE)),
        ] {
            store.register(StoredResource {
                id: id(kind),
                prefix: kind.resource.to_owned(),
                namespaced: false,
                api_version: "v1".to_owned(),
                kind: name.to_owned(),
                selectable: Vec::new(),
                ttl,
            });
        }
        Self { store, kept: Arc::default(), decoded: Arc::default() }
    }
}

fn id(kind: Kind) -> ResourceId {
    ResourceId::new(kind.group, kind.resource)
}

fn decode(entry: &Entry) -> Result<Arc<Object>, Status> {
    let object = Object::from_slice(entry.json());
    object.map(Arc::new).map_err(Status::internal)
}

fn status(kind: Kind, name: &str, error: StorageError) -> Status {
    let resource = kind.group_name();
    match error {
        StorageError::NotFound(_) | StorageError::Conflict { current: None, .. } => {
            Status::not_found(&resource, name)
        }
        StorageError::AlreadyExists(_) => Status::already_exists(&resource, name),
        StorageError::Conflict { .. } => Status::stale(&resource, name),
        StorageError::Unavailable(why) => Status::unavailable(why),
        StorageError::Timeout(why) => Status::timeout(why),
        other => Status::internal(other),
    }
}

fn revision(object: &Object) -> u64 {
    object.resource_version().parse().unwrap_or(0)
}

/// The JSON that is stored: without `resourceVersion`, which the store puts in place.
fn encode(mut object: Object) -> Vec<u8> {
    object.set_meta_str("resourceVersion", "");
    object.to_vec()
}

#[async_trait]
impl Objects for StoreObjects {
    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
        self.store.get_cached(&id(kind), namespace, name).map(|e| self.decoded.of(&e)).transpose()
    }

    async fn get_latest(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        let found = self.store.get_latest(&id(kind), namespace, name).await;
        found.map_err(|e| status(kind, name, e))?.map(|e| decode(&e)).transpose()
    }

    async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, Status> {
        let entries = self.store.list_cached(&id(kind), namespace);
        if entries.len() > SHORT {
            return entries.iter().map(|e| decode(e)).collect();
        }
        entries.iter().map(|e| self.decoded.of(e)).collect()
    }

    async fn list_kept(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status> {
        let entries = self.store.list_cached(&id(kind), None);
        let mut all = self.kept.lock();
        let kept = all.entry(kind).or_default();
        let is_same = kept.len() == entries.len()
            && kept.iter().zip(&entries).all(|((entry, _), other)| Arc::ptr_eq(entry, other));
        if !is_same {
            let decoded = |entry: Arc<Entry>| -> Result<Kept, Status> {
                let known = kept.iter().find(|(known, _)| Arc::ptr_eq(known, &entry));
                let object = known.map_or_else(|| decode(&entry), |(_, object)| Ok(object.clone()))?;
                Ok((entry, object))
            };
            let next = entries.into_iter().map(decoded).collect::<Result<_, _>>()?;
            *kept = next;
        }
        Ok(kept.iter().map(|(_, object)| object.clone()).collect())
    }

    async fn list_latest(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status> {
        let selection = Selection::default();
        let request = ListRequest {
            namespace: None,
            selection: &selection,
            point: ListPoint::Consistent,
            limit: 0,
            continue_token: "",
        };
        let listing = self.store.list(&id(kind), request).await.map_err(|e| status(kind, "", e))?;
        listing.entries.iter().map(|e| decode(e)).collect()
    }

    async fn create(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status> {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        let made = self.store.create(&id(kind), &namespace, &name, encode(object), None).await;
        decode(&*made.map_err(|e| status(kind, &name, e))?)
    }

    async fn update(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status> {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        let expected = revision(&object);
        let made = self.store.update(&id(kind), &namespace, &name, expected, encode(object), None).await;
        decode(&*made.map_err(|e| status(kind, &name, e))?)
    }

    async fn delete(&self, kind: Kind, object: &Object) -> Result<(), Status> {
        let gone = self.store.delete(&id(kind), object.namespace(), object.name(), revision(object)).await;
        match gone {
            Err(StorageError::NotFound(_) | StorageError::Conflict { current: None, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(status(kind, object.name(), error)),
        }
    }

    async fn watch_relevant(
        &self,
        kind: Kind,
        relevant: Relevant,
    ) -> Result<BoxStream<'static, Change>, Status> {
        let having = relevant.having.map(|field| FieldRequirement {
            field: field.to_owned(),
            value: String::new(),
            negate: true,
        });
        let request = WatchRequest {
            namespace: None,
            selection: Selection { fields: having.into_iter().collect(), ..Selection::default() },
            from: WatchFrom::Initial { point: ListPoint::Consistent, mark_end: true },
            bookmarks: false,
            timeout: None,
        };
        let events = self.store.watch(&id(kind), request).await.map_err(|e| status(kind, "", e))?;
        let changes = futures::stream::unfold(events, |mut events| async move {
            match events.next().await {
                Ok(Some(event)) => Some((event, events)),
                // The reader watches again from the start, which also serves one that fell behind.
                Ok(None) | Err(_) => None,
            }
        });
        let parts = (!relevant.parts.is_empty()).then(|| Parts::new(relevant.parts));
        let changes = changes.filter_map(move |event| future::ready(seen(event, parts.as_ref())));
        Ok(changes.boxed())
    }
}

/// An event as a reader sees it who looks at these parts, or at all.
fn seen(event: WatchEvent, parts: Option<&Parts>) -> Option<Change> {
    match (event.kind, event.entry) {
        (WatchKind::InitialEventsEnd, _) => Some(Change::Synced),
        (WatchKind::Bookmark, _) | (_, None) => None,
        (WatchKind::Deleted, Some(entry)) => decode(&entry).ok().map(Change::Deleted),
        (_, Some(entry)) => {
            if let (Some(parts), Some(before)) = (parts, &event.before)
                && parts.are_same(before, &entry)
            {
                return None;
            }
            match decode(&entry) {
                Ok(object) => Some(Change::Applied(object)),
                Err(error) => {
                    tracing::warn!(key = %entry.key(), %error, "object does not decode");
                    None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
