//! Requests for the state of pools of devices are answered, once, and go after a while.
//!
//! ```text
//! ResourceSlices, ResourceClaims, request → status (pure) → one status write
//! ```
//! Contract: upstream's `resourcepoolstatusrequest-controller` (KEP-5677). Off unless the feature
//! `DRAResourcePoolStatus` is on. Pools whose slices are not all there are waited for as long as the queue tries; the
//! answer names those that still are not.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability, exponential_buckets},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::resource::{
        v1::{ResourceClaim, ResourceSlice, ResourceSliceSpec},
        v1alpha3::{
            PoolStatus, ResourcePoolStatusRequest, ResourcePoolStatusRequestSpec,
            ResourcePoolStatusRequestStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use prometheus::{HistogramVec, IntCounterVec};

use super::{Context, run_every};

const NAME: &str = "resourcepoolstatusrequest-controller";
const WORKERS: usize = 1;
/// How often a request waits for slices that are missing.
const RETRIES: u32 = 5;
/// Between two looks for requests that are old.
const PERIOD: Duration = Duration::from_secs(10 * 60);
/// How long an answer is kept.
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
/// How long a request without an answer is.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// Pools of an answer when the request does not say how many.
const LIMIT: i32 = 100;
/// Bytes of what is wrong with a pool.
const LONGEST: usize = 256;
const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    requests: Informer<ResourcePoolStatusRequest>,
    slices: Informer<ResourceSlice>,
    claims: Informer<ResourceClaim>,
    queue: WorkQueue<ObjectKey>,
}

/// Why a request has no answer yet.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("incomplete pools detected, requeueing")]
    Incomplete,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        requests: ctx.informers.get(ListWatch::default()),
        slices: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        queue: WorkQueue::new("resourcepoolstatusrequest"),
    };
    let queue = controller.queue.clone();
    controller.requests.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. }) && event.object().status.is_none() {
            queue.add(object_key(event.object().as_ref()));
        }
    });
    let (queue, of_old) = (controller.queue.clone(), controller.clone());
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
    run_every(&ctx.tasks, NAME, PERIOD, move || {
        let controller = of_old.clone();
        async move {
            controller.remove_old().await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
}

// === impl Controller ===

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, AnswerError> {
        self.slices.wait_synced().await;
        self.claims.wait_synced().await;
        let Some(request) = self.requests.store().get(key).filter(|request| request.status.is_none()) else {
            return Ok(Outcome::Done);
        };
        let started = self.clock.now();
        let status =
            answer(&request.spec, &self.slices.store().list(), &self.claims.store().list(), &Time(started));
        let mut pools = status.pools.iter().flatten();
        if pools.any(|pool| pool.validation_error.is_some()) && self.queue.num_requeues(key) < RETRIES {
            return Err(AnswerError::Incomplete);
        }
        let next = ResourcePoolStatusRequest { status: Some(status), ..(*request).clone() };
        let api: Api<ResourcePoolStatusRequest> = Api::all(self.client.clone());
        let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
        let driver = [request.spec.driver.as_str()];
        PROCESSED.with_label_values(&driver).inc();
        DURATION.with_label_values(&driver).observe(self.clock.since(started).as_secs_f64());
        match written {
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => {
                ERRORS.with_label_values(&driver).inc();
                Err(e.into())
            }
            _ => Ok(Outcome::Done),
        }
    }

    /// One look: each request by itself, so that one that stays holds up no other.
    async fn remove_old(&self) {
        self.requests.wait_synced().await;
        let api: Api<ResourcePoolStatusRequest> = Api::all(self.client.clone());
        for request in self.requests.store().list() {
            if !is_old(&request, self.clock.now()) {
                continue;
            }
            let name = request.metadata.name.as_deref().unwrap_or_default();
            let same = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
            match api.delete(name, &DeleteParams::default().preconditions(same)).await {
                Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => {
                    tracing::error!(request = name, error = chain(&e), "cannot remove");
                }
                _ => {}
            }
        }
    }
}

/// Whether a request has been kept for long enough: its answer, or waiting for one.
fn is_old(request: &ResourcePoolStatusRequest, now: Timestamp) -> bool {
    let made = request.metadata.creation_timestamp.as_ref();
    let (since, kept) = match &request.status {
        None => (made, PENDING),
        Some(status) => {
            let mut conditions = status.conditions.iter().flatten();
            let ended = conditions.find(|c| c.type_ == COMPLETE || c.type_ == FAILED);
            (ended.map(|c| &c.last_transition_time).or(made), ANSWERED)
        }
    };
    since.is_some_and(|since| now.duration_since(since.0) > kept)
}

/// The slices of a pool's newest generation.
#[derive(Default)]
struct Pool<'s> {
    generation: i64,
    slices: Vec<&'s ResourceSliceSpec>,
}

/// What the slices and claims say about the pools a request is about.
fn answer(
    asked: &ResourcePoolStatusRequestSpec,
    slices: &[Arc<ResourceSlice>],
    claims: &[Arc<ResourceClaim>],
    now: &Time,
) -> ResourcePoolStatusRequestStatus {
    let wanted = asked.pool_name.as_deref().filter(|name| !name.is_empty());
    let of_driver = slices.iter().map(|slice| &slice.spec).filter(|spec| spec.driver == asked.driver);
    let mut pools: BTreeMap<&str, Pool<'_>> = BTreeMap::new();
    for spec in of_driver.filter(|spec| wanted.is_none_or(|name| name == spec.pool.name)) {
        let pool = pools.entry(&spec.pool.name).or_default();
        match (spec.pool.generation.cmp(&pool.generation), pool.slices.is_empty()) {
            (Ordering::Greater, _) | (_, true) => {
                *pool = Pool { generation: spec.pool.generation, slices: vec![spec] };
            }
            (Ordering::Equal, false) => pool.slices.push(spec),
            (Ordering::Less, false) => {}
        }
    }
    let allocated = allocated(&asked.driver, claims);
    let limit = usize::try_from(asked.limit.unwrap_or(LIMIT)).unwrap_or(0);
    let told: Vec<PoolStatus> = pools
        .iter()
        .take(limit)
        .map(|(name, pool)| told(&asked.driver, name, pool, allocated.get(name).copied().unwrap_or(0)))
        .collect();
    ResourcePoolStatusRequestStatus {
        pool_count: saturated(pools.len()),
        conditions: Some(vec![complete(&told, now)]),
        pools: Some(told),
    }
}

/// Devices in claims, by pool.
fn allocated<'c>(driver: &str, claims: &'c [Arc<ResourceClaim>]) -> HashMap<&'c str, i32> {
    let mut out = HashMap::new();
    let allocations =
        claims.iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref());
    for result in allocations.flat_map(|devices| devices.results.iter().flatten()) {
        if result.driver == driver {
            *out.entry(result.pool.as_str()).or_default() += 1;
        }
    }
    out
}

fn told(driver: &str, name: &str, pool: &Pool<'_>, allocated: i32) -> PoolStatus {
    let node = |spec: &ResourceSliceSpec| spec.node_name.clone().filter(|name| !name.is_empty());
    let first = pool.slices.first().and_then(|spec| node(spec));
    let mut out = PoolStatus {
        driver: driver.to_owned(),
        pool_name: name.to_owned(),
        generation: pool.generation,
        node_name: first.filter(|first| pool.slices.iter().all(|spec| node(spec).as_ref() == Some(first))),
        ..PoolStatus::default()
    };
    let there = saturated(pool.slices.len());
    let expected = pool.slices.first().map_or(0, |spec| spec.pool.resource_slice_count);
    if i64::from(there) < expected {
        let generation = pool.generation;
        let mut message = format!(
            "pool {driver}/{name} is incomplete: observed {there}/{expected} slices at generation {generation}"
        );
        message.truncate(message.floor_char_boundary(LONGEST));
        out.validation_error = Some(message);
        return out;
    }
    let total = saturated(pool.slices.iter().map(|spec| spec.devices.as_ref().map_or(0, Vec::len)).sum());
    out.resource_slice_count = Some(there);
    out.total_devices = Some(total);
    out.allocated_devices = Some(allocated);
    out.available_devices = Some((total - allocated).max(0));
    out.unavailable_devices = Some(0);
    out
}

fn complete(pools: &[PoolStatus], now: &Time) -> Condition {
    let mut message = format!("Calculated status for {} pools", pools.len());
    let incomplete = pools.iter().filter(|pool| pool.validation_error.is_some()).count();
    if incomplete > 0 {
        message.push_str(&format!(" ({incomplete} incomplete)"));
    }
    Condition {
        type_: COMPLETE.into(),
        status: "True".into(),
        reason: "CalculationComplete".into(),
        message,
        last_transition_time: now.clone(),
        observed_generation: None,
    }
}

fn saturated(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

static PROCESSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "resourcepoolstatusrequest_controller_requests_processed_total",
        "Total number of ResourcePoolStatusRequests processed",
        Stability::Alpha,
        &["driver_name"],
    )
});

static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "resourcepoolstatusrequest_controller_request_processing_errors_total",
        "Total number of errors encountered while processing ResourcePoolStatusRequests",
        Stability::Alpha,
        &["driver_name"],
    )
});

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "resourcepoolstatusrequest_controller_request_processing_duration_seconds",
        "Time taken to process a ResourcePoolStatusRequest",
        Stability::Alpha,
        &["driver_name"],
        exponential_buckets(0.001, 2.0, 15),
    )
});

#[cfg(test)]
mod tests;
