//! kube-apiserver: the only client of etcd; REST, watch, authentication, authorization, admission.
//!
//! ```text
//! connection → request path (one list in one file) → engine (verbs) → storage (etcd + byte cache)
//!                     │                                 │
//!                auth, admission                 registry (one file per resource)
//! ```

pub mod admission;
pub mod alloc;
pub mod auth;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod field;
pub mod object;
pub mod objects;
pub mod registry;
pub mod status;
pub mod storage;
pub mod table;
pub mod validate;
