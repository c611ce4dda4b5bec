//! Counts of pods per place (a value of a node label), kept while pods come and go.
//!
//! ```text
//! terms of placed pods   → TermCounts: equal terms are one, with the places of those who have it
//! terms of a waiting pod → NearTally, SpreadTally: pods it means, per place; counted once for pods that ask the same,
//!                          then kept up by every placement
//! ```
//! A decision about a pod with affinity terms or spread constraints so costs what it asks for, and not what the cluster
//! holds.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    Cluster, HOSTNAME_LABEL, Labels, NodeInfo, PodInfo, PodTerm, SpreadConstraint, TaintEffect, Topology,
    cluster::NamespaceLabels, pod::hash_of,
};

/// Tallies of terms kept; the one not used for longest makes room. A tally is as large as its places are many.
const KEPT_NEAR: usize = 64;
/// Tallies of constraints kept: as many sets of pods may grow in turns. Each takes five bytes a place and constraint.
const KEPT_SPREAD: usize = 256;
/// Labels kept whose places are numbered; each takes eight bytes a node.
const KEPT_TOPOLOGIES: usize = 16;

/// A number per value of one node label; values whose number is zero are left out.
pub type Places = HashMap<String, i64>;

/// Terms of placed pods: what each of them adds up to, per place.
#[derive(Clone, Debug, Default)]
pub struct TermCounts(HashMap<PodTerm, Places>);

/// Pods that all terms of a waiting pod mean, per topology key and place.
#[derive(Clone, Debug, Default)]
pub struct NearTally {
    terms: Vec<PodTerm>,
    /// In the order of the terms.
    places: Vec<Places>,
}

/// Pods that the spread constraints of a waiting pod mean, per constraint and place.
#[derive(Clone, Debug)]
pub struct SpreadTally {
    /// Whose constraints they are, and which nodes it may go to.
    pod: Box<PodInfo>,
    constraints: Vec<SpreadConstraint>,
    /// Whether nodes that lack the label of one constraint are left out of all.
    all_labels: bool,
    counts: Vec<Counts>,
}

/// The pods that one constraint means, by the numbers of places.
#[derive(Clone, Debug)]
struct Counts {
    topology: Arc<Topology>,
    pods: Vec<i32>,
    /// Whether a place has a node that counts.
    is_open: Vec<bool>,
}

/// The tallies of pods decided on lately.
#[derive(Debug)]
pub(super) struct Tallies {
    near: Mutex<Kept<NearTally>>,
    spread: Mutex<Kept<SpreadTally>>,
    topologies: Mutex<Kept<Topology>>,
}

/// Values with the hash of what they are found by, the one used last at the end.
#[derive(Clone, Debug)]
struct Kept<T> {
    most: usize,
    values: Vec<(u64, Arc<T>)>,
}

// === impl TermCounts ===

impl TermCounts {
    /// Adds `by` to the place where a pod with this term is.
    pub(super) fn add(&mut self, term: &PodTerm, node: &NodeInfo, by: i64) {
        let Some(place) = node.labels.get(&term.topology_key) else { return };
        if let Some(places) = self.0.get_mut(term) {
            bump(places, place, by);
            if places.is_empty() {
                self.0.remove(term);
            }
            return;
        }
        let mut places = Places::new();
        bump(&mut places, place, by);
        self.0.insert(term.clone(), places);
    }

    /// The terms that mean a pod, with their places.
    pub fn meaning<'a>(
        &'a self,
        pod: &'a PodInfo,
        namespace: &'a Labels,
    ) -> impl Iterator<Item = (&'a str, &'a Places)> + 'a {
        let means = move |term: &PodTerm| term.matches(&pod.namespace, &pod.labels, namespace);
        self.0
            .iter()
            .filter(move |(term, _)| means(term))
            .map(|(t, places)| (t.topology_key.as_str(), places))
    }
}

fn bump(places: &mut Places, place: &str, by: i64) {
    match places.get_mut(place) {
        Some(count) => {
            *count += by;
            if *count == 0 {
                places.remove(place);
            }
        }
        None if by != 0 => {
            places.insert(place.to_owned(), by);
        }
        None => {}
    }
}

// === impl NearTally ===

impl NearTally {
    fn new(terms: &[PodTerm]) -> Self {
        Self { terms: terms.to_vec(), places: vec![Places::new(); terms.len()] }
    }

    /// Whether no place has a pod that is meant.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(Places::is_empty)
    }

    /// How many pods that are meant are in the node's place of the term at this index.
    pub fn at(&self, term: usize, node: &NodeInfo) -> i64 {
        let place = node.labels.get(&self.terms[term].topology_key);
        place.and_then(|place| self.places[term].get(place)).copied().unwrap_or(0)
    }

    /// Counts a pod that came to a node, or with -1 one that went.
    pub fn count(&mut self, pod: &PodInfo, node: &NodeInfo, namespaces: &NamespaceLabels, by: i64) {
        let labels = namespaces.of(&pod.namespace);
        if !self.terms.iter().all(|term| term.matches(&pod.namespace, &pod.labels, labels)) {
            return;
        }
        for (term, places) in self.terms.iter().zip(&mut self.places) {
            if let Some(place) = node.labels.get(&term.topology_key) {
                bump(places, place, by);
            }
        }
    }
}

// === impl SpreadTally ===

impl SpreadTally {
    fn new(
        pod: &PodInfo,
        constraints: &[SpreadConstraint],
        all_labels: bool,
        topology: impl Fn(&SpreadConstraint) -> Arc<Topology>,
    ) -> Self {
        let counts = |constraint: &SpreadConstraint| {
            let topology = topology(constraint);
            let places = topology.places();
            Counts { topology, pods: vec![0; places], is_open: vec![false; places] }
        };
        let counts = constraints.iter().map(counts).collect();
        Self { pod: Box::new(pod.clone()), constraints: constraints.to_vec(), all_labels, counts }
    }

    fn is_of(&self, pod: &PodInfo, constraints: &[SpreadConstraint], all_labels: bool) -> bool {
        self.constraints == constraints
            && self.all_labels == all_labels
            && spread_scope(&self.pod) == spread_scope(pod)
    }

    /// The places of the constraint at this index.
    pub fn topology(&self, constraint: usize) -> &Topology {
        &self.counts[constraint].topology
    }

    /// How many pods that are meant are in the node's place of the constraint at this index, if the node has one.
    pub fn at(&self, constraint: usize, node: &NodeInfo) -> Option<i64> {
        let counts = &self.counts[constraint];
        counts.topology.place(node).map(|place| counts.pods[place].into())
    }

    /// How many places of the constraint at this index have nodes that count.
    pub fn open_places(&self, constraint: usize) -> usize {
        self.counts[constraint].is_open.iter().filter(|open| **open).count()
    }

    /// The lowest count of such a place; 0 where there is none.
    pub fn least(&self, constraint: usize) -> i64 {
        let Counts { pods, is_open, .. } = &self.counts[constraint];
        let open = pods.iter().zip(is_open).filter(|(_, open)| **open);
        open.map(|(count, _)| *count).min().unwrap_or(0).into()
    }

    fn counts_node(&self, node: &NodeInfo) -> bool {
        !self.all_labels || self.counts.iter().all(|counts| counts.topology.place(node).is_some())
    }

    /// Adds a node's places, with nobody there.
    fn open(&mut self, node: &NodeInfo) {
        if !self.counts_node(node) {
            return;
        }
        for (constraint, counts) in self.constraints.iter().zip(&mut self.counts) {
            if let Some(place) = counts.topology.place(node)
                && !counts.is_open[place]
                && constraint.includes(&self.pod, node)
            {
                counts.is_open[place] = true;
            }
        }
    }

    /// Counts a pod that came to a node, or with -1 one that went.
    pub fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i32) {
        if other.terminating || other.namespace != self.pod.namespace || !self.counts_node(node) {
            return;
        }
        for (constraint, counts) in self.constraints.iter().zip(&mut self.counts) {
            if let Some(place) = counts.topology.place(node)
                && constraint.means(other)
                && (counts.topology.is_each() || constraint.includes(&self.pod, node))
            {
                counts.pods[place] += by;
            }
        }
    }
}

impl SpreadConstraint {
    /// Whether a pod counts. A selector without requirements selects all, but counts none.
    fn means(&self, pod: &PodInfo) -> bool {
        !self.selector.is_everything() && self.selector.matches(&pod.labels)
    }

    /// Whether each node is a place of its own: for scores, hosts are those that have the label, whatever its value and
    /// whichever nodes count.
    fn is_each(&self) -> bool {
        !self.hard && self.topology_key == HOSTNAME_LABEL
    }

    /// Whether pods on a node count for a pod: nodes it may not go to may be left out.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let repelling = [TaintEffect::NoSchedule, TaintEffect::NoExecute];
        (!self.honor_affinity || pod.accepts_node(&node.name, &node.labels))
            && (!self.honor_taints || pod.untolerated(&node.taints, &repelling).is_none())
    }
}

/// What of a pod, beside its constraints, decides which pods count.
fn spread_scope(pod: &PodInfo) -> impl std::hash::Hash + PartialEq + '_ {
    (&pod.namespace, &pod.node_selector, &pod.node_required, &pod.tolerations)
}

// === impl Kept ===

impl<T> Kept<T> {
    fn new(most: usize) -> Self {
        Self { most, values: Vec::new() }
    }

    fn get(&mut self, hash: u64, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let found = self.values.iter().rposition(|(h, value)| *h == hash && is_it(value));
        let entry = match found {
            Some(at) => self.values.remove(at),
            None => {
                if self.values.len() >= self.most {
                    self.values.remove(0);
                }
                (hash, Arc::new(make()))
            }
        };
        let out = entry.1.clone();
        self.values.push(entry);
        out
    }
}

// === impl Tallies ===

impl Default for Tallies {
    fn default() -> Self {
        Self {
            near: Mutex::new(Kept::new(KEPT_NEAR)),
            spread: Mutex::new(Kept::new(KEPT_SPREAD)),
            topologies: Mutex::new(Kept::new(KEPT_TOPOLOGIES)),
        }
    }
}

impl Tallies {
    /// The tally of these terms over the nodes. Where a term names its namespaces, only pods there can be meant.
    pub(super) fn near(&self, terms: &[PodTerm], cluster: &Cluster) -> Arc<NearTally> {
        let namespaces = cluster.namespaces();
        let named = terms.iter().find(|term| term.namespace_selector.is_none());
        self.near.lock().get(
            hash_of(&terms),
            |tally| tally.terms == terms,
            || {
                let mut tally = NearTally::new(terms);
                let mut count = |pod: &PodInfo, node: &NodeInfo| tally.count(pod, node, namespaces, 1);
                match named {
                    Some(term) => {
                        let there = term.namespaces.iter().flat_map(|name| cluster.placed_in(name));
                        there.for_each(|(pod, node)| count(pod, node));
                    }
                    None => {
                        let all = cluster.nodes().iter();
                        all.for_each(|node| node.pods.iter().for_each(|pod| count(pod, node)));
                    }
                }
                tally
            },
        )
    }

    /// The tally of a pod's constraints over the nodes.
    pub(super) fn spread(
        &self,
        pod: &PodInfo,
        constraints: &[SpreadConstraint],
        all_labels: bool,
        cluster: &Cluster,
    ) -> Arc<SpreadTally> {
        let nodes = cluster.nodes();
        self.spread.lock().get(
            hash_of(&(constraints, all_labels, spread_scope(pod))),
            |tally| tally.is_of(pod, constraints, all_labels),
            || {
                let of = |c: &SpreadConstraint| self.topology(&c.topology_key, c.is_each(), nodes);
                let mut tally = SpreadTally::new(pod, constraints, all_labels, of);
                // Scores ask for no places but those of the nodes they are for.
                if constraints.iter().any(|constraint| constraint.hard) {
                    nodes.iter().for_each(|node| tally.open(node));
                }
                cluster.placed_in(&pod.namespace).for_each(|(other, node)| tally.count(other, node, 1));
                tally
            },
        )
    }

    fn topology(&self, label: &str, is_each: bool, nodes: &[Arc<NodeInfo>]) -> Arc<Topology> {
        self.topologies.lock().get(
            hash_of(&(label, is_each)),
            |topology| topology.is_of(label, is_each),
            || Topology::new(label, is_each, nodes),
        )
    }

    /// Keeps all tallies up with a pod that came to a node, or with -1 one that went.
    pub(super) fn count(&mut self, pod: &PodInfo, node: &NodeInfo, namespaces: &NamespaceLabels, by: i32) {
        for (_, tally) in &mut self.near.get_mut().values {
            Arc::make_mut(tally).count(pod, node, namespaces, by.into());
        }
        for (_, tally) in &mut self.spread.get_mut().values {
            if tally.pod.namespace == pod.namespace {
                Arc::make_mut(tally).count(pod, node, by);
            }
        }
    }

    /// Forgets everything: nodes or namespaces are not what they were.
    pub(super) fn clear(&mut self) {
        self.near.get_mut().values.clear();
        self.spread.get_mut().values.clear();
        self.topologies.get_mut().values.clear();
    }
}

impl Clone for Tallies {
    fn clone(&self) -> Self {
        Self {
            near: Mutex::new(self.near.lock().clone()),
            spread: Mutex::new(self.spread.lock().clone()),
            topologies: Mutex::new(self.topologies.lock().clone()),
        }
    }
}
