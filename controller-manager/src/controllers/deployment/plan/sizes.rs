//! How large every replica set should be. Pure.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use component_base::{
    intstr::{Rounding, scaled},
    meta::annotation,
};
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Action, Mode, Sets, available, pods, size, total, wanted};

/// Annotation: the deployment's size a set was last scaled for.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: the most pods the deployment might have then.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// (most pods above, most below) the wanted number while rolling; never both zero.
pub(super) fn margins(deployment: &Deployment) -> (i32, i32) {
    if recreates(deployment) {
        return (0, 0);
    }
    let replicas = i64::from(wanted(deployment));
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    let rolling = strategy.and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let percent = || IntOrString::String("25%".into());
    let value = |v: Option<IntOrString>, rounding| {
        let scaled = scaled(&v.unwrap_or_else(percent), replicas, rounding);
        scaled.ok().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
    };
    let surge = value(rolling.max_surge, Rounding::Up);
    let unavailable = value(rolling.max_unavailable, Rounding::Down);
    // Otherwise nothing could ever move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted(deployment))) }
}

pub(in crate::controllers::deployment) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// Annotations that remember the size a set is scaled for.
pub(in super::super) fn size_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let most = wanted(deployment).saturating_add(margins(deployment).0);
    BTreeMap::from([(DESIRED.to_owned(), wanted(deployment).to_string()), (MAX.to_owned(), most.to_string())])
}

fn noted(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(&set.metadata, key)?.parse().ok()
}

/// Whether the deployment's size changed since the sets were last scaled. With `Recreate` there is no shape to keep:
/// several sets are rolled on at once.
pub(super) fn changed(deployment: &Deployment, sets: &Sets) -> bool {
    let active = sets.all.iter().filter(|s| size(s) > 0);
    let outdated = |s: &Arc<ReplicaSet>| noted(s, DESIRED).is_some_and(|size| size != wanted(deployment));
    active.clone().any(outdated) && !(recreates(deployment) && active.count() > 1)
}

/// Whether the current template's set may be made: with `Recreate`, when the old pods are gone.
pub(super) fn may_create(
    deployment: &Deployment,
    sets: &Sets,
    has_pods: &dyn Fn(&ReplicaSet) -> bool,
) -> bool {
    let is_empty = |set: &Arc<ReplicaSet>| size(set) == 0 && pods(set) == 0 && !has_pods(set);
    !recreates(deployment) || sets.old.iter().all(is_empty)
}

/// How large a new set may start.
pub(super) fn first_size(deployment: &Deployment, sets: &Sets) -> i32 {
    let room = wanted(deployment).saturating_add(margins(deployment).0) - total(&sets.old, size);
    room.clamp(0, wanted(deployment))
}

/// Steps to the sizes that are due.
pub(super) fn resize(
    deployment: &Deployment,
    sets: &Sets,
    mode: Mode,
    has_pods: &dyn Fn(&ReplicaSet) -> bool,
    actions: &mut Vec<Action>,
) {
    match (mode, &sets.current) {
        (Mode::Ending, _) => {}
        (Mode::Paused | Mode::Scaling, _) => spread(deployment, sets, actions),
        (Mode::Rolling, current) if recreates(deployment) => {
            sets.old.iter().for_each(|s| scale(s, 0, actions));
            if let Some(current) = current.as_ref().filter(|_| may_create(deployment, sets, has_pods)) {
                scale(current, wanted(deployment), actions);
            }
        }
        (Mode::Rolling, Some(current)) => roll(deployment, current, &sets.old, actions),
        (Mode::Rolling, None) => {}
    }
}

fn scale(set: &Arc<ReplicaSet>, to: i32, actions: &mut Vec<Action>) {
    if size(set) != to {
        actions.push(Action::Scale { set: set.clone(), to });
    }
}

fn roll(
    deployment: &Deployment,
    current: &Arc<ReplicaSet>,
    old: &[Arc<ReplicaSet>],
    actions: &mut Vec<Action>,
) {
    let wanted = wanted(deployment);
    let (surge, unavailable) = margins(deployment);
    if size(current) > wanted {
        return scale(current, wanted, actions);
    }
    let all = size(current) + total(old, size);
    let up = (wanted.saturating_add(surge) - all).min(wanted - size(current)).max(0);
    if up > 0 {
        // Growing and shrinking in one round could drop below what must be available.
        return scale(current, size(current) + up, actions);
    }
    let least = wanted - unavailable;
    let coming = size(current) - available(current);
    let mut surplus = all - least - coming;
    if surplus <= 0 {
        return;
    }
    let mut left: Vec<(Arc<ReplicaSet>, i32)> = old.iter().map(|s| (s.clone(), size(s))).collect();
    // Pods that never became available go first: they serve nobody.
    for (set, to) in &mut left {
        let broken = (*to - available(set)).clamp(0, surplus);
        *to -= broken;
        surplus -= broken;
    }
    let kept = old.iter().zip(&left).map(|(s, (_, to))| available(s).min(*to));
    let mut spare = available(current) + kept.sum::<i32>() - least;
    for (_, to) in &mut left {
        let gone = (*to).min(spare).max(0);
        *to -= gone;
        spare -= gone;
    }
    left.iter().for_each(|(set, to)| scale(set, *to, actions));
}

/// Follows a change of the deployment's size without rolling: one set takes it all, several share it in proportion.
fn spread(deployment: &Deployment, sets: &Sets, actions: &mut Vec<Action>) {
    let wanted = wanted(deployment);
    let active: Vec<&Arc<ReplicaSet>> = sets.all.iter().filter(|s| size(s) > 0).collect();
    match active[..] {
        [] => {
            // The current set, or the newest there is.
            if let Some(set) = sets.current.as_ref().or(sets.old.last()) {
                scale(set, wanted, actions);
            }
        }
        // The annotation records the new size even where the size is right already.
        [only] if size(only) != wanted || noted(only, DESIRED) != Some(wanted) => {
            actions.push(Action::Scale { set: only.clone(), to: wanted });
        }
        [_] => {}
        // Old sets that were adopted after the rollout had ended have nothing left to do.
        _ if sets.current.as_ref().is_some_and(|c| is_saturated(c, wanted)) => {
            sets.old.iter().for_each(|s| scale(s, 0, actions));
        }
        _ if recreates(deployment) => {}
        _ => proportionally(deployment, active, actions),
    }
}

/// Whether a set has all the pods of its deployment, and they are available.
fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    size(set) == wanted && noted(set, DESIRED) == Some(wanted) && available(set) == wanted
}

/// Spreads a change of size over all sets in proportion, so that a rollout under way keeps its shape.
fn proportionally(deployment: &Deployment, mut active: Vec<&Arc<ReplicaSet>>, actions: &mut Vec<Action>) {
    let wanted = wanted(deployment);
    let allowed = if wanted > 0 { wanted.saturating_add(margins(deployment).0) } else { 0 };
    let change = allowed - active.iter().map(|s| size(s)).sum::<i32>();
    let born = |s: &Arc<ReplicaSet>| s.metadata.creation_timestamp.clone();
    // The largest take what rounding leaves over; of equals the newest grow and the oldest shrink first.
    active.sort_by_key(|s| born(s));
    if change > 0 {
        active.reverse();
    }
    active.sort_by_key(|s| Reverse(size(s)));
    let mut given = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let share = share(deployment, set, allowed);
        let left = change - given;
        let share = if change > 0 { share.min(left) } else { share.max(left) };
        let share = if change == 0 || left == 0 { 0 } else { share };
        given += share;
        sizes.push(size(set) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + change - given).max(0);
    }
    for (set, to) in active.into_iter().zip(sizes) {
        // The annotations record the new size even where the share stays the same.
        if to != size(set) || noted(set, DESIRED) != Some(wanted) {
            actions.push(Action::Scale { set: set.clone(), to });
        }
    }
}

/// By how much one set grows or shrinks when the deployment's most pods become `allowed`.
fn share(deployment: &Deployment, set: &ReplicaSet, allowed: i32) -> i32 {
    if wanted(deployment) == 0 {
        return -size(set);
    }
    let shown = || deployment.status.as_ref().and_then(|s| s.replicas);
    let before = noted(set, MAX).filter(|n| *n != 0).or_else(shown).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let (size, allowed, before) = (i64::from(size(set)), i64::from(allowed), i64::from(before));
    // Rounded half up, in whole numbers.
    let scaled = (2 * size * allowed + before).div_euclid(2 * before);
    i32::try_from(scaled - size).unwrap_or(i32::MAX)
}
