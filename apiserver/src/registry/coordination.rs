//! Resources of the group coordination.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod leasecandidates;
mod leases;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![leasecandidates::resource(), leases::resource()]
}
