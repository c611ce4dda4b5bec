//! What the operator of the cluster lets objects say at all: flags and gates of the server that validation asks for.
//!
//! Contract: `--allow-privileged` of kube-apiserver, and the gates `StrictIPCIDRValidation`, `PodDeletionCost` and
//! `SELinuxMount` as upstream's validation reads them.

use std::sync::atomic::{AtomicBool, Ordering};

/// Something that is allowed or not, set once, before the server listens.
#[derive(Debug)]
pub struct Capability(AtomicBool);

/// Whether containers may be privileged. Whoever builds no server has nothing to forbid.
pub static PRIVILEGED: Capability = Capability::new(true);

/// Whether fields that were always checked loosely take addresses and networks that can be read in several ways.
pub static LOOSE_ADDRESSES: Capability = Capability::new(false);

/// Whether the annotation of what it costs to delete a pod may be anything, since nobody heeds it.
pub static ANY_DELETION_COST: Capability = Capability::new(false);

/// Whether volumes of pods may be mounted with their labels rather than labelled file by file.
pub static MOUNTED_LABELS: Capability = Capability::new(false);

// === impl Capability ===

impl Capability {
    const fn new(allowed: bool) -> Self {
        Self(AtomicBool::new(allowed))
    }

    /// Says whether it is allowed.
    pub fn allow(&self, allowed: bool) {
        self.0.store(allowed, Ordering::Relaxed);
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
