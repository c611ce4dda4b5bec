//! How fast and how far a workload may be scaled. Pure.
//!
//! Contract: autoscaling/v2 `HPAScalingRules`, KEP-853; without `behavior`: growth to twice the size or four pods at most,
//! shrinking only to the highest recommendation of the last `--horizontal-pod-autoscaler-downscale-stabilization`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// What is remembered of an autoscaler.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Sizes that metrics asked for.
    recommended: Vec<(i32, Timestamp)>,
    /// Pods added.
    added: Vec<(i32, Timestamp)>,
    /// Pods removed.
    removed: Vec<(i32, Timestamp)>,
}

/// The longest window and period that the API allows.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// A size and why it is that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) replicas: i32,
    /// `True` when the size is another one than was asked for.
    pub(super) changed: bool,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

/// The bounds of an autoscaler and where its target stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
}

impl Memory {
    /// Notes that the target was scaled.
    pub(super) fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        let (list, change) =
            if to > from { (&mut self.added, to - from) } else { (&mut self.removed, from - to) };
        list.retain(|(_, at)| *at + LONGEST > now);
        list.push((change, now));
    }

    /// Notes the size the target had when it was first looked at: what it was before is no reason to shrink at once.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((current, now));
        }
    }

    /// Recommendations of a window that ends now.
    fn within(&self, window: Duration, now: Timestamp) -> impl Iterator<Item = i32> + '_ {
        let window = SignedDuration::try_from(window).unwrap_or(LONGEST);
        self.recommended.iter().filter(move |(_, at)| *at + window > now).map(|(replicas, _)| *replicas)
    }

    fn note(&mut self, asked: i32, longest: Duration, now: Timestamp) {
        let longest = SignedDuration::try_from(longest).unwrap_or(LONGEST);
        self.recommended.retain(|(_, at)| *at + longest > now);
        self.recommended.push((asked, now));
    }
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn verdict(replicas: i32, asked: i32, told: (&'static str, &'static str)) -> Verdict {
    Verdict { replicas, changed: replicas != asked, reason: told.0, message: told.1 }
}

/// The size once recent recommendations have had their say, then the size once bounds and rates have had theirs.
pub(super) fn normalize(
    asked: i32,
    range: Range,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    downscale_window: Duration,
    memory: &mut Memory,
    now: Timestamp,
) -> (Verdict, Verdict) {
    match behavior {
        None => {
            let stable = memory.within(downscale_window, now).fold(asked, i32::max);
            memory.note(asked, downscale_window, now);
            let told = if stable == asked { READY } else { DOWN_STABILIZED };
            (verdict(stable, asked, told), by_default(stable, range))
        }
        Some(behavior) => {
            let stable = stabilize(asked, range, behavior, downscale_window, memory, now);
            let limited = by_rules(stable.replicas, range, behavior, memory, now);
            (stable, limited)
        }
    }
}

fn by_default(asked: i32, range: Range) -> Verdict {
    let fastest = range.current.saturating_mul(2).max(4);
    let (most, told) = if range.max > fastest { (fastest, TOO_FAST_UP) } else { (range.max, TOO_MANY) };
    if asked < range.min {
        verdict(range.min, asked, TOO_FEW)
    } else if asked > most {
        verdict(most, asked, told)
    } else {
        verdict(asked, asked, WITHIN)
    }
}

fn stabilize(
    asked: i32,
    range: Range,
    behavior: &HorizontalPodAutoscalerBehavior,
    downscale_window: Duration,
    memory: &mut Memory,
    now: Timestamp,
) -> Verdict {
    let window = |rules: &Option<HPAScalingRules>, default: Duration| {
        let seconds = rules.as_ref().and_then(|r| r.stabilization_window_seconds);
        seconds.and_then(|s| u64::try_from(s).ok()).map_or(default, Duration::from_secs)
    };
    let up_window = window(&behavior.scale_up, Duration::ZERO);
    let down_window = window(&behavior.scale_down, downscale_window);
    let up = memory.within(up_window, now).fold(asked, i32::min);
    let down = memory.within(down_window, now).fold(asked, i32::max);
    memory.note(asked, up_window.max(down_window), now);
    let stable = range.current.max(up).min(down);
    let told = if asked >= range.current { UP_STABILIZED } else { DOWN_STABILIZED };
    verdict(stable, asked, if stable == asked { READY } else { told })
}

fn by_rules(
    asked: i32,
    range: Range,
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &Memory,
    now: Timestamp,
) -> Verdict {
    if asked > range.current {
        let fastest = up_limit(behavior.scale_up.as_ref(), range.current, memory, now).max(range.current);
        let (most, told) = if range.max > fastest { (fastest, TOO_FAST_UP) } else { (range.max, TOO_MANY) };
        if asked > most {
            return verdict(most, asked, told);
        }
    } else if asked < range.current {
        let fastest = down_limit(behavior.scale_down.as_ref(), range.current, memory, now).min(range.current);
        let (least, told) = if range.min < fastest { (fastest, TOO_FAST_DOWN) } else { (range.min, TOO_FEW) };
        if asked < least {
            return verdict(least, asked, told);
        }
    }
    verdict(asked, asked, WITHIN)
}

fn policy(type_: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: type_.into(), value, period_seconds: 15 }
}

/// The size at the start of a policy's period.
fn at_start(policy: &HPAScalingPolicy, current: i32, memory: &Memory, now: Timestamp) -> i32 {
    let period = SignedDuration::from_secs(i64::from(policy.period_seconds));
    let sum = |list: &[(i32, Timestamp)]| -> i32 {
        list.iter().filter(|(_, at)| *at + period > now).map(|(change, _)| change).sum()
    };
    current - sum(&memory.added) + sum(&memory.removed)
}

fn up_limit(rules: Option<&HPAScalingRules>, current: i32, memory: &Memory, now: Timestamp) -> i32 {
    let select = rules.and_then(|r| r.select_policy.as_deref()).unwrap_or("Max");
    let policies = rules
        .and_then(|r| r.policies.clone())
        .unwrap_or_else(|| vec![policy("Pods", 4), policy("Percent", 100)]);
    let limit = |policy: &HPAScalingPolicy| {
        let start = at_start(policy, current, memory, now);
        match policy.type_.as_str() {
            "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            _ => start.saturating_add(policy.value),
        }
    };
    let limits = policies.iter().map(limit);
    match select {
        "Disabled" => Some(current),
        "Min" => limits.min(),
        _ => limits.max(),
    }
    .unwrap_or(current)
}

fn down_limit(rules: Option<&HPAScalingRules>, current: i32, memory: &Memory, now: Timestamp) -> i32 {
    let select = rules.and_then(|r| r.select_policy.as_deref()).unwrap_or("Max");
    let policies = rules.and_then(|r| r.policies.clone()).unwrap_or_else(|| vec![policy("Percent", 100)]);
    let limit = |policy: &HPAScalingPolicy| {
        let start = at_start(policy, current, memory, now);
        match policy.type_.as_str() {
            "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            _ => start.saturating_sub(policy.value),
        }
    };
    let limits = policies.iter().map(limit);
    match select {
        "Disabled" => Some(current),
        // The smallest change leaves the largest size.
        "Min" => limits.max(),
        _ => limits.min(),
    }
    .unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn range(current: i32) -> Range {
        Range { current, min: 1, max: 100 }
    }

    fn run(
        asked: i32,
        range: Range,
        behavior: Value,
        memory: &mut Memory,
        second: i64,
    ) -> (i32, &'static str, &'static str) {
        let behavior: Option<HorizontalPodAutoscalerBehavior> = serde_json::from_value(behavior).unwrap();
        let (stable, limited) = normalize(asked, range, behavior.as_ref(), WINDOW, memory, at(second));
        (limited.replicas, stable.reason, limited.reason)
    }

    #[test]
    fn without_rules_growth_doubles_and_shrinking_waits() {
        for (asked, current, max, expected) in [
            (3, 1, 100, (3, "ReadyForNewScale", "DesiredWithinRange")),
            (9, 1, 100, (4, "ReadyForNewScale", "ScaleUpLimit")),
            (50, 10, 100, (20, "ReadyForNewScale", "ScaleUpLimit")),
            (50, 10, 15, (15, "ReadyForNewScale", "TooManyReplicas")),
            (0, 10, 100, (1, "ReadyForNewScale", "TooFewReplicas")),
        ] {
            let range = Range { current, min: 1, max };
            assert_eq!(
                run(asked, range, Value::Null, &mut Memory::default(), 0),
                expected,
                "{asked} of {current}"
            );
        }
        let mut memory = Memory::default();
        memory.begin(10, at(0));
        assert_eq!(
            run(4, range(10), Value::Null, &mut memory, 15),
            (10, "ScaleDownStabilized", "DesiredWithinRange")
        );
        assert_eq!(
            run(2, range(10), Value::Null, &mut memory, 301),
            (4, "ScaleDownStabilized", "DesiredWithinRange")
        );
        assert_eq!(
            run(2, range(4), Value::Null, &mut memory, 330),
            (2, "ReadyForNewScale", "DesiredWithinRange")
        );
    }

    #[test]
    fn windows_hold_back_in_both_directions() {
        let rules = json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 120}});
        let mut memory = Memory::default();
        assert_eq!(run(4, range(4), rules.clone(), &mut memory, 0).0, 4);
        assert_eq!(
            run(8, range(4), rules.clone(), &mut memory, 30),
            (4, "ScaleUpStabilized", "DesiredWithinRange")
        );
        assert_eq!(run(8, range(4), rules.clone(), &mut memory, 61).0, 8);
        assert_eq!(
            run(2, range(8), rules.clone(), &mut memory, 100),
            (8, "ScaleDownStabilized", "DesiredWithinRange")
        );
        assert_eq!(run(2, range(8), rules, &mut memory, 200).0, 2);
    }

    #[test]
    fn policies_limit_the_rate() {
        let up = |select: &str| {
            json!({"scaleUp": {"selectPolicy": select, "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}})
        };
        let down = |select: &str| {
            json!({"scaleDown": {"selectPolicy": select, "stabilizationWindowSeconds": 0, "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}})
        };
        for (asked, rules, expected) in [
            (50, up("Max"), 15),
            (50, up("Min"), 12),
            (50, up("Disabled"), 10),
            (1, down("Max"), 5),
            (1, down("Min"), 8),
            (1, down("Disabled"), 10),
        ] {
            assert_eq!(
                run(asked, range(10), rules.clone(), &mut Memory::default(), 0).0,
                expected,
                "{rules}"
            );
        }
    }

    #[test]
    fn what_was_done_in_the_period_counts() {
        let rules = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 3, "periodSeconds": 60}]}});
        let mut memory = Memory::default();
        memory.scaled(4, 6, at(0));
        assert_eq!(
            run(50, range(6), rules.clone(), &mut memory, 30),
            (7, "ReadyForNewScale", "ScaleUpLimit")
        );
        assert_eq!(run(50, range(6), rules, &mut memory, 60).0, 9);
    }
}
