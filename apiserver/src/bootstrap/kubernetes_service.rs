//! The service default/kubernetes at the first address of the range, and its endpoints.
//!
//! Every live server keeps a record under `/registry/masterleases/<address>` that etcd drops when it is not renewed; the
//! endpoints are the addresses of the records. Contract: upstream's lease reconciler (`reconcilers/lease.go`), so that
//! servers of both kinds see each other.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Facts;
use crate::{
    alloc::ip::at,
    object::Object,
    objects::{ENDPOINT_SLICES, ENDPOINTS, Kind, MASTER_LEASES, Objects, SERVICES, new_object},
    status::{Reason, Status},
};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
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
    record(objects, facts, now).await?;
    publish(objects, facts, now).await
}

/// Removes this server's record and its address from the endpoints.
pub async fn leave(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let name = facts.advertise.to_string();
    for _ in 0..ATTEMPTS {
        let Some(current) = objects.get_latest(MASTER_LEASES, "", &name).await? else { break };
        match objects.delete(MASTER_LEASES, &current).await {
            Err(status) if status.reason == Reason::Conflict => {}
            done => {
                done?;
                break;
            }
        }
    }
    publish(objects, facts, now).await
}

/// Writes the record anew, which renews its lease.
async fn record(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let name = facts.advertise.to_string();
    for _ in 0..ATTEMPTS {
        let written = match objects.get_latest(MASTER_LEASES, "", &name).await? {
            Some(current) => {
                let mut next = (*current).clone();
                // Only a value that differs is written.
                let generation = current.generation() + 1;
                next.metadata_mut().insert("generation".to_owned(), generation.into());
                objects.update(MASTER_LEASES, next).await
            }
            None => {
                let mut record = new_object("v1", "Endpoints", "", &name, now);
                record.set("subsets", json!([{"addresses": [{"ip": name}]}]));
                record.metadata_mut().insert("generation".to_owned(), 1.into());
                objects.create(MASTER_LEASES, record).await
            }
        };
        match written {
            // The lease ran out between reading and writing, or another server has the same address.
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists | Reason::NotFound) => {}
            written => return written.map(drop),
        }
    }
    Err(Status::internal(format!("the record of {name} changes all the time")))
}

/// The addresses of all live servers, sorted.
async fn live(objects: &dyn Objects) -> Result<Vec<String>, Status> {
    let records = objects.list_latest(MASTER_LEASES).await?;
    let address = |record: &Object| {
        let told = record.pointer("/subsets/0/addresses/0/ip").and_then(Value::as_str);
        told.unwrap_or(record.name()).to_owned()
    };
    let mut live: Vec<String> = records.iter().map(|r| address(r)).filter(|ip| !ip.is_empty()).collect();
    live.sort();
    live.dedup();
    Ok(live)
}

/// Writes endpoints and slice. The records are read after the object that is written, so that of servers writing at the
/// same time the one with older knowledge meets a conflict.
async fn publish(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    for (kind, change) in [(ENDPOINTS, endpoints as Change), (ENDPOINT_SLICES, slice as Change)] {
        for _ in 0..ATTEMPTS {
            let current = objects.get_latest(kind, NAMESPACE, NAME).await?;
            let live = live(objects).await?;
            let next = change(current.as_deref(), facts, &live, now);
            if write(objects, kind, current.as_deref(), next).await? {
                break;
            }
        }
    }
    Ok(())
}

/// What an object becomes when these addresses are live.
type Change = fn(Option<&Object>, &Facts, &[String], Timestamp) -> Object;

fn port(facts: &Facts) -> Value {
    json!({"name": "https", "port": facts.port, "protocol": "TCP"})
}

fn endpoints(current: Option<&Object>, facts: &Facts, live: &[String], now: Timestamp) -> Object {
    let subsets = match live {
        [] => json!([]),
        live => json!([{
            "addresses": live.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(), "ports": [port(facts)],
        }]),
    };
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let mut endpoints = current.cloned().unwrap_or_else(|| labelled("v1", "Endpoints", NAME, labels, now));
    endpoints.set("subsets", subsets);
    endpoints
}

fn slice(current: Option<&Object>, facts: &Facts, live: &[String], now: Timestamp) -> Object {
    let endpoint = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
    let labels = json!({"kubernetes.io/service-name": NAME});
    let made = || labelled("discovery.k8s.io/v1", "EndpointSlice", NAME, labels, now);
    let mut slice = current.cloned().unwrap_or_else(made);
    slice.set("addressType", if facts.advertise.is_ipv4() { "IPv4" } else { "IPv6" });
    slice.set("endpoints", live.iter().map(endpoint).collect::<Vec<Value>>());
    slice.set("ports", json!([port(facts)]));
    slice
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
        if write(objects, kind, current.as_deref(), next).await? {
            break;
        }
    }
    Ok(())
}

/// Writes an object unless it is so already; false when another server was faster.
async fn write(
    objects: &dyn Objects,
    kind: Kind,
    current: Option<&Object>,
    next: Object,
) -> Result<bool, Status> {
    let written = match current {
        Some(current) if *current == next => return Ok(true),
        Some(_) => objects.update(kind, next).await,
        None => objects.create(kind, next).await,
    };
    match written {
        Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => Ok(false),
        written => written.map(|_| true),
    }
}
