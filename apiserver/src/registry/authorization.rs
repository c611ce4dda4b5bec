//! Resources of the group authorization.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod localsubjectaccessreviews;
mod selfsubjectaccessreviews;
mod selfsubjectrulesreviews;
mod subjectaccessreviews;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        localsubjectaccessreviews::resource(),
        selfsubjectaccessreviews::resource(),
        selfsubjectrulesreviews::resource(),
        subjectaccessreviews::resource(),
    ]
}
