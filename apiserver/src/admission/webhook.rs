//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: programs of the cluster's owner change or refuse writes.
//!
//! ```text
//! configurations ──→ Hooks (compiled, kept by identity) ──match (pure)──→ review (pure) ──call──→ verdict (pure)
//!                                                                             mutating: in order, one sees the other's change
//!                                                                             validating: at once
//! ```
//! Contract: admissionregistration.k8s.io/v1, admission.k8s.io/v1; upstream's `plugin/webhook`.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Request;
use crate::{
    object::Object,
    objects::{Kind, Objects},
    status::Status,
    webhook::CallError,
};

mod call;
mod hook;
mod matching;
mod metrics;
pub(super) mod mutating;
mod review;
#[cfg(test)]
mod tests;
pub(super) mod validating;

use hook::Hook;

/// Kinds that configure admission are not subject to it: else one mistake could not be undone.
const EXEMPT: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// Why a call did not end in consent.
#[derive(Debug)]
enum Failure {
    /// There was no proper answer; what follows is up to the failure policy.
    Calling {
        /// Code that stands for it in metrics.
        code: u16,
        /// What went wrong.
        why: String,
    },
    /// The webhook said no.
    Refused(Status),
    /// Nobody's policy decides about this.
    Server(Status),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Calling { code: error.code, why: format!("failed to call webhook: {error}") }
    }
}

/// The hooks of all configurations of a kind, by the configuration's name.
struct Source {
    kind: Kind,
    objects: Arc<dyn Objects>,
    compiled: Mutex<Compiled>,
}

/// Hooks, and the configurations they were compiled from.
#[derive(Default)]
struct Compiled {
    from: Vec<Arc<Object>>,
    hooks: Arc<Vec<Hook>>,
}

impl Source {
    fn new(kind: Kind, objects: Arc<dyn Objects>) -> Self {
        Self { kind, objects, compiled: Mutex::default() }
    }

    async fn hooks(&self) -> Result<Arc<Vec<Hook>>, Status> {
        let configurations = self.objects.list_kept(self.kind).await?;
        let mut compiled = self.compiled.lock();
        let Compiled { from, hooks } = &mut *compiled;
        let is_same = from.len() == configurations.len()
            && from.iter().zip(&configurations).all(|(old, new)| Arc::ptr_eq(old, new));
        if !is_same {
            *hooks = Arc::new(configurations.iter().flat_map(|one| Hook::all_of(one)).collect());
            *from = configurations;
        }
        Ok(hooks.clone())
    }
}

/// Whether webhooks have no say in a write.
fn is_exempt(request: &Request<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource.kind)
}

/// 500 of a webhook that failed closed.
fn failed_closed(name: &str, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {name:?}: {why}"))
}

/// Adds a webhook's warnings that the client has not been told yet.
fn warn(request: &mut Request<'_>, warnings: Vec<String>) {
    for warning in warnings {
        if !request.warnings.contains(&warning) {
            request.warnings.push(warning);
        }
    }
}
