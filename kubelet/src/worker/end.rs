//! Ending: killing containers with their hooks and grace, stopping sandboxes, taking away volumes, cgroup and records.
//!
//! Contract: pod termination (preStop within the grace period, then the stop signal, then KILL; sidecars after the others
//! and in reverse order).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::traces;
use futures::{TryFutureExt, future::join_all};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{RETRY, Worker, described, plan};
use crate::{
    events::Severity,
    lifecycle,
    pod::{self, Role},
    probe::Kind,
    runtime::{
        RuntimeError, config,
        observed::{ContainerRecord, PodRuntime},
    },
    volume,
};

/// What a container is given at least, even when its hook has used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Stops everything and says so; tries until it is done. A shorter grace period that comes in the meantime counts.
    pub(super) async fn end(&mut self) {
        self.probes.only_readiness();
        loop {
            let wanted = self.updates.borrow_and_update().clone();
            if let Some(verdict) = wanted.end.as_ref().and_then(|e| e.verdict.clone()) {
                self.verdict.get_or_insert(verdict);
            }
            let pod = Arc::clone(&wanted.pod);
            let terminal = self
                .status
                .as_ref()
                .is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
            let mut updates = self.updates.clone();
            let grace = wanted.grace();
            let stopped = async {
                let runtime = self.shared.runtime.pod(pod::uid(&pod)).await?;
                if !terminal && !self.rejected {
                    self.publish(&pod, &runtime, true, false);
                }
                self.stop_everything(&pod, &runtime, grace).await?;
                self.shared.runtime.pod(pod::uid(&pod)).await
            };
            let ended = stopped.inspect_err(|error| traces::fail(|| error.to_string()));
            let result = tokio::select! {
                result = traces::follow("syncTerminatingPod", || described(&pod, None), ended) => result,
                // A hastier end: begin again with what is left.
                _ = updates.wait_for(|w| w.grace() < grace) => continue,
            };
            match result {
                Ok(runtime) if runtime.is_stopped() => {
                    self.probes.stop();
                    self.waiting.clear();
                    // Others may have the devices as soon as the status says that the pod has ended.
                    if let Err(error) = self.shared.claims.unprepare(pod::uid(&pod)).await {
                        let text = format!("error killing pod: unprepare dynamic resources: {error}");
                        self.event(&pod, Severity::Warning, "FailedKillPod", &text);
                        tokio::time::sleep(RETRY / 10).await;
                        continue;
                    }
                    // The same goes for all else it held: whoever comes in its place may be here before its volumes are gone.
                    self.shared.allocations.release(pod::uid(&pod));
                    self.shared.topology.release(pod::uid(&pod));
                    if !terminal {
                        self.publish(&pod, &runtime, true, true);
                    }
                    let released = self.release(&pod);
                    traces::follow("syncTerminatedPod", || described(&pod, None), released).await;
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    let text = format!("error killing pod: {error}");
                    self.event(&pod, Severity::Warning, "FailedKillPod", &text);
                }
            }
            tokio::time::sleep(RETRY / 10).await;
        }
    }

    /// Takes away the pod's volumes and cgroup; tries until that is done.
    async fn release(&self, pod: &Arc<Pod>) {
        let dir = self.pod_dir(pod);
        loop {
            if let Err(error) = self.shared.csi.tear_down(&dir).await {
                self.event(
                    pod,
                    Severity::Warning,
                    "FailedUnMount",
                    &format!("UnmountVolume.TearDown failed: {error}"),
                );
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let folder = dir.clone();
            let volumes =
                tokio::task::spawn_blocking(move || volume::tear_down(&folder).map_err(|e| e.to_string()));
            let cgroup = match &self.shared.cgroups {
                Some(cgroups) => cgroups.remove(&cgroups.pod(pod)).await.map_err(|e| e.to_string()),
                None => Ok(()),
            };
            // A blocking task that was dropped goes with the whole kubelet.
            match volumes.await.unwrap_or(Ok(())).and(cgroup) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(pod = %pod::display(pod), error, "cannot clean up after the pod yet");
                    tokio::time::sleep(RETRY / 5).await;
                }
            }
        }
    }

    /// Removes the pod's containers, sandboxes and logs from the node.
    pub(super) async fn remove_all(&self, pod: &Arc<Pod>) {
        let removed = async {
            let runtime = self.shared.runtime.pod(pod::uid(pod)).await?;
            for container in &runtime.containers {
                self.shared.runtime.remove_container(&container.id).await?;
            }
            for sandbox in &runtime.sandboxes {
                self.shared.runtime.remove_sandbox(&sandbox.id).await?;
            }
            Ok::<(), RuntimeError>(())
        };
        if let Err(error) = removed.await {
            // The collector of orphans takes what is left.
            tracing::warn!(pod = %pod::display(pod), %error, "cannot remove the pod's containers");
        }
        let logs = config::pod_log_dir(&self.shared.settings.log_root, pod);
        match std::fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %logs.display(), %error, "cannot remove the pod's logs");
            }
            _ => {}
        }
    }

    /// Kills all containers, sidecars last, then stops all sandboxes.
    pub(super) async fn stop_everything(
        &self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let begun = Instant::now();
        let left = || grace.saturating_sub(begun.elapsed());
        let mut others = Vec::new();
        let mut sidecars: Vec<(usize, &ContainerRecord)> = Vec::new();
        for record in runtime.running() {
            match pod::container_named(pod, &record.name) {
                Some((Role::Init(i), c)) if pod::is_sidecar(&c) => sidecars.push((i, record)),
                _ => others.push(record),
            }
        }
        join_all(others.into_iter().map(|r| self.kill_record(pod, runtime, r, grace))).await;
        sidecars.sort_by_key(|(i, _)| std::cmp::Reverse(*i));
        for (_, record) in sidecars {
            self.kill_record(pod, runtime, record, left()).await;
        }
        for sandbox in runtime.sandboxes.iter().filter(|s| s.ready) {
            self.shared.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    async fn kill_record(
        &self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        record: &ContainerRecord,
        grace: Duration,
    ) {
        let container = pod::container_named(pod, &record.name)
            .map(|(_, c)| c)
            .unwrap_or_else(|| Container { name: record.name.clone(), ..Container::default() });
        let text = format!("Stopping container {}", record.name);
        let ip = self.address(pod, runtime);
        self.kill_container(pod, &record.id, &container, &ip, &text, grace).await;
    }

    /// Kills one container for the reason in the plan.
    pub(super) async fn kill_one(&self, pod: &Arc<Pod>, runtime: &PodRuntime, kill: &plan::Kill) {
        let Some((_, container)) = pod::container_named(pod, &kill.name) else { return };
        let own = match kill.reason {
            plan::KillReason::Probe(kind @ (Kind::Liveness | Kind::Startup)) => {
                kind.of(&container).and_then(|p| p.termination_grace_period_seconds)
            }
            _ => None,
        };
        let seconds = own.unwrap_or_else(|| pod::grace_seconds(pod));
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let ip = self.address(pod, runtime);
        self.kill_container(pod, &kill.id, &container, &ip, &kill.message, grace).await;
    }

    fn address(&self, pod: &Pod, runtime: &PodRuntime) -> String {
        let own = runtime.sandboxes.iter().find(|s| s.ready).and_then(|s| s.ips.first().cloned());
        let ip = if pod::host_network(pod) { self.shared.node.ips.first().cloned() } else { own };
        ip.unwrap_or_default()
    }

    /// The preStop hook, then the runtime's stop with what is left of the grace period.
    pub(super) async fn kill_container(
        &self,
        pod: &Arc<Pod>,
        id: &str,
        container: &Container,
        ip: &str,
        message: &str,
        grace: Duration,
    ) {
        self.container_event(pod, &container.name, Severity::Normal, "Killing", message);
        let begun = Instant::now();
        if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && !grace.is_zero()
        {
            let run = lifecycle::run(&self.shared.runtime, id, ip, container, hook, grace);
            let ran = tokio::time::timeout(grace, run).await;
            if let Ok(Ok(Some(told))) = &ran {
                self.event(pod, Severity::Warning, lifecycle::FALLBACK, told);
            }
            if let Ok(Err(error)) = ran {
                tracing::warn!(pod = %pod::display(pod), container = container.name, %error, "preStop hook failed");
                let name = &container.name;
                self.container_event(pod, name, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
        }
        let left = grace.saturating_sub(begun.elapsed());
        let least = if grace.is_zero() { Duration::ZERO } else { LEAST_GRACE };
        if let Err(error) = self.shared.runtime.stop_container(id, left.max(least)).await {
            // The next round sees it running and tries again.
            tracing::warn!(pod = %pod::display(pod), container = container.name, %error, "cannot stop the container");
        }
    }
}
