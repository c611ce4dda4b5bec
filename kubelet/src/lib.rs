//! The kubelet: runs the pods of one node through a container runtime, and reports on them and on the node.
//!
//! ```text
//! sources (API server, manifests) -> worker per pod: plan -> act -> status -> API server
//!                 runtime (CRI), probes, time -^
//! ```
//! Invariants: every container is found again by its labels after a restart, so nothing about running containers is kept
//! on disk; one task owns one pod, so no pod is ever run twice; no string from a pod reaches a shell.

pub mod admission;
pub mod allocation;
pub mod api;
pub mod certificate;
pub mod cgroup;
pub mod checkpoint;
pub mod claims;
pub mod cpus;
pub mod csi;
pub mod devices;
pub mod env;
pub mod events;
pub mod eviction;
pub mod image_gc;
pub mod images;
pub mod lifecycle;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod mirror;
pub mod network;
pub mod node;
pub mod options;
pub mod orphans;
pub mod pleg;
pub mod plugin;
pub mod pod;
pub mod pods;
pub mod pods_api;
pub mod preemption;
pub mod probe;
pub mod rotation;
pub mod run;
pub mod runtime;
pub mod server;
pub mod shutdown;
pub mod sockets;
pub mod starts;
pub mod stats;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod topology;
pub mod userns;
pub mod volume;
pub mod watchdog;
pub mod watched;
pub mod worker;
