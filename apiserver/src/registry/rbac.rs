//! Resources of the group rbac.authorization.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod clusterrolebindings;
mod clusterroles;
mod rolebindings;
mod roles;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        clusterrolebindings::resource(),
        clusterroles::resource(),
        rolebindings::resource(),
        roles::resource(),
    ]
}
