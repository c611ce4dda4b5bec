//! The status of a definition: which names it gets, and what is said about it.
//!
//! Pure: all definitions in, the next state of one of them out; `None` when nothing is to be said.
//!
//! Contract: upstream's naming, establishing, non-structural-schema and API-approval controllers.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{definition::Names, structural};
use crate::{object::Object, objects::rfc3339};

/// Annotation by which groups of the project are used with consent.
const APPROVED: &str = "api-approved.kubernetes.io";
const APPROVAL_TEXT: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// One condition without its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// For example `Established`.
    pub kind: &'a str,
    /// `True`, `False`, `Unknown`.
    pub status: &'a str,
    /// One word.
    pub reason: &'a str,
    /// In words.
    pub message: &'a str,
}

/// Whether a condition holds.
pub fn is_true(definition: &Object, kind: &str) -> bool {
    find(definition, kind).is_some_and(|c| c["status"] == "True")
}

/// A condition by its type.
pub fn find<'o>(definition: &'o Object, kind: &str) -> Option<&'o Value> {
    let all = definition.pointer("/status/conditions").and_then(Value::as_array);
    all.into_iter().flatten().find(|c| c["type"] == kind)
}

/// Sets a condition; its time changes with its status.
pub fn set(definition: &mut Object, condition: Condition<'_>, now: Timestamp) {
    let status = definition.as_map_mut().entry("status").or_insert_with(|| json!({}));
    if !status.is_object() {
        *status = json!({});
    }
    let all = &mut status["conditions"];
    if !all.is_array() {
        *all = json!([]);
    }
    let Some(all) = all.as_array_mut() else { return };
    let mut next = json!({"type": condition.kind, "status": condition.status,
        "lastTransitionTime": rfc3339(now), "reason": condition.reason, "message": condition.message});
    match all.iter_mut().find(|c| c["type"] == condition.kind) {
        Some(old) => {
            if old["status"] == next["status"] && old["lastTransitionTime"].is_string() {
                next["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = next;
        }
        None => all.push(next),
    }
}

fn says(definition: &Object, condition: Condition<'_>) -> bool {
    find(definition, condition.kind).is_some_and(|c| {
        c["status"] == condition.status
            && c["reason"] == condition.reason
            && c["message"] == condition.message
    })
}

/// The definition with its next status. `served` tells whether this server answers for its objects already.
pub fn next(definition: &Object, all: &[Arc<Object>], served: bool, now: Timestamp) -> Option<Object> {
    let mut next = definition.clone();
    name(&mut next, all, now);
    if let Some((status, reason, message)) = approval(definition) {
        let condition =
            Condition { kind: "KubernetesAPIApprovalPolicyConformant", status, reason, message: &message };
        if !says(&next, condition) {
            set(&mut next, condition, now);
        }
    }
    match loose(definition) {
        Some((status, reason, message)) => {
            let condition = Condition { kind: "NonStructuralSchema", status, reason, message: &message };
            if !says(&next, condition) {
                set(&mut next, condition, now);
            }
        }
        None => remove(&mut next, "NonStructuralSchema"),
    }
    if served && is_true(definition, "NamesAccepted") && !is_true(definition, "Established") {
        let message = "the initial names have been accepted";
        let condition =
            Condition { kind: "Established", status: "True", reason: "InitialNamesAccepted", message };
        set(&mut next, condition, now);
    }
    (next != *definition).then_some(next)
}

/// What keeps the schemas of a definition from being structural: status, reason, message.
fn loose(definition: &Object) -> Option<(&'static str, &'static str, String)> {
    let mut told = Vec::new();
    if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        told.push("spec.preserveUnknownFields: Invalid value: true: must be false".to_owned());
    }
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    for (at, version) in versions.into_iter().flatten().enumerate() {
        let document = &version["schema"]["openAPIV3Schema"];
        if !document.is_object() {
            continue;
        }
        if let Some(why) = structural::unreadable(document) {
            let name = version["name"].as_str().unwrap_or_default();
            let message = format!("failed to check validation schema for version {name}: {why}");
            return Some(("Unknown", "StructuralError", message));
        }
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        told.extend(structural::validate(document, &path).iter().map(ToString::to_string));
    }
    match told.as_slice() {
        [] => None,
        [one] => Some(("True", "Violations", one.clone())),
        many => Some(("True", "Violations", format!("[{}]", many.join(", ")))),
    }
}

fn remove(definition: &mut Object, kind: &str) {
    let status = definition.as_map_mut().get_mut("status").and_then(|status| status.get_mut("conditions"));
    if let Some(all) = status.and_then(Value::as_array_mut) {
        all.retain(|c| c["type"] != kind);
    }
}

/// Names are given out first come, first served, within a group.
fn name(definition: &mut Object, all: &[Arc<Object>], now: Timestamp) {
    let wanted = Names::read(definition.pointer("/spec/names").unwrap_or(&Value::Null));
    let have = Names::read(definition.pointer("/status/acceptedNames").unwrap_or(&Value::Null));
    if wanted == have && find(definition, "NamesAccepted").is_some() {
        return;
    }
    let group = definition.pointer("/spec/group").cloned().unwrap_or_default();
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in
        all.iter().filter(|o| o.pointer("/spec/group") == Some(&group) && o.name() != definition.name())
    {
        let names = Names::read(other.pointer("/status/acceptedNames").unwrap_or(&Value::Null));
        resources.extend([names.plural, names.singular]);
        resources.extend(names.short_names);
        kinds.extend([names.kind, names.list_kind]);
    }
    let mut given = have.clone();
    let mut conflict: Option<(&str, String)> = None;
    let mut check = |reason, wanted: &str, have: &mut String, taken: &BTreeSet<String>| {
        if wanted != have && !wanted.is_empty() && taken.contains(wanted) {
            conflict = Some((reason, format!("{wanted:?} is already in use")));
        } else {
            wanted.clone_into(have);
        }
    };
    check("PluralConflict", &wanted.plural, &mut given.plural, &resources);
    check("SingularConflict", &wanted.singular, &mut given.singular, &resources);
    let is_taken = |short: &&String| !have.short_names.contains(short) && resources.contains(*short);
    let taken: Vec<String> =
        wanted.short_names.iter().filter(is_taken).map(|s| format!("{s:?} is already in use")).collect();
    let short_conflict = match taken.as_slice() {
        [] => {
            given.short_names = wanted.short_names;
            None
        }
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    };
    check("KindConflict", &wanted.kind, &mut given.kind, &kinds);
    check("ListKindConflict", &wanted.list_kind, &mut given.list_kind, &kinds);
    given.categories = wanted.categories;
    // Of several conflicts the last one in upstream's order is told: plural, singular, short names, kinds.
    let conflict = match (conflict, short_conflict) {
        (Some((reason @ ("KindConflict" | "ListKindConflict"), message)), _) => Some((reason, message)),
        (_, Some(short)) => Some(("ShortNamesConflict", short)),
        (conflict, None) => conflict,
    };
    let (status, reason, message) = match &conflict {
        Some((reason, message)) => ("False", *reason, message.as_str()),
        None => ("True", "NoConflicts", "no conflicts found"),
    };
    let accepted = Condition { kind: "NamesAccepted", status, reason, message };
    if given == have && says(definition, accepted) {
        return;
    }
    let established = is_true(definition, "Established");
    set(definition, accepted, now);
    definition.as_map_mut()["status"]["acceptedNames"] = given.write();
    if established {
        return;
    }
    let (reason, message) = if conflict.is_none() {
        ("Installing", "the initial names have been accepted")
    } else if find(definition, "Established").is_some() {
        return;
    } else {
        ("NotAccepted", "not all names are accepted")
    };
    set(definition, Condition { kind: "Established", status: "False", reason, message }, now);
}

/// Whether a group of the project itself may be used: status, reason, message.
fn approval(definition: &Object) -> Option<(&'static str, &'static str, String)> {
    let group = definition.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
    if !is_protected(group) {
        return None;
    }
    let said = definition.annotation(APPROVED).unwrap_or_default();
    let is_url = said.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !host.is_empty()
    });
    Some(if said.is_empty() {
        let message = format!("protected groups must have approval annotation {APPROVED:?}, {APPROVAL_TEXT}");
        ("False", "MissingAnnotation", message)
    } else if said.starts_with("unapproved") {
        ("False", "UnapprovedAnnotation", format!("not approved: {said:?}"))
    } else if is_url {
        ("True", "ApprovedAnnotation", format!("approved in {said}"))
    } else {
        let message = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting \
             with \"unapproved\", {APPROVAL_TEXT}"
        );
        ("False", "InvalidAnnotation", message)
    })
}

/// Groups that belong to the project.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// Whether the approval annotation of a protected group says anything that may be said; in words if not.
pub fn approval_error(definition: &Object) -> Option<String> {
    let (_, reason, message) = approval(definition)?;
    matches!(reason, "MissingAnnotation" | "InvalidAnnotation").then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn named(name: &str, names: Value, status: Value) -> Object {
        definition(
            json!({"metadata": {"name": name}, "spec": {"group": "g", "names": names}, "status": status}),
        )
    }

    fn condition<'o>(object: &'o Object, kind: &str) -> (&'o str, &'o str, &'o str) {
        let c = find(object, kind).unwrap();
        let text = |name: &str| c[name].as_str().unwrap();
        (text("status"), text("reason"), text("message"))
    }

    #[test]
    fn a_definition_gets_its_names_and_then_is_established() {
        let names = json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"});
        let one = named("as.g", names.clone(), json!({}));
        let at = Timestamp::UNIX_EPOCH;
        let accepted = next(&one, &[Arc::new(one.clone())], false, at).unwrap();
        assert_eq!(accepted.pointer("/status/acceptedNames"), Some(&names));
        assert_eq!(condition(&accepted, "NamesAccepted"), ("True", "NoConflicts", "no conflicts found"));
        assert_eq!(condition(&accepted, "Established").1, "Installing");
        assert_eq!(next(&accepted, &[], false, at), None);
        let established = next(&accepted, &[], true, at).unwrap();
        assert_eq!(condition(&established, "Established").1, "InitialNamesAccepted");
        assert_eq!(next(&established, &[], true, at), None);
    }

    #[test]
    fn taken_names_are_not_given_again() {
        let names = |[plural, singular, short, kind, list]: [&str; 5]| json!({"plural": plural, "singular": singular, "shortNames": [short], "kind": kind, "listKind": list});
        let taken = names(["as", "a", "x", "A", "AList"]);
        let first = Arc::new(named("as.g", taken.clone(), json!({"acceptedNames": taken})));
        let cases = [
            (["a", "b", "y", "B", "BL"], "PluralConflict", "\"a\""),
            (["b", "as", "y", "B", "BL"], "SingularConflict", "\"as\""),
            (["b", "c", "x", "B", "BL"], "ShortNamesConflict", "\"x\""),
            (["b", "c", "y", "AList", "BL"], "KindConflict", "\"AList\""),
            (["b", "c", "y", "B", "A"], "ListKindConflict", "\"A\""),
        ];
        for (wanted, reason, name) in cases {
            let names = names(wanted);
            let second = named("bs.g", names, json!({}));
            let told = next(&second, std::slice::from_ref(&first), true, Timestamp::UNIX_EPOCH).unwrap();
            let message = format!("{name} is already in use");
            assert_eq!(condition(&told, "NamesAccepted"), ("False", reason, message.as_str()));
            assert_eq!(condition(&told, "Established").1, "NotAccepted");
            // Freed names are given.
            let freed = next(&told, &[], false, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(condition(&freed, "NamesAccepted").0, "True");
            assert_eq!(condition(&freed, "Established").1, "Installing");
        }
    }

    #[test]
    fn protected_groups_need_consent() {
        let cases = [
            ("example.com", "", None),
            ("x.k8s.io", "", Some("MissingAnnotation")),
            ("x.kubernetes.io", "unapproved, testing", Some("UnapprovedAnnotation")),
            ("x.k8s.io", "https://github.com/a", Some("ApprovedAnnotation")),
            ("x.k8s.io", "yes", Some("InvalidAnnotation")),
            ("notk8s.io", "", None),
        ];
        for (group, annotation, want) in cases {
            let mut one = definition(json!({"metadata": {"name": "a"}, "spec": {"group": group}}));
            if !annotation.is_empty() {
                one.set_annotation(APPROVED, annotation);
            }
            assert_eq!(approval(&one).map(|(_, reason, _)| reason), want, "{group} {annotation}");
        }
    }
}
