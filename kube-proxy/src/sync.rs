//! Carrying plans out: from the model to the kernel, one batch per family and change.
//!
//! A change of a service is a change of its own part of the tables. A failed batch makes unknown what they hold, and
//! the next sync makes them anew. Tables others have taken away are noticed at once, what they have changed inside them
//! within seconds, and all is made anew every hour.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Stability},
};
use prometheus::{Gauge, Histogram, IntCounter};
use smallvec::SmallVec;

use crate::{
    conntrack::{self, Expected},
    kernel::{Content, Guard, Kernel, KernelError, POLICIES, SERVICES},
    model::{Model, Port, PortName, Protocol, Settings},
    plan::{self, Planner},
    tables::{Command, Family, diff},
};

/// Time between repairs, as upstream.
const REPAIR: Duration = Duration::from_secs(3600);

/// Changes that may wait until metrics are told of them.
const UNTOLD: usize = 256;

/// The proxy's hand on the kernel.
#[derive(Debug)]
pub struct Syncer {
    kernel: Kernel,
    guard: Guard,
    families: Vec<State>,
    repaired: Instant,
    /// What UDP services there are: their flows do not end by themselves.
    udp: Model,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    planner: Planner,
    /// Whether the kernel has what the planner planned.
    committed: bool,
    expected: Expected,
    /// Seconds changes took that the metrics have not been told of.
    took: Vec<f64>,
}

#[derive(Debug)]
struct Metrics {
    v4: FamilyMetrics,
    v6: FamilyMetrics,
}

#[derive(Debug)]
struct FamilyMetrics {
    duration: Histogram,
    full_duration: Histogram,
    partial_duration: Histogram,
    last: Gauge,
    failures: IntCounter,
    flows_deleted: IntCounter,
}

// === impl Syncer ===

impl Syncer {
    /// Opens the kernel's door; touches nothing yet.
    pub fn open() -> Result<Self, KernelError> {
        let state = |family| State {
            planner: Planner::new(family, Settings::default()),
            committed: false,
            expected: Expected::default(),
            took: Vec::new(),
        };
        Ok(Self {
            kernel: Kernel::open(SERVICES)?,
            guard: Guard::new(plan::ENTRY),
            families: families().into_iter().map(state).collect(),
            repaired: Instant::now(),
            udp: Model::default(),
            metrics: Metrics::new(),
        })
    }

    /// Whether changes can be told one by one: the tables are known to hold what was planned.
    pub fn follows(&self) -> bool {
        self.repaired.elapsed() <= REPAIR && self.families.iter().all(|state| state.committed)
    }

    /// Whether others have taken tables away or changed what is in them; the next sync makes them anew then.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn lost(&mut self, now: Instant) -> Result<bool, KernelError> {
        let mut lost = self.guard.lost(&mut self.kernel, now)?;
        if lost.is_empty() && self.families.iter().all(|state| state.committed) {
            let states = &self.families;
            let planned = |family| {
                let state = states.iter().find(|state| state.planner.family() == family);
                state.map(|state| Content::of(family, state.planner.anew())).unwrap_or_default()
            };
            lost = self.guard.altered(&mut self.kernel, now, planned)?;
        }
        for state in self.families.iter_mut().filter(|state| lost.contains(&state.planner.family())) {
            state.committed = false;
        }
        Ok(!lost.is_empty())
    }

    /// Makes the kernel's tables those of the model. Every family is tried; the first error is
    /// answered.
    pub fn sync(&mut self, model: &Model, settings: &Settings) -> Result<(), KernelError> {
        if self.repaired.elapsed() > REPAIR {
            self.repaired = Instant::now();
            self.families.iter_mut().for_each(|state| state.committed = false);
        }
        self.udp = udp_of(model);
        let mut outcome = Ok(());
        for state in &mut self.families {
            let began = Instant::now();
            let anew = !state.committed;
            let mut done = state.sync(&mut self.kernel, model, settings);
            if anew && done.is_ok() {
                done = self.guard.made(&mut self.kernel, state.planner.family());
            }
            let metrics = self.metrics.of(state.planner.family());
            match &done {
                Ok(()) => metrics.synced(began.elapsed().as_secs_f64(), anew),
                Err(_) => metrics.failures.inc(),
            }
            outcome = outcome.and(done);
            state.clean_flows(&self.udp, settings, &self.metrics);
        }
        outcome
    }

    /// Carries out a change of one service: the model holds what it is now, and nothing else; nothing when it is
    /// gone. Metrics are told with [`Syncer::report`].
    pub fn change(&mut self, service: &ObjectKey, model: &Model) -> Result<(), KernelError> {
        let of_udp = self.change_udp(service, model);
        let mut outcome = Ok(());
        let ports: SmallVec<[Port<'_>; 4]> = model.ports().collect();
        let mut began = Instant::now();
        for state in &mut self.families {
            let done = state.change(&mut self.kernel, service, &ports);
            if let Ok(false) = done {
                continue;
            }
            let ended = Instant::now();
            match done {
                Ok(_) => {
                    state.took.push((ended - began).as_secs_f64());
                    if state.took.len() >= UNTOLD {
                        state.report(&self.metrics);
                    }
                }
                Err(_) => self.metrics.of(state.planner.family()).failures.inc(),
            }
            began = ended;
            outcome = outcome.and(done.map(drop));
        }
        for state in self.families.iter_mut().filter(|_| of_udp) {
            let settings = state.planner.settings().clone();
            state.clean_flows(&self.udp, &settings, &self.metrics);
        }
        outcome
    }

    /// Tells the metrics of the changes that were carried out since the last time: of many at once, when they are.
    pub fn report(&mut self) {
        self.families.iter_mut().for_each(|state| state.report(&self.metrics));
    }

    /// Keeps the list of UDP services; whether this one is or was in it.
    fn change_udp(&mut self, service: &ObjectKey, model: &Model) -> bool {
        let was = self.udp.remove(service);
        if model.services.keys().all(|name| name.protocol != Protocol::Udp) {
            return was;
        }
        let now = udp_of(model);
        self.udp.services.extend(now.services);
        self.udp.endpoints.extend(now.endpoints);
        true
    }
}

/// The UDP services of a model.
fn udp_of(model: &Model) -> Model {
    let is_udp = |name: &PortName| name.protocol == Protocol::Udp;
    let services = model.services.iter().filter(|(name, _)| is_udp(name));
    let endpoints = model.endpoints.iter().filter(|(name, _)| is_udp(name));
    Model {
        services: services.map(|(name, port)| (name.clone(), port.clone())).collect(),
        endpoints: endpoints.map(|(name, all)| (name.clone(), all.clone())).collect(),
        ..Model::default()
    }
}

impl State {
    fn sync(&mut self, kernel: &mut Kernel, model: &Model, settings: &Settings) -> Result<(), KernelError> {
        let family = self.planner.family();
        // Unknown until the kernel has agreed.
        if std::mem::replace(&mut self.committed, false) {
            let old = self.planner.table();
            self.planner.replace(settings, model);
            kernel.commit(family, diff(Some(&old), &self.planner.table()))?;
        } else {
            self.planner.replace(settings, model);
            match kernel.handle(family)? {
                Some(_) => kernel.commit(family, self.planner.anew())?,
                None => kernel.make(family, self.planner.anew())?,
            }
        }
        self.committed = true;
        Ok(())
    }

    /// Whether there was anything to change.
    fn change(
        &mut self,
        kernel: &mut Kernel,
        service: &ObjectKey,
        ports: &[Port<'_>],
    ) -> Result<bool, KernelError> {
        let commands = self.planner.change(service, ports);
        if commands.is_empty() {
            return Ok(false);
        }
        if std::mem::replace(&mut self.committed, false) {
            kernel.commit(self.planner.family(), commands)?;
            self.committed = true;
        }
        Ok(true)
    }

    fn report(&mut self, metrics: &Metrics) {
        let metrics = metrics.of(self.planner.family());
        self.took.drain(..).for_each(|seconds| metrics.synced(seconds, false));
    }

    /// Deletes UDP flows that do not fit any more, when what is expected has changed.
    fn clean_flows(&mut self, model: &Model, settings: &Settings, metrics: &Metrics) {
        let expected = Expected::of(model, settings);
        if !self.committed || expected == self.expected {
            return;
        }
        let label = label(self.planner.family());
        if !expected.is_empty() {
            match conntrack::clean(self.planner.family(), &expected) {
                Ok(deleted) => {
                    let deleted = u64::try_from(deleted).unwrap_or(u64::MAX);
                    metrics.of(self.planner.family()).flows_deleted.inc_by(deleted);
                }
                // New flows are right all the same; the next change tries again.
                Err(error) => return tracing::warn!(%error, family = label, "stale UDP flows not deleted"),
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
        kernel.commit(family, [Command::AddTable, Command::DeleteTable])?;
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
    // A clock before 1970 is wrong, and so would be any number.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

// === impl Metrics ===

impl Metrics {
    fn new() -> Self {
        let family = &["ip_family"][..];
        let histogram = |name: &str, help: &str| {
            let buckets = metrics::exponential_buckets(0.001, 2.0, 15);
            metrics::histogram_vec(name, help, Stability::Alpha, family, buckets)
        };
        let counter = |name: &str, help: &str| metrics::counter_vec(name, help, Stability::Alpha, family);
        let duration = histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time of a sync, in seconds");
        let full_duration = histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "Time of a sync that makes the tables anew, in seconds",
        );
        let partial_duration = histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "Time of a sync that changes the tables, in seconds",
        );
        let last = metrics::float_gauge_vec(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the tables were last right, in seconds since 1970",
            Stability::Alpha,
            family,
        );
        let failures =
            counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Batches the kernel refused");
        let flows_deleted =
            counter("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale UDP flows deleted");
        let of = |family| {
            let label = &[label(family)];
            FamilyMetrics {
                duration: duration.with_label_values(label),
                full_duration: full_duration.with_label_values(label),
                partial_duration: partial_duration.with_label_values(label),
                last: last.with_label_values(label),
                failures: failures.with_label_values(label),
                flows_deleted: flows_deleted.with_label_values(label),
            }
        };
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }

    fn of(&self, family: Family) -> &FamilyMetrics {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl FamilyMetrics {
    /// A sync has taken so long.
    fn synced(&self, seconds: f64, anew: bool) {
        self.duration.observe(seconds);
        if anew { &self.full_duration } else { &self.partial_duration }.observe(seconds);
        self.last.set(now_seconds());
    }
}
