//! What storage knows of a resource.

use std::{fmt, time::Duration};

use smol_str::SmolStr;

use crate::registry::{Missing, Resource, SelectableField};

/// A resource's name in storage, metrics and errors: group and plural.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    group: SmolStr,
    plural: SmolStr,
}

/// A resource whose objects are stored and cached.
#[derive(Clone, Debug)]
pub struct StoredResource {
    /// Group and plural.
    pub id: ResourceId,
    /// Path below the registry prefix, for example `pods`, `services/specs`, `example.com/widgets`.
    pub prefix: String,
    /// Whether keys have a namespace.
    pub namespaced: bool,
    /// apiVersion of stored objects, for bookmarks.
    pub api_version: String,
    /// Kind, for bookmarks.
    pub kind: String,
    /// Fields selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<SelectablePath>,
    /// Lifetime of objects whose `create` names none (events: one hour).
    pub ttl: Option<Duration>,
}

/// One selectable field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectablePath {
    /// Name in selectors, for example `spec.nodeName`.
    pub name: String,
    /// JSON pointer, for example `/spec/nodeName`.
    pub pointer: String,
    /// What a missing field counts as.
    pub missing: Missing<String>,
}

// === impl ResourceId ===

impl ResourceId {
    /// `pods` in the core group is `new("", "pods")`.
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }

    /// The same of names that are there for good: every request makes one.
    pub(crate) const fn known(group: &'static str, plural: &'static str) -> Self {
        Self { group: SmolStr::new_static(group), plural: SmolStr::new_static(plural) }
    }

    /// The API group; empty for core.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The plural.
    pub fn plural(&self) -> &str {
        &self.plural
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())?;
        if !self.group().is_empty() {
            write!(f, ".{}", self.group())?;
        }
        Ok(())
    }
}

// === impl StoredResource ===

impl StoredResource {
    /// The storage of a registered resource.
    pub fn of(resource: &Resource) -> Self {
        Self {
            id: ResourceId::known(resource.group, resource.plural),
            prefix: resource.storage_prefix.to_owned(),
            namespaced: resource.namespaced,
            api_version: resource.stored_api_version(),
            kind: resource.kind.to_owned(),
            selectable: resource.selectable.iter().map(SelectablePath::from).collect(),
            ttl: None,
        }
    }
}

impl From<&SelectableField> for SelectablePath {
    fn from(field: &SelectableField) -> Self {
        Self {
            name: field.name.to_owned(),
            pointer: field.pointer.to_owned(),
            missing: match field.missing {
                Missing::Is(text) => Missing::Is(text.to_owned()),
                Missing::Field(name) => Missing::Field(name.to_owned()),
            },
        }
    }
}
