//! Metadata of objects and of templates inside of them, whatever their kind.
//!
//! Contract: apimachinery `ValidateObjectMeta` but for names, which are the kind's; templates of claims take nothing but
//! labels and annotations.

use serde_json::Value;

use super::{at::At, format};
use crate::{
    field::{Error, ErrorList},
    shape,
};

/// The finalizer of what is to outlive its owner.
pub const ORPHAN: &str = "orphan";
/// The finalizer of what is to go after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// All annotations of an object together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Metadata but for names.
pub fn check(meta: &At<'_>, errors: &mut ErrorList) {
    meta.get("labels").check_labels(errors);
    check_annotations(&meta.get("annotations"), errors);
    check_owners(&meta.get("ownerReferences"), errors);
    check_finalizers(&meta.get("finalizers"), errors);
}

fn check_owners(owners: &At<'_>, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for owner in owners.items() {
        let (api_version, kind, name) =
            (owner.text_of("apiVersion"), owner.text_of("kind"), owner.text_of("name"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        // Errors stand at the list, not at its members.
        if version.is_empty() {
            let path = owners.path().child("apiVersion");
            errors.push(Error::invalid(&path, api_version, "version must not be empty"));
        }
        for (field, value) in [("kind", kind), ("name", name), ("uid", owner.text_of("uid"))] {
            if value.is_empty() {
                errors.push(Error::invalid(&owners.path().child(field), value, "must not be empty"));
            }
        }
        if group.is_empty() && version == "v1" && kind == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(
                Error::invalid(owners.path(), owner.value().clone(), why).shown_as(&shape::OWNER_REFERENCE),
            );
        }
        if owner.get("controller").is_true() {
            let name = format!("{kind}/{name}");
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                owners.invalid_go(errors, &shape::OWNER_REFERENCE, why);
            }
            controller.get_or_insert(name);
        }
    }
}

fn check_finalizers(finalizers: &At<'_>, errors: &mut ErrorList) {
    let all: Vec<&str> = finalizers.items().filter_map(|one| one.value().as_str()).collect();
    for finalizer in &all {
        for detail in format::qualified_name(finalizer) {
            finalizers.invalid_as(errors, *finalizer, detail);
        }
    }
    if [ORPHAN, FOREGROUND].iter().all(|one| all.contains(one)) {
        let why = format!("finalizer {FOREGROUND} and {ORPHAN} cannot be both set");
        finalizers.invalid_as(errors, all.into_iter().map(Value::from).collect::<Value>(), why);
    }
}

/// Annotations: keys are qualified names in any case, all of them together have a size.
pub fn check_annotations(annotations: &At<'_>, errors: &mut ErrorList) {
    for (key, _) in annotations.entries() {
        for detail in format::qualified_name(&key.to_lowercase()) {
            errors.push(Error::invalid(annotations.path(), key, detail));
        }
    }
    let size: usize = annotations.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_ANNOTATIONS {
        errors.push(Error::too_long(annotations.path(), MAX_ANNOTATIONS));
    }
}

/// Metadata of a template whose objects get everything else from their owner.
pub fn check_of_template(meta: &At<'_>, errors: &mut ErrorList) {
    check_annotations(&meta.get("annotations"), errors);
    meta.get("labels").check_labels(errors);
    for (field, value) in meta.entries() {
        let allowed = matches!(field, "labels" | "annotations");
        // A number that may be missing is there even when it is zero.
        let empty = value.is_empty() || field == "generation" && value.int() == 0;
        if !allowed && value.is_set() && !empty {
            let told = if field == "uid" { "uID" } else { field };
            errors.push(Error::forbidden(&meta.path().child(told), "cannot be set"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{field::Path, validate};

    #[test]
    fn owners_and_finalizers_are_told_of_as_lists() {
        let meta = serde_json::json!({
            "finalizers": ["orphan", "foregroundDeletion", "-"],
            "ownerReferences": [{"apiVersion": "a/", "controller": true},
                {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u", "controller": true}]});
        let mut errors = ErrorList::new();
        check(&At::new(&meta, Path::new("m")), &mut errors);
        let texts: Vec<String> = errors.iter().map(|e| format!("{} {}", e.field, e.detail)).collect();
        assert_eq!(
            texts,
            [
                "m.ownerReferences.apiVersion version must not be empty",
                "m.ownerReferences.kind must not be empty",
                "m.ownerReferences.name must not be empty",
                "m.ownerReferences.uid must not be empty",
                "m.ownerReferences /v1, Kind=Event is disallowed from being an owner",
                "m.ownerReferences Only one reference can have Controller set to true. Found \"true\" in references for / and Event/e",
                &format!("m.finalizers {}", validate::qualified_name("-")[0]),
                "m.finalizers finalizer foregroundDeletion and orphan cannot be both set",
            ]
        );
    }
}
