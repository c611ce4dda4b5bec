//! `customresourcedefinitions` of apiextensions.k8s.io.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::validation;
use crate::{
    apiextensions::{
        conditions::{self, Condition},
        definition::CLEANUP,
    },
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Strategy, StrategyContext, Subresource,
        kit::{Cell, Plain, column, fill},
    },
    status::Status,
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Created At", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/metadata/creationTimestamp", "")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        storage_prefix: "apiextensions.k8s.io/customresourcedefinitions",
        columns: COLUMNS,
        strategy: Arc::new(Definitions),
        ..Resource::of(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
    }
}

/// What a definition does on writes.
struct Definitions;

const PLAIN: Plain = Plain { status: true, generation: true, cells: CELLS };

impl Strategy for Definitions {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        default(obj);
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        PLAIN.prepare_create(obj, ctx)?;
        let stored: Vec<String> = storage_version(obj).into_iter().collect();
        obj.set(
            "status",
            json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
        );
        Ok(())
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        PLAIN.prepare_update(new, old, ctx)?;
        if ctx.subresource.is_empty()
            && let Some(version) = storage_version(new)
            && let Some(status) =
                new.as_map_mut().entry("status").or_insert_with(|| json!({})).as_object_mut()
        {
            let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
            if let Some(stored) = stored.as_array_mut()
                && !stored.iter().any(|v| v.as_str() == Some(version.as_str()))
            {
                stored.push(version.into());
            }
        }
        Ok(())
    }

    fn validate_create(&self, obj: &Object, _ctx: &StrategyContext<'_>) -> Result<ErrorList, Status> {
        Ok(validation::create(obj))
    }

    fn validate_update(
        &self,
        new: &Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<ErrorList, Status> {
        Ok(match ctx.subresource {
            "status" => validation::update_status(new),
            _ => validation::update(new, old),
        })
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        validation::warnings(new, old)
    }

    fn prepare_delete(&self, obj: &mut Object, now: Timestamp) {
        let mut finalizers: Vec<String> = obj.finalizers().into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|f| f == CLEANUP) {
            finalizers.push(CLEANUP.to_owned());
            obj.set_finalizers(&finalizers.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let pending = Condition {
            kind: "Terminating",
            status: "True",
            reason: "InstanceDeletionPending",
            message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        };
        conditions::set(obj, pending, now);
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        PLAIN.row(obj, now)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The version objects are to be stored in.
fn storage_version(definition: &Object) -> Option<String> {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let storage = versions.into_iter().flatten().find(|v| v["storage"] == true)?;
    storage["name"].as_str().map(str::to_owned)
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
