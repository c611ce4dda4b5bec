//! Versions of the template: their revisions, the set of the current one, and how many are kept. Pure.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    hash::template_hash,
    meta::{annotation, new_controller_ref},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    core::v1::PodTemplateSpec,
};

use super::{
    Action, Mode, Sets,
    rollback::ROLLBACK_TO,
    size,
    sizes::{DESIRED, MAX, size_annotations},
    status::is_complete,
};

/// Label whose value tells the versions of a template apart.
const HASH_LABEL: &str = "pod-template-hash";
/// Annotation counting the versions.
pub(in super::super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation listing the revisions a set had before, as rollbacks made it current again.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Longest such list.
const HISTORY_LENGTH: usize = 2000;
/// Longest name of an object.
const NAME_LENGTH: usize = 253;
/// Annotations of a deployment that are its own.
pub(super) const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    ROLLBACK_TO,
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];

/// Whether a set was made from the deployment's template; the hash label is the set's own addition.
pub(in super::super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let Some(of_set) = without_hash(set) else { return false };
    deployment.spec.as_ref().is_some_and(|s| s.template == of_set)
}

/// A set's template as its deployment had it.
pub(super) fn without_hash(set: &ReplicaSet) -> Option<PodTemplateSpec> {
    let mut template = set.spec.as_ref().and_then(|s| s.template.clone())?;
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    Some(template)
}

pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The highest revision among old sets.
fn latest(sets: &Sets) -> i64 {
    sets.old.iter().map(|s| revision_of(s)).max().unwrap_or(0)
}

/// The annotations of a deployment that its current set has too.
fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut out = deployment.metadata.annotations.clone().unwrap_or_default();
    NOT_COPIED.iter().for_each(|key| drop(out.remove(*key)));
    out
}

/// What the current set lacks of the deployment's annotations, its revision and `minReadySeconds`.
pub(super) fn renew(deployment: &Deployment, sets: &Sets) -> Option<Action> {
    let set = sets.current.as_ref()?;
    let mut annotations = copied(deployment);
    let (own, next) = (revision_of(set), latest(sets) + 1);
    if own < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        if let Some(before) = annotation(&set.metadata, REVISION) {
            let list = annotation(&set.metadata, REVISION_HISTORY).unwrap_or_default();
            annotations.insert(REVISION_HISTORY.to_owned(), remember(list, before));
        }
    }
    annotations.retain(|key, value| annotation(&set.metadata, key) != Some(value));
    let least = |seconds: Option<i32>| seconds.unwrap_or(0);
    let asked = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
    let differs = least(asked) != least(set.spec.as_ref().and_then(|s| s.min_ready_seconds));
    let min_ready_seconds = differs.then_some(least(asked));
    (differs || !annotations.is_empty()).then(|| Action::Renew {
        set: set.clone(),
        annotations,
        min_ready_seconds,
    })
}

/// Adds a revision to a list of them; the oldest make room.
fn remember(list: &str, revision: &str) -> String {
    let mut all: Vec<&str> = list.split(',').filter(|r| !r.is_empty()).chain([revision]).collect();
    while all.len() > 1 && all.iter().map(|r| r.len() + 1).sum::<usize>() - 1 > HISTORY_LENGTH {
        all.remove(0);
    }
    all.join(",")
}

/// The revision the deployment has to be given, if it says another one. `made` tells that its set is being made.
pub(super) fn revision(deployment: &Deployment, sets: &Sets, made: bool) -> Option<i64> {
    let revision = match &sets.current {
        Some(current) => revision_of(current).max(latest(sets) + 1),
        None if made => latest(sets) + 1,
        None => return None,
    };
    let shown = annotation(&deployment.metadata, REVISION);
    (shown != Some(revision.to_string().as_str())).then_some(revision)
}

/// The replica set of the current template.
pub(super) fn new_set(
    deployment: &Deployment,
    sets: &Sets,
    replicas: i32,
) -> Result<ReplicaSet, serde_json::Error> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&Some(&spec.template), collisions)?;
    let mut template = spec.template;
    let mut selector = spec.selector;
    let add = |map: &mut Option<BTreeMap<String, String>>| {
        map.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    };
    add(&mut template.metadata.get_or_insert_default().labels);
    add(&mut selector.match_labels);
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(name(deployment, &hash));
    set.metadata.namespace.clone_from(&deployment.metadata.namespace);
    set.metadata.labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
    set.metadata.owner_references = Some(vec![new_controller_ref(deployment)]);
    let mut annotations = copied(deployment);
    annotations.insert(REVISION.to_owned(), (latest(sets) + 1).to_string());
    annotations.extend(size_annotations(deployment));
    set.metadata.annotations = Some(annotations);
    set.spec = Some(ReplicaSetSpec {
        replicas: Some(replicas),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    });
    Ok(set)
}

/// The deployment's name and the hash, cut to what a name may be long.
fn name(deployment: &Deployment, hash: &str) -> String {
    let mut name = deployment.metadata.name.clone().unwrap_or_default();
    // Names are ASCII.
    name.truncate(NAME_LENGTH - 1 - hash.len());
    format!("{name}-{hash}")
}

/// Old, empty sets beyond the limit go, oldest revision first, once the rollout is complete or while it is paused.
pub(super) fn clean(deployment: &Deployment, sets: &Sets, mode: Mode, actions: &mut Vec<Action>) {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|l| *l != i32::MAX);
    let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { return };
    let is_due = match mode {
        Mode::Paused => true,
        // What the status said before: a set is not history while a rollout may still go back to it.
        Mode::Rolling => deployment.status.as_ref().is_some_and(|s| is_complete(deployment, s)),
        Mode::Ending | Mode::Scaling => false,
    };
    if !is_due {
        return;
    }
    let mut old: Vec<&Arc<ReplicaSet>> =
        sets.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|s| revision_of(s));
    let surplus = old.len().saturating_sub(limit);
    let idle = |s: &&Arc<ReplicaSet>| {
        let status = s.status.as_ref();
        let seen = status.and_then(|st| st.observed_generation) >= s.metadata.generation;
        size(s) == 0 && seen && status.is_none_or(|st| st.replicas == 0)
    };
    actions.extend(old.into_iter().take(surplus).filter(idle).map(|s| Action::Delete(s.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_revisions_stays_short() {
        assert_eq!(remember("", "1"), "1");
        assert_eq!(remember("1,3", "5"), "1,3,5");
        let long = (0..600).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let list = remember(&long, "600");
        assert!(
            list.len() <= HISTORY_LENGTH && list.ends_with(",599,600") && !list.starts_with("0,"),
            "{list}"
        );
    }
}
