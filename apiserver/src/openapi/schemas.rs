//! Schemas of types, read off the type table.

use std::collections::{BTreeMap, BTreeSet};

use component_base::features::{Gate, Gates};
use proto::table::{self, Field, Kind, ListType, Scalar, Type, TypeId};
use serde_json::{Map, Value, json};

use super::{Dialect, descriptions::Descriptions, enums};

/// A type that has the fields all kinds have.
const COMMON: &str = "io.k8s.api.core.v1.Pod";
/// Scalars that have a definition of their own.
const NAMED: [(Scalar, &str); 10] = [
    (Scalar::Quantity, "api.resource.Quantity"),
    (Scalar::Time, "meta.v1.Time"),
    (Scalar::MicroTime, "meta.v1.MicroTime"),
    (Scalar::IntOrString, "util.intstr.IntOrString"),
    (Scalar::Raw, "runtime.RawExtension"),
    (Scalar::Fields, "meta.v1.FieldsV1"),
    (Scalar::Any, "apiextensions.v1.JSON"),
    (Scalar::SchemaOrArray, "apiextensions.v1.JSONSchemaPropsOrArray"),
    (Scalar::SchemaOrBool, "apiextensions.v1.JSONSchemaPropsOrBool"),
    (Scalar::SchemaOrStrings, "apiextensions.v1.JSONSchemaPropsOrStringArray"),
];

/// A type's name among the definitions: `core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
pub(super) fn definition_name(short: &str) -> String {
    let prefix = match short.split('.').next().unwrap_or_default() {
        "meta" => "io.k8s.apimachinery.pkg.apis",
        "api" | "util" | "runtime" | "version" => "io.k8s.apimachinery.pkg",
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis",
        "apiregistration" => "io.k8s.kube-aggregator.pkg.apis",
        _ => "io.k8s.api",
    };
    format!("{prefix}.{short}")
}

/// A reference to a type by its short name.
pub(super) fn reference(dialect: Dialect, short: &str) -> Value {
    reference_to(dialect, &definition_name(short))
}

/// A reference by a definition's name.
pub(super) fn reference_to(dialect: Dialect, name: &str) -> Value {
    let place = match dialect {
        Dialect::V2 => "#/definitions/",
        Dialect::V3 => "#/components/schemas/",
    };
    json!({"$ref": format!("{place}{name}")})
}

/// The schemas of these types and of all they lead to, by definition name.
pub(super) fn describe((dialect, gates): (Dialect, Gates), roots: BTreeSet<TypeId>) -> Map<String, Value> {
    let table = table::builtin();
    let kinds = kinds_by_type();
    let words = Descriptions::read();
    let mut open: Vec<TypeId> = roots.into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut out = Map::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let of = table.get(id);
        let mut schema = match of.scalar {
            Some(scalar) => definition(dialect, scalar),
            None => message(dialect, of, gates.has(Gate::OpenAPIEnums)),
        };
        let name = definition_name(of.name);
        describe_one(&words, &name, &mut schema);
        if let Some(kinds) = kinds.get(&id) {
            let all: Vec<Value> = kinds.iter().map(|(g, v, k)| group_version_kind(g, v, k)).collect();
            schema["x-kubernetes-group-version-kind"] = Value::Array(all);
        }
        out.insert(name, schema);
        open.extend(of.fields.iter().filter_map(|f| target(&f.kind)));
    }
    out
}

/// Adds what a type and its fields are for.
fn describe_one(words: &Descriptions, name: &str, schema: &mut Value) {
    let list = || {
        let kind = name.rsplit('.').next()?.strip_suffix("List")?;
        Some(format!("{kind}List is a list of objects of the kind {kind}."))
    };
    if let Some(text) = words.of(name).map(str::to_owned).or_else(list) {
        schema["description"] = Value::String(text);
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (field, property) in properties {
        // These two are the same in all kinds, lists included.
        let common =
            || words.of_field(COMMON, field).filter(|_| matches!(field.as_str(), "apiVersion" | "kind"));
        if let Some(text) = words.of_field(name, field).or_else(common) {
            property["description"] = json!(text);
        }
    }
}

/// The extension's form of a kind.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

fn kinds_by_type() -> BTreeMap<TypeId, BTreeSet<(&'static str, &'static str, &'static str)>> {
    let mut kinds: BTreeMap<TypeId, BTreeSet<_>> = BTreeMap::new();
    for (kind, id) in table::builtin().kinds() {
        kinds.entry(id).or_default().insert(kind);
    }
    kinds
}

/// The type a field refers to, itself, by its members or by its values.
fn target(kind: &Kind) -> Option<TypeId> {
    match kind {
        Kind::Message(id) => Some(*id),
        Kind::List(inner) | Kind::Map(inner) => target(inner),
        Kind::Scalar(scalar) => table::builtin().by_name(named(*scalar)?),
    }
}

fn named(scalar: Scalar) -> Option<&'static str> {
    NAMED.iter().find(|(s, _)| *s == scalar).map(|(_, name)| *name)
}

fn message(dialect: Dialect, of: &Type, words: bool) -> Value {
    let mut schema = json!({"type": "object"});
    if !of.fields.is_empty() {
        let properties: Map<String, Value> =
            of.fields.iter().map(|f| (f.name.to_owned(), property(dialect, of, f, words))).collect();
        schema["properties"] = Value::Object(properties);
    }
    let required: Vec<&str> = of.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if of.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    schema
}

fn property(dialect: Dialect, of: &Type, field: &Field, words: bool) -> Value {
    let mut schema = value(dialect, &field.kind);
    if words {
        enums::describe(of.name, field.name, &mut schema);
    }
    let mut extensions = Map::new();
    let mut extend = |name: &str, value: Value| extensions.insert(format!("x-kubernetes-{name}"), value);
    let list = matches!(field.kind, Kind::List(_) | Kind::Scalar(Scalar::Bytes));
    match &field.list {
        ListType::Atomic if field.atomic => {
            extend(if list { "list-type" } else { "map-type" }, json!("atomic"));
        }
        ListType::Atomic => {}
        ListType::Set => {
            extend("list-type", json!("set"));
        }
        ListType::Map(keys) => {
            extend("list-type", json!("map"));
            extend("list-map-keys", json!(keys));
        }
    }
    let strategy = match (field.patch_merge, field.retain_keys) {
        (true, true) => Some("merge,retainKeys"),
        (true, false) => Some("merge"),
        (false, true) => Some("retainKeys"),
        (false, false) => field.patch_replace.then_some("replace"),
    };
    if let Some(strategy) = strategy {
        extend("patch-strategy", json!(strategy));
    }
    if let Some(key) = field.merge_key {
        extend("patch-merge-key", json!(key));
    }
    // In OpenAPI 3.0 what stands beside `$ref` is not read.
    if dialect == Dialect::V3 && schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.append(&mut extensions);
    }
    if dialect == Dialect::V3
        && let Some(default) = default(field)
    {
        schema["default"] = default;
    }
    schema
}

/// What an absent value stands for: what the type declares, or the zero of what Go does not point to.
fn default(field: &Field) -> Option<Value> {
    if let Some(declared) = field.default {
        return serde_json::from_str(declared).ok();
    }
    if field.optional || field.tag == 0 {
        return None;
    }
    Some(match field.kind {
        Kind::Message(_) => json!({}),
        Kind::Scalar(scalar) if named(scalar).is_some() => json!({}),
        Kind::Scalar(Scalar::String) if field.always => json!(""),
        Kind::Scalar(Scalar::Bool) if field.always => json!(false),
        Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float) if field.always => json!(0),
        _ => return None,
    })
}

fn value(dialect: Dialect, kind: &Kind) -> Value {
    match kind {
        Kind::Message(id) => reference(dialect, table::builtin().get(*id).name),
        Kind::List(member) => json!({"type": "array", "items": value(dialect, member)}),
        Kind::Map(member) => json!({"type": "object", "additionalProperties": value(dialect, member)}),
        Kind::Scalar(scalar) => match named(*scalar) {
            Some(name) => reference(dialect, name),
            None => definition(dialect, *scalar),
        },
    }
}

fn definition(dialect: Dialect, scalar: Scalar) -> Value {
    match scalar {
        Scalar::String => json!({"type": "string"}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Float => json!({"type": "number", "format": "double"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Quantity if dialect == Dialect::V3 => {
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        Scalar::Quantity => json!({"type": "string"}),
        Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
        Scalar::IntOrString if dialect == Dialect::V3 => {
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
        }
        Scalar::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Scalar::Raw | Scalar::Fields => json!({"type": "object"}),
        Scalar::Any | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => json!({}),
    }
}
