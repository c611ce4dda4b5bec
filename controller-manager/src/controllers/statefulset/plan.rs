//! Which ordinals of a StatefulSet are made, which go, in which order and of which revision. Pure.
//!
//! Contract: the StatefulSet page of the documentation (ordering, partitions, ordinals) and upstream's
//! `stateful_set_control.go`.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    intstr::{self, Rounding},
    meta::{is_deleting, label},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};

use crate::controllers::{
    history::HASH_LABEL,
    pod_disruption::{is_finished, phase},
    replicaset::{is_available, is_ready},
};

/// Which template a pod is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// The one all pods had before the update began.
    Current,
    /// The one in the spec.
    Update,
}

/// Names of the two revisions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'n> {
    pub(super) current: &'n str,
    pub(super) update: &'n str,
}

/// What a round comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Ordinals to make a pod for, in order.
    pub(super) create: Vec<(i32, Template)>,
    /// Pods to delete, in order.
    pub(super) delete: Vec<Arc<Pod>>,
}

/// The ordinal of a pod named after the set.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (stem, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    (Some(stem) == set.metadata.name.as_deref()).then(|| number.parse().ok()).flatten()
}

/// The first ordinal, and the one after the last.
pub(super) fn range(set: &StatefulSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0);
    (start, start.saturating_add(spec.and_then(|s| s.replicas).unwrap_or(1).max(0)))
}

fn in_order(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()).unwrap_or("OrderedReady") != "Parallel"
}

fn least(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// The partition of a rolling update; `None` when updates are left to the user.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolls = strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate";
    let of = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition);
    rolls.then(|| of.unwrap_or(0))
}

fn max_unavailable(set: &StatefulSet) -> usize {
    let (start, end) = range(set);
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let given = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let scaled = given.and_then(|v| intstr::scaled(v, i64::from(end - start), Rounding::Up).ok());
    scaled.and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1)
}

/// How many of the pods that are wanted do not serve.
pub(super) fn unavailable(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) -> usize {
    let (start, end) = range(set);
    let wanted = |pod: &&Arc<Pod>| ordinal(set, pod).is_some_and(|n| (start..end).contains(&n));
    let serving =
        pods.iter().filter(wanted).filter(|p| !is_deleting(&p.metadata) && serves(set, p, now)).count();
    usize::try_from(end - start).unwrap_or(0).saturating_sub(serving)
}

/// Which template a new pod of an ordinal is made of.
fn template(set: &StatefulSet, ordinal: i32) -> Template {
    let Some(partition) = partition(set) else { return Template::Update };
    let (start, _) = range(set);
    let status = set.status.as_ref();
    let has_partition = set
        .spec
        .as_ref()
        .and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref()?.partition)
        .is_some();
    let kept = if has_partition { partition } else { status.and_then(|s| s.current_replicas).unwrap_or(0) };
    if ordinal < start.saturating_add(kept) { Template::Current } else { Template::Update }
}

fn revision(pod: &Pod) -> &str {
    label(&pod.metadata, HASH_LABEL).unwrap_or_default()
}

fn serves(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    phase(pod) == "Running" && is_ready(pod) && is_available(pod, least(set), now)
}

fn is_healthy(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod) && !is_deleting(&pod.metadata)
}

/// Plans the next step.
pub(super) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], names: Names<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let (start, end) = range(set);
    let mut by_ordinal: BTreeMap<i32, Arc<Pod>> =
        pods.iter().filter_map(|p| Some((ordinal(set, p)?, p.clone()))).collect();
    let condemned: Vec<Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(o, _)| **o < start || **o >= end).map(|(_, p)| p.clone()).collect();
    by_ordinal.retain(|o, _| *o >= start && *o < end);
    if fill(&mut plan, set, &by_ordinal, now) || shrink(&mut plan, set, &by_ordinal, condemned, now) {
        return plan;
    }
    update(&mut plan, set, &by_ordinal, names, now);
    plan
}

/// Makes what is missing, in order; true when nothing else may happen before that has come up.
fn fill(plan: &mut Plan, set: &StatefulSet, pods: &BTreeMap<i32, Arc<Pod>>, now: Timestamp) -> bool {
    let in_order = in_order(set);
    let (start, end) = range(set);
    for ordinal in start..end {
        let blocks = match pods.get(&ordinal) {
            None => {
                plan.create.push((ordinal, template(set, ordinal)));
                true
            }
            // Made anew once it is gone.
            Some(pod) if is_finished(pod) && !is_deleting(&pod.metadata) => {
                plan.delete.push(pod.clone());
                true
            }
            Some(pod) => is_deleting(&pod.metadata) || !serves(set, pod, now),
        };
        if blocks && in_order {
            return true;
        }
    }
    !plan.create.is_empty() || !plan.delete.is_empty()
}

/// Takes away what is too much, the highest ordinal first.
fn shrink(
    plan: &mut Plan,
    set: &StatefulSet,
    pods: &BTreeMap<i32, Arc<Pod>>,
    condemned: Vec<Arc<Pod>>,
    now: Timestamp,
) -> bool {
    let in_order = in_order(set);
    let unhealthy =
        pods.values().find(|p| !serves(set, p, now)).or(condemned.iter().rev().find(|p| !is_healthy(p)));
    let unhealthy = unhealthy.and_then(|p| p.metadata.uid.clone());
    let some = !condemned.is_empty();
    for pod in condemned {
        if is_deleting(&pod.metadata) {
            if in_order {
                return true;
            }
            continue;
        }
        // A healthy pod stays while another one is in trouble; the one in trouble may go.
        if in_order && !is_healthy(&pod) && unhealthy.is_some() && unhealthy != pod.metadata.uid {
            return true;
        }
        plan.delete.push(pod);
        if in_order {
            return true;
        }
    }
    some
}

/// Replaces pods of older revisions, the highest ordinal first, down to the partition.
fn update(
    plan: &mut Plan,
    set: &StatefulSet,
    pods: &BTreeMap<i32, Arc<Pod>>,
    names: Names<'_>,
    now: Timestamp,
) {
    let Some(partition) = partition(set) else { return };
    let (start, _) = range(set);
    let mut room = max_unavailable(set);
    for (_, pod) in pods.range(start.saturating_add(partition)..).rev() {
        if room == 0 {
            return;
        }
        let is_old = revision(pod) != names.update;
        if is_old && !is_deleting(&pod.metadata) {
            plan.delete.push(pod.clone());
            room -= 1;
        } else if is_deleting(&pod.metadata) || !serves(set, pod, now) {
            room -= 1;
        }
    }
}

/// The status the pods call for. Zeros are written out: a merge patch keeps what it does not name.
pub(super) fn status(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    names: Names<'_>,
    collisions: i32,
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let here = pods.iter().filter(|p| ordinal(set, p).is_some() && !phase(p).is_empty());
        i32::try_from(here.filter(|p| test(p)).count()).unwrap_or(i32::MAX)
    };
    let of = |p: &Pod, name: &str| !is_deleting(&p.metadata) && revision(p) == name;
    let mut status = StatefulSetStatus {
        replicas: count(&|_| true),
        ready_replicas: Some(count(&|p| phase(p) == "Running" && is_ready(p))),
        available_replicas: Some(count(&|p| serves(set, p, now))),
        current_replicas: Some(count(&|p| of(p, names.current))),
        updated_replicas: Some(count(&|p| of(p, names.update))),
        current_revision: Some(names.current.to_owned()),
        update_revision: Some(names.update.to_owned()),
        collision_count: Some(collisions),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    let all = Some(status.replicas);
    if partition(set).is_some() && status.updated_replicas == all && status.ready_replicas == all {
        // The update is complete: what was new is what is.
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}

#[cfg(test)]
mod tests;
