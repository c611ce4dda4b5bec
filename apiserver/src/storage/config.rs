//! How a store is set up.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use proto::codec;

use super::{ResourceId, StoredResource};
use crate::egress::Route;

/// Settings of a store (`--etcd-*`, `--storage-*` and the watch cache's).
#[derive(Clone)]
pub struct StoreConfig {
    /// URLs of the etcd members (`--etcd-servers`).
    pub servers: Vec<String>,
    /// Client TLS (`--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`).
    pub tls: TlsFiles,
    /// The way to them.
    pub route: Route,
    /// Whether requests may be followed: etcd is told of those that are.
    pub traced: bool,
    /// Where everything lives (`--etcd-prefix`), default `/registry`.
    pub prefix: String,
    /// Resources that are kept elsewhere (`--etcd-servers-overrides`).
    pub elsewhere: Vec<Elsewhere>,
    /// Resources cached from the start.
    pub resources: Vec<StoredResource>,
    /// Time between compactions (`--etcd-compaction-interval`), default 5 minutes; zero leaves it to others.
    pub compaction_interval: Duration,
    /// Time between looks at the size of etcd's database (`--etcd-db-metric-poll-interval`), default 30 s; zero is never.
    pub size_interval: Duration,
    /// Turns stored values into JSON and back (protobuf, encryption at rest).
    pub transformer: Arc<dyn Transformer>,
    /// Bounds on time and memory.
    pub limits: Limits,
}

/// An etcd cluster that has single resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// URLs of its members.
    pub servers: Vec<String>,
    /// What it has.
    pub resources: Vec<ResourceId>,
}

/// Files of a TLS client.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// CA bundle that signs etcd's certificate.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Bounds on time and memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One etcd request; default 5 s.
    pub request_timeout: Duration,
    /// How long a read waits for its read point; default 3 s, as upstream.
    pub read_point_timeout: Duration,
    /// How long the stream may lag before the marker key is written; default 10 ms.
    pub marker_delay: Duration,
    /// Watch history per resource, in bytes of objects; default 32 MiB.
    pub history_bytes: usize,
    /// Events older than this leave the history; default 5 minutes.
    pub history_age: Duration,
    /// Events kept whatever their age; default 100.
    pub history_floor: usize,
    /// Events queued for one watcher before it has to read from history; default 256.
    pub watcher_queue: usize,
    /// Time between bookmarks; default one minute.
    pub bookmark_interval: Duration,
    /// Objects of the first page of a load, before their size is known; default 100.
    pub load_page: usize,
}

/// Where a stored value stopped becoming JSON, with a text for the log and the Status message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// It does not open.
    Sealed(String),
    /// What was opened is no object.
    Malformed(String),
}

/// Stored values ⇄ JSON.
pub trait Transformer: Send + Sync {
    /// The JSON of a stored value. `value` not starting with `{` is some other encoding.
    fn decode(&self, id: &ResourceId, key: &str, value: Bytes) -> Result<Bytes, Undecoded>;

    /// The value stored for JSON.
    fn encode(&self, id: &ResourceId, key: &str, json: Vec<u8>) -> Result<Vec<u8>, String>;

    /// Whether [`Self::is_stale`] can be true of values of a resource at all.
    fn looks_at(&self, _id: &ResourceId) -> bool {
        false
    }

    /// Whether a stored value is not as it would be written today, with the same content.
    fn is_stale(&self, _id: &ResourceId, _value: &[u8]) -> bool {
        false
    }
}

/// JSON is written; JSON and upstream's protobuf are read.
#[derive(Clone, Copy, Debug, Default)]
struct JsonOrProtobuf;

// === impl StoreConfig ===

impl StoreConfig {
    /// The defaults for these servers and resources.
    pub fn new(servers: Vec<String>, resources: Vec<StoredResource>) -> Self {
        Self {
            servers,
            tls: TlsFiles::default(),
            route: Route::default(),
            traced: false,
            prefix: "/registry".to_owned(),
            elsewhere: Vec::new(),
            resources,
            compaction_interval: Duration::from_secs(300),
            size_interval: Duration::from_secs(30),
            transformer: Arc::new(JsonOrProtobuf),
            limits: Limits::default(),
        }
    }
}

impl StoreConfig {
    /// Which of the other clusters has which resource; the last one that names it does. Definitions of resources and other
    /// API servers are stored by servers of their own in upstream's process, which know of no overrides, so that neither
    /// they nor custom resources have another place.
    pub(super) fn placed(&self) -> HashMap<ResourceId, usize> {
        let movable = |id: &&ResourceId| {
            !matches!(id.group(), "apiextensions.k8s.io" | "apiregistration.k8s.io")
                && self.resources.iter().any(|resource| resource.id == **id)
        };
        let clusters = self.elsewhere.iter().enumerate();
        clusters
            .flat_map(|(at, one)| one.resources.iter().filter(movable).map(move |id| (id.clone(), at)))
            .collect()
    }

    /// The part of one cluster: one of the others, or `--etcd-servers`.
    pub(super) fn cluster(&self, place: Option<usize>, placed: &HashMap<ResourceId, usize>) -> Self {
        let servers = place.and_then(|at| self.elsewhere.get(at)).map_or(&self.servers, |one| &one.servers);
        let resources = self.resources.iter().filter(|resource| placed.get(&resource.id).copied() == place);
        Self { servers: servers.clone(), resources: resources.cloned().collect(), ..self.clone() }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            read_point_timeout: Duration::from_secs(3),
            marker_delay: Duration::from_millis(10),
            history_bytes: 32 << 20,
            history_age: Duration::from_secs(300),
            history_floor: 100,
            watcher_queue: 256,
            bookmark_interval: Duration::from_secs(60),
            load_page: 100,
        }
    }
}

// === impl JsonOrProtobuf ===

impl Transformer for JsonOrProtobuf {
    fn decode(&self, _id: &ResourceId, _key: &str, value: Bytes) -> Result<Bytes, Undecoded> {
        if value.first() == Some(&b'{') {
            Ok(value)
        } else if value.starts_with(&codec::MAGIC) {
            codec::to_json(&value).map(Bytes::from).map_err(|e| Undecoded::Malformed(e.to_string()))
        } else {
            Err(Undecoded::Malformed("the value is not JSON".to_owned()))
        }
    }

    fn encode(&self, _id: &ResourceId, _key: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(json)
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig").field("servers", &self.servers).finish_non_exhaustive()
    }
}
