//! Resources of the group scheduling.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod priorityclasses;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![priorityclasses::resource()]
}
