//! What is told of a request when its answer is known: metrics and the last audit events.
//!
//! Contract: upstream's `endpoints/metrics` and `endpoints/filters.WithAudit`.

use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context as Poller, Poll},
    time::Instant,
};

use bytes::Bytes;
use component_base::metrics::{self, Stability, hot::Hot as _};
use http::{Method, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use serde_json::Value;

use super::info::RequestInfo;
use crate::{
    audit::{Context, Part, Stage},
    flowcontrol::Watched,
    metrics::{FIELD_VALIDATION, INQUEUE, Under},
    negotiation,
    response::{self, Body},
    server::Server,
};

const LABELS: [&str; 7] = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
const WITH_DRY_RUN: [&str; 8] =
    ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = [
        "verb",
        "dry_run",
        "group",
        "version",
        "resource",
        "subresource",
        "scope",
        "component",
        "code",
        "system_client",
    ];
    metrics::counter_vec(
        "apiserver_request_total",
        "Requests by verb, resource and code.",
        Stability::Stable,
        &labels,
    )
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
        15.0, 20.0, 30.0, 45.0, 60.0,
    ];
    let help = "Time requests take, in seconds.";
    metrics::histogram_vec(
        "apiserver_request_duration_seconds",
        help,
        Stability::Stable,
        &WITH_DRY_RUN,
        buckets,
    )
});
static SLI: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![
        0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
        45.0, 60.0,
    ];
    let help = "Time requests take but for what others make them wait: webhooks and queues, in seconds.";
    metrics::histogram_vec("apiserver_request_sli_duration_seconds", help, Stability::Beta, &LABELS, buckets)
});
static SIZES: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = metrics::exponential_buckets(1000.0, 10.0, 7);
    metrics::histogram_vec(
        "apiserver_response_sizes",
        "Bytes of answers.",
        Stability::Stable,
        &LABELS,
        buckets,
    )
});
static LONG_RUNNING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Requests under way that last as long as they like, such as watches.";
    metrics::gauge_vec("apiserver_longrunning_requests", help, Stability::Stable, &LABELS)
});
static CURRENT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Requests being served, by kind.";
    metrics::gauge_vec("apiserver_current_inflight_requests", help, Stability::Stable, &["request_kind"])
});
static TERMINATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests that were ended before they were served, for the server's own protection.";
    let labels = ["verb", "group", "version", "resource", "subresource", "scope", "component", "code"];
    metrics::counter_vec("apiserver_request_terminations_total", help, Stability::Alpha, &labels)
});

/// Gauges of requests that only read, and of those that change something.
pub(super) struct Kinds([IntGauge; 2]);

impl Kinds {
    fn of(gauges: &IntGaugeVec) -> Self {
        Self(["readOnly", "mutating"].map(|kind| gauges.with_label_values(&[kind])))
    }

    /// One more request while what is answered lives.
    pub(super) fn count(&'static self, info: &RequestInfo) -> Under<&'static IntGauge> {
        let reads = matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options");
        Under::way(&self.0[usize::from(!reads)])
    }
}

/// Requests that are being served, and requests that wait.
pub(super) static IN_FLIGHT: LazyLock<Kinds> = LazyLock::new(|| Kinds::of(&CURRENT));
pub(super) static WAITING: LazyLock<Kinds> = LazyLock::new(|| Kinds::of(&INQUEUE));

/// A request on its way to its answer.
pub(super) struct Asked {
    pub(super) info: Arc<RequestInfo>,
    pub(super) method: Method,
    pub(super) is_apply: bool,
    pub(super) begun: Instant,
    pub(super) audit: Arc<Context>,
}

/// The labels of a request's metrics.
#[derive(Clone, Debug)]
struct Labels {
    verb: &'static str,
    dry_run: String,
    field_validation: &'static str,
    of: Of,
    scope: &'static str,
}

/// What is counted: requests to a resource, or to a path that is none.
#[derive(Clone, Debug)]
enum Of {
    Resource(Arc<RequestInfo>),
    Path(&'static str),
}

impl Labels {
    /// `None` for what nobody counts: paths that are none of the API's, and resources and subresources that are not
    /// there, of whose names there is no end.
    fn of(server: &Server, asked: &Asked) -> Option<Self> {
        let info = &asked.info;
        if !info.is_resource {
            let path =
                ["/healthz", "/livez", "/readyz", "/metrics"].into_iter().find(|path| *path == info.path)?;
            return Some(Self {
                verb: verb_of_method(&asked.method),
                dry_run: String::new(),
                field_validation: field_validation(info),
                of: Of::Path(path),
                scope: "",
            });
        }
        let catalog = server.catalog.load();
        let resource = catalog.find(&info.group, &info.version, &info.resource)?;
        let is_there = |name: &str| resource.subresources.iter().any(|sub| sub.name() == name);
        if !info.subresource.is_empty() && !is_there(&info.subresource) {
            return None;
        }
        let scope = if !info.name.is_empty() || info.verb == "create" {
            "resource"
        } else if !info.namespace.is_empty() {
            "namespace"
        } else {
            "cluster"
        };
        let mut dry_run: Vec<&str> = info.query.all("dryRun").iter().map(String::as_str).collect();
        if dry_run.iter().any(|value| *value != "All") {
            dry_run = vec!["invalid"];
        }
        dry_run.dedup();
        Some(Self {
            verb: verb(asked),
            dry_run: dry_run.join(","),
            field_validation: field_validation(info),
            of: Of::Resource(info.clone()),
            scope,
        })
    }

    fn seven(&self) -> [&str; 7] {
        match &self.of {
            Of::Path(path) => [self.verb, "", "", "", path, self.scope, ""],
            Of::Resource(info) => {
                let RequestInfo { group, version, resource, subresource, .. } = &**info;
                [self.verb, group, version, resource, subresource, self.scope, "apiserver"]
            }
        }
    }
}

/// What the request says of unknown fields, if it says so once and in words that are known.
fn field_validation(info: &RequestInfo) -> &'static str {
    match info.query.all("fieldValidation") {
        [] => "",
        [one] => ["Ignore", "Strict", "Warn"].into_iter().find(|word| word == one).unwrap_or("invalid"),
        _ => "invalid",
    }
}

fn verb_of_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

fn verb(asked: &Asked) -> &'static str {
    let info = &asked.info;
    if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "watch" => "WATCH",
        "list" => "LIST",
        "deletecollection" => "DELETECOLLECTION",
        "patch" if asked.is_apply => "APPLY",
        _ => verb_of_method(&asked.method),
    }
}

impl Asked {
    /// Notes the answer: metrics, and the events of audit. Answers that take their time are noted when they end.
    pub(super) async fn answered(
        self,
        server: &Arc<Server>,
        mut answer: Response<Body>,
        status: Option<Value>,
        (last, watched, terminated): (Stage, Option<Watched>, bool),
    ) -> Response<Body> {
        let code = answer.status().as_u16();
        let labels = Labels::of(server, &self);
        if let Some(labels) = labels.as_ref().filter(|_| terminated) {
            let [verb, group, version, resource, subresource, scope, component] = labels.seven();
            let code = code.to_string();
            let all = [verb, group, version, resource, subresource, scope, component, &code];
            TERMINATIONS.with_label_values(&all).inc();
        }
        // What audit wants to see whole is waited for, unless it never ends.
        let shows = labels.is_some() && self.audit.shows_response() && !self.info.is_long_running();
        if shows || answer.body().size_hint().exact().is_some() {
            answer = self.note_object(answer, status.as_ref()).await;
            let size = answer.body().size_hint().exact().unwrap_or_default();
            if self.info.is_long_running() && last != Stage::ResponseStarted {
                self.audit.stage(Stage::ResponseStarted).await;
            }
            self.audit.stage(last).await;
            measured(&self.audit, self.begun, labels.as_ref(), code, size);
            return answer;
        }
        self.audit.response(code, status.as_ref(), None);
        let is_long = self.info.is_long_running();
        if is_long {
            self.audit.stage(Stage::ResponseStarted).await;
        }
        let counted = labels.as_ref().filter(|_| is_long);
        let counted = counted.map(|labels| Under::way(LONG_RUNNING.with_label_values(&labels.seven())));
        let server = server.clone();
        // A watch may last for hours: what else was asked is let go now.
        let Self { begun, audit, .. } = self;
        let handed = Instant::now();
        answer.map(|inner| {
            let end = move |bytes| {
                drop((counted, watched));
                if !is_long {
                    audit.spend(Part::Write, handed.elapsed());
                }
                measured(&audit, begun, labels.as_ref(), code, bytes);
                if audit.is_recorded() {
                    server.tasks.spawn_contained("audit", async move {
                        audit.stage(Stage::ResponseComplete).await;
                    });
                }
            };
            Streamed { inner, bytes: 0, end: Some(Box::new(end)) }.boxed_unsync()
        })
    }

    /// Shows audit the object of a whole answer, where it wants to see that.
    async fn note_object(&self, answer: Response<Body>, status: Option<&Value>) -> Response<Body> {
        let code = answer.status().as_u16();
        if !(self.audit.shows_response() && self.info.is_resource) {
            self.audit.response(code, status, None);
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let bytes = match body.collect().await {
            Ok(whole) => whole.to_bytes(),
            Err(error) => {
                tracing::error!(%error, "an answer broke off");
                return Response::from_parts(parts, response::stream(futures::stream::iter([Err(error)])));
            }
        };
        let is_plain = !parts.headers.contains_key(header::CONTENT_ENCODING);
        let object = is_plain.then(|| negotiation::decode(&parts.headers, &bytes, true).ok()).flatten();
        self.audit.response(code, status, object);
        Response::from_parts(parts, response::full(bytes))
    }
}

fn measured(audit: &Context, begun: Instant, labels: Option<&Labels>, code: u16, bytes: u64) {
    let Some(labels) = labels else { return };
    let [verb, group, version, resource, subresource, scope, component] = labels.seven();
    let dry_run = labels.dry_run.as_str();
    let text = code.to_string();
    let all = [verb, dry_run, group, version, resource, subresource, scope, component, &text, ""];
    REQUESTS.hot(&all, IntCounter::inc);
    let seconds = begun.elapsed().as_secs_f64();
    let labelled = [verb, dry_run, group, version, resource, subresource, scope, component];
    DURATION.hot(&labelled, |sum| sum.observe(seconds));
    FIELD_VALIDATION.hot(&[labels.field_validation], |sum| sum.observe(seconds));
    if !matches!(verb, "WATCH" | "CONNECT") {
        let own = (seconds - audit.waited().as_secs_f64()).max(0.0);
        SLI.hot(&labels.seven(), |sum| sum.observe(own));
    }
    if matches!(verb, "GET" | "LIST") {
        #[expect(clippy::cast_precision_loss, reason = "a size to be shown")]
        SIZES.hot(&labels.seven(), |sum| sum.observe(bytes as f64));
    }
}

/// A body that tells of its end.
struct Streamed {
    inner: Body,
    bytes: u64,
    end: Option<Box<dyn FnOnce(u64) + Send>>,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(poller);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(self.bytes);
        }
    }
}
