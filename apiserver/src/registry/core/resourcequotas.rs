//! `resourcequotas`.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, resources, shape},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Request", "string"),
    column("Limit", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::With(|quota| used(quota, false)), Cell::With(|quota| used(quota, true)), Cell::Age];

/// Amounts are whole thousandths.
fn default(quota: &mut Object) {
    for (part, fields) in [("spec", &["hard"][..]), ("status", &["hard", "used"])] {
        let Some(part) = fill::child(quota.as_map_mut(), part) else { continue };
        fields.iter().for_each(|field| resources::round_up(part.get_mut(*field)));
    }
}

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["quota"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_change,
            validate_status: |new, _, errors| check_amounts(&At::status(new), &["hard", "used"], errors),
            warnings,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("", "ResourceQuota", "resourcequotas", "resourcequota")
    }
}

/// What is used of what there is, of limits or of all else.
fn used(quota: &Object, limits: bool) -> Value {
    let status = At::status(quota);
    let amount = |field: &str, name: &str| match status.get(field).get(name).quantity() {
        Some(amount) => amount.to_string(),
        None => "0".to_owned(),
    };
    let hard = status.get("hard");
    let names = hard.entries().map(|(name, _)| name).filter(|name| name.starts_with("limits.") == limits);
    let cells: Vec<String> =
        names.map(|name| format!("{name}: {}/{}", amount("used", name), amount("hard", name))).collect();
    cells.join(", ").into()
}

/// Scopes that ask for a value of their own, and those that exist or do not.
const VALUED: &[&str] = &["PriorityClass", "VolumeAttributesClass"];
const PLAIN_SCOPES: &[&str] =
    &["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
const OPPOSITES: &[(&str, &str)] = &[("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];

fn check_amounts(at: &At<'_>, fields: &[&str], errors: &mut ErrorList) {
    for (name, amount) in fields.iter().flat_map(|field| at.get(field).entries()) {
        resources::check_quota_name(name, amount.path(), errors);
        resources::check_amount(name, &amount, errors);
    }
}

fn validate(quota: &Object, errors: &mut ErrorList) {
    let spec = At::spec(quota);
    check_amounts(&spec, &["hard"], errors);
    check_scopes(&spec, errors);
    check_selector(&spec, errors);
}

/// Whether a resource is counted by what a scope selects.
fn is_counted(scope: &str, resource: &str) -> bool {
    const COMPUTE: &[&str] =
        &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ if is_scope(scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn is_scope(scope: &str) -> bool {
    VALUED.contains(&scope) || PLAIN_SCOPES.contains(&scope)
}

/// Resources of the quota that a scope does not count.
fn uncounted(spec: &At<'_>, scope: &str) -> usize {
    let hard = spec.get("hard");
    hard.entries().filter(|(name, _)| resources::is_of_quotas(name) && !is_counted(scope, name)).count()
}

fn check_scopes(spec: &At<'_>, errors: &mut ErrorList) {
    let scopes = spec.get("scopes");
    for scope in scopes.items() {
        if !is_scope(scope.text()) {
            scopes.invalid(errors, "unsupported scope");
        }
        for _ in 0..uncounted(spec, scope.text()) {
            scopes.invalid(errors, "unsupported scope applied to resource");
        }
    }
    let has = |name: &str| scopes.items().any(|scope| scope.text() == name);
    for _ in OPPOSITES.iter().filter(|(one, other)| has(one) && has(other)) {
        scopes.invalid(errors, "conflicting scopes");
    }
}

fn check_selector(spec: &At<'_>, errors: &mut ErrorList) {
    let selector = spec.get("scopeSelector");
    let all = selector.get("matchExpressions");
    for term in all.items() {
        // Told of as fields of the list.
        let at = |field: &'static str| term.get(field).named(all.path().child(field));
        let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
        if !is_scope(scope.text()) {
            scope.invalid_as(errors, scope.text(), "unsupported scope");
        }
        for _ in 0..uncounted(spec, scope.text()) {
            let wrong = "unsupported scope applied to resource";
            let wrong = Error::invalid(all.path(), selector.value().clone(), wrong);
            errors.push(wrong.shown_as(&shape::SCOPE_SELECTOR));
        }
        if PLAIN_SCOPES.contains(&scope.text()) && operator.text() != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            operator.invalid_as(errors, operator.text(), detail);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                values.required(errors, detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                values.invalid(errors, detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => operator.invalid_as(errors, other, "not a valid selector operator"),
        }
    }
    let has = |name: &str| all.items().any(|term| term.text_of("scopeName") == name);
    for _ in OPPOSITES.iter().filter(|(one, other)| has(one) && has(other)) {
        all.invalid_as(errors, spec.get("scopes").value().clone(), "conflicting scopes");
    }
}

/// Scopes stay what they are, in any order.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let set =
        |quota| At::spec(quota).get("scopes").items().map(|scope| scope.text()).collect::<BTreeSet<_>>();
    if set(new) != set(old) {
        At::spec(new).get("scopes").invalid(errors, "field is immutable");
    }
}

/// More may be asked for than may be used.
fn warnings(quota: &Object, old: Option<&Object>) -> Vec<String> {
    let hard = At::spec(quota).get("hard");
    let mut warnings = Vec::new();
    if old.is_some() {
        return warnings;
    }
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let (mut request, limit) = (format!("requests.{resource}"), format!("limits.{resource}"));
        if !hard.has(&request) && matches!(resource, "cpu" | "memory") {
            request = resource.to_owned();
        }
        let (Some(asked), Some(used)) = (hard.get(&request).quantity(), hard.get(&limit).quantity()) else {
            continue;
        };
        if asked > used {
            warnings.push(format!("ResourceQuota {request} ({asked}) should be less than {limit} ({used})"));
        }
    }
    warnings
}
