//! `namespaces`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, SelectableField, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format, keep},
    },
    validate::dns_label,
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Status", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/status/phase", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ns"],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource::View("finalize"), Subresource::Status],
        selectable: const { &[SelectableField::at("status.phase", "/status/phase")] },
        columns: COLUMNS,
        // A namespace is gone only when its content is (`spec.finalizers`).
        strategy: Arc::new(Rules {
            name: dns_label,
            default,
            create,
            change,
            validate,
            validate_views: &[("finalize", validate_finalize)],
            validate_status: |new, _, errors| check_phase(new, errors),
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("", "Namespace", "namespaces", "namespace")
    }
}

const KUBERNETES: &str = "kubernetes";

/// The name is a label, too.
fn default(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    if !name.is_empty() {
        let labels = namespace.metadata_mut().entry("labels").or_insert_with(|| json!({}));
        if let Value::Object(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
        }
    }
    if let Some(status) = fill::made(namespace.as_map_mut(), "status") {
        fill::missing(status, "phase", "Active");
    }
}

fn create(namespace: &mut Object, _ctx: &StrategyContext<'_>) {
    namespace.set("status", json!({"phase": "Active"}));
    if let Some(spec) = fill::spec(namespace) {
        fill::missing(spec, "finalizers", json!([]));
        if let Some(Value::Array(finalizers)) = spec.get_mut("finalizers")
            && !finalizers.iter().any(|one| one == KUBERNETES)
        {
            finalizers.push(KUBERNETES.into());
        }
    }
}

/// Only `finalize` changes the finalizers, only `status` the phase.
fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    let kept: &[&str] = match ctx.subresource {
        "status" => &["spec"],
        "finalize" => &["status"],
        _ => &["spec", "status"],
    };
    keep(new, old, kept);
}

fn validate(namespace: &Object, errors: &mut ErrorList) {
    let finalizers = At::spec(namespace).get("finalizers");
    finalizers.items().for_each(|one| check_finalizer(&one.named(finalizers.path().clone()), errors));
}

fn validate_finalize(new: &Object, _old: &Object, errors: &mut ErrorList) {
    At::spec(new).get("finalizers").items().for_each(|one| check_finalizer(&one, errors));
}

/// The name of a finalizer: one of the standard ones or one of a domain.
fn check_finalizer(finalizer: &At<'_>, errors: &mut ErrorList) {
    const STANDARD: &[&str] = &[KUBERNETES, "orphan", "foregroundDeletion"];
    finalizer.check_format(errors, format::qualified_name);
    if !finalizer.text().contains('/') && !STANDARD.contains(&finalizer.text()) {
        finalizer.invalid(errors, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// The phase tells whether the namespace is being deleted, and nothing else.
fn check_phase(namespace: &Object, errors: &mut ErrorList) {
    let (phase, when) = match namespace.is_terminating() {
        false => ("Active", "empty"),
        true => ("Terminating", "not empty"),
    };
    let found = At::status(namespace).text_of("phase");
    if found != phase {
        let detail = format!("may only be '{phase}' if `deletionTimestamp` is {when}");
        errors.push(Error::invalid(&Path::new("status").child("Phase"), found, detail));
    }
}
