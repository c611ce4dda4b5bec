//! Types from OpenAPI schemas: what a custom resource's or built-in kind's schema says of its values.
//!
//! A [`DeclType`] serves three passes: the checker takes types and fields from it, the cost estimate
//! takes bounds of sizes, and the evaluator converts JSON by it (a `format: date-time` string is a timestamp).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use crate::types::Type;

/// Bytes of the largest request upstream's estimates assume.
const MAX_REQUEST_SIZE: u64 = 3 * 1024 * 1024;

/// A schema as CEL sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclType {
    /// What values look like.
    pub kind: DeclKind,
    /// Most characters, items or properties; 0 of scalars and objects, as upstream's estimates have it.
    pub max_elements: u64,
    /// Bytes of the smallest JSON value.
    pub min_serialized_size: u64,
    /// Whether null may stand in its place.
    pub nullable: bool,
}

/// What values of a schema look like.
#[derive(Clone, Debug, PartialEq)]
pub enum DeclKind {
    /// Anything; converted by what the JSON is.
    Dyn,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
    /// boolean.
    Bool,
    /// integer.
    Int,
    /// number.
    Double,
    /// string.
    String,
    /// string, format byte.
    Bytes,
    /// string, format duration.
    Duration,
    /// string, format date.
    Date,
    /// string, format date-time.
    Timestamp,
    /// array.
    List {
        /// Schema of items.
        items: Arc<DeclType>,
        /// `x-kubernetes-list-type`.
        semantics: ListSemantics,
    },
    /// object with additionalProperties.
    Map(Arc<DeclType>),
    /// object with properties.
    Object {
        /// Unique name of the type within an environment.
        name: Arc<str>,
        /// Fields by the name CEL uses (escaped).
        fields: BTreeMap<String, DeclField>,
    },
    /// A type of a library (`kubernetes.authorization.Authorizer`), never read from JSON.
    Opaque(Type),
}

/// How lists of a schema compare and add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListSemantics {
    /// By order.
    Atomic,
    /// Without order or duplicates.
    Set,
    /// Keyed by these fields (JSON names).
    Map(Vec<String>),
}

/// A field of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclField {
    /// Its name in JSON.
    pub json_name: String,
    /// Its schema.
    pub decl: Arc<DeclType>,
}

impl DeclType {
    /// A scalar or opaque type of one size.
    pub fn simple(kind: DeclKind) -> DeclType {
        let min_serialized_size = match kind {
            DeclKind::Bool => 4,
            DeclKind::String | DeclKind::Bytes => 2,
            _ => 1,
        };
        DeclType { kind, max_elements: 0, min_serialized_size, nullable: false }
    }

    /// Anything.
    pub fn any() -> DeclType {
        Self::simple(DeclKind::Dyn)
    }

    /// A list without bound.
    pub fn list_of(items: DeclType) -> DeclType {
        let kind = DeclKind::List { items: Arc::new(items), semantics: ListSemantics::Atomic };
        DeclType { kind, max_elements: u64::MAX, min_serialized_size: 2, nullable: false }
    }

    /// A map without bound.
    pub fn map_of(values: DeclType) -> DeclType {
        DeclType {
            kind: DeclKind::Map(Arc::new(values)),
            max_elements: u64::MAX,
            min_serialized_size: 2,
            nullable: false,
        }
    }

    /// An object of a well-known name.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, DeclType)>) -> DeclType {
        let fields = fields.into_iter().map(|(name, decl)| {
            (name.to_owned(), DeclField { json_name: name.to_owned(), decl: Arc::new(decl) })
        });
        let kind = DeclKind::Object { name: name.into(), fields: fields.collect() };
        DeclType { kind, max_elements: 0, min_serialized_size: 2, nullable: false }
    }

    /// Reads an OpenAPI v3 or structural schema without references. `root`: a resource with type and object
    /// metadata. `None`: CEL must not see it (no type, an array of untyped items, ...).
    pub fn from_schema(schema: &Json, root: bool, name: &str) -> Option<DeclType> {
        let flag = |field: &str| schema.get(field).and_then(Json::as_bool).unwrap_or(false);
        let nullable = flag("nullable");
        let with = |kind, max_elements, min_serialized_size| {
            Some(DeclType { kind, max_elements, min_serialized_size, nullable })
        };
        let limit =
            |field: &str| schema.get(field).and_then(Json::as_i64).map(|l| u64::try_from(l).unwrap_or(0));
        let int_or_string = flag("x-kubernetes-int-or-string")
            || schema.get("format").and_then(Json::as_str) == Some("int-or-string");
        if int_or_string {
            let max = limit("maxLength").map_or(MAX_REQUEST_SIZE - 2, |l| l.saturating_mul(4));
            return with(DeclKind::IntOrString, max, 1);
        }
        let root = root || flag("x-kubernetes-embedded-resource");
        match type_of(schema) {
            Some("array") => {
                let items = Self::from_schema(schema.get("items")?, false, &format!("{name}.@idx"))?;
                let max =
                    limit("maxItems").unwrap_or((MAX_REQUEST_SIZE - 2) / (items.min_serialized_size + 1));
                with(DeclKind::List { items: Arc::new(items), semantics: list_semantics(schema) }, max, 2)
            }
            Some("object") => match schema.get("additionalProperties").filter(|p| p.is_object()) {
                Some(values) => {
                    let values = Self::from_schema(values, false, &format!("{name}.@elem"))?;
                    let max = limit("maxProperties")
                        .unwrap_or((MAX_REQUEST_SIZE - 2) / (values.min_serialized_size + 6));
                    with(DeclKind::Map(Arc::new(values)), max, 2)
                }
                None => {
                    let (fields, size) = object_fields(schema, root, name);
                    with(DeclKind::Object { name: name.into(), fields }, 0, size)
                }
            },
            Some("string") => {
                let (kind, max, min) = string_kind(schema, limit("maxLength"));
                with(kind, max, min)
            }
            Some("boolean") => with(DeclKind::Bool, 0, 4),
            Some("number") => with(DeclKind::Double, 0, 1),
            Some("integer") => with(DeclKind::Int, 0, 1),
            _ => None,
        }
    }

    /// The type the checker gives to such a value.
    pub fn cel_type(&self) -> Type {
        match &self.kind {
            DeclKind::Dyn | DeclKind::IntOrString => Type::Dyn,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::String => Type::String,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Duration => Type::Duration,
            DeclKind::Date | DeclKind::Timestamp => Type::Timestamp,
            DeclKind::List { items, .. } => Type::list(items.cel_type()),
            DeclKind::Map(values) => Type::map(Type::String, values.cel_type()),
            DeclKind::Object { name, .. } => Type::Object(name.clone()),
            DeclKind::Opaque(t) => t.clone(),
        }
    }

    /// The schema one step further down a path of the cost estimate.
    pub(crate) fn step(&self, name: &str) -> Option<&DeclType> {
        match (&self.kind, name) {
            (DeclKind::List { items, .. }, "@items") => Some(items),
            (DeclKind::Map(values), "@values") => Some(values),
            (DeclKind::Object { fields, .. }, name) => fields.get(name).map(|f| f.decl.as_ref()),
            _ => None,
        }
    }

    /// Every object type within, by name.
    pub(crate) fn visit_objects(self: &Arc<Self>, found: &mut dyn FnMut(&str, &Arc<DeclType>)) {
        match &self.kind {
            DeclKind::List { items, .. } => items.visit_objects(found),
            DeclKind::Map(values) => values.visit_objects(found),
            DeclKind::Object { name, fields } => {
                found(name, self);
                fields.values().for_each(|f| f.decl.visit_objects(found));
            }
            _ => {}
        }
    }
}

/// `type`, which OpenAPI v3.1 and kube-openapi may write as a list of one.
fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::Array(types) => types.first()?.as_str(),
        other => other.as_str(),
    }
}

fn list_semantics(schema: &Json) -> ListSemantics {
    match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListSemantics::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            ListSemantics::Map(
                keys.into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned)).collect(),
            )
        }
        _ => ListSemantics::Atomic,
    }
}

fn string_kind(schema: &Json, max_length: Option<u64>) -> (DeclKind, u64, u64) {
    let any = MAX_REQUEST_SIZE - 2;
    match schema.get("format").and_then(Json::as_str) {
        Some("byte") => (DeclKind::Bytes, max_length.unwrap_or(any), 2),
        Some("duration") => (DeclKind::Duration, 32, 3),
        Some("date") => (DeclKind::Date, 12, 12),
        Some("date-time") => (DeclKind::Timestamp, 32, 21),
        _ => {
            let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty());
            let longest =
                |values: &Vec<Json>| values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0);
            let max = match (max_length, values) {
                // A character is at most four bytes.
                (Some(max), _) => max.saturating_mul(4),
                (None, Some(values)) => longest(values) as u64,
                (None, None) => any,
            };
            (DeclKind::String, max, 2)
        }
    }
}

/// The visible fields of an object and the size of its smallest JSON.
fn object_fields(schema: &Json, root: bool, name: &str) -> (BTreeMap<String, DeclField>, u64) {
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
    let required = |field: &str| {
        let list = schema.get("required").and_then(Json::as_array);
        list.is_some_and(|list| list.iter().any(|r| r.as_str() == Some(field)))
    };
    let mut fields = BTreeMap::new();
    let mut size = 2;
    for (json_name, property) in properties {
        let overlaid;
        let mut property = property;
        if root && matches!(json_name.as_str(), "kind" | "apiVersion" | "metadata") {
            overlaid = type_meta(json_name, property);
            property = &overlaid;
        }
        let Some(decl) = DeclType::from_schema(property, false, &format!("{name}.{json_name}")) else {
            continue;
        };
        if required(json_name) && property.get("default").is_none() {
            size += json_name.len() as u64 + decl.min_serialized_size + 4;
        }
        if let Some(escaped) = escape(json_name) {
            fields.insert(escaped, DeclField { json_name: json_name.clone(), decl: Arc::new(decl) });
        }
    }
    for missing in
        ["kind", "apiVersion", "metadata"].into_iter().filter(|m| root && !properties.contains_key(*m))
    {
        let schema = type_meta(missing, &Json::Null);
        if let Some(decl) = DeclType::from_schema(&schema, false, &format!("{name}.{missing}")) {
            fields.insert(
                missing.to_owned(),
                DeclField { json_name: missing.to_owned(), decl: Arc::new(decl) },
            );
        }
    }
    (fields, size)
}

/// What rules may always see of a resource: kind, apiVersion and the names in its metadata.
fn type_meta(field: &str, declared: &Json) -> Json {
    let string = serde_json::json!({"type": "string"});
    if field != "metadata" {
        return if declared.get("type").and_then(Json::as_str) == Some("string") {
            declared.clone()
        } else {
            string
        };
    }
    let complete = declared
        .get("properties")
        .is_some_and(|p| p.get("name").is_some() && p.get("generateName").is_some());
    if complete {
        return declared.clone();
    }
    let mut metadata =
        serde_json::json!({"type": "object", "properties": {"name": string, "generateName": string}});
    if let (Some(all), Some(declared)) = (
        metadata.get_mut("properties").and_then(Json::as_object_mut),
        declared.get("properties").and_then(Json::as_object),
    ) {
        // A declared `metadata.name` with its pattern or maximum is more exact than the bare one.
        all.extend(declared.clone());
    }
    metadata
}

/// Words of the language that nothing can be named by: variables may not be, properties are escaped.
pub const RESERVED_WORDS: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The CEL name of a property: `__dot__`, `__dash__`, `__slash__`, `__underscores__`, `__if__`.
/// `None`: the property cannot be reached.
pub fn escape(property: &str) -> Option<String> {
    if property.is_empty() || property.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED_WORDS.contains(&property) {
        return Some(format!("__{property}__"));
    }
    let mut escaped = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => escaped.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(escaped)
}
