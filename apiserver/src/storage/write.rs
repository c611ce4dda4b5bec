//! Writes: one transaction each, guarded by the object's mod-revision.
//!
//! The answer is built from what was written; nothing is read back.

use std::{sync::Arc, time::Duration};

use super::{
    Entry, ResourceId, Result, StorageError, WatchKind,
    cache::{Cache, Prepared},
    etcd::{EtcdError, Guarded, Stored},
    shared::Shared,
};

impl Shared {
    /// Reads one object straight from etcd.
    pub(super) async fn get_latest(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>> {
        let cache = self.cache(id)?;
        let (path, key) = self.keys(&cache.resource, namespace, name)?;
        self.etcd.get(id, &path).await?.map(|stored| decode(&cache, &key, stored)).transpose()
    }

    /// Whether a stored value is not as it would be written today.
    pub(super) async fn is_stale(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<bool> {
        if !self.config.transformer.looks_at(id) {
            return Ok(false);
        }
        let cache = self.cache(id)?;
        let (path, _) = self.keys(&cache.resource, namespace, name)?;
        let stored = self.etcd.get(id, &path).await?;
        Ok(stored.is_some_and(|stored| self.config.transformer.is_stale(id, &stored.value)))
    }

    /// Stores a new object.
    pub(super) async fn create(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        json: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        let cache = self.cache(id)?;
        let keys = self.keys(&cache.resource, namespace, name)?;
        let ttl = ttl.or(cache.resource.ttl);
        match self.put(&cache, &keys, 0, json, ttl).await? {
            Ok(entry) => Ok(entry),
            Err(_there) => Err(StorageError::AlreadyExists(keys.0)),
        }
    }

    /// Replaces an object at revision `expected`.
    pub(super) async fn update(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        expected: u64,
        json: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry>> {
        let cache = self.cache(id)?;
        let keys = self.keys(&cache.resource, namespace, name)?;
        if expected == 0 {
            // Revision 0 would mean "does not exist" to etcd.
            let current = self.get_latest(id, namespace, name).await?;
            return Err(StorageError::Conflict { key: keys.0, current });
        }
        let ttl = ttl.or(cache.resource.ttl);
        match self.put(&cache, &keys, expected, json, ttl).await? {
            Ok(entry) => Ok(entry),
            Err(there) => Err(conflict(&cache, keys, there)?),
        }
    }

    /// Deletes an object at revision `expected`.
    pub(super) async fn delete(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        expected: u64,
    ) -> Result<Arc<Entry>> {
        let cache = self.cache(id)?;
        let keys = self.keys(&cache.resource, namespace, name)?;
        if expected == 0 {
            let current = self.get_latest(id, namespace, name).await?;
            return Err(StorageError::Conflict { key: keys.0, current });
        }
        match self.etcd.delete_if(id, &keys.0, expected).await? {
            Guarded::Done(rev, Some(last)) => {
                let last = decode(&cache, &keys.1, last)?;
                Ok(Arc::new(last.at(rev, WatchKind::Deleted)))
            }
            Guarded::Done(_, None) => {
                Err(StorageError::Internal(format!("{}: etcd did not return what it deleted", keys.0)))
            }
            Guarded::Refused(there) => Err(conflict(&cache, keys, there)?),
        }
    }

    /// Deletes what does not decode.
    pub(super) async fn delete_unread(&self, id: &ResourceId, namespace: &str, name: &str) -> Result<()> {
        let cache = self.cache(id)?;
        let (path, key) = self.keys(&cache.resource, namespace, name)?;
        let Some(stored) = self.etcd.get(id, &path).await? else { return Ok(()) };
        let rev = stored.rev;
        if let Ok(readable) = decode(&cache, &key, stored) {
            return Err(StorageError::Conflict { key: path, current: Some(readable) });
        }
        match self.etcd.delete_if(id, &path, rev).await? {
            Guarded::Done(..) | Guarded::Refused(None) => Ok(()),
            Guarded::Refused(Some(_)) => Err(StorageError::Conflict { key: path, current: None }),
        }
    }

    /// Writes under a guard: the new entry, or what stands in the way.
    async fn put(
        &self,
        cache: &Cache,
        (path, key): &(String, Arc<str>),
        expected: u64,
        json: Vec<u8>,
        ttl: Option<Duration>,
    ) -> Result<Result<Arc<Entry>, Option<Stored>>> {
        let resource = &cache.resource;
        // Refuses what could not be read back, and gives the entry its facts.
        let invalid = |why: String| StorageError::Internal(format!("{path}: {why}"));
        let found = cache.scanner.scan(&json).map_err(|malformed| invalid(malformed.to_string()))?;
        let value = self.config.transformer.encode(&resource.id, key, json.clone()).map_err(invalid)?;
        let write = cache.writing(key, Prepared { json, found, value });
        let value = &write.prepared.value;
        let mut retried = false;
        let outcome = loop {
            let lease = match ttl {
                Some(ttl) => Some(self.leases.lease(&self.etcd, &resource.id, ttl).await?),
                None => None,
            };
            match (self.etcd.put_if(&resource.id, path, expected, value.clone(), lease).await, lease) {
                (Err(EtcdError::LeaseGone), Some(gone)) if !retried => {
                    self.leases.forget(gone).await;
                    retried = true;
                }
                // etcd has one code for "no space" and "message too long"; its own limit for
                // messages is above a megabyte.
                (Err(EtcdError::Exhausted(_)), _) if value.len() > 1 << 20 => {
                    return Err(StorageError::TooLarge(path.clone()));
                }
                (Err(EtcdError::TooLarge), _) => return Err(StorageError::TooLarge(path.clone())),
                (outcome, _) => break outcome?,
            }
        };
        match outcome {
            Guarded::Done(rev, _) => {
                let kind = if expected == 0 { WatchKind::Added } else { WatchKind::Modified };
                Ok(Ok(cache.done(&write, rev, kind)))
            }
            Guarded::Refused(there) => Ok(Err(there)),
        }
    }
}

fn decode(cache: &Cache, key: &Arc<str>, stored: Stored) -> Result<Arc<Entry>> {
    cache.decode(key.clone(), stored.rev, stored.value, None).map(Arc::new)
}

/// The conflict with what is there.
fn conflict(cache: &Cache, (path, key): (String, Arc<str>), there: Option<Stored>) -> Result<StorageError> {
    let current = there.map(|stored| decode(cache, &key, stored)).transpose()?;
    Ok(StorageError::Conflict { key: path, current })
}
