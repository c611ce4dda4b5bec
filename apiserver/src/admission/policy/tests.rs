//! Policies refuse and change writes of a whole server.

use serde_json::{Value, json};

use crate::engine::testing::TestServer;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn rules() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]})
}

async fn create(server: &TestServer, resource: &str, object: Value) {
    let uri = format!("{GROUP}/{resource}");
    let (code, made) = server.post(&uri, object).await;
    assert_eq!(code, 201, "{made}");
    let name = made["metadata"]["name"].as_str().unwrap();
    // The cache may be behind the write by a moment.
    while server.get(&format!("{uri}/{name}?resourceVersion=0")).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

/// A validating policy for configmaps with one binding of the same name.
async fn validate(server: &TestServer, name: &str, mut spec: Value, mut binding: Value) {
    spec["matchConstraints"] = rules();
    binding["policyName"] = name.into();
    create(server, "validatingadmissionpolicies", json!({"metadata": {"name": name}, "spec": spec})).await;
    create(server, "validatingadmissionpolicybindings", json!({"metadata": {"name": name}, "spec": binding}))
        .await;
}

async fn mutate(server: &TestServer, name: &str, mut spec: Value) {
    spec["matchConstraints"] = rules();
    create(server, "mutatingadmissionpolicies", json!({"metadata": {"name": name}, "spec": spec})).await;
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    create(server, "mutatingadmissionpolicybindings", binding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validations_refuse_with_their_messages() {
    let server = TestServer::start().await;
    let spec = json!({
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
        "variables": [{"name": "size", "expression": "has(object.data) ? object.data.size() : 0"}],
        "validations": [
            {"expression": "variables.size < 3", "messageExpression": "'has ' + string(variables.size) + ' keys'"},
            {"expression": "!has(object.data) || !('secret' in object.data)", "message": "no secrets here",
                "reason": "Forbidden"},
            {"expression": "request.namespace == namespaceObject.metadata.name && object.data.must == 'be'"},
        ],
    });
    validate(&server, "p", spec, json!({"validationActions": ["Deny"]})).await;
    let told =
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: ";
    for (data, code, reason, message) in [
        (json!({"must": "be"}), 201, Value::Null, ""),
        (json!({"must": "be", "b": "", "c": ""}), 422, json!("Invalid"), "has 3 keys"),
        (json!({"must": "be", "secret": ""}), 403, json!("Forbidden"), "no secrets here"),
        (
            json!({"must": "not"}),
            422,
            json!("Invalid"),
            "failed expression: request.namespace == namespaceObject.metadata.name && object.data.must == 'be'",
        ),
        (
            json!({"x": ""}),
            422,
            json!("Invalid"),
            "expression 'request.namespace == namespaceObject.metadata.name && object.data.must == 'be'' resulted in error: no such key: must",
        ),
    ] {
        let (found, answer) = server.post(&format!("{MAPS}?dryRun=All"), map("a", data.clone())).await;
        assert_eq!((found, &answer["reason"]), (code, &reason), "{data}: {answer}");
        if code != 201 {
            assert_eq!(answer["message"], format!("{told}{message}"), "{data}");
            let cause = answer["details"]["causes"][0]["message"].as_str().unwrap_or_default();
            assert!(cause.ends_with(message), "{cause}");
        }
    }
    let (code, _) = server.post(MAPS, map("exempt-1", json!({"secret": ""}))).await;
    assert_eq!(code, 201, "its condition does not hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_from_bindings() {
    let server = TestServer::start().await;
    for (name, max) in [("strict", "1"), ("lax", "9")] {
        let mut limits = map(name, json!({"max": max}));
        limits["metadata"]["labels"] = json!({"kind": "limit"});
        assert_eq!(server.post("/api/v1/namespaces/kube-system/configmaps", limits).await.0, 201);
    }
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "!has(object.data.n) || int(object.data.n) <= int(params.data.max)"}],
    });
    let binding = |params: Value| json!({"validationActions": ["Deny"], "paramRef": params});
    let by_name = json!({"name": "strict", "namespace": "kube-system", "parameterNotFoundAction": "Deny"});
    validate(&server, "p", spec.clone(), binding(by_name)).await;
    let (code, _) = server.post(MAPS, map("a", json!({"n": "1"}))).await;
    assert_eq!(code, 201);
    let (code, answer) = server.post(MAPS, map("b", json!({"n": "2"}))).await;
    assert_eq!(code, 422, "{answer}");

    let missing = json!({"name": "nobody", "namespace": "kube-system", "parameterNotFoundAction": "Deny"});
    validate(&server, "q", spec, binding(missing)).await;
    let (code, answer) = server.post(MAPS, map("c", json!({"n": "1"}))).await;
    assert_eq!(
        (code, answer["message"].as_str()),
        (
            422,
            Some(
                "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'q' with binding 'q' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
            )
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_policies_that_ignore_them_are_none() {
    let server = TestServer::start().await;
    let wrong = json!([{"expression": "object.data.nothing == 'x'"}]);
    let deny = json!({"validationActions": ["Deny"]});
    validate(&server, "i", json!({"failurePolicy": "Ignore", "validations": wrong}), deny.clone()).await;
    assert_eq!(server.post(MAPS, map("a", json!({}))).await.0, 201);
    validate(&server, "f", json!({"failurePolicy": "Fail", "validations": wrong}), deny).await;
    assert_eq!(server.post(MAPS, map("b", json!({}))).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_are_made_in_order_and_again_if_needed() {
    let server = TestServer::start().await;
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let counts = "[JSONPatch{op: 'add', path: '/data/keys', value: string(object.data.size())}]";
    mutate(
        &server,
        "a-counts",
        json!({
            "reinvocationPolicy": "IfNeeded",
            "matchConditions": [{"name": "data", "expression": "has(object.data)"}],
            "mutations": [patch(counts)],
        }),
    )
    .await;
    mutate(
        &server,
        "b-adds",
        json!({
            "reinvocationPolicy": "Never",
            "variables": [{"name": "who", "expression": "request.userInfo.username"}],
            "mutations": [
                apply("Object{metadata: Object.metadata{labels: {'by': variables.who.replace(':', '-')}}}"),
                apply("Object{data: {'added': 'yes', ?'kept': object.?data[?'x']}}"),
                patch("[JSONPatch{op: 'test', path: '/data/x', value: 'no'}, JSONPatch{op: 'remove', path: '/data/x'}]"),
                patch("[JSONPatch{op: 'copy', from: '/data/added', path: '/metadata/annotations', value: {jsonpatch.escapeKey('a/b'): 'c'}}].filter(p, false)"),
            ],
        }),
    )
    .await;
    let (code, made) = server.post(MAPS, map("a", json!({"x": "1"}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["labels"]["by"], "system-apiserver");
    assert_eq!(made["data"], json!({"x": "1", "added": "yes", "kept": "1", "keys": "4"}), "counted again");

    mutate(
        &server,
        "c-fails",
        json!({"reinvocationPolicy": "Never", "mutations": [apply("Object{data: {'a': object.data.nope}}")]}),
    )
    .await;
    let (code, answer) = server.post(MAPS, map("b", json!({"x": "1"}))).await;
    assert_eq!(
        (code, answer["message"].as_str()),
        (
            403,
            Some(
                "policy 'c-fails' with binding 'c-fails' denied request: expression 'Object{data: {'a': object.data.nope}}' resulted in error: no such key: nope"
            )
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_called_where_their_conditions_hold() {
    let server = TestServer::start().await;
    let hook = |condition: &str| {
        json!([{"name": "a.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            // Nobody listens: a call is a refusal.
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Fail",
            "matchConditions": [{"name": "c", "expression": condition}], "rules": rules()["resourceRules"]}])
    };
    let condition =
        "object.metadata.name.startsWith('called') || (object.metadata.name == 'fails' && object.x.y)";
    for kind in ["validating", "mutating"] {
        let name = format!("{kind}webhookconfigurations");
        create(&server, &name, json!({"metadata": {"name": kind}, "webhooks": hook(condition)})).await;
        assert_eq!(server.post(MAPS, map(&format!("skipped-{kind}"), json!({}))).await.0, 201);
        let (code, answer) = server.post(MAPS, map("called", json!({}))).await;
        assert_eq!(code, 500, "{answer}");
        let (code, answer) = server.post(MAPS, map("fails", json!({}))).await;
        assert_eq!(code, 403, "{answer}");
        assert!(answer["message"].as_str().is_some_and(|m| m.ends_with("no such key: x")), "{answer}");
        let (code, _) = server.ask(http::Method::DELETE, &format!("{GROUP}/{name}/{kind}"), "", None).await;
        assert_eq!(code, 200);
        while server.get(&format!("{GROUP}/{name}/{kind}?resourceVersion=0")).await.0 != 404 {
            tokio::task::yield_now().await;
        }
    }
}

/// What changes an object sees it before it is one: without uid, time and a name that the server makes.
#[tokio::test(flavor = "multi_thread")]
async fn objects_are_changed_before_they_have_uids() {
    let server = TestServer::start().await;
    let seen = "(has(object.metadata.uid) ? 'uid' : '') + (has(object.metadata.creationTimestamp) ? 'time' : '') + \
                (has(object.metadata.name) ? object.metadata.name : '') + (has(request.name) ? request.name : '')";
    let expression = format!("Object{{data: {{'seen': 'x' + {seen}}}}}");
    let mutation =
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    mutate(
        &server,
        "p",
        json!({"mutations": [mutation], "reinvocationPolicy": "Never", "failurePolicy": "Fail"}),
    )
    .await;
    for (metadata, want) in [(json!({"generateName": "g-", "uid": "u"}), "x"), (json!({"name": "n"}), "xnn")]
    {
        let (code, made) = server.post(MAPS, json!({"metadata": metadata})).await;
        assert_eq!((code, &made["data"]["seen"]), (201, &json!(want)), "{made}");
        let name = made["metadata"]["name"].as_str().unwrap();
        assert!(name == "n" || name.starts_with("g-"), "{made}");
        assert!(made["metadata"]["uid"].as_str().unwrap().len() == 36, "{made}");
    }
}
