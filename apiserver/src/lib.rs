//! kube-apiserver: the only client of etcd; REST, watch, authentication, authorization, admission.
//!
//! ```text
//! connection → request path (one list in one file) → engine (verbs) → storage (etcd + byte cache)
//!                     │                                 │
//!                auth, admission                 registry (one file per resource)
//! ```

// The fuzz targets name it as others do.
#[cfg(test)]
extern crate self as apiserver;

pub mod admission;
pub mod aggregator;
pub mod alloc;
pub mod apiextensions;
pub mod apply;
pub mod audit;
pub mod auth;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod componentstatuses;
mod cork;
pub mod customresources;
pub mod debug;
pub mod discovery;
pub mod egress;
pub mod encryption;
pub mod engine;
pub mod expressions;
pub mod flowcontrol;
pub mod front;
pub mod health;
#[cfg(test)]
mod hostile;
pub mod http;
pub mod leaderelection;
pub mod logs;
mod metrics;
pub mod negotiation;
pub mod object;
pub mod objects;
pub mod openapi;
pub mod options;
pub mod patch;
pub mod peers;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod request_path;
pub mod response;
pub mod reviews;
pub mod run;
pub mod schema;
pub mod server;
pub mod status;
pub mod storage;
pub mod table;
pub mod webhook;
pub mod zpages;

pub use api_rules::{field, validate};
