//! All nodes with their pods, the namespaces' labels, storage and devices: the snapshot decisions are made on.
//!
//! Beside the objects stand sums over them (pods per place, nodes per image), kept with every change, so that no
//! decision has to look at everything.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock},
};

use component_base::meta::ObjectKey;
use smol_str::SmolStr;

use super::{
    Devices, Groups, Labels, NearTally, NodeInfo, PodInfo, PodTerm, Selectors, SpreadConstraint, SpreadTally,
    Storage, TermCounts, tally::Tallies,
};

/// Labels of namespaces by name.
#[derive(Clone, Debug, Default)]
pub struct NamespaceLabels(HashMap<String, Arc<Labels>>);

/// Terms of placed pods.
#[derive(Clone, Debug, Default)]
pub struct PlacedTerms {
    /// Required anti-affinity, counted.
    pub anti_affinity: TermCounts,
    /// Required affinity, counted.
    pub affinity: TermCounts,
    /// Preferred affinity, with the sums of the weights.
    pub prefer: TermCounts,
    /// Preferred anti-affinity, with the sums of the weights.
    pub avoid: TermCounts,
}

/// Nodes by name, pods by uid.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// In name order.
    nodes: Vec<Arc<NodeInfo>>,
    /// When each node last changed, in the order of the nodes; a number of [`Cluster::changes`].
    changed: Vec<u64>,
    /// Counts changes of nodes and of what is on them.
    changes: u64,
    /// Counts nodes that came or went: each shifts the places of others.
    layout: u64,
    /// The order in which nodes are looked at, made when it is asked for.
    turns: OnceLock<Vec<usize>>,
    /// Slots of nodes that are gone, for those that come.
    free_slots: Vec<usize>,
    /// Pods whose node is not known (yet, or no more), by node name.
    orphans: HashMap<SmolStr, Vec<Arc<PodInfo>>>,
    /// Node of every pod placed, by uid.
    placed: HashMap<SmolStr, SmolStr>,
    /// The same pods by their namespaces.
    by_namespace: HashMap<String, HashMap<SmolStr, Arc<PodInfo>>>,
    /// How many nodes have an image.
    images: HashMap<String, i64>,
    terms: PlacedTerms,
    tallies: Tallies,
    /// Claims, volumes and what makes them.
    pub storage: Storage,
    /// Devices and the claims that hold them.
    pub devices: Devices,
    /// Groups of pods that are placed together.
    pub groups: Groups,
    /// What selects pods.
    pub selectors: Selectors,
    namespaces: NamespaceLabels,
}

impl NamespaceLabels {
    /// Labels of a namespace; none when it is unknown.
    pub fn of(&self, name: &str) -> &Labels {
        static NONE: LazyLock<Labels> = LazyLock::new(Labels::new);
        self.0.get(name).map_or(&*NONE, AsRef::as_ref)
    }
}

impl PlacedTerms {
    fn count(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        pod.anti_affinity.iter().for_each(|term| self.anti_affinity.add(term, node, by));
        pod.affinity.iter().for_each(|term| self.affinity.add(term, node, by));
        pod.prefer.iter().for_each(|w| self.prefer.add(&w.term, node, by * w.weight));
        pod.avoid.iter().for_each(|w| self.avoid.add(&w.term, node, by * w.weight));
    }
}

/// The region and the zone of a node, by the names of old where it has those.
fn zone(node: &NodeInfo) -> (Option<&str>, Option<&str>) {
    let of = |names: [&str; 2]| names.into_iter().find_map(|name| node.labels.get(name)).map(String::as_str);
    (
        of(["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"]),
        of(["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"]),
    )
}

fn in_turns(nodes: &[Arc<NodeInfo>]) -> Vec<usize> {
    let mut zones: Vec<Vec<usize>> = Vec::new();
    let mut known = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        let number = *known.entry(zone(node)).or_insert_with(|| {
            zones.push(Vec::new());
            zones.len() - 1
        });
        zones[number].push(at);
    }
    let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
    let round = |turn: usize| zones.iter().filter_map(move |zone| zone.get(turn)).copied();
    (0..longest).flat_map(round).collect()
}

impl Cluster {
    /// Nodes in name order.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// When each node last changed, in the order of [`Cluster::nodes`].
    pub fn changed(&self) -> &[u64] {
        &self.changed
    }

    /// Changes whenever nodes come or go, that is, when the order of nodes is another one.
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// Where the nodes stand in the order in which they are looked at: one of each zone, then the next of each, so that a
    /// few of many are of all zones.
    pub fn turns(&self) -> &[usize] {
        self.turns.get_or_init(|| in_turns(&self.nodes))
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.position(name).ok().map(|at| &self.nodes[at])
    }

    /// Where a node stands in the order, or would.
    pub fn position(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.name.as_str().cmp(name))
    }

    /// Labels of a namespace; none when it is unknown.
    pub fn namespace_labels(&self, name: &str) -> &Labels {
        self.namespaces.of(name)
    }

    /// Labels of all namespaces.
    pub fn namespaces(&self) -> &NamespaceLabels {
        &self.namespaces
    }

    /// How many nodes have an image.
    pub fn image_holders(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Terms of placed pods.
    pub fn terms(&self) -> &PlacedTerms {
        &self.terms
    }

    /// Placed pods that all of the terms mean, per place.
    pub fn near(&self, terms: &[PodTerm]) -> Arc<NearTally> {
        self.tallies.near(terms, self)
    }

    /// Placed pods that count for a pod's constraints, per place; nodes that lack the label of one of them count for
    /// none if `all_labels` is set.
    pub fn spread(
        &self,
        pod: &PodInfo,
        constraints: &[SpreadConstraint],
        all_labels: bool,
    ) -> Arc<SpreadTally> {
        self.tallies.spread(pod, constraints, all_labels, self)
    }

    /// Placed pods of a namespace, with their nodes, in no order.
    pub(super) fn placed_in(&self, namespace: &str) -> impl Iterator<Item = (&Arc<PodInfo>, &Arc<NodeInfo>)> {
        let pods = self.by_namespace.get(namespace).into_iter().flat_map(HashMap::values);
        pods.filter_map(|pod| Some((pod, self.node(&pod.node_name)?)))
    }

    /// Sets or (with `None`) forgets a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if labels.as_ref().unwrap_or(&Labels::new()) != self.namespaces.of(name) {
            self.tallies.clear();
        }
        match labels {
            Some(labels) => self.namespaces.0.insert(name.to_owned(), Arc::new(labels)),
            None => self.namespaces.0.remove(name),
        };
    }

    /// Adds a node or takes over its new state; its pods stay.
    pub fn set_node(&mut self, mut node: NodeInfo) {
        self.changes += 1;
        match self.position(&node.name) {
            Ok(at) => {
                let old = self.nodes[at].clone();
                node.slot = old.slot;
                node.adopt(&old.pods);
                self.count_images(&old, -1);
                self.count_images(&node, 1);
                if old.labels != node.labels {
                    old.pods.iter().for_each(|pod| self.terms.count(pod, &old, -1));
                    node.pods.iter().for_each(|pod| self.terms.count(pod, &node, 1));
                }
                if old.labels != node.labels || old.taints != node.taints {
                    self.tallies.clear();
                }
                if zone(&old) != zone(&node) {
                    self.turns.take();
                }
                self.nodes[at] = Arc::new(node);
                self.changed[at] = self.changes;
            }
            Err(at) => {
                // As long as none is free, as many are taken as there are nodes.
                node.slot = self.free_slots.pop().unwrap_or(self.nodes.len());
                node.adopt(&self.orphans.remove(&node.name).unwrap_or_default());
                self.count_images(&node, 1);
                node.pods.iter().for_each(|pod| self.terms.count(pod, &node, 1));
                self.tallies.clear();
                self.turns.take();
                self.layout += 1;
                self.nodes.insert(at, Arc::new(node));
                self.changed.insert(at, self.changes);
            }
        }
    }

    /// Forgets a node; its pods are kept in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Ok(at) = self.position(name) else { return };
        let node = self.nodes.remove(at);
        self.free_slots.push(node.slot);
        self.changed.remove(at);
        self.turns.take();
        self.layout += 1;
        self.tallies.clear();
        self.count_images(&node, -1);
        node.pods.iter().for_each(|pod| self.terms.count(pod, &node, -1));
        if !node.pods.is_empty() {
            self.orphans.insert(name.into(), node.pods.clone());
        }
    }

    /// A pod as it is known on the node that it names.
    pub fn known(&self, pod: &PodInfo) -> Option<&Arc<PodInfo>> {
        let known = self.by_namespace.get(&pod.namespace)?.get(pod.uid.as_str())?;
        (known.node_name == pod.node_name).then_some(known)
    }

    fn count_images(&mut self, node: &NodeInfo, by: i64) {
        for name in node.images.keys() {
            match self.images.get_mut(name) {
                Some(count) => {
                    *count += by;
                    if *count == 0 {
                        self.images.remove(name);
                    }
                }
                None => drop(self.images.insert(name.clone(), by)),
            }
        }
    }

    /// Places a pod on its node, replacing an older state of it wherever that was.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        self.displace(&pod.uid);
        let (name, uid) = (SmolStr::new(&pod.node_name), SmolStr::new(&pod.uid));
        match self.by_namespace.get_mut(&pod.namespace) {
            Some(pods) => drop(pods.insert(uid.clone(), pod.clone())),
            None => {
                self.by_namespace.insert(pod.namespace.clone(), [(uid.clone(), pod.clone())].into());
            }
        }
        self.placed.insert(uid, name.clone());
        let Ok(at) = self.position(&name) else {
            self.orphans.entry(name).or_default().push(pod);
            return;
        };
        let node = Arc::make_mut(&mut self.nodes[at]);
        self.terms.count(&pod, node, 1);
        self.tallies.count(&pod, node, &self.namespaces, 1);
        node.add(pod);
        self.changes += 1;
        self.changed[at] = self.changes;
    }

    /// Takes a pod away; false if it was nowhere.
    pub fn displace(&mut self, uid: &str) -> bool {
        let Some(name) = self.placed.remove(uid) else {
            return false;
        };
        if let Ok(at) = self.position(&name) {
            let node = Arc::make_mut(&mut self.nodes[at]);
            let Some(pod) = node.remove(uid) else { return false };
            self.terms.count(&pod, node, -1);
            self.tallies.count(&pod, node, &self.namespaces, -1);
            self.forget_in(&pod.namespace, uid);
            self.changes += 1;
            self.changed[at] = self.changes;
            return true;
        }
        if let Some(pods) = self.orphans.get_mut(&name) {
            let pod = pods.iter().position(|p| p.uid == uid).map(|at| pods.swap_remove(at));
            if pods.is_empty() {
                self.orphans.remove(&name);
            }
            if let Some(pod) = pod {
                self.forget_in(&pod.namespace, uid);
            }
        }
        true
    }

    fn forget_in(&mut self, namespace: &str, uid: &str) {
        if let Some(pods) = self.by_namespace.get_mut(namespace) {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
    }

    /// The same cluster with only those nodes that are `kept`, and the pods on them.
    pub fn within(&self, kept: impl Fn(&NodeInfo) -> bool) -> Cluster {
        let mut out = self.clone();
        out.nodes.retain(|node| kept(node));
        let changed = self.nodes.iter().zip(&self.changed).filter(|(node, _)| kept(node));
        out.changed = changed.map(|(_, at)| *at).collect();
        for node in self.nodes.iter().filter(|node| !kept(node)) {
            out.free_slots.push(node.slot);
            out.count_images(node, -1);
            node.pods.iter().for_each(|pod| out.terms.count(pod, node, -1));
            out.orphans.insert(node.name.clone(), node.pods.clone());
        }
        out.layout += 1;
        out.turns.take();
        out.tallies.clear();
        out
    }

    /// How many members of a group have a node.
    pub fn placed_members(&self, group: &ObjectKey) -> usize {
        self.groups.members(group).filter(|pod| self.placement(&pod.uid).is_some()).count()
    }

    /// How many pods have a node.
    pub fn placed(&self) -> usize {
        self.placed.len()
    }

    /// The node a pod is placed on.
    pub fn placement(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(SmolStr::as_str)
    }

    /// Number of pods placed.
    pub fn pod_count(&self) -> usize {
        self.placed.len()
    }
}

#[cfg(test)]
mod tests;
