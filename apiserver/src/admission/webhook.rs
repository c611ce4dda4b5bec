//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: programs of the cluster's owner change or refuse writes.
//!
//! ```text
//! configurations ──→ Hooks (compiled, kept) ──match (pure)──→ review (pure) ──call──→ verdict (pure)
//!                                                                             mutating: in order, one sees the other's change
//!                                                                             validating: at once
//! ```
//! Contract: admissionregistration.k8s.io/v1, admission.k8s.io/v1; upstream's `plugin/webhook`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use component_base::workqueue::chain;
use serde::Deserialize;
use serde_json::Value;

use super::{Configuration, Parts, Request, kept::Kept, manifests::Kinds};
use crate::{
    auth::Authorizer,
    expressions::{self, Evaluator, Questions, Subject, Verdict},
    objects::{Kind, Objects},
    status::Status,
    webhook::{CallError, Clients, kubeconfig::Credentials},
};

mod call;
mod hook;
pub(super) mod matching;
mod metrics;
pub(super) mod mutating;
pub(super) mod review;
#[cfg(test)]
mod tests;
pub(super) mod validating;

use hook::Hook;
pub(super) use hook::{Rule, selector};
pub(super) use matching::word;

/// Kinds that configure admission are not subject to it: else one mistake could not be undone.
const EXEMPT: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// The patch of an answer to a review, if it has one.
///
/// # Errors
/// In words, when the answer is a refusal or none at all.
pub fn outcome(answer: &Value, uid: &str, form: &str, mutating: bool) -> Result<Option<Vec<u8>>, String> {
    review::read(answer, uid, form, "hook", mutating).1.map_err(|failure| format!("{failure:?}"))
}

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

/// What a configuration says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    /// Who the server is to which webhook.
    kube_config_file: PathBuf,
    /// Where configurations stand in files.
    static_manifests_dir: PathBuf,
}

impl File {
    fn of(configuration: Option<&Configuration>) -> Result<Self, String> {
        const VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1"];
        let file = configuration.map(|one| one.decode(VERSIONS, "WebhookAdmissionConfiguration"));
        Ok(file.transpose().map_err(|error| error.to_string())?.unwrap_or_default())
    }
}

/// The webhooks of all configurations, those of files first, which see more; and what it takes to ask them.
struct Hooks {
    stored: Kept<Hook>,
    files: Option<Kept<Hook>>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    clients: Arc<Clients>,
}

impl Hooks {
    /// Those of objects of a kind and of files of the same.
    ///
    /// # Errors
    /// In words, when the configuration of the plugin, or what it names, cannot be read.
    fn new(
        kind: Kind,
        kinds: Kinds,
        parts: &Parts,
        configuration: Option<&Configuration>,
    ) -> Result<Self, String> {
        let file = File::of(configuration)?;
        let files = parts.directories.read(kinds, &file.static_manifests_dir, parts.gates)?;
        Ok(Self {
            stored: Kept::new(kind, parts.objects.clone(), Hook::all_of),
            files: files.map(|files| Kept::in_files(kinds.what, files, Hook::all_of)),
            objects: parts.objects.clone(),
            authorizer: parts.authorizer.clone(),
            clients: clients(parts, &file)?,
        })
    }

    /// Those that may have a say in a write.
    async fn of(&self, request: &Request<'_>) -> Result<Arc<Vec<Arc<Hook>>>, Status> {
        let Some(files) = &self.files else {
            return if is_exempt(request) { Ok(Arc::default()) } else { self.stored.all().await };
        };
        let fixed = files.all().await?;
        if is_exempt(request) {
            return Ok(fixed);
        }
        Ok(Arc::new(fixed.iter().chain(self.stored.all().await?.iter()).cloned().collect()))
    }
}

/// What webhooks are called with: as nobody, or as a configuration says.
fn clients(parts: &Parts, file: &File) -> Result<Arc<Clients>, String> {
    let path = &file.kube_config_file;
    if path == Path::new("") {
        return Ok(parts.webhooks.clone());
    }
    if !path.is_absolute() {
        return Err(format!("kubeConfigFile: Invalid value: {path:?}: must be an absolute file path"));
    }
    let credentials = Credentials::load(path).map_err(|error| chain(&error))?;
    Ok(Arc::new(parts.webhooks.with_credentials(credentials)))
}

/// Whether webhooks and policies have no say in a write.
pub(super) fn is_exempt(request: &Request<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource.kind)
}

/// Whether a webhook's conditions hold for a write that its rules take.
///
/// # Errors
/// When that cannot be known, and the webhook does not ignore failures.
async fn conditions_hold(
    hook: &Hook,
    request: &Request<'_>,
    shown: &review::Shown,
    authorizer: &Arc<dyn Authorizer>,
) -> Result<bool, Status> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let about = review::about(request, shown, &request.attributes.version);
    let subject = Subject {
        object: shown.object.as_ref(),
        old: shown.old.as_ref(),
        request: &about,
        namespace: None,
        params: None,
    };
    let questions = Arc::new(Questions::new(authorizer.clone(), request.attributes.clone()));
    let evaluator = Evaluator::new(subject, &[], Some(questions));
    match expressions::judge(&hook.conditions, &evaluator).await {
        Verdict::Met => Ok(true),
        Verdict::Unmet(_) => Ok(false),
        Verdict::Failed(why) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, why, "failed evaluating match conditions, failing open");
            Ok(false)
        }
        Verdict::Failed(why) => {
            tracing::warn!(webhook = hook.name, why, "failed evaluating match conditions, failing closed");
            Err(request.forbid(why))
        }
    }
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
