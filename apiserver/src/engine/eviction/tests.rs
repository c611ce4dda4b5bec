use super::*;
use crate::engine::testing::TestServer;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn budget(status: Value) -> Object {
    object(json!({"metadata": {"name": "b", "generation": 2}, "status": status}))
}

#[test]
fn budgets_are_charged_or_say_why_not() {
    let now = Timestamp::UNIX_EPOCH;
    let one = charged(&budget(json!({"observedGeneration": 2, "disruptionsAllowed": 1})), "p", now).unwrap();
    assert_eq!(one.pointer("/status/disruptionsAllowed"), Some(&json!(0)));
    assert_eq!(one.pointer("/status/disruptedPods/p"), Some(&json!("1970-01-01T00:00:00Z")));
    assert_eq!(one.pointer("/status/conditions/0/reason"), Some(&json!("InsufficientPods")));
    let many = charged(&budget(json!({"observedGeneration": 2, "disruptionsAllowed": 3})), "p", now).unwrap();
    assert!(many.pointer("/status/conditions").is_none());

    let failed =
        json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "why"}]);
    let other = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "X", "message": "why"}]);
    for (status, code, retry, cause) in [
        (
            json!({"observedGeneration": 1}),
            429,
            10,
            "The disruption budget b is still being processed by the server.",
        ),
        (
            json!({"observedGeneration": 2, "desiredHealthy": 2, "currentHealthy": 2}),
            429,
            0,
            "The disruption budget b needs 2 healthy pods and has 2 currently",
        ),
        (
            json!({"observedGeneration": 2, "conditions": failed}),
            429,
            0,
            "The disruption budget b does not allow evicting pods currently because it failed sync: why",
        ),
        (
            json!({"observedGeneration": 2, "currentHealthy": 2, "conditions": other}),
            429,
            0,
            "The disruption budget b does not allow evicting pods currently (X): why",
        ),
        (
            json!({"observedGeneration": 2, "currentHealthy": 2}),
            429,
            0,
            "The disruption budget b does not allow evicting pods currently",
        ),
        (json!({"observedGeneration": 2, "disruptionsAllowed": -1}), 403, 0, ""),
    ] {
        let error = charged(&budget(status), "p", now).unwrap_err();
        let details = error.details.clone().unwrap_or_default();
        assert_eq!((error.code, details.retry_after_seconds), (code, retry), "{error}");
        assert_eq!(details.causes.first().map_or("", |c| &c.message), cause);
        assert!(details.causes.iter().all(|c| c.kind == "DisruptionBudget"));
    }
}

#[test]
fn dry_runs_are_asked_for_in_two_places() {
    let of = |inside: Value, asked| {
        order(&object(json!({"deleteOptions": {"dryRun": inside}})), asked).map(|o| o.dry_run)
    };
    assert!(!of(json!([]), false).unwrap());
    assert!(
        of(json!([]), true).unwrap()
            && of(json!(["All"]), false).unwrap()
            && of(json!(["All"]), true).unwrap()
    );
    assert!(of(json!(["Some"]), true).is_err() && of(json!(["Some"]), false).is_err());
}

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const BUDGETS_PATH: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn pod(server: &TestServer, name: &str, phase: &str, ready: bool) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}]}});
    let (code, mut made) = server.post(PODS_PATH, pod).await;
    assert_eq!(code, 201, "{made}");
    let ready = if ready { "True" } else { "False" };
    made["status"] = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
    let (code, answer) = server.put(&format!("{PODS_PATH}/{name}/status"), made).await;
    assert_eq!(code, 200, "{answer}");
}

async fn set_budget(server: &TestServer, status: Value) {
    let (_, mut budget) = server.get(&format!("{BUDGETS_PATH}/b")).await;
    budget["status"] = status;
    let (code, answer) = server.put(&format!("{BUDGETS_PATH}/b/status"), budget).await;
    assert_eq!(code, 200, "{answer}");
}

async fn evict(server: &TestServer, name: &str, version: &str, options: Value) -> (u16, Value) {
    let body = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    server.post(&format!("{PODS_PATH}/{name}/eviction"), body).await
}

async fn deleted(server: &TestServer, name: &str) -> Option<Value> {
    let (code, pod) = server.get(&format!("{PODS_PATH}/{name}")).await;
    if code == 404 {
        Some(Value::Null)
    } else {
        pod["metadata"].get("deletionTimestamp").map(|_| pod.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_evicted_as_their_budget_allows() {
    let server = TestServer::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(server.post("/api/v1/namespaces/default/serviceaccounts", account).await.0, 201);
    for (name, phase, ready) in [
        ("a", "Running", true),
        ("b", "Running", true),
        ("c", "Running", false),
        ("d", "Succeeded", false),
        ("e", "Pending", false),
        ("f", "Running", true),
    ] {
        pod(&server, name, phase, ready).await;
    }
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let (code, made) = server.post(BUDGETS_PATH, json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");

    // Nobody has looked at the budget yet.
    let (code, answer) = evict(&server, "a", "policy/v1", json!({})).await;
    assert_eq!(
        (code, &answer["details"]["causes"][0]["reason"]),
        (429, &json!("DisruptionBudget")),
        "{answer}"
    );
    let healthy = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 3});
    set_budget(&server, healthy).await;

    // A dry run, and one for another pod of the name, change nothing.
    assert_eq!(evict(&server, "a", "policy/v1", json!({"dryRun": ["All"]})).await.0, 201);
    assert_eq!(evict(&server, "a", "policy/v1", json!({"preconditions": {"uid": "x"}})).await.0, 409);
    assert!(deleted(&server, "a").await.is_none());
    set_budget(
        &server,
        json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1}),
    )
    .await;

    let (code, answer) = evict(&server, "a", "policy/v1beta1", json!({"gracePeriodSeconds": 7})).await;
    assert_eq!((code, &answer["status"]), (201, &json!("Success")), "{answer}");
    let gone = deleted(&server, "a").await.expect("the pod goes");
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 7);
    let reasons = gone["status"]["conditions"].as_array().unwrap();
    assert!(
        reasons.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
    );
    let (_, after) = server.get(&format!("{BUDGETS_PATH}/b")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["a"].is_string(), "{after}");

    // The budget is used up for healthy pods, not for others.
    assert_eq!(evict(&server, "b", "policy/v1", json!({})).await.0, 429);
    for name in ["c", "d", "e"] {
        let (code, answer) = evict(&server, name, "policy/v1", json!({})).await;
        assert_eq!(code, 201, "{name}: {answer}");
        assert!(deleted(&server, name).await.is_some(), "{name}");
    }

    // Two budgets for one pod are an error.
    server.post(BUDGETS_PATH, json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b2"}, "spec": made["spec"]})).await;
    let (code, answer) = evict(&server, "f", "policy/v1", json!({})).await;
    assert_eq!(code, 500);
    assert!(answer["message"].as_str().unwrap().contains("more than one PodDisruptionBudget"), "{answer}");
    assert_eq!(evict(&server, "none", "policy/v1", json!({})).await.0, 404);
    assert_eq!(evict(&server, "f", "apps/v1", json!({})).await.0, 400);
}
