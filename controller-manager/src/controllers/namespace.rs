//! A deleted namespace loses its content, then its finalizer, and is gone.
//!
//! Contract: upstream's namespace controller: pods go first, everything else after the last of them (KEP-5080),
//! the namespace's conditions say what is in the way, and only then `kubernetes` leaves `spec.finalizers`. Content goes at
//! once; that none is left counts when all servers have heard of the deletion.

mod look;
mod plan;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Event, ListWatch},
    meta::{ObjectKey, object_key},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use futures::{StreamExt, stream};
use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::{
    look::{Looks, Round, is_pods},
    plan::{FINALIZER_ESTIMATE, Findings, Remaining},
};
use super::{Context, retry};
use crate::served::Served;

/// The finalizer this controller takes away.
const FINALIZER: &str = "kubernetes";
/// Servers that have not yet heard of the deletion may still let objects in.
const SETTLE: Duration = Duration::from_secs(2);
/// Resources of a namespace that lose their objects at once.
const AT_ONCE: usize = 4;
/// Until the next look when somebody else has changed the namespace.
const SOON: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Controller {
    client: kube::Client,
    clock: SharedClock,
    looks: Arc<Looks>,
    going: Arc<Mutex<HashMap<String, Going>>>,
}

/// A namespace that goes.
#[derive(Clone, Copy, Debug)]
struct Going {
    /// When this process heard of its deletion.
    heard: Instant,
    /// What was seen earlier than this says nothing any more: what there is to delete at first may be as old as the news,
    /// afterwards it counts what is left, and in the end that nothing can come in.
    since: Instant,
}

impl Going {
    /// As of now.
    fn new() -> Self {
        let now = Instant::now();
        Self { heard: now, since: now }
    }

    /// When nothing can come in any more.
    fn settled(&self) -> Instant {
        self.heard + SETTLE
    }
}

pub(super) fn start(ctx: &Context) {
    let namespaces = ctx.informers.get::<Namespace>(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("namespace", retry::NAMESPACES);
    let going: Arc<Mutex<HashMap<String, Going>>> = Arc::default();
    let all = going.clone();
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        looks: Arc::new(Looks::new(ctx.client.clone(), move || all.lock().keys().cloned().collect())),
        going: going.clone(),
    };
    let on_event = queue.clone();
    namespaces.on_event(move |event: Event<Namespace>| {
        let namespace = event.object();
        let key = object_key(namespace.as_ref());
        let is_going = namespace.metadata.deletion_timestamp.is_some();
        let mut going = going.lock();
        if matches!(event, Event::Deleted { .. }) || !is_going {
            going.remove(&*key.name);
        } else if let Entry::Vacant(news) = going.entry(key.name.to_string()) {
            news.insert(Going::new());
            on_event.add(key);
        } else {
            // Our own conditions above all: no reason to hurry.
            on_event.add_after(key, SETTLE);
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-namespace-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key.name).await }
    });
}

/// A failure as it is told.
fn told(resource: &Served, namespace: &str, why: String) -> String {
    if is_pods(resource) { plan::of_pods(namespace, &why) } else { why }
}

/// The little of a list that tells what is left.
#[derive(Deserialize)]
struct MetadataList {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<component_base::informer::Metadata>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    remaining_item_count: Option<usize>,
}

/// Only this many of the remaining objects are looked at for their finalizers; the rest is counted.
const LOOKED_AT: usize = 500;

impl Controller {
    async fn sync(&self, name: &str) -> Result<Outcome, kube::Error> {
        let Some(going) = self.going.lock().get(name).copied() else { return Ok(Outcome::Done) };
        let rest = going.since.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            return Ok(Outcome::RequeueAfter(rest));
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        // Straight from the server: the cache may lag behind our own last status.
        let Some(namespace) = api.get_opt(name).await? else { return Ok(Outcome::Done) };
        let held = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || held.is_empty() {
            return Ok(Outcome::Done);
        }
        if !held.iter().any(|f| f == FINALIZER) {
            return Ok(Outcome::Done);
        }
        let round = self.looks.look(name, going.since).await;
        let deleted =
            namespace.metadata.deletion_timestamp.as_ref().map_or_else(|| self.clock.now(), |t| t.0);
        let findings = self.empty(name, deleted, &round).await;
        let current = self.report(&api, namespace, &findings).await?;
        let now = Instant::now();
        match findings.outcome() {
            plan::Outcome::Empty if round.began >= going.settled() => match current {
                Some(namespace) => self.finalize(name, namespace).await,
                None => Ok(Outcome::RequeueAfter(SOON)),
            },
            plan::Outcome::Empty => {
                let since = now.max(going.settled());
                self.look_again(name, since);
                Ok(Outcome::RequeueAfter(since - now))
            }
            plan::Outcome::Later(seconds) => {
                self.look_again(name, now);
                Ok(Outcome::RequeueAfter(Duration::from_secs(seconds)))
            }
            plan::Outcome::Failed(why) => {
                self.look_again(name, now);
                Err(kube::Error::Service(why.into()))
            }
        }
    }

    /// The next look must not be older than this.
    fn look_again(&self, name: &str, since: Instant) {
        if let Some(going) = self.going.lock().get_mut(name) {
            going.since = since;
        }
    }

    /// Deletes all there is to delete now and tells what is left.
    async fn empty(&self, namespace: &str, deleted: Timestamp, round: &Round) -> Findings {
        let found = round.of(namespace);
        let mut findings = Findings::default();
        findings.discovery.clone_from(&round.discovery);
        findings.failures = found.failures;
        let (pods, others): (Vec<Arc<Served>>, Vec<Arc<Served>>) =
            found.resources.into_iter().partition(|resource| is_pods(resource));
        for group in [pods, others] {
            if findings.has_remaining() {
                break;
            }
            let group = group.into_iter().map(|resource| async move {
                let left = self.delete_content(&resource, namespace, deleted).await;
                (resource, left)
            });
            let mut group = stream::iter(group).buffered(AT_ONCE);
            while let Some((resource, left)) = group.next().await {
                match left {
                    Ok(remaining) => {
                        if let Some(why) = remaining.unexplained(namespace, &resource.names()) {
                            findings.failures.push(told(&resource, namespace, why));
                        }
                        findings.add(&resource.resource, &resource.group, remaining);
                    }
                    // The resource went away meanwhile: so did its objects.
                    Err(error) if client::is_not_found(&error) => {}
                    Err(error) => findings.failures.push(told(&resource, namespace, chain(&error))),
                }
            }
        }
        findings
    }

    async fn delete_content(
        &self,
        resource: &Served,
        namespace: &str,
        deleted: Timestamp,
    ) -> Result<Remaining, kube::Error> {
        let path = resource.path(Some(namespace));
        // Background: nothing here needs its owner for longer, all of it goes.
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        if resource.can(&["deletecollection"]) {
            self.send(Method::DELETE, &path, &options).await?;
        } else {
            for object in &self.list(&path).await?.items {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                match self.send(Method::DELETE, &format!("{path}/{name}"), &options).await {
                    Err(error) if client::is_not_found(&error) => {}
                    done => drop(done?),
                }
            }
        }
        let left = self.list(&path).await?;
        let mut finalizers = BTreeMap::new();
        let mut estimate = 0;
        for object in &left.items {
            for finalizer in object.metadata.finalizers.iter().flatten() {
                *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
            if is_pods(resource) {
                estimate = estimate.max(object.metadata.deletion_grace_period_seconds.unwrap_or(0));
            }
        }
        // Their time is over, and nobody ends them.
        if self.clock.now().duration_since(deleted) >= SignedDuration::from_secs(estimate) {
            estimate = 0;
        }
        if !finalizers.is_empty() {
            estimate = estimate.max(FINALIZER_ESTIMATE);
        }
        let count = left.items.len() + left.metadata.remaining_item_count.unwrap_or(0);
        Ok(Remaining { count, finalizers, estimate: u64::try_from(estimate).unwrap_or(0) })
    }

    async fn list(&self, path: &str) -> Result<MetadataList, kube::Error> {
        let request = Request::get(format!("{path}?limit={LOOKED_AT}"))
            .header(http::header::ACCEPT, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
            .body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<(), kube::Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes());
        self.client.request_text(request.map_err(kube::Error::HttpError)?).await.map(drop)
    }

    /// Writes the conditions, if they changed. The namespace as it is now; `None` when somebody else has changed it.
    async fn report(
        &self,
        api: &Api<Namespace>,
        mut namespace: Namespace,
        findings: &Findings,
    ) -> Result<Option<Namespace>, kube::Error> {
        let status = namespace.status.get_or_insert_default();
        let phase_differs = status.phase.as_deref() != Some("Terminating");
        status.phase = Some("Terminating".into());
        let conditions = status.conditions.get_or_insert_default();
        if !plan::update(conditions, findings, &self.clock.time()) && !phase_differs {
            return Ok(Some(namespace));
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        match api.replace_status(&name, &PostParams::default(), &namespace).await {
            Ok(written) => Ok(Some(written)),
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the namespace free.
    async fn finalize(&self, name: &str, mut namespace: Namespace) -> Result<Outcome, kube::Error> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let body = serde_json::to_value(&namespace).map_err(kube::Error::SerdeError)?;
        match self.send(Method::PUT, &format!("/api/v1/namespaces/{name}/finalize"), &body).await {
            Err(error) if client::is_conflict(&error) => Ok(Outcome::RequeueAfter(SOON)),
            Err(error) if !client::is_not_found(&error) => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}
