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

#[tokio::test(flavor = "multi_thread")]
async fn alpha_kinds_are_there_when_their_gate_is_on() {
    let gates = "--feature-gates=GenericWorkload=true,GangScheduling=true,WorkloadAwarePreemption=true";
    let server = TestServer::start_with(&[gates]).await;
    let of = |plural: &str| format!("/apis/scheduling.k8s.io/v1alpha2/namespaces/default/{plural}");
    let workload = json!({"metadata": {"name": "w"}, "spec": {"podGroupTemplates": [
        {"name": "t", "schedulingPolicy": {"gang": {"minCount": 2}}}]}});
    let group = json!({"metadata": {"name": "g"}, "spec": {"schedulingPolicy": {"gang": {"minCount": 2}},
        "podGroupTemplateRef": {"workload": {"workloadName": "w", "podGroupTemplateName": "t"}}}});
    let (code, refused) = server.post(&of("podgroups"), group.clone()).await;
    assert_eq!(code, 403, "there is no workload yet: {refused}");
    let (code, made) = server.post(&of("workloads"), workload).await;
    assert_eq!(code, 201, "{made}");
    let (code, made) = server.post(&of("podgroups"), group).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["finalizers"], json!(["scheduling.k8s.io/podgroup-protection"]));
    assert_eq!((&made["spec"]["disruptionMode"], &made["spec"]["priority"]), (&json!("Pod"), &json!(0)));
    let asked = json!({"metadata": {"name": "r"}, "spec": {"driver": "d.example.com"}});
    let (code, asked) = server.post("/apis/resource.k8s.io/v1alpha3/resourcepoolstatusrequests", asked).await;
    assert_eq!((code, &asked["spec"]["limit"]), (201, &json!(100)), "{asked}");
    let rule = json!({"metadata": {"name": "r"}, "spec": {"taint": {"key": "k", "effect": "NoSchedule"}}});
    let (code, made) = server.post("/apis/resource.k8s.io/v1alpha3/devicetaintrules", rule).await;
    assert_eq!((code, &made["apiVersion"]), (201, &json!("resource.k8s.io/v1alpha3")), "{made}");
    let (code, seen) = server.get("/apis/resource.k8s.io/v1beta2/devicetaintrules/r").await;
    assert_eq!((code, &seen["spec"]), (200, &made["spec"]));
    let (code, _) = server.get("/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations").await;
    assert_eq!(code, 404, "its gate is off");
}
