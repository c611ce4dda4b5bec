//! MutatingAdmissionWebhook: webhooks change a write one after the other, in the order of their configurations' names.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use proto::node::Node;
use serde_json::{Value, json};

use super::{
    Failure, Hooks, call, conditions_hold, failed_closed,
    hook::Hook,
    matching, metrics,
    review::{self, Shown},
    warn,
};
use crate::{
    admission::{Configuration, Parts, Plugin, Request, manifests::Kinds},
    audit,
    object::Object,
    objects::MUTATING_WEBHOOKS,
    patch::JsonPatch,
    registry::Resource,
    schema,
    status::Status,
};

pub(in crate::admission) const NAME: &str = "MutatingAdmissionWebhook";
const KINDS: Kinds = Kinds { plugin: NAME, what: "MutatingWebhookConfiguration", binding: None };
const STEP: &str = "admit";

struct Mutating {
    hooks: Hooks,
}

pub(in crate::admission) fn new(
    parts: &Parts,
    configuration: Option<&Configuration>,
) -> Result<Arc<dyn Plugin>, String> {
    Ok(Arc::new(Mutating { hooks: Hooks::new(MUTATING_WEBHOOKS, KINDS, parts, configuration)? }))
}

#[async_trait]
impl Plugin for Mutating {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let hooks = self.hooks.of(request).await?;
        if hooks.is_empty() {
            return Ok(());
        }
        request.reinvocation.begin(NAME, request.object.as_deref());
        for (at, hook) in hooks.iter().enumerate() {
            let Some(version) = matching::shown(hook, request, &*self.hooks.objects).await? else { continue };
            if !request.reinvocation.calls(NAME, &hook.id) {
                continue;
            }
            let shown = review::show(request, &version).await?;
            if conditions_hold(hook, request, &shown, &self.hooks.authorizer).await? {
                self.ask(hook, at, &version, shown, request).await?;
            }
        }
        request.reinvocation.end(NAME, request.object.as_deref());
        Ok(())
    }
}

impl Mutating {
    /// Calls one webhook and makes its change.
    async fn ask(
        &self,
        hook: &Hook,
        at: usize,
        version: &str,
        shown: Shown,
        request: &mut Request<'_>,
    ) -> Result<(), Status> {
        let begun = Instant::now();
        let place = format!("webhook.admission.k8s.io/round_{}_index_{at}", request.reinvocation.round());
        let (notes, outcome) = call::call(&self.hooks.clients, hook, request, &shown, version, true).await;
        for (key, value) in notes.annotations {
            audit::annotate(&format!("{}/{key}", hook.name), value);
        }
        warn(request, notes.warnings);
        let outcome = match outcome {
            Ok(Some(patch)) => change(hook, &patch, shown, request, &place).await,
            Ok(None) => Ok(false),
            Err(failure) => Err(failure),
        };
        let failure = outcome.as_ref().err().map(|failure| (failure, hook.ignores_failures));
        metrics::called(&hook.name, STEP, matching::word(request.operation), begun.elapsed(), failure);
        let changed = *outcome.as_ref().unwrap_or(&false);
        let note = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        audit::annotate(&format!("mutation.{place}"), note.to_string());
        request.reinvocation.called(NAME, &hook.id, changed, hook.if_needed);
        match outcome {
            Ok(_) => Ok(()),
            Err(Failure::Calling { why, .. }) if hook.ignores_failures => {
                tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing open");
                metrics::failed_open(&hook.name, STEP);
                audit::annotate(&format!("failed-open.mutation.{place}"), hook.name.as_str());
                Ok(())
            }
            Err(Failure::Calling { why, .. }) => {
                tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing closed");
                Err(failed_closed(&hook.name, &why))
            }
            Err(Failure::Refused(status) | Failure::Server(status)) => Err(status),
        }
    }
}

/// Applies a webhook's patch to the object it was shown, and that to the write. Tells whether anything changed.
async fn change(
    hook: &Hook,
    patch: &[u8],
    shown: Shown,
    request: &mut Request<'_>,
    place: &str,
) -> Result<bool, Failure> {
    let undecodable = |why: &dyn std::fmt::Display| Failure::Calling {
        code: 503,
        why: format!("received undecodable patch in webhook response: {why}"),
    };
    let sent: Value = serde_json::from_slice(patch).map_err(|e| undecodable(&e))?;
    if sent.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let (patch, _) = JsonPatch::parse(patch).map_err(|e| undecodable(&e))?;
    let (resource, working) = (request.resource, review::working(request));
    let (Some(before), Some(object)) = (shown.object, request.object.as_deref_mut()) else {
        return Err(Failure::Server(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        ))));
    };
    let internal = |why: Status| Failure::Server(Status::internal(why));
    let mut value = before.to_value();
    patch.apply(&mut value).map_err(internal)?;
    let after = decoded(value, &shown.api_version, &shown.kind).map_err(internal)?;
    let changed = after != before;
    audit::annotate_content(&format!("patch.{place}"), || {
        json!({"configuration": hook.configuration, "webhook": hook.name, "patch": sent, "patchType": "JSONPatch"})
            .to_string()
    });
    if !changed {
        return Ok(false);
    }
    *object = if shown.is_own {
        own(after, &shown.api_version, resource, &working).await.map_err(internal)?
    } else {
        after
    };
    Ok(true)
}

/// The patched object in its shape: what its kind does not know is dropped.
pub(in crate::admission) fn decoded(value: Value, api_version: &str, kind: &str) -> Result<Object, Status> {
    let mut object = match schema::type_of(api_version, kind) {
        Some(id) => {
            let decoded = schema::decode(&Node::from(&value), id).map_err(Status::internal)?;
            Object::from_value(decoded.object)?
        }
        None => Object::from_value(value)?,
    };
    object.set("apiVersion", api_version);
    object.set("kind", kind);
    Ok(object)
}

/// A changed object with its defaults in the version it is worked on in.
pub(in crate::admission) async fn own(
    mut object: Object,
    api_version: &str,
    resource: &Resource,
    working: &str,
) -> Result<Object, Status> {
    let version = |api_version: &str| api_version.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(custom) = resource.strategy.custom() else {
        resource.strategy.default(&mut object, &version(api_version));
        if working != api_version {
            resource.convert(&mut object, api_version, working)?;
        }
        return Ok(object);
    };
    if working != api_version {
        let mut all = custom.converted(vec![object], &version(working)).await?;
        object = all.pop().unwrap_or_default();
    }
    custom.shape(object.as_map_mut()).map_err(Status::internal)?;
    resource.strategy.default(&mut object, &version(working));
    Ok(object)
}
