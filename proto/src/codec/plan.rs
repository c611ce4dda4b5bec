//! What each message looks like on the wire: tags in order, each a field or a message that JSON inlines.

use std::sync::LazyLock;

use crate::table::{self, Type, TypeId};

/// The wire side of one type.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In tag order.
    slots: Vec<(u16, Slot)>,
}

/// What a tag holds.
#[derive(Debug)]
pub(super) enum Slot {
    /// A field, by its place in [`Type::fields`].
    Field(u16),
    /// A message whose fields JSON shows as the outer object's.
    Group(Plan),
}

/// The plan of a type.
pub(super) fn of(id: TypeId) -> &'static Plan {
    static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| table::builtin().types().map(Plan::new).collect());
    &PLANS[id.index()]
}

impl Plan {
    fn new(of: &Type) -> Self {
        let mut plan = Self::default();
        for (at, field) in (0u16..).zip(&of.fields).filter(|(_, f)| f.tag > 0) {
            plan.group(&field.nested).slots.push((field.tag, Slot::Field(at)));
        }
        plan.sort();
        plan
    }

    fn group(&mut self, path: &[u16]) -> &mut Self {
        let Some((first, rest)) = path.split_first() else { return self };
        let found = self.slots.iter().position(|(tag, slot)| tag == first && matches!(slot, Slot::Group(_)));
        let at = found.unwrap_or_else(|| {
            self.slots.push((*first, Slot::Group(Self::default())));
            self.slots.len() - 1
        });
        match &mut self.slots[at].1 {
            Slot::Group(inner) => inner.group(rest),
            Slot::Field(_) => unreachable!("the place was found or made as a group"),
        }
    }

    fn sort(&mut self) {
        self.slots.sort_by_key(|(tag, _)| *tag);
        for (_, slot) in &mut self.slots {
            if let Slot::Group(inner) = slot {
                inner.sort();
            }
        }
    }

    /// Tags from the highest to the lowest.
    pub(super) fn backwards(&self) -> impl Iterator<Item = (u16, &Slot)> {
        self.slots.iter().rev().map(|(tag, slot)| (*tag, slot))
    }

    /// What a tag holds; `None` for one this release does not know.
    pub(super) fn slot(&self, tag: u64) -> Option<&Slot> {
        let tag = u16::try_from(tag).ok()?;
        self.slots.binary_search_by_key(&tag, |(t, _)| *t).ok().map(|at| &self.slots[at].1)
    }
}
