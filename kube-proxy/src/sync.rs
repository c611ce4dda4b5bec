//! Carrying plans out: from the model to the kernel, one batch per family and change.
//!
//! What was committed last is remembered; a failed batch makes it unknown, and the next one makes the
//! table anew. So does the hourly repair, for tables somebody else has touched.

use std::time::{Duration, Instant};

use component_base::metrics::{self, Stability};
use prometheus::{GaugeVec, HistogramVec, IntCounterVec};

use crate::{
    conntrack::{self, Expected},
    kernel::{Kernel, KernelError, POLICIES, SERVICES},
    model::{Model, Settings},
    plan::{Slots, plan},
    tables::{Command, Family, Table, diff},
};

/// Time between repairs, as upstream.
const REPAIR: Duration = Duration::from_secs(3600);

/// The proxy's hand on the kernel.
#[derive(Debug)]
pub struct Syncer {
    kernel: Kernel,
    families: Vec<State>,
    repaired: Instant,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    family: Family,
    slots: Slots,
    committed: Option<Table>,
    expected: Expected,
}

#[derive(Debug)]
struct Metrics {
    duration: HistogramVec,
    full_duration: HistogramVec,
    partial_duration: HistogramVec,
    last: GaugeVec,
    failures: IntCounterVec,
    flows_deleted: IntCounterVec,
}

// === impl Syncer ===

impl Syncer {
    /// Opens the kernel's door; touches nothing yet.
    pub fn open() -> Result<Self, KernelError> {
        let state = |family| State {
            family,
            slots: Slots::default(),
            committed: None,
            expected: Expected::default(),
        };
        Ok(Self {
            kernel: Kernel::open(SERVICES)?,
            families: families().into_iter().map(state).collect(),
            repaired: Instant::now(),
            metrics: Metrics::new(),
        })
    }

    /// Makes the kernel's tables those of the model. Every family is tried; the first error is
    /// answered.
    pub fn sync(&mut self, model: &Model, settings: &Settings) -> Result<(), KernelError> {
        if self.repaired.elapsed() > REPAIR {
            self.repaired = Instant::now();
            self.families.iter_mut().for_each(|state| state.committed = None);
        }
        let mut outcome = Ok(());
        for state in &mut self.families {
            let done = state.sync(&mut self.kernel, model, settings, &self.metrics);
            outcome = outcome.and(done);
        }
        outcome
    }
}

impl State {
    fn sync(
        &mut self,
        kernel: &mut Kernel,
        model: &Model,
        settings: &Settings,
        metrics: &Metrics,
    ) -> Result<(), KernelError> {
        let (started, label) = (Instant::now(), &[label(self.family)][..]);
        let table = plan(self.family, model, settings, &mut self.slots);
        let full = self.committed.is_none();
        let commands = diff(self.committed.as_ref(), &table);
        // Unknown until the kernel has agreed.
        self.committed = None;
        if let Err(error) = kernel.commit(&[(self.family, commands)]) {
            metrics.failures.with_label_values(label).inc();
            return Err(error);
        }
        self.committed = Some(table);
        self.clean_flows(model, settings, metrics);
        let seconds = started.elapsed().as_secs_f64();
        metrics.duration.with_label_values(label).observe(seconds);
        let kind = if full { &metrics.full_duration } else { &metrics.partial_duration };
        kind.with_label_values(label).observe(seconds);
        metrics.last.with_label_values(label).set(now_seconds());
        Ok(())
    }

    /// Deletes UDP flows that do not fit any more, when what is expected has changed.
    fn clean_flows(&mut self, model: &Model, settings: &Settings, metrics: &Metrics) {
        let expected = Expected::of(model, settings);
        if expected != self.expected && !expected.is_empty() {
            match conntrack::clean(self.family, &expected) {
                Ok(deleted) => {
                    let deleted = u64::try_from(deleted).unwrap_or(u64::MAX);
                    metrics.flows_deleted.with_label_values(&[label(self.family)]).inc_by(deleted);
                }
                // New flows are right all the same; the next change tries again.
                Err(error) => {
                    tracing::warn!(%error, family = label(self.family), "stale UDP flows not deleted");
                    return;
                }
            }
        }
        self.expected = expected;
    }
}

/// Deletes our tables (`--cleanup`).
pub fn cleanup() -> Result<(), KernelError> {
    remove(SERVICES)?;
    remove(POLICIES)
}

/// Deletes the tables of a name.
pub fn remove(table: &'static str) -> Result<(), KernelError> {
    let mut kernel = Kernel::open(table)?;
    for family in families() {
        kernel.commit(&[(family, vec![Command::AddTable, Command::DeleteTable])])?;
    }
    Ok(())
}

/// The families this machine speaks: the kernel may have no IPv6 at all.
pub fn families() -> Vec<Family> {
    if ipv6_is_there() { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

/// Whether the kernel has IPv6 at all.
fn ipv6_is_there() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn now_seconds() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

// === impl Metrics ===

impl Metrics {
    fn new() -> Self {
        let family = &["ip_family"][..];
        let histogram = |name: &str, help: &str| {
            metrics::histogram_vec(
                name,
                help,
                Stability::Alpha,
                family,
                metrics::exponential_buckets(0.001, 2.0, 15),
            )
        };
        let counter = |name: &str, help: &str| metrics::counter_vec(name, help, Stability::Alpha, family);
        Self {
            duration: histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time of a sync, in seconds"),
            full_duration: histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "Time of a sync that makes the tables anew, in seconds",
            ),
            partial_duration: histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "Time of a sync that changes the tables, in seconds",
            ),
            last: metrics::float_gauge_vec(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When the tables were last right, in seconds since 1970",
                Stability::Alpha,
                family,
            ),
            failures: counter(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Batches the kernel refused",
            ),
            flows_deleted: counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Stale UDP flows deleted",
            ),
        }
    }
}
