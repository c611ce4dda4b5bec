//! PodGroupWorkloadExists: a group of pods that names a template of a workload is of one that there is.
//!
//! Contract: KEP-4671; only where the gate GenericWorkload is on.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::Value;

use super::{Parts, Plugin, Request, text};
use crate::{
    objects::{Objects, POD_GROUPS, WORKLOADS},
    status::Status,
};

pub(super) const NAME: &str = "PodGroupWorkloadExists";

struct PodGroupWorkloadExists {
    on: bool,
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let on = parts.gates.has(Gate::GenericWorkload);
    Arc::new(PodGroupWorkloadExists { on, objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for PodGroupWorkloadExists {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        const REFERENCE: &str = "/spec/podGroupTemplateRef/workload";
        let reference = request.object.as_deref().filter(|_| self.on && request.is(POD_GROUPS));
        let Some(reference) = reference.and_then(|group| group.pointer(REFERENCE)) else { return Ok(()) };
        let part = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let (name, template) = (part("workloadName"), part("podGroupTemplateName"));
        let namespace = request.attributes.namespace.as_str();
        // The cache of this server lags by milliseconds; where it would refuse, etcd is asked.
        let mut found = self.objects.get(WORKLOADS, namespace, name).await?;
        if found.is_none() {
            found = self.objects.get_latest(WORKLOADS, namespace, name).await?;
        }
        let Some(workload) = found else {
            return Err(request.forbid(format!("PodGroup rejected: Workload {name:?} not found")));
        };
        if !text(&workload, "/metadata/deletionTimestamp").is_empty() {
            return Err(request.forbid(format!("PodGroup rejected: Workload {name:?} is being deleted")));
        }
        let templates = workload.pointer("/spec/podGroupTemplates").and_then(Value::as_array);
        let named = |one: &Value| one.get("name").and_then(Value::as_str) == Some(template);
        if templates.into_iter().flatten().any(named) {
            return Ok(());
        }
        Err(request.forbid(format!(
            "PodGroup rejected: PodGroupTemplate {template:?} not found in Workload {name:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::Write, *};
    use crate::objects::memory::Memory;

    #[tokio::test]
    async fn the_workload_and_its_template_are_there() {
        let workload = json!({"metadata": {"name": "w", "namespace": "n"},
            "spec": {"podGroupTemplates": [{"name": "t"}]}});
        let mut leaving = workload.clone();
        leaving["metadata"]["name"] = json!("leaving");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let objects = Memory::with(vec![(WORKLOADS, workload), (WORKLOADS, leaving)]);
        for (workload, template, why) in [
            ("w", "t", None),
            ("w", "x", Some("PodGroupTemplate \"x\" not found in Workload \"w\"")),
            ("none", "t", Some("Workload \"none\" not found")),
            ("leaving", "t", Some("Workload \"leaving\" is being deleted")),
        ] {
            let group = json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {"podGroupTemplateRef":
                {"workload": {"workloadName": workload, "podGroupTemplateName": template}}}});
            let done = Write::create(POD_GROUPS, group).run(&objects, &[NAME]).await;
            match (done, why) {
                (Ok(_), None) => {}
                (Err(status), Some(why)) => assert!(status.message.contains(why), "{}", status.message),
                (done, why) => panic!("{done:?}, not {why:?}"),
            }
        }
        let free = json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {}});
        assert!(Write::create(POD_GROUPS, free).run(&objects, &[NAME]).await.is_ok());
    }
}
