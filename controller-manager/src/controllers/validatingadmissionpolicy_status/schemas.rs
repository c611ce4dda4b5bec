//! The schema of a kind in an OpenAPI v3 document, references put in place. Pure.

use serde_json::{Map, Value};

/// What types are made of; descriptions and defaults of references stay out.
const KEPT: &[&str] = &[
    "type",
    "format",
    "nullable",
    "required",
    "enum",
    "maxLength",
    "maxItems",
    "maxProperties",
    "default",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
];
/// Schemas of one kind; a document that refers to more is not believed.
const MAX_SCHEMAS: usize = 200_000;

/// The schema of a kind; `None` when the document has none.
pub(super) fn of_kind(document: &Value, group: &str, version: &str, kind: &str) -> Option<Value> {
    let components = document.pointer("/components/schemas")?.as_object()?;
    let is_it = |schema: &Value| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.into_iter().flatten().any(|gvk| {
            let is = |field: &str, wanted: &str| gvk.get(field).and_then(Value::as_str) == Some(wanted);
            is("group", group) && is("version", version) && is("kind", kind)
        })
    };
    let found = components.values().find(|schema| is_it(schema))?;
    let mut resolver = Resolver { components, open: Vec::new(), left: MAX_SCHEMAS };
    resolver.resolve(found)
}

struct Resolver<'d> {
    components: &'d Map<String, Value>,
    /// The components being put in place: one that is among them refers to itself and ends there.
    open: Vec<&'d str>,
    left: usize,
}

impl<'d> Resolver<'d> {
    fn resolve(&mut self, schema: &'d Value) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        if let Some(name) = reference(schema) {
            let (name, component) = self.components.get_key_value(name)?;
            if self.open.contains(&name.as_str()) {
                return None;
            }
            self.open.push(name);
            let resolved = self.resolve(component);
            self.open.pop();
            return resolved;
        }
        let schema = schema.as_object()?;
        let mut out = Map::new();
        for (field, value) in schema.iter().filter(|(field, _)| KEPT.contains(&field.as_str())) {
            out.insert(field.clone(), value.clone());
        }
        for field in ["items", "additionalProperties"] {
            if let Some(resolved) = schema.get(field).and_then(|within| self.resolve(within)) {
                out.insert(field.to_owned(), resolved);
            }
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let resolved = properties.iter().filter_map(|(name, property)| {
                self.resolve(property).map(|resolved| (name.clone(), resolved))
            });
            out.insert("properties".to_owned(), Value::Object(resolved.collect()));
        }
        Some(Value::Object(out))
    }
}

/// The component a schema refers to, by itself or wrapped to carry a description.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let wrapped = || {
        let all = schema.get("allOf").and_then(Value::as_array)?;
        all.iter().find_map(|one| one.get("$ref").and_then(Value::as_str))
    };
    direct.or_else(wrapped)?.strip_prefix("#/components/schemas/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_put_in_place_once() {
        let reference = |name: &str| json!({"description": "d", "allOf": [{"$ref": format!("#/components/schemas/{name}")}]});
        let document = json!({"components": {"schemas": {
            "a": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "A"}],
                "properties": {"spec": reference("spec"), "text": {"type": "string", "description": "x"}}},
            "spec": {"type": "object", "properties": {
                "self": reference("spec"), "gone": reference("gone"),
                "list": {"type": "array", "items": reference("item")},
                "map": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/item"}},
            }},
            "item": {"type": "integer", "format": "int32"},
        }}});
        let item = json!({"type": "integer", "format": "int32"});
        assert_eq!(
            of_kind(&document, "g", "v1", "A"),
            Some(json!({"type": "object", "properties": {
                "text": {"type": "string"},
                "spec": {"type": "object", "properties": {
                    "list": {"type": "array", "items": item},
                    "map": {"type": "object", "additionalProperties": item},
                }},
            }}))
        );
        assert_eq!(of_kind(&document, "g", "v1", "B"), None);
        assert_eq!(of_kind(&json!({}), "g", "v1", "A"), None);
    }
}
