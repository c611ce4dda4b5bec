//! What every daemon of the cluster shares: its outside (flags, configuration files, logging, TLS, health and metrics
//! server, signals) and its way of talking to the API server (client, informers, work queue, leader election, events).
//!
//! ```text
//! options -> config -> daemon::main -> tasks
//! API server -> client -> informer -> workqueue -> reconcile -> client -> API server
//! ```
//! Invariant: nothing here knows a particular daemon, and nothing here speaks to etcd, the runtime or the kernel's tables.

pub mod cron;
pub mod daemon;
pub mod memory;
pub mod shutdown;
pub mod task;

pub mod config;
pub mod features;
pub mod flags;
pub mod logging;
pub mod version;

pub mod auth;
pub mod files;
pub mod health;
pub mod metrics;
pub mod serving;
pub mod tls;

pub mod client;
pub mod events;
pub mod expectations;
pub mod grpc;
pub mod informer;
pub mod leader;
pub mod workqueue;
pub mod zpages;

pub mod backoff;
pub mod clock;
pub mod goduration;
pub mod hash;
pub mod intstr;
pub mod meta;
pub mod migration;
pub mod names;
pub mod objects;
pub mod quantity;
pub mod quota;
pub mod reference;
pub mod selector;
pub mod taints;
pub mod traces;
pub mod volumes;
