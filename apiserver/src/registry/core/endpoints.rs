//! `endpoints`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, STANDARD_VERBS, column, items, short_list, text},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Endpoints", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(addresses), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "services/endpoints",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}

/// Ready addresses with their ports, at most three.
fn addresses(obj: &Object) -> Value {
    let mut out: Vec<String> = Vec::new();
    for subset in items(obj.get("subsets")) {
        for address in items(subset.get("addresses")) {
            for port in items(subset.get("ports")) {
                out.push(format!(
                    "{}:{}",
                    text(address, "/ip"),
                    port.get("port").cloned().unwrap_or_default()
                ));
            }
        }
    }
    short_list(&out)
}
