//! What memory is kept from pods on each node: `reservedMemory`, `--reserved-memory`.
//!
//! Contract: what is reserved on all nodes together is what node allocatable keeps (system, Kubernetes, hard eviction).

use std::collections::BTreeMap;

use component_base::quantity::Quantity;
use serde::{Deserialize, Serialize};

use super::plan::{Amounts, MEMORY};
use crate::topology::nodes::NodeSet;

/// What is reserved on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Reservation {
    /// The node.
    pub numa_node: u32,
    /// Amounts by resource: `memory`, `hugepages-..`.
    pub limits: BTreeMap<String, String>,
}

/// The reservations do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservedError {
    /// Not as the flag has it.
    #[error("the format is <numa-node>:<type>=<amount>,..;.., found {0:?}")]
    Flag(String),
    /// No kind of memory.
    #[error(
        "the limit type {kind:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
    )]
    Kind {
        /// The node.
        node: u32,
        /// What is reserved.
        kind: String,
    },
    /// No amount.
    #[error("reserved memory may not be zero for NUMA node {node} and resource {kind:?}")]
    Zero {
        /// The node.
        node: u32,
        /// What is reserved.
        kind: String,
    },
    /// The same twice.
    #[error("the reserved memory has a duplicate value for NUMA node {node} and resource {kind:?}")]
    Twice {
        /// The node.
        node: u32,
        /// What is reserved.
        kind: String,
    },
    /// No such node.
    #[error(
        "the reserved memory configuration references a NUMA node {0} that does not exist on this machine"
    )]
    NoNode(u32),
    /// Not what is kept from pods altogether.
    #[error(
        "the total amount {found:?} of type {kind:?} is not equal to the value {kept:?} determined by Node Allocatable feature"
    )]
    Total {
        /// What is reserved.
        kind: String,
        /// How much on all nodes together.
        found: String,
        /// How much is kept.
        kept: String,
    },
    /// Nothing is reserved.
    #[error("[memorymanager] you should specify the system reserved memory")]
    Nothing,
}

fn is_memory(kind: &str) -> bool {
    kind == MEMORY || kind.starts_with("hugepages-")
}

/// Reads the flag: `0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=2Gi`.
///
/// # Errors
/// When it is written otherwise.
pub fn parse(text: &str) -> Result<Vec<Reservation>, ReservedError> {
    let bad = || ReservedError::Flag(text.to_owned());
    let parts = text.split(';').filter(|part| !part.is_empty());
    let one = |part: &str| {
        let (node, limits) = part.split_once(':').ok_or_else(bad)?;
        let pair = |item: &str| {
            let (kind, amount) = item.split_once('=').ok_or_else(bad)?;
            Ok((kind.trim().to_owned(), amount.trim().to_owned()))
        };
        let limits = limits.split(',').map(pair).collect::<Result<_, _>>()?;
        Ok(Reservation { numa_node: node.trim().parse().map_err(|_| bad())?, limits })
    };
    parts.map(one).collect()
}

/// The reservations by node, in bytes.
///
/// # Errors
/// What is wrong with them, whatever the machine.
pub fn amounts(reservations: &[Reservation]) -> Result<BTreeMap<u32, Amounts>, ReservedError> {
    let mut by_node: BTreeMap<u32, Amounts> = BTreeMap::new();
    for Reservation { numa_node, limits } in reservations {
        let node = *numa_node;
        for (kind, text) in limits {
            let kind = kind.clone();
            if !is_memory(&kind) {
                return Err(ReservedError::Kind { node, kind });
            }
            let amount = text.parse::<Quantity>().ok().and_then(|q| u64::try_from(q.value()).ok());
            let Some(amount) = amount.filter(|a| *a > 0) else {
                return Err(ReservedError::Zero { node, kind });
            };
            if by_node.entry(node).or_default().insert(kind.clone(), amount).is_some() {
                return Err(ReservedError::Twice { node, kind });
            }
        }
    }
    Ok(by_node)
}

/// Makes sure that the reservations are what is kept from pods, and on nodes that exist.
///
/// # Errors
/// When they are not.
pub fn check(reserved: &BTreeMap<u32, Amounts>, nodes: NodeSet, kept: &Amounts) -> Result<(), ReservedError> {
    if let Some(node) = reserved.keys().find(|node| !nodes.contains(**node)) {
        return Err(ReservedError::NoNode(*node));
    }
    let mut totals = Amounts::new();
    for (kind, amount) in reserved.values().flatten() {
        let total = totals.entry(kind.clone()).or_default();
        *total = total.saturating_add(*amount);
    }
    for kind in totals.keys().chain(kept.keys().filter(|kind| is_memory(kind))) {
        let amount = |amounts: &Amounts| amounts.get(kind).copied().unwrap_or(0);
        if amount(&totals) != amount(kept) {
            let (found, kept) = (amount(&totals).to_string(), amount(kept).to_string());
            return Err(ReservedError::Total { kind: kind.clone(), found, kept });
        }
    }
    if totals.get(MEMORY).is_none_or(|total| *total == 0) {
        return Err(ReservedError::Nothing);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<BTreeMap<u32, Amounts>, ReservedError> {
        amounts(&parse(text)?)
    }

    #[test]
    fn reservations_are_read_and_refused() {
        let amounts = of("0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=100M").unwrap();
        assert_eq!(
            amounts[&0],
            Amounts::from([("memory".into(), 1 << 30), ("hugepages-1Gi".into(), 2 << 30)])
        );
        assert_eq!(amounts[&1], Amounts::from([("memory".into(), 100_000_000)]));
        for (text, expected) in [
            ("0", "format"),
            ("x:memory=1", "format"),
            ("0:memory", "format"),
            ("0:cpu=1", "\"cpu\" for NUMA node 0 is not supported"),
            ("0:memory=0", "may not be zero"),
            ("0:memory=x", "may not be zero"),
            ("0:memory=1;0:memory=2", "duplicate value"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn they_have_to_be_what_is_kept_from_pods() {
        let nodes: NodeSet = [0, 1].into_iter().collect();
        let kept = |memory: u64| Amounts::from([("memory".into(), memory), ("cpu".into(), 1)]);
        let checked = |text: &str, memory| check(&of(text).unwrap(), nodes, &kept(memory));
        assert_eq!(checked("0:memory=3;1:memory=4", 7), Ok(()));
        assert_eq!(checked("2:memory=7", 7), Err(ReservedError::NoNode(2)));
        assert_eq!(checked("", 0), Err(ReservedError::Nothing));
        let total = |kind: &str, found: &str, kept: &str| {
            Err(ReservedError::Total { kind: kind.into(), found: found.into(), kept: kept.into() })
        };
        assert_eq!(checked("0:memory=3", 7), total("memory", "3", "7"));
        assert_eq!(checked("0:memory=7,hugepages-2Mi=1", 7), total("hugepages-2Mi", "1", "0"));
    }
}
