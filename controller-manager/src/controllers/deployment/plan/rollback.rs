//! Going back to an earlier template, which an annotation asks for.
//!
//! Contract: upstream's `pkg/controller/deployment/rollback.go`; the annotation is what is left of the field `rollbackTo` of
//! groups that are not served any more. kubectl goes back by itself.

use std::sync::Arc;

use component_base::{events::EventType, meta::annotation};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::history::{NOT_COPIED, revision_of, same_template, without_hash};

/// The revision to go back to; 0 for the last one.
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// A deployment that has gone back, or does not, and what is told of it.
#[derive(Clone, Debug)]
pub(in super::super) struct Rollback {
    pub(in super::super) deployment: Deployment,
    pub(in super::super) kind: EventType,
    pub(in super::super) reason: &'static str,
    pub(in super::super) note: String,
}

/// What becomes of the deployment, if it is to go back.
pub(in super::super) fn rollback(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Rollback> {
    let ends = deployment.metadata.deletion_timestamp.is_some();
    if ends || deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true)) {
        return None;
    }
    let asked: i64 = annotation(&deployment.metadata, ROLLBACK_TO)?.parse().ok()?;
    let mut next = deployment.clone();
    next.metadata.annotations.get_or_insert_default().remove(ROLLBACK_TO);
    let refused = |deployment, reason, note: String| {
        Some(Rollback { deployment, kind: EventType::Warning, reason, note })
    };
    const NOT_FOUND: &str = "DeploymentRollbackRevisionNotFound";
    let to = if asked == 0 { last(sets) } else { asked };
    if to == 0 {
        return refused(next, NOT_FOUND, "Unable to find last revision.".to_owned());
    }
    let Some(set) = sets.iter().find(|set| revision_of(set) == to) else {
        return refused(next, NOT_FOUND, "Unable to find the revision to rollback to.".to_owned());
    };
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    if same_template(set, deployment) {
        let note = format!("The rollback revision contains the same template as current deployment {name:?}");
        return refused(next, "DeploymentRollbackTemplateUnchanged", note);
    }
    if let (Some(spec), Some(template)) = (next.spec.as_mut(), without_hash(set)) {
        spec.template = template;
    }
    // What the annotations said of that template they say of it again.
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| NOT_COPIED.contains(&key.as_str()));
    let of_set =
        set.metadata.annotations.iter().flatten().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    annotations.extend(of_set.map(|(key, value)| (key.clone(), value.clone())));
    let note = format!("Rolled back deployment {name:?} to revision {to}");
    Some(Rollback { deployment: next, kind: EventType::Normal, reason: "DeploymentRollback", note })
}

/// The revision before the newest one; 0 where there is none.
fn last(sets: &[Arc<ReplicaSet>]) -> i64 {
    let mut revisions: Vec<i64> = sets.iter().map(|set| revision_of(set)).collect();
    revisions.sort_unstable();
    revisions.iter().rev().nth(1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn template(image: &str, hash: Option<&str>) -> Value {
        let mut labels = json!({"a": "b"});
        if let Some(hash) = hash {
            labels["pod-template-hash"] = hash.into();
        }
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn set(image: &str, revision: &str) -> Arc<ReplicaSet> {
        let annotations =
            json!({"deployment.kubernetes.io/revision": revision, "kubernetes.io/change-cause": image});
        let object = json!({"metadata": {"name": image, "annotations": annotations},
            "spec": {"selector": {}, "template": template(image, Some("h"))}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn deployment(to: &str, paused: bool) -> Deployment {
        let annotations = json!({ROLLBACK_TO: to, "kubernetes.io/change-cause": "i:2", "deployment.kubernetes.io/revision": "2"});
        serde_json::from_value(json!({"metadata": {"name": "w", "annotations": annotations},
            "spec": {"paused": paused, "selector": {}, "template": template("i:2", None)}}))
        .unwrap()
    }

    #[test]
    fn the_template_and_what_is_said_of_it_come_back() {
        let sets = [set("i:1", "1"), set("i:2", "2")];
        for to in ["0", "1"] {
            let done = rollback(&deployment(to, false), &sets).unwrap();
            assert_eq!(
                (done.reason, done.note.as_str()),
                ("DeploymentRollback", "Rolled back deployment \"w\" to revision 1")
            );
            let expected: Deployment =
                serde_json::from_value(json!({"spec": {"selector": {}, "template": template("i:1", None)}}))
                    .unwrap();
            assert_eq!(done.deployment.spec.unwrap().template, expected.spec.unwrap().template);
            let annotations = done.deployment.metadata.annotations.unwrap();
            assert_eq!(annotations["kubernetes.io/change-cause"], "i:1");
            assert_eq!(annotations["deployment.kubernetes.io/revision"], "2");
            assert!(!annotations.contains_key(ROLLBACK_TO));
        }
    }

    #[test]
    fn nothing_comes_back_while_a_deployment_is_paused_or_ends() {
        let sets = [set("i:1", "1"), set("i:2", "2")];
        assert!(rollback(&deployment("1", true), &sets).is_none());
        let mut ending = deployment("1", false);
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(rollback(&ending, &sets).is_none());
    }

    #[test]
    fn what_cannot_be_is_told_and_not_asked_for_again() {
        let sets = [set("i:1", "1"), set("i:2", "2")];
        for (to, sets, reason) in [
            ("7", &sets[..], "DeploymentRollbackRevisionNotFound"),
            ("0", &sets[..1], "DeploymentRollbackRevisionNotFound"),
            ("2", &sets[..], "DeploymentRollbackTemplateUnchanged"),
        ] {
            let refused = rollback(&deployment(to, false), sets).unwrap();
            assert_eq!((refused.reason, refused.kind), (reason, EventType::Warning));
            assert!(!refused.deployment.metadata.annotations.unwrap().contains_key(ROLLBACK_TO));
        }
        assert!(rollback(&deployment("1", true), &sets).is_none(), "paused");
        assert!(rollback(&deployment("x", false), &sets).is_none(), "no number");
    }
}
