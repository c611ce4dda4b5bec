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
    object::Object,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, column, fill},
    },
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
        strategy: Arc::new(Rules {
            default,
            create,
            settle,
            delete,
            validate_new: |definition, errors| errors.extend(validation::create(definition)),
            validate_change: |new, old, errors| errors.extend(validation::update(new, old)),
            validate_status: |new, _, errors| errors.extend(validation::update_status(new)),
            warnings: validation::warnings,
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
    }
}

fn create(definition: &mut Object, _ctx: &StrategyContext<'_>) {
    let stored: Vec<String> = storage_version(definition).into_iter().collect();
    definition.set(
        "status",
        json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
    );
}

/// Objects may be stored in the version the definition names now, beside those it named before.
fn settle(new: &mut Object, _old: &Object, ctx: &StrategyContext<'_>) {
    if ctx.subresource.is_empty()
        && let Some(version) = storage_version(new)
        && let Some(status) = new.as_map_mut().entry("status").or_insert_with(|| json!({})).as_object_mut()
    {
        let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(stored) = stored.as_array_mut()
            && !stored.iter().any(|v| v.as_str() == Some(version.as_str()))
        {
            stored.push(version.into());
        }
    }
}

/// The definition goes when its objects have gone.
fn delete(definition: &mut Object, now: Timestamp) {
    let mut finalizers: Vec<String> = definition.finalizers().into_iter().map(str::to_owned).collect();
    if !finalizers.iter().any(|f| f == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
        definition.set_finalizers(&finalizers.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let pending = Condition {
        kind: "Terminating",
        status: "True",
        reason: "InstanceDeletionPending",
        message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    };
    conditions::set(definition, pending, now);
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
