//! The features that decisions depend on (`--feature-gates`).

use std::collections::BTreeMap;

/// A feature that plugins are on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Pods may belong to groups.
    GenericWorkload,
    /// Groups may want so many pods placed together.
    GangScheduling,
    /// Room is made for a group as a whole.
    WorkloadAwarePreemption,
    /// Groups may want to be near.
    TopologyAwareWorkloadScheduling,
    /// Devices stand for extended resources.
    DraExtendedResource,
}

/// Which features are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u8);

impl Gate {
    /// All, with their names and whether they are on where nothing is said.
    const ALL: [(Gate, &'static str, bool); 5] = [
        (Gate::GenericWorkload, "GenericWorkload", false),
        (Gate::GangScheduling, "GangScheduling", false),
        (Gate::WorkloadAwarePreemption, "WorkloadAwarePreemption", false),
        (Gate::TopologyAwareWorkloadScheduling, "TopologyAwareWorkloadScheduling", false),
        (Gate::DraExtendedResource, "DRAExtendedResource", true),
    ];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The feature without which it does nothing.
    const fn needs(self) -> Option<Gate> {
        match self {
            Gate::GangScheduling | Gate::TopologyAwareWorkloadScheduling => Some(Gate::GenericWorkload),
            Gate::WorkloadAwarePreemption => Some(Gate::GangScheduling),
            Gate::GenericWorkload | Gate::DraExtendedResource => None,
        }
    }
}

impl Features {
    /// Those that are on where `given` switches some.
    pub fn new(given: &BTreeMap<String, bool>) -> Self {
        let on = Gate::ALL.iter().filter(|(_, name, default)| *given.get(*name).unwrap_or(default));
        Self(on.fold(0, |bits, (gate, ..)| bits | gate.bit()))
    }

    /// Whether a feature is on, and those it needs.
    pub fn is_on(self, gate: Gate) -> bool {
        self.0 & gate.bit() != 0 && gate.needs().is_none_or(|needed| self.is_on(needed))
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self(Gate::ALL.iter().fold(0, |bits, (gate, ..)| bits | gate.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_on_with_those_it_needs_alone() {
        let of = |given: &[(&str, bool)]| {
            Features::new(&given.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect())
        };
        assert!(of(&[]).is_on(Gate::DraExtendedResource) && !of(&[]).is_on(Gate::GenericWorkload));
        assert!(!of(&[("DRAExtendedResource", false)]).is_on(Gate::DraExtendedResource));
        assert!(!of(&[("GangScheduling", true)]).is_on(Gate::GangScheduling));
        let both = of(&[("GangScheduling", true), ("GenericWorkload", true)]);
        assert!(both.is_on(Gate::GangScheduling) && !both.is_on(Gate::WorkloadAwarePreemption));
    }
}
