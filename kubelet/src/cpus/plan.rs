//! Choosing processors for a container, and telling where they could come from. Pure.

use std::collections::BTreeSet;

use super::{
    pick::take,
    set::CpuSet,
    topology::{Level, Topology},
};
use crate::{
    status::generate::Verdict,
    topology::{self, hint::Hint, nodes::NodeSet},
};

/// Options of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `full-pcpus-only`: cores are given as a whole, or not at all.
    pub full_cores: bool,
    /// `strict-cpu-reservation`: reserved processors are not in the shared pool.
    pub strict_reservation: bool,
    /// `distribute-cpus-across-numa`: where one memory node is not enough, as many from each.
    pub across_nodes: bool,
    /// `align-by-socket`: what is on one socket is near enough.
    pub by_socket: bool,
    /// `distribute-cpus-across-cores`: threads of different cores, where there are as many.
    pub across_cores: bool,
    /// `prefer-align-cpus-by-uncorecache`: what shares the outermost cache comes first.
    pub by_cache: bool,
}

/// What one container wants for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many.
    pub count: usize,
    /// It ends before the next one starts, which may have them then.
    pub passes: bool,
}

/// Why a pod does not get its processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too few are free.
    #[error("not enough cpus available to satisfy request: requested={requested}, available={available}")]
    NotEnough {
        /// How many are wanted.
        requested: usize,
        /// How many are free.
        available: usize,
    },
    /// No whole number of cores.
    #[error("SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {per_core}")]
    Alignment {
        /// How many are wanted.
        requested: usize,
        /// Threads of a core.
        per_core: usize,
    },
    /// Too few cores are free as a whole.
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {requested}, CPUs per core = {per_core}"
    )]
    Cores {
        /// How many are wanted.
        requested: usize,
        /// How many there are in free cores.
        available: usize,
        /// Threads of a core.
        per_core: usize,
    },
}

impl Refusal {
    /// What becomes of the pod.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        let text = self.to_string();
        let (reason, message) = match self {
            Self::NotEnough { .. } => {
                ("UnexpectedAdmissionError", format!("Allocate failed due to {text}, which is unexpected"))
            }
            Self::Alignment { .. } | Self::Cores { .. } => ("SMTAlignmentError", text),
        };
        Verdict { reason: reason.to_owned(), message, disrupted: false }
    }
}

/// How many the containers of a pod have at most at a time.
#[must_use]
pub fn together(wanted: &[Wanted]) -> usize {
    let (mut most, mut lasting) = (0, 0);
    for one in wanted {
        most = most.max(lasting + one.count);
        lasting += if one.passes { 0 } else { one.count };
    }
    most
}

/// What containers that come earlier in a pod have and no longer need when the next one starts: what each of them has,
/// and whether it has ended by then.
pub fn reusable<'a>(earlier: impl Iterator<Item = (&'a CpuSet, bool)>) -> CpuSet {
    earlier.fold(CpuSet::default(), |all, (own, passes)| if passes { all.plus(own) } else { all.minus(own) })
}

/// Chooses for one container among the free ones and those that its pod can use again; those near the given memory nodes
/// come first.
///
/// # Errors
/// When it cannot have as many.
pub fn choose(
    topology: &Topology,
    free: &CpuSet,
    reusable: &CpuSet,
    count: usize,
    near: Option<NodeSet>,
    options: Options,
) -> Result<CpuSet, Refusal> {
    let there = free.plus(reusable);
    if options.full_cores {
        aligned(topology, &there, count)?;
    }
    let refusal = || Refusal::NotEnough { requested: count, available: there.len() };
    // With sockets, all of a node's socket is near.
    let sockets = options.by_socket.then(|| sockets_of(topology, near));
    let is_near = |cpu: &u32| match (near, topology.place(*cpu), &sockets) {
        (Some(_), Some(place), Some(sockets)) => sockets.contains(&place.socket),
        (Some(nodes), Some(place), None) => nodes.contains(place.numa),
        _ => false,
    };
    let close: CpuSet = there.iter().filter(is_near).collect();
    let pick = |among: &CpuSet, count: usize| {
        // What an init container had comes first, so that the pod takes no more than its largest need.
        let again = among.and(reusable);
        let again = if again.len() <= count { again } else { take(topology, &again, count, options)? };
        let more = take(topology, &among.minus(reusable), count - again.len(), options)?;
        Some(again.plus(&more))
    };
    let first = pick(&close, count.min(close.len())).ok_or_else(refusal)?;
    let rest = pick(&there.minus(&first), count - first.len()).ok_or_else(refusal)?;
    Ok(first.plus(&rest))
}

/// The sockets that nodes are on.
fn sockets_of(topology: &Topology, nodes: Option<NodeSet>) -> BTreeSet<u32> {
    let groups = topology.groups(Level::Socket);
    let numa = |cpu: u32| topology.part_of(Level::Numa, cpu);
    let on = |cpus: &CpuSet| {
        cpus.iter().filter_map(numa).any(|node| nodes.is_some_and(|nodes| nodes.contains(node)))
    };
    groups.into_iter().filter(|(_, cpus)| on(cpus)).map(|(place, _)| place.socket).collect()
}

/// From which memory nodes so many processors could come. The pod's own have to be among them.
#[must_use]
pub fn hints(
    topology: &Topology,
    free: &CpuSet,
    reusable: &CpuSet,
    count: usize,
    options: Options,
) -> Vec<Hint> {
    let node = |cpu: u32| topology.place(cpu).map_or(0, |place| place.numa);
    let on = |cpus: &CpuSet, part: NodeSet| cpus.iter().filter(|cpu| part.contains(node(*cpu))).count();
    let all = topology.all();
    let nodes: NodeSet = all.iter().map(node).collect();
    let fits = |part| on(&all, part) >= count;
    let has_room = |part| on(reusable, part) == reusable.len() && reusable.len() + on(free, part) >= count;
    let mut hints = topology::hints(nodes, fits, has_room);
    let per_socket = nodes.len() / topology.count(Level::Socket).max(1);
    if options.by_socket && per_socket > 0 {
        // Sets on no more sockets than needed are as good as those of the fewest nodes.
        let least = topology::least(nodes, fits).div_ceil(per_socket);
        for hint in &mut hints {
            hint.preferred |= sockets_of(topology, hint.nodes).len() == least;
        }
    }
    hints
}

fn aligned(topology: &Topology, free: &CpuSet, requested: usize) -> Result<(), Refusal> {
    let per_core = topology.threads_per_core();
    if !requested.is_multiple_of(per_core) {
        return Err(Refusal::Alignment { requested, per_core });
    }
    let whole = topology.groups(Level::Core).into_iter().filter(|(_, cpus)| cpus.minus(free).is_empty());
    let available = whole.map(|(_, cpus)| cpus.len()).sum();
    if requested > available {
        return Err(Refusal::Cores { requested, available, per_core });
    }
    Ok(())
}
