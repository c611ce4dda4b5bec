//! Finished jobs go when their time to live is over.
//!
//! Contract: upstream's `ttl-after-finished-controller` (KEP-592). The time is checked once more on what the API
//! server has before a job is deleted, because it may have been prolonged just now.

use std::{sync::LazyLock, time::Duration};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use prometheus::Histogram;

use super::Context;

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&DURATION);
    let jobs: Informer<Job> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ttl_jobs_to_delete");
    let of_job = queue.clone();
    jobs.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. }) && expires(event.object()).is_some() {
            of_job.add(object_key(event.object().as_ref()));
        }
    });
    let (client, clock) = (ctx.client.clone(), ctx.clock.clone());
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-ttl-after-finished-syncs"), move |key| {
        let (jobs, client, clock) = (jobs.clone(), client.clone(), clock.clone());
        async move { sync(&jobs, &client, &clock, &key).await }
    });
}

async fn sync(
    jobs: &Informer<Job>,
    client: &Client,
    clock: &SharedClock,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(expiry) = jobs.store().get(key).and_then(|job| expires(&job)) else { return Ok(Outcome::Done) };
    if let Some(left) = left(expiry, clock.now()) {
        return Ok(Outcome::RequeueAfter(left));
    }
    let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
    let Some(fresh) = api.get_opt(&key.name).await? else { return Ok(Outcome::Done) };
    let Some(expiry) = expires(&fresh) else { return Ok(Outcome::Done) };
    if let Some(left) = left(expiry, clock.now()) {
        return Ok(Outcome::RequeueAfter(left));
    }
    let same = Preconditions { uid: fresh.metadata.uid, resource_version: None };
    match api.delete(&key.name, &DeleteParams::foreground().preconditions(same)).await {
        Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(Outcome::Done),
        Err(e) => Err(e),
        Ok(_) => {
            DURATION.observe(clock.since(expiry).as_secs_f64());
            Ok(Outcome::Done)
        }
    }
}

/// When a job is to go; `None` while it runs, for ever, or goes already.
fn expires(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    end.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(ttl.into())).ok()
}

/// The time until then, `None` if it is over.
fn left(expiry: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(expiry.duration_since(now)).ok().filter(|left| !left.is_zero())
}

static DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "ttl_after_finished_controller_job_deletion_duration_seconds",
        "The time it took to delete the job since it became eligible for deletion",
        Stability::Alpha,
        metrics::exponential_buckets(0.1, 2.0, 14),
    )
});

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn jobs_expire_after_their_end() {
        let job = |ttl: Value, kind: &str, status: &str| -> Job {
            serde_json::from_value(json!({
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": kind, "status": status, "lastTransitionTime": at(100)}]},
            }))
            .unwrap()
        };
        assert_eq!(expires(&job(json!(30), "Complete", "True")), Some(at(130)));
        assert_eq!(expires(&job(json!(0), "Failed", "True")), Some(at(100)));
        assert_eq!(expires(&job(json!(null), "Complete", "True")), None);
        assert_eq!(expires(&job(json!(30), "Complete", "False")), None);
        assert_eq!(expires(&job(json!(30), "Suspended", "True")), None);
        assert_eq!(expires(&Job::default()), None);
    }

    #[test]
    fn time_that_is_over_is_none() {
        assert_eq!(left(at(5), at(3)), Some(Duration::from_secs(2)));
        assert_eq!(left(at(5), at(5)), None);
        assert_eq!(left(at(5), at(6)), None);
    }
}
