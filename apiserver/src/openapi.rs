//! OpenAPI: `/openapi/v3` with one document a group-version, and `/openapi/v2` with all of them in one.
//!
//! Both are derived from the type table (schemas) and the catalog (operations). A document is built when it
//! is first asked for and kept compressed. Its address carries a digest of what it is built from, so that
//! clients may keep it for good.
//!
//! Contract: OpenAPI 3.0 and Swagger 2.0 with the `x-kubernetes-*` extensions; KEP-2896 for the index, the
//! digests and caching. Both as JSON and as protobuf, the index as JSON alone; what asks for neither gets 406.

mod custom;
mod descriptions;
mod document;
mod enums;
mod merge;
mod operations;
mod protobuf;
mod schemas;

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use component_base::{
    features::{Gate, Gates},
    version,
};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    registry::catalog::Catalog,
    request_path::info::RequestInfo,
    response::{self, Body},
    status::Status,
};

pub use merge::Described;

/// Raised whenever the same types and resources are described differently, to make clients fetch anew.
const REVISION: u8 = 5;

/// What a clause of `Accept` that takes JSON names.
const JSON: &[&str] = &["*/*", "application/*", "application/json"];

/// Which form a document takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

/// The documents of one server.
pub struct OpenApi {
    /// Whether the server speaks CBOR, and documents list what values there are.
    gates: Gates,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// What the documents describe; another catalog makes them void.
    catalog: Option<Arc<Catalog>>,
    /// By path, and whether it is the protobuf form: compressed, with their digests.
    documents: HashMap<(String, bool), (String, Bytes)>,
}

/// Group versions that other servers serve and describe.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Entries of the index of v3: path of the group version, and where its document is.
    pub index: Vec<(String, String)>,
    /// What goes into v2.
    pub described: Vec<Arc<Described>>,
}

/// What has a document of its own in v3.
#[derive(Clone, Debug)]
enum Part {
    /// The resources of a group-version.
    Resources(GroupVersion),
    Root(Root),
}

impl Part {
    /// Where its document is, below `/openapi/v3/`.
    fn path(&self) -> String {
        match self {
            Self::Resources(gv) => gv.path(),
            Self::Root(root) => root.path.clone(),
        }
    }

    fn all(catalog: &Catalog) -> Vec<Self> {
        let resources = group_versions(catalog).into_iter().map(Self::Resources);
        resources.chain(operations::roots(catalog).into_iter().map(Self::Root)).collect()
    }
}

/// A path that is no resource.
#[derive(Clone, Debug)]
struct Root {
    path: String,
    /// Name of its operation.
    id: String,
    description: &'static str,
    tag: String,
    /// What it comes in.
    media: &'static [&'static str],
    /// Short name of the type it answers with; a text without.
    schema: Option<&'static str>,
}

/// One group-version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupVersion {
    group: &'static str,
    version: &'static str,
}

impl GroupVersion {
    /// `api/v1`, `apis/apps/v1`.
    fn path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }
}

impl OpenApi {
    /// No documents yet; they tell of what the gates let through.
    pub fn new(gates: Gates) -> Self {
        Self { gates, cache: Mutex::default() }
    }

    /// Answers a path below `/openapi`; `None` when the path is another.
    pub async fn answer(
        &self,
        catalog: &Arc<Catalog>,
        elsewhere: &Elsewhere,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Option<Result<Response<Body>, Status>> {
        let rest = info.path.strip_prefix("/openapi/")?.trim_end_matches('/');
        if !matches!(rest, "v2" | "v3") && !rest.starts_with("v3/") {
            return None;
        }
        let dialect = if rest == "v2" { Dialect::V2 } else { Dialect::V3 };
        let asked: &[&str] = if rest == "v3" { &[] } else { &dialect.protobuf_asked() };
        let Some(protobuf) = prefers(headers, asked) else {
            return Some(Ok(response::text(406, "only application/json and protobuf are served")));
        };
        if rest == "v3" {
            return Some(Ok(response::json(200, &index((catalog, self.gates), &elsewhere.index))));
        }
        let name = (rest, protobuf);
        Some(self.document(catalog, &elsewhere.described, (name, info.query.get("hash")), headers).await)
    }

    async fn document(
        &self,
        catalog: &Arc<Catalog>,
        described: &[Arc<Described>],
        ((name, protobuf), wanted): ((&str, bool), &str),
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Status> {
        let (dialect, parts) = match name.strip_prefix("v3/") {
            None => (Dialect::V2, Part::all(catalog)),
            Some(path) => {
                let one = Part::all(catalog).into_iter().find(|part| part.path() == path);
                (Dialect::V3, vec![one.ok_or_else(Status::no_such_path)?])
            }
        };
        let described = if dialect == Dialect::V2 { described } else { &[] };
        let digest = digest((catalog, self.gates), &parts, described);
        // Only documents of one group-version are asked for by their digest.
        let wanted = if dialect == Dialect::V3 { wanted } else { "" };
        if !wanted.is_empty() && wanted != digest {
            return Ok(moved(&address(name.trim_start_matches("v3/"), &digest)));
        }
        let tag = format!("\"{digest}\"");
        let unchanged = headers
            .get(header::IF_NONE_MATCH)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|tags| tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag));
        let media = if protobuf { dialect.protobuf() } else { "application/json" };
        let mut response = if unchanged {
            response::of(304, media, response::full(""))
        } else {
            let described = described.to_vec();
            let build = Build { dialect, parts, described, protobuf, gates: self.gates };
            body(&self.packed(catalog, (name, &digest), build).await?, media, headers)?
        };
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
        if wanted == digest {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            let in_a_year = Timestamp::now() + SignedDuration::from_hours(365 * 24);
            let in_a_year = in_a_year.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
            headers.extend(HeaderValue::try_from(in_a_year).ok().map(|value| (header::EXPIRES, value)));
        }
        Ok(response)
    }

    /// The document, compressed; built off the serving threads when it is not there yet.
    async fn packed(
        &self,
        catalog: &Arc<Catalog>,
        (name, digest): (&str, &str),
        build: Build,
    ) -> Result<Bytes, Status> {
        let name = (name.to_owned(), build.protobuf);
        if let Some(packed) = self.cache.lock().get(catalog, &name, digest) {
            return Ok(packed);
        }
        let of = catalog.clone();
        let packed = match tokio::task::spawn_blocking(move || build.run(&of)).await {
            Ok(Ok(packed)) => packed,
            Ok(Err(error)) => return Err(Status::internal(format!("packing an OpenAPI document: {error}"))),
            Err(error) => return Err(Status::internal(format!("building an OpenAPI document: {error}"))),
        };
        self.cache.lock().put(catalog, name, digest, packed.clone());
        Ok(packed)
    }
}

/// What a document is built from, beside the catalog.
struct Build {
    dialect: Dialect,
    parts: Vec<Part>,
    described: Vec<Arc<Described>>,
    protobuf: bool,
    gates: Gates,
}

impl Build {
    fn run(self, catalog: &Catalog) -> std::io::Result<Bytes> {
        let mut document = document::build(catalog, (self.dialect, self.gates), &self.parts);
        for other in &self.described {
            other.add_to(&mut document);
        }
        match self.protobuf {
            true => pack(&protobuf::encode(self.dialect, &document)),
            false => pack(document.to_string().as_bytes()),
        }
    }
}

impl Cache {
    fn get(&self, catalog: &Arc<Catalog>, name: &(String, bool), digest: &str) -> Option<Bytes> {
        let same = self.catalog.as_ref().is_some_and(|c| Arc::ptr_eq(c, catalog));
        let (of, packed) = self.documents.get(name).filter(|_| same)?;
        (of == digest).then(|| packed.clone())
    }

    fn put(&mut self, catalog: &Arc<Catalog>, name: (String, bool), digest: &str, packed: Bytes) {
        if !self.catalog.as_ref().is_some_and(|c| Arc::ptr_eq(c, catalog)) {
            self.catalog = Some(catalog.clone());
            self.documents.clear();
        }
        self.documents.insert(name, (digest.to_owned(), packed));
    }
}

fn index((catalog, gates): (&Catalog, Gates), elsewhere: &[(String, String)]) -> Value {
    let mut paths: Map<String, Value> = Part::all(catalog)
        .into_iter()
        .map(|part| {
            let path = part.path();
            let digest = digest((catalog, gates), std::slice::from_ref(&part), &[]);
            let url = address(&path, &digest);
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    for (path, url) in elsewhere {
        paths.insert(path.clone(), json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

/// Where the document of a group-version is, as long as it is this one.
fn address(path: &str, digest: &str) -> String {
    format!("/openapi/v3/{path}?hash={digest}")
}

/// The answer to who asks for a document as it was.
fn moved(to: &str) -> Response<Body> {
    let page = format!("<a href=\"{to}\">Moved Permanently</a>.\n\n");
    let mut response = response::of(301, "text/html; charset=utf-8", response::full(page));
    response.headers_mut().extend(HeaderValue::try_from(to).ok().map(|value| (header::LOCATION, value)));
    response
}

fn group_versions(catalog: &Catalog) -> Vec<GroupVersion> {
    let groups = catalog.groups();
    let of = |(group, versions): (&'static str, Vec<&'static str>)| {
        versions.into_iter().map(move |version| GroupVersion { group, version })
    };
    groups.into_iter().flat_map(of).collect()
}

/// A digest of all that a document is built from; building it is not needed to know it.
fn digest((catalog, gates): (&Catalog, Gates), parts: &[Part], described: &[Arc<Described>]) -> String {
    static COMMON: LazyLock<Sha256> = LazyLock::new(|| {
        let common = Sha256::new_with_prefix([REVISION]);
        common.chain_update(version::GIT_VERSION).chain_update(proto::table::TEXT)
    });
    let mut hash = COMMON.clone();
    if gates.has(Gate::CBORServingAndStorage) {
        hash.update("cbor");
    }
    if !gates.has(Gate::OpenAPIEnums) {
        hash.update("no words");
    }
    for part in parts {
        let gv = match part {
            Part::Resources(gv) => gv,
            Part::Root(root) => {
                hash.update(format!("{} {}\n", root.path, root.id));
                continue;
            }
        };
        for r in catalog.iter().filter(|r| r.group == gv.group && r.versions.contains(&gv.version)) {
            hash.update(format!(
                "{}/{} {} {} {} {:?} {:?}\n",
                r.group, gv.version, r.plural, r.kind, r.namespaced, r.verbs, r.subresources
            ));
            if let Some(custom) = r.strategy.custom() {
                hash.update(custom.digest());
            }
        }
    }
    for other in described {
        hash.update(&other.digest);
    }
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// Whether the first clause of `Accept` that can be served, in the order of their qualities, asks for protobuf, by one
/// of these names, rather than JSON; `None` when none can be. Who says nothing takes everything.
fn prefers(headers: &HeaderMap, protobuf: &[&str]) -> Option<bool> {
    let accept = headers.get(header::ACCEPT).map_or(Ok(""), HeaderValue::to_str).unwrap_or_default();
    if accept.trim().is_empty() {
        return Some(false);
    }
    let mut clauses: Vec<(f32, &str)> = accept.split(',').map(clause).filter(|(q, _)| *q > 0.0).collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.into_iter().find_map(|(_, media)| match media {
        _ if JSON.contains(&media) => Some(false),
        _ if protobuf.contains(&media) => Some(true),
        _ => None,
    })
}

/// The quality and the media type of a clause.
fn clause(text: &str) -> (f32, &str) {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok());
    (quality.unwrap_or(1.0), media)
}

fn pack(document: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(document)?;
    Ok(encoder.finish()?.into())
}

/// The packed bytes as they are where the client takes gzip, unpacked otherwise.
fn body(packed: &Bytes, media: &'static str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if encodings.split(',').any(|e| e.trim() == "gzip") {
        let mut response = response::of(200, media, response::full(packed.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return Ok(response);
    }
    let mut plain = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed.as_ref()), &mut plain)
        .map_err(|error| Status::internal(format!("unpacking an OpenAPI document: {error}")))?;
    Ok(response::of(200, media, response::full(plain)))
}

#[cfg(test)]
mod tests;
