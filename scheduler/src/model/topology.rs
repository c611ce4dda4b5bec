//! The places (values of one node label) that nodes are in, as numbers: counting by them needs no label.

use std::{collections::HashMap, sync::Arc};

use super::NodeInfo;

/// What stands for no place.
const NOWHERE: usize = usize::MAX;

/// The places of one node label.
#[derive(Clone, Debug)]
pub struct Topology {
    label: String,
    /// Whether every node that has the label is a place of its own, whatever the value.
    is_each: bool,
    /// The place of each node, by [`NodeInfo::slot`].
    of: Vec<usize>,
    places: usize,
}

impl Topology {
    /// The places of a label; with `is_each`, the nodes that have it.
    pub(super) fn new(label: &str, is_each: bool, nodes: &[Arc<NodeInfo>]) -> Self {
        let slots = nodes.iter().map(|node| node.slot + 1).max().unwrap_or(0);
        let mut out = Self { label: label.to_owned(), is_each, of: vec![NOWHERE; slots], places: 0 };
        let mut known: HashMap<&str, usize> = HashMap::new();
        for node in nodes {
            let Some(value) = node.labels.get(label) else { continue };
            let next = out.places;
            let place = if is_each { next } else { *known.entry(value).or_insert(next) };
            out.places = out.places.max(place + 1);
            out.of[node.slot] = place;
        }
        out
    }

    pub(super) fn is_of(&self, label: &str, is_each: bool) -> bool {
        self.label == label && self.is_each == is_each
    }

    /// Whether every node that has the label is a place of its own.
    pub fn is_each(&self) -> bool {
        self.is_each
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The number of the node's place, below [`Topology::places`], if it has the label.
    pub fn place(&self, node: &NodeInfo) -> Option<usize> {
        self.of.get(node.slot).copied().filter(|place| *place != NOWHERE)
    }

    /// In how many places some nodes are; those without the label count as one more.
    pub fn spans(&self, nodes: &[&NodeInfo]) -> usize {
        let mut seen = vec![false; self.places + 1];
        let mut fresh = |at: usize| !std::mem::replace(&mut seen[at], true);
        nodes.iter().filter(|node| fresh(self.place(node).unwrap_or(self.places))).count()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::{HOSTNAME_LABEL, ZONE_LABEL},
        testing::{cluster, node},
    };

    #[test]
    fn nodes_with_one_value_are_in_one_place_and_slots_are_used_again() {
        let bare = json!({"metadata": {"labels": {HOSTNAME_LABEL: "one"}}});
        let mut all =
            cluster(vec![node("a", "x", json!({})), node("b", "x", bare), node("c", "y", json!({}))], vec![]);
        all.remove_node("a");
        all.set_node(node("d", "y", json!({})));
        let mut lacking = node("e", "y", json!({}));
        lacking.labels = Arc::default();
        all.set_node(lacking);
        let mut slots: Vec<usize> = all.nodes().iter().map(|node| node.slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3]);
        let of = |topology: &Topology| -> Vec<Option<usize>> {
            all.nodes().iter().map(|node| topology.place(node)).collect()
        };
        let zones = Topology::new(ZONE_LABEL, false, all.nodes());
        assert_eq!((of(&zones), zones.places()), (vec![Some(0), Some(1), Some(1), None], 2));
        let hosts = Topology::new(HOSTNAME_LABEL, true, all.nodes());
        assert_eq!((of(&hosts), hosts.places()), (vec![Some(0), Some(1), Some(2), None], 3));
        let nodes: Vec<&NodeInfo> = all.nodes().iter().map(AsRef::as_ref).collect();
        assert_eq!((zones.spans(&nodes), zones.spans(&nodes[1..3]), zones.spans(&[])), (3, 1, 0));
    }
}
