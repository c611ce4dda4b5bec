//! cloud-controller-manager: what the cluster asks of the infrastructure below it.
//!
//! ```text
//! services ─→ service controller ─→ load balancers ─┐
//! nodes ────→ route controller ───→ routes ─────────┼→ provider (bare metal: this machine's kernel)
//! nodes ────→ node controllers ───→ instances ──────┘
//! ```
//!
//! Controllers decide with pure plans and know no cloud; a provider acts and knows no Kubernetes object.
//! Contract: upstream's `k8s.io/cloud-provider` controllers (service, route, node, node-lifecycle).

pub mod controllers;
mod metrics;
pub mod provider;
pub mod run;
