//! Object metadata on writes: what the server fills in, what may not change, what is malformed.
//!
//! Contract: apimachinery `pkg/api/validation.ValidateObjectMeta` and apiserver `registry/rest`.

use api_rules::{at::At, metadata};
use jiff::Timestamp;
use rand::Rng;
use serde_json::Value;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{new_uid, rfc3339},
    registry::Resource,
    validate,
};

/// Longest stem of a generated name: five random letters follow.
const MAX_STEM: usize = 58;
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Finalizers that are one word.
const BARE_FINALIZERS: [&str; 3] = ["kubernetes", metadata::ORPHAN, metadata::FOREGROUND];

/// A name from its stem, with five random letters as upstream draws them.
pub(crate) fn generated_name(stem: &str) -> String {
    let mut rng = rand::rng();
    let cut = stem.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|&end| end <= MAX_STEM).last();
    let mut name = stem[..cut.unwrap_or(0)].to_owned();
    name.extend((0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])));
    name
}

/// Clears what a creator may not set. Mutating admission sees an object that is none yet.
pub(crate) fn wipe_new(object: &mut Object) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
    ] {
        object.metadata_mut().remove(field);
    }
}

/// Sets uid and creation time, and a name where there is only the stem of one.
pub(crate) fn fill_new(object: &mut Object, now: Timestamp) {
    object.set_meta_str("uid", &new_uid());
    object.set_meta_str("creationTimestamp", &rfc3339(now));
    if object.name().is_empty() && !object.meta_str("generateName").is_empty() {
        let name = generated_name(object.meta_str("generateName"));
        object.set_meta_str("name", &name);
    }
}

/// Errors of a change that would mark an object for deletion, or mark it otherwise: updates do not.
pub(crate) fn validate_marks(new: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = Path::new("metadata");
    let said = |object: &Object, field: &str| {
        object.metadata().and_then(|m| m.get(field)).filter(|value| !value.is_null()).cloned()
    };
    let (time, grace) = ("deletionTimestamp", "deletionGracePeriodSeconds");
    if !old.is_terminating()
        && let Some(new) = said(new, time)
    {
        errors.push(Error::invalid(&meta.child(time), new, "field is immutable"));
    }
    if let Some(new) = said(new, grace).filter(|new| said(old, grace).as_ref() != Some(new)) {
        errors.push(Error::invalid(&meta.child(grace), new, "field is immutable"));
    }
    errors
}

/// Carries over what an update may not change.
pub(crate) fn keep_system_fields(new: &mut Object, old: &Object) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
    {
        match old.metadata().and_then(|m| m.get(field)) {
            Some(value) => new.metadata_mut().insert(field.to_owned(), value.clone()),
            None => new.metadata_mut().remove(field),
        };
    }
    new.metadata_mut().remove("selfLink");
    for field in ["name", "namespace"] {
        if new.meta_str(field).is_empty() {
            new.set_meta_str(field, old.meta_str(field));
        }
    }
}

/// Errors of an object's metadata.
pub(crate) fn validate(object: &Object, resource: &Resource) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = Path::new("metadata");
    let (name, stem) = (object.name(), object.meta_str("generateName"));
    if !stem.is_empty() {
        for detail in resource.strategy.validate_name(stem, true) {
            errors.push(Error::invalid(&meta.child("generateName"), stem, detail));
        }
    }
    if name.is_empty() {
        errors.push(Error::required(&meta.child("name"), "name or generateName is required"));
    } else {
        for detail in resource.strategy.validate_name(name, false) {
            errors.push(Error::invalid(&meta.child("name"), name, detail));
        }
    }
    if !resource.namespaced && !object.namespace().is_empty() {
        errors.push(Error::forbidden(&meta.child("namespace"), "not allowed on this type"));
    }
    metadata::check(&At::field(object, "metadata"), &mut errors);
    if !is_lenient(resource) {
        for (i, finalizer) in object.finalizers().into_iter().enumerate() {
            if !finalizer.contains('/') && !BARE_FINALIZERS.contains(&finalizer) {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(Error::invalid(&meta.child("finalizers").index(i), finalizer, why));
            }
        }
    }
    errors
}

/// Whether the kind takes finalizers of one word whoever made them up: custom ones, and those of these groups.
fn is_lenient(resource: &Resource) -> bool {
    const GROUPS: [&str; 5] = [
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
    ];
    resource.strategy.custom().is_some()
        || GROUPS.contains(&resource.group)
        || matches!(resource.plural, "poddisruptionbudgets" | "podtemplates" | "deviceclasses")
}

/// Errors of the metadata of an object inside of another one, at `meta`: it needs no name.
pub(crate) fn validate_embedded(object: &Object, meta: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let segment = |name: &str| matches!(name, "." | "..") || name.contains(['/', '%']);
    if segment(object.name()) {
        let why = "may not be '.' or '..' and may not contain '/' or '%'";
        errors.push(Error::invalid(&meta.child("name"), object.name(), why));
    }
    if !object.namespace().is_empty() {
        for detail in validate::dns_label(object.namespace(), false) {
            errors.push(Error::invalid(&meta.child("namespace"), object.namespace(), detail));
        }
    }
    metadata::check(&At::field(object, "metadata").named(meta.clone()), &mut errors);
    errors
}

/// Errors of a change to immutable metadata.
pub(crate) fn validate_change(new: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = Path::new("metadata");
    for field in ["name", "namespace"] {
        if new.meta_str(field) != old.meta_str(field) {
            errors.push(Error::invalid(&meta.child(field), new.meta_str(field), "field is immutable"));
        }
    }
    if old.is_terminating() {
        let before = old.finalizers();
        let added: Vec<&str> = new.finalizers().into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.push(Error::forbidden(&meta.child("finalizers"), detail));
        }
    }
    errors
}

/// Leaves each owner once, and tells the uids of those that stood there more often.
pub(crate) fn unite_owners(object: &mut Object) -> Vec<String> {
    let repeats =
        |all: &[Value]| (1..all.len()).filter(|&i| all[..i].contains(&all[i])).rev().collect::<Vec<usize>>();
    let owners = object.metadata().and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    let repeated = owners.map(|all| repeats(all)).unwrap_or_default();
    if repeated.is_empty() {
        return Vec::new();
    }
    let Some(Value::Array(all)) = object.metadata_mut().get_mut("ownerReferences") else { return Vec::new() };
    let mut uids: Vec<String> =
        repeated.into_iter().map(|i| all.remove(i)["uid"].as_str().unwrap_or_default().to_owned()).collect();
    uids.reverse();
    uids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit() {
        for stem in ["a-", &"x".repeat(100), ""] {
            let name = generated_name(stem);
            assert_eq!(name.len(), stem.len().min(MAX_STEM) + 5);
            assert!(name.starts_with(&stem[..stem.len().min(MAX_STEM)]));
        }
    }

    #[test]
    fn an_owner_stands_once() {
        let owner =
            |uid: &str| serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        let with = |uids: &[&str]| {
            let owners: Vec<Value> = uids.iter().map(|uid| owner(uid)).collect();
            Object::from_value(serde_json::json!({"metadata": {"ownerReferences": owners}})).unwrap()
        };
        let mut object = with(&["a", "b", "a", "b", "a"]);
        assert_eq!(unite_owners(&mut object), ["a", "b", "a"]);
        assert_eq!(object, with(&["a", "b"]));
        assert!(unite_owners(&mut object).is_empty());
    }
}
