//! kube-proxy: services → nftables, over netlink.
//!
//! ```text
//! services, endpoint slices, node (informers) → model → plan (pure) → tables (plain data)
//!                      of the services that changed: their tables − what theirs were → one netlink batch
//! ```
//!
//! pods, namespaces, network policies → policy: index → plan (pure) → a table of its own, committed alike
//!
//! Contract: "Virtual IPs and Service Proxies"; KEP-3866 (nftables mode), KEP-1669 (terminating
//! endpoints), KEP-2433 (topology hints). The layout inside our table is our own: one map holds all
//! endpoints, and services are elements of sets, so a change of endpoints is a change of a few elements.

pub mod options;
pub mod run;

pub mod model;
pub mod node;
pub mod objects;
pub mod pace;
pub mod plan;
pub mod policy;
pub mod tables;

pub mod conntrack;
pub mod kernel;
pub mod server;
pub mod sync;
pub mod sysctl;
