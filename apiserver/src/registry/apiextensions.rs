//! Resources of the group apiextensions.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

pub mod custom;
mod customresourcedefinitions;
mod validation;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![customresourcedefinitions::resource()]
}
