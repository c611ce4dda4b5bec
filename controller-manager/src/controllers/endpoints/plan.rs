//! The endpoints a service's pods call for. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServicePort,
};

use super::subsets::{Offer, expand, pack};
use crate::controllers::{
    replicaset::is_ready,
    service_pods::{self, HEADLESS, TRIGGER_TIME},
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in one object.
const MOST: usize = 1000;

/// The endpoints to write; `None` when those there are say the same. `pods` are those the service selects.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let mut subsets = pack(pods.iter().filter_map(|pod| offer(service, pod)));
    let over = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels.remove(HEADLESS);
    if service_pods::lacks_address(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    if let Some(current) = current {
        let told = current.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY));
        let there = current.subsets.as_deref().unwrap_or_default();
        let same = there == subsets.as_slice() || pack(expand(there)) == subsets;
        if same && told == over && current.metadata.labels.as_ref() == Some(&labels) {
            return None;
        }
    }
    let mut next = current.cloned().unwrap_or_else(|| named_after(service));
    next.metadata.labels = Some(labels);
    next.subsets = (!subsets.is_empty()).then_some(subsets);
    let mut annotations = next.metadata.annotations.take().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(OVER_CAPACITY);
    annotations.extend(trigger.map(|at| (TRIGGER_TIME.to_owned(), at.to_string())));
    annotations.extend(over.then(|| (OVER_CAPACITY.to_owned(), "truncated".to_owned())));
    next.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Some(next)
}

fn named_after(service: &Service) -> Endpoints {
    let mut out = Endpoints::default();
    out.metadata.name.clone_from(&service.metadata.name);
    out.metadata.namespace.clone_from(&service.metadata.namespace);
    out
}

/// What a pod offers to a service.
fn offer(service: &Service, pod: &Pod) -> Option<Offer> {
    let spec = service.spec.as_ref()?;
    let all = spec.publish_not_ready_addresses == Some(true);
    // A pod on its way out leaves, unless the service publishes everyone.
    if !service_pods::publishes(pod) || (pod.metadata.deletion_timestamp.is_some() && !all) {
        return None;
    }
    let family =
        spec.ip_families.as_ref().and_then(|f| f.first().cloned()).unwrap_or_else(|| family_of(service, pod));
    let address = EndpointAddress {
        ip: service_pods::address(pod, &family)?,
        hostname: service_pods::hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(service_pods::reference(pod)),
    };
    let listed = spec.ports.as_deref().unwrap_or_default();
    let ports: Vec<EndpointPort> =
        listed.iter().filter_map(|p| Some(port(p, service_pods::target(p, pod)?))).collect();
    // A headless service needs no ports; any other one is reached through them.
    let reachable = !ports.is_empty() || (listed.is_empty() && service_pods::is_headless(service));
    reachable.then(|| Offer { address, ready: all || is_ready(pod), ports })
}

/// The family where the service names none.
fn family_of(service: &Service, pod: &Pod) -> String {
    let own =
        service.spec.as_ref().and_then(|s| s.cluster_ip.clone()).filter(|ip| !ip.is_empty() && ip != "None");
    let ip = own.or_else(|| pod.status.as_ref().and_then(|s| s.pod_ip.clone())).unwrap_or_default();
    if ip.contains(':') { "IPv6".into() } else { "IPv4".into() }
}

fn port(port: &ServicePort, number: i32) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|n| !n.is_empty()),
        port: number,
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    }
}

/// Cuts endpoints down to what one object may hold, ready addresses first, each subset by its share. Returns whether
/// there were more.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + not_ready <= MOST {
        return false;
    }
    let only_ready = ready > MOST;
    let (room, total) = if only_ready { (MOST, ready) } else { (MOST - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        let list = if only_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (list.as_ref().map_or(0, Vec::len) * room).div_ceil(total).min(left);
        if let Some(list) = list {
            list.truncate(share);
        }
        left -= share;
        if only_ready {
            subset.not_ready_addresses = None;
        }
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                *list = None;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        let mut v = json!({"metadata": {"name": "web", "namespace": "d", "labels": {"team": "x"}}, "spec": {
            "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            v["spec"][key] = value.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    fn pod(n: usize, ready: bool, extra: Value) -> Arc<Pod> {
        let ip = format!("10.244.{}.{}", n / 250, n % 250);
        let mut v = json!({"metadata": {"name": format!("p{n}"), "namespace": "d", "uid": format!("u{n}")},
            "spec": {"nodeName": "n1", "containers": []}, "status": {"podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            let (a, b) = pointer.split_once('/').unwrap();
            v[a][b] = value.clone();
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn settle(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
        let at = Some("2026-01-01T00:00:00Z".parse().unwrap());
        let next = plan(service, pods, current, at).expect("there is something to write");
        assert_eq!(plan(service, pods, Some(&next), None), None, "planned twice is planned once");
        next
    }

    fn ips(list: &Option<Vec<EndpointAddress>>) -> Vec<&str> {
        list.iter().flatten().map(|a| a.ip.as_str()).collect()
    }

    #[test]
    fn ready_and_other_pods_are_told_apart() {
        let pods = [
            pod(1, true, json!({})),
            pod(2, false, json!({})),
            pod(3, true, json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"})),
            pod(4, true, json!({"status/phase": "Succeeded"})),
        ];
        let endpoints = settle(&service(json!({})), &pods, None);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(
            (ips(&subset.addresses), ips(&subset.not_ready_addresses)),
            (vec!["10.244.0.1"], vec!["10.244.0.2"])
        );
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
        let labels = endpoints.metadata.labels.as_ref().unwrap();
        assert_eq!((labels["team"].as_str(), labels[MANAGED_BY].as_str()), ("x", CONTROLLER));
        assert_eq!(endpoints.metadata.annotations.as_ref().unwrap()[TRIGGER_TIME], "2026-01-01T00:00:00Z");
        let everyone = settle(&service(json!({"publishNotReadyAddresses": true})), &pods, Some(&endpoints));
        assert_eq!(ips(&everyone.subsets.unwrap()[0].addresses), ["10.244.0.1", "10.244.0.2", "10.244.0.3"]);
    }

    #[test]
    fn without_pods_there_are_endpoints_without_subsets() {
        let endpoints = settle(&service(json!({})), &[pod(1, true, json!({}))], None);
        let empty = settle(&service(json!({})), &[], Some(&endpoints));
        assert_eq!(empty.subsets, None);
    }

    #[test]
    fn headless_services_need_no_ports_and_are_labelled() {
        let headless = service(json!({"clusterIP": "None", "ports": []}));
        let endpoints =
            settle(&headless, &[pod(1, true, json!({"spec/hostname": "h", "spec/subdomain": "web"}))], None);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].hostname.as_deref(), Some("h"));
        assert_eq!(subset.ports, None);
        assert!(endpoints.metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
        let again = settle(&service(json!({})), &[], Some(&endpoints));
        assert!(!again.metadata.labels.unwrap().contains_key(HEADLESS));
    }

    #[test]
    fn a_thousand_addresses_fit_ready_ones_first() {
        // (ready, not ready) → kept, and whether the annotation tells of more.
        for (ready, not, kept, told) in [
            (1000, 0, (1000, 0), false),
            (600, 500, (600, 400), true),
            (1200, 300, (1000, 0), true),
            (0, 1001, (0, 1000), true),
        ] {
            let pods: Vec<_> = (0..ready + not).map(|n| pod(n, n < ready, json!({}))).collect();
            let endpoints = settle(&service(json!({})), &pods, None);
            let subset = &endpoints.subsets.as_ref().unwrap()[0];
            assert_eq!((ips(&subset.addresses).len(), ips(&subset.not_ready_addresses).len()), kept);
            let annotations = endpoints.metadata.annotations.unwrap();
            assert_eq!(annotations.get(OVER_CAPACITY).map(String::as_str), told.then_some("truncated"));
        }
    }
}
