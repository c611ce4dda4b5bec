//! Network policies on the node: what pods of this node may receive and send.
//!
//! ```text
//! policies, namespaces, all pods (informers) → index (model) → plan (pure) → table kube-proxy-policies
//! ```
//!
//! Contract: networking.k8s.io/v1 NetworkPolicy. A packet that passes through the node is judged twice: by its source
//! address for what its sender may send, by its destination address for what its receiver may receive, after
//! services' addresses have been replaced. One lookup in a map of this node's isolated pods leads to the rules of just
//! that pod, so policies that are not its own cost it nothing. Traffic of the node itself never passes through and is
//! not judged, nor is a pod's traffic to itself; answers follow what was asked. Pods of the host's network have no
//! address of their own and are left alone.

mod enforce;
mod index;
mod model;
mod plan;
mod ranges;

pub use enforce::Enforcer;
pub use index::Index;
pub use model::{Namespaces, Peer, Pod, PodPort, Policies, Policy, Port, PortRef, Rule};
pub use plan::{Planner, PolicyName, plan};

#[cfg(test)]
mod tests;
