//! Quotas charge what is used, once, and refuse what is too much.

use serde_json::json;

use super::{super::testing::Write, *};
use crate::objects::{CONFIG_MAPS, Kind, PERSISTENT_VOLUME_CLAIMS, SERVICES, memory::Memory};

fn quota(name: &str, hard: Value, used: Value, scopes: Value) -> (Kind, Value) {
    (
        RESOURCE_QUOTAS,
        json!({"metadata": {"namespace": "a", "name": name},
        "spec": {"hard": hard, "scopes": scopes}, "status": {"hard": hard, "used": used}}),
    )
}

fn pod(requests: Value) -> Value {
    json!({"metadata": {"namespace": "a", "name": "p"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

async fn used(objects: &Arc<Memory>, name: &str) -> Value {
    let quota = objects.get(RESOURCE_QUOTAS, "a", name).await.unwrap().unwrap();
    quota.pointer("/status/used").unwrap().clone()
}

#[tokio::test]
async fn pods_are_charged_until_the_quota_is_full() {
    let hard = json!({"pods": "2", "requests.cpu": "1"});
    let objects = Memory::with(vec![quota("q", hard, json!({"pods": "0", "requests.cpu": "0"}), json!([]))]);
    let create = async |cpu: &str| Write::create(PODS, pod(json!({"cpu": cpu}))).run(&objects, &[NAME]).await;
    create("400m").await.unwrap();
    assert_eq!(used(&objects, "q").await, json!({"pods": "1", "requests.cpu": "400m"}));
    let refused = create("700m").await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=700m, used: requests.cpu=400m, limited: \
         requests.cpu=1"
    );
    create("600m").await.unwrap();
    assert!(create("0").await.unwrap_err().message.contains("exceeded quota: q, requested: pods=1"));
    let bare = Write::create(PODS, pod(json!({}))).run(&objects, &[NAME]).await.unwrap_err();
    assert!(bare.message.ends_with("failed quota: q: must specify requests.cpu for: c"), "{}", bare.message);
}

#[tokio::test]
async fn counts_services_and_storage() {
    let hard = json!({"configmaps": "1", "count/configmaps": "5", "services.nodeports": "2",
        "requests.storage": "10Gi", "fast.storageclass.storage.k8s.io/requests.storage": "3Gi"});
    let none = json!({"configmaps": "0", "count/configmaps": "0", "services.nodeports": "0",
        "requests.storage": "0", "fast.storageclass.storage.k8s.io/requests.storage": "0"});
    let objects = Memory::with(vec![quota("q", hard, none, json!([]))]);
    let meta = json!({"namespace": "a", "name": "x"});
    let service = |ports: usize| json!({"metadata": meta, "spec": {"type": "NodePort", "ports": vec![json!({"port": 1}); ports]}});
    let claim = |size: &str| json!({"metadata": meta, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": size}}}});
    for (write, allowed) in [
        (Write::create(CONFIG_MAPS, json!({"metadata": meta})), true),
        (Write::create(CONFIG_MAPS, json!({"metadata": meta})), false),
        (Write::create(SERVICES, service(1)), true),
        (Write::update(SERVICES, service(1), service(2)), true),
        (Write::update(SERVICES, service(2), service(3)), false),
        (Write::update(SERVICES, service(2), service(1)), true),
        (Write::create(PERSISTENT_VOLUME_CLAIMS, claim("2Gi")), true),
        (Write::create(PERSISTENT_VOLUME_CLAIMS, claim("2Gi")), false),
    ] {
        let shown = format!("{:?} {}", write.operation, write.object);
        assert_eq!(write.run(&objects, &[NAME]).await.is_ok(), allowed, "{shown}");
    }
    let used = used(&objects, "q").await;
    assert_eq!((&used["configmaps"], &used["services.nodeports"]), (&json!("1"), &json!("2")));
    assert_eq!(used["requests.storage"], "2Gi");
}

#[tokio::test]
async fn scopes_choose_pods_and_an_unready_quota_refuses() {
    let one = || json!({"pods": "1"});
    let objects = Memory::with(vec![quota("best", one(), json!({"pods": "1"}), json!(["BestEffort"]))]);
    assert!(Write::create(PODS, pod(json!({"cpu": "1"}))).run(&objects, &[NAME]).await.is_ok());
    assert!(Write::create(PODS, pod(json!({}))).run(&objects, &[NAME]).await.is_err());

    let fresh =
        (RESOURCE_QUOTAS, json!({"metadata": {"namespace": "a", "name": "q"}, "spec": {"hard": one()}}));
    let objects = Memory::with(vec![fresh]);
    let refused = Write::create(PODS, pod(json!({}))).run(&objects, &[NAME]).await.unwrap_err();
    assert!(refused.message.ends_with("status unknown for quota: q, resources: pods"), "{}", refused.message);
}

#[tokio::test]
async fn concurrent_writers_never_exceed_the_quota() {
    let objects =
        Memory::with(vec![quota("q", json!({"configmaps": "10"}), json!({"configmaps": "0"}), json!([]))]);
    let meta = json!({"metadata": {"namespace": "a", "name": "x"}});
    let writes = (0..30).map(|_| Write::create(CONFIG_MAPS, meta.clone()).run(&objects, &[NAME]));
    let done = futures::future::join_all(writes).await;
    assert_eq!(done.iter().filter(|r| r.is_ok()).count(), 10);
    assert_eq!(used(&objects, "q").await, json!({"configmaps": "10"}));
}
