//! What the cluster publishes of itself: a ConfigMap of one name in every active namespace; and how often that was brought
//! up to date, how long it took, and what the server said to it.

use std::{sync::Arc, time::Duration};

use component_base::{
    client,
    informer::ListWatch,
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, api::PostParams};
use prometheus::{HistogramVec, IntCounterVec};

use super::{Context, enqueue_changes, serviceaccount::is_active};

/// Says what a map is to be.
type Plan = dyn Fn(Option<&ConfigMap>) -> Option<ConfigMap> + Send + Sync;

/// A map that every active namespace has.
pub(super) struct Publication {
    /// Its name.
    pub(super) name: &'static str,
    /// What the queue of namespaces is called.
    pub(super) queue: &'static str,
    /// What the map is to be, given the one there is; nothing where that is right. Pure.
    pub(super) plan: Arc<Plan>,
    pub(super) syncs: &'static Syncs,
}

impl Publication {
    /// Publishes it from now on.
    pub(super) fn start(self, ctx: &Context) {
        let namespaces = ctx.informers.get::<Namespace>(ListWatch::default());
        let fields = Some(format!("metadata.name={}", self.name));
        let maps = ctx.informers.get::<ConfigMap>(ListWatch { fields, ..ListWatch::default() });
        let queue: WorkQueue<ObjectKey> = WorkQueue::new(self.queue);
        enqueue_changes(&namespaces, &queue);
        let of_map = queue.clone();
        maps.on_event(move |event| {
            of_map.add(ObjectKey::cluster(event.object().metadata.namespace.clone().unwrap_or_default()));
        });
        let (client, clock, publication) = (ctx.client.clone(), ctx.clock.clone(), Arc::new(self));
        run_workers(&ctx.tasks, &queue, 1, move |key| {
            let (namespaces, maps, client) = (namespaces.clone(), maps.clone(), client.clone());
            let (clock, publication) = (clock.clone(), publication.clone());
            async move {
                namespaces.wait_synced().await;
                maps.wait_synced().await;
                let started = clock.now();
                let there = maps.store().get(&ObjectKey::new(key.name.clone(), publication.name));
                let namespace = namespaces.store().get(&key).filter(|namespace| is_active(namespace));
                let next = namespace.and_then(|_| (publication.plan)(there.as_deref()));
                let api = Api::namespaced(client, &key.name);
                let done = write(&api, publication.name, there.is_some(), next).await;
                publication.syncs.observe(clock.since(started), &done);
                done.map(|()| Outcome::Done)
            }
        });
    }
}

async fn write(
    api: &Api<ConfigMap>,
    name: &str,
    is_there: bool,
    next: Option<ConfigMap>,
) -> Result<(), kube::Error> {
    let Some(mut next) = next else { return Ok(()) };
    next.metadata.name = Some(name.to_owned());
    let written = match is_there {
        true => api.replace(name, &PostParams::default(), &next).await,
        false => api.create(&PostParams::default(), &next).await,
    };
    let is_past = |error: &kube::Error| {
        client::is_already_exists(error)
            || client::is_not_found(error)
            || client::is_namespace_terminating(error)
    };
    match written {
        Err(error) if !is_past(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The two metrics of a publisher, by the code of the server's answer.
#[derive(Debug)]
pub(super) struct Syncs {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl Syncs {
    /// Metrics of these names and helps; they are there from now on, once in a process.
    pub(super) fn register(total: [&str; 2], seconds: [&str; 2]) -> Self {
        let buckets = exponential_buckets(0.001, 2.0, 15);
        Self {
            total: metrics::counter_vec(total[0], total[1], Stability::Alpha, &["code"]),
            seconds: metrics::histogram_vec(seconds[0], seconds[1], Stability::Alpha, &["code"], buckets),
        }
    }

    /// Counts one.
    pub(super) fn observe(&self, took: Duration, done: &Result<(), kube::Error>) {
        let code = match done {
            Ok(()) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(_) => 500,
        };
        let code = code.to_string();
        self.total.with_label_values(&[&code]).inc();
        self.seconds.with_label_values(&[&code]).observe(took.as_secs_f64());
    }
}
