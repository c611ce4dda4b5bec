//! `networkpolicies` of networking.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Pod-Selector", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Pairs("/spec/podSelector/matchLabels"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "networking.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "networkpolicies",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// A policy is about what comes in, and about what goes out if it has rules for that.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if fill::none(spec, "policyTypes") {
        let types: &[&str] = if fill::none(spec, "egress") { &["Ingress"] } else { &["Ingress", "Egress"] };
        spec.insert("policyTypes".to_owned(), types.into());
    }
    for rules in ["ingress", "egress"] {
        for rule in fill::members(spec, rules) {
            fill::members(rule, "ports").for_each(|port| fill::missing(port, "protocol", "TCP"));
        }
    }
}
