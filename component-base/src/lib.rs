//! What every daemon of the cluster shares: its outside (flags, configuration files, logging, TLS, health and metrics
//! server, signals) and its way of talking to the API server (client, informers, work queue, leader election, events).
//!
//! ```text
//! options -> config -> daemon::main -> tasks
//! API server -> client -> informer -> workqueue -> reconcile -> client -> API server
//! ```
//! Invariant: nothing here knows a particular daemon, and nothing here speaks to etcd, the runtime or the kernel's tables.

pub mod shutdown;
pub mod task;

pub mod backoff;
pub mod clock;
pub mod goduration;
pub mod hash;
pub mod intstr;
pub mod meta;
pub mod names;
pub mod quantity;
pub mod selector;
pub mod version;

pub mod expectations;

pub mod client;
pub mod events;
pub mod informer;
pub mod leader;

pub mod config;
pub mod logging;
pub mod metrics;
pub mod tls;
pub mod workqueue;
