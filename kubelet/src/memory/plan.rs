//! Choosing the nodes that a container's memory comes from. Pure.
//!
//! A request is met by one node or by a group of them. A node that is in a group is in no other one and serves nobody alone, so
//! that the kernel, which takes memory from any node of a group, never takes what was promised to somebody else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topology::{
    self,
    hint::Hint,
    nodes::{MemoryNodes, NodeSet},
};

/// The name of plain memory.
pub use crate::pod::resources::MEMORY;

/// How much of a kind of memory a node has, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Table {
    /// In all.
    pub total: u64,
    /// Kept from pods.
    pub system_reserved: u64,
    /// For pods.
    pub allocatable: u64,
    /// Given to pods.
    pub reserved: u64,
    /// Left for pods.
    pub free: u64,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeState {
    /// How many blocks have a part here.
    pub number_of_assignments: i64,
    /// Its kinds of memory by the names of their resources: `memory`, `hugepages-2Mi`.
    pub memory_map: BTreeMap<String, Table>,
    /// The group it is in; itself when it is in none.
    pub cells: Vec<u32>,
}

/// All nodes by number.
pub type Machine = BTreeMap<u32, NodeState>;

/// Some memory of one kind that a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Block {
    /// The nodes it comes from.
    pub numa_affinity: Vec<u32>,
    /// The resource.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes.
    pub size: u64,
}

impl Block {
    /// The nodes it comes from.
    #[must_use]
    pub fn nodes(&self) -> NodeSet {
        self.numa_affinity.iter().copied().collect()
    }
}

/// Bytes by resource.
pub type Amounts = BTreeMap<String, u64>;

/// Why a container does not get its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No nodes have as much.
    #[error(
        "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
    )]
    NoNodes,
    /// Only more nodes than needed have as much.
    #[error("[memorymanager] failed to find the default preferred hint")]
    NotPreferred,
    /// Nor are there any around those that were agreed on.
    #[error("[memorymanager] failed to find NUMA nodes to extend the current topology hint")]
    NoExtension,
    /// There are, but too many.
    #[error("[memorymanager] failed to find the extended preferred hint")]
    ExtensionNotPreferred,
    /// Some of the nodes serve others in another way.
    #[error("[memorymanager] preferred hint violates NUMA node allocation")]
    Violates,
}

/// The name of the resource of huge pages of a size.
#[must_use]
pub fn huge_pages(size: u64) -> String {
    let units = [(1u64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(bytes, _)| size > 0 && size.is_multiple_of(*bytes));
    let (bytes, unit) = unit.unwrap_or((1, ""));
    format!("hugepages-{}{unit}", size / bytes)
}

/// The machine when nobody has anything. `kept` is what is kept from pods, by node.
#[must_use]
pub fn fresh(nodes: &MemoryNodes, kept: &BTreeMap<u32, Amounts>) -> Machine {
    let reserved = |node: &u32, kind: &str| kept.get(node).and_then(|k| k.get(kind)).copied().unwrap_or(0);
    let one = |number: &u32, node: &topology::nodes::MemoryNode| {
        let table = |kind: &str, total: u64, others: u64| {
            let system_reserved = reserved(number, kind);
            let allocatable = total.saturating_sub(system_reserved).saturating_sub(others);
            Table { total, system_reserved, allocatable, reserved: 0, free: allocatable }
        };
        let pages: u64 = node.huge_pages.values().sum();
        let mut memory_map: BTreeMap<String, Table> = node
            .huge_pages
            .iter()
            .map(|(size, bytes)| (huge_pages(*size), table(&huge_pages(*size), *bytes, 0)))
            .collect();
        memory_map.insert(MEMORY.to_owned(), table(MEMORY, node.memory, pages));
        NodeState { number_of_assignments: 0, memory_map, cells: vec![*number] }
    };
    nodes.0.iter().map(|(number, node)| (*number, one(number, node))).collect()
}

/// What a pod can use again of what its ended containers had: only for requests that come from the very same nodes.
pub type Reusable<'a> = &'a dyn Fn(NodeSet, &str) -> u64;

fn sum(machine: &Machine, nodes: NodeSet, kind: &str, of: impl Fn(&Table) -> u64) -> u64 {
    let tables = nodes.iter().filter_map(|node| machine.get(&node)?.memory_map.get(kind));
    tables.fold(0, |all, table| all.saturating_add(of(table)))
}

fn group(node: &NodeState) -> NodeSet {
    node.cells.iter().copied().collect()
}

/// The nodes can serve together as far as those go that they serve already.
fn may_group(machine: &Machine, nodes: NodeSet) -> bool {
    let used =
        nodes.iter().filter_map(|node| machine.get(&node)).filter(|node| node.number_of_assignments > 0);
    nodes.len() == 1 || used.into_iter().all(|node| node.cells.len() > 1 && group(node) == nodes)
}

/// From which nodes the request could come.
#[must_use]
pub fn hints(machine: &Machine, wanted: &Amounts, reusable: Reusable<'_>) -> Vec<Hint> {
    let all: NodeSet = machine.keys().copied().collect();
    let fits = |part: NodeSet| {
        wanted.iter().all(|(kind, size)| sum(machine, part, kind, |t| t.allocatable) >= *size)
    };
    let has_room = |part: NodeSet| {
        let alone =
            part.len() > 1 || part.iter().all(|n| machine.get(&n).is_some_and(|n| n.cells.len() <= 1));
        let enough = |(kind, size): (&String, &u64)| {
            sum(machine, part, kind, |t| t.free).saturating_add(reusable(part, kind)) >= *size
        };
        fits(part) && alone && may_group(machine, part) && wanted.iter().all(enough)
    };
    topology::hints(all, fits, has_room)
}

/// The nodes for a request. `agreed` is where it should come from as far as others have a say.
///
/// # Errors
/// When there are none.
pub fn choose(
    machine: &Machine,
    wanted: &Amounts,
    agreed: Hint,
    reusable: Reusable<'_>,
) -> Result<NodeSet, Refusal> {
    let possible = hints(machine, wanted, reusable);
    let best = |hints: &mut dyn Iterator<Item = &Hint>| {
        let key = |hint: &&Hint| (!hint.preferred, hint.nodes.map_or(0, NodeSet::len), hint.nodes);
        hints.min_by_key(key).and_then(|hint| Some((hint.nodes?, hint.preferred)))
    };
    let mut nodes = match agreed.nodes {
        Some(nodes) => nodes,
        None => {
            let (nodes, preferred) = best(&mut possible.iter()).ok_or(Refusal::NoNodes)?;
            if agreed.preferred && !preferred {
                return Err(Refusal::NotPreferred);
            }
            nodes
        }
    };
    let enough = wanted.iter().all(|(kind, size)| sum(machine, nodes, kind, |t| t.free) >= *size);
    if !enough {
        // Others may have cut away some of the nodes that are needed here.
        let mut around = possible.iter().filter(|h| h.nodes.is_some_and(|larger| nodes.is_within(larger)));
        let (larger, preferred) = best(&mut around).ok_or(Refusal::NoExtension)?;
        if agreed.preferred && !preferred {
            return Err(Refusal::ExtensionNotPreferred);
        }
        nodes = larger;
    }
    if may_group(machine, nodes) { Ok(nodes) } else { Err(Refusal::Violates) }
}

/// Takes a block from its nodes, all it can from the first, the rest from the next ones; `size` may be less than the
/// block's where a part of it was the pod's already.
pub fn take(machine: &mut Machine, block: &Block, size: u64) {
    let mut left = size;
    for number in &block.numa_affinity {
        let Some(node) = machine.get_mut(number) else { continue };
        node.number_of_assignments += 1;
        node.cells.clone_from(&block.numa_affinity);
        let Some(table) = node.memory_map.get_mut(&block.kind) else { continue };
        let part = left.min(table.free);
        table.reserved += part;
        table.free -= part;
        left -= part;
    }
}

/// Gives a block back.
pub fn put_back(machine: &mut Machine, block: &Block) {
    let mut left = block.size;
    for number in &block.numa_affinity {
        let Some(node) = machine.get_mut(number) else { continue };
        node.number_of_assignments -= 1;
        if node.number_of_assignments == 0 {
            node.cells = vec![*number];
        }
        let Some(table) = node.memory_map.get_mut(&block.kind) else { continue };
        let part = left.min(table.reserved);
        table.reserved -= part;
        table.free += part;
        left -= part;
    }
}

/// Both say the same of the machine. Which node of a group gave how much depends on the order in which things were given, so
/// that is compared for the group.
#[must_use]
pub fn same(one: &Machine, other: &Machine) -> bool {
    let node_same = |(number, a): (&u32, &NodeState)| {
        let Some(b) = other.get(number) else { return false };
        let kinds = a.memory_map.keys().eq(b.memory_map.keys());
        kinds && a.number_of_assignments == b.number_of_assignments && group(a) == group(b) && {
            a.memory_map.iter().zip(b.memory_map.values()).all(|((kind, x), y)| {
                let fixed = |t: &Table| (t.total, t.system_reserved, t.allocatable);
                let of = |machine, of: fn(&Table) -> u64| sum(machine, group(a), kind, of);
                fixed(x) == fixed(y)
                    && of(one, |t| t.free) == of(other, |t| t.free)
                    && of(one, |t| t.reserved) == of(other, |t| t.reserved)
            })
        }
    };
    one.len() == other.len() && one.iter().all(node_same)
}
