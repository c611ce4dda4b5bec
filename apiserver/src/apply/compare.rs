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

/// What differs among the members of one value, in the order found.
#[derive(Default)]
struct Found {
    added: Vec<(Element, FieldSet)>,
    modified: Vec<(Element, FieldSet)>,
    removed: Vec<(Element, FieldSet)>,
}

impl Comparison {
    /// Of an old and a new object, without what nobody owns and what the write cannot set.
    pub(super) fn of(old: &Value, new: &Value, scope: Scope<'_>) -> Self {
        let (old, new) = (old.as_object(), new.as_object());
        let is_compared =
            |name: &str| !matches!(name, "apiVersion" | "kind" | "metadata") && !(scope.ignored)(name);
        let mut found = Found::default();
        found.objects(old, new, scope.form, is_compared);
        // Metadata is there in both, so that it is never what changed itself.
        let mut below = Found::default();
        let is_owned = |name: &str| !UNOWNED.contains(&name);
        below.objects(metadata(old), metadata(new), scope.form.below("metadata"), is_owned);
        found.put(|| Element::field("metadata"), below.done());
        found.done()
    }

    /// Of two values; one that is null is as good as none, but is there.
    fn values(old: Option<&Value>, new: Option<&Value>, form: Form<'_>) -> Self {
        let there = (old.is_some(), new.is_some());
        let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
        if old == new {
            return Self::default();
        }
        if let (None, Some(new)) = (old, new) {
            return Self { added: everything(new, form, there.0), ..Self::default() };
        }
        let all = |test: fn(&Value) -> bool| old.is_none_or(test) && new.is_none_or(test);
        if form.is_granular() && all(Value::is_object) {
            let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty) {
                return Self::leaf(old, new);
            }
            let mut found = Found::default();
            found.objects(before, after, form, |_| true);
            found.done().whole(there)
        } else if form.is_associative() && all(Value::is_array) {
            let (before, after) = (members(old, form), members(new, form));
            if before.is_empty() && after.is_empty() {
                return Self::leaf(old, new);
            }
            let mut found = Found::default();
            found.lists(&before, &after, form);
            found.done().whole(there)
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

impl Found {
    fn objects(
        &mut self,
        old: Option<&Members>,
        new: Option<&Members>,
        form: Form<'_>,
        is_compared: impl Fn(&str) -> bool,
    ) {
        let is_old = |name: &str| old.is_some_and(|old| old.contains_key(name));
        for name in names(old).chain(names(new).filter(|name| !is_old(name))) {
            if !is_compared(name) {
                continue;
            }
            // Go prints such a field even when it is nil, so it is never what came or went.
            let nil = form.is_always_there(name).then_some(&Value::Null);
            let (before, after) = (old.and_then(|o| o.get(name)), new.and_then(|n| n.get(name)));
            let found = Comparison::values(before.or(nil), after.or(nil), form.below(name));
            self.put(|| Element::field(name), found);
        }
    }

    fn lists(&mut self, old: &BTreeMap<Element, &Value>, new: &BTreeMap<Element, &Value>, form: Form<'_>) {
        for element in old.keys().chain(new.keys().filter(|element| !old.contains_key(element))) {
            let (before, after) = (old.get(element).copied(), new.get(element).copied());
            self.put(|| element.clone(), Comparison::values(before, after, form.member()));
        }
    }

    /// Adds what differs below an element.
    fn put(&mut self, element: impl Fn() -> Element, below: Comparison) {
        let Comparison { added, modified, removed } = below;
        for (own, below) in
            [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)]
        {
            if !below.is_empty() {
                own.push((element(), below));
            }
        }
    }

    fn done(self) -> Comparison {
        let Self { added, modified, removed } = self;
        Comparison {
            added: FieldSet::with(added),
            modified: FieldSet::with(modified),
            removed: FieldSet::with(removed),
        }
    }
}

/// All fields of a value that came; of one that was there and nil, the value itself did not come. This is what most
/// of a create goes through.
fn everything(new: &Value, form: Form<'_>, was_nil: bool) -> FieldSet {
    let mut found = Vec::new();
    match new {
        Value::Null => return FieldSet::default(),
        Value::Object(members) if form.is_granular() && !members.is_empty() => {
            for (name, value) in members {
                let (below, is_always_there) = form.member_named(name);
                found.push((Element::field(name), everything(value, below, is_always_there)));
            }
        }
        Value::Array(_) if form.is_associative() => {
            for (element, member) in members(Some(new), form) {
                found.push((element, everything(member, form.member(), false)));
            }
            if found.is_empty() {
                return FieldSet::itself();
            }
        }
        _ => return FieldSet::itself(),
    }
    found.retain(|(_, below)| !below.is_empty());
    let mut out = FieldSet::with(found);
    if !was_nil {
        out.mark();
    }
    out
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
