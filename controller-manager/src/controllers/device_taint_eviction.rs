//! Pods go from devices that have a NoExecute taint their claims do not tolerate.
//!
//! ```text
//! ResourceSlice (taints) ─┐
//! DeviceTaintRule (taint) ┴→ ResourceClaim (allocated devices, tolerations) → pod: time to go (pure) → eviction
//! DeviceTaintRule → what it does or would do (pure) → condition EvictionInProgress
//! ```
//! Contract: KEP-5055; upstream's `device-taint-eviction-controller`. Rules are looked at where their gate is on.

mod plan;
mod rules;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    features::Gate,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        resource::{
            v1::{ResourceClaim, ResourceSlice},
            v1beta2::DeviceTaintRule,
        },
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};
use serde_json::json;

use self::{
    plan::{Eviction, Rule},
    rules::Impact,
};
use super::{Context, pod_disruption, podgroup_protection::group_of, resource_claim::claims_of};

const NAME: &str = "device-taint-eviction-controller";
const REASON: &str = "DeviceTaintManagerEviction";
const WHY: pod_disruption::Reason = pod_disruption::Reason {
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
};
/// Slices, and claims with devices of them, as `driver/pool`.
const BY_POOL: &str = "pool of devices";
/// Pods that use claims by their group, as `namespace/name`.
const BY_GROUP: &str = "claiming members of a pod group";

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// Whether a pod has to go.
    Pod(ObjectKey),
    /// What is said of a rule, by its name.
    Rule(String),
}

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    rules: Option<Informer<DeviceTaintRule>>,
    /// Whether claims may be those of groups of pods.
    has_groups: bool,
    recorder: Recorder,
    queue: WorkQueue<Work>,
    /// Evictions to come: their time, by pod.
    pending: Arc<Mutex<HashMap<ObjectKey, Timestamp>>>,
    /// How many pods went because of a rule, by its uid.
    evicted: Arc<Mutex<HashMap<String, usize>>>,
}

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&DELETIONS);
    LazyLock::force(&LATENCY);
    let has_rules = ctx.settings.gates.has(Gate::DRADeviceTaintRules);
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        slices: ctx.informers.get(ListWatch::default()),
        rules: has_rules.then(|| ctx.informers.get(ListWatch::default())),
        has_groups: ctx.settings.gates.has(Gate::DRAWorkloadResourceClaims),
        recorder: ctx.recorder(NAME),
        queue: WorkQueue::new(NAME),
        pending: Arc::default(),
        evicted: Arc::default(),
    };
    controller.slices.add_index(BY_POOL, |slice| vec![plan::pool(slice)]);
    controller.claims.add_index(BY_POOL, plan::pools);
    controller.pods.add_index(BY_GROUP, |pod| {
        let group = if claims_of(pod).is_empty() { None } else { group_of(pod) };
        group.map(|key| key.to_string()).into_iter().collect()
    });
    let queue = controller.queue.clone();
    let of_pod = queue.clone();
    controller.pods.on_event(move |event| {
        let pod = event.object();
        if !claims_of(pod).is_empty() {
            of_pod.add(Work::Pod(object_key(pod.as_ref())));
        }
    });
    let of_claim = controller.clone();
    controller.claims.on_event(move |event| {
        if let Event::Updated { old, .. } = &event {
            of_claim.queue_consumers(old);
        }
        of_claim.queue_consumers(event.object());
    });
    let of_slice = controller.clone();
    controller.slices.on_event(move |event| {
        for claim in of_slice.claims.store().by_index(BY_POOL, &plan::pool(event.object())) {
            of_slice.queue_consumers(&claim);
        }
    });
    if let Some(rules) = &controller.rules {
        let of_rule = controller.clone();
        rules.on_event(move |event| of_rule.rule_changed(&event));
    }
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-device-taint-eviction-syncs"), move |work| {
        let controller = controller.clone();
        async move {
            controller.synced().await;
            match work {
                Work::Pod(key) => controller.sync(&key).await,
                Work::Rule(name) => controller.tell_rule(&name).await,
            }
        }
    });
}

impl Controller {
    async fn synced(&self) {
        self.pods.wait_synced().await;
        self.claims.wait_synced().await;
        self.slices.wait_synced().await;
        if let Some(rules) = &self.rules {
            rules.wait_synced().await;
        }
    }

    /// A rule says something of itself before any pod goes because of it.
    fn rule_changed(&self, event: &Event<DeviceTaintRule>) {
        let changed: &[&Arc<DeviceTaintRule>] = match event {
            Event::Added { new, .. } => &[new],
            Event::Updated { old, new } if old.spec == new.spec && old.metadata.uid == new.metadata.uid => {
                return;
            }
            Event::Updated { old, new } => &[old, new],
            Event::Deleted { last, .. } => &[last],
        };
        match event {
            Event::Added { new, .. } | Event::Updated { new, .. } => {
                self.queue.add(Work::Rule(Rule::of(new).name))
            }
            Event::Deleted { last, .. } => drop(self.evicted.lock().remove(&Rule::of(last).uid)),
        }
        for rule in changed.iter().filter(|rule| plan::evicts(rule)) {
            self.users(rule).into_iter().for_each(|key| self.queue.add(Work::Pod(key)));
        }
    }

    /// Pods that may use a device that a rule selects.
    fn users(&self, rule: &DeviceTaintRule) -> BTreeSet<ObjectKey> {
        let claims = self.claims.store().list();
        let meant = claims.iter().filter(|claim| plan::selected(rule, claim) > 0);
        meant.flat_map(|claim| self.consumers(claim)).collect()
    }

    /// The pods that may use a claim.
    fn consumers(&self, claim: &ResourceClaim) -> Vec<ObjectKey> {
        let groups = plan::consuming_groups(claim).filter(|_| self.has_groups);
        let members = groups.flat_map(|key| self.pods.store().by_index(BY_GROUP, &key.to_string()));
        plan::consumers(claim).chain(members.map(|pod| object_key(pod.as_ref()))).collect()
    }

    fn queue_consumers(&self, claim: &ResourceClaim) {
        self.consumers(claim).into_iter().for_each(|key| self.queue.add(Work::Pod(key)));
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let pod = self.pods.store().get(key).filter(|pod| plan::may_go(pod));
        let rules = self.evicting();
        let eviction = pod.as_deref().and_then(|pod| self.eviction(pod, &rules));
        let (Some(pod), Some(eviction)) = (pod, eviction) else {
            if self.pending.lock().remove(key).is_some()
                && let Some(pod) = self.pods.store().get(key).filter(|pod| plan::may_go(pod))
            {
                self.tell(&pod, "Cancelling deletion");
            }
            return Ok(Outcome::Done);
        };
        // More pods may change, so that not each is told of by itself.
        for rule in &eviction.rules {
            self.queue.add_after(Work::Rule(rule.name.clone()), rules::PERIOD);
        }
        let left = eviction.when.duration_since(self.clock.now());
        match Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
            Some(left) => {
                self.pending.lock().insert(key.clone(), eviction.when);
                Ok(Outcome::RequeueAfter(left + Duration::from_millis(1)))
            }
            None => {
                self.tell(&pod, "Marking for deletion");
                let ended = pod_disruption::evict(&self.client, &self.clock, &self.pods, &pod, WHY).await?;
                self.pending.lock().remove(key);
                if !ended {
                    return Ok(Outcome::Done);
                }
                let mut evicted = self.evicted.lock();
                eviction.rules.into_iter().for_each(|rule| *evicted.entry(rule.uid).or_default() += 1);
                DELETIONS.inc();
                LATENCY.observe(self.clock.since(eviction.when).as_secs_f64());
                Ok(Outcome::Done)
            }
        }
    }

    /// The rules that drive pods away.
    fn evicting(&self) -> Vec<Arc<DeviceTaintRule>> {
        let mut all = self.rules.iter().flat_map(|rules| rules.store().list()).collect::<Vec<_>>();
        all.retain(|rule| plan::evicts(rule));
        all
    }

    /// When a pod has to go, if one of its claims says so.
    fn eviction(&self, pod: &Pod, rules: &[Arc<DeviceTaintRule>]) -> Option<Eviction> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = claims_of(pod).into_iter();
        let claims = claims.filter_map(|name| self.claims.store().get(&ObjectKey::new(namespace, name)));
        let group = group_of(pod).filter(|_| self.has_groups);
        let used =
            claims.filter(|claim| plan::is_own(claim, pod) && plan::is_reserved(claim, pod, group.as_ref()));
        let slices = |pool: &str| self.slices.store().by_index(BY_POOL, pool);
        used.filter_map(|claim| plan::eviction(&claim, &slices, rules)).reduce(Eviction::join)
    }

    fn tell(&self, pod: &Pod, note: &str) {
        self.recorder.event(&reference(pod), EventType::Normal, REASON, "Eviction", note, None);
    }

    async fn tell_rule(&self, name: &str) -> Result<Outcome, kube::Error> {
        let rule = self.rules.as_ref().and_then(|rules| rules.store().get(&ObjectKey::cluster(name)));
        let Some(rule) = rule else { return Ok(Outcome::Done) };
        let now = self.clock.time();
        if let Some(left) = rules::too_early(&rule, &now) {
            return Ok(Outcome::RequeueAfter(left));
        }
        let evicted = self.evicted.lock().get(&Rule::of(&rule).uid).copied().unwrap_or(0);
        if let Some(condition) = rules::condition(&rule, &self.impact(&rule), evicted, &now) {
            self.write(&Rule::of(&rule), &condition).await?;
        }
        Ok(Outcome::Done)
    }

    /// What a rule does, or would do if it drove pods away.
    fn impact(&self, rule: &DeviceTaintRule) -> Impact {
        if !rules::is_weighed(rule) {
            return Impact::default();
        }
        let alone = [Arc::new(plan::as_evicting(rule))];
        let mut out = Impact::default();
        let mut namespaces = BTreeSet::new();
        for key in self.users(rule) {
            let Some(pod) = self.pods.store().get(&key).filter(|pod| plan::may_go(pod)) else { continue };
            if self.eviction(&pod, &alone).is_some_and(|eviction| !eviction.rules.is_empty()) {
                out.pods += 1;
                namespaces.insert(key.namespace);
            }
        }
        out.namespaces = namespaces.len();
        out.published = plan::published(rule, &self.slices.store().list());
        out.allocated = self.claims.store().list().iter().map(|claim| plan::selected(rule, claim)).sum();
        out
    }

    async fn write(&self, rule: &Rule, condition: &Condition) -> Result<(), kube::Error> {
        let api: Api<DeviceTaintRule> = Api::all(self.client.clone());
        let body = json!({
            "apiVersion": "resource.k8s.io/v1beta2", "kind": "DeviceTaintRule",
            "metadata": {"name": rule.name, "uid": rule.uid}, "status": {"conditions": [condition]},
        });
        match api.patch_status(&rule.name, &PatchParams::apply(NAME).force(), &Patch::Apply(&body)).await {
            // Gone, or another one of the name by now.
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Pod(key) => write!(out, "{key}"),
            Work::Rule(name) => write!(out, "rule {name}"),
        }
    }
}

static DELETIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "device_taint_eviction_controller_pod_deletions_total",
        "Total number of Pods deleted by DeviceTaintEvictionController since its start.",
        Stability::Alpha,
    )
});

static LATENCY: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "device_taint_eviction_controller_pod_deletion_duration_seconds",
        "Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
        Stability::Alpha,
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0],
    )
});
