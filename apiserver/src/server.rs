//! The server's shared state: what every stage of the request path and every verb reads.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use component_base::{
    features::{Gate, Gates},
    task::Tasks,
    traces::Tracer,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Enabled,
    aggregator::Aggregator,
    audit::Auditor,
    auth::Authorizer,
    authn::{self, Authentication},
    bootstrap::storage_versions::Barrier,
    discovery::Discovery,
    egress::Egress,
    encryption::Encryption,
    engine::{Compressed, ComputedResource},
    flowcontrol::FlowControl,
    front::Front,
    health,
    logs::Logs,
    objects::Objects,
    openapi::OpenApi,
    options::RequestLimits,
    peers::Peers,
    proxy::kubelet::Kubelets,
    registry::{SideEffects, catalog::Catalog},
    request_path::Impersonations,
    reviews::Virtuals,
    storage::{ResourceId, Store},
    zpages::Pages,
};

/// One running API server.
pub struct Server {
    /// The objects.
    pub store: Store,
    /// The objects as the server itself reads and writes them.
    pub objects: Arc<dyn Objects>,
    /// The resources served.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// Documents that describe them.
    pub openapi: OpenApi,
    /// What is served, as clients ask for it.
    pub discovery: Discovery,
    /// Admission plugins in order.
    pub admission: Vec<Enabled>,
    /// Who is it.
    pub authentication: Arc<Authentication>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// Resources and subresources that answer a POST instead of storing it, by group and
    /// `resource` or `resource/subresource`.
    pub virtuals: Virtuals,
    /// Resources that are found out instead of stored, by group and plural.
    pub computed: HashMap<(&'static str, &'static str), Arc<dyn ComputedResource>>,
    /// Effects of writes outside the object's own key, by group and plural.
    pub side_effects: HashMap<(&'static str, &'static str), Arc<dyn SideEffects>>,
    /// Host and port clients reach this server by, for the OpenID documents.
    pub external: String,
    /// Which requests without credentials are taken for `system:anonymous`.
    pub anonymous: authn::config::Anonymous,
    /// What is recorded of requests, if anything.
    pub auditor: Option<Arc<Auditor>>,
    /// What checks of this server's health go by.
    pub health: health::Settings,
    /// What it tells of itself.
    pub pages: Pages,
    /// `--profiling`.
    pub profiling: bool,
    /// The machine's logs, where they may be read.
    pub logs: Option<Logs>,
    /// `--feature-gates`.
    pub gates: Gates,
    /// How requesters act as others.
    pub impersonation: Impersonations,
    /// `--enable-garbage-collector`: whether deletions leave marks for it.
    pub collects_garbage: bool,
    /// `--delete-collection-workers`.
    pub deletes_at_once: usize,
    /// What is decided of a request before anybody asks who sends it.
    pub front: Front,
    /// Follows requests, and tells a collector of them (`--tracing-config-file`).
    pub tracer: Option<Tracer>,
    /// How many requests are served at once.
    pub in_flight: InFlight,
    /// What encrypts stored values, where KMS plugins may be part of it: its health is the server's.
    pub plugins: Option<Arc<Encryption>>,
    /// What may not be written before it is told of (`StorageVersionAPI`).
    pub untold: Option<Arc<Barrier>>,
    /// Set once the start-up work is done.
    pub ready: AtomicBool,
    /// Lists as they were compressed before.
    pub compressed: Arc<Compressed>,
    /// `--request-timeout` and `--min-request-timeout`.
    pub limits: RequestLimits,
    /// The way to each network.
    pub egress: Egress,
    /// Other API servers of this cluster (`--peer-ca-file`).
    pub peers: Option<Arc<Peers>>,
    /// Groups served by other servers.
    pub aggregated: Aggregator,
    /// The way to the kubelets, and from there to pods.
    pub kubelets: Kubelets,
    /// Cancelled when the server is told to stop: readyz fails, everything else goes on for a while.
    pub stopping: CancellationToken,
    /// Cancelled when the server drains: no new connections, watches end.
    pub drain: CancellationToken,
    /// Owner of connections and of the tunnels through them; it drains with `drain`.
    pub tasks: Tasks,
}

/// How many requests are served at once, and who decides.
pub enum InFlight {
    /// `--enable-priority-and-fairness`: seats are shared by priority levels.
    Fair(Arc<FlowControl>),
    /// So many of each kind, first come, first served.
    Bounded {
        /// `--max-requests-inflight`, for reads.
        reads: Semaphore,
        /// `--max-mutating-requests-inflight`, for writes.
        writes: Semaphore,
    },
}

impl Server {
    /// Whether CBOR is among what is served and taken.
    pub fn speaks_cbor(&self) -> bool {
        self.gates.has(Gate::CBORServingAndStorage)
    }

    /// How many objects of a resource there are; 0 for what is not stored here.
    pub fn count(&self, group: &str, plural: &str) -> usize {
        self.store.count(&ResourceId::new(group, plural))
    }

    /// Bytes of those objects.
    pub fn bytes(&self, group: &str, plural: &str) -> usize {
        self.store.bytes(&ResourceId::new(group, plural))
    }
}
