//! The project's own tooling: build it, run a cluster on this machine, take it away, test it.
//!
//! ```text
//! hack/up    packages → binaries → PKI → images → processes (etcd, daemons, nodes) → demo
//! hack/join  discovery → packages → images → containerd, kubelet, kube-proxy of a cluster elsewhere
//! hack/down  the same list, backwards
//! hack/test  format → lints → unit tests → the tests crate against a running cluster
//! ```
//!
//! Nothing here is linked into a daemon. Every step is idempotent: running `up` again converges.

pub mod layout;
pub mod screen;

pub mod binaries;
pub mod command;
pub mod packages;

pub mod images;
pub mod kubeconfig;
pub mod pki;

pub mod control_plane;
pub mod network;
pub mod node;
pub mod objects;
pub mod process;

pub mod demo;
pub mod down;
pub mod join;
pub mod suite;
pub mod up;
