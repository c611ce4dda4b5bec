//! Processors of their own for containers that ask for whole ones: the static policy of the CPU manager.
//!
//! A container of a Guaranteed pod that wants a whole number of processors gets that many for itself; everybody else runs
//! on the rest, the shared pool. Choosing is in `plan`, taking what is chosen in `pick`, the machine's shape in `topology`, what was given on disk in `state`,
//! so that a restarted kubelet knows. Containers that run are moved when the shared pool changes.
//!
//! Contract: "Control CPU Management Policies on the Node"; texts of refusals and the state file's fields as upstream's.

pub mod pick;
pub mod plan;
pub mod set;
pub mod state;
pub mod topology;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use component_base::task::Tasks;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    plan::Options,
    set::CpuSet,
    state::{State, StateError},
    topology::{Level, Topology},
};
use crate::{
    metrics,
    pod::{
        self, Role,
        qos::{self, QosClass},
        resources::{self, amount},
    },
    pods::Pods,
    runtime::cri,
    status::generate::Verdict,
    topology::{
        Provider,
        hint::{Hint, Hints},
        nodes::NodeSet,
    },
    worker::Shared,
};

/// Processors cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The machine's shape cannot be read.
    #[error("cannot read the machine's processors: {0}")]
    Topology(io::Error),
    /// What is on disk cannot be used.
    #[error(
        "could not restore state from checkpoint: {why}, please drain this node and delete the CPU manager checkpoint file {path:?} before restarting Kubelet"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        why: StateError,
    },
    /// Nothing is kept from pods.
    #[error("the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero")]
    NothingReserved,
    /// A socket is no whole number of nodes.
    #[error(
        "Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
    )]
    Sockets,
    /// What is kept from pods is not there.
    #[error("reserved processors {reserved} are not all among the machine's {all}")]
    Reserved {
        /// What is to be kept.
        reserved: CpuSet,
        /// What there is.
        all: CpuSet,
    },
}

/// What the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The static policy is on.
    pub exclusive: bool,
    /// Its options.
    pub options: Options,
    /// Processors kept from pods by number; empty for as many as the reservations come to.
    pub reserved: CpuSet,
    /// Thousandths of processors kept from pods.
    pub reserved_milli: i64,
}

struct Exclusive {
    topology: Topology,
    reserved: CpuSet,
    options: Options,
    state: Mutex<State>,
    changed: Notify,
}

/// Who has which processors.
pub struct Cpus {
    path: PathBuf,
    exclusive: Option<Exclusive>,
}

impl Cpus {
    /// What an earlier kubelet left in `folder`, or all processors shared. `root` is `/` but in tests.
    ///
    /// # Errors
    /// When the settings do not fit the machine or what an earlier kubelet did.
    pub fn new(settings: &Settings, root: &Path, folder: &Path) -> Result<Self, CpuError> {
        let path = folder.join(state::FILE);
        let failed = |why| CpuError::State { path: path.clone(), why };
        if !settings.exclusive {
            state::expect(&path, "none").map_err(failed)?;
            return Ok(Self { path, exclusive: None });
        }
        let topology = topology::read(root).map_err(CpuError::Topology)?;
        if settings.options.by_socket && topology.count(Level::Socket) > topology.count(Level::Numa) {
            return Err(CpuError::Sockets);
        }
        let all = topology.all();
        let count = usize::try_from(settings.reserved_milli.saturating_add(999) / 1000).unwrap_or(0);
        let reserved = match settings.reserved.is_empty() {
            true => pick::take(&topology, &all, count, settings.options).ok_or(CpuError::NothingReserved)?,
            false => settings.reserved.clone(),
        };
        if reserved.is_empty() {
            return Err(CpuError::NothingReserved);
        }
        if !reserved.minus(&all).is_empty() {
            return Err(CpuError::Reserved { reserved, all });
        }
        let shared = if settings.options.strict_reservation { all.minus(&reserved) } else { all };
        let state = state::load(&path, &shared, &reserved).map_err(failed)?;
        let options = settings.options;
        let exclusive =
            Exclusive { topology, reserved, options, state: Mutex::new(state), changed: Notify::new() };
        let cpus = Self { path, exclusive: Some(exclusive) };
        cpus.exclusive.iter().for_each(|exclusive| cpus.count(&exclusive.state.lock()));
        Ok(cpus)
    }

    /// Some containers have processors of their own.
    #[must_use]
    pub fn are_exclusive(&self) -> bool {
        self.exclusive.is_some()
    }

    /// Gives one of the pod's containers its processors, near the given memory nodes; what it has from before stays its own.
    ///
    /// # Errors
    /// Why the pod cannot run here.
    pub fn allocate(&self, pod: &Pod, container: &str, near: Option<NodeSet>) -> Result<(), Verdict> {
        let Some(exclusive) = &self.exclusive else { return Ok(()) };
        let wanted = wanted(pod);
        let Some(index) = wanted.iter().position(|w| w.name == container) else { return Ok(()) };
        let mut state = exclusive.state.lock();
        if state.of(pod::uid(pod), container).is_some() {
            return Ok(());
        }
        metrics::get().cpu_requests.inc();
        let (free, reusable) = (exclusive.free(&state), of_earlier(&state, pod, &wanted[..index]));
        let count = wanted[index].count;
        let chosen = plan::choose(&exclusive.topology, &free, &reusable, count, near, exclusive.options);
        let chosen = chosen.map_err(|refusal| {
            metrics::get().cpu_errors.inc();
            refusal.verdict()
        })?;
        state.give(pod::uid(pod), container, chosen);
        self.keep(&state);
        exclusive.changed.notify_one();
        Ok(())
    }

    /// From which memory nodes the processors of one of the pod's containers could come.
    #[must_use]
    pub fn hints(&self, pod: &Pod, container: &str) -> Hints {
        let Some(exclusive) = &self.exclusive else { return Hints::new() };
        let wanted = wanted(pod);
        let Some(index) = wanted.iter().position(|w| w.name == container) else { return Hints::new() };
        let state = exclusive.state.lock();
        let count = wanted[index].count;
        match state.of(pod::uid(pod), container) {
            Some(own) if own.len() != count => nowhere(),
            Some(own) => exclusive.hints(own, &CpuSet::default(), count),
            None => {
                exclusive.hints(&exclusive.free(&state), &of_earlier(&state, pod, &wanted[..index]), count)
            }
        }
    }

    /// From which memory nodes the processors of the whole pod could come.
    #[must_use]
    pub fn pod_hints(&self, pod: &Pod) -> Hints {
        let Some(exclusive) = &self.exclusive else { return Hints::new() };
        let wanted = wanted(pod);
        let count = plan::together(&wanted);
        if count == 0 {
            return Hints::new();
        }
        let state = exclusive.state.lock();
        let own = || wanted.iter().filter_map(|w| Some((w.count, state.of(pod::uid(pod), &w.name)?)));
        if own().any(|(count, cpus)| cpus.len() != count) {
            return nowhere();
        }
        let own = own().map(|(_, cpus)| cpus).fold(CpuSet::default(), |all, cpus| all.plus(cpus));
        if own.len() == count {
            return exclusive.hints(&own, &CpuSet::default(), count);
        }
        exclusive.hints(&exclusive.free(&state), &own, count)
    }

    /// The pod has ended.
    pub fn release(&self, uid: &str) {
        self.retain(|other| other != uid);
    }

    fn retain(&self, keeps: impl Fn(&str) -> bool) {
        let Some(exclusive) = &self.exclusive else { return };
        let mut state = exclusive.state.lock();
        if state.retain(keeps) {
            self.keep(&state);
            exclusive.changed.notify_one();
        }
    }

    fn keep(&self, state: &State) {
        self.count(state);
        if let Err(error) = state.write(&self.path) {
            tracing::error!(file = %self.path.display(), %error, "cannot write down who has which processors");
        }
    }

    /// Shows how many processors are shared, and how many are not.
    fn count(&self, state: &State) {
        let Some(exclusive) = &self.exclusive else { return };
        let many = |set: &CpuSet| i64::try_from(set.len()).unwrap_or(i64::MAX);
        let all = exclusive.topology.all();
        metrics::get().shared_pool.set(many(&exclusive.free(state)) * 1000);
        let given = all.minus(&state.shared).minus(&exclusive.reserved);
        metrics::get().exclusive_cpus.set(many(&given));
        for (place, cpus) in exclusive.topology.groups(Level::Numa) {
            let node = place.numa.to_string();
            metrics::get().cpus_per_node.with_label_values(&[&node]).set(many(&given.and(&cpus)));
        }
    }

    /// Where a container is to run; nothing where that is not managed.
    #[must_use]
    pub fn place(&self, uid: &str, container: &str) -> Option<CpuSet> {
        let state = self.exclusive.as_ref()?.state.lock();
        Some(state.of(uid, container).unwrap_or(&state.shared).clone())
    }

    /// The processors that a container has for itself.
    #[must_use]
    pub fn own(&self, uid: &str, container: &str) -> CpuSet {
        let Some(exclusive) = &self.exclusive else { return CpuSet::default() };
        exclusive.state.lock().of(uid, container).cloned().unwrap_or_default()
    }

    /// All processors that containers may be given.
    #[must_use]
    pub fn allocatable(&self) -> CpuSet {
        let all = self.exclusive.as_ref().map(|e| e.topology.all().minus(&e.reserved));
        all.unwrap_or_default()
    }

    async fn changed(&self) {
        match &self.exclusive {
            Some(exclusive) => exclusive.changed.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Exclusive {
    /// Processors that nobody has and that are not reserved.
    fn free(&self, state: &State) -> CpuSet {
        state.shared.minus(&self.reserved)
    }

    fn hints(&self, free: &CpuSet, reusable: &CpuSet, count: usize) -> Hints {
        let hints = plan::hints(&self.topology, free, reusable, count, self.options);
        Hints::from([(resources::CPU.to_owned(), Some(hints))])
    }
}

#[async_trait]
impl Provider for Cpus {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        self.hints(pod, &container.name)
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        self.pod_hints(pod)
    }

    async fn give(&self, pod: &Pod, container: &Container, from: Hint) -> Result<(), Verdict> {
        self.allocate(pod, &container.name, from.nodes)
    }

    fn release(&self, uid: &str) {
        self.release(uid);
    }
}

/// What a container has is not what it asks for by now, and it cannot have anything else.
fn nowhere() -> Hints {
    Hints::from([(resources::CPU.to_owned(), Some(vec![]))])
}

/// Processors of the pod's earlier containers that the next one can have.
fn of_earlier(state: &State, pod: &Pod, earlier: &[plan::Wanted]) -> CpuSet {
    plan::reusable(earlier.iter().filter_map(|w| Some((state.of(pod::uid(pod), &w.name)?, w.passes))))
}

/// How many processors the pod's containers want for themselves, in the order in which they start.
fn wanted(pod: &Pod) -> Vec<plan::Wanted> {
    if qos::class(pod) != QosClass::Guaranteed || pod::spec(pod).resources.is_some() {
        return vec![];
    }
    let count = |container: &Container| {
        let list = container.resources.as_ref()?;
        let milli = amount(list.requests.as_ref(), resources::CPU)
            .or_else(|| amount(list.limits.as_ref(), resources::CPU))?;
        usize::try_from(milli / 1000).ok().filter(|n| *n > 0 && milli % 1000 == 0)
    };
    let all = pod::all_containers(pod).into_iter();
    all.filter(|(role, _)| !matches!(role, Role::Ephemeral(_)))
        .filter_map(|(role, container)| {
            let passes = matches!(role, Role::Init(_)) && !pod::is_sidecar(&container);
            Some(plan::Wanted { count: count(&container)?, name: container.name, passes })
        })
        .collect()
}

/// Keeps running containers where they are to run until the drain; what pods had that are gone is taken back.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, period: Duration, tasks: &Tasks) {
    if !shared.cpus.are_exclusive() && !shared.memory.is_pinned() {
        return;
    }
    let drain = tasks.drain();
    tasks.spawn("cpus", async move {
        let mut placed = HashMap::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = shared.cpus.changed() => {}
                () = tokio::time::sleep(period) => {}
            }
            if pods.is_synced() {
                shared.cpus.retain(|uid| pods.knows(uid));
                shared.memory.retain(|uid| pods.knows(uid));
            }
            if shared.cpus.are_exclusive() {
                move_containers(&shared, &mut placed).await;
            }
        }
    });
}

/// Moves the containers that are not where they are to be; `placed` has where each was put.
async fn move_containers(shared: &Shared, placed: &mut HashMap<String, CpuSet>) {
    let list = match shared.runtime.glimpse().await {
        Ok(list) => list,
        Err(error) => return tracing::warn!(%error, "cannot see who runs on which processors"),
    };
    let running = cri::ContainerState::ContainerRunning as i32;
    let containers = || list.iter().filter(|g| g.sandbox_id.is_some() && g.state == running);
    placed.retain(|id, _| containers().any(|g| g.id == *id));
    for container in containers() {
        let Some(place) = shared.cpus.place(&container.pod.uid, &container.name) else { return };
        if placed.get(&container.id) == Some(&place) {
            continue;
        }
        let resources = cri::LinuxContainerResources { cpuset_cpus: place.to_string(), ..Default::default() };
        match shared.runtime.update_resources(&container.id, resources).await {
            Ok(()) => drop(placed.insert(container.id.clone(), place)),
            // The next round tries again.
            Err(error) => tracing::warn!(id = container.id, %place, %error, "cannot move the container"),
        }
    }
}

#[cfg(test)]
mod tests;
