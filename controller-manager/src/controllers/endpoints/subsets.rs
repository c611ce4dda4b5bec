//! The canonical form of endpoints: addresses that offer the same ports stand together, everything is sorted.
//!
//! Contract: core/v1 `EndpointSubset`: the expanded endpoints are the product of a subset's addresses and ports; an
//! address that one port calls ready and not ready is not ready there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// A port, ordered: number, protocol, name, application protocol.
type Port = (i32, String, String, Option<String>);

/// An address is told apart by IP and by the uid behind it.
type Host = (String, String);

/// Addresses and whether each is ready.
type Hosts = BTreeMap<Host, bool>;

/// One address with the ports it offers; a headless service may offer none.
pub(in crate::controllers) struct Offer {
    pub(in crate::controllers) address: EndpointAddress,
    pub(in crate::controllers) ready: bool,
    pub(in crate::controllers) ports: Vec<EndpointPort>,
}

/// Packs offers into as few subsets as say the same.
pub(in crate::controllers) fn pack(offers: impl IntoIterator<Item = Offer>) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<Host, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<Port>, Hosts> = BTreeMap::new();
    for offer in offers {
        let uid = offer.address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
        let host = (offer.address.ip.clone(), uid);
        addresses.entry(host.clone()).or_insert(offer.address);
        let ports = offer.ports.iter().map(|p| Some(key(p)));
        let none = offer.ports.is_empty().then_some(None);
        for port in ports.chain(none) {
            let ready = by_port.entry(port).or_default().entry(host.clone()).or_insert(true);
            *ready &= offer.ready;
        }
    }
    let mut by_hosts: BTreeMap<Vec<(Host, bool)>, Vec<Port>> = BTreeMap::new();
    for (port, hosts) in by_port {
        by_hosts.entry(hosts.into_iter().collect()).or_default().extend(port);
    }
    let mut out: Vec<(Vec<Port>, EndpointSubset)> = Vec::new();
    for (hosts, ports) in by_hosts {
        let of = |wanted: bool| -> Option<Vec<EndpointAddress>> {
            let some = hosts.iter().filter(|(_, ready)| *ready == wanted);
            let found: Vec<_> = some.filter_map(|(host, _)| addresses.get(host).cloned()).collect();
            (!found.is_empty()).then_some(found)
        };
        let subset = EndpointSubset {
            addresses: of(true),
            not_ready_addresses: of(false),
            ports: (!ports.is_empty()).then(|| ports.iter().map(unkey).collect()),
        };
        out.push((ports, subset));
    }
    out.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.into_iter().map(|(_, subset)| subset).collect()
}

/// What subsets offer, one by one.
pub(in crate::controllers) fn expand(subsets: &[EndpointSubset]) -> impl Iterator<Item = Offer> + '_ {
    subsets.iter().flat_map(|subset| {
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        ready.chain(not_ready).map(|(address, ready)| Offer {
            address: address.clone(),
            ready,
            ports: subset.ports.clone().unwrap_or_default(),
        })
    })
}

fn key(port: &EndpointPort) -> Port {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    (port.port, protocol, port.name.clone().unwrap_or_default(), port.app_protocol.clone())
}

fn unkey((port, protocol, name, app_protocol): &Port) -> EndpointPort {
    EndpointPort {
        port: *port,
        protocol: Some(protocol.clone()),
        name: (!name.is_empty()).then(|| name.clone()),
        app_protocol: app_protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn packed(subsets: Value) -> Value {
        let subsets: Vec<EndpointSubset> = serde_json::from_value(subsets).unwrap();
        let once = pack(expand(&subsets));
        assert_eq!(pack(expand(&once)), once, "packed twice is packed once");
        serde_json::to_value(once).unwrap()
    }

    #[test]
    fn addresses_with_equal_ports_stand_together() {
        let port = |n: i32| json!({"port": n, "protocol": "TCP"});
        let table = [
            (
                json!([{"addresses": [{"ip": "10.0.0.2"}], "ports": [port(80)]},
                    {"addresses": [{"ip": "10.0.0.1"}], "ports": [port(80)]}]),
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [port(80)]}]),
            ),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [port(90)]},
                    {"addresses": [{"ip": "10.0.0.1"}], "ports": [port(80)]}]),
                json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [port(80), port(90)]}]),
            ),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [port(80)]},
                    {"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [port(80)]}]),
                json!([{"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [port(80)]}]),
            ),
            (json!([{"addresses": [{"ip": "10.0.0.1"}]}]), json!([{"addresses": [{"ip": "10.0.0.1"}]}])),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [port(80)]},
                    {"addresses": [{"ip": "10.0.0.1"}], "ports": [port(90)]}]),
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [port(80)]},
                    {"addresses": [{"ip": "10.0.0.1"}], "ports": [port(90)]}]),
            ),
            (json!([]), json!([])),
        ];
        for (given, expected) in table {
            assert_eq!(packed(given.clone()), expected, "{given}");
        }
    }
}
