//! Every node has a range of pod addresses (upstream's RangeAllocator).
//!
//! What is taken is read from all nodes each time, so nothing can get lost; what is remembered is only which range comes
//! next: one that a node gave back is the last to be handed out again, when nobody believes any more that it is the old
//! node's. One worker hands out ranges, and a write that meets a newer node is repeated on what is there then.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec};
use serde_json::json;

use super::{Context, Settings, enqueue_changes};

/// Why a node gets no range.
#[derive(Debug, thiserror::Error)]
enum IpamError {
    #[error("no free range in {0}")]
    Exhausted(IpNet),
    #[error("cannot assign ranges to node {node}")]
    Api {
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
}

pub(super) fn start(ctx: &Context) {
    if ctx.settings.cluster_cidrs.is_empty() {
        return;
    }
    let nodes = ctx.informers.get::<Node>(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("cidrallocator_node");
    enqueue_changes(&nodes, &queue);
    let (api, settings) = (Api::<Node>::all(ctx.client.clone()), ctx.settings.clone());
    let recorder = ctx.recorder("cidrAllocator");
    measure(&nodes, &settings);
    let next: Arc<Mutex<Vec<u128>>> = Arc::new(Mutex::new(vec![0; settings.cluster_cidrs.len()]));
    // One worker: two would hand out the same range.
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (nodes, api, settings) = (nodes.clone(), api.clone(), settings.clone());
        let (recorder, next) = (recorder.clone(), next.clone());
        async move {
            nodes.wait_synced().await;
            let wants = |n: &Arc<Node>| ranges(n).is_empty() && n.metadata.deletion_timestamp.is_none();
            let Some(node) = nodes.store().get(&key).filter(wants) else {
                return Ok(Outcome::Done);
            };
            let mut taken: BTreeSet<IpNet> = nodes.store().list().iter().flat_map(|n| ranges(n)).collect();
            let from = next.lock().clone();
            let assigned =
                plan(&settings, &taken, &from).inspect_err(|_| tell(&recorder, &node, "CIDRNotAvailable"))?;
            let texts: Vec<String> = assigned.iter().map(|found| found.range.to_string()).collect();
            let body = json!({
                "metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
            });
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(body)).await {
                // The next node must see this one's range as taken.
                Ok(written) => {
                    let version = written.metadata.resource_version.unwrap_or_default();
                    nodes.wait_seen(&key, &version).await;
                    *next.lock() = assigned.iter().map(|found| found.at + 1).collect();
                    taken.extend(assigned.iter().map(|found| found.range));
                    METRICS.assigned(&settings, &assigned, &taken);
                    Ok(Outcome::Done)
                }
                Err(e) if client::is_not_found(&e) => Ok(Outcome::Done),
                Err(source) => {
                    tell(&recorder, &node, "CIDRAssignmentFailed");
                    Err(IpamError::Api { node: key.name.to_string(), source: Box::new(source) })
                }
            }
        }
    });
}

fn tell(recorder: &Recorder, node: &Node, reason: &str) {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let note = format!("Node {name} status is now: {reason}");
    recorder.event(&reference(node), EventType::Normal, reason, reason, note, None);
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    all.iter().filter_map(|r| r.parse().ok()).collect()
}

/// A range to hand out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    range: IpNet,
    /// Which one of its cluster range it is.
    at: u128,
    /// How many that were taken were met before it.
    tries: u128,
}

/// A free range of each cluster range: the first one at or after the place `from` says, then from the beginning.
fn plan(settings: &Settings, taken: &BTreeSet<IpNet>, from: &[u128]) -> Result<Vec<Found>, IpamError> {
    let found = |(n, cluster): (usize, &IpNet)| {
        let mask = mask(settings, cluster);
        let exhausted = || IpamError::Exhausted(*cluster);
        let count = mask.checked_sub(cluster.prefix_len()).ok_or_else(exhausted)?;
        let count = 1_u128.checked_shl(count.into()).unwrap_or(u128::MAX);
        let first = from.get(n).copied().unwrap_or(0) % count;
        // Of what is as large as what is sought, one that is not the same does not overlap.
        let other = taken.iter().filter(|t| t.prefix_len() != mask).chain(&settings.service_cidrs);
        let other: Vec<&IpNet> = other.collect();
        let free = |range: &IpNet| {
            !taken.contains(range) && !other.iter().any(|t| t.contains(range) || range.contains(*t))
        };
        let places = (0..count).map(|tries| ((first + tries) % count, tries));
        let mut all =
            places.filter_map(|(at, tries)| Some(Found { range: nth(cluster, mask, at)?, at, tries }));
        all.find(|found| free(&found.range)).ok_or_else(exhausted)
    };
    settings.cluster_cidrs.iter().enumerate().map(found).collect()
}

/// The range number `at`, of this mask, of a cluster range.
fn nth(cluster: &IpNet, mask: u8, at: u128) -> Option<IpNet> {
    let address = match cluster.network() {
        IpAddr::V4(base) => {
            let step = u32::try_from(at).ok()?.checked_shl(u32::from(32_u8.checked_sub(mask)?)).unwrap_or(0);
            IpAddr::from(Ipv4Addr::from(u32::from(base).checked_add(step)?))
        }
        IpAddr::V6(base) => {
            let step = at.checked_shl(u32::from(128_u8.checked_sub(mask)?)).unwrap_or(0);
            IpAddr::from(Ipv6Addr::from(u128::from(base).checked_add(step)?))
        }
    };
    IpNet::new(address, mask).ok()
}

fn mask(settings: &Settings, cluster: &IpNet) -> u8 {
    if cluster.addr().is_ipv4() { settings.node_mask_v4 } else { settings.node_mask_v6 }
}

/// How many ranges a cluster range has room for.
fn room(settings: &Settings, cluster: &IpNet) -> i64 {
    let bits = mask(settings, cluster).saturating_sub(cluster.prefix_len());
    1_i64.checked_shl(bits.into()).filter(|room| *room > 0).unwrap_or(i64::MAX)
}

/// How many of these ranges are of a cluster range.
fn used(cluster: &IpNet, taken: &BTreeSet<IpNet>) -> usize {
    taken.iter().filter(|range| cluster.contains(*range)).count()
}

struct Metrics {
    allocations: IntCounterVec,
    releases: IntCounterVec,
    /// Upstream's name has the letters in this order.
    most: IntGaugeVec,
    usage: GaugeVec,
    tries: HistogramVec,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let (alpha, labels) = (Stability::Alpha, &["clusterCIDR"]);
    Metrics {
        allocations: metrics::counter_vec(
            "node_ipam_controller_cidrset_cidrs_allocations_total",
            "Counter measuring total number of CIDR allocations.",
            alpha,
            labels,
        ),
        releases: metrics::counter_vec(
            "node_ipam_controller_cidrset_cidrs_releases_total",
            "Counter measuring total number of CIDR releases.",
            alpha,
            labels,
        ),
        most: metrics::gauge_vec(
            "node_ipam_controller_cirdset_max_cidrs",
            "Maximum number of CIDRs that can be allocated.",
            alpha,
            labels,
        ),
        usage: metrics::float_gauge_vec(
            "node_ipam_controller_cidrset_usage_cidrs",
            "Gauge measuring percentage of allocated CIDRs.",
            alpha,
            labels,
        ),
        tries: metrics::histogram_vec(
            "node_ipam_controller_cidrset_allocation_tries_per_request",
            "Number of ranges looked at for each one that is assigned",
            alpha,
            labels,
            exponential_buckets(1.0, 5.0, 5),
        ),
    }
});

impl Metrics {
    fn assigned(&self, settings: &Settings, assigned: &[Found], taken: &BTreeSet<IpNet>) {
        for (cluster, found) in settings.cluster_cidrs.iter().zip(assigned) {
            let label = cluster.to_string();
            self.allocations.with_label_values(&[&label]).inc();
            self.tries.with_label_values(&[&label]).observe(found.tries as f64);
        }
        self.used(settings, taken);
    }

    fn used(&self, settings: &Settings, taken: &BTreeSet<IpNet>) {
        for cluster in &settings.cluster_cidrs {
            let share = used(cluster, taken) as f64 / room(settings, cluster) as f64;
            self.usage.with_label_values(&[&cluster.to_string()]).set(share);
        }
    }
}

/// Shows how much room there is, and counts what nodes that go give back.
fn measure(nodes: &Informer<Node>, settings: &Settings) {
    for cluster in &settings.cluster_cidrs {
        METRICS.most.with_label_values(&[&cluster.to_string()]).set(room(settings, cluster));
    }
    let (settings, store) = (settings.clone(), nodes.clone());
    nodes.on_event(move |event| {
        let Event::Deleted { last, .. } = event else { return };
        let gone: BTreeSet<IpNet> = ranges(&last).into_iter().collect();
        for cluster in &settings.cluster_cidrs {
            let count = used(cluster, &gone);
            METRICS.releases.with_label_values(&[&cluster.to_string()]).inc_by(count as u64);
        }
        METRICS.used(&settings, &store.store().list().iter().flat_map(|n| ranges(n)).collect());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cidr: &str, mask: u8) -> Settings {
        Settings {
            cluster_cidrs: vec![cidr.parse().unwrap()],
            node_mask_v4: mask,
            node_mask_v6: 64,
            ..Settings::default()
        }
    }

    fn assigned(settings: &Settings, taken: &[&str]) -> String {
        after(settings, taken, &[])
    }

    fn after(settings: &Settings, taken: &[&str], from: &[u128]) -> String {
        match plan(settings, &taken.iter().map(|t| t.parse().unwrap()).collect(), from) {
            Ok(found) => found.iter().map(|f| f.range.to_string()).collect::<Vec<_>>().join(","),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_was_given_back_is_handed_out_last() {
        let small = settings("10.244.0.0/22", 24);
        assert_eq!(after(&small, &[], &[2]), "10.244.2.0/24");
        assert_eq!(after(&small, &["10.244.2.0/24", "10.244.3.0/24"], &[2]), "10.244.0.0/24", "all around");
        assert_eq!(after(&small, &["10.244.0.0/24"], &[4]), "10.244.1.0/24");
        assert_eq!(after(&small, &["10.244.0.0/22"], &[3]), "no free range in 10.244.0.0/22");
        let both = Settings {
            cluster_cidrs: vec!["10.0.0.0/30".parse().unwrap(), "fd00::/62".parse().unwrap()],
            ..settings("10.0.0.0/30", 32)
        };
        assert_eq!(after(&both, &["fd00:0:0:1::/64"], &[3, 1]), "10.0.0.3/32,fd00:0:0:2::/64");
        assert_eq!(after(&both, &["fd00::/63"], &[0, 0]), "10.0.0.0/32,fd00:0:0:2::/64");
        let whole = Settings { node_mask_v6: 64, ..settings("fd00::/64", 24) };
        assert_eq!(after(&whole, &[], &[7]), "fd00::/64");
    }

    #[test]
    fn the_first_free_range_is_handed_out() {
        let small = settings("10.244.0.0/22", 24);
        assert_eq!(assigned(&small, &[]), "10.244.0.0/24");
        assert_eq!(assigned(&small, &["10.244.0.0/24", "10.244.2.0/24"]), "10.244.1.0/24");
        assert_eq!(assigned(&small, &["10.244.0.128/25"]), "10.244.1.0/24", "no overlap with odd ranges");
        assert_eq!(assigned(&small, &["10.244.0.0/22"]), "no free range in 10.244.0.0/22");
        assert_eq!(assigned(&settings("10.244.0.0/24", 16), &[]), "no free range in 10.244.0.0/24");
        let services = vec!["10.244.0.0/23".parse().unwrap()];
        assert_eq!(assigned(&Settings { service_cidrs: services, ..small }, &[]), "10.244.2.0/24");
    }

    #[test]
    fn ranges_are_numbered_from_the_beginning_of_their_cluster_range() {
        for (cluster, mask, at, expected) in [
            ("127.123.3.0/16", 24, 15, "127.123.15.0/24"),
            ("192.168.5.219/28", 32, 5, "192.168.5.213/32"),
            ("2001:db8:1234:3::/48", 64, 0, "2001:db8:1234::/64"),
            ("2001:db8:85a3::8a2e:370:7334/50", 63, 6425, "2001:db8:85a3:3232::/63"),
            ("2001:db8::/32", 48, 6425, "2001:db8:1919::/48"),
            ("2001:db8:1234:ff00::/56", 72, 15, "2001:db8:1234:ff00:f00::/72"),
            ("2001:db8:1234:ff00::/56", 72, 6425, "2001:db8:1234:ff19:1900::/72"),
            ("2001:db8:1234:0:1234::/80", 96, 15, "2001:db8:1234:0:1234:f::/96"),
        ] {
            let found = nth(&cluster.parse().unwrap(), mask, at).map(|range| range.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{at} of {cluster}");
        }
    }

    #[test]
    fn what_overlaps_with_services_is_not_handed_out() {
        let services = vec!["127.123.234.0/26".parse().unwrap()];
        let part = Settings { service_cidrs: services, ..settings("127.123.234.0/24", 30) };
        assert_eq!(assigned(&part, &[]), "127.123.234.64/30");
        let taken = ["127.123.234.64/30", "127.123.234.68/30", "127.123.234.72/30", "127.123.234.80/30"];
        assert_eq!(assigned(&part, &taken), "127.123.234.76/30");
        let all = Settings { service_cidrs: vec!["127.123.0.0/16".parse().unwrap()], ..part };
        assert_eq!(assigned(&all, &[]), "no free range in 127.123.234.0/24");
    }

    #[test]
    fn room_use_and_tries_are_counted_by_cluster_range() {
        let (settings, parse) = (settings("10.244.0.0/22", 24), |t: &&str| t.parse().unwrap());
        let taken: BTreeSet<IpNet> =
            ["10.244.0.0/24", "10.244.1.0/24", "10.9.0.0/24"].iter().map(parse).collect();
        let cluster = settings.cluster_cidrs[0];
        assert_eq!((room(&settings, &cluster), used(&cluster, &taken)), (4, 2));
        let assigned = plan(&settings, &taken, &[]).unwrap();
        assert_eq!(assigned, [Found { range: "10.244.2.0/24".parse().unwrap(), at: 2, tries: 2 }]);
        METRICS.assigned(&settings, &assigned, &taken);
        let label = cluster.to_string();
        assert_eq!(METRICS.usage.with_label_values(&[&label]).get(), 0.5);
        assert_eq!(METRICS.tries.with_label_values(&[&label]).get_sample_sum(), 2.0);
        let wide =
            Settings { cluster_cidrs: vec!["fd00::/1".parse().unwrap()], node_mask_v6: 127, ..settings };
        assert_eq!(room(&wide, &wide.cluster_cidrs[0]), i64::MAX, "more than can be counted");
    }
}
