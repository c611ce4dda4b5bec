//! Which replica sets there should be and how large each. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::intstr::{Rounding, scaled};
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{
        Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};

/// Label whose value tells the versions of a template apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// Annotation counting the versions.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// kubectl's own annotations stay where they are.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Make the replica set of the current template.
    Create { replicas: i32, revision: i64 },
    /// Change a set's size.
    Scale { set: Arc<ReplicaSet>, to: i32 },
    /// Give a set a revision.
    Annotate { set: Arc<ReplicaSet>, revision: i64 },
    /// Give the deployment its revision.
    Revision(i64),
    /// Delete a set beyond the history limit.
    Delete(Arc<ReplicaSet>),
}

/// Steps and the status that goes with what is there.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: DeploymentStatus,
    /// When to look again although nothing changed (progress deadline).
    pub(super) check_after: Option<Duration>,
}

/// Plans for a deployment and its replica sets.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut sorted = sets.to_vec();
    sorted.sort_by_key(|s| (s.metadata.creation_timestamp.clone(), s.metadata.name.clone()));
    let current = sorted.iter().find(|s| same_template(s, deployment)).cloned();
    let old: Vec<Arc<ReplicaSet>> = sorted
        .iter()
        .filter(|s| current.as_ref().is_none_or(|c| c.metadata.uid != s.metadata.uid))
        .cloned()
        .collect();
    let mut actions = Vec::new();
    let paused = spec.paused == Some(true);
    let latest = old.iter().map(|s| revision(s)).max().unwrap_or(0);
    match &current {
        None if paused => proportionally(&spec, &sorted, &mut actions),
        None => {
            let replicas = first_size(&spec, &old);
            actions.push(Action::Create { replicas, revision: latest + 1 });
            revise(deployment, latest + 1, &mut actions);
        }
        Some(current) => {
            let own = revision(current);
            if own <= latest && !paused {
                actions.push(Action::Annotate { set: current.clone(), revision: latest + 1 });
                revise(deployment, latest + 1, &mut actions);
            } else {
                revise(deployment, own, &mut actions);
            }
            if paused || size_changed(deployment, &sorted) {
                proportionally(&spec, &sorted, &mut actions);
            } else {
                roll(&spec, current, &old, &mut actions);
            }
        }
    }
    if !paused {
        history(&spec, deployment, current.as_ref(), &old, &mut actions);
    }
    let status = status(deployment, current.as_ref(), &sorted, now);
    let check_after = deadline(&spec, &status, now);
    Plan { actions, status, check_after }
}

fn revise(deployment: &Deployment, revision: i64, actions: &mut Vec<Action>) {
    let shown = deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    if shown.map(String::as_str) != Some(revision.to_string().as_str()) {
        actions.push(Action::Revision(revision));
    }
}

fn revision(set: &ReplicaSet) -> i64 {
    let annotation = set.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    annotation.and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Pods of a set that are still there, those on their way out among them.
fn pods(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas + s.terminating_replicas.unwrap_or(0))
}

/// The size of the deployment a set was last scaled for.
fn scaled_for(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(DESIRED)?.parse().ok()
}

fn total(sets: &[Arc<ReplicaSet>], of: fn(&ReplicaSet) -> i32) -> i32 {
    sets.iter().map(|s| of(s)).sum()
}

/// Whether a set was made from the deployment's template; the hash label is the set's own addition.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let Some(mut of_set) = set.spec.as_ref().and_then(|s| s.template.clone()) else { return false };
    if let Some(labels) = of_set.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    deployment.spec.as_ref().is_some_and(|s| s.template == of_set)
}

/// (most pods above, most below) the wanted number while rolling; never both zero.
fn margins(spec: &DeploymentSpec) -> (i32, i32) {
    let replicas = i64::from(spec.replicas.unwrap_or(1));
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let percent = || IntOrString::String("25%".into());
    let value = |v: Option<IntOrString>, rounding| {
        scaled(&v.unwrap_or_else(percent), replicas, rounding)
            .ok()
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(0)
    };
    let surge = value(rolling.max_surge, Rounding::Up);
    let unavailable = value(rolling.max_unavailable, Rounding::Down);
    // Otherwise nothing could ever move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn recreates(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// How large a new set may start.
fn first_size(spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> i32 {
    let wanted = spec.replicas.unwrap_or(1);
    if recreates(spec) {
        return if total(old, pods) + total(old, size) == 0 { wanted } else { 0 };
    }
    let room = wanted + margins(spec).0 - total(old, size);
    room.clamp(0, wanted)
}

fn roll(
    spec: &DeploymentSpec,
    current: &Arc<ReplicaSet>,
    old: &[Arc<ReplicaSet>],
    actions: &mut Vec<Action>,
) {
    let wanted = spec.replicas.unwrap_or(1);
    let mut scale = |set: &Arc<ReplicaSet>, to: i32| {
        if size(set) != to {
            actions.push(Action::Scale { set: set.clone(), to });
        }
    };
    if recreates(spec) {
        old.iter().for_each(|s| scale(s, 0));
        if total(old, pods) == 0 && total(old, size) == 0 {
            scale(current, wanted);
        }
        return;
    }
    let (surge, unavailable) = margins(spec);
    if size(current) > wanted {
        scale(current, wanted);
        return;
    }
    let all = size(current) + total(old, size);
    let up = (wanted + surge - all).min(wanted - size(current)).max(0);
    if up > 0 {
        // Growing and shrinking in one round could drop below what must be available.
        scale(current, size(current) + up);
        return;
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
    let still: i32 =
        available(current) + old.iter().zip(&left).map(|(s, (_, to))| available(s).min(*to)).sum::<i32>();
    let mut spare = still - least;
    for (_, to) in &mut left {
        let gone = (*to).min(spare).max(0);
        *to -= gone;
        spare -= gone;
    }
    for (set, to) in &left {
        scale(set, *to);
    }
}

/// Whether the deployment's size changed since the sets were last scaled.
fn size_changed(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    sets.iter().filter(|s| size(s) > 0).any(|s| scaled_for(s).is_some_and(|k| k != wanted))
}

/// Spreads a change of size over all sets in proportion, so that a rollout under way keeps its shape.
fn proportionally(spec: &DeploymentSpec, sets: &[Arc<ReplicaSet>], actions: &mut Vec<Action>) {
    let wanted = spec.replicas.unwrap_or(1);
    let active: Vec<&Arc<ReplicaSet>> = sets.iter().filter(|s| size(s) > 0).collect();
    if let [only] = active[..] {
        if size(only) != wanted {
            actions.push(Action::Scale { set: only.clone(), to: wanted });
        }
        return;
    }
    let all: i32 = active.iter().map(|s| size(s)).sum();
    if all == 0 {
        // None is active: the newest takes it all.
        if let Some(newest) = sets.last().filter(|_| wanted > 0) {
            actions.push(Action::Scale { set: newest.clone(), to: wanted });
        }
        return;
    }
    let surge = if recreates(spec) { 0 } else { margins(spec).0 };
    let goal = if wanted == 0 { 0 } else { wanted + surge };
    let mut left = goal;
    // Largest and newest first: they take what rounding leaves over.
    let mut ordered = active;
    ordered.sort_by_key(|s| {
        (std::cmp::Reverse(size(s)), std::cmp::Reverse(s.metadata.creation_timestamp.clone()))
    });
    let mut shares: Vec<i32> =
        ordered.iter().map(|s| (i64::from(size(s)) * i64::from(goal) / i64::from(all)) as i32).collect();
    left -= shares.iter().sum::<i32>();
    if let Some(first) = shares.first_mut() {
        *first += left;
    }
    for (set, share) in ordered.into_iter().zip(shares) {
        // The annotation records the new size even where the share stays the same.
        if share != size(set) || scaled_for(set) != Some(wanted) {
            actions.push(Action::Scale { set: set.clone(), to: share });
        }
    }
}

/// Annotations that remember the size a set was scaled for.
pub(super) fn size_annotations(deployment: &Deployment, desired: i32) -> BTreeMap<&'static str, String> {
    let surge = deployment.spec.as_ref().map_or(0, |s| if recreates(s) { 0 } else { margins(s).0 });
    BTreeMap::from([(DESIRED, desired.to_string()), (MAX, (desired + surge).to_string())])
}

/// Old, empty sets beyond the limit go, oldest revision first, once the rollout is complete.
fn history(
    spec: &DeploymentSpec,
    deployment: &Deployment,
    current: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    actions: &mut Vec<Action>,
) {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let wanted = spec.replicas.unwrap_or(1);
    if current.is_none_or(|c| available(c) < wanted || size(c) != wanted)
        || deployment.metadata.deletion_timestamp.is_some()
    {
        return;
    }
    let idle = |s: &&Arc<ReplicaSet>| {
        size(s) == 0
            && s.status.as_ref().is_none_or(|st| st.replicas == 0)
            && s.metadata.deletion_timestamp.is_none()
    };
    let mut idle: Vec<&Arc<ReplicaSet>> = old.iter().filter(idle).collect();
    idle.sort_by_key(|s| revision(s));
    let surplus = idle.len().saturating_sub(limit);
    actions.extend(idle.into_iter().take(surplus).map(|s| Action::Delete(s.clone())));
}

/// The replica set of the current template.
pub(super) fn new_set(deployment: &Deployment, hash: &str, replicas: i32, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template.clone();
    let mut selector = spec.selector.clone();
    let add = |map: &mut Option<BTreeMap<String, String>>| {
        map.get_or_insert_with(BTreeMap::new).insert(HASH_LABEL.to_owned(), hash.to_owned());
    };
    add(&mut template.metadata.get_or_insert_with(Default::default).labels);
    add(&mut selector.match_labels);
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default()));
    set.metadata.namespace.clone_from(&deployment.metadata.namespace);
    set.metadata.labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
    let mut annotations: BTreeMap<String, String> =
        deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    for (key, value) in size_annotations(deployment, spec.replicas.unwrap_or(1)) {
        annotations.insert(key.to_owned(), value);
    }
    set.metadata.annotations = Some(annotations);
    set.spec = Some(ReplicaSetSpec {
        replicas: Some(replicas),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    });
    set
}

fn status(
    deployment: &Deployment,
    current: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> DeploymentStatus {
    let spec = deployment.spec.clone().unwrap_or_default();
    let wanted = spec.replicas.unwrap_or(1);
    let running = |s: &ReplicaSet| s.status.as_ref().map_or(0, |st| st.replicas);
    let ready = |s: &ReplicaSet| s.status.as_ref().and_then(|st| st.ready_replicas).unwrap_or(0);
    let replicas: i32 = sets.iter().map(|s| running(s)).sum();
    let usable = total(sets, available);
    let updated = current.map_or(0, |c| running(c));
    let mut out = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(sets.iter().map(|s| ready(s)).sum()),
        available_replicas: Some(usable),
        unavailable_replicas: Some(total(sets, size) - usable),
        collision_count: deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: deployment.status.as_ref().and_then(|s| s.conditions.clone()),
        terminating_replicas: Some(total(sets, |s| {
            s.status.as_ref().and_then(|st| st.terminating_replicas).unwrap_or(0)
        })),
    };
    let enough = usable >= wanted - if recreates(&spec) { 0 } else { margins(&spec).1 };
    let complete = updated == wanted && replicas == wanted && usable == wanted;
    let mut conditions = out.conditions.take().unwrap_or_default();
    let available = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    set_condition(&mut conditions, "Available", available, now, false);
    progress(&mut conditions, deployment, &out, current, complete, now);
    out.conditions = Some(conditions);
    out
}

/// The Progressing condition: complete, moving, or stuck past the deadline.
fn progress(
    conditions: &mut Vec<DeploymentCondition>,
    deployment: &Deployment,
    status: &DeploymentStatus,
    current: Option<&Arc<ReplicaSet>>,
    complete: bool,
    now: Timestamp,
) {
    const KIND: &str = "Progressing";
    let spec = deployment.spec.clone().unwrap_or_default();
    if spec.progress_deadline_seconds == Some(i32::MAX) {
        conditions.retain(|c| c.type_ != KIND);
        return;
    }
    let name = current.and_then(|c| c.metadata.name.clone()).unwrap_or_default();
    if complete && current.is_some() {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set_condition(conditions, KIND, ("True", "NewReplicaSetAvailable", message), now, false);
        return;
    }
    let old = deployment.status.clone().unwrap_or_default();
    let count = |n: Option<i32>| n.unwrap_or(0);
    let moved = count(status.updated_replicas) > count(old.updated_replicas)
        || count(status.ready_replicas) > count(old.ready_replicas)
        || count(status.available_replicas) > count(old.available_replicas)
        || count(status.replicas) - count(status.updated_replicas)
            < count(old.replicas) - count(old.updated_replicas);
    let known = conditions.iter().find(|c| c.type_ == KIND).cloned();
    let new_rollout = known.as_ref().is_none_or(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if moved || new_rollout {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        set_condition(conditions, KIND, ("True", "ReplicaSetUpdated", message), now, true);
    } else if known.is_some_and(|c| overdue(&spec, &c, now)) {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set_condition(conditions, KIND, ("False", "ProgressDeadlineExceeded", message), now, false);
    }
}

fn overdue(spec: &DeploymentSpec, condition: &DeploymentCondition, now: Timestamp) -> bool {
    let limit = i64::from(spec.progress_deadline_seconds.unwrap_or(600));
    let since = condition.last_update_time.as_ref().map_or(now.as_second(), |t| t.0.as_second());
    spec.paused != Some(true) && since + limit < now.as_second()
}

fn deadline(spec: &DeploymentSpec, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let condition = status.conditions.as_ref()?.iter().find(|c| c.type_ == "Progressing")?;
    if condition.status != "True" || condition.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0.as_second();
    let at = since + i64::from(spec.progress_deadline_seconds.unwrap_or(600)) + 1;
    Some(Duration::from_secs(u64::try_from(at - now.as_second()).unwrap_or(1).max(1)))
}

fn set_condition(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    (status, reason, message): (&str, &str, String),
    now: Timestamp,
    touch: bool,
) {
    let old = conditions.iter().find(|c| c.type_ == kind).cloned();
    if let Some(old) = &old
        && !touch
        && old.status == status
        && old.reason.as_deref() == Some(reason)
    {
        return;
    }
    let since = old.filter(|o| o.status == status).and_then(|o| o.last_transition_time);
    conditions.retain(|c| c.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    });
}

#[cfg(test)]
mod tests;
