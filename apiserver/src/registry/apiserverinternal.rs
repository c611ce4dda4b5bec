//! Resources of the group internal.apiserver.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod storageversions;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![storageversions::resource()]
}
