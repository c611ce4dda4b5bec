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

#[tokio::test(flavor = "multi_thread")]
async fn the_number_is_applied_through_the_scale() {
    const APPLY: &str = "application/apply-patch+yaml";
    let server = TestServer::start().await;
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let apply = async |path: &str, manager: &str, force: bool, body: Value| {
        server.patch(&format!("{base}/web{path}?fieldManager={manager}&force={force}"), APPLY, body).await
    };
    let scale = |replicas: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": replicas});
    let owners = async || {
        let (_, object) = server.get(&format!("{base}/web")).await;
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let owner = |e: &Value| {
            assert_eq!(e["apiVersion"], "apps/v1");
            format!("{}/{}", e["manager"].as_str().unwrap(), e["subresource"].as_str().unwrap_or_default())
        };
        let of_replicas = entries.iter().filter(|e| e["fieldsV1"]["f:spec"].get("f:replicas").is_some());
        let mut owners: Vec<String> = of_replicas.map(owner).collect();
        owners.sort();
        owners
    };
    let (code, _) = apply("/scale", "hand", false, scale(json!({"replicas": 3}))).await;
    assert_eq!(code, 404, "a scale makes no object");
    let (code, made) = apply("", "maker", false, deployment("web")).await;
    assert_eq!(code, 201, "{made}");

    let (code, conflict) = apply("/scale", "hand", false, scale(json!({"replicas": 3}))).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")), "{conflict}");
    assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"maker\": .spec.replicas");
    let (code, shared) = apply("/scale", "hand", false, scale(json!({"replicas": 2}))).await;
    assert_eq!((code, shared["metadata"].get("managedFields")), (200, None), "{shared}");
    assert_eq!(owners().await, ["hand/scale", "maker/"]);
    let (code, forced) = apply("/scale", "hand", true, scale(json!({"replicas": 3}))).await;
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(owners().await, ["hand/scale"]);

    // Who owned the number meets the new owner, unless it does not name the number.
    assert_eq!(apply("", "maker", false, deployment("web")).await.0, 409);
    let mut less = deployment("web");
    less["spec"].as_object_mut().unwrap().remove("replicas");
    assert_eq!(apply("", "maker", false, less).await.1["spec"]["replicas"], 3);
    let merge = "application/merge-patch+json";
    let path = format!("{base}/web/scale?fieldManager=other");
    let (code, _) = server.patch(&path, merge, json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, owners().await), (200, vec!["other/scale".to_owned()]));
    let (code, bad) = server.patch(&format!("{path}&force=true"), merge, json!({})).await;
    assert_eq!((code, &bad["reason"]), (422, &json!("Invalid")), "only an apply forces");
    let (code, odd) = apply("/scale", "hand", true, deployment("web")).await;
    assert_eq!(code, 400, "{odd}");
}
