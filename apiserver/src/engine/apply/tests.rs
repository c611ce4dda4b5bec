use http::Method;
use serde_json::{Value, json};

use crate::engine::testing::TestServer;

const APPLY: &str = "application/apply-patch+yaml";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn apply(server: &TestServer, query: &str, data: Value) -> (u16, Value) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    server.ask(Method::PATCH, &format!("{MAPS}/m?{query}"), APPLY, Some(body)).await
}

fn owned<'o>(object: &'o Value, manager: &str) -> Option<&'o Value> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().find(|entry| entry["manager"] == manager).map(|entry| &entry["fieldsV1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_creates_changes_and_meets_conflicts() {
    let server = TestServer::start().await;
    let (code, _) = apply(&server, "", json!({"a": "1"})).await;
    assert_eq!(code, 422, "without a field manager");
    let odd = json!({"apiVersion": "v1", "kind": "ConfigMap", "dat": {}});
    let (code, status) =
        server.ask(Method::PATCH, &format!("{MAPS}/m?fieldManager=one"), APPLY, Some(odd)).await;
    let why = "failed to create typed patch object (default/m; v1, Kind=ConfigMap): .dat: field not declared in schema";
    assert_eq!((code, status["message"].as_str()), (500, Some(why)));
    let (code, made) = apply(&server, "fieldManager=one", json!({"a": "1", "b": "2"})).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "b": "2"})), "{made}");
    assert_eq!(owned(&made, "one"), Some(&json!({"f:data": {"f:a": {}, "f:b": {}}})));

    let (code, same) = apply(&server, "fieldManager=one", json!({"a": "1", "b": "2"})).await;
    assert_eq!((code, &same), (200, &made), "nothing changed, nothing was written");
    let (code, less) = apply(&server, "fieldManager=one", json!({"a": "1"})).await;
    assert_eq!((code, &less["data"]), (200, &json!({"a": "1"})));

    let (code, status) = apply(&server, "fieldManager=two", json!({"a": "3"})).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    assert_eq!(status["details"]["causes"][0]["field"], ".data.a");
    let (code, forced) = apply(&server, "fieldManager=two&force=true", json!({"a": "3"})).await;
    assert_eq!((code, &forced["data"], owned(&forced, "one")), (200, &json!({"a": "3"}), None));

    let merge = "application/merge-patch+json";
    let uri = format!("{MAPS}/m?fieldManager=three");
    let (code, patched) = server.patch(&uri, merge, json!({"data": {"c": "4"}})).await;
    assert_eq!((code, owned(&patched, "three")), (200, Some(&json!({"f:data": {"f:c": {}}}))));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_note_their_fields() {
    let server = TestServer::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "data": {"a": "1"}});
    let (code, made) = server.post(&format!("{MAPS}?fieldManager=maker"), map.clone()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(owned(&made, "maker"), Some(&json!({"f:data": {".": {}, "f:a": {}}})));
    let mut changed = map;
    changed["data"] = json!({"a": "2"});
    let (code, made) = server.put(&format!("{MAPS}/n?fieldManager=other"), changed).await;
    assert_eq!(code, 200, "{made}");
    assert_eq!(owned(&made, "other"), Some(&json!({"f:data": {"f:a": {}}})));
    assert_eq!(owned(&made, "maker"), Some(&json!({"f:data": {}})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaled_number_has_another_owner() {
    let server = TestServer::start().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments/d";
    let configuration = |replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let one = format!("{uri}?fieldManager=one");
    let (code, made) = server.ask(Method::PATCH, &one, APPLY, Some(configuration(1))).await;
    assert_eq!(
        (code, &made["spec"]["template"]["spec"]["containers"][0]["resources"]),
        (201, &json!({})),
        "{made}"
    );
    let scale = json!({"spec": {"replicas": 5}});
    let merge = "application/merge-patch+json";
    let (code, _) = server.patch(&format!("{uri}/scale?fieldManager=scaler"), merge, scale).await;
    assert_eq!(code, 200);
    let (code, status) = server.ask(Method::PATCH, &one, APPLY, Some(configuration(2))).await;
    let want = "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!((code, status["message"].as_str()), (409, Some(want)));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_cannot_be_are_told() {
    let server = TestServer::start().await;
    let map = json!({"metadata": {"name": "p"}});
    let (code, status) = server.post(&format!("{MAPS}?dryRun=Some"), map.clone()).await;
    let want = "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"";
    assert_eq!((code, status["message"].as_str()), (422, Some(want)));
    let merge = "application/merge-patch+json";
    let (code, status) = server.patch(&format!("{MAPS}/p?force=true"), merge, map).await;
    let want = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
    assert_eq!((code, status["message"].as_str()), (422, Some(want)));
}
