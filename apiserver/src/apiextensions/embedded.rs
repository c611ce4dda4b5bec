//! Metadata of custom objects and of objects embedded in them: decoded as its type, so that what it does not have
//! goes and what is malformed is told.

use proto::{
    node::Node,
    table::{self, TypeId},
};
use serde_json::{Map, Value, json};

use super::schema::Schema;
use crate::{
    engine::metadata,
    field::{Error, ErrorList, Path},
    object::Object,
    schema as types,
};

fn object_meta() -> Option<TypeId> {
    table::builtin().by_name("meta.v1.ObjectMeta")
}

/// Puts the metadata of an object into its type's shape; answers the paths of what is unknown there.
///
/// # Errors
/// The first value of a wrong type, in the words of Go's decoder.
pub fn coerce_meta(object: &mut Map<String, Value>) -> Result<Vec<String>, String> {
    let Some(meta) = object.get("metadata") else { return Ok(Vec::new()) };
    if meta.is_null() {
        object.remove("metadata");
        return Ok(Vec::new());
    }
    let Some(id) = object_meta() else { return Ok(Vec::new()) };
    let decoded = types::decode(&Node::from(meta), id)?;
    let mut shaped = decoded.object;
    if let Some(meta) = shaped.as_object_mut()
        && meta.get("creationTimestamp").is_some_and(Value::is_null)
    {
        meta.remove("creationTimestamp");
    }
    object.insert("metadata".to_owned(), shaped);
    let path = |text: &String| {
        let path = text.strip_prefix("unknown field \"")?.strip_suffix('"')?;
        Some(format!("metadata.{path}"))
    };
    Ok(decoded.strict.iter().filter_map(path).collect())
}

/// Does the same to the metadata of objects embedded in this one.
///
/// # Errors
/// The first malformed metadata, and where it is.
pub fn coerce_embedded(object: &mut Map<String, Value>, schema: &Schema) -> Result<Vec<String>, Error> {
    let mut unknown = Vec::new();
    members(object, schema, &Path::root(), &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

/// Does the same to the objects embedded in a value at `path`, or to the value itself if it is one.
///
/// # Errors
/// The first malformed metadata, and where it is.
pub fn coerce(value: &mut Value, schema: &Schema, path: &Path) -> Result<(), Error> {
    value_of(value, schema, path, &mut Vec::new())
}

fn members(
    object: &mut Map<String, Value>,
    schema: &Schema,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), Error> {
    for (name, value) in object.iter_mut() {
        match (schema.properties.get(name), schema.member(name)) {
            (Some(below), _) => value_of(value, below, &path.child(name), unknown)?,
            (None, Some(below)) => value_of(value, below, &path.key(name), unknown)?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn value_of(value: &mut Value, schema: &Schema, path: &Path, unknown: &mut Vec<String>) -> Result<(), Error> {
    match value {
        Value::Object(object) => {
            if schema.embedded {
                for name in ["apiVersion", "kind"] {
                    if let Some(said) = object.get(name).filter(|said| !said.is_string()) {
                        return Err(Error::invalid(&path.child(name), said.clone(), "must be a string"));
                    }
                }
                let sent = object.get("metadata").cloned().unwrap_or_default();
                let paths =
                    coerce_meta(object).map_err(|why| Error::invalid(&path.child("metadata"), sent, why))?;
                unknown.extend(paths.into_iter().map(|at| format!("{path}.{at}")));
            }
            members(object, schema, path, unknown)
        }
        Value::Array(list) => {
            let Some(below) = schema.items.as_deref() else { return Ok(()) };
            for (at, member) in list.iter_mut().enumerate() {
                value_of(member, below, &path.index(at), unknown)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Errors of embedded objects: what they are must be said.
pub fn validate(object: &Map<String, Value>, schema: &Schema) -> ErrorList {
    let mut errors = ErrorList::new();
    check_members(object, schema, &Path::root(), &mut errors);
    errors
}

/// Errors of the objects embedded in a value at `path`, or of the value itself if it is one.
pub fn validate_value(value: &Value, schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    check(value, schema, path, &mut errors);
    errors
}

fn check_members(object: &Map<String, Value>, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    for (name, value) in object {
        match (schema.properties.get(name), schema.member(name)) {
            (Some(below), _) => check(value, below, &path.child(name), errors),
            (None, Some(below)) => check(value, below, &path.key(name), errors),
            (None, None) => {}
        }
    }
}

fn check(value: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(object) => {
            if schema.embedded {
                check_embedded(object, path, errors);
            }
            check_members(object, schema, path, errors);
        }
        Value::Array(list) => {
            let Some(below) = schema.items.as_deref() else { return };
            for (at, member) in list.iter().enumerate() {
                check(member, below, &path.index(at), errors);
            }
        }
        _ => {}
    }
}

fn check_embedded(object: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match object.get(name) {
            None => errors.push(Error::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(Error::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" && text.matches('/').count() > 1 => {
                errors.push(Error::invalid(
                    &at,
                    text.as_str(),
                    format!("unexpected GroupVersion string: {text}"),
                ));
            }
            Some(Value::String(text)) if name == "kind" => {
                let wrong = crate::validate::dns_1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let detail =
                        format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.push(Error::invalid(&at, text.as_str(), detail));
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.push(Error::invalid(&at, other.clone(), "must be a string")),
        }
    }
    if let Some(meta) = object.get("metadata").filter(|meta| meta.is_object()) {
        let only = Object::from_value(json!({"metadata": meta})).unwrap_or_default();
        errors.extend(metadata::validate_embedded(&only, &path.child("metadata")));
    }
}
