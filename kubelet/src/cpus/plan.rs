//! Choosing processors: whole parts of the machine first, then what is left over of parts that are in use already, so that
//! large parts stay free for those who want them. Pure.

use super::{
    set::CpuSet,
    topology::{Level, Topology},
};
use crate::status::generate::Verdict;

/// Options of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `full-pcpus-only`: cores are given as a whole, or not at all.
    pub full_cores: bool,
    /// `strict-cpu-reservation`: reserved processors are not in the shared pool.
    pub strict_reservation: bool,
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

/// Gives every container what it wants, in order.
///
/// # Errors
/// When one of them cannot have it.
pub fn allocate(
    topology: &Topology,
    free: &CpuSet,
    wanted: &[Wanted],
    options: Options,
) -> Result<Vec<(String, CpuSet)>, Refusal> {
    let (mut free, mut reusable) = (free.clone(), CpuSet::default());
    let mut given = Vec::new();
    for one in wanted {
        let there = free.plus(&reusable);
        if options.full_cores {
            aligned(topology, &there, one.count)?;
        }
        let refusal = || Refusal::NotEnough { requested: one.count, available: there.len() };
        // What an init container had comes first, so that the pod takes no more than its largest need.
        let again = if reusable.len() <= one.count {
            reusable.clone()
        } else {
            take(topology, &reusable, one.count).ok_or_else(refusal)?
        };
        let more = take(topology, &free, one.count - again.len()).ok_or_else(refusal)?;
        let chosen = again.plus(&more);
        free = free.minus(&chosen);
        reusable = if one.passes { reusable.plus(&chosen) } else { reusable.minus(&chosen) };
        given.push((one.name.clone(), chosen));
    }
    Ok(given)
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

/// Chooses `count` of the free processors; none when there are not so many.
#[must_use]
pub fn take(topology: &Topology, free: &CpuSet, count: usize) -> Option<CpuSet> {
    if free.len() < count {
        return None;
    }
    let mut taken = CpuSet::default();
    for level in [Level::Numa, Level::Socket, Level::Core] {
        let free_near =
            |numa: u32| free.iter().filter(|c| topology.place(*c).is_some_and(|p| p.numa == numa)).count();
        let mut groups = topology.groups(level);
        // Where least is free, least is broken up.
        groups.sort_by_key(|(place, _)| (free_near(place.numa), *place));
        for (_, group) in groups {
            let whole = group.minus(&free.minus(&taken)).is_empty();
            if whole && group.len() <= count - taken.len() {
                taken = taken.plus(&group);
            }
        }
    }
    let left = free.minus(&taken);
    let place = |cpu: u32| topology.place(cpu);
    let near = |set: &CpuSet, cpu: u32| {
        set.iter().filter(|other| place(*other).map(|p| p.numa) == place(cpu).map(|p| p.numa)).count()
    };
    let siblings =
        |cpu: u32| left.iter().filter(|o| place(*o).map(|p| p.core) == place(cpu).map(|p| p.core)).count();
    let mut singles: Vec<u32> = left.iter().collect();
    singles.sort_by_cached_key(|cpu| {
        (std::cmp::Reverse(near(&taken, *cpu)), near(&left, *cpu), siblings(*cpu), *cpu)
    });
    let rest: CpuSet = singles.into_iter().take(count - taken.len()).collect();
    Some(taken.plus(&rest))
}
