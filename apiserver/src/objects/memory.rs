//! Objects in memory, for tests of what reads them. Conflicts behave as in the store.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use serde_json::Value;

use super::{Change, Kind, Objects, Relevant};
use crate::{object::Object, status::Status};

type Key = (Kind, String, String);

/// The fake store.
#[derive(Default)]
pub(crate) struct Memory {
    objects: Mutex<BTreeMap<Key, Arc<Object>>>,
    revision: AtomicU64,
}

impl Memory {
    /// A store holding these objects.
    pub(crate) fn with(objects: Vec<(Kind, Value)>) -> Arc<Self> {
        let memory = Self::default();
        for (kind, value) in objects {
            let object = Object::from_value(value).expect("test objects are maps");
            memory.put(kind, object);
        }
        Arc::new(memory)
    }

    fn put(&self, kind: Kind, mut object: Object) -> Arc<Object> {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        object.set_meta_str("resourceVersion", &revision.to_string());
        let key = (kind, object.namespace().to_owned(), object.name().to_owned());
        let object = Arc::new(object);
        self.objects.lock().insert(key, object.clone());
        object
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.lock().get(&(kind, namespace.to_owned(), name.to_owned())).cloned()
    }
}

#[async_trait]
impl Objects for Memory {
    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
        Ok(self.find(kind, namespace, name))
    }

    async fn get_latest(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        Ok(self.find(kind, namespace, name))
    }

    async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, Status> {
        let objects = self.objects.lock();
        let wanted = objects
            .iter()
            .filter(|((k, ns, _), _)| *k == kind && namespace.is_none_or(|n| n == ns))
            .map(|(_, object)| object.clone());
        Ok(wanted.collect())
    }

    async fn list_kept(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status> {
        self.list(kind, None).await
    }

    async fn list_latest(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status> {
        self.list(kind, None).await
    }

    async fn create(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status> {
        if self.find(kind, object.namespace(), object.name()).is_some() {
            return Err(Status::already_exists(&kind.group_name(), object.name()));
        }
        Ok(self.put(kind, object))
    }

    async fn update(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status> {
        match self.find(kind, object.namespace(), object.name()) {
            None => Err(Status::not_found(&kind.group_name(), object.name())),
            Some(current) if current.resource_version() != object.resource_version() => {
                Err(Status::stale(&kind.group_name(), object.name()))
            }
            Some(_) => Ok(self.put(kind, object)),
        }
    }

    async fn delete(&self, kind: Kind, object: &Object) -> Result<(), Status> {
        match self.find(kind, object.namespace(), object.name()) {
            Some(current) if current.resource_version() != object.resource_version() => {
                Err(Status::stale(&kind.group_name(), object.name()))
            }
            _ => {
                let key = (kind, object.namespace().to_owned(), object.name().to_owned());
                self.objects.lock().remove(&key);
                Ok(())
            }
        }
    }

    async fn watch_relevant(
        &self,
        kind: Kind,
        _relevant: Relevant,
    ) -> Result<BoxStream<'static, Change>, Status> {
        let mut steps: Vec<Change> = self.list(kind, None).await?.into_iter().map(Change::Applied).collect();
        steps.push(Change::Synced);
        Ok(futures::stream::iter(steps).chain(futures::stream::pending()).boxed())
    }
}
