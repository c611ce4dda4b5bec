//! The slices that say what endpoints say. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use component_base::meta::{annotation, label, new_controller_ref};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointPort as Port, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
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
    /// Addresses left out: those that are no IP and those beyond what a slice may hold.
    pub(super) skipped: usize,
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
    // Endpoints made anew under the same name: the slices would go with those before.
    if !owns(&wanted.metadata, &old.metadata) {
        next.metadata.owner_references = wanted.metadata.owner_references;
    }
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

/// Whether no other endpoints of the same name own what is there.
fn owns(wanted: &ObjectMeta, there: &ObjectMeta) -> bool {
    let Some(owner) = wanted.owner_references.iter().flatten().next() else { return true };
    let mut owners = there.owner_references.iter().flatten();
    !owners.any(|o| o.kind == owner.kind && o.name == owner.name && o.uid != owner.uid)
}

fn wanted(endpoints: &Endpoints, most: usize, plan: &mut Plan) -> Vec<EndpointSlice> {
    let mut out = Vec::new();
    for subset in pack(expand(endpoints.subsets.as_deref().unwrap_or_default())) {
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
        let (mut added, mut invalid, mut all) = (0, 0, 0);
        for (address, ready) in ready.chain(not_ready) {
            all += 1;
            match parse_sloppily(&address.ip) {
                _ if added == most => {}
                None => invalid += 1,
                Some(ip) => {
                    added += 1;
                    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                    families.entry(family).or_default().push(endpoint(address, ip, ready));
                }
            }
        }
        plan.invalid += invalid;
        plan.skipped += all - added;
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
    out.metadata.owner_references = Some(vec![new_controller_ref(of)]);
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

/// An address as people write them: IPv4 may have leading zeros, or stand within IPv6.
fn parse_sloppily(ip: &str) -> Option<IpAddr> {
    let parts: Vec<&str> = ip.split('.').collect();
    if parts.len() == 4 && !ip.contains(':') {
        let octet = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u8>().ok())?;
        let octets: Option<Vec<u8>> = parts.into_iter().map(octet).collect();
        return octets.and_then(|o| <[u8; 4]>::try_from(o).ok()).map(IpAddr::from);
    }
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
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
        let counts = |most| {
            let plan = plan(Some(&of), &[], most);
            (plan.skipped, plan.invalid)
        };
        assert_eq!((counts(3), counts(5)), ((2, 0), (0, 0)));
    }

    #[test]
    fn what_is_left_out_is_counted_by_subset() {
        let subset = |ips: &[&str], number: i32| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"addresses": addresses, "ports": [port(number)]})
        };
        // Addresses are looked at in order: what is wrong beyond the limit is left out like all that is there.
        for (ips, expected) in [
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3"][..], (1, 0)),
            (&["10.0.0.1", "10.0.0.2", "zzz"], (1, 0)),
            (&["0", "10.0.0.1", "10.0.0.2", "10.0.0.3"], (2, 1)),
            (&["", "10.0.0.1"], (1, 1)),
        ] {
            let plan = plan(Some(&endpoints(json!([subset(ips, 1)]))), &[], 2);
            assert_eq!((plan.skipped, plan.invalid), expected, "{ips:?}");
        }
        let two = endpoints(json!([subset(&["10.0.0.1", "10.0.0.2"], 1), subset(&["10.0.0.3", "x"], 2)]));
        let plan = plan(Some(&two), &[], 2);
        assert_eq!((plan.skipped, plan.invalid), (1, 1));
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (written, family, address) in [
            ("010.0.0.01", "IPv4", "10.0.0.1"),
            ("::ffff:10.0.0.9", "IPv4", "10.0.0.9"),
            ("FD00:0::1", "IPv6", "fd00::1"),
        ] {
            let of = endpoints(json!([{"addresses": [{"ip": written}], "ports": [port(1)]}]));
            let (slices, _) = settle(Some(&of), &[], 10);
            let shown = &slices[0].endpoints.as_ref().unwrap()[0].addresses;
            assert_eq!(
                (slices[0].address_type.as_str(), shown.as_slice()),
                (family, &[address.to_owned()][..])
            );
        }
        assert!(
            ["10.0.0", "10.0.0.256", "+1.0.0.0", "a.b.c.d"].iter().all(|ip| parse_sloppily(ip).is_none())
        );
    }

    #[test]
    fn slices_of_endpoints_that_were_made_anew_are_theirs() {
        let of = |uid: &str| {
            let mut of = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [port(1)]}]));
            of.metadata.uid = Some(uid.to_owned());
            of
        };
        let (slices, _) = settle(Some(&of("old")), &[], 10);
        let (slices, did) = settle(Some(&of("new")), &slices, 10);
        assert_eq!(did, ["update"]);
        let owners = slices[0].metadata.owner_references.as_ref().unwrap();
        assert_eq!(owners.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>(), ["new"]);
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
