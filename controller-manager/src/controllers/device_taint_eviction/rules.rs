//! What is said of a rule: whether pods are being driven away because of it, or how many would be. Pure.
//!
//! Contract: the condition `EvictionInProgress` of DeviceTaintRule (API reference, KEP-5055); its reasons and messages.

use std::time::Duration;

use k8s_openapi::{
    api::resource::v1beta2::DeviceTaintRule,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::plan;

/// Nothing is said anew of a rule within this time.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
const KIND: &str = "EvictionInProgress";
const NONE: &str = "None";

/// What a rule does or would do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Impact {
    /// Devices it selects.
    pub(super) published: usize,
    /// Devices it selects that claims have.
    pub(super) allocated: usize,
    /// Pods that have to go.
    pub(super) pods: usize,
    /// Namespaces with such pods.
    pub(super) namespaces: usize,
}

fn told(rule: &DeviceTaintRule) -> Option<&Condition> {
    let conditions = rule.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == KIND)
}

/// Whether what a rule does or would do to pods is said.
pub(super) fn is_weighed(rule: &DeviceTaintRule) -> bool {
    plan::evicts(rule) || rule.spec.taint.effect == NONE
}

/// How long nothing is said of a rule yet: what was said last is of this rule, and not old enough.
pub(super) fn too_early(rule: &DeviceTaintRule, now: &Time) -> Option<Duration> {
    let told = told(rule).filter(|told| told.observed_generation == rule.metadata.generation)?;
    let since = now.0.duration_since(told.last_transition_time.0);
    PERIOD.checked_sub(Duration::try_from(since).unwrap_or_default()).filter(|left| !left.is_zero())
}

/// The condition of a rule, because of which so many pods have gone; nothing if the rule has it.
pub(super) fn condition(
    rule: &DeviceTaintRule,
    impact: &Impact,
    evicted: usize,
    now: &Time,
) -> Option<Condition> {
    let (reason, mut message) = match rule.spec.taint.effect.as_str() {
        _ if plan::evicts(rule) && impact.pods > 0 => {
            let pods = counted(impact.pods, "pod needs", "pods need");
            ("PodsPendingEviction", format!("{pods} to be evicted in {}.", namespaces(impact)))
        }
        _ if plan::evicts(rule) => (if evicted > 0 { "Completed" } else { "NotStarted" }, String::new()),
        NONE => ("NoEffect", supposed(impact)),
        _ => ("OtherEffect", "Eviction only happens for the NoExecute effect.".to_owned()),
    };
    if evicted > 0 {
        let gap = if message.is_empty() { "" } else { " " };
        let pods = counted(evicted, "pod", "pods");
        message.push_str(&format!("{gap}{pods} evicted since starting the controller."));
    }
    let is_going = plan::evicts(rule) && impact.pods > 0;
    let next = Condition {
        type_: KIND.to_owned(),
        status: if is_going { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: rule.metadata.generation,
        last_transition_time: now.clone(),
    };
    let same = |told: &Condition| {
        (&told.status, &told.reason, &told.message, told.observed_generation)
            == (&next.status, &next.reason, &next.message, next.observed_generation)
    };
    (!told(rule).is_some_and(same)).then_some(next)
}

/// What would happen.
fn supposed(impact: &Impact) -> String {
    let published = counted(impact.published, "published device", "published devices");
    let allocated = counted(impact.allocated, "allocated device", "allocated devices");
    let pods = counted(impact.pods, "pod", "pods");
    format!(
        "{published} selected. {allocated} selected. {pods} would be evicted in {} if the effect was NoExecute. \
         This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
        namespaces(impact)
    )
}

fn namespaces(impact: &Impact) -> String {
    counted(impact.namespaces, "namespace", "different namespaces")
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn rule(effect: &str, told: &Value) -> DeviceTaintRule {
        serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "u", "generation": 2},
            "spec": {"taint": {"key": "k", "effect": effect}},
            "status": {"conditions": [told]},
        }))
        .unwrap()
    }

    fn told(generation: i64, since: &str, reason: &str, message: &str) -> Value {
        json!({"type": KIND, "status": "False", "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since})
    }

    fn now() -> Time {
        Time(NOW.parse().unwrap())
    }

    fn said(
        effect: &str,
        (published, allocated, pods, namespaces): (usize, usize, usize, usize),
        evicted: usize,
    ) -> String {
        let impact = Impact { published, allocated, pods, namespaces };
        let old = told(1, "2026-01-01T00:00:00Z", "Old", "");
        let found = condition(&rule(effect, &old), &impact, evicted, &now()).unwrap();
        assert_eq!((found.observed_generation, found.last_transition_time), (Some(2), now()));
        format!("{} {}: {}", found.status, found.reason, found.message)
    }

    #[test]
    fn a_rule_says_what_becomes_of_pods() {
        for (effect, impact, evicted, expected) in [
            ("NoExecute", (0, 0, 0, 0), 0, "False NotStarted: "),
            (
                "NoExecute",
                (1, 1, 1, 1),
                0,
                "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace.",
            ),
            (
                "NoExecute",
                (1, 1, 3, 2),
                1,
                "True PodsPendingEviction: 3 pods need to be evicted in 2 different namespaces. \
                 1 pod evicted since starting the controller.",
            ),
            ("NoExecute", (1, 1, 0, 0), 4, "False Completed: 4 pods evicted since starting the controller."),
            (
                "NoSchedule",
                (0, 0, 0, 0),
                0,
                "False OtherEffect: Eviction only happens for the NoExecute effect.",
            ),
            (
                "None",
                (1, 2, 1, 1),
                0,
                "False NoEffect: 1 published device selected. 2 allocated devices selected. 1 pod would be evicted \
                 in 1 namespace if the effect was NoExecute. This information will not be updated again. Recreate \
                 the DeviceTaintRule to trigger an update.",
            ),
            (
                "None",
                (2, 1, 0, 0),
                0,
                "False NoEffect: 2 published devices selected. 1 allocated device selected. 0 pods would be evicted \
                 in 0 different namespaces if the effect was NoExecute. This information will not be updated again. \
                 Recreate the DeviceTaintRule to trigger an update.",
            ),
        ] {
            assert_eq!(said(effect, impact, evicted), expected);
        }
    }

    #[test]
    fn nothing_is_said_twice_or_too_often() {
        let same = told(2, "2026-01-01T00:00:00Z", "NotStarted", "");
        assert_eq!(condition(&rule("NoExecute", &same), &Impact::default(), 0, &now()), None);
        let left =
            |generation, since| too_early(&rule("NoExecute", &told(generation, since, "", "")), &now());
        assert_eq!(left(2, "2026-01-01T00:00:57Z"), Some(Duration::from_secs(7)));
        assert_eq!(left(2, "2026-01-01T00:00:50Z"), None);
        assert_eq!(left(1, "2026-01-01T00:00:57Z"), None);
    }
}
