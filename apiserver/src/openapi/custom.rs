//! Schemas of custom resources, as their definitions have them.
//!
//! The third dialect takes a schema as it was sent. Swagger 2.0 knows no alternatives and no nullable values, and its
//! readers take what is described as all there is: what cannot be said there is left out rather than said wrongly.
//!
//! Contract: upstream's `controller/openapi/builder` of apiextensions-apiserver.

use serde_json::{Map, Value, json};

use super::{Dialect, descriptions::Descriptions, schemas};
use crate::{
    apiextensions::structural,
    registry::{Resource, apiextensions::custom::CustomKind},
};

const LIST_METADATA: &str = "Standard list metadata.";
/// What only describes limits of values, which Swagger 2.0 cannot combine.
const JUNCTORS: [&str; 4] = ["allOf", "anyOf", "oneOf", "not"];

/// Name of a custom kind among the definitions: the group's labels are reversed.
pub(super) fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let labels: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", labels.join("."))
}

/// The schemas of a resource's objects and lists, by definition name.
pub(super) fn describe(dialect: Dialect, resource: &Resource, custom: &CustomKind) -> [(String, Value); 2] {
    let version = resource.versions.first().copied().unwrap_or_default();
    let kinds = |kind: &str| json!([schemas::group_version_kind(resource.group, version, kind)]);
    let name = definition_name(resource.group, version, resource.kind);
    let selectable: Vec<Value> = resource.selectable.iter().map(|f| json!({"fieldPath": f.name})).collect();
    let mut object = object(dialect, custom);
    let mut list = list(dialect, resource, custom, &name);
    object["x-kubernetes-group-version-kind"] = kinds(resource.kind);
    list["x-kubernetes-group-version-kind"] = kinds(custom.list_kind());
    if !selectable.is_empty() {
        object["x-kubernetes-selectable-fields"] = selectable.clone().into();
        list["x-kubernetes-selectable-fields"] = selectable.into();
    }
    [(name, object), (definition_name(resource.group, version, custom.list_kind()), list)]
}

fn object(dialect: Dialect, custom: &CustomKind) -> Value {
    let document = custom.document();
    let anything = custom.schema().preserve_unknown && dialect == Dialect::V2;
    // A schema without structure would promise more than is checked.
    if !document.is_object() || anything || !structural::validate(document, "").is_empty() {
        return json!({"type": "object"});
    }
    let mut schema = document.clone();
    unfold(&mut schema);
    if dialect == Dialect::V2 {
        simplify(&mut schema);
    }
    set_property(&mut schema, "metadata", object_meta(dialect));
    set_type_meta(&mut schema);
    embedded(dialect, &mut schema);
    schema
}

fn list(dialect: Dialect, resource: &Resource, custom: &CustomKind, name: &str) -> Value {
    let mut schema = json!({"type": "object", "required": ["items"],
        "description": format!("{} is a list of {}", custom.list_kind(), resource.kind)});
    let items = json!({"type": "array", "items": schemas::reference_to(dialect, name),
        "description": format!("The {} of the list.", resource.plural)});
    set_property(&mut schema, "items", items);
    set_property(&mut schema, "metadata", meta(dialect, "meta.v1.ListMeta", LIST_METADATA));
    set_type_meta(&mut schema);
    schema
}

fn set_property(schema: &mut Value, name: &str, property: Value) {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"][name] = property;
}

fn set_type_meta(schema: &mut Value) {
    for name in ["apiVersion", "kind"] {
        let text = Descriptions::common().of_common_field(name);
        set_property(schema, name, json!({"type": "string", "description": text}));
    }
}

fn object_meta(dialect: Dialect) -> Value {
    meta(dialect, "meta.v1.ObjectMeta", Descriptions::common().of_common_field("metadata"))
}

fn meta(dialect: Dialect, short: &str, text: &str) -> Value {
    let reference = schemas::reference(dialect, short);
    match dialect {
        Dialect::V2 => {
            let mut reference = reference;
            reference["description"] = json!(text);
            reference
        }
        // Beside a reference nothing is read.
        Dialect::V3 => json!({"allOf": [reference], "description": text}),
    }
}

/// Calls `visit` on a schema's structure, the schema itself first.
fn each(schema: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Some(node) = schema.as_object_mut() else { return };
    visit(node);
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(|below| each(below, visit));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = node.get_mut(name) {
            each(below, visit);
        }
    }
}

fn is_set(node: &Map<String, Value>, name: &str) -> bool {
    node.get(name) == Some(&Value::Bool(true))
}

/// Says in plain OpenAPI what `x-kubernetes-int-or-string` means, where the schema does not.
fn unfold(schema: &mut Value) {
    let both = || json!([{"type": "integer"}, {"type": "string"}]);
    each(schema, &mut |node| {
        let said = node.get("anyOf") == Some(&both())
            || node.get("allOf").and_then(|all| all.get(0)).is_some_and(|one| one["anyOf"] == both());
        if !is_set(node, "x-kubernetes-int-or-string") || said {
            return;
        }
        if !node.contains_key("anyOf") {
            node.insert("anyOf".to_owned(), both());
            return;
        }
        let all = node.entry("allOf").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.insert(0, json!({"anyOf": both()}));
        }
    });
}

/// Leaves out what Swagger 2.0 or its readers cannot take.
fn simplify(schema: &mut Value) {
    each(schema, &mut |node| {
        JUNCTORS.iter().for_each(|name| drop(node.remove(*name)));
        let nullable = is_set(node, "nullable");
        let preserved = is_set(node, "x-kubernetes-preserve-unknown-fields");
        if nullable || preserved {
            node.remove("items");
            node.remove("properties");
        }
        let kind = node.get("type").and_then(Value::as_str).unwrap_or_default();
        let listless = kind == "array" && !node.contains_key("items");
        if nullable || listless || (preserved && kind == "object") {
            node.remove("type");
        }
        node.remove("nullable");
        drop_nullable_required(node);
    });
}

/// A value that may be null cannot be required where null is no value.
fn drop_nullable_required(node: &mut Map<String, Value>) {
    let nullable = |schema: &Value| schema["nullable"] == true;
    if node.get("additionalProperties").is_some_and(nullable) {
        node.remove("required");
    }
    let properties = node.get("properties").and_then(Value::as_object);
    let names: Vec<String> = properties
        .into_iter()
        .flatten()
        .filter(|(_, schema)| nullable(schema))
        .map(|(name, _)| name.clone())
        .collect();
    let Some(Value::Array(required)) = node.get_mut("required") else { return };
    required.retain(|name| !names.iter().any(|nullable| name == nullable));
    if required.is_empty() {
        node.remove("required");
    }
}

/// Embedded objects have what all objects have.
fn embedded(dialect: Dialect, schema: &mut Value) {
    each(schema, &mut |node| {
        let open = dialect == Dialect::V2 && is_set(node, "x-kubernetes-preserve-unknown-fields");
        if open || !is_set(node, "x-kubernetes-embedded-resource") {
            return;
        }
        let mut whole = Value::Object(std::mem::take(node));
        set_type_meta(&mut whole);
        set_property(&mut whole, "metadata", object_meta(dialect));
        if let Value::Object(whole) = whole {
            *node = whole;
        }
        let required = node.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|r| r == name) {
                    required.push(name.into());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reversed_groups() {
        assert_eq!(definition_name("stable.example.com", "v1", "CronTab"), "com.example.stable.v1.CronTab");
    }

    #[test]
    fn swagger_leaves_out_what_it_cannot_say() {
        let mut schema = json!({"type": "object", "required": ["a", "n"], "properties": {
            "a": {"type": "string", "pattern": "^x", "description": "A.", "oneOf": [{"minLength": 1}]},
            "n": {"type": "object", "nullable": true, "properties": {"x": {"type": "string"}}},
            "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            "l": {"type": "array", "items": {"x-kubernetes-int-or-string": true}}}});
        unfold(&mut schema);
        assert_eq!(schema["properties"]["l"]["items"]["anyOf"][0]["type"], "integer");
        simplify(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "required": ["a"], "properties": {
                "a": {"type": "string", "pattern": "^x", "description": "A."},
                "n": {},
                "p": {"x-kubernetes-preserve-unknown-fields": true},
                "l": {"type": "array", "items": {"x-kubernetes-int-or-string": true}}}})
        );
    }

    #[test]
    fn embedded_objects_have_metadata() {
        let mut schema = json!({"type": "object", "properties": {
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        embedded(Dialect::V3, &mut schema);
        let below = &schema["properties"]["e"];
        assert_eq!(below["required"], json!(["kind", "apiVersion"]));
        assert_eq!(
            below["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
    }
}
