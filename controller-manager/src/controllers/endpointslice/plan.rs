//! Which slices a service needs, and how those there are must change. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    Action, CONTROLLER, MANAGED_BY, SERVICE_NAME,
    hints::{self, Hints, Told},
};
use crate::controllers::service_pods::{self, HEADLESS, TRIGGER_TIME};

/// Most endpoints in one slice where no flag says otherwise.
#[cfg(test)]
const MOST: usize = 100;

/// Steps, and what is worth telling about the service.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) told: Vec<Told>,
    /// Whether endpoints are shared out to zones by CPU now.
    pub(super) shared: bool,
    /// Why pods are left out for now.
    pub(super) skipped: Vec<String>,
}

/// What slices need to know of nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    /// Every node's zone; empty for a node without.
    pub(super) zones: BTreeMap<String, String>,
    /// Each zone's share of the cluster's CPU; `None` where it cannot be told.
    pub(super) shares: Option<BTreeMap<String, f64>>,
}

/// What one family of slices is about: address type and resolved ports.
pub(super) type Group = (String, Vec<Port>);

/// A port as it stands in a slice: name, protocol, number, application protocol.
pub(super) type Port = (String, String, i32, Option<String>);

/// A slice that stays and the endpoints it is to hold.
type Kept = (Arc<EndpointSlice>, Vec<Endpoint>);

impl Nodes {
    /// What the cluster's nodes say.
    pub(super) fn of(nodes: &[Arc<Node>]) -> Nodes {
        let zone = |node: &Arc<Node>| {
            let zone = component_base::meta::label(&node.metadata, hints::ZONE).unwrap_or_default();
            Some((node.metadata.name.clone()?, zone.to_owned()))
        };
        Nodes { zones: nodes.iter().filter_map(zone).collect(), shares: hints::shares(nodes) }
    }
}

/// Whether a slice is one of ours for a service.
pub(super) fn belongs(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| component_base::meta::label(&slice.metadata, key);
    label(SERVICE_NAME) == Some(service) && label(MANAGED_BY) == Some(CONTROLLER)
}

/// What a plan is made by besides the service, its pods and its slices.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'v> {
    pub(super) nodes: &'v Nodes,
    /// Most endpoints in a slice.
    pub(super) most: usize,
    /// When the change was made that is being published.
    pub(super) trigger: Option<Timestamp>,
    /// Whether endpoints have been shared out to zones by CPU so far.
    pub(super) shared: bool,
}

/// Steps from the slices there are to the ones the pods call for.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    view: View<'_>,
) -> Plan {
    let mut plan = Plan { shared: view.shared, ..Plan::default() };
    let mut left: Vec<Arc<EndpointSlice>> = slices.to_vec();
    left.sort_by_key(|s| s.metadata.name.clone());
    let mut fresh = Vec::new();
    for (group, endpoints) in wanted(service, pods, slices, view.nodes, &mut plan) {
        let (mine, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|s| group_of(s) == group && is_owned(s, service));
        left = others;
        let filled = fill(service, &group, endpoints, &mine, view.most, &mut plan.actions);
        fresh.extend(filled.fresh);
        left.extend(filled.emptied);
    }
    left.sort_by_key(|s| s.metadata.name.clone());
    for slice in fresh {
        // A slice that would go serves the newcomer: one write instead of two.
        let reusable = |s: &Arc<EndpointSlice>| s.address_type == slice.address_type && is_owned(s, service);
        match left.iter().position(reusable) {
            Some(at) => {
                let old = left.remove(at);
                let mut next = (*old).clone();
                next.metadata.labels = slice.metadata.labels;
                next.ports = slice.ports;
                next.endpoints = slice.endpoints;
                plan.actions.push(Action::Update(next));
            }
            None => plan.actions.push(Action::Create(slice)),
        }
    }
    plan.actions.extend(left.into_iter().map(Action::Delete));
    for action in &mut plan.actions {
        if let Action::Create(slice) | Action::Update(slice) = action {
            date(slice, view.trigger);
        }
    }
    plan
}

/// Whether a slice is this very service's, not that of one of the same name before.
fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    let is_it = |o: &OwnerReference| {
        o.kind == "Service" && o.api_version == "v1" && Some(&o.uid) == service.metadata.uid.as_ref()
    };
    owners.iter().any(is_it)
}

fn date(slice: &mut EndpointSlice, trigger: Option<Timestamp>) {
    let mut annotations = slice.metadata.annotations.take().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.extend(trigger.map(|at| (TRIGGER_TIME.to_owned(), at.to_string())));
    slice.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
}

/// The endpoints there should be, by address, for every combination of family and ports.
fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    nodes: &Nodes,
    plan: &mut Plan,
) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let wish = Hints::of(service);
    let mut wanted: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for family in families(service) {
        let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
        let everyone = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
        for pod in pods.iter().filter(|p| service_pods::selects(service, p) && service_pods::publishes(p)) {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
            // A pod of a node that is gone is most likely gone too.
            if !everyone && !nodes.zones.contains_key(node) {
                let skipped = skipped(service, pod, node);
                if !plan.skipped.contains(&skipped) {
                    plan.skipped.push(skipped);
                }
                continue;
            }
            if let Some(address) = service_pods::address(pod, &family) {
                let endpoint = endpoint(service, pod, address.clone(), nodes);
                groups.entry((family.clone(), ports(service, pod))).or_default().insert(address, endpoint);
            }
        }
        let there: Vec<&Arc<EndpointSlice>> = slices.iter().filter(|s| s.address_type == family).collect();
        let all = groups.values_mut().flat_map(BTreeMap::values_mut).collect();
        let told = hints::give(wish, &family, all, &there, nodes.shares.as_ref(), &mut plan.shared);
        plan.told.extend(told);
        // A service without endpoints still has one, empty, slice per family.
        if groups.is_empty() {
            groups.insert((family, Vec::new()), BTreeMap::new());
        }
        wanted.extend(groups);
    }
    wanted
}

/// Why a pod is left out whose node nobody knows.
fn skipped(service: &Service, pod: &Pod, node: &str) -> String {
    let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let (pod, service) = (name(&pod.metadata), name(&service.metadata));
    format!("skipping Pod {pod} for Service {namespace}/{service}: Node {node} Not Found")
}

/// What keeping and filling slices leaves.
struct Filled {
    /// Slices to be made for what found no room.
    fresh: Vec<EndpointSlice>,
    /// Slices nothing is left in.
    emptied: Vec<Arc<EndpointSlice>>,
}

/// Keeps endpoints in the slices they are in. New ones go where it costs fewest writes: into slices that change anyway,
/// fullest first; then all that are left into the one slice they fit best, or into slices of their own.
fn fill(
    service: &Service,
    group: &Group,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[Arc<EndpointSlice>],
    most: usize,
    actions: &mut Vec<Action>,
) -> Filled {
    let (mut kept, mut emptied): (Vec<Kept>, Vec<Arc<EndpointSlice>>) = (Vec::new(), Vec::new());
    for slice in slices {
        let still = slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(e.addresses.first()?));
        // What a smaller limit leaves no room for moves on.
        let mut still: Vec<Endpoint> = still.collect();
        let beyond = still.split_off(still.len().min(most));
        wanted.extend(beyond.into_iter().filter_map(|e| Some((e.addresses.first()?.clone(), e))));
        match still.is_empty() && slice.endpoints.as_ref().is_some_and(|e| !e.is_empty()) {
            true => emptied.push(slice.clone()),
            false => kept.push((slice.clone(), still)),
        }
    }
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    let changes = |(slice, endpoints): &Kept| with(service, group, slice, endpoints.clone()) != **slice;
    let (mut kept, unchanged): (Vec<Kept>, Vec<Kept>) = kept.into_iter().partition(changes);
    kept.sort_by_key(|(_, endpoints)| Reverse(endpoints.len()));
    for (_, endpoints) in &mut kept {
        let room = most.saturating_sub(endpoints.len()).min(fresh.len());
        endpoints.extend(fresh.drain(..room));
    }
    kept.extend(unchanged);
    // What fills slices of its own needs no other; the rest may fit where only a write is added.
    let rest = fresh.split_off(fresh.len() - fresh.len() % most.max(1));
    let fits = |(_, endpoints): &&mut Kept| !rest.is_empty() && endpoints.len() + rest.len() <= most;
    match kept.iter_mut().filter(fits).max_by_key(|(_, endpoints)| endpoints.len()) {
        Some((_, endpoints)) => endpoints.extend(rest),
        None => fresh.extend(rest),
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
    let mut out = Vec::new();
    if !empty_seen {
        out.push(fresh_slice(service, group, Vec::new()));
    }
    while !fresh.is_empty() {
        let batch = fresh.drain(..fresh.len().min(most.max(1))).collect();
        out.push(fresh_slice(service, group, batch));
    }
    Filled { fresh: out, emptied }
}

fn fresh_slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let blank = EndpointSlice { address_type: group.0.clone(), ..EndpointSlice::default() };
    let mut slice = with(service, group, &blank, endpoints);
    slice.metadata.namespace.clone_from(&service.metadata.namespace);
    slice
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
    labels.remove(HEADLESS);
    if service_pods::lacks_address(service) {
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

pub(super) fn group_of(slice: &EndpointSlice) -> Group {
    let port = |p: &EndpointPort| {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        (text(&p.name), text(&p.protocol), p.port.unwrap_or(0), p.app_protocol.clone())
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

/// The kinds of addresses a service publishes.
fn families(service: &Service) -> BTreeSet<String> {
    let given = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if !given.is_empty() {
        return given.into_iter().collect();
    }
    let address = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    match address {
        // Nobody has said yet which it is.
        "" | "None" => BTreeSet::from(["IPv4".to_owned(), "IPv6".to_owned()]),
        address if address.contains(':') => BTreeSet::from(["IPv6".to_owned()]),
        _ => BTreeSet::from(["IPv4".to_owned()]),
    }
}

/// The service's ports on a pod; named target ports are looked up there.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let listed = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    let mut out: Vec<Port> = listed
        .filter_map(|p| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = service_pods::target(p, pod)?;
            Some((p.name.clone().unwrap_or_default(), protocol, number, p.app_protocol.clone()))
        })
        .collect();
    out.sort();
    out
}

fn endpoint(service: &Service, pod: &Pod, address: String, nodes: &Nodes) -> Endpoint {
    let serving = crate::controllers::replicaset::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname(service, pod),
        zone: node.as_ref().and_then(|n| nodes.zones.get(n)).filter(|z| !z.is_empty()).cloned(),
        node_name: node,
        target_ref: Some(service_pods::reference(pod)),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut v = json!({"metadata": {"name": "web", "namespace": "d", "uid": "s"},
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
        let nodes = Nodes {
            zones: [("n1", "a"), ("n2", "b"), ("bare", "")].map(|(n, z)| (n.to_owned(), z.to_owned())).into(),
            shares: Some([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into()),
        };
        let view = View { nodes: &nodes, most: MOST, trigger: None, shared: false };
        let actions = plan(service, pods, &slices, view).actions;
        let writes = actions.len();
        for action in actions {
            match action {
                Action::Create(mut slice) => {
                    let taken = |n: &usize| slices.iter().any(|s| s.metadata.name == Some(format!("s{n}")));
                    let free = (0..).find(|n| !taken(n)).unwrap();
                    slice.metadata.name = Some(format!("s{free}"));
                    slice.metadata.owner_references =
                        Some(vec![component_base::meta::new_controller_ref(service)]);
                    slices.push(Arc::new(slice));
                }
                Action::Update(slice) => {
                    slices.retain(|s| s.metadata.name != slice.metadata.name);
                    slices.push(Arc::new(slice));
                }
                Action::Delete(slice) => slices.retain(|s| s.metadata.name != slice.metadata.name),
            }
        }
        let again = plan(service, pods, &slices, view).actions;
        assert!(again.is_empty(), "planned twice is planned once");
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
        assert!(!service_pods::has_pods(&service(json!({"selector": null}))));
        assert!(!service_pods::has_pods(&service(json!({"type": "ExternalName"}))));
        assert!(service_pods::has_pods(&service(json!({}))));
    }

    #[test]
    fn pods_of_unknown_nodes_wait_unless_everyone_is_published() {
        let lost = [pod(1, true, json!({"spec/nodeName": "gone"}))];
        let (slices, _) = settle(&service(json!({})), &lost, vec![]);
        assert_eq!(slices[0].endpoints.as_ref().map(Vec::len), Some(0));
        let (slices, _) = settle(&service(json!({"publishNotReadyAddresses": true})), &lost, slices);
        assert_eq!(slices[0].endpoints.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn a_slice_of_other_ports_is_reused_and_one_of_another_service_goes() {
        let pods = [pod(1, true, json!({}))];
        let (slices, _) = settle(&service(json!({})), &pods, vec![]);
        let other = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": 9090}]}));
        let (slices, writes) = settle(&other, &pods, slices);
        assert_eq!((slices.len(), writes, slices[0].metadata.name.as_deref()), (1, 1, Some("s0")));
        let mut anew = other;
        anew.metadata.uid = Some("another".into());
        let (slices, writes) = settle(&anew, &pods, slices);
        assert_eq!((slices.len(), writes), (1, 2), "made anew, the old one deleted");
    }

    #[test]
    fn traffic_stays_near_where_asked() {
        let pods = [
            pod(1, true, json!({})),
            pod(2, false, json!({"spec/nodeName": "n2"})),
            pod(3, true, json!({"spec/nodeName": "bare"})),
        ];
        let hints = |distribution: Value, there: Vec<Arc<EndpointSlice>>| {
            let (slices, _) = settle(&service(json!({"trafficDistribution": distribution})), &pods, there);
            let shown: Vec<Value> = slices[0]
                .endpoints
                .iter()
                .flatten()
                .map(|e| serde_json::to_value(&e.hints).unwrap())
                .collect();
            (shown, slices)
        };
        let zone = json!({"forZones": [{"name": "a"}]});
        let (shown, slices) = hints(json!("PreferClose"), vec![]);
        assert_eq!(shown, [zone.clone(), Value::Null, Value::Null]);
        let (shown, slices) = hints(json!("PreferSameZone"), slices);
        assert_eq!(shown, [zone.clone(), Value::Null, Value::Null]);
        let (shown, slices) = hints(json!("PreferSameNode"), slices);
        let both = json!({"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]});
        assert_eq!(shown, [both, Value::Null, json!({"forNodes": [{"name": "bare"}]})]);
        assert_eq!(hints(Value::Null, slices).0, [Value::Null, Value::Null, Value::Null]);
    }

    #[test]
    fn what_is_written_tells_when_its_cause_came_about() {
        let at = Some("2026-01-01T00:00:00.5Z".parse().unwrap());
        let view = View { nodes: &Nodes::default(), most: MOST, trigger: at, shared: false };
        let actions = plan(&service(json!({})), &[], &[], view).actions;
        let [Action::Create(slice)] = actions.as_slice() else { panic!("one slice is made: {actions:?}") };
        assert_eq!(slice.metadata.annotations.as_ref().unwrap()[TRIGGER_TIME], "2026-01-01T00:00:00.5Z");
    }

    fn nodes() -> Nodes {
        Nodes {
            zones: [("n1", "a"), ("n2", "b")].map(|(n, z)| (n.to_owned(), z.to_owned())).into(),
            shares: Some([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into()),
        }
    }

    /// Slices of these many endpoints each, of pods numbered on from 1.
    fn slices(sizes: &[u32], labels: &Value) -> (Vec<Arc<EndpointSlice>>, Vec<Arc<Pod>>) {
        let of = service(json!({}));
        let (mut slices, mut pods) = (Vec::new(), Vec::new());
        for (n, size) in sizes.iter().enumerate() {
            let from = u32::try_from(pods.len()).unwrap() + 1;
            let mine: Vec<Arc<Pod>> = (from..from + size).map(|n| pod(n, true, json!({}))).collect();
            let view = View { nodes: &nodes(), most: MOST, trigger: None, shared: false };
            let Some(Action::Create(mut slice)) = plan(&of, &mine, &[], view).actions.pop() else { panic!() };
            slice.metadata.name = Some(format!("s{n}"));
            slice.metadata.owner_references = Some(vec![component_base::meta::new_controller_ref(&of)]);
            for (key, value) in labels.as_object().into_iter().flatten() {
                let value = value.as_str().unwrap().to_owned();
                slice.metadata.labels.get_or_insert_default().insert(key.clone(), value);
            }
            slices.push(Arc::new(slice));
            pods.extend(mine);
        }
        (slices, pods)
    }

    /// (made, changed, deleted, sizes afterwards)
    fn packed(
        sizes: &[u32],
        labels: Value,
        change: impl Fn(&mut Vec<Arc<Pod>>),
    ) -> (usize, usize, usize, Vec<usize>) {
        let (slices, mut pods) = slices(sizes, &labels);
        change(&mut pods);
        let view = View { nodes: &nodes(), most: MOST, trigger: None, shared: false };
        let actions = plan(&service(json!({})), &pods, &slices, view).actions;
        let count = |of: fn(&Action) -> bool| actions.iter().filter(|a| of(a)).count();
        let (after, _) = settle(&service(json!({})), &pods, slices);
        let mut sizes: Vec<usize> = after.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
        sizes.sort_unstable();
        (
            count(|a| matches!(a, Action::Create(_))),
            count(|a| matches!(a, Action::Update(_))),
            count(|a| matches!(a, Action::Delete(_))),
            sizes,
        )
    }

    #[test]
    fn newcomers_cost_as_few_writes_as_can_be() {
        let add = |n: u32| {
            move |pods: &mut Vec<Arc<Pod>>| pods.extend((0..n).map(|n| pod(9000 + n, true, json!({}))))
        };
        // The one slice that all fit in best, not several that have some room.
        assert_eq!(packed(&[60, 80, 40], json!({}), add(15)), (0, 1, 0, vec![40, 60, 95]));
        assert_eq!(packed(&[60, 80, 40], json!({}), add(40)), (0, 1, 0, vec![40, 80, 100]));
        assert_eq!(packed(&[60, 80, 40], json!({}), add(61)), (1, 0, 0, vec![40, 60, 61, 80]));
        // What fills slices goes into new ones; the rest finds its place.
        assert_eq!(packed(&[90], json!({}), add(205)), (2, 1, 0, vec![95, 100, 100]));
        assert_eq!(packed(&[90], json!({}), add(211)), (3, 0, 0, vec![11, 90, 100, 100]));
        // Slices that are written anyway are filled first, the fullest before the others.
        let swap = |pods: &mut Vec<Arc<Pod>>| {
            pods.remove(0);
            pods.remove(60);
            pods.extend((0..25).map(|n| pod(9000 + n, true, json!({}))));
        };
        assert_eq!(packed(&[60, 80, 20], json!({}), swap), (0, 2, 0, vec![20, 63, 100]));
        // Labels to be mended are a write too.
        assert_eq!(packed(&[60, 80], json!({"stale": "yes"}), add(30)), (0, 2, 0, vec![70, 100]));
    }

    #[test]
    fn slices_that_empty_serve_newcomers_or_go() {
        let replace = |gone: usize, n: u32| {
            move |pods: &mut Vec<Arc<Pod>>| {
                pods.drain(..gone);
                pods.extend((0..n).map(|n| pod(9000 + n, true, json!({}))));
            }
        };
        assert_eq!(packed(&[10, 95], json!({}), replace(10, 0)), (0, 0, 1, vec![95]));
        assert_eq!(packed(&[10, 95], json!({}), replace(10, 30)), (0, 1, 0, vec![30, 95]));
        assert_eq!(packed(&[10, 50], json!({}), replace(10, 30)), (0, 1, 1, vec![80]));
        assert_eq!(packed(&[10, 20], json!({}), replace(30, 0)), (0, 1, 1, vec![0]));
    }

    #[test]
    fn families_follow_the_address_where_none_are_named() {
        let of = |spec: Value| families(&service(spec)).into_iter().collect::<Vec<_>>();
        assert_eq!(of(json!({})), ["IPv4"]);
        assert_eq!(of(json!({"clusterIP": "fd00::7"})), ["IPv6"]);
        assert_eq!(of(json!({"clusterIP": "None"})), ["IPv4", "IPv6"]);
        assert_eq!(of(json!({"clusterIP": ""})), ["IPv4", "IPv6"]);
        assert_eq!(of(json!({"clusterIP": "None", "ipFamilies": ["IPv6"]})), ["IPv6"]);
    }

    #[test]
    fn a_service_without_an_address_is_labelled_so() {
        for (address, labelled) in [("None", true), ("", true), ("10.96.0.9", false), ("fd00::9", false)] {
            let (slices, _) = settle(&service(json!({"clusterIP": address})), &[], vec![]);
            assert_eq!(
                slices[0].metadata.labels.as_ref().unwrap().contains_key(HEADLESS),
                labelled,
                "{address:?}"
            );
        }
    }

    #[test]
    fn labels_of_the_service_are_those_of_its_slices() {
        let mut of = service(json!({}));
        of.metadata.labels = Some(
            [("team", "a"), (MANAGED_BY, "somebody"), (SERVICE_NAME, "another"), (HEADLESS, "")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        );
        let (slices, _) = settle(&of, &[], vec![]);
        let labels = slices[0].metadata.labels.clone().unwrap();
        let expected = [("team", "a"), (MANAGED_BY, CONTROLLER), (SERVICE_NAME, "web")];
        assert_eq!(labels, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn pods_without_a_known_node_are_told() {
        let lost = |n| pod(n, true, json!({"spec/nodeName": "gone"}));
        let view = View { nodes: &nodes(), most: MOST, trigger: None, shared: false };
        let told = plan(&service(json!({"clusterIP": "None"})), &[lost(1), lost(2)], &[], view).skipped;
        let note = |pod: &str| format!("skipping Pod {pod} for Service d/web: Node gone Not Found");
        assert_eq!(told, [note("p1"), note("p2")], "once for both families");
    }

    #[test]
    fn shares_are_told_when_they_begin_and_end() {
        let pods: Vec<Arc<Pod>> = (1..5)
            .map(|n| pod(n, true, json!({"spec/nodeName": if n % 2 == 0 {"n1"} else {"n2"}})))
            .collect();
        let told = |mode: Option<&str>, distribution: Value, shared: bool| {
            let mut of = service(json!({"trafficDistribution": distribution}));
            of.metadata.annotations =
                mode.map(|m| [("service.kubernetes.io/topology-mode".to_owned(), m.to_owned())].into());
            let view = View { nodes: &nodes(), most: MOST, trigger: None, shared };
            let plan = plan(&of, &pods, &[], view);
            (plan.told.iter().map(|t| t.note.clone()).collect::<Vec<_>>(), plan.shared)
        };
        let note = |what: &str| vec![format!("Topology Aware Hints has been {what}, addressType: IPv4")];
        assert_eq!(told(Some("Auto"), Value::Null, false), (note("enabled"), true));
        assert_eq!(told(Some("auto"), Value::Null, true), (vec![], true));
        assert_eq!(told(None, Value::Null, true), (note("disabled"), false));
        assert_eq!(told(None, json!("PreferClose"), true), (note("disabled"), false));
        assert_eq!(told(None, json!("PreferClose"), false), (vec![], false));
        // Hints that were for something else are no shares.
        assert_eq!(told(Some("Disabled"), Value::Null, false), (vec![], false));
    }
}
