//! Values against their schema.
//!
//! On an update, what a write did not change is not held against it (KEP-4008): errors of a value that is what it was,
//! as far as the old one can be found, are dropped.
//!
//! Contract: OpenAPI v3 as upstream validates it (kube-openapi `validation/validate`), in its words.

use serde_json::{Map, Value};

use super::{
    formats,
    schema::{Additional, ListType, Schema},
};
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// Errors of an object, or of one field of it: then `base` is the field, and texts name what is below it.
pub fn validate(value: &Value, old: Option<&Value>, schema: &Schema, base: &str) -> ErrorList {
    let walk = Walk { base };
    let outcome = walk.value(value, old.map(Old), schema, "");
    let mut errors = ErrorList::new();
    outcome.errors.into_iter().for_each(|error| errors.push(error));
    errors
}

/// What a value was before the write.
#[derive(Clone, Copy)]
struct Old<'v>(&'v Value);

/// Errors, and how far a value came: of alternatives the best one is told.
#[derive(Default)]
struct Outcome {
    errors: Vec<Error>,
    matched: usize,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matched += other.matched;
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

struct Walk<'b> {
    base: &'b str,
}

impl Walk<'_> {
    fn field(&self, path: &str) -> String {
        let below = path.strip_prefix('.').unwrap_or(path);
        let joined = match (self.base, below) {
            ("", below) => below.to_owned(),
            (base, "") => base.to_owned(),
            (base, below) => format!("{base}.{below}"),
        };
        if joined.is_empty() { Path::root().to_string() } else { joined }
    }

    fn error(&self, kind: ErrorKind, path: &str, bad: Value, detail: String) -> Error {
        Error { kind, field: self.field(path), bad: Some(bad), shape: None, detail }
    }

    fn invalid(&self, path: &str, bad: impl Into<Value>, detail: String) -> Error {
        self.error(ErrorKind::Invalid, path, bad.into(), detail)
    }

    /// A value of the wrong type or format: the message shows what it is instead.
    fn wrong_type(&self, path: &str, wanted: &str, found: &str) -> Error {
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        self.error(ErrorKind::TypeInvalid, path, found.into(), detail)
    }

    /// A value and, where it can be told, what it was.
    fn value(&self, value: &Value, old: Option<Old<'_>>, schema: &Schema, path: &str) -> Outcome {
        let mut outcome = self.check(value, old, schema, path);
        if !outcome.is_valid() && old.is_some_and(|old| old.0 == value) {
            outcome.errors.clear();
        }
        outcome
    }

    fn check(&self, value: &Value, old: Option<Old<'_>>, schema: &Schema, path: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let kinds = schema.kinds();
        if value.is_null() {
            if !kinds.is_empty() && !schema.nullable {
                outcome.errors.push(self.wrong_type(path, &kinds.join(","), "null"));
            }
            self.allowed(value, schema, path, &mut outcome);
            return outcome;
        }
        self.type_of(value, schema, &kinds, path, &mut outcome);
        self.alternatives(value, old, schema, path, &mut outcome);
        match value {
            Value::String(text) => self.text(text, schema, path, &mut outcome),
            Value::Number(_) => self.number(value, schema, &kinds, path, &mut outcome),
            Value::Array(members) => self.list(members, old, schema, path, &mut outcome),
            _ => {}
        }
        self.allowed(value, schema, path, &mut outcome);
        if let Value::Object(members) = value {
            self.object(members, old, schema, path, &mut outcome);
        }
        outcome.matched += 1;
        outcome
    }

    fn type_of(&self, value: &Value, schema: &Schema, kinds: &[&str], path: &str, outcome: &mut Outcome) {
        let format = if formats::is_known(&schema.format, if kinds.len() == 1 { kinds[0] } else { "" }) {
            schema.format.as_str()
        } else {
            ""
        };
        if kinds.is_empty() && format.is_empty() {
            return;
        }
        let kind = kind_of(value);
        let whole = kind == "number"
            && value.as_f64().is_some_and(|f| f.fract() == 0.0)
            && kinds.contains(&"integer");
        let fits = kinds.contains(&kind) || whole || (kind == "integer" && kinds.contains(&"number"));
        let numeric = kinds.contains(&"number") || kinds.contains(&"integer");
        let textual = matches!(value, Value::String(_) | Value::Array(_));
        if !textual && !format.is_empty() && !fits {
            let found = match kind {
                "integer" => "int64",
                "number" => "float64",
                _ => "",
            };
            outcome.errors.push(self.wrong_type(path, format, found));
        } else if !numeric && !format.is_empty() && textual {
            outcome.matched += 1;
        } else if fits {
            outcome.matched += 2;
        } else {
            outcome.errors.push(self.wrong_type(path, &kinds.join(","), kind));
        }
    }

    fn alternatives(
        &self,
        value: &Value,
        old: Option<Old<'_>>,
        schema: &Schema,
        path: &str,
        outcome: &mut Outcome,
    ) {
        let limits = &schema.limits;
        let each = |schemas: &[Schema]| -> Vec<Outcome> {
            schemas.iter().map(|schema| self.check(value, old, schema, path)).collect()
        };
        if !limits.any_of.is_empty() {
            let all = each(&limits.any_of);
            if !all.iter().any(Outcome::is_valid) {
                let detail = format!("{path:?} must validate at least one schema (anyOf)");
                outcome.errors.push(self.invalid_root(detail));
                best(all).into_iter().for_each(|o| outcome.merge(o));
            } else if let Some(valid) = all.into_iter().find(Outcome::is_valid) {
                outcome.merge(valid);
            }
        }
        if !limits.one_of.is_empty() {
            let all = each(&limits.one_of);
            let valid = all.iter().filter(|o| o.is_valid()).count();
            if valid == 1 {
                all.into_iter().filter(Outcome::is_valid).for_each(|o| outcome.merge(o));
            } else {
                let found = if valid == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {valid} valid alternatives")
                };
                let detail = format!("{path:?} must validate one and only one schema (oneOf). {found}");
                outcome.errors.push(self.invalid_root(detail));
                if valid == 0 {
                    best(all).into_iter().for_each(|o| outcome.merge(o));
                }
            }
        }
        if !limits.all_of.is_empty() {
            let all = each(&limits.all_of);
            let valid = all.iter().filter(|o| o.is_valid()).count();
            let total = all.len();
            all.into_iter().for_each(|o| outcome.merge(o));
            if valid != total {
                let none = if valid == 0 { ". None validated" } else { "" };
                let detail = format!("{path:?} must validate all the schemas (allOf){none}");
                outcome.errors.push(self.invalid_root(detail));
            }
        }
        if let Some(not) = &limits.not
            && self.check(value, old, not, path).is_valid()
        {
            let detail = format!("{path:?} must not validate the schema (not)");
            outcome.errors.push(self.invalid_root(detail));
        }
        outcome.matched += 2;
    }

    /// Errors of alternatives are told at the object they were asked of.
    fn invalid_root(&self, detail: String) -> Error {
        self.invalid("", "", detail)
    }

    fn text(&self, text: &str, schema: &Schema, path: &str, outcome: &mut Outcome) {
        let limits = &schema.limits;
        let size = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(most) = limits.max_length.filter(|most| size > *most) {
            let bytes = if most == 1 { "byte" } else { "bytes" };
            outcome.errors.push(Error {
                shape: None,
                kind: ErrorKind::TooLong,
                field: self.field(path),
                bad: None,
                detail: format!("may not be more than {most} {bytes}"),
            });
        } else if let Some(least) = limits.min_length.filter(|least| size < *least) {
            let detail = format!("{path} in body should be at least {least} chars long");
            outcome.errors.push(self.invalid(path, text, detail));
        } else {
            match limits.pattern.is_match(text) {
                None | Some(Ok(true)) => {}
                Some(Ok(false)) => {
                    let detail = format!("{path} in body should match '{}'", limits.pattern.text());
                    outcome.errors.push(self.invalid(path, text, detail));
                }
                Some(Err(why)) => {
                    let pattern = limits.pattern.text();
                    let detail =
                        format!("{path} in body should match '{pattern}, but pattern is invalid: {why}'");
                    outcome.errors.push(self.invalid(path, text, detail));
                }
            }
        }
        outcome.matched += 1;
        if formats::is_known(&schema.format, "string") {
            if !formats::has_format(text, &schema.format) {
                outcome.errors.push(self.wrong_type(path, &schema.format, text));
            }
            outcome.matched += 1;
        }
    }

    fn number(&self, value: &Value, schema: &Schema, kinds: &[&str], path: &str, outcome: &mut Outcome) {
        let limits = &schema.limits;
        let Some(number) = value.as_f64() else { return };
        let whole = value.as_i64();
        if kinds == ["integer"] {
            let small = |least: f64, most: f64| (least..=most).contains(&number);
            let (fits, format) = match schema.format.as_str() {
                "int32" => (small(f64::from(i32::MIN), f64::from(i32::MAX)), "with format int32"),
                "int64" => (whole.is_some() || number.abs() < 9.3e18, "with format int64"),
                _ => (whole.is_some() || number.abs() < 9.3e18, "(default format)"),
            };
            if !fits {
                let detail = format!("Checked value must be of type integer {format} in {path}");
                outcome.errors.push(self.invalid_root(detail));
            }
        }
        if let Some(factor) = limits.multiple_of {
            let detail = if factor <= 0.0 {
                Some(format!("factor MultipleOf declared for {path} must be positive: {}", go_float(factor)))
            } else {
                let quotient = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
                let near = (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0);
                (!near).then(|| format!("{path} in body should be a multiple of {}", shown(factor, whole)))
            };
            outcome.errors.extend(detail.map(|detail| self.invalid(path, value.clone(), detail)));
        }
        if let Some(most) = limits.maximum
            && (number > most || (limits.exclusive_maximum && number >= most))
        {
            let word = if limits.exclusive_maximum { "less than" } else { "less than or equal to" };
            let detail = format!("{path} in body should be {word} {}", shown(most, whole));
            outcome.errors.push(self.invalid(path, value.clone(), detail));
        }
        if let Some(least) = limits.minimum
            && (number < least || (limits.exclusive_minimum && number <= least))
        {
            let word = if limits.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            let detail = format!("{path} in body should be {word} {}", shown(least, whole));
            outcome.errors.push(self.invalid(path, value.clone(), detail));
        }
        outcome.matched += 2;
    }

    fn list(
        &self,
        members: &[Value],
        old: Option<Old<'_>>,
        schema: &Schema,
        path: &str,
        outcome: &mut Outcome,
    ) {
        let limits = &schema.limits;
        if let Some(below) = schema.items.as_deref() {
            for (at, member) in members.iter().enumerate() {
                let before = old.and_then(|old| correlated(old.0, member, schema));
                outcome.merge(self.value(member, before, below, &format!("{path}[{at}]")));
            }
        }
        let size = i64::try_from(members.len()).unwrap_or(i64::MAX);
        if let Some(least) = limits.min_items.filter(|least| size < *least) {
            let detail = format!("{path} in body should have at least {least} items");
            outcome.errors.push(self.invalid(path, size, detail));
        }
        if let Some(most) = limits.max_items.filter(|most| size > *most) {
            outcome.errors.push(self.too_many(path, size, most));
        }
        if limits.unique_items && (1..members.len()).any(|at| members[..at].contains(&members[at])) {
            let detail = format!("{path} in body shouldn't contain duplicates");
            outcome.errors.push(self.invalid(path, "", detail));
        }
        outcome.matched += 2;
    }

    fn too_many(&self, path: &str, size: i64, most: i64) -> Error {
        let items = if most == 1 { "item" } else { "items" };
        self.error(ErrorKind::TooMany, path, size.into(), format!("must have at most {most} {items}"))
    }

    fn allowed(&self, value: &Value, schema: &Schema, path: &str, outcome: &mut Outcome) {
        let allowed = &schema.limits.allowed;
        let same = |other: &Value| match (value, other) {
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (a, b) => a == b,
        };
        if !allowed.is_empty() && !allowed.iter().any(same) {
            let shown: Vec<String> = allowed
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .map(|text| format!("{text:?}"))
                .collect();
            let detail = format!("supported values: {}", shown.join(", "));
            outcome.errors.push(self.error(ErrorKind::NotSupported, path, value.clone(), detail));
        }
        outcome.matched += 1;
    }

    fn object(
        &self,
        members: &Map<String, Value>,
        old: Option<Old<'_>>,
        schema: &Schema,
        path: &str,
        outcome: &mut Outcome,
    ) {
        let limits = &schema.limits;
        let size = i64::try_from(members.len()).unwrap_or(i64::MAX);
        if let Some(least) = limits.min_properties.filter(|least| size < *least) {
            let detail = format!("{path} in body should have at least {least} properties");
            outcome.errors.push(self.invalid(path, size, detail));
        }
        if let Some(most) = limits.max_properties.filter(|most| size > *most) {
            outcome.errors.push(self.too_many(path, size, most));
        }
        let before = |name: &str| {
            let type_meta = path.is_empty() && self.base.is_empty() && matches!(name, "kind" | "apiVersion");
            let old = old.filter(|_| !schema.atomic_map && !type_meta)?;
            old.0.get(name).map(Old)
        };
        for (name, value) in members {
            match (schema.properties.get(name), &schema.additional) {
                (Some(below), _) => {
                    let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    outcome.merge(self.value(value, before(name), below, &at));
                }
                (None, Some(Additional::Schema(below))) => {
                    outcome.merge(self.value(value, before(name), below, &format!("{path}.{name}")));
                }
                (None, Some(Additional::Allowed(false))) => {
                    let detail = format!("{path}.{name} in body is a forbidden property");
                    outcome.errors.push(self.invalid(path, name.as_str(), detail));
                }
                (None, Some(Additional::Allowed(true)) | None) => {}
            }
        }
        for name in limits.required.iter().filter(|name| !members.contains_key(name.as_str())) {
            outcome.errors.push(Error {
                shape: None,
                kind: ErrorKind::Required,
                field: self.field(&format!("{path}.{name}")),
                bad: None,
                detail: String::new(),
            });
        }
        outcome.matched += 1;
    }
}

/// Of several failures the one that came furthest.
fn best(all: Vec<Outcome>) -> Option<Outcome> {
    all.into_iter().reduce(|best, next| if next.matched > best.matched { next } else { best })
}

/// What a member of a list was before: only members told apart by keys can be found again.
fn correlated<'v>(old: &'v Value, member: &Value, schema: &Schema) -> Option<Old<'v>> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let below = schema.items.as_deref()?;
    let key = |of: &Value, name: &str| {
        of.get(name).cloned().or_else(|| below.properties.get(name).and_then(|s| s.default.clone()))
    };
    let same = |other: &&Value| schema.list_map_keys.iter().all(|name| key(other, name) == key(member, name));
    old.as_array()?.iter().find(same).map(Old)
}

/// A value's type in the words of schemas.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A bound as it stands in messages: beside whole numbers it is one.
fn shown(bound: f64, whole: Option<i64>) -> String {
    if whole.is_some() { format!("{:.0}", bound.trunc()) } else { go_float(bound) }
}

/// A number as Go prints it: large and tiny ones with an exponent.
fn go_float(number: f64) -> String {
    let plain = format!("{number}");
    let exponential = format!("{number:e}");
    let Some((mantissa, exponent)) = exponential.split_once('e') else { return plain };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = i32::try_from(mantissa.chars().filter(char::is_ascii_digit).count()).unwrap_or(i32::MAX);
    let limit = if digits > 21 { digits } else { 21 };
    if number == 0.0 || (-4..limit.min(21)).contains(&exponent) {
        return plain;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Errors of lists whose members must differ, wholly or by their keys.
pub fn validate_lists(object: &Map<String, Value>, schema: &Schema) -> ErrorList {
    let mut errors = ErrorList::new();
    lists_of_members(object, schema, &Path::root(), &mut errors);
    errors
}

fn lists_of_members(object: &Map<String, Value>, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    for (name, value) in object {
        match (schema.properties.get(name), schema.member(name)) {
            (Some(below), _) => lists_of(value, below, &path.child(name), errors),
            (None, Some(below)) => lists_of(value, below, &path.key(name), errors),
            (None, None) => {}
        }
    }
}

fn lists_of(value: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(object) => lists_of_members(object, schema, path, errors),
        Value::Array(members) => {
            match schema.list_type {
                ListType::Atomic => {}
                ListType::Set => duplicates(members, path, errors),
                ListType::Map => keyed(members, schema, path, errors),
            }
            if let Some(below) = schema.items.as_deref() {
                for (at, member) in members.iter().enumerate() {
                    lists_of(member, below, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

/// Each member that is there again is told once, at its second place.
fn duplicates(members: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (at, member) in members.iter().enumerate() {
        let times = seen.entry(member.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(Error::duplicate(&path.index(at), member.clone()));
        }
    }
}

fn keyed(members: &[Value], schema: &Schema, path: &Path, errors: &mut ErrorList) {
    if let Some((at, other)) = members.iter().enumerate().find(|(_, m)| !m.is_object() && !m.is_null()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(Error::invalid(&path.index(at), other.clone(), detail));
        return;
    }
    let key = |member: &Value| -> Value {
        let keys = schema.list_map_keys.iter();
        Value::Object(keys.filter_map(|k| Some((k.clone(), member.get(k)?.clone()))).collect())
    };
    let keys: Vec<Value> = members.iter().map(key).collect();
    duplicates(&keys, path, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(schema: &Value, value: &Value) -> Vec<String> {
        validate(value, None, &Schema::read(schema), "").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let cases = [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"x: Invalid value: "string": x in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"x: Invalid value: "null": x in body must be of type string: "null""#,
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"x: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "x: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                r#"x: Invalid value: "a": x in body should be at least 2 chars long"#,
            ),
            (
                json!({"type": "string", "pattern": "^a"}),
                json!("b"),
                r#"x: Invalid value: "b": x in body should match '^a'"#,
            ),
            (
                json!({"type": "integer", "maximum": 10}),
                json!(11),
                "x: Invalid value: 11: x in body should be less than or equal to 10",
            ),
            (
                json!({"type": "number", "minimum": 0.5, "exclusiveMinimum": true}),
                json!(0.5),
                "x: Invalid value: 0.5: x in body should be greater than 0.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "x: Invalid value: 4: x in body should be a multiple of 3",
            ),
            (
                json!({"type": "array", "maxItems": 1}),
                json!([1, 2]),
                "x: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "x: Invalid value: 0: x in body should have at least 1 items",
            ),
            (json!({"type": "object", "required": ["y"]}), json!({}), "x.y: Required value"),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("now"),
                r#"x: Invalid value: "now": x in body must be of type date-time: "now""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"x: Invalid value: "boolean": x in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
                json!([{"a": 1}]),
                r#"x[0].a: Invalid value: "integer": x[0].a in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": 1}),
                r#"x.k: Invalid value: "integer": x.k in body must be of type string: "integer""#,
            ),
        ];
        for (schema, value, want) in cases {
            let root = json!({"type": "object", "properties": {"x": schema}});
            assert_eq!(told(&root, &json!({"x": value})), [want]);
        }
    }

    #[test]
    fn alternatives_must_hold_as_they_say() {
        let any = json!({"properties": {"x": {"anyOf": [{"minimum": 5}, {"maximum": 1}]}}});
        assert!(told(&any, &json!({"x": 0})).is_empty());
        assert_eq!(
            told(&any, &json!({"x": 3}))[0],
            r#"<nil>: Invalid value: "": "x" must validate at least one schema (anyOf)"#
        );
        let one = json!({"properties": {"x": {"oneOf": [{"minimum": 1}, {"minimum": 2}]}}});
        assert!(told(&one, &json!({"x": 1})).is_empty());
        assert!(told(&one, &json!({"x": 3}))[0].ends_with("(oneOf). Found 2 valid alternatives"));
        let all = json!({"properties": {"x": {"allOf": [{"minimum": 5}, {"maximum": 7}]}}});
        assert!(told(&all, &json!({"x": 6})).is_empty());
        assert!(
            told(&all, &json!({"x": 9})).last().unwrap().ends_with("must validate all the schemas (allOf)")
        );
        let not = json!({"properties": {"x": {"not": {"enum": [1]}}}});
        assert!(told(&not, &json!({"x": 2})).is_empty());
        assert!(told(&not, &json!({"x": 1}))[0].ends_with("must not validate the schema (not)"));
    }

    #[test]
    fn what_did_not_change_is_not_told() {
        let schema = Schema::read(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "integer"},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
            "l": {"type": "array", "items": {"type": "integer", "maximum": 1}}}}));
        let fields = |new: Value, old: Value| -> Vec<String> {
            validate(&new, Some(&old), &schema, "").iter().map(|e| e.field.clone()).collect()
        };
        let old = json!({"a": "long", "b": 1, "m": [{"k": "x", "v": 5}, {"k": "y", "v": 6}], "l": [5]});
        let mut new = old.clone();
        new["b"] = json!(2);
        assert!(fields(new.clone(), old.clone()).is_empty());
        new["a"] = json!("other");
        assert_eq!(fields(new.clone(), old.clone()), ["a"]);
        new["m"] = json!([{"k": "y", "v": 6}, {"k": "x", "v": 7}]);
        new["l"] = json!([5, 6]);
        assert_eq!(fields(new, old), ["a", "l[0]", "l[1]", "m[1].v"]);
    }

    #[test]
    fn sets_and_maps_have_each_member_once() {
        let schema = Schema::read(&json!({"properties": {
            "s": {"x-kubernetes-list-type": "set"},
            "m": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"]}}}));
        let object = json!({"s": [1, 2, 1, 1], "m": [{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}]});
        let errors: Vec<String> =
            validate_lists(object.as_object().unwrap(), &schema).iter().map(ToString::to_string).collect();
        assert_eq!(errors, [r#"m[2]: Duplicate value: {"a":1}"#, "s[2]: Duplicate value: 1"]);
    }

    #[test]
    fn numbers_are_printed_as_go_does() {
        for (number, text) in [(10.0, "10"), (0.5, "0.5"), (1e22, "1e+22"), (1e-7, "1e-07")] {
            assert_eq!(go_float(number), text);
        }
    }
}
