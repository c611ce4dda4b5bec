//! What is wrong with rules, constraints and conditions: which writes webhooks and policies look at.

use cel_engine::Type;
use serde_json::Value;

use crate::{
    expressions::{Compiler, Names},
    field::ErrorList,
    registry::kit::{at::At, format},
};

/// Conditions one webhook or policy may have.
const MAX_CONDITIONS: usize = 64;

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub(super) fn constraints(at: &At<'_>, errors: &mut ErrorList) {
    let policy = at.get("matchPolicy");
    if policy.check_there(errors) {
        policy.check_option_of(errors, &["Equivalent", "Exact"]);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = at.get(field);
        if selector.check_there(errors) {
            selector.check_selector(errors);
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for named in at.get(field).items() {
            let mut seen = Vec::new();
            for name in named.get("resourceNames").items() {
                name.check_format(errors, format::path_segment);
                if seen.contains(&name.text()) {
                    name.duplicate(errors);
                }
                seen.push(name.text());
            }
            rule(&named, errors);
        }
    }
}

/// Operations that a mutating policy cannot change anything of.
pub(super) fn mutable(at: &At<'_>, errors: &mut ErrorList) {
    let rules = at.get("resourceRules");
    for operation in rules.items().flat_map(|rule| rule.get("operations").items().collect::<Vec<_>>()) {
        let operation = operation.named(rules.path().child("operations"));
        operation.check_option_of(errors, &["*", "CONNECT", "CREATE", "UPDATE"]);
    }
}

/// A rule of operations and resources.
pub(super) fn rule(at: &At<'_>, errors: &mut ErrorList) {
    let operations = at.get("operations");
    alone(&operations, "operations", errors);
    for operation in operations.items() {
        operation.check_option_of(errors, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    alone(&at.get("apiGroups"), "API groups", errors);
    let versions = at.get("apiVersions");
    alone(&versions, "API versions", errors);
    versions.items().for_each(|version| {
        version.check_required(errors);
    });
    resources(&at.get("resources"), errors);
    at.get("scope").check_option_of(errors, &["*", "Cluster", "Namespaced"]);
}

/// A list that is there, and in which `*` stands alone.
fn alone(list: &At<'_>, what: &str, errors: &mut ErrorList) {
    list.check_required(errors);
    if list.len() > 1 && list.items().any(|member| member.text() == "*") {
        list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
}

/// Resources and subresources, none of which another one covers.
fn resources(list: &At<'_>, errors: &mut ErrorList) {
    list.check_required(errors);
    let (mut all_of, mut everywhere) = (Vec::new(), Vec::new());
    let mut plain = false;
    for member in list.items() {
        let text = member.text();
        if !member.check_required(errors) {
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_of.contains(&resource) {
            member.invalid(errors, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if everywhere.contains(&sub) {
            member.invalid(errors, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            everywhere.push(sub);
        }
    }
    let has = |wanted: &str| list.items().any(|member| member.text() == wanted);
    if list.len() > 1 && has("*/*") {
        list.invalid(errors, "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        list.invalid(errors, "if '*' is present, must not specify other resources without subresources");
    }
}

/// `matchConditions`, of a policy with or without parameters.
pub(super) fn conditions(at: &At<'_>, params: bool, errors: &mut ErrorList) {
    at.check_members(errors, MAX_CONDITIONS);
    let names = Names { params, authorizer: true, patches: false };
    let mut seen = Vec::new();
    for condition in at.items() {
        let source = condition.get("expression");
        if source.text().trim().is_empty() {
            source.required(errors, "");
        } else {
            let trimmed = Value::from(source.text().trim());
            let trimmed = At::new(&trimmed, source.path().clone());
            compiles(&trimmed, &Compiler::new(), names, &[Type::Bool], errors);
        }
        let name = condition.get("name");
        name.check_required_format(errors, format::qualified_name);
        if !name.is_empty() && seen.contains(&name.text()) {
            name.duplicate(errors);
        }
        seen.push(name.text());
    }
}

/// An expression compiles to one of the types.
pub(super) fn compiles(
    source: &At<'_>,
    compiler: &Compiler,
    names: Names,
    types: &[Type],
    errors: &mut ErrorList,
) {
    if let Err(why) = compiler.compile(source.text(), names, types).program {
        source.invalid(errors, why);
    }
}
