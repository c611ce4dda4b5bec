//! The daemon's connection to the API server: kubeconfig or in-cluster configuration, one HTTP/2 connection with keep-alive,
//! client-side rate limit, `rest_client_*` metrics. The result is a `kube::Client`, used with `kube::Api` for writes and by
//! the informers for reads.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, LazyLock, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{AUTHORIZATION, USER_AGENT},
};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Config,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounterVec};
use tokio::{sync::watch, time::Instant};
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

use crate::{
    metrics::{self, Stability},
    tls::ClientCertificate,
    traces::{self, Part},
    workqueue::Bucket,
};

/// How to reach the API server.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// File with cluster and credentials; without it (and `master`) the service account of the pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// Overrides the server's URL.
    pub master: Option<String>,
    /// Requests per second; 0 takes the default of 50, negative means no limit.
    pub qps: f32,
    /// Requests that may be sent at once; 0 takes the default of 100.
    pub burst: u32,
    /// Other rates for events: per second and at once, as `qps` and `burst`; without them, the same ones of their own.
    pub events: Option<(f32, u32)>,
    /// `User-Agent` header; see [`crate::version::user_agent`].
    pub user_agent: String,
    /// Upstream's wire format flag. Accepted for compatibility; requests are sent as JSON.
    pub content_type: String,
}

impl ClientOptions {
    /// Defaults for a component.
    pub fn new(component: &str) -> ClientOptions {
        ClientOptions {
            kubeconfig: None,
            master: None,
            qps: 0.0,
            burst: 0,
            events: None,
            user_agent: crate::version::user_agent(component),
            content_type: "application/json".to_owned(),
        }
    }

    /// These options for a client that sends many requests: `qps` times as many per second, `burst` times as many at once.
    #[must_use]
    pub fn scaled(&self, qps: f32, burst: u32) -> ClientOptions {
        ClientOptions { qps: self.qps * qps, burst: self.burst.saturating_mul(burst), ..self.clone() }
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("invalid kubeconfig {path:?}")]
    Kubeconfig { path: PathBuf, source: Box<kube::config::KubeconfigError> },
    #[error("invalid server address {0:?}")]
    Master(String),
    #[error("neither a kubeconfig nor an in-cluster configuration is available")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    #[error("invalid credentials or TLS settings")]
    Setup(#[source] Box<kube::Error>),
    #[error("invalid TLS server name {0:?}")]
    ServerName(String),
    #[error("invalid user agent {0:?}")]
    UserAgent(String),
}

/// Loads the configuration and builds a client; connects lazily.
///
/// # Errors
/// When the configuration cannot be read or holds unusable credentials.
pub async fn connect(options: &ClientOptions) -> Result<kube::Client, ClientError> {
    let config = load(options).await?;
    from_config(config, options)
}

/// As [`connect`], presenting a client certificate that can be replaced (the kubelet's rotation). Connections that are open
/// keep the certificate they were made with until they close.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with_certificate(
    options: &ClientOptions,
    certificate: Arc<ClientCertificate>,
) -> Result<kube::Client, ClientError> {
    let config = load(options).await?;
    build(config, options, Some(certificate))
}

/// A connection without credentials of its own, which several identities share; each is a client of its own with its own
/// rate limit.
#[derive(Clone)]
pub struct SharedConnection {
    inner: Transport,
    host: String,
    namespace: String,
    options: ClientOptions,
}

/// The value of `Authorization`, replaced while it is used; requests wait while there is none.
pub type Bearer = watch::Receiver<Option<HeaderValue>>;

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SharedConnection").field("host", &self.host).finish_non_exhaustive()
    }
}

impl SharedConnection {
    /// Loads the configuration and forgets its credentials; connects lazily.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn new(options: &ClientOptions) -> Result<SharedConnection, ClientError> {
        let mut config = load(options).await?;
        config.auth_info = kube::config::AuthInfo::default();
        let inner = transport(&config, None)?;
        Ok(SharedConnection {
            inner,
            host: host_of(&config),
            namespace: config.default_namespace,
            options: options.clone(),
        })
    }

    /// The same connection, whose clients have other limits and else the same options.
    #[must_use]
    pub fn with_limits_of(&self, options: &ClientOptions) -> SharedConnection {
        let options = ClientOptions { qps: options.qps, burst: options.burst, ..self.options.clone() };
        SharedConnection { options, ..self.clone() }
    }

    /// A client for one identity. `name` is appended to the user agent.
    ///
    /// # Errors
    /// When the name cannot stand in a header.
    pub fn client(&self, name: &str, bearer: Bearer) -> Result<kube::Client, ClientError> {
        let agent = format!("{}/{name}", self.options.user_agent);
        let agent = HeaderValue::from_str(&agent).map_err(|_| ClientError::UserAgent(agent))?;
        let limiter = Limiter::of(&self.options);
        let (inner, host) = (self.inner.clone(), self.host.clone());
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (inner, limiter, host, agent) = (inner.clone(), limiter.clone(), host.clone(), agent.clone());
            let mut bearer = bearer.clone();
            Box::pin(async move {
                let value = bearer.wait_for(Option::is_some).await?.clone();
                if let Some(value) = value {
                    request.headers_mut().insert(AUTHORIZATION, value);
                }
                limited(inner, limiter, host, agent, request).await
            }) as Answer
        });
        Ok(kube::Client::new(service, self.namespace.clone()))
    }
}

/// The certificates that the API server is verified by, as the configuration has them, in PEM; none where it has none.
///
/// # Errors
/// When the configuration cannot be read.
pub async fn authority(options: &ClientOptions) -> Result<Option<String>, ClientError> {
    let certificates = load(options).await?.root_cert.unwrap_or_default();
    let pem = |der: &Vec<u8>| {
        let text = BASE64_STANDARD.encode(der);
        let lines = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]);
        let lines = lines.collect::<Vec<_>>().join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    };
    Ok(Some(certificates.iter().map(pem).collect::<String>()).filter(|text| !text.is_empty()))
}

async fn load(options: &ClientOptions) -> Result<Config, ClientError> {
    let master = match options.master.as_deref().filter(|master| !master.is_empty()) {
        Some(text) => Some(text.parse::<http::Uri>().map_err(|_| ClientError::Master(text.to_owned()))?),
        None => None,
    };
    let Some(path) = options.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return match master {
            Some(url) => Ok(Config::new(url)),
            None => Config::incluster().map_err(|error| ClientError::InCluster(Box::new(error))),
        };
    };
    let failed = |source| ClientError::Kubeconfig { path: path.clone(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?;
    if let Some(url) = master {
        config.cluster_url = url;
    }
    Ok(config)
}

/// Builds a client from a loaded configuration.
///
/// # Errors
/// When credentials or TLS settings are unusable.
pub fn from_config(config: Config, options: &ClientOptions) -> Result<kube::Client, ClientError> {
    build(config, options, None)
}

fn build(
    config: Config,
    options: &ClientOptions,
    certificate: Option<Arc<ClientCertificate>>,
) -> Result<kube::Client, ClientError> {
    let inner = transport(&config, certificate)?;
    let host = host_of(&config);
    let agent = HeaderValue::from_str(&options.user_agent)
        .map_err(|_| ClientError::UserAgent(options.user_agent.clone()))?;
    let limiter = Limiter::of(options);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, limiter, host, agent) = (inner.clone(), limiter.clone(), host.clone(), agent.clone());
        Box::pin(limited(inner, limiter, host, agent, request)) as Answer
    });
    Ok(kube::Client::new(service, config.default_namespace))
}

fn host_of(config: &Config) -> String {
    config.cluster_url.authority().map(ToString::to_string).unwrap_or_default()
}

/// Connections with what a configuration adds to requests.
fn transport(config: &Config, certificate: Option<Arc<ClientCertificate>>) -> Result<Transport, ClientError> {
    crate::tls::install_provider();
    let setup = |error| ClientError::Setup(Box::new(error));
    let mut tls = config.rustls_client_config().map_err(setup)?;
    if let Some(certificate) = certificate {
        tls.client_auth_cert_resolver = certificate;
    }
    let http = hyper_client(config, tls)?;
    Ok(BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(setup)?)
            .layer(config.extra_headers_layer().map_err(setup)?)
            .map_err(BoxError::from)
            .service(http),
    ))
}

/// One HTTP/2 (or else HTTP/1.1) connection pool.
fn hyper_client(
    config: &Config,
    tls: rustls::ClientConfig,
) -> Result<HttpClient<HttpsConnector<HttpConnector>, Body>, ClientError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(Duration::from_secs(30)));
    http.set_keepalive(Some(Duration::from_secs(30)));
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let parsed = rustls_pki_types::ServerName::try_from(name.clone())
            .map_err(|_| ClientError::ServerName(name.clone()))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(parsed));
    }
    let connector = builder.enable_all_versions().wrap_connector(http);
    Ok(HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        // As client-go: a silent connection is probed after 30 s and given up 15 s later.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15))
        .build(connector))
}

type Transport = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;
type Answer = futures::future::BoxFuture<'static, Result<Response<Counted>, BoxError>>;

async fn limited(
    inner: Transport,
    limiter: Limiter,
    host: String,
    agent: HeaderValue,
    mut request: Request<Body>,
) -> Result<Response<Counted>, BoxError> {
    let method = request.method().as_str().to_owned();
    let labels = [method.as_str(), host.as_str()];
    if let Some(waited) = limiter.acquire(request.uri().path()).await {
        FAMILIES.limiter.with_label_values(&labels).observe(waited.as_secs_f64());
        if let Some(observer) = OBSERVER.get() {
            observer.waited(&method, &host, waited);
        }
    }
    FAMILIES.sent.with_label_values(&labels).observe(request.body().size_hint().lower() as f64);
    let streams = is_stream(request.uri());
    request.headers_mut().insert(USER_AGENT, agent);
    let span = followed(&method, &host, &mut request);
    let start = Instant::now();
    let result = inner.oneshot(request).await;
    if let Some(mut span) = span {
        answered(&mut span, &result);
    }
    let code = match &result {
        Ok(response) => response.status().as_u16().to_string(),
        Err(_) => "<error>".to_owned(),
    };
    FAMILIES.requests.with_label_values(&[code.as_str(), method.as_str(), host.as_str()]).inc();
    FAMILIES.latency.with_label_values(&labels).observe(start.elapsed().as_secs_f64());
    if let Some(observer) = OBSERVER.get() {
        observer.answered(&method, &host, &code, start.elapsed());
    }
    let received = (!streams).then(|| FAMILIES.received.with_label_values(&labels));
    Ok(result?.map(|body| Counted { body, size: 0, received }))
}

/// The request as a part of what is done, if that is followed; the server is told.
fn followed(method: &str, host: &str, request: &mut Request<Body>) -> Option<Box<Part>> {
    let mut span = traces::ask(|| format!("HTTP {method}"))?;
    span.note("http.request.method", method);
    span.note("server.address", host);
    span.note("url.full", &request.uri().to_string());
    if let Some(parent) = span.trace_parent() {
        request.headers_mut().insert(traces::TRACE_PARENT, parent);
    }
    Some(span)
}

fn answered(span: &mut Part, result: &Result<Response<Incoming>, BoxError>) {
    match result {
        Ok(response) => {
            let code = response.status();
            span.count("http.response.status_code", code.as_u16().into());
            if code.is_client_error() || code.is_server_error() {
                span.fail(String::new());
            }
        }
        Err(error) => span.fail(error.to_string()),
    }
}

/// Whether an answer goes on for as long as the client listens: its size would say nothing.
fn is_stream(uri: &http::Uri) -> bool {
    let is_on = |pair: &str| matches!(pair, "watch=true" | "watch=1" | "follow=true");
    uri.query().is_some_and(|query| query.split('&').any(is_on))
}

/// A body whose bytes are counted, and told once all of it has come.
struct Counted {
    body: Incoming,
    size: usize,
    received: Option<Histogram>,
}

impl Counted {
    fn end(&mut self) {
        if let Some(received) = self.received.take() {
            received.observe(self.size as f64);
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.size += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => self.received = None,
            None => self.end(),
        }
        // Whoever knows that nothing comes any more does not ask again.
        if self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Client-side rate limit of a client: one for events, so that telling what is done never holds it up, and one shared by
/// all other requests. Upstream's daemons have a client of its own for events to the same end.
#[derive(Clone, Debug)]
struct Limiter(Option<Arc<Buckets>>);

#[derive(Debug)]
struct Buckets {
    events: Option<Mutex<Bucket>>,
    others: Option<Mutex<Bucket>>,
}

/// A bucket with defaults for what is zero; none for a rate below that.
fn bucket((qps, burst): (f32, u32)) -> Option<Mutex<Bucket>> {
    let qps = if qps == 0.0 { 50.0 } else { f64::from(qps) };
    let burst = if burst == 0 { 100 } else { burst };
    (qps > 0.0).then(|| Mutex::new(Bucket::new(qps, f64::from(burst))))
}

impl Limiter {
    fn of(options: &ClientOptions) -> Limiter {
        let (others, events) = ((options.qps, options.burst), options.events);
        let buckets = Buckets { events: bucket(events.unwrap_or(others)), others: bucket(others) };
        let limits = buckets.events.is_some() || buckets.others.is_some();
        Limiter(limits.then(|| Arc::new(buckets)))
    }

    /// Waits until the request to this path may be made; for how long, if there is a limit.
    async fn acquire(&self, path: &str) -> Option<Duration> {
        let buckets = self.0.as_ref()?;
        let bucket = if is_of_event(path) { &buckets.events } else { &buckets.others };
        let delay = bucket.as_ref()?.lock().reserve(Instant::now());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Some(delay)
    }
}

/// The path is that of a namespace's events or one of them.
fn is_of_event(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').nth(1) == Some("events"))
}

/// What is told of every request, for daemons that count them under names of their own.
pub trait Observer: Send + Sync {
    /// A request was held back for so long by the rate limit of its client.
    fn waited(&self, method: &str, host: &str, took: Duration);
    /// A request was answered with this code, `<error>` for none.
    fn answered(&self, method: &str, host: &str, code: &str, took: Duration);
}

static OBSERVER: OnceLock<Box<dyn Observer>> = OnceLock::new();

/// Tells of every request of the process from now on. The first one who asks is told.
pub fn observe(observer: Box<dyn Observer>) {
    drop(OBSERVER.set(observer));
}

struct Families {
    requests: IntCounterVec,
    latency: HistogramVec,
    limiter: HistogramVec,
    sent: HistogramVec,
    received: HistogramVec,
}

const SECONDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
const BYTES: [f64; 11] =
    [64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// A histogram by verb and host.
fn by_verb(name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    metrics::histogram_vec(name, help, Stability::Alpha, &["verb", "host"], buckets.to_vec())
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families {
    limiter: by_verb(
        "rest_client_rate_limiter_duration_seconds",
        "Client side rate limiter latency in seconds. Broken down by verb, and host.",
        &SECONDS,
    ),
    sent: by_verb(
        "rest_client_request_size_bytes",
        "Request size in bytes. Broken down by verb and host.",
        &BYTES,
    ),
    received: by_verb(
        "rest_client_response_size_bytes",
        "Response size in bytes. Broken down by verb and host.",
        &BYTES,
    ),
    requests: metrics::counter_vec(
        "rest_client_requests_total",
        "Number of HTTP requests, partitioned by status code, method, and host.",
        Stability::Alpha,
        &["code", "method", "host"],
    ),
    latency: by_verb(
        "rest_client_request_duration_seconds",
        "Request latency in seconds. Broken down by verb, and host.",
        &SECONDS,
    ),
});

/// Whether an API call failed because the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    has_code(error, 404)
}

/// Whether an API call failed because the object exists already (as opposed to a resourceVersion conflict).
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// Whether an API call failed because the object has changed meanwhile.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// Whether an API call failed because its namespace is being deleted.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let terminating = |cause: &kube::core::response::StatusCause| cause.reason == "NamespaceTerminating";
    matches!(error, kube::Error::Api(status)
        if status.details.as_ref().is_some_and(|details| details.causes.iter().any(terminating)))
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_scaled_where_there_are_any() {
        let of =
            |qps: f32, burst: u32| ClientOptions { qps, burst, ..ClientOptions::new("x") }.scaled(20.0, 100);
        assert_eq!((of(20.0, 30).qps, of(20.0, 30).burst), (400.0, 3000));
        assert!(of(-1.0, 30).qps < 0.0);
    }

    #[tokio::test]
    async fn the_authority_is_that_of_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let body = "QUJD".repeat(20);
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n{}\n-----END CERTIFICATE-----\n",
            &body[..64],
            &body[64..]
        );
        let of = async |given: &str| {
            let text = format!(
                "{{kind: Config, apiVersion: v1, current-context: c, \
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}], users: [{{name: u, user: {{}}}}], \
                 clusters: [{{name: k, cluster: {{server: 'https://k'{given}}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
            let options = ClientOptions { kubeconfig: Some(path.clone()), ..ClientOptions::new("x") };
            authority(&options).await.unwrap()
        };
        let given = format!(", certificate-authority-data: {}", BASE64_STANDARD.encode(&pem));
        assert_eq!(of(&given).await, Some(pem));
        assert_eq!(of("").await, None);
    }

    #[test]
    fn events_are_told_by_their_path() {
        for (path, expected) in [
            ("/api/v1/namespaces/a/events", true),
            ("/api/v1/namespaces/a/events/b", true),
            ("/apis/events.k8s.io/v1/namespaces/a/events", true),
            ("/api/v1/namespaces/events/pods/events", false),
            ("/api/v1/namespaces/events", false),
            ("/api/v1/events", false),
            ("/api/v1/nodes/a", false),
        ] {
            assert_eq!(is_of_event(path), expected, "{path}");
        }
    }
}
