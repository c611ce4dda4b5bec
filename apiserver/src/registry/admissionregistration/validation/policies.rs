//! What is wrong with policies and their bindings.

use cel_engine::{RESERVED_WORDS, Type};
use serde_json::Value;

use super::matching::{compiles, conditions, constraints, mutable};
use crate::{
    apiextensions::jsonpath::JsonPath,
    expressions::{Compiler, Names, json_patch_type, object_type},
    field::{ErrorList, Path},
    object::Object,
    registry::kit::{at::At, conditions, format, semantic},
    validate,
};

/// Audit annotations a policy may have.
const MAX_ANNOTATIONS: usize = 20;
/// Bytes of the expression of an audit annotation.
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;

/// A validating policy.
pub(in crate::registry::admissionregistration) fn validating(
    object: &Object,
    old: Option<&Object>,
    errors: &mut ErrorList,
) {
    let spec = At::spec(object);
    let (compiler, names) = common(&spec, old.map(At::spec).as_ref(), |_, _| (), errors);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for missing in [&validations, &annotations] {
            missing.required(errors, "validations or auditAnnotations must contain at least one item");
        }
        return;
    }
    for one in validations.items() {
        validation(&one, &compiler, names, errors);
    }
    if annotations.len() > MAX_ANNOTATIONS {
        annotations.invalid(errors, format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations"));
    }
    let mut keys = Vec::new();
    for one in annotations.items() {
        annotation(object.name(), &one, &compiler, names, errors);
        let key = one.get("key");
        if keys.contains(&key.text()) {
            key.duplicate(errors);
        }
        keys.push(key.text());
    }
}

/// A mutating policy.
pub(in crate::registry::admissionregistration) fn mutating(
    object: &Object,
    old: Option<&Object>,
    errors: &mut ErrorList,
) {
    let spec = At::spec(object);
    let (compiler, names) = common(&spec, old.map(At::spec).as_ref(), mutable, errors);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        mutations.required(errors, "mutations must contain at least one item");
    }
    for one in mutations.items() {
        mutation(&one, &compiler, Names { patches: true, ..names }, errors);
    }
    spec.get("reinvocationPolicy").check_one_of(errors, &["IfNeeded", "Never"]);
}

/// A binding of a validating policy.
pub(in crate::registry::admissionregistration) fn validating_binding(
    object: &Object,
    errors: &mut ErrorList,
) {
    let spec = At::spec(object);
    binding(&spec, errors);
    let actions = spec.get("validationActions");
    let mut seen = Vec::new();
    for action in actions.items() {
        action.check_option_of(errors, &["Audit", "Deny", "Warn"]);
        if seen.contains(&action.text()) {
            action.duplicate(errors);
        }
        seen.push(action.text());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        actions.invalid(
            errors,
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        actions.required(errors, "at least one validation action is required");
    }
}

/// A binding of a mutating policy.
pub(in crate::registry::admissionregistration) fn mutating_binding(object: &Object, errors: &mut ErrorList) {
    let spec = At::spec(object);
    binding(&spec, errors);
    mutable(&spec.get("matchResources"), errors);
}

/// What both kinds of policies have, with what one of them asks of its constraints; the compiler knows the variables
/// afterwards. Conditions that are what they were and speak of the same parameters are not looked at again.
fn common(
    spec: &At<'_>,
    was: Option<&At<'_>>,
    constrain: fn(&At<'_>, &mut ErrorList),
    errors: &mut ErrorList,
) -> (Compiler, Names) {
    let failures = spec.get("failurePolicy");
    if failures.check_there(errors) {
        failures.check_option_of(errors, &["Fail", "Ignore"]);
    }
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(&kind, errors);
    }
    let matched = spec.get("matchConstraints");
    if matched.check_there(errors) {
        constraints(&matched, errors);
        matched.get("resourceRules").check_required(errors);
        constrain(&matched, errors);
    }
    let same = |field: &str, was: &At<'_>| semantic::same(was.get(field).value(), spec.get(field).value());
    if !was.is_some_and(|was| same("paramKind", was) && same("matchConditions", was)) {
        conditions(&spec.get("matchConditions"), kind.is_set(), errors);
    }
    let names = Names { params: kind.is_set(), authorizer: true, patches: false };
    let mut compiler = Compiler::new();
    for one in spec.get("variables").items() {
        variable(&one, &mut compiler, names, errors);
    }
    (compiler, names)
}

fn param_kind(at: &At<'_>, errors: &mut ErrorList) {
    let api_version = at.get("apiVersion");
    if api_version.check_required(errors) {
        param_version(&api_version, errors);
    }
    let kind = at.get("kind");
    if kind.check_required(errors) {
        let wrong = validate::dns_1035_label(&kind.text().to_ascii_lowercase());
        if !wrong.is_empty() {
            kind.invalid(
                errors,
                format!("may have mixed case, but should otherwise match: {}", wrong.join(",")),
            );
        }
    }
}

fn param_version(at: &At<'_>, errors: &mut ErrorList) {
    let (group, version) = at.text().split_once('/').unwrap_or(("", at.text()));
    if version.contains('/') {
        return at.invalid(errors, format!("unexpected GroupVersion string: {}", at.text()));
    }
    let wrong = validate::dns_subdomain(group, false);
    if !group.is_empty() && !wrong.is_empty() {
        at.invalid_as(errors, group, wrong.join(","));
    }
    let wrong = validate::dns_1035_label(version);
    if version.is_empty() {
        at.invalid(errors, "version must be specified");
    } else if !wrong.is_empty() {
        at.invalid_as(errors, version, wrong.join(","));
    }
}

fn variable(at: &At<'_>, compiler: &mut Compiler, names: Names, errors: &mut ErrorList) {
    let (name, source) = (at.get("name"), at.get("expression"));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.text().trim().is_empty() {
        name.required(errors, "name is not specified");
    } else if !name.text().chars().all(word)
        || name.text().starts_with(|c: char| c.is_ascii_digit())
        || RESERVED_WORDS.contains(&name.text())
    {
        name.invalid(errors, "must be a valid CEL identifier");
    }
    if source.text().trim().is_empty() {
        source.required(errors, "expression is not specified");
    } else if let Err(why) = compiler.add(name.text(), source.text(), names) {
        source.invalid(errors, why);
    }
}

fn validation(at: &At<'_>, compiler: &Compiler, names: Names, errors: &mut ErrorList) {
    let source = at.get("expression");
    if source.text().trim().is_empty() {
        source.required(errors, "expression is not specified");
    } else {
        compiles(&source, compiler, names, &[Type::Bool], errors);
    }
    let evaluated = at.get("messageExpression");
    if evaluated.text().trim().is_empty() {
        if !evaluated.is_empty() {
            evaluated.invalid(errors, "must be non-empty if specified");
        }
    } else {
        compiles(&evaluated, compiler, Names { authorizer: false, ..names }, &[Type::String], errors);
    }
    let message = at.get("message");
    let trimmed = message.text().trim();
    if !message.is_empty() && trimmed.is_empty() {
        message.invalid(errors, "must be non-empty if specified");
    } else if trimmed.contains(['\n', '\r']) {
        message.invalid(errors, "must not contain line breaks");
    }
    at.get("reason").check_option_of(errors, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
}

fn annotation(policy: &str, at: &At<'_>, compiler: &Compiler, names: Names, errors: &mut ErrorList) {
    let (key, source) = (at.get("key"), at.get("valueExpression"));
    if policy.is_empty() {
        key.invalid(errors, "requires metadata.name be non-empty");
    } else {
        let whole = format!("{policy}/{}", key.text());
        for wrong in format::qualified_name(&whole) {
            key.invalid_as(errors, whole.as_str(), wrong);
        }
    }
    let trimmed = source.text().trim();
    if trimmed.is_empty() {
        source.required(errors, "valueExpression is not specified");
    } else if trimmed.len() > MAX_ANNOTATION_EXPRESSION {
        source.required(errors, format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length"));
    } else if let Err(why) = compiler.compile(trimmed, names, &[Type::String, Type::Null]).program {
        source.invalid(errors, why);
    }
}

fn mutation(at: &At<'_>, compiler: &Compiler, names: Names, errors: &mut ErrorList) {
    let (apply, patch) = (at.get("applyConfiguration"), at.get("jsonPatch"));
    let kind = at.get("patchType");
    let (wanted, other, types) = match kind.text() {
        "" => return kind.required(errors, ""),
        "ApplyConfiguration" => ((apply, "applyConfiguration"), (patch, "jsonPatch"), object_type()),
        "JSONPatch" => ((patch, "jsonPatch"), (apply, "applyConfiguration"), Type::list(json_patch_type())),
        _ => return kind.not_supported(errors, &["ApplyConfiguration", "JSONPatch"]),
    };
    if wanted.0.is_set() {
        let source = wanted.0.get("expression");
        if source.text().trim().is_empty() {
            source.required(errors, "");
        } else {
            let trimmed = Value::from(source.text().trim());
            let trimmed = At::new(&trimmed, source.path().clone());
            compiles(&trimmed, compiler, names, &[types], errors);
        }
    } else {
        wanted.0.required(errors, format!("must be specified when patchType is {}", kind.text()));
    }
    if other.0.is_set() {
        let why = format!("must not be specified when patchType is {}", kind.text());
        other.0.invalid_as(errors, format!("{{{}}}", other.1), why);
    }
}

/// What bindings of both kinds of policies have.
fn binding(spec: &At<'_>, errors: &mut ErrorList) {
    spec.get("policyName").check_required_format(errors, format::dns_subdomain);
    let params = spec.get("paramRef");
    if params.is_set() {
        param_ref(&params, errors);
    }
    let matched = spec.get("matchResources");
    if matched.is_set() {
        constraints(&matched, errors);
    }
}

fn param_ref(at: &At<'_>, errors: &mut ErrorList) {
    let (name, selector) = (at.get("name"), at.get("selector"));
    const EITHER: &str = "name and selector are mutually exclusive";
    if !name.is_empty() {
        name.check_format(errors, format::path_segment);
        if selector.is_set() {
            name.forbidden(errors, EITHER);
        }
    }
    if selector.is_set() {
        selector.check_selector(errors);
        if !name.is_empty() {
            selector.forbidden(errors, EITHER);
        }
    }
    if name.is_empty() && !selector.is_set() {
        at.required(errors, "one of name or selector must be specified");
    }
    let action = at.get("parameterNotFoundAction");
    if action.check_required(errors) {
        action.check_among(errors, &["Deny", "Allow"]);
    }
}

/// The status of a validating policy: what its type check found, and conditions.
pub(in crate::registry::admissionregistration) fn status(object: &Object, errors: &mut ErrorList) {
    let found = At::new(object.get("status").unwrap_or(&Value::Null), Path::new("status"));
    for warning in found.get("typeChecking").get("expressionWarnings").items() {
        warning.get("warning").check_required(errors);
        let field = warning.get("fieldRef");
        let trimmed = field.text().trim();
        if trimmed.is_empty() {
            field.required(errors, "");
        } else if let Err(why) = JsonPath::parse(&format!(".{}", trimmed.trim_start_matches('.'))) {
            field.invalid_as(errors, trimmed, format!("invalid JSONPath: {why}"));
        }
    }
    conditions::check(&found.get("conditions"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::registry::testing::{Kind, changed};

    fn kind(plural: &str) -> Kind {
        Kind::new("admissionregistration.k8s.io", plural)
    }

    fn policy(spec: Value) -> Value {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}}});
        policy["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        policy
    }

    #[test]
    fn parameters_have_a_version_and_a_kind() {
        let with = |kind: Value| policy(json!({"paramKind": kind, "validations": [{"expression": "true"}]}));
        let validating = kind("validatingadmissionpolicies");
        let cases: [(Value, &[&str]); 5] = [
            (json!({"apiVersion": "v1", "kind": "ConfigMap"}), &[]),
            (
                json!({}),
                &["spec.paramKind.apiVersion: Required value", "spec.paramKind.kind: Required value"],
            ),
            (
                json!({"apiVersion": "a/b/c"}),
                &[
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Required value",
                ],
            ),
            (
                json!({"apiVersion": "/", "kind": "A"}),
                &["spec.paramKind.apiVersion: Invalid value: \"/\": version must be specified"],
            ),
            (
                json!({"apiVersion": "example.com/", "kind": "A"}),
                &["spec.paramKind.apiVersion: Invalid value: \"example.com/\": version must be specified"],
            ),
        ];
        for (kind, errors) in cases {
            assert_eq!(validating.errors(with(kind.clone())), errors, "{kind}");
        }
    }

    #[test]
    fn mutations_are_not_asked_for_where_nothing_is_written() {
        let rules = [("/spec/matchConstraints/resourceRules/0/operations", json!(["DELETE"]))];
        let conditions = json!([{"name": "", "expression": "true"}]);
        let policy =
            policy(json!({"reinvocationPolicy": "Never", "matchConditions": conditions, "mutations": []}));
        assert_eq!(
            kind("mutatingadmissionpolicies").errors(changed(&policy, &rules)),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                "spec.matchConditions[0].name: Required value",
                "spec.mutations: Required value: mutations must contain at least one item",
            ]
        );
    }

    #[test]
    fn what_a_type_check_found_stands_at_a_field() {
        let validating = kind("validatingadmissionpolicies");
        let (policy, _) = validating.create(policy(json!({"validations": [{"expression": "true"}]})));
        let found = |field: &str| {
            let status =
                json!({"typeChecking": {"expressionWarnings": [{"fieldRef": field, "warning": "w"}]}});
            validating.update(changed(&policy, &[("/status", status)]), policy.clone(), "status").1
        };
        assert_eq!(found("spec.validations[0].expression"), Vec::<String>::new());
        let at = "status.typeChecking.expressionWarnings[0].fieldRef";
        assert_eq!(found(" "), [format!("{at}: Required value")]);
        let wrong = found("spec[");
        assert!(
            wrong.len() == 1
                && wrong[0].starts_with(&format!("{at}: Invalid value: \"spec[\": invalid JSONPath: "))
        );
    }
}
