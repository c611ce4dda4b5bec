//! ValidatingAdmissionWebhook: all webhooks that see a write are asked at once; the first refusal in their order counts.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::future::join_all;

use super::{Failure, Hooks, call, conditions_hold, failed_closed, matching, metrics, review, warn};
use crate::{
    admission::{Configuration, Parts, Plugin, Request, manifests::Kinds},
    audit,
    objects::VALIDATING_WEBHOOKS,
    status::Status,
};

pub(in crate::admission) const NAME: &str = "ValidatingAdmissionWebhook";
const KINDS: Kinds = Kinds { plugin: NAME, what: "ValidatingWebhookConfiguration", binding: None };
const STEP: &str = "validating";

struct Validating {
    hooks: Hooks,
}

pub(in crate::admission) fn new(
    parts: &Parts,
    configuration: Option<&Configuration>,
) -> Result<Arc<dyn Plugin>, String> {
    Ok(Arc::new(Validating { hooks: Hooks::new(VALIDATING_WEBHOOKS, KINDS, parts, configuration)? }))
}

#[async_trait]
impl Plugin for Validating {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let hooks = self.hooks.of(request).await?;
        if hooks.is_empty() {
            return Ok(());
        }
        let mut asked = Vec::new();
        for hook in hooks.iter() {
            if let Some(version) = matching::shown(hook, request, &*self.hooks.objects).await? {
                let shown = review::show(request, &version).await?;
                if conditions_hold(hook, request, &shown, &self.hooks.authorizer).await? {
                    asked.push((hook, version, shown));
                }
            }
        }
        let (all, word) = (&*request, matching::word(request.operation));
        let calls = asked.iter().map(|(hook, version, shown)| async move {
            let begun = Instant::now();
            let (notes, outcome) = call::call(&self.hooks.clients, hook, all, shown, version, false).await;
            let failure = outcome.as_ref().err().map(|failure| (failure, hook.ignores_failures));
            metrics::called(&hook.name, STEP, word, begun.elapsed(), failure);
            (*hook, notes, outcome)
        });
        let answers = join_all(calls).await;
        let mut refusal = None;
        for (at, (hook, notes, outcome)) in answers.into_iter().enumerate() {
            for (key, value) in notes.annotations {
                audit::annotate(&format!("{}/{key}", hook.name), value);
            }
            warn(request, notes.warnings);
            let status = match outcome {
                Ok(_) => continue,
                Err(Failure::Calling { why, .. }) if hook.ignores_failures => {
                    tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing open");
                    metrics::failed_open(&hook.name, STEP);
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
                    audit::annotate(&key, hook.name.as_str());
                    continue;
                }
                Err(Failure::Calling { why, .. }) => {
                    tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing closed");
                    failed_closed(&hook.name, &why)
                }
                Err(Failure::Refused(status) | Failure::Server(status)) => status,
            };
            refusal.get_or_insert(status);
        }
        refusal.map_or(Ok(()), Err)
    }
}
