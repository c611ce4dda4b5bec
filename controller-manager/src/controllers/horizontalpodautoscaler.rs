//! HorizontalPodAutoscalers: workloads as large as their metrics ask for.
//!
//! ```text
//! autoscaler → scale of its target, metrics of its pods → proposals → paced and bounded (pure) → scale, status, events
//! ```
//! Contract: upstream's `pkg/controller/podautoscaler` (autoscaling/v2, KEP-853 behaviors, KEP-1610 container resources,
//! KEP-4951 tolerances). Every autoscaler is looked at every `--horizontal-pod-autoscaler-sync-period`. What was recommended
//! and done before is remembered by the process alone.

mod metrics;
mod pace;
mod plan;
mod proposal;
mod readings;
#[cfg(test)]
mod testing;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use http::Request;
use k8s_openapi::api::{
    autoscaling::{
        v1::{Scale, ScaleSpec},
        v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec},
    },
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

use self::{
    metrics::{Fault, Scaling},
    pace::Memory,
    plan::Target,
    proposal::{Failure, Proposal, Source},
    readings::Readings,
};
use super::{Context, retry};
use crate::{
    served::{Directory, Served},
    settings::AutoscalerSettings,
};

/// How often a scale that somebody else changes meanwhile is written again.
const ATTEMPTS: usize = 5;

/// Why an autoscaler's round did not come to its end.
#[derive(Debug, thiserror::Error)]
enum AutoscaleError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("no matches for kind {kind:?} in group {group:?}")]
    Kind { kind: String, group: String },
    #[error("the scale of the target")]
    Body(#[from] serde_json::Error),
}

impl AutoscaleError {
    /// For events and conditions.
    fn words(&self) -> String {
        match self {
            Self::Api(error) => chain(error),
            other => chain(other),
        }
    }
}

#[derive(Clone)]
struct Controller {
    client: Client,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    directory: Arc<Directory>,
    readings: Arc<Readings>,
    recorder: Recorder,
    clock: SharedClock,
    settings: AutoscalerSettings,
    /// What is remembered of every autoscaler, and the pods it was last seen to select.
    memory: Arc<Mutex<Remembered>>,
}

type Remembered = HashMap<ObjectKey, (Memory, Option<LabelSelector>)>;

pub(super) fn start(ctx: &Context) {
    metrics::register();
    let directory = Arc::new(Directory::new(ctx.client.clone()));
    let controller = Controller {
        client: ctx.client.clone(),
        autoscalers: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        readings: Arc::new(Readings::new(ctx.client.clone(), directory.clone())),
        directory,
        recorder: ctx.recorder("horizontal-pod-autoscaler"),
        clock: ctx.clock.clone(),
        settings: ctx.settings.autoscaler.clone(),
        memory: Arc::default(),
    };
    let queue: WorkQueue<ObjectKey> =
        WorkQueue::with_limits("horizontalpodautoscaler", retry::every(ctx.settings.autoscaler.period));
    let of_autoscaler = queue.clone();
    controller.autoscalers.on_event(move |event| match &event {
        // A status, most likely our own, is no reason to look before it is time.
        Event::Updated { old, new } if old.spec == new.spec => {}
        event => {
            match event {
                Event::Added { .. } => metrics::came(),
                Event::Deleted { .. } => metrics::went(&object_key(event.object().as_ref())),
                Event::Updated { .. } => {}
            }
            of_autoscaler.add(object_key(event.object().as_ref()));
        }
    });
    let workers = ctx.workers("concurrent-horizontal-pod-autoscaler-syncs");
    run_workers(&ctx.tasks, &queue, workers, move |key| {
        let controller = controller.clone();
        async move { controller.visit(&key).await }
    });
}

impl Controller {
    /// One look; the next follows after the period, whatever came of this one.
    async fn visit(&self, key: &ObjectKey) -> Result<Outcome, AutoscaleError> {
        self.pods.wait_synced().await;
        let Some(autoscaler) = self.autoscalers.store().get(key) else {
            self.memory.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let begun = self.clock.now();
        let looked = self.sync(key, &autoscaler).await;
        let (scaling, fault) = *looked.as_ref().unwrap_or(&(Scaling::None, Fault::Internal));
        metrics::looked(scaling, fault, self.clock.since(begun));
        if let Err(error) = looked {
            tracing::warn!(autoscaler = %key, error = chain(&error), "not scaled, looked at again in time");
        }
        Ok(Outcome::RequeueAfter(self.settings.period))
    }

    async fn sync(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<(Scaling, Fault), AutoscaleError> {
        let (served, scale) = match self.scale_of(key, autoscaler).await {
            Ok(found) => found,
            Err(error) => {
                let why = error.words();
                self.tell(autoscaler, EventType::Warning, "FailedGetScale", why.clone());
                self.write(key, autoscaler, plan::no_scale(autoscaler, &why, self.clock.now())).await?;
                return Err(error);
            }
        };
        let target = Target {
            wanted: scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
            there: scale.status.as_ref().map_or(0, |s| s.replicas),
        };
        let mut proposals = None;
        if plan::needs_metrics(autoscaler, target, &self.settings) {
            let selector = scale.status.as_ref().and_then(|s| s.selector.as_deref()).unwrap_or_default();
            proposals = Some(self.propose(key, autoscaler, target, selector).await);
        }
        let failed = proposals.iter().flatten().any(Result::is_err);
        let mut memory = self.memory.lock().get(key).map(|(memory, _)| memory.clone()).unwrap_or_default();
        let now = self.clock.now();
        let mut plan = plan::plan(autoscaler, target, proposals, &mut memory, &self.settings, now);
        let mut done = (Scaling::None, if failed { Fault::Internal } else { Fault::None });
        if let Some(replicas) = plan.scale_to {
            match self.rescale(key, &served, scale, replicas).await {
                Ok(()) => {
                    memory.scaled(target.wanted, replicas, now);
                    done.0 = Scaling::between(target.wanted, replicas);
                }
                Err(error) => {
                    done.1 = Fault::Internal;
                    plan.refused(autoscaler, target, &error.words(), now);
                }
            }
        }
        self.memory.lock().entry(key.clone()).or_default().0 = memory;
        for (kind, reason, note) in plan.events {
            self.tell(autoscaler, kind, &reason, note);
        }
        metrics::wants(key, plan.status.desired_replicas);
        self.write(key, autoscaler, plan.status).await.map(|()| done)
    }

    /// What each metric asks for; one failure where the pods cannot be told.
    async fn propose(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        target: Target,
        selector: &str,
    ) -> Vec<Result<Proposal, Failure>> {
        let pods = match self.pods_of(key, selector) {
            Ok(pods) => pods,
            Err(failure) => return vec![Err(failure)],
        };
        let view = proposal::View {
            target,
            pods: &pods,
            tolerance: proposal::tolerance(autoscaler, &self.settings),
            settings: &self.settings,
            now: self.clock.now(),
        };
        let mut out = Vec::new();
        for spec in autoscaler.spec.metrics.iter().flatten() {
            let begun = self.clock.now();
            let proposed = match Source::of(spec) {
                Err(failure) => Err((Fault::Spec, failure)),
                Ok(source) => {
                    let proposed = self.propose_one(key, spec, &source, &view, selector).await;
                    proposed.map_err(|failure| (Fault::Internal, failure))
                }
            };
            let (scaling, fault) = match &proposed {
                Ok(proposal) => (Scaling::between(target.there, proposal.replicas), Fault::None),
                Err((fault, _)) => (Scaling::None, *fault),
            };
            metrics::computed(scaling, fault, &spec.type_, self.clock.since(begun));
            out.push(proposed.map_err(|(_, failure)| failure));
        }
        out
    }

    async fn propose_one(
        &self,
        key: &ObjectKey,
        spec: &MetricSpec,
        source: &Source,
        view: &proposal::View<'_>,
        selector: &str,
    ) -> Result<Proposal, Failure> {
        match self.readings.read(&key.namespace, selector, source).await {
            Ok(reading) => proposal::propose(spec, source, reading, view),
            Err(error) => Err(Failure::of_reading(spec, source, &key.namespace, &chain(&error))),
        }
    }

    /// The target's pods; none that another autoscaler scales too.
    fn pods_of(&self, key: &ObjectKey, selector: &str) -> Result<Vec<Arc<Pod>>, Failure> {
        let invalid = |event: &str, message: String| Failure {
            event: event.into(),
            reason: "InvalidSelector".into(),
            note: message.clone(),
            message,
            of_one: None,
        };
        if selector.is_empty() {
            let mut failure = invalid("SelectorRequired", "selector is required".into());
            failure.message = "the HPA target's scale is missing a selector".into();
            return Err(failure);
        }
        let parsed = selector.parse::<LabelSelector>().map_err(|error| {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            invalid("InvalidSelector", why)
        })?;
        let mut pods = self.pods.store().in_namespace(&key.namespace);
        pods.retain(|pod| parsed.matches(&pod.metadata.labels));
        let mut memory = self.memory.lock();
        memory.entry(key.clone()).or_default().1 = Some(parsed);
        let selects = |s: &LabelSelector| pods.iter().any(|pod| s.matches(&pod.metadata.labels));
        let rivals: BTreeSet<String> = memory
            .iter()
            .filter(|(k, (_, s))| k.namespace == key.namespace && s.as_ref().is_some_and(selects))
            .map(|(k, _)| k.to_string())
            .collect();
        if rivals.len() > 1 {
            let all = rivals.into_iter().collect::<Vec<_>>().join(" ");
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
            let mut failure = invalid("AmbiguousSelector", why);
            failure.reason = "AmbiguousSelector".into();
            return Err(failure);
        }
        Ok(pods)
    }

    async fn scale_of(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<(Served, Scale), AutoscaleError> {
        let target = autoscaler.spec.scale_target_ref.clone();
        let api_version = target.api_version.unwrap_or_default();
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        let served = self.directory.find(|s| s.group == group && s.kind == target.kind).await?;
        let served = served.ok_or(AutoscaleError::Kind { kind: target.kind, group })?;
        let scale = self.get_scale(key, &served, &target.name).await?;
        Ok((served, scale))
    }

    async fn get_scale(&self, key: &ObjectKey, served: &Served, name: &str) -> Result<Scale, kube::Error> {
        let path = format!("{}/{name}/scale", served.path(Some(&key.namespace)));
        self.client.request(Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
    }

    async fn rescale(
        &self,
        key: &ObjectKey,
        served: &Served,
        mut scale: Scale,
        replicas: i32,
    ) -> Result<(), AutoscaleError> {
        let name = scale.metadata.name.clone().unwrap_or_default();
        let mut tries = 1;
        loop {
            scale.spec = Some(ScaleSpec { replicas: Some(replicas) });
            let path = format!("{}/{name}/scale", served.path(Some(&key.namespace)));
            let request = Request::put(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(serde_json::to_vec(&scale)?)
                .map_err(kube::Error::HttpError)?;
            match self.client.request::<Scale>(request).await {
                Ok(_) => return Ok(()),
                Err(error) if client::is_conflict(&error) && tries < ATTEMPTS => {
                    tries += 1;
                    scale = self.get_scale(key, served, &name).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), AutoscaleError> {
        if autoscaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &key.namespace);
        let next = HorizontalPodAutoscaler { status: Some(status), ..autoscaler.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => {
                self.tell(autoscaler, EventType::Warning, "FailedUpdateStatus", chain(&error));
                Err(error.into())
            }
        }
    }

    fn tell(&self, autoscaler: &HorizontalPodAutoscaler, kind: EventType, reason: &str, note: String) {
        self.recorder.event(&reference(autoscaler), kind, reason, reason, note, None);
    }
}
