//! What the tests of kinds are written with: objects go through a strategy as through the server.

use component_base::features::{Gate, Gates};
use jiff::Timestamp;
use serde_json::Value;

use super::{Resource, Strategy, StrategyContext, catalog};
use crate::{auth::User, field::ErrorList, object::Object};

/// The resource of a group.
pub(super) fn resource(group: &str, plural: &str) -> Resource {
    let all = catalog::builtin();
    let found = all.iter().find(|r| r.group == group && r.plural == plural);
    found.expect("the resource is in the catalog").as_ref().clone()
}

/// A kind under test.
pub(super) struct Kind(Resource, Gates);

impl Kind {
    /// By group and plural name.
    pub(super) fn new(group: &str, plural: &str) -> Self {
        Self(resource(group, plural), Gates::default())
    }

    /// With these gates on.
    pub(super) fn with(self, gates: &[Gate]) -> Self {
        Self(self.0, gates.iter().fold(self.1, |all, gate| all.with(*gate, true)))
    }

    /// With these gates off.
    pub(super) fn without(self, gates: &[Gate]) -> Self {
        Self(self.0, gates.iter().fold(self.1, |all, gate| all.with(*gate, false)))
    }

    fn strategy(&self) -> &dyn Strategy {
        self.0.strategy.as_ref()
    }

    /// The object with its defaults.
    pub(super) fn defaulted(&self, object: Value) -> Value {
        let mut object = Object::from_value(object).unwrap();
        self.strategy().default(&mut object, self.0.storage_version);
        object.into_value()
    }

    /// The object as it is stored, and what is wrong with it.
    pub(super) fn create(&self, object: Value) -> (Value, Vec<String>) {
        let mut object = Object::from_value(self.defaulted(object)).unwrap();
        let user = User::default();
        let ctx = context(&user, self.0.storage_version, "", self.1);
        self.0.prepare_create(&mut object, &ctx).unwrap();
        let errors = self.0.validate_create(&object, &ctx);
        (object.into_value(), texts(&errors))
    }

    /// What is wrong with a new object.
    pub(super) fn errors(&self, object: Value) -> Vec<String> {
        self.create(object).1
    }

    /// The row of an object, at the epoch.
    pub(super) fn row(&self, object: Value) -> Vec<Value> {
        self.strategy().row(&Object::from_value(object).unwrap(), Timestamp::UNIX_EPOCH)
    }

    /// Warnings of a new object.
    pub(super) fn warnings(&self, object: Value) -> Vec<String> {
        let object = Object::from_value(self.create(object).0).unwrap();
        self.strategy().warnings(&object, None)
    }

    /// What an update through a view makes of an object that was created, and what is wrong with it.
    pub(super) fn update(&self, new: Value, old: Value, subresource: &str) -> (Value, Vec<String>) {
        let mut new = Object::from_value(self.defaulted(new)).unwrap();
        let old = Object::from_value(old).unwrap();
        let user = User::default();
        let ctx = context(&user, self.0.storage_version, subresource, self.1);
        self.0.prepare_update(&mut new, &old, &ctx);
        let errors = self.0.validate_update(&new, &old, &ctx);
        (new.into_value(), texts(&errors))
    }

    /// What is wrong with changing a good object at JSON pointers.
    pub(super) fn change(&self, object: &Value, changes: &[(&str, Value)]) -> Vec<String> {
        let (old, errors) = self.create(object.clone());
        assert!(errors.is_empty(), "{errors:?}");
        self.update(changed(&old, changes), old, "").1
    }
}

/// An object with other values at JSON pointers; a null takes the field away.
pub(super) fn changed(object: &Value, changes: &[(&str, Value)]) -> Value {
    let mut object = object.clone();
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer has a slash");
        let field = field.replace("~1", "/");
        match object.pointer_mut(parent).unwrap_or_else(|| panic!("{parent} is there")) {
            Value::Object(map) if value.is_null() => drop(map.remove(&field)),
            Value::Object(map) => drop(map.insert(field, value.clone())),
            Value::Array(list) => match field.parse::<usize>() {
                Ok(i) => list[i] = value.clone(),
                Err(_) => list.push(value.clone()),
            },
            other => panic!("{other} has no fields"),
        }
    }
    object
}

fn context<'a>(user: &'a User, version: &'a str, subresource: &'a str, gates: Gates) -> StrategyContext<'a> {
    StrategyContext { now: Timestamp::UNIX_EPOCH, version, subresource, user, gates }
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Values that stand where something else is expected.
fn odd() -> Vec<Value> {
    use serde_json::json;
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MAX),
        json!(1e300),
        json!(""),
        json!("é%/"),
        json!("25%"),
        json!([]),
        json!([null, 1, "a", {}]),
        json!({}),
        json!({"a": {"b": null}}),
    ]
}

/// Pointers to everything in an object.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    let mut below = |name: &str, value: &Value| {
        let pointer = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        out.push(pointer.clone());
        pointers(value, &pointer, out);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| below(name, value)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| below(&i.to_string(), value)),
        _ => {}
    }
}

/// Every member of upstream's golden objects is replaced by an odd value: nothing panics, and defaults
/// that were filled in once stay as they are.
#[test]
fn whatever_is_sent_a_strategy_says_what_it_thinks() {
    let Some(goldens) = component_base::reference::reference("api-golden") else { return };
    let mut seen = 0;
    for resource in catalog::builtin().iter() {
        let group = if resource.group.is_empty() { "core" } else { resource.group };
        let file = format!("{group}.{}.{}.json", resource.storage_version, resource.kind);
        let Ok(text) = std::fs::read(goldens.join(file)) else { continue };
        seen += 1;
        let golden: Value = serde_json::from_slice(&text).unwrap();
        let kind = Kind(resource.as_ref().clone(), Gates::default());
        let once = kind.defaulted(golden.clone());
        assert_eq!(kind.defaulted(once.clone()), once, "{}", kind.0.plural);
        let mut all = Vec::new();
        pointers(&golden, "", &mut all);
        let stored = kind.create(golden.clone()).0;
        // What stands deeper belongs to templates, which are tested where they are validated.
        let shallow = all.iter().filter(|pointer| pointer.matches('/').count() <= 4);
        for (i, pointer) in shallow.enumerate() {
            let mut object = golden.clone();
            let odd = odd();
            *object.pointer_mut(pointer).unwrap() = odd[i % odd.len()].clone();
            let (object, _) = kind.create(object);
            kind.update(object.clone(), stored.clone(), ["", "status", "approval"][i % 3]);
            kind.update(stored.clone(), object, ["status", ""][i % 2]);
        }
    }
    assert!(seen > 60, "{seen} kinds have golden objects");
}
