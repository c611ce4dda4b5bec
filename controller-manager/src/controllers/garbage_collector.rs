//! Objects whose owners are gone are deleted; owners deleted in the foreground wait for them; orphans are let go.
//!
//! ```text
//! metadata watch of every deletable kind → graph (pure) → queue of uids → decision (pure) → one request
//! ```
//! Contract: upstream's garbage collector. A deletion names uid and version it was decided for, so that an object
//! that got another owner meanwhile stays.

mod graph;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    events::{EventType, Recorder},
    informer::{DynamicInformer, Event, GroupVersionResource, Informers, ListWatch, Metadata},
    metrics::{self, Stability},
    serving::reply,
    task::Tasks,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use http::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use prometheus::IntCounter;
use serde_json::{Value, json};

use self::graph::{Coordinates, Decision, Graph, KindId, Misplaced, Policy, Task, Uid};
use super::Context;
use crate::served::{Discovery, Served};

/// Where the graph is shown.
const GRAPH_PATH: &str = "/debug/controllers/garbage-collector-controller/graph";
/// How often new kinds are looked for.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// How long an owner that is there is given to be shown by a watch.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long the first lists may take before work begins without the late ones.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

static SYNC_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "garbagecollector_controller_resources_sync_error_total",
        "Number of garbage collector resources sync errors",
        Stability::Alpha,
    )
});

struct Collector {
    client: kube::Client,
    informers: Informers,
    tasks: Tasks,
    recorder: Recorder,
    /// Objects that may have to go.
    deletions: WorkQueue<Task>,
    /// Owners whose dependents are let go.
    orphans: WorkQueue<Task>,
    workers: usize,
    graph: Mutex<Graph>,
    /// How objects of a kind are reached.
    routes: Mutex<HashMap<KindId, Arc<Served>>>,
}

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&SYNC_ERRORS);
    if ctx.settings.garbage_stays {
        return;
    }
    let collector = Arc::new(Collector {
        client: ctx.client.clone(),
        informers: ctx.informers.clone(),
        tasks: ctx.tasks.clone(),
        recorder: ctx.recorder("garbage-collector-controller"),
        deletions: WorkQueue::new("garbage_collector_attempt_to_delete"),
        orphans: WorkQueue::new("garbage_collector_attempt_to_orphan"),
        workers: ctx.workers("concurrent-gc-syncs"),
        graph: Mutex::default(),
        routes: Mutex::default(),
    });
    let shown = collector.clone();
    ctx.site.page(GRAPH_PATH, move |parts| {
        reply(StatusCode::OK, "text/vnd.graphviz", shown.draw(parts.uri.query().unwrap_or_default()))
    });
    let drain = ctx.tasks.drain();
    ctx.tasks.spawn("garbage collector discovery", async move {
        drain.run_until_cancelled(collector.follow_discovery()).await;
    });
}

/// What is followed, with the kinds of its objects.
type Watched = HashMap<GroupVersionResource, (KindId, DynamicInformer)>;

/// Whether objects of a resource can be followed and deleted. Events have no owners that matter.
fn deletable(resource: &Served) -> bool {
    resource.can(&["delete", "list", "watch"]) && resource.resource != "events"
}

impl Collector {
    /// The graph as text, or what of it hangs together with the uids that are asked for.
    fn draw(&self, query: &str) -> String {
        let asked = query.split('&').filter_map(|pair| pair.strip_prefix("uid="));
        let decoded = asked.map(|uid| percent_decode_str(uid).decode_utf8_lossy().into_owned());
        let uids: Vec<String> = decoded.collect();
        let versions: HashMap<KindId, String> =
            self.routes.lock().iter().map(|(kind, served)| (*kind, served.version.clone())).collect();
        self.graph.lock().dot(&uids, |kind| versions.get(&kind).cloned().unwrap_or_default())
    }

    /// Watches every deletable kind, those that come later too; work begins once the first ones are known.
    async fn follow_discovery(self: Arc<Self>) {
        let mut watched = Watched::new();
        let mut working = false;
        let discovery = Discovery::new(self.client.clone());
        loop {
            match discovery.ask().await {
                Ok(catalog) => {
                    if catalog.stale.is_empty() {
                        self.leave_gone(&catalog.resources, &mut watched);
                    }
                    let started = self.watch_new(catalog.resources, &mut watched);
                    if working && !started.is_empty() {
                        self.show_again(&watched);
                    }
                    if !working {
                        let synced =
                            futures::future::join_all(started.iter().map(DynamicInformer::wait_synced));
                        if tokio::time::timeout(SYNC_TIMEOUT, synced).await.is_err() {
                            SYNC_ERRORS.inc();
                            tracing::warn!("not all kinds could be listed in time, collecting what is known");
                        }
                        self.clone().work();
                        tracing::info!(
                            kinds = watched.len(),
                            objects = self.graph.lock().len(),
                            "collecting garbage"
                        );
                        working = true;
                    }
                }
                Err(error) => {
                    SYNC_ERRORS.inc();
                    tracing::warn!(%error, "cannot ask what the server serves, will be retried");
                }
            }
            let period = if working { DISCOVERY_PERIOD } else { Duration::from_secs(1) };
            tokio::time::sleep(period).await;
        }
    }

    /// Watches no more what is served no more. Of a definition that was deleted the objects were seen to go before; of one
    /// that is served in another version they are still there.
    fn leave_gone(&self, resources: &[Served], watched: &mut Watched) {
        let served: HashSet<GroupVersionResource> =
            resources.iter().filter(|r| deletable(r)).map(Served::names).collect();
        for (names, (_, informer)) in watched.extract_if(|names, _| !served.contains(names)) {
            tracing::info!(resource = %names.resource, group = %names.group, "not served any more");
            self.informers.stop(&informer);
        }
    }

    fn watch_new(self: &Arc<Self>, resources: Vec<Served>, watched: &mut Watched) -> Vec<DynamicInformer> {
        let fresh: Vec<Arc<Served>> = resources
            .into_iter()
            .filter(|r| deletable(r) && !watched.contains_key(&r.names()))
            .map(Arc::new)
            .collect();
        // All kinds are known before the first object is seen, so that every owner is understood.
        let kinds: Vec<KindId> = {
            let (mut graph, mut routes) = (self.graph.lock(), self.routes.lock());
            let add = |served: &Arc<Served>| {
                let kind = graph.add_kind(&served.group, &served.kind, served.namespaced);
                routes.insert(kind, served.clone());
                kind
            };
            fresh.iter().map(add).collect()
        };
        let started = fresh.iter().zip(kinds).map(|(served, kind)| {
            let informer = self.informers.metadata(&served.names(), ListWatch::default());
            let collector = self.clone();
            informer.on_event(move |event| collector.observe(kind, &event));
            informer.start(&self.client, &self.tasks);
            watched.insert(served.names(), (kind, informer.clone()));
            informer
        });
        started.collect()
    }

    /// Takes in once more what has owners of kinds that were not known: some of them may be by now.
    fn show_again(&self, watched: &Watched) {
        for (kind, informer) in watched.values() {
            for object in informer.store().list() {
                let mut graph = self.graph.lock();
                if graph.is_puzzled(object.meta()) {
                    let tasks = graph.observe(*kind, object.meta());
                    drop(graph);
                    self.enqueue(tasks);
                }
            }
        }
    }

    fn observe(&self, kind: KindId, event: &Event<Metadata>) {
        let mut graph = self.graph.lock();
        let tasks = match event {
            Event::Added { new, .. } | Event::Updated { new, .. } => graph.observe(kind, new.meta()),
            Event::Deleted { last, .. } => {
                graph.forget(Uid::new(last.meta().uid.as_deref().unwrap_or_default()))
            }
        };
        let misplaced = graph.take_misplaced();
        drop(graph);
        for misplaced in misplaced {
            self.tell(&misplaced);
        }
        self.enqueue(tasks);
    }

    fn tell(&self, misplaced: &Misplaced) {
        let names = |at: &Coordinates| {
            let route = self.routes.lock().get(&at.kind).cloned();
            route.map_or_else(Default::default, |served| (served.api_version(), served.kind.clone()))
        };
        let (at, owner) = (&misplaced.at, &misplaced.owner);
        let (api_version, kind) = names(at);
        let regarding = ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind),
            namespace: Some(at.namespace.to_string()),
            name: Some(at.name.to_string()),
            uid: Some(at.uid.to_string()),
            ..ObjectReference::default()
        };
        let (api_version, kind) = names(owner);
        let note = format!(
            "ownerRef [{api_version}/{kind}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.namespace, owner.name, owner.uid, &*at.namespace
        );
        let reason = "OwnerRefInvalidNamespace";
        self.recorder.event(&regarding, EventType::Warning, reason, reason, note, None);
    }

    fn enqueue(&self, tasks: Vec<Task>) {
        for task in tasks {
            match task {
                Task::Examine(_) => self.deletions.add(task),
                Task::Orphan(_) => self.orphans.add(task),
            }
        }
    }

    fn work(self: Arc<Self>) {
        for queue in [&self.deletions, &self.orphans] {
            let collector = self.clone();
            run_workers(&self.tasks, queue, self.workers, move |task| {
                let collector = collector.clone();
                async move {
                    let decision = collector.graph.lock().decide(task);
                    collector.carry_out(decision).await
                }
            });
        }
    }

    async fn carry_out(&self, decision: Decision) -> Result<Outcome, kube::Error> {
        match decision {
            Decision::Nothing => {}
            Decision::Await(blocking) => self.enqueue(blocking.into_iter().map(Task::Examine).collect()),
            Decision::Verify(owners) => return self.verify(&owners).await,
            Decision::Delete { at, version, policy } => self.delete(&at, version, policy).await?,
            Decision::DropOwners { at, uids } => self.drop_owners(&at, &uids).await?,
            Decision::Unblock { at, then } => {
                self.unblock(&at).await?;
                return Box::pin(self.carry_out(*then)).await;
            }
            Decision::RemoveFinalizer { at, finalizer } => self.remove_finalizer(&at, finalizer).await?,
            Decision::Release { at, dependents } => {
                for dependent in &dependents {
                    self.drop_owners(dependent, std::slice::from_ref(&at.uid)).await?;
                }
                self.remove_finalizer(&at, graph::ORPHAN).await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Asks for owners that no watch has shown. One that is there may go before a watch shows it, and then nobody would
    /// tell of its end: it is asked for again.
    async fn verify(&self, owners: &[Coordinates]) -> Result<Outcome, kube::Error> {
        let mut outcome = Outcome::Done;
        for owner in owners {
            if self.get(owner).await?.is_none() {
                let tasks = self.graph.lock().mark_absent(owner);
                self.enqueue(tasks);
            } else if self.graph.lock().is_unseen(owner) {
                outcome = Outcome::RequeueAfter(UNSEEN);
            }
        }
        Ok(outcome)
    }

    fn path(&self, at: &Coordinates) -> Result<String, kube::Error> {
        let route = self.routes.lock().get(&at.kind).cloned();
        let route = route.ok_or_else(|| {
            let graph = self.graph.lock();
            let (group, kind) = graph.kind_name(at.kind);
            kube::Error::Service(format!("{kind}.{group} is not served").into())
        })?;
        let namespace = (!at.namespace.is_empty()).then_some(at.namespace.as_ref());
        Ok(format!("{}/{}", route.path(namespace), at.name))
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<(), kube::Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(body.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    /// The object's metadata if it is there and still the same object.
    async fn get(&self, at: &Coordinates) -> Result<Option<Metadata>, kube::Error> {
        let request = Request::get(self.path(at)?)
            .header(http::header::ACCEPT, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        match self.client.request::<Metadata>(request).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(at.uid.as_ref()) => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if client::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, at: &Coordinates, version: u64, policy: Policy) -> Result<(), kube::Error> {
        let policy = match policy {
            Policy::Orphan => "Orphan",
            Policy::Foreground => "Foreground",
            Policy::Background => "Background",
        };
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
            "preconditions": {"uid": at.uid.as_ref(), "resourceVersion": version.to_string()}});
        match self.send(Method::DELETE, &self.path(at)?, "application/json", &options).await {
            Err(error) if !client::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Merges a change into the metadata, if the object is there and as it was when the change was made.
    async fn amend(
        &self,
        at: &Coordinates,
        change: impl FnOnce(&Metadata) -> Option<Value>,
    ) -> Result<(), kube::Error> {
        let Some(found) = self.get(at).await? else { return Ok(()) };
        let Some(mut metadata) = change(&found) else { return Ok(()) };
        metadata["resourceVersion"] = found.metadata.resource_version.clone().into();
        metadata["uid"] = at.uid.as_ref().into();
        let body = json!({"metadata": metadata});
        match self.send(Method::PATCH, &self.path(at)?, "application/merge-patch+json", &body).await {
            Err(error) if !client::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn drop_owners(&self, at: &Coordinates, uids: &[Arc<str>]) -> Result<(), kube::Error> {
        self.amend(at, |found| {
            let owners = found.metadata.owner_references.as_deref().unwrap_or_default();
            let kept: Vec<_> = owners.iter().filter(|o| !uids.iter().any(|u| **u == *o.uid)).collect();
            (kept.len() < owners.len()).then(|| json!({"ownerReferences": kept}))
        })
        .await
    }

    async fn unblock(&self, at: &Coordinates) -> Result<(), kube::Error> {
        self.amend(at, |found| {
            let mut owners = found.metadata.owner_references.clone().unwrap_or_default();
            let blocks = owners.iter().any(|o| o.block_owner_deletion == Some(true));
            owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
            blocks.then(|| json!({"ownerReferences": owners}))
        })
        .await
    }

    async fn remove_finalizer(&self, at: &Coordinates, finalizer: &str) -> Result<(), kube::Error> {
        self.amend(at, |found| {
            let all = found.metadata.finalizers.as_deref().unwrap_or_default();
            let kept: Vec<&String> = all.iter().filter(|f| *f != finalizer).collect();
            (kept.len() < all.len()).then(|| json!({"finalizers": kept}))
        })
        .await
    }
}
