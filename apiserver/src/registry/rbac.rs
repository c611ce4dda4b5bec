//! Resources of the group rbac.authorization.k8s.io, one file each, one line each in [`resources`].

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, at::At, column, fill, format, shape},
    },
};

mod clusterrolebindings;
mod clusterroles;
mod rolebindings;
mod roles;

const GROUP: &str = "rbac.authorization.k8s.io";

#[cfg(test)]
mod tests;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        clusterrolebindings::resource(),
        clusterroles::resource(),
        rolebindings::resource(),
        roles::resource(),
    ]
}

/// A binding's role is of this group, and so are users and groups it is for.
fn default_binding(obj: &mut Object) {
    let Some(role) = fill::made(obj.as_map_mut(), "roleRef") else { return };
    fill::missing(role, "apiGroup", GROUP);
    for subject in fill::members(obj.as_map_mut(), "subjects") {
        if matches!(fill::string(subject, "kind"), "User" | "Group") {
            fill::missing(subject, "apiGroup", GROUP);
        }
    }
}

/// Rules name verbs, and either resources of groups or paths.
fn check_rules(obj: &Object, namespaced: bool, errors: &mut ErrorList) {
    for rule in At::field(obj, "rules").items() {
        if rule.get("verbs").is_empty() {
            rule.get("verbs").required(errors, "verbs must contain at least one value");
        }
        let urls = rule.get("nonResourceURLs");
        if urls.is_empty() {
            for (field, what) in [("apiGroups", "api group"), ("resources", "resource")] {
                if rule.get(field).is_empty() {
                    rule.get(field)
                        .required(errors, format!("resource rules must supply at least one {what}"));
                }
            }
            continue;
        }
        if namespaced {
            urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !rule.get(field).is_empty()) {
            urls.invalid(errors, "rules cannot apply to both regular resources and non-resource URLs");
        }
    }
}

/// A binding names a role of this group and who gets it.
fn check_binding(obj: &Object, namespaced: bool, errors: &mut ErrorList) {
    let role = At::field(obj, "roleRef");
    role.get("apiGroup").check_is_one_of(errors, &[GROUP]);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = role.get("kind");
    if !kinds.contains(&kind.text()) {
        kind.not_among(errors, kinds);
    }
    role.get("name").check_path_name(errors);
    At::field(obj, "subjects").items().for_each(|subject| check_subject(&subject, namespaced, errors));
}

fn check_subject(subject: &At<'_>, namespaced: bool, errors: &mut ErrorList) {
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    let named = name.check_required(errors);
    match subject.get("kind").text() {
        "ServiceAccount" => {
            if named {
                name.check_format(errors, format::dns_subdomain);
            }
            if !group.is_empty() {
                group.not_supported(errors, &[""]);
            }
            if !namespaced {
                subject.get("namespace").check_required(errors);
            }
        }
        "User" | "Group" => group.check_is_one_of(errors, &[GROUP]),
        _ => subject.get("kind").not_among(errors, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding's role is what it was.
fn keeps_role(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (role, was) = (At::field(new, "roleRef"), At::field(old, "roleRef"));
    if role.value() != was.value() {
        role.invalid_go(errors, &shape::ROLE_REF, "cannot change roleRef");
    }
}

/// Columns of bindings.
const BINDING_COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Role", "string"),
    column("Age", "string"),
    column("Users", "string").wide(),
    column("Groups", "string").wide(),
    column("ServiceAccounts", "string").wide(),
];
/// Cells of bindings.
const BINDING_CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(role),
    Cell::Age,
    Cell::With(|binding| subjects(binding, "User")),
    Cell::With(|binding| subjects(binding, "Group")),
    Cell::With(|binding| subjects(binding, "ServiceAccount")),
];

fn role(binding: &Object) -> Value {
    let role = At::field(binding, "roleRef");
    format!("{}/{}", role.text_of("kind"), role.text_of("name")).into()
}

/// Who of a kind gets the role.
fn subjects(binding: &Object, kind: &str) -> Value {
    let all = At::field(binding, "subjects");
    let named = all.items().filter(|subject| subject.text_of("kind") == kind).map(|subject| {
        let (namespace, name) = (subject.text_of("namespace"), subject.text_of("name"));
        match kind {
            "ServiceAccount" if !namespace.is_empty() => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        }
    });
    named.collect::<Vec<_>>().join(", ").into()
}
