//! Resources of the group storagemigration.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod storageversionmigrations;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![storageversionmigrations::resource()]
}
