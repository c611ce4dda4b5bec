//! Conformance-style tests over the wire: a real etcd, real containers, the real binaries, a real kubectl.
//!
//! ```text
//! tests/api      → control_plane (etcd + kube-apiserver on free loopback ports) ← client (HTTPS, blocking)
//!                                                                            → receiver, kms, egress, collector (what it calls)
//! tests/cluster  → cluster (what `hack/up` makes)                               ← kubectl
//!                                                                            → device_plugin, dra_driver (what its kubelet calls)
//! bin/bench      → bench (figures beside a peer's, for `hack/bench`)
//! ```
//!
//! Nothing here links a daemon: the tests know the wire formats and what a user types, so that they hold for any
//! implementation. What a test waits for is watched or polled with a deadline and named when it does not come.

pub mod runner;

pub mod client;
pub mod collector;
pub mod control_plane;
pub mod egress;
pub mod kms;
pub mod pki;
pub mod receiver;
pub mod served;

pub mod background;
pub mod cluster;
pub mod csi_driver;
pub mod device_plugin;
pub mod dra_driver;

pub mod bench;

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

pub use background::Background;
pub use client::{Answer, Client, Watch};
pub use cluster::Cluster;
pub use control_plane::ControlPlane;

/// Why the tests cannot run here; `None` when they can.
///
/// CI must be able to run them, so that there a reason is a failure.
pub fn obstacle() -> Option<&'static str> {
    if env::var_os("KEELSON_BIN_DIR").is_none() || env::var_os("KEELSON_KUBECTL").is_none() {
        return Some("run by hack/test, which builds the release binaries and finds kubectl");
    }
    (!nix::unistd::geteuid().is_root()).then_some("nodes need root")
}

/// A binary under test.
///
/// # Errors
/// When nobody says where they are.
pub fn binary(name: &str) -> Result<PathBuf> {
    Ok(path_from("KEELSON_BIN_DIR")?.join(name))
}

fn path_from(variable: &str) -> Result<PathBuf> {
    env::var_os(variable).map(PathBuf::from).with_context(|| format!("{variable} is not set"))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
