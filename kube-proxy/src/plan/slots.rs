//! Where endpoints stand, so that little changes when they do.
//!
//! Endpoints of a service port have places from zero on, since a random number picks one of them. With affinity they
//! have consecutive slots of one map for all services: a block.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use smallvec::{SmallVec, smallvec};

/// Address and port of an endpoint.
pub(super) type Target = (IpAddr, u16);
/// Endpoints in the order of their places. Mostly they are two or three.
pub(super) type Targets = SmallVec<[Target; 2]>;

/// Consecutive slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    first: u32,
    /// Room, a power of two.
    room: u32,
}

/// The slots in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Free blocks by room.
    free: BTreeMap<u32, BTreeSet<u32>>,
    /// First slot never used.
    next: u32,
}

impl Block {
    /// Its first slot.
    pub(super) fn first(self) -> u32 {
        self.first
    }
}

impl Slots {
    /// A block with room for so many: the one there was, if it will do.
    pub(super) fn place(&mut self, had: Option<Block>, count: usize) -> Block {
        let room =
            u32::try_from(count.max(1)).unwrap_or(u32::MAX).checked_next_power_of_two().unwrap_or(1 << 31);
        match had {
            // Blocks shrink only when they are four times too large, so that flapping costs nothing.
            Some(block) if block.room >= room && block.room <= room.saturating_mul(4) => block,
            had => {
                let block = Block { first: self.take(room), room };
                had.into_iter().for_each(|had| self.release(had));
                block
            }
        }
    }

    /// A block is free again.
    pub(super) fn release(&mut self, block: Block) {
        self.free.entry(block.room).or_default().insert(block.first);
    }

    fn take(&mut self, room: u32) -> u32 {
        if let Some(first) = self.free.get_mut(&room).and_then(BTreeSet::pop_first) {
            return first;
        }
        let first = self.next;
        self.next = self.next.saturating_add(room);
        first
    }
}

/// Members in places 0..n: those that were there keep theirs, the rest fills the gaps in order. `wanted` is in order, each
/// target once.
pub(super) fn arrange(had: &[Target], wanted: &[Target]) -> Targets {
    // Where each of those wanted stands already; the others are given what is left.
    let mut stays: SmallVec<[bool; 64]> = smallvec![false; wanted.len()];
    let mut taken: SmallVec<[bool; 64]> = smallvec![false; wanted.len()];
    for (slot, target) in had.iter().enumerate().take(wanted.len()) {
        if let Ok(at) = wanted.binary_search(target) {
            (stays[slot], taken[at]) = (true, true);
        }
    }
    let mut rest = wanted.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(target, _)| *target);
    let slots = stays.iter().enumerate();
    slots.filter_map(|(slot, stays)| if *stays { had.get(slot).copied() } else { rest.next() }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(n: u8) -> Target {
        (IpAddr::from([10, 0, 0, n]), 80)
    }

    #[test]
    fn members_keep_their_places_when_one_leaves() {
        let before = arrange(&[], &[target(1), target(2), target(3), target(4)]);
        let after = arrange(&before, &[target(1), target(3), target(4)]);
        assert_eq!(after[..], [before[0], target(4), before[2]], "the last one fills the gap");
    }

    proptest! {
        #[test]
        fn all_are_there_once_and_stay_where_they_can(
            had in prop::collection::btree_set(0..30u8, 0..20),
            wanted in prop::collection::btree_set(0..30u8, 0..20),
            turn in 0..20usize,
        ) {
            let mut had: Vec<Target> = had.into_iter().map(target).collect();
            let turn = turn.checked_rem(had.len()).unwrap_or(0);
            had.rotate_left(turn);
            let wanted: Vec<Target> = wanted.into_iter().map(target).collect();
            let out = arrange(&had, &wanted);
            for (slot, before) in had.iter().enumerate().take(wanted.len()) {
                prop_assert!(!wanted.contains(before) || out[slot] == *before);
            }
            let mut sorted = out.into_vec();
            sorted.sort();
            prop_assert_eq!(sorted, wanted);
        }

        #[test]
        fn blocks_never_overlap_and_have_room(steps in prop::collection::vec((0..4usize, 0..20usize), 1..60)) {
            let mut slots = Slots::default();
            let mut blocks: [Option<Block>; 4] = [None; 4];
            for (at, count) in steps {
                if count == 0 {
                    blocks[at].take().into_iter().for_each(|block| slots.release(block));
                } else {
                    blocks[at] = Some(slots.place(blocks[at], count));
                    prop_assert!(blocks[at].unwrap().room as usize >= count);
                }
                let mut taken = BTreeSet::new();
                for block in blocks.iter().flatten() {
                    for slot in block.first..block.first + block.room {
                        prop_assert!(taken.insert(slot), "slot {} used twice", slot);
                    }
                }
            }
        }
    }
}
