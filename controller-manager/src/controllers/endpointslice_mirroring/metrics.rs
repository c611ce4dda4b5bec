//! How many endpoints are mirrored in how many slices, and what a sync changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounterVec, IntGauge};

use super::plan::Plan;
use crate::controllers::endpointslice::Action;

/// What one service's endpoints come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    endpoints: i64,
    slices: i64,
}

/// What a sync changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Changes {
    added: usize,
    updated: usize,
    removed: usize,
    skipped: usize,
}

/// Sums over all services.
#[derive(Debug, Default)]
pub(super) struct Sums(Mutex<HashMap<ObjectKey, Counts>>);

struct Families {
    added: Histogram,
    updated: Histogram,
    removed: Histogram,
    skipped: Histogram,
    duration: Histogram,
    endpoints: IntGauge,
    slices: IntGauge,
    desired: IntGauge,
    changes: IntCounterVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let name = |name: &str| format!("endpoint_slice_mirroring_controller_{name}");
    let alpha = Stability::Alpha;
    let per_sync =
        |what, help| metrics::histogram(&name(what), help, alpha, exponential_buckets(2.0, 2.0, 15));
    Families {
        added: per_sync("endpoints_added_per_sync", "Number of endpoints added on each Endpoints sync"),
        updated: per_sync("endpoints_updated_per_sync", "Number of endpoints updated on each Endpoints sync"),
        removed: per_sync("endpoints_removed_per_sync", "Number of endpoints removed on each Endpoints sync"),
        skipped: per_sync(
            "addresses_skipped_per_sync",
            "Number of addresses skipped on each Endpoints sync due to being invalid or exceeding \
             MaxEndpointsPerSubset",
        ),
        duration: metrics::histogram(
            &name("endpoints_sync_duration"),
            "Duration of syncEndpoints() in seconds",
            alpha,
            exponential_buckets(0.001, 2.0, 15),
        ),
        endpoints: metrics::gauge(&name("endpoints_desired"), "Number of endpoints desired", alpha),
        slices: metrics::gauge(&name("num_endpoint_slices"), "Number of EndpointSlices", alpha),
        desired: metrics::gauge(
            &name("desired_endpoint_slices"),
            "Number of EndpointSlices that would exist with perfect endpoint allocation",
            alpha,
        ),
        changes: metrics::counter_vec(
            &name("changes"),
            "Number of EndpointSlice changes",
            alpha,
            &["operation"],
        ),
    }
});

/// Measures a sync until it is dropped.
pub(super) fn sync() -> impl Drop {
    FAMILIES.duration.start_timer()
}

/// A step has been done.
pub(super) fn carried_out(operation: &str) {
    FAMILIES.changes.with_label_values(&[operation]).inc();
}

/// What a step is called.
pub(super) fn operation(action: &Action) -> &'static str {
    match action {
        Action::Create(_) => "create",
        Action::Update(_) => "update",
        Action::Delete(_) => "delete",
    }
}

/// What a service has once the plan is carried out, and what that changes. Pure. There are as few slices as there can
/// be: the plan makes one for each set of ports and family.
pub(super) fn count(there: &[Arc<EndpointSlice>], plan: &Plan) -> (Counts, Changes) {
    let changed = |slice: &EndpointSlice| {
        plan.actions.iter().any(|action| match action {
            Action::Create(_) => false,
            Action::Update(next) => next.metadata.name == slice.metadata.name,
            Action::Delete(gone) => gone.metadata.name == slice.metadata.name,
        })
    };
    let new = plan.actions.iter().filter_map(|action| match action {
        Action::Create(slice) | Action::Update(slice) => Some(slice),
        Action::Delete(_) => None,
    });
    let kept = there.iter().map(AsRef::as_ref).filter(|slice| !changed(slice));
    let after: Vec<&EndpointSlice> = kept.chain(new).collect();
    let was = endpoints(there.iter().map(AsRef::as_ref));
    let is = endpoints(after.iter().copied());
    let counts = Counts { endpoints: whole(is.len()), slices: whole(after.len()) };
    let changes = Changes {
        added: is.keys().filter(|key| !was.contains_key(*key)).count(),
        updated: is.iter().filter(|(key, now)| was.get(*key).is_some_and(|then| then != *now)).count(),
        removed: was.keys().filter(|key| !is.contains_key(*key)).count(),
        skipped: plan.skipped,
    };
    (counts, changes)
}

/// Endpoints by their ports and their address: they have one.
fn endpoints<'s>(
    slices: impl Iterator<Item = &'s EndpointSlice>,
) -> BTreeMap<(String, &'s str), &'s Endpoint> {
    let mut out = BTreeMap::new();
    for slice in slices {
        let ports: Vec<_> = slice.ports.iter().flatten().map(|p| (&p.name, p.port, &p.protocol)).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            if let Some(address) = endpoint.addresses.first() {
                out.insert((format!("{ports:?}"), address.as_str()), endpoint);
            }
        }
    }
    out
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Sums {
    /// What a sync found, and what it is about to change.
    pub(super) fn observe(&self, key: &ObjectKey, (counts, changes): (Counts, Changes)) {
        FAMILIES.added.observe(changes.added as f64);
        FAMILIES.updated.observe(changes.updated as f64);
        FAMILIES.removed.observe(changes.removed as f64);
        FAMILIES.skipped.observe(changes.skipped as f64);
        let mut all = self.0.lock();
        let was = match counts == Counts::default() {
            true => all.remove(key),
            false => all.insert(key.clone(), counts),
        };
        let was = was.unwrap_or_default();
        FAMILIES.endpoints.add(counts.endpoints - was.endpoints);
        FAMILIES.slices.add(counts.slices - was.slices);
        FAMILIES.desired.add(counts.slices - was.slices);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, port: i32, addresses: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "addressType": "IPv4",
            "ports": [{"port": port}], "endpoints": endpoints}))
        .unwrap()
    }

    #[test]
    fn what_a_plan_leaves_and_changes_is_counted() {
        let there = [
            Arc::new(slice("a", 80, &[("10.0.0.1", true), ("10.0.0.2", true)])),
            Arc::new(slice("b", 90, &[("10.0.0.1", true)])),
        ];
        let plan = Plan {
            actions: vec![
                Action::Update(slice("a", 80, &[("10.0.0.1", false), ("10.0.0.3", true)])),
                Action::Delete(there[1].clone()),
                Action::Create(slice("", 70, &[("10.0.0.9", true)])),
            ],
            invalid: 1,
            skipped: 3,
        };
        let (counts, changes) = count(&there, &plan);
        assert_eq!(counts, Counts { endpoints: 3, slices: 2 });
        assert_eq!(changes, Changes { added: 2, updated: 1, removed: 2, skipped: 3 });
        assert_eq!(count(&there, &Plan::default()).1, Changes::default());
    }

    #[test]
    fn sums_follow_services() {
        let (sums, key) = (Sums::default(), ObjectKey::new("d", "s"));
        let told = || (FAMILIES.endpoints.get(), FAMILIES.slices.get());
        sums.observe(&key, count(&[Arc::new(slice("a", 80, &[("10.0.0.1", true)]))], &Plan::default()));
        assert_eq!(told(), (1, 1));
        sums.observe(&key, count(&[], &Plan::default()));
        sums.observe(&key, count(&[], &Plan::default()));
        assert_eq!(told(), (0, 0));
    }
}
