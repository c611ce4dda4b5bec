//! What is wrong with one schema as it was sent.

use serde_json::Value;

use super::{Rules, defaults, members, rules as cel};
use crate::{
    apiextensions::{
        Schema, fieldpath,
        structural::{self, is_said},
    },
    field::{Error, ErrorList, Path},
    registry::kit::at::At,
};

/// What the root may say when the status is validated by itself: nothing that would be lost then.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const RULES: &str = "x-kubernetes-validations";

/// Checks a schema; `with_status` tells whether the status is written apart.
pub(super) fn check(document: &At<'_>, with_status: bool, rules: Rules, errors: &mut ErrorList) {
    let (value, path) = (document.value(), document.path());
    if !value.is_object() {
        return;
    }
    let mut found = ErrorList::new();
    if with_status {
        root(document, &mut found);
    }
    if value["nullable"] == true {
        found.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let (mut unreadable, mut is_sound) = (None, false);
    if rules.structural {
        unreadable = structural::unreadable(value);
        if unreadable.is_none() {
            let mut wrong = structural::validate(value, &path.to_string());
            if wrong.is_empty() {
                wrong = defaults::validate(value, path, rules.pruned_defaults);
            }
            is_sound = wrong.is_empty();
            found.extend(wrong);
        }
    }
    let inside = Inside { defaults: None, meta: false };
    let mut of_schema = ErrorList::new();
    node(value, path, inside, true, rules, &mut of_schema);
    // A rule is compiled where what it is about is well described; faults elsewhere do not matter.
    let compiled = is_sound.then(|| cel::check(value, path, &of_schema, !rules.cheap_rules));
    found.extend(of_schema);
    found.extend(compiled.unwrap_or_default());
    if let Some(why) = unreadable.filter(|_| found.is_empty()) {
        found.push(Error::invalid(path, "", why));
    }
    errors.extend(found);
}

fn root(document: &At<'_>, errors: &mut ErrorList) {
    let value = document.value();
    let allowed = |name: &str| AT_ROOT.iter().any(|(known, _)| *known == name);
    let mut said = members(value).map(|(name, _)| name.as_str()).filter(|name| is_said(value, name));
    let kind = value["type"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "object") {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        document.get("type").invalid(errors, why);
    } else if said.any(|name| !allowed(name)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        document.invalid(errors, why);
    }
}

/// What surrounds a node.
#[derive(Clone, Copy)]
struct Inside<'c> {
    /// Why defaults are forbidden here.
    defaults: Option<&'c str>,
    /// Whether this describes what all objects have.
    meta: bool,
}

fn node(value: &Value, path: &Path, inside: Inside<'_>, is_root: bool, rules: Rules, errors: &mut ErrorList) {
    if !value.is_object() {
        return;
    }
    plain(value, path, inside, rules, errors);
    below(value, path, inside, is_root, rules, errors);
    extensions(value, path, rules, errors);
    for (at, rule) in value[RULES].as_array().into_iter().flatten().enumerate() {
        rule_texts(value, rule, &path.child(RULES).index(at), errors);
    }
}

/// Fields that no schema of a definition has, or not so.
fn plain(value: &Value, path: &Path, inside: Inside<'_>, rules: Rules, errors: &mut ErrorList) {
    let kind = value["type"].as_str().unwrap_or_default();
    let mut forbid = |name: &str, why: &str| errors.push(Error::forbidden(&path.child(name), why));
    if let Some(reason) = inside.defaults.filter(|_| !value["default"].is_null()) {
        forbid("default", format!("must not be set {reason}").trim_end());
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let is_there = match name {
            "additionalItems" | "dependencies" | "$ref" => !value[name].is_null(),
            name => is_said(value, name),
        };
        if is_there {
            forbid(name, &format!("{name} is not supported"));
        }
    }
    if kind == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if value["items"].as_array().is_some_and(|list| !list.is_empty()) {
        forbid("items", "items must be a schema object and not an array");
    }
    if inside.meta && value["x-kubernetes-embedded-resource"] == true {
        forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
    }
    if value["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        forbid("uniqueItems", why);
    }
    if rules.types && is_unknown_type(value) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
}

/// Whether a node has a type that OpenAPI does not.
pub(super) fn is_unknown_type(value: &Value) -> bool {
    value["type"].as_str().is_some_and(|kind| !kind.is_empty() && !TYPES.contains(&kind))
}

/// Whether a node says something that only structural schemas may.
pub(super) fn has_extensions(value: &Value) -> bool {
    let flags = ["x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"];
    flags.iter().any(|name| value[*name] == true)
        || !value["x-kubernetes-preserve-unknown-fields"].is_null()
        || !value[LIST_TYPE].is_null()
        || is_said(value, LIST_KEYS)
        || is_said(value, RULES)
}

fn below(
    value: &Value,
    path: &Path,
    inside: Inside<'_>,
    is_root: bool,
    rules: Rules,
    errors: &mut ErrorList,
) {
    let additional = &value["additionalProperties"];
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if is_said(value, "properties") && *additional != Value::Bool(true) {
            errors.push(Error::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        let why = "inside additionalProperties applying to object metadata";
        let inside = if inside.meta { Inside { defaults: Some(why), ..inside } } else { inside };
        node(additional, &at, inside, false, rules, errors);
    }
    let is_object = is_root || value["x-kubernetes-embedded-resource"] == true;
    for (name, schema) in members(&value["properties"]) {
        let reason = format!("in top-level {name}");
        let mut inside = inside;
        if is_object && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            inside.meta = true;
            if is_root {
                inside.defaults = Some(&reason);
            }
        }
        node(schema, &path.child("properties").key(name), inside, false, rules, errors);
    }
    node(&value["not"], &path.child("not"), inside, false, rules, errors);
    for name in ["allOf", "oneOf", "anyOf", "items"] {
        for (at, schema) in value[name].as_array().into_iter().flatten().enumerate() {
            node(schema, &path.child(name).index(at), inside, false, rules, errors);
        }
    }
    for name in ["definitions", "dependencies"] {
        for (key, schema) in members(&value[name]) {
            node(schema, &path.child(name).key(key), inside, false, rules, errors);
        }
    }
    node(&value["items"], &path.child("items"), inside, false, rules, errors);
}

fn extensions(value: &Value, path: &Path, rules: Rules, errors: &mut ErrorList) {
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if value[preserve] == false {
        errors.push(Error::invalid(&path.child(preserve), false, "must be true or undefined"));
    }
    has_type(value, MAP_TYPE, "object", path, errors);
    kind_among(value, MAP_TYPE, &["atomic", "granular"], path, errors);
    let listed = has_type(value, LIST_TYPE, "array", path, errors);
    if let Some(error) = set_error(value, path).filter(|_| listed && rules.atomic_sets) {
        errors.push(error);
    }
    kind_among(value, LIST_TYPE, &["atomic", "set", "map"], path, errors);
    if is_said(value, LIST_KEYS) {
        let (at, why) = (path.child(LIST_TYPE), "must be map if x-kubernetes-list-map-keys is non-empty");
        match value[LIST_TYPE].as_str() {
            None => errors.push(Error::required(&at, why)),
            Some("map") => {}
            Some(other) => errors.push(Error::invalid(&at, other, why)),
        }
    }
    if value[LIST_TYPE] == "map" {
        map_list(value, path, errors);
    }
    if rules.list_keys {
        list_key_errors(value, path).into_iter().for_each(|error| errors.push(error));
    }
}

/// Whether a node of this extension has the type the extension is for.
fn has_type(value: &Value, extension: &str, wanted: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let kind = value["type"].as_str().unwrap_or_default();
    if value[extension].is_null() || kind == wanted {
        return true;
    }
    let why = format!("must be {wanted} if {extension} is specified");
    let at = path.child("type");
    errors.push(if kind.is_empty() { Error::required(&at, why) } else { Error::invalid(&at, kind, why) });
    false
}

fn kind_among(value: &Value, extension: &str, known: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(kind) = value[extension].as_str().filter(|kind| !known.contains(kind)) {
        errors.push(Error::not_supported(&path.child(extension), kind, known));
    }
}

/// Members of sets are compared as wholes.
pub(super) fn set_error(value: &Value, path: &Path) -> Option<Error> {
    let items = &value["items"];
    if value[LIST_TYPE] != "set" || !items.is_object() {
        return None;
    }
    let (name, is_atomic) = match items["type"].as_str() {
        Some("array") => (LIST_TYPE, items[LIST_TYPE].is_null() || items[LIST_TYPE] == "atomic"),
        Some("object") => (MAP_TYPE, items[MAP_TYPE] == "atomic"),
        _ => return None,
    };
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let said = items[LIST_TYPE].clone();
    (!is_atomic).then(|| Error::invalid(&path.child("items").child(name), said, why))
}

fn map_list(value: &Value, path: &Path, errors: &mut ErrorList) {
    let (items, at) = (&value["items"], path.child("items"));
    let keys = value[LIST_KEYS].as_array().map(Vec::as_slice).unwrap_or_default();
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(Error::required(&path.child(LIST_KEYS), why));
    }
    if items.is_null() {
        errors.push(Error::required(&at, "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if !items.is_object() {
        let why = "must only have a single schema if x-kubernetes-list-type is map";
        errors.push(Error::invalid(&at, items.clone(), why));
        return;
    }
    let kind = items["type"].as_str().unwrap_or_default();
    if kind != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(&at.child("type"), kind, why));
        return;
    }
    for (n, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let invalid = |why: &str| Error::invalid(&path.child(LIST_KEYS), value[LIST_KEYS].clone(), why);
        match items["properties"].get(name).filter(|schema| schema.is_object()) {
            None => errors.push(invalid("entries must all be names of item properties")),
            Some(schema) if schema["type"] == "array" || schema["type"] == "object" => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(Error::invalid(&at.child("properties").key(name).child("type"), kind, why));
            }
            Some(_) => {}
        }
        if keys[..n].contains(key) {
            errors.push(invalid("must not contain duplicate entries"));
        }
    }
}

/// Members that are told apart by keys always have them.
pub(super) fn list_key_errors(value: &Value, path: &Path) -> Vec<Error> {
    let (items, at) = (&value["items"], path.child("items"));
    let mut errors = Vec::new();
    let Some(kind @ ("set" | "map")) = value[LIST_TYPE].as_str().filter(|_| items.is_object()) else {
        return errors;
    };
    if items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.push(Error::forbidden(&at.child("nullable"), why));
    }
    if kind == "set" {
        return errors;
    }
    let required = |name: &Value| items["required"].as_array().is_some_and(|list| list.contains(name));
    for key in value[LIST_KEYS].as_array().into_iter().flatten() {
        let name = key.as_str().unwrap_or_default();
        let schema = &items["properties"][name];
        let at = at.child("properties").key(name);
        if schema.is_object() && !required(key) && schema["default"].is_null() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&at.child("default"), why));
        }
        if schema["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), why));
        }
    }
    errors
}

/// What of a rule can be told without compiling it.
fn rule_texts(schema: &Value, rule: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |name: &str| rule[name].as_str().unwrap_or_default();
    let broken = |text: &str| text.contains(['\n', '\r']);
    let (source, message) = (text("rule").trim(), text("message"));
    let at = path.child("message");
    if source.is_empty() {
        errors.push(Error::required(&path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(&at, message, "must be non-empty if specified"));
    } else if broken(message.trim()) {
        errors.push(Error::invalid(&at, message, "must not contain line breaks"));
    } else if broken(source) && message.trim().is_empty() {
        errors.push(Error::required(&at, "message must be specified if rule contains line breaks"));
    }
    if !text("messageExpression").is_empty() && text("messageExpression").trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(Error::required(&path.child("messageExpression"), why));
    }
    if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.push(Error::not_supported(&path.child("reason"), reason, &REASONS));
    }
    let (field, at) = (text("fieldPath"), path.child("fieldPath"));
    if !field.is_empty() {
        if field.trim().is_empty() {
            errors.push(Error::invalid(&at, field, "must be non-empty if specified"));
        }
        if broken(field) {
            errors.push(Error::invalid(&at, field, "must not contain line breaks"));
        }
        let readable = structural::unreadable(schema).is_none();
        if readable && fieldpath::resolve(field, &Schema::read(schema), true).is_err() {
            errors.push(Error::invalid(&at, field, "must be a valid path"));
        }
    }
}
