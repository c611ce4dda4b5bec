//! Which kinds a policy is for, and what of its expressions does not go with their types. Pure.

use std::{fmt, sync::Arc};

use cel_engine::{
    DeclType,
    admission::{Compiler, Names},
};
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, ValidatingAdmissionPolicy};

/// Kinds of one rule that are looked at.
pub(super) const MAX_TYPES: usize = 10;

/// A kind in a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A kind and its type.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) kind: Kind,
    pub(super) decl: Arc<DeclType>,
}

/// The types of what a policy looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct Types {
    pub(super) objects: Vec<Typed>,
    pub(super) params: Option<Arc<DeclType>>,
}

/// Groups, versions and plural names that each rule names, without wildcards and subresources.
pub(super) fn rules(policy: &ValidatingAdmissionPolicy) -> Vec<Vec<(String, String, String)>> {
    let constraints = policy.spec.as_ref().and_then(|spec| spec.match_constraints.as_ref());
    let rules = constraints.and_then(|matched| matched.resource_rules.as_deref()).unwrap_or_default();
    rules.iter().map(combinations).collect()
}

fn combinations(rule: &NamedRuleWithOperations) -> Vec<(String, String, String)> {
    // A list with a wildcard names nothing.
    let named = |list: Option<&Vec<String>>| -> Vec<String> {
        let mut list = list.cloned().unwrap_or_default();
        if list.iter().any(|member| member.contains('*')) {
            list.clear();
        }
        list.sort();
        list
    };
    let (groups, versions) = (named(rule.api_groups.as_ref()), named(rule.api_versions.as_ref()));
    let mut resources = rule.resources.clone().unwrap_or_default();
    resources.retain(|resource| !resource.contains(['*', '/']));
    resources.sort();
    let mut all = Vec::new();
    for group in &groups {
        for version in &versions {
            all.extend(resources.iter().map(|plural| (group.clone(), version.clone(), plural.clone())));
        }
    }
    all
}

/// The kind of the policy's parameters.
pub(super) fn params(policy: &ValidatingAdmissionPolicy) -> Option<Kind> {
    let kind = policy.spec.as_ref()?.param_kind.as_ref()?;
    let api_version = kind.api_version.clone().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    Some(Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.kind.clone().unwrap_or_default(),
    })
}

/// Fields of the policy whose expressions do not go with a type, and what is wrong.
pub(super) fn warnings(policy: &ValidatingAdmissionPolicy, types: &Types) -> Vec<(String, String)> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let names = Names { params: spec.param_kind.is_some(), authorizer: true, patches: false };
    let compilers: Vec<(&Kind, Compiler)> = types
        .objects
        .iter()
        .map(|typed| {
            let mut compiler = Compiler::typed(Some(typed.decl.clone()), types.params.clone());
            for variable in spec.variables.iter().flatten() {
                // A variable that does not compile is told of where it is used.
                compiler.add(&variable.name, &variable.expression, names).unwrap_or_default();
            }
            (&typed.kind, compiler)
        })
        .collect();
    let mut warnings = Vec::new();
    let mut check = |field: String, source: &str| {
        let wrong = compilers.iter().filter_map(|(kind, compiler)| {
            let why = compiler.compile(source, names, &[]).program.err()?;
            Some(format!("{kind}: {why}\n"))
        });
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            warnings.push((field, wrong.join("\n")));
        }
    };
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        check(format!("spec.validations[{index}].expression"), &validation.expression);
        if let Some(message) = validation.message_expression.as_deref().filter(|m| !m.is_empty()) {
            check(format!("spec.validations[{index}].messageExpression"), message);
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: serde_json::Value) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn types() -> Types {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        }});
        let decl = Arc::new(DeclType::from_schema(&schema, true, "Object.Deployment").unwrap());
        let kind = Kind { group: "apps".to_owned(), version: "v1".to_owned(), kind: "Deployment".to_owned() };
        Types { objects: vec![Typed { kind, decl }], params: None }
    }

    #[test]
    fn rules_name_kinds_without_wildcards() {
        let rule = |groups, versions, resources| json!({"apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"]});
        let policy = policy(json!({"matchConstraints": {"resourceRules": [
            rule(json!(["b", "a"]), json!(["v1"]), json!(["y", "x", "x/status"])),
            rule(json!(["*"]), json!(["v1"]), json!(["x"])),
            rule(json!([""]), json!(["v1"]), json!(["*", "pods"])),
        ]}}));
        let of = |group: &str, resource: &str| (group.to_owned(), "v1".to_owned(), resource.to_owned());
        assert_eq!(
            rules(&policy),
            [vec![of("a", "x"), of("a", "y"), of("b", "x"), of("b", "y")], vec![], vec![of("", "pods")]]
        );
        assert!(rules(&ValidatingAdmissionPolicy::default()).is_empty());
    }

    #[test]
    fn expressions_are_checked_against_the_type() {
        let good = policy(json!({
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.n > 1 && oldObject.spec.replicas < 3 && params == null"}],
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        }));
        assert!(warnings(&good, &types()).is_empty(), "{:?}", warnings(&good, &types()));
        let confused = policy(json!({"validations": [
            {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
            {"expression": "object.spec.maxRetries < 10"},
        ]}));
        let found = warnings(&confused, &types());
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.validations[0].expression",
                "spec.validations[0].messageExpression",
                "spec.validations[1].expression"
            ]
        );
        assert!(
            found[0].1.starts_with("apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:22: ")
        );
        for (index, text) in [
            "found no matching overload for '_>_' applied to '(int, string)'",
            "found no matching overload for '_+_' applied to '(string, int)'",
            "undefined field 'maxRetries'",
        ]
        .iter()
        .enumerate()
        {
            assert!(found[index].1.contains(text), "{}", found[index].1);
        }
        assert!(warnings(&confused, &Types::default()).is_empty(), "no type, no warning");
    }
}
