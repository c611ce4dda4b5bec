//! `customresourcedefinitions` of apiextensions.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Created At", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/metadata/creationTimestamp", "")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "apiextensions.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "apiextensions.k8s.io/customresourcedefinitions",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
    }
}

/// Names derived from the kind, no conversion, and the version objects are stored in.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if let Some(names) = fill::made(spec, "names") {
        let kind = fill::string(names, "kind").to_owned();
        if !kind.is_empty() {
            fill::missing(names, "singular", kind.to_lowercase());
            fill::missing(names, "listKind", format!("{kind}List"));
        }
    }
    if let Some(conversion) = fill::made(spec, "conversion") {
        fill::missing(conversion, "strategy", "None");
        let client = fill::child(conversion, "webhook").and_then(|w| fill::child(w, "clientConfig"));
        if let Some(service) = client.and_then(|c| fill::child(c, "service")) {
            fill::missing(service, "port", 443);
        }
    }
}
