//! Which endpoints take a connection, by traffic policy.
//!
//! Contract: KEP-1669 (terminating endpoints take traffic when no ready one is left, whatever they were meant for) and KEP-2433,
//! KEP-3015 (hints of a kind count when every ready endpoint has some and one is for here; nodes before zones).

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    model::{Endpoint, Settings},
    tables::Family,
};

/// Endpoints that take connections, in the order of their addresses.
pub(super) type Takers<'a> = SmallVec<[&'a Endpoint; 16]>;

/// Endpoints for cluster-wide traffic.
pub(super) fn cluster<'a>(family: Family, all: &'a [Endpoint], settings: &Settings) -> Takers<'a> {
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
) -> Option<Takers<'a>> {
    if all.iter().any(|e| hints(e).is_empty()) {
        return None;
    }
    let here = |e: &&&'a Endpoint| !place.is_empty() && hints(e).iter().any(|name| **name == *place);
    Some(all.iter().filter(here).copied().collect()).filter(|here: &Takers<'_>| !here.is_empty())
}

/// Endpoints on this node.
pub(super) fn local(family: Family, all: &[Endpoint]) -> Takers<'_> {
    usable(family, all.iter().filter(|e| e.local))
}

/// Ready endpoints in the order of their addresses, or those that still serve while terminating when none is ready.
fn usable<'a>(family: Family, all: impl Iterator<Item = &'a Endpoint> + Clone) -> Takers<'a> {
    let mut all: Takers<'a> = all.filter(|e| family.has(&e.address)).collect();
    all.sort_unstable();
    all.dedup_by_key(|e| (e.address, e.port));
    if all.iter().any(|e| e.ready) {
        all.retain(|e| e.ready);
    } else {
        all.retain(|e| e.serving && e.terminating);
    }
    all
}
