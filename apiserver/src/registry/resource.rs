//! Resources of the group resource.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod claims;
mod conversion;
mod deviceclasses;
mod devicetaintrules;
mod names;
mod resourceclaims;
mod resourceclaimtemplates;
mod resourcepoolstatusrequests;
mod resourceslices;
mod selectors;
mod slices;
#[cfg(test)]
mod tests;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        deviceclasses::resource(),
        devicetaintrules::resource(),
        resourceclaims::resource(),
        resourceclaimtemplates::resource(),
        resourcepoolstatusrequests::resource(),
        resourceslices::resource(),
    ]
}
