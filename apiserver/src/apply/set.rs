//! Sets of fields, and their form in `fieldsV1`.

use std::fmt;

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
    /// Sorted by element, each once. Most sets are small and are made in this order, as objects are.
    children: Vec<(Element, FieldSet)>,
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
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(json) => ["k:", json].concat(),
            Self::Value(json) => ["v:", json].concat(),
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
        match value {
            Value::Object(members) if form.is_granular() => {
                let children = members.iter().map(|(name, value)| {
                    let mut child = Self::of(value, form.below(name));
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    child.member |= empty || form.has_own_key(name);
                    (Element::field(name), child)
                });
                Self::with(children.collect())
            }
            Value::Array(members) if form.is_associative() => {
                let children = members.iter().filter_map(|member| {
                    let child = Self::of(member, form.member());
                    Some((form.element(member)?, Self { member: true, ..child }))
                });
                Self::with(children.collect())
            }
            Value::Null if form.is_granular() || form.is_associative() => Self::default(),
            _ => Self::itself(),
        }
    }

    /// A set with fields below these elements, in any order; what stands twice becomes one.
    pub(super) fn with(mut children: Vec<(Element, Self)>) -> Self {
        if !children.is_sorted_by(|(a, _), (b, _)| a < b) {
            children.sort_by(|(a, _), (b, _)| a.cmp(b));
            let all = std::mem::take(&mut children);
            for (element, child) in all {
                match children.last_mut() {
                    Some((last, own)) if *last == element => *own = std::mem::take(own).union(child),
                    _ => children.push((element, child)),
                }
            }
        }
        Self { member: false, children }
    }

    /// The set of a value itself.
    pub(super) fn itself() -> Self {
        Self { member: true, children: Vec::new() }
    }

    /// Adds the value itself.
    pub(super) fn mark(&mut self) {
        self.member = true;
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    pub(super) fn child(&self, element: &Element) -> Option<&Self> {
        let at = self.children.binary_search_by(|(own, _)| own.cmp(element)).ok()?;
        Some(&self.children[at].1)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&Element, &Self)> {
        self.children.iter().map(|(element, child)| (element, child))
    }

    /// Fields of either.
    pub fn union(mut self, mut other: Self) -> Self {
        let member = self.member || other.member;
        if self.children.is_empty() || other.children.is_empty() {
            self.children.append(&mut other.children);
            return Self { member, ..self };
        }
        self.children.append(&mut other.children);
        Self { member, ..Self::with(self.children) }
    }

    /// Fields of this one that the other has not.
    pub fn difference(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let rest = other.child(element).map_or_else(|| ours.clone(), |theirs| ours.difference(theirs));
            (!rest.is_empty()).then(|| (element.clone(), rest))
        });
        Self { member: self.member && !other.member, children: children.collect() }
    }

    /// Fields of both.
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let shared = ours.intersection(other.child(element)?);
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
        let members = value.as_object();
        let children = members.into_iter().flatten().filter_map(|(name, below)| {
            let mut child = Self::from_fields_v1(below);
            child.member |= below.as_object().is_none_or(Map::is_empty);
            Some((Element::parse(name)?, child))
        });
        let member = members.is_some_and(|members| members.contains_key("."));
        Self { member, ..Self::with(children.collect()) }
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
