//! The slices that say what endpoints say. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use component_base::meta::{annotation, label};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointPort as Port, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};

use crate::controllers::{
    endpoints::{
        LEADER,
        subsets::{expand, pack},
    },
    endpointslice::{Action, MANAGED_BY, SERVICE_NAME},
    service_pods::TRIGGER_TIME,
};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Steps, and what could not be mirrored.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// Addresses that are no IP.
    pub(super) invalid: usize,
    /// Addresses beyond what a slice may hold.
    pub(super) beyond: usize,
}

/// Whether a slice was made here.
pub(super) fn is_mirrored(slice: &EndpointSlice) -> bool {
    label(&slice.metadata, MANAGED_BY) == Some(CONTROLLER)
}

/// Whether a service's endpoints are to be mirrored.
pub(super) fn mirrors(service: &Service, endpoints: &Endpoints) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
        && label(&endpoints.metadata, SKIP) != Some("true")
        && annotation(&endpoints.metadata, LEADER).is_none()
        && endpoints.metadata.deletion_timestamp.is_none()
}

/// Steps to the slices of `endpoints`; to none without.
pub(super) fn plan(endpoints: Option<&Endpoints>, there: &[Arc<EndpointSlice>], most: usize) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<Arc<EndpointSlice>> = there.to_vec();
    left.sort_by_key(|s| s.metadata.name.clone());
    let wanted = endpoints.map(|e| wanted(e, most, &mut plan)).unwrap_or_default();
    let mut fresh = Vec::new();
    for slice in wanted {
        let group = |s: &EndpointSlice| (s.address_type.clone(), s.ports.clone().unwrap_or_default());
        match left.iter().position(|s| group(s) == group(&slice)) {
            Some(at) => update(&left.remove(at), slice, &mut plan.actions),
            None => fresh.push(slice),
        }
    }
    for slice in fresh {
        // A slice that would go serves the newcomer: nobody sees the service without endpoints.
        match left.iter().position(|s| s.address_type == slice.address_type) {
            Some(at) => update(&left.remove(at), slice, &mut plan.actions),
            None => plan.actions.push(Action::Create(slice)),
        }
    }
    plan.actions.extend(left.into_iter().map(Action::Delete));
    plan
}

fn update(old: &EndpointSlice, wanted: EndpointSlice, actions: &mut Vec<Action>) {
    let mut next = old.clone();
    next.metadata.labels = wanted.metadata.labels;
    next.metadata.annotations = wanted.metadata.annotations;
    next.ports = wanted.ports;
    next.endpoints = wanted.endpoints;
    let plain = |slice: &EndpointSlice| {
        let mut plain = slice.clone();
        plain.metadata.annotations = plain.metadata.annotations.filter(|a| !a.is_empty());
        plain
    };
    if plain(&next) != plain(old) {
        actions.push(Action::Update(next));
    }
}

fn wanted(endpoints: &Endpoints, most: usize, plan: &mut Plan) -> Vec<EndpointSlice> {
    let mut out = Vec::new();
    for subset in pack(expand(endpoints.subsets.as_deref().unwrap_or_default())) {
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
        let mut added = 0;
        for (address, ready) in ready.chain(not_ready) {
            match address.ip.parse::<IpAddr>() {
                Err(_) => plan.invalid += 1,
                Ok(_) if added == most => plan.beyond += 1,
                Ok(ip) => {
                    added += 1;
                    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                    families.entry(family).or_default().push(endpoint(address, ip, ready));
                }
            }
        }
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        out.extend(families.into_iter().map(|(family, list)| slice(endpoints, family, ports.clone(), list)));
    }
    out
}

fn slice(of: &Endpoints, family: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut out = EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
        ..EndpointSlice::default()
    };
    let mut labels = of.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), of.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut annotations = of.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(LAST_APPLIED);
    out.metadata.namespace.clone_from(&of.metadata.namespace);
    out.metadata.labels = Some(labels);
    out.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    out
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "labels": {"a": "b"},
            "annotations": {"keep": "me", LAST_APPLIED: "{}", TRIGGER_TIME: "x"}}, "subsets": subsets}))
        .unwrap()
    }

    fn port(number: i32) -> Value {
        json!({"name": "sql", "port": number, "protocol": "TCP"})
    }

    /// Carries plans out; checks that planning again does nothing.
    fn settle(
        of: Option<&Endpoints>,
        there: &[Arc<EndpointSlice>],
        most: usize,
    ) -> (Vec<Arc<EndpointSlice>>, Vec<&'static str>) {
        let mut slices = there.to_vec();
        let mut did = Vec::new();
        for action in plan(of, there, most).actions {
            let gone = |slices: &mut Vec<Arc<EndpointSlice>>, name: &Option<String>| {
                slices.retain(|s| s.metadata.name != *name);
            };
            match action {
                Action::Create(mut slice) => {
                    slice.metadata.name = Some(format!("s{}", slices.len()));
                    slices.push(Arc::new(slice));
                    did.push("create");
                }
                Action::Update(slice) => {
                    gone(&mut slices, &slice.metadata.name);
                    slices.push(Arc::new(slice));
                    did.push("update");
                }
                Action::Delete(slice) => {
                    gone(&mut slices, &slice.metadata.name);
                    did.push("delete");
                }
            }
        }
        assert!(plan(of, &slices, most).actions.is_empty(), "planned twice is planned once");
        (slices, did)
    }

    #[test]
    fn every_subset_has_a_slice_per_family() {
        let of = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "nonsense"}], "ports": [port(5432)]}]));
        let (slices, did) = settle(Some(&of), &[], 1000);
        assert_eq!(did, ["create", "create"]);
        let v4 = slices.iter().find(|s| s.address_type == "IPv4").unwrap();
        let shown: Vec<(String, bool)> = v4
            .endpoints
            .iter()
            .flatten()
            .map(|e| (e.addresses[0].clone(), e.conditions.as_ref().unwrap().ready.unwrap()))
            .collect();
        assert_eq!(shown, [("10.0.0.1".to_owned(), true), ("10.0.0.2".to_owned(), false)]);
        let labels = v4.metadata.labels.as_ref().unwrap();
        assert_eq!(
            (labels["a"].as_str(), labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()),
            ("b", "db", CONTROLLER)
        );
        assert_eq!(v4.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["keep"]);
        assert_eq!(plan(Some(&of), &[], 1000).invalid, 1);
    }

    #[test]
    fn a_change_of_ports_reuses_the_slice() {
        let subset = |n: i32| json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [port(n)]}]);
        let (slices, _) = settle(Some(&endpoints(subset(1))), &[], 1000);
        let (slices, did) = settle(Some(&endpoints(subset(2))), &slices, 1000);
        assert_eq!(did, ["update"]);
        let (slices, did) = settle(None, &slices, 1000);
        assert_eq!((slices.len(), did), (0, vec!["delete"]));
    }

    #[test]
    fn a_slice_holds_only_so_many() {
        let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let of = endpoints(json!([{"addresses": addresses, "ports": [port(1)]}]));
        let (slices, _) = settle(Some(&of), &[], 3);
        assert_eq!(slices[0].endpoints.as_ref().unwrap().len(), 3);
        assert_eq!(plan(Some(&of), &[], 3).beyond, 2);
    }

    #[test]
    fn whose_endpoints_are_mirrored() {
        let service = |selector: Value| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"selector": selector}}))
                .unwrap()
        };
        let plain = endpoints(json!([]));
        assert!(mirrors(&service(Value::Null), &plain));
        assert!(!mirrors(&service(json!({"a": "b"})), &plain));
        let mut skipped = plain.clone();
        skipped.metadata.labels.as_mut().unwrap().insert(SKIP.into(), "true".into());
        assert!(!mirrors(&service(Value::Null), &skipped));
        let mut leader = plain;
        leader.metadata.annotations.as_mut().unwrap().insert(LEADER.into(), "{}".into());
        assert!(!mirrors(&service(Value::Null), &leader));
    }
}
