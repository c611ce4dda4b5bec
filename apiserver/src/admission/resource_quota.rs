//! ResourceQuota: a namespace's sums stay below what its quotas allow, also under concurrent writes.
//!
//! ```text
//! write → usage (pure) → delta → quotas that match → guarded update of status.used → write goes on
//! ```
//!
//! What a write uses is charged before it is stored; the quota controller gives back what deletions and failures free. A
//! configuration may limit resources and scopes everywhere: what no quota covers is then refused. Contract: core/v1
//! ResourceQuota; apiserver.config.k8s.io/v1 ResourceQuotaConfiguration; upstream `pkg/quota/v1`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use component_base::{
    config::ConfigError,
    features::Gate,
    quantity::Quantity,
    quota::{self, Amounts},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Configuration, Operation, Parts, Plugin, Request, items};
use crate::{
    object::Object,
    objects::{Objects, PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_CLAIMS, RESOURCE_QUOTAS},
    status::{Reason, Status},
};

pub(super) const NAME: &str = "ResourceQuota";

/// Writers of one quota that collide try again; each round at least one of them wins.
const ATTEMPTS: usize = 32;

mod devices;

struct ResourceQuota {
    objects: Arc<dyn Objects>,
    /// Whether classes of devices stand for extended resources.
    extended: bool,
    limited: Vec<Limited>,
}

/// What a configuration says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    limited_resources: Vec<Limited>,
}

/// What may be used only as far as a quota covers it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Limited {
    api_group: String,
    /// The plural.
    resource: String,
    /// Parts of names of what objects of the resource use.
    match_contains: Vec<String>,
    /// Scopes of pods and claims, as a quota's selector has them.
    match_scopes: Vec<Value>,
}

pub(super) fn new(parts: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    let limited = configuration.map(limited).transpose()?.unwrap_or_default();
    let extended = parts.gates.has(Gate::DRAExtendedResource);
    Ok(Arc::new(ResourceQuota { objects: parts.objects.clone(), extended, limited }))
}

fn limited(configuration: &Configuration) -> Result<Vec<Limited>, String> {
    const OLD: &[&str] =
        &["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
    let file = match configuration.decode(&["apiserver.config.k8s.io/v1"], "ResourceQuotaConfiguration") {
        Err(ConfigError::Kind { .. }) => configuration.decode(OLD, "Configuration"),
        decided => decided,
    };
    let File { limited_resources } = file.map_err(|error| error.to_string())?;
    match limited_resources.iter().position(|limited| limited.resource.is_empty()) {
        Some(at) => Err(format!("limitedResources[{at}].resource: Required value")),
        None => Ok(limited_resources),
    }
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
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let after = self.usage(request, object).await?;
        let old = request.old.filter(|_| request.operation == Operation::Update);
        let before = match old {
            Some(old) => self.usage(request, old).await?,
            None => Amounts::new(),
        };
        let delta = increase(&before, &after);
        let all: Vec<Arc<Object>> = quotas.clone();
        quotas.retain(|quota| concerns(request, quota, object));
        // An object that comes into a quota's scope by this write is charged for as a new one.
        let entered = |quota: &Object| old.is_some_and(|old| !concerns(request, quota, old));
        let is_charged = |quota: &Arc<Object>| !delta.is_empty() || entered(quota);
        quotas.retain(is_charged);
        if delta.is_empty() && quotas.is_empty() {
            return Ok(());
        }
        self.covered(request, object, &after, &quotas).map_err(|why| request.forbid(why))?;
        self.in_scope(request, object, &all).map_err(|why| request.forbid(why))?;
        quotas.sort_by(|a, b| a.name().cmp(b.name()));
        for quota in quotas {
            let delta = if entered(&quota) { &after } else { &delta };
            self.charge(request, object, quota, delta).await?;
        }
        Ok(())
    }
}

/// Whether a quota is about an object of the request's resource.
fn concerns(request: &Request<'_>, quota: &Object, object: &Object) -> bool {
    if request.is_any(PODS) || request.is_any(PERSISTENT_VOLUME_CLAIMS) {
        return quota::matches(quota, object);
    }
    !quota::has_scopes(quota)
}

impl ResourceQuota {
    /// What an object uses.
    async fn usage(&self, request: &Request<'_>, object: &Object) -> Result<Amounts, Status> {
        let mut used = quota::usage(request.resource.group, request.resource.plural, object, None);
        if self.extended && request.is_any(RESOURCE_CLAIMS) {
            devices::add(&*self.objects, object, &mut used).await?;
        }
        Ok(used)
    }

    /// Whether quotas cover all that is limited by its name.
    fn covered(
        &self,
        request: &Request<'_>,
        object: &Object,
        used: &Amounts,
        quotas: &[Arc<Object>],
    ) -> Result<(), String> {
        let limited = self.limited.iter().filter(|limited| {
            limited.api_group == request.resource.group && limited.resource == request.resource.plural
        });
        let parts: Vec<&String> = limited.flat_map(|limited| &limited.match_contains).collect();
        let is_limited = |name: &str| parts.iter().any(|part| name.contains(part.as_str()));
        let is_covered = |name: &str| {
            let hard = |quota: &Arc<Object>| {
                quota.pointer("/status/hard").is_some_and(|hard| hard.get(name).is_some())
            };
            quotas.iter().filter(|quota| concerns(request, quota, object)).any(hard)
        };
        let zero = Quantity::default();
        let open =
            used.iter().filter(|(name, amount)| **amount > zero && is_limited(name) && !is_covered(name));
        let open: Vec<&str> = open.map(|(name, _)| name.as_str()).collect();
        match open.is_empty() {
            true => Ok(()),
            false => Err(format!("insufficient quota to consume: {}", open.join(","))),
        }
    }

    /// Whether quotas cover all scopes that are limited and the object is in.
    fn in_scope(&self, request: &Request<'_>, object: &Object, quotas: &[Arc<Object>]) -> Result<(), String> {
        if !request.is_any(PODS) && !request.is_any(PERSISTENT_VOLUME_CLAIMS) {
            return Ok(());
        }
        let covered: Vec<&str> = quotas.iter().flat_map(|quota| quota::matched(&**quota, object)).collect();
        let name =
            |scope: &Value| scope.get("scopeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let limited = self.limited.iter().flat_map(|limited| &limited.match_scopes);
        let open =
            limited.filter(|scope| quota::selects(scope, object) && !covered.contains(&name(scope).as_str()));
        let open: Vec<String> = open.map(shown).collect();
        match open.is_empty() {
            true => Ok(()),
            false => Err(format!("insufficient quota to match these scopes: [{}]", open.join(" "))),
        }
    }

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

/// A scope as messages have it: `{PriorityClass In [high]}`.
fn shown(scope: &Value) -> String {
    let field = |name: &str| scope.get(name).and_then(Value::as_str).unwrap_or_default();
    let values = scope.get("values").and_then(Value::as_array).into_iter().flatten();
    let values: Vec<&str> = values.filter_map(Value::as_str).collect();
    format!("{{{} {} [{}]}}", field("scopeName"), field("operator"), values.join(" "))
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
