//! The plan of one pod: from what is wanted, what the runtime shows, the probes' results and the time, to the
//! sandbox and container actions that come next. Pure; the worker carries it out.
//!
//! Contract: pod lifecycle (init containers, sidecars of KEP-753, restart policies, restart rules of KEP-5307 and KEP-5532,
//! crash-loop back-off, resizes in place of KEP-1287); upstream's counterpart is `computePodActions`.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use super::backoff::BackOffs;
use crate::{
    pod::{
        self, Role,
        resources::{self, CgroupLimits, Difference, Quotas},
    },
    probe::{Kind, Outcome},
    runtime::observed::{ContainerPhase, ContainerRecord, PodRuntime, container_hash},
    status::generate,
};

/// The settled results of probes, by container id.
pub type ProbeResults = HashMap<(Arc<str>, Kind), Outcome>;

/// Everything the plan looks at.
#[derive(Debug)]
pub struct Model<'a> {
    /// What is wanted.
    pub pod: &'a Pod,
    /// What there is.
    pub runtime: &'a PodRuntime,
    /// Probe results; a missing one is not known yet.
    pub probes: &'a ProbeResults,
    /// Delays of crashed containers, by name.
    pub backoffs: &'a BackOffs,
    /// The status of before: it counts what the runtime no longer has.
    pub previous: Option<&'a PodStatus>,
    /// Where cpu limits are enforced.
    pub quotas: &'a Quotas,
    /// Init containers that end are resized where they run, as sidecars are.
    pub initial: bool,
    /// The time.
    pub now: Timestamp,
}

/// Why a running container is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// Its spec changed, or its state is not known.
    Replaced,
    /// It failed its liveness or startup probe; the probe's own grace period applies.
    Probe(Kind),
    /// Its resources changed, and it asked to be restarted for that.
    Resized,
    /// The pod ends.
    PodEnds,
}

/// A running container whose cgroup is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// The instance.
    pub id: Arc<str>,
    /// Its name in the pod.
    pub name: String,
    /// What its cgroup has.
    pub from: CgroupLimits,
    /// What it is to have.
    pub to: CgroupLimits,
}

/// An instance to take away, so that all containers start anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The instance.
    pub id: Arc<str>,
    /// Its name in the pod.
    pub name: String,
    /// It has to be killed first.
    pub running: bool,
}

/// A container to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The instance.
    pub id: Arc<str>,
    /// Its name in the pod.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// Text of the `Killing` event.
    pub message: String,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which one.
    pub role: Role,
    /// Its name in the pod.
    pub name: String,
    /// The number this instance carries.
    pub restart_count: u32,
    /// When the instance before it ended; the back-off counts from here.
    pub after: Option<Timestamp>,
}

/// A container that waits for its back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingOff {
    /// Its name in the pod.
    pub name: String,
    /// When the next start is due.
    pub until: Timestamp,
    /// Text for the waiting state and the event.
    pub message: String,
}

/// What to do next. Empty means: all is as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything the pod was for is done or has failed for good: stop what is left of it.
    pub finish: bool,
    /// Stop every container and sandbox, then make a sandbox with this attempt number.
    pub sandbox: Option<u32>,
    /// Instances to take away, and nothing else: all containers start anew after that.
    pub reset: Vec<Reset>,
    /// Containers to kill, before any start.
    pub kill: Vec<Kill>,
    /// Containers to resize where they run, before any start.
    pub resize: Vec<Resize>,
    /// Containers to start, in this order.
    pub start: Vec<Start>,
    /// Containers that would be started but for their back-off.
    pub waiting: Vec<BackingOff>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Some running container does not have the resources it was given.
    #[must_use]
    pub fn is_resizing(&self) -> bool {
        !self.resize.is_empty() || self.kill.iter().any(|k| k.reason == KillReason::Resized)
    }

    /// There will be other instances, or other figures of them.
    #[must_use]
    pub fn changes_something(&self) -> bool {
        self.sandbox.is_some()
            || self.is_resizing()
            || !(self.start.is_empty() && self.kill.is_empty() && self.reset.is_empty())
    }

    /// When a back-off ends and the plan has to be made anew.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|w| w.until).min()
    }
}

/// Makes the plan.
#[must_use]
pub fn plan(model: &Model<'_>) -> Plan {
    let mut plan = Plan::default();
    if model.runtime.restarts_all(model.pod) {
        plan.reset = reset(model);
        return plan;
    }
    let Some(sandbox) = model.runtime.current_sandbox(model.pod) else {
        plan_sandbox(model, &mut plan);
        return plan;
    };
    let sandbox = Arc::clone(&sandbox.id);
    for (i, container) in pod::ephemeral_containers(model.pod).iter().enumerate() {
        if model.runtime.latest(&container.name).is_none() {
            plan.start.push(Start {
                role: Role::Ephemeral(i),
                name: container.name.clone(),
                restart_count: 0,
                after: None,
            });
        }
    }
    let mut starts = Vec::new();
    match plan_init(model, &sandbox, &mut plan, &mut starts) {
        InitProgress::Failed => {
            plan.finish = true;
            plan.start.clear();
            return plan;
        }
        InitProgress::Going => {
            resize_initial(model, &sandbox, &mut plan);
            queue(model, &mut plan, starts);
            return plan;
        }
        InitProgress::Done => {}
    }
    let kept = plan_regular(model, &sandbox, &mut plan, &mut starts);
    let regular_to_start = starts.iter().any(|s| matches!(s.role, Role::Regular(_)));
    if kept == 0 && !regular_to_start {
        // Sidecars do not keep a pod alive.
        return Plan { finish: true, ..Plan::default() };
    }
    resize_initial(model, &sandbox, &mut plan);
    queue(model, &mut plan, starts);
    plan
}

/// All instances of the pod's containers. Those that call for the reset go last: as long as there is one, it is not through.
fn reset(model: &Model<'_>) -> Vec<Reset> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for container in pod::containers(model.pod).iter().chain(pod::init_containers(model.pod)) {
        for record in model.runtime.containers.iter().filter(|r| r.name == container.name) {
            let ended = record.phase == ContainerPhase::Exited;
            let calls = ended && pod::restarts_all_after(container, record.exit_code);
            let (id, name) = (Arc::clone(&record.id), record.name.clone());
            let one = Reset { id, name, running: !ended };
            if calls { last.push(one) } else { first.push(one) }
        }
    }
    first.extend(last);
    first
}

/// How far the init containers are.
enum InitProgress {
    /// The regular containers may start.
    Done,
    /// Some are still to run.
    Going,
    /// One failed for good.
    Failed,
}

fn plan_sandbox(model: &Model<'_>, plan: &mut Plan) {
    let attempt = model.runtime.sandboxes.first().map_or(0, |s| s.attempt + 1);
    let restarts = pod::restart_policy(model.pod) != "Never";
    if !restarts && attempt != 0 && !model.runtime.containers.is_empty() {
        plan.finish = true;
        return;
    }
    let wanted: Vec<usize> = pod::containers(model.pod)
        .iter()
        .enumerate()
        .filter(|(_, c)| !ended_for_good(model, c))
        .map(|(i, _)| i)
        .collect();
    let initialized = pod::containers(model.pod).iter().any(|c| model.runtime.latest(&c.name).is_some());
    if wanted.is_empty() && initialized {
        plan.finish = true;
        return;
    }
    plan.sandbox = Some(attempt);
    let roles: Vec<Role> = match pod::init_containers(model.pod).first() {
        Some(_) => vec![Role::Init(0)],
        None => wanted.into_iter().map(Role::Regular).collect(),
    };
    let starts = roles.into_iter().filter_map(|role| start(model, role)).collect();
    queue(model, plan, starts);
}

/// The container ended and will not be started again, whatever happens to its sandbox.
fn ended_for_good(model: &Model<'_>, container: &Container) -> bool {
    model.runtime.latest(&container.name).is_some_and(|r| {
        r.phase == ContainerPhase::Exited
            && r.exit_code == 0
            && !pod::restarts_after(model.pod, container, r.exit_code)
    })
}

fn plan_init(model: &Model<'_>, sandbox: &str, plan: &mut Plan, starts: &mut Vec<Start>) -> InitProgress {
    let inits = pod::init_containers(model.pod);
    if inits.is_empty() {
        return InitProgress::Done;
    }
    // A regular container that was made in this sandbox proves that all init containers ran, even where the
    // runtime has dropped their records.
    let mut initialized =
        pod::containers(model.pod).iter().any(|c| model.runtime.latest_in(sandbox, &c.name).is_some());
    let mut seen = initialized;
    let mut next = Vec::new();
    for (i, container) in inits.iter().enumerate().rev() {
        let sidecar = pod::is_sidecar(container);
        let Some(record) = model.runtime.latest_in(sandbox, &container.name) else {
            if seen && sidecar {
                next.push(i);
            }
            continue;
        };
        if seen && !sidecar {
            continue;
        }
        match init_step(model, container, record) {
            InitStep::Failed => return InitProgress::Failed,
            InitStep::Wait => {}
            InitStep::Restart(kill) => {
                plan.kill.extend(kill);
                next.push(i);
            }
            InitStep::Passed(kill) => {
                if i + 1 == inits.len() {
                    initialized = true;
                } else if !seen {
                    next.push(i + 1);
                }
                if let Some(kill) = kill {
                    plan.kill.push(kill);
                    next.push(i);
                }
            }
        }
        seen = true;
    }
    if !seen {
        next.push(0);
    }
    next.sort_unstable();
    starts.extend(next.into_iter().filter_map(|i| start(model, Role::Init(i))));
    if initialized { InitProgress::Done } else { InitProgress::Going }
}

/// What one init container's state means for the sequence.
enum InitStep {
    /// It runs and has not finished.
    Wait,
    /// It has to be started again, perhaps after killing this instance.
    Restart(Option<Kill>),
    /// The next one may start; a sidecar's instance may have to be replaced at the same time.
    Passed(Option<Kill>),
    /// It failed and is not to be started again.
    Failed,
}

fn init_step(model: &Model<'_>, container: &Container, record: &ContainerRecord) -> InitStep {
    let sidecar = pod::is_sidecar(container);
    match record.phase {
        ContainerPhase::Created => InitStep::Restart(None),
        ContainerPhase::Running if !sidecar => InitStep::Wait,
        ContainerPhase::Running => sidecar_step(model, container, record),
        ContainerPhase::Exited if sidecar => InitStep::Restart(None),
        ContainerPhase::Exited if record.exit_code == 0 => InitStep::Passed(None),
        ContainerPhase::Exited if pod::restarts_after(model.pod, container, record.exit_code) => {
            InitStep::Restart(None)
        }
        ContainerPhase::Exited => InitStep::Failed,
        ContainerPhase::Unknown if sidecar || pod::restarts_after_kill(model.pod, container) => {
            let message = "Init container is in \"unknown\" state, try killing it before restart".to_owned();
            InitStep::Restart(Some(kill(record, KillReason::Replaced, message)))
        }
        ContainerPhase::Unknown => InitStep::Failed,
    }
}

fn sidecar_step(model: &Model<'_>, container: &Container, record: &ContainerRecord) -> InitStep {
    let name = &container.name;
    if container.startup_probe.is_some() {
        match outcome(model, record, Kind::Startup) {
            Some(Outcome::Success) => {}
            Some(Outcome::Failure) => {
                let message = format!("Init container {name} failed startup probe");
                return InitStep::Restart(Some(kill(record, KillReason::Probe(Kind::Startup), message)));
            }
            None => return InitStep::Wait,
        }
    }
    if record.hash.is_some_and(|hash| hash != container_hash(container)) {
        let message = format!("Init container {name} definition changed");
        return InitStep::Passed(Some(kill(record, KillReason::Replaced, message)));
    }
    if container.liveness_probe.is_some() && outcome(model, record, Kind::Liveness) == Some(Outcome::Failure)
    {
        let message = format!("Init container {name} failed liveness probe");
        return InitStep::Passed(Some(kill(record, KillReason::Probe(Kind::Liveness), message)));
    }
    match resize(model, container, record) {
        Some(ResizeStep::Restart(message)) => {
            InitStep::Passed(Some(kill(record, KillReason::Resized, message)))
        }
        _ => InitStep::Passed(None),
    }
}

/// How a running container gets other resources.
enum ResizeStep {
    /// Where it runs.
    InPlace(Box<Resize>),
    /// By a new instance; the text is for the event.
    Restart(String),
}

/// What is to be done for a container whose resources are not those it was given. A runtime that does not tell what it
/// has set is left alone.
fn resize(model: &Model<'_>, container: &Container, record: &ContainerRecord) -> Option<ResizeStep> {
    let from = record.limits?;
    let to = resources::container_limits(model.pod, container, model.quotas.of(&container.name));
    let changed = Difference::between(&from, &to);
    let restarts = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies.into_iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    // A request of memory is nothing the kernel knows, so only the container's beginning tells of it.
    let asked =
        resources::amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()), resources::MEMORY);
    let requested = record.memory_request.is_some_and(|before| before != asked.unwrap_or(0) / 1000);
    let memory = changed.memory || requested;
    if (changed.cpu && restarts(resources::CPU)) || (memory && restarts(resources::MEMORY)) {
        return Some(ResizeStep::Restart(format!("Container {} resize requires restart", container.name)));
    }
    changed.any().then(|| {
        let (id, name) = (Arc::clone(&record.id), container.name.clone());
        ResizeStep::InPlace(Box::new(Resize { id, name, from, to }))
    })
}

/// Some running container's cgroup differs from what the pod gives it.
#[must_use]
pub fn is_resizing(pod: &Pod, runtime: &PodRuntime, quotas: &Quotas, initial: bool) -> bool {
    let Some(sandbox) = runtime.current_sandbox(pod) else { return false };
    let inits = pod::init_containers(pod).iter().filter(|c| initial || pod::is_sidecar(c));
    pod::containers(pod).iter().chain(inits).any(|container| {
        let record = runtime.latest_in(&sandbox.id, &container.name);
        let running = record.filter(|r| r.phase == ContainerPhase::Running).and_then(|r| r.limits.as_ref());
        let wanted = resources::container_limits(pod, container, quotas.of(&container.name));
        running.is_some_and(|has| Difference::between(has, &wanted).any())
    })
}

/// Init containers that run are resized like regular ones, sidecars always.
fn resize_initial(model: &Model<'_>, sandbox: &str, plan: &mut Plan) {
    let resized = |c: &&Container| model.initial || pod::is_sidecar(c);
    for container in pod::init_containers(model.pod).iter().filter(resized) {
        let record = model.runtime.latest_in(sandbox, &container.name);
        let Some(record) = record.filter(|r| r.phase == ContainerPhase::Running) else { continue };
        if plan.kill.iter().any(|k| k.id == record.id) {
            continue;
        }
        if let Some(ResizeStep::InPlace(resize)) = resize(model, container, record) {
            plan.resize.push(*resize);
        }
    }
}

/// Plans the regular containers and says how many are kept running.
fn plan_regular(model: &Model<'_>, sandbox: &str, plan: &mut Plan, starts: &mut Vec<Start>) -> usize {
    let mut kept = 0;
    for (i, container) in pod::containers(model.pod).iter().enumerate() {
        let record = model.runtime.latest_in(sandbox, &container.name);
        let running = record.filter(|r| r.phase == ContainerPhase::Running);
        let Some(running) = running else {
            if should_start(model, container, sandbox) {
                starts.extend(start(model, Role::Regular(i)));
                if let Some(unknown) = record.filter(|r| r.phase == ContainerPhase::Unknown) {
                    let message =
                        "Container is in \"unknown\" state, try killing it before restart".to_owned();
                    plan.kill.push(kill(unknown, KillReason::Replaced, message));
                }
            }
            continue;
        };
        let Some((reason, why)) = kill_cause(model, container, running) else {
            match resize(model, container, running) {
                Some(ResizeStep::Restart(message)) => {
                    plan.kill.push(kill(running, KillReason::Resized, message));
                    starts.extend(start(model, Role::Regular(i)));
                }
                step => {
                    kept += 1;
                    if let Some(ResizeStep::InPlace(resize)) = step {
                        plan.resize.push(*resize);
                    }
                }
            }
            continue;
        };
        let changed = reason == KillReason::Replaced;
        let restart = changed || pod::restarts_after_kill(model.pod, container);
        let message = if restart { format!("{why}, will be restarted") } else { why };
        if restart {
            starts.extend(start(model, Role::Regular(i)));
        }
        plan.kill.push(kill(running, reason, message));
    }
    kept
}

fn kill_cause(
    model: &Model<'_>,
    container: &Container,
    record: &ContainerRecord,
) -> Option<(KillReason, String)> {
    let name = &container.name;
    if record.hash.is_some_and(|hash| hash != container_hash(container)) {
        return Some((KillReason::Replaced, format!("Container {name} definition changed")));
    }
    if outcome(model, record, Kind::Liveness) == Some(Outcome::Failure) {
        return Some((KillReason::Probe(Kind::Liveness), format!("Container {name} failed liveness probe")));
    }
    if outcome(model, record, Kind::Startup) == Some(Outcome::Failure) {
        return Some((KillReason::Probe(Kind::Startup), format!("Container {name} failed startup probe")));
    }
    None
}

/// Whether a container that does not run is to be started.
fn should_start(model: &Model<'_>, container: &Container, sandbox: &str) -> bool {
    let Some(record) = model.runtime.latest(&container.name) else { return true };
    match record.phase {
        ContainerPhase::Running => &*record.sandbox_id != sandbox,
        // The runtime made it but did not start it, or has lost it: a new instance is due in any case.
        ContainerPhase::Created | ContainerPhase::Unknown => true,
        ContainerPhase::Exited => pod::restarts_after(model.pod, container, record.exit_code),
    }
}

fn outcome(model: &Model<'_>, record: &ContainerRecord, kind: Kind) -> Option<Outcome> {
    model.probes.get(&(Arc::clone(&record.id), kind)).copied()
}

fn kill(record: &ContainerRecord, reason: KillReason, message: String) -> Kill {
    Kill { id: Arc::clone(&record.id), name: record.name.clone(), reason, message }
}

fn start(model: &Model<'_>, role: Role) -> Option<Start> {
    let container = pod::container(model.pod, role)?;
    let latest = model.runtime.latest(&container.name);
    Some(Start {
        role,
        restart_count: latest.map_or_else(|| counted(model, &container.name), |r| r.restart_count + 1),
        after: latest.filter(|r| r.phase == ContainerPhase::Exited).and_then(|r| r.finished_at),
        name: container.name,
    })
}

/// The number of a container whose instances were taken away so that all start anew.
fn counted(model: &Model<'_>, name: &str) -> u32 {
    let lists = model.previous.map(|s| [&s.init_container_statuses, &s.container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let known = all.find(|status| status.name == name && generate::was_reset(status));
    known.and_then(|status| u32::try_from(status.restart_count).ok()).unwrap_or(0)
}

/// Puts starts into the plan, except those that have to wait.
fn queue(model: &Model<'_>, plan: &mut Plan, starts: Vec<Start>) {
    for start in starts {
        let wait = start.after.and_then(|after| model.backoffs.wait_until(&start.name, after, model.now));
        match wait {
            None => plan.start.push(start),
            Some((until, delay)) => {
                let delay = component_base::goduration::format(delay);
                let message = format!(
                    "back-off {delay} restarting failed container={} pod={}",
                    start.name,
                    pod::display(model.pod)
                );
                plan.waiting.push(BackingOff { name: start.name, until, message });
            }
        }
    }
}

#[cfg(test)]
mod tests;
