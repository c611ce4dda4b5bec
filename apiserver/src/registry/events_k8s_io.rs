//! Resources of the group events.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod events;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![events::resource()]
}
