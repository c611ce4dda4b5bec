//! kube-controller-manager: the built-in controllers.
//!
//! ```text
//! informers → queue of keys → plan (pure) → act → the API server → informers
//! ```
//!
//! Each controller is one file under `controllers/` and one line in its list: what it watches, a pure plan,
//! and an act that never decides. Contract: upstream's `pkg/controller`.

pub mod configz;
pub mod controllers;
pub mod identity;
pub mod run;
pub mod served;
pub mod settings;
