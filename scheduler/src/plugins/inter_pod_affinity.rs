//! InterPodAffinity: pods that want to be near others, or away from them.
//!
//! Contract: the "Inter-pod affinity and anti-affinity" section of "Assigning Pods to Nodes".

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::args::{ArgsError, InterPodAffinityArgs},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Score, Verdict},
    model::{Cluster, Labels, NodeInfo, PodInfo, PodTerm},
};

/// Counts per (topology key, value).
type Places = HashMap<(String, String), i64>;

/// The plugin.
pub struct InterPodAffinity {
    /// What a required affinity term of a running pod adds to places near it.
    hard_weight: i64,
    /// Whether preferences of running pods count only for pods that have some of their own.
    ignores_preferences: bool,
}

struct Needs<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    own_namespace: Arc<Labels>,
    /// Places where running pods' anti-affinity excludes this pod.
    repelled: Places,
    /// Places with pods matching all required affinity terms.
    wanted: Places,
    /// Places with pods matching an anti-affinity term.
    unwanted: Places,
}

impl InterPodAffinity {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When the weight is out of bounds.
    pub fn new(args: &InterPodAffinityArgs) -> Result<Self, ArgsError> {
        let hard_weight = args.hard_pod_affinity_weight;
        if !(0..=100).contains(&hard_weight) {
            return Err(ArgsError::Value("hardPodAffinityWeight", "not in valid range [0-100]"));
        }
        Ok(Self { hard_weight, ignores_preferences: args.ignore_preferred_terms_of_existing_pods })
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let mut needs = Needs {
            pod,
            cluster,
            own_namespace: cluster.namespace_labels(&pod.namespace),
            repelled: Places::new(),
            wanted: Places::new(),
            unwanted: Places::new(),
        };
        let own_terms = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        for node in cluster.nodes().filter(|n| own_terms || n.with_anti_affinity > 0) {
            for other in &node.pods {
                needs.count(other, node, 1);
            }
        }
        if !own_terms && needs.repelled.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Filter(Box::new(needs))
    }

    fn score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let own = !pod.prefer.is_empty() || !pod.avoid.is_empty();
        if self.ignores_preferences && !own {
            return None;
        }
        let mut places = Places::new();
        for node in cluster.nodes().filter(|n| own || n.with_affinity > 0) {
            for other in node.pods.iter().filter(|p| own || p.has_affinity()) {
                self.weigh(&mut places, pod, other, node, cluster);
            }
        }
        if places.is_empty() { None } else { Some(Box::new(Near(places))) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodPlaced(_) => !pod.affinity.is_empty(),
            ClusterEvent::PodRemoved(_) | ClusterEvent::NodeAdded(_) | ClusterEvent::PodChanged => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
            ClusterEvent::NamespaceChanged => true,
            ClusterEvent::StorageChanged(_) | ClusterEvent::DevicesChanged(_) => false,
        }
    }
}

impl InterPodAffinity {
    fn weigh(&self, places: &mut Places, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, cluster: &Cluster) {
        let theirs = cluster.namespace_labels(&other.namespace);
        let ours = cluster.namespace_labels(&pod.namespace);
        let mut add = |term: &PodTerm, matches: bool, weight: i64| {
            if let Some(value) = node.labels.get(&term.topology_key).filter(|_| matches && weight != 0) {
                *places.entry((term.topology_key.clone(), value.clone())).or_insert(0) += weight;
            }
        };
        for w in &pod.prefer {
            add(&w.term, w.term.matches(&other.namespace, &other.labels, &theirs), w.weight);
        }
        for w in &pod.avoid {
            add(&w.term, w.term.matches(&other.namespace, &other.labels, &theirs), -w.weight);
        }
        for term in &other.affinity {
            add(term, term.matches(&pod.namespace, &pod.labels, &ours), self.hard_weight);
        }
        for w in &other.prefer {
            add(&w.term, w.term.matches(&pod.namespace, &pod.labels, &ours), w.weight);
        }
        for w in &other.avoid {
            add(&w.term, w.term.matches(&pod.namespace, &pod.labels, &ours), -w.weight);
        }
    }
}

impl Needs<'_> {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let place = |term: &PodTerm| {
            node.labels.get(&term.topology_key).map(|value| (term.topology_key.clone(), value.clone()))
        };
        for term in &other.anti_affinity {
            if term.matches(&self.pod.namespace, &self.pod.labels, &self.own_namespace) {
                bump(&mut self.repelled, place(term), by);
            }
        }
        if self.pod.affinity.is_empty() && self.pod.anti_affinity.is_empty() {
            return;
        }
        let theirs = self.cluster.namespace_labels(&other.namespace);
        let matches = |term: &PodTerm| term.matches(&other.namespace, &other.labels, &theirs);
        if !self.pod.affinity.is_empty() && self.pod.affinity.iter().all(matches) {
            for term in &self.pod.affinity {
                bump(&mut self.wanted, place(term), by);
            }
        }
        for term in self.pod.anti_affinity.iter().filter(|t| matches(t)) {
            bump(&mut self.unwanted, place(term), by);
        }
    }

    /// The first pod of a group that wants to be near itself may go anywhere.
    fn starts_its_group(&self) -> bool {
        self.wanted.is_empty()
            && self
                .pod
                .affinity
                .iter()
                .all(|t| t.matches(&self.pod.namespace, &self.pod.labels, &self.own_namespace))
    }
}

fn bump(places: &mut Places, place: Option<(String, String)>, by: i64) {
    let Some(place) = place else { return };
    let count = places.entry(place.clone()).or_insert(0);
    *count += by;
    if *count <= 0 {
        places.remove(&place);
    }
}

fn at(places: &Places, node: &NodeInfo, key: &str) -> bool {
    node.labels.get(key).is_some_and(|value| places.contains_key(&(key.to_owned(), value.clone())))
}

impl Filter for Needs<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let has_label = |t: &PodTerm| node.labels.contains_key(&t.topology_key);
        let near = self.pod.affinity.iter().all(|t| at(&self.wanted, node, &t.topology_key))
            || (self.pod.affinity.iter().all(has_label) && self.starts_its_group());
        if !self.pod.affinity.is_empty() && !near {
            return Verdict::unresolvable("node(s) didn't match pod affinity rules");
        }
        if self.pod.anti_affinity.iter().any(|t| at(&self.unwanted, node, &t.topology_key)) {
            return Verdict::unschedulable("node(s) didn't match pod anti-affinity rules");
        }
        let repelled = self.repelled.keys().any(|(key, value)| node.labels.get(key) == Some(value));
        Verdict::fits_or(!repelled, || {
            Verdict::unschedulable("node(s) didn't satisfy existing pods anti-affinity rules")
        })
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, 1);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, -1);
    }
}

struct Near(Places);

impl Score for Near {
    fn score(&self, node: &NodeInfo) -> i64 {
        let here = self.0.iter().filter(|((key, value), _)| node.labels.get(key) == Some(value));
        here.map(|(_, count)| count).sum()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the value lies between 0 and 100")]
    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max == min {
                0
            } else {
                (MAX_SCORE as f64 * ((*score - min) as f64 / (max - min) as f64)) as i64
            };
        }
    }
}
