//! Admission policies: expressions of the cluster's owner refuse and change writes, and are checked when they are written.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Answer, Client, ControlPlane, client::MERGE_PATCH, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("a policy refuses with its message, reason and code", refusal),
    ("a policy without a binding does nothing, and one that goes lets pass again", bindings),
    ("variables build on each other and conditions choose", variables),
    ("parameters come from objects of any kind", parameters),
    ("parameters that are not there deny or allow, as told", missing_parameters),
    ("a failed validation may only warn", warnings),
    ("an expression that fails is up to the failure policy", failure_policy),
    ("an expression that does too much is stopped", budget),
    ("expressions know what the user may do", authorizer),
    ("policies see deletions and subresources", operations),
    ("expressions that do not compile are refused where they stand", compile_errors),
    ("what else is wrong with policies and bindings is told", invalid),
    ("mutations are applied and patched in their order", mutation),
    ("custom resources are refused and changed like built-in ones", custom_resources),
    ("conditions choose which writes a webhook sees", match_conditions),
];

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Policies of one test, gone when it ends.
struct Policies {
    admin: Client,
    ns: String,
    made: Vec<String>,
}

impl Policies {
    fn new(plane: &ControlPlane, ns: &str) -> Result<Self> {
        Ok(Self { admin: plane.admin()?, ns: ns.to_owned(), made: Vec::new() })
    }

    /// What a policy of this test looks at: writes of config maps in its namespace.
    fn matched(&self) -> Value {
        json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.ns}},
            "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["configmaps"]}],
        })
    }

    fn make(&mut self, resource: &str, name: &str, spec: Value) -> Result<String> {
        let name = format!("{}-{name}", self.ns);
        let collection = format!("{GROUP}/{resource}");
        self.admin.post(&collection, &json!({"metadata": {"name": name}, "spec": spec}))?.ok()?;
        self.made.push(format!("{collection}/{name}"));
        Ok(name)
    }

    /// A validating policy with one binding.
    fn validate(&mut self, name: &str, mut spec: Value, mut binding: Value) -> Result<()> {
        if spec.get("matchConstraints").is_none() {
            spec["matchConstraints"] = self.matched();
        }
        let policy = self.make("validatingadmissionpolicies", name, spec)?;
        binding["policyName"] = policy.into();
        if binding.get("validationActions").is_none() {
            binding["validationActions"] = json!(["Deny"]);
        }
        self.make("validatingadmissionpolicybindings", name, binding)?;
        Ok(())
    }

    /// A mutating policy with one binding.
    fn mutate(&mut self, name: &str, mut spec: Value) -> Result<()> {
        if spec.get("matchConstraints").is_none() {
            spec["matchConstraints"] = self.matched();
        }
        let policy = self.make("mutatingadmissionpolicies", name, spec)?;
        self.make("mutatingadmissionpolicybindings", name, json!({"policyName": policy}))?;
        Ok(())
    }

    /// What creating a config map with the data comes to, without creating it.
    fn ask(&self, data: Value) -> Result<Answer> {
        let object = json!({"metadata": {"name": "asked"}, "data": data});
        self.admin.post(&format!("{}?dryRun=All", config_maps(&self.ns, "")), &object)
    }

    /// Asks until the answer is as wanted: policies count some moments after they are made.
    fn until(
        &self,
        plane: &ControlPlane,
        what: &str,
        data: &Value,
        wanted: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        plane.eventually(what, 10, || {
            let answer = self.ask(data.clone())?;
            Ok(wanted(&answer).then_some(answer))
        })
    }

    fn refused(&self, plane: &ControlPlane, data: &Value) -> Result<Answer> {
        self.until(plane, "the policy counts", data, |answer| answer.code != 201)
    }
}

impl Drop for Policies {
    fn drop(&mut self) {
        for path in &self.made {
            // What is gone already need not go again.
            self.admin.delete(path).ok();
        }
    }
}

fn one(expression: &str) -> Value {
    json!({"validations": [{"expression": expression}]})
}

fn refusal(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let spec = json!({"validations": [
        {"expression": "object.data.size() < 3", "messageExpression": "'has ' + string(object.data.size()) + ' keys'"},
        {"expression": "!('secret' in object.data)", "message": "no secrets", "reason": "Forbidden"},
        {"expression": "object.data.all(k, k.size() < 6)"},
    ]});
    policies.validate("p", spec, json!({}))?;
    let told = |why: &str| {
        format!(
            "configmaps \"asked\" is forbidden: ValidatingAdmissionPolicy '{ns}-p' with binding '{ns}-p' denied request: {why}"
        )
    };
    let answer = policies.refused(plane, &json!({"a": "", "b": "", "c": ""}))?;
    let status = answer.refused_with(422, "Invalid", "has 3 keys")?;
    ensure!(status["message"] == told("has 3 keys"), "{status}");
    ensure!(
        status["details"]["causes"][0]["message"].as_str().is_some_and(|m| m.ends_with("has 3 keys")),
        "{status}"
    );
    let status = policies.ask(json!({"secret": ""}))?.refused(403, "Forbidden")?;
    ensure!(status["message"] == told("no secrets"), "{status}");
    let status = policies.ask(json!({"longer": ""}))?.refused(422, "Invalid")?;
    ensure!(status["message"] == told("failed expression: object.data.all(k, k.size() < 6)"), "{status}");
    policies.ask(json!({"fine": ""}))?.ok()?;
    Ok(())
}

fn bindings(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let mut spec = one("false");
    spec["matchConstraints"] = policies.matched();
    let policy = policies.make("validatingadmissionpolicies", "p", spec)?;
    policies.ask(json!({}))?.ok()?;
    let mut matched = policies.matched();
    matched["objectSelector"] = json!({"matchLabels": {"strict": "yes"}});
    let binding = json!({"policyName": policy, "validationActions": ["Deny"], "matchResources": matched});
    let name = policies.make("validatingadmissionpolicybindings", "b", binding)?;
    let labelled = |labels: Value| {
        let object = json!({"metadata": {"name": "asked", "labels": labels}});
        policies.admin.post(&format!("{}?dryRun=All", config_maps(ns, "")), &object)
    };
    let strict = json!({"strict": "yes"});
    plane
        .eventually("the binding counts", 10, || Ok((labelled(strict.clone())?.code == 422).then_some(())))?;
    labelled(json!({"strict": "no"}))?.ok()?;
    policies.admin.delete(&format!("{GROUP}/validatingadmissionpolicybindings/{name}"))?.ok()?;
    plane.eventually("what is gone lets pass", 10, || {
        Ok((labelled(strict.clone())?.code == 201).then_some(()))
    })
}

fn variables(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let spec = json!({
        "matchConditions": [
            {"name": "has-number", "expression": "has(object.data) && 'n' in object.data"},
            {"name": "not-exempt", "expression": "!('exempt' in object.data)"},
        ],
        "variables": [
            {"name": "n", "expression": "int(object.data.n)"},
            {"name": "odd", "expression": "variables.n % 2 == 1"},
        ],
        "validations": [{"expression": "variables.n > 1"}, {"expression": "variables.odd", "message": "not odd"}],
    });
    policies.validate("p", spec, json!({}))?;
    policies.refused(plane, &json!({"n": "0"}))?.refused(422, "Invalid")?;
    policies.ask(json!({"n": "3"}))?.ok()?;
    policies.ask(json!({"n": "4"}))?.refused_with(422, "Invalid", "not odd")?;
    policies.ask(json!({"n": "4", "exempt": ""}))?.ok()?;
    policies.ask(json!({"other": ""}))?.ok()?;
    Ok(())
}

fn parameters(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let group = format!("{ns}.example.com");
    let definition = json!({
        "metadata": {"name": format!("limits.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "limits", "kind": "Limit"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"max": {"type": "integer"}}}}}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    policies.admin.post(definitions, &definition)?.ok()?;
    policies.made.push(format!("{definitions}/limits.{group}"));
    let limits = format!("/apis/{group}/v1/namespaces/{ns}/limits");
    for (name, max) in [("low", 1), ("high", 9)] {
        let limit = json!({"apiVersion": format!("{group}/v1"), "kind": "Limit",
            "metadata": {"name": name, "labels": {"use": "yes"}}, "max": max});
        plane.eventually("the definition is served", 15, || {
            Ok(matches!(policies.admin.post(&limits, &limit)?.code, 201 | 409).then_some(()))
        })?;
    }
    let mut spec = one("int(object.data.n) <= params.max");
    spec["paramKind"] = json!({"apiVersion": format!("{group}/v1"), "kind": "Limit"});
    policies.validate(
        "named",
        spec.clone(),
        json!({"paramRef": {"name": "high", "parameterNotFoundAction": "Deny"}}),
    )?;
    policies.until(plane, "the higher limit counts", &json!({"n": "10"}), |a| a.code == 422)?;
    policies.ask(json!({"n": "9"}))?.ok()?;
    let selected =
        json!({"paramRef": {"selector": {"matchLabels": {"use": "yes"}}, "parameterNotFoundAction": "Deny"}});
    policies.validate("selected", spec, selected)?;
    policies.until(plane, "all limits count", &json!({"n": "9"}), |a| a.code == 422)?;
    policies.ask(json!({"n": "1"}))?.ok()?;
    Ok(())
}

fn missing_parameters(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let mut spec = one("params.data.allow == 'yes'");
    spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let missing = |action: &str| json!({"paramRef": {"name": "nobody", "parameterNotFoundAction": action}});
    policies.validate("allow", spec.clone(), missing("Allow"))?;
    policies.ask(json!({}))?.ok()?;
    policies.validate("deny", spec, missing("Deny"))?;
    let answer = policies.refused(plane, &json!({}))?;
    answer.refused_with(
        422,
        "Invalid",
        "no params found for policy binding with `Deny` parameterNotFoundAction",
    )?;
    let mut unknown = one("true");
    unknown["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Nothing"});
    unknown["failurePolicy"] = "Ignore".into();
    policies.validate("unknown", unknown, missing("Allow"))?;
    Ok(())
}

fn warnings(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let spec =
        json!({"validations": [{"expression": "'owner' in object.data", "message": "nobody owns it"}]});
    policies.validate("p", spec, json!({"validationActions": ["Warn", "Audit"]}))?;
    let warned = |answer: &Answer| answer.header("warning").contains("nobody owns it");
    let answer = policies.until(plane, "the client is warned", &json!({"x": ""}), warned)?;
    answer.ok()?;
    let whole = format!(
        "Validation failed for ValidatingAdmissionPolicy '{ns}-p' with binding '{ns}-p': nobody owns it"
    );
    ensure!(answer.header("warning").contains(&whole), "{}", answer.header("warning"));
    ensure!(!warned(&policies.ask(json!({"owner": "me"}))?), "nothing to warn of");
    Ok(())
}

fn failure_policy(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let mut spec = one("object.data.n == '1' && object.spec.nothing");
    spec["failurePolicy"] = "Ignore".into();
    policies.validate("ignore", spec.clone(), json!({}))?;
    // A value that is false is no failure.
    policies.refused(plane, &json!({"n": "2"}))?.refused(422, "Invalid")?;
    policies.ask(json!({"n": "1"}))?.ok()?;
    spec["failurePolicy"] = "Fail".into();
    policies.validate("fail", spec, json!({}))?;
    let answer = policies.refused(plane, &json!({"n": "1"}))?;
    answer.refused_with(422, "Invalid", "resulted in error: no such key: spec")?;
    Ok(())
}

fn budget(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let hundred = "lists.range(100)";
    let dear =
        format!("{hundred}.all(a, {hundred}.all(b, {hundred}.all(c, {hundred}.all(d, a + b + c + d >= 0))))");
    policies.validate("p", one(&dear), json!({}))?;
    let answer = policies.refused(plane, &json!({}))?;
    answer.refused_with(422, "Invalid", "operation cancelled: actual cost limit exceeded")?;
    Ok(())
}

fn authorizer(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('secrets').namespace(request.namespace).check('delete').allowed()",
            "messageExpression": "request.userInfo.username + ' may not delete secrets'"},
        {"expression": "authorizer.requestResource.check('create').allowed()"},
        {"expression": "!authorizer.serviceAccount(request.namespace, 'nobody').group('').resource('pods').namespace(request.namespace).check('get').allowed()"},
    ]});
    let roles = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let role = json!({"metadata": {"name": "maps"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]});
    policies.admin.post(&format!("{roles}/roles"), &role)?.ok()?;
    let binding = json!({"metadata": {"name": "maps"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    policies.admin.post(&format!("{roles}/rolebindings"), &binding)?.ok()?;
    policies.validate("p", spec, json!({}))?;
    let ann = plane.user("ann", "people")?;
    let path = format!("{}?dryRun=All", config_maps(ns, ""));
    let answer = plane.eventually("the policy counts", 15, || {
        let answer = ann.post(&path, &json!({"metadata": {"name": "a"}}))?;
        Ok((answer.code == 422).then_some(answer))
    })?;
    answer.refused_with(422, "Invalid", "ann may not delete secrets")?;
    policies.ask(json!({}))?.ok()?;
    Ok(())
}

fn operations(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let mut matched = policies.matched();
    matched["resourceRules"] = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE", "UPDATE"],
        "resources": ["configmaps"], "resourceNames": ["kept"]}]);
    let mut spec = json!({"validations": [{
        "expression": "request.operation == 'DELETE' ? object == null && !has(oldObject.data.keep) : object.data == oldObject.data"}]});
    spec["matchConstraints"] = matched;
    for name in ["kept", "other"] {
        let object = json!({"metadata": {"name": name}, "data": {"keep": "yes"}});
        policies.admin.post(&config_maps(ns, ""), &object)?.ok()?;
    }
    policies.validate("p", spec, json!({}))?;
    let kept = config_maps(ns, "kept");
    let change = json!({"data": {"keep": "no"}});
    plane.eventually("the policy counts", 10, || {
        let answer = policies.admin.patch(&format!("{kept}?dryRun=All"), MERGE_PATCH, &change)?;
        Ok((answer.code == 422).then_some(()))
    })?;
    policies.admin.patch(&kept, MERGE_PATCH, &json!({"metadata": {"labels": {"a": "b"}}}))?.ok()?;
    policies.admin.delete(&kept)?.refused(422, "Invalid")?;
    policies.admin.patch(&config_maps(ns, "other"), MERGE_PATCH, &change)?.ok()?;
    policies.admin.delete(&config_maps(ns, "other"))?.ok()?;
    Ok(())
}

/// Causes of a refusal as `field: message`.
fn causes(status: &Value) -> Vec<String> {
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    let all = status["details"]["causes"].as_array().into_iter().flatten();
    all.map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect()
}

fn compile_errors(plane: &ControlPlane, ns: &str) -> Result<()> {
    let policies = Policies::new(plane, ns)?;
    let refused = |resource: &str, spec: Value| -> Result<Vec<String>> {
        let object = json!({"metadata": {"name": format!("{ns}-bad")}, "spec": spec});
        let status = policies.admin.post(&format!("{GROUP}/{resource}"), &object)?.refused(422, "Invalid")?;
        Ok(causes(&status))
    };
    let found = refused(
        "validatingadmissionpolicies",
        json!({
            "matchConstraints": policies.matched(),
            "matchConditions": [{"name": "c", "expression": "params.a"}, {"name": "c", "expression": " "}],
            "variables": [{"name": "v", "expression": "object.("}, {"name": "if", "expression": "1"}],
            "validations": [
                {"expression": "objects == 1", "messageExpression": "1"},
                {"expression": "1 + 1", "message": "a\nb", "reason": "Because"},
                {"expression": "variables.w"},
            ],
            "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
        }),
    )?;
    for (field, part) in [
        (
            "spec.matchConditions[0].expression",
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
        ),
        ("spec.matchConditions[1].expression", "Required value"),
        ("spec.matchConditions[1].name", "Duplicate value"),
        ("spec.variables[0].expression", "compilation failed: ERROR: <input>:1:8: Syntax error"),
        ("spec.variables[1].name", "must be a valid CEL identifier"),
        ("spec.validations[0].expression", "undeclared reference to 'objects'"),
        ("spec.validations[0].messageExpression", "must evaluate to string but got int"),
        ("spec.validations[1].expression", "must evaluate to bool but got int"),
        ("spec.validations[1].message", "must not contain line breaks"),
        ("spec.validations[1].reason", "Unsupported value"),
        ("spec.validations[2].expression", "undefined field 'w'"),
        (
            "spec.auditAnnotations[0].valueExpression",
            "must evaluate to one of [string null_type] but got int",
        ),
    ] {
        let told = found.iter().any(|cause| cause.starts_with(&format!("{field}: ")) && cause.contains(part));
        ensure!(told, "{field} is not told to be {part:?}: {found:#?}");
    }
    let found = refused(
        "mutatingadmissionpolicies",
        json!({
            "matchConstraints": policies.matched(),
            "reinvocationPolicy": "Never",
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}},
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.wrong{a: 1}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 1}]"}},
                {"patchType": "JSONPatch"},
            ],
        }),
    )?;
    for (field, part) in [
        ("spec.mutations[0].applyConfiguration.expression", "must evaluate to Object but got int"),
        ("spec.mutations[1].applyConfiguration.expression", "expected type of field 'spec' is 'Object.spec'"),
        (
            "spec.mutations[2].jsonPatch.expression",
            "expected type of field 'op' is 'string' but provided type is 'int'",
        ),
        ("spec.mutations[3].jsonPatch", "must be specified when patchType is JSONPatch"),
    ] {
        let told = found.iter().any(|cause| cause.starts_with(&format!("{field}: ")) && cause.contains(part));
        ensure!(told, "{field} is not told to be {part:?}: {found:#?}");
    }
    let hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://localhost:1/"},
        "matchConditions": [{"name": "a/b/c", "expression": "object.metadata.name"}]});
    let object = json!({"metadata": {"name": format!("{ns}-bad")}, "webhooks": [hook]});
    let status = policies.admin.post(&format!("{GROUP}/validatingwebhookconfigurations"), &object)?;
    let found = causes(&status.refused(422, "Invalid")?);
    ensure!(found.len() == 2, "{found:?}");
    ensure!(
        found[0].starts_with("webhooks[0].matchConditions[0].expression: ") && found[0].contains("got dyn"),
        "{found:?}"
    );
    ensure!(found[1].starts_with("webhooks[0].matchConditions[0].name: "), "{found:?}");
    Ok(())
}

fn invalid(plane: &ControlPlane, ns: &str) -> Result<()> {
    let policies = Policies::new(plane, ns)?;
    for (resource, spec, field, part) in [
        (
            "validatingadmissionpolicies",
            json!({"validations": [{"expression": "true"}]}),
            "spec.matchConstraints",
            "Required",
        ),
        (
            "validatingadmissionpolicies",
            json!({"matchConstraints": policies.matched()}),
            "spec.validations",
            "validations or auditAnnotations must contain at least one item",
        ),
        (
            "validatingadmissionpolicies",
            json!({"matchConstraints": policies.matched(), "validations": [{"expression": "true"}],
                "paramKind": {"apiVersion": "a/b/c", "kind": "K"}}),
            "spec.paramKind.apiVersion",
            "unexpected GroupVersion string",
        ),
        (
            "validatingadmissionpolicybindings",
            json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}),
            "spec.validationActions",
            "must not contain both Deny and Warn",
        ),
        (
            "validatingadmissionpolicybindings",
            json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}}),
            "spec.paramRef",
            "one of name or selector must be specified",
        ),
        (
            "validatingadmissionpolicybindings",
            json!({"policyName": "p"}),
            "spec.validationActions",
            "at least one",
        ),
        ("mutatingadmissionpolicybindings", json!({}), "spec.policyName", "Required"),
    ] {
        let object = json!({"metadata": {"name": format!("{ns}-bad")}, "spec": spec});
        let status = policies.admin.post(&format!("{GROUP}/{resource}"), &object)?.refused(422, "Invalid")?;
        let found = causes(&status);
        let told = found.iter().any(|cause| cause.starts_with(&format!("{field}: ")) && cause.contains(part));
        ensure!(told, "{field} is not told to be {part:?}: {found:#?}");
    }
    Ok(())
}

fn mutation(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let spec = json!({
        "reinvocationPolicy": "Never",
        "matchConditions": [{"name": "wanted", "expression": "'go' in object.data"}],
        "variables": [{"name": "count", "expression": "string(object.data.size())"}],
        "mutations": [
            apply("Object{metadata: Object.metadata{labels: {'mutated': 'yes'}}, data: {'count': variables.count}}"),
            patch("[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('b'), value: variables.count}]"),
            patch("[JSONPatch{op: 'test', path: '/data/go', value: 'elsewhere'}, JSONPatch{op: 'remove', path: '/data/go'}]"),
            patch("'gone' in object.data ? [JSONPatch{op: 'move', from: '/data/gone', path: '/data/moved'}] : []"),
        ],
    });
    policies.mutate("p", spec)?;
    let data = json!({"go": "yes", "gone": "x"});
    let made = policies.until(plane, "the policy counts", &data, |answer| {
        answer.json().is_ok_and(|object| object["metadata"]["labels"]["mutated"] == "yes")
    })?;
    let made = made.ok()?;
    ensure!(made["data"] == json!({"go": "yes", "moved": "x", "count": "2", "b": "3"}), "{made}");
    let left = policies.ask(json!({"other": ""}))?.ok()?;
    ensure!(left["data"] == json!({"other": ""}) && left["metadata"].get("labels").is_none(), "{left}");

    policies
        .mutate("fails", json!({"reinvocationPolicy": "Never", "mutations": [apply("Object{datum: 1}")]}))?;
    let answer = policies.refused(plane, &json!({}))?;
    ensure!(answer.code == 403, "{}", answer.text());
    let status = answer.json()?;
    let message = status["message"].as_str().context("it says why")?;
    ensure!(
        message.starts_with(&format!(
            "policy '{ns}-fails' with binding '{ns}-fails' denied request: error applying patch: "
        )),
        "{message}"
    );
    Ok(())
}

fn custom_resources(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let group = format!("{ns}.example.com");
    let definition = json!({
        "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"spec": {"type": "object", "properties":
                    {"size": {"type": "integer"}, "note": {"type": "string"}}}}}}}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    policies.admin.post(definitions, &definition)?.ok()?;
    policies.made.push(format!("{definitions}/things.{group}"));
    let matched = json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["things"]}]});
    let mut check = one("object.spec.size < 5 && object.spec.note == 'seen'");
    check["matchConstraints"] = matched.clone();
    policies.validate("check", check, json!({}))?;
    let note = json!({"reinvocationPolicy": "Never", "matchConstraints": matched, "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{note: 'seen'}}"}}]});
    policies.mutate("note", note)?;
    let things = format!("/apis/{group}/v1/namespaces/{ns}/things");
    let thing = |name: &str, size: i64| json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": name}, "spec": {"size": size}});
    plane.eventually("the definition is served and the policies count", 15, || {
        Ok((policies.admin.post(&format!("{things}?dryRun=All"), &thing("big", 7))?.code == 422)
            .then_some(()))
    })?;
    let made = plane.eventually("the note is made", 10, || {
        let answer = policies.admin.post(&things, &thing("small", 3))?;
        Ok((answer.code == 201).then(|| answer.json()))
    })??;
    ensure!(made["spec"] == json!({"size": 3, "note": "seen"}), "{made}");
    Ok(())
}

fn match_conditions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut policies = Policies::new(plane, ns)?;
    let hook = json!({
        "name": "conditions.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        // Nobody listens there: who is called is refused.
        "clientConfig": {"url": "https://localhost:1/"},
        "failurePolicy": "Fail",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "matchConditions": [
            {"name": "called", "expression": "has(object.data) && 'call' in object.data"},
            {"name": "not-the-system", "expression": "!request.userInfo.groups.exists(g, g == 'system:nodes')"},
            {"name": "fails", "expression": "object.data.call != 'fail' || object.spec.nothing"},
        ],
    });
    let collection = format!("{GROUP}/validatingwebhookconfigurations");
    let name = format!("{ns}-conditions");
    policies.admin.post(&collection, &json!({"metadata": {"name": name}, "webhooks": [hook]}))?.ok()?;
    policies.made.push(format!("{collection}/{name}"));
    let answer =
        policies.until(plane, "the webhook counts", &json!({"call": "yes"}), |answer| answer.code == 500)?;
    answer.refused_with(500, "InternalError", "failed calling webhook \"conditions.example.com\"")?;
    policies.ask(json!({"other": ""}))?.ok()?;
    policies.ask(json!({"call": "fail"}))?.refused_with(403, "Forbidden", "no such key: spec")?;
    let path = format!("{collection}/{name}");
    let mut stored = policies.admin.get(&path)?.ok()?;
    stored["webhooks"][0]["matchConditions"][0]["expression"] = "object.data.".into();
    let status = policies.admin.put(&path, &stored)?.refused(422, "Invalid")?;
    ensure!(causes(&status)[0].starts_with("webhooks[0].matchConditions[0].expression: "), "{status}");
    Ok(())
}
