//! kube-scheduler: picks a node for every pod.
//!
//! ```text
//! informers → model (nodes, pods, claims) ─┐
//!             queue (active, back-off,     ├→ plan (filter, score, preempt) → act (bind, events, status)
//!                    unschedulable)        ─┘
//! ```
//!
//! Extenders, where the configuration names some, are asked between filter and score, before preemption, and to bind.
//!
//! One event loop owns the model and the queue; `plan` is a pure function of a pod and the model.
//! Contract: the scheduling framework (KEP-624), KubeSchedulerConfiguration v1, upstream's default plugins.

pub mod act;
pub mod config;
pub mod cycle;
pub mod extender;
pub mod framework;
pub mod metrics;
pub mod model;
mod options;
pub mod plan;
pub mod plugins;
pub mod profile;
pub mod queue;
pub mod run;

#[cfg(test)]
pub(crate) mod testing;
