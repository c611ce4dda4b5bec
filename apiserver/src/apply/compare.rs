//! What differs between two objects, field by field. Nothing of them is copied but the names of what differs.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Form, Scope, UNOWNED,
    set::{Element, FieldSet},
};

/// Fields that came, changed and went.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

type Members = Map<String, Value>;

impl Comparison {
    /// Of an old and a new object, without what nobody owns and what the write cannot set.
    pub(super) fn of(old: &Value, new: &Value, scope: Scope<'_>) -> Self {
        let (old, new) = (old.as_object(), new.as_object());
        let is_compared =
            |name: &str| !matches!(name, "apiVersion" | "kind" | "metadata") && !(scope.ignored)(name);
        let mut out = Self::objects(old, new, scope.form, is_compared);
        // Metadata is there in both, so that it is never what changed itself.
        let is_owned = |name: &str| !UNOWNED.contains(&name);
        let below = Self::objects(metadata(old), metadata(new), scope.form.below("metadata"), is_owned);
        out.put(&Element::field("metadata"), below);
        out
    }

    /// Of two values; one that is null is as good as none, but is there.
    fn values(old: Option<&Value>, new: Option<&Value>, form: Form<'_>) -> Self {
        let there = (old.is_some(), new.is_some());
        let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
        if old == new {
            return Self::default();
        }
        let all = |test: fn(&Value) -> bool| old.is_none_or(test) && new.is_none_or(test);
        if form.is_granular() && all(Value::is_object) {
            let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty) {
                return Self::leaf(old, new);
            }
            Self::objects(before, after, form, |_| true).whole(there)
        } else if form.is_associative() && all(Value::is_array) {
            let (before, after) = (members(old, form), members(new, form));
            if before.is_empty() && after.is_empty() {
                return Self::leaf(old, new);
            }
            Self::lists(&before, &after, form).whole(there)
        } else {
            Self::leaf(old, new)
        }
    }

    /// Of values without parts.
    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut out = Self::default();
        match (old, new) {
            (None, Some(_)) => out.added = FieldSet::itself(),
            (Some(_), None) => out.removed = FieldSet::itself(),
            (Some(old), Some(new)) if old != new => out.modified = FieldSet::itself(),
            _ => {}
        }
        out
    }

    fn objects(
        old: Option<&Members>,
        new: Option<&Members>,
        form: Form<'_>,
        is_compared: impl Fn(&str) -> bool,
    ) -> Self {
        let mut out = Self::default();
        let is_old = |name: &str| old.is_some_and(|old| old.contains_key(name));
        for name in names(old).chain(names(new).filter(|name| !is_old(name))) {
            if !is_compared(name) {
                continue;
            }
            // Go prints such a field even when it is nil, so it is never what came or went.
            let nil = form.is_always_there(name).then_some(&Value::Null);
            let (before, after) = (old.and_then(|o| o.get(name)), new.and_then(|n| n.get(name)));
            let found = Self::values(before.or(nil), after.or(nil), form.below(name));
            if !found.is_empty() {
                out.put(&Element::field(name), found);
            }
        }
        out
    }

    fn lists(old: &BTreeMap<Element, &Value>, new: &BTreeMap<Element, &Value>, form: Form<'_>) -> Self {
        let mut out = Self::default();
        for element in old.keys().chain(new.keys().filter(|element| !old.contains_key(element))) {
            let (before, after) = (old.get(element).copied(), new.get(element).copied());
            out.put(element, Self::values(before, after, form.member()));
        }
        out
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Adds what differs below an element.
    fn put(&mut self, element: &Element, below: Self) {
        let Self { added, modified, removed } = below;
        for (own, below) in
            [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)]
        {
            if !below.is_empty() {
                own.put(element.clone(), below);
            }
        }
    }

    /// A value with members came or went as a whole; `there` says of the old and the new whether it is.
    fn whole(mut self, there: (bool, bool)) -> Self {
        match there {
            (false, true) => self.added.mark(),
            (true, false) => self.removed.mark(),
            _ => {}
        }
        self
    }
}

fn metadata(of: Option<&Members>) -> Option<&Members> {
    of?.get("metadata")?.as_object()
}

fn names(of: Option<&Members>) -> impl Iterator<Item = &str> {
    of.into_iter().flat_map(Map::keys).map(String::as_str)
}

/// A list's members by what tells them apart; of equal ones the first.
fn members<'v>(list: Option<&'v Value>, form: Form<'_>) -> BTreeMap<Element, &'v Value> {
    let mut out = BTreeMap::new();
    for member in list.and_then(Value::as_array).into_iter().flatten() {
        if let Some(element) = form.element(member) {
            out.entry(element).or_insert(member);
        }
    }
    out
}
