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
    Labels, NodeInfo, PodInfo, PodTerm, SpreadConstraint, TaintEffect, cluster::NamespaceLabels, pod::hash_of,
};

/// Tallies kept of each kind; the one not used for longest makes room. A tally is as large as its places are many.
const KEPT: usize = 64;

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

/// Pods that the spread constraints of a waiting pod mean, per constraint and place. Places without such a pod count
/// as well, with zero.
#[derive(Clone, Debug)]
pub struct SpreadTally {
    /// Whose constraints they are, and which nodes it may go to.
    pod: Box<PodInfo>,
    constraints: Vec<SpreadConstraint>,
    /// Whether nodes that lack the label of one constraint are left out of all.
    all_labels: bool,
    counts: Vec<Places>,
}

/// The tallies of pods decided on lately.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    near: Mutex<Kept<NearTally>>,
    spread: Mutex<Kept<SpreadTally>>,
}

/// Values with the hash of what they are found by, the one used last at the end.
#[derive(Clone, Debug)]
struct Kept<T>(Vec<(u64, Arc<T>)>);

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
    fn new(pod: &PodInfo, constraints: &[SpreadConstraint], all_labels: bool) -> Self {
        let counts = vec![Places::new(); constraints.len()];
        Self { pod: Box::new(pod.clone()), constraints: constraints.to_vec(), all_labels, counts }
    }

    fn is_of(&self, pod: &PodInfo, constraints: &[SpreadConstraint], all_labels: bool) -> bool {
        self.constraints == constraints
            && self.all_labels == all_labels
            && spread_scope(&self.pod) == spread_scope(pod)
    }

    /// The places of the constraint at this index, with their counts.
    pub fn places(&self, constraint: usize) -> &Places {
        &self.counts[constraint]
    }

    fn counts_node(&self, node: &NodeInfo) -> bool {
        !self.all_labels || self.constraints.iter().all(|c| node.labels.contains_key(&c.topology_key))
    }

    /// Adds a node's places, with nobody there.
    fn open(&mut self, node: &NodeInfo) {
        if !self.counts_node(node) {
            return;
        }
        for (constraint, places) in self.constraints.iter().zip(&mut self.counts) {
            if let Some(place) = node.labels.get(&constraint.topology_key)
                && constraint.includes(&self.pod, node)
                && !places.contains_key(place)
            {
                places.insert(place.clone(), 0);
            }
        }
    }

    /// Counts a pod that came to a node, or with -1 one that went.
    pub fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if other.terminating || other.namespace != self.pod.namespace || !self.counts_node(node) {
            return;
        }
        for (constraint, places) in self.constraints.iter().zip(&mut self.counts) {
            if let Some(place) = node.labels.get(&constraint.topology_key)
                && constraint.selector.matches(&other.labels)
                && constraint.includes(&self.pod, node)
            {
                *places.entry(place.clone()).or_insert(0) += by;
            }
        }
    }
}

impl SpreadConstraint {
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

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Kept<T> {
    fn get(&mut self, hash: u64, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let found = self.0.iter().position(|(h, value)| *h == hash && is_it(value));
        let entry = match found {
            Some(at) => self.0.remove(at),
            None => {
                if self.0.len() >= KEPT {
                    self.0.remove(0);
                }
                (hash, Arc::new(make()))
            }
        };
        let out = entry.1.clone();
        self.0.push(entry);
        out
    }
}

// === impl Tallies ===

impl Tallies {
    /// The tally of these terms over the nodes.
    pub(super) fn near(
        &self,
        terms: &[PodTerm],
        nodes: &[Arc<NodeInfo>],
        namespaces: &NamespaceLabels,
    ) -> Arc<NearTally> {
        self.near.lock().get(
            hash_of(&terms),
            |tally| tally.terms == terms,
            || {
                let mut tally = NearTally::new(terms);
                for node in nodes {
                    node.pods.iter().for_each(|pod| tally.count(pod, node, namespaces, 1));
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
        nodes: &[Arc<NodeInfo>],
    ) -> Arc<SpreadTally> {
        self.spread.lock().get(
            hash_of(&(constraints, all_labels, spread_scope(pod))),
            |tally| tally.is_of(pod, constraints, all_labels),
            || {
                let mut tally = SpreadTally::new(pod, constraints, all_labels);
                for node in nodes {
                    tally.open(node);
                    node.pods.iter().for_each(|pod| tally.count(pod, node, 1));
                }
                tally
            },
        )
    }

    /// Keeps all tallies up with a pod that came to a node, or with -1 one that went.
    pub(super) fn count(&mut self, pod: &PodInfo, node: &NodeInfo, namespaces: &NamespaceLabels, by: i64) {
        for (_, tally) in &mut self.near.get_mut().0 {
            Arc::make_mut(tally).count(pod, node, namespaces, by);
        }
        for (_, tally) in &mut self.spread.get_mut().0 {
            Arc::make_mut(tally).count(pod, node, by);
        }
    }

    /// Forgets everything: nodes or namespaces are not what they were.
    pub(super) fn clear(&mut self) {
        self.near.get_mut().0.clear();
        self.spread.get_mut().0.clear();
    }
}

impl Clone for Tallies {
    fn clone(&self) -> Self {
        Self { near: Mutex::new(self.near.lock().clone()), spread: Mutex::new(self.spread.lock().clone()) }
    }
}
