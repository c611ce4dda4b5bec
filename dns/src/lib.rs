//! kube-dns: the cluster's DNS server.
//!
//! ```text
//! services, endpoint slices, namespaces (informers) → zone::Index ─→ zone::answer (pure)
//! Corefile → server blocks ─→ server (hickory) ─→ rewrite, template, hosts, zone, cache, forward
//! ```
//!
//! Contract: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 1034, 1035, 2308 (negative answers), 2782 (SRV),
//! 6891 (EDNS), 7858 (TLS); Corefile and metrics as CoreDNS has them.

pub mod options;
pub mod run;

pub mod corefile;
pub mod zone;

pub mod acl;
pub mod answered;
pub mod cache;
pub mod chaos;
pub mod dns64;
pub mod failures;
pub mod feed;
pub mod forward;
pub mod hosts;
pub mod local;
pub mod metrics;
pub mod querylog;
pub mod reach;
pub mod rewrite;
pub mod secure;
pub mod server;
pub mod template;
pub mod view;
pub mod whoami;

pub mod listen;
pub mod pages;
