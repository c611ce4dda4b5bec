//! DaemonSets: one pod on every node that takes it.
//!
//! Contract: upstream's `pkg/controller/daemon`. The scheduler places the pods: each is pinned to its node by
//! affinity. Templates are kept as revisions, so that `kubectl rollout undo` finds the way back.

mod plan;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    events::EventType,
    features::Gate,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, label, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

use super::{
    Context, enqueue_changes,
    history::{self, HASH_LABEL, History},
    pod_control::PodControl,
    replicaset,
};

/// A pod that fails again and again is replaced after 1 s, 2 s, 4 s, … of rest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

#[derive(Clone)]
struct Controller {
    client: Client,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    control: PodControl<DaemonSet>,
    history: History<DaemonSet>,
    failures: Arc<Mutex<HashMap<(String, String), Failure>>>,
    clock: SharedClock,
    /// Whether tolerations may compare numbers.
    compare: bool,
}

/// When a node's pod failed last, and how long the next one waits.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Timestamp,
    delay: Duration,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        sets: ctx.informers.get(ListWatch::default()),
        nodes: ctx.informers.get(ListWatch::default()),
        control: PodControl::new(ctx, "daemonset-controller"),
        history: History::new(ctx),
        failures: Arc::default(),
        clock: ctx.clock.clone(),
        compare: ctx.settings.gates.has(Gate::TaintTolerationComparisonOperators),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("daemonset");
    enqueue_changes(&controller.sets, &queue);
    let sets = controller.sets.clone();
    controller.control.watch(&queue, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let selects = |set: &Arc<DaemonSet>| selector(set).is_some_and(|s| takes(&s, pod));
        let found = sets.store().in_namespace(namespace).into_iter().filter(selects);
        found.map(|set| object_key(set.as_ref())).collect()
    });
    let (of_node, watched) = (queue.clone(), controller.clone());
    controller.nodes.on_event(move |event| watched.node_changed(&event, &of_node));
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-daemonset-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

fn selector(set: &DaemonSet) -> Option<LabelSelector> {
    LabelSelector::from_api(set.spec.as_ref().map(|s| &s.selector)).ok()
}

fn takes(selector: &LabelSelector, pod: &Pod) -> bool {
    !selector.is_everything() && selector.matches(&pod.metadata.labels)
}

impl Controller {
    /// Queues the sets for which a node has become another one.
    fn node_changed(&self, event: &Event<Node>, queue: &WorkQueue<ObjectKey>) {
        for set in self.sets.store().list() {
            let fit = |node: &Node| plan::fit(&set, node, self.compare);
            let concerned = match event {
                Event::Updated { old, new } => fit(old) != fit(new),
                Event::Added { new, .. } => fit(new).should_run,
                Event::Deleted { .. } => true,
            };
            if concerned {
                queue.add(object_key(set.as_ref()));
            }
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.sets.wait_synced().await;
        self.nodes.wait_synced().await;
        self.control.pods().wait_synced().await;
        self.history.wait_synced().await;
        let Some(set) = self.sets.store().get(key) else { return Ok(Outcome::Done) };
        let Some(selector) = selector(&set) else { return Ok(Outcome::Done) };
        if selector.is_everything() {
            let note = "This daemon set is selecting all pods. A non-empty selector is required.".to_owned();
            self.control.tell(&set, EventType::Warning, "SelectingAll", "Select", note);
            return Ok(Outcome::Done);
        }
        if set.metadata.deletion_timestamp.is_some() {
            self.control.forget(&set);
            return Ok(Outcome::Done);
        }
        let settled = self.control.settled(&set);
        let Some(spec) = set.spec.as_ref() else { return Ok(Outcome::Done) };
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let data = history::template_patch(&spec.template)?;
        let revisions = self.history.sync(&set, &labels, &data, collisions, &|_| false).await?;
        let hash = history::hash_of(&revisions.update).to_owned();
        let pods = self.control.claim(&set, &selector).await?;
        let by_node = plan::by_node(&pods);
        let nodes = plan::Nodes { all: self.nodes.store().list(), compare: self.compare };
        let mut failed = None;
        let mut again = None;
        if settled {
            let outcome = self.converge(&set, &nodes, &by_node, &hash).await;
            again = outcome.retry;
            failed = outcome.error;
        }
        let now = self.clock.now();
        let status = plan::status(&set, &nodes, &by_node, &hash, revisions.collisions, now);
        self.write_status(key, &set, status).await?;
        let live: HashSet<String> =
            pods.iter().filter_map(|p| label(&p.metadata, HASH_LABEL)).map(str::to_owned).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        self.history.truncate(&revisions.others, &live, limit).await?;
        let least = spec.min_ready_seconds.unwrap_or(0);
        let ripe = replicaset::next_available(&pods, least, now);
        match failed {
            Some(error) => Err(error),
            None => {
                Ok([again, ripe].into_iter().flatten().min().map_or(Outcome::Done, Outcome::RequeueAfter))
            }
        }
    }

    async fn converge(
        &self,
        set: &Arc<DaemonSet>,
        nodes: &plan::Nodes,
        by_node: &plan::ByNode,
        hash: &str,
    ) -> Converged {
        let now = self.clock.now();
        let mut changes = plan::manage(set, nodes, by_node, hash, now);
        let found = |pod: &Pod, how: &str, node: &str, next: &str| {
            let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            let pod = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
            format!("Found {how} daemon pod {pod} on node {node}, will try to {next} it")
        };
        for (node, pod) in std::mem::take(&mut changes.ended) {
            let note = found(&pod, "succeeded", &node, "delete");
            self.control.tell(set, EventType::Normal, "SucceededDaemonPod", "Delete", note);
            changes.delete.push(pod);
        }
        let mut retry = None;
        for (node, pod) in std::mem::take(&mut changes.failed) {
            match self.rest(set, &node, now) {
                Some(left) => retry = Some(retry.map_or(left, |r: Duration| r.min(left))),
                None => {
                    let note = found(&pod, "failed", &node, "kill");
                    self.control.tell(set, EventType::Warning, "FailedDaemonPod", "Delete", note);
                    changes.delete.push(pod);
                }
            }
        }
        let mut error = self.carry_out(set, changes, hash).await.err();
        if error.is_none() && self.control.settled(set) && plan::rolls(set) {
            // What was made or deleted just now is seen already: the next step must not be taken from the view before it.
            let by_node = plan::by_node(&self.control.owned(set));
            let step = plan::roll(set, nodes, &by_node, hash, now);
            error = self.carry_out(set, step, hash).await.err();
        }
        Converged { error, retry }
    }

    async fn carry_out(
        &self,
        set: &Arc<DaemonSet>,
        changes: plan::Changes,
        hash: &str,
    ) -> Result<(), kube::Error> {
        let changes = changes.bounded();
        if !changes.create.is_empty() {
            let pods = changes.create.iter().map(|node| plan::pod_for(set, node, hash)).collect();
            if let Some(error) = self.control.create(set, pods).await.error {
                return Err(error);
            }
        }
        if changes.delete.is_empty() { Ok(()) } else { self.control.delete(set, &changes.delete).await }
    }

    /// How long a failed pod still rests; `None` when it is to be replaced now, which doubles the next rest.
    fn rest(&self, set: &DaemonSet, node: &str, now: Timestamp) -> Option<Duration> {
        let key = (set.metadata.uid.clone().unwrap_or_default(), node.to_owned());
        let mut failures = self.failures.lock();
        let since = |f: &Failure| Duration::try_from(now.duration_since(f.at)).unwrap_or_default();
        failures.retain(|_, f| since(f) < LONGEST_DELAY * 2);
        if let Some(known) = failures.get(&key)
            && let Some(left) = known.delay.checked_sub(since(known)).filter(|l| !l.is_zero())
        {
            return Some(left);
        }
        let delay = failures.get(&key).map_or(FIRST_DELAY, |f| (f.delay * 2).min(LONGEST_DELAY));
        failures.insert(key, Failure { at: now, delay });
        None
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        status: k8s_openapi::api::apps::v1::DaemonSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let next = DaemonSet { status: Some(status), ..set.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

/// What a round of changes came to.
struct Converged {
    error: Option<kube::Error>,
    /// When to look at failed pods again.
    retry: Option<Duration>,
}
