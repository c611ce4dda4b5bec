//! What the remains of a namespace mean: its conditions, and whether it may go.

use std::collections::BTreeMap;

use component_base::informer::GroupVersionResource;
use k8s_openapi::{api::core::v1::NamespaceCondition, apimachinery::pkg::apis::meta::v1::Time};

/// Seconds objects with finalizers are expected to take.
pub(super) const FINALIZER_ESTIMATE: i64 = 15;

/// What is left of one resource after its objects were deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remaining {
    /// Number of objects.
    pub(super) count: usize,
    /// How many of them wait for which finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Seconds they may take to go; 0 when nothing explains why they are still there.
    pub(super) estimate: u64,
}

/// What one round over all resources came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What could not be asked for.
    pub(super) discovery: Option<String>,
    /// What could not be deleted, and why.
    pub(super) failures: Vec<String>,
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    estimate: u64,
}

/// What a condition says.
struct Stated {
    type_: &'static str,
    /// Reason and text of what is in the way.
    found: Option<(&'static str, String)>,
    /// Reason and text when nothing is.
    fine: (&'static str, &'static str),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing is left.
    Empty,
    /// Look again after this many seconds.
    Later(u64),
    /// Try again as after an error.
    Failed(String),
}

impl Remaining {
    /// What is wrong where objects are left that nothing holds, and that had their time. `resource` is of its group's
    /// version.
    pub(super) fn unexplained(&self, namespace: &str, resource: &GroupVersionResource) -> Option<String> {
        let GroupVersionResource { group, version, resource } = resource;
        (self.count > 0 && self.estimate == 0).then(|| {
            format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={resource}"
            )
        })
    }
}

/// What is said of pods that could not be deleted.
pub(super) fn of_pods(namespace: &str, why: &str) -> String {
    format!("failed to delete pods for namespace: {namespace}, err: {why}")
}

impl Findings {
    /// Counts what is left of a resource.
    pub(super) fn add(&mut self, resource: &str, group: &str, left: Remaining) {
        if left.count == 0 {
            return;
        }
        self.remaining.insert(format!("{resource}.{group}"), left.count);
        for (finalizer, count) in left.finalizers {
            *self.finalizers.entry(finalizer).or_insert(0) += count;
        }
        self.estimate = self.estimate.max(left.estimate);
    }

    /// Whether objects are left.
    pub(super) fn has_remaining(&self) -> bool {
        !self.remaining.is_empty()
    }

    /// Half the longest expectation passes before the next look; what failed is tried again with back-off.
    pub(super) fn outcome(&self) -> Outcome {
        let failed: Vec<&str> = self.discovery.iter().chain(&self.failures).map(String::as_str).collect();
        if !failed.is_empty() {
            return Outcome::Failed(failed.join("; "));
        }
        if self.has_remaining() { Outcome::Later(self.estimate / 2 + 1) } else { Outcome::Empty }
    }

    /// The conditions in upstream's order.
    fn conditions(&self) -> [Stated; 5] {
        let listed = |found: &BTreeMap<String, usize>, verb: &str| {
            let each = found.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances"));
            each.collect::<Vec<_>>().join(", ")
        };
        let failed = |all: &[String], reason, text: String| (!all.is_empty()).then_some((reason, text));
        let mut failures = self.failures.clone();
        failures.sort();
        [
            Stated {
                type_: "NamespaceDeletionDiscoveryFailure",
                found: self.discovery.clone().map(|why| ("DiscoveryFailed", why)),
                fine: ("ResourcesDiscovered", "All resources successfully discovered"),
            },
            Stated {
                type_: "NamespaceDeletionGroupVersionParsingFailure",
                found: None,
                fine: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            },
            Stated {
                type_: "NamespaceDeletionContentFailure",
                found: failed(
                    &self.failures,
                    "ContentDeletionFailed",
                    format!(
                        "Failed to delete all resource types, {} remaining: {}",
                        failures.len(),
                        failures.join(", ")
                    ),
                ),
                fine: ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            },
            Stated {
                type_: "NamespaceContentRemaining",
                found: self.has_remaining().then(|| {
                    let text = format!("Some resources are remaining: {}", listed(&self.remaining, "has"));
                    ("SomeResourcesRemain", text)
                }),
                fine: ("ContentRemoved", "All content successfully removed"),
            },
            Stated {
                type_: "NamespaceFinalizersRemaining",
                found: (!self.finalizers.is_empty()).then(|| {
                    let list = listed(&self.finalizers, "in");
                    let text = format!("Some content in the namespace has finalizers remaining: {list}");
                    ("SomeFinalizersRemain", text)
                }),
                fine: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            },
        ]
    }
}

/// Brings conditions up to date; true if one changed.
pub(super) fn update(conditions: &mut Vec<NamespaceCondition>, findings: &Findings, now: &Time) -> bool {
    let mut changed = false;
    for Stated { type_, found, fine } in findings.conditions() {
        let status = if found.is_some() { "True" } else { "False" };
        let (reason, message) = found.unwrap_or((fine.0, fine.1.to_owned()));
        let at = match conditions.iter().position(|c| c.type_ == type_) {
            Some(at) => at,
            None => {
                conditions
                    .push(NamespaceCondition { type_: type_.to_owned(), ..NamespaceCondition::default() });
                conditions.len() - 1
            }
        };
        let condition = &mut conditions[at];
        if condition.status == status
            && condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref() == Some(message.as_str())
        {
            continue;
        }
        if condition.status != status {
            condition.last_transition_time = Some(now.clone());
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message);
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(count: usize, finalizer: Option<&str>, estimate: u64) -> Remaining {
        Remaining {
            count,
            finalizers: finalizer.map(|f| (f.to_owned(), count)).into_iter().collect(),
            estimate,
        }
    }

    #[test]
    fn a_namespace_goes_when_nothing_is_left_and_nothing_failed() {
        let mut findings = Findings::default();
        assert_eq!(findings.outcome(), Outcome::Empty);
        findings.add("secrets", "", Remaining::default());
        assert_eq!(findings.outcome(), Outcome::Empty);
        findings.add("pods", "", left(2, None, 30));
        findings.add("things", "g", left(1, Some("a/b"), 15));
        assert_eq!(findings.outcome(), Outcome::Later(16));
        findings.failures.push("x: no".into());
        assert_eq!(findings.outcome(), Outcome::Failed("x: no".into()));
    }

    #[test]
    fn what_is_left_for_no_reason_is_an_error() {
        let of = |resource: &str, group: &str| GroupVersionResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
        };
        assert_eq!(left(0, None, 0).unexplained("d", &of("pods", "")), None);
        assert_eq!(left(1, None, 30).unexplained("d", &of("pods", "")), None);
        assert_eq!(left(1, Some("a/b"), 15).unexplained("d", &of("pods", "")), None);
        let pods = left(1, None, 0).unexplained("d", &of("pods", "")).unwrap();
        assert_eq!(
            of_pods("d", &pods),
            "failed to delete pods for namespace: d, err: unexpected items still remain in namespace: d for gvr: /v1, \
             Resource=pods"
        );
        assert!(
            left(2, None, 0)
                .unexplained("d", &of("jobs", "batch"))
                .unwrap()
                .ends_with("batch/v1, Resource=jobs")
        );
    }

    #[test]
    fn what_cannot_be_discovered_or_deleted_is_told() {
        let findings = Findings {
            discovery: Some("no answer".into()),
            failures: vec!["z".into(), "a".into()],
            ..Findings::default()
        };
        let (mut conditions, now) = (Vec::new(), Time(jiff::Timestamp::UNIX_EPOCH));
        update(&mut conditions, &findings, &now);
        let told: Vec<(&str, &str)> = conditions
            .iter()
            .filter(|c| c.status == "True")
            .map(|c| (c.reason.as_deref().unwrap(), c.message.as_deref().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                ("DiscoveryFailed", "no answer"),
                ("ContentDeletionFailed", "Failed to delete all resource types, 2 remaining: a, z")
            ]
        );
    }

    #[test]
    fn conditions_name_what_is_in_the_way_and_change_once() {
        let mut findings = Findings::default();
        findings.add("pods", "", left(2, None, 30));
        findings.add("things", "g", left(1, Some("a/b"), 15));
        let (mut conditions, now) = (Vec::new(), Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(update(&mut conditions, &findings, &now));
        assert!(!update(&mut conditions, &findings, &now));
        let message = |type_: &str, all: &[NamespaceCondition]| {
            all.iter().find(|c| c.type_ == type_).and_then(|c| c.message.clone()).unwrap()
        };
        assert_eq!(
            message("NamespaceContentRemaining", &conditions),
            "Some resources are remaining: pods. has 2 resource instances, things.g has 1 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining", &conditions),
            "Some content in the namespace has finalizers remaining: a/b in 1 resource instances"
        );
        assert_eq!(conditions.len(), 5);
        assert!(update(&mut conditions, &Findings::default(), &now));
        assert!(conditions.iter().all(|c| c.status == "False"));
        assert_eq!(message("NamespaceContentRemaining", &conditions), "All content successfully removed");
    }
}
