//! Preemption: which lower-priority pods would have to go so that a pod fits somewhere.
//!
//! Contract: "Pod Priority and Preemption"; DefaultPreemption. Victims are as few and as unimportant
//! as possible, and disruption budgets are respected where that is possible.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use component_base::selector::LabelSelector;

use super::{Filters, Guests, Unschedulable, guests, prepare};
use crate::{
    config::args::DefaultPreemptionArgs,
    framework::Verdict,
    model::{Cluster, NodeInfo, PodInfo},
    plugins::Weighted,
};

/// A disruption budget as preemption sees it.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Namespace.
    pub namespace: String,
    /// Pods it covers; an empty selector covers none.
    pub selector: LabelSelector,
    /// Disruptions still allowed.
    pub allowed: i64,
    /// Names of pods whose disruption is under way already.
    pub disrupted: Vec<String>,
}

/// What preemption would do.
#[derive(Clone, Debug)]
pub enum Preemption {
    /// Evict these pods and nominate the node.
    Evict {
        /// The node room is made on.
        node: String,
        /// Pods to evict, most important first.
        victims: Vec<Arc<PodInfo>>,
    },
    /// No room is looked for, or who has a say leaves none; the text joins the pod's message.
    Helpless(String),
    /// There is no room to be made: what was made before is given up. The text joins the pod's message.
    Hopeless(String),
}

impl Preemption {
    /// The same, where something was said before.
    #[must_use]
    pub fn after(self, said: &str) -> Self {
        self.with(|why| joined(said, why))
    }

    /// The same, where something is said afterwards.
    #[must_use]
    pub fn before(self, said: &str) -> Self {
        self.with(|why| joined(why, said))
    }

    fn with(self, more: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Helpless(why) => Self::Helpless(more(&why)),
            Self::Hopeless(why) => Self::Hopeless(more(&why)),
            evict @ Self::Evict { .. } => evict,
        }
    }
}

fn joined(first: &str, second: &str) -> String {
    let said = [first, second].into_iter().filter(|text| !text.is_empty());
    said.collect::<Vec<_>>().join(", ")
}

/// What making room goes by.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// Whose going is forbidden.
    pub budgets: &'a [Budget],
    /// How many nodes are tried.
    pub args: DefaultPreemptionArgs,
    /// Pods for which room was made, with their nodes: those that are at least as important keep it.
    pub nominated: &'a [(String, Arc<PodInfo>)],
    /// Varies where the search begins.
    pub start: usize,
}

/// A node that room can be made on.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub node: String,
    /// Pods that would have to go, most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// Victims whose budget forbids it.
    pub violations: usize,
}

/// Finds the best victims for a pod that fits nowhere.
pub fn preempt(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    failure: &Unschedulable,
    means: Means<'_>,
) -> Preemption {
    candidates(pod, cluster, plugins, failure, means).map_or_else(|none| none, best)
}

/// The best of the candidates.
pub fn best(found: Vec<Candidate>) -> Preemption {
    match found.into_iter().min_by_key(rank) {
        Some(best) => Preemption::Evict { node: best.node, victims: best.victims },
        None => Preemption::Helpless("preemption: no candidate node for preemption".to_owned()),
    }
}

/// Nodes that room can be made on.
///
/// # Errors
/// When there are none, what comes of it.
pub fn candidates(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    failure: &Unschedulable,
    Means { budgets, args, nominated, start }: Means<'_>,
) -> Result<Vec<Candidate>, Preemption> {
    let not_eligible = |why| Err(Preemption::Helpless(format!("preemption: not eligible due to {why}.")));
    if !pod.may_preempt {
        return not_eligible("preemptionPolicy=Never");
    }
    if waits_for_victims(pod, cluster, failure) {
        return not_eligible("a terminating pod on the nominated node");
    }
    let candidates: Vec<&Arc<NodeInfo>> = cluster
        .nodes()
        .iter()
        .filter(|n| matches!(failure.verdicts.get(n.name.as_str()), Some(Verdict::Unschedulable(_))))
        .collect();
    let Ok(mut filters) = prepare(pod, cluster, plugins) else {
        return Err(Preemption::Hopeless(message(failure.nodes, &[])));
    };
    let guests = guests(pod, nominated);
    let mut refused = Vec::new();
    // A tenth of the nodes, at least a hundred, unless configured: the best of many is rarely much better.
    let share = candidates.len() * args.min_candidate_nodes_percentage / 100;
    let enough = share.max(args.min_candidate_nodes_absolute).max(1);
    let mut found: Vec<Candidate> = Vec::new();
    for i in 0..candidates.len() {
        let node = candidates[(i + start) % candidates.len()];
        match victims_on(pod, node, &mut filters, budgets, &guests) {
            Ok(candidate) => found.push(candidate),
            Err(verdict) => refused.push(verdict),
        }
        if found.len() >= enough && found.iter().any(|c| c.violations == 0) {
            break;
        }
    }
    match found.is_empty() {
        true => Err(Preemption::Hopeless(message(failure.nodes, &refused))),
        false => Ok(found),
    }
}

/// Why nobody's going helps: of so many nodes these were tried.
fn message(nodes: usize, refused: &[Verdict]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in refused {
        match verdict {
            Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => {
                reasons.iter().for_each(|reason| *counts.entry(reason).or_insert(0) += 1);
            }
            Verdict::Failed(reason) => *counts.entry(reason).or_insert(0) += 1,
            Verdict::Fits => {}
        }
    }
    if nodes > refused.len() {
        counts.insert("Preemption is not helpful for scheduling", nodes - refused.len());
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.sort();
    format!("preemption: 0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Whether room is being made for pods like this already: a less important one was told to go from its nominated node.
fn waits_for_victims(pod: &PodInfo, cluster: &Cluster, failure: &Unschedulable) -> bool {
    if pod.nominated_node.is_empty()
        || matches!(failure.verdicts.get(pod.nominated_node.as_str()), Some(Verdict::Unresolvable(_)))
    {
        return false;
    }
    cluster
        .node(&pod.nominated_node)
        .is_some_and(|n| n.pods.iter().any(|p| p.preempted && p.priority < pod.priority))
}

/// The fewest victims on one node, or why taking all less important pods away makes no room.
fn victims_on(
    pod: &PodInfo,
    node: &NodeInfo,
    filters: &mut Filters<'_>,
    budgets: &[Budget],
    guests: &Guests<'_>,
) -> Result<Candidate, Verdict> {
    let mut emptied = node.clone();
    let mut lesser: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Verdict::unresolvable("No preemption victims found for incoming pod"));
    }
    for victim in &lesser {
        emptied.remove(&victim.uid);
        filters.pod_removed(victim, node);
    }
    let refusal = filters.refusal(&emptied, guests);
    let fits = refusal.is_none();
    let mut out: Vec<Arc<PodInfo>> = Vec::new();
    let mut violations = 0;
    if fits {
        lesser.sort_by_key(|p| importance(p));
        let (violating, harmless) = split_by_budget(&lesser, budgets);
        // The important ones get their place back first; what does not fit any more is a victim.
        for (group, violates) in [(violating, true), (harmless, false)] {
            for candidate in group {
                emptied.add(candidate.clone());
                filters.pod_added(&candidate, node);
                if filters.refusal(&emptied, guests).is_some() {
                    emptied.remove(&candidate.uid);
                    filters.pod_removed(&candidate, node);
                    violations += usize::from(violates);
                    out.push(candidate);
                }
            }
        }
    }
    // The filters serve the next node: put them back as they were.
    let gone: Vec<&str> = out.iter().map(|p| p.uid.as_str()).collect();
    for victim in &lesser {
        if !fits || gone.contains(&victim.uid.as_str()) {
            filters.pod_added(victim, node);
        }
    }
    out.sort_by_key(|p| importance(p));
    match refusal {
        Some((_, verdict)) => Err(verdict),
        None if out.is_empty() => {
            Err(Verdict::unschedulable(format!("expected at least one victim pod on node {:?}", &*node.name)))
        }
        None => Ok(Candidate { node: node.name.to_string(), victims: out, violations }),
    }
}

/// More important first: higher priority, then longer running.
fn importance(pod: &PodInfo) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority), pod.started)
}

/// Those whose going some budget forbids, and the others.
fn split_by_budget(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let forbidden = forbidden(pods.chunks(1), budgets);
    let (violating, harmless): (Vec<_>, Vec<_>) =
        pods.iter().cloned().zip(forbidden).partition(|(_, forbidden)| *forbidden);
    let pods = |of: Vec<(Arc<PodInfo>, bool)>| of.into_iter().map(|(pod, _)| pod).collect();
    (pods(violating), pods(harmless))
}

/// Of units that go or stay together, the important ones first, whether some budget forbids that they go. One that is not
/// to go anyway takes nothing of further budgets.
pub(super) fn forbidden<'p>(
    units: impl Iterator<Item = &'p [Arc<PodInfo>]>,
    budgets: &[Budget],
) -> Vec<bool> {
    let mut left: Vec<i64> = budgets.iter().map(|b| b.allowed).collect();
    let mut violates = |pod: &Arc<PodInfo>| {
        budgets.iter().zip(&mut left).any(|(budget, left)| {
            let covers = budget.namespace == pod.namespace
                && !pod.labels.is_empty()
                && !budget.selector.is_everything()
                && budget.selector.matches(&pod.labels)
                && !budget.disrupted.contains(&pod.name);
            *left -= i64::from(covers);
            covers && *left < 0
        })
    };
    units.map(|unit| unit.iter().any(&mut violates)).collect()
}

/// Fewest budget violations, then lowest highest priority, then lowest sum of priorities, then fewest
/// victims, then the latest start of the most important victim.
fn rank(c: &Candidate) -> (usize, i32, i64, usize, Reverse<i64>, String) {
    let highest = c.victims.first().map_or(i32::MIN, |p| p.priority);
    let sum = c.victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest =
        c.victims.iter().filter(|p| p.priority == highest).map(|p| p.started).min().unwrap_or(i64::MAX);
    (c.violations, highest, sum, c.victims.len(), Reverse(earliest), c.node.clone())
}

/// Pods for which room was made, by node: they count as there for less important pods.
#[derive(Clone, Debug, Default)]
pub struct Nominations {
    by_uid: HashMap<String, (String, Arc<PodInfo>)>,
}

impl Nominations {
    /// Nominates a pod to a node.
    pub fn add(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.by_uid.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.by_uid.remove(uid);
    }

    /// Whether room was made for a pod.
    pub fn contains(&self, uid: &str) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// Those of less importance for which room was made on a node.
    pub fn lesser(&self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let here = self.by_uid.values().filter(|(on, pod)| on == node && pod.priority < priority);
        here.map(|(_, pod)| pod.clone()).collect()
    }

    /// All of them, ordered by uid so that decisions repeat.
    pub fn all(&self) -> Vec<(String, Arc<PodInfo>)> {
        let sorted: BTreeMap<&String, &(String, Arc<PodInfo>)> = self.by_uid.iter().collect();
        sorted.into_values().cloned().collect()
    }
}
