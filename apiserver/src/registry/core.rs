//! The core group's resources that need nothing but the generic engine and their own phase.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Column, Resource, SelectableField, Strategy, StrategyContext, Subresource};
use crate::{object::Object, status::Status, table, validate};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Column = Column { name: "Age", kind: "date", format: "", priority: 0 };

/// `namespaces`: gone only when their content is (`spec.finalizers`).
pub fn namespaces() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource::Status, Subresource::View("finalize")],
        storage_prefix: "namespaces",
        selectable: &[SelectableField { name: "status.phase", pointer: "/status/phase", default: "" }],
        columns: &[NAME, Column { name: "Status", kind: "string", format: "", priority: 0 }, AGE],
        strategy: Arc::new(Namespaces),
    }
}

/// `configmaps`.
pub fn configmaps() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        verbs: VERBS,
        subresources: &[],
        storage_prefix: "configmaps",
        selectable: &[],
        columns: &[NAME, Column { name: "Data", kind: "integer", format: "", priority: 0 }, AGE],
        strategy: Arc::new(ConfigMaps),
    }
}

struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        let name = obj.name().to_owned();
        if name.is_empty() {
            return Ok(());
        }
        let labels = obj.metadata_mut().entry("labels").or_insert_with(|| json!({}));
        if let Value::Object(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
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
        let kept: &[&str] = match ctx.subresource {
            "status" => &["spec"],
            "finalize" => &["status"],
            _ => &["spec", "status"],
        };
        for field in kept {
            match old.get(field) {
                Some(value) => new.set(field, value.clone()),
                None => drop(new.remove(field)),
            }
        }
        Ok(())
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_label(name, prefix)
    }

    fn row(&self, obj: &Object, now: jiff::Timestamp) -> Vec<Value> {
        let phase = obj.pointer("/status/phase").cloned().unwrap_or_default();
        vec![obj.name().into(), phase, table::age(obj, now).into()]
    }
}

struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn row(&self, obj: &Object, now: jiff::Timestamp) -> Vec<Value> {
        let count = |field: &str| obj.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
        vec![obj.name().into(), (count("data") + count("binaryData")).into(), table::age(obj, now).into()]
    }
}
