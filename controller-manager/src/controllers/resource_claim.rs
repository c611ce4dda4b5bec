//! ResourceClaims of pods: made from templates, reserved for pods that were placed by hand, given back when nobody uses
//! them.
//!
//! ```text
//! pod or group, template → claims to make and to reserve (pure) → claims, its resourceClaimStatuses
//! claim, its consumers   → what is left of it (pure)            → reservations, allocation, finalizer, deletion
//! ```
//! Contract: KEP-4381 (structured parameters), KEP-5729 (claims of groups of pods); upstream's `resourceclaim-controller`.
//! Groups are looked at where their gate is on.

mod plan;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, LazyLock},
};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    features::Gate,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, controller_of, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    core::v1::{ObjectReference, Pod},
    resource::v1::{ResourceClaim, ResourceClaimTemplate},
    scheduling::v1alpha2::PodGroup,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use prometheus::IntCounterVec;
use serde::de::DeserializeOwned;
use serde_json::json;

pub(super) use self::plan::claims_of;
use self::plan::{Asker, Consumer};
use super::{Context, podgroup_protection::group_of};

/// The field manager that owns the names of claims in pods.
const MANAGER: &str = "ResourceClaimController";
/// Pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "resource claim";
/// Pods by the templates they use, as `namespace/name`.
const BY_TEMPLATE: &str = "resource claim template";
/// Claims by the uid of whom they were made for.
const BY_OWNER: &str = "owner";
/// Pods by the groups they are of, as `namespace/name`.
const BY_GROUP: &str = "members of a pod group";

/// Why a pod has not got its claims, or a claim is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("{kind} {claim}: {source}")]
    Ask { kind: &'static str, claim: String, source: plan::AskError },
    #[error("{kind} {claim}: create ResourceClaim: {source}")]
    Create { kind: &'static str, claim: String, source: kube::Error },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Pod(ObjectKey),
    Group(ObjectKey),
    Claim(ObjectKey),
}

impl std::fmt::Display for Item {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Pod(key) => write!(out, "pod:{key}"),
            Item::Group(key) => write!(out, "podgroup:{key}"),
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
    groups: Option<Informer<PodGroup>>,
    recorder: Recorder,
    queue: WorkQueue<Item>,
    /// Whether a request may be a list (`DRAPrioritizedList`).
    lists: bool,
}

pub(super) fn start(ctx: &Context) {
    let has_groups = ctx.settings.gates.has(Gate::DRAWorkloadResourceClaims);
    let controller = Controller {
        client: ctx.client.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        templates: ctx.informers.get(ListWatch::default()),
        groups: has_groups.then(|| ctx.informers.get(ListWatch::default())),
        recorder: ctx.recorder("resource_claim"),
        queue: WorkQueue::new("resource_claim"),
        lists: ctx.settings.gates.has(Gate::DRAPrioritizedList),
    };
    controller.pods.add_index(BY_CLAIM, |pod| Asker::pod(pod).keys(claims_of(pod)));
    controller.pods.add_index(BY_TEMPLATE, |pod| of_templates(&Asker::pod(pod)));
    controller.pods.add_index(BY_GROUP, |pod| group_of(pod).map(|key| key.to_string()).into_iter().collect());
    controller.claims.add_index(BY_OWNER, |claim| {
        controller_of(&claim.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    if let Some(groups) = &controller.groups {
        groups.add_index(BY_CLAIM, |group| {
            let asker = Asker::group(group);
            asker.keys(asker.claims())
        });
        groups.add_index(BY_TEMPLATE, |group| of_templates(&Asker::group(group)));
        let of_group = controller.clone();
        groups.on_event(move |event| of_group.group_changed(&event));
    }
    let (pod, claim, template) = (controller.clone(), controller.clone(), controller.clone());
    controller.pods.on_event(move |event| pod.pod_changed(&event));
    controller.claims.on_event(move |event| claim.claim_changed(&event));
    controller.templates.on_event(move |event| {
        let key = object_key(event.object().as_ref()).to_string();
        for pod in template.pods.store().by_index(BY_TEMPLATE, &key) {
            template.queue.add(Item::Pod(object_key(pod.as_ref())));
        }
        template.queue_groups(BY_TEMPLATE, &key);
    });
    let queue = controller.queue.clone();
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-resourceclaim-syncs"), move |item| {
        let controller = controller.clone();
        async move {
            match &item {
                Item::Pod(key) => controller.sync_pod(key).await,
                Item::Group(key) => controller.sync_group(key).await,
                Item::Claim(key) => controller.sync_claim(key).await,
            }
        }
    });
}

impl Controller {
    fn pod_changed(&self, event: &Event<Pod>) {
        let pod = event.object();
        let names = claims_of(pod);
        if names.is_empty() && Asker::pod(pod).templates().is_empty() {
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
        self.queue_groups(BY_CLAIM, &key.to_string());
        if !matches!(event, Event::Deleted { .. }) {
            self.queue.add(Item::Claim(key));
        }
    }

    fn group_changed(&self, event: &Event<PodGroup>) {
        let (group, key) = (event.object(), object_key(event.object().as_ref()));
        match event {
            Event::Deleted { .. } => {
                for name in Asker::group(group).claims() {
                    self.queue.add(Item::Claim(ObjectKey::new(key.namespace.clone(), name)));
                }
            }
            _ => self.queue.add(Item::Group(key.clone())),
        }
        // Its pods learn from it which claims are made.
        for pod in self.pods.store().by_index(BY_GROUP, &key.to_string()) {
            self.queue.add(Item::Pod(object_key(pod.as_ref())));
        }
    }

    fn queue_groups(&self, index: &'static str, key: &str) {
        let found = self.groups.iter().flat_map(|groups| groups.store().by_index(index, key));
        found.for_each(|group| self.queue.add(Item::Group(object_key(group.as_ref()))));
    }

    async fn synced(&self) {
        self.pods.wait_synced().await;
        self.claims.wait_synced().await;
        self.templates.wait_synced().await;
        if let Some(groups) = &self.groups {
            groups.wait_synced().await;
        }
    }

    async fn sync_pod(&self, key: &ObjectKey) -> Result<Outcome, ClaimError> {
        self.synced().await;
        let Some(pod) = self.pods.store().get(key) else { return Ok(Outcome::Done) };
        let groups = self.groups.as_ref().zip(group_of(&pod));
        let group = groups.and_then(|(groups, key)| groups.store().get(&key));
        let (asker, group) = (Asker::pod(&pod), group.as_deref().map(Asker::group));
        let plan =
            self.make("PodResourceClaim", key, (&asker, group.as_ref()), &reference(pod.as_ref())).await?;
        if plan.is_news {
            self.tell::<Pod>(key, &plan.names).await?;
        }
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for reserved in plan.reserve {
            self.write_status(&api, &reserved).await?;
        }
        Ok(Outcome::Done)
    }

    async fn sync_group(&self, key: &ObjectKey) -> Result<Outcome, ClaimError> {
        self.synced().await;
        let group = self.groups.as_ref().and_then(|groups| groups.store().get(key));
        let Some(group) = group else { return Ok(Outcome::Done) };
        let asker = Asker::group(&group);
        let plan =
            self.make("PodGroupResourceClaim", key, (&asker, None), &reference(group.as_ref())).await?;
        if plan.is_news {
            self.tell::<PodGroup>(key, &plan.names).await?;
        }
        Ok(Outcome::Done)
    }

    /// Makes the claims of a pod or a group, and returns what is left to do. What stands in the way is told of.
    async fn make(
        &self,
        kind: &'static str,
        key: &ObjectKey,
        (asker, group): (&Asker<'_>, Option<&Asker<'_>>),
        regarding: &ObjectReference,
    ) -> Result<plan::Plan, ClaimError> {
        let claim = |name: &str| self.claims.store().get(&ObjectKey::new(key.namespace.clone(), name));
        let template = |name: &str| self.templates.store().get(&ObjectKey::new(key.namespace.clone(), name));
        let owned = |uid: &str| self.claims.store().by_index(BY_OWNER, uid);
        let mut plan = plan::asked(asker, group, &claim, &template, &owned, self.lists);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let failure = plan.failure.take();
        let mut failure = failure.map(|(claim, source)| ClaimError::Ask { kind, claim, source });
        for (name, new) in std::mem::take(&mut plan.create) {
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
                Err(source) => failure = Some(ClaimError::Create { kind, claim: name, source }),
            }
        }
        let Some(error) = failure else { return Ok(plan) };
        let reason = "FailedResourceClaimCreation";
        self.recorder.event(regarding, EventType::Warning, reason, reason, chain(&error), None);
        Err(error)
    }

    /// Writes which claims were made for a pod or a group into its status.
    async fn tell<K>(
        &self,
        key: &ObjectKey,
        names: &BTreeMap<String, Option<String>>,
    ) -> Result<(), kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let statuses: Vec<_> = names
            .iter()
            .map(|(name, claim)| match claim {
                Some(claim) => json!({"name": name, "resourceClaimName": claim}),
                None => json!({"name": name}),
            })
            .collect();
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": {"name": &key.name, "namespace": &key.namespace},
            "status": {"resourceClaimStatuses": statuses},
        });
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
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
        if let Some(groups) = &self.groups {
            for consumer in plan::consuming_groups(&claim) {
                if self.group(groups, key, &consumer.name, &consumer.uid).await? == Consumer::Gone {
                    gone.push(consumer.uid.clone());
                }
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

    /// What has become of a group of pods; the server is asked as it is about a pod.
    async fn group(
        &self,
        groups: &Informer<PodGroup>,
        claim: &ObjectKey,
        name: &str,
        uid: &str,
    ) -> Result<Consumer, kube::Error> {
        if let Some(group) = groups.store().get(&ObjectKey::new(claim.namespace.clone(), name)) {
            return Ok(plan::consuming_group(Some(&group), uid));
        }
        let api: Api<PodGroup> = Api::namespaced(self.client.clone(), &claim.namespace);
        Ok(plan::consuming_group(api.get_opt(name).await?.as_ref(), uid))
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

fn of_templates(asker: &Asker<'_>) -> Vec<String> {
    asker.keys(asker.templates())
}

/// A claim or template by name.
type Find<'a, K> = &'a dyn Fn(&str) -> Option<Arc<K>>;
