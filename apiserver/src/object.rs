//! The dynamic object every generic part of the server works on.
//!
//! An [`Object`] is the JSON form of any API object, built-in or custom. Typed code (defaults and
//! validation of built-in kinds) converts with [`Object::decode`] and [`Object::encode`].

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

mod text;

use crate::status::Status;

/// Room made for an object's JSON at first, in bytes.
const TYPICAL: usize = 4096;

/// An API object as JSON. The top level is always a map; `metadata`, once touched, too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Map<String, Value>);

/// `metadata.ownerReferences[*]`, as far as the server itself reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRef {
    /// The owner's apiVersion.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether the owner's foreground deletion waits for this object.
    pub block_owner_deletion: bool,
}

impl api_rules::Fields for Object {
    fn top(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }
}

impl component_base::quota::Fields for Object {
    fn field(&self, pointer: &str) -> Option<&Value> {
        self.pointer(pointer)
    }
}

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a JSON value that must be a map.
    pub fn from_value(value: Value) -> Result<Self, Status> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(Status::bad_request(format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                json_kind(&other)
            ))),
        }
    }

    /// Parses stored or sent JSON.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// The JSON map.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The JSON map, to change.
    pub fn as_map_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    /// The object as a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// The object's JSON value, cloned.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Compact JSON.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TYPICAL);
        text::object(&self.0, &mut out);
        out
    }

    /// The typed struct; fails where a field has another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(Value::Object(self.0.clone()))
    }

    /// The object of a typed struct.
    pub fn encode<T: Serialize>(typed: &T) -> Result<Self, serde_json::Error> {
        match serde_json::to_value(typed)? {
            Value::Object(map) => Ok(Self(map)),
            other => Err(serde::ser::Error::custom(format!("{} is not an object", json_kind(&other)))),
        }
    }

    /// Looks a JSON pointer (`/spec/replicas`) up.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let mut parts = pointer.split('/').skip(1);
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |v, part| match v {
            Value::Object(m) => m.get(part),
            Value::Array(a) => part.parse::<usize>().ok().and_then(|i| a.get(i)),
            _ => None,
        })
    }

    /// A top-level field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// Sets a top-level field.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.0.insert(field.to_owned(), value.into());
    }

    /// Takes a top-level field out.
    pub fn remove(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    /// `metadata`, if it is there.
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// `metadata`, made if missing.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        let meta = self.0.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !meta.is_object() {
            *meta = Value::Object(Map::new());
        }
        match meta {
            Value::Object(m) => m,
            _ => unreachable!("metadata was just made a map"),
        }
    }

    /// A string of `metadata`; empty when missing.
    pub fn meta_str(&self, field: &str) -> &str {
        self.metadata().and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Sets a string of `metadata`, or removes it when empty.
    pub fn set_meta_str(&mut self, field: &str, value: &str) {
        if value.is_empty() {
            self.metadata_mut().remove(field);
        } else {
            self.metadata_mut().insert(field.to_owned(), Value::from(value));
        }
    }

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.meta_str("name")
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.meta_str("uid")
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }

    /// `metadata.generation`; 0 when missing.
    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
    }

    /// `metadata.deletionTimestamp`, if it parses.
    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        self.meta_str("deletionTimestamp").parse().ok()
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_terminating(&self) -> bool {
        !self.meta_str("deletionTimestamp").is_empty()
    }

    /// Pairs of a string map in `metadata` (`labels`, `annotations`), in key order.
    pub fn meta_pairs(&self, field: &str) -> impl Iterator<Item = (&str, &str)> {
        self.metadata()
            .and_then(|m| m.get(field))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("annotations")?.get(key)?.as_str()
    }

    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        let annotations =
            self.metadata_mut().entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(map) = annotations {
            map.insert(key.to_owned(), Value::from(value));
        }
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> Vec<&str> {
        self.metadata()
            .and_then(|m| m.get("finalizers"))
            .and_then(Value::as_array)
            .map(|a| a.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }

    /// Sets `metadata.finalizers`, or removes the field when empty.
    pub fn set_finalizers(&mut self, finalizers: &[&str]) {
        if finalizers.is_empty() {
            self.metadata_mut().remove("finalizers");
        } else {
            self.metadata_mut().insert("finalizers".to_owned(), Value::from(finalizers.to_vec()));
        }
    }

    /// Adds one of `metadata.finalizers`, unless it is there.
    pub fn add_finalizer(&mut self, finalizer: &str) {
        let finalizers: Vec<String> = self.finalizers().into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|one| one == finalizer) {
            let all: Vec<&str> = finalizers.iter().map(String::as_str).chain([finalizer]).collect();
            self.set_finalizers(&all);
        }
    }

    /// `metadata.ownerReferences`, skipping malformed ones.
    pub fn owner_references(&self) -> Vec<OwnerRef> {
        let refs = self.metadata().and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
        let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
        refs.into_iter()
            .flatten()
            .map(|v| OwnerRef {
                api_version: text(v, "apiVersion"),
                kind: text(v, "kind"),
                name: text(v, "name"),
                uid: text(v, "uid"),
                block_owner_deletion: v.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false),
            })
            .collect()
    }
}

/// Go's word for a JSON value's type, as decoding errors name it.
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
