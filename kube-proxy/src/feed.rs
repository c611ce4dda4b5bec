//! The model from the API's objects. Pure: the caches are read whole whenever something changed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Service, ServicePort as ApiPort, ServiceSpec},
    discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice},
};

use crate::model::{Endpoint, Model, PortName, Protocol, ServicePort};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services with this label belong to another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Headless services need no proxy.
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;

/// The model of all services and slices, seen from `node`.
pub fn model(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Model {
    let mut model = Model::default();
    for service in services {
        add_service(&mut model, service);
    }
    for slice in slices {
        add_slice(&mut model, slice, node);
    }
    model
}

/// Internal addresses and zone of a node.
pub fn node_facts(node: &Node) -> (Vec<IpAddr>, Arc<str>) {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    let internal = addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok());
    let zone = node.metadata.labels.as_ref().and_then(|l| l.get("topology.kubernetes.io/zone"));
    (internal.collect(), zone.map(String::as_str).unwrap_or_default().into())
}

fn add_service(model: &mut Model, service: &Service) {
    let (Some(namespace), Some(name), Some(spec)) =
        (&service.metadata.namespace, &service.metadata.name, &service.spec)
    else {
        return;
    };
    let labelled = |key: &str| service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(key));
    let cluster_ips = parse_all(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    if spec.type_.as_deref() == Some("ExternalName")
        || labelled(PROXY_NAME)
        || labelled(HEADLESS)
        || cluster_ips.is_empty()
    {
        return;
    }
    for port in spec.ports.iter().flatten() {
        let Some((port_name, parsed)) = service_port(namespace, name, spec, port, &cluster_ips, service)
        else {
            continue;
        };
        model.services.insert(port_name, parsed);
    }
}

fn service_port(
    namespace: &str,
    name: &str,
    spec: &ServiceSpec,
    port: &ApiPort,
    cluster_ips: &[IpAddr],
    service: &Service,
) -> Option<(PortName, ServicePort)> {
    let port_name = PortName {
        namespace: namespace.to_owned(),
        service: name.to_owned(),
        port: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
    };
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let vips = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref()?.timeout_seconds)
        .unwrap_or(DEFAULT_AFFINITY_SECONDS);
    let parsed = ServicePort {
        cluster_ips: cluster_ips.to_vec(),
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        external_ips: parse_all(spec.external_ips.iter().flatten()),
        load_balancer_ips: parse_all(vips.filter_map(|i| i.ip.as_ref())),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|r| r.trim().parse().ok())
            .collect(),
        affinity: sticky.then(|| u32::try_from(timeout).unwrap_or(0)),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
    };
    Some((port_name, parsed))
}

fn parse_all<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = texts.into_iter().filter_map(|t| t.parse().ok()).collect();
    let mut seen = std::collections::BTreeSet::new();
    out.retain(|ip| seen.insert(*ip));
    out
}

fn add_slice(model: &mut Model, slice: &EndpointSlice, node: &str) {
    let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) else {
        return;
    };
    if slice.address_type == "FQDN" {
        return;
    }
    let mut by_port: BTreeMap<PortName, Vec<Endpoint>> = BTreeMap::new();
    for port in slice.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (
            Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")),
            port.port.and_then(|p| u16::try_from(p).ok()),
        ) else {
            continue;
        };
        let name = PortName {
            namespace: namespace.clone(),
            service: service.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
        };
        by_port
            .entry(name)
            .or_default()
            .extend(slice.endpoints.iter().flatten().filter_map(|e| endpoint(e, number, node)));
    }
    for (name, endpoints) in by_port {
        model.endpoints.entry(name).or_default().extend(endpoints);
    }
}

fn endpoint(e: &ApiEndpoint, port: u16, node: &str) -> Option<Endpoint> {
    let conditions = e.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = e.hints.clone().unwrap_or_default();
    Some(Endpoint {
        // All addresses of an endpoint are equivalent: the first one is used (API reference).
        address: e.addresses.first()?.parse().ok()?,
        port,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        local: e.node_name.as_deref() == Some(node),
        zones: hints.for_zones.into_iter().flatten().map(|z| z.name.into()).collect(),
        nodes: hints.for_nodes.into_iter().flatten().map(|n| n.name.into()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value, labels: Value) -> Arc<Service> {
        let object = json!({"metadata": {"name": "web", "namespace": "default", "labels": labels}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}]}}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn spec() -> Value {
        json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local", "ports": [
                {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"}]})
    }

    #[test]
    fn every_port_of_a_service_is_its_own() {
        let model = model(&[service(spec(), json!({}))], &[], "n1");
        assert_eq!(model.services.len(), 2);
        let http = model.services.values().find(|s| s.port == 80).unwrap();
        assert_eq!((http.node_port, http.affinity, http.external_local), (30080, Some(10800), true));
        assert_eq!(
            http.load_balancer_ips,
            ["203.0.113.1".parse::<IpAddr>().unwrap()],
            "addresses of proxies are not ours"
        );
        assert_eq!(http.cluster_ips.len(), 1);
    }

    #[test]
    fn headless_external_and_foreign_services_are_left_alone() {
        let mut headless = spec();
        headless["clusterIP"] = json!("None");
        headless["clusterIPs"] = json!(["None"]);
        let mut external = spec();
        external["type"] = json!("ExternalName");
        let all = [
            service(headless, json!({})),
            service(external, json!({})),
            service(spec(), json!({PROXY_NAME: "other"})),
            service(spec(), json!({HEADLESS: ""})),
        ];
        assert!(model(&all, &[], "n1").services.is_empty());
    }

    #[test]
    fn slices_of_a_service_add_up() {
        let slice = |address: &str, node: &str, conditions: Value| -> Arc<EndpointSlice> {
            let object = json!({"metadata": {"name": address, "namespace": "default", "labels": {SERVICE_NAME: "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address], "nodeName": node, "conditions": conditions}]});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let slices = [
            slice("10.244.0.1", "n1", json!({"ready": true})),
            slice("10.244.1.1", "n2", json!({"ready": false, "serving": true, "terminating": true})),
        ];
        let model = model(&[service(spec(), json!({}))], &slices, "n1");
        let endpoints = model.endpoints.values().next().unwrap();
        assert_eq!(endpoints.len(), 2);
        assert!(endpoints[0].local && endpoints[0].ready);
        assert!(!endpoints[1].local && endpoints[1].serving && endpoints[1].terminating);
    }
}
