//! Priority: resolves a pod's priority class to its number; one default class at most.
//!
//! Contract: Kubernetes "Pod priority and preemption".

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::{Value, json};

use super::{Operation, Parts, Plugin, Request, text};
use crate::{
    object::Object,
    objects::{Objects, POD_GROUPS, PODS, PRIORITY_CLASSES},
    status::Status,
};

pub(super) const NAME: &str = "Priority";

struct Priority {
    objects: Arc<dyn Objects>,
    /// Whether groups of pods have a priority.
    of_groups: bool,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let of_groups = parts.gates.has(Gate::WorkloadAwarePreemption);
    Arc::new(Priority { objects: parts.objects.clone(), of_groups })
}

#[async_trait]
impl Plugin for Priority {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if self.of_groups && request.is(POD_GROUPS) && request.operation == Operation::Create {
            return self.admit_group(request).await;
        }
        if !request.is(PODS) {
            return Ok(());
        }
        if request.operation == Operation::Update {
            keep(request);
            return Ok(());
        }
        let (class, value) = self.class_of(request).await?;
        let policy =
            class.as_deref().map_or("PreemptLowerPriority", |c| match text(c, "/preemptionPolicy") {
                "" => "PreemptLowerPriority",
                policy => policy,
            });
        let spec = request.object.as_deref().and_then(|pod| pod.get("spec"));
        let stated = |field: &str| spec.and_then(|spec| spec.get(field));
        if let Some(own) = stated("priority").and_then(Value::as_i64).filter(|own| *own != value) {
            return Err(request.forbid(format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
                 computed {value} from the given PriorityClass name"
            )));
        }
        if let Some(own) = stated("preemptionPolicy").and_then(Value::as_str).filter(|own| *own != policy) {
            return Err(request.forbid(format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        if let Some(spec) = request.spec() {
            if let Some(class) = &class {
                spec.insert("priorityClassName".to_owned(), json!(class.name()));
            }
            spec.insert("priority".to_owned(), json!(value));
            spec.insert("preemptionPolicy".to_owned(), json!(policy));
        }
        Ok(())
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(class) = request.object.as_deref().filter(|_| request.is(PRIORITY_CLASSES)) else {
            return Ok(());
        };
        if class.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        match self.default_class().await? {
            Some(other) if request.operation == Operation::Create || other.name() != class.name() => {
                Err(request.forbid(format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other.name()
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Priority {
    /// The class that the new object names, or else the default one, and its number.
    async fn class_of(&self, request: &Request<'_>) -> Result<(Option<Arc<Object>>, i64), Status> {
        let class =
            match request.object.as_deref().map_or("", |object| text(object, "/spec/priorityClassName")) {
                "" => self.default_class().await?,
                name => Some(self.class(request, name).await?),
            };
        let value = class.as_deref().and_then(|class| class.get("value")?.as_i64()).unwrap_or(0);
        Ok((class, value))
    }

    /// A group of pods has the priority of its class.
    async fn admit_group(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let (class, value) = self.class_of(request).await?;
        let stated = request.object.as_deref().and_then(|group| group.pointer("/spec/priority")?.as_i64());
        if let Some(own) = stated.filter(|own| *own != value) {
            return Err(request.forbid(format!(
                "priority set in the pod group ({own}) must match the priority computed ({value}) based on the \
                 priority class set in the spec"
            )));
        }
        if let Some(spec) = request.spec() {
            spec.insert("priority".to_owned(), value.into());
            if let Some(class) = &class {
                spec.insert("priorityClassName".to_owned(), class.name().into());
            }
        }
        Ok(())
    }

    async fn class(&self, request: &Request<'_>, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.objects.get(PRIORITY_CLASSES, "", name).await?;
        found.ok_or_else(|| request.forbid(format!("no PriorityClass with name {name} was found")))
    }

    /// The default class; of several the one with the lowest value.
    async fn default_class(&self) -> Result<Option<Arc<Object>>, Status> {
        let classes = self.objects.list(PRIORITY_CLASSES, None).await?;
        let defaults = classes.into_iter().filter(|c| c.get("globalDefault") == Some(&Value::Bool(true)));
        Ok(defaults.min_by_key(|c| c.get("value").and_then(Value::as_i64).unwrap_or(0)))
    }
}

/// An update that leaves the computed fields out keeps them.
fn keep(request: &mut Request<'_>) {
    let old = request.old.and_then(|old| old.get("spec"));
    let Some(spec) = request.spec() else { return };
    for field in ["priority", "preemptionPolicy"] {
        if let (None, Some(value)) = (spec.get(field), old.and_then(|old| old.get(field))) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}
