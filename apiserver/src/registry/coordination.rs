//! Resources of the group coordination.k8s.io, one file each, one line each in [`resources`].

use crate::{
    field::ErrorList,
    registry::{
        Resource,
        kit::{at::At, format},
    },
};

mod leasecandidates;
mod leases;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![leasecandidates::resource(), leases::resource()]
}

/// How a leader is chosen: the one way there is, or one of a domain.
fn check_strategy(strategy: &At<'_>, errors: &mut ErrorList) {
    // Told of one level too deep, as clients know it.
    let told = strategy.named(strategy.path().child("strategy"));
    if strategy.text().contains('/') {
        told.check_format(errors, format::qualified_name);
    } else if strategy.text() != "OldestEmulationVersion" {
        told.not_among(errors, &["OldestEmulationVersion"]);
    }
}
