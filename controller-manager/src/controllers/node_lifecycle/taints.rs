//! The taints and labels a node must have, from its conditions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{health, zones};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions mirrored as NoSchedule taints: condition, status, taint.
const MIRRORED: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// Labels that follow others: the one to set, the one to copy.
const COPIES: &[(&str, &str)] =
    &[("beta.kubernetes.io/os", "kubernetes.io/os"), ("beta.kubernetes.io/arch", "kubernetes.io/arch")];

/// Whether a node's pods are driven out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    /// The node is well, or nobody may be evicted: no NoExecute taint of ours.
    No,
    /// The node is not well, but others go first.
    Hold,
    /// From now on.
    Begin,
    /// As before, for the reason that holds now.
    Go,
}

/// Whether a zone lets go of one more node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// It does, and counts it.
    Given,
    /// Not yet.
    Later,
    /// All zones are silent: it must be our own network.
    Never,
}

/// Decides for a node; `permit` is asked for its zone, and only when the node would newly be tainted or when that
/// might have to be undone.
pub(super) fn drive(node: &Node, mut permit: impl FnMut(Ask<'_>) -> Permit) -> Drive {
    let zone = zones::key(node);
    if !matches!(health::ready(node), Some("False" | "Unknown")) {
        return Drive::No;
    }
    let driven = taints_of(node).iter().any(is_driving);
    let ask = Ask { zone: &zone, counts: !driven };
    match (permit(ask), driven) {
        (Permit::Never, _) => Drive::No,
        (_, true) => Drive::Go,
        (Permit::Given, false) => Drive::Begin,
        (Permit::Later, false) => Drive::Hold,
    }
}

/// A question to the zones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Of the node.
    pub zone: &'a str,
    /// Whether a permit would be used.
    pub counts: bool,
}

/// The taints a node must have, if they differ from those it has. Taints of others stay.
pub(super) fn wanted(node: &Node, drive: Drive, now: Timestamp) -> Option<Vec<Taint>> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let holds = |kind: &str, status: &str| conditions.iter().any(|c| c.type_ == kind && c.status == status);
    let mirrored = MIRRORED.iter().filter(|(kind, status, _)| holds(kind, status));
    let mut wanted: Vec<(&str, &str)> = mirrored.clone().map(|(.., taint)| (*taint, "NoSchedule")).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if matches!(drive, Drive::Begin | Drive::Go) {
        wanted
            .extend(mirrored.filter(|(kind, ..)| *kind == "Ready").map(|(.., taint)| (*taint, "NoExecute")));
    }
    let had = taints_of(node);
    // A node nobody has heard of yet keeps what admission gave it.
    if health::ready(node).is_none() {
        let given = had.iter().filter(|t| is_ours(t) && (t.key == NOT_READY || t.key == UNREACHABLE));
        wanted.extend(given.map(|t| (t.key.as_str(), t.effect.as_str())));
    }
    let kept = |t: &&Taint| !is_ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str()));
    let mut next: Vec<Taint> = had.iter().filter(kept).cloned().collect();
    for (key, effect) in wanted {
        if !next.iter().any(|t| t.key == key && t.effect == effect) {
            next.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (next != had).then_some(next)
}

/// Labels to set, if any.
pub(super) fn labels(node: &Node) -> Option<BTreeMap<&'static str, String>> {
    let labels = node.metadata.labels.as_ref()?;
    let stale = |(copy, original): &(&'static str, &str)| {
        let value = labels.get(*original)?;
        (labels.get(*copy) != Some(value)).then(|| (*copy, value.clone()))
    };
    let changed: BTreeMap<_, _> = COPIES.iter().filter_map(stale).collect();
    (!changed.is_empty()).then_some(changed)
}

fn taints_of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

fn is_driving(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

fn is_ours(taint: &Taint) -> bool {
    let known = MIRRORED.iter().any(|(.., key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
    (known && taint.effect == "NoSchedule") || is_driving(taint)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: Value, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn keys(node: &Node, drive: Drive) -> Option<Vec<String>> {
        let taints = wanted(node, drive, Timestamp::UNIX_EPOCH)?;
        Some(taints.iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect)).collect())
    }

    #[test]
    fn conditions_are_mirrored_as_taints_and_others_taints_stay() {
        assert_eq!(keys(&node(json!({}), "True"), Drive::No), None);
        let fresh = json!({"taints": [
            {"key": NOT_READY, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute"}, {"key": "mine", "effect": "NoExecute"},
        ]});
        assert_eq!(
            keys(&node(fresh, "True"), Drive::No),
            Some(vec!["mine:NoSchedule".into(), "mine:NoExecute".into()])
        );
        assert_eq!(keys(&node(json!({}), "False"), Drive::Hold), Some(vec!["not-ready:NoSchedule".into()]));
        assert_eq!(
            keys(&node(json!({}), "False"), Drive::Begin),
            Some(vec!["not-ready:NoSchedule".into(), "not-ready:NoExecute".into()])
        );
        assert_eq!(
            keys(&node(json!({"unschedulable": true}), "Unknown"), Drive::Go),
            Some(vec![
                "unreachable:NoSchedule".into(),
                "unschedulable:NoSchedule".into(),
                "unreachable:NoExecute".into()
            ])
        );
        let swapped = json!({"taints": [{"key": NOT_READY, "effect": "NoExecute"}]});
        assert_eq!(
            keys(&node(swapped, "Unknown"), Drive::Go),
            Some(vec!["unreachable:NoSchedule".into(), "unreachable:NoExecute".into()])
        );
    }

    #[test]
    fn a_node_that_never_reported_keeps_what_it_was_given() {
        let taints = json!([{"key": NOT_READY, "effect": "NoSchedule"}, {"key": UNSCHEDULABLE, "effect": "NoSchedule"}]);
        let mut fresh = node(json!({"taints": taints}), "True");
        fresh.status = None;
        assert_eq!(keys(&fresh, Drive::No), Some(vec!["not-ready:NoSchedule".into()]));
        fresh.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(keys(&fresh, Drive::No), None);
        fresh.spec.as_mut().unwrap().taints = None;
        assert_eq!(keys(&fresh, Drive::No), Some(vec!["unschedulable:NoSchedule".into()]));
    }

    #[test]
    fn planned_twice_is_planned_once() {
        let mut sick = node(json!({"unschedulable": true}), "False");
        sick.spec.as_mut().unwrap().taints = wanted(&sick, Drive::Begin, Timestamp::UNIX_EPOCH);
        assert_eq!(wanted(&sick, Drive::Go, Timestamp::MAX), None);
    }

    #[test]
    fn pods_are_driven_out_when_the_zone_allows_it() {
        let tainted = json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}]});
        let cases = [
            (json!({}), "True", Permit::Given, Drive::No),
            (tainted.clone(), "True", Permit::Given, Drive::No),
            (json!({}), "False", Permit::Given, Drive::Begin),
            (json!({}), "Unknown", Permit::Later, Drive::Hold),
            (json!({}), "Unknown", Permit::Never, Drive::No),
            (tainted.clone(), "False", Permit::Later, Drive::Go),
            (tainted, "Unknown", Permit::Never, Drive::No),
        ];
        for (spec, ready, permit, expected) in cases {
            assert_eq!(drive(&node(spec.clone(), ready), |_| permit), expected, "{spec} {ready} {permit:?}");
        }
    }

    #[test]
    fn the_old_names_of_labels_follow_the_new_ones() {
        let mut labelled = node(json!({}), "True");
        assert_eq!(labels(&labelled), None);
        labelled.metadata.labels = Some(
            [
                ("kubernetes.io/os", "linux"),
                ("beta.kubernetes.io/os", "other"),
                ("kubernetes.io/arch", "amd64"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        );
        let changed = labels(&labelled).unwrap();
        assert_eq!(changed["beta.kubernetes.io/os"], "linux");
        assert_eq!(changed["beta.kubernetes.io/arch"], "amd64");
    }
}
