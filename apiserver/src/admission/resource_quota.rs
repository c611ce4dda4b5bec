//! ResourceQuota: a namespace's sums stay below what its quotas allow, also under concurrent writes.
//!
//! ```text
//! write → usage (pure) → delta → quotas that match → guarded update of status.used → write goes on
//! ```
//!
//! What a write uses is charged before it is stored; the quota controller gives back what deletions
//! and failures free. Contract: core/v1 ResourceQuota; upstream `pkg/quota/v1`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use component_base::{
    quantity::Quantity,
    quota::{self, Amounts},
};
use serde_json::{Value, json};

use super::{Operation, Parts, Plugin, Request, items};
use crate::{
    object::Object,
    objects::{Objects, PODS, RESOURCE_QUOTAS},
    registry::Resource,
    status::{Reason, Status},
};

pub(super) const NAME: &str = "ResourceQuota";

/// Writers of one quota that collide try again; each round at least one of them wins.
const ATTEMPTS: usize = 32;

struct ResourceQuota {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(ResourceQuota { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for ResourceQuota {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let namespace = &request.attributes.namespace;
        let resize = request.is_any(PODS) && request.attributes.subresource == "resize";
        if namespace.is_empty() || !(request.attributes.subresource.is_empty() || resize) {
            return Ok(());
        }
        let mut quotas = self.objects.list(RESOURCE_QUOTAS, Some(namespace)).await?;
        let Some(object) = request.object.as_deref().filter(|_| !quotas.is_empty()) else { return Ok(()) };
        let after = usage(request.resource, object);
        let before = match (request.operation, request.old) {
            (Operation::Update, Some(old)) => usage(request.resource, old),
            _ => Amounts::new(),
        };
        let delta = increase(&before, &after);
        if delta.is_empty() {
            return Ok(());
        }
        quotas.sort_by(|a, b| a.name().cmp(b.name()));
        for quota in quotas {
            if request.is_any(PODS) && !quota::matches(&*quota, object) {
                continue;
            }
            self.charge(request, object, quota, &delta).await?;
        }
        Ok(())
    }
}

impl ResourceQuota {
    /// Adds the delta to one quota's status, again from its latest state when another write was faster.
    async fn charge(
        &self,
        request: &Request<'_>,
        object: &Object,
        mut quota: Arc<Object>,
        delta: &Amounts,
    ) -> Result<(), Status> {
        for _ in 0..ATTEMPTS {
            let Some(used) =
                decide(&quota, request.is_any(PODS), object, delta).map_err(|why| request.forbid(why))?
            else {
                return Ok(());
            };
            if request.dry_run {
                return Ok(());
            }
            let mut next = (*quota).clone();
            let status = next.as_map_mut().entry("status").or_insert_with(|| json!({}));
            status["used"] =
                json!(used.iter().map(|(k, v)| (k.clone(), v.to_string())).collect::<BTreeMap<_, _>>());
            match self.objects.update(RESOURCE_QUOTAS, next).await {
                Ok(_) => return Ok(()),
                Err(status) if status.reason == Reason::NotFound => return Ok(()),
                Err(status) if status.reason == Reason::Conflict => {}
                Err(status) => return Err(status),
            }
            let latest = self.objects.get_latest(RESOURCE_QUOTAS, quota.namespace(), quota.name()).await?;
            let Some(latest) = latest else { return Ok(()) };
            quota = latest;
        }
        Err(Status::conflict(
            &RESOURCE_QUOTAS.group_name(),
            quota.name(),
            "too many writes at once; please try again",
        ))
    }
}

/// What grew; resources that shrank are given back by the quota controller.
fn increase(before: &Amounts, after: &Amounts) -> Amounts {
    let zero = Quantity::default();
    let grown = after.iter().filter_map(|(name, amount)| {
        let delta = *amount - before.get(name).copied().unwrap_or(zero);
        (delta > zero).then(|| (name.clone(), delta))
    });
    grown.collect()
}

/// The quota's usage with the delta; `None` when it does not concern this quota, an error when it is too much.
fn decide(quota: &Object, pod: bool, object: &Object, delta: &Amounts) -> Result<Option<Amounts>, String> {
    let list = |pointer: &str| -> Amounts {
        let found = quota.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        found.filter_map(|(k, v)| Some((k.clone(), quota::quantity(v)?))).collect()
    };
    let (spec, hard, used) = (list("/spec/hard"), list("/status/hard"), list("/status/used"));
    if pod {
        let missing = missing(object, &spec);
        if !missing.is_empty() {
            return Err(format!("failed quota: {}: must specify {}", quota.name(), missing.join("; ")));
        }
    }
    let requested: Amounts =
        delta.iter().filter(|(k, _)| spec.contains_key(*k)).map(|(k, v)| (k.clone(), *v)).collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let unknown: Vec<&str> = requested
        .keys()
        .filter(|k| !hard.contains_key(*k) || !used.contains_key(*k))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {}, resources: {}", quota.name(), unknown.join(",")));
    }
    let mut total = used.clone();
    for (name, amount) in &requested {
        total.insert(name.clone(), used[name] + *amount);
    }
    let exceeded: Vec<&String> = requested.keys().filter(|k| total[*k] > hard[*k]).collect();
    if exceeded.is_empty() {
        return Ok(Some(total));
    }
    let print = |of: &Amounts| {
        let pairs: Vec<String> = exceeded.iter().map(|k| format!("{k}={}", of[*k])).collect();
        pairs.join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name(),
        print(&requested),
        print(&used),
        print(&hard)
    ))
}

fn usage(resource: &Resource, object: &Object) -> Amounts {
    quota::usage(resource.group, resource.plural, object, None)
}

/// Requests and limits a quota needs stated and containers do not state: `cpu for: a,b`.
fn missing(pod: &Object, hard: &Amounts) -> Vec<String> {
    let mut missing = Vec::new();
    for name in hard.keys() {
        let (field, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            other => match other.split_once('.') {
                Some(("requests", r @ ("cpu" | "memory"))) => ("requests", r),
                Some(("limits", r @ ("cpu" | "memory"))) => ("limits", r),
                _ => continue,
            },
        };
        let lists = ["/spec/initContainers", "/spec/containers"];
        let containers = lists.iter().flat_map(|list| items(pod, list));
        let mut lacking: Vec<&str> = containers
            .filter(|c| c.pointer(&format!("/resources/{field}/{resource}")).is_none())
            .filter_map(|c| c.get("name").and_then(Value::as_str))
            .collect();
        if !lacking.is_empty() && pod.pointer(&format!("/spec/resources/{field}/{resource}")).is_none() {
            lacking.sort_unstable();
            missing.push(format!("{name} for: {}", lacking.join(",")));
        }
    }
    missing
}

#[cfg(test)]
mod tests;
