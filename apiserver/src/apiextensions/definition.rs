//! What a CustomResourceDefinition defines, read from the stored object.

use std::sync::Arc;

use serde_json::Value;

use super::{conditions, jsonpath::JsonPath, rules::Rules, schema::Schema};
use crate::object::Object;

/// Finalizer of definitions that are being deleted: their objects go first.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition as it is served.
#[derive(Clone, Debug)]
pub struct Definition {
    /// API group.
    pub group: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The names it got.
    pub names: Names,
    /// All versions in the order of the definition.
    pub versions: Vec<Version>,
    /// The version objects are stored in.
    pub storage: String,
    /// Versions that stored objects may have.
    pub stored: Vec<String>,
    /// How versions become each other.
    pub conversion: Conversion,
    /// Whether it is being deleted: nothing may be created any more.
    pub terminating: bool,
}

/// `status.acceptedNames`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Used in paths.
    pub plural: String,
    /// For one object.
    pub singular: String,
    /// CamelCase.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, for example `all`.
    pub categories: Vec<String>,
}

/// One version.
#[derive(Clone, Debug)]
pub struct Version {
    /// For example `v1`.
    pub name: String,
    /// Whether it is served.
    pub served: bool,
    /// The warning of every request, if the version is deprecated.
    pub deprecation: Option<String>,
    /// What its objects are like.
    pub schema: Schema,
    /// Rules of the schema; `None` when it has none.
    pub rules: Option<Arc<Rules>>,
    /// The same as it was sent, with its descriptions.
    pub document: Value,
    /// Whether the status is written apart.
    pub status: bool,
    /// Where the numbers of replicas are.
    pub scale: Option<Scale>,
    /// Printer columns beside the name.
    pub columns: Vec<Column>,
    /// Fields a selector may name.
    pub selectable: Vec<String>,
}

/// `subresources.scale`: JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `/spec/replicas`.
    pub spec: String,
    /// `/status/replicas`.
    pub status: String,
    /// `/status/selector`; empty when there is none.
    pub selector: String,
}

/// `additionalPrinterColumns`.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// Of the OpenAPI types.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0 = always shown.
    pub priority: i64,
    /// Where the cell is; `None` when the path is none.
    pub path: Option<JsonPath>,
}

/// `spec.conversion`.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only the apiVersion changes.
    None,
    /// A webhook does it: `spec.conversion.webhook`.
    Webhook(Value),
}

// === impl Definition ===

impl Definition {
    /// Reads a definition.
    pub fn read(object: &Object) -> Self {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let versions: Vec<&Value> = items(object.pointer("/spec/versions")).collect();
        let (group, kind) = (text("/spec/group"), text("/spec/names/kind"));
        let preserve =
            object.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool).unwrap_or(false);
        let storage = versions.iter().find(|v| v["storage"] == true);
        Self {
            namespaced: text("/spec/scope") == "Namespaced",
            names: Names::read(object.pointer("/status/acceptedNames").unwrap_or(&Value::Null)),
            storage: storage.and_then(|v| v["name"].as_str()).unwrap_or_default().to_owned(),
            versions: versions.iter().map(|v| Version::read(v, &group, &kind, preserve)).collect(),
            stored: texts(object.pointer("/status/storedVersions")),
            conversion: match object.pointer("/spec/conversion") {
                Some(c) if c["strategy"] == "Webhook" => Conversion::Webhook(c["webhook"].clone()),
                _ => Conversion::None,
            },
            terminating: conditions::is_true(object, "Terminating"),
            group,
        }
    }

    /// A version by name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }

    /// Whether everything stored has the storage version.
    pub fn is_settled(&self) -> bool {
        self.stored.iter().all(|version| *version == self.storage)
    }
}

/// Whether objects of a definition are served: it has its names, or had them once.
pub fn is_served(object: &Object) -> bool {
    conditions::is_true(object, "NamesAccepted") || conditions::is_true(object, "Established")
}

impl Names {
    /// Reads `spec.names` or `status.acceptedNames`.
    pub fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            plural: text("plural"),
            singular: text("singular"),
            kind: text("kind"),
            list_kind: text("listKind"),
            short_names: texts(value.get("shortNames")),
            categories: texts(value.get("categories")),
        }
    }

    /// As it stands in the status.
    pub fn write(&self) -> Value {
        let mut out = serde_json::json!({"plural": self.plural, "kind": self.kind});
        for (name, text) in [("singular", &self.singular), ("listKind", &self.list_kind)] {
            if !text.is_empty() {
                out[name] = text.as_str().into();
            }
        }
        for (name, list) in [("shortNames", &self.short_names), ("categories", &self.categories)] {
            if !list.is_empty() {
                out[name] = list.clone().into();
            }
        }
        out
    }
}

impl Version {
    fn read(value: &Value, group: &str, kind: &str, preserve: bool) -> Self {
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let document = &value["schema"]["openAPIV3Schema"];
        let mut schema = Schema::read(document).as_root();
        schema.preserve_unknown |= preserve || document.is_null();
        let deprecated = value["deprecated"] == true;
        let warning = value["deprecationWarning"].as_str().map(str::to_owned);
        let default = || format!("{group}/{name} {kind} is deprecated");
        Self {
            served: value["served"] == true,
            deprecation: deprecated.then(|| warning.unwrap_or_else(default)),
            schema,
            rules: Rules::compile(document).map(Arc::new),
            document: document.clone(),
            status: value["subresources"].get("status").is_some_and(Value::is_object),
            scale: value["subresources"].get("scale").filter(|s| s.is_object()).map(Scale::read),
            columns: items(value.get("additionalPrinterColumns")).map(Column::read).collect(),
            selectable: items(value.get("selectableFields"))
                .filter_map(|f| f["jsonPath"].as_str())
                .map(|path| path.trim_start_matches('.').to_owned())
                .collect(),
            name,
        }
    }
}

impl Scale {
    fn read(value: &Value) -> Self {
        let pointer_at = |name: &str| value[name].as_str().map(pointer).unwrap_or_default();
        Self {
            spec: pointer_at("specReplicasPath"),
            status: pointer_at("statusReplicasPath"),
            selector: pointer_at("labelSelectorPath"),
        }
    }
}

impl Column {
    fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description: text("description"),
            priority: value["priority"].as_i64().unwrap_or(0),
            path: JsonPath::parse(&text("jsonPath")).ok(),
        }
    }
}

/// The JSON pointer of a path of fields: `.spec.replicas`.
pub fn pointer(path: &str) -> String {
    path.trim_start_matches('.').split('.').map(|part| format!("/{part}")).collect()
}

fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    items(value).filter_map(Value::as_str).map(str::to_owned).collect()
}
