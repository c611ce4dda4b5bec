//! Other API servers of this cluster, which may serve what this one does not: of another version, or configured otherwise.
//!
//! ```text
//! identity leases ──→ sync: where they are, what they serve ──→ request path: passed on to one that serves it
//!                                                            └→ aggregated discovery: what any of them serves
//! ```
//! Contract: KEP-4020; upstream's `apiserver/pkg/util/peerproxy` and `reconcilers/peer_endpoint_lease.go`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use component_base::{
    metrics::{self, Stability},
    task::Tasks,
    tls::{self, TlsError},
    workqueue::chain,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prometheus::IntCounterVec;
use rand::seq::IndexedRandom;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    aggregator,
    auth::User,
    bootstrap::identity,
    egress::Route,
    object::Object,
    objects::{LEASES, Objects, PEER_LEASES},
    proxy::{
        self,
        dial::{self, Target},
    },
    reload,
    request_path::{Peer, info::RequestInfo},
    response::Body,
    server::Server,
    status::Status,
};

mod merge;

pub use merge::merged;

/// Says that a request was passed on already, so that it is not passed on again.
const PROXIED: HeaderName = HeaderName::from_static("x-kubernetes-peer-proxied");
/// Every API server's certificate has this name.
const SERVER_NAME: &str = "kubernetes.default.svc";
/// How often it is looked whether servers came or went.
const TICK: Duration = Duration::from_secs(5);
/// How long what definitions and other servers made here, and is gone, is not looked for at others, which may not know
/// yet that it is gone.
const GRACE: Duration = Duration::from_secs(300);
/// Time to connect, and to be told what is served.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_DOCUMENT: usize = 32 << 20;
/// Newest form first; from this server alone, where it knows the difference.
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,\
application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Group, version and plural.
type Resource = (String, String, String);

/// What is known of the other servers.
pub struct Peers {
    /// This server's identity.
    own: String,
    files: Files,
    tls: ArcSwap<ClientConfig>,
    route: Route,
    known: ArcSwap<Vec<Arc<Known>>>,
}

/// What this server believes the others by, and shows them.
struct Files {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// Another server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Name of its identity lease.
    pub id: String,
    resources: HashSet<Resource>,
    /// Groups as its aggregated discovery has them, but the core group.
    pub groups: Vec<Value>,
}

/// Why others cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `--peer-ca-file`, or `--proxy-client-cert-file` and its key.
    #[error("TLS")]
    Files(#[from] TlsError),
    /// They do not go together.
    #[error("TLS")]
    Client(#[from] rustls::Error),
}

// === impl Peers ===

impl Peers {
    /// Reads the certificates. `pair` is who this server is to the others, `own` its identity, `route` leads there.
    ///
    /// # Errors
    /// When one is of no use.
    pub fn new(ca: &Path, pair: (&Path, &Path), own: String, route: Route) -> Result<Self, BuildError> {
        let files = Files { ca: ca.to_owned(), cert: pair.0.to_owned(), key: pair.1.to_owned() };
        let tls = ArcSwap::new(files.read()?);
        Ok(Self { own, files, tls, route, known: ArcSwap::default() })
    }

    /// Reads the certificates again when their files change.
    pub fn watch(self: &Arc<Self>, tasks: &Tasks) {
        let Files { ca, cert, key } = &self.files;
        let (files, peers) = (vec![ca.clone(), cert.clone(), key.clone()], self.clone());
        reload::watch(tasks, "certificates for other API servers", files, move || peers.reload());
    }

    fn reload(&self) -> Result<(), String> {
        self.tls.store(self.files.read().map_err(|error| chain(&error))?);
        Ok(())
    }

    /// The others, with what they serve.
    pub fn known(&self) -> Arc<Vec<Arc<Known>>> {
        self.known.load_full()
    }

    /// Who serves a resource that this server does not.
    pub fn elsewhere(&self, server: &Server, info: &RequestInfo, headers: &HeaderMap) -> Vec<String> {
        if !info.is_resource || headers.get(PROXIED).is_some_and(|value| value == "true") {
            return Vec::new();
        }
        let known = self.known.load();
        if known.is_empty()
            || server.catalog.load().find(&info.group, &info.version, &info.resource).is_some()
            || server.aggregated.find(&info.path).is_some()
        {
            return Vec::new();
        }
        let wanted = (info.group.to_string(), info.version.to_string(), info.resource.to_string());
        known.iter().filter(|one| one.resources.contains(&wanted)).map(|one| one.id.clone()).collect()
    }

    fn target(&self, (host, port): (String, u16)) -> Target {
        Target {
            host,
            port,
            tls: Some(self.tls.load_full()),
            server_name: Some(SERVER_NAME.to_owned()),
            timeout: TIMEOUT,
            route: self.route.clone(),
        }
    }

    /// What another server says it serves.
    async fn ask(&self, server: &Server, id: &str) -> Result<Known, String> {
        let place = endpoint(&*server.objects, id).await.inspect_err(|_| {
            SYNC_ERRORS.with_label_values(&["hostport_resolution"]).inc();
        })?;
        let target = self.target(place);
        let mut known = Known { id: id.to_owned(), ..Known::default() };
        for path in ["/api", "/apis"] {
            let asked = tokio::time::timeout(TIMEOUT, discovery(server, &target, path)).await;
            let document =
                asked.unwrap_or_else(|_| Err("no answer in time".to_owned())).inspect_err(|_| {
                    SYNC_ERRORS.with_label_values(&["fetch_discovery"]).inc();
                })?;
            known.add(&document);
        }
        Ok(known)
    }
}

impl Files {
    fn read(&self) -> Result<Arc<ClientConfig>, BuildError> {
        let roots = tls::load_roots(&self.ca)?;
        let client = tls::load_pair(&self.cert, &self.key)?;
        Ok(dial::client_tls(Some(roots), Some(&client))?)
    }
}

impl Known {
    fn add(&mut self, document: &Value) {
        let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        for group in list(document, "items") {
            let name = text(&group["metadata"], "name");
            for version in list(&group, "versions") {
                let of = text(&version, "version");
                for resource in list(&version, "resources") {
                    self.resources.insert((name.clone(), of.clone(), text(&resource, "resource")));
                }
            }
            if !name.is_empty() {
                self.groups.push(group);
            }
        }
    }

    /// Without the group versions that others made here.
    fn without(&self, made: &HashMap<(String, String), Instant>) -> Self {
        let is_made = |group: &str, version: &str| made.contains_key(&(group.to_owned(), version.to_owned()));
        let mut left = self.clone();
        left.resources.retain(|(group, version, _)| !is_made(group, version));
        for group in &mut left.groups {
            let name = group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if let Some(versions) = group["versions"].as_array_mut() {
                versions.retain(|v| !is_made(&name, v["version"].as_str().unwrap_or_default()));
            }
        }
        left.groups.retain(|group| group["versions"].as_array().is_some_and(|all| !all.is_empty()));
        left
    }
}

/// Passes a request on to one of the servers that serve it.
///
/// # Errors
/// 503 when none of them can be found or reached.
pub async fn serve(
    server: Arc<Server>,
    peers: &Peers,
    able: Vec<String>,
    info: Arc<RequestInfo>,
    user: &Arc<User>,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let mut places = Vec::new();
    for id in &able {
        places.extend(endpoint(&*server.objects, id).await.ok());
    }
    let labels = [info.group.as_str(), info.version.as_str(), info.resource.as_str()];
    let Some(place) = places.choose(&mut rand::rng()).cloned() else {
        ERRORS.with_label_values(&["endpoint_resolution", labels[0], labels[1], labels[2]]).inc();
        let why = "Error getting ip and port info of the remote server while proxying";
        return Err(Status::unavailable(why));
    };
    tracing::debug!(
        path = info.path,
        host = place.0,
        port = place.1,
        "request is passed on to another server"
    );
    aggregator::set_user(request.headers_mut(), user);
    request.headers_mut().insert(PROXIED, HeaderValue::from_static("true"));
    let answer = proxy::forward_to(server, peers.target(place), info.clone(), user, peer, request).await;
    let code = answer.as_ref().map_or_else(|status| status.code, |answer| answer.status().as_u16());
    REROUTED.with_label_values(&[code.to_string().as_str(), labels[0], labels[1], labels[2]]).inc();
    answer
}

/// Keeps what is known of the others true, until cancelled by the caller.
pub async fn run(server: Arc<Server>, peers: Arc<Peers>) {
    let (mut raw, mut synced) = (Vec::<Known>::new(), None);
    let mut made = HashMap::<(String, String), Instant>::new();
    loop {
        let leases = others(&*server.objects, &peers.own).await;
        match leases {
            Err(status) => {
                SYNC_ERRORS.with_label_values(&["lease_list"]).inc();
                tracing::warn!(error = %status, "other API servers cannot be listed");
            }
            Ok(leases) if synced.as_ref() != Some(&leases) => {
                raw.clear();
                let mut failed = false;
                for id in leases.keys() {
                    match peers.ask(&server, id).await {
                        Ok(known) => raw.push(known),
                        Err(why) => {
                            failed = true;
                            tracing::info!(id, why, "what another API server serves is not known yet");
                        }
                    }
                }
                synced = (!failed).then_some(leases);
            }
            Ok(_) => {}
        }
        note_made(&server, &mut made, Instant::now());
        let known: Vec<Arc<Known>> = raw.iter().map(|one| Arc::new(one.without(&made))).collect();
        if *peers.known.load_full() != known {
            peers.known.store(Arc::new(known));
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Group versions that definitions and registrations make here: what the others know of them says nothing.
fn note_made(server: &Server, made: &mut HashMap<(String, String), Instant>, now: Instant) {
    let catalog = server.catalog.load();
    for resource in catalog.iter().filter(|resource| resource.strategy.custom().is_some()) {
        for version in resource.versions {
            made.insert((resource.group.to_owned(), (*version).to_owned()), now);
        }
    }
    for remote in server.aggregated.remotes().iter() {
        made.insert((remote.group.clone(), remote.version.clone()), now);
    }
    made.retain(|_, seen| now.duration_since(*seen) < GRACE);
}

/// The other servers by identity, with who they are in this life.
async fn others(objects: &dyn Objects, own: &str) -> Result<BTreeMap<String, String>, Status> {
    let leases = objects.list(LEASES, Some("kube-system")).await?;
    let holder = |lease: &Object| {
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str);
        holder.filter(|holder| !holder.is_empty()).map(str::to_owned)
    };
    let is_other = |lease: &&Arc<Object>| identity::is_of_server(lease) && lease.name() != own;
    Ok(leases.iter().filter(is_other).filter_map(|l| Some((l.name().to_owned(), holder(l)?))).collect())
}

/// Where another server is reached, as it tells itself.
async fn endpoint(objects: &dyn Objects, id: &str) -> Result<(String, u16), String> {
    let told = objects.get(PEER_LEASES, "", id).await.map_err(|status| status.to_string())?;
    let told = told.ok_or_else(|| format!("no endpoint of {id}"))?;
    let host = told.pointer("/subsets/0/addresses/0/ip").and_then(Value::as_str);
    let port = told.pointer("/subsets/0/ports/0/port").and_then(Value::as_u64);
    let place = host.zip(port.and_then(|port| u16::try_from(port).ok()));
    place
        .map(|(host, port)| (host.to_owned(), port))
        .ok_or_else(|| format!("missing port in address of {id}"))
}

async fn discovery(server: &Server, target: &Target, path: &str) -> Result<Value, String> {
    let mut request = Request::get(path)
        .header(header::HOST, target.authority())
        .header(header::ACCEPT, ACCEPT)
        .header(header::USER_AGENT, component_base::version::user_agent("kube-apiserver"))
        .header(PROXIED, "true")
        .body(dial::empty())
        .map_err(|error| error.to_string())?;
    let name = "system:apiserver".to_owned();
    let user =
        User { uid: name.clone(), name, groups: vec!["system:authenticated".to_owned()], ..User::default() };
    aggregator::set_user(request.headers_mut(), &user);
    let answer = target.request(request, &server.tasks).await.map_err(|error| error.to_string())?;
    let code = answer.response.status();
    let body = Limited::new(answer.response.into_body(), MAX_DOCUMENT).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    if code != 200 {
        return Err(format!("discovery request failed with status: {}", code.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|error| format!("error decoding discovery response: {error}"))
}

static REROUTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_rerouted_request_total",
        "Total number of requests that were proxied to a peer kube-apiserver because the local apiserver was not capable of \
         serving it, broken down by 'group', 'version', and 'resource' indicating the GVR of the request.",
        Stability::Alpha,
        &["code", "group", "version", "resource"],
    )
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_peer_proxy_errors_total",
        "Total number of errors encountered while proxying requests to a peer kube apiserver",
        Stability::Alpha,
        &["type", "group", "version", "resource"],
    )
});
static SYNC_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_peer_discovery_sync_errors_total",
        "Total number of errors encountered while syncing discovery information from a peer kube-apiserver",
        Stability::Alpha,
        &["type"],
    )
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_definitions_made_here_is_not_looked_for_elsewhere() {
        let mut known = Known::default();
        let version =
            |name: &str, resource: &str| json!({"version": name, "resources": [{"resource": resource}]});
        known.add(&json!({"items": [{"metadata": {}, "versions": [version("v1", "pods")]}]}));
        known.add(&json!({"items": [
            {"metadata": {"name": "new.k8s.io"}, "versions": [version("v2", "gadgets"), version("v1", "gadgets")]},
            {"metadata": {"name": "example.com"}, "versions": [version("v1", "widgets")]}]}));
        assert_eq!((known.resources.len(), known.groups.len()), (4, 2));
        let now = Instant::now();
        let made = [("example.com", "v1"), ("new.k8s.io", "v1")]
            .map(|(group, version)| ((group.to_owned(), version.to_owned()), now));
        let left = known.without(&made.into());
        assert_eq!(left.groups.len(), 1);
        assert_eq!(left.groups[0]["versions"], json!([version("v2", "gadgets")]));
        assert_eq!(left.resources.len(), 2);
    }
}
