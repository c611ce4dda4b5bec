//! What a namespace uses of its quotas, counted from what is there.
//!
//! ```text
//! pods, services, claims, counts of kinds → what each hard limit uses (pure) → status
//! ```
//! Contract: upstream's `resourcequota-controller`: admission charges what is created, this gives back what was
//! deleted, has ended or shrunk, and counts everything anew every `--resource-quota-sync-period`. The status is
//! written for the version it was counted for, so that a charge of admission is never overwritten. Quotas of which it is not
//! known what is used do not wait behind those that are counted again.

mod plan;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    features::Gate,
    informer::{DynamicInformer, Event, Informer, Informers, ListWatch, Object},
    meta::{ObjectKey, object_key},
    quota::{self, Amounts},
    task::Tasks,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service},
    resource::v1::{DeviceClass, ResourceClaim},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{Context, run_every};
use crate::served::{Directory, Served};

/// How long the first list of a kind may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// After a charge of admission came in between.
const AGAIN: Duration = Duration::from_millis(50);

/// Why a quota is not counted.
#[derive(Debug, thiserror::Error)]
enum QuotaError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("an object that cannot be read")]
    Object(#[from] serde_json::Error),
    #[error("{0} could not be listed in time")]
    Unlisted(String),
}

#[derive(Clone)]
struct Controller {
    client: Client,
    informers: Informers,
    tasks: Tasks,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    /// Quotas of which it is not known what is used.
    urgent: WorkQueue<ObjectKey>,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    devices: Informer<ResourceClaim>,
    /// Where devices may stand for extended resources (`DRAExtendedResource`).
    classes: Option<Informer<DeviceClass>>,
    directory: Arc<Directory>,
    /// Kinds that some quota counts.
    counted: Arc<Mutex<HashMap<plan::Kind, DynamicInformer>>>,
}

pub(super) fn start(ctx: &Context) {
    let extended = ctx.settings.gates.has(Gate::DRAExtendedResource);
    let controller = Controller {
        client: ctx.client.clone(),
        informers: ctx.informers.clone(),
        tasks: ctx.tasks.clone(),
        clock: ctx.clock.clone(),
        queue: WorkQueue::new("resourcequota_primary"),
        urgent: WorkQueue::new("resourcequota_priority"),
        quotas: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        services: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        devices: ctx.informers.get(ListWatch::default()),
        classes: extended.then(|| ctx.informers.get(ListWatch::default())),
        directory: Arc::new(Directory::new(ctx.client.clone())),
        counted: Arc::default(),
    };
    let (queue, urgent) = (controller.queue.clone(), controller.urgent.clone());
    controller.quotas.on_event(move |event| match &event {
        // A status that we or admission have written is no reason to count.
        Event::Updated { old, new } if old.spec == new.spec => {}
        Event::Deleted { .. } => {}
        event => {
            let quota = event.object();
            let queue = if plan::is_urgent(quota) { &urgent } else { &queue };
            queue.add(object_key(quota.as_ref()));
        }
    });
    controller.follow(&controller.pods, ("", "pods"));
    controller.follow(&controller.services, ("", "services"));
    controller.follow(&controller.claims, ("", "persistentvolumeclaims"));
    controller.follow(&controller.devices, ("resource.k8s.io", "resourceclaims"));
    let all = controller.clone();
    run_every(&ctx.tasks, "resourcequota-controller", ctx.settings.quota_period, move || {
        let all = all.clone();
        async move {
            for quota in all.quotas.store().list() {
                all.queue.add(object_key(quota.as_ref()));
            }
            Ok::<(), QuotaError>(())
        }
    });
    let workers = ctx.workers("concurrent-resource-quota-syncs");
    for queue in [controller.queue.clone(), controller.urgent.clone()] {
        let controller = controller.clone();
        run_workers(&ctx.tasks, &queue, workers, move |key| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        });
    }
}

impl Controller {
    /// Counts a namespace's quotas when an object is gone or uses something else than before.
    fn follow<K: Object + Serialize>(
        &self,
        informer: &Informer<K>,
        (group, plural): (&'static str, &'static str),
    ) {
        let controller = self.clone();
        informer.on_event(move |event| {
            let namespace = event.object().meta().namespace.as_deref().unwrap_or_default();
            let quotas = controller.quotas.store().in_namespace(namespace);
            if quotas.is_empty() {
                return;
            }
            let relevant = match &event {
                Event::Added { .. } => false,
                Event::Updated { old, new } => {
                    let used = |object: &K| {
                        Some(quota::usage(group, plural, &serde_json::to_value(object).ok()?, None))
                    };
                    used(old) != used(new)
                }
                Event::Deleted { .. } => true,
            };
            if relevant {
                quotas.iter().for_each(|quota| controller.queue.add(object_key(quota.as_ref())));
            }
        });
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, QuotaError> {
        let Some(quota) = self.quotas.store().get(key) else { return Ok(Outcome::Done) };
        let content = self.content(&quota, &key.namespace).await?;
        let now = self.clock.now();
        let Some(status) = plan::status(&quota, &serde_json::to_value(quota.as_ref())?, &content, now) else {
            return Ok(Outcome::Done);
        };
        let mut next = (*quota).clone();
        next.status = Some(status);
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(written) => {
                let version = written.metadata.resource_version.unwrap_or_default();
                self.quotas.wait_seen(key, &version).await;
                Ok(Outcome::Done)
            }
            Err(e) if client::is_not_found(&e) => Ok(Outcome::Done),
            Err(e) if client::is_conflict(&e) => Ok(Outcome::RequeueAfter(AGAIN)),
            Err(e) => Err(e.into()),
        }
    }

    /// What the namespace holds of what the quota limits.
    async fn content(&self, quota: &ResourceQuota, namespace: &str) -> Result<plan::Content, QuotaError> {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
        let needs = plan::needs(hard.into_iter().flatten().map(|(name, _)| name.as_str()));
        let mut content = plan::Content::default();
        if needs.pods {
            content.pods = Some(objects(&self.pods, namespace).await?);
        }
        if needs.services {
            content.services = Some(objects(&self.services, namespace).await?);
        }
        if needs.claims {
            content.claims = Some(objects(&self.claims, namespace).await?);
        }
        if needs.devices {
            content.devices = Some(self.used_devices(namespace).await?);
        }
        let mut counts = BTreeMap::new();
        for kind in needs.counts {
            if let Some(informer) = self.counted(&kind).await? {
                counts.insert(kind, informer.store().in_namespace(namespace).len());
            }
        }
        content.counts = counts;
        Ok(content)
    }

    /// What each claim of devices of a namespace uses.
    async fn used_devices(&self, namespace: &str) -> Result<Vec<Amounts>, QuotaError> {
        self.devices.wait_synced().await;
        let claims = self.devices.store().in_namespace(namespace);
        let mut out = Vec::with_capacity(claims.len());
        if let Some(classes) = &self.classes {
            classes.wait_synced().await;
            self.pods.wait_synced().await;
        }
        for claim in &claims {
            let object = serde_json::to_value(claim.as_ref())?;
            let mut used = quota::usage("resource.k8s.io", "resourceclaims", &object, None);
            if let Some(classes) = &self.classes {
                let resource = |class: &str| {
                    classes.store().get(&ObjectKey::cluster(class))?.spec.extended_resource_name.clone()
                };
                let pod = plan::pod_of(claim, &claims, |name| {
                    self.pods.store().get(&ObjectKey::new(namespace, name))
                });
                let pod = pod.map(|pod| serde_json::to_value(pod.as_ref())).transpose()?;
                let now = Some(self.clock.now());
                let of_pod = pod.map(|pod| quota::usage("", "pods", &pod, now)).unwrap_or_default();
                quota::devices::extended(&mut used, resource, &of_pod);
            }
            out.push(used);
        }
        Ok(out)
    }

    /// The cache of a kind, started when first asked for; `None` for what is not served.
    async fn counted(&self, kind: &plan::Kind) -> Result<Option<DynamicInformer>, QuotaError> {
        let known = self.counted.lock().get(kind).filter(|informer| !informer.is_stopped()).cloned();
        let informer = match known {
            Some(informer) => informer,
            None => match self.served(kind).await? {
                Some(served) => self.begin_counting(kind, &served),
                None => return Ok(None),
            },
        };
        if timeout(SYNC_TIMEOUT, informer.wait_synced()).await.is_err() {
            return Err(QuotaError::Unlisted(kind.to_string()));
        }
        Ok(Some(informer))
    }

    async fn served(&self, kind: &plan::Kind) -> Result<Option<Served>, QuotaError> {
        let found = self.directory.find(|s| s.group == kind.group && s.resource == kind.plural).await?;
        Ok(found.filter(|s| s.namespaced && s.can(&["list", "watch"])))
    }

    fn begin_counting(&self, kind: &plan::Kind, served: &Served) -> DynamicInformer {
        let mut counted = self.counted.lock();
        if let Some(informer) = counted.get(kind).filter(|informer| !informer.is_stopped()) {
            return informer.clone();
        }
        let informer = self.informers.metadata(&served.names(), ListWatch::default());
        let (quotas, queue) = (self.quotas.clone(), self.queue.clone());
        informer.on_event(move |event| {
            if let Event::Deleted { last, .. } = event {
                let namespace = last.metadata.namespace.as_deref().unwrap_or_default();
                for quota in quotas.store().in_namespace(namespace) {
                    queue.add(object_key(quota.as_ref()));
                }
            }
        });
        informer.start(&self.client, &self.tasks);
        counted.insert(kind.clone(), informer.clone());
        informer
    }
}

async fn objects<K: Object + Serialize>(
    informer: &Informer<K>,
    namespace: &str,
) -> Result<Vec<Value>, QuotaError> {
    informer.wait_synced().await;
    let objects = informer.store().in_namespace(namespace);
    Ok(objects.iter().map(|o| serde_json::to_value(o.as_ref())).collect::<Result<_, _>>()?)
}
