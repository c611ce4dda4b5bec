//! `endpointslices` of discovery.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format, items, short_list},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("AddressType", "string"),
    column("Ports", "string"),
    column("Endpoints", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/addressType", ""), Cell::With(ports), Cell::With(endpoints), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslice")
    }
}

/// Ports have a name, if an empty one, and speak TCP.
fn default(obj: &mut Object) {
    for port in fill::members(obj.as_map_mut(), "ports") {
        if port.get("name").is_none_or(Value::is_null) {
            port.insert("name".to_owned(), "".into());
        }
        if port.get("protocol").is_none_or(Value::is_null) {
            port.insert("protocol".to_owned(), "TCP".into());
        }
    }
}

fn ports(obj: &Object) -> Value {
    let ports =
        items(obj.get("ports")).map(|p| p.get("port").map_or_else(|| "*".to_owned(), Value::to_string));
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "<unset>".into() } else { short_list(&ports) }
}

fn endpoints(obj: &Object) -> Value {
    let addresses = items(obj.get("endpoints")).flat_map(|e| items(e.get("addresses")));
    let addresses: Vec<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if addresses.is_empty() { "<unset>".into() } else { short_list(&addresses) }
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

fn validate(obj: &Object, errors: &mut ErrorList) {
    let kind = At::field(obj, "addressType");
    kind.check_one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    check_ports(&At::field(obj, "ports"), errors);
    let endpoints = At::field(obj, "endpoints");
    endpoints.check_members(errors, MAX_ENDPOINTS);
    if endpoints.len() <= MAX_ENDPOINTS {
        endpoints.items().for_each(|endpoint| check_endpoint(&endpoint, kind.text(), errors));
    }
}

fn check_ports(ports: &At<'_>, errors: &mut ErrorList) {
    ports.check_members(errors, MAX_PORTS);
    let mut seen = Vec::new();
    for port in ports.items().take(MAX_PORTS) {
        let name = port.get("name");
        if !name.is_empty() {
            name.check_format(errors, format::dns_label);
        }
        if seen.contains(&name.text()) {
            name.duplicate(errors);
        } else {
            seen.push(name.text());
        }
        port.get("protocol").check_one_of(errors, &["TCP", "UDP", "SCTP"]);
        let application = port.get("appProtocol");
        if application.is_set() {
            application.check_format(errors, format::qualified_name);
        }
    }
}

fn check_endpoint(endpoint: &At<'_>, kind: &str, errors: &mut ErrorList) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        addresses.required(errors, "must contain at least 1 address");
    }
    addresses.check_members(errors, MAX_ADDRESSES);
    for address in addresses.items() {
        match (kind, format::ip(address.text())) {
            ("IPv4" | "IPv6", None) => {
                address.invalid(errors, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            }
            ("IPv4", Some(ip)) if !ip.is_ipv4() => address.invalid(errors, "must be an IPv4 address"),
            ("IPv6", Some(ip)) if !ip.is_ipv6() => address.invalid(errors, "must be an IPv6 address"),
            (_, Some(ip)) if ip.is_unspecified() => {
                address.invalid(errors, "may not be unspecified (0.0.0.0 or ::)");
            }
            (_, Some(ip)) if ip.is_loopback() => {
                address.invalid(errors, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
            }
            _ => {}
        }
    }
    let (node, host) = (endpoint.get("nodeName"), endpoint.get("hostname"));
    if node.is_set() {
        node.check_format(errors, format::dns_subdomain);
    }
    endpoint.get("deprecatedTopology").check_labels(errors);
    if host.is_set() {
        host.check_format(errors, format::dns_label);
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::field(new, "addressType").check_unchanged(&At::field(old, "addressType"), errors);
}
