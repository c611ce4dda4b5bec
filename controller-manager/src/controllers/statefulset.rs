//! StatefulSets: pods with names, an order and claims of their own.
//!
//! Contract: upstream's `pkg/controller/statefulset`. A pod's claims are there before the pod; revisions of the
//! template are kept, so that an ordinal below the partition comes back as it was.

mod identity;
mod plan;
mod retention;

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    events::EventType,
    features::{Gate, Gates},
    informer::{Informer, ListWatch},
    meta::{ObjectKey, label, object_key},
    metrics::{self, Stability},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::{Api, Client, api::PostParams};
use prometheus::IntGaugeVec;

use self::{
    plan::{Names, Plan, Template},
    retention::Ownership,
};
use super::{
    Context, enqueue_changes,
    history::{self, HASH_LABEL, History, Revisions},
    pod_control::{Deed, PodControl},
    replicaset,
};

/// Until the next look at claims that have to go first.
const SOON: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Controller {
    client: Client,
    sets: Informer<StatefulSet>,
    claims: Informer<PersistentVolumeClaim>,
    control: PodControl<StatefulSet>,
    history: History<StatefulSet>,
    clock: SharedClock,
    gates: Gates,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        sets: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        control: PodControl::new(ctx, "statefulset-controller").saying(note),
        history: History::new(ctx),
        clock: ctx.clock.clone(),
        gates: ctx.settings.gates,
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("statefulset");
    enqueue_changes(&controller.sets, &queue);
    let sets = controller.sets.clone();
    controller.control.watch(&queue, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let adopts = |set: &Arc<StatefulSet>| {
            plan::ordinal(set, pod).is_some()
                && selector(set).is_some_and(|s| s.matches(&pod.metadata.labels))
        };
        let found = sets.store().in_namespace(namespace).into_iter().filter(adopts);
        found.map(|set| object_key(set.as_ref())).collect()
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-statefulset-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

static UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "statefulset_controller_statefulset_unavailable_replicas",
        "Current number of unavailable pods in StatefulSet",
        Stability::Alpha,
        &["statefulset_namespace", "statefulset_name", "pod_management_policy"],
    )
});

static MAX_UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "statefulset_controller_statefulset_max_unavailable",
        "Maximum number of unavailable pods allowed during StatefulSet rolling updates",
        Stability::Alpha,
        &["statefulset_namespace", "statefulset_name", "pod_management_policy"],
    )
});

/// A set that is gone is not told of.
fn forget(key: &ObjectKey) {
    for policy in ["OrderedReady", "Parallel"] {
        // It had one of the two, if any.
        for metric in [&UNAVAILABLE, &MAX_UNAVAILABLE] {
            metric.remove_label_values(&[&*key.namespace, &*key.name, policy]).unwrap_or_default();
        }
    }
}

/// How metrics tell a set.
fn labels_of(set: &StatefulSet) -> [&str; 3] {
    let policy = set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref());
    [
        set.metadata.namespace.as_deref().unwrap_or_default(),
        set.metadata.name.as_deref().unwrap_or_default(),
        policy.unwrap_or("OrderedReady"),
    ]
}

/// What an event says of a pod.
fn note(set: &StatefulSet, deed: Deed, pod: &str, error: Option<&kube::Error>) -> Option<String> {
    let (word, set) = (deed.word(), set.metadata.name.as_deref().unwrap_or_default());
    match error {
        None => Some(format!("{word} Pod {pod} in StatefulSet {set} successful")),
        // Somebody was faster, or a cache is behind.
        Some(error) if deed == Deed::Create && client::is_already_exists(error) => None,
        Some(error) => Some(format!("{word} Pod {pod} in StatefulSet {set} failed error: {}", chain(error))),
    }
}

fn selector(set: &StatefulSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_api(set.spec.as_ref().map(|s| &s.selector)).ok()?;
    (!selector.is_everything()).then_some(selector)
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.sets.wait_synced().await;
        self.claims.wait_synced().await;
        self.control.pods().wait_synced().await;
        self.history.wait_synced().await;
        let Some(set) = self.sets.store().get(key) else {
            forget(key);
            return Ok(Outcome::Done);
        };
        let (Some(selector), Some(spec)) = (selector(&set), set.spec.as_ref()) else {
            return Ok(Outcome::Done);
        };
        if set.metadata.deletion_timestamp.is_some() {
            self.control.forget(&set);
            return Ok(Outcome::Done);
        }
        let settled = self.control.settled(&set);
        let pods = self.control.claim(&set, &selector).await?;
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let data = history::template_patch(&spec.template)?;
        let semantic = self.gates.has(Gate::StatefulSetSemanticRevisionComparison);
        let means = |latest: &ControllerRevision| semantic && brings_back(latest, &data);
        let revisions = self.history.sync(&set, &labels, &data, collisions, &means).await?;
        let current = current_revision(&set, &revisions);
        let names = Names {
            current: current.metadata.name.as_deref().unwrap_or_default(),
            update: revisions.update.metadata.name.as_deref().unwrap_or_default(),
        };
        let now = self.clock.now();
        let (mut failed, mut soon) = (None, None);
        if settled {
            let several = self.gates.has(Gate::MaxUnavailableStatefulSet);
            let plan = plan::plan(&set, &pods, plan::View { names, several, now });
            if let Some(unavailable) = plan.unavailable {
                let value = i64::try_from(unavailable).unwrap_or(i64::MAX);
                UNAVAILABLE.with_label_values(&labels_of(&set)).set(value);
            }
            match self.carry_out(&set, plan, &pods, &current, &revisions.update).await {
                Ok(again) => soon = again,
                Err(error) => failed = Some(error),
            }
        }
        if self.gates.has(Gate::MaxUnavailableStatefulSet) {
            let most = i64::try_from(plan::max_unavailable(&set)).unwrap_or(i64::MAX);
            MAX_UNAVAILABLE.with_label_values(&labels_of(&set)).set(most);
        }
        let status = plan::status(&set, &pods, names, revisions.collisions, now);
        self.write_status(key, &set, status).await?;
        let live: HashSet<String> = pods
            .iter()
            .filter_map(|p| label(&p.metadata, HASH_LABEL))
            .chain([names.current])
            .map(str::to_owned)
            .collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        self.history.truncate(&revisions.others, &live, limit).await?;
        let ripe = replicaset::next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now);
        let ripe = ripe.into_iter().chain(soon).min();
        match failed {
            Some(error) => Err(error),
            None => Ok(ripe.map_or(Outcome::Done, Outcome::RequeueAfter)),
        }
    }

    /// Takes a step; when to look again for what has to go first.
    async fn carry_out(
        &self,
        set: &Arc<StatefulSet>,
        plan: Plan,
        there: &[Arc<Pod>],
        current: &ControllerRevision,
        update: &ControllerRevision,
    ) -> Result<Option<Duration>, kube::Error> {
        for pod in there {
            self.set_right(set, pod).await?;
        }
        for ordinal in plan::pending(set, there) {
            self.ensure_claims(set, ordinal).await?;
        }
        let mut soon = None;
        let mut pods = Vec::new();
        for (ordinal, template) in &plan.create {
            let revision = if *template == Template::Current { current } else { update };
            let template = template_of(revision)?;
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            let pod = identity::pod(set, &template, name, *ordinal);
            if self.claims_of(set, *ordinal).any(|claim| retention::is_stale(&claim, set, &pod.metadata)) {
                soon = Some(SOON);
                break;
            }
            for claim in
                self.claims_of(set, *ordinal).filter(|c| retention::is_managed_elsewhere(c, set, &pod))
            {
                self.tell_conflict(set, &claim);
            }
            if let Err(error) = self.ensure_claims(set, *ordinal).await {
                self.control.told(set, Deed::Create, pod.metadata.name.as_deref(), Some(&error));
                return Err(error);
            }
            pods.push(pod);
        }
        if !pods.is_empty()
            && let Some(error) = self.control.create(set, pods).await.error
            && !client::is_already_exists(&error)
        {
            return Err(error);
        }
        if !plan.delete.is_empty() {
            self.control.delete(set, &plan.delete).await?;
        }
        Ok(soon)
    }

    /// The claims of an ordinal that are there.
    fn claims_of(&self, set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let store = self.claims.store();
        identity::claims(set, ordinal)
            .into_iter()
            .filter_map(move |claim| store.get(&ObjectKey::new(namespace.as_str(), claim.metadata.name?)))
    }

    /// Gives a pod that is there the labels it lacks, and its claims the owners they should have.
    async fn set_right(&self, set: &Arc<StatefulSet>, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let Some(ordinal) = plan::ordinal(set, pod) else { return Ok(()) };
        let name = pod.metadata.name.as_deref();
        let missing = identity::missing_labels(pod, ordinal);
        let is_incomplete = missing.is_some();
        let done = async {
            let changed = self.set_claims_right(set, pod, ordinal).await?;
            if let Some(labels) = missing {
                let meta = serde_json::json!({"uid": pod.metadata.uid, "labels": labels});
                self.control.patch(pod, serde_json::json!({"metadata": meta})).await?;
            }
            Ok(changed)
        };
        match done.await {
            Ok(changed) => {
                if is_incomplete || changed {
                    self.control.told(set, Deed::Update, name, None);
                }
                Ok(())
            }
            Err(error) => {
                self.control.told(set, Deed::Update, name, Some(&error));
                Err(error)
            }
        }
    }

    fn tell_conflict(&self, set: &Arc<StatefulSet>, claim: &PersistentVolumeClaim) {
        let note = format!(
            "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the \
             retention policy is ignored for this claim",
            claim.metadata.name.as_deref().unwrap_or_default()
        );
        self.control.tell(set, EventType::Warning, "ConflictingController", "Update", note);
    }

    async fn set_claims_right(
        &self,
        set: &Arc<StatefulSet>,
        pod: &Pod,
        ordinal: i32,
    ) -> Result<bool, kube::Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let mut changed = false;
        for claim in self.claims_of(set, ordinal) {
            let Ownership::Wrong(owners) = retention::check(&claim, set, pod) else { continue };
            let name = claim.metadata.name.clone().unwrap_or_default();
            if retention::is_managed_elsewhere(&claim, set, pod) {
                self.tell_conflict(set, &claim);
            }
            // The whole claim as it was read: the role of this controller has no patch.
            let mut next = (*claim).clone();
            next.metadata.owner_references = Some(owners);
            match api.replace(&name, &PostParams::default(), &next).await {
                Ok(written) => {
                    let version = written.metadata.resource_version.unwrap_or_default();
                    self.claims.wait_seen(&ObjectKey::new(namespace, name.as_str()), &version).await;
                    changed = true;
                }
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    /// Makes the claims an ordinal lacks.
    async fn ensure_claims(&self, set: &Arc<StatefulSet>, ordinal: i32) -> Result<(), kube::Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        for mut claim in identity::claims(set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            claim.metadata.owner_references = retention::first_owner(set).map(|owner| vec![owner]);
            if self.claims.store().get(&ObjectKey::new(namespace, name.as_str())).is_some() {
                continue;
            }
            let owner = set.metadata.name.as_deref().unwrap_or_default();
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let note =
                        format!("Create Claim {name} Pod {owner}-{ordinal} in StatefulSet {owner} success");
                    self.control.tell(set, EventType::Normal, "SuccessfulCreate", "Create", note);
                }
                Err(e) if client::is_already_exists(&e) => {}
                Err(e) => {
                    let note = format!(
                        "Create Claim {name} for Pod {owner}-{ordinal} in StatefulSet {owner} failed error: {}",
                        chain(&e)
                    );
                    self.control.tell(set, EventType::Warning, "FailedCreate", "Create", note);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let next = StatefulSet { status: Some(status), ..set.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

/// The revision pods had before the update began; a new set has only one.
fn current_revision(set: &StatefulSet, revisions: &Revisions) -> Arc<ControllerRevision> {
    let name = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
    let known = revisions.others.iter().find(|r| r.metadata.name.as_deref() == name);
    known.unwrap_or(&revisions.update).clone()
}

/// Whether a revision that was written when fewer fields had defaults brings back what `data` does.
fn brings_back(revision: &ControllerRevision, data: &serde_json::Value) -> bool {
    let template =
        template_of(revision).and_then(|t| serde_json::to_value(t).map_err(kube::Error::SerdeError));
    let Ok(mut template) = template else { return false };
    if let Some(spec) = template.get_mut("spec") {
        api_rules::pod_spec::fill(spec);
    }
    // Through the type, as what is in the spec.
    let filled: Result<PodTemplateSpec, _> = serde_json::from_value(template);
    filled.is_ok_and(|filled| history::template_patch(&filled).is_ok_and(|patch| patch == *data))
}

/// The template a revision keeps.
fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, kube::Error> {
    let kept = revision.data.as_ref().and_then(|d| d.0.pointer("/spec/template")).cloned();
    serde_json::from_value(kept.unwrap_or_default()).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revision_without_the_defaults_of_today_brings_back_the_same() {
        let spec = json!({"containers": [{"name": "c", "image": "i:1"}]});
        let mut filled = spec.clone();
        api_rules::pod_spec::fill(&mut filled);
        let patch = |spec: &serde_json::Value| {
            let template: PodTemplateSpec = serde_json::from_value(json!({"spec": spec})).unwrap();
            history::template_patch(&template).unwrap()
        };
        let of = |spec: &serde_json::Value| -> ControllerRevision {
            serde_json::from_value(json!({"metadata": {"name": "w-1"}, "revision": 1, "data": patch(spec)}))
                .unwrap()
        };
        assert_ne!(patch(&spec), patch(&filled), "there are defaults");
        assert!(brings_back(&of(&spec), &patch(&filled)));
        let other = json!({"containers": [{"name": "c", "image": "i:2"}]});
        assert!(!brings_back(&of(&other), &patch(&filled)));
        assert!(!brings_back(&ControllerRevision::default(), &patch(&filled)));
    }
}
