//! What a set of pods lacks, what it has too much of, and what its status says. Pure.

use std::{sync::Arc, time::Duration};

use component_base::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::order;
use crate::controllers::pod_disruption::is_finished;

/// Most pods created or deleted in one go.
const BURST: usize = 500;

/// How the number of pods must change.
#[derive(Clone, Debug)]
pub(super) enum Scale {
    Keep,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Whether a set selects a pod.
pub(super) fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    let selector = LabelSelector::from_api(set.spec.as_ref().map(|s| &s.selector));
    selector.is_ok_and(|s| !s.is_everything() && s.matches(&pod.metadata.labels))
}

/// Whether a pod counts: it neither ended nor is it being deleted.
pub(super) fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// How many of the pods are too many; none where all of them go and there is no choice.
pub(super) fn surplus(set: &ReplicaSet, owned: &[Arc<Pod>]) -> usize {
    let surplus = owned.len().saturating_sub(wanted(set)).min(BURST);
    if surplus < owned.len() { surplus } else { 0 }
}

/// How many to create, or which to delete.
pub(super) fn scale(set: &ReplicaSet, owned: &[Arc<Pod>], view: order::View<'_>) -> Scale {
    let wanted = wanted(set);
    match owned.len().cmp(&wanted) {
        std::cmp::Ordering::Equal => Scale::Keep,
        std::cmp::Ordering::Less => Scale::Create((wanted - owned.len()).min(BURST)),
        std::cmp::Ordering::Greater => {
            let surplus = (owned.len() - wanted).min(BURST);
            Scale::Delete(order::first(owned, surplus, view))
        }
    }
}

/// How old ready pods that go are, measured by the age of the youngest ready one that was there. Nothing where all go:
/// there was no choice.
pub(super) fn age_ratios(owned: &[Arc<Pod>], going: &[Arc<Pod>], now: Timestamp) -> Vec<f64> {
    if going.len() == owned.len() {
        return Vec::new();
    }
    let age = |pod: &&Arc<Pod>| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0)?;
        Some(now.duration_since(created).as_millis())
    };
    let youngest = owned.iter().filter(|pod| is_ready(pod)).filter_map(|pod| age(&pod)).min();
    let Some(youngest) = youngest.filter(|age| *age > 0) else { return Vec::new() };
    going
        .iter()
        .filter(|pod| is_ready(pod))
        .filter_map(|pod| age(&pod))
        .map(|age| (age / youngest) as f64)
        .collect()
}

pub(super) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

/// Whether a pod has been ready for `least` seconds.
pub(in crate::controllers) fn is_available(pod: &Pod, least: i32, now: Timestamp) -> bool {
    let Some(ready) = ready_condition(pod).filter(|c| c.status == "True") else { return false };
    let since = ready.last_transition_time.as_ref().map(|t| t.0.as_second());
    least == 0 || since.is_some_and(|s| s + i64::from(least) <= now.as_second())
}

/// Whether a pod is ready.
pub(in crate::controllers) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|c| c.status == "True")
}

/// When the next pod that is ready but not yet available becomes so.
pub(in crate::controllers) fn next_available(
    pods: &[Arc<Pod>],
    least: i32,
    now: Timestamp,
) -> Option<Duration> {
    let waits = pods.iter().filter(|p| !is_available(p, least, now)).filter_map(|p| {
        let ready = ready_condition(p).filter(|c| c.status == "True")?;
        let at = ready.last_transition_time.as_ref()?.0.as_second() + i64::from(least);
        u64::try_from(at - now.as_second()).ok()
    });
    waits.min().map(|seconds| Duration::from_secs(seconds.max(1)))
}

/// The status the pods call for; `tells_ending` is whether it has those that are on their way out. Zeros and empty lists are
/// written out: a merge patch keeps what it does not name.
pub(super) fn status(
    set: &ReplicaSet,
    all: &[Arc<Pod>],
    tells_ending: bool,
    failure: Option<String>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let owned: Vec<&Arc<Pod>> = all.iter().filter(|p| is_active(p)).collect();
    let terminating =
        all.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !is_finished(p)).count();
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.and_then(|t| t.metadata).and_then(|m| m.labels).unwrap_or_default();
    let least = spec.min_ready_seconds.unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(owned.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX)
    };
    let labelled = |p: &Pod| {
        template.iter().all(|(k, v)| p.metadata.labels.as_ref().is_some_and(|l| l.get(k) == Some(v)))
    };
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&labelled)),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|p| is_available(p, least, now))),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, failure, owned.len() > wanted(set), now),
        terminating_replicas: i32::try_from(terminating).ok().filter(|_| tells_ending),
    }
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<String>,
    deleting: bool,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let mut out = old.unwrap_or_default();
    let reason = if deleting { "FailedDelete" } else { "FailedCreate" };
    let known = out.iter().any(|c| c.type_ == FAILURE && c.reason.as_deref() == Some(reason));
    match failure {
        None => out.retain(|c| c.type_ != FAILURE),
        Some(_) if known => {}
        Some(message) => {
            out.retain(|c| c.type_ != FAILURE);
            out.push(ReplicaSetCondition {
                type_: FAILURE.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::{
        faults::{Write, survives},
        pod_control,
    };

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "set", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, owner: Option<&str>, extra: Value) -> Arc<Pod> {
        let owners: Vec<Value> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}))
            .collect();
        let mut v = json!({"metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": owners},
            "spec": {"containers": [], "nodeName": "n1"}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            let (a, b) = pointer.split_once('/').unwrap();
            v[a][b] = value.clone();
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn view() -> order::View<'static> {
        order::View { related: &[], costs: true, now: Timestamp::UNIX_EPOCH }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn the_number_of_pods_follows_the_spec() {
        let two = [pod("a", Some("set"), json!({})), pod("b", Some("set"), json!({}))];
        assert!(matches!(scale(&set(2), &two, view()), Scale::Keep));
        assert!(matches!(scale(&set(5), &two, view()), Scale::Create(3)));
        assert!(matches!(scale(&set(1000), &two, view()), Scale::Create(500)));
        assert!(matches!(scale(&set(0), &two, view()), Scale::Delete(p) if p.len() == 2));
    }

    #[test]
    fn the_status_counts_what_is_there_and_settles() {
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let mut set = set(2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        let pods =
            [pod("a", Some("set"), json!({})), pod("b", Some("set"), json!({"status/conditions": []}))];
        let first = status(&set, &pods, true, None, now);
        assert_eq!((first.replicas, first.ready_replicas, first.available_replicas), (2, Some(1), Some(0)));
        assert_eq!(next_available(&pods, 10, now), Some(Duration::from_secs(5)));
        set.status = Some(first.clone());
        assert_eq!(status(&set, &pods, true, None, now), first, "planned twice is planned once");
        let written = serde_json::to_value(status(&set, &[], true, None, now)).unwrap();
        assert_eq!(
            (&written["readyReplicas"], &written["conditions"]),
            (&json!(0), &json!([])),
            "nothing old survives"
        );
        let failed = status(&set, &pods, true, Some("quota".into()), now);
        assert_eq!(failed.conditions.unwrap()[0].reason.as_deref(), Some("FailedCreate"));
    }

    #[test]
    fn pods_on_their_way_out_are_told_where_they_may_be() {
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let ending = json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
        let pods = [pod("a", Some("set"), json!({})), pod("b", Some("set"), ending)];
        let told = |tells| status(&set(1), &pods, tells, None, now).terminating_replicas;
        assert_eq!((told(true), told(false)), (Some(1), None));
    }

    #[test]
    fn faults_change_nothing_in_the_end() {
        let there: Vec<Arc<Pod>> = ["a", "b"].map(|name| pod(name, Some("set"), json!({}))).into();
        for wanted in [0, 1, 7] {
            let set = set(wanted);
            let plan = |seen: &[Arc<Pod>]| match scale(&set, seen, view()) {
                Scale::Keep => Vec::new(),
                Scale::Create(count) => {
                    let made = pod_control::from_template(&PodTemplateSpec::default(), &set);
                    vec![Write::Create(Box::new(made)); count]
                }
                Scale::Delete(pods) => names(&pods).into_iter().map(Write::Delete).collect(),
            };
            survives(&there, plan, |_| "a pod".to_owned());
        }
    }

    #[test]
    fn ages_of_pods_that_go_are_measured_by_the_youngest_ready_one() {
        let aged = |name: &str, created: &str, ready: bool| {
            let condition = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
            pod(
                name,
                Some("u"),
                json!({"metadata/creationTimestamp": created, "status/conditions": condition}),
            )
        };
        let all = [
            aged("old", "2026-01-01T00:00:00Z", true),
            aged("young", "2026-01-01T00:50:00Z", true),
            aged("starting", "2026-01-01T00:59:00Z", false),
        ];
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        assert_eq!(age_ratios(&all, &all[..1], now), [6.0]);
        assert_eq!(age_ratios(&all, &all[1..], now), [1.0], "those that are not ready do not count");
        assert!(age_ratios(&all, &all, now).is_empty());
        assert!(age_ratios(&all[1..2], &[], "2026-01-01T00:50:00Z".parse().unwrap()).is_empty());
    }
}
