//! Sets of fields, and their form in `fieldsV1`.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use super::Form;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// A field of a struct or a key of a map.
    Field(String),
    /// A member of a list by its keys, as a JSON object.
    Key(String),
    /// A member of a set, as JSON.
    Value(String),
    /// A member of a list by its place.
    Index(usize),
}

/// Fields of an object. A field may be in the set itself, have fields below it that are, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    children: BTreeMap<Element, FieldSet>,
}

impl Element {
    pub(super) fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    pub(super) fn key(keys: Vec<(String, Value)>) -> Self {
        Self::Key(Value::Object(keys.into_iter().collect()).to_string())
    }

    pub(super) fn value(value: &Value) -> Self {
        Self::Value(value.to_string())
    }

    fn parse(text: &str) -> Option<Self> {
        let (form, rest) = text.split_once(':')?;
        Some(match form {
            "f" => Self::Field(rest.to_owned()),
            // Canonical, whatever wrote it.
            "k" => Self::Key(serde_json::from_str::<Value>(rest).ok()?.to_string()),
            "v" => Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string()),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }

    fn encoded(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Index(at) => format!("i:{at}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(json) => {
                let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(json) => write!(f, "[={json}]"),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

impl FieldSet {
    /// All fields of a value.
    pub fn of(value: &Value, form: Form<'_>) -> Self {
        let mut set = Self::default();
        set.fill(value, form);
        set
    }

    fn fill(&mut self, value: &Value, form: Form<'_>) {
        match value {
            Value::Object(members) if form.is_granular() => {
                for (name, value) in members {
                    let child = self.child_mut(Element::field(name));
                    child.fill(value, form.below(name));
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    child.member |= empty || form.has_own_key(name);
                }
            }
            Value::Array(members) if form.is_associative() => {
                for member in members {
                    let Some(element) = form.element(member) else { continue };
                    let child = self.child_mut(element);
                    child.fill(member, form.member());
                    child.member = true;
                }
            }
            Value::Object(_) | Value::Array(_) => self.member = true,
            Value::Null if form.is_granular() || form.is_associative() => {}
            _ => self.member = true,
        }
    }

    fn child_mut(&mut self, element: Element) -> &mut Self {
        self.children.entry(element).or_default()
    }

    /// The set of a value itself.
    pub(super) fn itself() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// Adds the value itself.
    pub(super) fn mark(&mut self) {
        self.member = true;
    }

    /// Sets what is below an element.
    pub(super) fn put(&mut self, element: Element, below: Self) {
        self.children.insert(element, below);
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    pub(super) fn child(&self, element: &Element) -> Option<&Self> {
        self.children.get(element)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&Element, &Self)> {
        self.children.iter()
    }

    /// Fields of either.
    pub fn union(mut self, other: Self) -> Self {
        self.member |= other.member;
        for (element, theirs) in other.children {
            let ours = self.children.remove(&element).unwrap_or_default();
            self.children.insert(element, ours.union(theirs));
        }
        self
    }

    /// Fields of this one that the other has not.
    pub fn difference(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let rest = other.children.get(element).map_or_else(|| ours.clone(), |t| ours.difference(t));
            (!rest.is_empty()).then(|| (element.clone(), rest))
        });
        Self { member: self.member && !other.member, children: children.collect() }
    }

    /// Fields of both.
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let shared = ours.intersection(other.children.get(element)?);
            (!shared.is_empty()).then(|| (element.clone(), shared))
        });
        Self { member: self.member && other.member, children: children.collect() }
    }

    /// The paths in words: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        for (element, child) in &self.children {
            let mark = path.len();
            path.push_str(&element.to_string());
            child.collect(path, out);
            path.truncate(mark);
        }
    }

    /// Reads `fieldsV1`; what is no path is skipped.
    pub fn from_fields_v1(value: &Value) -> Self {
        let mut set = Self::default();
        let Some(members) = value.as_object() else { return set };
        for (name, below) in members {
            if name == "." {
                set.member = true;
            } else if let Some(element) = Element::parse(name) {
                let mut child = Self::from_fields_v1(below);
                child.member |= below.as_object().is_none_or(Map::is_empty);
                set.children.insert(element, child);
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        let mut out = Map::new();
        if self.member && !self.children.is_empty() {
            out.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            out.insert(element.encoded(), child.to_fields_v1());
        }
        Value::Object(out)
    }
}
