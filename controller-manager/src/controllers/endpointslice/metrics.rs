//! How many endpoints and slices there are, how many slices there would be if each were full, and what a sync changes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    Action,
    hints::Hints,
    plan::{Group, group_of},
};

/// What one service has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    endpoints: i64,
    slices: i64,
    /// Slices if each were full; never none.
    desired: i64,
    traffic_distribution: Option<String>,
}

/// What a sync changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Changes {
    added: usize,
    removed: usize,
    slices: usize,
}

/// What is done to a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation(&'static str);

/// Sums over all services.
#[derive(Debug, Default)]
pub(super) struct Sums(Mutex<HashMap<ObjectKey, Counts>>);

struct Families {
    added: Histogram,
    removed: Histogram,
    endpoints: IntGauge,
    slices: IntGauge,
    desired: IntGauge,
    changes: IntCounterVec,
    changed: HistogramVec,
    syncs: IntCounterVec,
    distributions: IntGaugeVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let beta = Stability::Beta;
    let per_sync = |name, help| metrics::histogram(name, help, beta, exponential_buckets(2.0, 2.0, 15));
    Families {
        added: per_sync(
            "endpoint_slice_controller_endpoints_added_per_sync",
            "Number of endpoints added on each Service sync",
        ),
        removed: per_sync(
            "endpoint_slice_controller_endpoints_removed_per_sync",
            "Number of endpoints removed on each Service sync",
        ),
        endpoints: metrics::gauge(
            "endpoint_slice_controller_endpoints_desired",
            "Number of endpoints desired",
            beta,
        ),
        slices: metrics::gauge(
            "endpoint_slice_controller_num_endpoint_slices",
            "Number of EndpointSlices",
            beta,
        ),
        desired: metrics::gauge(
            "endpoint_slice_controller_desired_endpoint_slices",
            "Number of EndpointSlices that would exist with perfect endpoint allocation",
            beta,
        ),
        changes: metrics::counter_vec(
            "endpoint_slice_controller_changes",
            "Number of EndpointSlice changes",
            Stability::Alpha,
            &["operation"],
        ),
        changed: metrics::histogram_vec(
            "endpoint_slice_controller_endpointslices_changed_per_sync",
            "Number of EndpointSlices changed on each Service sync",
            Stability::Alpha,
            &["topology", "traffic_distribution"],
            prometheus::DEFAULT_BUCKETS.to_vec(),
        ),
        syncs: metrics::counter_vec(
            "endpoint_slice_controller_syncs",
            "Number of EndpointSlice syncs",
            Stability::Alpha,
            &["result"],
        ),
        distributions: metrics::gauge_vec(
            "endpoint_slice_controller_services_count_by_traffic_distribution",
            "Number of Services using some specific trafficDistribution",
            beta,
            &["traffic_distribution"],
        ),
    }
});

/// What a service has once its slices are changed, and what that changes. Pure.
pub(super) fn count(
    service: &Service,
    before: &[Arc<EndpointSlice>],
    actions: &[Action],
    most: usize,
) -> (Counts, Changes) {
    let gone = |slice: &EndpointSlice| {
        actions.iter().any(|action| {
            let changed = match action {
                Action::Create(_) => return false,
                Action::Update(changed) => changed,
                Action::Delete(deleted) => &**deleted,
            };
            changed.metadata.name == slice.metadata.name
        })
    };
    let new = actions.iter().filter_map(|action| match action {
        Action::Create(slice) | Action::Update(slice) => Some(slice),
        Action::Delete(_) => None,
    });
    let after: Vec<&EndpointSlice> =
        before.iter().map(|slice| &**slice).filter(|slice| !gone(slice)).chain(new).collect();
    let mut groups = Vec::new();
    let was = endpoints(before.iter().map(|slice| &**slice), &mut groups);
    let is = endpoints(after.iter().copied(), &mut groups);
    let mut sizes = vec![0_usize; groups.len()];
    is.iter().for_each(|(group, _)| sizes[*group] += 1);
    let desired: usize = sizes.iter().map(|endpoints| endpoints.div_ceil(most.max(1))).sum();
    let counts = Counts {
        endpoints: whole(is.len()),
        slices: whole(after.len()),
        desired: whole(desired.max(1)),
        traffic_distribution: service.spec.as_ref().and_then(|spec| spec.traffic_distribution.clone()),
    };
    let changes = Changes {
        added: is.difference(&was).count(),
        removed: was.difference(&is).count(),
        slices: actions.len(),
    };
    (counts, changes)
}

/// Endpoints by the number of their family of slices in `groups` and their first address: they have one.
fn endpoints<'s>(
    slices: impl Iterator<Item = &'s EndpointSlice>,
    groups: &mut Vec<Group>,
) -> HashSet<(usize, &'s str)> {
    let mut all = HashSet::new();
    for slice in slices {
        let group = group_of(slice);
        let number = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
            groups.push(group);
            groups.len() - 1
        });
        let addresses = slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.addresses.first());
        all.extend(addresses.map(|address| (number, address.as_str())));
    }
    all
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Counts a sync that is over.
pub(super) fn synced(done: &Result<(), kube::Error>) {
    let result = if done.is_ok() { "success" } else { "error" };
    FAMILIES.syncs.with_label_values(&[result]).inc();
}

impl Operation {
    /// What a step does.
    pub(super) fn of(action: &Action) -> Self {
        Self(match action {
            Action::Create(_) => "create",
            Action::Update(_) => "update",
            Action::Delete(_) => "delete",
        })
    }

    /// Counts it, done.
    pub(super) fn carried_out(self) {
        FAMILIES.changes.with_label_values(&[self.0]).inc();
    }
}

impl Sums {
    /// What a sync found for a service, and what it is about to change.
    pub(super) fn observe(&self, key: &ObjectKey, service: &Service, counts: Counts, changes: Changes) {
        FAMILIES.added.observe(changes.added as f64);
        FAMILIES.removed.observe(changes.removed as f64);
        let topology = if Hints::of(service) == Hints::Auto { "Auto" } else { "Disabled" };
        let distribution = counts.traffic_distribution.clone().unwrap_or_default();
        FAMILIES.changed.with_label_values(&[topology, distribution.as_str()]).observe(changes.slices as f64);
        self.replace(key, Some(counts));
    }

    /// The service is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.replace(key, None);
    }

    fn replace(&self, key: &ObjectKey, counts: Option<Counts>) {
        let mut all = self.0.lock();
        let now = counts.clone().unwrap_or_default();
        let was = match counts {
            Some(counts) => all.insert(key.clone(), counts),
            None => all.remove(key),
        };
        let was = was.unwrap_or_default();
        FAMILIES.endpoints.add(now.endpoints - was.endpoints);
        FAMILIES.slices.add(now.slices - was.slices);
        FAMILIES.desired.add(now.desired - was.desired);
        if now.traffic_distribution != was.traffic_distribution {
            if let Some(was) = &was.traffic_distribution {
                FAMILIES.distributions.with_label_values(&[was]).dec();
            }
            if let Some(now) = &now.traffic_distribution {
                FAMILIES.distributions.with_label_values(&[now]).inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::{
            core::v1::ServiceSpec,
            discovery::v1::{Endpoint, EndpointPort},
        },
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn slice(name: &str, port: i32, addresses: &[&str]) -> EndpointSlice {
        let endpoint =
            |address: &&str| Endpoint { addresses: vec![(*address).into()], ..Endpoint::default() };
        EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: Some(addresses.iter().map(endpoint).collect()),
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            ports: Some(vec![EndpointPort { port: Some(port), ..EndpointPort::default() }]),
        }
    }

    fn told(name: &str) -> f64 {
        let text = String::from_utf8(metrics::encode().unwrap()).unwrap();
        let line = format!("endpoint_slice_controller_{name} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0.0, |value| value.parse().unwrap())
    }

    #[test]
    fn what_a_plan_leaves_and_changes_is_counted() {
        let service = Service::default();
        let before = [
            Arc::new(slice("a", 80, &["10.0.0.1", "10.0.0.2"])),
            Arc::new(slice("b", 80, &["10.0.0.3"])),
            Arc::new(slice("c", 90, &["10.0.0.1"])),
        ];
        let (counts, changes) = count(&service, &before, &[], 2);
        assert_eq!((counts.endpoints, counts.slices, counts.desired), (4, 3, 3));
        assert_eq!(changes, Changes::default());
        let actions = [
            Action::Update(slice("a", 80, &["10.0.0.1", "10.0.0.3"])),
            Action::Delete(before[1].clone()),
            Action::Create(slice("", 90, &["10.0.0.4", "10.0.0.5"])),
        ];
        let (counts, changes) = count(&service, &before, &actions, 2);
        assert_eq!((counts.endpoints, counts.slices, counts.desired), (5, 3, 3));
        // The one that moves to another slice neither comes nor goes.
        assert_eq!(changes, Changes { added: 2, removed: 1, slices: 3 });
        let (counts, _) = count(&service, &[], &[], 2);
        assert_eq!((counts.endpoints, counts.slices, counts.desired), (0, 0, 1), "there is always one");
    }

    #[test]
    fn sums_follow_services() {
        let sums = Sums::default();
        let (one, two) = (ObjectKey::new("ns", "one"), ObjectKey::new("ns", "two"));
        let near = "PreferSameZone";
        let zoned = Service {
            spec: Some(ServiceSpec { traffic_distribution: Some(near.into()), ..ServiceSpec::default() }),
            ..Service::default()
        };
        let slices = [Arc::new(slice("a", 80, &["10.0.0.1", "10.0.0.2"]))];
        let observe = |key: &ObjectKey, service: &Service, slices: &[Arc<EndpointSlice>]| {
            let (counts, changes) = count(service, slices, &[], 100);
            sums.observe(key, service, counts, changes);
        };
        observe(&one, &zoned, &slices);
        observe(&two, &zoned, &slices);
        observe(&two, &zoned, &slices);
        let by_zone = format!("services_count_by_traffic_distribution{{traffic_distribution=\"{near}\"}}");
        assert_eq!((told("endpoints_desired"), told("num_endpoint_slices"), told(&by_zone)), (4.0, 2.0, 2.0));
        observe(&two, &Service::default(), &[]);
        assert_eq!((told("endpoints_desired"), told("num_endpoint_slices"), told(&by_zone)), (2.0, 1.0, 1.0));
        assert_eq!(told("desired_endpoint_slices"), 2.0);
        sums.forget(&one);
        sums.forget(&one);
        sums.forget(&two);
        assert_eq!(
            (told("endpoints_desired"), told("desired_endpoint_slices"), told(&by_zone)),
            (0.0, 0.0, 0.0)
        );
    }
}
