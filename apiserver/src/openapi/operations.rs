//! Operations of resources: which paths and methods there are, what they take and answer.

use std::collections::BTreeSet;

use component_base::features::{Gate, Gates};
use proto::{
    cbor,
    table::{self, TypeId},
};
use serde_json::{Map, Value, json};

use super::{Dialect, GroupVersion, custom, schemas};
use crate::registry::{self, Resource, Subresource, catalog::Catalog};

/// What is served and taken; the last only under its gate.
const MEDIA: [&str; 4] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", cbor::CONTENT_TYPE];
const PATCHES: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    cbor::APPLY_TYPE,
];
/// Custom objects have no protobuf and no strategic merge; of CBOR upstream says nothing there.
const CUSTOM_MEDIA: [&str; 2] = ["application/json", "application/yaml"];
const CUSTOM_PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: [&str; 4] = ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST: [&str; 11] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
];

/// A verb on an object: its method, its action, how its operation's name begins.
const VERBS: [(&str, &str, &str, &str); 7] = [
    ("list", "get", "list", "list"),
    ("create", "post", "post", "create"),
    ("deletecollection", "delete", "deletecollection", "delete"),
    ("get", "get", "get", "read"),
    ("update", "put", "put", "replace"),
    ("patch", "patch", "patch", "patch"),
    ("delete", "delete", "delete", "delete"),
];

type GroupVersionKind<'a> = (&'a str, &'a str, &'a str);

/// What operations there are, and what they refer to.
#[derive(Default)]
pub(super) struct Found {
    /// Operations by path and method.
    pub(super) paths: Map<String, Value>,
    /// Types of the table.
    pub(super) types: BTreeSet<TypeId>,
    /// Schemas of custom kinds, by definition name.
    pub(super) custom: Map<String, Value>,
}

struct Writer<'a> {
    dialect: Dialect,
    /// The server speaks CBOR.
    cbor: bool,
    gv: &'a GroupVersion,
    /// `AppsV1`.
    api: String,
    found: &'a mut Found,
}

/// Adds the paths of one group-version, and the types they refer to.
pub(super) fn describe(
    catalog: &Catalog,
    (dialect, gates): (Dialect, Gates),
    gv: &GroupVersion,
    found: &mut Found,
) {
    let group = if gv.group.is_empty() { "core" } else { gv.group.trim_end_matches(".k8s.io") };
    let api = group.split('.').chain([gv.version]).map(capital).collect();
    let mut writer = Writer { dialect, cbor: gates.has(Gate::CBORServingAndStorage), gv, api, found };
    for resource in catalog.iter().filter(|r| r.group == gv.group && r.versions.contains(&gv.version)) {
        writer.resource(resource);
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

impl Writer<'_> {
    fn resource(&mut self, r: &Resource) {
        if let Some(kind) = r.strategy.custom() {
            self.found.custom.extend(custom::describe(self.dialect, r, kind));
            for short in ["meta.v1.ObjectMeta", "meta.v1.ListMeta"] {
                self.named(short);
            }
        }
        let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
        let prefix = format!("/{}", self.gv.path());
        let base = format!("{prefix}{scope}/{}", r.plural);
        let kind = (r.group, self.gv.version, r.kind);
        for (verb, ..) in VERBS.iter().filter(|v| r.verbs.contains(&v.0)) {
            let collection = matches!(*verb, "list" | "create" | "deletecollection");
            let path = if collection { base.clone() } else { format!("{base}/{{name}}") };
            self.operation(&path, verb, r, "", kind);
        }
        if r.namespaced && r.verbs.contains(&"list") {
            self.operation(&format!("{prefix}/{}", r.plural), "list", r, "", kind);
        }
        for sub in r.subresources {
            self.subresource(&format!("{base}/{{name}}"), r, *sub, kind);
        }
    }

    fn subresource(&mut self, item: &str, r: &Resource, sub: Subresource, own: GroupVersionKind<'_>) {
        let (name, kind, verbs): (_, _, &[&str]) = match sub {
            Subresource::Status => ("status", own, &["get", "patch", "update"]),
            Subresource::View(name) => (name, own, registry::view_verbs(name)),
            Subresource::Scale { .. } => {
                ("scale", ("autoscaling", "v1", "Scale"), &["get", "patch", "update"])
            }
            Subresource::Action { name, kind: ("", "", kind), verbs } => (name, (own.0, own.1, kind), verbs),
            Subresource::Action { name, kind, verbs } => (name, kind, verbs),
        };
        let path = format!("{item}/{name}");
        for verb in verbs {
            // Kinds of options are those of connections.
            if kind.2.ends_with("Options") {
                self.connect(&path, verb, r, name, kind);
                if name == "proxy" {
                    self.connect(&format!("{path}/{{path}}"), verb, r, name, kind);
                }
            } else {
                self.operation(&path, verb, r, name, kind);
            }
        }
    }

    fn connect(&mut self, path: &str, verb: &str, r: &Resource, sub: &str, kind: GroupVersionKind<'_>) {
        let Some((_, method, ..)) = VERBS.iter().find(|v| v.0 == verb) else { return };
        let scope = if r.namespaced { "Namespaced" } else { "" };
        let end = if path.ends_with("{path}") { "WithPath" } else { "" };
        let (method_name, sub) = (capital(method), capital(sub));
        let id = format!("connect{}{method_name}{scope}{}{sub}{end}", self.api, r.kind);
        let mut operation = self.frame("connect", id, format!("connect to {sub} of {}", r.kind), kind);
        operation["responses"] = match self.dialect {
            Dialect::V2 => json!({"200": {"description": "OK", "schema": {"type": "string"}}}),
            Dialect::V3 => json!({"200": {"description": "OK",
                "content": {"*/*": {"schema": {"type": "string"}}}}}),
        };
        self.put(path, method, operation);
    }

    fn operation(&mut self, path: &str, verb: &str, r: &Resource, sub: &str, kind: GroupVersionKind<'_>) {
        let Some((_, method, action, word)) = VERBS.iter().find(|v| v.0 == verb) else { return };
        let everywhere = r.namespaced && !path.contains("{namespace}");
        let scope = if r.namespaced && !everywhere { "Namespaced" } else { "" };
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        let end = if everywhere { "ForAllNamespaces".to_owned() } else { capital(sub) };
        let id = format!("{word}{}{collection}{scope}{}{end}", self.api, r.kind);
        let mut operation = self.frame(action, id, format!("{verb} {}", r.kind), kind);
        let (names, body): (&[&str], _) = match verb {
            "list" => (&LIST, None),
            "create" | "update" => (&WRITE, self.schema_of(kind)),
            "patch" => (&PATCH, self.named("meta.v1.Patch")),
            "delete" => (&DELETE, self.named("meta.v1.DeleteOptions")),
            "deletecollection" => (&DELETE, self.named("meta.v1.DeleteOptions")),
            _ => (&[], None),
        };
        let mut parameters: Vec<Value> = names.iter().map(|n| parameter(self.dialect, "query", n)).collect();
        if verb == "deletecollection" {
            let more = LIST.iter().filter(|n| !matches!(**n, "allowWatchBookmarks" | "watch"));
            parameters.extend(more.map(|n| parameter(self.dialect, "query", n)));
        }
        let is_custom = r.strategy.custom().is_some();
        let media = if is_custom { &CUSTOM_MEDIA[..] } else { self.spoken(&MEDIA) };
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(media);
        }
        if let Some(schema) = body {
            let media: &[&str] = match (verb, is_custom) {
                ("patch", false) => self.spoken(&PATCHES),
                ("patch", true) => &CUSTOM_PATCHES,
                _ => media,
            };
            let required = matches!(verb, "create" | "update" | "patch");
            self.body(&mut operation, &mut parameters, schema, media, required);
        }
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        let list = match r.strategy.custom() {
            Some(custom) => custom.list_kind().to_owned(),
            None => format!("{}List", kind.2),
        };
        let kind = if verb == "list" { (kind.0, kind.1, list.as_str()) } else { kind };
        operation["responses"] = self.responses(verb, kind, media);
        self.put(path, method, operation);
    }

    fn frame(&self, action: &str, id: String, summary: String, kind: GroupVersionKind<'_>) -> Value {
        let tag = if self.gv.group.is_empty() { "core" } else { self.gv.group.trim_end_matches(".k8s.io") };
        json!({"operationId": id, "description": summary,
            "tags": [format!("{}_{}", tag.replace('.', "_"), self.gv.version)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": schemas::group_version_kind(kind.0, kind.1, kind.2)})
    }

    fn body(
        &self,
        operation: &mut Value,
        parameters: &mut Vec<Value>,
        schema: Value,
        media: &[&str],
        required: bool,
    ) {
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(media);
                parameters
                    .push(json!({"in": "body", "name": "body", "required": required, "schema": schema}));
            }
            Dialect::V3 => {
                operation["requestBody"] = json!({"content": content(media, &schema), "required": required});
            }
        }
    }

    fn responses(&mut self, verb: &str, kind: GroupVersionKind<'_>, media: &[&str]) -> Value {
        let codes: &[(&str, &str)] = match verb {
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let schema = match verb {
            "delete" | "deletecollection" => self.named("meta.v1.Status"),
            _ => self.schema_of(kind),
        };
        let schema = schema.unwrap_or_else(|| json!({"type": "object"}));
        let mut out = json!({"401": {"description": "Unauthorized"}});
        for (code, text) in codes {
            out[*code] = match self.dialect {
                Dialect::V2 => json!({"description": text, "schema": schema}),
                Dialect::V3 => json!({"description": text, "content": content(media, &schema)}),
            };
        }
        out
    }

    /// Media types without the last, CBOR, where the server does not speak it.
    fn spoken<'m>(&self, all: &'m [&'m str]) -> &'m [&'m str] {
        &all[..all.len() - usize::from(!self.cbor)]
    }

    /// A reference to a kind, noted as needed; none for kinds that nothing describes.
    fn schema_of(&mut self, (group, version, kind): GroupVersionKind<'_>) -> Option<Value> {
        let table = table::builtin();
        if let Some(id) = table.by_kind(group, version, kind) {
            self.found.types.insert(id);
            return Some(schemas::reference(self.dialect, table.get(id).name));
        }
        let name = custom::definition_name(group, version, kind);
        self.found.custom.contains_key(&name).then(|| schemas::reference_to(self.dialect, &name))
    }

    fn named(&mut self, short: &'static str) -> Option<Value> {
        self.found.types.insert(table::builtin().by_name(short)?);
        Some(schemas::reference(self.dialect, short))
    }

    fn put(&mut self, path: &str, method: &str, mut operation: Value) {
        if self.dialect == Dialect::V2 {
            if operation.get("produces").is_none() {
                operation["produces"] = json!(self.spoken(&MEDIA));
            }
            operation["schemes"] = json!(["https"]);
        }
        let dialect = self.dialect;
        let item = self.found.paths.entry(path).or_insert_with(|| {
            let mut parameters: Vec<Value> = ["name", "namespace", "path"]
                .iter()
                .filter(|n| path.contains(&format!("{{{n}}}")))
                .map(|n| parameter(dialect, "path", n))
                .collect();
            parameters.push(parameter(dialect, "query", "pretty"));
            json!({ "parameters": parameters })
        });
        item[method] = operation;
    }
}

fn content(media: &[&str], schema: &Value) -> Value {
    Value::Object(media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect())
}

fn parameter(dialect: Dialect, place: &str, name: &str) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "force" | "orphanDependents" | "sendInitialEvents" | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    let mut out = json!({"in": place, "name": name, "uniqueItems": true, "description": meaning(name)});
    if place == "path" {
        out["required"] = json!(true);
    }
    match dialect {
        Dialect::V2 => out["type"] = json!(kind),
        Dialect::V3 => {
            out["schema"] = json!({"type": kind, "uniqueItems": true});
            if let Some(out) = out.as_object_mut() {
                out.remove("uniqueItems");
            }
        }
    }
    out
}

/// What a parameter does, in a sentence.
fn meaning(name: &str) -> &'static str {
    match name {
        "allowWatchBookmarks" => "Whether a watch may carry BOOKMARK events.",
        "continue" => "Where the next page of a list begins, as the previous page said.",
        "dryRun" => "\"All\": the request goes through every stage and nothing is stored.",
        "fieldManager" => "Name of the owner of the fields this request sets.",
        "fieldSelector" => "Only objects whose fields match.",
        "fieldValidation" => "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        "force" => "Whether an apply takes over fields that others own.",
        "gracePeriodSeconds" => "Seconds until the object is gone; 0 means at once.",
        "labelSelector" => "Only objects whose labels match.",
        "limit" => "Greatest number of objects in one page.",
        "name" => "Name of the object.",
        "namespace" => "Namespace of the object.",
        "orphanDependents" => "Whether dependents stay; superseded by propagationPolicy.",
        "path" => "The rest of the path, given on as it is.",
        "pretty" => "\"true\": indented output.",
        "propagationPolicy" => "What becomes of dependents: Orphan, Background or Foreground.",
        "resourceVersion" => "The resource version the answer is bound to.",
        "resourceVersionMatch" => "How resourceVersion is applied: Exact or NotOlderThan.",
        "sendInitialEvents" => "Whether a watch begins with the objects there are.",
        "shardSelector" => {
            "Only objects whose uid or namespace hashes into the ranges, as shardRange() names them; takes the gate ShardedListAndWatch."
        }
        "timeoutSeconds" => "Seconds after which a list or watch ends.",
        "watch" => "Whether changes follow as a stream instead of one list.",
        _ => "",
    }
}
