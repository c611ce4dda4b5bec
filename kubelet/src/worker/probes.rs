//! The probe tasks of one pod: one per container instance and kind of probe, started and stopped as instances come and
//! go. A settled result wakes the pod's worker.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Shared, plan::ProbeResults};
use crate::{
    events::{Severity, container_reference},
    pod::{self, Role},
    probe::{self, Finding, Kind, Outcome, Target, state::ProbeState},
    runtime::observed::{ContainerPhase, ContainerRecord, PodRuntime},
    server::metrics::{self, ProbeLabels},
    status::generate,
};

type Key = (Arc<str>, Kind);

/// The probes of one pod.
pub struct Probes {
    shared: Arc<Shared>,
    nudge: Arc<Notify>,
    results: Arc<Mutex<ProbeResults>>,
    /// Some container has started.
    started: Arc<Notify>,
    running: HashMap<Key, CancellationToken>,
}

/// One probe's task.
struct Prober {
    shared: Arc<Shared>,
    nudge: Arc<Notify>,
    results: Arc<Mutex<ProbeResults>>,
    some_started: Arc<Notify>,
    pod: Arc<Pod>,
    role: Role,
    container: Container,
    kind: Kind,
    id: Arc<str>,
    ip: String,
    started: Timestamp,
}

impl Probes {
    /// No probes yet; `nudge` wakes the worker.
    #[must_use]
    pub fn new(shared: Arc<Shared>, nudge: Arc<Notify>) -> Self {
        Self { shared, nudge, results: Arc::default(), started: Arc::default(), running: HashMap::new() }
    }

    /// The settled results.
    #[must_use]
    pub fn results(&self) -> ProbeResults {
        self.results.lock().clone()
    }

    /// Starts probes for instances that run, and ends those of instances that do not. What was told `before` to have started
    /// is not asked whether it has.
    pub fn follow(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime, before: Option<&PodStatus>) {
        let alive: Vec<_> =
            runtime.containers.iter().filter(|c| c.phase == ContainerPhase::Running).collect();
        self.running.retain(|(id, _), cancel| {
            let keep = alive.iter().any(|c| c.id == *id);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        self.results.lock().retain(|(id, _), _| alive.iter().any(|c| c.id == *id));
        let own = runtime.sandboxes.iter().find(|s| s.ready).and_then(|s| s.ips.first().cloned());
        let ip = if pod::host_network(pod) { self.shared.node.ips.first().cloned() } else { own };
        for record in alive {
            let Some((role, container)) = pod::container_named(pod, &record.name) else { continue };
            for kind in Kind::ALL {
                let key = (Arc::clone(&record.id), kind);
                if kind.of(&container).is_none() || self.running.contains_key(&key) {
                    continue;
                }
                if kind == Kind::Startup && self.has_started(before, role, record) {
                    self.results.lock().entry(key).or_insert(Outcome::Success);
                    self.started.notify_waiters();
                    continue;
                }
                let cancel = CancellationToken::new();
                self.running.insert(key, cancel.clone());
                let prober = Prober {
                    shared: Arc::clone(&self.shared),
                    nudge: Arc::clone(&self.nudge),
                    results: Arc::clone(&self.results),
                    some_started: Arc::clone(&self.started),
                    pod: Arc::clone(pod),
                    role,
                    container: container.clone(),
                    kind,
                    id: Arc::clone(&record.id),
                    ip: ip.clone().unwrap_or_default(),
                    started: record.started_at.unwrap_or_else(Timestamp::now),
                };
                self.spawn(prober, cancel);
            }
        }
    }

    fn has_started(&self, before: Option<&PodStatus>, role: Role, record: &ContainerRecord) -> bool {
        let id = format!("{}://{}", self.shared.runtime_name, record.id);
        let list = before.and_then(|status| generate::status_list(status, role));
        let mut told = list.into_iter().flatten();
        told.any(|status| status.name == record.name && generate::is_started(status, Some(&id)))
    }

    fn spawn(&self, prober: Prober, cancel: CancellationToken) {
        let drain = self.shared.tasks.drain();
        self.shared.tasks.spawn_contained("probe", async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = drain.cancelled() => {}
                () = prober.run() => {}
            }
        });
    }

    /// Ends liveness and startup probes: a pod that ends is not killed for them. Readiness goes on.
    pub fn only_readiness(&mut self) {
        self.running.retain(|(_, kind), cancel| {
            let keep = *kind == Kind::Readiness;
            if !keep {
                cancel.cancel();
            }
            keep
        });
    }

    /// Forgets the counts of a pod that is gone.
    pub fn forget(&self, pod: &Pod) {
        metrics::PROBES.lock().forget(pod::uid(pod));
    }

    /// Ends all.
    pub fn stop(&mut self) {
        self.running.drain().for_each(|(_, cancel)| cancel.cancel());
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Prober {
    async fn run(self) {
        let Some(spec) = self.kind.of(&self.container).cloned() else { return };
        let seconds = |value: Option<i32>, default: u64| {
            value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        let period = Duration::from_secs(seconds(spec.period_seconds, 10));
        let delay = Duration::from_secs(seconds(spec.initial_delay_seconds, 0));
        let age = Duration::try_from(Timestamp::now().duration_since(self.started)).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let mut state = ProbeState::new(self.kind);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let some_started = self.some_started.notified();
            tokio::pin!(some_started);
            some_started.as_mut().enable();
            if self.waits_for_startup() {
                // One that has started is asked at once whether it is ready, so that nobody waits another period for it.
                if self.kind == Kind::Readiness {
                    some_started.await;
                    ticks.reset_immediately();
                }
                continue;
            }
            let target = Target { id: &self.id, ip: &self.ip, container: &self.container };
            let begun = Instant::now();
            let finding = probe::probe(&self.shared.runtime, &target, &spec).await;
            self.count(&finding, begun.elapsed());
            self.report(&finding);
            if let Some(outcome) = state.step(&finding, &spec) {
                self.results.lock().insert((Arc::clone(&self.id), self.kind), outcome);
                if self.kind == Kind::Startup {
                    self.some_started.notify_waiters();
                }
                self.nudge.notify_one();
            }
            if state.is_over() {
                return;
            }
        }
    }

    fn count(&self, finding: &Finding, took: Duration) {
        let result = match finding {
            Finding::Success | Finding::Warning(_) => "successful",
            Finding::Failure(_) => "failed",
            Finding::Unknown(_) => "unknown",
        };
        metrics::PROBES.lock().add(
            ProbeLabels {
                kind: self.kind.as_str(),
                result,
                container: self.container.name.clone(),
                namespace: pod::namespace(&self.pod).to_owned(),
                pod: pod::name(&self.pod).to_owned(),
                uid: pod::uid(&self.pod).to_owned(),
            },
            took,
        );
    }

    fn waits_for_startup(&self) -> bool {
        self.kind != Kind::Startup
            && self.container.startup_probe.is_some()
            && self.results.lock().get(&(Arc::clone(&self.id), Kind::Startup)) != Some(&Outcome::Success)
    }

    fn report(&self, finding: &Finding) {
        let kind = self.kind.as_str();
        let (reason, text) = match finding {
            Finding::Success => return,
            Finding::Warning(output) => ("ProbeWarning", format!("{kind} probe warning: {output}")),
            Finding::Failure(output) => ("Unhealthy", format!("{kind} probe failed: {output}")),
            Finding::Unknown(error) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {error}"))
            }
        };
        let about = container_reference(&self.pod, self.role, &self.container.name);
        self.shared.events.send(about, Severity::Warning, reason, &text);
    }
}
