//! `ingressclasses` of networking.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Controller", "string"),
    column("Parameters", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/controller", ""),
    Cell::Field("/spec/parameters/name", "<none>"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "networking.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "ingressclasses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// Parameters are of the cluster.
fn default(obj: &mut Object) {
    if let Some(parameters) = fill::spec(obj).and_then(|s| fill::child(s, "parameters")) {
        fill::missing(parameters, "scope", "Cluster");
    }
}
