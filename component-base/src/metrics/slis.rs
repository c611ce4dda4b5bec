//! `/metrics/slis`: what health checks found, for those who measure how often a component serves.
//!
//! Contract: KEP-3466; `kubernetes_healthcheck`, `kubernetes_healthchecks_total` and the time the process began, in a
//! registry of their own.

use std::sync::LazyLock;

use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{REGISTRY, Stability};

/// The time the process began, as the process's own registry knows it.
const START: &str = "process_start_time_seconds";

struct Slis {
    registry: Registry,
    last: IntGaugeVec,
    all: IntCounterVec,
}

static SLIS: LazyLock<Slis> = LazyLock::new(|| {
    let opts = |name: &str, help: &str| Opts::new(name, format!("{}{help}", Stability::Stable.prefix()));
    #[expect(clippy::expect_used, reason = "names and labels are constants of the program")]
    let (last, all) = (
        IntGaugeVec::new(opts("kubernetes_healthcheck", "Whether a health check holds."), &["name", "type"])
            .expect("the gauge is valid"),
        IntCounterVec::new(
            opts("kubernetes_healthchecks_total", "Health checks by what they found."),
            &["name", "status", "type"],
        )
        .expect("the counter is valid"),
    );
    let registry = Registry::new();
    for registered in [registry.register(Box::new(last.clone())), registry.register(Box::new(all.clone()))] {
        if let Err(error) = registered {
            tracing::error!(%error, "metric registered twice");
        }
    }
    Slis { registry, last, all }
});

/// Notes what a check found when an endpoint (`healthz`, `livez`, `readyz`) was asked for all of its checks.
pub fn observe(check: &str, endpoint: &str, holds: bool) {
    SLIS.last.with_label_values(&[check, endpoint]).set(i64::from(holds));
    let status = if holds { "success" } else { "error" };
    SLIS.all.with_label_values(&[check, status, endpoint]).inc();
}

/// The page's text.
///
/// # Errors
/// When a collector yields metrics that cannot be written as text.
pub fn encode() -> prometheus::Result<Vec<u8>> {
    let mut families = SLIS.registry.gather();
    families.extend(REGISTRY.gather().into_iter().filter(|family| family.name() == START));
    let mut text = Vec::with_capacity(4 * 1024);
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted_and_the_last_one_is_shown() {
        for holds in [true, false, false] {
            observe("sli-test", "livez", holds);
        }
        let text = String::from_utf8(encode().unwrap()).unwrap();
        for line in [
            "# HELP kubernetes_healthcheck [STABLE] Whether",
            "kubernetes_healthcheck{name=\"sli-test\",type=\"livez\"} 0\n",
            "kubernetes_healthchecks_total{name=\"sli-test\",status=\"success\",type=\"livez\"} 1\n",
            "kubernetes_healthchecks_total{name=\"sli-test\",status=\"error\",type=\"livez\"} 2\n",
            "\nprocess_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("process_resident_memory_bytes"), "{text}");
    }
}
