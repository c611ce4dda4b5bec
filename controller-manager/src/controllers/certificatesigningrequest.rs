//! Certificate signing requests: approved where the requester may, signed where approved, removed when old.
//!
//! Contract: upstream's `certificatesigningrequest-{approving,signing,cleaner}-controller`
//! (`pkg/controller/certificates`) and the signers of `kubernetes.io` of certificates/v1.

mod authority;
mod plan;

use std::{path::PathBuf, sync::Arc, time::Duration};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use super::{Context, retry, run_every};
use crate::settings::SigningSettings;

/// Requests worked on at once.
const WORKERS: usize = 5;
/// A request that may not be approved is looked at again after this, since permissions may have been granted.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two looks for old requests.
const CLEANING_PERIOD: Duration = Duration::from_secs(3600);

/// Why a request is not handled.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("unable to parse csr")]
    Parse(#[from] plan::ParseError),
    #[error("error auto signing csr")]
    Sign(#[from] authority::SignError),
    #[error("the API server")]
    Api(#[from] kube::Error),
}

#[derive(Clone)]
struct Controller {
    client: Client,
    api: Api<CertificateSigningRequest>,
    requests: Informer<CertificateSigningRequest>,
    clock: SharedClock,
}

impl Controller {
    fn new(ctx: &Context) -> Controller {
        Controller {
            client: ctx.client.clone(),
            api: Api::all(ctx.client.clone()),
            requests: ctx.informers.get(ListWatch::default()),
            clock: ctx.clock.clone(),
        }
    }

    /// Queues requests without a certificate whenever they change.
    fn follow(&self) -> WorkQueue<ObjectKey> {
        let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("certificate", retry::CERTIFICATES);
        let of_request = queue.clone();
        self.requests.on_event(move |event| {
            if !matches!(event, Event::Deleted { .. }) && !plan::is_issued(event.object()) {
                of_request.add(object_key(event.object().as_ref()));
            }
        });
        queue
    }
}

/// Signs what is approved.
pub(super) fn start_signing(ctx: &Context) {
    if ctx.settings.signing.pairs.is_empty() {
        tracing::info!("no certificates are signed: there is no --cluster-signing-cert-file");
        return;
    }
    let controller = Controller::new(ctx);
    let queue = controller.follow();
    let settings = Arc::new(ctx.settings.signing.clone());
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (controller, settings) = (controller.clone(), settings.clone());
        async move { controller.sign(&key, &settings).await.map(|()| Outcome::Done) }
    });
}

/// Approves what kubelets ask for themselves.
pub(super) fn start_approving(ctx: &Context) {
    let controller = Controller::new(ctx);
    let queue = controller.follow();
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.approve(&key).await }
    });
}

/// Removes what is old.
pub(super) fn start_cleaning(ctx: &Context) {
    let controller = Controller::new(ctx);
    run_every(&ctx.tasks, "certificatesigningrequest-cleaner-controller", CLEANING_PERIOD, move || {
        let controller = controller.clone();
        async move { controller.clean().await }
    });
}

impl Controller {
    async fn sign(&self, key: &ObjectKey, settings: &SigningSettings) -> Result<(), RequestError> {
        let Some(request) = self.requests.store().get(key) else { return Ok(()) };
        let Some(files) = plan::signer(&request).and_then(|signer| files(settings, signer)) else {
            return Ok(());
        };
        let mut next = (*request).clone();
        let status = next.status.get_or_insert_default();
        match plan::check(&request)? {
            Err(refusal) => {
                let failed = condition("Failed", "SignerValidationFailure", refusal, self.clock.time());
                status.conditions.get_or_insert_default().push(failed);
            }
            Ok(()) => {
                let ca = authority::Authority::load(&files.0, &files.1)?;
                let pem = ca.sign(&request.spec, settings.duration, self.clock.now(), rand::random())?;
                status.certificate = Some(ByteString(pem.into_bytes()));
            }
        }
        settle(self.api.replace_status(&key.name, &PostParams::default(), &next).await)
    }

    async fn approve(&self, key: &ObjectKey) -> Result<Outcome, RequestError> {
        let Some(request) = self.requests.store().get(key) else { return Ok(Outcome::Done) };
        let candidates = plan::self_service(&request)?;
        for (subresource, message) in &candidates {
            if !self.may(&request, subresource).await? {
                continue;
            }
            let mut next = (*request).clone();
            let approved = condition("Approved", "AutoApproved", (*message).to_owned(), self.clock.time());
            next.status.get_or_insert_default().conditions.get_or_insert_default().push(approved);
            settle(self.api.replace_subresource("approval", &key.name, &PostParams::default(), &next).await)?;
            return Ok(Outcome::Done);
        }
        Ok(if candidates.is_empty() { Outcome::Done } else { Outcome::RequeueAfter(AGAIN) })
    }

    /// Whether the requester may have such a certificate without being asked.
    async fn may(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, kube::Error> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    version: Some("*".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(subresource.into()),
                    verb: Some("create".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }

    async fn clean(&self) -> Result<(), RequestError> {
        self.requests.wait_synced().await;
        for request in self.requests.store().list() {
            if plan::is_old(&request, self.clock.now()) {
                let name = request.metadata.name.as_deref().unwrap_or_default();
                // One that cannot be removed keeps no other.
                if let Err(error) = settle(self.api.delete(name, &DeleteParams::default()).await) {
                    tracing::error!(request = name, error = chain(&error), "old request not removed");
                }
            }
        }
        Ok(())
    }
}

/// Certificate and key of a signer. Once any signer has its own, the cluster's is used for none.
fn files<'a>(settings: &'a SigningSettings, signer: &str) -> Option<&'a (PathBuf, PathBuf)> {
    let any_own = settings.pairs.keys().any(|infix| !infix.is_empty());
    settings.pairs.get(if any_own { signer } else { "" })
}

fn condition(kind: &str, reason: &str, message: String, now: Time) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

/// Gone or changed meanwhile: the next event brings it back.
fn settle<T>(result: Result<T, kube::Error>) -> Result<(), RequestError> {
    match result {
        Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_of_its_own_switches_the_clusters_off() {
        let pair = |name: &str| (PathBuf::from(name), PathBuf::from(name));
        let mut settings = SigningSettings::default();
        assert!(files(&settings, "kubelet-client").is_none());
        settings.pairs.insert("", pair("all"));
        assert_eq!(files(&settings, "kubelet-client"), Some(&pair("all")));
        settings.pairs.insert("kubelet-client", pair("own"));
        assert_eq!(files(&settings, "kubelet-client"), Some(&pair("own")));
        assert!(files(&settings, "kubelet-serving").is_none());
    }
}
