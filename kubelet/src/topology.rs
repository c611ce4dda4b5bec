//! Where on the machine a pod's resources come from: processors, memory and devices near each other (the topology manager).
//!
//! ```text
//! pod -> every [`Provider`]: where could it come from? -> `hint::merge` -> does the policy take it? -> every provider gives
//! ```
//! Contract: "Control Topology Management Policies on a node"; policies none, best-effort, restricted, single-numa-node,
//! scopes container and pod, options prefer-closest-numa-nodes and max-allowable-numa-nodes; the refusal's words are upstream's.

pub mod hint;
pub mod nodes;

use std::{io, sync::Arc, time::Instant};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};

use self::{
    hint::{Hint, Hints},
    nodes::{MemoryNodes, NodeSet},
};
use crate::{
    metrics,
    pod::{self, Role},
    status::generate::Verdict,
};

/// How many nodes a machine may have unless the options say more.
pub const MOST_NODES: usize = 8;
/// How many it may have in any case: the sets of nodes double with every one.
const BEARABLE: usize = 16;

/// What has to hold for a pod to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing; nobody is asked.
    #[default]
    None,
    /// Nothing, but what can be is taken from near.
    BestEffort,
    /// No more nodes than needed.
    Restricted,
    /// One node.
    SingleNode,
}

impl Policy {
    /// By upstream's names.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" | "none" => Some(Self::None),
            "best-effort" => Some(Self::BestEffort),
            "restricted" => Some(Self::Restricted),
            "single-numa-node" => Some(Self::SingleNode),
            _ => None,
        }
    }
}

/// What is put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each container by itself.
    #[default]
    Container,
    /// All containers of a pod.
    Pod,
}

impl Scope {
    /// Upstream's name, which its metrics have as well.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// What the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `topologyManagerPolicy`.
    pub policy: Policy,
    /// `topologyManagerScope`.
    pub scope: Scope,
    /// `prefer-closest-numa-nodes`: of sets with as many nodes, those that are near each other.
    pub closest: bool,
    /// `max-allowable-numa-nodes`.
    pub most_nodes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::None, scope: Scope::Container, closest: false, most_nodes: MOST_NODES }
    }
}

/// The machine cannot be managed so.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Its nodes do not read.
    #[error("cannot discover NUMA topology: {0}")]
    Read(#[from] io::Error),
    /// There are too many.
    #[error("unsupported on machines with more than {0} NUMA Nodes")]
    TooMany(usize),
    /// The kernel does not tell how far they are from each other.
    #[error("cannot discover NUMA topology: the kernel does not tell the distances of NUMA nodes")]
    Distances,
}

/// One who gives out a kind of resources.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Where what the container asks for could come from.
    fn hints(&self, pod: &Pod, container: &Container) -> Hints;
    /// Where what the whole pod asks for could come from.
    fn pod_hints(&self, pod: &Pod) -> Hints;
    /// Gives the container what it asks for, from there as far as possible. What it has already stays.
    async fn give(&self, pod: &Pod, container: &Container, from: Hint) -> Result<(), Verdict>;
    /// Takes back all that the pod has.
    fn release(&self, uid: &str);
}

/// The topology manager with all who give out resources, in the order in which they are asked.
pub struct Topology {
    settings: Settings,
    machine: MemoryNodes,
    providers: Vec<Arc<dyn Provider>>,
    /// What has been said must still be so when it is given.
    turn: tokio::sync::Mutex<()>,
}

impl Topology {
    /// Puts them together for this machine.
    ///
    /// # Errors
    /// When the policy cannot be had on the machine.
    pub fn new(
        settings: Settings,
        machine: MemoryNodes,
        providers: Vec<Arc<dyn Provider>>,
    ) -> Result<Self, TopologyError> {
        if settings.policy != Policy::None {
            let most = settings.most_nodes.min(BEARABLE);
            if machine.0.len() > most {
                return Err(TopologyError::TooMany(most));
            }
            if settings.closest && machine.0.values().any(|node| node.distances.is_empty()) {
                return Err(TopologyError::Distances);
            }
            for scope in [Scope::Container, Scope::Pod] {
                // The series are there from the start.
                metrics::get().aligned.with_label_values(&["numa_node", scope.name()]);
                metrics::get().aligned_failures.with_label_values(&["numa_node", scope.name()]);
            }
        }
        Ok(Self { settings, machine, providers, turn: tokio::sync::Mutex::default() })
    }

    /// Gives the pod's containers all that is given out by number or by place.
    ///
    /// # Errors
    /// Why the pod cannot run here; it has nothing then.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Verdict> {
        let answer = match (self.settings.policy, self.settings.scope) {
            (Policy::None, _) => self.give_all(pod, |_| Ok(Hint::default())).await,
            (_, scope) => {
                let _turn = self.turn.lock().await;
                let begun = Instant::now();
                metrics::get().topology_requests.inc();
                let answer = match scope {
                    Scope::Container => {
                        self.give_all(pod, |container| self.ask(|p| p.hints(pod, container))).await
                    }
                    Scope::Pod => match self.ask(|p| p.pod_hints(pod)) {
                        Ok(hint) => self.give_all(pod, |_| Ok(hint)).await,
                        Err(refused) => Err(refused),
                    },
                };
                metrics::get().topology_duration.observe(begun.elapsed().as_secs_f64() * 1000.0);
                metrics::get().topology_errors.inc_by(u64::from(answer.is_err()));
                answer
            }
        };
        if answer.is_err() {
            self.release(pod::uid(pod));
        } else if self.settings.policy == Policy::SingleNode && self.settings.scope == Scope::Pod {
            metrics::get().aligned.with_label_values(&["numa_node", "pod"]).inc();
        }
        answer
    }

    /// The pod has ended.
    pub fn release(&self, uid: &str) {
        self.providers.iter().for_each(|provider| provider.release(uid));
    }

    /// What all say together.
    fn ask(&self, one: impl Fn(&dyn Provider) -> Hints) -> Result<Hint, Verdict> {
        let said: Vec<Hints> = self.providers.iter().map(|provider| one(provider.as_ref())).collect();
        let Settings { policy, scope, closest, .. } = self.settings;
        let (hint, admitted) = hint::merge(policy, closest, &self.machine, &said);
        if admitted {
            return Ok(hint);
        }
        if policy == Policy::SingleNode {
            metrics::get().aligned_failures.with_label_values(&["numa_node", scope.name()]).inc();
        }
        Err(Verdict {
            reason: "TopologyAffinityError".to_owned(),
            message: "Resources cannot be allocated with Topology locality".to_owned(),
            disrupted: false,
        })
    }

    async fn give_all(
        &self,
        pod: &Pod,
        from: impl Fn(&Container) -> Result<Hint, Verdict> + Send + Sync,
    ) -> Result<(), Verdict> {
        let Settings { policy, scope, .. } = self.settings;
        for (role, container) in pod::all_containers(pod) {
            if matches!(role, Role::Ephemeral(_)) {
                continue;
            }
            let hint = from(&container)?;
            for provider in &self.providers {
                provider.give(pod, &container, hint).await?;
            }
            if policy == Policy::SingleNode && scope == Scope::Container {
                metrics::get().aligned.with_label_values(&["numa_node", "container"]).inc();
            }
        }
        Ok(())
    }
}

/// Hints for every set of nodes that has room; those that are no larger than they have to be are preferred. `fits` says
/// whether a set could hold the request if nothing were given, `has_room` whether it can now.
#[must_use]
pub fn hints(
    nodes: NodeSet,
    fits: impl Fn(NodeSet) -> bool,
    has_room: impl Fn(NodeSet) -> bool,
) -> Vec<Hint> {
    let least = least(nodes, fits);
    let open = nodes.parts().into_iter().filter(|part| has_room(*part));
    open.map(|part| Hint { nodes: Some(part), preferred: part.len() == least }).collect()
}

/// How many nodes could hold the request if nothing were given.
#[must_use]
pub fn least(nodes: NodeSet, fits: impl Fn(NodeSet) -> bool) -> usize {
    nodes.parts().into_iter().find(|part| fits(*part)).map_or(nodes.len(), NodeSet::len)
}

#[cfg(test)]
mod tests;
