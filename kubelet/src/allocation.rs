//! What this node has given to its pods: who was admitted, with which resources, and what becomes of resizes.
//!
//! ```text
//! new pod ----> admitted (its resources are written down) | rejected
//! new resources of a known pod ----> given | deferred until others leave | infeasible
//! ```
//! What pods were given is kept in `<root>/allocated_pods_state` (`state`), because the API server has only what is wanted.
//! A pod that is missing there is given what it wants, as a new one would be.
//! Contract: KEP-1287, in-place update of pod resources.

pub mod state;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
};

use component_base::features::{Gate, Gates};
use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{Notify, watch};

use self::state::{Book, StateError};
use crate::{
    admission::{self, View},
    metrics,
    node::status::Pressure,
    pod::{
        self,
        qos::{self, QosClass},
        resources,
    },
    preemption,
    runtime::swap::Swap,
    status::generate::Verdict,
};

/// What retries a resize where nothing else does.
const PERIODIC: &str = "periodic_retry";

/// The resources of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocated {
    /// Of its containers, by name.
    #[serde(rename = "ContainerResources", deserialize_with = "nullable")]
    containers: BTreeMap<String, ResourceRequirements>,
    /// Of the pod as a whole.
    #[serde(rename = "PodLevelResources")]
    pod: Option<ResourceRequirements>,
}

/// Nothing, which Go writes as null.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Allocated {
    /// What the pod's spec says. Of init containers that end only where those are resized as well (`initial`).
    #[must_use]
    pub fn wanted(pod: &Pod, initial: bool) -> Self {
        let inits = pod::init_containers(pod).iter().filter(|c| initial || pod::is_sidecar(c));
        let all = inits.chain(pod::containers(pod));
        Self {
            pod: pod::spec(pod).resources.clone(),
            containers: all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
        }
    }

    /// The pod with these resources in place of those of its spec.
    #[must_use]
    pub fn apply(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let spec = pod.spec.get_or_insert_default();
        spec.resources.clone_from(&self.pod);
        let give = |container: &mut Container| {
            if let Some(own) = self.containers.get(&container.name) {
                container.resources = Some(own.clone());
            }
        };
        spec.init_containers.iter_mut().flatten().for_each(give);
        spec.containers.iter_mut().for_each(give);
        pod
    }
}

/// A resize that was asked for and is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// As what it is counted, where it is.
    pub detail: Option<&'static str>,
}

/// What containers have for themselves while they run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exclusive {
    /// Processors.
    pub cpus: bool,
    /// Memory of certain nodes.
    pub memory: bool,
    /// A share of the node's swap, by the memory they asked for.
    pub swap: Option<Swap>,
}

/// What cannot change while a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pinned {
    Cpus,
    Memory,
    Swap,
}

impl Pinned {
    fn detail(self) -> &'static str {
        match self {
            Self::Cpus => "guaranteed_pod_cpu_manager_static_policy",
            Self::Memory => "guaranteed_pod_memory_manager_static_policy",
            Self::Swap => "swap_limitation",
        }
    }
}

impl Pending {
    /// Pods are not resized as a whole.
    fn of_pod() -> Self {
        let message = "InPlacePodLevelResourcesVerticalScaling is disabled".to_owned();
        Self { reason: "Infeasible", message, detail: Some("plr_feature_gate_off") }
    }

    fn pinned(what: Pinned) -> Self {
        let message = match what {
            Pinned::Cpus => {
                "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\""
            }
            Pinned::Memory => {
                "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\""
            }
            Pinned::Swap => "In-place resize of containers with swap is not supported.",
        };
        Self { reason: "Infeasible", message: message.to_owned(), detail: Some(what.detail()) }
    }
}

/// What became of the resources that a known pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resize {
    /// It has what it wants.
    Settled,
    /// It was given something new.
    Given,
    /// It keeps what it had.
    Pending(Pending),
}

/// One admitted pod, with its resources in place.
struct Held {
    pod: Arc<Pod>,
    allocated: Allocated,
    /// Wakes its worker when a deferred resize may succeed.
    deferred: Option<Arc<Notify>>,
    /// What it was woken for.
    trigger: &'static str,
}

/// What this node has given.
pub struct Allocations {
    node: Option<watch::Receiver<Option<Arc<Node>>>>,
    allowed_sysctls: Vec<String>,
    gates: Gates,
    exclusive: Exclusive,
    pressure: Mutex<Pressure>,
    held: Mutex<HashMap<String, Held>>,
    book: Mutex<Book>,
}

impl Allocations {
    /// Nothing given yet but by the kubelet before, in whose folder it is written. `node` is this node as the API server
    /// has it, `None` without an API server.
    ///
    /// # Errors
    /// When what was given before does not read.
    pub fn new(
        root_dir: &Path,
        node: Option<watch::Receiver<Option<Arc<Node>>>>,
        allowed_sysctls: Vec<String>,
        gates: Gates,
        exclusive: Exclusive,
    ) -> Result<Self, StateError> {
        let exclusive = Exclusive {
            cpus: exclusive.cpus && !gates.has(Gate::InPlacePodVerticalScalingExclusiveCPUs),
            memory: exclusive.memory && !gates.has(Gate::InPlacePodVerticalScalingExclusiveMemory),
            ..exclusive
        };
        Ok(Self {
            node,
            allowed_sysctls,
            gates,
            exclusive,
            pressure: Mutex::default(),
            held: Mutex::default(),
            book: Mutex::new(Book::open(root_dir)?),
        })
    }

    fn wanted(&self, pod: &Pod) -> Allocated {
        Allocated::wanted(pod, self.gates.has(Gate::InPlacePodVerticalScalingInitContainers))
    }

    /// What presses on the node; new pods may be turned away for it.
    pub fn set_pressure(&self, pressure: Pressure) {
        *self.pressure.lock() = pressure;
    }

    /// Takes a pod on, or does not. One that was admitted before, by this kubelet or the one that ran before it, is
    /// not asked again: it runs.
    ///
    /// # Errors
    /// Why the node does not take it.
    pub async fn admit(&self, pod: &Arc<Pod>) -> Result<(), Verdict> {
        let before = self.book.lock().take(pod::uid(pod));
        let known = before.is_some() || pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let node = if known { None } else { self.known_node().await };
        let allocated = before.unwrap_or_else(|| self.wanted(pod));
        let mut held = self.held.lock();
        if !known {
            let others = others(&held, pod::uid(pod));
            admission::admit(pod, &self.view(node.as_deref(), &others))?;
        }
        let pod =
            if allocated == self.wanted(pod) { Arc::clone(pod) } else { Arc::new(allocated.apply(pod)) };
        held.insert(pod::uid(&pod).to_owned(), Held { pod, allocated, deferred: None, trigger: PERIODIC });
        // What a pod is given that has just been admitted is what it wants, and what it is given without the file, too.
        if let Err(error) = self.write(&held, known) {
            tracing::warn!(%error, "cannot write down what pods were given");
        }
        Ok(())
    }

    /// The pods that have to end so that this one, which was refused for want of resources, fits; none when that would not
    /// help.
    #[must_use]
    pub fn victims(&self, pod: &Pod) -> Vec<Arc<Pod>> {
        let node = self.node.as_ref().and_then(|n| n.borrow().clone());
        let held = self.held.lock();
        let others = others(&held, pod::uid(pod));
        let short = admission::shortages(pod, &self.view(node.as_deref(), &others));
        preemption::victims(pod, &others, &short).unwrap_or_default()
    }

    /// Gives a known pod the resources it wants, if they differ from what it has and can be had. `wake` is told when
    /// what could not be had may be tried again.
    pub fn resize(&self, pod: &Arc<Pod>, wake: &Arc<Notify>) -> Resize {
        let wanted = self.wanted(pod);
        let node = self.node.as_ref().and_then(|n| n.borrow().clone());
        let mut held = self.held.lock();
        let Some(own) = held.get_mut(pod::uid(pod)) else { return Resize::Settled };
        let (deferred, trigger) = (own.deferred.take(), std::mem::replace(&mut own.trigger, PERIODIC));
        if own.allocated == wanted {
            // The copy that others hold as well serves here, too.
            own.pod = Arc::clone(pod);
            return Resize::Settled;
        }
        let whole =
            !self.gates.has(Gate::InPlacePodLevelResourcesVerticalScaling) && own.allocated.pod != wanted.pod;
        let pinned = self.exclusive.pins(&own.pod, pod);
        let others = others(&held, pod::uid(pod));
        let pending = whole.then(Pending::of_pod).or_else(|| pinned.map(Pending::pinned));
        let pending = pending.or_else(|| judge_resize(pod, &self.view(node.as_deref(), &others)));
        let Some(own) = held.get_mut(pod::uid(pod)) else { return Resize::Settled };
        if let Some(pending) = pending {
            own.deferred = (pending.reason == "Deferred").then(|| Arc::clone(wake));
            return Resize::Pending(pending);
        }
        let before = std::mem::replace(&mut own.allocated, wanted);
        let written = self.write(&held, true);
        let Some(own) = held.get_mut(pod::uid(pod)) else { return Resize::Settled };
        if let Err(error) = written {
            own.allocated = before;
            let message = format!("unable to write the allocation: {error}");
            return Resize::Pending(Pending { reason: "Deferred", message, detail: None });
        }
        own.pod = Arc::new(own.allocated.apply(pod));
        drop(others);
        if deferred.is_some() {
            metrics::get().accepted_resizes.with_label_values(&[trigger]).inc();
        }
        retry(&mut held, "pod_resized");
        Resize::Given
    }

    /// A pod whose newer version asks for nothing: it takes the place of the older one, which nobody else holds.
    pub fn follow(&self, pod: &Arc<Pod>) {
        if let Some(own) = self.held.lock().get_mut(pod::uid(pod))
            && own.allocated == self.wanted(pod)
        {
            own.pod = Arc::clone(pod);
        }
    }

    /// The pod with the resources it was given.
    #[must_use]
    pub fn given(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.held.lock().get(pod::uid(pod)) {
            Some(own) if own.allocated != self.wanted(pod) => Arc::new(own.allocated.apply(pod)),
            _ => Arc::clone(pod),
        }
    }

    /// The pod was admitted and has not ended.
    #[must_use]
    pub fn holds(&self, uid: &str) -> bool {
        self.held.lock().contains_key(uid)
    }

    /// The pods that were admitted and have not ended, each with what it was given.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.held.lock().values().map(|own| Arc::clone(&own.pod)).collect()
    }

    /// Nothing of the pod runs any more: what it had is free.
    pub fn release(&self, uid: &str) {
        let mut held = self.held.lock();
        if held.remove(uid).is_some() {
            retry(&mut held, "pod_terminated");
        }
    }

    /// Pods that are not among these, and did not come, are gone.
    pub fn retain(&self, keeps: impl Fn(&str) -> bool) {
        self.book.lock().retain(keeps);
    }

    fn write(&self, held: &HashMap<String, Held>, durably: bool) -> io::Result<()> {
        let all = held.iter().map(|(uid, own)| (uid.as_str(), &own.allocated));
        self.book.lock().write(all, durably)
    }

    fn view<'a>(&'a self, node: Option<&'a Node>, others: &'a [Arc<Pod>]) -> View<'a> {
        View {
            node,
            pressure: *self.pressure.lock(),
            allowed_sysctls: &self.allowed_sysctls,
            comparing: self.gates.has(Gate::TaintTolerationComparisonOperators),
            others,
        }
    }

    /// What the node says it has for pods of a resource, in thousandths; nothing before it has said so.
    #[must_use]
    pub fn allocatable(&self, name: &str) -> Option<i64> {
        let node = self.node.as_ref()?.borrow();
        resources::amount(node.as_ref()?.status.as_ref()?.allocatable.as_ref(), name)
    }

    /// This node, once it is known.
    async fn known_node(&self) -> Option<Arc<Node>> {
        let mut node = self.node.clone()?;
        // The sender lives as long as the daemon; when it ends nobody waits for an answer.
        node.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Counts the resources of containers that a newer version of a pod asks to change.
pub fn count_resizes(old: &Pod, new: &Pod) {
    for (resource, requirement, operation) in resizes(old, new) {
        let labels = [operation, requirement, resource];
        metrics::get().requested_resizes.with_label_values(&labels).inc();
    }
}

/// What is asked to change: the resource, whether it is what is requested or the limit, and how.
fn resizes(old: &Pod, new: &Pod) -> Vec<(&'static str, &'static str, &'static str)> {
    let amounts = |container: &Container| {
        let of =
            |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
             name| resources::amount(list, name);
        let own = container.resources.as_ref();
        [resources::CPU, resources::MEMORY].map(|name| {
            [
                of(own.and_then(|own| own.requests.as_ref()), name),
                of(own.and_then(|own| own.limits.as_ref()), name),
            ]
        })
    };
    let mut out = Vec::new();
    for (_, container) in pod::all_containers(new) {
        let before = pod::all_containers(old).into_iter().find(|(_, before)| before.name == container.name);
        let Some((_, before)) = before.filter(|(_, before)| before.resources != container.resources) else {
            continue;
        };
        let (before, after) = (amounts(&before), amounts(&container));
        for (i, resource) in ["cpu", "memory"].into_iter().enumerate() {
            for (j, requirement) in ["requests", "limits"].into_iter().enumerate() {
                let operation = match (before[i][j].unwrap_or(0), after[i][j].unwrap_or(0)) {
                    (old, new) if old == new => continue,
                    (0, _) => "add",
                    (_, 0) => "remove",
                    (old, new) if old < new => "increase",
                    _ => "decrease",
                };
                out.push((resource, requirement, operation));
            }
        }
    }
    out
}

fn others(held: &HashMap<String, Held>, uid: &str) -> Vec<Arc<Pod>> {
    held.iter().filter(|(key, _)| *key != uid).map(|(_, own)| Arc::clone(&own.pod)).collect()
}

/// Something became free: deferred resizes are tried again.
fn retry(held: &mut HashMap<String, Held>, trigger: &'static str) {
    for own in held.values_mut() {
        if let Some(wake) = &own.deferred {
            own.trigger = trigger;
            wake.notify_one();
        }
    }
}

impl Exclusive {
    /// Which of what the pod may have for itself it wants more or less of.
    fn pins(self, held: &Pod, wanted: &Pod) -> Option<Pinned> {
        let amounts = |pod: &Pod, resource| -> Vec<Option<i64>> {
            let requests =
                |c: &Container| resources::amount(c.resources.as_ref()?.requests.as_ref(), resource);
            pod::all_containers(pod).iter().map(|(_, container)| requests(container)).collect()
        };
        let changes = |resource| amounts(held, resource) != amounts(wanted, resource);
        if self.swap.is_some_and(|swap| changes_swap(swap, held, wanted)) {
            Some(Pinned::Swap)
        } else if qos::class(held) != QosClass::Guaranteed {
            None
        } else if self.cpus && changes(resources::CPU) {
            Some(Pinned::Cpus)
        } else {
            (self.memory && changes(resources::MEMORY)).then_some(Pinned::Memory)
        }
    }
}

/// A container that is not restarted for it wants other memory, and may be swapped out before or after.
fn changes_swap(swap: Swap, held: &Pod, wanted: &Pod) -> bool {
    let memory = |c: &Container| resources::request(c, resources::MEMORY);
    let restarts = |c: &Container| {
        let mut policies = c.resize_policy.iter().flatten();
        let of_memory = policies.find(|policy| policy.resource_name == resources::MEMORY);
        of_memory.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    pod::all_containers(wanted).iter().any(|(_, new)| {
        pod::container_named(held, &new.name).is_some_and(|(_, old)| {
            memory(&old) != memory(new)
                && !restarts(&old)
                && (swap.allows(held, &old) || swap.allows(wanted, new))
        })
    })
}

/// Why the pod cannot have what it wants; `None` when it can.
fn judge_resize(pod: &Pod, view: &View<'_>) -> Option<Pending> {
    if pod::is_static(pod) {
        let message = "In-place resize of static-pods is not supported".to_owned();
        return Some(Pending { reason: "Infeasible", message, detail: None });
    }
    let alone = admission::shortages(pod, &View { others: &[], ..*view });
    if let Some(short) = alone.first() {
        let (name, requested, capacity) = (&short.resource, short.requested, short.capacity);
        let message =
            format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
        return Some(Pending { reason: "Infeasible", message, detail: None });
    }
    let short = admission::shortages(pod, view).into_iter().find(|s| s.resource != "pods")?;
    Some(Pending { reason: "Deferred", message: short.message(), detail: None })
}

#[cfg(test)]
mod tests;
