//! Resources of the group flowcontrol.apiserver.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod flowschemas;
mod prioritylevelconfigurations;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![flowschemas::resource(), prioritylevelconfigurations::resource()]
}
