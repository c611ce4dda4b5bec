//! InterPodAffinity: pods that want to be near others, or away from them.
//!
//! Contract: the "Inter-pod affinity and anti-affinity" section of "Assigning Pods to Nodes".

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::args::{ArgsError, InterPodAffinityArgs},
    framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Prepared, Score, Scorer, Verdict},
    model::{Cluster, Labels, NearTally, NodeInfo, Places, PodInfo, PodTerm, TermCounts},
};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const REPELLED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

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
    own_namespace: &'a Labels,
    /// Places where placed pods' anti-affinity excludes this pod, each with its topology key.
    repelled: Vec<(&'a str, &'a Places)>,
    /// What a cycle has taken from them or added: by topology key and place.
    shifted: HashMap<(String, String), i64>,
    /// Placed pods matching all required affinity terms.
    wanted: Arc<NearTally>,
    /// Placed pods matching an anti-affinity term, one tally a term.
    unwanted: Vec<Arc<NearTally>>,
}

impl InterPodAffinity {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When the weight is out of bounds.
    pub fn new(args: &InterPodAffinityArgs) -> Result<Self, ArgsError> {
        let hard_weight = args.hard_pod_affinity_weight;
        if !(0..=100).contains(&hard_weight) {
            return Err(ArgsError::Value("hardPodAffinityWeight", "not in valid range [0, 100]"));
        }
        Ok(Self { hard_weight, ignores_preferences: args.ignore_preferred_terms_of_existing_pods })
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let own_namespace = cluster.namespace_labels(&pod.namespace);
        let repelled: Vec<(&str, &Places)> =
            cluster.terms().anti_affinity.meaning(pod, own_namespace).collect();
        if repelled.is_empty() && pod.affinity.is_empty() && pod.anti_affinity.is_empty() {
            return Prepared::Skip;
        }
        let alone = |term: &PodTerm| cluster.near(std::slice::from_ref(term));
        Prepared::Filter(Box::new(Needs {
            pod,
            cluster,
            own_namespace,
            repelled,
            shifted: HashMap::new(),
            wanted: if pod.affinity.is_empty() { Arc::default() } else { cluster.near(&pod.affinity) },
            unwanted: pod.anti_affinity.iter().map(alone).collect(),
        }))
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        let own = !pod.prefer.is_empty() || !pod.avoid.is_empty();
        if self.ignores_preferences && !own {
            return None;
        }
        let mut near = Near::default();
        let alone = |term: &PodTerm| cluster.near(std::slice::from_ref(term));
        near.own.extend(pod.prefer.iter().map(|w| (alone(&w.term), w.weight)));
        near.own.extend(pod.avoid.iter().map(|w| (alone(&w.term), -w.weight)));
        let (terms, labels) = (cluster.terms(), cluster.namespace_labels(&pod.namespace));
        let mut of = |counts: &'a TermCounts, weight: i64| {
            let meaning = counts.meaning(pod, labels).filter(|_| weight != 0);
            near.others.extend(meaning.map(|(key, places)| (key, places, weight)));
        };
        of(&terms.affinity, self.hard_weight);
        of(&terms.prefer, 1);
        of(&terms.avoid, -1);
        let nobody = near.others.is_empty() && near.own.iter().all(|(tally, _)| tally.is_empty());
        if nobody { None } else { Some(Box::new(near)) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let (near, away) = (&pod.affinity, &pod.anti_affinity);
        match event {
            ClusterEvent::PodPlaced(new) => mean(near, new),
            ClusterEvent::PodUpdated { old, new } => {
                let frees = |term: &PodTerm| may_mean(term, old) && !may_mean(term, new);
                (!mean(near, old) && mean(near, new)) || away.iter().any(frees)
            }
            // One term is enough to keep a pod away, so one pod of any of them may be the one that did.
            ClusterEvent::PodRemoved(old) => {
                away.iter().any(|term| may_mean(term, old))
                    || old.anti_affinity.iter().any(|term| may_mean(term, pod))
            }
            ClusterEvent::NodeAdded(node) => {
                !away.is_empty() || near.iter().any(|term| node.labels.contains_key(&term.topology_key))
            }
            ClusterEvent::NodeUpdated { old, new } => {
                let places = |term: &PodTerm| {
                    let place = |node: &NodeInfo| node.labels.get(&term.topology_key).cloned();
                    (place(old), place(new))
                };
                let joins = |term: &PodTerm| {
                    let (old, new) = places(term);
                    new.is_some() && old != new
                };
                let leaves = |term: &PodTerm| {
                    let (old, new) = places(term);
                    old.is_some() && old != new
                };
                near.iter().any(joins) || away.iter().any(leaves)
            }
            // Of whom other pods keep away is not known here.
            ClusterEvent::NamespaceChanged => true,
            ClusterEvent::PodChanged { old, new } => old.labels != new.labels,
            ClusterEvent::NodeRemoved(_)
            | ClusterEvent::StorageChanged(_)
            | ClusterEvent::DevicesChanged(_) => false,
        }
    }
}

/// Whether a term may mean a pod: where namespaces are selected by their labels, any may be meant.
fn may_mean(term: &PodTerm, other: &PodInfo) -> bool {
    let here = term.namespace_selector.is_some() || term.namespaces.contains(&other.namespace);
    here && term.selector.matches(&other.labels)
}

/// Whether all of some terms may mean a pod, as one has to be that a pod wants to be near.
fn mean(terms: &[PodTerm], other: &PodInfo) -> bool {
    !terms.is_empty() && terms.iter().all(|term| may_mean(term, other))
}

impl Needs<'_> {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in &other.anti_affinity {
            if let Some(place) = node.labels.get(&term.topology_key)
                && term.matches(&self.pod.namespace, &self.pod.labels, self.own_namespace)
            {
                *self.shifted.entry((term.topology_key.clone(), place.clone())).or_insert(0) += by;
            }
        }
        let namespaces = self.cluster.namespaces();
        if !self.pod.affinity.is_empty() {
            Arc::make_mut(&mut self.wanted).count(other, node, namespaces, by);
        }
        for tally in &mut self.unwanted {
            Arc::make_mut(tally).count(other, node, namespaces, by);
        }
    }

    /// The first pod of a group that wants to be near itself may go anywhere.
    fn starts_its_group(&self) -> bool {
        let means_itself = |t: &PodTerm| t.matches(&self.pod.namespace, &self.pod.labels, self.own_namespace);
        self.wanted.is_empty() && self.pod.affinity.iter().all(means_itself)
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let has_label = |t: &PodTerm| node.labels.contains_key(&t.topology_key);
        (0..self.pod.affinity.len()).all(|term| self.wanted.at(term, node) > 0)
            || (self.pod.affinity.iter().all(has_label) && self.starts_its_group())
    }

    fn is_repelled(&self, node: &NodeInfo) -> bool {
        let shifted = |key: &str, place: &str| {
            let found = self.shifted.iter().find(|((k, p), _)| k == key && p == place);
            found.map_or(0, |(_, by)| *by)
        };
        // Each key's places add up, and so does what was shifted there.
        let mut sums: Vec<(&str, i64)> = Vec::new();
        for (key, places) in &self.repelled {
            let Some(place) = node.labels.get(*key) else { continue };
            let count = places.get(place).copied().unwrap_or(0);
            if self.shifted.is_empty() {
                if count > 0 {
                    return true;
                }
                continue;
            }
            match sums.iter_mut().find(|(k, _)| k == key) {
                Some((_, sum)) => *sum += count,
                None => sums.push((key, count + shifted(key, place))),
            }
        }
        let only_shifted = self.shifted.iter().any(|((key, place), by)| {
            *by > 0 && node.labels.get(key) == Some(place) && !sums.iter().any(|(k, _)| k == key)
        });
        only_shifted || sums.iter().any(|(_, sum)| *sum > 0)
    }
}

impl Filter for Needs<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if !self.pod.affinity.is_empty() && !self.is_near(node) {
            return Verdict::unresolvable(NOT_NEAR);
        }
        if self.unwanted.iter().any(|tally| tally.at(0, node) > 0) {
            return Verdict::unschedulable(TOO_NEAR);
        }
        Verdict::fits_or(!self.is_repelled(node), || Verdict::unschedulable(REPELLED))
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, 1);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, -1);
    }
}

/// Sums of weights per place: what the pod's own terms mean, and the terms of others that mean the pod.
#[derive(Default)]
struct Near<'a> {
    own: Vec<(Arc<NearTally>, i64)>,
    others: Vec<(&'a str, &'a Places, i64)>,
}

impl Score for Near<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let own = self.own.iter().map(|(tally, weight)| tally.at(0, node) * weight);
        let others = self
            .others
            .iter()
            .filter_map(|(key, places, weight)| Some(places.get(node.labels.get(*key)?)? * weight));
        own.chain(others).sum()
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Pod, cluster, node, pod, scores};

    const ZONE: &str = "topology.kubernetes.io/zone";

    fn term(app: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": ZONE})
    }

    fn weighted(weight: i32, app: &str) -> Value {
        json!([{"weight": weight, "podAffinityTerm": term(app)}])
    }

    fn with(pod: Pod, kind: &str, terms: Value) -> Pod {
        let hard = terms[0]["weight"].is_null();
        let field = if hard { "required" } else { "preferred" };
        pod.set(&format!("/spec/affinity/{kind}/{field}DuringSchedulingIgnoredDuringExecution"), terms)
    }

    fn plugin(args: Value) -> InterPodAffinity {
        InterPodAffinity::new(&serde_json::from_value(args).unwrap()).unwrap()
    }

    /// Zones x (nodes a, b), y (c) and, without pods, z (d).
    fn world(pods: Vec<Arc<PodInfo>>) -> Cluster {
        let nodes = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")];
        cluster(nodes.map(|(name, zone)| node(name, zone, json!({}))).into(), pods)
    }

    fn found(plugin: &InterPodAffinity, pod: Pod, pods: Vec<Pod>) -> Option<[i64; 4]> {
        let world = world(pods.into_iter().map(Pod::info).collect());
        scores(plugin, &pod.info(), &world, ["a", "b", "c", "d"])
    }

    #[test]
    fn weights_add_up_over_pods_and_terms_of_both_sides() {
        let usual = plugin(json!({}));
        let app = |name: &str, app: &str, on: &str| pod(name).label("app", app).on(on);
        let near = |weight| with(pod("p").label("app", "me"), "podAffinity", weighted(weight, "web"));
        let far = |weight| with(pod("p").label("app", "me"), "podAntiAffinity", weighted(weight, "web"));
        let likes_me =
            |on: &str, weight| with(pod(&format!("l{on}")).on(on), "podAffinity", weighted(weight, "me"));
        let fears_me =
            |on: &str, weight| with(pod(&format!("f{on}")).on(on), "podAntiAffinity", weighted(weight, "me"));
        let needs_me = |on: &str| with(pod(&format!("n{on}")).on(on), "podAffinity", json!([term("me")]));
        let me = || pod("p").label("app", "me");
        // Two pods in x, one in y.
        let web = || vec![app("w1", "web", "a"), app("w2", "web", "b"), app("w3", "web", "c")];
        assert_eq!(found(&usual, near(5), web()), Some([100, 100, 50, 0]));
        assert_eq!(found(&usual, far(5), web()), Some([0, 0, 50, 100]));
        assert_eq!(found(&usual, near(5), vec![app("o", "other", "a")]), None, "nobody is meant");
        assert_eq!(found(&usual, me(), vec![]), None);
        // What others prefer counts for them as it is weighed.
        assert_eq!(found(&usual, me(), vec![likes_me("a", 8), likes_me("c", 2)]), Some([100, 100, 25, 0]));
        assert_eq!(found(&usual, me(), vec![fears_me("a", 8), fears_me("c", 2)]), Some([0, 0, 75, 100]));
        assert_eq!(found(&usual, me(), vec![likes_me("a", 5), fears_me("c", 5)]), Some([100, 100, 0, 50]));
        // What others require counts as the arguments say.
        assert_eq!(found(&usual, me(), vec![needs_me("a"), likes_me("c", 2)]), Some([50, 50, 100, 0]));
        let heavy = plugin(json!({"hardPodAffinityWeight": 10}));
        assert_eq!(found(&heavy, me(), vec![needs_me("a"), likes_me("c", 2)]), Some([100, 100, 20, 0]));
        let none = plugin(json!({"hardPodAffinityWeight": 0}));
        assert_eq!(found(&none, me(), vec![needs_me("a")]), None);
        // All the same.
        assert_eq!(
            found(&usual, me(), vec![likes_me("a", 3), likes_me("c", 3), likes_me("d", 3)]),
            Some([0; 4])
        );
        // Preferences of others alone may be left aside.
        let own = plugin(json!({"ignorePreferredTermsOfExistingPods": true}));
        assert_eq!(found(&own, me(), vec![likes_me("a", 8)]), None);
        let mut both = web();
        both.push(likes_me("c", 5));
        assert_eq!(found(&own, near(5), both), Some([100, 100, 100, 0]));
    }

    #[test]
    fn the_weight_of_requirements_is_bounded() {
        for (weight, good) in [(0, true), (100, true), (-1, false), (101, false)] {
            let args =
                InterPodAffinityArgs { hard_pod_affinity_weight: weight, ..InterPodAffinityArgs::default() };
            assert_eq!(InterPodAffinity::new(&args).is_ok(), good, "{weight}");
        }
    }

    #[test]
    fn pods_wake_when_what_they_look_for_comes_or_what_they_flee_goes() {
        let near = with(pod("p"), "podAffinity", json!([term("web")])).info();
        let away = with(pod("p"), "podAntiAffinity", json!([term("web")])).info();
        let both = with(pod("p"), "podAffinity", json!([term("web"), term("db")])).info();
        let either = with(pod("p"), "podAntiAffinity", json!([term("web"), term("db")])).info();
        let plain = pod("p").label("app", "me").info();
        let web = || pod("w").label("app", "web").on("a").info();
        let other = || pod("w").label("app", "other").on("a").info();
        let fears_me = with(pod("w").on("a"), "podAntiAffinity", json!([term("me")])).info();
        let elsewhere = pod("w").set("/metadata/namespace", json!("far")).label("app", "web").on("a").info();
        let of_zone = |zone: &str| Arc::new(node("a", zone, json!({})));
        let no_zone = || {
            let labels = json!({"kubernetes.io/hostname": "a"});
            let bare = json!({"metadata": {"name": "a", "labels": labels}, "spec": {}, "status": {}});
            Arc::new(NodeInfo::new(&serde_json::from_value(bare).unwrap()))
        };
        let updated = |old, new| ClusterEvent::NodeUpdated { old, new };
        let relabelled = |old, new| ClusterEvent::PodUpdated { old, new };
        for (what, event, [of_near, of_away, of_both, of_plain]) in [
            ("comes", ClusterEvent::PodPlaced(web()), [true, false, false, false]),
            ("another comes", ClusterEvent::PodPlaced(other()), [false; 4]),
            ("comes elsewhere", ClusterEvent::PodPlaced(elsewhere), [false; 4]),
            ("goes", ClusterEvent::PodRemoved(web()), [false, true, false, false]),
            ("another goes", ClusterEvent::PodRemoved(other()), [false; 4]),
            ("who fears goes", ClusterEvent::PodRemoved(fears_me), [false, false, false, true]),
            ("becomes it", relabelled(other(), web()), [true, false, false, false]),
            ("is it no more", relabelled(web(), other()), [false, true, false, false]),
            ("stays it", relabelled(web(), web()), [false; 4]),
            ("a node", ClusterEvent::NodeAdded(of_zone("x")), [true, true, true, false]),
            ("a node of no zone", ClusterEvent::NodeAdded(no_zone()), [false, true, false, false]),
            ("a node moves", updated(of_zone("x"), of_zone("y")), [true, true, true, false]),
            ("a node joins a zone", updated(no_zone(), of_zone("y")), [true, false, true, false]),
            ("a node leaves its zone", updated(of_zone("y"), no_zone()), [false, true, false, false]),
            ("a node stays", updated(of_zone("x"), of_zone("x")), [false; 4]),
            ("a node goes", ClusterEvent::NodeRemoved(of_zone("x")), [false; 4]),
            ("a namespace", ClusterEvent::NamespaceChanged, [true; 4]),
            ("devices", ClusterEvent::DevicesChanged(crate::model::DeviceEvent::Slice), [false; 4]),
        ] {
            let told = event.clone();
            assert_eq!(plugin(json!({})).wakes(&either, &told), of_away, "{what}: one of two");
            let wakes = [&near, &away, &both, &plain].map(|pod| plugin(json!({})).wakes(pod, &event));
            assert_eq!(wakes, [of_near, of_away, of_both, of_plain], "{what}");
        }
    }

    #[test]
    fn where_namespaces_are_selected_by_their_labels_any_may_be_meant() {
        let mut far = term("web");
        far["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
        let near = with(pod("p"), "podAffinity", json!([far])).info();
        let elsewhere = pod("w").set("/metadata/namespace", json!("far")).label("app", "web").on("a").info();
        assert!(plugin(json!({})).wakes(&near, &ClusterEvent::PodPlaced(elsewhere)));
    }
}
