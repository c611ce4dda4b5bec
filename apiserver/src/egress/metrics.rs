//! Metrics of connections through proxies, by upstream's names (`egressselector/metrics`, `konnectivity-client/metrics`).

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};
use proto::konnectivity::client::PacketType;

/// The stage of reaching the proxy.
pub(super) const CONNECT: &str = "connect";
/// The stage in which the proxy connects.
pub(super) const PROXY: &str = "proxy";

const LABELS: &[&str] = &["protocol", "transport"];

static STARTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Connections through proxies that were begun.";
    metrics::counter_vec("apiserver_egress_dialer_dial_start_total", help, Stability::Alpha, LABELS)
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time until a proxy has connected, in seconds.";
    let buckets = vec![0.005, 0.025, 0.1, 0.5, 2.5, 12.5];
    let name = "apiserver_egress_dialer_dial_duration_seconds";
    metrics::histogram_vec(name, help, Stability::Alpha, LABELS, buckets)
});
static FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Connections through proxies that failed, by how far they came.";
    let labels = &["protocol", "transport", "stage"];
    metrics::counter_vec("apiserver_egress_dialer_dial_failure_count", help, Stability::Alpha, labels)
});

/// The library upstream has these from promises nothing, so they bear no level.
fn unpromised(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    metrics::collector(|| IntCounterVec::new(Opts::new(name, help), labels))
}

static PACKETS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Packets exchanged with network proxies, by direction and type.";
    unpromised("konnectivity_network_proxy_client_stream_packets_total", help, &["segment", "packet_type"])
});
static STREAM_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Failures of streams to network proxies.";
    let labels = &["segment", "code", "packet_type"];
    unpromised("konnectivity_network_proxy_client_stream_errors_total", help, labels)
});
static DIAL_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Connections a network proxy did not make, by reason.";
    unpromised("konnectivity_network_proxy_client_dial_failure_total", help, &["reason"])
});
static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Connections through network proxies, by what they are doing.";
    let name = "konnectivity_network_proxy_client_client_connections";
    metrics::collector(|| IntGaugeVec::new(Opts::new(name, help), &["status"]))
});

/// A connection was begun.
pub(super) fn started(labels: [&str; 2]) {
    STARTS.with_label_values(&labels).inc();
}

/// The proxy has connected.
pub(super) fn connected(labels: [&str; 2], took: Duration) {
    DURATION.with_label_values(&labels).observe(took.as_secs_f64());
}

/// It has not.
pub(super) fn failed([protocol, transport]: [&str; 2], stage: &str) {
    FAILURES.with_label_values(&[protocol, transport, stage]).inc();
}

/// A packet was sent to a network proxy.
pub(super) fn sent(kind: PacketType) {
    PACKETS.with_label_values(&["from_client", kind.as_str_name()]).inc();
}

/// A packet came from a network proxy.
pub(super) fn received(kind: i32) {
    let kind = PacketType::try_from(kind).map_or("Unknown", |kind| kind.as_str_name());
    PACKETS.with_label_values(&["to_client", kind]).inc();
}

/// A stream to a network proxy broke.
pub(super) fn broke(status: &tonic::Status) {
    STREAM_ERRORS.with_label_values(&["to_client", &format!("{:?}", status.code()), "Unknown"]).inc();
}

/// A network proxy made no connection.
pub(super) fn not_dialed(reason: &str) {
    DIAL_FAILURES.with_label_values(&[reason]).inc();
}

/// One connection's part of the gauge.
pub(super) struct Connection(&'static str);

impl Connection {
    /// The stream is there.
    pub(super) fn created() -> Self {
        CONNECTIONS.with_label_values(&["created"]).inc();
        Self("created")
    }

    /// It does something else from now on: `dialing`, `ok`.
    pub(super) fn is_now(&mut self, status: &'static str) {
        CONNECTIONS.with_label_values(&[self.0]).dec();
        CONNECTIONS.with_label_values(&[status]).inc();
        self.0 = status;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        CONNECTIONS.with_label_values(&[self.0]).dec();
    }
}
