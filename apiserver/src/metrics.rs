//! Metrics of upstream's that belong to no one part here: one line each, with upstream's name, type, labels, buckets and
//! stability. Parts that have a list of their own make it with [`list!`] too.
//!
//! Contract: upstream's `endpoints/metrics`, `authorization/metrics`, `token/cache`, `serviceaccount`, `cel/metrics`, the
//! allocators of services and `kube-aggregator`.

use std::{borrow::Borrow, error::Error, io, sync::LazyLock, time::Instant};

use component_base::metrics::{self, Stability, exponential_buckets, hot::Hot as _};
use prometheus::{
    DEFAULT_BUCKETS, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use rustls::CertificateError;

use crate::{
    audit::{self, Part},
    request_path::info::RequestInfo,
    storage::{ResourceId, Store},
};

/// Metrics as statics, and `register`, which shows those without labels before they have counted.
macro_rules! list {
    ($($metric:ident: $kind:ty = $make:ident($name:literal, $help:literal, $stability:ident $(, $rest:expr)* $(,)?);)*) => {
        $(pub(crate) static $metric: std::sync::LazyLock<$kind> = std::sync::LazyLock::new(|| {
            component_base::metrics::$make($name, $help, component_base::metrics::Stability::$stability $(, $rest)*)
        });)*

        /// Shows what has not counted yet.
        pub(crate) fn register() {
            $(std::sync::LazyLock::force(&$metric);)*
        }
    };
}
pub(crate) use list;

const RESOURCE: &[&str] = &["group", "version", "resource"];
const STATUS: &[&str] = &["status"];
const MODE: &[&str] = &["mode", "decision"];

list! {
    // Who is it.
    LEGACY_TOKENS: IntCounter = counter("serviceaccount_legacy_tokens_total",
        "Uses of service account tokens that are kept in secrets.", Alpha);
    STALE_TOKENS: IntCounter = counter("serviceaccount_stale_tokens_total",
        "Uses of service account tokens that should have been renewed.", Alpha);
    VALID_TOKENS: IntCounter = counter("serviceaccount_valid_tokens_total",
        "Uses of service account tokens before they need to be renewed.", Alpha);
    TOKEN_CACHE: IntCounterVec = counter_vec("authentication_token_cache_request_total",
        "Tokens looked for among those webhooks were asked about.", Alpha, STATUS);
    TOKEN_CACHE_DURATION: HistogramVec = histogram_vec("authentication_token_cache_request_duration_seconds",
        "Time until it is known whose a token is, in seconds.", Alpha, STATUS, DEFAULT_BUCKETS.to_vec());
    TOKEN_FETCHES: IntCounterVec = counter_vec("authentication_token_cache_fetch_total",
        "Questions to webhooks whose a token is.", Alpha, STATUS);
    TOKEN_FETCHING: IntGaugeVec = gauge_vec("authentication_token_cache_active_fetch_count",
        "Questions to webhooks that are under way.", Alpha, STATUS);

    // As whom do they act.
    IMPERSONATIONS: IntCounterVec = counter_vec("apiserver_impersonation_attempts_total",
        "Requests of users who act as others, by mode.", Alpha, MODE);
    IMPERSONATING: HistogramVec = histogram_vec("apiserver_impersonation_attempts_duration_seconds",
        "Time until it is known whether a user may act as another, in seconds.", Alpha, MODE,
        exponential_buckets(0.001, 2.0, 15));
    IMPERSONATION_CHECKS: IntCounterVec = counter_vec("apiserver_impersonation_authorization_attempts_total",
        "Questions whether a user may act as another, by mode.", Alpha, MODE);
    IMPERSONATION_CHECKING: HistogramVec = histogram_vec(
        "apiserver_impersonation_authorization_attempts_duration_seconds",
        "Time of questions whether a user may act as another, in seconds.", Alpha, MODE,
        exponential_buckets(0.001, 2.0, 15));

    // May they.
    DECISIONS: IntCounterVec = counter_vec("apiserver_authorization_decisions_total",
        "Decisions of authorizers that were the last word.", Alpha, &["type", "name", "decision"]);
    NODE_GRAPH: HistogramVec = histogram_vec("node_authorizer_graph_actions_duration_seconds",
        "Time of changes of what nodes are known to need, in seconds.", Alpha, &["operation"],
        exponential_buckets(0.0001, 2.0, 12));

    // The way of a request.
    FILTERS: HistogramVec = histogram_vec("apiserver_request_filter_duration_seconds",
        "Time requests spend in stages before they are served, in seconds.", Alpha, &["filter"],
        vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0]);
    INQUEUE: IntGaugeVec = gauge_vec("apiserver_current_inqueue_requests", "Requests that wait, by kind.", Alpha,
        &["request_kind"]);
    FIELD_VALIDATION: HistogramVec = histogram_vec("field_validation_request_duration_seconds",
        "Time requests take by how unknown fields are dealt with, in seconds.", Alpha, &["field_validation"],
        vec![0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0,
            60.0]);
    WATCH_LISTS: HistogramVec = histogram_vec("apiserver_watch_list_duration_seconds",
        "Time until a watcher that asks for what there is has all of it, in seconds.", Beta,
        &["group", "version", "resource", "scope"],
        vec![0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0]);
    WATCH_EVENTS: IntCounterVec = counter_vec("apiserver_watch_events_total", "Events sent to watchers.", Alpha, RESOURCE);
    WATCH_EVENT_SIZES: HistogramVec = histogram_vec("apiserver_watch_events_sizes", "Bytes of events sent to watchers.",
        Alpha, RESOURCE, exponential_buckets(1024.0, 2.0, 8));

    // Expressions of definitions, and what is served.
    CEL_COMPILATION: Histogram = histogram("apiserver_cel_compilation_duration_seconds",
        "Time of compiling expressions, in seconds.", Beta, DEFAULT_BUCKETS.to_vec());
    CEL_EVALUATION: Histogram = histogram("apiserver_cel_evaluation_duration_seconds",
        "Time of evaluating expressions, in seconds.", Beta, DEFAULT_BUCKETS.to_vec());
    AGGREGATIONS: IntCounter = counter("aggregator_discovery_aggregation_count_total",
        "Times the document of all groups was made anew.", Alpha);

    // Services.
    IP_ALLOCATIONS: IntCounterVec = counter_vec("kube_apiserver_clusterip_allocator_allocation_total",
        "Cluster IPs given out.", Alpha, &["cidr", "scope"]);
    IP_ALLOCATION_ERRORS: IntCounterVec = counter_vec("kube_apiserver_clusterip_allocator_allocation_errors_total",
        "Cluster IPs that could not be given out.", Alpha, &["cidr", "scope"]);
    IP_ALLOCATION_DURATION: HistogramVec = histogram_vec(
        "kube_apiserver_clusterip_allocator_allocation_duration_seconds",
        "Time of giving out a cluster IP, in seconds.", Alpha, &["cidr"], DEFAULT_BUCKETS.to_vec());
    PORT_ALLOCATIONS: IntCounterVec = counter_vec("kube_apiserver_nodeport_allocator_allocation_total",
        "Node ports given out.", Alpha, &["scope"]);
    PORT_ALLOCATION_ERRORS: IntCounterVec = counter_vec("kube_apiserver_nodeport_allocator_allocation_errors_total",
        "Node ports that could not be given out.", Alpha, &["scope"]);
    PORTS_ALLOCATED: IntGauge = gauge("kube_apiserver_nodeport_allocator_allocated_ports", "Node ports in use.", Alpha);
    PORTS_AVAILABLE: IntGauge = gauge("kube_apiserver_nodeport_allocator_available_ports", "Node ports not in use.",
        Alpha);
    PORT_REPAIR_ERRORS: IntCounter = counter("apiserver_nodeport_repair_reconcile_errors_total",
        "Repairs of node ports that failed.", Alpha);

    // Whom the server calls.
    WEBHOOK_WITHOUT_NAMES: IntCounter = counter("apiserver_webhooks_x509_missing_san_total",
        "Webhooks that were not believed because their certificates have no names but the common one.", Alpha);
    WEBHOOK_SHA1: IntCounter = counter("apiserver_webhooks_x509_insecure_sha1_total",
        "Webhooks that were not believed because their certificates are signed with SHA-1.", Alpha);
    AGGREGATED_WITHOUT_NAMES: IntCounter = counter("apiserver_kube_aggregator_x509_missing_san_total",
        "API servers that were not believed because their certificates have no names but the common one.", Alpha);
    AGGREGATED_SHA1: IntCounter = counter("apiserver_kube_aggregator_x509_insecure_sha1_total",
        "API servers that were not believed because their certificates are signed with SHA-1.", Alpha);

}

/// Shows what the server has to say from its start.
pub(crate) fn begin() {
    register();
    crate::storage::register_metrics();
    crate::flowcontrol::register_metrics();
    crate::authn::serviceaccount::uses::register();
    LazyLock::force(&component_base::auth::CLIENT_CERTIFICATES);
    component_base::version::show_compatibility();
}

/// What a stage of a request takes.
pub(crate) async fn timed<T>(filter: &str, stage: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let outcome = stage.await;
    let took = begun.elapsed();
    FILTERS.hot(&[filter], |sum| sum.observe(took.as_secs_f64()));
    let part = match filter {
        "authentication" => Part::Authentication,
        "impersonation" => Part::Impersonation,
        "priorityandfairness" => Part::Queue,
        "authorization" => Part::Authorization,
        _ => return outcome,
    };
    audit::spend(part, took);
    outcome
}

/// What something takes that waits for nobody.
pub(crate) fn measured<T>(time: &LazyLock<Histogram>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = work();
    time.observe(begun.elapsed().as_secs_f64());
    outcome
}

/// Shows how large the objects of a store are, whenever somebody asks.
pub(crate) fn show_sizes(store: Store) {
    let count = move || -> metrics::Counts {
        let sizes = store.sizes().into_iter();
        let line = |(id, size): (ResourceId, usize)| {
            let labels = vec![id.group().to_owned(), id.plural().to_owned()];
            (labels, i64::try_from(size).unwrap_or(i64::MAX))
        };
        sizes.map(line).collect()
    };
    let help = "Bytes of stored objects by kind, as they are sent.";
    metrics::counted(
        "apiserver_resource_size_estimate_bytes",
        help,
        Stability::Alpha,
        &["group", "resource"],
        count,
    );
}

/// Counts a server that was not believed for one of the reasons that are counted.
pub(crate) fn distrusted(error: &(dyn Error + 'static), nameless: &IntCounter, sha1: &IntCounter) {
    /// `sha1WithRSAEncryption` and `ecdsa-with-SHA1`, as DER without tag and length.
    const SHA1: [&[u8]; 2] = [
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
    ];
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(rustls::Error::InvalidCertificate(why)) = one.downcast_ref() {
            match why {
                CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                    nameless.inc();
                }
                CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. }
                    if SHA1
                        .iter()
                        .any(|id| signature_algorithm_id.windows(id.len()).any(|part| part == *id)) =>
                {
                    sha1.inc();
                }
                _ => {}
            }
            return;
        }
        // An I/O error hides what it carries from `source` in favour of that one's own source.
        let inner = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => one.source(),
        };
    }
}

/// What is told of the events of one watch.
pub(crate) struct WatchEvents {
    count: IntCounter,
    sizes: Histogram,
    begun: Instant,
}

impl WatchEvents {
    pub(crate) fn of(info: &RequestInfo) -> Self {
        let labels = [info.group.as_str(), info.version.as_str(), info.resource.as_str()];
        let count = WATCH_EVENTS.with_label_values(&labels);
        Self { count, sizes: WATCH_EVENT_SIZES.with_label_values(&labels), begun: Instant::now() }
    }

    /// What there was at the beginning is sent.
    pub(crate) fn caught_up(&self, info: &RequestInfo) {
        let scope = match (info.name.is_empty(), info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let labels = [info.group.as_str(), info.version.as_str(), info.resource.as_str(), scope];
        WATCH_LISTS.with_label_values(&labels).observe(self.begun.elapsed().as_secs_f64());
    }

    /// An event of so many bytes goes out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.count.inc();
        self.sizes.observe(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }
}

/// A gauge that is one more while this lives.
pub(crate) struct Under<G: Borrow<IntGauge> = IntGauge>(G);

impl<G: Borrow<IntGauge>> Under<G> {
    pub(crate) fn way(gauge: G) -> Self {
        gauge.borrow().inc();
        Self(gauge)
    }
}

impl<G: Borrow<IntGauge>> Drop for Under<G> {
    fn drop(&mut self) {
        self.0.borrow().dec();
    }
}
