//! What words come to on machines of one, two and four nodes.

use super::*;
use crate::topology::nodes::MemoryNode;

/// Nodes 0 and 1 are near each other, so are 2 and 3.
fn machine(nodes: u32) -> MemoryNodes {
    let far = |a: u32, b: u32| match (a == b, a / 2 == b / 2) {
        (true, _) => 10,
        (false, true) => 12,
        (false, false) => 32,
    };
    let node = |number| MemoryNode {
        distances: (0..nodes).map(|other| (other, far(number, other))).collect(),
        ..MemoryNode::default()
    };
    MemoryNodes((0..nodes).map(|number| (number, node(number))).collect())
}

/// `0,1!` is nodes 0 and 1, preferred; `*` is any.
fn hint(text: &str) -> Hint {
    let (nodes, preferred) = text.strip_suffix('!').map_or((text, false), |nodes| (nodes, true));
    let nodes = (nodes != "*").then(|| nodes.split(',').map(|n| n.parse::<u32>().unwrap()).collect());
    Hint { nodes, preferred }
}

/// Words of one resource are separated by blanks; `-` is no preference.
fn said(resources: &[&str]) -> Vec<Hints> {
    let one = |(index, text): (usize, &&str)| {
        let hints = (*text != "-").then(|| text.split_whitespace().map(hint).collect());
        Hints::from([(format!("r{index}"), hints)])
    };
    resources.iter().enumerate().map(one).collect()
}

fn check(policy: Policy, nodes: u32, resources: &[&str], expected: &str, admitted: bool) {
    let merged = merge(policy, false, &machine(nodes), &said(resources));
    assert_eq!(merged, (hint(expected), admitted), "{policy:?} {nodes} {resources:?}");
}

#[test]
fn all_have_to_live_with_the_nodes() {
    use Policy::{BestEffort, Restricted, SingleNode};
    for (nodes, resources, best, best_is_preferred, single) in [
        (1, &["0!"][..], "0!", true, Some("*!")),
        (2, &[], "0,1!", true, Some("*!")),
        (2, &["-"], "0,1!", true, Some("*!")),
        (2, &["0! 1!"], "0!", true, Some("0!")),
        (2, &["0! 1! 0,1", "1!"], "1!", true, Some("1!")),
        (2, &["0! 1! 0,1", "-"], "0!", true, Some("0!")),
        (2, &["0!", "1!"], "0,1", false, None),
        (2, &["0,1!", "0,1!"], "0,1!", true, None),
        (2, &["0! 0,1", "1! 0,1"], "0", false, None),
        (2, &["0! 1!", ""], "0", false, None),
        (2, &["0 1"], "0", false, None),
        (4, &["0! 1! 2! 3! 0,1 2,3", "2! 3! 2,3"], "2!", true, Some("2!")),
        (4, &["0,1! 2,3! 0,1,2,3", "1! 3!"], "1", false, None),
        // Two nodes are needed by one of them, so two are better than one when nothing is preferred.
        (4, &["0,1 2,3", "0,1,2 3"], "0,1", false, None),
    ] {
        check(BestEffort, nodes, resources, best, true);
        check(Restricted, nodes, resources, best, best_is_preferred);
        let refused =
            if nodes == 1 { "*" } else { &*(0..nodes).map(|n| n.to_string()).collect::<Vec<_>>().join(",") };
        match single {
            Some(expected) => check(SingleNode, nodes, resources, expected, true),
            None => {
                let (_, admitted) = merge(SingleNode, false, &machine(nodes), &said(resources));
                assert!(!admitted, "{nodes} {resources:?} {refused}");
            }
        }
    }
}

#[test]
fn nodes_near_each_other_come_first_where_that_is_asked_for() {
    let words = said(&["0,2! 2,3! 0,1,2"]);
    let best = |policy, closest| merge(policy, closest, &machine(4), &words).0;
    assert_eq!(best(Policy::BestEffort, false), hint("0,2!"));
    assert_eq!(best(Policy::BestEffort, true), hint("2,3!"));
    assert_eq!(best(Policy::Restricted, true), hint("2,3!"));
}

#[test]
fn many_words_are_merged_without_following_every_way() {
    let nodes = machine(8);
    let all: Vec<Hint> =
        nodes.all().parts().into_iter().map(|p| Hint { nodes: Some(p), preferred: false }).collect();
    let said: Vec<Hints> = (0..12).map(|r| Hints::from([(r.to_string(), Some(all.clone()))])).collect();
    assert_eq!(merge(Policy::BestEffort, false, &nodes, &said).0.nodes.map(NodeSet::len), Some(1));
}
