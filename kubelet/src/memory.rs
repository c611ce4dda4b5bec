//! Memory from certain nodes for the containers of Guaranteed pods: the static policy of the memory manager.
//!
//! Choosing is in `plan`, what is kept from pods in `reserved`, what was given on disk in `state`, so that a restarted kubelet
//! knows. A container is told its nodes when it is made (`cpuset.mems`).
//!
//! Contract: "Utilizing the NUMA-aware Memory Manager"; texts of refusals and the state file as upstream's.

pub mod plan;
pub mod reserved;
pub mod state;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use self::{
    plan::{Amounts, Block},
    reserved::{Reservation, ReservedError},
    state::{State, StateError},
};
use crate::{
    metrics,
    pod::{
        self, Role,
        qos::{self, QosClass},
        resources,
    },
    status::generate::Verdict,
    topology::{
        Provider,
        hint::{Hint, Hints},
        nodes::{MemoryNodes, NodeSet},
    },
};

/// The policy's name.
pub const STATIC: &str = "Static";

/// Memory cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// What is on disk cannot be used.
    #[error(
        "could not restore state from checkpoint: {why}, please drain this node and delete the memory manager checkpoint file {path:?} before restarting Kubelet"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        why: StateError,
    },
    /// What is to be reserved does not fit.
    #[error(transparent)]
    Reserved(#[from] ReservedError),
}

/// What the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The static policy is on.
    pub pinned: bool,
    /// What is kept from pods, node by node.
    pub reserved: Vec<Reservation>,
}

/// Whose memory comes from where.
pub struct Memory {
    path: PathBuf,
    /// With the static policy only.
    state: Option<Mutex<State>>,
}

impl Memory {
    /// What an earlier kubelet left in `folder`, or nothing given. `kept` is what node allocatable keeps from pods, in bytes.
    ///
    /// # Errors
    /// When the settings do not fit the machine or what an earlier kubelet did.
    pub fn new(
        settings: &Settings,
        machine: &MemoryNodes,
        kept: &Amounts,
        folder: &Path,
    ) -> Result<Self, MemoryError> {
        let path = folder.join(state::FILE);
        let failed = |why| MemoryError::State { path: path.clone(), why };
        if !settings.pinned {
            state::read(&path, "None").map_err(failed)?;
            return Ok(Self { path, state: None });
        }
        let reserved = reserved::amounts(&settings.reserved)?;
        reserved::check(&reserved, machine.all(), kept)?;
        let fresh = plan::fresh(machine, &reserved);
        let state = match state::read(&path, STATIC).map_err(failed)? {
            None => State { machine: fresh, ..State::default() },
            Some(left) => restore(fresh, left).map_err(failed)?,
        };
        let memory = Self { path, state: Some(Mutex::new(state)) };
        memory.state.iter().for_each(|state| memory.keep(&state.lock()));
        Ok(memory)
    }

    /// Gives one of the pod's containers its memory; what it has from before stays its own. `agreed` is where it should
    /// come from.
    ///
    /// # Errors
    /// Why the pod cannot run here.
    pub fn allocate(&self, pod: &Pod, container: &Container, agreed: Hint) -> Result<(), Verdict> {
        let Some(state) = &self.state else { return Ok(()) };
        let wanted = wanted(pod, container);
        let mut state = state.lock();
        if wanted.is_empty() || state.of(pod::uid(pod), &container.name).is_some() {
            return Ok(());
        }
        metrics::get().memory_requests.inc();
        let ended = ended(pod, &container.name);
        let nodes = plan::choose(&state.machine, &wanted, agreed, &|nodes, kind| {
            left_over(&state, pod, &ended, nodes, kind)
        });
        let nodes = nodes.map_err(|refusal| {
            metrics::get().memory_errors.inc();
            let message = format!("Allocate failed due to {refusal}, which is unexpected");
            Verdict { reason: "UnexpectedAdmissionError".to_owned(), message, disrupted: false }
        })?;
        for (kind, size) in wanted {
            let block = Block { numa_affinity: nodes.iter().collect(), kind, size };
            let again = left_over(&state, pod, &ended, nodes, &block.kind).min(size);
            plan::take(&mut state.machine, &block, size - again);
            hand_over(&mut state, pod, &ended, &block, again);
            let own = state.given.entry(pod::uid(pod).to_owned()).or_default();
            own.entry(container.name.clone()).or_default().push(block);
        }
        self.keep(&state);
        Ok(())
    }

    /// From which nodes the memory of one of the pod's containers could come.
    #[must_use]
    pub fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        let Some(state) = &self.state else { return Hints::new() };
        let (wanted, state) = (wanted(pod, container), state.lock());
        if let Some(own) = state.of(pod::uid(pod), &container.name) {
            return again(own, &wanted);
        }
        let ended = ended(pod, &container.name);
        let hints =
            plan::hints(&state.machine, &wanted, &|nodes, kind| left_over(&state, pod, &ended, nodes, kind));
        wanted.into_keys().map(|kind| (kind, Some(hints.clone()))).collect()
    }

    /// From which nodes the memory of the whole pod could come.
    #[must_use]
    pub fn pod_hints(&self, pod: &Pod) -> Hints {
        let Some(state) = &self.state else { return Hints::new() };
        let (wanted, state) = (wanted_together(pod), state.lock());
        let mut all = pod::init_containers(pod).iter().chain(pod::containers(pod));
        if let Some(own) = all.find_map(|c| state.of(pod::uid(pod), &c.name)) {
            return again(own, &wanted);
        }
        let hints = plan::hints(&state.machine, &wanted, &|_, _| 0);
        wanted.into_keys().map(|kind| (kind, Some(hints.clone()))).collect()
    }

    /// Takes back what the pod has.
    pub fn release(&self, uid: &str) {
        self.retain(|other| other != uid);
    }

    /// Takes back what others than these pods have.
    pub fn retain(&self, keeps: impl Fn(&str) -> bool) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock();
        let State { machine, given } = &mut *state;
        let before = given.len();
        given.retain(|uid, own| {
            let stays = keeps(uid);
            if !stays {
                own.values().flatten().for_each(|block| plan::put_back(machine, block));
            }
            stays
        });
        if given.len() != before {
            self.keep(&state);
        }
    }

    /// Some containers' memory comes from certain nodes.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.state.is_some()
    }

    /// The nodes that a container's memory comes from; nothing where that is not managed or it may come from any.
    #[must_use]
    pub fn place(&self, uid: &str, container: &str) -> Option<NodeSet> {
        let own = self.own(uid, container);
        let nodes = own.iter().fold(NodeSet::default(), |nodes, block| nodes.plus(block.nodes()));
        Some(nodes).filter(|nodes| !nodes.is_empty())
    }

    /// What a container has.
    #[must_use]
    pub fn own(&self, uid: &str, container: &str) -> Vec<Block> {
        let state = self.state.as_ref().map(Mutex::lock);
        state.and_then(|state| state.of(uid, container).map(<[Block]>::to_vec)).unwrap_or_default()
    }

    /// All that may be given to pods, node by node.
    #[must_use]
    pub fn allocatable(&self) -> Vec<Block> {
        let Some(state) = &self.state else { return vec![] };
        let state = state.lock();
        let tables = state.machine.iter().flat_map(|(number, node)| {
            node.memory_map.iter().map(move |(kind, table)| Block {
                numa_affinity: vec![*number],
                kind: kind.clone(),
                size: table.allocatable,
            })
        });
        tables.filter(|block| block.size > 0).collect()
    }

    fn keep(&self, state: &State) {
        if let Err(error) = state::write(&self.path, state) {
            tracing::error!(file = %self.path.display(), %error, "cannot write down whose memory comes from where");
        }
    }
}

#[async_trait]
impl Provider for Memory {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        self.hints(pod, container)
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        self.pod_hints(pod)
    }

    async fn give(&self, pod: &Pod, container: &Container, from: Hint) -> Result<(), Verdict> {
        self.allocate(pod, container, from)
    }

    fn release(&self, uid: &str) {
        self.release(uid);
    }
}

/// What an earlier kubelet gave, on the machine as it is now.
fn restore(mut machine: plan::Machine, left: State) -> Result<State, StateError> {
    for (pod, containers) in &left.given {
        for (container, block) in containers.iter().flat_map(|(name, own)| own.iter().map(move |b| (name, b)))
        {
            let known =
                |node: &u32| machine.get(node).is_some_and(|n| n.memory_map.contains_key(&block.kind));
            if !block.numa_affinity.iter().all(known) {
                return Err(StateError::Missing { pod: pod.clone(), container: container.clone() });
            }
            plan::take(&mut machine, block, block.size);
        }
    }
    let empty = left.machine.is_empty() && left.given.is_empty();
    if !empty && !plan::same(&left.machine, &machine) {
        return Err(StateError::Machine);
    }
    Ok(State { machine, given: left.given })
}

/// What a container of a Guaranteed pod asks for.
fn wanted(pod: &Pod, container: &Container) -> Amounts {
    if qos::class(pod) != QosClass::Guaranteed || pod::spec(pod).resources.is_some() {
        return Amounts::new();
    }
    let list = container.resources.as_ref();
    let requests = list.and_then(|r| r.requests.as_ref()).or_else(|| list.and_then(|r| r.limits.as_ref()));
    let kinds = requests
        .into_iter()
        .flatten()
        .filter(|(kind, _)| kind.as_str() == plan::MEMORY || kind.starts_with("hugepages-"));
    let bytes = |text: &str| resources::whole(text).and_then(|bytes| u64::try_from(bytes).ok());
    kinds.filter_map(|(kind, amount)| Some((kind.clone(), bytes(&amount.0)?))).collect()
}

/// What all containers of the pod ask for at a time.
fn wanted_together(pod: &Pod) -> Amounts {
    let (mut most, mut lasting) = (Amounts::new(), Amounts::new());
    for (role, container) in pod::all_containers(pod) {
        if matches!(role, Role::Ephemeral(_)) {
            continue;
        }
        let passes = matches!(role, Role::Init(_)) && !pod::is_sidecar(&container);
        for (kind, size) in wanted(pod, &container) {
            let now = lasting.get(&kind).copied().unwrap_or(0).saturating_add(size);
            let largest = most.entry(kind.clone()).or_default();
            *largest = now.max(*largest);
            if !passes {
                lasting.insert(kind, now);
            }
        }
    }
    most
}

/// Hints for what is given already: just that, if it is what is asked for.
fn again(own: &[Block], wanted: &Amounts) -> Hints {
    let is_it = |block: &Block| wanted.get(&block.kind) == Some(&block.size);
    if own.len() != wanted.len() || !own.iter().all(is_it) {
        return Hints::new();
    }
    let hint = |block: &Block| Hint { nodes: Some(block.nodes()), preferred: true };
    own.iter().map(|block| (block.kind.clone(), Some(vec![hint(block)]))).collect()
}

/// The init containers that have ended when this container starts.
fn ended(pod: &Pod, container: &str) -> Vec<String> {
    let earlier = pod::init_containers(pod).iter().take_while(|c| c.name != container);
    earlier.filter(|c| !pod::is_sidecar(c)).map(|c| c.name.clone()).collect()
}

/// What the ended containers had from just these nodes and nobody has taken over yet.
fn left_over(state: &State, pod: &Pod, ended: &[String], nodes: NodeSet, kind: &str) -> u64 {
    let blocks = ended.iter().filter_map(|name| state.of(pod::uid(pod), name)).flatten();
    blocks.filter(|block| block.kind == kind && block.nodes() == nodes).map(|block| block.size).sum()
}

/// Takes from the ended containers what the next one has of them now, so that all of the pod's blocks add up to what it has.
fn hand_over(state: &mut State, pod: &Pod, ended: &[String], taken: &Block, mut size: u64) {
    let Some(own) = state.given.get_mut(pod::uid(pod)) else { return };
    for name in ended {
        for block in own.get_mut(name).into_iter().flatten() {
            if block.kind == taken.kind && block.nodes() == taken.nodes() {
                let part = size.min(block.size);
                block.size -= part;
                size -= part;
            }
        }
    }
}

#[cfg(test)]
mod tests;
