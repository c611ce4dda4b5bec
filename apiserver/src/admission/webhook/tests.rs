//! Webhooks in this process see, change and refuse writes of a whole server.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    hook::Hook as Compiled,
    matching::{Facts, version_of},
};
use crate::{
    engine::testing::TestServer,
    object::Object,
    response,
    webhook::testing::{Ask, Hook},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn allow(review: &Value) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": review["request"]["uid"], "allowed": true}})
}

fn refuse(review: &Value, status: Value) -> Value {
    let mut answer = allow(review);
    answer["response"]["allowed"] = false.into();
    answer["response"]["status"] = status;
    answer
}

fn patched(review: &Value, patch: &Value) -> Value {
    let mut answer = allow(review);
    answer["response"]["patchType"] = "JSONPatch".into();
    answer["response"]["patch"] = BASE64_STANDARD.encode(patch.to_string()).into();
    answer
}

/// A webhook entry at `path` of a running hook, for configmaps.
fn entry(hook: &Hook, name: &str, path: &str) -> Value {
    json!({"name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://localhost:{}{path}", hook.port), "caBundle": hook.ca},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}]})
}

async fn configure(server: &TestServer, kind: &str, name: &str, webhooks: Value) {
    let uri = format!("{GROUP}/{}s", kind.to_lowercase());
    let object = json!({"metadata": {"name": name}, "webhooks": webhooks});
    let (code, made) = server.post(&uri, object).await;
    assert_eq!(code, 201, "{made}");
    // The cache may be behind the write by a moment.
    while server.get(&format!("{uri}/{name}?resourceVersion=0")).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validating_webhook_sees_the_write_and_refuses_it() {
    let server = TestServer::start().await;
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let log = seen.clone();
    let hook = Hook::start(move |(_, review): Ask| {
        log.lock().push(review["request"].clone());
        let bad = review["request"]["object"]["data"]["bad"] == "yes";
        let silent = review["request"]["object"]["data"]["bad"] == "silent";
        response::json(
            200,
            &match (bad, silent) {
                (true, _) => {
                    refuse(&review, json!({"message": "it is bad", "reason": "Because", "code": 418}))
                }
                (_, true) => refuse(&review, Value::Null),
                _ => allow(&review),
            },
        )
    })
    .await;
    configure(&server, "ValidatingWebhookConfiguration", "v", json!([entry(&hook, "maps.example.org", "/")]))
        .await;

    let (code, made) = server.post(&format!("{MAPS}?fieldManager=me"), map("a", json!({"x": "1"}))).await;
    assert_eq!(code, 201, "{made}");
    let request = seen.lock().pop().unwrap();
    for (field, value) in [
        ("operation", json!("CREATE")),
        ("name", json!("a")),
        ("namespace", json!("default")),
        ("kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("requestResource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("oldObject", Value::Null),
        ("dryRun", json!(false)),
        ("options", json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})),
    ] {
        assert_eq!(request[field], value, "{field}");
    }
    assert_eq!(
        (&request["object"]["kind"], &request["object"]["data"]["x"]),
        (&json!("ConfigMap"), &json!("1"))
    );
    assert_eq!(request["userInfo"]["username"], "system:apiserver");

    let (code, status) = server.post(MAPS, map("b", json!({"bad": "yes"}))).await;
    assert_eq!(
        (code, &status["message"], &status["reason"]),
        (
            418,
            &json!("admission webhook \"maps.example.org\" denied the request: it is bad"),
            &json!("Because")
        )
    );
    let (code, status) = server
        .patch(&format!("{MAPS}/a"), "application/merge-patch+json", json!({"data": {"bad": "silent"}}))
        .await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("admission webhook \"maps.example.org\" denied the request without explanation"))
    );
    let request = seen.lock().pop().unwrap();
    assert_eq!((&request["operation"], &request["oldObject"]["data"]["x"]), (&json!("UPDATE"), &json!("1")));

    let (code, _) = server.ask(Method::DELETE, &format!("{MAPS}/a?dryRun=All"), "", None).await;
    assert_eq!(code, 200);
    let request = seen.lock().pop().unwrap();
    assert_eq!(
        (
            &request["operation"],
            &request["object"],
            &request["oldObject"]["metadata"]["name"],
            &request["dryRun"]
        ),
        (&json!("DELETE"), &Value::Null, &json!("a"), &json!(true))
    );
    assert_eq!(request["options"]["kind"], "DeleteOptions");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_change_in_order_and_again_if_needed() {
    let server = TestServer::start().await;
    let hook = Hook::start(move |(path, review): Ask| {
        let data = &review["request"]["object"]["data"];
        let add = |key: &str, value: &str| {
            patched(&review, &json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
        };
        response::json(
            200,
            &match path.split('?').next().unwrap_or_default() {
                "/first" if data["second"].is_string() => add("again", "yes"),
                "/first" => add("first", "yes"),
                "/second" => add("second", data["first"].as_str().unwrap_or("no")),
                "/unknown" => patched(&review, &json!([{"op": "add", "path": "/unheard", "value": 1}])),
                "/broken" => patched(&review, &json!([{"op": "remove", "path": "/data/none"}])),
                _ => patched(&review, &json!({"no": "list"})),
            },
        )
    })
    .await;
    let mut first = entry(&hook, "first.example.org", "/first");
    first["reinvocationPolicy"] = "IfNeeded".into();
    let kind = "MutatingWebhookConfiguration";
    configure(&server, kind, "a", json!([first])).await;
    configure(
        &server,
        kind,
        "b",
        json!([entry(&hook, "second.example.org", "/second"), entry(&hook, "u.example.org", "/unknown")]),
    )
    .await;
    let (code, made) = server.post(MAPS, map("a", json!({"x": "1"}))).await;
    assert_eq!(
        (code, &made["data"]),
        (201, &json!({"x": "1", "first": "yes", "second": "yes", "again": "yes"})),
        "{made}"
    );
    assert!(made.get("unheard").is_none(), "{made}");

    for (path, words) in [
        ("/broken", "Internal error occurred: "),
        (
            "/list",
            "Internal error occurred: failed calling webhook \"z.example.org\": received undecodable patch",
        ),
    ] {
        let mut broken = entry(&hook, "z.example.org", path);
        broken["objectSelector"] = json!({"matchLabels": {"broken": "yes"}});
        configure(&server, kind, "z", json!([broken])).await;
        let mut object = map("b", json!({"x": "1"}));
        object["metadata"]["labels"] = json!({"broken": "yes"});
        let (code, status) = server.post(MAPS, object).await;
        assert_eq!(code, 500, "{status}");
        assert!(status["message"].as_str().unwrap().starts_with(words), "{status}");
        let uri = format!("{GROUP}/{}s/z", kind.to_lowercase());
        let (code, _) = server.ask(Method::DELETE, &uri, "", None).await;
        assert_eq!(code, 200);
        while server.get(&format!("{uri}?resourceVersion=0")).await.0 == 200 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_end_as_the_policy_says_and_configurations_are_exempt() {
    let server = TestServer::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let hook = Hook::start(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        response::json(500, &json!({"oh": "no"}))
    })
    .await;
    let everything =
        json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    let mut open = entry(&hook, "open.example.org", "/");
    open["failurePolicy"] = "Ignore".into();
    open["rules"] = everything.clone();
    configure(&server, "ValidatingWebhookConfiguration", "open", json!([open])).await;
    let (code, made) = server.post(MAPS, map("a", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    let asked = count.load(Ordering::SeqCst);
    assert!(asked > 0);

    let mut effects = entry(&hook, "closed.example.org", "/");
    effects["sideEffects"] = "NoneOnDryRun".into();
    effects["rules"] = everything;
    effects["namespaceSelector"] = json!({"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]});
    configure(&server, "ValidatingWebhookConfiguration", "closed", json!([effects])).await;
    assert_eq!(count.load(Ordering::SeqCst), asked, "configurations are not shown to webhooks");
    let (code, status) = server.post(MAPS, map("b", json!({}))).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 500, "{status}");
    assert!(
        message.starts_with("Internal error occurred: failed calling webhook \"closed.example.org\": failed to call webhook: an error on the server ("),
        "{message}"
    );
    let (code, made) = server
        .post("/api/v1/namespaces", json!({"metadata": {"name": "free", "labels": {"free": "yes"}}}))
        .await;
    assert_eq!(code, 201, "a new namespace's own labels count: {made}");
    let (code, made) = server.post("/api/v1/namespaces/free/configmaps", map("b", json!({}))).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_versions_and_subresources_are_shown_as_asked_for() {
    let server = TestServer::start().await;
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let log = seen.clone();
    let hook = Hook::start(move |(_, review): Ask| {
        log.lock().push(review["request"].clone());
        response::json(200, &allow(&review))
    })
    .await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"], "resources": ["horizontalpodautoscalers"]},
        {"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]}]);
    let (mut loose, mut exact) =
        (entry(&hook, "loose.example.org", "/"), entry(&hook, "exact.example.org", "/"));
    (loose["rules"], exact["rules"]) = (rules.clone(), rules);
    exact["matchPolicy"] = "Exact".into();
    configure(&server, "ValidatingWebhookConfiguration", "v", json!([loose, exact])).await;
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let (code, made) =
        server.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", scaler).await;
    assert_eq!(code, 201, "{made}");
    let request = seen.lock().pop().unwrap();
    assert!(seen.lock().is_empty(), "an exact webhook does not see another version");
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(
        (&request["resource"]["version"], &request["requestResource"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(request["object"]["spec"]["metrics"][0]["resource"]["name"], "cpu", "{request}");

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = server.post(deployments, deployment).await;
    assert_eq!(code, 201, "{made}");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": 2}});
    let (code, made) = server.put(&format!("{deployments}/d/scale"), scale).await;
    assert_eq!(code, 200, "{made}");
    let request = seen.lock().pop().unwrap();
    assert_eq!(
        (&request["kind"], &request["subResource"], &request["object"]["spec"]["replicas"]),
        (&json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}), &json!("scale"), &json!(2))
    );
    assert_eq!(seen.lock().len(), 1, "both webhooks saw it, and neither the deployment itself");
}

#[test]
fn rules_match() {
    let hook = |rule: Value, policy: &str| {
        let object = json!({"metadata": {"name": "c"}, "webhooks": [{"name": "n", "matchPolicy": policy, "rules": [rule]}]});
        Compiled::all_of(&Object::from_value(object).unwrap()).remove(0)
    };
    let rule = |resources: Value, scope: &str| json!({"operations": ["CREATE"], "apiGroups": ["apps", ""], "apiVersions": ["v1"], "resources": resources, "scope": scope});
    let facts = |version: &'static str,
                 resource: &'static str,
                 subresource: &'static str,
                 namespace: &'static str| {
        Facts {
            operation: "CREATE",
            group: if resource == "namespaces" { "" } else { "apps" },
            version,
            resource,
            subresource,
            namespace,
            name: "x",
        }
    };
    for (rule, facts, shown) in [
        (rule(json!(["things"]), "*"), facts("v1", "things", "", "n"), Some("v1")),
        (rule(json!(["things"]), "*"), facts("v1", "things", "status", "n"), None),
        (rule(json!(["things/status"]), "*"), facts("v1", "things", "status", "n"), Some("v1")),
        (rule(json!(["*/*"]), "*"), facts("v1", "things", "status", "n"), Some("v1")),
        (rule(json!(["*"]), "*"), facts("v1", "things", "status", "n"), None),
        (rule(json!(["*/status"]), "*"), facts("v1", "things", "status", "n"), Some("v1")),
        (rule(json!(["things"]), "*"), facts("v2", "things", "", "n"), Some("v1")),
        (rule(json!(["*"]), "Namespaced"), facts("v1", "things", "", ""), None),
        (rule(json!(["*"]), "Cluster"), facts("v1", "things", "", ""), Some("v1")),
        (rule(json!(["*"]), "Cluster"), facts("v1", "things", "", "n"), None),
        (rule(json!(["*"]), "Cluster"), facts("v1", "namespaces", "", "n"), Some("v1")),
        (rule(json!(["*"]), "Namespaced"), facts("v1", "namespaces", "", "n"), None),
        (rule(json!(["*"]), "Odd"), facts("v1", "things", "", "n"), None),
    ] {
        let hook = hook(rule.clone(), "Equivalent");
        let found = version_of(&hook.rules, hook.takes_equivalents, &facts, &["v2", "v1"]);
        assert_eq!(found.as_deref(), shown, "{rule} {facts:?}");
    }
    let exact = hook(rule(json!(["things"]), "*"), "Exact");
    let facts = facts("v2", "things", "", "n");
    assert_eq!(version_of(&exact.rules, exact.takes_equivalents, &facts, &["v2", "v1"]), None);
}
