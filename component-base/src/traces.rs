//! Traces: what a daemon spends its time on for one request, told to a collector (OpenTelemetry's OTLP over gRPC).
//!
//! ```text
//! request with a traceparent, or drawn by lot ──┐
//! what the daemon does unasked, drawn by lot ────┴→ Trace ──spans that end──→ bounded queue ──→ exporter
//! ```
//! Nothing waits for the collector: a full queue loses spans, and counts them. Where no trace is followed a span costs a look
//! at a variable of the task.
//!
//! Contract: `TracingConfiguration` (apiserver.config.k8s.io/v1, kubelet.config.k8s.io/v1), upstream's
//! `component-base/tracing`, W3C Trace Context.

use std::{
    borrow::Cow,
    future::Future,
    path::PathBuf,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use prometheus::IntCounter;
use proto::otlp::v1::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span, Status, any_value,
    span::{Event, Link, SpanKind},
    status::StatusCode,
    trace_service_client::TraceServiceClient,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::futures::TaskLocalFuture,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    metrics::{self, Stability},
    task::Tasks,
};

/// `traceparent`.
pub const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Where a collector is unless told otherwise.
const DEFAULT_ENDPOINT: &str = "localhost:4317";
/// Spans that wait for the exporter at most, and are sent together at most (OpenTelemetry's defaults). A span of a request
/// takes about half a kilobyte: a megabyte in all.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
/// How long spans wait for others.
const DELAY: Duration = Duration::from_secs(5);
/// Time of one sending.
const TIMEOUT: Duration = Duration::from_secs(10);
const MILLION: u32 = 1_000_000;

/// `TracingConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TracingConfiguration {
    /// The collector: `host:port`, or with one of the schemes dns, unix and unix-abstract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Requests of a million that are followed although nobody asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate_per_million: Option<i32>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracesError {
    /// Less than none.
    #[error("samplingRatePerMillion: Invalid value: {0}: sampling rate must be positive")]
    Negative(i32),
    /// More than all.
    #[error(
        "samplingRatePerMillion: Invalid value: {0}: sampling rate per million must be less than or equal to one million"
    )]
    TooMany(i32),
    /// No place.
    #[error("endpoint: Invalid value: {0:?}: {1}")]
    Endpoint(String, String),
}

/// Where the collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(String),
    Unix(PathBuf),
    Abstract(String),
}

impl TracingConfiguration {
    /// How many of a million are followed, and where they are told.
    fn checked(&self) -> Result<(u32, Place), TracesError> {
        let rate = self.sampling_rate_per_million.unwrap_or(0);
        let million = u32::try_from(rate).map_err(|_| TracesError::Negative(rate))?;
        if million > MILLION {
            return Err(TracesError::TooMany(rate));
        }
        Ok((million, place(self.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?))
    }

    /// Checks it.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn check(&self) -> Result<(), TracesError> {
        self.checked().map(drop)
    }
}

fn place(text: &str) -> Result<Place, TracesError> {
    let wrong = |why: &str| TracesError::Endpoint(text.to_owned(), why.to_owned());
    let with_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Place::Tcp(host.to_owned()))
        }
        _ => Err(wrong("missing port in address")),
    };
    match text.split_once("//") {
        None => match text.split_once(':') {
            Some(("unix", path)) => Ok(Place::Unix(path.into())),
            Some(("unix-abstract", name)) => Ok(Place::Abstract(name.to_owned())),
            Some(("dns", host)) if host.contains(':') => with_port(host),
            _ => with_port(text),
        },
        Some(("dns:" | "", host)) => with_port(host.rsplit('/').next().unwrap_or_default()),
        Some(("unix:", path)) => Ok(Place::Unix(path.into())),
        Some(("unix-abstract:", name)) => Ok(Place::Abstract(name.to_owned())),
        Some((scheme, _)) => {
            let scheme = scheme.trim_end_matches(':');
            Err(wrong(&format!(
                "unsupported scheme: {scheme}. Options are none, dns, unix, or unix-abstract"
            )))
        }
    }
}

/// Follows requests. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Span>,
    /// Of a million.
    rate: u32,
}

/// One request's spans.
#[derive(Debug)]
pub struct Trace {
    queue: mpsc::Sender<Span>,
    /// Once it is known that the request is followed.
    begun: OnceLock<Begun>,
    /// What spans are part of now.
    parent: AtomicU64,
    /// When it was received.
    start: SystemTime,
    /// Why what nobody asked for failed.
    failed: OnceLock<String>,
}

#[derive(Debug)]
struct Begun {
    trace: [u8; 16],
    span: u64,
    remote_parent: Option<u64>,
    link: Option<Context>,
    name: Cow<'static, str>,
    attributes: Vec<KeyValue>,
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: [u8; 16],
    span: u64,
    sampled: bool,
}

/// A part of a request that goes on while this is there.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Part {
    trace: Arc<Trace>,
    name: Cow<'static, str>,
    kind: SpanKind,
    span: u64,
    /// Zero where it is all of its trace.
    parent: u64,
    /// Whether spans that begin meanwhile are parts of this one.
    holds: bool,
    start: SystemTime,
    attributes: Vec<KeyValue>,
    events: Vec<Event>,
    failed: Option<String>,
}

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// Follows what this process does unasked.
static OWN: OnceLock<Tracer> = OnceLock::new();

// === impl Tracer ===

impl Tracer {
    /// Sends to the collector, from a task of the group's. `scope` names the code that is followed, `who` is what is said
    /// of the process.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn start(
        config: &TracingConfiguration,
        scope: &'static str,
        who: Vec<KeyValue>,
        tasks: &Tasks,
    ) -> Result<Self, TracesError> {
        let (rate, place) = config.checked()?;
        let channel = channel(place)?;
        let teller = Teller { resource: Resource { attributes: who }, scope };
        let (queue, spans) = mpsc::channel(QUEUE);
        LazyLock::force(&LOST);
        tasks.spawn("traces", export(spans, TraceServiceClient::new(channel), teller, tasks.clone()));
        Ok(Self { queue, rate })
    }

    /// Has it follow what this process does unasked as well: its own rounds ([`follow`]) and whom it asks ([`ask`]).
    /// The first one does.
    pub fn follow_process(&self) {
        OWN.get_or_init(|| self.clone());
    }

    /// A request that may come to be followed.
    pub fn trace(&self) -> Arc<Trace> {
        let (queue, start) = (self.queue.clone(), SystemTime::now());
        let (begun, failed) = (OnceLock::new(), OnceLock::new());
        Arc::new(Trace { queue, begun, parent: AtomicU64::new(0), start, failed })
    }

    fn lot(&self) -> bool {
        self.rate > 0 && rand::random_range(0..MILLION) < self.rate
    }

    /// A trace that nobody asked for, and all of it as a part that ends when that is dropped; none of it where the lot
    /// does not fall on it.
    fn unasked(
        &self,
        name: impl FnOnce() -> Cow<'static, str>,
        kind: SpanKind,
    ) -> (Arc<Trace>, Option<Box<Part>>) {
        let trace = self.trace();
        if !self.lot() {
            return (trace, None);
        }
        let (name, attributes) = (name(), Vec::new());
        let begun = trace.begun.get_or_init(|| Begun {
            trace: rand::random(),
            span: new_id(),
            remote_parent: None,
            link: None,
            name: name.clone(),
            attributes: Vec::new(),
        });
        let (span, start) = (begun.span, trace.start);
        trace.parent.store(span, Ordering::Relaxed);
        let part = Part {
            trace: trace.clone(),
            name,
            kind,
            span,
            parent: 0,
            holds: false,
            start,
            attributes,
            events: Vec::new(),
            failed: None,
        };
        (trace, Some(Box::new(part)))
    }

    /// As [`follow`], by this one.
    async fn follow<F: Future>(
        &self,
        name: &'static str,
        describe: impl FnOnce() -> Vec<KeyValue>,
        work: F,
    ) -> F::Output {
        let (trace, mut whole) = self.unasked(|| name.into(), SpanKind::Internal);
        if let Some(whole) = &mut whole {
            whole.attributes = describe();
        }
        let done = CURRENT.scope(trace.clone(), work).await;
        if let Some(whole) = &mut whole {
            whole.failed = trace.failed.get().cloned();
            // As OpenTelemetry's conventions have errors recorded.
            if let Some(why) = &whole.failed {
                whole.tell("exception", vec![text("exception.message", why)]);
            }
        }
        done
    }

    /// Decides whether the request of the running task is followed, and begins its span if so: as its sender asks if
    /// that is `trusted`, else by lot. `attributes` are made only then.
    pub fn begin(
        &self,
        headers: &HeaderMap,
        trusted: bool,
        describe: impl FnOnce() -> (String, Vec<KeyValue>),
    ) {
        let remote = headers.get(TRACE_PARENT).and_then(|value| Context::parse(value.to_str().ok()?));
        let parent = remote.filter(|_| trusted);
        let sampled = match parent {
            Some(parent) => parent.sampled,
            None => self.lot(),
        };
        if !sampled {
            return;
        }
        // Outside of a request there is nothing to follow.
        let _followed = CURRENT.try_with(|trace| {
            let (name, attributes) = describe();
            let begun = Begun {
                trace: parent.map_or_else(rand::random, |parent| parent.trace),
                span: new_id(),
                remote_parent: parent.map(|parent| parent.span),
                link: remote.filter(|_| !trusted),
                name: name.into(),
                attributes,
            };
            trace.parent.store(begun.span, Ordering::Relaxed);
            trace.begun.set(begun)
        });
    }
}

/// Identities are never zero.
fn new_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

// === impl Context ===

impl Context {
    /// `version-trace-span-flags` in hexadecimal (Trace Context, 3.2).
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let fits = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if !fits || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        if ![version, trace, span, flags].into_iter().all(is_hex) {
            return None;
        }
        let number = u128::from_str_radix(trace, 16).ok().filter(|number| *number != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|number| *number != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace: number.to_be_bytes(), span, sampled: flags & 1 == 1 })
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let trace = u128::from_be_bytes(self.trace);
        write!(f, "00-{trace:032x}-{:016x}-{:02x}", self.span, u8::from(self.sampled))
    }
}

// === impl Trace ===

impl Trace {
    /// The request has been answered; `more` is said of it then.
    pub fn end(&self, code: u16, more: impl FnOnce() -> Vec<KeyValue>) {
        let Some(begun) = self.begun.get() else { return };
        let mut attributes = begun.attributes.clone();
        attributes.extend(more());
        attributes.push(number("http.response.status_code", code.into()));
        let failed = code >= 500;
        let link = |context: &Context| Link {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_be_bytes().to_vec(),
            ..Link::default()
        };
        self.send(Span {
            trace_id: begun.trace.to_vec(),
            span_id: begun.span.to_be_bytes().to_vec(),
            parent_span_id: begun.remote_parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
            name: begun.name.to_string(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: nanos(self.start),
            end_time_unix_nano: nanos(SystemTime::now()),
            attributes,
            links: begun.link.iter().map(link).collect(),
            status: failed.then(|| Status { code: StatusCode::Error.into(), ..Status::default() }),
            ..Span::default()
        });
    }

    fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            LOST.inc();
        }
    }
}

/// Has a request's spans belong to its trace, where there is one.
pub fn scope<F: Future>(trace: Option<Arc<Trace>>, request: F) -> Either<TaskLocalFuture<Arc<Trace>, F>, F> {
    match trace {
        Some(trace) => Either::Left(CURRENT.scope(trace, request)),
        None => Either::Right(request),
    }
}

/// Does what nobody asked for and follows it, if the lot falls on it; `describe` is asked only then. What is done meanwhile
/// belongs to it, or is not followed either.
pub async fn follow<F: Future>(
    name: &'static str,
    describe: impl FnOnce() -> Vec<KeyValue>,
    work: F,
) -> F::Output {
    match OWN.get() {
        Some(tracer) => tracer.follow(name, describe, work).await,
        None => work.await,
    }
}

/// Says that what [`follow`] follows here has failed. The first reason counts.
pub fn fail(why: impl FnOnce() -> String) {
    if let Some(trace) = followed() {
        trace.failed.get_or_init(why);
    }
}

/// Somebody else is asked: a part of what the running task does, or something of its own if it does nothing that could be
/// followed. `name` is made only if it is.
pub fn ask(name: impl FnOnce() -> String) -> Option<Box<Part>> {
    ask_by(OWN.get(), name)
}

fn ask_by(own: Option<&Tracer>, name: impl FnOnce() -> String) -> Option<Box<Part>> {
    if CURRENT.try_with(|_| ()).is_ok() {
        return followed().map(|trace| part_of(trace, name().into(), SpanKind::Client));
    }
    own?.unasked(|| name().into(), SpanKind::Client).1
}

/// The trace of the running task, if it is followed.
fn followed() -> Option<Arc<Trace>> {
    CURRENT.try_with(|trace| trace.begun.get().is_some().then(|| trace.clone())).ok().flatten()
}

/// A part of the request that others are parts of; such parts follow each other.
pub fn step(name: &'static str) -> Option<Box<Part>> {
    let mut part = part(name, SpanKind::Internal)?;
    part.holds = true;
    part.trace.parent.store(part.span, Ordering::Relaxed);
    Some(part)
}

/// A part of the request.
pub fn work(name: &'static str) -> Option<Box<Part>> {
    part(name, SpanKind::Internal)
}

/// A part in which somebody else is asked.
pub fn call(name: &'static str) -> Option<Box<Part>> {
    part(name, SpanKind::Client)
}

/// A part in which somebody is asked over gRPC; `path` is `/service/method`. Named and described as OpenTelemetry's
/// conventions have it.
pub fn grpc(path: &str) -> Option<Box<Part>> {
    // Nothing is made for requests that nobody follows.
    let trace = followed()?;
    let name = path.trim_start_matches('/');
    let mut part = part_of(trace, name.to_owned().into(), SpanKind::Client);
    part.note("rpc.system", "grpc");
    if let Some((service, method)) = name.split_once('/') {
        part.note("rpc.service", service);
        part.note("rpc.method", method);
    }
    Some(part)
}

// Boxed: requests carry it with them whether they are followed or not.
fn part(name: &'static str, kind: SpanKind) -> Option<Box<Part>> {
    followed().map(|trace| part_of(trace, name.into(), kind))
}

fn part_of(trace: Arc<Trace>, name: Cow<'static, str>, kind: SpanKind) -> Box<Part> {
    let parent = trace.parent.load(Ordering::Relaxed);
    let (span, start) = (new_id(), SystemTime::now());
    let attributes = Vec::new();
    let events = Vec::new();
    Box::new(Part { trace, name, kind, span, parent, holds: false, start, attributes, events, failed: None })
}

/// What those are told who are asked by the running task, if it is followed.
pub fn trace_parent() -> Option<HeaderValue> {
    let trace = followed()?;
    let begun = trace.begun.get()?;
    let context = Context { trace: begun.trace, span: trace.parent.load(Ordering::Relaxed), sampled: true };
    HeaderValue::from_str(&context.to_string()).ok()
}

// === impl Part ===

impl Part {
    /// Says something of it.
    pub fn note(&mut self, key: &str, value: &str) {
        self.attributes.push(text(key, value));
    }

    /// Says a number of it.
    pub fn count(&mut self, key: &str, value: i64) {
        self.attributes.push(number(key, value));
    }

    /// Something happens in it, now.
    pub fn tell(&mut self, name: &str, attributes: Vec<KeyValue>) {
        let time_unix_nano = nanos(SystemTime::now());
        self.events.push(Event { time_unix_nano, name: name.to_owned(), attributes });
    }

    /// It failed.
    pub fn fail(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// What whoever is asked is told.
    pub fn trace_parent(&self) -> Option<HeaderValue> {
        let begun = self.trace.begun.get()?;
        let context = Context { trace: begun.trace, span: self.span, sampled: true };
        HeaderValue::from_str(&context.to_string()).ok()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(begun) = self.trace.begun.get() else { return };
        if self.holds {
            self.trace.parent.store(self.parent, Ordering::Relaxed);
        }
        let failed = self.failed.take();
        let parent = Some(self.parent).filter(|parent| *parent != 0);
        self.trace.send(Span {
            trace_id: begun.trace.to_vec(),
            span_id: self.span.to_be_bytes().to_vec(),
            parent_span_id: parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
            name: self.name.to_string(),
            kind: self.kind.into(),
            start_time_unix_nano: nanos(self.start),
            end_time_unix_nano: nanos(SystemTime::now()),
            attributes: std::mem::take(&mut self.attributes),
            events: std::mem::take(&mut self.events),
            status: failed.map(|message| Status { code: StatusCode::Error.into(), message }),
            ..Span::default()
        });
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An attribute of text.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

/// An attribute that is a number.
pub fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// Who tells of spans.
#[derive(Debug)]
struct Teller {
    resource: Resource,
    scope: &'static str,
}

/// A connection that is made when it is needed, and again when it is gone.
fn channel(place: Place) -> Result<Channel, TracesError> {
    let authority = match &place {
        Place::Tcp(host) => host.clone(),
        Place::Unix(_) | Place::Abstract(_) => "localhost".to_owned(),
    };
    let wrong = |why: tonic::transport::Error| TracesError::Endpoint(authority.clone(), why.to_string());
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(wrong)?;
    let endpoint = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    Ok(match place {
        Place::Tcp(host) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let host = host.clone();
            async move { TcpStream::connect(host).await.map(TokioIo::new) }
        })),
        Place::Unix(path) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        })),
        Place::Abstract(name) => {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
                let path = format!("\0{name}");
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
        }
    })
}

/// Sends spans until the group drains, and then those that wait.
async fn export(
    mut spans: mpsc::Receiver<Span>,
    mut client: TraceServiceClient<Channel>,
    teller: Teller,
    tasks: Tasks,
) {
    let drain = tasks.drain();
    let mut batch = Vec::new();
    loop {
        let full = async {
            while batch.len() < BATCH {
                match spans.recv().await {
                    Some(span) => batch.push(span),
                    None => return,
                }
            }
        };
        let drained = drain.run_until_cancelled(tokio::time::timeout(DELAY, full)).await.is_none();
        let ends = drained || (spans.is_closed() && spans.is_empty());
        if ends {
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
            }
        }
        if !batch.is_empty() {
            let sent = batch.len() as u64;
            let request = request(&teller, std::mem::take(&mut batch));
            let answer = tokio::time::timeout(TIMEOUT, client.export(request)).await;
            let why = match answer {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(status.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            if let Some(why) = why {
                LOST.inc_by(sent);
                tracing::warn!(spans = sent, why, "traces export failed");
            }
        }
        if ends {
            return;
        }
    }
}

fn request(teller: &Teller, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: teller.scope.to_owned(), version: String::new() };
    let of_scope = ScopeSpans { scope: Some(scope), spans };
    let resource = Some(teller.resource.clone());
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans: vec![of_scope] }],
    }
}

/// There is none of upstream's name: its exporter does not tell.
static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Spans that no collector took: the queue was full, or the collector could not be reached.";
    metrics::counter("keelson_trace_spans_lost_total", help, Stability::Alpha)
});

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, rate: i32) -> TracingConfiguration {
        TracingConfiguration { endpoint: Some(endpoint.to_owned()), sampling_rate_per_million: Some(rate) }
    }

    #[test]
    fn places_and_rates() {
        for (text, expected) in [
            ("localhost:4317", Place::Tcp("localhost:4317".to_owned())),
            ("dns://google.com:4317", Place::Tcp("google.com:4317".to_owned())),
            ("dns:///google.com:4317", Place::Tcp("google.com:4317".to_owned())),
            ("unix://path/to/socket", Place::Unix("path/to/socket".into())),
            ("unix:/run/otel", Place::Unix("/run/otel".into())),
            ("unix-abstract:otel", Place::Abstract("otel".to_owned())),
        ] {
            assert_eq!(place(text), Ok(expected), "{text}");
        }
        for (config, why) in [
            (config("http://localhost:4317", 0), "unsupported scheme: http"),
            (config("localhost", 0), "missing port"),
            (config("localhost:4317", -1), "must be positive"),
            (config("localhost:4317", 1_000_001), "less than or equal to one million"),
        ] {
            assert!(config.check().unwrap_err().to_string().contains(why), "{config:?}");
        }
        assert_eq!(TracingConfiguration::default().check(), Ok(()));
    }

    #[test]
    fn contexts_are_read_and_written_alike() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::parse(text).unwrap();
        assert!(context.sampled && context.to_string() == text);
        assert!(!Context::parse(&text.replace("-01", "-00")).unwrap().sampled);
        // A later version may say more.
        assert!(Context::parse(&format!("{}-more", text.replace("00-0", "01-0"))).is_some());
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-xaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }

    fn tracer(rate: u32) -> (Tracer, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(4);
        (Tracer { queue, rate }, spans)
    }

    fn asked() -> HeaderMap {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        HeaderMap::from_iter([(TRACE_PARENT, HeaderValue::from_static(parent))])
    }

    async fn request(tracer: &Tracer, headers: &HeaderMap, trusted: bool) {
        let trace = tracer.trace();
        let inside = async {
            tracer.begin(headers, trusted, || ("GET /api".to_owned(), Vec::new()));
            let list = step("List");
            drop(call("etcd"));
            drop(list);
        };
        scope(Some(trace.clone()), inside).await;
        trace.end(200, Vec::new);
    }

    #[tokio::test]
    async fn parts_belong_to_the_request_and_that_to_who_asked() {
        let (tracer, mut spans) = tracer(0);
        request(&tracer, &asked(), true).await;
        let all: Vec<Span> = (0..3).map(|_| spans.try_recv().unwrap()).collect();
        let [etcd, list, whole] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            (etcd.name.as_str(), list.name.as_str(), whole.name.as_str()),
            ("etcd", "List", "GET /api")
        );
        assert_eq!((&etcd.parent_span_id, &list.parent_span_id), (&list.span_id, &whole.span_id));
        assert_eq!(whole.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert!(all.iter().all(|span| span.trace_id == all[0].trace_id));
        // Who is not trusted only gets a link, and is not followed without the lot.
        request(&tracer, &asked(), false).await;
        request(&tracer, &HeaderMap::new(), true).await;
        assert!(spans.try_recv().is_err());
        assert!(work("nothing").is_none() && trace_parent().is_none());
    }

    #[tokio::test]
    async fn requests_are_drawn_by_lot_and_a_full_queue_loses_spans() {
        let (tracer, mut spans) = tracer(MILLION);
        let before = LOST.get();
        request(&tracer, &asked(), false).await;
        request(&tracer, &HeaderMap::new(), false).await;
        assert_eq!(LOST.get() - before, 2, "four fit");
        spans.try_recv().unwrap();
        spans.try_recv().unwrap();
        let whole = spans.try_recv().unwrap();
        assert!(whole.parent_span_id.is_empty() && whole.links.len() == 1);
        assert_ne!(whole.trace_id, whole.links[0].trace_id);
    }

    #[tokio::test]
    async fn what_nobody_asked_for_is_followed_by_lot_with_all_that_is_asked_meanwhile() {
        let (tracer, mut spans) = tracer(MILLION);
        let describe = || vec![text("k8s.pod.name", "a")];
        let work = async {
            let mut called = ask_by(None, || "runtime.v1.RuntimeService/Version".to_owned()).unwrap();
            assert!(called.trace_parent().is_some());
            called.tell("sent", vec![number("bytes", 3)]);
            called.fail("gone".to_owned());
            drop(called);
            fail(|| "no sandbox".to_owned());
            fail(|| "and more".to_owned());
            7
        };
        assert_eq!(tracer.follow("syncPod", describe, work).await, 7);
        let (call, whole) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!((call.kind, whole.kind), (SpanKind::Client.into(), SpanKind::Internal.into()));
        assert_eq!((&call.parent_span_id, &call.trace_id), (&whole.span_id, &whole.trace_id));
        assert_eq!((whole.parent_span_id.len(), &whole.attributes), (0, &describe()));
        let why = |span: &Span| span.status.as_ref().map(|status| status.message.clone());
        assert_eq!((why(&call).as_deref(), why(&whole).as_deref()), (Some("gone"), Some("no sandbox")));
        let [called, recorded] = [&call.events[0], &whole.events[0]];
        assert_eq!((called.name.as_str(), &called.attributes), ("sent", &vec![number("bytes", 3)]));
        let message = vec![text("exception.message", "no sandbox")];
        assert_eq!((recorded.name.as_str(), &recorded.attributes), ("exception", &message));
        assert!(recorded.time_unix_nano >= whole.start_time_unix_nano);
        assert!(recorded.time_unix_nano <= whole.end_time_unix_nano);
        // Outside of everything, asking is a trace of its own.
        drop(ask_by(Some(&tracer), || "HTTP GET".to_owned()));
        let alone = spans.try_recv().unwrap();
        assert!(alone.parent_span_id.is_empty() && alone.trace_id != whole.trace_id);
        // One that was begun and is given up is told of as well.
        let abandoned = tracer.follow("syncPod", Vec::new, std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::ZERO, abandoned).await.is_err());
        assert_eq!(spans.try_recv().unwrap().name, "syncPod");
    }

    #[tokio::test]
    async fn what_the_lot_does_not_fall_on_is_not_followed_in_parts_either() {
        let (never, _spans) = tracer(0);
        let (always, mut spans) = tracer(MILLION);
        let work = async { ask_by(Some(&always), || "HTTP GET".to_owned()).is_none() };
        assert!(never.follow("syncPod", Vec::new, work).await);
        assert!(spans.try_recv().is_err());
    }
}
