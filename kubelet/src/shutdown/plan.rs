//! Which pods end when, and how much time they get. Pure.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::pod;

/// Priority of pods that the cluster or node needs.
const CRITICAL: i32 = 2_000_000_000;

/// Time for the pods from a priority on, up to the next period's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Period {
    /// The lowest priority.
    pub priority: i32,
    /// Seconds they get.
    #[serde(rename = "shutdownGracePeriodSeconds")]
    pub seconds: i64,
}

/// The periods of a configuration, the lowest priority first: as listed, or else all time less that of critical pods for
/// the others, then the rest for those.
#[must_use]
pub fn periods(all: Duration, critical: Duration, listed: &[Period]) -> Vec<Period> {
    let mut periods = listed.to_vec();
    if periods.is_empty()
        && !all.is_zero()
        && let Some(others) = all.checked_sub(critical)
    {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        periods.push(Period { priority: 0, seconds: seconds(others) });
        periods.push(Period { priority: CRITICAL, seconds: seconds(critical) });
    }
    periods.sort_by_key(|p| p.priority);
    periods
}

/// The time of all periods together.
#[must_use]
pub fn all(periods: &[Period]) -> Duration {
    let seconds = periods.iter().map(|p| u64::try_from(p.seconds).unwrap_or(0));
    Duration::from_secs(seconds.fold(0, u64::saturating_add))
}

/// Pods that end together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Their time.
    pub period: Period,
    /// The pods.
    pub pods: Vec<Arc<Pod>>,
}

/// The pods by period, in the order in which they end; periods without pods are left out. A pod of a priority below all
/// periods goes with the first.
#[must_use]
pub fn groups(periods: &[Period], pods: Vec<Arc<Pod>>) -> Vec<Group> {
    let mut groups: Vec<Group> =
        periods.iter().map(|period| Group { period: *period, pods: vec![] }).collect();
    for pod in pods {
        let priority = pod::spec(&pod).priority.unwrap_or(0);
        let index = periods.iter().rposition(|p| p.priority <= priority).unwrap_or(0);
        if let Some(group) = groups.get_mut(index) {
            group.pods.push(pod);
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const fn period(priority: i32, seconds: i64) -> Period {
        Period { priority, seconds }
    }

    #[test]
    fn periods_are_those_listed_or_the_two_of_old() {
        let seconds = Duration::from_secs;
        let listed = [period(100, 10), period(0, 60), period(10, 20)];
        for (total, critical, list, expected) in [
            (0, 0, &[][..], vec![]),
            (30, 10, &[], vec![period(0, 20), period(CRITICAL, 10)]),
            (30, 0, &[], vec![period(0, 30), period(CRITICAL, 0)]),
            (10, 30, &[], vec![]),
            (0, 0, &listed, vec![period(0, 60), period(10, 20), period(100, 10)]),
        ] {
            assert_eq!(periods(seconds(total), seconds(critical), list), expected);
        }
        assert_eq!(all(&listed), seconds(90));
        assert_eq!(all(&[period(0, -5)]), Duration::ZERO);
    }

    #[test]
    fn pods_end_with_those_of_their_priority_and_above_up_to_the_next() {
        let periods = [period(10, 1), period(100, 2), period(1000, 3)];
        let of = |priority: i32| {
            let pod = Arc::new(testing::pod("a").priority(priority).build());
            groups(&periods, vec![pod])[0].period.priority
        };
        for (priority, group) in
            [(-5, 10), (0, 10), (10, 10), (99, 10), (100, 100), (999, 100), (1000, 1000), (i32::MAX, 1000)]
        {
            assert_eq!(of(priority), group, "{priority}");
        }
        let pods = vec![
            Arc::new(testing::pod("a").priority(5000).build()),
            Arc::new(testing::pod("b").build()),
            Arc::new(testing::pod("c").priority(10).build()),
        ];
        let made = groups(&periods, pods);
        let names: Vec<Vec<&str>> =
            made.iter().map(|g| g.pods.iter().map(|p| pod::name(p)).collect()).collect();
        assert_eq!(names, [vec!["b", "c"], vec!["a"]]);
        assert!(groups(&[], vec![Arc::new(testing::pod("a").build())]).is_empty());
    }
}
