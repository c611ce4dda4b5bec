//! Where the service behind an API server or a webhook is now.
//!
//! Contract: upstream's `ServiceResolver`s: the cluster IP, or with `--enable-aggregator-routing` one of the endpoints.

use std::{net::IpAddr, sync::Arc};

use serde_json::Value;

use crate::{
    object::Object,
    objects::{ENDPOINT_SLICES, Objects, SERVICES},
    status::Status,
};

/// Host and port to connect to for a port of a service.
///
/// # Errors
/// In words, when there is no such service, port or endpoint.
pub(crate) async fn resolve(
    objects: &dyn Objects,
    by_endpoint: bool,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), String> {
    use rand::seq::IndexedRandom;

    let service = objects.get(SERVICES, namespace, name).await.map_err(|e| e.to_string())?;
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/spec/type") == "ExternalName" {
        return Ok((text("/spec/externalName").to_owned(), port));
    }
    let no_port = || format!("no service port {port} found for service {name:?}");
    let port_name = port_name(&service, port).ok_or_else(no_port)?;
    let cluster_ip = text("/spec/clusterIP");
    if !by_endpoint && !matches!(cluster_ip, "" | "None") {
        return Ok((cluster_ip.to_owned(), port));
    }
    let slices = slices(objects, namespace, name).await.map_err(|e| e.to_string())?;
    let all: Vec<(IpAddr, u16)> = slices.iter().flat_map(|s| addresses(s, &port_name)).collect();
    let chosen = all.choose(&mut rand::rng());
    let (ip, port) = *chosen.ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
    Ok((ip.to_string(), port))
}

/// The name of a port of a service.
pub(super) fn port_name(service: &Object, port: u16) -> Option<String> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array)?;
    let port = ports.iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(port)))?;
    Some(port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The endpoint slices of a service.
pub(super) async fn slices(
    objects: &dyn Objects,
    namespace: &str,
    service: &str,
) -> Result<Vec<Arc<Object>>, Status> {
    let mut all = objects.list(ENDPOINT_SLICES, Some(namespace)).await?;
    all.retain(|s| s.meta_pairs("labels").any(|pair| pair == ("kubernetes.io/service-name", service)));
    Ok(all)
}

/// Ready addresses of a slice, if it has the port.
pub(super) fn addresses(slice: &Object, port_name: &str) -> Vec<(IpAddr, u16)> {
    let list = |pointer: &str| slice.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let port =
        list("/ports").find(|p| p.get("name").and_then(Value::as_str).unwrap_or_default() == port_name);
    let port = port.and_then(|p| u16::try_from(p.get("port")?.as_u64()?).ok());
    let Some(port) = port else { return Vec::new() };
    list("/endpoints")
        .filter(|e| e.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true))
        .filter_map(|e| e.get("addresses")?.get(0)?.as_str()?.parse().ok())
        .map(|ip| (ip, port))
        .collect()
}
