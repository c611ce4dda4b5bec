//! `ingressclasses` of networking.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format},
    },
    validate,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Controller", "string"),
    column("Parameters", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::With(name), Cell::Field("/spec/controller", ""), Cell::With(parameters), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_new: validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "IngressClass", "ingressclasses", "ingressclass")
    }
}

/// Parameters are of the cluster.
fn default(obj: &mut Object) {
    if let Some(parameters) = fill::spec(obj).and_then(|s| fill::child(s, "parameters")) {
        fill::absent(parameters, "scope", "Cluster");
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let controller = At::spec(obj).get("controller");
    controller.check_length(errors, 250);
    check_controller(&controller, errors);
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
    if !scope.check_there(errors) {
        return;
    }
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

/// A controller has a path below a domain.
fn check_controller(controller: &At<'_>, errors: &mut ErrorList) {
    if !controller.check_required(errors) {
        return;
    }
    for (part, why) in validate::domain_prefixed_path(controller.text()) {
        controller.invalid_as(errors, part, why);
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::spec(new).get("controller").check_unchanged(&At::spec(old).get("controller"), errors);
    validate(new, errors);
}

/// The name, and whether ingresses without a class are of this one.
fn name(class: &Object) -> Value {
    let default = class.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true");
    format!("{}{}", class.name(), if default { " (default)" } else { "" }).into()
}

/// What the class is configured by.
fn parameters(class: &Object) -> Value {
    let parameters = At::spec(class).get("parameters");
    if !parameters.is_set() {
        return "<none>".into();
    }
    let group = if parameters.has("apiGroup") { "." } else { "" };
    let (kind, name) = (parameters.text_of("kind"), parameters.text_of("name"));
    format!("{kind}{group}{}/{name}", parameters.text_of("apiGroup")).into()
}
