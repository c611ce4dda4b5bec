//! Rules of schemas in CEL: compiled once with their definition, run over objects that are otherwise good.
//!
//! ```text
//! schema as it was sent → Rules (a tree of the places that have rules) → errors of an object and what it was
//! ```
//! An error of a value that did not change is not told, unless its rule compares with what was. What all rules of one
//! object may cost is bounded; when the budget is spent, no further rule is run.
//!
//! Contract: KEP-2876, KEP-4008; upstream's `apiserver/schema/cel`, whose words the errors have.

use std::{collections::BTreeMap, sync::Arc};

use cel_engine::{DeclType, Env, EvalError, Program, RUNTIME_COST_BUDGET, Type, Value as Cel};
use serde_json::{Map, Value};

use super::{fieldpath, schema::Schema};
use crate::{
    field::{Error, ErrorKind, ErrorList, Path},
    metrics,
};

/// Longest text of a message expression, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;
const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";
/// Name of the type of `self`; expressions cannot use it.
const TYPE: &str = "selfType";
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a place and of those below it.
#[derive(Debug)]
pub struct Rules {
    own: Vec<Rule>,
    decl: Option<Arc<DeclType>>,
    /// Type of the schema.
    kind: String,
    /// Whether fields of the value have no past of their own.
    atomic_map: bool,
    /// Keys that tell members of a list apart, with what they are when they are not said.
    keys: Option<Vec<(String, Option<Value>)>>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What must hold; `None` when the rule is empty.
    pub program: Option<Result<Program, String>>,
    /// What to say when it does not.
    pub message_program: Option<Result<Program, String>>,
    /// Whether it compares with what was.
    pub uses_old: bool,
    /// `optionalOldSelf`.
    pub optional_old: Option<bool>,
    text: String,
    message: String,
    reason: String,
    /// The field that is told, below the place of the rule.
    field: String,
}

// === impl Rule ===

impl Rule {
    /// The rules of one place, in their order.
    pub fn compile_all(node: &Value, decl: &Arc<DeclType>) -> Vec<Self> {
        let strict = Env::new().declared(SELF, decl).declared(OLD_SELF, decl);
        let optional = Env::new().declared(SELF, decl).optional(OLD_SELF, decl);
        let schema = Schema::read(node);
        let rules = node["x-kubernetes-validations"].as_array().into_iter().flatten();
        let env = |rule: &Value| if rule["optionalOldSelf"] == true { &optional } else { &strict };
        rules.map(|rule| Self::compile(rule, env(rule), &schema)).collect()
    }

    fn compile(rule: &Value, env: &Env, schema: &Schema) -> Self {
        let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        let (source, message_source) = (text("rule"), text("messageExpression"));
        let program = (!source.trim().is_empty()).then(|| program(env, &source, &Type::Bool));
        let message_program = match &program {
            Some(Ok(_)) if !message_source.is_empty() => Some(program_of_message(env, &message_source)),
            _ => None,
        };
        // One that names no field of the schema was refused with the definition.
        let target = fieldpath::resolve(&text("fieldPath"), schema, true).ok();
        Self {
            uses_old: matches!(&program, Some(Ok(program)) if program.uses(OLD_SELF)),
            optional_old: rule["optionalOldSelf"].as_bool(),
            field: target.filter(|t| !t.root.is_empty()).map(|t| t.path.to_string()).unwrap_or_default(),
            text: source.trim().to_owned(),
            message: text("message").trim().to_owned(),
            reason: text("reason"),
            program,
            message_program,
        }
    }

    /// How the rule is called in messages.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }

    fn default_message(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.text) } else { self.message.clone() }
    }
}

fn compiled(node: &Value, decl: &Arc<DeclType>) -> Vec<Rule> {
    metrics::measured(&metrics::CEL_COMPILATION, || Rule::compile_all(node, decl))
}

fn program(env: &Env, source: &str, wanted: &Type) -> Result<Program, String> {
    let program = env.compile(source).map_err(|error| format!("compilation failed: {error}"))?;
    if program.result_type() != wanted {
        return Err("cel expression must evaluate to a bool".to_owned());
    }
    Ok(program)
}

fn program_of_message(env: &Env, source: &str) -> Result<Program, String> {
    let program =
        env.compile(source).map_err(|error| format!("messageExpression compilation failed: {error}"))?;
    if program.result_type() != &Type::String {
        return Err("messageExpression must evaluate to a string".to_owned());
    }
    Ok(program)
}

/// The type of values of a schema node; `None` where CEL cannot see them.
pub fn declared(node: &Value, root: bool) -> Option<Arc<DeclType>> {
    DeclType::from_schema(node, root, TYPE).map(Arc::new)
}

// === impl Rules ===

impl Rules {
    /// The rules of a whole schema as it was sent; `None` when it has none.
    pub fn compile(document: &Value) -> Option<Self> {
        Self::node(document, true)
    }

    /// The rules of a value of a schema.
    pub fn of_value(node: &Value) -> Option<Self> {
        Self::node(node, false)
    }

    fn node(node: &Value, root: bool) -> Option<Self> {
        if !node.is_object() {
            return None;
        }
        let said = node["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty());
        let decl = if said { declared(node, root) } else { None };
        let below = |node: &Value| Self::node(node, false);
        let properties = node["properties"].as_object().into_iter().flatten();
        let rules = Self {
            own: decl.as_ref().map(|decl| compiled(node, decl)).unwrap_or_default(),
            decl,
            properties: properties.filter_map(|(name, node)| Some((name.clone(), below(node)?))).collect(),
            additional: below(&node["additionalProperties"]).map(Box::new),
            items: below(&node["items"]).map(Box::new),
            kind: node["type"].as_str().unwrap_or_default().to_owned(),
            atomic_map: node["x-kubernetes-map-type"] == "atomic",
            keys: (node["x-kubernetes-list-type"] == "map").then(|| keys(node)),
        };
        let any = !rules.own.is_empty()
            || !rules.properties.is_empty()
            || rules.additional.is_some()
            || rules.items.is_some();
        any.then_some(rules)
    }

    /// Errors of an object or value at `path`, given what it was before the write. `correlated` tells whether an
    /// unchanged value's errors are left untold.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &Path, correlated: bool) -> ErrorList {
        let budget = i64::try_from(RUNTIME_COST_BUDGET).unwrap_or(i64::MAX);
        let mut run = Run { errors: ErrorList::new(), budget };
        let known = Known { current: old.filter(|_| correlated), nearest: None };
        run.place(self, value, old.filter(|old| !old.is_null()), path, known);
        run.errors
    }

    /// What a member of a list was: only members told apart by keys can be found again.
    fn old_member<'v>(&self, old: Option<&'v Value>, member: &Value) -> Option<&'v Value> {
        let (old, keys) = (old?.as_array()?, self.keys.as_deref()?);
        let is_same = |other: &Value| {
            keys.iter().all(|(name, default)| {
                let (had, has) =
                    (other.get(name).or(default.as_ref()), member.get(name).or(default.as_ref()));
                had == has
            })
        };
        old.iter().find(|other| is_same(other))
    }
}

/// The keys of a list's members, with their defaults.
fn keys(node: &Value) -> Vec<(String, Option<Value>)> {
    let names = node["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let default = |name: &str| node["items"]["properties"][name].get("default").cloned();
    names.map(|name| (name.to_owned(), default(name))).collect()
}

/// What is known of a value's past.
#[derive(Clone, Copy)]
struct Known<'v> {
    /// What the value was, where that can be told.
    current: Option<&'v Value>,
    /// The innermost value around it whose past can be told: as it is and as it was.
    nearest: Option<(&'v Value, &'v Value)>,
}

impl<'v> Known<'v> {
    /// Whether nothing changed here.
    fn is_unchanged(&self, value: &Value) -> bool {
        match (self.current, self.nearest) {
            (Some(old), _) => old == value,
            (None, Some((new, old))) => new == old,
            (None, None) => false,
        }
    }

    fn below(self, value: &'v Value, old: impl FnOnce(&'v Value) -> Option<&'v Value>) -> Self {
        match self.current {
            None => self,
            Some(current) => Self { current: old(current), nearest: Some((value, current)) },
        }
    }

    fn key(self, value: &'v Value, name: &str, atomic: bool) -> Self {
        // Both are what the request says, before and after.
        if self.current.is_some() && self.nearest.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self { current: None, nearest: None };
        }
        self.below(value, |old| if atomic { None } else { old.get(name) })
    }
}

/// A run over one object.
struct Run {
    errors: ErrorList,
    /// What is left to spend; negative when nothing more is run.
    budget: i64,
}

impl Run {
    fn place<'v>(
        &mut self,
        rules: &Rules,
        value: &'v Value,
        old: Option<&'v Value>,
        path: &Path,
        known: Known<'v>,
    ) {
        if value.is_null() || self.budget < 0 {
            return;
        }
        if !rules.own.is_empty() {
            metrics::measured(&metrics::CEL_EVALUATION, || self.own(rules, value, old, path, known));
        }
        match value {
            Value::Object(members) => self.members(rules, value, members, old, path, known),
            Value::Array(members) => {
                let Some(items) = &rules.items else { return };
                for (at, member) in members.iter().enumerate() {
                    let before = rules.old_member(old, member);
                    let known = known.below(value, |old| rules.old_member(Some(old), member));
                    self.place(items, member, before, &path.index(at), known);
                }
            }
            _ => {}
        }
    }

    fn members<'v>(
        &mut self,
        rules: &Rules,
        value: &'v Value,
        members: &'v Map<String, Value>,
        old: Option<&'v Value>,
        path: &Path,
        known: Known<'v>,
    ) {
        for (name, member) in members {
            let (below, at) = match (rules.properties.get(name), rules.additional.as_deref()) {
                (Some(below), _) => (below, path.child(name)),
                (None, Some(below)) => (below, path.key(name)),
                (None, None) => continue,
            };
            let before = old.and_then(|old| old.get(name)).filter(|old| !old.is_null());
            self.place(below, member, before, &at, known.key(value, name, rules.atomic_map));
        }
    }

    fn own(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, path: &Path, known: Known<'_>) {
        let Some(decl) = rules.decl.as_ref() else { return };
        if self.budget == 0 {
            return self.stop(Error::invalid(path, rules.kind.as_str(), SPENT));
        }
        let as_cel = |value| Cel::json_as(value, decl).unwrap_or(Cel::Null);
        let (new, old) = (as_cel(value), old.map(as_cel));
        let optional = old.clone().map_or(Cel::Optional(None), Cel::some);
        for rule in &rules.own {
            if self.budget < 0 {
                return;
            }
            let program = match &rule.program {
                None => continue,
                Some(Err(why)) => {
                    self.errors.push(Error::invalid(
                        path,
                        rules.kind.as_str(),
                        format!("rule compile error: {why}"),
                    ));
                    continue;
                }
                Some(Ok(program)) => program,
            };
            let is_optional = rule.optional_old == Some(true);
            if rule.uses_old && old.is_none() && !is_optional {
                continue;
            }
            let before = if is_optional { Some(optional.clone()) } else { old.clone() };
            let mut given = vec![(SELF, new.clone())];
            given.extend(before.map(|before| (OLD_SELF, before)));
            self.rule(&rules.kind, rule, program, &given, value, path, known);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one rule, what it is run over, and where")]
    fn rule<'v>(
        &mut self,
        kind: &str,
        rule: &Rule,
        program: &Program,
        given: &[(&str, Cel<'v>)],
        value: &Value,
        path: &Path,
        known: Known<'_>,
    ) {
        let done = program.eval(given);
        if !self.pay(done.cost) {
            return self.stop(Error::invalid(path, kind, SPENT));
        }
        let failed = match done.result {
            Ok(Cel::Bool(true)) => return,
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            let name = rule.name();
            let (detail, is_last) = match &error {
                EvalError::NoSuchOverload => (
                    format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature \
                         for rule: {name}"
                    ),
                    false,
                ),
                EvalError::CostLimit => (
                    format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: \
                         {name}"
                    ),
                    true,
                ),
                _ => (format!("{error} evaluating rule: {name}"), false),
            };
            let error = Error::invalid(path, kind, detail);
            return if is_last { self.stop(error) } else { self.errors.push(error) };
        }
        let at = if rule.field.is_empty() { path.clone() } else { path.child(&rule.field) };
        let told = !rule.uses_old && known.is_unchanged(value);
        match self.message(rule, given) {
            Ok(detail) if !told => self.errors.push(error_of(rule, &at, kind, value, detail)),
            Ok(_) => {}
            Err(why) => self.stop(Error::invalid(&at, kind, why)),
        }
    }

    /// What to say of a rule that does not hold.
    ///
    /// # Errors
    /// In words, when saying it costs too much.
    fn message(&mut self, rule: &Rule, given: &[(&str, Cel<'_>)]) -> Result<String, String> {
        let Some(Ok(program)) = &rule.message_program else { return Ok(rule.default_message()) };
        let done = program.eval(given);
        if !self.pay(done.cost) {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                       rules will be run";
            return Err(why.to_owned());
        }
        match done.result {
            Err(EvalError::CostLimit) => {
                let name = rule.name();
                let why = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                Err(format!("{why}: {name:?}"))
            }
            Ok(said) => {
                let text = said.as_str().unwrap_or_default().trim();
                let good = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                Ok(if good { text.to_owned() } else { rule.default_message() })
            }
            Err(_) => Ok(rule.default_message()),
        }
    }

    /// Takes a cost from the budget; whether there was enough.
    fn pay(&mut self, cost: u64) -> bool {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        let enough = cost <= self.budget;
        if enough {
            self.budget -= cost;
        }
        enough
    }

    fn stop(&mut self, error: Error) {
        self.errors.push(error);
        self.budget = -1;
    }
}

fn error_of(rule: &Rule, at: &Path, kind: &str, value: &Value, detail: String) -> Error {
    // Whole objects and lists are not repeated.
    let bad = if matches!(kind, "object" | "array") { None } else { Some(value.clone()) };
    let (kind, bad) = match rule.reason.as_str() {
        "FieldValueForbidden" => (ErrorKind::Forbidden, None),
        "FieldValueRequired" => (ErrorKind::Required, None),
        "FieldValueDuplicate" => {
            return Error {
                kind: ErrorKind::Duplicate,
                field: at.to_string(),
                bad,
                shape: None,
                detail: String::new(),
            };
        }
        _ => (ErrorKind::Invalid, bad),
    };
    Error { kind, field: at.to_string(), bad, shape: None, detail }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let rules = Rules::compile(&schema).expect("the schema has rules");
        rules.validate(&value, old.as_ref(), &Path::root(), true).iter().map(ToString::to_string).collect()
    }

    fn spec(rule: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"}}}}})
    }

    #[test]
    fn rules_tell_what_does_not_hold() {
        let object = || json!({"spec": {"min": 3, "max": 2, "name": "a"}});
        let cases = [
            (
                json!({"rule": "self.min <= self.max"}),
                "spec: Invalid value: failed rule: self.min <= self.max",
            ),
            (
                json!({"rule": "self.min <= self.max", "message": "min above max"}),
                "spec: Invalid value: min above max",
            ),
            (
                json!({"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min)"}),
                "spec: Invalid value: min 3",
            ),
            (
                json!({"rule": "self.min <= self.max", "reason": "FieldValueForbidden", "fieldPath": ".max"}),
                "spec.max: Forbidden: failed rule: self.min <= self.max",
            ),
            (
                json!({"rule": "self.min / 0 > 1"}),
                r#"spec: Invalid value: "object": division by zero evaluating rule: self.min / 0 > 1"#,
            ),
        ];
        for (rule, want) in cases {
            assert_eq!(told(spec(rule), object(), None), [want]);
        }
        assert!(told(spec(json!({"rule": "has(self.name)"})), object(), None).is_empty());
        assert!(told(spec(json!({"rule": "has(self.name)"})), json!({}), None).is_empty());
    }

    #[test]
    fn transition_rules_compare_with_what_was() {
        let rule = spec(json!({"rule": "self.min >= oldSelf.min"}));
        let at = |min: i64| json!({"spec": {"min": min}});
        assert!(told(rule.clone(), at(1), None).is_empty());
        assert!(told(rule.clone(), at(2), Some(at(1))).is_empty());
        assert_eq!(told(rule, at(1), Some(at(2))).len(), 1);
        let optional = spec(json!({"rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true}));
        assert_eq!(told(optional.clone(), at(1), None).len(), 1);
        assert!(told(optional, at(1), Some(at(5))).is_empty());
    }

    #[test]
    fn errors_of_what_did_not_change_are_not_told() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "x-kubernetes-validations": [{"rule": "self == 'x'"}]},
            "l": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 3"}]}}}});
        let old = json!({"a": "y", "l": [5]});
        assert_eq!(told(schema.clone(), old.clone(), None).len(), 2);
        assert!(told(schema.clone(), old.clone(), Some(old.clone())).is_empty());
        assert_eq!(
            told(schema, json!({"a": "y", "l": [5, 6]}), Some(old)),
            [
                "l[0]: Invalid value: 5: failed rule: self < 3",
                "l[1]: Invalid value: 6: failed rule: self < 3"
            ]
        );
    }

    #[test]
    fn the_root_knows_its_metadata() {
        let schema = json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.metadata.name.startsWith('a') && self.kind == 'K'"}]});
        let named = |name: &str| json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": name}});
        assert!(told(schema.clone(), named("ab"), None).is_empty());
        assert_eq!(told(schema, named("b"), None).len(), 1);
    }
}
