//! `endpointslices` of discovery.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, STANDARD_VERBS, column, items, short_list},
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
        strategy: Arc::new(Plain { status: false, generation: true, cells: CELLS }),
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
