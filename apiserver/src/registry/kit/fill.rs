//! Editing of JSON where something is missing: what defaults of kinds are written in.
//!
//! A missing field, a null and an empty text count as not set. Values of the wrong type are left alone.

use serde_json::{Map, Value};

use crate::{object::Object, registry::pod_spec};

/// A JSON object.
pub(in crate::registry) type Fields = Map<String, Value>;

/// Sets a field that is not set.
pub(in crate::registry) fn missing(object: &mut Fields, field: &str, value: impl Into<Value>) {
    match object.get(field) {
        None | Some(Value::Null) => {}
        Some(Value::String(s)) if s.is_empty() => {}
        Some(_) => return,
    }
    object.insert(field.to_owned(), value.into());
}

/// Sets a field that is not there: an empty text is one that was said.
pub(in crate::registry) fn absent(object: &mut Fields, field: &str, value: impl Into<Value>) {
    if !is_set(object, field) {
        object.insert(field.to_owned(), value.into());
    }
}

/// The object in a field, if it is one.
pub(in crate::registry) fn child<'o>(object: &'o mut Fields, field: &str) -> Option<&'o mut Fields> {
    object.get_mut(field).and_then(Value::as_object_mut)
}

/// The object in a field, made when it is not set.
pub(in crate::registry) fn made<'o>(object: &'o mut Fields, field: &str) -> Option<&'o mut Fields> {
    missing(object, field, Value::Object(Map::new()));
    child(object, field)
}

/// The objects in a list.
pub(in crate::registry) fn members<'o>(
    object: &'o mut Fields,
    list: &str,
) -> impl Iterator<Item = &'o mut Fields> {
    object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Whether a list or an object in a field has no members.
pub(in crate::registry) fn none(object: &Fields, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Whether a field is there and not null.
pub(in crate::registry) fn is_set(object: &Fields, field: &str) -> bool {
    object.get(field).is_some_and(|v| !v.is_null())
}

/// The text in a field; empty when not set.
pub(in crate::registry) fn string<'o>(object: &'o Fields, field: &str) -> &'o str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The spec, made when it is not set.
pub(in crate::registry) fn spec(object: &mut Object) -> Option<&mut Fields> {
    made(object.as_map_mut(), "spec")
}

/// Fills in the pod template in a field.
pub(in crate::registry) fn template(object: &mut Fields, field: &str) {
    if let Some(template) = made(object, field) {
        missing(template, "spec", Value::Object(Map::new()));
        if let Some(spec) = template.get_mut("spec") {
            pod_spec::fill(spec);
        }
    }
}
