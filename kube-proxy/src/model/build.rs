//! The model of the objects: what the API says, in the plan's terms. Pure.
//!
//! Values the API's validation would refuse are skipped, never guessed at.

use std::{collections::BTreeSet, sync::Arc};

use component_base::{
    meta::ObjectKey,
    objects::{LoadBalancerIngress, Service as ApiService},
};
use smallvec::SmallVec;

use super::{Endpoint, HealthCheck, Model, PortName, Ports, Protocol, ServicePort};
use crate::objects::{self, EndpointSlice, Service};

/// Seconds of affinity when nothing is said.
const DEFAULT_AFFINITY: u32 = 10_800;

/// Builds the model as seen from node `node`.
pub fn build(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Model {
    let mut model = Model::default();
    for service in services {
        model.services.extend(service.ports.iter().cloned());
        if service.health_check_port != 0 {
            let check = HealthCheck { port: service.health_check_port, local_endpoints: 0 };
            model.health_checks.insert(service.key.clone(), check);
        }
    }
    for slice in slices {
        add_slice(&mut model, slice, node);
    }
    count_local(&mut model);
    model
}

/// The ports of a service that are served, in order, and its health check port.
pub fn ports(key: &ObjectKey, service: &ApiService) -> (Ports, u16) {
    let spec = &service.spec;
    let cluster_ips: SmallVec<_> = match spec.cluster_ips.is_empty() {
        true => parse_all(std::slice::from_ref(&spec.cluster_ip)),
        false => parse_all(&spec.cluster_ips),
    };
    // Headless services and external names have no address to serve.
    if cluster_ips.is_empty() || spec.kind == "ExternalName" {
        return (Box::default(), 0);
    }
    let on_nodes = matches!(spec.kind.as_str(), "NodePort" | "LoadBalancer");
    let external_local = spec.external_traffic_policy == "Local";
    let vip = |i: &&LoadBalancerIngress| i.ip_mode != "Proxy";
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
    let ports = spec.ports.iter().filter_map(|port| {
        let ObjectKey { namespace, name } = key.clone();
        let (port_name, protocol) = (port.name.as_str().into(), protocol(&port.protocol)?);
        let node_port = if on_nodes { port.node_port } else { 0 };
        Some((
            Arc::new(PortName { namespace, service: name, port: port_name, protocol }),
            Arc::new(ServicePort { port: port.port, node_port, ..common.clone() }),
        ))
    });
    let mut ports: Ports = ports.collect();
    ports.sort_by(|(a, _), (b, _)| a.cmp(b));
    (ports, if external_local { spec.health_check_node_port } else { 0 })
}

fn add_slice(model: &mut Model, slice: &EndpointSlice, node: &str) {
    let Some(ObjectKey { namespace, name }) = objects::service_of(slice) else { return };
    for (port, protocol, number) in &slice.ports {
        let key = PortName {
            namespace: namespace.clone(),
            service: name.clone(),
            port: port.clone(),
            protocol: *protocol,
        };
        // Slices of services we do not serve would only take memory.
        let Some((key, _)) = model.services.get_key_value(&key) else { continue };
        let of_port = slice.endpoints.iter().map(|e| endpoint(e, *number, node));
        model.endpoints.entry(key.clone()).or_default().extend(of_port);
    }
}

fn endpoint(endpoint: &objects::Endpoint, port: u16, node: &str) -> Endpoint {
    let objects::Endpoint { address, ready, serving, terminating, .. } = *endpoint;
    let (zones, nodes) =
        endpoint.hints.as_ref().map(|h| (h.zones.clone(), h.nodes.clone())).unwrap_or_default();
    Endpoint { address, port, ready, serving, terminating, local: endpoint.node == node, zones, nodes }
}

/// Ready endpoints of each service on this node, for its health check.
fn count_local(model: &mut Model) {
    let mut checks = std::mem::take(&mut model.health_checks);
    for (service, check) in &mut checks {
        let all = model.ports_of(service).flat_map(|(_, _, endpoints)| endpoints);
        let ready: BTreeSet<_> = all.filter(|e| e.local && e.ready).map(|e| e.address).collect();
        check.local_endpoints = ready.len();
    }
    model.health_checks = checks;
}

/// A protocol by the API's word; nothing said is TCP.
pub fn protocol(word: &str) -> Option<Protocol> {
    if word.is_empty() { Some(Protocol::Tcp) } else { Protocol::parse(word) }
}

fn parse_all<C: FromIterator<std::net::IpAddr>>(texts: &[String]) -> C {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use smallvec::smallvec;

    use super::*;

    fn service(spec: Value) -> Arc<Service> {
        let object = json!({
            "metadata": {"name": "web", "namespace": "ns"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}]}},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn slice(endpoints: Value, ports: Value) -> Arc<EndpointSlice> {
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
            cluster_ips: smallvec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            port: 80,
            node_port: 30080,
            external_ips: vec!["192.0.2.1".parse().unwrap()],
            load_balancer_ips: vec!["203.0.113.1".parse().unwrap()],
            source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
            affinity: Some(10_800),
            internal_local: false,
            external_local: true,
        };
        assert_eq!(*only(&model), want);
        assert_eq!(model.health_checks[&ObjectKey::new("ns", "web")].port, 32000);
    }

    #[test]
    fn external_addresses_can_be_left_out() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": port(), "externalIPs": ["192.0.2.1"],
        });
        let mut model = build(&[service(spec)], &[], "n1");
        let all = only(&model).clone();
        model.forget_external_ips();
        assert_eq!(*only(&model), ServicePort { external_ips: vec![], ..all });
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
        assert_eq!(model.health_checks[&ObjectKey::new("ns", "web")].local_endpoints, 1);
    }
}
