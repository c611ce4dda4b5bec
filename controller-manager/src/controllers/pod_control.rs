//! Pods made for and taken from the objects that own them: what all workload controllers share.
//!
//! ```text
//! pod events → expectations seen, owner queued        sync → owned pods → plan → create / delete, expected
//! ```
//! Contract: upstream's `pkg/controller/controller_utils.go` and `controller_ref_manager.go`: creations start slowly,
//! nothing is decided while expected changes have not been seen, adoption asks the server whether the owner still is
//! the one that was cached.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, LazyLock},
};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    expectations::Expectations,
    features::{Gate, Gates},
    informer::{Event, Informer, ListWatch, Object},
    meta::{ObjectKey, controller_of, new_controller_ref},
    metrics::{self, Stability},
    selector::LabelSelector,
    workqueue::{WorkQueue, chain},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec};

use super::{Context, ownership};

/// Creations at once at first; doubled while they succeed.
const SLOW_START: usize = 1;
const BY_CONTROLLER: &str = "controller";

/// Lets pods be found by what controls them.
pub(super) fn index_by_controller(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| {
        controller_of(&pod.metadata).map(|o| o.uid.clone()).into_iter().collect()
    });
}

/// Pods that the object of a uid controls.
pub(super) fn by_controller(pods: &Informer<Pod>, uid: &str) -> Vec<Arc<Pod>> {
    pods.store().by_index(BY_CONTROLLER, uid)
}

/// A kind that owns pods.
pub(super) trait Owner:
    Object + Clone + std::fmt::Debug + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
}

impl<K: Object + Clone + std::fmt::Debug + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>>
    Owner for K
{
}

/// What was done with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
}

impl Deed {
    /// The word that reasons and actions of events are made of.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Deed::Create => "Create",
            Deed::Update => "Update",
            Deed::Delete => "Delete",
        }
    }
}

/// The text of an event about an owner and the pod of a name, and why something failed; nothing where that is not told.
type Note<K> = fn(&K, Deed, &str, Option<&kube::Error>) -> Option<String>;

/// What most owners' events say.
fn note<K>(_: &K, deed: Deed, pod: &str, error: Option<&kube::Error>) -> Option<String> {
    let note = match (deed, error) {
        (Deed::Create, None) => format!("Created pod: {pod}"),
        (Deed::Update, None) => format!("Updated pod: {pod}"),
        (Deed::Delete, None) => format!("Deleted pod: {pod}"),
        (Deed::Create, Some(error)) => format!("Error creating: {}", chain(error)),
        (Deed::Update, Some(error)) => format!("Error updating: {}", chain(error)),
        (Deed::Delete, Some(error)) => format!("Error deleting: {}", chain(error)),
    };
    Some(note)
}

/// The pods of one kind of owners. Clones share everything.
#[derive(Clone)]
pub(super) struct PodControl<K> {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    /// What pods carry as long as their owner has to look at them before they may go.
    finalizer: Option<&'static str>,
    /// What events say.
    note: Note<K>,
    /// By namespace and uid of the owner, so that an owner made anew under an old name starts fresh.
    expectations: Arc<Expectations>,
    /// Syncs that decided nothing because the cache was behind, where that is counted.
    stale: Option<IntCounter>,
    owner: PhantomData<fn() -> K>,
}

/// Whether a controller counts what a cache that is behind kept it from.
fn is_counted(component: &str, gates: Gates) -> bool {
    let gate = match component {
        "daemonset-controller" => Gate::StaleControllerConsistencyDaemonSet,
        "job-controller" => Gate::StaleControllerConsistencyJob,
        "replicaset-controller" => Gate::StaleControllerConsistencyReplicaSet,
        "statefulset-controller" => Gate::StaleControllerConsistencyStatefulSet,
        _ => return false,
    };
    gates.has(gate)
}

/// The counter of a controller, shown from its start.
fn stale_skips(component: &str) -> IntCounter {
    static KNOWN: LazyLock<Mutex<HashMap<String, IntCounterVec>>> = LazyLock::new(Mutex::default);
    let name = format!("{}_stale_sync_skips_total", component.replace('-', "_"));
    let help = "Total number of syncs skipped due to a stale watch cache.";
    let mut known = KNOWN.lock();
    let counters = known
        .entry(name.clone())
        .or_insert_with(|| metrics::counter_vec(&name, help, Stability::Alpha, &["group", "resource"]));
    counters.with_label_values(&["", "pods"])
}

/// Creations that were made, and why the others were not.
#[derive(Debug, Default)]
pub(super) struct Created {
    /// How many pods there are now that were not there before.
    pub(super) made: usize,
    /// The first failure; what came after it was not tried.
    pub(super) error: Option<kube::Error>,
}

impl<K: Owner> PodControl<K> {
    /// Pods for a controller whose events carry `component`.
    pub(super) fn new(ctx: &Context, component: &str) -> PodControl<K> {
        let pods: Informer<Pod> = ctx.informers.get(ListWatch::default());
        index_by_controller(&pods);
        PodControl {
            client: ctx.client.clone(),
            recorder: ctx.recorder(component),
            pods,
            finalizer: None,
            note,
            expectations: Arc::new(Expectations::new(ctx.clock.clone())),
            stale: is_counted(component, ctx.settings.gates).then(|| stale_skips(component)),
            owner: PhantomData,
        }
    }

    /// Pods are held by `finalizer` while they are owned.
    pub(super) fn holding(self, finalizer: &'static str) -> PodControl<K> {
        PodControl { finalizer: Some(finalizer), ..self }
    }

    /// Events about pods say this.
    pub(super) fn saying(self, note: Note<K>) -> PodControl<K> {
        PodControl { note, ..self }
    }

    /// The cache of all pods.
    pub(super) fn pods(&self) -> &Informer<Pod> {
        &self.pods
    }

    /// The owner a pod names as its controller, if it is of this kind.
    fn owner_of(pod: &Pod) -> Option<(ObjectKey, &OwnerReference)> {
        let owner = controller_of(&pod.metadata)?;
        let same = owner.kind == K::kind(&()) && owner.api_version == K::api_version(&());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        same.then(|| (ObjectKey::new(namespace, owner.name.as_str()), owner))
    }

    fn expected(namespace: &str, uid: &str) -> ObjectKey {
        ObjectKey::new(namespace, uid)
    }

    /// Queues owners when their pods change; `candidates` are the owners that may adopt an orphan.
    pub(super) fn watch(
        &self,
        queue: &WorkQueue<ObjectKey>,
        candidates: impl Fn(&Pod) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) {
        let (control, queue) = (self.clone(), queue.clone());
        self.pods.on_event(move |event| {
            let pod = event.object();
            match Self::owner_of(pod) {
                Some((key, owner)) => {
                    control.observe(&event, &Self::expected(&key.namespace, &owner.uid));
                    queue.add(key);
                }
                None if controller_of(&pod.metadata).is_none() && !matches!(event, Event::Deleted { .. }) => {
                    candidates(pod).into_iter().for_each(|key| queue.add(key));
                }
                None => {}
            }
            if let Event::Updated { old, new } = &event
                && let Some((key, owner)) = Self::owner_of(old)
                && Self::owner_of(new).is_none_or(|(_, now)| now.uid != owner.uid)
            {
                queue.add(key);
            }
        });
    }

    fn observe(&self, event: &Event<Pod>, key: &ObjectKey) {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        match event {
            Event::Added { new, .. } if new.metadata.deletion_timestamp.is_some() => {
                self.expectations.creation_observed(key);
                self.expectations.deletion_observed_of(key, &uid(new));
            }
            Event::Added { .. } => self.expectations.creation_observed(key),
            Event::Deleted { last, .. } => self.expectations.deletion_observed_of(key, &uid(last)),
            Event::Updated { new, .. } if new.metadata.deletion_timestamp.is_some() => {
                self.expectations.deletion_observed_of(key, &uid(new));
            }
            Event::Updated { .. } => {}
        }
    }

    /// Whether all changes made earlier have been seen.
    pub(super) fn settled(&self, owner: &K) -> bool {
        let settled = self.expectations.satisfied(&Self::key_of(owner.meta()));
        if !settled {
            self.stale.iter().for_each(IntCounter::inc);
        }
        settled
    }

    fn key_of(meta: &ObjectMeta) -> ObjectKey {
        Self::expected(meta.namespace.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default())
    }

    /// Drops what was expected of an owner that is gone.
    pub(super) fn forget(&self, owner: &K) {
        self.expectations.forget(&Self::key_of(owner.meta()));
    }

    /// Pods that name the owner as their controller.
    pub(super) fn owned(&self, owner: &K) -> Vec<Arc<Pod>> {
        by_controller(&self.pods, owner.meta().uid.as_deref().unwrap_or_default())
    }

    /// The owner's pods, once orphans it selects are adopted and those it no longer selects are let go.
    pub(super) async fn claim(
        &self,
        owner: &K,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let mut candidates = self.owned(owner);
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        let mut orphans = self.pods.store().in_namespace(namespace);
        orphans.retain(|pod| controller_of(&pod.metadata).is_none());
        candidates.append(&mut orphans);
        let adoptable = |pod: &Pod| !super::pod_disruption::is_finished(pod);
        ownership::claim(&self.client, owner, self.finalizer, selector, candidates, adoptable).await
    }

    /// Merges a change into a pod; one that is gone needs none.
    pub(super) async fn patch(&self, pod: &Pod, body: serde_json::Value) -> Result<(), kube::Error> {
        let api = self.api(pod.metadata.namespace.as_deref().unwrap_or_default());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates pods in growing batches, so that a quota or a broken webhook is not met by a flood.
    pub(super) async fn create(&self, owner: &K, pods: Vec<Pod>) -> Created {
        let key = Self::key_of(owner.meta());
        self.expectations.expect(&key, pods.len(), 0);
        let mut out = Created::default();
        let mut rest = pods.into_iter();
        let mut batch = SLOW_START;
        while rest.len() > 0 {
            let now: Vec<Pod> = rest.by_ref().take(batch).collect();
            let results = futures::future::join_all(now.iter().map(|pod| self.create_one(owner, pod))).await;
            for result in results {
                match result {
                    Ok(()) => out.made += 1,
                    Err(error) => {
                        self.expectations.creation_observed(&key);
                        // Nothing can be made in a namespace that ends.
                        let ends = client::is_namespace_terminating(&error);
                        out.error = out.error.take().or((!ends).then_some(error));
                        batch = 0;
                    }
                }
            }
            if batch == 0 {
                (0..rest.len()).for_each(|_| self.expectations.creation_observed(&key));
                break;
            }
            batch *= 2;
        }
        out
    }

    async fn create_one(&self, owner: &K, pod: &Pod) -> Result<(), kube::Error> {
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        let made = self.api(namespace).create(&PostParams::default(), pod).await;
        let name = pod.metadata.name.as_deref();
        match &made {
            Ok(made) => {
                self.told(owner, Deed::Create, made.metadata.name.as_deref().or(name), None);
            }
            // Upstream keeps quiet about these too: they pass by themselves.
            Err(error) if client::is_namespace_terminating(error) => {}
            Err(error) => self.told(owner, Deed::Create, name, Some(error)),
        }
        made.map(drop)
    }

    /// Deletes pods; those already gone count as deleted. All are tried, the last failure is returned.
    pub(super) async fn delete(&self, owner: &K, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let key = Self::key_of(owner.meta());
        let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        self.expectations.expect_deletions_of(&key, pods.iter().map(uid));
        let results = futures::future::join_all(pods.iter().map(|pod| self.delete_one(owner, pod))).await;
        let mut failure = None;
        for (pod, result) in pods.iter().zip(results) {
            if let Err(error) = result {
                self.expectations.deletion_observed_of(&key, &uid(pod));
                if !client::is_not_found(&error) {
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn delete_one(&self, owner: &K, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let api = self.api(pod.metadata.namespace.as_deref().unwrap_or_default());
        let done = api.delete(name, &params).await;
        match &done {
            Ok(_) => self.told(owner, Deed::Delete, Some(name), None),
            Err(error) if client::is_not_found(error) => {}
            Err(error) => self.told(owner, Deed::Delete, Some(name), Some(error)),
        }
        done.map(drop)
    }

    /// An event about what was done with a pod, or could not be.
    pub(super) fn told(&self, owner: &K, deed: Deed, pod: Option<&str>, error: Option<&kube::Error>) {
        let (kind, how) = match error {
            None => (EventType::Normal, "Successful"),
            Some(_) => (EventType::Warning, "Failed"),
        };
        let Some(note) = (self.note)(owner, deed, pod.unwrap_or_default(), error) else { return };
        self.tell(owner, kind, &format!("{how}{}", deed.word()), deed.word(), note);
    }

    /// An event about the owner.
    pub(super) fn tell(&self, owner: &K, kind: EventType, reason: &str, action: &str, note: String) {
        self.recorder.event(&reference(owner), kind, reason, action, note, None);
    }
}

/// A pod of a template, belonging to its owner and named after it.
pub(super) fn from_template<K: Owner>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut pod = Pod { spec: template.spec.clone(), ..Pod::default() };
    pod.metadata.labels = meta.labels;
    pod.metadata.annotations = meta.annotations;
    pod.metadata.finalizers = meta.finalizers;
    pod.metadata.generate_name = Some(format!("{}-", owner.meta().name.as_deref().unwrap_or_default()));
    pod.metadata.owner_references = Some(vec![new_controller_ref(owner)]);
    pod
}

/// Puts one more label on a pod.
pub(super) fn label(pod: &mut Pod, key: &str, value: impl Into<String>) {
    pod.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.into());
}

/// Pods by what `of` says of each; those of which it says nothing are left out.
pub(super) fn group_by<T: std::hash::Hash + Eq>(
    pods: &[Arc<Pod>],
    of: impl Fn(&Pod) -> Option<T>,
) -> HashMap<T, Vec<Arc<Pod>>> {
    let mut groups: HashMap<T, Vec<Arc<Pod>>> = HashMap::new();
    for pod in pods {
        if let Some(value) = of(pod) {
            groups.entry(value).or_default().push(pod.clone());
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_behind_is_counted_where_the_controllers_gate_is_on() {
        let off = |gate| Gates::default().with(gate, false);
        for (component, gate) in [
            ("daemonset-controller", Gate::StaleControllerConsistencyDaemonSet),
            ("job-controller", Gate::StaleControllerConsistencyJob),
            ("replicaset-controller", Gate::StaleControllerConsistencyReplicaSet),
            ("statefulset-controller", Gate::StaleControllerConsistencyStatefulSet),
        ] {
            assert!(is_counted(component, Gates::default()) && !is_counted(component, off(gate)), "{gate}");
        }
        assert!(!is_counted("replication-controller", Gates::default()));
    }
}
