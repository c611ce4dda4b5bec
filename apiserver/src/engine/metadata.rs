//! Object metadata on writes: what the server fills in, what may not change, what is malformed.
//!
//! Contract: apimachinery `pkg/api/validation.ValidateObjectMeta` and apiserver `registry/rest`.

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
/// All annotations of an object together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizers that are one word.
const BARE_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];

/// A name from its stem, with five random letters as upstream draws them.
pub(crate) fn generated_name(stem: &str) -> String {
    let mut rng = rand::rng();
    let cut = stem.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|&end| end <= MAX_STEM).last();
    let mut name = stem[..cut.unwrap_or(0)].to_owned();
    name.extend((0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])));
    name
}

/// Sets uid and creation time and clears what a creator may not set.
pub(crate) fn fill_new(object: &mut Object, now: Timestamp) {
    object.set_meta_str("uid", &new_uid());
    object.set_meta_str("creationTimestamp", &rfc3339(now));
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        object.metadata_mut().remove(field);
    }
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
    validate_rest(object, &meta, &mut errors);
    validate_finalizers(object, &meta.child("finalizers"), &mut errors);
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
    validate_rest(object, meta, &mut errors);
    validate_finalizers(object, &meta.child("finalizers"), &mut errors);
    errors
}

fn validate_rest(object: &Object, meta: &Path, errors: &mut ErrorList) {
    validate_labels(object, &meta.child("labels"), errors);
    validate_annotations(object, &meta.child("annotations"), errors);
    validate_owners(object, &meta.child("ownerReferences"), errors);
}

fn validate_finalizers(object: &Object, path: &Path, errors: &mut ErrorList) {
    let all = object.finalizers();
    for finalizer in &all {
        for detail in qualified_name(finalizer) {
            errors.push(Error::invalid(path, *finalizer, detail));
        }
    }
    if [ORPHAN, FOREGROUND].iter().all(|one| all.contains(one)) {
        let why = format!("finalizer {FOREGROUND} and {ORPHAN} cannot be both set");
        errors.push(Error::invalid(path, all.into_iter().map(Value::from).collect::<Value>(), why));
    }
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

fn validate_labels(object: &Object, path: &Path, errors: &mut ErrorList) {
    for (key, value) in object.meta_pairs("labels") {
        for detail in qualified_name(key) {
            errors.push(Error::invalid(path, key, detail));
        }
        for detail in label_value(value) {
            errors.push(Error::invalid(path, value, detail));
        }
    }
}

fn validate_annotations(object: &Object, path: &Path, errors: &mut ErrorList) {
    let mut total = 0;
    for (key, value) in object.meta_pairs("annotations") {
        for detail in qualified_name(&key.to_ascii_lowercase()) {
            errors.push(Error::invalid(path, key, detail));
        }
        total += key.len() + value.len();
    }
    if total > MAX_ANNOTATIONS {
        errors.push(Error::too_long(path, MAX_ANNOTATIONS));
    }
}

fn validate_owners(object: &Object, path: &Path, errors: &mut ErrorList) {
    let refs = object.metadata().and_then(|m| m.get("ownerReferences"));
    let mut controller: Option<String> = None;
    let members = refs.and_then(Value::as_array).into_iter().flatten();
    for (owner, raw) in object.owner_references().iter().zip(members) {
        let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
        for (field, value, told, why) in [
            ("apiVersion", version, owner.api_version.as_str(), "version must not be empty"),
            ("kind", &owner.kind, &owner.kind, "must not be empty"),
            ("name", &owner.name, &owner.name, "must not be empty"),
            ("uid", &owner.uid, &owner.uid, "must not be empty"),
        ] {
            if value.is_empty() {
                errors.push(Error::invalid(&path.child(field), told, why));
            }
        }
        if group.is_empty() && version == "v1" && owner.kind == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(path, raw.clone(), why));
        }
        if raw.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = format!("{}/{}", owner.kind, owner.name);
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.push(Error::invalid(path, refs.cloned().unwrap_or_default(), why));
            }
            controller.get_or_insert(name);
        }
    }
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

fn word(s: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let b = s.as_bytes();
    edge(b.first()) && edge(b.last()) && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

const WORD: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Errors of `[prefix/]name` as label keys and finalizers are written.
pub(crate) fn qualified_name(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a valid label key {WORD} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let of_prefix = validate::dns_subdomain(prefix, false);
            // Keys count bytes where names of objects count characters.
            errors.extend(
                of_prefix
                    .into_iter()
                    .map(|e| format!("prefix part {}", e.replace(" 253 characters", " 253 bytes"))),
            );
            name
        }
        None => key,
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !word(name) {
        errors.push(format!("name part {WORD}"));
    }
    errors
}

/// Errors of a label's value.
pub(crate) fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !word(value) {
        errors.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    errors
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

    #[test]
    fn owners_and_finalizers_are_told_of_as_lists() {
        let object = Object::from_value(serde_json::json!({"metadata": {
            "finalizers": ["orphan", "foregroundDeletion", "-"],
            "ownerReferences": [{"apiVersion": "a/", "controller": true},
                {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u", "controller": true}]}}))
        .unwrap();
        let mut errors = ErrorList::new();
        validate_owners(&object, &Path::new("o"), &mut errors);
        validate_finalizers(&object, &Path::new("f"), &mut errors);
        let texts: Vec<String> = errors.iter().map(|e| format!("{} {}", e.field, e.detail)).collect();
        let (last, first) = texts.split_last().unwrap();
        assert_eq!(
            first[..7],
            [
                "o.apiVersion version must not be empty",
                "o.kind must not be empty",
                "o.name must not be empty",
                "o.uid must not be empty",
                "o /v1, Kind=Event is disallowed from being an owner",
                "o Only one reference can have Controller set to true. Found \"true\" in references for / and Event/e",
                &format!("f name part {WORD}"),
            ]
        );
        assert_eq!(last, "f finalizer foregroundDeletion and orphan cannot be both set");
    }

    #[test]
    fn keys_and_values() {
        for (key, ok) in
            [("a", true), ("a.b/c_D", true), ("/a", false), ("a/", false), ("-a", false), ("", false)]
        {
            assert_eq!(qualified_name(key).is_empty(), ok, "{key}");
        }
        for (value, ok) in [("", true), ("a.B-1", true), ("a ", false), ("_", false)] {
            assert_eq!(label_value(value).is_empty(), ok, "{value}");
        }
    }
}
