//! Taking so many of the free processors: whole parts of the machine first, then what is left over of parts that are in use
//! already, so that large parts stay free for those who want them. Pure.
//!
//! Contract: KEP-3570 and the policy options of the CPU manager: `distribute-cpus-across-numa` (KEP-2902),
//! `distribute-cpus-across-cores` (KEP-4176), `prefer-align-cpus-by-uncorecache` (KEP-4800).

use std::collections::BTreeSet;

use super::{
    plan::Options,
    set::CpuSet,
    topology::{Level, Topology},
};

/// Machines with more memory nodes than this are not searched for the best of all sets of nodes: there are too many.
const SEARCHED: usize = 16;

/// Chooses `count` of the free processors; none when there are not so many.
#[must_use]
pub fn take(topology: &Topology, free: &CpuSet, count: usize, options: Options) -> Option<CpuSet> {
    if free.len() < count {
        return None;
    }
    let group = if options.full_cores { topology.threads_per_core() } else { 1 };
    let even = options.across_nodes && count > 0 && count.is_multiple_of(group);
    even.then(|| evenly(topology, free, count, group, options))
        .flatten()
        .or_else(|| Some(packed(topology, free, count, options)))
}

/// The free processors and what was taken of them.
struct Taker<'a> {
    topology: &'a Topology,
    free: CpuSet,
    taken: CpuSet,
    count: usize,
}

impl<'a> Taker<'a> {
    fn new(topology: &'a Topology, free: &CpuSet, count: usize) -> Self {
        Self { topology, free: free.clone(), taken: CpuSet::default(), count }
    }

    fn needed(&self) -> usize {
        self.count - self.taken.len()
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.taken = self.taken.plus(cpus);
        self.free = self.free.minus(cpus);
    }

    /// The free processors of a part.
    fn free_in(&self, level: Level, id: u32) -> CpuSet {
        self.free.and(&self.topology.part(level, id))
    }

    /// The parts of a level with free processors: where least is free comes first, of the parts that are around them first.
    fn sorted(&self, level: Level) -> Vec<u32> {
        let around = self.topology.around(level);
        let rank = |cpu: u32| -> Vec<(usize, u32)> {
            let ids = around.iter().filter_map(|level| Some((*level, self.topology.part_of(*level, cpu)?)));
            ids.map(|(level, id)| (self.free_in(level, id).len(), id)).collect()
        };
        let parts: BTreeSet<Vec<(usize, u32)>> = self.free.iter().map(rank).collect();
        // Parts that several others are around, as sockets of one node after the other, come once.
        let mut ids = Vec::new();
        for id in parts.iter().filter_map(|rank| rank.last()).map(|(_, id)| *id) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Takes the parts of a level that are free as a whole and not too large.
    fn take_whole(&mut self, level: Level) {
        for id in self.sorted(level) {
            let part = self.topology.part(level, id);
            if part.len() <= self.needed() && part.minus(&self.free).is_empty() {
                self.take(&part);
            }
        }
    }

    /// Takes what shares a cache: whole ones, then the rest from one that has as many.
    fn take_caches(&mut self) {
        let size = self.topology.all().len() / self.topology.count(Level::Cache).max(1);
        for id in self.sorted(Level::Cache) {
            if self.needed() >= size {
                self.take_whole(Level::Cache);
            }
            if self.needed() == 0 {
                return;
            }
            if let Some(rest) = self.rest_of_cache(id) {
                return self.take(&rest);
            }
        }
    }

    /// All that is still needed, from one cache.
    fn rest_of_cache(&self, id: u32) -> Option<CpuSet> {
        let (needed, threads) = (self.needed(), self.topology.threads_per_core());
        let free = self.free_in(Level::Cache, id);
        let cores: BTreeSet<u32> =
            free.iter().filter_map(|cpu| self.topology.part_of(Level::Core, cpu)).collect();
        let cores = cores.into_iter().take(needed.div_ceil(threads));
        let mut cpus = cores
            .fold(CpuSet::default(), |all, core| all.plus(&free.and(&self.topology.part(Level::Core, core))));
        // An odd number leaves a thread of the last core.
        if !needed.is_multiple_of(2) && threads > 1 && cpus.len() > needed {
            cpus = cpus.iter().take(cpus.len() - 1).collect();
        }
        (cpus.len() == needed).then_some(cpus)
    }

    /// Takes single threads: of cores that are in use already, or of one core after the other where they are to be apart.
    fn take_singles(&mut self, apart: bool) {
        let level = if apart { Level::Socket } else { Level::Core };
        let singles: Vec<u32> = self
            .sorted(level)
            .into_iter()
            .flat_map(|id| self.free_in(level, id).iter().collect::<Vec<_>>())
            .collect();
        let singles = singles.into_iter().take(self.needed()).collect();
        self.take(&singles);
    }
}

fn packed(topology: &Topology, free: &CpuSet, count: usize, options: Options) -> CpuSet {
    let mut taker = Taker::new(topology, free, count);
    let outer = topology.outer();
    taker.take_whole(outer[0]);
    taker.take_whole(outer[1]);
    if options.by_cache {
        taker.take_caches();
    }
    if !options.across_cores {
        taker.take_whole(Level::Core);
    }
    taker.take_singles(options.across_cores);
    taker.taken
}

/// As many from each of as few nodes as can be; `group` are given together. None when no nodes can give so.
fn evenly(
    topology: &Topology,
    free: &CpuSet,
    count: usize,
    group: usize,
    options: Options,
) -> Option<CpuSet> {
    let taker = Taker::new(topology, free, count);
    let nodes = taker.sorted(Level::Numa);
    if nodes.len() > SEARCHED {
        return None;
    }
    let room: Vec<usize> = nodes.iter().map(|id| taker.free_in(Level::Numa, *id).len()).collect();
    let groups = count.div_ceil(group);
    let per_node = topology.all().len().div_ceil(group).div_ceil(topology.count(Level::Numa));
    for size in groups.div_ceil(per_node)..=groups.min(nodes.len()) {
        let mut best: Option<Shares> = None;
        for set in sets(nodes.len(), size) {
            let Some(shares) = Shares::of(&room, &set, count, group) else { continue };
            if best.as_ref().is_none_or(|best| shares.uneven < best.uneven) {
                best = Some(shares);
            }
        }
        let Some(best) = best else { continue };
        let each = count / best.by_node.len() / group * group;
        let mut taken = CpuSet::default();
        for (index, share) in best.by_node {
            let mut there = taker.free_in(Level::Numa, nodes[index]);
            // What a node gives over its share uses up what is left over there.
            let more = std::iter::repeat_n(group, share.saturating_sub(each) / group);
            for part in std::iter::once(each).chain(more) {
                let own = packed(topology, &there, part, options);
                there = there.minus(&own);
                taken = taken.plus(&own);
            }
        }
        return Some(taken);
    }
    None
}

/// What nodes give.
struct Shares {
    /// By the node's place in the list.
    by_node: Vec<(usize, usize)>,
    /// How unevenly nodes are left; only to be compared.
    uneven: usize,
}

impl Shares {
    /// As much from each of the set, and what is left over from some of them, so that all nodes are left as evenly as can be.
    fn of(room: &[usize], set: &[usize], count: usize, group: usize) -> Option<Self> {
        let whole: usize = set.iter().map(|node| room[*node] / group * group).sum();
        let each = count / set.len() / group * group;
        if whole < count || set.iter().any(|node| room[*node] < each) {
            return None;
        }
        let mut left = room.to_vec();
        set.iter().for_each(|node| left[*node] -= each);
        let more = count - each * set.len();
        let able: Vec<usize> = set.iter().copied().filter(|node| left[*node] >= group).collect();
        // From as many as can be, so that what is left over is spread, too.
        let sizes = (1..=able.len()).rev();
        let subsets = sizes.flat_map(|size| sets(able.len(), size));
        let subsets = subsets.map(|subset| subset.into_iter().map(|at| able[at]).collect::<Vec<_>>());
        let candidates: Vec<Vec<usize>> = match more {
            0 => vec![left],
            _ => subsets.filter_map(|subset| hand_out(&left, &subset, more, group)).collect(),
        };
        // All leave the same sum, so the sum of squares says how far they are from the mean.
        let uneven = |left: &Vec<usize>| left.iter().map(|n| n * n).sum::<usize>();
        let after = candidates.into_iter().min_by_key(uneven)?;
        let by_node = set.iter().map(|node| (*node, room[*node] - after[*node])).collect();
        Some(Self { by_node, uneven: uneven(&after) })
    }
}

/// What nodes have left after `more` was taken from some of them in turns; none when they have not so much.
fn hand_out(left: &[usize], from: &[usize], mut more: usize, group: usize) -> Option<Vec<usize>> {
    let mut left = left.to_vec();
    while more > 0 {
        let before = more;
        for node in from {
            if more > 0 && left[*node] >= group {
                left[*node] -= group;
                more -= group;
            }
        }
        if more == before {
            return None;
        }
    }
    Some(left)
}

/// All sets of `size` numbers below `of`, in lexical order.
fn sets(of: usize, size: usize) -> Vec<Vec<usize>> {
    let masks = (0..1u32 << of).filter(|mask| mask.count_ones() as usize == size);
    let mut all: Vec<Vec<usize>> =
        masks.map(|mask| (0..of).filter(|bit| mask & (1 << bit) != 0).collect()).collect();
    all.sort_unstable();
    all
}
