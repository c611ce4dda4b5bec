//! Who owns which field, and server-side apply. Pure: objects in, objects out.
//!
//! Every write notes in `metadata.managedFields` which fields it set. An update takes what it changes; an apply
//! owns exactly what it names, gives back what it named before and no longer does, and meets a conflict
//! where it would change another's field.
//!
//! Contract: KEP-555; structured-merge-diff v6 for comparing and merging; `managedfields` of apimachinery.

use jiff::Timestamp;
use serde_json::{Map, Value};

mod compare;
mod form;
mod managers;
mod merge;
pub mod scale;
mod set;

use compare::Comparison;
pub use form::Form;
use managers::{Entry, Managers, Operation};
pub use set::FieldSet;

/// Who writes, in which form.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// The apiVersion the objects have.
    pub api_version: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// What objects are and which of their fields a write cannot set.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The object's type.
    pub form: Form<'a>,
    /// Whether a top-level field is left out, such as the status of a write to the object itself.
    pub ignored: &'a dyn Fn(&str) -> bool,
}

/// Another's field that an apply would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other, in words: `"kubectl" using apps/v1`.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
}

/// Manager of what an object had before anything was noted.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Metadata that nobody owns.
const UNOWNED: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Notes what a write changed from `live` to `new`. `empty` is an object of the type with nothing in it: what a
/// created one is compared with. A live object of which nothing is noted stays so.
pub fn update(live: Option<&Value>, empty: &Value, new: &mut Value, writer: Writer<'_>, scope: Scope<'_>) {
    let sent = Managers::of(new);
    let reset = sent.is_reset();
    let mut managers = match (&sent, live) {
        (sent, _) if !sent.is_empty() && !reset => sent.clone(),
        (_, Some(live)) if !reset => Managers::of(live),
        _ => Managers::default(),
    };
    if reset || (live.is_some() && managers.is_empty()) {
        managers::store(new, Managers::default());
        return;
    }
    note_update(&mut managers, live.unwrap_or(empty), new, writer, scope);
    managers::store(new, managers);
}

fn note_update(managers: &mut Managers, live: &Value, new: &Value, writer: Writer<'_>, scope: Scope<'_>) {
    let changed = Comparison::of(live, new, scope);
    let taken = changed.added.union(changed.modified);
    let own = Entry::new(writer, Operation::Update);
    for entry in managers.entries_mut().filter(|entry| !entry.is_same_writer(&own)) {
        entry.set = entry.set.difference(&taken).difference(&changed.removed);
    }
    let entry = managers.entry(own);
    let set = entry.set.difference(&changed.removed).union(taken);
    entry.replace(set, writer.now);
    managers.drop_empty();
    managers.cap();
}

/// The live object (`empty` when there is none) with a configuration applied to it.
///
/// # Errors
/// Others' fields that would change, unless `force` takes them over.
pub fn apply(
    live: Option<&Value>,
    empty: &Value,
    patch: &Value,
    force: bool,
    writer: Writer<'_>,
    scope: Scope<'_>,
) -> Result<Value, Vec<Conflict>> {
    let mut managers = live.map(Managers::of).unwrap_or_default();
    if let Some(live) = live.filter(|_| managers.is_empty()) {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer };
        note_update(&mut managers, empty, live, before, scope);
    }
    let own = Entry::new(writer, Operation::Apply);
    let named = named(patch, scope);
    let base = live.unwrap_or(empty);
    let mut merged = merge::merge(Some(base), patch, scope.form);
    let last = managers.find(&own).map(|entry| entry.set.clone()).unwrap_or_default();
    let others = managers.union_without(&own);
    let kept = named.clone().union(others);
    merge::prune(&mut merged, &last.difference(&kept), &kept, scope.form);

    let changed = Comparison::of(base, &merged, scope);
    let taken = changed.added.union(changed.modified);
    let mut conflicts = Vec::new();
    for entry in managers.entries_mut().filter(|entry| !entry.is_same_writer(&own)) {
        let shared = entry.set.intersection(&taken);
        conflicts
            .extend(shared.paths().into_iter().map(|field| Conflict { manager: entry.to_string(), field }));
        entry.set = entry.set.difference(&shared).difference(&changed.removed);
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    managers.entry(own).replace(named, writer.now);
    managers.drop_empty();
    managers::store(&mut merged, managers);
    Ok(merged)
}

/// The live object with a configuration in it, without a word about who owns what: the mutation of a policy.
///
/// # Errors
/// Fields the type does not have, and values that could only be replaced as a whole.
pub fn overlay(live: &Value, patch: &Value, form: Form) -> Result<Value, String> {
    let mut atomic = Vec::new();
    merge::find_atomic(patch, form, &mut String::new(), &mut atomic)?;
    if !atomic.is_empty() {
        let all = atomic.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"
        ));
    }
    Ok(merge::merge(Some(live), patch, form))
}

/// The whole of several conflicts, as upstream words it.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut names: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut lines = Vec::new();
    for name in names {
        lines.push(format!("conflicts with {name}:"));
        lines.extend(conflicts.iter().filter(|c| c.manager == name).map(|c| format!("- {}", c.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The fields a configuration names, without what nobody owns and what the write cannot set.
fn named(patch: &Value, scope: Scope<'_>) -> FieldSet {
    let mut out = Map::new();
    for (name, value) in patch.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", meta) => {
                let owned = meta.as_object().into_iter().flatten();
                let owned = owned.filter(|(name, _)| !UNOWNED.contains(&name.as_str()));
                let owned: Map<String, Value> = owned.map(|(k, v)| (k.clone(), v.clone())).collect();
                if !owned.is_empty() {
                    out.insert(name.clone(), Value::Object(owned));
                }
            }
            _ if (scope.ignored)(name) => {}
            _ => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    FieldSet::of(&Value::Object(out), scope.form)
}

#[cfg(test)]
mod tests;
