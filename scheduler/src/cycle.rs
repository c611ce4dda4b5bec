//! The loop that owns model and queue: takes changes in, decides pod by pod or group by group, hands decisions to
//! `act`.

mod group;
mod said;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use component_base::{
    clock::SharedClock,
    features::{Gate, Gates},
    informer::{Event, Informer},
    meta::ObjectKey,
    selector::LabelSelector,
    workqueue::chain,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
    scheduling::v1alpha2::PodGroup,
};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::mpsc;

use self::said::Said;
use crate::{
    act::{Actor, Preemptor},
    config::args::DefaultPreemptionArgs,
    extender::{self, ExtenderError, Extenders},
    framework::{ClusterEvent, Plugin},
    metrics::{Attempt, Metrics, Status},
    model::{
        Cluster, DeviceChange, DeviceEvent, NodeInfo, PodInfo, Reservation, SelectorChange, StorageChange,
    },
    plan::{
        self, Budget, FilterError, LetGo, Means, Next, Nominations, Options, Placement, Preemption,
        Stopwatch, Unschedulable,
    },
    plugins::{Weighted, measured::Sampling},
    profile::Profile,
    queue::{BackOff, Instant, Queue},
};

/// Something the loop must know.
pub enum Change {
    /// A pod.
    Pod(Event<Pod>),
    /// A node.
    Node(Event<Node>),
    /// A namespace.
    Namespace(Event<Namespace>),
    /// A claim, a volume, or something that makes them.
    Storage(StorageChange),
    /// Devices, their classes or claims.
    Devices(DeviceChange),
    /// A group of pods.
    Group(Event<PodGroup>),
    /// What a service or a controller selects.
    Selector(SelectorChange),
    /// Those who have to leave room for a pod or a group have been told.
    MadeRoom(Preemptor),
    /// A pod could not be bound.
    BindingFailed {
        /// The pod.
        pod: Arc<PodInfo>,
        /// What was to be written before, and may not have been.
        reservation: Reservation,
        /// Whether it is gone.
        gone: bool,
        /// The attempt.
        attempt: Attempt,
    },
}

/// The extenders, and the caches of what they are asked about.
pub struct Advisers {
    /// Who is asked.
    pub extenders: Extenders,
    /// All pods.
    pub pods: Informer<Pod>,
    /// All nodes.
    pub nodes: Informer<Node>,
}

/// What an attempt came to.
enum Outcome {
    Placed(Placement),
    Unschedulable(Unschedulable),
    Failed(AttemptError),
}

/// Somebody who has a say could not tell.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Extender(#[from] ExtenderError),
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl From<Unschedulable> for Outcome {
    fn from(failure: Unschedulable) -> Self {
        match failure.failed {
            Some(error) => Self::Failed(error.into()),
            None => Self::Unschedulable(failure),
        }
    }
}

/// Who holds back pods for which others are being told to go.
const PREEMPTION: &str = "DefaultPreemption";
/// They are not held back any more.
const ACTIVATED: &str = "ForceActivate";

/// The loop's state.
pub struct Cycle {
    profiles: Vec<Profile>,
    features: Gates,
    cluster: Cluster,
    queue: Queue,
    nominations: Nominations,
    actor: Actor,
    budgets: Informer<PodDisruptionBudget>,
    advisers: Advisers,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    began: Timestamp,
    /// Pods that were placed here, and that the server does not show on their nodes yet.
    assumed: HashSet<String>,
    /// Pods and groups for which others are being told to go.
    preempting: HashSet<String>,
    /// What was last said of pods.
    said: Said,
    start: usize,
    /// How many there have been.
    decisions: u32,
    events: u32,
    /// What nodes said, per profile.
    memos: Vec<plan::Memo>,
    sampling: Sampling,
}

impl Cycle {
    /// A loop for the pods that name one of the profiles.
    pub fn new(
        (profiles, features): (Vec<Profile>, Gates),
        back_off: BackOff,
        actor: Actor,
        budgets: Informer<PodDisruptionBudget>,
        advisers: Advisers,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let began = clock.now();
        let sampling = Sampling::new(clock.clone());
        let profiles: Vec<Profile> =
            profiles.into_iter().map(|profile| profile.measured(&metrics, &sampling)).collect();
        let mut cluster = Cluster::default();
        if features.has(Gate::DRAWorkloadResourceClaims) {
            cluster.groups.share_devices();
        }
        cluster.devices.gate(features);
        cluster.storage.gate(features);
        Self {
            memos: profiles.iter().map(|_| plan::Memo::default()).collect(),
            profiles,
            features,
            cluster,
            queue: Queue::new(BackOff { groups: features.has(Gate::GenericWorkload), ..back_off }),
            nominations: Nominations::default(),
            actor,
            budgets,
            advisers,
            clock,
            metrics,
            began,
            assumed: HashSet::new(),
            preempting: HashSet::new(),
            said: Said::default(),
            start: 0,
            decisions: 0,
            events: 0,
            sampling,
        }
    }

    /// Runs until the feed ends.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Change>) {
        loop {
            while let Ok(change) = changes.try_recv() {
                self.take(change);
            }
            if let Some((pod, number, waited)) = self.queue.pop(self.now()) {
                // Who is tried before all have been told would find victims again.
                if self.is_preempting(&pod) {
                    self.queue.gate(&pod.uid, PREEMPTION);
                    continue;
                }
                self.sampling.begin(self.decisions);
                self.decisions = self.decisions.wrapping_add(1);
                match pod.group_key().filter(|_| self.features.has(Gate::GenericWorkload)) {
                    Some(group) => self.decide_group(&group, (pod, number, waited)).await,
                    None => self.decide(&pod, number, waited).await,
                }
                // Changes come first again, so that a decision sees what happened meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            self.metrics.queue(&mut self.queue);
            self.metrics.model(self.cluster.nodes().len(), self.cluster.placed(), self.assumed.len());
            let wait = self
                .queue
                .next_deadline()
                .map_or(Duration::from_secs(60), |at| at.saturating_sub(self.now()));
            match tokio::time::timeout(wait, changes.recv()).await {
                Ok(Some(change)) => self.take(change),
                Ok(None) => return,
                // A pod's wait is over.
                Err(_) => {}
            }
        }
    }

    fn now(&self) -> Instant {
        Duration::try_from(self.clock.now().duration_since(self.began)).unwrap_or_default()
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Pod(event) => one_by_one(event).iter().for_each(|event| self.take_pod(event)),
            Change::Node(event) => self.take_node(&event),
            Change::Namespace(event) => {
                let namespace = event.object();
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                let gone = matches!(event, Event::Deleted { .. });
                let name = namespace.metadata.name.clone().unwrap_or_default();
                self.cluster.set_namespace(&name, (!gone).then_some(labels));
                self.tell(&ClusterEvent::NamespaceChanged);
            }
            Change::Storage(change) => {
                if let Some(event) = self.cluster.storage.take(&change) {
                    self.tell(&ClusterEvent::StorageChanged(event));
                }
            }
            Change::Devices(change) => {
                let Some(event) = self.cluster.devices.take(&change) else { return };
                if event == DeviceEvent::Class {
                    // What nodes said of extended resources depended on it.
                    self.memos.iter_mut().for_each(|memo| *memo = plan::Memo::default());
                }
                self.tell(&ClusterEvent::DevicesChanged(event));
            }
            Change::Group(event) => self.take_group(&event),
            // It moves scores alone, so that nobody waits for it.
            Change::Selector(change) => self.cluster.selectors.take(change),
            Change::MadeRoom(preemptor) => {
                self.preempting.remove(preemptor.uid());
                match preemptor.as_group() {
                    Some(group) => self.reconsider(&group, ACTIVATED),
                    None => self.queue.ungate(preemptor.uid(), ACTIVATED, self.now()),
                }
            }
            Change::BindingFailed { pod, reservation, gone, attempt } => {
                let began = self.clock.now();
                // Meanwhile it may have been deleted, or the server may show it on its node after all.
                let is_assumed = self.assumed.remove(&pod.uid);
                if is_assumed {
                    self.cluster.displace(&pod.uid);
                }
                self.cluster.storage.forget(&reservation);
                self.cluster.devices.forget(&reservation);
                let took = self.clock.now().duration_since(began).as_secs_f64();
                self.metrics.point("Unreserve", Status::Success, &pod.scheduler_name, took);
                let object = self.object(&pod).filter(|_| is_assumed && !gone);
                match object.map(|object| PodInfo::new(&object, self.features)) {
                    Some(now) if now.uid == pod.uid => {
                        let failures = (attempt.number, attempt.failures);
                        self.queue.put_back(now, failures, attempt.waited, self.now());
                    }
                    _ => self.forget(&pod.uid),
                }
                if self.cluster.placement(&pod.uid).is_none() {
                    self.tell(&ClusterEvent::PodRemoved(pod));
                }
            }
        }
    }

    fn take_node(&mut self, event: &Event<Node>) {
        match event {
            Event::Deleted { last, .. } => {
                let name = last.metadata.name.as_deref().unwrap_or_default();
                let known = self.cluster.node(name).cloned();
                self.cluster.remove_node(name);
                if let Some(node) = known {
                    self.tell(&ClusterEvent::NodeRemoved(node));
                }
            }
            Event::Added { new, .. } | Event::Updated { new, .. } => {
                let name = new.metadata.name.as_deref().unwrap_or_default();
                let old = self.cluster.node(name).cloned();
                self.cluster.set_node(NodeInfo::new(new));
                let Some(new) = self.cluster.node(name).cloned() else { return };
                let event = match old {
                    // Most updates are the node's signs of life.
                    Some(old) if old.takes_the_same(&new) => return,
                    Some(old) => ClusterEvent::NodeUpdated { old, new },
                    None => ClusterEvent::NodeAdded(new),
                };
                self.tell(&event);
            }
        }
    }

    fn take_pod(&mut self, event: &Event<Pod>) {
        let pod = PodInfo::new(event.object(), self.features);
        self.take_member(event, &pod);
        if matches!(event, Event::Deleted { .. }) || pod.finished {
            if self.assumed.remove(&pod.uid) {
                self.actor.deleted(&pod);
            }
            let was_nominated = self.nominations.contains(&pod.uid) || !pod.nominated_node.is_empty();
            self.forget(&pod.uid);
            if self.cluster.displace(&pod.uid) {
                self.tell(&ClusterEvent::PodRemoved(pod));
            } else if was_nominated && pod.node_name.is_empty() && self.profile(&pod).is_some() {
                self.vacated(pod);
            }
        } else if !pod.node_name.is_empty() {
            self.assumed.remove(&pod.uid);
            self.forget(&pod.uid);
            // One that was placed here counts since then, and is there for others once the server says so.
            let was_bound = |old: &Pod| old.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let is_news = matches!(event, Event::Updated { old, .. } if !was_bound(old));
            let known = self.cluster.known(&pod).filter(|_| !is_news).cloned();
            self.cluster.place(pod.clone());
            match known {
                None => self.tell(&ClusterEvent::PodPlaced(pod)),
                Some(old) if old.labels != pod.labels || old.requests.exceeds(&pod.requests) => {
                    self.tell(&ClusterEvent::PodUpdated { old, new: pod });
                }
                Some(_) => {}
            }
        } else if self.profile(&pod).is_some() && !pod.terminating {
            self.take_pending(event, pod.clone());
            if let Some(group) = pod.group_key() {
                self.reconsider(&group, "UnschedulablePodAdd");
            }
        } else {
            if pod.terminating && self.queue.contains(&pod.uid) {
                self.actor.skipped(&pod);
            }
            self.forget(&pod.uid);
            // It cannot be bound any more: what was kept for it is free.
            if pod.terminating && self.assumed.remove(&pod.uid) {
                self.actor.deleted(&pod);
                if self.cluster.displace(&pod.uid) {
                    self.tell(&ClusterEvent::PodRemoved(pod));
                }
            }
        }
    }

    fn take_pending(&mut self, event: &Event<Pod>, pod: Arc<PodInfo>) {
        // While its binding is under way the pod counts as placed; its own update says nothing new.
        if self.cluster.placement(&pod.uid).is_some() {
            return;
        }
        let gated = self.gated_by(&pod);
        let now = self.now();
        self.queue.add(pod.clone(), gated, now);
        let Event::Updated { old, .. } = event else {
            self.metrics.handled("UnschedulablePodAdd", (self.now().saturating_sub(now)).as_secs_f64());
            if gated.is_none() {
                self.nominate(None, &pod);
            }
            return;
        };
        let old = PodInfo::new(old, self.features);
        let changed = ClusterEvent::PodChanged { old: old.clone(), new: pod.clone() };
        self.tell_those(|other| other.uid == pod.uid, &changed);
        self.nominate(Some(&old), &pod);
        if !old.nominated_node.is_empty() && old.nominated_node != pod.nominated_node {
            self.vacated(old);
        }
    }

    /// Keeps the room that a pod's status says is made for it. Where it said nothing and says nothing, room may be being
    /// made all the same.
    fn nominate(&mut self, old: Option<&PodInfo>, pod: &Arc<PodInfo>) {
        if !pod.nominated_node.is_empty() {
            self.nominations.add(&pod.nominated_node, pod.clone());
        } else if old.is_some_and(|old| !old.nominated_node.is_empty()) {
            self.nominations.remove(&pod.uid);
        }
    }

    /// Room that was made for a pod is not for it any more: those that had to leave it to the pod may have it.
    fn vacated(&mut self, pod: Arc<PodInfo>) {
        let priority = pod.priority;
        self.tell_those(|other| other.priority <= priority, &ClusterEvent::PodRemoved(pod));
    }

    /// Whether others are being told to go for the pod or its group.
    fn is_preempting(&self, pod: &PodInfo) -> bool {
        let group = || self.cluster.groups.get(&pod.group_key()?);
        !self.preempting.is_empty()
            && (self.preempting.contains(&pod.uid)
                || group().is_some_and(|group| self.preempting.contains(&group.uid)))
    }

    /// Tells pods to go for others, in the background. Those that go already need not be told.
    fn evict(&mut self, victims: Vec<Arc<PodInfo>>, preemptor: Preemptor) {
        let here: Vec<Arc<PodInfo>> = victims.into_iter().filter(|victim| !victim.terminating).collect();
        if !here.is_empty() {
            self.preempting.insert(preemptor.uid().to_owned());
            self.actor.evict(here, preemptor);
        }
    }

    /// The plugin that holds the pod back, if one does.
    fn gated_by(&self, pod: &PodInfo) -> Option<&'static str> {
        let began = self.clock.now();
        let plugins = self.profile(pod).into_iter().flat_map(|at| &self.profiles[at].plugins);
        let holds = |w: &&Weighted| w.plugin.may_enqueue(pod, &self.cluster).is_err();
        let holding = plugins.filter(|w| w.points.gates).filter(holds);
        let found = holding.min_by_key(|w| w.turns.gates).map(|w| w.plugin.name());
        let status = if found.is_none() { Status::Success } else { Status::Unresolvable };
        let took = self.clock.now().duration_since(began).as_secs_f64();
        self.metrics.point("PreEnqueue", status, &pod.scheduler_name, took);
        found
    }

    /// The profile that a pod names.
    fn profile(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name)
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.nominations.remove(uid);
        self.said.forget(uid);
    }

    fn tell(&mut self, event: &ClusterEvent) {
        self.tell_those(|_| true, event);
    }

    fn tell_those(&mut self, is_told: impl Fn(&PodInfo) -> bool, event: &ClusterEvent) {
        let now = self.now();
        self.sampling.begin_event(self.events);
        self.events = self.events.wrapping_add(1);
        let all = self.profiles.iter().flat_map(|profile| &profile.plugins);
        let plugins: Vec<&dyn Plugin> = all.map(|w| w.plugin.as_ref()).collect();
        for pod in self.queue.event_for(is_told, event, &plugins, now) {
            if self.gated_by(&pod).is_none() {
                self.queue.ungate(&pod.uid, event.label(), now);
            }
        }
        let took = self.now().saturating_sub(now);
        self.metrics.handled(event.label(), took.as_secs_f64());
    }

    async fn decide(&mut self, pod: &Arc<PodInfo>, number: u32, waited: Duration) {
        let Some(at) = self.profile(pod) else { return };
        let started = self.clock.now();
        let asked = self.asked(pod);
        let outcome = match &asked {
            Some(object) => self.consult(at, pod, object, &self.cluster).await,
            None => self.schedule(at, pod),
        };
        let seconds = self.clock.now().duration_since(started).as_secs_f64();
        self.metrics.decided(seconds);
        let profile = &self.profiles[at];
        match outcome {
            Outcome::Placed(placement) => {
                let was_forgotten = self.queue.was_forgotten(&pod.uid);
                let profile = profile.name.clone();
                let (timed, failures) = (self.sampling.is_on(), self.queue.failures(&pod.uid));
                let attempt =
                    Attempt { profile, began: started, number, waited, was_forgotten, timed, failures };
                self.bind(pod, at, placement, attempt);
            }
            Outcome::Unschedulable(failure) => {
                self.metrics.attempt(&profile.name, "unschedulable", seconds);
                let outcome = self.after_refusal(pod, at, &failure).await;
                match outcome {
                    Ok(preemption) => self.refused(pod, &failure, preemption),
                    Err(error) => self.failed(pod, chain(&error)),
                }
            }
            Outcome::Failed(error) => {
                self.metrics.attempt(&profile.name, "error", seconds);
                self.failed(pod, chain(&error));
            }
        }
    }

    /// A pod counts as placed from now on, and is bound.
    fn bind(&mut self, pod: &Arc<PodInfo>, at: usize, placement: Placement, attempt: Attempt) {
        let timeouts = self.profiles[at].timeouts;
        self.start = self.start.wrapping_add(placement.evaluated);
        self.forget(&pod.uid);
        self.cluster.storage.assume(&placement.reservation);
        self.cluster.devices.assume(&placement.reservation);
        let placed = pod.placed(&placement.node, &placement.reservation.of_node);
        self.cluster.place(Arc::new(placed));
        self.assumed.insert(pod.uid.clone());
        tracing::debug!(pod = pod.key(), node = placement.node, attempt = attempt.number, "placed");
        let object = self.object(pod).filter(|_| !self.advisers.extenders.is_empty());
        self.actor.bind(pod, object, placement.node, placement.reservation, (timeouts, attempt));
    }

    /// The pod as its user wrote it, if the cache still has it.
    fn object(&self, pod: &PodInfo) -> Option<Arc<Pod>> {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        self.advisers.pods.store().get(&key)
    }

    /// The pod's object, if an extender has a say about where the pod goes.
    fn asked(&self, pod: &PodInfo) -> Option<Arc<Pod>> {
        if self.advisers.extenders.is_empty() {
            return None;
        }
        self.object(pod).filter(|object| self.advisers.extenders.decide_on(object))
    }

    fn options(&self, at: usize) -> Options<'static> {
        let percentage = self.profiles[at].percentage;
        Options { percentage, start: self.start, tie: rand::random(), ..Options::default() }
    }

    fn stopwatch(&self, at: usize) -> Watch<'_> {
        Watch::new(&self.clock, &self.metrics, &self.profiles[at].name)
    }

    fn schedule(&mut self, at: usize, pod: &PodInfo) -> Outcome {
        let (options, nominated) = (self.options(at), self.nominations.all());
        let watch = Watch::new(&self.clock, &self.metrics, &self.profiles[at].name);
        let options = Options { stopwatch: Some(&watch), ..options };
        let (plugins, memo) = (&self.profiles[at].plugins, &mut self.memos[at]);
        match plan::schedule(pod, &self.cluster, plugins, &nominated, options, memo) {
            Ok(placement) => Outcome::Placed(placement),
            Err(failure) => failure.into(),
        }
    }

    /// As `schedule`, with the extenders' say. Nothing else is decided meanwhile.
    async fn consult(&self, at: usize, pod: &PodInfo, object: &Pod, cluster: &Cluster) -> Outcome {
        let watch = self.stopwatch(at);
        let options = Options { stopwatch: Some(&watch), ..self.options(at) };
        let nominated = self.nominations.all();
        let plugins = &self.profiles[at].plugins;
        let found = match plan::search(pod, cluster, plugins, &nominated, options) {
            Ok(found) => found,
            Err(failure) => return failure.into(),
        };
        let node = |name: &SmolStr| self.advisers.nodes.store().get(&ObjectKey::new("", name.as_str()));
        let mut nodes: Vec<Arc<Node>> = found.names(cluster).into_iter().filter_map(node).collect();
        let filtered = match self.advisers.extenders.filter(object, &nodes).await {
            Ok(filtered) => filtered,
            Err(error) => return Outcome::Failed(error.into()),
        };
        let kept: BTreeSet<&str> = filtered.kept.iter().map(String::as_str).collect();
        nodes.retain(|node| node.metadata.name.as_deref().is_some_and(|name| kept.contains(name)));
        let scores = match nodes.len() {
            0 | 1 => HashMap::new(),
            _ => {
                self.metrics.prioritizing(true);
                let scores = self.advisers.extenders.prioritize(object, &nodes).await;
                self.metrics.prioritizing(false);
                scores
            }
        };
        match plan::choose(pod, cluster, plugins, found, &kept, &scores, options) {
            Some(placement) => Outcome::Placed(placement),
            None => {
                let mut failure = plan::refusals(pod, cluster, plugins, &nominated);
                failure.verdicts.extend(filtered.refused);
                failure.plugins.push(extender::NAME);
                Outcome::Unschedulable(failure)
            }
        }
    }

    /// An error is told, and the pod tried again after its back-off.
    fn failed(&mut self, pod: &Arc<PodInfo>, message: String) {
        tracing::error!(pod = pod.key(), error = message, "attempt failed");
        let nominated = self.given_up(pod);
        let now = self.now();
        if self.said.is_due(&pod.uid, &message, now) || nominated.is_some() {
            self.actor.unschedulable(pod, "SchedulerError", message, nominated);
        }
        self.queue.failed(&pod.uid, Vec::new(), now);
    }

    /// What comes of it that no node takes a pod: claims are let go of, and others told to go, in the order of the profile.
    async fn after_refusal(
        &self,
        pod: &PodInfo,
        at: usize,
        failure: &Unschedulable,
    ) -> Result<Preemption, ExtenderError> {
        let profile = &self.profiles[at];
        let first = match profile.makes_room_first && failure.nodes > 0 {
            true => Some(self.preempt(pod, at, failure).await?),
            false => None,
        };
        // With that room the pod keeps its claims.
        if let Some(room @ Preemption::Evict { .. }) = first {
            return Ok(room);
        }
        let LetGo { claim, note, next } = plan::let_go(pod, &self.cluster, &profile.plugins, failure);
        claim.into_iter().for_each(|claim| self.actor.release(claim));
        if let Some(none) = first {
            return Ok(none.before(note));
        }
        let none = match next {
            Next::MakeRoom if profile.preemption.is_none() && note.is_empty() => {
                Preemption::Hopeless(String::new())
            }
            Next::MakeRoom => self.preempt(pod, at, failure).await?,
            Next::Wait => Preemption::Helpless(String::new()),
            Next::GiveUp => Preemption::Hopeless(String::new()),
        };
        Ok(none.after(note))
    }

    async fn preempt(
        &self,
        pod: &PodInfo,
        at: usize,
        failure: &Unschedulable,
    ) -> Result<Preemption, ExtenderError> {
        let profile = &self.profiles[at];
        let Some(args) = profile.preemption else { return Ok(Preemption::Helpless(String::new())) };
        let began = self.clock.now();
        let mut done = self.make_room(pod, at, failure, args).await;
        let mut failed = false;
        if let Ok(Preemption::Evict { node, victims }) = &done
            && !self.features.has(Gate::SchedulerAsyncPreemption)
        {
            let here: Vec<_> = victims.iter().filter(|victim| !victim.terminating).cloned().collect();
            failed = self.actor.evict_now(&here, &Preemptor::pod(pod, node)).await.is_err();
        }
        if failed {
            done = Ok(Preemption::Helpless(String::new()));
        }
        let (status, victims) = match &done {
            _ if failed => (Status::Error, None),
            Ok(Preemption::Evict { victims, .. }) => (Status::Success, Some(victims.len())),
            Ok(Preemption::Helpless(_) | Preemption::Hopeless(_)) => (Status::Unschedulable, None),
            Err(_) => (Status::Error, None),
        };
        let took = self.clock.now().duration_since(began).as_secs_f64();
        self.metrics.preempted(victims);
        self.metrics.point("PostFilter", status, &profile.name, took);
        if self.sampling.is_on() {
            self.metrics.execution("DefaultPreemption", "PostFilter", status, took);
        }
        done
    }

    async fn make_room(
        &self,
        pod: &PodInfo,
        at: usize,
        failure: &Unschedulable,
        args: DefaultPreemptionArgs,
    ) -> Result<Preemption, ExtenderError> {
        let profile = &self.profiles[at];
        let (budgets, nominated) = (&*self.read_budgets(), &*self.nominations.all());
        let means = Means { budgets, args, nominated, start: self.start };
        let mut found = match plan::candidates(pod, &self.cluster, &profile.plugins, failure, means) {
            Ok(found) => found,
            Err(none) => return Ok(none),
        };
        let object = self.object(pod).filter(|_| !self.advisers.extenders.is_empty());
        if let Some(object) = object {
            found = self.advisers.extenders.preempt(&object, found, |victim| self.object(victim)).await?;
        }
        Ok(plan::best(found))
    }

    /// Gives up the room that was made for a pod: what its status is to say, if that is something else.
    fn given_up(&mut self, pod: &PodInfo) -> Option<String> {
        let had_room = self.nominations.contains(&pod.uid) || !pod.nominated_node.is_empty();
        self.nominations.remove(&pod.uid);
        had_room.then(String::new)
    }

    fn refused(&mut self, pod: &Arc<PodInfo>, failure: &Unschedulable, preemption: Preemption) {
        let (note, nominated) = match preemption {
            Preemption::Helpless(why) => (why, None),
            Preemption::Hopeless(why) => (why, self.given_up(pod)),
            Preemption::Evict { node, victims } => {
                if self.features.has(Gate::SchedulerAsyncPreemption) {
                    self.evict(victims, Preemptor::pod(pod, &node));
                }
                // There may be no room for them any more: they look for another place at once.
                for lesser in self.nominations.lesser(&node, pod.priority) {
                    self.nominations.remove(&lesser.uid);
                    self.actor.denominate(&lesser);
                }
                self.nominations.add(&node, pod.clone());
                (String::new(), Some(node))
            }
        };
        let message = failure.message(&note);
        let now = self.now();
        if self.said.is_due(&pod.uid, &message, now) || nominated.is_some() {
            self.actor.unschedulable(pod, "Unschedulable", message, nominated);
        }
        // With no node at all nobody refused: the pod is tried again after its back-off.
        self.queue.failed(&pod.uid, failure.plugins.clone(), now);
    }

    fn read_budgets(&self) -> Vec<Budget> {
        let parse = |b: &Arc<PodDisruptionBudget>| {
            let spec = b.spec.as_ref()?;
            let status = b.status.clone().unwrap_or_default();
            Some(Budget {
                namespace: b.metadata.namespace.clone()?,
                selector: LabelSelector::from_api(spec.selector.as_ref()).ok()?,
                allowed: status.disruptions_allowed.unwrap_or(0).into(),
                disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
            })
        };
        self.budgets.store().list().iter().filter_map(parse).collect()
    }
}

/// What happened to pods, told apart: where a watch missed that a pod went, another of its name seems to be a state of it.
fn one_by_one(event: Event<Pod>) -> Vec<Event<Pod>> {
    match event {
        Event::Updated { old, new } if old.metadata.uid != new.metadata.uid => {
            vec![Event::Deleted { last: old, unknown_state: true }, Event::Added { new, initial: false }]
        }
        event => vec![event],
    }
}

/// Times the parts of a decision for the metrics.
#[derive(Debug)]
struct Watch<'a> {
    clock: &'a SharedClock,
    metrics: &'a Metrics,
    profile: &'a str,
    since: Mutex<Timestamp>,
}

impl<'a> Watch<'a> {
    fn new(clock: &'a SharedClock, metrics: &'a Metrics, profile: &'a str) -> Self {
        Self { clock, metrics, profile, since: Mutex::new(clock.now()) }
    }
}

impl Stopwatch for Watch<'_> {
    fn begin(&self) {
        *self.since.lock() = self.clock.now();
    }

    fn end(&self, point: &'static str, status: Status) {
        let now = self.clock.now();
        let took = now.duration_since(std::mem::replace(&mut *self.since.lock(), now)).as_secs_f64();
        self.metrics.point(point, status, self.profile, took);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_another_uid_is_another_pod() {
        let pod = |uid: &str| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid}})).unwrap())
        };
        let told = |old, new| -> Vec<String> {
            let events = one_by_one(Event::Updated { old: pod(old), new: pod(new) });
            let word = |event: &Event<Pod>| {
                let kind = match event {
                    Event::Added { .. } => "came",
                    Event::Updated { .. } => "changed",
                    Event::Deleted { .. } => "went",
                };
                format!("{} {kind}", event.object().metadata.uid.as_deref().unwrap())
            };
            events.iter().map(word).collect()
        };
        assert_eq!(told("a", "a"), ["a changed"]);
        assert_eq!(told("a", "b"), ["a went", "b came"]);
    }
}
