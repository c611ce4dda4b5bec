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
    /// How many of the pods that are wanted do not serve, where the set got as far as its update.
    pub(super) unavailable: Option<usize>,
}

/// What a plan is made by besides the set and its pods.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'n> {
    pub(super) names: Names<'n>,
    /// Whether a set may say how many pods its update takes at once (`MaxUnavailableStatefulSet`).
    pub(super) several: bool,
    pub(super) now: Timestamp,
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

/// How many pods an update may take at once: one at least, however small the share.
pub(super) fn max_unavailable(set: &StatefulSet) -> usize {
    let (start, end) = range(set);
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let given = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let scaled = given.and_then(|v| intstr::scaled(v, i64::from(end - start), Rounding::Down).ok());
    scaled.and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1)
}

/// Ordinals of pods that wait, perhaps for claims somebody has taken away.
pub(super) fn pending(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<i32> {
    let (start, end) = range(set);
    let waiting = pods.iter().filter(|pod| phase(pod) == "Pending" && !is_deleting(&pod.metadata));
    waiting.filter_map(|pod| ordinal(set, pod)).filter(|n| (start..end).contains(n)).collect()
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

fn is_unavailable(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    is_deleting(&pod.metadata) || !serves(set, pod, now)
}

/// Plans the next step.
pub(super) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], view: View<'_>) -> Plan {
    let mut plan = Plan::default();
    let (start, end) = range(set);
    let mut by_ordinal: BTreeMap<i32, Arc<Pod>> =
        pods.iter().filter_map(|p| Some((ordinal(set, p)?, p.clone()))).collect();
    let condemned: Vec<Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(o, _)| **o < start || **o >= end).map(|(_, p)| p.clone()).collect();
    by_ordinal.retain(|o, _| *o >= start && *o < end);
    let waits = fill(&mut plan, set, &by_ordinal, view.now) || shrink(&mut plan, set, &condemned, view.now);
    if !waits {
        update(&mut plan, set, &by_ordinal, view);
    }
    plan
}

/// Makes what is missing; true when nothing else may happen before that has come up, which is so where pods have an order.
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
            Some(pod) => is_unavailable(set, pod, now),
        };
        if blocks && in_order {
            return true;
        }
    }
    false
}

/// Takes away what is too much, the highest ordinal first; true when nothing else may happen before that is gone.
fn shrink(plan: &mut Plan, set: &StatefulSet, condemned: &[Arc<Pod>], now: Timestamp) -> bool {
    if !in_order(set) {
        plan.delete.extend(condemned.iter().filter(|pod| !is_deleting(&pod.metadata)).cloned());
        return false;
    }
    let Some(next) = condemned.first() else { return false };
    // While one is in trouble it alone may go; it has to be the last one's turn for that.
    let in_trouble = condemned.iter().rev().find(|pod| is_unavailable(set, pod, now));
    let may_go = serves(set, next, now) || in_trouble.is_some_and(|pod| Arc::ptr_eq(pod, next));
    if !is_deleting(&next.metadata) && may_go {
        plan.delete.push(next.clone());
    }
    true
}

/// Replaces pods of older revisions, the highest ordinal first, down to the partition.
fn update(plan: &mut Plan, set: &StatefulSet, pods: &BTreeMap<i32, Arc<Pod>>, view: View<'_>) {
    let Some(partition) = partition(set) else { return };
    let (start, end) = range(set);
    let least = start.saturating_add(partition);
    // Those that are just made or unmade are not there either.
    let is_gone = |pod: &Pod| plan.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid);
    let is_away = |pod: &Pod| is_unavailable(set, pod, view.now) || is_gone(pod);
    let is_old =
        |pod: &Pod| revision(pod) != view.names.update && !is_deleting(&pod.metadata) && !is_gone(pod);
    let away = (start..end).filter(|n| pods.get(n).is_none_or(|pod| is_away(pod))).count();
    let mut chosen = Vec::new();
    if view.several {
        let room = max_unavailable(set).saturating_sub(away);
        let old = (least..end).rev().filter_map(|n| pods.get(&n)).filter(|pod| is_old(pod));
        chosen.extend(old.take(room).cloned());
        plan.unavailable = Some(away);
    } else {
        for ordinal in (least..end).rev() {
            let Some(pod) = pods.get(&ordinal) else { break };
            if is_old(pod) {
                chosen.push(pod.clone());
                break;
            }
            if is_away(pod) {
                break;
            }
        }
    }
    plan.delete.append(&mut chosen);
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
    let (start, end) = range(set);
    let all = Some(end - start);
    let counts = [Some(status.replicas), status.updated_replicas, status.ready_replicas];
    if partition(set).is_some() && counts == [all; 3] {
        // The update is complete: what was new is what is.
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}

#[cfg(test)]
mod tests;
