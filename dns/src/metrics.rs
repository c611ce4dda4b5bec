//! Metrics under CoreDNS' names, so that its dashboards and alerts go on working.
//!
//! Contract: the metrics of CoreDNS' plugins that are served here, with their labels and buckets.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Bytes of questions and answers.
const SIZES: [f64; 14] =
    [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];
/// What every metric of one server, zone and view is labelled with.
const PLACE: [&str; 3] = ["server", "zone", "view"];

/// The counters of the server.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    durations: HistogramVec,
    request_sizes: HistogramVec,
    response_sizes: HistogramVec,
    dnssec: IntCounterVec,
    enabled: IntGaugeVec,
    acl: [IntCounterVec; 3],
    acl_allowed: IntCounterVec,
    local: IntCounter,
    dns64: IntCounterVec,
    autopath: IntCounterVec,
    cache_requests: IntCounterVec,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
    cache_entries: IntGaugeVec,
    cache_prefetches: IntCounterVec,
    cache_stale: IntCounterVec,
    cache_evictions: IntCounterVec,
    proxy: HistogramVec,
    connections: [IntCounterVec; 2],
    forward_rejects: IntCounter,
    forward_broken: IntCounter,
    health_failures: IntCounterVec,
    health: Histogram,
    health_unanswered: IntCounter,
    hosts_entries: IntGaugeVec,
    hosts_read: Gauge,
    programming: HistogramVec,
    api: Api,
    reload_failed: IntCounter,
    reload_version: IntGaugeVec,
    template_matches: IntCounterVec,
    template_failures: IntCounterVec,
    template_rr_failures: IntCounterVec,
    panics: IntCounter,
}

/// What is counted of requests to the API server.
#[derive(Clone, Debug)]
struct Api {
    requests: IntCounterVec,
    durations: HistogramVec,
    waits: HistogramVec,
}

/// Where a query is answered.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Server, for example `dns://:53`.
    pub server: &'a str,
    /// Zone of the block that answers, for example `.`.
    pub zone: &'a str,
    /// The block's view, if it has one.
    pub view: &'a str,
}

/// What is counted of one query.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Where it was answered.
    pub place: Place<'a>,
    /// `udp` or `tcp`.
    pub protocol: &'a str,
    /// 1 for IPv4, 2 for IPv6.
    pub family: &'a str,
    /// Record type, `other` for rare ones.
    pub kind: &'a str,
    /// Whether DNSSEC records are wanted.
    pub dnssec: bool,
    /// Response code.
    pub rcode: &'a str,
    /// Directive that answered; empty when none did.
    pub plugin: &'a str,
    /// Bytes of the question and of the answer.
    pub sizes: (usize, usize),
    /// How long it took.
    pub took: Duration,
}

/// What became of a query that rules were looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It was answered with nothing.
    Filtered,
    /// It was refused.
    Blocked,
    /// It was not answered.
    Dropped,
}

/// The counters of queries that differ in nothing but when and by which family they were asked, and their sizes.
#[derive(Debug)]
pub struct Counted {
    /// Over IPv4 and over IPv6.
    requests: [IntCounter; 2],
    responses: IntCounter,
    durations: Histogram,
    request_sizes: Histogram,
    response_sizes: Histogram,
    /// Where DNSSEC records are wanted.
    dnssec: Option<IntCounter>,
}

impl Counted {
    /// Counts one query, by the bytes of question and answer.
    pub fn observe(&self, is_v4: bool, sizes: (usize, usize), took: Duration) {
        self.requests[usize::from(!is_v4)].inc();
        self.responses.inc();
        self.durations.observe(took.as_secs_f64());
        self.request_sizes.observe(bytes(sizes.0));
        self.response_sizes.observe(bytes(sizes.1));
        if let Some(dnssec) = &self.dnssec {
            dnssec.inc();
        }
    }
}

/// Sizes of messages are far below where this would round.
fn bytes(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Makes metrics and registers them.
struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, made: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn count(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::new(format!("coredns_{name}"), help)?)
    }

    fn counts(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(format!("coredns_{name}"), help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(format!("coredns_{name}"), help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(format!("coredns_{name}"), help).buckets(buckets);
        self.keep(HistogramVec::new(options, labels)?)
    }
}

impl Metrics {
    /// Registers the metrics; fails if one is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Maker(registry);
        // From a quarter of a millisecond to eight seconds.
        let times = prometheus::exponential_buckets(0.000_25, 2.0, 16)?;
        let slim_times = prometheus::exponential_buckets(0.000_25, 10.0, 5)?;
        // From a millisecond to nine minutes.
        let long_times = prometheus::exponential_buckets(0.001, 2.0, 20)?;
        let with = |more: &[&'static str]| -> Vec<&'static str> {
            PLACE.iter().copied().chain(more.iter().copied()).collect()
        };
        let judged = |what: &str| {
            let (name, help) =
                (format!("acl_{what}_requests_total"), format!("Counter of DNS requests being {what}."));
            make.counts(&name, &help, &PLACE)
        };
        let of_cache = ["server", "zones", "view"];
        let of_template = with(&["class", "type"]);
        let of_line = with(&["class", "type", "section", "template"]);
        let connections = |what: &str| {
            let (name, plural) = (format!("proxy_conn_cache_{what}_total"), what);
            let help = format!("Counter of connection cache {plural} per upstream and protocol.");
            make.counts(&name, &help, &["proxy_name", "to", "proto"])
        };
        let version = component_base::version::info();
        make.gauges(
            "build_info",
            "A metric with a constant '1' value labeled by version, revision, and goversion from which the server was built.",
            &["version", "revision", "goversion"],
        )?
        .with_label_values(&[version.git_version, version.git_commit, version.go_version])
        .set(1);
        // Answers that do not fit the question are not taken from servers, so that none is malformed.
        make.counts(
            "cache_drops_total",
            "The number responses that are not cached, because the reply is malformed.",
            &of_cache,
        )?;
        Ok(Self {
            requests: make.counts(
                "dns_requests_total",
                "Counter of DNS requests made per zone, protocol and family.",
                &with(&["proto", "family", "type"]),
            )?,
            responses: make.counts(
                "dns_responses_total",
                "Counter of response status codes.",
                &with(&["rcode", "plugin"]),
            )?,
            durations: make.histograms(
                "dns_request_duration_seconds",
                "Histogram of the time (in seconds) each request took per zone.",
                &PLACE,
                times.clone(),
            )?,
            request_sizes: make.histograms(
                "dns_request_size_bytes",
                "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
                &with(&["proto"]),
                SIZES.to_vec(),
            )?,
            response_sizes: make.histograms(
                "dns_response_size_bytes",
                "Size of the returned response in bytes.",
                &with(&["proto"]),
                SIZES.to_vec(),
            )?,
            dnssec: make.counts(
                "dns_do_requests_total",
                "Counter of DNS requests with DO bit set per zone.",
                &PLACE,
            )?,
            enabled: make.gauges(
                "plugin_enabled",
                "A metric that indicates whether a plugin is enabled on per server and zone basis.",
                &with(&["name"]),
            )?,
            acl: [judged("filtered")?, judged("blocked")?, judged("dropped")?],
            acl_allowed: make.counts(
                "acl_allowed_requests_total",
                "Counter of DNS requests being allowed.",
                &["server", "view"],
            )?,
            local: make.count("local_localhost_requests_total", "Counter of localhost.<domain> requests.")?,
            dns64: make.counts(
                "dns64_requests_translated_total",
                "Counter of DNS requests translated by dns64.",
                &["server"],
            )?,
            autopath: make.counts(
                "autopath_success_total",
                "Counter of requests that did autopath.",
                &["server"],
            )?,
            cache_requests: make.counts("cache_requests_total", "The count of cache requests.", &of_cache)?,
            cache_hits: make.counts(
                "cache_hits_total",
                "The count of cache hits.",
                &["server", "type", "zones", "view"],
            )?,
            cache_misses: make.counts(
                "cache_misses_total",
                "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
                &of_cache,
            )?,
            cache_entries: make.gauges(
                "cache_entries",
                "The number of elements in the cache.",
                &["server", "type", "zones", "view"],
            )?,
            cache_prefetches: make.counts(
                "cache_prefetch_total",
                "The number of times the cache has prefetched a cached item.",
                &of_cache,
            )?,
            cache_stale: make.counts(
                "cache_served_stale_total",
                "The number of requests served from stale cache entries.",
                &of_cache,
            )?,
            cache_evictions: make.counts(
                "cache_evictions_total",
                "The count of cache evictions.",
                &["server", "type", "zones", "view"],
            )?,
            proxy: make.histograms(
                "proxy_request_duration_seconds",
                "Histogram of the time each request took.",
                &["proxy_name", "to", "rcode"],
                times,
            )?,
            connections: [connections("misses")?, connections("hits")?],
            forward_rejects: make.count(
                "forward_max_concurrent_rejects_total",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            )?,
            forward_broken: make.count(
                "forward_healthcheck_broken_total",
                "Counter of the number of complete failures of the healthchecks.",
            )?,
            health_failures: make.counts(
                "proxy_healthcheck_failures_total",
                "Counter of the number of failed healthchecks.",
                &["proxy_name", "to"],
            )?,
            health: make.keep(Histogram::with_opts(
                HistogramOpts::new(
                    "coredns_health_request_duration_seconds",
                    "Histogram of the time (in seconds) each request took.",
                )
                .buckets(slim_times),
            )?)?,
            health_unanswered: make
                .count("health_request_failures_total", "The number of times the health check failed.")?,
            hosts_entries: make.gauges(
                "hosts_entries",
                "The combined number of entries in hosts and Corefile.",
                &["hostsfile"],
            )?,
            hosts_read: make.keep(Gauge::new(
                "coredns_hosts_reload_timestamp_seconds",
                "The timestamp of the last reload of hosts file.",
            )?)?,
            programming: make.histograms(
                "kubernetes_dns_programming_duration_seconds",
                "Histogram of the time (in seconds) it took to program a dns instance.",
                &["service_kind"],
                long_times,
            )?,
            api: Api::register(&make)?,
            reload_failed: make
                .count("reload_failed_total", "Counter of the number of failed reload attempts.")?,
            reload_version: make.gauges(
                "reload_version_info",
                "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
                &["hash", "value"],
            )?,
            template_matches: make.counts(
                "template_matches_total",
                "Counter of template regex matches.",
                &of_template,
            )?,
            template_failures: make.counts(
                "template_template_failures_total",
                "Counter of go template failures.",
                &of_line,
            )?,
            template_rr_failures: make.counts(
                "template_rr_failures_total",
                "Counter of mis-templated RRs.",
                &of_line,
            )?,
            panics: make.count("panics_total", "A metrics that counts the number of panics.")?,
        })
    }

    /// Counts one query.
    pub fn observe(&self, o: &Observation<'_>) {
        let Place { server, zone, view } = o.place;
        self.requests.with_label_values(&[server, zone, view, o.protocol, o.family, o.kind]).inc();
        self.responses.with_label_values(&[server, zone, view, o.rcode, o.plugin]).inc();
        self.durations.with_label_values(&[server, zone, view]).observe(o.took.as_secs_f64());
        let sized = [server, zone, view, o.protocol];
        self.request_sizes.with_label_values(&sized).observe(bytes(o.sizes.0));
        self.response_sizes.with_label_values(&sized).observe(bytes(o.sizes.1));
        if o.dnssec {
            self.dnssec.with_label_values(&[server, zone, view]).inc();
        }
    }

    /// The counters of queries over UDP of a type, answered so by a directive.
    pub fn counted(&self, place: Place<'_>, kind: &str, dnssec: bool, rcode: &str, plugin: &str) -> Counted {
        let Place { server, zone, view } = place;
        let requests =
            |family: &str| self.requests.with_label_values(&[server, zone, view, "udp", family, kind]);
        let sized = [server, zone, view, "udp"];
        Counted {
            requests: [requests("1"), requests("2")],
            responses: self.responses.with_label_values(&[server, zone, view, rcode, plugin]),
            durations: self.durations.with_label_values(&[server, zone, view]),
            request_sizes: self.request_sizes.with_label_values(&sized),
            response_sizes: self.response_sizes.with_label_values(&sized),
            dnssec: dnssec.then(|| self.dnssec.with_label_values(&[server, zone, view])),
        }
    }

    /// How many queries the histogram of times has counted.
    #[cfg(test)]
    pub fn answered(&self) -> u64 {
        let families = self.durations.collect();
        families.iter().flat_map(|f| f.get_metric()).map(|m| m.get_histogram().get_sample_count()).sum()
    }

    /// Notes which directives a block has.
    pub fn plugins(&self, place: Place<'_>, names: &[String]) {
        for name in names {
            self.enabled.with_label_values(&[place.server, place.zone, place.view, name]).set(1);
        }
    }

    /// Forgets which directives blocks have, before they are told anew.
    pub fn forget_plugins(&self) {
        self.enabled.reset();
    }

    /// Counts a query that the rules of `acl` for a zone were the end of.
    pub fn judged(&self, place: Place<'_>, judged: Judged) {
        self.acl[judged as usize].with_label_values(&[place.server, place.zone, place.view]).inc();
    }

    /// Counts a query that the rules of `acl` let pass.
    pub fn let_in(&self, place: Place<'_>) {
        self.acl_allowed.with_label_values(&[place.server, place.view]).inc();
    }

    /// Counts a question for this host that a search path led to.
    pub fn local(&self) {
        self.local.inc();
    }

    /// Counts a question that was answered with addresses that were made.
    pub fn translated(&self, server: &str) {
        self.dns64.with_label_values(&[server]).inc();
    }

    /// Counts a search path that was walked to a name.
    pub fn walked(&self, server: &str) {
        self.autopath.with_label_values(&[server]).inc();
    }

    /// Counts a look into the cache; `hit` is `success`, `denial` or nothing. The place's zone is all of the cache's.
    pub fn cache(&self, place: Place<'_>, hit: Option<&str>, entries: (usize, usize)) {
        let Place { server, zone, view } = place;
        self.cache_requests.with_label_values(&[server, zone, view]).inc();
        match hit {
            Some(kind) => self.cache_hits.with_label_values(&[server, kind, zone, view]).inc(),
            None => self.cache_misses.with_label_values(&[server, zone, view]).inc(),
        }
        for (kind, count) in [("success", entries.0), ("denial", entries.1)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.cache_entries.with_label_values(&[server, kind, zone, view]).set(count);
        }
    }

    /// Counts an answer that was over and was given all the same.
    pub fn cache_stale(&self, place: Place<'_>) {
        self.cache_stale.with_label_values(&[place.server, place.zone, place.view]).inc();
    }

    /// Counts an answer that was asked for before it was over.
    pub fn cache_prefetched(&self, place: Place<'_>) {
        self.cache_prefetches.with_label_values(&[place.server, place.zone, place.view]).inc();
    }

    /// Counts answers and denials that made room for others.
    pub fn cache_evicted(&self, place: Place<'_>, gone: (u64, u64)) {
        for (kind, count) in [("success", gone.0), ("denial", gone.1)] {
            if count > 0 {
                let labels = [place.server, kind, place.zone, place.view];
                self.cache_evictions.with_label_values(&labels).inc_by(count);
            }
        }
    }

    /// Counts a query that a server answered.
    pub fn forwarded(&self, to: &str, code: ResponseCode, took: Duration) {
        self.proxy.with_label_values(&["forward", to, &rcode(code)]).observe(took.as_secs_f64());
    }

    /// Counts a connection to a server over `udp`, `tcp` or `tcp-tls`: one that was kept, or a new one.
    pub fn connected(&self, to: &str, protocol: &str, is_kept: bool) {
        self.connections[usize::from(is_kept)].with_label_values(&["forward", to, protocol]).inc();
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

    /// Counts a look at the own page of health, and how long it took; `None` went wrong.
    pub fn health_looked_at(&self, took: Option<Duration>) {
        match took {
            Some(took) => self.health.observe(took.as_secs_f64()),
            None => self.health_unanswered.inc(),
        }
    }

    /// Notes that a hosts file was read, and when (in seconds since 1970).
    pub fn hosts_read(&self, file: &str, entries: usize, at: f64) {
        self.hosts_entries.with_label_values(&[file]).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.hosts_read.set(at);
    }

    /// Counts a change of endpoints that is answered with from now on, by how long ago it was caused.
    pub fn programmed(&self, service_kind: &str, ago: Duration) {
        self.programming.with_label_values(&[service_kind]).observe(ago.as_secs_f64());
    }

    /// Counts a Corefile that was not taken over.
    pub fn reload_failed(&self) {
        self.reload_failed.inc();
    }

    /// Notes the hash of the Corefile in use.
    pub fn reloaded(&self, sha512: &str) {
        self.reload_version.reset();
        self.reload_version.with_label_values(&["sha512", sha512]).set(1);
    }

    /// Counts a query that a template of this class and type matched.
    pub fn template_matched(&self, place: Place<'_>, class: &str, kind: &str) {
        let Place { server, zone, view } = place;
        self.template_matches.with_label_values(&[server, zone, view, class, kind]).inc();
    }

    /// Counts a line that could not be filled in (`is_record` is false), or made no record.
    pub fn template_failed(
        &self,
        place: Place<'_>,
        (class, kind): (&str, &str),
        (section, line): (&str, &str),
        is_record: bool,
    ) {
        let Place { server, zone, view } = place;
        let which = if is_record { &self.template_rr_failures } else { &self.template_failures };
        which.with_label_values(&[server, zone, view, class, kind, section, line]).inc();
    }

    /// Counts every panic of the process from now on.
    pub fn count_panics(&self) {
        let (panics, before) = (self.panics.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            panics.inc();
            before(info);
        }));
    }

    /// Counts requests to the API server from now on.
    pub fn count_requests(&self) {
        component_base::client::observe(Box::new(self.api.clone()));
    }
}

// === impl Api ===

impl Api {
    fn register(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let usual = prometheus::DEFAULT_BUCKETS.to_vec();
        Ok(Self {
            requests: make.counts(
                "kubernetes_rest_client_requests_total",
                "Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "method", "host"],
            )?,
            durations: make.histograms(
                "kubernetes_rest_client_request_duration_seconds",
                "Request latency in seconds. Broken down by verb and host.",
                &["verb", "host"],
                usual.clone(),
            )?,
            waits: make.histograms(
                "kubernetes_rest_client_rate_limiter_duration_seconds",
                "Client side rate limiter latency in seconds. Broken down by verb and host.",
                &["verb", "host"],
                usual,
            )?,
        })
    }
}

impl component_base::client::Observer for Api {
    fn waited(&self, method: &str, host: &str, took: Duration) {
        self.waits.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }

    fn answered(&self, method: &str, host: &str, code: &str, took: Duration) {
        self.requests.with_label_values(&[code, method, host]).inc();
        self.durations.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }
}

/// A response code as metrics and logs have it.
pub fn rcode(code: ResponseCode) -> String {
    let number = u16::from(code);
    match RCODES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

/// Response codes that have a name.
pub const RCODES: [(&str, u16); 20] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("BADSIG", 16),
    ("BADKEY", 17),
    ("BADTIME", 18),
    ("BADMODE", 19),
    ("BADNAME", 20),
    ("BADALG", 21),
    ("BADTRUNC", 22),
    ("BADCOOKIE", 23),
    ("STATEFULTYPENOTIMP", 11),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, its labels, and of its buckets how many there are, the first and the last.
    type Known = (&'static str, &'static [&'static str], Option<(usize, f64, f64)>);

    /// Names, labels and bounds of buckets (how many, the first, the last) as CoreDNS has them, for what is served here.
    /// It has besides `dns_https_responses_total`, `dns_https3_responses_total` and `dns_quic_responses_total`, of
    /// protocols that are refused here.
    const COREDNS: &[Known] = &[
        ("coredns_acl_allowed_requests_total", &["server", "view"], None),
        ("coredns_acl_blocked_requests_total", &PLACE, None),
        ("coredns_acl_dropped_requests_total", &PLACE, None),
        ("coredns_acl_filtered_requests_total", &PLACE, None),
        ("coredns_autopath_success_total", &["server"], None),
        ("coredns_dns64_requests_translated_total", &["server"], None),
        ("coredns_local_localhost_requests_total", &[], None),
        ("coredns_build_info", &["goversion", "revision", "version"], None),
        ("coredns_cache_drops_total", &["server", "view", "zones"], None),
        ("coredns_cache_entries", &["server", "type", "view", "zones"], None),
        ("coredns_cache_evictions_total", &["server", "type", "view", "zones"], None),
        ("coredns_cache_hits_total", &["server", "type", "view", "zones"], None),
        ("coredns_cache_misses_total", &["server", "view", "zones"], None),
        ("coredns_cache_prefetch_total", &["server", "view", "zones"], None),
        ("coredns_cache_requests_total", &["server", "view", "zones"], None),
        ("coredns_cache_served_stale_total", &["server", "view", "zones"], None),
        ("coredns_dns_do_requests_total", &PLACE, None),
        ("coredns_dns_request_duration_seconds", &PLACE, Some((16, 0.000_25, 8.192))),
        ("coredns_dns_request_size_bytes", &["proto", "server", "view", "zone"], Some((14, 0.0, 64e3))),
        ("coredns_dns_requests_total", &["family", "proto", "server", "type", "view", "zone"], None),
        ("coredns_dns_response_size_bytes", &["proto", "server", "view", "zone"], Some((14, 0.0, 64e3))),
        ("coredns_dns_responses_total", &["plugin", "rcode", "server", "view", "zone"], None),
        ("coredns_forward_healthcheck_broken_total", &[], None),
        ("coredns_forward_max_concurrent_rejects_total", &[], None),
        ("coredns_health_request_duration_seconds", &[], Some((5, 0.000_25, 2.5))),
        ("coredns_health_request_failures_total", &[], None),
        ("coredns_hosts_entries", &["hostsfile"], None),
        ("coredns_hosts_reload_timestamp_seconds", &[], None),
        (
            "coredns_kubernetes_dns_programming_duration_seconds",
            &["service_kind"],
            Some((20, 0.001, 524.288)),
        ),
        (
            "coredns_kubernetes_rest_client_rate_limiter_duration_seconds",
            &["host", "verb"],
            Some((11, 0.005, 10.0)),
        ),
        (
            "coredns_kubernetes_rest_client_request_duration_seconds",
            &["host", "verb"],
            Some((11, 0.005, 10.0)),
        ),
        ("coredns_kubernetes_rest_client_requests_total", &["code", "host", "method"], None),
        ("coredns_panics_total", &[], None),
        ("coredns_plugin_enabled", &["name", "server", "view", "zone"], None),
        ("coredns_proxy_conn_cache_hits_total", &["proto", "proxy_name", "to"], None),
        ("coredns_proxy_conn_cache_misses_total", &["proto", "proxy_name", "to"], None),
        ("coredns_proxy_healthcheck_failures_total", &["proxy_name", "to"], None),
        (
            "coredns_proxy_request_duration_seconds",
            &["proxy_name", "rcode", "to"],
            Some((16, 0.000_25, 8.192)),
        ),
        ("coredns_reload_failed_total", &[], None),
        ("coredns_reload_version_info", &["hash", "value"], None),
        ("coredns_template_matches_total", &["class", "server", "type", "view", "zone"], None),
        (
            "coredns_template_rr_failures_total",
            &["class", "section", "server", "template", "type", "view", "zone"],
            None,
        ),
        (
            "coredns_template_template_failures_total",
            &["class", "section", "server", "template", "type", "view", "zone"],
            None,
        ),
    ];

    /// Counts one of everything.
    fn counts_everything(metrics: &Metrics) {
        let place = Place { server: "dns://:53", zone: ".", view: "" };
        let took = Duration::from_millis(1);
        let (kind, code) = ("A", "NOERROR");
        metrics.observe(&Observation {
            place,
            protocol: "udp",
            family: "1",
            kind,
            dnssec: true,
            rcode: code,
            plugin: "cache",
            sizes: (40, 80),
            took,
        });
        metrics.plugins(place, &["cache".to_owned()]);
        for judged in [Judged::Filtered, Judged::Blocked, Judged::Dropped] {
            metrics.judged(place, judged);
        }
        metrics.let_in(place);
        metrics.local();
        metrics.translated(place.server);
        metrics.walked(place.server);
        metrics.cache(place, Some("success"), (1, 0));
        metrics.cache(place, None, (1, 0));
        metrics.cache_stale(place);
        metrics.cache_prefetched(place);
        metrics.cache_evicted(place, (1, 1));
        metrics.forwarded("10.0.0.1:53", ResponseCode::NoError, took);
        metrics.connected("10.0.0.1:53", "udp", false);
        metrics.connected("10.0.0.1:53", "udp", true);
        metrics.health_check_failed("10.0.0.1:53");
        metrics.hosts_read("/etc/hosts", 3, 1.0);
        metrics.programmed("cluster_ip", took);
        metrics.reloaded("00");
        metrics.template_matched(place, "IN", "A");
        metrics.template_failed(place, ("IN", "A"), ("answer", "{{ .Name }}"), false);
        metrics.template_failed(place, ("IN", "A"), ("answer", "{{ .Name }}"), true);
        use component_base::client::Observer as _;
        metrics.api.waited("GET", "host", took);
        metrics.api.answered("GET", "host", "200", took);
    }

    #[test]
    fn names_labels_and_buckets_are_those_of_coredns() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        counts_everything(&metrics);
        let families = registry.gather();
        for (name, labels, buckets) in COREDNS {
            let Some(family) = families.iter().find(|family| family.name() == *name) else {
                // Nothing is ever counted there.
                assert_eq!(*name, "coredns_cache_drops_total", "{name} is absent");
                continue;
            };
            let one = &family.get_metric()[0];
            let mut has: Vec<&str> = one.get_label().iter().map(|label| label.name()).collect();
            has.sort_unstable();
            let mut wanted = labels.to_vec();
            wanted.sort_unstable();
            assert_eq!(has, wanted, "{name}");
            let bounds: Vec<f64> = one.get_histogram().get_bucket().iter().map(|b| b.upper_bound()).collect();
            match buckets {
                None => assert!(bounds.is_empty(), "{name}"),
                Some((count, first, last)) => {
                    assert_eq!(
                        (bounds.len(), bounds[0], bounds[count - 1]),
                        (*count, *first, *last),
                        "{name}"
                    );
                }
            }
        }
        let known: Vec<&str> = COREDNS.iter().map(|(name, ..)| *name).collect();
        for family in &families {
            assert!(known.contains(&family.name()), "{} is none of CoreDNS'", family.name());
        }
    }
}
