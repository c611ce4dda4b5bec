//! Resources of the group networking.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod ingressclasses;
mod ingresses;
mod ipaddresses;
mod networkpolicies;
mod servicecidrs;

#[cfg(test)]
mod tests;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        ingressclasses::resource(),
        ingresses::resource(),
        ipaddresses::resource(),
        networkpolicies::resource(),
        servicecidrs::resource(),
    ]
}
