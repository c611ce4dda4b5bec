//! Keeps the kernel's tables what the model asks for: one transaction per change, a rebuild after trouble.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::metrics::{self, Stability};
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::{
    kernel::{Kernel, KernelError},
    model::{Model, Settings},
    plan::{Slots, plan},
    tables::{Family, Table, diff},
};

/// What the proxy has committed, and the way to the kernel.
#[derive(Debug)]
pub struct Proxier {
    kernel: Kernel,
    families: Vec<Committed>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Committed {
    family: Family,
    slots: Slots,
    /// `None`: unknown, so the next sync makes the table anew.
    table: Option<Table>,
}

/// Metrics under upstream's names.
#[derive(Debug)]
pub struct Metrics {
    duration: Histogram,
    last: IntGauge,
    failures: IntCounter,
}

impl Metrics {
    /// Registers them in the process's registry.
    pub fn register() -> Self {
        let buckets = metrics::exponential_buckets(0.001, 2.0, 15);
        Self {
            duration: metrics::histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                Stability::Alpha,
                buckets,
            ),
            last: metrics::gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                Stability::Alpha,
            ),
            failures: metrics::counter(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Cumulative proxy nftables sync failures",
                Stability::Alpha,
            ),
        }
    }
}

impl Proxier {
    /// A proxier that has committed nothing yet: the first sync replaces whatever table is there.
    pub fn new(metrics: Arc<Metrics>) -> Result<Self, KernelError> {
        let families = [Family::V4, Family::V6];
        let families = families
            .map(|family| Committed { family, slots: Slots::default(), table: None })
            .into_iter()
            .collect();
        Ok(Self { kernel: Kernel::open()?, families, metrics })
    }

    /// Brings the kernel's tables to the model. After a failure the next call starts from nothing.
    pub fn sync(
        &mut self,
        model: &Model,
        settings: &Settings,
        now: jiff::Timestamp,
    ) -> Result<(), KernelError> {
        let started = Instant::now();
        let mut changes = Vec::new();
        let mut tables = Vec::new();
        for committed in &mut self.families {
            let table = plan(committed.family, model, settings, &mut committed.slots);
            changes.push((committed.family, diff(committed.table.as_ref(), &table)));
            tables.push(table);
        }
        let result = self.kernel.commit(&changes);
        for (committed, table) in self.families.iter_mut().zip(tables) {
            committed.table = result.is_ok().then_some(table);
        }
        match &result {
            Ok(()) => self.metrics.last.set(now.as_second()),
            Err(_) => self.metrics.failures.inc(),
        }
        self.metrics.duration.observe(started.elapsed().as_secs_f64());
        result
    }

    /// Forgets what was committed, so that the next sync repairs what a stranger may have changed.
    pub fn distrust(&mut self) {
        for committed in &mut self.families {
            committed.table = None;
        }
    }
}

/// How long to wait before the next sync: changes are gathered, but never longer than this.
pub fn due_in(last: Option<Instant>, now: Instant, least: Duration) -> Duration {
    last.map_or(Duration::ZERO, |last| least.saturating_sub(now.saturating_duration_since(last)))
}

/// Deletes both tables; fine if they are not there.
pub fn cleanup() -> Result<(), KernelError> {
    use crate::tables::Command;
    // Adding first makes deleting always possible; one transaction leaves no trace of it.
    let gone = || vec![Command::AddTable, Command::DeleteTable];
    Kernel::open()?.commit(&[(Family::V4, gone()), (Family::V6, gone())])
}
