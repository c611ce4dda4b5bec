//! `endpointslices` of discovery.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill, items, short_list},
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
        group: "discovery.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "endpointslices",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
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
