//! Resources of the group apiregistration.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod apiservices;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![apiservices::resource()]
}
