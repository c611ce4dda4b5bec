//! A configuration merged into a live object, and what is no longer configured taken out.

use serde_json::Value;

use super::{
    Form,
    set::{Element, FieldSet},
};

/// The live value with the configured one in it.
pub(super) fn merge(live: Option<&Value>, patch: &Value, form: Form<'_>) -> Value {
    match (live, patch) {
        (Some(Value::Object(live)), Value::Object(patch)) if form.is_granular() => {
            let mut out = live.clone();
            for (name, value) in patch {
                let merged = merge(live.get(name), value, form.below(name));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Some(Value::Array(live)), Value::Array(patch)) if form.is_associative() => {
            Value::Array(lists(live, patch, form))
        }
        _ => patch.clone(),
    }
}

/// Members of both lists: the configured ones in their order, the others where they stood among them; what stood first
/// comes first.
fn lists(live: &[Value], patch: &[Value], form: Form<'_>) -> Vec<Value> {
    let element = |member: &Value| form.element(member);
    let configured: Vec<Option<Element>> = patch.iter().map(element).collect();
    let is_configured = |member: &Value| element(member).is_some_and(|e| configured.contains(&Some(e)));
    let lives: Vec<Option<Element>> = live.iter().map(element).collect();
    let mut out = Vec::with_capacity(live.len() + patch.len());
    let mut rest = live.iter().peekable();
    for (at, (member, wanted)) in patch.iter().zip(&configured).enumerate() {
        // The next configured member that is there already; those that come later are passed over until then.
        let next_shared = configured[at..].iter().find(|e| e.is_some() && lives.contains(e));
        while let Some(next) = rest.next_if(|m| !is_configured(m) || Some(&element(m)) != next_shared) {
            if !is_configured(next) {
                out.push(next.clone());
            }
        }
        rest.next_if(|m| wanted.is_some() && element(m) == *wanted);
        let existing = live.iter().find(|m| wanted.is_some() && element(m) == *wanted);
        out.push(merge(existing, member, form.member()));
    }
    out.extend(rest.filter(|member| !is_configured(member)).cloned());
    out
}

/// Paths of the lists, maps and structs of a configuration that are owned as one value.
///
/// # Errors
/// A field the type does not have.
pub(super) fn find_atomic(
    patch: &Value,
    form: Form,
    path: &mut String,
    found: &mut Vec<String>,
) -> Result<(), String> {
    let length = path.len();
    match patch {
        Value::Object(members) if form.is_granular() => {
            for (name, value) in members {
                path.push('.');
                path.push_str(name);
                if !form.knows(name) {
                    return Err(format!(
                        "failed to convert patch object to typed object: {path}: field not declared in schema"
                    ));
                }
                find_atomic(value, form.below(name), path, found)?;
                path.truncate(length);
            }
        }
        Value::Array(members) if form.is_associative() => {
            for (index, member) in members.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                find_atomic(member, form.member(), path, found)?;
                path.truncate(length);
            }
        }
        Value::Object(_) | Value::Array(_) => found.push(path.clone()),
        _ => {}
    }
    Ok(())
}

/// Takes out what is `gone`, unless it or something below it is `kept`.
pub(super) fn prune(value: &mut Value, gone: &FieldSet, kept: &FieldSet, form: Form<'_>) {
    match value {
        Value::Object(members) if form.is_granular() => {
            for (element, gone) in gone.children() {
                let Some(name) = element.as_field() else { continue };
                let below = form.below(name);
                if let Some(child) = members.get_mut(name)
                    && !stays(child, gone, kept.child(element), below)
                {
                    members.remove(name);
                }
            }
        }
        Value::Array(members) if form.is_associative() => {
            members.retain_mut(|member| {
                let Some(element) = form.element(member) else { return true };
                let Some(gone) = gone.child(&element) else { return true };
                stays(member, gone, kept.child(&element), form.member())
            });
        }
        _ => {}
    }
}

/// Prunes below a value and says whether the value itself stays.
fn stays(child: &mut Value, gone: &FieldSet, kept: Option<&FieldSet>, form: Form<'_>) -> bool {
    let Some(kept) = kept else {
        if gone.is_member() {
            return false;
        }
        prune(child, gone, &FieldSet::default(), form);
        // It was there for what went.
        return !is_empty(child);
    };
    prune(child, gone, kept, form);
    true
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(members) => members.is_empty(),
        _ => false,
    }
}
