//! A stored object as the cache holds it: encoded bytes and the facts selection reads.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

/// One object at one revision. Shared by reference; never changes.
#[derive(Debug)]
pub struct Entry {
    rev: u64,
    /// `namespace/name`, or `name` without namespaces.
    key: Arc<str>,
    namespace_len: u32,
    json: Bytes,
}

impl Entry {
    /// The object's `resourceVersion`: the etcd revision of its last change.
    pub fn rev(&self) -> u64 {
        self.rev
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        &self.key[..self.namespace_len as usize]
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self.namespace_len {
            0 => &self.key,
            n => &self.key[n as usize + 1..],
        }
    }

    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The object as JSON, with `metadata.resourceVersion` in place.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// A label's value.
    pub fn label(&self, _key: &str) -> Option<Cow<'_, str>> {
        None
    }

    /// All labels.
    pub fn labels(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        std::iter::empty()
    }

    /// A selectable field's value: `metadata.name`, `metadata.namespace` or one of the resource's;
    /// empty for fields the resource does not list.
    pub fn field(&self, name: &str) -> Cow<'_, str> {
        match name {
            "metadata.name" => self.name().into(),
            "metadata.namespace" => self.namespace().into(),
            _ => "".into(),
        }
    }

    /// `metadata.uid`; empty when missing.
    pub fn uid(&self) -> Cow<'_, str> {
        "".into()
    }
}
