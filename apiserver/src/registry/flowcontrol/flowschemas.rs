//! `flowschemas` of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    flowcontrol::bootstrap,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format, items, semantic, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("PriorityLevel", "string"),
    column("MatchingPrecedence", "string"),
    column("DistinguisherMethod", "string"),
    column("Age", "string"),
    column("MissingPL", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/priorityLevelConfiguration/name", ""),
    Cell::Field("/spec/matchingPrecedence", "0"),
    Cell::Field("/spec/distinguisherMethod/type", "<none>"),
    Cell::Age,
    Cell::With(dangling),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_status: |new, _, errors| super::check_conditions(new, errors),
            status_alone: true,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", "flowschema")
    }
}

/// Whether the level it leads to is missing.
fn dangling(schema: &Object) -> Value {
    let mut conditions = items(schema.pointer("/status/conditions"));
    let found = conditions.find(|condition| text(condition, "/type") == "Dangling");
    found.map_or("?", |condition| text(condition, "/status")).into()
}

/// A precedence in the middle.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    super::zero(spec, "matchingPrecedence", 1000);
}

const LAST: i64 = 10_000;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn validate(schema: &Object, errors: &mut ErrorList) {
    let spec = At::spec(schema);
    let precedence = spec.get("matchingPrecedence");
    match precedence.int() {
        n if n <= 0 => precedence.invalid_as(errors, n, "must be a positive value"),
        n if n > LAST => precedence.invalid(errors, format!("must not be greater than {LAST}")),
        1 if schema.name() != "exempt" => {
            precedence.invalid(errors, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        _ => {}
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.text_of("type"), "ByNamespace" | "ByUser") {
        let path = method.path().child("type");
        errors.push(Error::not_supported(&path, method.value().clone(), &["ByNamespace", "ByUser"]));
    }
    let level = spec.get("priorityLevelConfiguration").get("name");
    if level.is_empty() {
        level.required(errors, "must reference a priority level");
    } else {
        level.check_format(errors, format::dns_subdomain);
    }
    spec.get("rules").items().for_each(|rule| check_rule(&rule, errors));
    let (_, mandatory) = bootstrap::mandatory();
    let fixed = mandatory.iter().find(|fixed| fixed.name() == schema.name());
    if fixed.is_some_and(|fixed| !semantic::same(At::spec(fixed).value(), spec.value())) {
        spec.invalid(errors, format!("spec of '{}' must equal the fixed value", schema.name()));
    }
    super::check_conditions(schema, errors);
}

fn check_rule(rule: &At<'_>, errors: &mut ErrorList) {
    let (subjects, resources, urls) =
        (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.is_empty() {
        subjects.required(errors, "subjects must contain at least one value");
    }
    subjects.items().for_each(|subject| check_subject(&subject, errors));
    if resources.is_empty() && urls.is_empty() {
        rule.required(errors, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.items().for_each(|rule| check_resources(&rule, errors));
    urls.items().for_each(|rule| check_urls(&rule, errors));
}

fn check_subject(subject: &At<'_>, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] =
        [("serviceAccount", "ServiceAccount"), ("user", "User"), ("group", "Group")];
    let kind = subject.get("kind");
    let Some((own, _)) = KINDS.iter().find(|(_, name)| *name == kind.text()) else {
        return errors.push(Error::not_supported(
            kind.path(),
            kind.text(),
            &["Group", "ServiceAccount", "User"],
        ));
    };
    let who = subject.get(own);
    if !who.is_set() {
        who.required(errors, format!("{own} is required when subject kind is '{}'", kind.text()));
    } else {
        let name = who.get("name");
        let named = name.check_required(errors);
        if *own == "serviceAccount" {
            if named && name.text() != "*" {
                name.check_format(errors, format::dns_subdomain);
            }
            let namespace = who.get("namespace");
            if namespace.is_empty() {
                namespace.required(errors, "must specify namespace for service account");
            } else {
                namespace.check_format(errors, format::dns_label);
            }
        }
    }
    for (field, name) in KINDS.iter().filter(|(field, _)| field != own && subject.has(field)) {
        let detail = format!("{field} is forbidden when subject kind is not '{name}'");
        subject.get(field).forbidden(errors, detail);
    }
}

fn has_wildcard(list: &At<'_>) -> bool {
    list.items().any(|one| one.text() == "*")
}

/// All of something, or some of it by name.
fn check_all_or_some(list: &At<'_>, missing: &str, others: &str, errors: &mut ErrorList) {
    if list.is_empty() {
        list.required(errors, missing);
    } else if list.len() > 1 && has_wildcard(list) {
        list.invalid(errors, format!("if '*' is present, must not specify other {others}"));
    }
}

fn check_verbs(verbs: &At<'_>, errors: &mut ErrorList) {
    check_all_or_some(verbs, "verbs must contain at least one value", "verbs", errors);
    if !has_wildcard(verbs) && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        verbs.not_supported(errors, VERBS);
    }
}

fn check_urls(rule: &At<'_>, errors: &mut ErrorList) {
    check_verbs(&rule.get("verbs"), errors);
    let urls = rule.get("nonResourceURLs");
    let missing = "nonResourceURLs must contain at least one value";
    check_all_or_some(&urls, missing, "non-resource URLs", errors);
    if has_wildcard(&urls) {
        return;
    }
    for url in urls.items() {
        let text = url.text();
        let wrong = match text {
            "/" => continue,
            "" => "must not be empty",
            _ if !text.starts_with('/') => "must start with slash",
            _ if text.contains(' ') => "must not contain white-space",
            _ if text.contains("//") => "must not contain double slash",
            _ => match text.matches('*').count() {
                0 => continue,
                1 if text.ends_with("/*") => continue,
                _ => "wildcard can only do suffix matching",
            },
        };
        url.invalid_as(errors, text, wrong);
    }
}

fn check_resources(rule: &At<'_>, errors: &mut ErrorList) {
    check_verbs(&rule.get("verbs"), errors);
    let (groups, resources) = (rule.get("apiGroups"), rule.get("resources"));
    check_all_or_some(&groups, "resource rules must supply at least one api group", "api groups", errors);
    check_all_or_some(&resources, "resource rules must supply at least one resource", "resources", errors);
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() {
        if !rule.get("clusterScope").is_true() {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            namespaces.required(errors, detail);
        }
        return;
    }
    check_all_or_some(&namespaces, "", "namespaces", errors);
    if has_wildcard(&namespaces) {
        return;
    }
    for namespace in namespaces.items() {
        for detail in format::dns_label(namespace.text()) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {detail}");
            namespace.invalid_as(errors, namespace.text(), detail);
        }
    }
}
