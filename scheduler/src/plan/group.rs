//! Decisions about groups: their pods are tried one after the other on a copy of the cluster, each as if those before it
//! were there, and only if enough of them find a node is any of them bound.
//!
//! Contract: KEP-4671 and upstream's pod group scheduling cycle. Unlike there nobody is evicted for a group that would
//! not fit even so.

mod room;

use std::sync::Arc;

pub use room::room_for;

use super::{Budget, Means, Memo, Options, Placement, Preemption, Unschedulable, preempt, schedule};
use crate::{
    config::args::DefaultPreemptionArgs,
    framework::Reason,
    metrics::Status,
    model::{Cluster, GroupInfo, PodInfo},
    plugins::Weighted,
};

/// What a pod is told whose group does not fit, and the group itself.
const UNSCHEDULABLE: &str = "pod group is unschedulable";

/// What decides.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The profile's plugins.
    pub plugins: &'a [Weighted],
    /// Pods for which room was made, with their nodes.
    pub nominated: &'a [(String, Arc<PodInfo>)],
    /// As for a single pod.
    pub options: Options<'a>,
    /// What making room for single pods goes by, or why it is not made.
    pub room: Result<(&'a [Budget], DefaultPreemptionArgs), &'static str>,
}

/// What a pod's turn came to.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It fits.
    Placed(Placement),
    /// It fits once others have gone.
    MakesRoom {
        /// The node.
        node: String,
        /// Who has to go.
        victims: Vec<Arc<PodInfo>>,
        /// Why it does not fit as it is.
        failure: Unschedulable,
    },
    /// No node takes it.
    Refused {
        /// Why.
        failure: Unschedulable,
        /// Why no room can be made.
        note: String,
        /// Whether room that was made for it before is given up.
        hopeless: bool,
    },
}

/// A pod whose turn has been.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// What it came to.
    pub turn: Turn,
    /// What it waits for though it has a place.
    waits: Option<Reason>,
}

/// How a group stands after all its pods have been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Those that fit may be bound.
    Fits,
    /// It fits once others have gone.
    MakesRoom,
    /// It does not fit.
    Refused,
}

/// What becomes of a group.
#[derive(Clone, Debug)]
pub struct GroupDecision {
    /// Its pods in the order they were tried.
    pub tried: Vec<Tried>,
    /// How it stands.
    pub standing: Standing,
    /// Pods that go for the group as a whole.
    pub victims: Vec<Arc<PodInfo>>,
    /// What is said of it; empty if it fits.
    pub message: String,
}

/// Nodes that a group may be placed on together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What is common to them.
    pub name: String,
    /// Their names, in order.
    pub nodes: Vec<smol_str::SmolStr>,
}

/// Pods being tried on a copy of the cluster.
#[derive(Debug)]
pub struct Rehearsal {
    cluster: Cluster,
    memo: Memo,
    tried: Vec<Tried>,
    fits: bool,
    makes_room: bool,
}

// === impl Tried ===

impl Tried {
    /// What is said of a pod that has a place its group does not let it take.
    pub fn message(&self, standing: Standing, of_group: &str) -> String {
        match (standing, &self.waits) {
            (Standing::Refused, Some(why)) => format!("{UNSCHEDULABLE}, {why}"),
            (Standing::Refused, None) => UNSCHEDULABLE.to_owned(),
            _ => of_group.to_owned(),
        }
    }
}

// === impl GroupDecision ===

impl GroupDecision {
    /// Takes over who goes for a group that was refused, or why nobody does.
    pub fn make_room(&mut self, room: Result<Vec<Arc<PodInfo>>, String>) {
        match room {
            Ok(victims) => {
                self.victims = victims;
                self.standing = Standing::MakesRoom;
            }
            Err(why) => self.message = format!("{}, {why}", self.message),
        }
    }
}

// === impl Rehearsal ===

impl Rehearsal {
    /// A rehearsal on a cluster of its own.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, memo: Memo::default(), tried: Vec::new(), fits: false, makes_room: false }
    }

    /// The cluster with those pods that have been placed.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Tries a pod.
    pub fn attempt(&mut self, pod: &PodInfo, rules: Rules<'_>) -> Result<Placement, Unschedulable> {
        let guests = self.guests(rules);
        schedule(pod, &self.cluster, rules.plugins, &guests, rules.options, &mut self.memo)
    }

    /// Who has been placed is no guest any more.
    fn guests(&self, rules: Rules<'_>) -> Vec<(String, Arc<PodInfo>)> {
        let waits = |guest: &&(String, Arc<PodInfo>)| self.cluster.placement(&guest.1.uid).is_none();
        rules.nominated.iter().filter(waits).cloned().collect()
    }

    /// Takes over what a pod's attempt came to, looking for room where it failed.
    pub fn take(&mut self, pod: &Arc<PodInfo>, outcome: Result<Placement, Unschedulable>, rules: Rules<'_>) {
        let turn = match outcome {
            Ok(placement) => Turn::Placed(placement),
            Err(failure) => self.look_for_room(pod, failure, rules),
        };
        let mut waits = None;
        if let Some(node) = self.assume(pod, &turn) {
            self.makes_room |= matches!(turn, Turn::MakesRoom { .. });
            let of_node = match &turn {
                Turn::Placed(placement) => placement.reservation.of_node.as_slice(),
                _ => &[],
            };
            self.cluster.place(Arc::new(pod.placed(&node, of_node)));
            rules.options.begin();
            let asked = rules.plugins.iter().filter(|w| w.points.permits);
            waits = asked.filter_map(|w| w.plugin.permit(pod, &self.cluster).err()).next();
            rules.options.end("Permit", if waits.is_none() { Status::Success } else { Status::Wait });
            self.fits |= waits.is_none();
        }
        self.tried.push(Tried { pod: pod.clone(), turn, waits });
    }

    fn look_for_room(&self, pod: &PodInfo, failure: Unschedulable, rules: Rules<'_>) -> Turn {
        let (budgets, args) = match rules.room {
            Ok(room) => room,
            Err(note) => return Turn::Refused { failure, note: note.to_owned(), hopeless: false },
        };
        let nominated = &*self.guests(rules);
        let means = Means { budgets, args, nominated, start: rules.options.start };
        match preempt(pod, &self.cluster, rules.plugins, &failure, means) {
            Preemption::Evict { node, victims } => Turn::MakesRoom { node, victims, failure },
            Preemption::Helpless(note) => Turn::Refused { failure, note, hopeless: false },
            Preemption::Hopeless(note) => Turn::Refused { failure, note, hopeless: true },
        }
    }

    /// Makes what a turn takes taken; the node it goes to.
    fn assume(&mut self, pod: &PodInfo, turn: &Turn) -> Option<String> {
        match turn {
            Turn::Placed(placement) => {
                self.cluster.storage.assume(&placement.reservation);
                self.cluster.devices.assume(&placement.reservation);
                Some(placement.node.clone())
            }
            Turn::MakesRoom { node, victims, .. } => {
                tracing::debug!(pod = pod.key(), node, victims = victims.len(), "would make room");
                for victim in victims {
                    self.cluster.displace(&victim.uid);
                }
                Some(node.clone())
            }
            Turn::Refused { .. } => None,
        }
    }

    /// How the group stands.
    pub fn standing(&self) -> Standing {
        match (self.fits, self.makes_room) {
            (true, false) => Standing::Fits,
            (true, true) => Standing::MakesRoom,
            (false, _) => Standing::Refused,
        }
    }

    /// Gives the cluster back as it was. Only for rehearsals that made no room.
    fn undo(self) -> (Cluster, Memo) {
        let mut cluster = self.cluster;
        for tried in &self.tried {
            if let Turn::Placed(placement) = &tried.turn {
                cluster.displace(&tried.pod.uid);
                cluster.storage.forget(&placement.reservation);
                cluster.devices.forget(&placement.reservation);
            }
        }
        (cluster, self.memo)
    }

    /// The decision.
    pub fn end(self) -> GroupDecision {
        let standing = self.standing();
        let message = match standing {
            Standing::Fits => String::new(),
            Standing::MakesRoom => {
                format!("{UNSCHEDULABLE}, pod group is waiting for preemption to complete")
            }
            Standing::Refused => UNSCHEDULABLE.to_owned(),
        };
        GroupDecision { tried: self.tried, standing, victims: Vec::new(), message }
    }
}

/// Tries all pods of a group in their order.
pub fn rehearse(mut rehearsal: Rehearsal, pods: &[Arc<PodInfo>], rules: Rules<'_>) -> Rehearsal {
    for pod in pods {
        let outcome = rehearsal.attempt(pod, rules);
        rehearsal.take(pod, outcome, rules);
    }
    rehearsal
}

/// Where a group may be placed, if a plugin has a say about it.
pub fn domains(
    group: &GroupInfo,
    cluster: &Cluster,
    Rules { plugins, options, .. }: Rules<'_>,
) -> Option<Result<Vec<Domain>, String>> {
    options.begin();
    let asked = plugins.iter().filter(|w| w.points.generates);
    let said = asked.filter_map(|w| w.plugin.domains(group, cluster)).next()?;
    options.end("PlacementGenerate", Status::of(said.is_ok()));
    Some(said)
}

/// The best of the domains that a group was rehearsed in, one after the other.
pub fn best_domain(rehearsals: Vec<Rehearsal>, Rules { plugins, options, .. }: Rules<'_>) -> GroupDecision {
    let count = rehearsals.len();
    let (good, mut bad): (Vec<_>, Vec<_>) =
        rehearsals.into_iter().partition(|rehearsal| rehearsal.standing() != Standing::Refused);
    if count == 0 {
        return refused("no feasible placements found".to_owned());
    }
    if good.is_empty() {
        let mut first = bad.swap_remove(0).end();
        first.message =
            format!("0/{count} placements are available, first placement status: {}", first.message);
        return first;
    }
    options.begin();
    let mut totals = vec![0; good.len()];
    for Weighted { plugin, domain_weight, .. } in plugins.iter().filter(|w| w.domain_weight > 0) {
        let placed = |rehearsal: &Rehearsal| {
            let has_place = |tried: &&Tried| !matches!(tried.turn, Turn::Refused { .. });
            let pods: Vec<_> = rehearsal.tried.iter().filter(has_place).map(|t| t.pod.clone()).collect();
            plugin.score_domain(&pods, &rehearsal.cluster)
        };
        let scores: Vec<i64> = good.iter().filter_map(placed).collect();
        if scores.len() == good.len() {
            let scores = plugin.normalize_domains(scores);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * domain_weight);
        }
    }
    options.end("PlacementScore", Status::Success);
    let best = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..good.len()).filter(|i| totals[*i] == best).collect();
    let winner = winners.get(usize::try_from(options.tie).unwrap_or(usize::MAX) % winners.len().max(1));
    match winner.and_then(|at| good.into_iter().nth(*at)) {
        Some(best) => best.end(),
        None => refused(UNSCHEDULABLE.to_owned()),
    }
}

/// A group none of whose pods was tried.
fn refused(message: String) -> GroupDecision {
    GroupDecision { tried: Vec::new(), standing: Standing::Refused, victims: Vec::new(), message }
}

#[cfg(test)]
mod tests;
