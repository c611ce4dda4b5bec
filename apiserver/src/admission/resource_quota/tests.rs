//! Quotas charge what is used, once, and refuse what is too much.

use serde_json::json;

use super::{
    super::testing::{Write, configured_over},
    *,
};
use crate::admission::Configurations;
use crate::objects::{CONFIG_MAPS, DEVICE_CLASSES, Kind, PERSISTENT_VOLUME_CLAIMS, SERVICES, memory::Memory};

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

fn configured(objects: &Arc<Memory>, limited: &str) -> Result<crate::admission::Chain, String> {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\n";
    let configurations = Configurations::with(NAME, &format!("{head}limitedResources: {limited}"));
    configured_over(objects, &[NAME], &configurations)
}

#[tokio::test]
async fn what_is_limited_needs_a_quota() {
    let class = "gold.storageclass.storage.k8s.io/requests.storage";
    let limited = "[{resource: persistentvolumeclaims, matchContains: [.storageclass.storage.k8s.io/requests.storage]}]";
    let claim = |class: &str| {
        json!({"metadata": {"namespace": "a", "name": "c"},
        "spec": {"storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let create = |class: &str| Write::create(PERSISTENT_VOLUME_CLAIMS, claim(class));
    let objects = Memory::with(vec![quota("q", json!({class: "5Gi"}), json!({class: "0"}), json!([]))]);
    let chain = configured(&objects, limited).unwrap();
    assert!(create("gold").through_chain(&chain).await.is_ok());
    assert_eq!(used(&objects, "q").await, json!({class: "1Gi"}));
    let refused = create("lead").through_chain(&chain).await.unwrap_err();
    assert_eq!(
        refused.message,
        "persistentvolumeclaims \"c\" is forbidden: insufficient quota to consume: \
         lead.storageclass.storage.k8s.io/requests.storage"
    );
    assert!(create("").through_chain(&chain).await.is_ok());
    // Without any quota as well.
    let chain = configured(&Memory::with(Vec::new()), limited).unwrap();
    assert!(create("gold").through_chain(&chain).await.is_err());
}

#[tokio::test]
async fn scopes_that_are_limited_need_a_quota_of_theirs() {
    let limited =
        "[{resource: pods, matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]";
    let classy = |class: &str| {
        json!({"metadata": {"namespace": "a", "name": "p"},
        "spec": {"priorityClassName": class, "containers": [{"name": "c"}]}})
    };
    let bare = Memory::with(vec![quota("q", json!({"pods": "9"}), json!({"pods": "0"}), json!([]))]);
    let chain = configured(&bare, limited).unwrap();
    assert!(Write::create(PODS, classy("low")).through_chain(&chain).await.is_ok());
    let refused = Write::create(PODS, classy("high")).through_chain(&chain).await.unwrap_err();
    let why = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
    assert!(refused.message.ends_with(why), "{}", refused.message);
    let (kind, mut scoped) = quota("q", json!({"pods": "9"}), json!({"pods": "0"}), json!([]));
    scoped["spec"]["scopeSelector"] =
        json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
    let chain = configured(&Memory::with(vec![(kind, scoped)]), limited).unwrap();
    assert!(Write::create(PODS, classy("high")).through_chain(&chain).await.is_ok());
}

#[test]
fn configurations_without_sense_are_refused() {
    let objects = Memory::with(Vec::new());
    let error = |limited: &str| configured(&objects, limited).err().unwrap_or_default();
    assert!(error("[{matchContains: [a]}]").contains("limitedResources[0].resource: Required value"));
    assert!(error("[{resorce: pods}]").contains("resorce"));
    assert_eq!(error("[{resource: pods, matchContains: [cpu]}]"), "");
    let old = "apiVersion: resourcequota.admission.k8s.io/v1beta1\nkind: Configuration\n";
    assert!(configured_over(&objects, &[NAME], &Configurations::with(NAME, old)).is_ok());
}

#[tokio::test]
async fn claims_that_come_into_a_scope_are_charged_for() {
    let (kind, mut scoped) =
        quota("q", json!({"persistentvolumeclaims": "1"}), json!({"persistentvolumeclaims": "0"}), json!([]));
    scoped["spec"]["scopeSelector"] = json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["fast"]}]});
    let objects = Memory::with(vec![(kind, scoped)]);
    let claim = |class: &str| json!({"metadata": {"namespace": "a", "name": "c"}, "spec": {"volumeAttributesClassName": class}});
    let slow = Write::create(PERSISTENT_VOLUME_CLAIMS, claim("slow"));
    slow.run(&objects, &[NAME]).await.unwrap();
    assert_eq!(used(&objects, "q").await, json!({"persistentvolumeclaims": "0"}));
    let change = || Write::update(PERSISTENT_VOLUME_CLAIMS, claim("slow"), claim("fast"));
    change().run(&objects, &[NAME]).await.unwrap();
    assert_eq!(used(&objects, "q").await, json!({"persistentvolumeclaims": "1"}));
    let same = Write::update(PERSISTENT_VOLUME_CLAIMS, claim("fast"), claim("fast"));
    same.run(&objects, &[NAME]).await.unwrap();
    assert!(change().run(&objects, &[NAME]).await.is_err());
}

/// A claim that was made for the extended resources of a pod is charged for what the pod was not.
#[tokio::test]
async fn devices_are_charged_as_the_extended_resources_they_stand_for() {
    let count = "count/resourceclaims.resource.k8s.io";
    let hard =
        json!({count: "9", "requests.d.io/gpu": "9", "requests.deviceclass.resource.kubernetes.io/gpu": "9"});
    let none =
        json!({count: "0", "requests.d.io/gpu": "0", "requests.deviceclass.resource.kubernetes.io/gpu": "0"});
    let of_class = |number: &str, resource: &str, class: &str| {
        json!({count: number, "requests.d.io/gpu": resource,
            "requests.deviceclass.resource.kubernetes.io/gpu": class})
    };
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "d.io/gpu"}});
    let pod = |named: Value| {
        let mut pod = pod(json!({"d.io/gpu": "2"}));
        pod["metadata"]["uid"] = json!("u");
        pod["status"] = json!({"extendedResourceClaimStatus": named});
        pod
    };
    let claim = |name: &str, made: &str, owned: bool| {
        let mut claim = json!({"metadata": {"namespace": "a", "name": name, "creationTimestamp": made},
            "spec": {"devices": {"requests": [{"name": "r",
                "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 3}}]}}});
        if owned {
            claim["metadata"]["annotations"] =
                json!({"resource.kubernetes.io/extended-resource-claim": "true"});
            claim["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p",
                "uid": "u", "controller": true}]);
        }
        claim
    };
    let now = "2030-01-01T00:00:00Z";
    let named = json!({"resourceClaimName": "c"});
    for (pod, other, claim, charged) in [
        (pod(Value::Null), None, claim("c", now, false), of_class("1", "3", "3")),
        (pod(named.clone()), None, claim("c", now, true), of_class("1", "1", "3")),
        (pod(named), None, claim("d", now, true), of_class("1", "3", "3")),
        (pod(Value::Null), None, claim("c", now, true), of_class("1", "1", "3")),
        (
            pod(Value::Null),
            Some(claim("b", "2029-01-01T00:00:00Z", true)),
            claim("c", now, true),
            of_class("1", "3", "3"),
        ),
    ] {
        let mut there = vec![
            quota("q", hard.clone(), none.clone(), json!([])),
            (DEVICE_CLASSES, class.clone()),
            (PODS, pod.clone()),
        ];
        there.extend(other.map(|other| (RESOURCE_CLAIMS, other)));
        let objects = Memory::with(there);
        Write::create(RESOURCE_CLAIMS, claim.clone()).run(&objects, &[NAME]).await.unwrap();
        assert_eq!(used(&objects, "q").await, charged, "{pod} {claim}");
    }
}
