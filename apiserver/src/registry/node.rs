//! Resources of the group node.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod runtimeclasses;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![runtimeclasses::resource()]
}
