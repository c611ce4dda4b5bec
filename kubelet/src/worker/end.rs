//! Ending: killing containers with their hooks and grace, stopping sandboxes, taking away volumes, cgroup and records.
//!
//! Contract: pod termination (preStop within the grace period, then the stop signal, then KILL; sidecars after the others
//! and in reverse order).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::traces;
use futures::{FutureExt as _, TryFutureExt, future::join_all};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio_util::sync::CancellationToken;

use super::{RETRY, Wanted, Worker, described, plan};
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

/// What a container is given at least, even when its hook has used up the grace period, or there was none.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Stops everything and says so; tries until it is done. A shorter grace period that comes in the meantime counts.
    pub(super) async fn end(&mut self) {
        self.probes.only_readiness();
        loop {
            let wanted = self.updates.borrow_and_update().clone();
            self.take_verdict(&wanted);
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
                        // It may have come when the pod was on its way out already.
                        let wanted = self.updates.borrow().clone();
                        self.take_verdict(&wanted);
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

    fn take_verdict(&mut self, wanted: &Wanted) {
        let verdict = wanted.end.as_ref().and_then(|end| end.verdict.as_ref());
        if let Some(verdict) = verdict.filter(|_| !self.rejected) {
            self.verdict = Some(verdict.clone());
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
        let running: Vec<&ContainerRecord> = runtime.running().collect();
        let names: Vec<&str> = running.iter().map(|record| record.name.as_str()).collect();
        let earlier = earlier(pod, &names);
        let ended: Vec<CancellationToken> = names.iter().map(|_| CancellationToken::new()).collect();
        join_all(running.iter().enumerate().map(|(i, record)| {
            let turn = join_all(earlier[i].iter().map(|other| ended[*other].cancelled()));
            let own = &ended[i];
            async move {
                if self.kill_record(pod, runtime, record, grace, turn.map(drop)).await {
                    own.cancel();
                }
            }
        }))
        .await;
        for sandbox in runtime.sandboxes.iter().filter(|s| s.ready) {
            self.shared.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Kills a container as part of its pod: its hook runs at once, its signal waits for `turn`. Says whether it has ended.
    async fn kill_record(
        &self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        record: &ContainerRecord,
        grace: Duration,
        turn: impl Future<Output = ()>,
    ) -> bool {
        let container = pod::container_named(pod, &record.name)
            .map(|(_, c)| c)
            .unwrap_or_else(|| Container { name: record.name.clone(), ..Container::default() });
        let text = format!("Stopping container {}", record.name);
        let ip = self.address(pod, runtime);
        let begun = Instant::now();
        self.before_stop(pod, &record.id, &container, &ip, &text, grace).await;
        // Whoever has no time left waits for nobody.
        let is_due = tokio::time::timeout(left(grace, begun.elapsed()), turn).await;
        if is_due.is_err() {
            tracing::debug!(pod = %pod::display(pod), container = record.name, "stopped before its turn");
        }
        self.stop(pod, &record.id, &record.name, left(grace, begun.elapsed())).await
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
        let begun = Instant::now();
        self.before_stop(pod, id, container, ip, message, grace).await;
        self.stop(pod, id, &container.name, left(grace, begun.elapsed())).await;
    }

    /// Tells that the container is killed, and runs its preStop hook where there is time for it.
    async fn before_stop(
        &self,
        pod: &Arc<Pod>,
        id: &str,
        container: &Container,
        ip: &str,
        message: &str,
        grace: Duration,
    ) {
        self.container_event(pod, &container.name, Severity::Normal, "Killing", message);
        let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(hook) = hook.filter(|_| !grace.is_zero()) else { return };
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

    /// Says whether the container has ended.
    async fn stop(&self, pod: &Pod, id: &str, name: &str, left: Duration) -> bool {
        let stopped = self.shared.runtime.stop_container(id, left.max(LEAST_GRACE)).await;
        if let Err(error) = &stopped {
            // The next round sees it running and tries again.
            tracing::warn!(pod = %pod::display(pod), container = name, %error, "cannot stop the container");
        }
        stopped.is_ok()
    }
}

/// What is left of a grace period. Runtimes count in seconds, so one that has only begun is not lost.
fn left(grace: Duration, passed: Duration) -> Duration {
    grace.saturating_sub(Duration::from_secs(passed.as_secs()))
}

/// For each of a pod's running containers those that have to end before it is stopped, by their places in the list: a
/// sidecar goes after all regular containers and after the sidecars that started later.
fn earlier(pod: &Pod, running: &[&str]) -> Vec<Vec<usize>> {
    // When a container goes; nobody waits for those that go at no certain time.
    let rank = |name: &&str| match pod::container_named(pod, name)? {
        (Role::Regular(_), _) => Some(0),
        (Role::Init(i), container) if pod::is_sidecar(&container) => Some(usize::MAX - i),
        _ => None,
    };
    let ranks: Vec<Option<usize>> = running.iter().map(rank).collect();
    let before = |own: &Option<usize>| {
        let others = ranks.iter().enumerate();
        others.filter(|(_, other)| other.is_some() && *other < own).map(|(i, _)| i).collect()
    };
    ranks.iter().map(before).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sidecars_go_after_those_they_serve() {
        let pod =
            testing::pod("a").sidecar("s1").init("i").sidecar("s2").container("c").container("d").build();
        let waits = |running: &[&str]| {
            let names = |list: Vec<usize>| list.into_iter().map(|i| running[i]).collect::<Vec<_>>().join(" ");
            earlier(&pod, running).into_iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(waits(&["s1", "c", "s2", "d"]), ["c s2 d", "", "c d", ""]);
        assert_eq!(waits(&["s1", "d"]), ["d", ""], "who does not run is not waited for");
        assert_eq!(waits(&["s1", "i"]), ["", ""], "they end together before the pod has begun");
        assert_eq!(waits(&["gone", "s2", "s1"]), ["", "", "s2"]);
    }

    #[test]
    fn a_second_that_has_only_begun_is_not_lost() {
        let left = |grace, passed| left(Duration::from_secs(grace), Duration::from_millis(passed)).as_secs();
        assert_eq!((left(30, 1), left(30, 1999), left(30, 31_000), left(0, 0)), (30, 29, 0, 0));
    }
}
