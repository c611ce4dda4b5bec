//! How fast pods may be evicted: slowly where most of a large zone is silent, not at all where most of a small one
//! is, and not at all when everyone is, because then it is rather us who cannot hear.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;

use super::{
    health,
    taints::{Ask, Permit},
};
use crate::settings::NodeSettings;

const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// Labels of nodes naming their region; the older name takes precedence.
const REGION: [&str; 2] = ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"];
/// Labels of nodes naming their zone; the older name takes precedence.
const ZONE: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];

/// How a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Most nodes report.
    Normal,
    /// Too many are silent.
    Partial,
    /// All are.
    Full,
}

/// What metrics tell of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub size: usize,
    pub unhealthy: usize,
    state: State,
}

impl Report {
    /// Percentage of healthy nodes.
    #[allow(clippy::cast_precision_loss, reason = "numbers of nodes are small")]
    pub(super) fn health(&self) -> f64 {
        if self.size == 0 {
            return 100.0;
        }
        (100 * (self.size - self.unhealthy)) as f64 / self.size as f64
    }
}

/// All zones.
#[derive(Debug, Default)]
pub(super) struct Zones {
    reports: BTreeMap<String, Report>,
    /// Time between two nodes, `None` for never.
    paces: BTreeMap<String, Option<SignedDuration>>,
    /// Of a zone that has no nodes that count.
    default_pace: Option<SignedDuration>,
    last: BTreeMap<String, Timestamp>,
    all_silent: bool,
}

impl Zones {
    /// Takes in all nodes. Returns whether this ends a time in which all zones were silent.
    pub(super) fn update(&mut self, nodes: &[Arc<Node>], settings: &NodeSettings) -> bool {
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for node in nodes.iter().filter(|n| !is_excluded(n)) {
            let (size, unhealthy) = counts.entry(key(node)).or_default();
            *size += 1;
            *unhealthy += usize::from(health::ready(node) != Some("True"));
        }
        self.reports = counts
            .into_iter()
            .map(|(zone, (size, unhealthy))| {
                (zone, Report { size, unhealthy, state: state(size, unhealthy, settings.unhealthy_share) })
            })
            .collect();
        self.paces =
            self.reports.iter().map(|(zone, report)| (zone.clone(), pace(report, settings))).collect();
        self.default_pace = every(settings.rate);
        self.last.retain(|zone, _| self.reports.contains_key(zone));
        let silent = !self.reports.is_empty() && self.reports.values().all(|r| r.state == State::Full);
        let was_silent = std::mem::replace(&mut self.all_silent, silent);
        was_silent && !silent
    }

    /// How long a node that is held has to wait for its turn; `None` where only a pass can change that.
    pub(super) fn wait(&self, zone: &str, now: Timestamp) -> Option<SignedDuration> {
        let pace = self.paces.get(zone).copied().flatten()?;
        let last = self.last.get(zone)?;
        Some(pace - now.duration_since(*last))
    }

    /// Zones as they are now.
    pub(super) fn reports(&self) -> impl Iterator<Item = (&str, &Report)> {
        self.reports.iter().map(|(zone, report)| (zone.as_str(), report))
    }

    /// Whether one more node of a zone may be given up.
    pub(super) fn may_evict(&mut self, ask: Ask<'_>, now: Timestamp) -> Permit {
        if self.all_silent {
            return Permit::Never;
        }
        // A zone that no pass has seen yet waits for one.
        let Some(pace) = self.paces.get(ask.zone).copied().unwrap_or(self.default_pace) else {
            return Permit::Later;
        };
        if self.last.get(ask.zone).is_some_and(|last| now.duration_since(*last) < pace) {
            return Permit::Later;
        }
        if ask.counts {
            self.last.insert(ask.zone.to_owned(), now);
        }
        Permit::Given
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of nodes are small")]
fn state(size: usize, unhealthy: usize, threshold: f64) -> State {
    if unhealthy == size {
        State::Full
    } else if unhealthy > 2 && unhealthy as f64 / size as f64 >= threshold {
        State::Partial
    } else {
        State::Normal
    }
}

fn pace(report: &Report, settings: &NodeSettings) -> Option<SignedDuration> {
    let rate = match report.state {
        State::Normal | State::Full => settings.rate,
        State::Partial if report.size > settings.large => settings.secondary_rate,
        State::Partial => 0.0,
    };
    every(rate)
}

fn every(rate: f64) -> Option<SignedDuration> {
    (rate > 0.0).then(|| SignedDuration::try_from_secs_f64(1.0 / rate).unwrap_or(SignedDuration::MAX))
}

/// The zone of a node, as metrics name it.
pub(super) fn key(node: &Node) -> String {
    let label = |keys: [&str; 2]| {
        let labels = node.metadata.labels.as_ref();
        keys.iter().find_map(|key| labels.and_then(|l| l.get(*key))).map_or("", String::as_str)
    };
    let (region, zone) = (label(REGION), label(ZONE));
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

fn is_excluded(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> NodeSettings {
        NodeSettings {
            rate: 0.1,
            secondary_rate: 0.01,
            large: 10,
            unhealthy_share: 0.55,
            ..NodeSettings::default()
        }
    }

    fn zone(name: &str, well: usize, silent: usize) -> Vec<Arc<Node>> {
        let node = |ready: &str| {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"labels": {ZONE[1]: name}},
                    "status": {"conditions": [{"type": "Ready", "status": ready}]},
                }))
                .unwrap(),
            )
        };
        (0..well).map(|_| node("True")).chain((0..silent).map(|_| node("Unknown"))).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ask(zone: &str) -> Ask<'_> {
        Ask { zone, counts: true }
    }

    #[test]
    fn a_zone_gives_up_nodes_at_its_pace() {
        let mut zones = Zones::default();
        let here = ":\0:a";
        assert_eq!(zones.may_evict(ask(here), at(0)), Permit::Later);
        assert!(!zones.update(&zone("a", 5, 2), &settings()));
        assert_eq!(zones.may_evict(Ask { zone: here, counts: false }, at(0)), Permit::Given);
        assert_eq!(zones.may_evict(ask(here), at(0)), Permit::Given);
        assert_eq!(zones.may_evict(ask(here), at(9)), Permit::Later);
        assert_eq!(zones.wait(here, at(9)), Some(SignedDuration::from_secs(1)));
        assert_eq!(zones.wait(":\0:b", at(9)), None, "no pass has seen it yet");
        assert_eq!(zones.may_evict(ask(here), at(10)), Permit::Given);
    }

    #[test]
    fn the_older_names_of_region_and_zone_come_first() {
        let of = |labels: serde_json::Value| {
            key(&serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap())
        };
        assert_eq!(of(json!({})), "");
        assert_eq!(of(json!({REGION[1]: "r", ZONE[1]: "z"})), "r:\0:z");
        assert_eq!(of(json!({REGION[0]: "old", ZONE[1]: "z"})), "old:\0:z");
        assert_eq!(of(json!({ZONE[0]: "old", ZONE[1]: "z"})), ":\0:old");
        assert_eq!(of(json!({ZONE[0]: "", ZONE[1]: "z"})), "");
    }

    #[test]
    fn disrupted_zones_are_slow_or_stand_still() {
        let mut zones = Zones::default();
        let mut nodes = zone("small", 2, 4);
        nodes.extend(zone("large", 5, 7));
        nodes.extend(zone("gone", 0, 2));
        assert!(!zones.update(&nodes, &settings()));
        assert_eq!(zones.may_evict(ask(":\0:small"), at(0)), Permit::Later);
        assert_eq!(zones.may_evict(ask(":\0:large"), at(0)), Permit::Given);
        assert_eq!(zones.may_evict(ask(":\0:large"), at(99)), Permit::Later);
        assert_eq!(zones.may_evict(ask(":\0:large"), at(100)), Permit::Given);
        assert_eq!(zones.may_evict(ask(":\0:gone"), at(0)), Permit::Given);
        let healths: Vec<f64> = zones.reports().map(|(_, r)| r.health()).collect();
        assert!((healths[0] - 0.0).abs() < 0.01 && (healths[2] - 33.33).abs() < 0.01);
    }

    #[test]
    fn nobody_is_evicted_while_everybody_is_silent() {
        let mut zones = Zones::default();
        let mut nodes = zone("a", 0, 3);
        nodes.extend(zone("b", 0, 1));
        assert!(!zones.update(&nodes, &settings()));
        assert_eq!(zones.may_evict(ask(":\0:a"), at(0)), Permit::Never);
        nodes.extend(zone("c", 1, 0));
        assert!(zones.update(&nodes, &settings()));
        assert_eq!(zones.may_evict(ask(":\0:a"), at(0)), Permit::Given);
        assert!(!zones.update(&nodes, &settings()));
        assert!(!zones.update(&[], &settings()));
    }
}
