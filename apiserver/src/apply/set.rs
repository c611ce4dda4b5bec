//! Sets of fields, and their form in `fieldsV1`.

use std::{cmp::Ordering, fmt};

use serde_json::{Map, Value};

use super::Form;

/// One step of a path, as `fieldsV1` names it: `f:name` for a field of a struct or a key of a map, `k:{…}` for a
/// member of a list by its keys, `v:…` for a member of a set, `i:0` for a member of a list by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element(String);

/// Fields of an object. A field may be in the set itself, have fields below it that are, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    /// Sorted by element, each once. Most sets are small and are made in this order, as objects are.
    children: Vec<(Element, FieldSet)>,
}

impl Element {
    pub(super) fn field(name: &str) -> Self {
        Self(["f:", name].concat())
    }

    /// A member by its keys.
    pub(super) fn key(keys: &Map<String, Value>) -> Self {
        Self(["k:", &serde_json::to_string(keys).unwrap_or_default()].concat())
    }

    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (form, rest) = text.split_once(':')?;
        Some(match form {
            "f" => Self(text.to_owned()),
            // Canonical, whatever wrote it.
            "k" | "v" => Self(format!("{form}:{}", serde_json::from_str::<Value>(rest).ok()?)),
            "i" => Self(format!("i:{}", rest.parse::<usize>().ok()?)),
            _ => return None,
        })
    }

    /// The name of a field.
    pub(super) fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// Fields stand first, then keys, values and places.
    fn order(&self) -> (u8, usize, &str) {
        match self.0.as_bytes().first() {
            Some(b'f') => (0, 0, &self.0),
            Some(b'k') => (1, 0, &self.0),
            Some(b'v') => (2, 0, &self.0),
            _ => (3, self.0.get(2..).and_then(|at| at.parse().ok()).unwrap_or_default(), ""),
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':') {
            Some(("f", name)) => write!(f, ".{name}"),
            Some(("k", json)) => {
                let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Some(("v", json)) => write!(f, "[={json}]"),
            Some((_, at)) => write!(f, "[{at}]"),
            None => Ok(()),
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

    /// Whether it has all fields of another one.
    pub(super) fn has(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
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
    pub fn into_fields_v1(self) -> Value {
        let dot = self.member && !self.children.is_empty();
        let dot = dot.then(|| (".".to_owned(), Value::Object(Map::new())));
        let children = self.children.into_iter().map(|(element, child)| (element.0, child.into_fields_v1()));
        Value::Object(dot.into_iter().chain(children).collect())
    }
}
