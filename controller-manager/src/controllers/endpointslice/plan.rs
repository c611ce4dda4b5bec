//! Which slices a service needs, and how those there are must change. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use component_base::selector::LabelSelector;
use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Label naming the service of a slice.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints in one slice.
const MOST: usize = 100;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// What one family of slices is about: address type and resolved ports.
type Group = (String, Vec<Port>);

/// A port as it stands in a slice: name, protocol, number, application protocol.
type Port = (String, String, i32, Option<String>);

/// Whether a service's slices are made here: it has a selector and is not a mere alias.
pub(super) fn is_ours(service: &Service) -> bool {
    let spec = service.spec.clone().unwrap_or_default();
    spec.selector.is_some_and(|s| !s.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether a slice is one of ours for a service.
pub(super) fn belongs(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    label(SERVICE_NAME) == Some(service) && label(MANAGED_BY) == Some(CONTROLLER)
}

/// Whether a service selects a pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && LabelSelector::from_map(s).matches(&pod.metadata.labels))
}

/// Steps from the slices there are to the ones the pods call for.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    zones: &BTreeMap<String, String>,
) -> Vec<Action> {
    let mut wanted: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for family in families(service) {
        // A service without endpoints still has one, empty, slice per family.
        let own = pods.iter().filter(|p| selects(service, p) && publishes(p));
        let mut any = false;
        for pod in own {
            if let Some(address) = address(pod, &family) {
                any = true;
                let group = (family.clone(), ports(service, pod));
                wanted
                    .entry(group)
                    .or_default()
                    .insert(address.clone(), endpoint(service, pod, address, zones));
            }
        }
        if !any {
            wanted.entry((family.clone(), Vec::new())).or_default();
        }
    }
    let mut actions = Vec::new();
    let mut left: Vec<Arc<EndpointSlice>> = slices.to_vec();
    left.sort_by_key(|s| s.metadata.name.clone());
    for (group, endpoints) in wanted {
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|s| group_of(s) == group);
        left = others;
        fill(service, &group, endpoints, &mine, &mut actions);
    }
    actions.extend(left.into_iter().map(Action::Delete));
    actions
}

/// Keeps endpoints in the slices they are in, fills gaps with new ones, and adds slices for the rest.
fn fill(
    service: &Service,
    group: &Group,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[Arc<EndpointSlice>],
    actions: &mut Vec<Action>,
) {
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let still = slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(e.addresses.first()?));
        kept.push((slice.clone(), still.collect()));
    }
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    // Slices that change anyway take new endpoints first, so that one write serves both.
    kept.sort_by_key(|(slice, endpoints)| same(slice, endpoints));
    for (_, endpoints) in &mut kept {
        let room = MOST.saturating_sub(endpoints.len()).min(fresh.len());
        endpoints.extend(fresh.drain(..room));
    }
    let mut empty_seen = kept.iter().any(|(_, e)| !e.is_empty()) || !fresh.is_empty();
    for (slice, endpoints) in kept {
        // One empty slice stays when there is nothing else to say.
        if endpoints.is_empty() && std::mem::replace(&mut empty_seen, true) {
            actions.push(Action::Delete(slice));
            continue;
        }
        let next = with(service, group, &slice, endpoints);
        if next != *slice {
            actions.push(Action::Update(next));
        }
    }
    if !empty_seen {
        fresh_slice(service, group, Vec::new(), actions);
    }
    while !fresh.is_empty() {
        let batch = fresh.drain(..fresh.len().min(MOST)).collect();
        fresh_slice(service, group, batch, actions);
    }
}

fn fresh_slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>, actions: &mut Vec<Action>) {
    let blank = EndpointSlice { address_type: group.0.clone(), ..EndpointSlice::default() };
    let mut slice = with(service, group, &blank, endpoints);
    slice.metadata.namespace.clone_from(&service.metadata.namespace);
    actions.push(Action::Create(slice));
}

/// Whether a slice holds exactly these endpoints, in any order.
fn same(slice: &EndpointSlice, endpoints: &[Endpoint]) -> bool {
    let have = slice.endpoints.as_deref().unwrap_or_default();
    have.len() == endpoints.len() && have.iter().all(|e| endpoints.contains(e))
}

fn with(service: &Service, group: &Group, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut out = slice.clone();
    if !same(slice, &endpoints) || slice.endpoints.is_none() {
        out.endpoints = Some(endpoints);
    }
    out.ports = Some(group.1.iter().map(slice_port).collect());
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    out.metadata.labels = Some(labels);
    out
}

fn slice_port((name, protocol, number, app): &Port) -> EndpointPort {
    EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*number),
        app_protocol: app.clone(),
    }
}

fn group_of(slice: &EndpointSlice) -> Group {
    let port = |p: &EndpointPort| {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        (text(&p.name), text(&p.protocol), p.port.unwrap_or(0), p.app_protocol.clone())
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

fn families(service: &Service) -> BTreeSet<String> {
    let given = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if given.is_empty() { BTreeSet::from(["IPv4".to_owned()]) } else { given.into_iter().collect() }
}

/// Whether a pod has an address to publish: it has one and has not ended.
fn publishes(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    !ended && status.is_some_and(|s| s.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()))
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|p| p.ip.clone()).chain(status.pod_ip.clone());
    all.into_iter().find(|ip| ip.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4() == (family == "IPv4")))
}

/// The service's ports on a pod; named target ports are looked up there.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let listed = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    let mut out: Vec<Port> = listed
        .filter_map(|p| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = target(p, &protocol, pod)?;
            Some((p.name.clone().unwrap_or_default(), protocol, number, p.app_protocol.clone()))
        })
        .collect();
    out.sort();
    out
}

fn target(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let named = |name: &str| {
        let spec = pod.spec.as_ref()?;
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let matches = |p: &&ContainerPort| {
            p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        spec.containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.iter().flatten())
            .find(matches)
            .map(|p| p.container_port)
    };
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => named(name),
    }
}

fn endpoint(service: &Service, pod: &Pod, address: String, zones: &BTreeMap<String, String>) -> Endpoint {
    let spec = service.spec.clone().unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let serving = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let all = spec.publish_not_ready_addresses == Some(true);
    let pod_spec = pod.spec.clone().unwrap_or_default();
    // A pod's hostname counts only in the domain of its own governing service.
    let named = pod_spec.subdomain.is_some() && pod_spec.subdomain == service.metadata.name;
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.hostname.filter(|h| named && !h.is_empty()),
        zone: pod_spec.node_name.as_ref().and_then(|n| zones.get(n)).cloned(),
        node_name: pod_spec.node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut v = json!({"metadata": {"name": "web", "namespace": "d"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            v["spec"][key] = value.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    fn pod(n: u32, ready: bool, extra: Value) -> Arc<Pod> {
        let mut v = json!({
            "metadata": {"name": format!("p{n}"), "namespace": "d", "uid": format!("u{n}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.244.{}.{}", n / 250, n % 250),
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            let (a, b) = pointer.split_once('/').unwrap();
            v[a][b] = value.clone();
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    /// Plans and carries out until nothing is left to do.
    fn settle(
        service: &Service,
        pods: &[Arc<Pod>],
        mut slices: Vec<Arc<EndpointSlice>>,
    ) -> (Vec<Arc<EndpointSlice>>, usize) {
        let zones = BTreeMap::from([("n1".to_owned(), "a".to_owned())]);
        let actions = plan(service, pods, &slices, &zones);
        let writes = actions.len();
        for action in actions {
            match action {
                Action::Create(mut slice) => {
                    let taken = |n: &usize| slices.iter().any(|s| s.metadata.name == Some(format!("s{n}")));
                    let free = (0..).find(|n| !taken(n)).unwrap();
                    slice.metadata.name = Some(format!("s{free}"));
                    slices.push(Arc::new(slice));
                }
                Action::Update(slice) => {
                    slices.retain(|s| s.metadata.name != slice.metadata.name);
                    slices.push(Arc::new(slice));
                }
                Action::Delete(slice) => slices.retain(|s| s.metadata.name != slice.metadata.name),
            }
        }
        assert!(plan(service, pods, &slices, &zones).is_empty(), "planned twice is planned once");
        (slices, writes)
    }

    #[test]
    fn endpoints_say_whether_they_are_ready_and_ending() {
        let pods = [
            pod(1, true, json!({})),
            pod(2, false, json!({})),
            pod(3, true, json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"})),
            pod(4, true, json!({"status/phase": "Succeeded"})),
            pod(5, true, json!({"metadata/labels": {"app": "other"}})),
        ];
        let (slices, _) = settle(&service(json!({})), &pods, vec![]);
        let shown: Vec<String> = slices[0]
            .endpoints
            .iter()
            .flatten()
            .map(|e| {
                let c = e.conditions.clone().unwrap();
                format!(
                    "{} {:?} {:?} {:?}",
                    e.addresses[0],
                    c.ready.unwrap(),
                    c.serving.unwrap(),
                    c.terminating.unwrap()
                )
            })
            .collect();
        assert_eq!(
            shown,
            ["10.244.0.1 true true false", "10.244.0.2 false false false", "10.244.0.3 false true true"]
        );
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080), "the named port of the pod");
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].zone.as_deref(), Some("a"));
    }

    #[test]
    fn a_change_of_one_pod_is_one_write() {
        let mut pods: Vec<Arc<Pod>> = (0..250).map(|n| pod(n, true, json!({}))).collect();
        let (slices, writes) = settle(&service(json!({})), &pods, vec![]);
        assert_eq!((slices.len(), writes), (3, 3));
        pods[120] = pod(120, false, json!({}));
        let (slices, writes) = settle(&service(json!({})), &pods, slices);
        assert_eq!((slices.len(), writes), (3, 1));
        pods.truncate(249);
        pods.push(pod(300, true, json!({})));
        let (_, writes) = settle(&service(json!({})), &pods, slices);
        assert_eq!(writes, 1, "the newcomer takes the place of the one that left");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let (slices, _) = settle(&service(json!({})), &[], vec![]);
        assert_eq!((slices.len(), slices[0].endpoints.as_ref().map(Vec::len)), (1, Some(0)));
        let (slices, _) = settle(&service(json!({})), &[pod(1, true, json!({}))], slices);
        assert_eq!(slices.len(), 1);
        let (slices, _) = settle(&service(json!({})), &[], slices);
        assert_eq!(slices.len(), 1);
    }

    #[test]
    fn headless_services_know_hostnames_and_may_publish_everyone() {
        let headless = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        let pods = [pod(1, false, json!({"spec/hostname": "web-0", "spec/subdomain": "web"}))];
        let (slices, _) = settle(&headless, &pods, vec![]);
        let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
        assert_eq!(endpoint.hostname.as_deref(), Some("web-0"));
        assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
        assert!(slices[0].metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
    }

    #[test]
    fn services_without_selector_are_left_alone() {
        assert!(!is_ours(&service(json!({"selector": null}))));
        assert!(!is_ours(&service(json!({"type": "ExternalName"}))));
        assert!(is_ours(&service(json!({}))));
    }
}
