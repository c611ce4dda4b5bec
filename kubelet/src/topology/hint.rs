//! What those who give out resources say of memory nodes, and what their words come to together. Pure.
//!
//! One who gives out a resource says on which sets of nodes a request could be met, and which of these are as small as they
//! can be. Together they want a set that all of them can live with: the best of what is left when one word of each is taken
//! and their sets are cut with one another.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Policy,
    nodes::{MemoryNodes, NodeSet},
};

/// Where a request can be met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// On these nodes; `None` is anywhere.
    pub nodes: Option<NodeSet>,
    /// It takes no more nodes than it has to.
    pub preferred: bool,
}

/// One who gives out resources says, for each resource, where it could come from. `None` is: anywhere is as good. An empty
/// list is: nowhere. No resource at all is: anywhere.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// What the words of all come to: where to take everything from, and whether the pod may run so.
#[must_use]
pub fn merge(policy: Policy, closest: bool, machine: &MemoryNodes, said: &[Hints]) -> (Hint, bool) {
    let mut words = words(said);
    if policy == Policy::SingleNode {
        for hints in &mut words {
            hints.retain(|h| h.preferred && h.nodes.is_none_or(|nodes| nodes.len() == 1));
        }
    }
    let all = machine.all();
    let closest = closest && policy != Policy::SingleNode;
    let mut best = best(&words, closest, machine).unwrap_or(Hint { nodes: Some(all), preferred: false });
    if policy == Policy::SingleNode && best.nodes == Some(all) {
        best.nodes = None;
    }
    (best, policy == Policy::BestEffort || best.preferred)
}

/// The words of all, resource by resource.
fn words(said: &[Hints]) -> Vec<Vec<Hint>> {
    let anything = Hint { nodes: None, preferred: true };
    let nothing = Hint { nodes: None, preferred: false };
    let mut words = Vec::new();
    for hints in said {
        if hints.is_empty() {
            words.push(vec![anything]);
        }
        words.extend(hints.values().map(|hints| match hints {
            None => vec![anything],
            Some(hints) if hints.is_empty() => vec![nothing],
            Some(hints) => hints.clone(),
        }));
    }
    words
}

/// What comes of taking one word of each, every way there is. Ways that come to the same are followed once, so that there
/// are never more than twice the sets of nodes.
fn merged(words: &[Vec<Hint>]) -> BTreeSet<Hint> {
    let mut merged = BTreeSet::from([Hint { nodes: None, preferred: true }]);
    for hints in words {
        let both = |one: &Hint, other: &Hint| match (one.nodes, other.nodes) {
            (Some(a), Some(b)) => {
                Hint { nodes: Some(a.and(b)), preferred: one.preferred && other.preferred && a == b }
            }
            (a, b) => Hint { nodes: a.or(b), preferred: one.preferred && other.preferred },
        };
        merged = merged.iter().flat_map(|one| hints.iter().map(move |other| both(one, other))).collect();
    }
    merged
}

fn best(words: &[Vec<Hint>], closest: bool, machine: &MemoryNodes) -> Option<Hint> {
    let narrowest = |hints: &Vec<Hint>| hints.iter().filter_map(|h| h.nodes).map(NodeSet::len).min();
    // As many nodes as the one needs who needs the most of them.
    let needed = words.iter().filter_map(narrowest).max().unwrap_or(0);
    let all = machine.all();
    let candidates = merged(words).into_iter().map(|hint| {
        let nodes = hint.nodes.unwrap_or(all).and(all);
        Hint { nodes: Some(nodes), ..hint }
    });
    candidates.filter(|hint| hint.nodes.is_some_and(|nodes| !nodes.is_empty())).min_by_key(|hint| {
        let nodes = hint.nodes.unwrap_or_default();
        // Where nothing is preferred, just as many nodes as are needed come first, then the nearest to that from below.
        let (class, count) = match (hint.preferred, nodes.len()) {
            (true, count) => (0, count),
            (false, count) if count <= needed => (1, needed - count),
            (false, count) => (2, count),
        };
        let distance = if closest { machine.spread(nodes) } else { 0 };
        (class, count, distance, nodes)
    })
}

#[cfg(test)]
mod tests;
