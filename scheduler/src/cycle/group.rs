//! Groups of pods: all members that wait are decided on together.

use std::{sync::Arc, time::Duration};

use component_base::{
    features::Gate,
    informer::Event,
    meta::{ObjectKey, condition, is_condition_true, set_condition},
    workqueue::chain,
};
use k8s_openapi::{
    api::{core::v1::Pod, scheduling::v1alpha2::PodGroup},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{AttemptError, Cycle, Outcome};
use crate::{
    act::Preemptor,
    metrics::Attempt,
    model::{GroupInfo, PodInfo},
    plan::{
        self, LetGo, Next, Options, Preemption,
        group::{self, GroupDecision, Rehearsal, Rules, Standing, Tried, Turn},
    },
};

/// The condition that tells how a group stands.
const SCHEDULED: &str = "PodGroupScheduled";

/// A pod whose turn it is, the number of this attempt and how long it has waited.
type Popped = (Arc<PodInfo>, u32, Duration);

/// Why a group could not be decided on.
#[derive(Debug, thiserror::Error)]
enum GroupError {
    #[error(
        "all pods in a single pod group should have the same .spec.schedulerName set, got: {0:?} and {1:?}"
    )]
    Names(String, String),
    #[error("failed to schedule other pod from a pod group")]
    Attempt {
        /// The pod it failed with.
        uid: String,
        #[source]
        source: AttemptError,
    },
    #[error("{0}")]
    Domains(String),
}

impl GroupError {
    /// What a pod of the group is told.
    fn told(&self, pod: &PodInfo) -> String {
        match self {
            Self::Attempt { uid, source } if *uid == pod.uid => chain(source),
            _ => chain(self),
        }
    }
}

impl Cycle {
    pub(super) fn take_group(&mut self, event: &Event<PodGroup>) {
        self.cluster.groups.take(event);
        let group = GroupInfo::new(event.object());
        self.reconsider(&group.key(), "scheduling.k8s.io/PodGroupAdd");
    }

    /// Keeps who belongs to which group.
    pub(super) fn take_member(&mut self, event: &Event<Pod>, pod: &Arc<PodInfo>) {
        if !self.features.has(Gate::GenericWorkload) {
            return;
        }
        match matches!(event, Event::Deleted { .. }) || pod.finished {
            true => self.cluster.groups.leave(pod),
            false => self.cluster.groups.join(pod),
        }
    }

    /// Lets those members of a group be tried that nothing holds back any more.
    pub(super) fn reconsider(&mut self, group: &ObjectKey, event: &'static str) {
        let members: Vec<Arc<PodInfo>> = self.cluster.groups.members(group).cloned().collect();
        let now = self.now();
        for pod in members {
            if self.queue.contains(&pod.uid) && self.gated_by(&pod).is_none() {
                self.queue.ungate(&pod.uid, event, now);
            }
        }
    }

    pub(super) async fn decide_group(&mut self, key: &ObjectKey, first: Popped) {
        let members = self.gather(key, first);
        let Some((leader, ..)) = members.first() else { return };
        let Some(at) = self.profile(leader) else { return };
        let group = self.cluster.groups.get(key).cloned();
        let began = self.clock.now();
        let since = |cycle: &Self| cycle.clock.now().duration_since(began).as_secs_f64();
        let pods: Vec<Arc<PodInfo>> = members.iter().map(|(pod, ..)| pod.clone()).collect();
        let decision = self.rehearse(at, group.as_deref(), &pods).await;
        let decided = since(self);
        let (result, said) = match &decision {
            Ok(GroupDecision { standing: Standing::Fits, .. }) => ("scheduled", ("True", "Scheduled")),
            Ok(GroupDecision { standing: Standing::MakesRoom, .. }) => {
                ("waiting_on_preemption", ("False", "Unschedulable"))
            }
            Ok(_) => ("unschedulable", ("False", "Unschedulable")),
            Err(_) => ("error", ("False", "SchedulerError")),
        };
        let message = match decision {
            Ok(decision) => {
                let message = decision.message.clone();
                self.carry_out(at, group.as_deref(), decision, &members, began).await;
                message
            }
            Err(error) => {
                for pod in &pods {
                    self.metrics.attempt(&self.profiles[at].name, "error", decided);
                    self.failed(pod, error.told(pod));
                }
                // A group that names several schedulers is nobody's to speak of.
                if matches!(error, GroupError::Names(..)) {
                    return;
                }
                chain(&error)
            }
        };
        self.metrics.group(result, &self.profiles[at].name, (decided, since(self)));
        tracing::debug!(group = %key, result, pods = pods.len(), "group decided");
        let now = self.clock.time();
        if let Some(group) = group
            && let Some(condition) = next_condition(&group, said, message, &now)
        {
            self.actor.group_status(&group, condition);
        }
    }

    /// All members that wait, the most important first; those that may not be tried any more are left behind.
    fn gather(&mut self, key: &ObjectKey, first: Popped) -> Vec<Popped> {
        let now = self.now();
        let others: Vec<String> = self.cluster.groups.members(key).map(|pod| pod.uid.clone()).collect();
        let mut out = vec![first];
        out.extend(others.iter().filter_map(|uid| self.queue.pop_pod(uid, now)));
        out.retain(|(pod, ..)| match self.gated_by(pod) {
            None => true,
            Some(by) => {
                self.queue.gate(&pod.uid, by);
                false
            }
        });
        out.sort_by_key(|(pod, _, waited)| (std::cmp::Reverse(pod.priority), std::cmp::Reverse(*waited)));
        out
    }

    async fn rehearse(
        &self,
        at: usize,
        group: Option<&GroupInfo>,
        pods: &[Arc<PodInfo>],
    ) -> Result<GroupDecision, GroupError> {
        let name = &self.profiles[at].name;
        if let Some(other) = pods.iter().find(|pod| pod.scheduler_name != *name) {
            return Err(GroupError::Names(name.clone(), other.scheduler_name.clone()));
        }
        let budgets = self.read_budgets();
        let nominated = self.nominations.all();
        let plugins = &self.profiles[at].plugins;
        let watch = self.stopwatch(at);
        let options = Options { stopwatch: Some(&watch), ..self.options(at) };
        let as_whole = self.features.has(Gate::WorkloadAwarePreemption);
        let near = self.features.has(Gate::TopologyAwareWorkloadScheduling);
        let room = match self.profiles[at].preemption {
            _ if near && group.is_some_and(|group| group.is_constrained) => {
                Err("preemption: not eligible due to placement-based pod group scheduling limitation")
            }
            _ if as_whole => Err("preemption: not eligible due to workload aware preemption enabled"),
            Some(args) => Ok((&*budgets, args)),
            None => Err(""),
        };
        let rules = Rules { plugins, nominated: &nominated, options, room };
        let domains = group.filter(|_| near).and_then(|group| group::domains(group, &self.cluster, rules));
        let mut decision = match domains {
            None => self.try_all(at, Rehearsal::new(self.cluster.clone()), pods, rules).await?.end(),
            Some(domains) => {
                let mut rehearsals = Vec::new();
                for domain in domains.map_err(GroupError::Domains)? {
                    let within = self.cluster.within(|node| domain.nodes.binary_search(&node.name).is_ok());
                    rehearsals.push(self.try_all(at, Rehearsal::new(within), pods, rules).await?);
                }
                group::best_domain(rehearsals, rules)
            }
        };
        if let Some(group) = group.filter(|_| as_whole && decision.standing == Standing::Refused) {
            let room = match (&group.topology_key, self.profiles[at].preemption) {
                (_, None) => {
                    Err("default preemption plugin is not registered, workload aware preemption is \
                                  disabled"
                        .to_owned())
                }
                (Some(_), _) => Err(
                    "workload aware preemption is not supported for pod groups with scheduling constraints"
                        .to_owned(),
                ),
                (None, Some(_)) => group::room_for(group, pods, self.cluster.clone(), rules, &budgets),
            };
            decision.make_room(room);
        }
        Ok(decision)
    }

    /// Tries one pod after the other, asking the extenders where they have a say.
    async fn try_all(
        &self,
        at: usize,
        mut rehearsal: Rehearsal,
        pods: &[Arc<PodInfo>],
        rules: Rules<'_>,
    ) -> Result<Rehearsal, GroupError> {
        for pod in pods {
            let outcome = match self.asked(pod) {
                None => rehearsal.attempt(pod, rules).map_or_else(Outcome::from, Outcome::Placed),
                Some(object) => self.consult(at, pod, &object, rehearsal.cluster()).await,
            };
            let outcome = match outcome {
                Outcome::Placed(placement) => Ok(placement),
                Outcome::Unschedulable(failure) => Err(failure),
                Outcome::Failed(source) => {
                    return Err(GroupError::Attempt { uid: pod.uid.clone(), source });
                }
            };
            rehearsal.take(pod, outcome, rules);
        }
        Ok(rehearsal)
    }

    async fn carry_out(
        &mut self,
        at: usize,
        group: Option<&GroupInfo>,
        decision: GroupDecision,
        members: &[Popped],
        began: jiff::Timestamp,
    ) {
        let GroupDecision { tried, standing, victims, message } = decision;
        let profile = self.profiles[at].name.clone();
        if let Some(group) = group.filter(|_| !victims.is_empty()) {
            let preemptor = Preemptor::group(group, &profile);
            match self.features.has(Gate::SchedulerAsyncPreemption) {
                true => self.evict(victims.clone(), preemptor),
                // Who could not be told was said; the pods wait and are tried again in any case.
                false => {
                    let here: Vec<_> = victims.iter().filter(|victim| !victim.terminating).cloned().collect();
                    self.actor.evict_now(&here, &preemptor).await.unwrap_or_default();
                }
            }
        }
        if !victims.is_empty() {
            self.metrics.preempted(Some(victims.len()));
        }
        for (pod, ..) in members.iter().filter(|(pod, ..)| !tried.iter().any(|t| t.pod.uid == pod.uid)) {
            self.hold(pod, message.clone(), String::new());
        }
        for tried in tried {
            let Some((_, number, waited)) = members.iter().find(|(pod, ..)| pod.uid == tried.pod.uid) else {
                continue;
            };
            let held = tried.message(standing, &message);
            let Tried { pod, turn, .. } = tried;
            if !matches!((&turn, standing), (Turn::Placed(_), Standing::Fits)) {
                let took = self.clock.now().duration_since(began).as_secs_f64();
                self.metrics.attempt(&profile, "unschedulable", took);
            }
            match (turn, standing) {
                (Turn::Placed(placement), Standing::Fits) => {
                    let attempt = Attempt {
                        profile: profile.clone(),
                        began,
                        number: *number,
                        waited: *waited,
                        was_forgotten: self.queue.was_forgotten(&pod.uid),
                        timed: self.sampling.is_on(),
                        failures: self.queue.failures(&pod.uid),
                    };
                    self.bind(&pod, at, placement, attempt);
                }
                (Turn::Placed(placement), Standing::MakesRoom) => self.hold(&pod, held, placement.node),
                (Turn::MakesRoom { node, victims, failure }, Standing::MakesRoom) => {
                    self.metrics.preempted(Some(victims.len()));
                    self.refused(&pod, &failure, Preemption::Evict { node, victims });
                }
                (Turn::Placed(_) | Turn::MakesRoom { .. }, _) => self.hold(&pod, held, String::new()),
                (Turn::Refused { failure, note, hopeless }, _) => {
                    let LetGo { claim, note: said, next } =
                        plan::let_go(&pod, &self.cluster, &self.profiles[at].plugins, &failure);
                    claim.into_iter().for_each(|claim| self.actor.release(claim));
                    let none = match (next, hopeless) {
                        (Next::Wait, _) => Preemption::Helpless(String::new()),
                        (Next::GiveUp, _) => Preemption::Hopeless(String::new()),
                        (Next::MakeRoom, true) => Preemption::Hopeless(note),
                        (Next::MakeRoom, false) => Preemption::Helpless(note),
                    };
                    self.refused(&pod, &failure, none.after(said));
                }
            }
        }
    }

    /// A pod has a place that its group does not let it take (yet): it is tried again after its back-off.
    fn hold(&mut self, pod: &Arc<PodInfo>, message: String, node: String) {
        match node.is_empty() {
            true => self.nominations.remove(&pod.uid),
            false => self.nominations.add(&node, pod.clone()),
        }
        let now = self.now();
        if self.said.is_due(&pod.uid, &message, now) || pod.nominated_node != node {
            self.actor.unschedulable(pod, "Unschedulable", message, Some(node));
        }
        self.queue.failed(&pod.uid, Vec::new(), now);
    }
}

/// The condition to write, if it is another one. A group that was placed once stays so, whatever becomes of pods that
/// come later.
fn next_condition(
    group: &GroupInfo,
    (status, reason): (&str, &str),
    message: String,
    now: &Time,
) -> Option<Condition> {
    if is_condition_true(&group.conditions, SCHEDULED) && status != "True" {
        return None;
    }
    let mut conditions = group.conditions.clone();
    let new = Condition {
        type_: SCHEDULED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: group.generation,
        last_transition_time: now.clone(),
    };
    let changed = set_condition(&mut conditions, new, now);
    changed.then(|| condition(&conditions, SCHEDULED).cloned()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_pod_is_told_to_the_others_as_such() {
        let reason = "nobody knows".into();
        let source = AttemptError::Filter(plan::FilterError { plugin: "NodePorts", reason });
        let error = GroupError::Attempt { uid: "uid-p".to_owned(), source };
        let told = |name: &str| error.told(&crate::testing::pod(name).group("g").info());
        assert_eq!(told("p"), "running \"NodePorts\" filter plugin: nobody knows");
        assert_eq!(told("q"), format!("failed to schedule other pod from a pod group: {}", told("p")));
    }

    #[test]
    fn a_group_once_placed_stays_so_and_the_same_is_not_written_again() {
        let (first, later): (Time, Time) =
            (Time("2026-01-01T00:00:00Z".parse().unwrap()), Time("2026-01-01T00:01:00Z".parse().unwrap()));
        let mut group = GroupInfo { generation: Some(3), ..GroupInfo::default() };
        let refused = ("False", "Unschedulable");
        let written = next_condition(&group, refused, "no".to_owned(), &first).unwrap();
        assert_eq!((written.observed_generation, &written.last_transition_time), (Some(3), &first));
        group.conditions = vec![written];
        assert_eq!(next_condition(&group, refused, "no".to_owned(), &later), None);
        let other = next_condition(&group, refused, "not yet".to_owned(), &later).unwrap();
        assert_eq!(other.last_transition_time, first, "the status is the same");
        let placed = next_condition(&group, ("True", "Scheduled"), String::new(), &later).unwrap();
        assert_eq!((placed.status.as_str(), &placed.last_transition_time), ("True", &later));
        group.conditions = vec![placed];
        assert_eq!(next_condition(&group, refused, "no".to_owned(), &later), None);
    }
}
