//! Addresses and ports: no two services share one, and nothing leaks.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{plan::Family, ports::Bitmap, *};
use crate::objects::{IP_ADDRESSES, RANGES, SERVICE_CIDRS, memory::Memory};

fn allocator(objects: &Arc<Memory>, ranges: &[&str]) -> Arc<ServiceAllocator> {
    let ranges = ranges.iter().map(|r| r.parse().unwrap()).collect();
    ServiceAllocator::new(ranges, 30000..=30040, objects.clone()).0
}

fn service(name: &str, spec: Value) -> Object {
    Object::from_value(json!({"metadata": {"namespace": "a", "name": name}, "spec": spec})).unwrap()
}

async fn write(a: &ServiceAllocator, mut new: Object, old: Option<&Object>) -> Result<Object, Status> {
    a.before_write(&mut new, old, false).await?.commit();
    Ok(new)
}

#[tokio::test]
async fn a_service_gets_an_address_and_loses_it_with_its_deletion() {
    let objects = Memory::with(vec![]);
    let a = allocator(&objects, &["10.0.0.0/24"]);
    let made = write(&a, service("web", json!({"ports": [{"port": 80}]})), None).await.unwrap();
    let ip = made.pointer("/spec/clusterIP").unwrap().as_str().unwrap();
    let parent = objects.get(IP_ADDRESSES, "", ip).await.unwrap().unwrap();
    assert_eq!(parent.pointer("/spec/parentRef/name"), Some(&json!("web")));
    assert_eq!(made.pointer("/spec/ipFamilies"), Some(&json!(["IPv4"])));
    assert_eq!(made.pointer("/spec/ipFamilyPolicy"), Some(&json!("SingleStack")));
    a.after_delete(&made).await;
    assert!(objects.get(IP_ADDRESSES, "", ip).await.unwrap().is_none());
}

#[tokio::test]
async fn stated_addresses_and_ports_are_checked() {
    let objects = Memory::with(vec![]);
    let a = allocator(&objects, &["10.0.0.0/24"]);
    let node_port = |port: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    write(&a, service("a", json!({"clusterIP": "10.0.0.9"})), None).await.unwrap();
    write(&a, service("b", node_port(30001)), None).await.unwrap();
    for (spec, words) in [
        (json!({"clusterIP": "10.0.0.9"}), "provided IP is already allocated"),
        (json!({"clusterIP": "10.1.0.9"}), "not in the valid range"),
        (json!({"clusterIP": "10.0.0.0"}), "not in the valid range"),
        (json!({"ipFamilyPolicy": "RequireDualStack"}), "not configured for dual-stack"),
        (json!({"ipFamilies": ["IPv6"]}), "not configured on this cluster"),
        (node_port(30001), "provided port is already allocated"),
        (node_port(80), "The range of valid ports is 30000-30040"),
    ] {
        let refused = write(&a, service("c", spec.clone()), None).await.unwrap_err();
        assert_eq!(refused.code, 422, "{spec}");
        assert!(refused.message.contains(words), "{}", refused.message);
    }
    let left = objects.list(IP_ADDRESSES, None).await.unwrap().len();
    assert_eq!(left, 2, "what failed left nothing behind");
}

#[tokio::test]
async fn ranges_may_be_added_while_the_server_runs() {
    let cidr = |name: &str, cidrs: &[&str], ready: &str, deleted: Value| {
        let object = json!({"metadata": {"name": name, "deletionTimestamp": deleted}, "spec": {"cidrs": cidrs},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        (SERVICE_CIDRS, object)
    };
    let objects = Memory::with(vec![
        cidr("kubernetes", &["10.0.0.0/30"], "True", Value::Null),
        cidr("late", &["10.2.0.0/24"], "False", Value::Null),
        cidr("gone", &["10.3.0.0/24"], "True", json!("2026-01-01T00:00:00Z")),
    ]);
    let a = allocator(&objects, &["10.0.0.0/30"]);
    let take = async |name: &str| {
        let made = write(&a, service(name, json!({})), None).await;
        made.map(|made| made.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap().to_owned())
    };
    let first = [take("a").await.unwrap(), take("b").await.unwrap()];
    assert!(first.iter().all(|ip| ip.starts_with("10.0.0.")), "{first:?}");
    assert!(take("c").await.is_err(), "ranges that are not ready, or going, give nothing");
    let (kind, added) = cidr("more", &["10.1.0.0/24", "fd00::/112"], "True", Value::Null);
    objects.create(kind, Object::from_value(added).unwrap()).await.unwrap();
    assert!(take("c").await.unwrap().starts_with("10.1.0."));
    let exact = write(&a, service("d", json!({"clusterIP": "10.1.0.9"})), None).await.unwrap();
    assert_eq!(exact.pointer("/spec/clusterIP"), Some(&json!("10.1.0.9")));
    let refused = write(&a, service("e", json!({"clusterIP": "10.2.0.9"})), None).await.unwrap_err();
    assert!(refused.message.contains("10.0.0.0/30,10.1.0.0/24"), "{}", refused.message);
}

#[tokio::test]
async fn headless_and_external_names_have_none() {
    let objects = Memory::with(vec![]);
    let a = allocator(&objects, &["10.0.0.0/24", "fd00::/112"]);
    let headless =
        write(&a, service("h", json!({"clusterIP": "None", "selector": {"a": "b"}})), None).await.unwrap();
    assert_eq!(headless.pointer("/spec/clusterIPs"), Some(&json!(["None"])));
    let bare = write(&a, service("s", json!({"clusterIP": "None"})), None).await.unwrap();
    assert_eq!(bare.pointer("/spec/ipFamilies"), Some(&json!(["IPv4", "IPv6"])));
    let external = write(&a, service("e", json!({"type": "ExternalName"})), None).await.unwrap();
    assert_eq!(external.pointer("/spec/clusterIP"), None);
    assert!(objects.list(IP_ADDRESSES, None).await.unwrap().is_empty());
    let dual = write(&a, service("d", json!({"ipFamilyPolicy": "PreferDualStack"})), None).await.unwrap();
    assert_eq!(dual.pointer("/spec/clusterIPs").unwrap().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn updates_keep_what_they_leave_out_and_free_what_they_drop() {
    let objects = Memory::with(vec![]);
    let (a, release) =
        ServiceAllocator::new(vec!["10.0.0.0/24".parse().unwrap()], 30000..=30040, objects.clone());
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
    let first = write(&a, service("x", json!({"type": "NodePort", "ports": ports})), None).await.unwrap();
    let port = first.pointer("/spec/ports/0/nodePort").unwrap();
    assert_eq!(Some(port), first.pointer("/spec/ports/1/nodePort"), "both protocols share the port");
    let again =
        write(&a, service("x", json!({"type": "NodePort", "ports": ports})), Some(&first)).await.unwrap();
    assert_eq!(again, first);
    let plain =
        write(&a, service("x", json!({"type": "ClusterIP", "ports": ports})), Some(&first)).await.unwrap();
    assert_eq!(plain.pointer("/spec/clusterIP"), first.pointer("/spec/clusterIP"));
    let gone = write(&a, service("x", json!({"type": "ExternalName"})), Some(&plain)).await.unwrap();
    assert_eq!(held_of(&gone), Held::default());
    drop(a);
    release.await;
}

fn held_of(service: &Object) -> Held {
    plan::held(service)
}

#[tokio::test]
async fn a_failed_write_and_a_dry_run_take_nothing() {
    let objects = Memory::with(vec![]);
    let a = allocator(&objects, &["10.0.0.0/24"]);
    let mut dry = service("x", json!({"type": "NodePort", "ports": [{"port": 1}]}));
    a.before_write(&mut dry, None, true).await.unwrap().commit();
    assert!(dry.pointer("/spec/clusterIP").is_some() && dry.pointer("/spec/ports/0/nodePort").is_some());
    assert!(objects.list(IP_ADDRESSES, None).await.unwrap().is_empty());
    assert!(objects.get(RANGES, "", "servicenodeports").await.unwrap().is_none());
}

#[tokio::test]
async fn a_full_range_says_so_and_every_address_is_given_once() {
    let objects = Memory::with(vec![]);
    let a = allocator(&objects, &["10.0.0.0/27"]);
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..30 {
        let made = write(&a, service(&format!("s{i}"), json!({})), None).await.unwrap();
        assert!(seen.insert(made.pointer("/spec/clusterIP").unwrap().to_string()));
    }
    assert!(write(&a, service("more", json!({})), None).await.unwrap_err().message.contains("range is full"));
}

#[tokio::test]
async fn repair_takes_what_services_have_and_frees_the_rest() {
    let objects = Memory::with(vec![(
        SERVICES,
        json!({"metadata": {"namespace": "a", "name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "10.0.0.7", "ports": [{"port": 80, "nodePort": 30007}]}}),
    )]);
    let a = allocator(&objects, &["10.0.0.0/24"]);
    write(
        &a,
        service(
            "lost",
            json!({"type": "NodePort", "clusterIP": "10.0.0.8", "ports": [{"port": 80, "nodePort": 30008}]}),
        ),
        None,
    )
    .await
    .unwrap();
    a.repair().await.unwrap();
    let names: Vec<String> =
        objects.list(IP_ADDRESSES, None).await.unwrap().iter().map(|o| o.name().to_owned()).collect();
    assert_eq!(names, ["10.0.0.7"]);
    let taken = |port: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    assert!(write(&a, service("n", taken(30007)), None).await.is_err());
    assert!(write(&a, service("n", taken(30008)), None).await.is_ok());
}

proptest! {
    #[test]
    fn bitmaps_survive_the_format(bits in proptest::collection::vec(any::<bool>(), 1..300)) {
        let text = bits.iter().map(|b| u8::from(*b)).collect::<Vec<_>>();
        let mut bytes = vec![0_u8; bits.len().div_ceil(8)];
        let len = bytes.len();
        for (n, _) in text.iter().enumerate().filter(|(_, b)| **b == 1) {
            bytes[len - 1 - n / 8] |= 1 << (n % 8);
        }
        let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &bytes);
        let bitmap = Bitmap::decode(&encoded, bits.len());
        prop_assert_eq!(Bitmap::decode(&bitmap.encode(), bits.len()), bitmap);
    }

    #[test]
    fn every_address_of_a_range_is_inside_it(a in any::<u32>(), prefix in 8_u8..=30, offset in any::<u32>()) {
        let range: IpNet = IpNet::new(IpAddr::from(a.to_be_bytes()), prefix).unwrap().trunc();
        let size = ip::size(&range);
        let ip = ip::at(&range, u128::from(offset) % size);
        prop_assert!(range.contains(&ip) && ip != range.network() && ip != range.broadcast());
        prop_assert_eq!(Family::of(ip), Family::V4);
    }
}
