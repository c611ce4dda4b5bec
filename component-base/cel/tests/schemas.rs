//! Rules against schemas: escaped names, nullable and formatted values, semantics of lists, estimates.

use std::sync::Arc;

use cel_engine::{DeclType, Env, Value, escape};
use serde_json::{Value as Json, json};

fn declared(schema: &Json) -> Arc<DeclType> {
    Arc::new(DeclType::from_schema(schema, false, "selfType").expect("the schema has a type"))
}

fn environment(schema: &Json) -> Env {
    let decl = declared(schema);
    Env::new().declared("self", &decl).declared("oldSelf", &decl)
}

/// The outcome of a rule for an object and the object before.
fn rule(schema: &Json, source: &str, new: &Json, old: &Json) -> Result<bool, String> {
    let decl = declared(schema);
    let program = environment(schema).compile(source).map_err(|e| e.to_string())?;
    let value = |json| Value::json_as(json, &decl).map_err(|e| e.to_string());
    match program.eval(&[("self", value(new)?), ("oldSelf", value(old)?)]).result {
        Ok(Value::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn property(name: &str, schema: Json) -> Json {
    json!({"type": "object", "properties": {name: schema}})
}

#[test]
fn names_are_escaped() {
    for (name, escaped) in [
        ("plain", Some("plain")),
        ("a.b", Some("a__dot__b")),
        ("a-b", Some("a__dash__b")),
        ("a/b", Some("a__slash__b")),
        ("a__b", Some("a__underscores__b")),
        ("if", Some("__if__")),
        ("namespace", Some("__namespace__")),
        ("int", Some("int")),
        ("$ref", None),
        ("1st", None),
        ("", None),
        ("é", None),
    ] {
        assert_eq!(escape(name).as_deref(), escaped, "{name}");
    }
    let schema = property("my-prop", json!({"type": "string"}));
    let object = json!({"my-prop": "v"});
    assert_eq!(rule(&schema, "self.my__dash__prop == 'v'", &object, &object), Ok(true));
}

#[test]
fn values_are_read_by_their_schema() {
    let cases = [
        (
            json!({"type": "string", "format": "date-time"}),
            "self.f > timestamp('2020-01-01T00:00:00Z')",
            json!("2021-05-05T00:00:00Z"),
        ),
        (json!({"type": "string", "format": "date"}), "self.f.getFullYear() == 2021", json!("2021-05-05")),
        (json!({"type": "string", "format": "duration"}), "self.f == duration('90s')", json!("1m30s")),
        (json!({"type": "string", "format": "byte"}), "self.f == b'hi'", json!("aGk=")),
        (json!({"type": "number"}), "self.f == 3.0 && type(self.f) == double", json!(3)),
        (json!({"type": "integer"}), "self.f == 3 && type(self.f) == int", json!(3)),
        (
            json!({"x-kubernetes-int-or-string": true}),
            "type(self.f) == string ? self.f == '5%' : self.f == 5",
            json!("5%"),
        ),
        (json!({"type": "string", "nullable": true}), "dyn(self.f) == null", Json::Null),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            "self.f.all(k, self.f[k] > 0)",
            json!({"a": 1}),
        ),
        (json!({"type": "array", "items": {"type": "string"}}), "self.f.exists(e, e == 'x')", json!(["x"])),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
            "has(self.f.a) && !has(self.g)",
            json!({"a": 1}),
        ),
        (json!({"type": "boolean"}), "self.f", json!(true)),
    ];
    for (field, source, value) in cases {
        let schema = json!({"type": "object", "properties": {"f": field, "g": {"type": "string"}}});
        let object = json!({"f": value});
        assert_eq!(rule(&schema, source, &object, &object), Ok(true), "{source}");
    }
}

#[test]
fn what_a_schema_hides_does_not_compile() {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "known": {"type": "string"},
        "anything": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let told = |source: &str| environment(&schema).compile(source).map(|_| ()).map_err(|e| e.to_string());
    assert!(told("self.known == 'a'").is_ok());
    assert!(told("self.anything == 'a'").is_err_and(|e| e.contains("undefined field 'anything'")));
    assert!(told("self.other == 'a'").is_err_and(|e| e.contains("undefined field 'other'")));
    assert!(told("self.known == 1").is_err_and(|e| e.contains("no matching overload")));
}

#[test]
fn roots_have_names_whatever_their_schema_says() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {}}}});
    let decl = Arc::new(DeclType::from_schema(&schema, true, "root").expect("an object"));
    let env = Env::new().declared("self", &decl);
    let program =
        env.compile("self.metadata.name == 'a' && self.kind == 'Thing'").expect("names are visible");
    let object = json!({"kind": "Thing", "apiVersion": "v1", "metadata": {"name": "a", "labels": {}}});
    let value = Value::json_as(&object, &decl).expect("fits");
    assert!(matches!(program.eval(&[("self", value)]).result, Ok(Value::Bool(true))));
    assert!(env.compile("self.metadata.labels.size() > 0").is_err());
}

#[test]
fn lists_compare_and_add_as_their_kind_says() {
    let list = |kind: &str| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": kind, "items": {"type": "string"}});
        if kind == "map" {
            list["x-kubernetes-list-map-keys"] = json!(["k"]);
            list["items"] =
                json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}});
        }
        property("l", list)
    };
    let (ab, ba) = (json!({"l": ["a", "b"]}), json!({"l": ["b", "a"]}));
    assert_eq!(rule(&list("set"), "self.l == oldSelf.l", &ab, &ba), Ok(true));
    assert_eq!(rule(&list("atomic"), "self.l == oldSelf.l", &ab, &ba), Ok(false));
    assert_eq!(rule(&list("set"), "(self.l + oldSelf.l).size() == 2", &ab, &ba), Ok(true));
    assert_eq!(rule(&list("atomic"), "(self.l + oldSelf.l).size() == 4", &ab, &ba), Ok(true));
    let one = json!({"l": [{"k": "x", "v": 1}, {"k": "y", "v": 2}]});
    let two = json!({"l": [{"k": "y", "v": 3}]});
    assert_eq!(rule(&list("map"), "(self.l + oldSelf.l).size() == 2", &one, &two), Ok(true));
    assert_eq!(
        rule(&list("map"), "(self.l + oldSelf.l).exists(e, e.k == 'y' && e.v == 3)", &one, &two),
        Ok(true)
    );
}

#[test]
fn transition_rules_are_known() {
    let env = environment(&property("f", json!({"type": "integer"})));
    assert!(env.compile("self.f >= oldSelf.f").expect("good").uses("oldSelf"));
    assert!(!env.compile("self.f >= 1").expect("good").uses("oldSelf"));
    let decl = declared(&property("f", json!({"type": "integer"})));
    let env = Env::new().declared("self", &decl).optional("oldSelf", &decl);
    let program = env.compile("!oldSelf.hasValue() || oldSelf.value().f == self.f").expect("good");
    let object = json!({"f": 1});
    let new = || Value::json_as(&object, &decl).expect("fits");
    let done = program.eval(&[("self", new()), ("oldSelf", Value::Optional(None))]);
    assert!(matches!(done.result, Ok(Value::Bool(true))));
    let done = program.eval(&[("self", new()), ("oldSelf", Value::some(new()))]);
    assert!(matches!(done.result, Ok(Value::Bool(true))));
}

#[test]
fn estimates_follow_the_bounds_of_the_schema() {
    let max = |field: Json, source: &str| {
        environment(&property("f", field)).compile(source).expect("good").estimated_cost().max
    };
    let list = |bound: Option<u64>, items: Json| match bound {
        Some(bound) => json!({"type": "array", "maxItems": bound, "items": items}),
        None => json!({"type": "array", "items": items}),
    };
    let integer = || json!({"type": "integer"});
    // A name and a field are one each, a literal nothing, a comparison one.
    assert_eq!(max(integer(), "self.f > 1"), 3);
    assert_eq!(max(json!({"type": "string", "maxLength": 10}), "self.f == 'abc'"), 3);
    assert_eq!(max(json!({"type": "string", "maxLength": 10}), "self.f.startsWith('abc')"), 3);
    // (40 + 1) characters at a tenth, times a pattern of four characters at a quarter.
    assert_eq!(max(json!({"type": "string", "maxLength": 10}), "self.f.matches('abcd')"), 2 + 5);
    // Two for the range; each turn looks at the accumulator twice and tests, and compares.
    let turn = |items: u64| max(list(Some(items), integer()), "self.f.all(e, e > 0)");
    assert_eq!((turn(20) - turn(10)) / 10, (turn(30) - turn(20)) / 10);
    assert!(turn(10) > 40 && turn(10) < 80, "{}", turn(10));
    // Without a bound the request's size is one, nested it is squared and too much.
    let unbounded = max(list(None, integer()), "self.f.all(e, e > 0)");
    assert!((1_000_000..20_000_000).contains(&unbounded), "{unbounded}");
    let nested = max(list(None, integer()), "self.f.all(e, self.f.all(g, g == e))");
    assert!(nested > 1_000_000_000_000, "{nested}");
}

#[test]
fn costs_at_run_time_are_counted() {
    let schema = property("f", json!({"type": "array", "items": {"type": "integer"}}));
    let decl = declared(&schema);
    let program = Env::new().declared("self", &decl).compile("self.f.all(e, e > 0)").expect("good");
    let cost = |count: i64| {
        let object = json!({"f": (1..=count).collect::<Vec<_>>()});
        let value = Value::json_as(&object, &decl).expect("fits");
        program.eval(&[("self", value)]).cost
    };
    let per_turn = cost(11) - cost(10);
    assert_eq!(cost(110) - cost(10), 100 * per_turn);
    assert!((3..=6).contains(&per_turn), "{per_turn}");
    let estimate = program.estimated_cost();
    assert!(cost(10) >= estimate.min && cost(10) <= estimate.max);
}
