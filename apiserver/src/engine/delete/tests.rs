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
