//! `pods/binding`: the scheduler's word on where a pod runs.
//!
//! Contract: core/v1 Binding, upstream's `assignPod`: a pod is bound once, to a node, and only while it is
//! not being deleted; labels and annotations of the binding join those of the pod.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    auth::Attributes,
    engine::VirtualResource,
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{Kind, Objects, rfc3339},
    status::{GroupName, Status},
};

/// Tries when the pod changes meanwhile.
const TRIES: usize = 5;

/// The subresource.
pub struct Bindings {
    /// The server's own reads and writes.
    pub objects: Arc<dyn Objects>,
    /// How pods are stored.
    pub pods: Kind,
    /// Whether labels of the binding join those of the pod.
    pub labels: bool,
    /// Whether the node that a pod was nominated for is forgotten.
    pub clears: bool,
}

#[async_trait]
impl VirtualResource for Bindings {
    async fn create(
        &self,
        attributes: &Attributes,
        binding: Object,
        _: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let (namespace, name) = (attributes.namespace.as_str(), attributes.name.as_str());
        let what = GroupName::new("", "pods");
        for _ in 0..TRIES {
            let pod = self.objects.get_latest(self.pods, namespace, name).await?;
            let pod = pod.ok_or_else(|| Status::not_found(&what, name))?;
            let bound = bind(&pod, &binding, (self.labels, self.clears), Timestamp::now())?;
            match self.objects.update(self.pods, bound).await {
                Ok(_) => return Ok(success()),
                Err(error) if error.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Err(Status::stale(&what, name))
    }
}

/// The answer to a binding: a Status that says so.
fn success() -> Object {
    let mut status = Object::new();
    status.set("kind", "Status");
    status.set("apiVersion", "v1");
    status.set("metadata", json!({}));
    status.set("status", "Success");
    status.set("code", 201);
    status
}

/// The pod, bound. Pure.
fn bind(
    pod: &Object,
    binding: &Object,
    (labels, clears): (bool, bool),
    now: Timestamp,
) -> Result<Object, Status> {
    let name = pod.name();
    let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let conflict = |why: &str| Err(Status::conflict(&GroupName::new("", "pods/binding"), name, why));
    check(name, text("/target/kind"), text("/target/name"))?;
    if !binding.uid().is_empty() && binding.uid() != pod.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            pod.uid()
        );
        return conflict(&why);
    }
    if pod.is_terminating() {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let host = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if !host.is_empty() {
        return conflict(&format!("pod {name} is already assigned to node {host:?}"));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = pod.clone();
    let mut spec = bound.get("spec").cloned().unwrap_or_else(|| json!({}));
    spec["nodeName"] = text("/target/name").into();
    bound.set("spec", spec);
    for (key, value) in binding.meta_pairs("annotations") {
        bound.set_annotation(key, value);
    }
    for (key, value) in binding.meta_pairs("labels").filter(|_| labels) {
        let labels = bound.metadata_mut().entry("labels").or_insert_with(|| json!({}));
        labels[key] = value.into();
    }
    let mut status = bound.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    conditions.retain(|c| c.get("type").and_then(Value::as_str) != Some("PodScheduled"));
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(now)}));
    status["conditions"] = conditions.into();
    // What was but a hint misleads whoever looks at it from now on.
    if let Some(status) = status.as_object_mut().filter(|_| clears) {
        status.remove("nominatedNodeName");
    }
    bound.set("status", status);
    Ok(bound)
}

fn check(pod: &str, kind: &str, node: &str) -> Result<(), Status> {
    let target = Path::new("target");
    let mut errors = ErrorList::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(&target.child("kind"), kind, &["", "Node"]));
    }
    if node.is_empty() {
        errors.push(Error::required(&target.child("name"), ""));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&GroupName::new("", "Binding"), pod, &errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn result(pod: Value, binding: Value) -> Result<Object, String> {
        bind(&object(pod), &object(binding), (true, true), Timestamp::UNIX_EPOCH).map_err(|e| e.message)
    }

    #[test]
    fn a_pending_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"nominatedNodeName": "n0", "conditions": [
            {"type": "PodScheduled", "status": "False"}]}});
        let binding =
            json!({"metadata": {"name": "p", "uid": "u"}, "target": {"kind": "Node", "name": "n1"}});
        let bound = result(pod.clone(), binding.clone()).unwrap();
        assert_eq!(bound.pointer("/spec/nodeName"), Some(&json!("n1")));
        assert_eq!(bound.pointer("/status/conditions/0/status"), Some(&json!("True")));
        assert_eq!(bound.pointer("/status/nominatedNodeName"), None);
        let kept = bind(&object(pod.clone()), &object(binding.clone()), (true, false), Timestamp::UNIX_EPOCH);
        assert_eq!(kept.unwrap().pointer("/status/nominatedNodeName"), Some(&json!("n0")));
        let again = result(bound.into_value(), binding.clone()).unwrap_err();
        assert!(again.ends_with("pod p is already assigned to node \"n1\""), "{again}");
        let other = json!({"metadata": {"uid": "other"}, "target": {"name": "n1"}});
        assert!(result(pod.clone(), other).unwrap_err().contains("Precondition failed"));
        let nowhere = result(pod.clone(), json!({"target": {"kind": "Pod"}})).unwrap_err();
        assert!(
            nowhere.contains("target.kind: Unsupported value")
                && nowhere.contains("target.name: Required value")
        );
        let mut gated = pod;
        gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        assert!(result(gated, binding).unwrap_err().ends_with("has non-empty .spec.schedulingGates"));
    }
}
