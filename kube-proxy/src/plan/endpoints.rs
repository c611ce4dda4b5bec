//! Which endpoints take a connection, by traffic policy.
//!
//! Contract: KEP-1669 (terminating endpoints take traffic when no ready one is left, whatever they were meant for) and KEP-2433,
//! KEP-3015 (hints of a kind count when every ready endpoint has some and one is for here; nodes before zones).

use std::sync::Arc;

use crate::{
    model::{Endpoint, Settings},
    tables::Family,
};

/// Endpoints for cluster-wide traffic.
pub(super) fn cluster<'a>(family: Family, all: &'a [Endpoint], settings: &Settings) -> Vec<&'a Endpoint> {
    let takers = usable(family, all.iter());
    if takers.iter().any(|e| !e.ready) {
        return takers;
    }
    let for_node = meant_for(&takers, &settings.node, |e| &e.nodes);
    for_node.or_else(|| meant_for(&takers, &settings.zone, |e| &e.zones)).unwrap_or(takers)
}

/// The endpoints whose hints name this place, if all have hints of the kind and some do.
fn meant_for<'a>(
    all: &[&'a Endpoint],
    place: &str,
    hints: impl Fn(&'a Endpoint) -> &'a [Arc<str>],
) -> Option<Vec<&'a Endpoint>> {
    if all.iter().any(|e| hints(e).is_empty()) {
        return None;
    }
    let here = |e: &&&'a Endpoint| !place.is_empty() && hints(e).iter().any(|name| **name == *place);
    Some(all.iter().filter(here).copied().collect()).filter(|here: &Vec<_>| !here.is_empty())
}

/// Endpoints on this node.
pub(super) fn local(family: Family, all: &[Endpoint]) -> Vec<&Endpoint> {
    usable(family, all.iter().filter(|e| e.local))
}

/// Ready endpoints in the order of their addresses, or those that still serve while terminating when none is ready.
fn usable<'a>(family: Family, all: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<&'a Endpoint> {
    let mut all: Vec<&Endpoint> = all.filter(|e| family.has(&e.address)).collect();
    all.sort_unstable();
    all.dedup_by_key(|e| (e.address, e.port));
    if all.iter().any(|e| e.ready) {
        all.retain(|e| e.ready);
    } else {
        all.retain(|e| e.serving && e.terminating);
    }
    all
}
