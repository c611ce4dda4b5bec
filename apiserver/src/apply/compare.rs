//! What differs between two objects, field by field.

use serde_json::Value;

use super::{
    Form,
    set::{Element, FieldSet},
};

/// Fields that came, changed and went.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Of an old and a new object.
    pub(super) fn of(old: &Value, new: &Value, form: Form<'_>) -> Self {
        let mut walk = Walk { out: Self::default(), path: Vec::new() };
        walk.compare(Some(old), Some(new), form);
        walk.out
    }
}

struct Walk {
    out: Comparison,
    path: Vec<Element>,
}

impl Walk {
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, form: Form<'_>) {
        let there = (old.is_some(), new.is_some());
        let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
        let all = |test: fn(&Value) -> bool| old.is_none_or(test) && new.is_none_or(test);
        if form.is_granular() && all(Value::is_object) {
            self.objects(old, new, form, there);
        } else if form.is_associative() && all(Value::is_array) {
            self.lists(old, new, form, there);
        } else {
            self.leaf(old, new);
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.out.added.insert(&self.path),
            (Some(_), None) => self.out.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.out.modified.insert(&self.path),
            _ => {}
        }
    }

    fn objects(&mut self, old: Option<&Value>, new: Option<&Value>, form: Form<'_>, there: (bool, bool)) {
        let members = |v: Option<&Value>| v.and_then(Value::as_object).cloned().unwrap_or_default();
        let (before, after) = (members(old), members(new));
        if before.is_empty() && after.is_empty() {
            return self.leaf(old, new);
        }
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.path.push(Element::field(name));
            // Go prints such a field even when it is nil, so it is never what came or went.
            let nil = form.is_always_there(name).then_some(&Value::Null);
            self.compare(before.get(name).or(nil), after.get(name).or(nil), form.below(name));
            self.path.pop();
        }
        self.whole(there);
    }

    fn lists(&mut self, old: Option<&Value>, new: Option<&Value>, form: Form<'_>, there: (bool, bool)) {
        let members = |v: Option<&Value>| -> Vec<(Element, Value)> {
            let list = v.and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|member| Some((form.element(member)?, member.clone()))).collect()
        };
        let (before, after) = (members(old), members(new));
        if before.is_empty() && after.is_empty() {
            return self.leaf(old, new);
        }
        let find = |list: &[(Element, Value)], element: &Element| {
            list.iter().find(|(e, _)| e == element).map(|(_, v)| v.clone())
        };
        let mut elements: Vec<&Element> = before.iter().chain(&after).map(|(element, _)| element).collect();
        elements.sort_unstable();
        elements.dedup();
        for element in elements {
            self.path.push(element.clone());
            let (old, new) = (find(&before, element), find(&after, element));
            self.compare(old.as_ref(), new.as_ref(), form.member());
            self.path.pop();
        }
        self.whole(there);
    }

    /// A value with members came or went as a whole; `there` says of the old and the new whether it is.
    fn whole(&mut self, there: (bool, bool)) {
        match there {
            (false, true) => self.out.added.insert(&self.path),
            (true, false) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }
}
