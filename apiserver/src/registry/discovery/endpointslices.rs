//! `endpointslices` of discovery.k8s.io.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource, StrategyContext,
        kit::{
            Cell, Plain, Rules, address,
            at::{At, Format},
            column, fill, format, items, semantic, short_list,
        },
        pod_spec::warnings_of_ip,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("AddressType", "string"),
    column("Ports", "string"),
    column("Endpoints", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/addressType", ""), Cell::With(ports), Cell::With(endpoints), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create,
            change,
            validate_new: |slice, errors| check(slice, None, errors),
            validate_change,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
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
    let number = |port: &Value| match (port.get("port").and_then(Value::as_i64), port.get("name")) {
        (Some(number), _) => number.to_string(),
        (None, Some(Value::String(name))) => name.clone(),
        (None, _) => "*".to_owned(),
    };
    let ports: Vec<String> = items(obj.get("ports")).map(number).collect();
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
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

fn check(slice: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let kind = At::field(slice, "addressType");
    kind.check_one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    check_ports(&At::field(slice, "ports"), errors);
    let endpoints = At::field(slice, "endpoints");
    // What was taken once stays good as long as it stays.
    if old.is_some_and(|old| semantic::same(At::field(old, "endpoints").value(), endpoints.value())) {
        return;
    }
    endpoints.check_members(errors, MAX_ENDPOINTS);
    if endpoints.len() <= MAX_ENDPOINTS {
        endpoints.items().for_each(|endpoint| check_endpoint(&endpoint, kind.text(), errors));
    }
}

fn check_ports(ports: &At<'_>, errors: &mut ErrorList) {
    if ports.len() > MAX_PORTS {
        return ports.check_members(errors, MAX_PORTS);
    }
    let mut seen = Vec::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            name.check_format(errors, format::dns_label);
        }
        if seen.contains(&name.text()) {
            name.duplicate(errors);
        } else {
            seen.push(name.text());
        }
        let protocol = port.get("protocol");
        if protocol.check_there(errors) {
            protocol.check_is_one_of(errors, &["TCP", "UDP", "SCTP"]);
        }
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
    addresses.items().for_each(|address| check_address(&address, kind, &addresses, errors));
    let (node, host) = (endpoint.get("nodeName"), endpoint.get("hostname"));
    if node.is_set() {
        node.check_format(errors, format::dns_subdomain);
    }
    let topology = endpoint.get("deprecatedTopology");
    topology.check_members(errors, MAX_TOPOLOGY);
    topology.check_labels(errors);
    if host.is_set() {
        host.check_format(errors, format::dns_label);
    }
    check_hints(&endpoint.get("hints"), errors);
}

fn check_address(address: &At<'_>, kind: &str, all: &At<'_>, errors: &mut ErrorList) {
    let shape = match kind {
        "IPv4" => format::legacy_ip,
        "IPv6" => address::canonical_ip,
        "FQDN" => return check_domain(address, errors),
        _ => return,
    };
    let wrong = shape(address.text());
    if !wrong.is_empty() {
        return wrong.into_iter().for_each(|detail| address.invalid_as(errors, address.text(), detail));
    }
    if format::ip(address.text()).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
        address.named(all.path().clone()).invalid(errors, format!("must be an {kind} address"));
    }
    address.check_format(errors, format::endpoint_ip);
}

/// A name of two labels at least.
fn check_domain(domain: &At<'_>, errors: &mut ErrorList) {
    if !domain.check_required(errors) {
        return;
    }
    let name = domain.text().strip_suffix('.').unwrap_or(domain.text());
    let wrong = format::dns_subdomain(name);
    if !wrong.is_empty() {
        return domain.invalid_as(errors, name, wrong.join(","));
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return domain.invalid_as(errors, name, detail);
    }
    let labels = name.split('.').map(|label| (label, format::dns_label(label)));
    if let Some((label, wrong)) = labels.into_iter().find(|(_, wrong)| !wrong.is_empty()) {
        domain.invalid_as(errors, label, wrong.join(","));
    }
}

/// Zones and nodes that an endpoint is best for, each once.
fn check_hints(hints: &At<'_>, errors: &mut ErrorList) {
    let kinds: [(&str, Format); 2] = [("forZones", format::label_value), ("forNodes", format::dns_subdomain)];
    for (field, shape) in kinds {
        let list = hints.get(field);
        if list.len() > MAX_HINTS {
            return list.check_members(errors, MAX_HINTS);
        }
        let mut seen = BTreeSet::new();
        for name in list.items().map(|one| one.get("name")) {
            if !seen.insert(name.text()) {
                errors.push(Error::duplicate(name.path(), name.text()));
            }
            name.check_format(errors, shape);
        }
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    check(new, Some(old), errors);
    At::field(new, "addressType").check_unchanged(&At::field(old, "addressType"), errors);
}

const HOST: &str = "kubernetes.io/hostname";

/// Topology is told by fields of their own now. A node's name that an old client told as a label stays known.
fn settle_topology(slice: &mut Object, old: Option<&Object>) {
    let node = |endpoint: &Value| {
        let name = endpoint.get("deprecatedTopology")?.get(HOST)?.as_str()?;
        Some(name.to_owned()).filter(|name| !name.is_empty())
    };
    let known: BTreeSet<String> =
        old.into_iter().flat_map(|old| items(old.get("endpoints")).filter_map(node)).collect();
    for endpoint in fill::members(slice.as_map_mut(), "endpoints") {
        let topology = endpoint.remove("deprecatedTopology");
        let host = topology.as_ref().and_then(|labels| labels.get(HOST)).and_then(Value::as_str);
        if let Some(host) = host
            && !fill::is_set(endpoint, "nodeName")
            && known.contains(host)
            && format::dns_subdomain(host).is_empty()
        {
            endpoint.insert("nodeName".to_owned(), host.into());
        }
    }
}

fn create(slice: &mut Object, _ctx: &StrategyContext<'_>) {
    slice.metadata_mut().insert("generation".to_owned(), 1.into());
    settle_topology(slice, None);
}

/// Labels count as much as what the slice holds.
fn change(new: &mut Object, old: &Object, _ctx: &StrategyContext<'_>) {
    let differs = |field: &str| !semantic::same(At::field(old, field).value(), At::field(new, field).value());
    let labels = |object: &Object| object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let endpoints = differs("endpoints");
    let changed = endpoints
        || ["addressType", "ports"].iter().any(|field| differs(field))
        || !semantic::same(&labels(old), &labels(new));
    if changed {
        new.metadata_mut().insert("generation".to_owned(), (old.generation() + 1).into());
    }
    if endpoints {
        settle_topology(new, Some(old));
    }
}

fn warnings(slice: &Object, old: Option<&Object>) -> Vec<String> {
    const OWN: &[&str] = &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let mut warnings = Vec::new();
    if old.is_none() && At::field(slice, "addressType").text() == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let manager =
        slice.meta_pairs("labels").find(|(key, _)| *key == "endpointslice.kubernetes.io/managed-by");
    if manager.is_some_and(|(_, name)| OWN.contains(&name)) {
        return warnings;
    }
    let addresses =
        At::field(slice, "endpoints").items().flat_map(|endpoint| endpoint.get("addresses").items());
    warnings.extend(addresses.filter_map(|address| warnings_of_ip(address.path(), address.text())));
    warnings
}
