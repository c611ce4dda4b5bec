//! Resources of the group rbac.authorization.k8s.io, one file each, one line each in [`resources`].

use crate::{
    object::Object,
    registry::{Resource, kit::fill},
};

mod clusterrolebindings;
mod clusterroles;
mod rolebindings;
mod roles;

const GROUP: &str = "rbac.authorization.k8s.io";

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        clusterrolebindings::resource(),
        clusterroles::resource(),
        rolebindings::resource(),
        roles::resource(),
    ]
}

/// A binding's role is of this group, and so are users and groups it is for.
fn default_binding(obj: &mut Object) {
    let Some(role) = fill::made(obj.as_map_mut(), "roleRef") else { return };
    fill::missing(role, "apiGroup", GROUP);
    for subject in fill::members(obj.as_map_mut(), "subjects") {
        if matches!(fill::string(subject, "kind"), "User" | "Group") {
            fill::missing(subject, "apiGroup", GROUP);
        }
    }
}
