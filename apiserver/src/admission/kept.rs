//! What plugins make of objects that every request looks at, made once for each state of the object.

use std::sync::Arc;

use parking_lot::Mutex;

use super::manifests::Manifests;
use crate::{
    object::Object,
    objects::{Kind, Objects},
    status::Status,
};

/// What is made of all objects of a kind, in the order of their names.
pub(super) struct Kept<T> {
    source: Source,
    read: fn(&Object) -> Vec<T>,
    made: Mutex<Made<T>>,
}

struct Made<T> {
    of: Vec<(Arc<Object>, Vec<Arc<T>>)>,
    all: Arc<Vec<Arc<T>>>,
}

/// Where the objects are.
enum Source {
    Stored(Kind, Arc<dyn Objects>),
    /// In files, as objects of this kind.
    Files(&'static str, Arc<Manifests>),
}

impl<T> Kept<T> {
    pub(super) fn new(kind: Kind, objects: Arc<dyn Objects>, read: fn(&Object) -> Vec<T>) -> Self {
        Self::of(Source::Stored(kind, objects), read)
    }

    /// Of objects that stand in files.
    pub(super) fn in_files(kind: &'static str, files: Arc<Manifests>, read: fn(&Object) -> Vec<T>) -> Self {
        Self::of(Source::Files(kind, files), read)
    }

    fn of(source: Source, read: fn(&Object) -> Vec<T>) -> Self {
        Self { source, read, made: Mutex::new(Made { of: Vec::new(), all: Arc::default() }) }
    }

    /// What is made of the objects as they are now; the same `Arc` while nothing changed.
    pub(super) async fn all(&self) -> Result<Arc<Vec<Arc<T>>>, Status> {
        let objects = match &self.source {
            Source::Stored(kind, objects) => objects.list_kept(*kind).await?,
            Source::Files(kind, files) => files.of(kind),
        };
        let mut made = self.made.lock();
        let is_same = made.of.len() == objects.len()
            && made.of.iter().zip(&objects).all(|((old, _), new)| Arc::ptr_eq(old, new));
        if !is_same {
            let of = |object: Arc<Object>| {
                let known = made.of.iter().find(|(old, _)| Arc::ptr_eq(old, &object));
                let parts = known.map_or_else(
                    || (self.read)(&object).into_iter().map(Arc::new).collect(),
                    |(_, parts)| parts.clone(),
                );
                (object, parts)
            };
            let of: Vec<_> = objects.into_iter().map(of).collect();
            made.all = Arc::new(of.iter().flat_map(|(_, parts)| parts.clone()).collect());
            made.of = of;
        }
        Ok(made.all.clone())
    }
}
