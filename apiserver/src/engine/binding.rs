//! `pods/binding` and `bindings`: the scheduler's word on where a pod runs.
//!
//! Contract: core/v1 Binding, upstream's `BindingREST`: a pod is bound once, to a node, and only while it is not being
//! deleted; labels and annotations of the binding join those of the pod. The pod that is looked at first is the one of the
//! cache: mostly it is the newest, and if not, the write says so.

use component_base::features::Gate;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Call;
use crate::{
    admission::Operation,
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{PODS, rfc3339},
    response::Body,
    status::{GroupName, Status},
    storage::ResourceId,
};

/// Tries when the pod changes meanwhile.
const TRIES: usize = 20;

/// What else a binding does, by gates.
#[derive(Clone, Copy, Debug)]
struct Ways {
    /// Its labels join those of the pod.
    labels: bool,
    /// The node that the pod was nominated for is forgotten.
    clears: bool,
}

impl Call {
    pub(super) async fn bind(&mut self) -> Result<Response<Body>, Status> {
        let mut binding = self.read_object("v1", "Binding")?;
        let dry_run = self.dry_run()?;
        // The older resource has no name in its path.
        if self.info.subresource.is_empty() {
            self.check_namespace(&mut binding)?;
            if binding.name().is_empty() {
                return Err(Status::bad_request("Name parameter required."));
            }
        } else {
            self.is_of_path(&mut binding, "Binding")?;
        }
        binding.set("apiVersion", "v1");
        binding.set("kind", "Binding");
        let options = self.write_options("CreateOptions");
        self.admit(Operation::Create, Some(&mut binding), None, &options, true).await?;
        check(&binding)?;
        self.admit(Operation::Create, Some(&mut binding), None, &options, false).await?;
        self.assign(&binding, dry_run).await?;
        self.respond_done()
    }

    async fn assign(&self, binding: &Object, dry_run: bool) -> Result<(), Status> {
        let (objects, namespace, name) = (&self.server.objects, &self.info.namespace, binding.name());
        let what = GroupName::new("", "pods");
        let gates = self.server.gates;
        let ways = Ways {
            labels: gates.has(Gate::PodTopologyLabelsAdmission),
            clears: gates.has(Gate::ClearingNominatedNodeNameAfterBinding),
        };
        let key = self.server.store.key_of(&ResourceId::new(PODS.group, PODS.resource), namespace, name);
        let mut known = objects.get(PODS, namespace, name).await?;
        for _ in 0..TRIES {
            let is_latest = known.is_none();
            let pod = match known.take() {
                Some(pod) => pod,
                None => {
                    let pod = objects.get_latest(PODS, namespace, name).await?;
                    pod.ok_or_else(|| Status::not_found(&what, name))?
                }
            };
            let bound = match bind(&pod, binding, &key, ways, Timestamp::now()) {
                Ok(bound) => bound,
                // An older pod has no say in that.
                Err(_) if !is_latest => continue,
                Err(status) => return Err(status),
            };
            if dry_run {
                return Ok(());
            }
            match objects.update(PODS, bound).await {
                Err(error) if error.code == 409 => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Status::stale(&what, name))
    }
}

/// The pod with this key in etcd, bound. Pure.
fn bind(pod: &Object, binding: &Object, key: &str, ways: Ways, now: Timestamp) -> Result<Object, Status> {
    let name = pod.name();
    for (label, want, have) in [
        ("UID", binding.uid(), pod.uid()),
        ("ResourceVersion", binding.resource_version(), pod.resource_version()),
    ] {
        if !want.is_empty() && want != have {
            return Err(Status::precondition(&GroupName::new("", "pods"), name, key, (label, want, have)));
        }
    }
    let conflict = |why: &str| Err(Status::conflict(&GroupName::new("", "pods/binding"), name, why));
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
    spec["nodeName"] = target(binding, "name").into();
    bound.set("spec", spec);
    for (key, value) in binding.meta_pairs("annotations") {
        bound.set_annotation(key, value);
    }
    for (key, value) in binding.meta_pairs("labels").filter(|_| ways.labels) {
        let labels = bound.metadata_mut().entry("labels").or_insert_with(|| json!({}));
        labels[key] = value.into();
    }
    let mut status = bound.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": rfc3339(now)});
    match conditions.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some("PodScheduled")) {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    status["conditions"] = conditions.into();
    // What was but a hint misleads whoever looks at it from now on.
    if let Some(status) = status.as_object_mut().filter(|_| ways.clears) {
        status.remove("nominatedNodeName");
    }
    bound.set("status", status);
    Ok(bound)
}

fn target<'a>(binding: &'a Object, field: &str) -> &'a str {
    let target = binding.get("target").and_then(|target| target.get(field));
    target.and_then(Value::as_str).unwrap_or_default()
}

fn check(binding: &Object) -> Result<(), Status> {
    let (path, kind) = (Path::new("target"), target(binding, "kind"));
    let mut errors = ErrorList::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_among(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if target(binding, "name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::aggregate(&errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Ways = Ways { labels: true, clears: true };

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn bound(pod: &Value, binding: Value, ways: Ways) -> Result<Object, String> {
        let (pod, binding) = (object(pod.clone()), object(binding));
        bind(&pod, &binding, "/registry/pods/d/p", ways, Timestamp::UNIX_EPOCH).map_err(|e| e.message)
    }

    #[test]
    fn a_pending_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "spec": {},
            "status": {"nominatedNodeName": "n0", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}, {"type": "Other", "status": "True"}]}});
        let binding = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "target": {"kind": "Node", "name": "n1"}});
        let done = bound(&pod, binding.clone(), BOTH).unwrap();
        assert_eq!(done.pointer("/spec/nodeName"), Some(&json!("n1")));
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "1970-01-01T00:00:00Z"});
        assert_eq!(done.pointer("/status/conditions/0"), Some(&scheduled));
        assert_eq!(done.pointer("/status/nominatedNodeName"), None);
        let kept = bound(&pod, binding.clone(), Ways { clears: false, ..BOTH }).unwrap();
        assert_eq!(kept.pointer("/status/nominatedNodeName"), Some(&json!("n0")));
        let again = bound(&done.into_value(), binding.clone(), BOTH).unwrap_err();
        assert_eq!(
            again,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
        let mut gated = pod;
        gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        assert!(bound(&gated, binding, BOTH).unwrap_err().ends_with("has non-empty .spec.schedulingGates"));
    }

    #[test]
    fn a_binding_may_be_for_one_pod_and_one_version_of_it() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}});
        for (metadata, what) in [
            (json!({"uid": "v"}), "UID in precondition: v, UID in object meta: u"),
            (
                json!({"resourceVersion": "6"}),
                "ResourceVersion in precondition: 6, ResourceVersion in object meta: 7",
            ),
        ] {
            let refused =
                bound(&pod, json!({"metadata": metadata, "target": {"name": "n1"}}), BOTH).unwrap_err();
            assert_eq!(
                refused,
                format!(
                    "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: \
                     /registry/pods/d/p, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {what}"
                )
            );
        }
    }

    #[test]
    fn a_binding_leads_to_a_node() {
        let refused =
            |target: Value| check(&object(json!({"target": target}))).map_err(|e| (e.code, e.message));
        assert_eq!(refused(json!({"kind": "Node", "name": "n"})), Ok(()));
        assert_eq!(refused(json!({"name": "n"})), Ok(()));
        let (code, why) = refused(json!({"kind": "Pod"})).unwrap_err();
        let told = "[target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\", \
                    target.name: Required value]";
        assert_eq!((code, why.as_str()), (500, told));
    }
}
