//! The model of the objects: what the API says, in the plan's terms. Pure.
//!
//! Values the API's validation would refuse are skipped, never guessed at.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Endpoint, HealthCheck, Model, PortName, Protocol, ServicePort};
use crate::objects;

/// Label of slices that names their service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Seconds of affinity when nothing is said.
const DEFAULT_AFFINITY: u32 = 10_800;

/// Builds the model as seen from node `node`.
pub fn build(
    services: &[Arc<objects::Service>],
    slices: &[Arc<objects::EndpointSlice>],
    node: &str,
) -> Model {
    let mut model = Model::default();
    for service in services {
        add_service(&mut model, service);
    }
    for slice in slices {
        add_slice(&mut model, slice, node);
    }
    count_local(&mut model);
    model
}

fn add_service(model: &mut Model, service: &objects::Service) {
    let spec = &service.spec;
    let cluster_ips = match spec.cluster_ips.is_empty() {
        true => parse_all(std::slice::from_ref(&spec.cluster_ip)),
        false => parse_all(&spec.cluster_ips),
    };
    // Headless services and external names have no address to serve.
    if cluster_ips.is_empty() || spec.kind == "ExternalName" {
        return;
    }
    let on_nodes = matches!(spec.kind.as_str(), "NodePort" | "LoadBalancer");
    let external_local = spec.external_traffic_policy == "Local";
    let vip = |i: &&objects::LoadBalancerIngress| i.ip_mode != "Proxy";
    let ingress = service.status.load_balancer.ingress.iter().filter(vip);
    let load_balancer_ips = match spec.kind.as_str() {
        "LoadBalancer" => ingress.filter_map(|i| i.ip.parse().ok()).collect(),
        _ => Vec::new(),
    };
    let affinity = (spec.session_affinity == "ClientIP")
        .then(|| spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(DEFAULT_AFFINITY));
    let common = ServicePort {
        cluster_ips,
        external_ips: parse_all(&spec.external_ips),
        load_balancer_ips,
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .filter_map(|r| r.trim().parse().ok())
            .collect(),
        affinity,
        internal_local: spec.internal_traffic_policy == "Local",
        external_local,
        ..ServicePort::default()
    };
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    for port in &spec.ports {
        let Some(protocol) = protocol(&port.protocol) else { continue };
        let key = PortName {
            namespace: namespace.clone(),
            service: name.clone(),
            port: port.name.clone(),
            protocol,
        };
        let node_port = if on_nodes { port.node_port } else { 0 };
        model.services.insert(key, ServicePort { port: port.port, node_port, ..common.clone() });
    }
    if external_local && spec.health_check_node_port != 0 {
        let check = HealthCheck { port: spec.health_check_node_port, local_endpoints: 0 };
        model.health_checks.insert((namespace, name), check);
    }
}

fn add_slice(model: &mut Model, slice: &objects::EndpointSlice, node: &str) {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let Some(service) = label.filter(|_| matches!(slice.address_type.as_str(), "IPv4" | "IPv6")) else {
        return;
    };
    for port in &slice.ports {
        let protocol = protocol(port.protocol.as_deref().unwrap_or_default());
        let (Some(number), Some(protocol)) = (port.port, protocol) else { continue };
        let key = PortName {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            service: service.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
        };
        // Slices of services we do not serve would only take memory.
        if !model.services.contains_key(&key) {
            continue;
        }
        let of_port = slice.endpoints.iter().filter_map(|e| endpoint(e, number, node));
        model.endpoints.entry(key).or_default().extend(of_port);
    }
}

fn endpoint(endpoint: &objects::Endpoint, port: u16, node: &str) -> Option<Endpoint> {
    let conditions = &endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let names = |hints: &[objects::ForName]| hints.iter().map(|h| Arc::from(h.name.as_str())).collect();
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        port,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(node),
        zones: hints.map(|h| names(&h.for_zones)).unwrap_or_default(),
        nodes: hints.map(|h| names(&h.for_nodes)).unwrap_or_default(),
    })
}

/// Ready endpoints of each service on this node, for its health check.
fn count_local(model: &mut Model) {
    let mut counts: BTreeMap<(&str, &str), std::collections::BTreeSet<IpAddr>> = BTreeMap::new();
    for (key, endpoints) in &model.endpoints {
        let ready = endpoints.iter().filter(|e| e.local && e.ready).map(|e| e.address);
        counts.entry((&key.namespace, &key.service)).or_default().extend(ready);
    }
    for ((namespace, service), check) in &mut model.health_checks {
        let found = counts.get(&(namespace.as_str(), service.as_str()));
        check.local_endpoints = found.map_or(0, std::collections::BTreeSet::len);
    }
}

fn protocol(word: &str) -> Option<Protocol> {
    if word.is_empty() { Some(Protocol::Tcp) } else { Protocol::parse(word) }
}

fn parse_all(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Arc<objects::Service> {
        let object = json!({
            "metadata": {"name": "web", "namespace": "ns"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}]}},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn slice(endpoints: Value, ports: Value) -> Arc<objects::EndpointSlice> {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn port() -> Value {
        json!([{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"}])
    }

    fn only(model: &Model) -> &ServicePort {
        assert_eq!(model.services.len(), 1);
        model.services.values().next().unwrap()
    }

    #[test]
    fn a_load_balancer_brings_all_its_addresses() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": port(), "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": [" 10.0.0.0/8", "x"],
            "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "internalTrafficPolicy": "Cluster",
        });
        let model = build(&[service(spec)], &[], "n1");
        let want = ServicePort {
            cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            port: 80,
            node_port: 30080,
            external_ips: vec!["192.0.2.1".parse().unwrap()],
            load_balancer_ips: vec!["203.0.113.1".parse().unwrap()],
            source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
            affinity: Some(10_800),
            internal_local: false,
            external_local: true,
        };
        assert_eq!(only(&model), &want);
        assert_eq!(model.health_checks[&("ns".into(), "web".into())].port, 32000);
    }

    #[test]
    fn what_has_no_address_of_ours_is_left_out() {
        for spec in [
            json!({"type": "ClusterIP", "clusterIP": "None", "ports": port()}),
            json!({"type": "ExternalName", "externalName": "x"}),
            json!({"type": "ClusterIP", "ports": port()}),
        ] {
            assert_eq!(build(&[service(spec)], &[], "n1"), Model::default());
        }
        let cluster = json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": port()});
        let model = build(&[service(cluster)], &[], "n1");
        assert_eq!((only(&model).node_port, only(&model).load_balancer_ips.len()), (0, 0));
    }

    #[test]
    fn endpoints_have_their_conditions_and_place() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": port(), "externalTrafficPolicy": "Local",
            "type": "NodePort", "healthCheckNodePort": 32000});
        let endpoints = json!([
            {"addresses": ["10.244.0.1"], "nodeName": "n1", "hints": {"forZones": [{"name": "a"}]}},
            {"addresses": ["10.244.0.2"], "nodeName": "n2", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.0.3"], "nodeName": "n1", "conditions": {"ready": false}},
            {"addresses": ["not an address"]},
        ]);
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 1}, {"name": "http"}]);
        let null = Arc::new(
            serde_json::from_value(
                json!({"metadata": {}, "addressType": "IPv4", "endpoints": null, "ports": null}),
            )
            .unwrap(),
        );
        let model = build(&[service(spec)], &[slice(endpoints, ports), null], "n1");
        let [(_, found)] = &model.endpoints.iter().collect::<Vec<_>>()[..] else { panic!("{model:?}") };
        let states: Vec<_> =
            found.iter().map(|e| (e.port, e.ready, e.serving, e.terminating, e.local)).collect();
        assert_eq!(
            states,
            [
                (8080, true, true, false, true),
                (8080, false, true, true, false),
                (8080, false, false, false, true)
            ]
        );
        assert_eq!(found[0].zones, [Arc::from("a")]);
        assert_eq!(model.health_checks[&("ns".into(), "web".into())].local_endpoints, 1);
    }
}
