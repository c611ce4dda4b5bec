//! The service default/kubernetes at the first address of the range, and its endpoints.
//!
//! Every live server renews a record in the ConfigMap kube-system/kube-apiserver-endpoints; the
//! endpoints are the addresses of records younger than [`LIFE`]. Upstream keeps the same facts under
//! `/registry/masterleases`, readable only by etcd lease; the outcome, what clients see, is the same.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Facts;
use crate::{
    alloc::ip::at,
    object::Object,
    objects::{CONFIG_MAPS, ENDPOINT_SLICES, ENDPOINTS, Kind, Objects, SERVICES, new_object},
    status::{Reason, Status},
};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
const RECORDS: &str = "kube-apiserver-endpoints";
/// Seconds a record counts without being renewed.
pub const LIFE: i64 = 45;
/// Servers starting together collide at most a few times.
const ATTEMPTS: usize = 8;

/// Creates the service, or puts its ports right.
pub async fn ensure(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let Some(range) = facts.service_ranges.first() else { return Ok(()) };
    let ip = at(range, 0).to_string();
    let mut port = json!({"name": "https", "port": 443, "protocol": "TCP", "targetPort": facts.port});
    if facts.node_port > 0 {
        port["nodePort"] = json!(facts.node_port);
    }
    let family = if range.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let spec = json!({
        "type": if facts.node_port > 0 { "NodePort" } else { "ClusterIP" },
        "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
        "ports": [port], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
    });
    upsert(objects, SERVICES, NAME, |current| {
        let mut service = match current {
            Some(current) => current.clone(),
            None => labelled(
                "v1",
                "Service",
                NAME,
                json!({"component": "apiserver", "provider": "kubernetes"}),
                now,
            ),
        };
        if current.is_none() {
            service.set("spec", spec.clone());
            service.set("status", json!({"loadBalancer": {}}));
        } else if let Some(own) = service.as_map_mut().get_mut("spec") {
            own["ports"] = spec["ports"].clone();
        }
        service
    })
    .await
}

/// Renews this server's record and writes the endpoints of all live servers.
pub async fn renew(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let live = record(objects, facts, Some(now), now).await?;
    publish(objects, facts, &live, now).await
}

/// Removes this server's record and its address from the endpoints.
pub async fn leave(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let live = record(objects, facts, None, now).await?;
    publish(objects, facts, &live, now).await
}

/// Writes or removes the record; the addresses of all live servers, sorted.
async fn record(
    objects: &dyn Objects,
    facts: &Facts,
    at: Option<Timestamp>,
    now: Timestamp,
) -> Result<Vec<String>, Status> {
    // IPv6 addresses hold colons, which keys of a ConfigMap may not.
    let key = facts.advertise.to_string().replace(':', "_");
    let mut live = Vec::new();
    for _ in 0..ATTEMPTS {
        let current = objects.get_latest(CONFIG_MAPS, "kube-system", RECORDS).await?;
        let data = current.as_deref().and_then(|c| c.get("data")?.as_object().cloned()).unwrap_or_default();
        let mut data: Map<String, Value> =
            data.into_iter().filter(|(k, v)| *k != key && is_live(v, now)).collect();
        if let Some(at) = at {
            data.insert(key.clone(), json!(at.as_second().to_string()));
        }
        live = data.keys().map(|k| k.replace('_', ":")).collect();
        live.sort();
        let written = match current {
            Some(current) => {
                let mut next = (*current).clone();
                next.set("data", data);
                objects.update(CONFIG_MAPS, next).await
            }
            None => {
                let mut map = new_object("v1", "ConfigMap", "kube-system", RECORDS, now);
                map.set("data", data);
                objects.create(CONFIG_MAPS, map).await
            }
        };
        match written {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            Err(status) => return Err(status),
            Ok(_) => break,
        }
    }
    Ok(live)
}

fn is_live(record: &Value, now: Timestamp) -> bool {
    let seconds = record.as_str().and_then(|s| s.parse::<i64>().ok());
    seconds.is_some_and(|s| s + LIFE > now.as_second())
}

async fn publish(
    objects: &dyn Objects,
    facts: &Facts,
    live: &[String],
    now: Timestamp,
) -> Result<(), Status> {
    let family = if facts.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let port = json!({"name": "https", "port": facts.port, "protocol": "TCP"});
    let subsets = match live {
        [] => json!([]),
        live => json!([{
            "addresses": live.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(), "ports": [port],
        }]),
    };
    upsert(objects, ENDPOINTS, NAME, |current| {
        let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
        let mut endpoints =
            current.cloned().unwrap_or_else(|| labelled("v1", "Endpoints", NAME, labels, now));
        endpoints.set("subsets", subsets.clone());
        endpoints
    })
    .await?;
    let endpoint = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
    let list: Vec<Value> = live.iter().map(endpoint).collect();
    upsert(objects, ENDPOINT_SLICES, NAME, |current| {
        let labels = json!({"kubernetes.io/service-name": NAME});
        let made = || labelled("discovery.k8s.io/v1", "EndpointSlice", NAME, labels, now);
        let mut slice = current.cloned().unwrap_or_else(made);
        slice.set("addressType", family);
        slice.set("endpoints", list.clone());
        slice.set("ports", json!([port]));
        slice
    })
    .await
}

fn labelled(api_version: &str, kind: &str, name: &str, labels: Value, now: Timestamp) -> Object {
    let mut object = new_object(api_version, kind, NAMESPACE, name, now);
    object.metadata_mut().insert("labels".to_owned(), labels);
    object
}

/// Creates or changes an object of the default namespace, again when another server was faster.
async fn upsert(
    objects: &dyn Objects,
    kind: Kind,
    name: &str,
    change: impl Fn(Option<&Object>) -> Object + Send,
) -> Result<(), Status> {
    for _ in 0..ATTEMPTS {
        let current = objects.get_latest(kind, NAMESPACE, name).await?;
        let next = change(current.as_deref());
        let written = match &current {
            Some(current) if **current == next => return Ok(()),
            Some(_) => objects.update(kind, next).await,
            None => objects.create(kind, next).await,
        };
        match written {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            written => return written.map(drop),
        }
    }
    Ok(())
}
