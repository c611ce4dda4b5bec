//! Which endpoints take a connection, by traffic policy.
//!
//! Contract: KEP-1669 (terminating endpoints take traffic when no ready one is left) and KEP-2433,
//! KEP-3015 (hints count when every ready endpoint has one and some are for here).

use crate::{
    model::{Endpoint, Settings},
    tables::Family,
};

/// Endpoints for cluster-wide traffic.
pub(super) fn cluster<'a>(family: Family, all: &'a [Endpoint], settings: &Settings) -> Vec<&'a Endpoint> {
    let ready = usable(family, all.iter());
    let hinted = |e: &&Endpoint| !e.nodes.is_empty() || !e.zones.is_empty();
    if ready.iter().all(hinted) {
        let for_node = |e: &&&Endpoint| e.nodes.contains(&settings.node);
        let for_zone = |e: &&&Endpoint| !settings.zone.is_empty() && e.zones.contains(&settings.zone);
        let here: Vec<&Endpoint> = ready.iter().filter(for_node).copied().collect();
        if !here.is_empty() {
            return here;
        }
        let here: Vec<&Endpoint> = ready.iter().filter(for_zone).copied().collect();
        if !here.is_empty() {
            return here;
        }
    }
    ready
}

/// Endpoints on this node.
pub(super) fn local(family: Family, all: &[Endpoint]) -> Vec<&Endpoint> {
    usable(family, all.iter().filter(|e| e.local))
}

/// Ready endpoints, or those that still serve while terminating when none is ready.
fn usable<'a>(family: Family, all: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<&'a Endpoint> {
    let mut all: Vec<&Endpoint> = all.filter(|e| family.has(&e.address)).collect();
    all.sort();
    all.dedup_by_key(|e| (e.address, e.port));
    let ready: Vec<&Endpoint> = all.iter().copied().filter(|e| e.ready).collect();
    if ready.is_empty() { all.into_iter().filter(|e| e.serving && e.terminating).collect() } else { ready }
}
