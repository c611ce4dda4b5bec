//! The schema of a version, read from `openAPIV3Schema`.
//!
//! One type serves the structure and what is below `allOf`, `anyOf`, `oneOf` and `not`: whether the latter says
//! more than it may is checked on the definition as it was sent.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::pattern::Pattern;

/// A node of a schema (`JSONSchemaProps`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// `type`; empty when it is not said.
    pub kind: String,
    /// `format`; empty when it is not said.
    pub format: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// What a missing value becomes.
    pub default: Option<Value>,
    /// Members by name.
    pub properties: BTreeMap<String, Schema>,
    /// Members of other names.
    pub additional: Option<Additional>,
    /// Members of a list.
    pub items: Option<Box<Schema>>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`.
    pub list_type: ListType,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// `x-kubernetes-validations` as they were sent.
    pub rules: Vec<Value>,
    /// What a value must be like.
    pub limits: Limits,
}

/// What `additionalProperties` says.
#[derive(Clone, Debug, PartialEq)]
pub enum Additional {
    /// Whether there may be any, of any kind.
    Allowed(bool),
    /// They are like this.
    Schema(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    #[default]
    Atomic,
    /// Every member once.
    Set,
    /// Members told apart by keys.
    Map,
}

/// What the values of a schema are limited to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Upper bound.
    pub maximum: Option<f64>,
    /// Whether the upper bound itself is out.
    pub exclusive_maximum: bool,
    /// Lower bound.
    pub minimum: Option<f64>,
    /// Whether the lower bound itself is out.
    pub exclusive_minimum: bool,
    /// Characters at most.
    pub max_length: Option<i64>,
    /// Characters at least.
    pub min_length: Option<i64>,
    /// Regular expression in Go's syntax.
    pub pattern: Pattern,
    /// List members at most.
    pub max_items: Option<i64>,
    /// List members at least.
    pub min_items: Option<i64>,
    /// Whether members must differ.
    pub unique_items: bool,
    /// Divisor.
    pub multiple_of: Option<f64>,
    /// Allowed values; empty for any.
    pub allowed: Vec<Value>,
    /// Members at most.
    pub max_properties: Option<i64>,
    /// Members at least.
    pub min_properties: Option<i64>,
    /// Members that must be there.
    pub required: Vec<String>,
    /// All must hold.
    pub all_of: Vec<Schema>,
    /// One or more must hold.
    pub any_of: Vec<Schema>,
    /// Exactly one must hold.
    pub one_of: Vec<Schema>,
    /// Must not hold.
    pub not: Option<Box<Schema>>,
}

// === impl Schema ===

impl Schema {
    /// Reads a `JSONSchemaProps`; what has a wrong type counts as not said (the API refuses it before).
    pub fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let flag = |name: &str| value[name].as_bool().unwrap_or(false);
        Self {
            kind: text("type"),
            format: text("format"),
            nullable: flag("nullable"),
            default: value.get("default").filter(|v| !v.is_null()).cloned(),
            properties: members(&value["properties"]),
            additional: match &value["additionalProperties"] {
                Value::Bool(allowed) => Some(Additional::Allowed(*allowed)),
                schema @ Value::Object(_) => Some(Additional::Schema(Box::new(Self::read(schema)))),
                _ => None,
            },
            items: one(&value["items"]),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: match value["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: texts(&value["x-kubernetes-list-map-keys"]),
            atomic_map: value["x-kubernetes-map-type"] == "atomic",
            rules: value["x-kubernetes-validations"].as_array().cloned().unwrap_or_default(),
            limits: Limits::read(value),
        }
    }

    /// A root whose own metadata is known without being described.
    pub fn as_root(&self) -> Self {
        Self { embedded: true, ..self.clone() }
    }

    /// Of a member by its name: declared, or like all others.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }

    /// The types a value may have.
    pub fn kinds(&self) -> Vec<&str> {
        match self.kind.as_str() {
            _ if self.int_or_string => vec!["integer", "string"],
            "" => Vec::new(),
            kind => vec![kind],
        }
    }

    /// Whether this node or one below it, in the structure, is like that.
    pub fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        let additional = match &self.additional {
            Some(Additional::Schema(schema)) => Some(&**schema),
            _ => None,
        };
        is(self)
            || self.properties.values().any(|schema| schema.any(is))
            || additional.is_some_and(|schema| schema.any(is))
            || self.items.as_deref().is_some_and(|schema| schema.any(is))
    }
}

impl Limits {
    fn read(value: &Value) -> Self {
        let flag = |name: &str| value[name].as_bool().unwrap_or(false);
        let integer = |name: &str| value[name].as_i64();
        let number = |name: &str| value[name].as_f64();
        Self {
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            max_length: integer("maxLength"),
            min_length: integer("minLength"),
            pattern: Pattern::new(value["pattern"].as_str().unwrap_or_default()),
            max_items: integer("maxItems"),
            min_items: integer("minItems"),
            unique_items: flag("uniqueItems"),
            multiple_of: number("multipleOf"),
            allowed: value["enum"].as_array().cloned().unwrap_or_default(),
            max_properties: integer("maxProperties"),
            min_properties: integer("minProperties"),
            required: texts(&value["required"]),
            all_of: list(&value["allOf"]),
            any_of: list(&value["anyOf"]),
            one_of: list(&value["oneOf"]),
            not: one(&value["not"]),
        }
    }
}

fn one(value: &Value) -> Option<Box<Schema>> {
    value.is_object().then(|| Box::new(Schema::read(value)))
}

fn list(value: &Value) -> Vec<Schema> {
    value.as_array().into_iter().flatten().map(Schema::read).collect()
}

fn members(value: &Value) -> BTreeMap<String, Schema> {
    let none = Map::new();
    let members = value.as_object().unwrap_or(&none);
    members.iter().map(|(name, schema)| (name.clone(), Schema::read(schema))).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
