//! Resources of the group resource.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod conversion;
mod deviceclasses;
mod devicetaintrules;
mod resourceclaims;
mod resourceclaimtemplates;
mod resourceslices;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        deviceclasses::resource(),
        devicetaintrules::resource(),
        resourceclaims::resource(),
        resourceclaimtemplates::resource(),
        resourceslices::resource(),
    ]
}
