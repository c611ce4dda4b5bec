//! A pod's status from what the runtime shows: phase, conditions, container states. Pure.
//!
//! Contract: pod lifecycle documentation; conditions PodScheduled, PodReadyToStartContainers, Initialized,
//! ContainersReady, Ready with upstream's reasons and messages.

use std::collections::{BTreeMap, HashMap};

use component_base::features::{Gate, Gates};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, ContainerUser, HostIP, ImageVolumeStatus, LinuxContainerUser, Pod, PodCondition,
        PodIP, PodStatus, VolumeMount, VolumeMountStatus, VolumeStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    allocation::Pending,
    pod::{
        self, Role, qos,
        resources::{self, CgroupLimits, Quotas},
    },
    probe::{Kind, Outcome},
    runtime::observed::{ContainerPhase, ContainerRecord, PodRuntime},
    volume,
    worker::plan::ProbeResults,
};

/// Why a container waits: reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `ImagePullBackOff`, `CrashLoopBackOff`, `CreateContainerConfigError`...
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A status that is set from outside of the containers: an eviction, a rejection, a passed deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Evicted`, `DeadlineExceeded`, `OutOfcpu`...
    pub reason: String,
    /// For people.
    pub message: String,
    /// The kubelet ended the pod for the node's sake; the `DisruptionTarget` condition says so.
    pub disrupted: bool,
}

/// Everything the status is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The pod; its status is what the API server last had.
    pub pod: &'a Pod,
    /// What runs.
    pub runtime: &'a PodRuntime,
    /// Probe results by container id.
    pub probes: &'a ProbeResults,
    /// Why containers wait, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// What overrides the phase with Failed.
    pub verdict: Option<&'a Verdict>,
    /// The pod is to end, or has ended: nothing will be restarted.
    pub ending: bool,
    /// Everything of it has stopped.
    pub stopped: bool,
    /// The node did not take it.
    pub rejected: bool,
    /// Addresses of the node, primary first.
    pub host_ips: &'a [String],
    /// Scheme of container ids, e.g. `containerd`.
    pub runtime_name: &'a str,
    /// The status made the last time; transition times come from here.
    pub previous: Option<&'a PodStatus>,
    /// Where cpu limits are enforced.
    pub quotas: &'a Quotas,
    /// What the pod's cgroup has, where that may not be what it was given.
    pub cgroup: Option<CgroupLimits>,
    /// Containers that started before are as they were last told of until a probe says otherwise; `None` to begin anew.
    pub since: Option<Timestamp>,
    /// What is told of it at all.
    pub tells: Tells,
    /// A resize that is asked for and not given.
    pub pending: Option<&'a Pending>,
    /// Containers do not have what they were given yet; inside, why the last attempt failed.
    pub resizing: Option<Option<&'a str>>,
    /// The runtime can make mounts read-only all the way down.
    pub recursive: bool,
    /// The time.
    pub now: Timestamp,
}

/// What statuses say only with a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tells {
    /// That the sandbox has its network: a condition.
    pub ready_to_start: bool,
    /// By what signal containers end.
    pub stop_signals: bool,
    /// What pods have as a whole.
    pub pod_resources: bool,
    /// Which images volumes are.
    pub image_volumes: bool,
}

impl Tells {
    /// With these gates.
    #[must_use]
    pub fn by(gates: Gates) -> Self {
        Self {
            ready_to_start: gates.has(Gate::PodReadyToStartContainersCondition),
            stop_signals: gates.has(Gate::ContainerStopSignals),
            image_volumes: gates.has(Gate::ImageVolumeWithDigest),
            pod_resources: gates.has(Gate::InPlacePodLevelResourcesVerticalScaling),
        }
    }
}

/// Makes the status.
#[must_use]
pub fn generate(input: &Input<'_>) -> PodStatus {
    let previous = input.previous.or(input.pod.status.as_ref());
    if let Some(verdict) = input.verdict.filter(|_| input.rejected) {
        return refused(input, previous, verdict);
    }
    let statuses: Vec<(Role, ContainerStatus)> = pod::all_containers(input.pod)
        .into_iter()
        .map(|(role, container)| (role, container_status(input, previous, role, &container)))
        .collect();
    let of = |wanted: fn(&Role) -> bool| -> Option<Vec<ContainerStatus>> {
        let list: Vec<_> = statuses.iter().filter(|(r, _)| wanted(r)).map(|(_, s)| s.clone()).collect();
        (!list.is_empty()).then_some(list)
    };
    let init = of(|r| matches!(r, Role::Init(_)));
    let regular = of(|r| matches!(r, Role::Regular(_)));
    let phase = match input.verdict {
        Some(_) => "Failed",
        None => settle_phase(input, previous, phase(input, &statuses)),
    };
    let ips = pod_ips(input);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: input.verdict.map(|v| v.reason.clone()),
        message: input.verdict.map(|v| v.message.clone()),
        host_ip: input.host_ips.first().cloned(),
        host_ips: Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: previous.and_then(|s| s.start_time.clone()).or(Some(Time(input.now))),
        qos_class: Some(qos::class(input.pod).as_str().to_owned()),
        observed_generation: input.pod.metadata.generation,
        init_container_statuses: init,
        container_statuses: regular,
        ephemeral_container_statuses: of(|r| matches!(r, Role::Ephemeral(_))),
        ..PodStatus::default()
    };
    if input.tells.pod_resources {
        let runs = previous.is_some_and(|s| s.phase.as_deref() == Some("Running"));
        let given = resources::pod_limits(input.pod, input.quotas.of_pod(), None);
        let cgroup = input.cgroup.as_ref().unwrap_or(&given);
        status.allocated_resources = Some(resources::all_requests(input.pod)).filter(|list| !list.is_empty());
        status.resources = Some(resources::level_reported(input.pod, runs, cgroup));
    }
    if input.stopped {
        conclude(input.pod, &mut status);
    }
    status.conditions = Some(conditions(input, previous, &status));
    status
}

/// All that is told of a pod that the node did not take.
fn refused(input: &Input<'_>, previous: Option<&PodStatus>, verdict: &Verdict) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(verdict.reason.clone()),
        message: Some(verdict.message.clone()),
        start_time: previous.and_then(|s| s.start_time.clone()).or(Some(Time(input.now))),
        qos_class: Some(qos::class(input.pod).as_str().to_owned()),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Of a pod that is over every container has ended, and of which nobody knows how is told so: the regular ones once the pod
/// was initialized, and the init containers up to the last that was tried.
fn conclude(pod: &Pod, status: &mut PodStatus) {
    let waits = |s: &ContainerStatus| s.state.as_ref().is_none_or(|state| state.waiting.is_some());
    let has_ended = |state: &Option<ContainerState>| state.as_ref().is_some_and(|s| s.terminated.is_some());
    let tried = |s: &ContainerStatus| !waits(s) || has_ended(&s.last_state);
    let is_over = |s: &ContainerStatus| {
        let zero = |state: &Option<ContainerState>| {
            state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
        };
        zero(&s.state) || zero(&s.last_state)
    };
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let last_done = inits.last().zip(pod::init_containers(pod).last()).is_some_and(|(status, spec)| {
        if pod::is_sidecar(spec) { status.started == Some(true) && !waits(status) } else { is_over(status) }
    });
    let initialized = pod::init_containers(pod).is_empty()
        || status.container_statuses.iter().flatten().any(tried)
        || last_done;
    let first = inits.iter().rposition(tried).map_or(1, |at| at + 1);
    let init = status.init_container_statuses.iter_mut().flatten().take(first);
    let regular = status.container_statuses.iter_mut().flatten().filter(|_| initialized);
    for one in init.chain(regular).filter(|one| !has_ended(&one.state)) {
        one.state = Some(lost(None, "The container could not be located when the pod was terminated"));
    }
}

/// The state of a container of which nobody knows how it ended.
fn lost(id: Option<String>, message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(message.to_owned()),
            container_id: id,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// A phase that was once terminal never changes, and no pod is terminal while something of it runs.
fn settle_phase<'a>(input: &Input<'_>, previous: Option<&'a PodStatus>, phase: &'a str) -> &'a str {
    match previous.and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        old => {
            let terminal = matches!(phase, "Succeeded" | "Failed");
            if terminal && !input.runtime.is_stopped() && !input.stopped {
                // Sidecars still run: the pod ends only with them.
                return match old {
                    Some("Pending") | None => "Pending",
                    _ => "Running",
                };
            }
            phase
        }
    }
}

fn pod_ips(input: &Input<'_>) -> Vec<String> {
    if pod::host_network(input.pod) {
        return input.host_ips.to_vec();
    }
    let sandbox = input.runtime.sandboxes.iter().find(|s| s.ready).or(input.runtime.sandboxes.first());
    let observed = sandbox.map(|s| s.ips.clone()).unwrap_or_default();
    if observed.is_empty() && (input.ending || input.stopped) {
        let last = input.previous.or(input.pod.status.as_ref()).and_then(|s| s.pod_ips.clone());
        return last.unwrap_or_default().into_iter().map(|p| p.ip).collect();
    }
    pod::preferred_ips(&observed, input.host_ips)
}

// === containers ===

fn container_status(
    input: &Input<'_>,
    previous: Option<&PodStatus>,
    role: Role,
    container: &Container,
) -> ContainerStatus {
    let record = input.runtime.latest(&container.name);
    let old =
        previous.and_then(|s| status_list(s, role)).and_then(|l| l.iter().find(|s| s.name == container.name));
    let mut status = match record {
        Some(record) => from_record(input, container, record),
        None if previous.is_some_and(is_resetting) && old.is_some_and(is_past) => {
            reset(input, container, old)
        }
        None => from_nothing(input, container, old),
    };
    let waiting = input.waiting.get(&container.name);
    if let Some(waiting) = waiting
        && !input.ending
        && status.state.as_ref().is_none_or(|s| s.running.is_none())
    {
        if let Some(terminated) = status.state.take().and_then(|s| s.terminated) {
            status.last_state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        }
        status.state = Some(waiting_state(&waiting.reason, Some(&waiting.message)));
    }
    if status.last_state.is_none() && old.is_some_and(was_reset) {
        // The runtime no longer has the instance.
        status.last_state = old.and_then(|old| old.last_state.clone());
    }
    let record_running = record.filter(|r| r.phase == ContainerPhase::Running);
    if !matches!(role, Role::Ephemeral(_)) {
        let wanted = resources::container_limits(input.pod, container, input.quotas.of(&container.name));
        let actual: Option<&CgroupLimits> = record_running.and_then(|r| r.limits.as_ref());
        status.resources = Some(resources::reported(container, actual, &wanted));
        status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
    }
    if let Some(record) = record {
        status.stop_signal = record.stop_signal.filter(|_| input.tells.stop_signals).map(str::to_owned);
        status.user = record.user.clone().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: Some(groups) }),
        });
    }
    let images = record.map(|r| &r.images).filter(|_| input.tells.image_volumes);
    status.volume_mounts = volume_mounts(container, input.recursive, images);
    let (started, ready) = readiness(input, role, container, record_running, &status, old);
    status.started = Some(started);
    status.ready = ready;
    if let (Some(old), true) = (old, status.restart_count == 0) {
        // The runtime may have lost older instances; the count never goes back.
        status.restart_count = status.restart_count.max(old.restart_count);
    }
    status
}

/// The reason of a container that was taken away so that all start anew.
const RESET: &str = "RestartingAllContainers";
const RESETTING: &str = "AllContainersRestarting";

/// The container's last instance was taken away so that all start anew.
#[must_use]
pub fn was_reset(status: &ContainerStatus) -> bool {
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    last.is_some_and(|last| last.reason.as_deref() == Some(RESET))
}

fn is_resetting(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == RESETTING && c.status == "True")
}

/// It does not wait: there was an instance.
fn is_past(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_none())
}

/// One that has just been taken away.
fn reset(input: &Input<'_>, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let message = "The container is removed because RestartAllContainers in place";
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(RESET.to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerStatus {
        state: Some(waiting_state(RESET, Some(message))),
        last_state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
        restart_count: old.map_or(0, |old| old.restart_count.saturating_add(1)),
        ..from_nothing(input, container, None)
    }
}

/// Whether all containers are being taken away, for pods of which they may be.
fn resetting(input: &Input<'_>, phase: Option<&str>) -> Option<Fact> {
    let fact = |status, reason, message: Option<&str>| {
        Some(Fact { kind: RESETTING, status, reason, message: message.map(str::to_owned) })
    };
    if !pod::may_restart_all(input.pod) {
        return None;
    }
    match phase {
        Some("Succeeded") => fact(false, Some("PodCompleted"), None),
        Some("Failed") => fact(false, Some("PodFailed"), None),
        _ if !input.ending && input.runtime.restarts_all(input.pod) => {
            fact(true, Some("RestartAllContainersStarted"), Some("container exited with restart policy rule"))
        }
        _ => fact(false, None, None),
    }
}

/// How the container's volumes are mounted.
fn volume_mounts(
    container: &Container,
    recursive: bool,
    images: Option<&BTreeMap<String, String>>,
) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &VolumeMount| {
        let read_only = mount.read_only.filter(|on| *on);
        // One that cannot be had keeps the container from starting, and says why there.
        let below = volume::recursive_read_only(mount, recursive).unwrap_or(false);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| if below { "Enabled" } else { "Disabled" }.to_owned()),
            volume_status: images
                .and_then(|all| all.get(&mount.mount_path))
                .map(|image| VolumeStatus { image: Some(ImageVolumeStatus { image_ref: image.clone() }) }),
        }
    };
    let list = container.volume_mounts.as_deref().filter(|list| !list.is_empty())?;
    Some(list.iter().map(one).collect())
}

/// The statuses of containers of a role.
#[must_use]
pub fn status_list(status: &PodStatus, role: Role) -> Option<&Vec<ContainerStatus>> {
    match role {
        Role::Init(_) => status.init_container_statuses.as_ref(),
        Role::Regular(_) => status.container_statuses.as_ref(),
        Role::Ephemeral(_) => status.ephemeral_container_statuses.as_ref(),
    }
}

fn from_record(input: &Input<'_>, container: &Container, record: &ContainerRecord) -> ContainerStatus {
    let id = format!("{}://{}", input.runtime_name, record.id);
    let before = input.runtime.previous(&container.name).filter(|r| r.phase == ContainerPhase::Exited);
    let state = match record.phase {
        ContainerPhase::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: record.started_at.map(Time) }),
            ..ContainerState::default()
        },
        ContainerPhase::Created => waiting_state("ContainerCreating", None),
        ContainerPhase::Exited => terminated_state(input, record),
        ContainerPhase::Unknown => {
            lost(Some(id.clone()), "The container could not be located when the pod was terminated")
        }
    };
    ContainerStatus {
        name: container.name.clone(),
        state: Some(state),
        last_state: before.map(|r| terminated_state(input, r)),
        restart_count: i32::try_from(record.restart_count).unwrap_or(i32::MAX),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        container_id: Some(id),
        ..ContainerStatus::default()
    }
}

fn from_nothing(input: &Input<'_>, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let base = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        ..ContainerStatus::default()
    };
    match old {
        // It had ended and the runtime has dropped it since.
        Some(old) if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) => old.clone(),
        // The end of a pod ends it as well.
        Some(old) if input.stopped && old.state.as_ref().is_some_and(|s| s.running.is_some()) => old.clone(),
        // Somebody has taken it away.
        Some(old) if old.last_state.is_none() && old.state.as_ref().is_some_and(|s| s.running.is_some()) => {
            let message = "The container could not be located when the pod was deleted.  The container used to be Running";
            let again = i32::from(input.pod.metadata.deletion_timestamp.is_none());
            ContainerStatus {
                restart_count: old.restart_count.saturating_add(again),
                last_state: Some(lost(None, message)),
                state: Some(initial_state(input)),
                ..base
            }
        }
        Some(old) => ContainerStatus {
            restart_count: old.restart_count,
            last_state: old.last_state.clone(),
            state: Some(initial_state(input)),
            ..base
        },
        None => ContainerStatus { state: Some(initial_state(input)), ..base },
    }
}

fn initial_state(input: &Input<'_>) -> ContainerState {
    let plain = pod::init_containers(input.pod).is_empty();
    waiting_state(if plain { "ContainerCreating" } else { "PodInitializing" }, None)
}

fn waiting_state(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: message.map(str::to_owned),
        }),
        ..ContainerState::default()
    }
}

fn terminated_state(input: &Input<'_>, record: &ContainerRecord) -> ContainerState {
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("{}://{}", input.runtime_name, record.id)),
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: (!record.message.is_empty()).then(|| record.message.clone()),
            started_at: record.started_at.map(Time),
            finished_at: record.finished_at.map(Time),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// `started` and `ready` of a container.
fn readiness(
    input: &Input<'_>,
    role: Role,
    container: &Container,
    running: Option<&ContainerRecord>,
    status: &ContainerStatus,
    old: Option<&ContainerStatus>,
) -> (bool, bool) {
    let plain_init = matches!(role, Role::Init(_)) && !pod::is_sidecar(container);
    if plain_init {
        let done =
            status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        return (running.is_some(), done);
    }
    let Some(record) = running else { return (false, false) };
    let result = |kind| input.probes.get(&(record.id.clone(), kind)).copied();
    let started = container.startup_probe.is_none()
        || result(Kind::Startup).map_or_else(|| was_started(input, status, old), |r| r == Outcome::Success);
    let probed = container.readiness_probe.is_none()
        || result(Kind::Readiness).map_or_else(|| was_ready(input, record), |r| r == Outcome::Success);
    if matches!(role, Role::Ephemeral(_)) {
        return (started, false);
    }
    (started, started && probed)
}

/// What was told of this instance before this kubelet started: it had started.
fn was_started(input: &Input<'_>, status: &ContainerStatus, old: Option<&ContainerStatus>) -> bool {
    input.since.is_some() && old.is_some_and(|old| is_started(old, status.container_id.as_deref()))
}

/// The status tells that this instance has started.
#[must_use]
pub fn is_started(status: &ContainerStatus, id: Option<&str>) -> bool {
    status.started == Some(true) && status.container_id.as_deref() == id
}

/// The instance ran before this kubelet started, in a pod that was ready.
fn was_ready(input: &Input<'_>, record: &ContainerRecord) -> bool {
    let before = input.since.is_some_and(|since| record.started_at.is_some_and(|at| at < since));
    let conditions = input.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    before && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

// === phase ===

#[derive(Default)]
struct Tally {
    pending_init: bool,
    failed_init: bool,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

fn phase(input: &Input<'_>, statuses: &[(Role, ContainerStatus)]) -> &'static str {
    let mut tally = Tally::default();
    for (role, status) in statuses {
        let Some(container) = pod::container(input.pod, *role) else { continue };
        match role {
            Role::Init(_) => tally_init(input.pod, &container, status, &mut tally),
            Role::Regular(_) => tally_regular(input.pod, &container, status, &mut tally),
            Role::Ephemeral(_) => {}
        }
    }
    let started = statuses.iter().any(|(role, s)| {
        matches!(role, Role::Regular(_))
            && (s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
                || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some()))
    });
    if tally.failed_init && !started {
        return "Failed";
    }
    if tally.pending_init && !started {
        return if input.ending && input.stopped { "Failed" } else { "Pending" };
    }
    if input.ending && input.stopped {
        let all = pod::containers(input.pod).len();
        return if tally.succeeded == all && all > 0 { "Succeeded" } else { "Failed" };
    }
    match tally {
        Tally { waiting: 1.., .. } => "Pending",
        Tally { running: 1.., unknown: 0, .. } => "Running",
        Tally { running: 0, stopped: stopped @ 1.., unknown: 0, stopped_for_good, succeeded, .. } => {
            if stopped_for_good < stopped {
                "Running"
            } else if succeeded == stopped {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        _ => "Pending",
    }
}

fn tally_init(pod: &Pod, container: &Container, status: &ContainerStatus, tally: &mut Tally) {
    let state = status.state.as_ref();
    let terminated = state.and_then(|s| s.terminated.as_ref());
    if pod::is_sidecar(container) {
        let running = state.is_some_and(|s| s.running.is_some());
        let once_ended =
            terminated.is_some() || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
        tally.pending_init |= (running && status.started != Some(true)) || (!running && !once_ended);
        return;
    }
    match terminated {
        Some(t) if t.exit_code == 0 => {}
        Some(t) if !pod::restarts_after(pod, container, t.exit_code) => tally.failed_init = true,
        _ => tally.pending_init = true,
    }
}

fn tally_regular(pod: &Pod, container: &Container, status: &ContainerStatus, tally: &mut Tally) {
    let Some(state) = &status.state else {
        tally.unknown += 1;
        return;
    };
    if state.running.is_some() {
        tally.running += 1;
    } else if let Some(terminated) = &state.terminated {
        tally.stopped += 1;
        tally.stopped_for_good += usize::from(!pod::restarts_after(pod, container, terminated.exit_code));
        tally.succeeded += usize::from(terminated.exit_code == 0);
    } else if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        // Waiting for its back-off: it has run before.
        tally.stopped += 1;
    } else {
        tally.waiting += 1;
    }
}

// === conditions ===

/// The condition of a pod whose sandbox has its network.
const READY_TO_START: &str = "PodReadyToStartContainers";

struct Fact {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(input: &Input<'_>, previous: Option<&PodStatus>, status: &PodStatus) -> Vec<PodCondition> {
    let containers_ready = containers_ready(input, status);
    let ready = pod_ready(input, previous, &containers_ready);
    let network = input.runtime.sandboxes.iter().any(|s| s.ready && (s.host_network || !s.ips.is_empty()));
    let facts = [
        Fact { kind: READY_TO_START, status: network, reason: None, message: None },
        initialized(input, previous, status),
        ready,
        containers_ready,
        Fact { kind: "PodScheduled", status: true, reason: None, message: None },
    ];
    let old = previous.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let told = facts.into_iter().filter(|fact| input.tells.ready_to_start || fact.kind != READY_TO_START);
    let mut list: Vec<PodCondition> = told.map(|fact| condition(input, old, fact)).collect();
    list.extend(resetting(input, status.phase.as_deref()).map(|fact| condition(input, old, fact)));
    list.extend(resize_conditions(input, old));
    list.extend(input.verdict.filter(|v| v.disrupted).map(|verdict| {
        let fact = Fact {
            kind: "DisruptionTarget",
            status: true,
            reason: Some("TerminationByKubelet"),
            message: Some(verdict.message.clone()),
        };
        condition(input, old, fact)
    }));
    // Conditions of others (readiness gates, disruption) are kept as they are.
    let foreign = input.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let foreign: Vec<_> = foreign.iter().filter(|c| !is_own(c, &list)).cloned().collect();
    list.extend(foreign);
    list
}

/// Conditions that are there only while a resize is.
pub const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn is_own(condition: &PodCondition, list: &[PodCondition]) -> bool {
    RESIZE_CONDITIONS.contains(&condition.type_.as_str()) || list.iter().any(|o| o.type_ == condition.type_)
}

fn resize_conditions(input: &Input<'_>, old: &[PodCondition]) -> Vec<PodCondition> {
    let make = |kind: &str, reason: Option<&str>, message: Option<&str>| {
        let before = old.iter().find(|c| c.type_ == kind);
        PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            last_transition_time: before
                .and_then(|c| c.last_transition_time.clone())
                .or(Some(Time(input.now))),
            observed_generation: input.pod.metadata.generation,
            ..PodCondition::default()
        }
    };
    let pending = input.pending.map(|p| make(RESIZE_CONDITIONS[0], Some(p.reason), Some(&p.message)));
    let going = input.resizing.map(|error| make(RESIZE_CONDITIONS[1], error.map(|_| "Error"), error));
    pending.into_iter().chain(going).collect()
}

fn condition(input: &Input<'_>, old: &[PodCondition], fact: Fact) -> PodCondition {
    let text = if fact.status { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == fact.kind);
    let since = before.filter(|c| c.status == text).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: fact.kind.to_owned(),
        status: text.to_owned(),
        reason: fact.reason.map(str::to_owned),
        message: fact.message,
        last_transition_time: since.or(Some(Time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn find<'a>(list: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    list?.iter().find(|s| s.name == name)
}

fn initialized(input: &Input<'_>, previous: Option<&PodStatus>, status: &PodStatus) -> Fact {
    let kind = "Initialized";
    if status.phase.as_deref() == Some("Succeeded") {
        return Fact { kind, status: true, reason: Some("PodCompleted"), message: None };
    }
    let started = status.container_statuses.iter().flatten().any(|s| {
        s.started == Some(true)
            || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some())
            || s.state.as_ref().is_some_and(|l| l.running.is_some() || l.terminated.is_some())
    });
    let incomplete: Vec<&str> = pod::init_containers(input.pod)
        .iter()
        .filter(|c| {
            let s = find(status.init_container_statuses.as_ref(), &c.name);
            if pod::is_sidecar(c) {
                s.is_none_or(|s| s.started != Some(true))
            } else {
                s.is_none_or(|s| !s.ready)
            }
        })
        .map(|c| c.name.as_str())
        .collect();
    // One whose containers start anew stays initialized.
    let conditions = previous.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let once = pod::may_restart_all(input.pod)
        && conditions.into_iter().any(|c| c.type_ == kind && c.status == "True");
    if started || once || incomplete.is_empty() {
        return Fact { kind, status: true, reason: None, message: None };
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Fact { kind, status: false, reason: Some("ContainersNotInitialized"), message: Some(message) }
}

fn containers_ready(input: &Input<'_>, status: &PodStatus) -> Fact {
    let kind = "ContainersReady";
    match status.phase.as_deref() {
        Some("Succeeded") => {
            return Fact { kind, status: false, reason: Some("PodCompleted"), message: None };
        }
        Some("Failed") => return Fact { kind, status: false, reason: Some("PodFailed"), message: None },
        _ => {}
    }
    let sidecars = pod::init_containers(input.pod).iter().filter(|c| pod::is_sidecar(c));
    let sidecars = sidecars.map(|c| (c, find(status.init_container_statuses.as_ref(), &c.name)));
    let regular =
        pod::containers(input.pod).iter().map(|c| (c, find(status.container_statuses.as_ref(), &c.name)));
    let unready: Vec<&str> = sidecars
        .chain(regular)
        .filter(|(_, s)| s.is_none_or(|s| !s.ready))
        .map(|(c, _)| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return Fact { kind, status: true, reason: None, message: None };
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Fact { kind, status: false, reason: Some("ContainersNotReady"), message: Some(message) }
}

fn pod_ready(input: &Input<'_>, previous: Option<&PodStatus>, containers: &Fact) -> Fact {
    let kind = "Ready";
    if !containers.status {
        return Fact { kind, status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let known =
        input.pod.status.as_ref().or(previous).and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut unmet = Vec::new();
    for gate in pod::spec(input.pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match known.iter().find(|c| c.type_ == *name) {
            None => unmet
                .push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(c) if c.status != "True" => unmet.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if unmet.is_empty() {
        return Fact { kind, status: true, reason: None, message: None };
    }
    Fact { kind, status: false, reason: Some("ReadinessGatesNotReady"), message: Some(unmet.join(", ")) }
}

#[cfg(test)]
mod tests;
