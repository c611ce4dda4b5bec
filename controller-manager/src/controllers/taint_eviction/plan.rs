//! When a pod must leave its node, from the node's NoExecute taints and the pod's tolerations.

use component_base::taints::tolerates;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

/// An eviction to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Of the pod; another pod of the same name starts anew.
    pub uid: String,
    /// When the taints were first seen on the pod's node.
    pub since: Timestamp,
    /// When the pod goes.
    pub due: Timestamp,
}

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It may stay.
    Stay,
    /// It goes later.
    Wait(Pending),
    /// It goes now.
    Evict {
        /// Since when it should have gone.
        since: Timestamp,
    },
}

/// A node's taints that drive pods out.
pub(super) fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").collect()
}

/// Whether a pod must go. Time counts from the moment the taints were first seen: other tolerations or taints may make it
/// earlier, but later only when there was a time in which the pod might stay. `compare` says whether tolerations may
/// compare numbers.
pub(super) fn decide(
    pod: Option<&Pod>,
    node: Option<&Node>,
    pending: Option<&Pending>,
    now: Timestamp,
    compare: bool,
) -> Decision {
    let (Some(pod), Some(node)) = (pod, node) else { return Decision::Stay };
    let taints = no_execute(node);
    // The kubelet is ending it already.
    if taints.is_empty() || pod.metadata.deletion_timestamp.is_some() {
        return Decision::Stay;
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let pending = pending.filter(|p| p.uid == uid);
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let Some(used) = used(tolerations, &taints, compare) else {
        return Decision::Evict { since: now };
    };
    let Some(seconds) = used.iter().filter_map(|t| t.toleration_seconds).min() else { return Decision::Stay };
    let since = pending.map_or(now, |p| p.since);
    let due = now.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
    let due = pending.map_or(due, |p| p.due.min(due));
    if due <= now { Decision::Evict { since: due } } else { Decision::Wait(Pending { uid, since, due }) }
}

/// The first toleration for every taint, or `None` when one is not tolerated.
fn used<'a>(tolerations: &'a [Toleration], taints: &[&Taint], compare: bool) -> Option<Vec<&'a Toleration>> {
    taints.iter().map(|taint| tolerations.iter().find(|t| tolerates(t, taint, compare))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap()
    }

    fn pod(tolerations: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": "u"}, "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pending(since: i64, due: i64) -> Pending {
        Pending { uid: "u".into(), since: at(since), due: at(due) }
    }

    #[test]
    fn pods_go_by_what_they_tolerate() {
        let tainted = json!([{"key": "a", "value": "x", "effect": "NoExecute"}]);
        let only_new = json!([{"key": "a", "effect": "NoSchedule"}]);
        let for_five = json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 5}]);
        let stay = Decision::Stay;
        let evict = |second| Decision::Evict { since: at(second) };
        let cases = [
            ("no taint", json!([]), json!([]), None, stay.clone()),
            ("not this effect", only_new, json!([]), None, stay.clone()),
            ("not tolerated", tainted.clone(), json!([]), None, evict(100)),
            ("any", tainted.clone(), json!([{"operator": "Exists"}]), None, stay.clone()),
            ("value", tainted.clone(), json!([{"key": "a", "value": "x"}]), None, stay.clone()),
            ("other value", tainted.clone(), json!([{"key": "a", "value": "y"}]), None, evict(100)),
            (
                "other effect",
                tainted.clone(),
                json!([{"operator": "Exists", "effect": "NoSchedule"}]),
                None,
                evict(100),
            ),
            ("for a time", tainted.clone(), for_five.clone(), None, Decision::Wait(pending(100, 105))),
            (
                "running",
                tainted.clone(),
                for_five.clone(),
                Some(pending(97, 102)),
                Decision::Wait(pending(97, 102)),
            ),
            (
                "more time is no respite",
                tainted.clone(),
                json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 500}]),
                Some(pending(97, 102)),
                Decision::Wait(pending(97, 102)),
            ),
            (
                "less time counts from now",
                tainted.clone(),
                for_five.clone(),
                Some(pending(40, 140)),
                Decision::Wait(pending(40, 105)),
            ),
            (
                "for ever, after all",
                tainted.clone(),
                json!([{"key": "a", "operator": "Exists"}]),
                Some(pending(97, 102)),
                stay.clone(),
            ),
            ("not tolerated any more", tainted.clone(), json!([]), Some(pending(97, 102)), evict(100)),
            (
                "all but one tolerated",
                json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoExecute"}]),
                json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 50}]),
                None,
                evict(100),
            ),
            (
                "one for ever, one for a time",
                json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoExecute"}]),
                json!([
                    {"key": "a", "operator": "Exists"},
                    {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
                ]),
                None,
                Decision::Wait(pending(100, 160)),
            ),
            ("over", tainted.clone(), for_five.clone(), Some(pending(95, 100)), evict(100)),
            (
                "another pod's time",
                tainted.clone(),
                for_five,
                Some(Pending { uid: "old".into(), ..pending(90, 95) }),
                Decision::Wait(pending(100, 105)),
            ),
            (
                "no time at all",
                tainted.clone(),
                json!([{"key": "a", "operator": "Exists", "tolerationSeconds": -3}]),
                None,
                evict(100),
            ),
            (
                "the shortest counts",
                json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoExecute"}]),
                json!([
                    {"key": "a", "operator": "Exists", "tolerationSeconds": 50},
                    {"key": "b", "operator": "Exists", "tolerationSeconds": 7},
                ]),
                None,
                Decision::Wait(pending(100, 107)),
            ),
        ];
        for (name, taints, tolerations, before, expected) in cases {
            let got = decide(Some(&pod(tolerations)), Some(&node(taints)), before.as_ref(), at(100), false);
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn numbers_of_taints_are_compared_where_the_gate_is_on() {
        let tainted = |value: &str| node(json!([{"key": "sla", "value": value, "effect": "NoExecute"}]));
        let above = pod(json!([{"key": "sla", "operator": "Gt", "value": "900"}]));
        for (value, compare, stays) in [("950", true, true), ("900", true, false), ("950", false, false)] {
            let got = decide(Some(&above), Some(&tainted(value)), None, at(100), compare);
            assert_eq!(got == Decision::Stay, stays, "{value} {compare}");
        }
    }

    #[test]
    fn what_is_gone_or_going_is_left_alone() {
        let tainted = node(json!([{"key": "a", "effect": "NoExecute"}]));
        let mut going = pod(json!([]));
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        assert_eq!(decide(Some(&going), Some(&tainted), None, at(2), false), Decision::Stay);
        assert_eq!(decide(None, Some(&tainted), None, at(2), false), Decision::Stay);
        assert_eq!(decide(Some(&pod(json!([]))), None, None, at(2), false), Decision::Stay);
    }
}
