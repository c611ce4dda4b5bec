//! Resources of the group discovery.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod endpointslices;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![endpointslices::resource()]
}
