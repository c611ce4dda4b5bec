//! What the verbs do with kinds that are not what they seem.

use bytes::Bytes;
use http::{Method, header};
use http_body_util::BodyExt;
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

/// What is asked for of a table is told once, and a bookmark is a row with its metadata.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_watch_tell_their_columns_once() {
    let server = TestServer::start().await;
    let maps = "/api/v1/namespaces/tables/configmaps";
    let namespace = json!({"metadata": {"name": "tables"}});
    assert_eq!(server.post("/api/v1/namespaces", namespace).await.0, 201);
    for name in ["a", "b"] {
        assert_eq!(server.post(maps, json!({"metadata": {"name": name}})).await.0, 201);
    }
    let table = [(header::ACCEPT, "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let one = server.send(Method::GET, &format!("{maps}/a"), &table, Bytes::new()).await;
    let one: Value = serde_json::from_slice(&one.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let version = &one["rows"][0]["object"]["metadata"]["resourceVersion"];
    assert_eq!(&one["metadata"]["resourceVersion"], version, "{one}");
    // A watch of old, which is one of lists as well.
    let uri = format!("{maps}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1");
    let watched = server.send(Method::GET, &uri, &table, Bytes::new()).await;
    let frames = watched.into_body().collect().await.unwrap().to_bytes();
    let frames: Vec<Value> = frames
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert!(frames.len() >= 3, "{frames:?}");
    assert!(frames[0]["object"]["columnDefinitions"].is_array(), "{}", frames[0]);
    assert!(frames[1..].iter().all(|frame| frame["object"]["columnDefinitions"].is_null()), "{frames:?}");
    let end = &frames[2];
    assert_eq!(end["type"], "BOOKMARK");
    let metadata = &end["object"]["rows"][0]["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true", "{end}");
    let uri = format!("{maps}?includeObject=Everything");
    let refused = server.send(Method::GET, &uri, &table, Bytes::new()).await;
    assert_eq!(refused.status(), 400);
}

/// What can be done to what, and where.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_namespaces_is_only_listed_across_them() {
    let server = TestServer::start().await;
    let made = json!({"metadata": {"name": "a"}});
    for (method, path, code) in [
        (Method::POST, "/api/v1/configmaps", 405),
        (Method::DELETE, "/api/v1/configmaps", 405),
        (Method::GET, "/api/v1/configmaps", 200),
        (Method::GET, "/api/v1/configmaps/a", 404),
        (Method::POST, "/apis/authorization.k8s.io/v1/localsubjectaccessreviews", 404),
    ] {
        let (got, said) = server.ask(method.clone(), path, "application/json", Some(made.clone())).await;
        assert_eq!(got, code, "{method} {path}: {said}");
    }
    let metadata = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1");
    for (path, kind, code) in [
        ("/api/v1/namespaces", "PartialObjectMetadataList", 200),
        ("/api/v1/namespaces", "PartialObjectMetadata", 406),
        ("/api/v1/namespaces/default", "PartialObjectMetadata", 200),
        ("/api/v1/namespaces/default", "PartialObjectMetadataList", 406),
    ] {
        let accept = metadata(kind);
        let answer = server.send(Method::GET, path, &[(header::ACCEPT, &accept)], Bytes::new()).await;
        assert_eq!(answer.status(), code, "{path} {kind}");
    }
    let (code, said) = server.get("/api/v1/namespaces/default?export=true").await;
    assert_eq!(code, 400, "{said}");
    let people = [(header::USER_AGENT, "curl/8.0")];
    let answer = server.send(Method::GET, "/api/v1/namespaces/default", &people, Bytes::new()).await;
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(answer.starts_with(b"{\n  \""), "{answer:?}");
}

/// Names that are taken, versions that are missing, and marks that nobody may set.
#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_in_upstreams_words() {
    let server = TestServer::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let named = json!({"metadata": {"name": "a", "generateName": "a-", "finalizers": ["example.com/f"]}});
    assert_eq!(server.post(maps, named.clone()).await.0, 201);
    let (code, taken) = server.post(maps, named).await;
    let why =
        "configmaps \"a\" already exists, the server was not able to generate a unique name for the object";
    assert_eq!((code, &taken["message"]), (409, &json!(why)));
    assert_eq!(
        (&taken["reason"], &taken["details"]["retryAfterSeconds"]),
        (&json!("AlreadyExists"), &json!(1))
    );
    let marked = json!({"metadata": {"name": "a", "deletionTimestamp": "2030-01-01T00:00:00Z"}});
    let (code, refused) = server.put(&format!("{maps}/a"), marked).await;
    assert_eq!(
        (code, &refused["message"]),
        (
            422,
            &json!(
                "ConfigMap \"a\" is invalid: metadata.deletionTimestamp: Invalid value: \"2030-01-01T00:00:00Z\": \
                 field is immutable"
            )
        )
    );
    assert_eq!(server.ask(Method::DELETE, &format!("{maps}/a"), "", None).await.0, 200);
    let (code, taken) = server.post(maps, json!({"metadata": {"name": "a"}})).await;
    let why = "object is being deleted: configmaps \"a\" already exists";
    assert_eq!((code, &taken["message"]), (409, &json!(why)));

    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "h"}});
    assert_eq!(server.post(leases, lease.clone()).await.0, 201);
    let why = "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
               specified for an update";
    let (code, refused) = server.put(&format!("{leases}/l"), lease).await;
    assert_eq!((code, &refused["message"]), (422, &json!(why)));
    let patch = json!([{"op": "remove", "path": "/metadata/resourceVersion"}]);
    let (code, refused) = server.patch(&format!("{leases}/l"), "application/json-patch+json", patch).await;
    assert_eq!((code, &refused["message"]), (422, &json!(why)));

    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let patch = json!({"metadata": {"ownerReferences": [owner("u"), owner("u")]}});
    let kinds = [(header::CONTENT_TYPE, "application/merge-patch+json")];
    let patched = server.send(Method::PATCH, &format!("{leases}/l"), &kinds, patch.to_string().into()).await;
    let warned = patched.headers()[header::WARNING].to_str().unwrap();
    assert!(warned.contains("duplicate entries after mutating admission happens;"), "{warned}");
    let patch = json!({"spec": {"leaseDurationSeconds": "x"}});
    let strategic = "application/strategic-merge-patch+json";
    let (code, refused) = server.patch(&format!("{leases}/l"), strategic, patch).await;
    let shown = "patch: Invalid value: \"map[spec:map[leaseDurationSeconds:x]]\"";
    assert!(refused["message"].as_str().unwrap().contains(shown), "{code} {refused}");
}
