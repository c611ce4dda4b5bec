//! ResourceClaims of pods: made from templates, reserved for pods that were placed by hand, given back when nobody uses
//! them.
//!
//! ```text
//! pod, template → claims to make and to reserve (pure) → claims, the pod's resourceClaimStatuses
//! claim, its consumers → what is left of it (pure)     → reservations, allocation, finalizer, deletion
//! ```
//! Contract: KEP-4381 (structured parameters); upstream's `resourceclaim-controller`. Claims of pod groups are not there.

mod plan;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    core::v1::Pod,
    resource::v1::{ResourceClaim, ResourceClaimTemplate},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use prometheus::IntCounterVec;
use serde_json::json;

use self::plan::Consumer;
pub(super) use self::plan::claims_of;
use super::Context;

/// The field manager that owns the names of claims in pods.
const MANAGER: &str = "ResourceClaimController";
/// Pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "resource claim";
/// Pods by the templates they use, as `namespace/name`.
const BY_TEMPLATE: &str = "resource claim template";
/// Claims by the uid of the pod they were made for.
const BY_OWNER: &str = "owning pod";

/// Why a pod has not got its claims, or a claim is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("PodResourceClaim {claim}: {source}")]
    Pod { claim: String, source: plan::PodError },
    #[error("PodResourceClaim {claim}: create ResourceClaim: {source}")]
    Create { claim: String, source: kube::Error },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

impl std::fmt::Display for Item {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Pod(key) => write!(out, "pod:{key}"),
            Item::Claim(key) => write!(out, "claim:{key}"),
        }
    }
}

static CREATES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "resourceclaim_controller_creates_total",
        "Number of ResourceClaims creation requests, categorized by creation status and admin access",
        Stability::Alpha,
        &["status", "admin_access"],
    )
});

#[derive(Clone)]
struct Controller {
    client: Client,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    recorder: Recorder,
    queue: WorkQueue<Item>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        templates: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("resource_claim"),
        queue: WorkQueue::new("resource_claim"),
    };
    controller.pods.add_index(BY_CLAIM, |pod| plan::keys(pod, claims_of(pod)));
    controller.pods.add_index(BY_TEMPLATE, |pod| plan::keys(pod, plan::templates_of(pod)));
    controller.claims.add_index(BY_OWNER, |claim| {
        plan::owning_pod(claim).map(|(_, uid)| uid.to_owned()).into_iter().collect()
    });
    let (pod, claim, template) = (controller.clone(), controller.clone(), controller.clone());
    controller.pods.on_event(move |event| pod.pod_changed(&event));
    controller.claims.on_event(move |event| claim.claim_changed(&event));
    controller.templates.on_event(move |event| {
        let key = object_key(event.object().as_ref()).to_string();
        for pod in template.pods.store().by_index(BY_TEMPLATE, &key) {
            template.queue.add(Item::Pod(object_key(pod.as_ref())));
        }
    });
    let queue = controller.queue.clone();
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-resourceclaim-syncs"), move |item| {
        let controller = controller.clone();
        async move {
            match &item {
                Item::Pod(key) => controller.sync_pod(key).await,
                Item::Claim(key) => controller.sync_claim(key).await,
            }
        }
    });
}

impl Controller {
    fn pod_changed(&self, event: &Event<Pod>) {
        let pod = event.object();
        let names = claims_of(pod);
        if names.is_empty() && plan::templates_of(pod).is_empty() {
            return;
        }
        if matches!(event, Event::Deleted { .. }) || plan::is_done(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for name in names {
                self.queue.add(Item::Claim(ObjectKey::new(namespace, name)));
            }
        }
        if !matches!(event, Event::Deleted { .. }) {
            self.queue.add(Item::Pod(object_key(pod.as_ref())));
        }
    }

    fn claim_changed(&self, event: &Event<ResourceClaim>) {
        let key = object_key(event.object().as_ref());
        for pod in self.pods.store().by_index(BY_CLAIM, &key.to_string()) {
            self.queue.add(Item::Pod(object_key(pod.as_ref())));
        }
        if !matches!(event, Event::Deleted { .. }) {
            self.queue.add(Item::Claim(key));
        }
    }

    async fn synced(&self) {
        self.pods.wait_synced().await;
        self.claims.wait_synced().await;
        self.templates.wait_synced().await;
    }

    async fn sync_pod(&self, key: &ObjectKey) -> Result<Outcome, ClaimError> {
        self.synced().await;
        let Some(pod) = self.pods.store().get(key) else { return Ok(Outcome::Done) };
        let claim = |name: &str| self.claims.store().get(&ObjectKey::new(key.namespace.clone(), name));
        let template = |name: &str| self.templates.store().get(&ObjectKey::new(key.namespace.clone(), name));
        let owned = self.claims.store().by_index(BY_OWNER, pod.metadata.uid.as_deref().unwrap_or_default());
        let mut plan = plan::pod(&pod, &claim, &template, &owned);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut failure = plan.failure.map(|(claim, source)| ClaimError::Pod { claim, source });
        for (name, new) in plan.create {
            let made = api.create(&PostParams::default(), &new).await;
            let status = if made.is_ok() { "success" } else { "failure" };
            CREATES.with_label_values(&[status, plan::asks_for_admin_access(&new)]).inc();
            match made {
                Ok(made) => {
                    let version = made.metadata.resource_version.clone().unwrap_or_default();
                    self.claims.wait_seen(&object_key(&made), &version).await;
                    plan.names.insert(name, made.metadata.name);
                    plan.is_news = true;
                }
                Err(source) => failure = Some(ClaimError::Create { claim: name, source }),
            }
        }
        if let Some(error) = failure {
            let reason = "FailedResourceClaimCreation";
            let note = chain(&error);
            self.recorder.event(&reference(pod.as_ref()), EventType::Warning, reason, reason, note, None);
            return Err(error);
        }
        if plan.is_news {
            self.tell_pod(key, &plan.names).await?;
        }
        for reserved in plan.reserve {
            self.write_status(&api, &reserved).await?;
        }
        Ok(Outcome::Done)
    }

    async fn tell_pod(
        &self,
        key: &ObjectKey,
        names: &BTreeMap<String, Option<String>>,
    ) -> Result<(), kube::Error> {
        let statuses: Vec<_> = names
            .iter()
            .map(|(name, claim)| match claim {
                Some(claim) => json!({"name": name, "resourceClaimName": claim}),
                None => json!({"name": name}),
            })
            .collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": &key.name, "namespace": &key.namespace},
            "status": {"resourceClaimStatuses": statuses},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<Outcome, ClaimError> {
        self.synced().await;
        let Some(claim) = self.claims.store().get(key) else { return Ok(Outcome::Done) };
        let mut gone = Vec::new();
        for consumer in plan::consumers(&claim) {
            if self.consumer(key, &consumer.name, &consumer.uid).await? == Consumer::Gone {
                gone.push(consumer.uid.clone());
            }
        }
        let owner = plan::owning_pod(&claim)
            .and_then(|(name, _)| self.pods.store().get(&ObjectKey::new(key.namespace.clone(), name)));
        let plan = plan::claim(&claim, &gone, owner.as_deref());
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut latest = (*claim).clone();
        if let Some(status) = plan.status {
            latest.status = Some(status);
            match self.write_status(&api, &latest).await? {
                Some(written) => latest = written,
                // Somebody else has written: its event brings it back.
                None => return Ok(Outcome::Done),
            }
        }
        if plan.unprotect {
            component_base::meta::remove_finalizer(&mut latest.metadata, plan::FINALIZER);
            match api.replace(&key.name, &PostParams::default(), &latest).await {
                Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => return Err(e.into()),
                _ => {}
            }
        }
        if plan.delete {
            match api.delete(&key.name, &DeleteParams::default()).await {
                Err(e) if !client::is_not_found(&e) => return Err(e.into()),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }

    /// What has become of a pod. The server is asked about one that the cache does not know: the scheduler may be
    /// ahead of it, and a reservation must not be lost.
    async fn consumer(&self, claim: &ObjectKey, name: &str, uid: &str) -> Result<Consumer, kube::Error> {
        if let Some(pod) = self.pods.store().get(&ObjectKey::new(claim.namespace.clone(), name)) {
            return Ok(plan::consumer(Some(&pod), uid));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &claim.namespace);
        Ok(plan::consumer(api.get_opt(name).await?.as_ref(), uid))
    }

    /// Writes a claim's status; nothing comes back when somebody else was first.
    async fn write_status(
        &self,
        api: &Api<ResourceClaim>,
        claim: &ResourceClaim,
    ) -> Result<Option<ResourceClaim>, kube::Error> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        match api.replace_status(name, &PostParams::default(), claim).await {
            Ok(written) => Ok(Some(written)),
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A claim or template by name.
type Find<'a, K> = &'a dyn Fn(&str) -> Option<Arc<K>>;
