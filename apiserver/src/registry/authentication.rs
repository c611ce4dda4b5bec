//! Resources of the group authentication.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod selfsubjectreviews;
mod tokenreviews;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![selfsubjectreviews::resource(), tokenreviews::resource()]
}
