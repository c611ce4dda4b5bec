//! Resources of the group apps, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod controllerrevisions;
mod daemonsets;
mod deployments;
mod replicasets;
mod statefulsets;

#[cfg(test)]
mod tests;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        controllerrevisions::resource(),
        daemonsets::resource(),
        deployments::resource(),
        replicasets::resource(),
        statefulsets::resource(),
    ]
}
