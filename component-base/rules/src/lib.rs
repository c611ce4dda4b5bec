//! What objects of the API say when they do not say it, and what is wrong with them, for whoever takes in objects: the API
//! server all of them, a kubelet the static pods that no API server has seen.
//!
//! ```text
//! at, field, shape   an object is read with its paths, and errors are told by them
//! validate, format, address, resources, metadata, claim   what parts of objects look like
//! pod_spec   defaults and errors of pods
//! ```
//! Invariant: pure; nothing here knows a server, a request or a resource.

pub mod at;
pub mod field;
pub mod shape;

pub mod address;
pub mod capabilities;
pub mod claim;
pub mod format;
pub mod metadata;
pub mod resources;
pub mod validate;

pub mod pod_spec;

use serde_json::{Map, Value};

/// An object by its fields.
pub trait Fields {
    /// A top-level field.
    fn top(&self, name: &str) -> Option<&Value>;
}

impl Fields for Map<String, Value> {
    fn top(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }
}

/// Members of a list, none when it is missing or none.
pub fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}
