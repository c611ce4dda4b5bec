//! CronJobs: a job whenever it is time for one.
//!
//! Contract: upstream's `pkg/controller/cronjob`. A job's name is made from the minute it is for, so that the same
//! time never makes two.

mod plan;

use std::sync::{Arc, LazyLock};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, controller_of, object_key},
    metrics::{self, Stability, exponential_buckets},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::ObjectReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use prometheus::Histogram;

use self::plan::{Plan, Say};
use super::Context;

#[derive(Clone)]
struct Controller {
    client: Client,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
    clock: SharedClock,
}

const BY_CRON: &str = "cronjob";

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&SKEW);
    let controller = Controller {
        client: ctx.client.clone(),
        crons: ctx.informers.get(ListWatch::default()),
        jobs: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("cronjob-controller"),
        clock: ctx.clock.clone(),
    };
    controller.jobs.add_index(BY_CRON, |job| {
        let owner = controller_of(&job.metadata).filter(|o| o.kind == "CronJob");
        owner.map(|o| o.uid.clone()).into_iter().collect()
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("cronjob");
    let (watching, of_cron) = (controller.clone(), queue.clone());
    controller.crons.on_event(move |event| watching.follow(&event, &of_cron));
    let of_job = queue.clone();
    controller.jobs.on_event(move |event: Event<Job>| {
        let meta = &event.object().metadata;
        if let Some(owner) = controller_of(meta).filter(|o| o.kind == "CronJob") {
            of_job.add(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.as_str()));
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-cron-job-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

/// What became of the job for a time.
enum Made {
    /// It was made.
    Now(ObjectReference),
    /// It had been made in an earlier round whose status was lost.
    Before(ObjectReference),
    /// Its name is somebody else's, or the namespace ends.
    Not,
}

static SKEW: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "cronjob_controller_job_creation_skew_duration_seconds",
        "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
        Stability::Stable,
        exponential_buckets(1.0, 2.0, 10),
    )
});

impl Controller {
    /// Queues a CronJob; one that got another schedule waits for a time of that.
    fn follow(&self, event: &Event<CronJob>, queue: &WorkQueue<ObjectKey>) {
        let key = object_key(event.object().as_ref());
        match event {
            Event::Updated { old, new } if plan::reschedules(old, new) => {
                match plan::first_wait(new, self.clock.now()) {
                    Some(wait) => queue.add_after(key, wait),
                    None => {
                        let note = format!("unparseable schedule for cronjob: {}", new.spec.schedule);
                        self.say(new, &Say { warns: true, reason: "UnParseableCronJobSchedule", note });
                    }
                }
            }
            _ => queue.add(key),
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.crons.wait_synced().await;
        self.jobs.wait_synced().await;
        let Some(cron) = self.crons.store().get(key) else { return Ok(Outcome::Done) };
        let jobs = self.jobs.store().by_index(BY_CRON, cron.metadata.uid.as_deref().unwrap_or_default());
        let cron = match plan::is_surprised(&cron, &jobs) {
            // The server may know more than the cache.
            true => match self.api(&key.namespace).get_opt(&key.name).await? {
                Some(newest) => Arc::new(newest),
                None => return Ok(Outcome::Done),
            },
            false => cron,
        };
        let plan = plan::plan(&cron, &jobs, self.clock.now());
        for say in &plan.says {
            self.say(&cron, say);
        }
        self.carry_out(&cron, plan).await
    }

    fn say(&self, cron: &CronJob, say: &Say) {
        let kind = if say.warns { EventType::Warning } else { EventType::Normal };
        self.recorder.event(&reference(cron), kind, say.reason, "Sync", say.note.clone(), None);
    }

    async fn carry_out(&self, cron: &Arc<CronJob>, plan: Plan) -> Result<Outcome, kube::Error> {
        for job in &plan.clean {
            // Old jobs that stay are no reason not to make new ones.
            if let Err(error) = self.delete(cron, job).await {
                let key = object_key(job.as_ref());
                tracing::error!(job = %key, error = chain(&error), "old job not deleted");
            }
        }
        for job in &plan.replace {
            self.delete(cron, job).await?;
        }
        let mut status = plan.status;
        if let Some(job) = plan.create {
            match self.create(cron, &job).await? {
                Made::Now(made) => {
                    if let Some(due) = &plan.scheduled {
                        SKEW.observe(self.clock.since(due.0).as_secs_f64());
                    }
                    status.active.get_or_insert_default().push(made);
                    status.last_schedule_time = plan.scheduled;
                }
                Made::Before(made) => {
                    status.active.get_or_insert_default().push(made);
                    status.last_schedule_time = plan.scheduled;
                }
                Made::Not => {}
            }
        }
        if cron.status.as_ref() != Some(&status) && (cron.status.is_some() || status != Default::default()) {
            let mut new = (**cron).clone();
            new.status = Some(status);
            let key = object_key(cron.as_ref());
            match self.api(&key.namespace).replace_status(&key.name, &PostParams::default(), &new).await {
                Ok(written) => {
                    let version = written.metadata.resource_version.unwrap_or_default();
                    self.crons.wait_seen(&key, &version).await;
                }
                Err(e) if client::is_not_found(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    fn api(&self, namespace: &str) -> Api<CronJob> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create(&self, cron: &CronJob, job: &Job) -> Result<Made, kube::Error> {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), job).await {
            Ok(made) => {
                let name = made.metadata.name.clone().unwrap_or_default();
                self.jobs
                    .wait_seen(
                        &ObjectKey::new(namespace, name.as_str()),
                        made.metadata.resource_version.as_deref().unwrap_or_default(),
                    )
                    .await;
                let note = format!("Created job {name}");
                self.say(cron, &Say { warns: false, reason: "SuccessfulCreate", note });
                Ok(Made::Now(reference(&made)))
            }
            Err(e) if client::is_already_exists(&e) => {
                let there = api.get_opt(job.metadata.name.as_deref().unwrap_or_default()).await?;
                let owner = there.as_ref().and_then(|job| controller_of(&job.metadata));
                let is_ours = owner.is_some_and(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref());
                Ok(there.filter(|_| is_ours).map_or(Made::Not, |job| Made::Before(reference(&job))))
            }
            Err(e) if client::is_namespace_terminating(&e) => Ok(Made::Not),
            Err(e) => {
                self.say(
                    cron,
                    &Say {
                        warns: true,
                        reason: "FailedCreate",
                        note: format!("Error creating job: {}", chain(&e)),
                    },
                );
                Err(e)
            }
        }
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), kube::Error> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => {
                let note = format!("Deleted job {name}");
                self.say(cron, &Say { warns: false, reason: "SuccessfulDelete", note });
                Ok(())
            }
            Err(e) if client::is_not_found(&e) => Ok(()),
            Err(e) => {
                self.say(
                    cron,
                    &Say { warns: true, reason: "FailedDelete", note: format!("Deleted job: {}", chain(&e)) },
                );
                Err(e)
            }
        }
    }
}
