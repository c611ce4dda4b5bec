//! What a daemon keeps of an object instead of the object: cached under the object's key and version.

use std::{borrow::Cow, ops::Deref};

use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::{Cached, Object, version_of};
use crate::meta::{ObjectKey, key_of};

/// What is kept of each object of a kind. It is made as the object is read, so that the object itself is never stored.
pub trait Digest: Send + Sync + 'static {
    /// The kind.
    type Of: Object;

    /// What is kept of the object.
    fn of(object: Self::Of) -> Self;

    /// Is called with the key it is kept by, which it may share.
    fn settle(&mut self, _key: &ObjectKey) {}
}

/// What is kept of an object, with the object's key and version.
#[derive(Clone, Debug)]
pub struct Kept<D> {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The numeric resource version.
    version: u64,
    digest: D,
}

impl<D> Deref for Kept<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.digest
    }
}

impl<'de, D: Digest> Deserialize<'de> for Kept<D> {
    fn deserialize<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error> {
        let object = D::Of::deserialize(deserializer)?;
        let (key, version) = (key_of(object.meta()), version_of(object.meta()));
        Ok(Self { key, version, digest: D::of(object) })
    }
}

impl<D: Digest> Cached for Kept<D> {
    fn path(namespace: Option<&str>) -> String {
        <D::Of as Cached>::path(namespace)
    }

    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        Some(self.version.to_string().into())
    }

    fn settle(&mut self, key: &ObjectKey) {
        self.digest.settle(key);
        self.key = key.clone();
    }
}
