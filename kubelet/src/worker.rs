//! One task per pod: it alone starts, kills and cleans up what belongs to the pod.
//!
//! ```text
//! update from a source --+
//! change in the runtime --+-> look at the runtime -> plan -> status -> act -> status
//! probe result, timer ----+
//! ```
//! The worker keeps only what may be lost: back-off delays, reasons for waiting, the last status. A restarted kubelet
//! begins with none of it and adopts what runs. Deciding is in `plan`, doing in `act`, ending in `end`.

pub mod act;
pub mod backoff;
pub mod end;
pub mod plan;
pub mod probes;
pub mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use component_base::{
    features::{Gate, Gates},
    task::Tasks,
    traces,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceStatus};
use parking_lot::Mutex;
use proto::otlp::v1::KeyValue;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    allocation::{Allocations, Pending, Resize},
    api::ObjectSource,
    certificate::pod::PodCertificates,
    cgroup::Cgroups,
    claims::Claims,
    cpus::Cpus,
    csi::mount::Csi,
    devices::Devices,
    env::NodeFacts,
    events::{EventSink, Severity, container_reference, pod_reference},
    images::{PullGate, PullHistory, providers::Providers, verified::Records},
    memory::Memory,
    metrics,
    network::dns::DnsSettings,
    node::features,
    pod::{
        self, Role,
        resources::{CgroupLimits, Quotas},
    },
    pods::Pods,
    preemption,
    runtime::{
        Runtime,
        config::NodeSettings,
        cri,
        observed::{PodRuntime, Sandbox},
    },
    shutdown::Shutdown,
    status::{
        Statuses,
        generate::{self, Verdict, Waiting},
    },
    topology::Topology,
    userns::UserNamespaces,
    volume::{self, rounds::Rounds},
    worker::{backoff::BackOffs, turns::Turns},
};

/// How long after a failure the worker tries again at the latest; the first time it is [`FIRST_RETRY`].
const RETRY: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Where variables that describe services come from.
pub trait ServiceSource: Send + Sync {
    /// The variables for a pod of this namespace.
    fn variables(&self, namespace: &str, links: bool) -> BTreeMap<String, String>;
    /// The services are known; containers wait until then.
    fn is_ready(&self) -> bool;
}

/// What all workers share.
pub struct Shared {
    /// Which features are on.
    pub gates: Gates,
    /// When this kubelet started.
    pub began: Timestamp,
    /// The container runtime.
    pub runtime: Runtime,
    /// Its name, the scheme of container ids.
    pub runtime_name: String,
    /// cgroups of pods; `None` when the kubelet does not manage them.
    pub cgroups: Option<Cgroups>,
    /// Objects of the API server.
    pub objects: Arc<dyn ObjectSource>,
    /// Events.
    pub events: Arc<dyn EventSink>,
    /// Services.
    pub services: Arc<dyn ServiceSource>,
    /// Pod statuses.
    pub statuses: Arc<Statuses>,
    /// Settings of sandboxes and containers.
    pub settings: NodeSettings,
    /// Settings of resolvers.
    pub dns: DnsSettings,
    /// What downward values need; the pod's addresses are filled in per pod.
    pub node: NodeFacts,
    /// What the pods of this node were given.
    pub allocations: Allocations,
    /// Image pulls.
    pub pulls: PullGate,
    /// Programs that know the credentials of registries.
    pub providers: Providers,
    /// Folder of all pods' folders, `<root>/pods`.
    pub pods_dir: PathBuf,
    /// Folder of log links, `/var/log/containers`.
    pub container_logs: PathBuf,
    /// Most tasks of a pod.
    pub pod_pids: Option<i64>,
    /// What the runtime's handlers can do, as of its last answer.
    pub handlers: Mutex<Vec<cri::RuntimeHandler>>,
    /// How long a pod in order is left alone: content of volumes is refreshed at this pace.
    pub resync: Duration,
    /// First and longest delay of a container that crashes again and again.
    pub back_off: (Duration, Duration),
    /// Volumes of storage drivers.
    pub csi: Arc<Csi>,
    /// Certificates of pods, where they are switched on.
    pub certificates: Option<PodCertificates>,
    /// Whether the machine is going down.
    pub shutdown: Arc<Shutdown>,
    /// Claims of dynamic resources.
    pub claims: Claims,
    /// Devices of plugins.
    pub devices: Arc<Devices>,
    /// Processors of containers that have their own.
    pub cpus: Arc<Cpus>,
    /// Memory of containers that have theirs from certain nodes.
    pub memory: Arc<Memory>,
    /// All of the three together, for pods that come and go.
    pub topology: Topology,
    /// Who may use the images that are there.
    pub pulled: Records,
    /// Ranges of ids for pods with a user namespace of their own.
    pub users: UserNamespaces,
    /// All pods, for the one that has to make room among them.
    pub pods: OnceLock<Weak<Pods>>,
    /// Who of the pods that start does so now.
    pub turns: Turns,
    /// Owner of the tasks.
    pub tasks: Arc<Tasks>,
    /// The runtime's network works; pods without the host's network wait for it.
    pub network_ready: watch::Receiver<Option<String>>,
}

impl Shared {
    /// Containers that started before this ran under another kubelet, whose word of them counts until there is a newer one;
    /// `None` where it does not.
    fn since(&self) -> Option<Timestamp> {
        let anew = self.gates.has(Gate::ChangeContainerStatusOnKubeletRestart);
        (!anew).then(|| self.began.checked_sub(SETTLING).unwrap_or(Timestamp::MIN))
    }
}

/// A container that has run for less when the kubelet starts may not have been probed yet.
const SETTLING: Duration = Duration::from_secs(10);

/// How a pod is to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Seconds, where other than the pod's own.
    pub grace: Option<i64>,
    /// Why it failed, when it is ended by the kubelet.
    pub verdict: Option<Verdict>,
    /// The pod is gone from its source: nobody waits for its status.
    pub gone: bool,
}

impl End {
    /// Another reason to end has come: time only gets shorter, the last verdict counts, and who is gone stays gone.
    pub fn join(&mut self, other: Self) {
        self.grace = self.grace.into_iter().chain(other.grace).min();
        self.verdict = other.verdict.or(self.verdict.take());
        self.gone |= other.gone;
    }
}

/// What the source wants of the pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The newest version of the pod.
    pub pod: Arc<Pod>,
    /// Set once the pod has to end; never unset.
    pub end: Option<End>,
}

impl Wanted {
    /// The pod has to end.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.end.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds it is given for that, one at least.
    #[must_use]
    pub fn grace(&self) -> Duration {
        let own = pod::grace_seconds(&self.pod);
        let seconds = self.end.as_ref().and_then(|e| e.grace).map_or(own, |g| g.min(own));
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
    }

    /// Nothing of the pod is to stay, neither records nor logs.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some() || self.end.as_ref().is_some_and(|e| e.gone)
    }
}

/// A pod's task.
pub struct Worker {
    shared: Arc<Shared>,
    updates: watch::Receiver<Wanted>,
    nudge: Arc<Notify>,
    backoffs: BackOffs,
    pulls: PullHistory,
    waiting: HashMap<String, Waiting>,
    probes: probes::Probes,
    status: Option<Arc<PodStatus>>,
    verdict: Option<Verdict>,
    /// The node did not take the pod.
    rejected: bool,
    /// A resize that is asked for and not given.
    pending: Option<Pending>,
    /// Containers did not have what they were given, as of the last round.
    resizing: bool,
    /// Why the last attempt to resize failed.
    resize_error: Option<String>,
    /// Rounds in a row that failed before any container could be started.
    failures: u32,
    /// No round has been made yet.
    fresh: bool,
    /// What is known of the pod's volumes.
    volumes: Rounds,
    /// Since when the pod waits for its volumes, until it has them all.
    awaits_volumes: Option<Instant>,
    /// The sandbox of this round, and the containers that were started in it.
    made: Option<(Sandbox, Vec<String>)>,
    /// What of the pod's sandboxes and containers is known here.
    seen: Arc<Seen>,
    /// What the pod's runtime handler can do, once it is known which one that is.
    features: Option<cri::RuntimeHandlerFeatures>,
}

impl Worker {
    /// A worker for the pod that `updates` carries; `nudge` tells it that the runtime changed, `seen` what it knows of that.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        updates: watch::Receiver<Wanted>,
        nudge: Arc<Notify>,
        seen: Arc<Seen>,
    ) -> Self {
        let backoffs = BackOffs::between(shared.back_off);
        let probes = probes::Probes::new(Arc::clone(&shared), Arc::clone(&nudge));
        Self {
            shared,
            updates,
            nudge,
            backoffs,
            pulls: PullHistory::default(),
            waiting: HashMap::new(),
            probes,
            status: None,
            verdict: None,
            rejected: false,
            pending: None,
            resizing: false,
            resize_error: None,
            failures: 0,
            fresh: true,
            volumes: Rounds::default(),
            awaits_volumes: Some(Instant::now()),
            made: None,
            seen,
            features: None,
        }
    }

    /// Runs until the pod has ended and is deleted, or until `drain`, which leaves containers running.
    pub async fn run(mut self, drain: CancellationToken) {
        let finished = tokio::select! {
            () = drain.cancelled() => false,
            () = self.live() => true,
        };
        self.probes.stop();
        if finished {
            let pod = Arc::clone(&self.updates.borrow().pod);
            self.probes.forget(&pod);
            self.shared.statuses.forget(&pod);
            self.shared.allocations.release(pod::uid(&pod));
            self.shared.users.release(pod::uid(&pod));
            if let Some(certificates) = &self.shared.certificates {
                certificates.forget(pod::uid(&pod));
            }
        }
    }

    /// The pod's life, then its end, then the wait for its deletion.
    async fn live(&mut self) {
        let first = self.updates.borrow().clone();
        self.fetch_ahead(&first.pod);
        if pod::is_terminal(&first.pod) {
            // It had ended before this kubelet started; what the API server has is the last word.
            self.status = first.pod.status.clone().map(Arc::new);
        } else {
            let admitted = Box::pin(self.admit(&first)).await;
            // What waits as long as the pod lives holds no version of it.
            drop(first);
            if admitted {
                self.keep_running().await;
            }
        }
        Box::pin(self.end()).await;
        loop {
            let wanted = self.updates.borrow_and_update().clone();
            if wanted.is_deleted() {
                Box::pin(self.remove_all(&wanted.pod)).await;
                self.shared.statuses.finished(&wanted.pod);
                if wanted.end.as_ref().is_some_and(|e| e.gone) {
                    return;
                }
            }
            drop(wanted);
            if self.updates.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has what a new pod's volumes are made of fetched while it is looked whether the pod may run, and what there is of it.
    fn fetch_ahead(&self, pod: &Arc<Pod>) {
        if pod.status.as_ref().is_some_and(|status| status.start_time.is_some()) {
            return;
        }
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(pod));
        self.shared.tasks.spawn_contained("fetch-ahead", async move {
            let drain = shared.tasks.drain();
            drain.run_until_cancelled(volume::fetch_ahead(&pod, &*shared.objects)).await;
        });
    }

    /// Asks whether this node takes the pod; one that it refuses has failed.
    async fn admit(&mut self, wanted: &Wanted) -> bool {
        let mut updates = self.updates.clone();
        let answer = tokio::select! {
            answer = self.admit_with_room(&wanted.pod) => answer,
            _ = updates.wait_for(Wanted::ends) => return false,
        };
        let uid = pod::uid(&wanted.pod);
        if self.shared.devices.is_in_doubt(uid) {
            // Who cannot be asked about is taken to run.
            let runtime = self.shared.runtime.pod(uid).await;
            if runtime.is_ok_and(|runtime| runtime.running().next().is_none()) {
                tracing::info!(pod = %pod::display(&wanted.pod), "does not run, its devices have to be there again");
            } else {
                self.shared.devices.runs(uid);
            }
        }
        let answer = match answer {
            Ok(()) => self.shared.topology.admit(&wanted.pod).await.inspect_err(|_| {
                self.shared.allocations.release(pod::uid(&wanted.pod));
            }),
            refused => refused,
        };
        let Err(refused) = answer else { return true };
        self.event(&wanted.pod, Severity::Warning, &refused.reason, &refused.message);
        let label = admission::label(&refused.reason);
        metrics::get().admission_rejections.with_label_values(&[label]).inc();
        let message = format!("Pod was rejected: {}", refused.message);
        self.verdict = Some(Verdict { message, ..refused });
        self.rejected = true;
        false
    }

    /// Asks, and for a critical pod that does not fit makes room and asks again.
    async fn admit_with_room(&self, pod: &Arc<Pod>) -> Result<(), Verdict> {
        self.shared.shutdown.admit()?;
        features::admit(pod, self.shared.gates)?;
        let refused = match self.shared.allocations.admit(pod).await {
            Err(refused) if refused.reason.starts_with("OutOf") && admission::is_critical(pod) => refused,
            answer => return answer,
        };
        let victims = self.shared.allocations.victims(pod);
        let Some(pods) = self.shared.pods.get().and_then(Weak::upgrade).filter(|_| !victims.is_empty())
        else {
            return Err(refused);
        };
        for victim in &victims {
            tracing::warn!(pod = %pod::display(victim), "pod has to go for {}", pod::display(pod));
            self.event(victim, Severity::Warning, preemption::REASON, preemption::MESSAGE);
            let (reason, message) = (preemption::REASON.to_owned(), preemption::MESSAGE.to_owned());
            let verdict = Verdict { reason, message, disrupted: true };
            pods.end(pod::uid(victim), End { grace: None, verdict: Some(verdict), gone: false });
            let resource = refused.reason.trim_start_matches("OutOf");
            metrics::get().preemptions.with_label_values(&[resource]).inc();
        }
        while victims.iter().any(|victim| self.shared.allocations.holds(pod::uid(victim))) {
            tokio::time::sleep(FIRST_RETRY).await;
        }
        self.shared.allocations.admit(pod).await
    }

    /// Syncs until the pod has to end, is done, or has failed for good.
    async fn keep_running(&mut self) {
        loop {
            let wanted = self.updates.borrow_and_update().clone();
            if wanted.ends() {
                return;
            }
            let mut updates = self.updates.clone();
            // An end that is asked for interrupts whatever is being done, a pull or a hook for instance; what a
            // dropped call leaves behind is found by the next look at the runtime.
            let begun = Instant::now();
            let operation = if std::mem::replace(&mut self.fresh, false) { "create" } else { "sync" };
            // A round takes tens of kilobytes, which a pod that waits for the next one does not hold.
            let round = Box::pin(self.sync(&wanted.pod));
            let next = tokio::select! {
                next = traces::follow("syncPod", || described(&wanted.pod, Some(operation)), round) => next,
                _ = updates.wait_for(Wanted::ends) => return,
            };
            let worker = metrics::get().pod_worker.with_label_values(&[operation]);
            worker.observe(begun.elapsed().as_secs_f64());
            let Some(next) = next else { return };
            // By the next round there is a newer version of the pod.
            drop(wanted);
            let wait = Timestamp::now().duration_until(next).max(SignedDuration::ZERO);
            let resync = self.shared.resync;
            let wait = Duration::try_from(wait).unwrap_or(resync).min(resync);
            tokio::select! {
                changed = self.updates.changed() => if changed.is_err() { return },
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round. Answers when the next is due, or `None` when the pod is done.
    async fn sync(&mut self, wanted: &Arc<Pod>) -> Option<Timestamp> {
        let now = Timestamp::now();
        self.reallocate(wanted);
        let pod = &self.shared.allocations.given(wanted);
        if let Some(verdict) = deadline_passed(pod, self.status.as_deref(), now) {
            self.event(pod, Severity::Normal, &verdict.reason, &verdict.message);
            self.verdict = Some(verdict);
            return None;
        }
        let runtime = match self.shared.runtime.pod(pod::uid(pod)).await {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(pod = %pod::display(pod), %error, "cannot see the pod's containers");
                traces::fail(|| error.to_string());
                return Some(later(now, RETRY));
            }
        };
        self.seen.set(&runtime);
        if self.features.is_none() {
            self.features = self.handler(pod).await.ok().map(|name| self.features_of(&name));
        }
        let (results, quotas) = (self.probes.results(), self.quotas(pod));
        let model = plan::Model {
            pod,
            runtime: &runtime,
            probes: &results,
            backoffs: &self.backoffs,
            previous: self.status.as_deref().or(pod.status.as_ref()),
            quotas: &quotas,
            initial: self.resizes_initial(),
            now,
        };
        let plan = plan::plan(&model);
        self.resizing = plan.is_resizing();
        self.note_back_off(pod, &plan);
        self.follow_probes(pod, &runtime);
        self.publish(pod, &runtime, false, false);
        if plan.finish {
            return None;
        }
        let wake = plan.wake_at();
        self.made = None;
        let retry = self.carry_out(pod, &runtime, &plan).await;
        if self.verdict.is_some() {
            return None;
        }
        if plan.changes_something() {
            // Where all went well it is known what there is.
            let made = self.made.take().filter(|(_, ids)| retry.is_none() && ids.len() == plan.start.len());
            let after = match &made {
                Some((sandbox, ids)) => self.shared.runtime.pod_again(&runtime, (sandbox, ids)).await,
                None => self.shared.runtime.pod(pod::uid(pod)).await,
            };
            match after {
                Ok(after) => {
                    // What has ended meanwhile calls for another round.
                    if made.is_some_and(|(_, ids)| runs(&after, &ids)) && plan.kill.is_empty() {
                        self.seen.set(&after);
                    } else {
                        self.seen.forget();
                    }
                    self.note_resized(pod, &after);
                    self.follow_probes(pod, &after);
                    self.publish(pod, &after, false, false);
                }
                Err(error) => {
                    tracing::warn!(pod = %pod::display(pod), %error, "cannot see the pod's containers")
                }
            }
        }
        let due = [wake, retry, deadline(pod, self.status.as_deref())];
        Some(due.into_iter().flatten().min().unwrap_or_else(|| later(now, self.shared.resync)))
    }

    fn follow_probes(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime) {
        let before = self.status.as_deref().or(pod.status.as_ref()).filter(|_| self.shared.since().is_some());
        self.probes.follow(pod, runtime, before);
    }

    /// Where the pod's cpu limits are enforced.
    fn quotas(&self, pod: &Pod) -> Quotas {
        let Shared { gates, cpus, settings, .. } = &*self.shared;
        let mut free = BTreeSet::new();
        if gates.has(Gate::DisableCPUQuotaWithExclusiveCPUs) && cpus.are_exclusive() {
            let names = pod::init_containers(pod).iter().chain(pod::containers(pod)).map(|c| &c.name);
            free.extend(names.filter(|name| !cpus.own(pod::uid(pod), name).is_empty()).cloned());
        }
        Quotas { period: settings.cfs_period, free }
    }

    /// What the pod's cgroup has, while that may be something else than what the pod was given.
    fn resized_cgroup(&self, pod: &Pod) -> Option<CgroupLimits> {
        let cgroups = self.shared.cgroups.as_ref().filter(|_| self.resizing)?;
        Some(cgroups.limits(&cgroups.pod(pod)))
    }

    fn resizes_initial(&self) -> bool {
        self.shared.gates.has(Gate::InPlacePodVerticalScalingInitContainers)
    }

    /// Looks whether the containers have what they were given by now.
    fn note_resized(&mut self, pod: &Pod, runtime: &PodRuntime) {
        let before = self.resizing;
        self.resizing = plan::is_resizing(pod, runtime, &self.quotas(pod), self.resizes_initial());
        if before && !self.resizing {
            self.resize_error = None;
            let text = resize_text(pod, "Pod resize completed", None);
            self.event(pod, Severity::Normal, "ResizeCompleted", &text);
        }
    }

    /// Gives the pod the resources it wants, or notes why it does not get them.
    fn reallocate(&mut self, wanted: &Arc<Pod>) {
        let pending = match self.shared.allocations.resize(wanted, &self.nudge) {
            Resize::Settled => None,
            Resize::Given => {
                self.resize_error = None;
                self.event(
                    wanted,
                    Severity::Normal,
                    "ResizeStarted",
                    &resize_text(wanted, "Pod resize started", None),
                );
                None
            }
            Resize::Pending(pending) => {
                if self.pending.as_ref() != Some(&pending) {
                    let reason = format!("Resize{}", pending.reason);
                    let text = resize_text(
                        wanted,
                        &format!("Pod resize {}", pending.reason),
                        Some(&pending.message),
                    );
                    self.event(wanted, Severity::Warning, &reason, &text);
                    if let Some(detail) = pending.detail {
                        metrics::get().infeasible_resizes.with_label_values(&[detail]).inc();
                    }
                }
                Some(pending)
            }
        };
        self.pending = pending;
    }

    /// Turns back-offs of the plan into waiting states and events, and forgets states that have passed.
    fn note_back_off(&mut self, pod: &Arc<Pod>, plan: &plan::Plan) {
        self.waiting.retain(|name, state| {
            state.reason != "CrashLoopBackOff" || plan.waiting.iter().any(|w| w.name == *name)
        });
        for waiting in &plan.waiting {
            let state = Waiting { reason: "CrashLoopBackOff".to_owned(), message: waiting.message.clone() };
            if self.waiting.insert(waiting.name.clone(), state.clone()) != Some(state) {
                let text = format!(
                    "Back-off restarting failed container {} in pod {}",
                    waiting.name,
                    pod::display(pod)
                );
                self.container_event(pod, &waiting.name, Severity::Warning, "BackOff", &text);
            }
        }
    }

    /// How the devices are that a container has.
    fn device_health(&self, pod: &Pod, container: &str) -> Option<Vec<ResourceStatus>> {
        let gates = self.shared.gates;
        if !gates.has(Gate::ResourceHealthStatus) {
            return None;
        }
        let mut all = self.shared.devices.statuses(pod::uid(pod), container);
        if let Some(spec) = pod::containers(pod).iter().find(|c| c.name == container) {
            all.extend(self.shared.claims.statuses(pod, spec, Timestamp::now()));
        }
        if !gates.has(Gate::ResourceHealthStatusMessage) {
            all.iter_mut()
                .flat_map(|one| one.resources.iter_mut().flatten())
                .for_each(|one| one.message = None);
        }
        (!all.is_empty()).then_some(all)
    }

    /// Makes the status from what is seen and hands it on.
    fn publish(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime, ending: bool, stopped: bool) {
        let results = self.probes.results();
        let given = self.shared.allocations.given(pod);
        let mut status = generate::generate(&generate::Input {
            pod: &given,
            runtime,
            probes: &results,
            waiting: &self.waiting,
            // The phase turns Failed only once everything has stopped.
            verdict: self.verdict.as_ref().filter(|_| stopped),
            ending,
            stopped,
            rejected: self.rejected,
            host_ips: &self.shared.node.ips,
            runtime_name: &self.shared.runtime_name,
            previous: self.status.as_deref(),
            quotas: &self.quotas(pod),
            cgroup: self.resized_cgroup(pod),
            since: self.shared.since(),
            tells: generate::Tells::by(self.shared.gates),
            pending: self.pending.as_ref().filter(|_| !ending),
            recursive: self.features.is_some_and(|f| f.recursive_read_only_mounts),
            resizing: (self.resizing && !ending).then_some(self.resize_error.as_deref()),
            now: Timestamp::now(),
        });
        for one in status.container_statuses.iter_mut().flatten() {
            one.allocated_resources_status = self.device_health(pod, &one.name);
        }
        // One copy serves all who keep it.
        let status = match &self.status {
            Some(known) if **known == status => Arc::clone(known),
            _ => Arc::new(status),
        };
        self.status = Some(Arc::clone(&status));
        self.shared.statuses.set(pod, status);
    }

    fn event(&self, pod: &Pod, severity: Severity, reason: &str, message: &str) {
        self.shared.events.send(pod_reference(pod), severity, reason, message);
    }

    fn container_event(&self, pod: &Pod, name: &str, severity: Severity, reason: &str, message: &str) {
        let role = pod::container_named(pod, name).map_or(Role::Regular(0), |(role, _)| role);
        self.shared.events.send(container_reference(pod, role, name), severity, reason, message);
    }

    /// When to try again after a round that failed: soon, then less and less often.
    fn retry(&mut self) -> Option<Timestamp> {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(8)).min(RETRY);
        self.failures = self.failures.saturating_add(1);
        Some(later(Timestamp::now(), wait))
    }

    /// The round failed: an event tells, and whoever follows it.
    fn failed(&self, pod: &Pod, reason: &str, message: &str) {
        self.event(pod, Severity::Warning, reason, message);
        traces::fail(|| message.to_owned());
    }

    fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.shared.pods_dir.join(pod::uid(pod))
    }
}

/// What traces say of the pod.
fn described(pod: &Pod, update: Option<&str>) -> Vec<KeyValue> {
    let update = update.map(|update| ("k8s.pod.update_type", update));
    let all = [
        ("k8s.pod.uid", pod::uid(pod)),
        ("k8s.pod", &format!("{}/{}", pod::namespace(pod), pod::name(pod))),
        ("k8s.pod.name", pod::name(pod)),
        ("k8s.namespace.name", pod::namespace(pod)),
    ];
    all.into_iter().chain(update).map(|(key, value)| traces::text(key, value)).collect()
}

/// All of these containers run.
fn runs(runtime: &PodRuntime, ids: &[String]) -> bool {
    let running = |id: &String| runtime.running().any(|record| *record.id == **id);
    ids.iter().all(running)
}

/// What a worker knows of its pod's sandboxes and containers: it need not be told of that.
#[derive(Debug, Default)]
pub struct Seen(Mutex<BTreeMap<Arc<str>, i32>>);

impl Seen {
    fn set(&self, runtime: &PodRuntime) {
        *self.0.lock() = runtime.states().collect();
    }

    fn forget(&self) {
        self.0.lock().clear();
    }

    /// Whether the worker knows just these, by id and the runtime's number of their state.
    #[must_use]
    pub fn is(&self, now: &BTreeMap<&str, i32>) -> bool {
        let seen = self.0.lock();
        !seen.is_empty()
            && seen.iter().map(|(id, state)| (&**id, *state)).eq(now.iter().map(|(id, s)| (*id, *s)))
    }
}

/// What the events of a resize say: the resources that are wanted, and what went wrong.
fn resize_text(pod: &Pod, what: &str, error: Option<&str>) -> String {
    let list = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<serde_json::Value> {
        let one = |c: &k8s_openapi::api::core::v1::Container| serde_json::json!({ "name": c.name, "resources": c.resources });
        containers.iter().map(one).collect()
    };
    let mut summary = serde_json::json!({
        "containers": list(pod::containers(pod)),
        "generation": pod.metadata.generation,
    });
    if !pod::init_containers(pod).is_empty() {
        summary["initContainers"] = list(pod::init_containers(pod)).into();
    }
    if let Some(error) = error {
        summary["error"] = error.into();
    }
    format!("{what}: {summary}")
}

/// `now` and a while; saturating at the end of time.
fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// When the pod's active deadline is.
fn deadline(pod: &Pod, status: Option<&PodStatus>) -> Option<Timestamp> {
    let seconds = u64::try_from(pod::spec(pod).active_deadline_seconds?).ok()?;
    let start = status.or(pod.status.as_ref())?.start_time.as_ref()?.0;
    Some(later(start, Duration::from_secs(seconds)))
}

fn deadline_passed(pod: &Pod, status: Option<&PodStatus>, now: Timestamp) -> Option<Verdict> {
    (deadline(pod, status)? <= now).then(|| Verdict {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
        disrupted: false,
    })
}
