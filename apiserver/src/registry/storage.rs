//! Resources of the group storage.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod csidrivers;
mod csinodes;
mod csistoragecapacities;
mod provision;
mod storageclasses;
#[cfg(test)]
mod tests;
mod volumeattachments;
mod volumeattributesclasses;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        csidrivers::resource(),
        csinodes::resource(),
        csistoragecapacities::resource(),
        storageclasses::resource(),
        volumeattachments::resource(),
        volumeattributesclasses::resource(),
    ]
}
