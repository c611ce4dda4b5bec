//! What nodes said to pods that asked for the same: verdicts and raw scores that follow from one node alone hold until
//! that node changes.
//!
//! A decision about the next pod of a deployment so asks only the nodes that took one meanwhile. Nothing here can change
//! a decision: it is the same with an empty memo.

use std::sync::Arc;

use crate::{
    model::{Cluster, PodInfo},
    plugins::Weighted,
};

/// Kinds of pods remembered, the last ones: each takes some forty bytes a node.
const KEPT: usize = 16;

/// What is remembered for the plugins of one profile.
#[derive(Debug, Default)]
pub struct Memo {
    /// The order of nodes that positions are of.
    layout: u64,
    /// The one used last at the end.
    classes: Vec<Class>,
}

/// What the nodes said to pods that are alike. Nodes are told by their positions.
#[derive(Debug)]
pub(super) struct Class {
    like: Arc<PodInfo>,
    verdicts: Vec<Said<bool>>,
    /// By plugin; empty for those that do not score by the node alone.
    scores: Vec<Vec<Said<i64>>>,
}

/// Something a node said when it last changed at `at`; 0 is before any change.
#[derive(Clone, Copy, Debug, Default)]
struct Said<T> {
    at: u64,
    what: T,
}

impl Memo {
    /// What is known for pods like this one.
    pub(super) fn of(&mut self, pod: &PodInfo, cluster: &Cluster, plugins: &[Weighted]) -> &mut Class {
        if self.layout != cluster.layout() {
            self.layout = cluster.layout();
            self.classes.clear();
        }
        let class = match self.classes.iter().rposition(|class| class.like.is_like(pod)) {
            Some(at) => self.classes.remove(at),
            None => {
                if self.classes.len() >= KEPT {
                    self.classes.remove(0);
                }
                Class::new(pod, cluster.nodes().len(), plugins)
            }
        };
        self.classes.push(class);
        let last = self.classes.len() - 1;
        &mut self.classes[last]
    }
}

impl Class {
    fn new(pod: &PodInfo, nodes: usize, plugins: &[Weighted]) -> Class {
        let scores = |w: &Weighted| match w.weight > 0 && w.plugin.is_local() {
            true => vec![Said::default(); nodes],
            false => Vec::new(),
        };
        Class {
            like: Arc::new(pod.clone()),
            verdicts: vec![Said::default(); nodes],
            scores: plugins.iter().map(scores).collect(),
        }
    }

    /// Whether the node at a position takes such a pod, as far as it alone decides.
    pub(super) fn fits(&mut self, at: usize, cluster: &Cluster, ask: impl FnOnce() -> bool) -> bool {
        self.verdicts[at].or_ask(cluster.changed()[at], ask)
    }

    /// The raw score that a plugin gives the node at a position.
    pub(super) fn score(
        &mut self,
        plugin: usize,
        at: usize,
        cluster: &Cluster,
        ask: impl FnOnce() -> i64,
    ) -> i64 {
        self.scores[plugin][at].or_ask(cluster.changed()[at], ask)
    }
}

impl<T: Copy> Said<T> {
    fn or_ask(&mut self, changed: u64, ask: impl FnOnce() -> T) -> T {
        if self.at != changed {
            *self = Said { at: changed, what: ask() };
        }
        self.what
    }
}
