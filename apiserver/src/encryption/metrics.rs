//! Metrics of encryption at rest, by upstream's names (`storage/value`, `encrypt/envelope/metrics`, `encryptionconfig/metrics`).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use component_base::metrics::{self, Stability};
use lru::LruCache;
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};
use sha2::{Digest, Sha256};

use crate::storage::ResourceId;

/// Sets of labels with a key's name in them that are shown: the plugin makes up those names.
const MOST_KEYS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(100).expect("a hundred is not zero");

const BY_USE: &[&str] = &["transformation_type", "provider_name", "key_id_hash", "apiserver_id_hash"];
const BY_KEY: &[&str] = &["provider_name", "key_id_hash", "apiserver_id_hash"];
const BY_RESULT: &[&str] = &["status", "apiserver_id_hash"];

static TRANSFORMATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &["resource", "transformation_type", "transformer_prefix", "status"];
    let help = "Values encrypted and decrypted, by outcome.";
    metrics::counter_vec("apiserver_storage_transformation_operations_total", help, Stability::Alpha, labels)
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = metrics::exponential_buckets(5e-6, 2.0, 25);
    let labels = &["transformation_type", "transformer_prefix"];
    let help = "Time of encrypting and decrypting values, in seconds.";
    let name = "apiserver_storage_transformation_duration_seconds";
    metrics::histogram_vec(name, help, Stability::Alpha, labels, buckets)
});
static MISSES: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Seeds a KMS plugin had to decrypt for a read.";
    metrics::counter("apiserver_storage_envelope_transformation_cache_misses_total", help, Stability::Alpha)
});
static GENERATION: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = metrics::exponential_buckets(5e-6, 2.0, 14);
    let help = "Time of making seeds, in seconds.";
    metrics::histogram(
        "apiserver_storage_data_key_generation_duration_seconds",
        help,
        Stability::Alpha,
        buckets,
    )
});
static GENERATION_FAILURES: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Seeds that could not be made.";
    metrics::counter("apiserver_storage_data_key_generation_failures_total", help, Stability::Alpha)
});
static FILL: LazyLock<Gauge> = LazyLock::new(|| {
    let help = "Share of the cache of KMS v1 keys that is in use; there is none.";
    metrics::float_gauge("apiserver_envelope_encryption_dek_cache_fill_percent", help, Stability::Alpha)
});
static CALLS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = metrics::exponential_buckets(0.0001, 2.0, 20);
    let labels = &["provider_name", "method_name", "grpc_status_code"];
    let help = "Time of calls to KMS plugins by their outcome, in seconds.";
    let name = "apiserver_envelope_encryption_kms_operations_latency_seconds";
    metrics::histogram_vec(name, help, Stability::Alpha, labels, buckets)
});
static KEY_USES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Uses of a KMS plugin's key.";
    metrics::counter_vec("apiserver_envelope_encryption_key_id_hash_total", help, Stability::Alpha, BY_USE)
});
static KEY_USED: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "When a KMS plugin's key was used last.";
    let name = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds";
    metrics::float_gauge_vec(name, help, Stability::Alpha, BY_USE)
});
static KEY_TOLD: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "When a KMS plugin's status named a key last.";
    let name = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
    metrics::float_gauge_vec(name, help, Stability::Alpha, BY_KEY)
});
static KEY_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &["provider_name", "error"];
    let help = "Names of keys in a KMS plugin's status that cannot be.";
    let name = "apiserver_envelope_encryption_invalid_key_id_from_status_total";
    metrics::counter_vec(name, help, Stability::Alpha, labels)
});
static SEEDS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Decrypted seeds that are known.";
    let name = "apiserver_envelope_encryption_dek_source_cache_size";
    metrics::gauge_vec(name, help, Stability::Alpha, &["provider_name"])
});
static RELOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Changed encryption configurations, by whether they were taken over.";
    let name = "apiserver_encryption_config_controller_automatic_reloads_total";
    metrics::counter_vec(name, help, Stability::Alpha, BY_RESULT)
});
static RELOADED: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "When a changed encryption configuration was last taken over, or not.";
    let name = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds";
    metrics::float_gauge_vec(name, help, Stability::Alpha, BY_RESULT)
});
static CONFIGURATION: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "The hash of the encryption configuration in use.";
    let name = "apiserver_encryption_config_controller_last_config_info";
    metrics::gauge_vec(name, help, Stability::Alpha, &["apiserver_id_hash", "hash"])
});

static USES: LazyLock<Mutex<LruCache<[String; 4], ()>>> = LazyLock::new(|| LruCache::new(MOST_KEYS).into());
static TOLD: LazyLock<Mutex<LruCache<[String; 3], ()>>> = LazyLock::new(|| LruCache::new(MOST_KEYS).into());

/// Which way a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    FromStorage,
    ToStorage,
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::FromStorage => "from_storage",
            Self::ToStorage => "to_storage",
        }
    }
}

/// Shows the counters that have not counted yet.
pub fn register() {
    LazyLock::force(&MISSES);
    LazyLock::force(&GENERATION);
    LazyLock::force(&GENERATION_FAILURES);
    LazyLock::force(&FILL);
}

/// How names that may be secret are shown.
pub(super) fn hash(text: &str) -> String {
    use std::fmt::Write;
    let mut shown = String::from("sha256:");
    for byte in Sha256::digest(text.as_bytes()) {
        write!(shown, "{byte:02x}").expect("strings take all that is written");
    }
    shown
}

/// A value went through a provider; `code` is gRPC's word for the outcome.
pub(super) fn transformed(id: &ResourceId, way: Way, prefix: &str, code: &str, begun: Instant) {
    TRANSFORMATIONS.with_label_values(&[id.to_string().as_str(), way.word(), prefix, code]).inc();
    if code == "OK" {
        DURATION.with_label_values(&[way.word(), prefix]).observe(begun.elapsed().as_secs_f64());
    }
}

/// A seed was not known yet.
pub(super) fn missed() {
    MISSES.inc();
}

/// A seed was made, or could not be.
pub(super) fn generated(begun: Instant, succeeded: bool) {
    match succeeded {
        true => GENERATION.observe(begun.elapsed().as_secs_f64()),
        false => GENERATION_FAILURES.inc(),
    }
}

/// A plugin was called.
pub(super) fn called(provider: &str, method: &str, code: &str, took: Duration) {
    CALLS.with_label_values(&[provider, method, code]).observe(took.as_secs_f64());
}

/// Tells of series that could not be taken away: they were not shown.
fn gone<const N: usize>(removed: [prometheus::Result<()>; N]) {
    for error in removed.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a key was not among the metrics");
    }
}

/// A value was sealed or opened with a plugin's key.
pub(super) fn key_used(way: Way, provider: &str, key: &str, server: &str) {
    let labels = [way.word(), provider, key, server];
    let old = USES.lock().push(labels.map(str::to_owned), ()).map(|(old, ())| old);
    if let Some(old) = old.filter(|old| *old != labels) {
        gone([KEY_USES.remove_label_values(&old), KEY_USED.remove_label_values(&old)]);
    }
    KEY_USES.with_label_values(&labels).inc();
    KEY_USED.with_label_values(&labels).set(now());
}

/// A plugin's status named a key.
pub(super) fn key_told(provider: &str, key: &str, server: &str) {
    let labels = [provider, key, server];
    let old = TOLD.lock().push(labels.map(str::to_owned), ()).map(|(old, ())| old);
    if let Some(old) = old.filter(|old| *old != labels) {
        gone([KEY_TOLD.remove_label_values(&old)]);
    }
    KEY_TOLD.with_label_values(&labels).set(now());
}

/// A plugin's status named a key that cannot be.
pub(super) fn key_refused(provider: &str, error: &str) {
    KEY_REFUSED.with_label_values(&[provider, error]).inc();
}

/// So many seeds are known.
pub(super) fn seeds(provider: &str, known: usize) {
    SEEDS.with_label_values(&[provider]).set(i64::try_from(known).unwrap_or(i64::MAX));
}

/// A changed configuration was taken over, or not.
pub(super) fn reloaded(server: &str, succeeded: bool) {
    let labels = [if succeeded { "success" } else { "failure" }, server];
    RELOADS.with_label_values(&labels).inc();
    RELOADED.with_label_values(&labels).set(now());
}

/// A configuration is in use.
pub(super) fn configured(server: &str, hash: &str) {
    CONFIGURATION.reset();
    CONFIGURATION.with_label_values(&[server, hash]).set(1);
}

/// Seconds since 1970.
fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_keys_shown_is_bounded() {
        for at in 0..150 {
            key_used(Way::ToStorage, "bounded", &at.to_string(), "s");
            key_told("bounded", &at.to_string(), "s");
        }
        key_used(Way::ToStorage, "bounded", "149", "s");
        let text = String::from_utf8(metrics::encode().unwrap()).unwrap();
        let shown = |name: &str| {
            let ours = |line: &&str| line.starts_with(name) && line.contains("\"bounded\"");
            text.lines().filter(ours).count()
        };
        assert!(shown("apiserver_envelope_encryption_key_id_hash_total{") <= 100);
        assert!(shown("apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{") <= 100);
        assert_eq!(KEY_USES.with_label_values(&["to_storage", "bounded", "149", "s"]).get(), 2);
    }

    #[test]
    fn hashes_are_sha_256() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hash(""), empty);
    }
}
