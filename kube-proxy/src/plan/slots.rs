//! Where endpoints stand in the endpoint map.
//!
//! A group (a service port's endpoints for one purpose) occupies consecutive slots, since a random
//! number picks one of them. Endpoints keep their slots as far as the count allows: with affinity, a
//! client is remembered by slot, so only clients of endpoints that left or had to move are rebalanced.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// Address and port of an endpoint.
pub(super) type Target = (IpAddr, u16);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    first: u32,
    /// Room, a power of two.
    room: u32,
    members: Vec<Target>,
}

/// Blocks of slots by group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    blocks: HashMap<String, Block>,
    /// Free blocks by room.
    free: BTreeMap<u32, BTreeSet<u32>>,
    /// First slot never used.
    next: u32,
    /// Groups placed in the plan under way.
    used: BTreeSet<String>,
}

impl Slots {
    /// A plan begins.
    pub(super) fn begin(&mut self) {
        self.used.clear();
    }

    /// A plan is done: groups it did not place are gone.
    pub(super) fn end(&mut self) {
        let gone: Vec<String> = self.blocks.keys().filter(|g| !self.used.contains(*g)).cloned().collect();
        for group in gone {
            if let Some(block) = self.blocks.remove(&group) {
                self.release(&block);
            }
        }
    }

    /// Places a group and returns its first slot and its members in slot order.
    pub(super) fn place(&mut self, group: &str, wanted: &[Target]) -> (u32, Vec<Target>) {
        self.used.insert(group.to_owned());
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let room = count.max(1).next_power_of_two();
        let had = self.blocks.remove(group);
        let members = arrange(had.as_ref().map(|b| b.members.as_slice()).unwrap_or_default(), wanted);
        let first = match had {
            // Blocks shrink only when they are four times too large, so that flapping costs nothing.
            Some(block) if block.room >= room && block.room <= room.saturating_mul(4) => {
                let (first, room) = (block.first, block.room);
                self.blocks.insert(group.to_owned(), Block { first, room, members: members.clone() });
                return (first, members);
            }
            Some(block) => {
                let first = self.take(room);
                self.release(&block);
                first
            }
            None => self.take(room),
        };
        self.blocks.insert(group.to_owned(), Block { first, room, members: members.clone() });
        (first, members)
    }

    fn take(&mut self, room: u32) -> u32 {
        if let Some(first) = self.free.get_mut(&room).and_then(BTreeSet::pop_first) {
            return first;
        }
        let first = self.next;
        self.next = self.next.saturating_add(room);
        first
    }

    fn release(&mut self, block: &Block) {
        self.free.entry(block.room).or_default().insert(block.first);
    }
}

/// Members in slots 0..n: those that were there keep their slot, the rest fills the gaps in order.
fn arrange(had: &[Target], wanted: &[Target]) -> Vec<Target> {
    let mut left: BTreeSet<Target> = wanted.iter().copied().collect();
    let count = left.len();
    let mut out: Vec<Option<Target>> = vec![None; count];
    for (slot, target) in had.iter().enumerate().take(count) {
        if left.remove(target) {
            out[slot] = Some(*target);
        }
    }
    let mut rest = left.into_iter();
    out.into_iter().filter_map(|slot| slot.or_else(|| rest.next())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(n: u8) -> Target {
        (IpAddr::from([10, 0, 0, n]), 80)
    }

    #[test]
    fn members_keep_their_slots_when_one_leaves() {
        let mut slots = Slots::default();
        let (_, before) = slots.place("a", &[target(1), target(2), target(3), target(4)]);
        let (_, after) = slots.place("a", &[target(1), target(3), target(4)]);
        assert_eq!(after, [before[0], target(4), before[2]], "the last one fills the gap");
    }

    proptest! {
        #[test]
        fn groups_never_overlap_and_hold_exactly_their_members(
            steps in prop::collection::vec((0..4u8, prop::collection::btree_set(0..40u8, 0..20)), 1..30)
        ) {
            let mut slots = Slots::default();
            let mut wanted: BTreeMap<String, BTreeSet<Target>> = BTreeMap::new();
            for (group, members) in steps {
                wanted.insert(group.to_string(), members.into_iter().map(target).collect());
                slots.begin();
                let mut taken = BTreeSet::new();
                for (group, members) in &wanted {
                    let list: Vec<Target> = members.iter().copied().collect();
                    let (first, placed) = slots.place(group, &list);
                    prop_assert_eq!(&placed.iter().copied().collect::<BTreeSet<_>>(), members);
                    for (i, _) in placed.iter().enumerate() {
                        prop_assert!(taken.insert(first + u32::try_from(i).unwrap()), "slot used twice");
                    }
                }
                slots.end();
            }
        }
    }
}
