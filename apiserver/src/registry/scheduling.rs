//! Resources of the group scheduling.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod groups;
mod podgroups;
mod priorityclasses;
#[cfg(test)]
mod tests;
mod workloads;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![podgroups::resource(), priorityclasses::resource(), workloads::resource()]
}
