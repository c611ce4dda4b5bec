//! Resources of the group policy, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod poddisruptionbudgets;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![poddisruptionbudgets::resource()]
}
