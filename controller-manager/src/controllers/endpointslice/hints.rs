//! Hints that keep traffic near its origin. Pure.
//!
//! Contract: KEP-4444 and KEP-3015 (`trafficDistribution`), KEP-2433 (annotation `service.kubernetes.io/topology-mode`):
//! endpoints are shared out to zones by the zones' CPU, but not where some zone would be overloaded by more than a fifth.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    events::EventType,
    meta::{annotation, label},
    quantity::Quantity,
};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone},
};

/// Label naming a node's zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// The annotation's name before; it takes precedence.
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes that serve no ordinary pods do not count.
const EXCLUDED: &[&str] = &["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// By how much a zone may be overloaded.
const OVERLOAD: f64 = 0.2;

/// How a service wants its traffic to be kept near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    /// Not at all.
    None,
    /// Within the zone, where it has endpoints.
    SameZone,
    /// On the node, then within the zone.
    SameNode,
    /// By each zone's share of the cluster's CPU.
    Auto,
}

/// Something to tell about a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

impl Hints {
    /// What a service asks for.
    pub(super) fn of(service: &Service) -> Hints {
        let mode = annotation(&service.metadata, MODE_BEFORE).or(annotation(&service.metadata, MODE));
        if matches!(mode, Some("Auto" | "auto")) {
            return Hints::Auto;
        }
        match service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()) {
            Some("PreferClose" | "PreferSameZone") => Hints::SameZone,
            Some("PreferSameNode") => Hints::SameNode,
            _ => Hints::None,
        }
    }
}

/// What a node adds to its zone's share: whether it counts, its zone and its CPU as written.
pub(super) fn weight(node: &Node) -> (bool, Option<&str>, Option<&str>) {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    (counts(node), label(&node.metadata, ZONE), allocatable.and_then(|a| a.get("cpu")).map(|q| q.0.as_str()))
}

/// Each zone's share of the cluster's CPU; `None` when a node does not tell its zone or CPU, or there is but one zone.
pub(super) fn shares(nodes: &[Arc<Node>]) -> Option<BTreeMap<String, f64>> {
    let mut zones: BTreeMap<String, f64> = BTreeMap::new();
    for node in nodes.iter().filter(|n| counts(n)) {
        let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
        let cpu = allocatable.get("cpu")?.0.parse::<Quantity>().ok()?.milli_value();
        let zone = label(&node.metadata, ZONE).filter(|z| !z.is_empty())?;
        // Thousandths of a core stay far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let cpu = cpu as f64;
        if cpu <= 0.0 {
            return None;
        }
        *zones.entry(zone.to_owned()).or_default() += cpu;
    }
    let total: f64 = zones.values().sum();
    zones.values_mut().for_each(|cpu| *cpu /= total);
    (zones.len() > 1).then_some(zones)
}

fn counts(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !EXCLUDED.iter().any(|key| label(&node.metadata, key).is_some())
}

/// Gives the ready ones of a family's endpoints their hints; `there` are the slices they are in so far. `shared` tells
/// whether the service's endpoints are shared out by CPU: what it says changes is told.
pub(super) fn give(
    wish: Hints,
    family: &str,
    mut endpoints: Vec<&mut Endpoint>,
    there: &[&Arc<EndpointSlice>],
    shares: Option<&BTreeMap<String, f64>>,
    shared: &mut bool,
) -> Option<Told> {
    endpoints.retain(|e| is_ready(e));
    let for_zone = |zone: &String| ForZone { name: zone.clone() };
    let before_this = std::mem::replace(shared, false);
    let ended = || before_this.then(|| disabled("Topology Aware Hints has been disabled", family));
    match wish {
        Hints::SameZone | Hints::SameNode => {
            for endpoint in endpoints {
                let zones = endpoint.zone.as_ref().map(|z| vec![for_zone(z)]);
                let node = endpoint.node_name.as_ref().filter(|_| wish == Hints::SameNode);
                let nodes = node.map(|n| vec![ForNode { name: n.clone() }]);
                let any = zones.is_some() || nodes.is_some();
                endpoint.hints = any.then_some(EndpointHints { for_zones: zones, for_nodes: nodes });
            }
            ended()
        }
        Hints::None => ended(),
        Hints::Auto => {
            let before = before(there);
            let own: Vec<Option<String>> = endpoints.iter().map(|e| e.zone.clone()).collect();
            let names: Vec<&str> =
                endpoints.iter().map(|e| e.addresses.first().map_or("", String::as_str)).collect();
            match allocate(shares, &own, |n| names.get(n).and_then(|name| before.get(*name))) {
                Err(why) => Some(disabled(&why, family)),
                Ok(zones) => {
                    for (endpoint, zone) in endpoints.iter_mut().zip(&zones) {
                        endpoint.hints =
                            Some(EndpointHints { for_zones: Some(vec![for_zone(zone)]), for_nodes: None });
                    }
                    *shared = true;
                    (!before_this).then(|| Told {
                        kind: EventType::Normal,
                        reason: "TopologyAwareHintsEnabled",
                        note: format!("Topology Aware Hints has been enabled, addressType: {family}"),
                    })
                }
            }
        }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}

fn disabled(why: &str, family: &str) -> Told {
    let note = format!("{why}, addressType: {family}");
    Told { kind: EventType::Warning, reason: "TopologyAwareHintsDisabled", note }
}

/// The zone every address has been hinted for.
fn before(slices: &[&Arc<EndpointSlice>]) -> BTreeMap<String, String> {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let zone = |e: &Endpoint| Some(e.hints.as_ref()?.for_zones.as_ref()?.first()?.name.clone());
    endpoints.filter_map(|e| Some((e.addresses.first()?.clone(), zone(e)?))).collect()
}

/// The zone each endpoint is to serve: the one it serves already, else its own, but moved from zones that have more
/// than their share to such that have less. The same again changes nothing.
fn allocate<'a>(
    shares: Option<&BTreeMap<String, f64>>,
    own: &[Option<String>],
    before: impl Fn(usize) -> Option<&'a String>,
) -> Result<Vec<String>, String> {
    let shares = shares
        .ok_or("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")?;
    let numbers = format!("({} endpoints, {} zones)", own.len(), shares.len());
    if shares.len() > own.len() {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let desired = desired(shares, own.len())
        .ok_or(format!("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"))?;
    let mut out = Vec::with_capacity(own.len());
    let mut counts: BTreeMap<&str, f64> = shares.keys().map(|z| (z.as_str(), 0.0)).collect();
    for (n, zone) in own.iter().enumerate() {
        let kept = before(n).filter(|z| shares.contains_key(*z)).or(zone.as_ref());
        let zone = kept.ok_or("One or more endpoints do not have a zone specified")?;
        if let Some(count) = counts.get_mut(zone.as_str()) {
            *count += 1.0;
        }
        out.push(zone.clone());
    }
    // Zones that no node is in any more give all they have.
    let mut surplus: BTreeMap<String, f64> = BTreeMap::new();
    out.iter()
        .filter(|z| !shares.contains_key(*z))
        .for_each(|z| *surplus.entry(z.clone()).or_default() += 1.0);
    for (zone, wanted) in &desired {
        surplus.insert(zone.clone(), counts.get(zone.as_str()).copied().unwrap_or(0.0) - wanted);
    }
    while let Some((from, to)) = exchange(&surplus, shares) {
        let at = donor(&out, own, &from, &to);
        let Some(slot) = at.and_then(|at| out.get_mut(at)) else { break };
        slot.clone_from(&to);
        *surplus.entry(from).or_default() -= 1.0;
        *surplus.entry(to).or_default() += 1.0;
    }
    Ok(out)
}

/// How many endpoints each zone should have; `None` when the least that each must have are more than there are.
fn desired(shares: &BTreeMap<String, f64>, endpoints: usize) -> Option<BTreeMap<String, f64>> {
    // Endpoints of a service stay far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let total = endpoints as f64;
    let least = |share: f64| (share * total / (1.0 + OVERLOAD)).ceil();
    let fits = shares.values().map(|share| least(*share)).sum::<f64>() <= total;
    fits.then(|| shares.iter().map(|(zone, s)| (zone.clone(), (s * total).max(least(*s)))).collect())
}

/// The zone with the largest surplus and the one with the largest need, when moving an endpoint improves things. A zone
/// without nodes keeps none.
fn exchange(surplus: &BTreeMap<String, f64>, shares: &BTreeMap<String, f64>) -> Option<(String, String)> {
    let of_nodes = surplus.iter().filter(|(zone, _)| shares.contains_key(*zone));
    let (to, take) = of_nodes.min_by(|a, b| a.1.total_cmp(b.1))?;
    let stranded = surplus.iter().find(|(zone, count)| !shares.contains_key(*zone) && **count > 0.0);
    if let Some((from, _)) = stranded {
        return Some((from.clone(), to.clone()));
    }
    let (from, give) = surplus.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
    let (give, take) = (*give, -take);
    (give >= 0.5 && take >= 0.5 && (give >= 1.0 || take >= 1.0)).then(|| (from.clone(), to.clone()))
}

/// The endpoint that moves: best one that goes home, else one that is away from home already, else any.
fn donor(serving: &[String], own: &[Option<String>], from: &str, to: &str) -> Option<usize> {
    let rank = |n: &usize| match own.get(*n).and_then(Option::as_deref) {
        Some(zone) if zone == to => 0,
        Some(zone) if zone != from => 1,
        _ => 2,
    };
    (0..serving.len()).filter(|n| serving.get(*n).is_some_and(|z| z == from)).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, zone: &str, cpu: &str, extra: Value) -> Arc<Node> {
        let mut v = json!({"metadata": {"name": name, "labels": {ZONE: zone}}, "status": {"allocatable": {"cpu": cpu},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            v["metadata"]["labels"][pointer] = value.clone();
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[test]
    fn zones_share_by_cpu() {
        let nodes = [
            node("a", "a", "3", json!({})),
            node("b", "b", "500m", json!({})),
            node("c", "b", "500m", json!({})),
            node("master", "c", "8", json!({EXCLUDED[0]: ""})),
        ];
        assert_eq!(shares(&nodes), Some([("a".to_owned(), 0.75), ("b".to_owned(), 0.25)].into()));
        assert_eq!(shares(&nodes[..1]), None, "one zone needs no hints");
        let nowhere = [nodes[0].clone(), nodes[1].clone(), node("d", "", "1", json!({}))];
        assert_eq!(shares(&nowhere), None);
    }

    fn zones(shares: &[f64]) -> BTreeMap<String, f64> {
        shares.iter().enumerate().map(|(n, s)| (format!("z{n}"), *s)).collect()
    }

    fn count(zones: &[String], zone: &str) -> usize {
        zones.iter().filter(|z| *z == zone).count()
    }

    #[test]
    fn endpoints_move_to_zones_that_lack_them() {
        let own = |a: usize, b: usize| -> Vec<Option<String>> {
            (0..a + b).map(|n| Some(if n < a { "z0".into() } else { "z1".into() })).collect()
        };
        // (in z0, in z1, share of z0) → hinted for z0.
        for (a, b, share, expected) in [(2, 2, 0.5, 2), (6, 2, 0.5, 4), (8, 0, 0.25, 2), (3, 9, 0.75, 9)] {
            let got = allocate(Some(&zones(&[share, 1.0 - share])), &own(a, b), |_| None).unwrap();
            assert_eq!(count(&got, "z0"), expected, "{a}+{b} at {share}");
        }
        assert!(
            allocate(Some(&zones(&[0.5, 0.5])), &own(1, 0), |_| None)
                .unwrap_err()
                .contains("Insufficient number")
        );
        assert!(allocate(None, &own(1, 1), |_| None).unwrap_err().contains("Insufficient Node"));
        assert!(allocate(Some(&zones(&[0.5, 0.5])), &own(2, 1), |_| None).unwrap_err().contains("overload"));
        assert!(
            allocate(Some(&zones(&[0.5, 0.5])), &[None, None], |_| None)
                .unwrap_err()
                .contains("do not have a zone")
        );
    }

    proptest! {
        #[test]
        fn what_is_allocated_stays(own in prop::collection::vec(0usize..4, 1..40), weights in prop::collection::vec(1u32..9, 2..4)) {
            let total: u32 = weights.iter().sum();
            let shares = zones(&weights.iter().map(|w| f64::from(*w) / f64::from(total)).collect::<Vec<_>>());
            let own: Vec<Option<String>> = own.into_iter().map(|n| Some(format!("z{n}"))).collect();
            if let Ok(first) = allocate(Some(&shares), &own, |_| None) {
                prop_assert!(first.iter().all(|z| shares.contains_key(z)));
                let again = allocate(Some(&shares), &own, |n| first.get(n));
                prop_assert_eq!(again.as_ref(), Ok(&first));
            }
        }
    }
}
