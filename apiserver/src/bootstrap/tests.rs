//! A fresh cluster has what it needs, a second start changes nothing, and endpoints follow the servers.

use serde_json::{Value, json};

use super::*;
use crate::objects::{self, memory::Memory};

fn facts(advertise: &str) -> Facts {
    Facts {
        peer_address: (advertise.to_owned(), 6443),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        advertise: advertise.parse().unwrap(),
        port: 6443,
        publishes: true,
        node_port: 0,
        client_ca: Some("PEM".to_owned()),
        request_header: None,
        gates: Gates::default(),
        hostname: "host".to_owned(),
        identity: "apiserver-x_1".to_owned(),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

async fn endpoints(objects: &Arc<dyn Objects>) -> Vec<Value> {
    let found = objects.get(objects::ENDPOINTS, "default", "kubernetes").await.unwrap().unwrap();
    let list = found.pointer("/subsets/0/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    list.into_iter().map(|a| a["ip"].clone()).collect()
}

#[tokio::test]
async fn a_fresh_cluster_has_what_it_needs() {
    let memory: Arc<dyn Objects> = Memory::with(vec![]);
    let now = at("2026-01-01T00:00:00Z");
    ensure(&memory, &facts("192.0.2.1"), true, now).await.unwrap();
    for (kind, ns, name) in [
        (objects::NAMESPACES, "", "kube-node-lease"),
        (objects::CLUSTER_ROLES, "", "cluster-admin"),
        (objects::PRIORITY_CLASSES, "", "system-node-critical"),
        (objects::SERVICE_CIDRS, "", "kubernetes"),
        (objects::ENDPOINT_SLICES, "default", "kubernetes"),
        (objects::LEASES, "kube-system", &identity::lease_name("host")),
    ] {
        assert!(memory.get(kind, ns, name).await.unwrap().is_some(), "{} {name}", kind.resource);
    }
    let service = memory.get(objects::SERVICES, "default", "kubernetes").await.unwrap().unwrap();
    assert_eq!(service.pointer("/spec/clusterIP"), Some(&json!("10.96.0.1")));
    let map = memory.get(objects::CONFIG_MAPS, "kube-system", "extension-apiserver-authentication").await;
    assert_eq!(map.unwrap().unwrap().pointer("/data/client-ca-file"), Some(&json!("PEM")));
    ensure(&memory, &facts("192.0.2.1"), true, now).await.unwrap();
    let again = memory.get(objects::SERVICES, "default", "kubernetes").await.unwrap().unwrap();
    assert_eq!(again, service);
}

#[tokio::test]
async fn endpoints_are_the_live_servers() {
    let memory: Arc<dyn Objects> = Memory::with(vec![]);
    let (one, two) = (facts("192.0.2.1"), facts("192.0.2.2"));
    renew(&memory, &one, at("2026-01-01T00:00:00Z")).await.unwrap();
    renew(&memory, &two, at("2026-01-01T00:00:10Z")).await.unwrap();
    assert_eq!(endpoints(&memory).await, ["192.0.2.1", "192.0.2.2"]);
    renew(&memory, &two, at("2026-01-01T00:00:20Z")).await.unwrap();
    let silent = memory.get(objects::MASTER_LEASES, "", "192.0.2.1").await.unwrap().unwrap();
    memory.delete(objects::MASTER_LEASES, &silent).await.unwrap();
    renew(&memory, &two, at("2026-01-01T00:01:00Z")).await.unwrap();
    assert_eq!(endpoints(&memory).await, ["192.0.2.2"], "a silent server expires");
    renew(&memory, &one, at("2026-01-01T00:01:01Z")).await.unwrap();
    kubernetes_service::leave(&*memory, &two, at("2026-01-01T00:01:02Z")).await.unwrap();
    assert_eq!(endpoints(&memory).await, ["192.0.2.1"], "a server that stops leaves at once");
}

#[test]
fn lease_names_are_stable_and_valid() {
    let name = identity::lease_name("host");
    assert_eq!(name.len(), "apiserver-".len() + 26);
    assert_eq!(crate::validate::dns_subdomain(&name, false), Vec::<String>::new());
    assert_ne!(name, identity::lease_name("other"));
}
