//! Discovery: /api, /apis, groups, resource lists, and the aggregated form, all derived from the catalog.
//!
//! Contract: `meta/v1` APIVersions, APIGroupList, APIResourceList; `apidiscovery.k8s.io/v2` (KEP-3352).

use std::sync::{Arc, LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use component_base::metrics::{Stability, counter};
use http::{HeaderMap, HeaderValue, Response, header};
use parking_lot::Mutex;
use prometheus::IntCounter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    aggregator::{Remote, merge_discovery, merge_groups},
    metrics,
    peers::{Known, merged},
    registry::{Resource, Subresource, catalog::Catalog, view_verbs},
    response::{self, Body},
    status::Status,
};

/// One entry of a resource list: the object or a subresource.
struct Entry {
    name: String,
    kind: (String, String, String),
    verbs: Vec<&'static str>,
}

static ALONE: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Counter of number of times no-peer (non peer-aggregated) discovery was requested";
    counter("aggregator_discovery_nopeer_requests_total", help, Stability::Alpha)
});
static OF_ALL_KEPT: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Counter of number of times discovery was served from peer-aggregated cache";
    counter("aggregator_discovery_peer_aggregated_cache_hits_total", help, Stability::Alpha)
});
static OF_ALL_MADE: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Counter of number of times discovery was aggregated across all API servers";
    counter("aggregator_discovery_peer_aggregated_cache_misses_total", help, Stability::Alpha)
});

/// What other servers serve.
type Remotes = Vec<Arc<Remote>>;
/// What other API servers of this cluster serve.
type Others = Vec<Arc<Known>>;

/// Answers discovery. The aggregated documents are long, and asked for often: each is made once for what is served.
#[derive(Default)]
pub struct Discovery {
    /// Lists of resources tell which version objects are stored in.
    hashes: bool,
    core: Mutex<Option<Document>>,
    groups: Mutex<Option<Document>>,
    /// The groups of all servers, and what was known of the others.
    all: Mutex<Option<(Arc<Others>, Document)>>,
}

/// An aggregated document, and what it was made of.
struct Document {
    catalog: Arc<Catalog>,
    remotes: Arc<Remotes>,
    body: Bytes,
    tag: String,
}

impl Discovery {
    /// Nothing asked yet; `hashes` where lists of resources tell which version objects are stored in.
    pub fn new(hashes: bool) -> Self {
        for shown in [&ALONE, &OF_ALL_KEPT, &OF_ALL_MADE] {
            LazyLock::force(shown);
        }
        Self { hashes, ..Self::default() }
    }

    /// Answers a discovery path; `None` when the path is none.
    pub fn answer(
        &self,
        catalog: &Arc<Catalog>,
        remotes: &Arc<Remotes>,
        peers: Option<&Arc<Others>>,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Result<Response<Body>, Status>> {
        let kept = match path.trim_matches('/') {
            "api" => &self.core,
            "apis" => &self.groups,
            _ => return self.plain(catalog, remotes, path),
        };
        let Some(clause) = aggregated(headers) else { return self.plain(catalog, remotes, path) };
        let alone = clause.split(';').any(|parameter| parameter.trim() == "profile=nopeer");
        if alone {
            ALONE.inc();
        } else if let Some(peers) = peers.filter(|_| path.trim_matches('/') == "apis") {
            return Some(Ok(self.of_all(catalog, remotes, peers, headers)));
        }
        let mut kept = kept.lock();
        let same = |d: &Document| Arc::ptr_eq(&d.catalog, catalog) && Arc::ptr_eq(&d.remotes, remotes);
        let document = match kept.take().filter(same) {
            Some(document) => document,
            None => {
                metrics::AGGREGATIONS.inc();
                Document::new(catalog.clone(), remotes.clone(), path.trim_matches('/') == "api")
            }
        };
        Some(Ok(kept.insert(document).answer(headers)))
    }

    /// The groups of this server and of others.
    fn of_all(
        &self,
        catalog: &Arc<Catalog>,
        remotes: &Arc<Remotes>,
        peers: &Arc<Others>,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let mut kept = self.all.lock();
        let same = |(of, document): &(Arc<Others>, Document)| {
            let (d, same) = (document, Arc::ptr_eq(of, peers));
            same && Arc::ptr_eq(&d.catalog, catalog) && Arc::ptr_eq(&d.remotes, remotes)
        };
        let all = match kept.take().filter(same) {
            Some(known) => {
                OF_ALL_KEPT.inc();
                known
            }
            None => {
                OF_ALL_MADE.inc();
                let items = merged(Document::items(catalog, remotes, false), peers);
                (peers.clone(), Document::of(catalog.clone(), remotes.clone(), &items))
            }
        };
        kept.insert(all).1.answer(headers)
    }

    /// Answers in the form of one document for each group and version.
    fn plain(
        &self,
        catalog: &Catalog,
        remotes: &[Arc<Remote>],
        path: &str,
    ) -> Option<Result<Response<Body>, Status>> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let value = match parts.as_slice() {
            [] => json!({"paths": paths(catalog)}),
            ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": []}),
            ["apis"] => {
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(catalog, remotes)})
            }
            ["apis", name] => {
                let mut all = groups(catalog, remotes).into_iter();
                match all.find(|g| g.get("name").and_then(Value::as_str) == Some(name)) {
                    Some(mut one) => {
                        one["kind"] = json!("APIGroup");
                        one["apiVersion"] = json!("v1");
                        one
                    }
                    None => return Some(Err(Status::no_such_path())),
                }
            }
            ["api", version] => return Some(list(catalog, "", version, self.hashes)),
            ["apis", group, version] => return Some(list(catalog, group, version, self.hashes)),
            _ => return None,
        };
        Some(Ok(response::json(200, &value)))
    }
}

/// What is served beside objects.
const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

fn paths(catalog: &Catalog) -> Vec<String> {
    let mut all: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    for (group, versions) in catalog.groups().iter().filter(|(group, _)| !group.is_empty()) {
        all.push(format!("/apis/{group}"));
        all.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    all.sort();
    all
}

fn groups(catalog: &Catalog, remotes: &[Arc<Remote>]) -> Vec<Value> {
    let own = catalog.groups();
    merge_groups(own.iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group(g, v)).collect(), remotes)
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "preferredVersion": all.first(), "versions": all})
}

fn list(catalog: &Catalog, group: &str, version: &str, hashes: bool) -> Result<Response<Body>, Status> {
    let mut resources = Vec::new();
    for resource in catalog.iter().filter(|r| r.group == group && r.versions.contains(&version)) {
        for (i, entry) in entries(resource, version).into_iter().enumerate() {
            let mut one = json!({"name": entry.name, "singularName": if i == 0 { resource.singular } else { "" },
                "namespaced": resource.namespaced, "kind": entry.kind.2, "verbs": entry.verbs});
            if (entry.kind.0.as_str(), entry.kind.1.as_str()) != (group, version) {
                one["group"] = json!(entry.kind.0);
                one["version"] = json!(entry.kind.1);
            }
            if i == 0 && !resource.short_names.is_empty() {
                one["shortNames"] = json!(resource.short_names);
            }
            if i == 0 && !resource.categories.is_empty() {
                one["categories"] = json!(resource.categories);
            }
            if i == 0 && hashes && resource.verbs.contains(&"watch") {
                one["storageVersionHash"] = json!(storage_version_hash(resource));
            }
            resources.push(one);
        }
    }
    if resources.is_empty() {
        return Err(Status::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(response::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    ))
}

/// Tells clients that objects are stored in another version than before; nothing else can be read from it.
fn storage_version_hash(resource: &Resource) -> String {
    let stored = format!("{}/{}/{}", resource.stored_group(), resource.storage_version, resource.kind);
    BASE64_STANDARD.encode(&Sha256::digest(stored)[..8])
}

/// The resource itself, then its subresources in name order.
fn entries(resource: &Resource, version: &str) -> Vec<Entry> {
    let own = || (resource.group.to_owned(), version.to_owned(), resource.kind.to_owned());
    let change = vec!["get", "patch", "update"];
    let mut subs: Vec<Entry> = resource
        .subresources
        .iter()
        .map(|sub| {
            let (name, kind, verbs) = match *sub {
                Subresource::Status => ("status", own(), change.clone()),
                Subresource::View(name) => (name, own(), view_verbs(name).to_vec()),
                Subresource::Scale { .. } => {
                    ("scale", ("autoscaling".to_owned(), "v1".to_owned(), "Scale".to_owned()), change.clone())
                }
                Subresource::Action { name, kind: ("", "", kind), verbs } => {
                    (name, (resource.group.to_owned(), version.to_owned(), kind.to_owned()), verbs.to_vec())
                }
                Subresource::Action { name, kind: (g, v, k), verbs } => {
                    (name, (g.to_owned(), v.to_owned(), k.to_owned()), verbs.to_vec())
                }
            };
            Entry { name: format!("{}/{name}", resource.plural), kind, verbs }
        })
        .collect();
    subs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut all =
        vec![Entry { name: resource.plural.to_owned(), kind: own(), verbs: resource.verbs.to_vec() }];
    all.extend(subs);
    all
}

/// The first acceptable clause decides: aggregated v2, which is returned, or the plain form.
fn aggregated(headers: &HeaderMap) -> Option<&str> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    for clause in accept.split(',').map(str::trim).filter(|c| c.starts_with("application/json")) {
        if !clause.contains("as=") {
            return None;
        }
        if clause.contains("g=apidiscovery.k8s.io")
            && clause.contains("as=APIGroupDiscoveryList")
            && clause.split(';').any(|p| p.trim() == "v=v2")
        {
            return Some(clause);
        }
    }
    None
}

impl Document {
    /// Of the core group, or of all others.
    fn new(catalog: Arc<Catalog>, remotes: Arc<Remotes>, core: bool) -> Self {
        let items = Self::items(&catalog, &remotes, core);
        Self::of(catalog, remotes, &items)
    }

    fn items(catalog: &Catalog, remotes: &Remotes, core: bool) -> Vec<Value> {
        let items: Vec<Value> = catalog
            .groups()
            .iter()
            .filter(|(group, _)| group.is_empty() == core)
            .map(|(group, versions)| {
                let versions: Vec<Value> =
                    versions.iter().map(|v| aggregated_version(catalog, group, v)).collect();
                let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group}) };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        if core { items } else { merge_discovery(items, remotes) }
    }

    fn of(catalog: Arc<Catalog>, remotes: Arc<Remotes>, items: &[Value]) -> Self {
        let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {}, "items": items})
        .to_string();
        let tag: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
        Self { catalog, remotes, body: body.into(), tag: format!("\"{tag}\"") }
    }

    /// The document, unless the client has it.
    fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let unchanged =
            headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == self.tag.as_bytes());
        let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let mut response = if unchanged {
            response::of(304, content, response::full(""))
        } else {
            response::of(200, content, response::full(self.body.clone()))
        };
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        response
    }
}

fn aggregated_version(catalog: &Catalog, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for resource in catalog.iter().filter(|r| r.group == group && r.versions.contains(&version)) {
        let kind = |e: &Entry| json!({"group": e.kind.0, "version": e.kind.1, "kind": e.kind.2});
        let mut all = entries(resource, version).into_iter();
        let Some(own) = all.next() else { continue };
        let mut one = json!({"resource": own.name, "responseKind": kind(&own), "singularResource": resource.singular,
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": own.verbs});
        if !resource.short_names.is_empty() {
            one["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            one["categories"] = json!(resource.categories);
        }
        let subs: Vec<Value> = all
            .map(|e| {
                let name = e.name.split_once('/').map_or("", |(_, sub)| sub);
                json!({"subresource": name, "responseKind": kind(&e), "verbs": e.verbs})
            })
            .collect();
        if !subs.is_empty() {
            one["subresources"] = json!(subs);
        }
        resources.push(one);
    }
    json!({"version": version, "freshness": "Current", "resources": resources})
}
