//! What the operator of the cluster lets containers do at all: flags of the server that validation of pods asks for.
//!
//! Contract: `--allow-privileged` of kube-apiserver.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, before the server listens. Whoever builds no server has nothing to forbid.
static PRIVILEGED: AtomicBool = AtomicBool::new(true);

/// Says whether containers may be privileged.
pub fn allow_privileged(allowed: bool) {
    PRIVILEGED.store(allowed, Ordering::Relaxed);
}

/// Whether containers may be privileged.
pub(crate) fn may_be_privileged() -> bool {
    PRIVILEGED.load(Ordering::Relaxed)
}
