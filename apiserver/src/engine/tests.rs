//! What the verbs do with kinds that are not what they seem.

use http::Method;
use serde_json::{Value, json};

use super::testing::TestServer;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_one_object_in_two_groups() {
    let server = TestServer::start().await;
    let (core, other) =
        ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n",
        "eventTime": "2024-01-01T00:00:00.000000Z", "reason": "r", "type": "Normal", "action": "a",
        "reportingController": "c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let (code, made) = server.post(other, event).await;
    assert_eq!(
        (code, &made["apiVersion"], &made["note"]),
        (201, &json!("events.k8s.io/v1"), &json!("n")),
        "{made}"
    );
    let (code, seen) = server.get(&format!("{core}/e")).await;
    assert_eq!((code, &seen["apiVersion"], &seen["message"]), (200, &json!("v1"), &json!("n")), "{seen}");
    assert_eq!((&seen["involvedObject"]["name"], &seen["reportingComponent"]), (&json!("p"), &json!("c")));

    let merge = "application/merge-patch+json";
    let (code, patched) =
        server.patch(&format!("{core}/e"), merge, json!({"count": 2, "message": "m"})).await;
    assert_eq!((code, &patched["count"]), (200, &json!(2)));
    let (_, seen) = server.get(&format!("{other}/e")).await;
    assert_eq!((&seen["deprecatedCount"], &seen["note"]), (&json!(2), &json!("m")));
    for (uri, count) in [
        (format!("{other}?fieldSelector=regarding.name=p"), 1),
        (format!("{other}?fieldSelector=regarding.name=q"), 0),
        (format!("{core}?fieldSelector=involvedObject.name=p,reason=r"), 1),
        (format!("{core}?fieldSelector=involvedObject.name=q"), 0),
    ] {
        let (code, list) = server.get(&uri).await;
        assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(count)), "{uri}: {list}");
        let versions: Vec<&Value> =
            list["items"].as_array().unwrap().iter().map(|i| &i["apiVersion"]).collect();
        assert!(versions.iter().all(|v| **v == list["apiVersion"] || v.is_null()), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_does_what_its_options_say() {
    let server = TestServer::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let one = format!("{all}/c");
    let (code, made) = server.post(all, json!({"metadata": {"name": "c"}})).await;
    assert_eq!(code, 201, "{made}");
    for (options, code) in [
        (json!({"propagationPolicy": "Sideways"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
        (json!({"dryRun": ["Most"]}), 422),
        (json!({"preconditions": {"uid": "another"}}), 409),
        (json!({"dryRun": ["All"]}), 200),
    ] {
        let answer = server.ask(Method::DELETE, &one, "application/json", Some(options.clone())).await;
        assert_eq!(answer.0, code, "{options}: {}", answer.1);
        assert_eq!(server.get(&one).await.0, 200, "{options} must not delete");
    }
    let (code, _) = server.ask(Method::DELETE, &one, "application/json", Some(json!({}))).await;
    assert_eq!((code, server.get(&one).await.0), (200, 404));
}
