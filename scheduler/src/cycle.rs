//! The loop that owns model and queue: takes changes in, decides pod by pod, hands decisions to `act`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::{
    clock::SharedClock,
    informer::{Event, Informer},
    selector::LabelSelector,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, PodResourceClaimStatus},
    policy::v1::PodDisruptionBudget,
};
use tokio::sync::mpsc;

use crate::{
    act::Actor,
    framework::{ClusterEvent, Plugin},
    metrics::Metrics,
    model::{Cluster, DeviceChange, NodeInfo, PodInfo, Reservation, StorageChange},
    plan::{self, Budget, Nominations, Options, Preemption, Unschedulable},
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
    /// A pod could not be bound.
    BindingFailed {
        /// The pod.
        pod: Arc<PodInfo>,
        /// What was to be written before, and may not have been.
        reservation: Reservation,
        /// Whether it is gone.
        gone: bool,
    },
}

/// The loop's state.
pub struct Cycle {
    profiles: Vec<Profile>,
    cluster: Cluster,
    queue: Queue,
    nominations: Nominations,
    actor: Actor,
    budgets: Informer<PodDisruptionBudget>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    began: Timestamp,
    /// What was last said about a pod, so that it is not said again.
    said: HashMap<String, String>,
    start: usize,
    /// What nodes said, per profile.
    memos: Vec<plan::Memo>,
}

impl Cycle {
    /// A loop for the pods that name one of the profiles.
    pub fn new(
        profiles: Vec<Profile>,
        back_off: BackOff,
        actor: Actor,
        budgets: Informer<PodDisruptionBudget>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let began = clock.now();
        Self {
            memos: profiles.iter().map(|_| plan::Memo::default()).collect(),
            profiles,
            cluster: Cluster::default(),
            queue: Queue::new(back_off),
            nominations: Nominations::default(),
            actor,
            budgets,
            clock,
            metrics,
            began,
            said: HashMap::new(),
            start: 0,
        }
    }

    /// Runs until the feed ends.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Change>) {
        loop {
            while let Ok(change) = changes.try_recv() {
                self.take(change);
            }
            if let Some((pod, attempt, _)) = self.queue.pop(self.now()) {
                self.decide(&pod, attempt);
                // Changes come first again, so that a decision sees what happened meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            self.metrics.pending(self.queue.pending());
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
            Change::Pod(event) => self.take_pod(&event),
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
                let event = self.cluster.devices.take(&change);
                self.tell(&ClusterEvent::DevicesChanged(event));
            }
            Change::BindingFailed { pod, reservation, gone } => {
                self.cluster.displace(&pod.uid);
                self.cluster.storage.forget(&reservation);
                self.cluster.devices.forget(&reservation);
                if gone {
                    self.forget(&pod.uid);
                } else {
                    let now = self.now();
                    self.queue.add(pod.clone(), false, now);
                    self.queue.failed(&pod.uid, Vec::new(), now);
                }
                self.tell(&ClusterEvent::PodRemoved(pod));
            }
        }
    }

    fn take_node(&mut self, event: &Event<Node>) {
        match event {
            Event::Deleted { last, .. } => {
                self.cluster.remove_node(last.metadata.name.as_deref().unwrap_or_default());
            }
            Event::Added { new, .. } | Event::Updated { new, .. } => {
                let name = new.metadata.name.as_deref().unwrap_or_default();
                let old = self.cluster.node(name).cloned();
                self.cluster.set_node(NodeInfo::new(new));
                let Some(new) = self.cluster.node(name).cloned() else { return };
                let event = match old {
                    Some(old) => ClusterEvent::NodeUpdated { old, new },
                    None => ClusterEvent::NodeAdded(new),
                };
                self.tell(&event);
            }
        }
    }

    fn take_pod(&mut self, event: &Event<Pod>) {
        let pod = PodInfo::new(event.object());
        if matches!(event, Event::Deleted { .. }) || pod.finished {
            self.forget(&pod.uid);
            if self.cluster.displace(&pod.uid) {
                self.tell(&ClusterEvent::PodRemoved(pod));
            }
        } else if !pod.node_name.is_empty() {
            self.forget(&pod.uid);
            let known = self.cluster.placement(&pod.uid) == Some(&pod.node_name);
            self.cluster.place(pod.clone());
            if !known {
                self.tell(&ClusterEvent::PodPlaced(pod));
            }
        } else if self.profile(&pod).is_some() && !pod.terminating {
            self.take_pending(event, pod);
        } else {
            self.forget(&pod.uid);
        }
    }

    fn take_pending(&mut self, event: &Event<Pod>, pod: Arc<PodInfo>) {
        // While its binding is under way the pod counts as placed; its own update says nothing new.
        if self.cluster.placement(&pod.uid).is_some() {
            return;
        }
        let plugins = self.profile(&pod).into_iter().flat_map(|at| &self.profiles[at].plugins);
        let gated = plugins.filter(|w| w.points.gates).any(|w| w.plugin.may_enqueue(&pod).is_err());
        let now = self.now();
        self.queue.add(pod.clone(), gated, now);
        // A status alone, such as the one we write ourselves, changes no decision.
        if let Event::Updated { old, new } = event
            && (old.spec != new.spec
                || old.metadata.labels != new.metadata.labels
                || claims_made(old) != claims_made(new))
        {
            self.queue.wake(&pod.uid, now);
        }
    }

    /// The profile that a pod names.
    fn profile(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name)
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.nominations.remove(uid);
        self.said.remove(uid);
    }

    fn tell(&mut self, event: &ClusterEvent) {
        let now = self.now();
        let all = self.profiles.iter().flat_map(|profile| &profile.plugins);
        let plugins: Vec<&dyn Plugin> = all.map(|w| w.plugin.as_ref()).collect();
        self.queue.event(event, &plugins, now);
    }

    fn decide(&mut self, pod: &Arc<PodInfo>, attempt: u32) {
        let Some(at) = self.profile(pod) else { return };
        let profile = &self.profiles[at];
        let started = self.clock.now();
        let options = Options { percentage: profile.percentage, start: self.start, tie: rand::random() };
        let nominated = self.nominations.all();
        let memo = &mut self.memos[at];
        let outcome = plan::schedule(pod, &self.cluster, &profile.plugins, &nominated, options, memo);
        let seconds = self.clock.now().duration_since(started).as_secs_f64();
        match outcome {
            Ok(placement) => {
                let timeout = profile.bind_timeout;
                self.start = self.start.wrapping_add(placement.evaluated);
                self.metrics.attempt(&profile.name, "scheduled", seconds);
                self.forget(&pod.uid);
                self.cluster.storage.assume(&placement.reservation);
                self.cluster.devices.assume(&placement.reservation);
                let placed = PodInfo { node_name: placement.node.clone(), ..PodInfo::clone(pod) };
                self.cluster.place(Arc::new(placed));
                tracing::debug!(pod = pod.key(), node = placement.node, attempt, "placed");
                self.actor.bind(pod, placement.node, placement.reservation, timeout);
            }
            Err(failure) => {
                self.metrics.attempt(&profile.name, "unschedulable", seconds);
                let preemption = self.preempt(pod, profile, &failure);
                self.refused(pod, &failure, preemption);
            }
        }
    }

    fn preempt(&self, pod: &PodInfo, profile: &Profile, failure: &Unschedulable) -> Preemption {
        let Some(args) = profile.preemption else { return Preemption::Helpless(String::new()) };
        let budgets = self.read_budgets();
        plan::preempt(pod, &self.cluster, &profile.plugins, failure, &budgets, args, self.start)
    }

    fn refused(&mut self, pod: &Arc<PodInfo>, failure: &Unschedulable, preemption: Preemption) {
        let (note, nominated) = match preemption {
            Preemption::Helpless(why) => (why, None),
            Preemption::Evict { node, victims } => {
                for victim in &victims {
                    self.actor.evict(victim, pod, &node);
                }
                self.nominations.add(&node, pod.clone());
                (String::new(), Some(node))
            }
        };
        let message = failure.message(&note);
        if self.said.get(&pod.uid) != Some(&message) || nominated.is_some() {
            self.said.insert(pod.uid.clone(), message.clone());
            self.actor.unschedulable(pod, "Unschedulable", message, nominated);
        }
        let now = self.now();
        // With no node at all nobody refused, but only a node can help.
        let refused_by =
            if failure.plugins.is_empty() { vec!["NodeResourcesFit"] } else { failure.plugins.clone() };
        self.queue.failed(&pod.uid, refused_by, now);
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

/// The claims of devices that were made for a pod: what its status says that decisions need.
fn claims_made(pod: &Pod) -> Option<&Vec<PodResourceClaimStatus>> {
    pod.status.as_ref()?.resource_claim_statuses.as_ref()
}
