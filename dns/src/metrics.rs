//! Metrics under CoreDNS' names, so that its dashboards and alerts go on working.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

/// Buckets of `coredns_dns_request_duration_seconds`: 0.25 ms doubling 16 times.
const BUCKETS: usize = 16;

/// The counters of the server.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    durations: HistogramVec,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
    cache_entries: IntGaugeVec,
    proxy: HistogramVec,
    forward_rejects: IntCounter,
    forward_broken: IntCounter,
    health_failures: IntCounterVec,
}

/// What is counted of one query.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Server, for example `dns://:53`.
    pub server: &'a str,
    /// Zone of the block that answered, for example `.`.
    pub zone: &'a str,
    /// `udp` or `tcp`.
    pub protocol: &'a str,
    /// 1 for IPv4, 2 for IPv6.
    pub family: &'a str,
    /// Record type, `other` for rare ones.
    pub kind: &'a str,
    /// Response code.
    pub rcode: &'a str,
    /// Directive that answered; empty when none did.
    pub plugin: &'a str,
    /// How long it took.
    pub took: Duration,
}

/// The counters of queries that differ in nothing but when and by which family they were asked.
#[derive(Debug)]
pub struct Counted {
    /// Over IPv4 and over IPv6.
    requests: [IntCounter; 2],
    responses: IntCounter,
    durations: Histogram,
}

impl Counted {
    /// Counts one query.
    pub fn observe(&self, is_v4: bool, took: Duration) {
        self.requests[usize::from(!is_v4)].inc();
        self.responses.inc();
        self.durations.observe(took.as_secs_f64());
    }
}

impl Metrics {
    /// Registers the metrics; fails if one is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let buckets = prometheus::exponential_buckets(0.000_25, 2.0, BUCKETS)?;
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.clone()), labels)
        };
        let metrics = Self {
            requests: counter(
                "coredns_dns_requests_total",
                "Counter of DNS requests made per zone, protocol and family.",
                &["server", "zone", "view", "proto", "family", "type"],
            )?,
            responses: counter(
                "coredns_dns_responses_total",
                "Counter of response status codes.",
                &["server", "zone", "view", "rcode", "plugin"],
            )?,
            durations: histogram(
                "coredns_dns_request_duration_seconds",
                "Histogram of the time (in seconds) each request took per zone.",
                &["server", "zone", "view"],
            )?,
            cache_hits: counter(
                "coredns_cache_hits_total",
                "The count of cache hits.",
                &["server", "type", "zones", "view"],
            )?,
            cache_misses: counter(
                "coredns_cache_misses_total",
                "The count of cache misses.",
                &["server", "zones", "view"],
            )?,
            cache_entries: IntGaugeVec::new(
                Opts::new("coredns_cache_entries", "The number of elements in the cache."),
                &["server", "type", "zones", "view"],
            )?,
            proxy: histogram(
                "coredns_proxy_request_duration_seconds",
                "Histogram of the time each proxied request took.",
                &["proxy_name", "to", "rcode"],
            )?,
            forward_rejects: IntCounter::new(
                "coredns_forward_max_concurrent_rejects_total",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            )?,
            forward_broken: IntCounter::new(
                "coredns_forward_healthcheck_broken_total",
                "Counter of the number of complete failures of the healthchecks.",
            )?,
            health_failures: counter(
                "coredns_proxy_healthcheck_failures_total",
                "Counter of the number of failed healthchecks.",
                &["proxy_name", "to"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.responses.clone()))?;
        registry.register(Box::new(metrics.durations.clone()))?;
        registry.register(Box::new(metrics.cache_hits.clone()))?;
        registry.register(Box::new(metrics.cache_misses.clone()))?;
        registry.register(Box::new(metrics.cache_entries.clone()))?;
        registry.register(Box::new(metrics.proxy.clone()))?;
        registry.register(Box::new(metrics.forward_rejects.clone()))?;
        registry.register(Box::new(metrics.forward_broken.clone()))?;
        registry.register(Box::new(metrics.health_failures.clone()))?;
        Ok(metrics)
    }

    /// Counts one query.
    pub fn observe(&self, o: &Observation<'_>) {
        self.requests.with_label_values(&[o.server, o.zone, "", o.protocol, o.family, o.kind]).inc();
        self.responses.with_label_values(&[o.server, o.zone, "", o.rcode, o.plugin]).inc();
        self.durations.with_label_values(&[o.server, o.zone, ""]).observe(o.took.as_secs_f64());
    }

    /// The counters of queries over UDP of a type, answered so by a directive.
    pub fn counted(&self, server: &str, zone: &str, kind: &str, rcode: &str, plugin: &str) -> Counted {
        let requests =
            |family: &str| self.requests.with_label_values(&[server, zone, "", "udp", family, kind]);
        Counted {
            requests: [requests("1"), requests("2")],
            responses: self.responses.with_label_values(&[server, zone, "", rcode, plugin]),
            durations: self.durations.with_label_values(&[server, zone, ""]),
        }
    }

    /// How many queries the histogram of times has counted.
    #[cfg(test)]
    pub fn answered(&self) -> u64 {
        use prometheus::core::Collector;
        let families = self.durations.collect();
        families.iter().flat_map(|f| f.get_metric()).map(|m| m.get_histogram().get_sample_count()).sum()
    }

    /// Counts a look into the cache; `hit` is `success`, `denial` or nothing.
    pub fn cache(&self, server: &str, zone: &str, hit: Option<&str>, entries: (usize, usize)) {
        match hit {
            Some(kind) => self.cache_hits.with_label_values(&[server, kind, zone, ""]).inc(),
            None => self.cache_misses.with_label_values(&[server, zone, ""]).inc(),
        }
        for (kind, count) in [("success", entries.0), ("denial", entries.1)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.cache_entries.with_label_values(&[server, kind, zone, ""]).set(count);
        }
    }

    /// Counts a query that a server answered.
    pub fn forwarded(&self, to: &str, code: ResponseCode, took: Duration) {
        self.proxy.with_label_values(&["forward", to, &rcode(code)]).observe(took.as_secs_f64());
    }

    /// Counts a query that was one too many.
    pub fn forward_rejected(&self) {
        self.forward_rejects.inc();
    }

    /// Counts a query for which no server was well.
    pub fn all_upstreams_down(&self) {
        self.forward_broken.inc();
    }

    /// Counts a check of a server that went wrong.
    pub fn health_check_failed(&self, to: &str) {
        self.health_failures.with_label_values(&["forward", to]).inc();
    }
}

/// A response code as metrics and logs have it.
pub fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        other => u16::from(other).to_string(),
    }
}
