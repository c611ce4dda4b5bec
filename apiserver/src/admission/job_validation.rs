//! JobValidation: a job whose pods are scheduled all or none does not change how many they are.
//!
//! Contract: KEP-5547; only where one of the gates GenericWorkload and WorkloadWithJob is on.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::Value;

use super::{Parts, Plugin, Request, text};
use crate::{
    object::Object,
    objects::{Kind, Objects, POD_GROUPS},
    status::Status,
};

pub(super) const NAME: &str = "JobValidation";

const JOBS: Kind = Kind { group: "batch", resource: "jobs" };

struct JobValidation {
    on: bool,
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let on = parts.gates.has(Gate::GenericWorkload) || parts.gates.has(Gate::WorkloadWithJob);
    Arc::new(JobValidation { on, objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for JobValidation {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let parallelism = |job: &Object| job.pointer("/spec/parallelism").and_then(Value::as_i64);
        if !self.on || !request.is(JOBS) || parallelism(new) == parallelism(old) {
            return Ok(());
        }
        let named = text(old, "/spec/template/spec/schedulingGroup/podGroupName");
        // Upstream lets the change pass where it does not find out about groups.
        let groups = if named.is_empty() {
            let all = self.objects.list(POD_GROUPS, Some(old.namespace())).await.unwrap_or_default();
            all.into_iter().filter(|group| is_controlled(group, old)).collect()
        } else {
            let found = self.objects.get(POD_GROUPS, old.namespace(), named).await;
            found.ok().flatten().into_iter().collect::<Vec<_>>()
        };
        let is_gang = |group: &&Arc<Object>| {
            group.pointer("/spec/schedulingPolicy/gang").is_some_and(|gang| !gang.is_null())
        };
        match groups.iter().find(is_gang) {
            Some(group) => Err(request.forbid(format!(
                "cannot change parallelism for a Job referencing gang-scheduled PodGroup {:?}",
                group.name()
            ))),
            None => Ok(()),
        }
    }
}

fn is_controlled(group: &Object, job: &Object) -> bool {
    let owners = group.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controls = |owner: &Value| {
        owner.get("controller") == Some(&Value::Bool(true))
            && owner.get("uid").and_then(Value::as_str) == Some(job.uid())
    };
    owners.into_iter().flatten().any(controls)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::Write, *};
    use crate::objects::memory::Memory;

    #[tokio::test]
    async fn gangs_stay_as_many_as_they_are() {
        let group = |name: &str, policy: Value, owner: Value| {
            let meta = json!({"name": name, "namespace": "n", "ownerReferences": owner});
            (POD_GROUPS, json!({"metadata": meta, "spec": {"schedulingPolicy": policy}}))
        };
        let gang = json!({"gang": {"minCount": 1}});
        let owned = json!([{"uid": "u", "controller": true}]);
        let objects = Memory::with(vec![
            group("named", gang.clone(), json!([])),
            group("basic", json!({"basic": {}}), json!([])),
            group("own", gang, owned),
        ]);
        let job = |uid: &str, group: &str, parallelism: i64| {
            let mut spec = json!({"parallelism": parallelism});
            if !group.is_empty() {
                spec["template"] = json!({"spec": {"schedulingGroup": {"podGroupName": group}}});
            }
            json!({"metadata": {"name": "j", "namespace": "n", "uid": uid}, "spec": spec})
        };
        for (uid, group, why) in [
            ("x", "named", "\"named\""),
            ("x", "basic", ""),
            ("x", "none", ""),
            ("u", "", "\"own\""),
            ("x", "", ""),
        ] {
            let (old, same) = (job(uid, group, 1), job(uid, group, 1));
            assert!(Write::update(JOBS, old.clone(), same).run(&objects, &[NAME]).await.is_ok());
            let done = Write::update(JOBS, old, job(uid, group, 2)).run(&objects, &[NAME]).await;
            match done {
                Ok(_) => assert_eq!(why, "", "{uid} {group}"),
                Err(status) => {
                    assert!(!why.is_empty() && status.message.ends_with(why), "{}", status.message)
                }
            }
        }
    }
}
