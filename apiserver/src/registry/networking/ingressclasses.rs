//! `ingressclasses` of networking.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format},
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
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "IngressClass", "ingressclasses", "ingressclass")
    }
}

/// Parameters are of the cluster.
fn default(obj: &mut Object) {
    if let Some(parameters) = fill::spec(obj).and_then(|s| fill::child(s, "parameters")) {
        fill::missing(parameters, "scope", "Cluster");
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    At::spec(obj).get("controller").check_length(errors, 250);
    let parameters = At::spec(obj).get("parameters");
    if !parameters.is_set() {
        return;
    }
    let group = parameters.get("apiGroup");
    if group.is_set() {
        group.check_format(errors, format::dns_subdomain);
    }
    parameters.get("kind").check_path_name(errors);
    parameters.get("name").check_path_name(errors);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => {
            namespace.required(errors, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => namespace.check_format(errors, format::dns_label),
        "Cluster" if namespace.is_set() => {
            namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        _ => scope.not_supported(errors, &["Cluster", "Namespace"]),
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::spec(new).get("controller").check_unchanged(&At::spec(old).get("controller"), errors);
}
