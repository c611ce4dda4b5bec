//! Whether a schema is structural: every field is described once, outside of the alternatives, so that what is unknown
//! can be told from what is known.
//!
//! Works on the schema as it was sent, since what stands below `allOf`, `anyOf`, `oneOf` and `not` may say less than a
//! schema can.
//!
//! Contract: KEP-95, "structural schemas"; upstream's `apiserver/schema/{validation,complete}.go`, whose words these are.

use serde_json::{Map, Value, json};

use super::pattern::Pattern;
use crate::field::{Error, ErrorList, Path};

/// Fields of JSON schema that definitions never have, and the name each is refused by.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];
/// What alternatives may not say, and what it has to be instead.
const FORBIDDEN_BELOW: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];
const RULES: &str = "x-kubernetes-validations";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// Where in the structure a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Errors of a schema as it was sent, sorted; `at` is where it stands, `""` for nowhere.
pub fn validate(document: &Value, at: &str) -> ErrorList {
    let path = Path::new(at);
    let mut all = Vec::new();
    invariants(document, Level::Root, &path, &mut all);
    complete(document, Some(document), &path, &path, &mut all);
    all.sort_by_cached_key(ToString::to_string);
    let mut errors = ErrorList::new();
    all.into_iter().for_each(|error| errors.push(error));
    errors
}

/// Why a schema cannot be read as a structure at all, in words.
pub fn unreadable(document: &Value) -> Option<String> {
    let mut why = None;
    any(document, &mut |node| {
        let unsupported = UNSUPPORTED.iter().find(|(name, _)| is_said(node, name));
        if let Some((_, name)) = unsupported {
            why = Some(format!("OpenAPIV3Schema '{name}' is not supported"));
        } else if node["items"].is_array() {
            why = Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
        } else if node[PRESERVE] == false {
            why = Some(format!("internal error: '{PRESERVE}' must be true or undefined"));
        }
        why.is_some()
    });
    why
}

/// Whether `is` holds for a schema or for one anywhere below it, alternatives included.
pub fn any(document: &Value, is: &mut dyn FnMut(&Value) -> bool) -> bool {
    if !document.is_object() {
        return false;
    }
    if is(document) {
        return true;
    }
    let maps = ["properties", "patternProperties", "definitions", "dependencies"];
    let lists = ["allOf", "anyOf", "oneOf", "items"];
    let ones = ["items", "not", "additionalProperties", "additionalItems"];
    maps.iter().filter_map(|name| document[*name].as_object()).any(|map| map.values().any(|v| any(v, is)))
        || lists.iter().filter_map(|name| document[*name].as_array()).any(|l| l.iter().any(|v| any(v, is)))
        || ones.iter().any(|name| any(&document[*name], is))
}

/// Whether a field is there and not what it is without being said.
pub fn is_said(node: &Value, name: &str) -> bool {
    match &node[name] {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => name == "default" || !map.is_empty(),
        _ => true,
    }
}

fn flag(node: &Value, name: &str) -> bool {
    node[name] == true
}

fn text<'v>(node: &'v Value, name: &str) -> &'v str {
    node[name].as_str().unwrap_or_default()
}

fn properties(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
    node["properties"].as_object().into_iter().flatten()
}

fn list<'v>(node: &'v Value, name: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    node[name].as_array().into_iter().flatten().enumerate()
}

fn property_path(path: &Path, name: &str) -> Path {
    path.child("properties").key(name)
}

/// What holds for each node of the structure.
fn invariants(node: &Value, level: Level, path: &Path, errors: &mut Vec<Error>) {
    if !node.is_object() {
        return;
    }
    let (kind, items) = (text(node, "type"), &node["items"]);
    if kind == "array" && !items.is_object() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    invariants(items, Level::Item, &path.child("items"), errors);
    for (name, below) in properties(node) {
        invariants(below, Level::Field, &property_path(path, name), errors);
    }
    let additional = &node["additionalProperties"];
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(Error::forbidden(&at, "must not be used at the root"));
        }
        invariants(additional, Level::Field, &at, errors);
    }
    extensions(node, path, errors);
    let both = int_or_string();
    let skip_any = node["anyOf"] == both;
    let skip_first = node["allOf"][0]["anyOf"] == both;
    value_limits(node, skip_any, skip_first, path, errors);
    kind_of(node, level, path, errors);
    known_fields(node, level, path, errors);
    let open = flag(node, PRESERVE) || properties(node).next().is_some();
    if flag(node, EMBEDDED) && !open {
        let why = format!("must not be empty if {EMBEDDED} is true without {PRESERVE}");
        errors.push(Error::required(&path.child("properties"), why));
    }
}

/// The two alternatives that int-or-string may spell out with types.
fn int_or_string() -> Value {
    json!([{"type": "integer"}, {"type": "string"}])
}

fn extensions(node: &Value, path: &Path, errors: &mut Vec<Error>) {
    if !flag(node, INT_OR_STRING) {
        return;
    }
    for name in [PRESERVE, EMBEDDED].into_iter().filter(|name| flag(node, name)) {
        errors.push(Error::invalid(
            &path.child(name),
            true,
            format!("must be false if {INT_OR_STRING} is true"),
        ));
    }
}

fn kind_of(node: &Value, level: Level, path: &Path, errors: &mut Vec<Error>) {
    let (kind, at) = (text(node, "type"), path.child("type"));
    if flag(node, EMBEDDED) && kind != "object" {
        let why = format!("must be object if {EMBEDDED} is true");
        errors.push(match kind {
            "" => Error::required(&at, why),
            kind => Error::invalid(&at, kind, why),
        });
    } else if kind.is_empty() && !flag(node, INT_OR_STRING) && !flag(node, PRESERVE) {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(&at, why));
    }
    if flag(node, EMBEDDED) && !node["additionalProperties"].is_null() {
        let why = format!("must not be used if {EMBEDDED} is set");
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    if level == Level::Root && !matches!(kind, "" | "object") {
        errors.push(Error::invalid(&at, kind, "must be object at the root"));
    }
}

/// What all objects have is what it is in all objects.
fn known_fields(node: &Value, level: Level, path: &Path, errors: &mut Vec<Error>) {
    let is_object = level == Level::Root || flag(node, EMBEDDED);
    let fields = &node["properties"];
    for name in ["kind", "apiVersion"] {
        let below = &fields[name];
        if is_object && below.is_object() && text(below, "type") != "string" {
            let at = property_path(path, name).child("type");
            errors.push(Error::invalid(&at, text(below, "type"), "must be string"));
        }
    }
    let meta = &fields["metadata"];
    if !meta.is_object() {
        return;
    }
    let at = property_path(path, "metadata");
    if is_object && text(meta, "type") != "object" {
        errors.push(Error::invalid(&at.child("type"), text(meta, "type"), "must be object"));
    }
    if level == Level::Root && !is_plain_meta(meta) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(&at, why));
    }
}

/// Whether nothing but names is limited.
fn is_plain_meta(meta: &Value) -> bool {
    let none = Map::new();
    let said = meta.as_object().unwrap_or(&none).keys().filter(|name| is_said(meta, name));
    let names = || properties(meta).all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
    said.map(String::as_str).all(|name| match name {
        // What is an example, or stands elsewhere, describes no structure.
        "type" | "default" | "example" | "externalDocs" => true,
        "properties" => names(),
        _ => false,
    })
}

/// Alternatives, and what else limits values.
fn value_limits(node: &Value, skip_any: bool, skip_first: bool, path: &Path, errors: &mut Vec<Error>) {
    for name in ["anyOf", "allOf", "oneOf"] {
        for (at, below) in list(node, name).filter(|_| name != "anyOf" || !skip_any) {
            let skip = name == "allOf" && at == 0 && skip_first;
            alternative(below, skip, &path.child(name).index(at), errors);
        }
    }
    alternative(&node["not"], false, &path.child("not"), errors);
    let pattern = text(node, "pattern");
    if let Some(why) = Pattern::new(pattern).error() {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&path.child("pattern"), pattern, detail));
    }
}

fn alternative(node: &Value, skip_any: bool, path: &Path, errors: &mut Vec<Error>) {
    if !node.is_object() {
        return;
    }
    value_limits(node, skip_any, false, path, errors);
    alternative(&node["items"], false, &path.child("items"), errors);
    for (name, below) in properties(node) {
        alternative(below, false, &property_path(path, name), errors);
    }
    for (name, why) in FORBIDDEN_BELOW {
        // An empty schema of other members says something, too.
        let says = is_said(node, name) || (name == "additionalProperties" && node[name].is_object());
        if says {
            errors.push(Error::forbidden(&path.child(name), why));
        }
    }
    if is_said(node, RULES) {
        errors.push(Error::forbidden(&path.child(RULES), "must be empty to be structural"));
    }
    if !node["properties"]["metadata"].is_null() {
        let at = property_path(path, "metadata");
        errors.push(Error::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Whether all that alternatives limit is described by the structure: `below` is the structure at `path` for the
/// node at `said`.
fn complete(node: &Value, below: Option<&Value>, path: &Path, said: &Path, errors: &mut Vec<Error>) {
    for name in ["allOf", "anyOf", "oneOf"] {
        for (at, alternative) in list(node, name) {
            complete_below(alternative, below, path, &said.child(name).index(at), errors);
        }
    }
    complete_below(&node["not"], below, path, &said.child("not"), errors);
}

fn complete_below(node: &Value, below: Option<&Value>, path: &Path, said: &Path, errors: &mut Vec<Error>) {
    if !node.is_object() {
        return;
    }
    let Some(below) = below else {
        errors.push(Error::required(path, format!("because it is defined in {said}")));
        return;
    };
    complete(node, Some(below), path, said, errors);
    let items = Some(&below["items"]).filter(|items| items.is_object());
    complete_below(&node["items"], items, &path.child("items"), &said.child("items"), errors);
    for (name, limited) in properties(node) {
        let (at, said) = (property_path(path, name), property_path(said, name));
        match below["properties"].get(name).filter(|schema| schema.is_object()) {
            Some(schema) => complete_below(limited, Some(schema), &at, &said, errors),
            None => errors.push(Error::required(&at, format!("because it is defined in {said}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(document: Value) -> Vec<String> {
        validate(&document, "s").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn structures_are_whole_and_typed() {
        let cases = [
            (json!({"type": "object", "properties": {"a": {"type": "string"}}}), vec![]),
            (json!({}), vec!["s.type: Required value: must not be empty at the root"]),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                vec![r#"s.type: Invalid value: "array": must be object at the root"#],
            ),
            (
                json!({"type": "object", "properties": {"a": {}, "b": {"type": "array"}, "c": {"type": "array", "items": {}}}}),
                vec![
                    "s.properties[a].type: Required value: must not be empty for specified object fields",
                    "s.properties[b].items: Required value: must be specified",
                    "s.properties[c].items.type: Required value: must not be empty for specified array items",
                ],
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                vec!["s.additionalProperties: Forbidden: must not be used at the root"],
            ),
            (
                json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]}}}),
                vec![],
            ),
            (
                json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, PRESERVE: true}}}),
                vec![
                    "s.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if \
                    x-kubernetes-int-or-string is true",
                ],
            ),
            (
                json!({"type": "object", "properties": {"a": {EMBEDDED: true}}}),
                vec![
                    "s.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource \
                    is true without x-kubernetes-preserve-unknown-fields",
                    "s.properties[a].type: Required value: must be object if x-kubernetes-embedded-resource is true",
                ],
            ),
        ];
        for (document, want) in cases {
            assert_eq!(told(document.clone()), want, "{document}");
        }
    }

    #[test]
    fn alternatives_only_limit_what_is_described() {
        let below = |alternative: Value| {
            told(json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [alternative]}))
        };
        assert!(below(json!({"properties": {"a": {"minLength": 1}}, "required": ["a"]})).is_empty());
        assert_eq!(
            below(json!({"type": "object"})),
            ["s.anyOf[0].type: Forbidden: must be empty to be structural"]
        );
        assert_eq!(
            below(json!({"properties": {"b": {"minLength": 1}}})),
            ["s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]"]
        );
        assert_eq!(
            below(json!({"items": {"minLength": 1}})),
            ["s.items: Required value: because it is defined in s.anyOf[0].items"]
        );
        assert_eq!(
            told(json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})).len(),
            1
        );
    }

    #[test]
    fn metadata_of_the_root_is_known() {
        let with = |meta: Value| told(json!({"type": "object", "properties": {"metadata": meta}}));
        assert!(with(json!({"type": "object"})).is_empty());
        assert!(
            with(json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}))
                .is_empty()
        );
        let refused = with(json!({"type": "object", "properties": {"labels": {"type": "object"}}}));
        assert!(
            refused[0].starts_with("s.properties[metadata]: Forbidden: must not specify anything"),
            "{refused:?}"
        );
        assert_eq!(with(json!({"type": "string"})).len(), 1);
    }

    #[test]
    fn what_no_structure_can_have_is_named() {
        assert_eq!(unreadable(&json!({"type": "object"})), None);
        let document = json!({"properties": {"a": {"allOf": [{"$ref": "#/x"}]}}});
        assert_eq!(unreadable(&document).unwrap(), "OpenAPIV3Schema '$ref' is not supported");
    }
}
