//! `namespaces`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, Subresource,
        kit::{Cell, Plain, column, keep},
    },
    status::Status,
    validate,
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Status", "string"), column("Age", "date")];
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
        obj.set("spec", json!({"finalizers": ["kubernetes"]}));
        obj.set("status", json!({"phase": "Active"}));
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

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_label(name, prefix)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        PLAIN.row(obj, now)
    }
}
