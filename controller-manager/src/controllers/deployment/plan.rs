//! Which replica sets there should be and how large each. Pure.

mod history;
mod rollback;
mod sizes;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

pub(super) use self::{
    history::{REVISION, same_template},
    rollback::rollback,
    sizes::{recreates, size_annotations},
    status::create_failed,
};

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Make the replica set of the current template.
    Create(Box<ReplicaSet>),
    /// Change a set's size.
    Scale { set: Arc<ReplicaSet>, to: i32 },
    /// Bring the current set's annotations and readiness up to the deployment's.
    Renew { set: Arc<ReplicaSet>, annotations: BTreeMap<String, String>, min_ready_seconds: Option<i32> },
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

/// What a plan is made by besides the deployment and its sets.
#[derive(Clone, Copy)]
pub(super) struct View<'v> {
    /// Whether a set has pods that have not ended, those on their way out among them.
    pub(super) has_pods: &'v dyn Fn(&ReplicaSet) -> bool,
    /// Whether the status tells how many pods are on their way out.
    pub(super) tells_ending: bool,
    pub(super) now: Timestamp,
}

/// A deployment's replica sets, as the parts of the plan see them.
struct Sets {
    /// All, oldest first.
    all: Vec<Arc<ReplicaSet>>,
    /// The oldest one of the current template.
    current: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Sets {
        let mut all = sets.to_vec();
        all.sort_by_key(|s| (s.metadata.creation_timestamp.clone(), s.metadata.name.clone()));
        let current = all.iter().find(|s| same_template(s, deployment)).cloned();
        let is_old = |s: &&Arc<ReplicaSet>| current.as_ref().is_none_or(|c| c.metadata.uid != s.metadata.uid);
        let old = all.iter().filter(is_old).cloned().collect();
        Sets { all, current, old }
    }
}

/// What a deployment is about just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is being deleted: only its status is kept.
    Ending,
    /// It is paused: scaled, but never rolled.
    Paused,
    /// Its size changed: a rollout under way keeps its shape.
    Scaling,
    /// The current template replaces the others.
    Rolling,
}

/// Plans for a deployment and its replica sets.
///
/// # Errors
/// When the template cannot be hashed, which its type rules out.
pub(super) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    view: View<'_>,
) -> Result<Plan, serde_json::Error> {
    let sets = Sets::new(deployment, sets);
    let mode = mode(deployment, &sets);
    let mut actions = Vec::new();
    let mut made = None;
    if mode != Mode::Ending {
        match history::renew(deployment, &sets) {
            // The sizes are decided once the cache shows the set as it is now.
            Some(renew) => actions.push(renew),
            None => sizes::resize(deployment, &sets, mode, view.has_pods, &mut actions),
        }
        if mode == Mode::Rolling
            && sets.current.is_none()
            && sizes::may_create(deployment, &sets, view.has_pods)
        {
            let set = history::new_set(deployment, &sets, sizes::first_size(deployment, &sets))?;
            made.clone_from(&set.metadata.name);
            actions.push(Action::Create(Box::new(set)));
        }
        history::clean(deployment, &sets, mode, &mut actions);
        if let Some(revision) = history::revision(deployment, &sets, made.is_some()) {
            actions.push(Action::Revision(revision));
        }
    }
    let mut status = status::status(deployment, &sets, mode, made.as_deref(), view.now);
    status.terminating_replicas = status.terminating_replicas.filter(|_| view.tells_ending);
    let check_after = status::deadline(deployment, &status, view.now);
    Ok(Plan { actions, status, check_after })
}

fn mode(deployment: &Deployment, sets: &Sets) -> Mode {
    if deployment.metadata.deletion_timestamp.is_some() {
        Mode::Ending
    } else if deployment.spec.as_ref().and_then(|s| s.paused) == Some(true) {
        Mode::Paused
    } else if sizes::changed(deployment, sets) {
        Mode::Scaling
    } else {
        Mode::Rolling
    }
}

fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
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

fn total(sets: &[Arc<ReplicaSet>], of: fn(&ReplicaSet) -> i32) -> i32 {
    sets.iter().map(|s| of(s)).sum()
}

#[cfg(test)]
mod tests;
