//! Deletions on a real etcd.

use http::Method;
use serde_json::json;

use crate::engine::testing::TestServer;

/// What flags change of deletions, and of what a server makes by itself, on one server.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_garbage_collector_objects_go_at_once_and_collections_by_several_workers() {
    let server = TestServer::start_with(&[
        "--enable-garbage-collector=false",
        "--delete-collection-workers=4",
        "--endpoint-reconciler-type=none",
    ])
    .await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for n in 0..12 {
        let name = format!("m{n:02}");
        let map = json!({"metadata": {"name": name, "labels": {"in": "all"}}});
        assert_eq!(server.post(maps, map).await.0, 201);
    }
    let kept = json!({"metadata": {"name": "kept", "finalizers": ["a/b"], "labels": {"in": "all"}}});
    assert_eq!(server.post(maps, kept).await.0, 201);
    // Nobody would take the mark of orphaning away.
    let orphan = json!({"propagationPolicy": "Orphan"});
    let path = format!("{maps}/m00");
    assert_eq!(server.ask(Method::DELETE, &path, "application/json", Some(orphan)).await.0, 200);
    assert_eq!(server.get(&path).await.0, 404);
    let (code, gone) = server.ask(Method::DELETE, &format!("{maps}?labelSelector=in%3Dall"), "", None).await;
    let names: Vec<&str> = gone["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    let expected: Vec<String> =
        ["kept".to_owned()].into_iter().chain((1..12).map(|n| format!("m{n:02}"))).collect();
    assert_eq!((code, names), (200, expected.iter().map(String::as_str).collect()));
    let (_, left) = server.get(&format!("{maps}?labelSelector=in%3Dall")).await;
    let left = left["items"].as_array().unwrap();
    assert_eq!((left.len(), &left[0]["metadata"]["finalizers"]), (1, &json!(["a/b"])));
    assert!(left[0]["metadata"]["deletionTimestamp"].is_string());
    // The service is there, the server's address is not among its endpoints.
    assert_eq!(server.get("/api/v1/namespaces/default/services/kubernetes").await.0, 200);
    assert_eq!(server.get("/api/v1/namespaces/default/endpoints/kubernetes").await.0, 404);
}

/// What was listed may be older than what is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_goes_though_its_objects_change_meanwhile() {
    const MAPS: usize = 60;
    let server = TestServer::start_with(&[]).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let path = |n: usize| format!("{maps}/m{n}");
    for n in 0..MAPS {
        assert_eq!(server.post(maps, json!({"metadata": {"name": format!("m{n}")}})).await.0, 201);
    }
    let changes = async {
        // From the end: those are deleted last.
        for n in (0..MAPS).rev() {
            let change = json!({"data": {"n": n.to_string()}});
            let kind = "application/merge-patch+json";
            let (code, said) = server.ask(Method::PATCH, &path(n), kind, Some(change)).await;
            assert!(matches!(code, 200 | 404), "{said}");
        }
    };
    let (deleted, ()) = tokio::join!(server.ask(Method::DELETE, maps, "", None), changes);
    assert_eq!(deleted.0, 200, "{}", deleted.1);
    let (_, left) = server.get(maps).await;
    assert_eq!(left["items"], json!([]));
}

/// Some kinds answer a deletion with what they were, as of its revision, others with a Status.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_answers_with_what_is_gone_or_that_it_is() {
    let server = TestServer::start_with(&[]).await;
    let delete = async |path: &str, options: serde_json::Value| {
        server.ask(Method::DELETE, path, "application/json", Some(options)).await
    };
    let version = |object: &serde_json::Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let template = json!({"metadata": {"name": "a"}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let class = json!({"metadata": {"name": "a"}, "provisioner": "example.com/p"});
    for (path, object, kind) in [
        ("/api/v1/namespaces/default/podtemplates", template, "PodTemplate"),
        ("/apis/storage.k8s.io/v1/storageclasses", class, "StorageClass"),
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}}), "Status"),
    ] {
        let (code, made) = server.post(path, object).await;
        assert_eq!(code, 201, "{made}");
        let one = format!("{path}/a");
        let (code, tried) = delete(&one, json!({"dryRun": ["All"]})).await;
        assert_eq!((code, &tried["kind"]), (200, &json!(kind)), "{tried}");
        let (code, gone) = delete(&one, json!({})).await;
        assert_eq!((code, &gone["kind"]), (200, &json!(kind)), "{gone}");
        assert_eq!(server.get(&one).await.0, 404, "{path}");
        if kind == "Status" {
            assert_eq!(
                (&gone["details"]["uid"], &gone["details"]["kind"]),
                (&made["metadata"]["uid"], &json!("configmaps"))
            );
        } else {
            assert_eq!(gone["metadata"]["uid"], made["metadata"]["uid"]);
            assert_eq!(version(&tried), version(&made), "nothing happened");
            assert!(version(&gone) > version(&made), "{gone}");
        }
    }
    // What has finalizers stays, is marked, and a dry run says how.
    let maps = "/api/v1/namespaces/default/configmaps";
    let kept = json!({"metadata": {"name": "kept", "finalizers": ["example.com/f"]}});
    assert_eq!(server.post(maps, kept).await.0, 201);
    let one = format!("{maps}/kept");
    let (code, tried) = delete(&one, json!({"dryRun": ["All"]})).await;
    assert_eq!((code, &tried["kind"]), (200, &json!("ConfigMap")), "{tried}");
    assert!(tried["metadata"]["deletionTimestamp"].is_string(), "{tried}");
    assert!(server.get(&one).await.1["metadata"].get("deletionTimestamp").is_none());
    let (code, marked) = delete(&one, json!({"orphanDependents": false})).await;
    assert_eq!((code, &marked["kind"]), (202, &json!("ConfigMap")), "{marked}");
}

/// A part of a collection goes, and the answer is the list of it.
#[tokio::test(flavor = "multi_thread")]
async fn as_much_of_a_collection_goes_as_is_asked_for() {
    let server = TestServer::start_with(&[]).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        let map = json!({"metadata": {"name": name, "labels": {"in": "part"}}});
        assert_eq!(server.post(maps, map).await.0, 201);
    }
    let (code, gone) = server.ask(Method::DELETE, &format!("{maps}?limit=2"), "", None).await;
    let names: Vec<&str> =
        gone["items"].as_array().unwrap().iter().map(|m| m["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!((code, names, &gone["kind"]), (200, vec!["a", "b"], &json!("ConfigMapList")), "{gone}");
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (code, gone) = server.ask(Method::DELETE, &format!("{maps}?continue={token}"), "", None).await;
    assert_eq!((code, &gone["items"][0]["metadata"]["name"]), (200, &json!("c")), "{gone}");
    let (_, left) = server.get(&format!("{maps}?labelSelector=in%3Dpart")).await;
    assert_eq!(left["items"], json!([]));
}

/// A pod that nobody has to stop goes at once, and says in its last words when.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_go_say_when() {
    let server = TestServer::start_with(&[]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    let account = json!({"metadata": {"name": "default"}});
    let (code, said) = server.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    assert!(matches!(code, 201 | 409), "{said}");
    let (code, made) = server.post(pods, pod).await;
    assert_eq!(code, 201, "{made}");
    let (code, gone) = server.ask(Method::DELETE, &format!("{pods}/p"), "", None).await;
    assert_eq!((code, &gone["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(0)), "{gone}");
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "{gone}");
    assert_eq!(server.get(&format!("{pods}/p")).await.0, 404);
    let namespace = "/api/v1/namespaces/ending";
    let made = json!({"metadata": {"name": "ending"}});
    assert_eq!(server.post("/api/v1/namespaces", made).await.0, 201);
    let other = json!({"preconditions": {"uid": "other"}});
    let (code, refused) = server.ask(Method::DELETE, namespace, "application/json", Some(other)).await;
    let why = "Operation cannot be fulfilled on namespaces \"ending\": Precondition failed: UID in precondition: other";
    assert!(code == 409 && refused["message"].as_str().unwrap().starts_with(why), "{refused}");
    let (code, ending) = server.ask(Method::DELETE, namespace, "", None).await;
    assert_eq!((code, &ending["status"]["phase"]), (200, &json!("Terminating")), "{ending}");
    assert!(ending["metadata"].get("deletionGracePeriodSeconds").is_none(), "{ending}");
}
