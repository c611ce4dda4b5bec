//! The kubelet's own API: pods, logs, exec, attach, port-forward, stats and metrics.
//!
//! One list of routes ([`Server::route`]); the listener, authentication and authorization are component-base's, told what a
//! path means by `attributes`. Streams are spliced to the runtime's streaming server byte by byte (`streams`).

pub mod attributes;
pub mod auth;
mod cadvisor;
pub mod debug;
pub mod listener;
pub mod logs;
pub mod metrics;
pub mod node_logs;
mod spans;
pub mod stats;
pub mod streams;

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use component_base::{features::Gate, serving::Site, traces::Tracer};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Serialize;

use self::node_logs::NodeLogs;
use crate::{
    pod,
    pods::Pods,
    runtime::{Glimpse, RuntimeError, cri, observed::PodRuntime},
    stats::Collector,
    worker::Shared,
};

/// A body of an answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The path or the object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The request can be read and may not be.
    #[error("{0}")]
    Unprocessable(&'static str),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Something else failed.
    #[error("{0}")]
    Internal(String),
    /// Switched off.
    #[error("{0} disabled.")]
    Disabled(&'static str),
}

impl ServeError {
    fn code(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Runtime(error) if error.is_not_found() => StatusCode::NOT_FOUND,
            Self::Runtime(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Disabled(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// Parts of the API that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Logs of containers, commands in them, and all that tells of the kubelet's insides.
    pub debugging: bool,
    /// `/debug/pprof`.
    pub profiling: bool,
    /// `/debug/flags`.
    pub debug_flags: bool,
}

/// Who is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Those who may have what they ask for.
    Full,
    /// Anybody, on the port without authentication.
    ReadOnly,
}

impl Access {
    /// Whether there is anything at a path of which this is the first part.
    fn has(self, first: &str) -> bool {
        self == Self::Full || matches!(first, "healthz" | "livez" | "readyz" | "pods" | "stats" | "metrics")
    }

    fn label(self) -> &'static str {
        match self {
            Self::Full => "readwrite",
            Self::ReadOnly => "readonly",
        }
    }
}

impl Switches {
    /// Whether a path of which this is the first part is switched off with all that is for debugging.
    ///
    /// # Errors
    /// When it is: some paths say so, others are not there.
    fn check(self, first: &str) -> Result<(), ServeError> {
        if self.debugging {
            return Ok(());
        }
        match first {
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "debug"
            | "logs" => Err(ServeError::Disabled("Debug endpoints are")),
            "configz" | "checkpoint" | "statusz" | "flagz" => {
                Err(ServeError::NotFound("404 page not found".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// The kubelet's API.
pub struct Server {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The pods.
    pub pods: Arc<Pods>,
    /// What is used.
    pub stats: Arc<Collector>,
    /// The kubelet's folder.
    pub root_dir: PathBuf,
    /// The folder of the node's logs, where they are shown.
    pub node_logs: Option<NodeLogs>,
    /// What else can be switched off.
    pub switches: Switches,
    /// Health, version and configuration, as every daemon tells them.
    pub site: Site,
    /// Follows requests, where that is wanted.
    pub tracer: Option<Tracer>,
}

/// Query parameters, decoded; a name may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a URL's query.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of a name.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// A switch: `1` or `true`.
    #[must_use]
    pub fn on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "True" | "t"))
    }
}

impl Server {
    /// Serves one request.
    ///
    /// # Errors
    /// Never; failures are answers.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        access: Access,
    ) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let first = known(&path);
        let long =
            if matches!(first, "exec" | "attach" | "portForward" | "debug") { "true" } else { "false" };
        let labels = [long, method.as_str(), first, access.label()];
        let (begun, metrics) = (Instant::now(), crate::metrics::get());
        metrics.http_requests.with_label_values(&labels).inc();
        let inflight = metrics.http_inflight.with_label_values(&labels);
        inflight.inc();
        let result = Arc::clone(&self).route(request, access).await;
        inflight.dec();
        metrics.http_duration.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
        Ok(result.unwrap_or_else(|error| {
            tracing::debug!(%method, path, %error, "request failed");
            answer(error.code(), "text/plain; charset=utf-8", error.to_string())
        }))
    }

    async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        access: Access,
    ) -> Result<Response<Body>, ServeError> {
        let path = request.uri().path().trim_matches('/').to_owned();
        let query = Query::parse(request.uri().query());
        let parts: Vec<&str> = path.split('/').collect();
        let first = parts.first().copied().unwrap_or_default();
        if !access.has(first) {
            return Err(ServeError::NotFound("404 page not found".to_owned()));
        }
        self.switches.check(first)?;
        if first == "checkpoint" && !self.shared.gates.has(Gate::ContainerCheckpoint) {
            return Err(ServeError::NotFound("404 page not found".to_owned()));
        }
        match (request.method(), parts.as_slice()) {
            (_, ["debug", ..]) => debug::serve(self.switches, request).await,
            (&Method::GET, ["pods"]) => Ok(json(&list(self.pods.list()))),
            (&Method::GET, ["runningpods"]) => Ok(json(&list(self.running().await?))),
            (&Method::GET, ["containerLogs", namespace, name, container]) => {
                logs::serve(&self, namespace, name, container, &query).await
            }
            (&Method::GET | &Method::POST, ["exec", rest @ ..]) => {
                streams::exec(&self, rest, &query, request).await
            }
            (&Method::GET | &Method::POST, ["attach", rest @ ..]) => {
                streams::attach(&self, rest, &query, request).await
            }
            (&Method::GET | &Method::POST, ["portForward", rest @ ..]) => {
                streams::port_forward(&self, rest, &query, request).await
            }
            (&Method::POST, ["run", rest @ ..]) => streams::run(&self, rest, &query).await,
            (&Method::GET, ["stats", "summary"]) => {
                Ok(json(&stats::summary(&self, query.on("only_cpu_and_memory")).await?))
            }
            (&Method::GET, ["metrics"]) => {
                self.count();
                Ok(text(metrics::process() + &metrics::disks(&self).await?))
            }
            (&Method::GET, ["metrics", "resource"]) => Ok(text(metrics::resource(&self).await?)),
            (&Method::GET, ["metrics", "cadvisor"]) => Ok(text(cadvisor::serve(&self).await?)),
            (&Method::GET, ["metrics", "probes"]) => Ok(text(metrics::probes())),
            (&Method::GET, ["logs", ..]) => match &self.node_logs {
                Some(logs) => node_logs::serve(logs, request.uri().path(), &query, request.headers()).await,
                None => Err(ServeError::Disabled("logs endpoint is")),
            },
            (&Method::POST, ["checkpoint", namespace, name, container]) => {
                self.checkpoint(namespace, name, container, &query).await
            }
            _ => {
                let (parts, _) = request.into_parts();
                Ok(self.site.answer(&parts).map(|body| body.map_err(|never| match never {}).boxed_unsync()))
            }
        }
    }

    /// Brings the numbers of pods up to date before they are shown.
    fn count(&self) {
        let (metrics, pods) = (crate::metrics::get(), self.pods.list());
        for fixed in [false, true] {
            let label = [if fixed { "true" } else { "false" }];
            let of_kind = || pods.iter().filter(|p| pod::is_static(p) == fixed);
            let active = of_kind().filter(|p| self.shared.allocations.holds(pod::uid(p))).count();
            metrics.desired_pods.with_label_values(&label).set(i64::try_from(of_kind().count()).unwrap_or(0));
            metrics.active_pods.with_label_values(&label).set(i64::try_from(active).unwrap_or(0));
        }
        let ephemeral =
            pods.iter().map(|p| pod::spec(p).ephemeral_containers.as_deref().unwrap_or_default().len());
        metrics.ephemeral_containers.set(i64::try_from(ephemeral.sum::<usize>()).unwrap_or(0));
        metrics.working_pods.reset();
        for lifecycle in ["sync", "terminating"] {
            for config in ["desired", "orphan"] {
                for fixed in ["", "true"] {
                    metrics.working_pods.with_label_values(&[config, lifecycle, fixed]).set(0);
                }
            }
        }
        for ((lifecycle, config, fixed), count) in self.pods.working() {
            let fixed = if fixed { "true" } else { "" };
            metrics.working_pods.with_label_values(&[config, lifecycle, fixed]).set(count);
        }
        self.shared.pulled.count();
        metrics.volumes.reset();
        for pod in &pods {
            let folder = self.shared.pods_dir.join(pod::uid(pod));
            for volume in pod::spec(pod).volumes.iter().flatten() {
                let Some(plugin) = crate::volume::PLUGINS.iter().find(|plugin| plugin.supports(volume))
                else {
                    continue;
                };
                let plugin = format!("kubernetes.io/{}", plugin.name());
                metrics.volumes.with_label_values(&[plugin.as_str(), "desired_state_of_world"]).inc();
                if crate::volume::place(&folder, volume).is_some() {
                    metrics.volumes.with_label_values(&[plugin.as_str(), "actual_state_of_world"]).inc();
                }
            }
        }
        let resizing = |p: &&Pod| {
            let mut conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.any(|c| c.type_ == "PodResizeInProgress")
        };
        let resizing = pods.iter().filter(resizing).count();
        metrics.pending_resizes.reset();
        for pod in &pods {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            for pending in conditions.filter(|c| c.type_ == "PodResizePending") {
                let reason = pending.reason.as_deref().unwrap_or_default().to_lowercase();
                metrics.pending_resizes.with_label_values(&[&reason]).inc();
            }
        }
        metrics.resizes_in_progress.set(i64::try_from(resizing).unwrap_or(0));
        let fixed = pods.iter().filter(|p| pod::is_static(p)).count();
        metrics.mirror_pods.set(i64::try_from(fixed).unwrap_or(0));
    }

    /// The pod of this name, and the uid when one is given.
    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Pod, ServeError> {
        let found = self.pods.named(namespace, name);
        found
            .filter(|p| uid.is_none_or(|uid| pod::uid(p) == uid))
            .ok_or_else(|| ServeError::NotFound(format!("pod \"{name}\" does not exist")))
    }

    async fn runtime_of(&self, pod: &Pod) -> Result<PodRuntime, ServeError> {
        Ok(self.shared.runtime.pod(pod::uid(pod)).await?)
    }

    /// Makes the runtime write a running container's state to a file of the node, which the answer names.
    async fn checkpoint(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, ServeError> {
        let pod = self.pod(namespace, name, None)?;
        if pod::container_named(&pod, container).is_none() {
            return Err(ServeError::NotFound(format!("container {container} does not exist")));
        }
        let timeout = query.all("timeout").last().map_or(Ok(0), |text| text.parse::<i64>());
        let timeout = timeout
            .map_err(|_| ServeError::NotFound("cannot parse value of timeout parameter".to_owned()))?;
        let runtime = self.runtime_of(&pod).await?;
        let record = runtime.running().find(|r| r.name == container);
        let record =
            record.ok_or_else(|| ServeError::NotFound(format!("container {container} not found")))?;
        let folder = self.root_dir.join("checkpoints");
        std::fs::create_dir_all(&folder).map_err(|e| ServeError::Internal(e.to_string()))?;
        let stamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let file = folder.join(format!("checkpoint-{name}_{namespace}-{container}-{stamp}.tar"));
        let place = file.to_string_lossy().into_owned();
        self.shared.runtime.checkpoint(&record.id, &place, timeout).await.map_err(|error| {
            ServeError::Internal(format!("checkpointing of {namespace}/{name}/{container} failed ({error})"))
        })?;
        Ok(json(&serde_json::json!({ "items": [place] })))
    }

    async fn running(&self) -> Result<Vec<Pod>, ServeError> {
        Ok(running_pods(&self.shared.runtime.glimpse().await?))
    }
}

/// The pods that have a sandbox that runs, with the names of their running containers.
fn running_pods(seen: &[Glimpse]) -> Vec<Pod> {
    let ready = cri::PodSandboxState::SandboxReady as i32;
    let running = cri::ContainerState::ContainerRunning as i32;
    let mut pods = Vec::new();
    for item in seen.iter().filter(|g| g.sandbox_id.is_none() && g.state == ready) {
        let mut pod = Pod::default();
        pod.metadata.name = Some(item.pod.name.clone());
        pod.metadata.namespace = Some(item.pod.namespace.clone());
        pod.metadata.uid = Some(item.pod.uid.clone());
        let own = seen.iter().filter(|g| g.sandbox_id.as_ref() == Some(&item.id) && g.state == running);
        pod.spec.get_or_insert_default().containers =
            own.map(|g| Container { name: g.name.clone(), ..Container::default() }).collect();
        pods.push(pod);
    }
    pods
}

/// The first part of a path, where it is one of the API's; requests for anything else are counted together.
fn known(path: &str) -> &'static str {
    const PATHS: [&str; 19] = [
        "healthz",
        "livez",
        "readyz",
        "version",
        "pods",
        "runningpods",
        "containerLogs",
        "exec",
        "attach",
        "portForward",
        "run",
        "stats",
        "metrics",
        "configz",
        "checkpoint",
        "logs",
        "debug",
        "statusz",
        "flagz",
    ];
    let first = path.trim_matches('/').split('/').next().unwrap_or_default();
    PATHS.into_iter().find(|known| *known == first).unwrap_or("other")
}

fn list(items: Vec<Pod>) -> serde_json::Value {
    serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}

/// An answer with this content.
#[must_use]
pub fn answer(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(content.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn text(content: String) -> Response<Body> {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", content)
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(StatusCode::OK, "application/json", bytes),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_off_says_so_or_is_not_there() {
        let on = Switches { debugging: true, profiling: true, debug_flags: true };
        let off = Switches { debugging: false, ..on };
        let code =
            |switches: Switches, first: &str| switches.check(first).err().map(|error| error.code().as_u16());
        for (first, expected) in [
            ("exec", Some(405)),
            ("containerLogs", Some(405)),
            ("logs", Some(405)),
            ("debug", Some(405)),
            ("configz", Some(404)),
            ("statusz", Some(404)),
            ("pods", None),
            ("metrics", None),
            ("healthz", None),
        ] {
            assert_eq!((code(on, first), code(off, first)), (None, expected), "{first}");
        }
        assert_eq!(off.check("run").unwrap_err().to_string(), "Debug endpoints are disabled.");
    }

    #[test]
    fn without_authentication_nothing_is_there_that_changes_or_reveals() {
        for first in ["healthz", "pods", "stats", "metrics"] {
            assert!(Access::ReadOnly.has(first), "{first}");
        }
        for first in
            ["exec", "containerLogs", "logs", "configz", "run", "debug", "statusz", "runningpods", ""]
        {
            assert!(!Access::ReadOnly.has(first) && Access::Full.has(first), "{first}");
        }
    }

    #[test]
    fn queries_decode_and_repeat() {
        let query = Query::parse(Some("command=sh&command=-c&command=echo%20a+b&input=1&tty=0&flag"));
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b"]);
        assert!(query.on("input") && !query.on("tty") && !query.on("none"));
        assert_eq!(query.get("flag"), Some(""));
    }
}
