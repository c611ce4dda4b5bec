//! Metrics of the ways elsewhere, by upstream's names and labels (`apiserver/pkg/util/proxy/metrics`, `pod/rest/metrics.go`).

use std::sync::LazyLock;

use component_base::metrics::{self, Stability};
use prometheus::{IntCounter, IntCounterVec};

fn by(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    metrics::counter_vec(name, help, Stability::Alpha, labels)
}

static TRANSLATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "exec and attach over WebSocket that became SPDY here, by status code.";
    by("apiserver_stream_translator_requests_total", help, &["code"])
});
static TUNNELLED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Port forwards through a WebSocket tunnel, by status code.";
    by("apiserver_stream_tunnel_requests_total", help, &["code"])
});
static STREAMS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "WebSocket streams into pods by subresource and who speaks the protocol.";
    by("apiserver_websocket_streaming_requests_total", help, &["subresource", "proxy_type"])
});
static LOGS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests for logs of pods by whether the kubelet's certificate must be right.";
    by("kube_apiserver_pod_logs_insecure_backend_total", help, &["usage"])
});
static LOGS_TLS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Requests for logs of pods that failed because of the kubelet's certificate.";
    metrics::counter("kube_apiserver_pod_logs_backend_tls_failure_total", help, Stability::Alpha)
});

/// exec or attach was translated, and ended with this code.
pub(super) fn translated(code: u16) {
    TRANSLATED.with_label_values(&[code.to_string().as_str()]).inc();
}

/// A port forward was tunnelled, or refused with this code.
pub(super) fn tunnelled(code: u16) {
    TUNNELLED.with_label_values(&[code.to_string().as_str()]).inc();
}

/// A WebSocket into a pod.
pub(super) fn websocket(subresource: &str) {
    STREAMS.with_label_values(&[subresource, "translated_at_apiserver"]).inc();
}

/// A request for logs.
pub(super) fn logs(is_insecure: bool) {
    LOGS.with_label_values(&[if is_insecure { "skip_tls_allowed" } else { "enforce_tls" }]).inc();
}

/// The kubelet's certificate was not right.
pub(super) fn logs_tls_failed() {
    LOGS_TLS.inc();
}
