//! RuntimeClass: a pod takes over its class's overhead, node selector and tolerations.
//!
//! Contract: Kubernetes "Runtime Class", KEP-688.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request, items, text};
use crate::{
    object::Object,
    objects::{Objects, PODS, RUNTIME_CLASSES},
    status::Status,
};

pub(super) const NAME: &str = "RuntimeClass";

const OVERHEAD_DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

struct RuntimeClass {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(RuntimeClass { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for RuntimeClass {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let Some(class) = self.class(request).await? else { return Ok(()) };
        if let Some(overhead) = class.pointer("/overhead/podFixed").filter(|v| v.is_object()).cloned() {
            let own =
                request.object.as_deref().and_then(|p| p.pointer("/spec/overhead")).filter(|v| !v.is_null());
            match own {
                Some(own) if *own != overhead => return Err(request.forbid(OVERHEAD_DIFFERS)),
                _ => {}
            }
            if let Some(spec) = request.spec() {
                spec.insert("overhead".to_owned(), overhead);
            }
        }
        schedule(request, &class)
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let class = self.class(request).await?;
        let own = request.object.as_deref().and_then(|p| p.pointer("/spec/overhead"));
        let own = own.filter(|v| v.as_object().is_some_and(|m| !m.is_empty()));
        let of_class = class.as_deref().and_then(|c| c.pointer("/overhead/podFixed"));
        match (own, of_class) {
            (Some(_), None) => Err(request.forbid(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            (own, Some(class)) if own != Some(class) => Err(request.forbid(OVERHEAD_DIFFERS)),
            _ => Ok(()),
        }
    }
}

impl RuntimeClass {
    async fn class(&self, request: &Request<'_>) -> Result<Option<Arc<Object>>, Status> {
        let name = request.object.as_deref().map_or("", |pod| text(pod, "/spec/runtimeClassName"));
        if name.is_empty() {
            return Ok(None);
        }
        let mut found = self.objects.get(RUNTIME_CLASSES, "", name).await?;
        if found.is_none() {
            found = self.objects.get_latest(RUNTIME_CLASSES, "", name).await?;
        }
        match found {
            Some(class) => Ok(Some(class)),
            None => Err(request.forbid(format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}

/// Joins the class's node selector and tolerations into the pod; a conflicting selector is refused.
fn schedule(request: &mut Request<'_>, class: &Object) -> Result<(), Status> {
    let selector =
        class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default();
    let tolerations: Vec<Value> = items(class, "/scheduling/tolerations").cloned().collect();
    let own = request.object.as_deref().and_then(|p| p.pointer("/spec/nodeSelector")).cloned();
    for (key, value) in &selector {
        if let Some(stated) = own.as_ref().and_then(|o| o.get(key)).filter(|stated| *stated != value) {
            let (value, stated) = (value.as_str().unwrap_or_default(), stated.as_str().unwrap_or_default());
            return Err(request.forbid(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {stated}"
            )));
        }
    }
    let Some(spec) = request.spec() else { return Ok(()) };
    if !selector.is_empty()
        && let Value::Object(own) = spec.entry("nodeSelector").or_insert_with(|| json!({}))
    {
        own.extend(selector);
    }
    if !tolerations.is_empty()
        && let Value::Array(own) = spec.entry("tolerations").or_insert_with(|| json!([]))
    {
        for toleration in tolerations {
            if !own.contains(&toleration) {
                own.push(toleration);
            }
        }
    }
    Ok(())
}
