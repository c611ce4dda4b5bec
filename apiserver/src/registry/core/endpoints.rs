//! `endpoints`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format, items, short_list, text},
        pod_spec::warnings_of_ip,
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Endpoints", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(addresses), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ep"],
        storage_prefix: "services/endpoints",
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_new: |endpoints, errors| check(&At::field(endpoints, "subsets"), errors),
            validate_change,
            create_on_update: true,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("", "Endpoints", "endpoints", "endpoints")
    }
}

/// Ready addresses with their ports, at most three.
fn addresses(obj: &Object) -> Value {
    let mut all: Vec<String> = Vec::new();
    for subset in items(obj.get("subsets")) {
        let ips: Vec<&str> = items(subset.get("addresses")).map(|address| text(address, "/ip")).collect();
        let ports: Vec<i64> = items(subset.get("ports"))
            .map(|port| port.get("port").and_then(Value::as_i64).unwrap_or(0))
            .collect();
        if ports.is_empty() {
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in ports {
            all.extend(ips.iter().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    match items(obj.get("subsets")).next() {
        Some(_) if all.is_empty() => "".into(),
        _ => short_list(&all),
    }
}

/// Ports are TCP's.
fn default(endpoints: &mut Object) {
    for subset in fill::members(endpoints.as_map_mut(), "subsets") {
        fill::members(subset, "ports").for_each(|port| fill::missing(port, "protocol", "TCP"));
    }
}

fn check(subsets: &At<'_>, errors: &mut ErrorList) {
    for subset in subsets.items() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.get(list));
        if lists.iter().all(At::is_empty) {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in lists.iter().flat_map(At::items) {
            let ip = address.get("ip");
            ip.check_format(errors, format::legacy_ip);
            address.get("hostname").check_option_format(errors, format::dns_label);
            if address.has("nodeName") {
                address.get("nodeName").check_format(errors, format::dns_subdomain);
            }
            ip.check_format(errors, format::endpoint_ip);
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            let name = port.get("name");
            if ports.len() > 1 {
                name.check_required(errors);
            }
            name.check_option_format(errors, format::dns_label);
            port.get("port").check_port(errors);
            port.get("protocol").check_one_of(errors, &["SCTP", "TCP", "UDP"]);
            if port.has("appProtocol") {
                port.get("appProtocol").check_format(errors, format::qualified_name);
            }
        }
    }
}

/// What was taken once stays good as long as it stays.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let subsets = At::field(new, "subsets");
    if subsets.value() != At::field(old, "subsets").value() {
        check(&subsets, errors);
    }
}

fn warnings(endpoints: &Object, _old: Option<&Object>) -> Vec<String> {
    let subsets = At::field(endpoints, "subsets");
    let mut warnings = Vec::new();
    for subset in subsets.items() {
        for list in ["addresses", "notReadyAddresses"].map(|list| subset.get(list)) {
            let ips = list.items().map(|address| address.get("ip"));
            warnings.extend(ips.filter_map(|ip| warnings_of_ip(ip.path(), ip.text())));
        }
    }
    warnings
}
