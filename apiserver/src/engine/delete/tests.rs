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
