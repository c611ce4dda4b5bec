//! Operations of resources: which paths and methods there are, what they take and answer.

use std::collections::BTreeSet;

use component_base::features::{Gate, Gates};
use proto::{
    cbor,
    table::{self, TypeId},
};
use serde_json::{Map, Value, json};

use super::{Dialect, GroupVersion, Root, custom, schemas};
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
/// How a stream of changes comes; the last only under CBOR's gate.
const STREAMS: [&str; 3] = [
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/cbor-seq",
];
const ANY: [&str; 1] = ["*/*"];
/// Custom objects have no protobuf and no strategic merge; of CBOR upstream says nothing there.
const CUSTOM_MEDIA: [&str; 2] = ["application/json", "application/yaml"];
const CUSTOM_PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
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

/// What subresources take that are streams and proxies, by their names.
const STREAMED: [(&str, &[&str]); 5] = [
    ("attach", &["container", "stderr", "stdin", "stdout", "tty"]),
    ("exec", &["command", "container", "stderr", "stdin", "stdout", "tty"]),
    (
        "log",
        &[
            "container",
            "follow",
            "insecureSkipTLSVerifyBackend",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "stream",
            "tailLines",
            "timestamps",
        ],
    ),
    ("portforward", &["ports"]),
    ("proxy", &["path"]),
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
    let api = short(gv.group).split('.').chain([gv.version]).map(capital).collect();
    let mut writer = Writer { dialect, cbor: gates.has(Gate::CBORServingAndStorage), gv, api, found };
    let of_it = || catalog.iter().filter(|r| r.group == gv.group && r.versions.contains(&gv.version));
    if of_it().any(|r| r.strategy.custom().is_none()) {
        let root = Root {
            path: gv.path(),
            id: format!("get{}APIResources", writer.api),
            description: "what resources there are",
            tag: writer.tag(),
            media: writer.spoken(&MEDIA),
            schema: Some("meta.v1.APIResourceList"),
        };
        writer.found.root(dialect, &root);
    }
    of_it().for_each(|resource| writer.resource(resource));
}

/// What there is beside resources: what leads to them, the version, and the keys of service accounts' tokens.
pub(super) fn roots(catalog: &Catalog) -> Vec<Root> {
    const JSON: &[&str] = &["application/json"];
    let discovery = &MEDIA[..3];
    let versions = "what versions there are";
    let of = |path: &str, id: &str, description, tag: &str, media, schema| Root {
        path: path.to_owned(),
        id: id.to_owned(),
        description,
        tag: tag.to_owned(),
        media,
        schema,
    };
    let mut out = vec![
        of(
            ".well-known/openid-configuration",
            "getServiceAccountIssuerOpenIDConfiguration",
            "who issues the tokens of service accounts: the document of OpenID discovery",
            "WellKnown",
            JSON,
            None,
        ),
        of("api", "getCoreAPIVersions", versions, "core", discovery, Some("meta.v1.APIVersions")),
        of("apis", "getAPIVersions", versions, "apis", discovery, Some("meta.v1.APIGroupList")),
        of(
            "openid/v1/jwks",
            "getServiceAccountIssuerOpenIDKeyset",
            "the public keys by which tokens of service accounts are verified",
            "openid",
            &["application/jwk-set+json"],
            None,
        ),
        of("version", "getCodeVersion", "the version of this server", "version", JSON, Some("version.Info")),
    ];
    let built_in = |group: &str| catalog.iter().any(|r| r.group == group && r.strategy.custom().is_none());
    for (group, _) in catalog.groups().into_iter().filter(|(group, _)| !group.is_empty() && built_in(group)) {
        let api: String = short(group).split('.').map(capital).collect();
        out.push(Root {
            path: format!("apis/{group}"),
            id: format!("get{api}APIGroup"),
            description: "what a group has",
            tag: tag(group),
            media: discovery,
            schema: Some("meta.v1.APIGroup"),
        });
    }
    out
}

/// A group's name in those of operations and tags.
fn short(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") }
}

/// A group's tag: `rbacAuthorization`.
fn tag(group: &str) -> String {
    let mut words = short(group).split('.');
    words.next().into_iter().map(str::to_owned).chain(words.map(capital)).collect()
}

impl Found {
    /// Adds a path that is no resource.
    pub(super) fn root(&mut self, dialect: Dialect, root: &Root) {
        let schema = match root.schema.and_then(|short| table::builtin().by_name(short).map(|id| (short, id)))
        {
            Some((short, id)) => {
                self.types.insert(id);
                schemas::reference(dialect, short)
            }
            None => json!({"type": "string"}),
        };
        let mut operation =
            json!({"operationId": root.id, "description": root.description, "tags": [root.tag]});
        operation["responses"] = answers(dialect, &[("200", "OK")], root.media, &schema);
        if dialect == Dialect::V2 {
            operation["produces"] = json!(root.media);
            if root.schema.is_some() {
                operation["consumes"] = json!(root.media);
            }
            operation["schemes"] = json!(["https"]);
        }
        self.paths.insert(format!("/{}/", root.path), json!({"get": operation}));
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
        if r.verbs.contains(&"watch") && r.strategy.custom().is_none() {
            let watched = format!("{prefix}/watch{scope}/{}", r.plural);
            self.watch(&watched, r, kind);
            self.watch(&format!("{watched}/{{name}}"), r, kind);
            if r.namespaced {
                self.watch(&format!("{prefix}/watch/{}", r.plural), r, kind);
            }
        }
    }

    /// The older way of watching, by a path of its own.
    fn watch(&mut self, path: &str, r: &Resource, kind: GroupVersionKind<'_>) {
        let one = path.ends_with("{name}");
        let scope = if r.namespaced && path.contains("{namespace}") { "Namespaced" } else { "" };
        let list = if one { "" } else { "List" };
        let end = if r.namespaced && scope.is_empty() { "ForAllNamespaces" } else { "" };
        let action = if one { "watch" } else { "watchlist" };
        let id = format!("watch{}{scope}{}{list}{end}", self.api, r.kind);
        let mut operation =
            self.frame(action, id, format!("watch {}; lists take the parameter watch", r.kind), kind);
        let media = self.streamed();
        let schema = self.named("meta.v1.WatchEvent").unwrap_or_else(|| json!({"type": "object"}));
        operation["responses"] = answers(self.dialect, &[("200", "OK")], &media, &schema);
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(media);
        }
        self.put(path, "get", operation);
        self.also_take(path, &LIST);
    }

    /// Parameters of all methods of a path.
    fn also_take(&mut self, path: &str, names: &[&str]) {
        let dialect = self.dialect;
        let known = self.found.paths.get_mut(path).and_then(|item| item["parameters"].as_array_mut());
        if let Some(known) = known {
            for name in names {
                // A proxy's path is a part of the path, and a parameter of the query too.
                if !known.iter().any(|p| p["name"] == *name && p["in"] == "query") {
                    known.push(parameter(dialect, "query", name));
                }
            }
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
                let Some((_, method, ..)) = VERBS.iter().find(|v| v.0 == *verb) else { continue };
                self.connect(&path, method, r, name, kind);
            } else {
                self.operation(&path, verb, r, name, kind);
            }
        }
        if name == "proxy" {
            for method in ["delete", "get", "head", "options", "patch", "post", "put"] {
                self.connect(&path, method, r, name, kind);
                self.connect(&format!("{path}/{{path}}"), method, r, name, kind);
            }
            self.also_take(&format!("{path}/{{path}}"), &["path"]);
        }
        if let Some((_, names)) = STREAMED.iter().find(|(streamed, _)| *streamed == name) {
            self.also_take(&path, names);
        }
    }

    fn connect(&mut self, path: &str, method: &str, r: &Resource, sub: &str, kind: GroupVersionKind<'_>) {
        let scope = if r.namespaced { "Namespaced" } else { "" };
        let end = if path.ends_with("{path}") { "WithPath" } else { "" };
        let (method_name, sub) = (capital(method), capital(sub));
        let id = format!("connect{}{method_name}{scope}{}{sub}{end}", self.api, r.kind);
        let mut operation = self.frame("connect", id, format!("connect to {sub} of {}", r.kind), kind);
        operation["responses"] = answers(self.dialect, &[("200", "OK")], &ANY, &json!({"type": "string"}));
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(ANY);
        }
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
        let streamed = self.streamed();
        let log = [&["text/plain"], self.spoken(&MEDIA)].concat();
        let media = match (verb, sub) {
            _ if is_custom => &CUSTOM_MEDIA[..],
            ("list", _) => &streamed,
            (_, "log") => &log,
            _ => self.spoken(&MEDIA),
        };
        let taken: &[&str] = match (verb, is_custom) {
            ("patch", false) => self.spoken(&PATCHES),
            ("patch", true) => &CUSTOM_PATCHES,
            (_, true) => &CUSTOM_MEDIA,
            (_, false) => &ANY,
        };
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(media);
            operation["consumes"] = json!(taken);
        }
        if let Some(schema) = body {
            let required = matches!(verb, "create" | "update" | "patch");
            self.body(&mut operation, &mut parameters, schema, taken, required);
        }
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        let list = match r.strategy.custom() {
            Some(custom) => custom.list_kind().to_owned(),
            None => format!("{}List", kind.2),
        };
        let kind = if verb == "list" { (kind.0, kind.1, list.as_str()) } else { kind };
        operation["responses"] = self.responses((verb, sub, r), kind, media);
        self.put(path, method, operation);
    }

    fn frame(&self, action: &str, id: String, summary: String, kind: GroupVersionKind<'_>) -> Value {
        json!({"operationId": id, "description": summary, "tags": [self.tag()],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": schemas::group_version_kind(kind.0, kind.1, kind.2)})
    }

    fn tag(&self) -> String {
        format!("{}_{}", tag(self.gv.group), self.gv.version)
    }

    fn body(
        &self,
        operation: &mut Value,
        parameters: &mut Vec<Value>,
        schema: Value,
        media: &[&str],
        required: bool,
    ) {
        let mut body = match self.dialect {
            Dialect::V2 => json!({"in": "body", "name": "body", "schema": schema}),
            Dialect::V3 => json!({"content": content(media, &schema)}),
        };
        if required {
            body["required"] = json!(true);
        }
        match self.dialect {
            Dialect::V2 => parameters.push(body),
            Dialect::V3 => operation["requestBody"] = body,
        }
    }

    fn responses(
        &mut self,
        (verb, sub, r): (&str, &str, &Resource),
        kind: GroupVersionKind<'_>,
        media: &[&str],
    ) -> Value {
        // A namespace is hardly ever gone at once.
        let returned = r.returns_deleted && r.kind != "Namespace";
        let codes: &[(&str, &str)] = match verb {
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let schema = match verb {
            "delete" if returned => self.schema_of(kind),
            "delete" | "deletecollection" => self.named("meta.v1.Status"),
            _ if sub == "log" => Some(json!({"type": "string"})),
            _ => self.schema_of(kind),
        };
        let schema = schema.unwrap_or_else(|| json!({"type": "object"}));
        answers(self.dialect, codes, media, &schema)
    }

    /// What a list comes in, or the stream of its changes.
    fn streamed(&self) -> Vec<&'static str> {
        [self.spoken(&MEDIA), self.spoken(&STREAMS)].concat()
    }

    /// Media types without the last, CBOR, where the server does not speak it.
    fn spoken(&self, all: &'static [&'static str]) -> &'static [&'static str] {
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
            if operation.get("consumes").is_none() {
                operation["consumes"] = json!(ANY);
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
            // Streams are not printed.
            if operation["x-kubernetes-action"] != "connect" {
                parameters.push(parameter(dialect, "query", "pretty"));
            }
            json!({ "parameters": parameters })
        });
        item[method] = operation;
    }
}

/// What an operation answers, refusals of strangers among it.
fn answers(dialect: Dialect, codes: &[(&str, &str)], media: &[&str], schema: &Value) -> Value {
    let mut out = json!({"401": {"description": "Unauthorized"}});
    for (code, text) in codes {
        out[*code] = match dialect {
            Dialect::V2 => json!({"description": text, "schema": schema}),
            Dialect::V3 => json!({"description": text, "content": content(media, schema)}),
        };
    }
    out
}

fn content(media: &[&str], schema: &Value) -> Value {
    Value::Object(media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect())
}

fn parameter(dialect: Dialect, place: &str, name: &str) -> Value {
    let kind = match name {
        "allowWatchBookmarks"
        | "follow"
        | "force"
        | "ignoreStoreReadErrorWithClusterBreakingPotential"
        | "insecureSkipTLSVerifyBackend"
        | "orphanDependents"
        | "previous"
        | "sendInitialEvents"
        | "stderr"
        | "stdin"
        | "stdout"
        | "timestamps"
        | "tty"
        | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" | "limitBytes" | "ports" | "sinceSeconds" | "tailLines"
        | "timeoutSeconds" => "integer",
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
        "command" => "The program and its arguments, each a parameter; no shell reads them.",
        "container" => "Which container; a pod's only one needs no name.",
        "continue" => "Where the next page of a list begins, as the previous page said.",
        "dryRun" => "\"All\": the request goes through every stage and nothing is stored.",
        "fieldManager" => "Name of the owner of the fields this request sets.",
        "fieldSelector" => "Only objects whose fields match.",
        "fieldValidation" => "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        "follow" => "Whether what is logged from now on comes too, as it is logged.",
        "force" => "Whether an apply takes over fields that others own.",
        "gracePeriodSeconds" => "Seconds until the object is gone; 0 means at once.",
        "ignoreStoreReadErrorWithClusterBreakingPotential" => {
            "Whether an object that cannot be read any more is removed all the same; finalizers are not heeded."
        }
        "insecureSkipTLSVerifyBackend" => "Whether the kubelet's certificate goes unverified.",
        "labelSelector" => "Only objects whose labels match.",
        "limit" => "Greatest number of objects in one page.",
        "limitBytes" => "Bytes after which a log ends.",
        "name" => "Name of the object.",
        "namespace" => "Namespace of the object.",
        "orphanDependents" => "Whether dependents stay; superseded by propagationPolicy.",
        "path" => "The rest of the path, given on as it is.",
        "ports" => "Ports of the pod to forward to.",
        "pretty" => "\"true\": indented output.",
        "previous" => "Whether the log is that of the container before its last restart.",
        "propagationPolicy" => "What becomes of dependents: Orphan, Background or Foreground.",
        "resourceVersion" => "The resource version the answer is bound to.",
        "resourceVersionMatch" => "How resourceVersion is applied: Exact or NotOlderThan.",
        "sendInitialEvents" => "Whether a watch begins with the objects there are.",
        "shardSelector" => {
            "Only objects whose uid or namespace hashes into the ranges, as shardRange() names them; takes the gate ShardedListAndWatch."
        }
        "sinceSeconds" => "Only lines of so many seconds before now.",
        "stderr" => "Whether the standard error stream comes back.",
        "stdin" => "Whether the standard input stream is sent.",
        "stdout" => "Whether the standard output stream comes back.",
        "stream" => "Which stream of a log: All, Stdout or Stderr.",
        "tailLines" => "Only so many lines from the end of a log.",
        "timeoutSeconds" => "Seconds after which a list or watch ends.",
        "timestamps" => "Whether each line begins with its time.",
        "tty" => "Whether the program gets a terminal.",
        "watch" => "Whether changes follow as a stream instead of one list.",
        _ => "",
    }
}
