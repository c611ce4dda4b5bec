use super::*;
use crate::engine::testing::TestServer;

const PLACES: Places =
    Places { replicas: "/spec/replicas", status: "/status/replicas", selector: "/spec/selector" };

#[test]
fn selectors_are_texts() {
    for (selector, text) in [
        (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
        (json!({"matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]}), "x in (1,2)"),
        (json!({"app": "web"}), "app=web"),
        (json!("app=web,x!=y"), "app=web,x!=y"),
        (Value::Null, ""),
    ] {
        let object = Object::from_value(json!({"spec": {"selector": selector}})).unwrap();
        let scale = scale_of(&object, PLACES).unwrap();
        let got = scale.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(got, text);
    }
}

#[test]
fn numbers_are_checked() {
    let of =
        |replicas: Value| validate(&Object::from_value(json!({"spec": {"replicas": replicas}})).unwrap());
    assert!(of(json!(0)).is_empty() && of(json!(i32::MAX)).is_empty());
    let error = of(json!(-1)).as_slice()[0].to_string();
    assert_eq!(error, "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    assert!(!of(json!("x")).is_empty() && !of(json!(1_i64 << 40)).is_empty());
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_scaled() {
    let server = TestServer::start().await;
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let (code, made) = server.post(base, deployment("web")).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{base}/web/scale");

    let (code, mut scale) = server.get(&path).await;
    assert_eq!(
        (code, &scale["kind"], &scale["apiVersion"]),
        (200, &json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    assert_eq!(scale["metadata"]["uid"], made["metadata"]["uid"]);

    scale["spec"]["replicas"] = json!(5);
    let (code, dry) = server.put(&format!("{path}?dryRun=All"), scale.clone()).await;
    assert_eq!((code, &dry["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(server.get(&path).await.1["spec"]["replicas"], 2);
    let (code, put) = server.put(&path, scale.clone()).await;
    assert_eq!((code, &put["spec"]["replicas"]), (200, &json!(5)));
    let (_, after) = server.get(&format!("{base}/web")).await;
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(5), &json!(2)));

    let noted = after["metadata"]["managedFields"].as_array().unwrap();
    let own = noted.iter().find(|entry| entry["subresource"] == "scale").expect("who scales is noted");
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));

    // The version put back is stale now, and so is another uid.
    let (code, stale) = server.put(&path, scale.clone()).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    scale["metadata"] = json!({"name": "web", "uid": "other"});
    let (code, other) = server.put(&path, scale.clone()).await;
    assert_eq!(code, 409);
    assert!(other["message"].as_str().unwrap().contains("UID in precondition: other"), "{other}");

    let merge = "application/merge-patch+json";
    let (code, patched) = server.patch(&path, merge, json!({"spec": {"replicas": 0}})).await;
    assert_eq!((code, &patched["spec"]), (200, &json!({})));
    let (code, refused) = server.patch(&path, merge, json!({"spec": {"replicas": -3}})).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    assert!(
        refused["message"].as_str().unwrap().starts_with("Scale.autoscaling \"web\" is invalid"),
        "{refused}"
    );
    let json_patch = json!([{"op": "replace", "path": "/spec", "value": {"replicas": 7}}]);
    let (code, patched) = server.patch(&path, "application/json-patch+json", json_patch).await;
    assert_eq!((code, &patched["spec"]["replicas"]), (200, &json!(7)));

    assert_eq!(server.get(&format!("{base}/none/scale")).await.0, 404);
    assert_eq!(server.get("/api/v1/namespaces/default/configmaps/x/scale").await.0, 404);
    assert_eq!(server.post(&path, json!({})).await.0, 405);
}
