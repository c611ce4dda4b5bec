//! `namespaces`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, Subresource,
        kit::{Cell, Plain, at::At, column, fill, format, keep},
    },
    status::Status,
    validate,
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Status", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/status/phase", ""), Cell::Age];
const PLAIN: Plain = Plain { status: true, generation: false, cells: CELLS };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ns"],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource::View("finalize"), Subresource::Status],
        selectable: const { &[SelectableField::at("status.phase", "/status/phase")] },
        columns: COLUMNS,
        strategy: Arc::new(Namespaces),
        ..Resource::of("", "Namespace", "namespaces", "namespace")
    }
}

const KUBERNETES: &str = "kubernetes";

/// Gone only when their content is (`spec.finalizers`).
struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        let name = obj.name().to_owned();
        if !name.is_empty() {
            let labels = obj.metadata_mut().entry("labels").or_insert_with(|| json!({}));
            if let Value::Object(labels) = labels {
                labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
            }
        }
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, _ctx: &StrategyContext<'_>) -> Result<(), Status> {
        obj.set("status", json!({"phase": "Active"}));
        if let Some(spec) = fill::spec(obj) {
            fill::missing(spec, "finalizers", json!([]));
            if let Some(Value::Array(finalizers)) = spec.get_mut("finalizers")
                && !finalizers.iter().any(|one| one == KUBERNETES)
            {
                finalizers.push(KUBERNETES.into());
            }
        }
        Ok(())
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        // Only `finalize` changes the finalizers, only `status` the phase.
        let kept: &[&str] = match ctx.subresource {
            "status" => &["spec"],
            "finalize" => &["status"],
            _ => &["spec", "status"],
        };
        keep(new, old, kept);
        Ok(())
    }

    fn validate_create(&self, obj: &Object, _ctx: &StrategyContext<'_>) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        let finalizers = At::spec(obj).get("finalizers");
        finalizers
            .items()
            .for_each(|one| check_finalizer(&one.named(finalizers.path().clone()), &mut errors));
        Ok(errors)
    }

    fn validate_update(
        &self,
        new: &Object,
        _old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        match ctx.subresource {
            "status" => check_phase(new, &mut errors),
            "finalize" => {
                let finalizers = At::spec(new).get("finalizers");
                finalizers.items().for_each(|one| check_finalizer(&one, &mut errors));
            }
            _ => errors.extend(self.validate_create(new, ctx)?),
        }
        Ok(errors)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_label(name, prefix)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        PLAIN.row(obj, now)
    }
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
