//! Jobs: pods that run to their end, counted exactly once.
//!
//! Contract: upstream's `pkg/controller/job`. The order of writes is the point: status with the uids of finished
//! pods, then their finalizers, then (seen on the watch) the numbers.

mod gang;
mod indexes;
mod metrics;
mod plan;
mod policy;

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    client,
    clock::SharedClock,
    events::EventType,
    features::Gate,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, controller_of, has_finalizer, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    scheduling::v1alpha2::PodGroup,
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use self::{
    gang::Gangs,
    metrics::Action,
    plan::{FAILURES, Failures, IGNORED, INDEX, Plan, Round, TRACKING},
};
use super::{
    Context, enqueue_changes,
    pod_control::{self, PodControl},
    retry,
};

#[derive(Clone)]
struct Controller {
    client: Client,
    jobs: Informer<Job>,
    control: PodControl<Job>,
    gangs: Option<Gangs>,
    clock: SharedClock,
    /// Whether a job that is suspended loses its start time.
    forgets_start: bool,
}

pub(super) fn start(ctx: &Context) {
    let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("job", retry::JOBS);
    let controller = Controller {
        client: ctx.client.clone(),
        jobs: ctx.informers.get(ListWatch::default()),
        control: PodControl::new(ctx, "job-controller").holding(TRACKING),
        gangs: Gangs::new(ctx, &queue),
        clock: ctx.clock.clone(),
        forgets_start: ctx.settings.gates.has(Gate::MutableSchedulingDirectivesForSuspendedJobs),
    };
    enqueue_changes(&controller.jobs, &queue);
    controller.measure();
    let jobs = controller.jobs.clone();
    controller.control.watch(&queue, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = jobs.store().in_namespace(namespace).into_iter().filter(|job| selects(job, pod));
        found.map(|job| object_key(job.as_ref())).collect()
    });
    controller.watch_orphans(ctx);
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-job-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

/// Whose a job is that another controller looks after.
fn managed_elsewhere(job: &Job) -> Option<&str> {
    job.spec.as_ref().and_then(|s| s.managed_by.as_deref()).filter(|by| *by != "kubernetes.io/job-controller")
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = LabelSelector::from_api(job.spec.as_ref().and_then(|s| s.selector.as_ref()));
    selector.is_ok_and(|s| !s.is_everything() && s.matches(&pod.metadata.labels))
}

impl Controller {
    /// Counts what comes and goes.
    fn measure(&self) {
        self.jobs.on_event(|event| {
            if let Event::Added { new, .. } = event
                && let Some(other) = managed_elsewhere(&new)
            {
                metrics::external(other);
            }
        });
        self.control.pods().on_event(|event| match &event {
            Event::Added { new, .. } => metrics::tracked(None, Some(new)),
            Event::Updated { old, new } => metrics::tracked(Some(old), Some(new)),
            Event::Deleted { last, .. } => metrics::tracked(Some(last), None),
        });
    }

    /// Pods of no job, and those whose job is gone or another one of the same name, are let go: nobody will count them.
    fn watch_orphans(&self, ctx: &Context) {
        let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("job_orphan_pod", retry::JOBS);
        let of_pod = queue.clone();
        self.control.pods().on_event(move |event: Event<Pod>| {
            let pod = event.object();
            if !matches!(event, Event::Deleted { .. }) && has_finalizer(&pod.metadata, TRACKING) {
                of_pod.add(object_key(pod.as_ref()));
            }
        });
        let (pods, of_job) = (self.control.pods().clone(), queue.clone());
        self.jobs.on_event(move |event| {
            if let Event::Deleted { last, .. } = &event {
                let namespace = last.metadata.namespace.as_deref().unwrap_or_default();
                for pod in pods.store().in_namespace(namespace) {
                    if has_finalizer(&pod.metadata, TRACKING) {
                        of_job.add(object_key(pod.as_ref()));
                    }
                }
            }
        });
        let controller = self.clone();
        run_workers(&ctx.tasks, &queue, 1, move |key| {
            let controller = controller.clone();
            async move { controller.let_go(&key).await }
        });
    }

    async fn let_go(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.jobs.wait_synced().await;
        let Some(pod) = self.control.pods().store().get(key) else { return Ok(Outcome::Done) };
        let Some(owner) = controller_of(&pod.metadata) else {
            // A job may be adopting it just now, and then has to count it.
            let unchanged = pod.metadata.resource_version.clone();
            return self.untrack_as(&pod, unchanged).await.map(|()| Outcome::Done);
        };
        if owner.kind != "Job" || owner.api_version != "batch/v1" {
            return Ok(Outcome::Done);
        }
        let cached = self.jobs.store().get(&ObjectKey::new(key.namespace.clone(), owner.name.as_str()));
        if cached.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid)) {
            return Ok(Outcome::Done);
        }
        // The job may be newer than the cache.
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let fresh = api.get_opt(&owner.name).await?;
        if fresh.is_none_or(|job| job.metadata.uid.as_ref() != Some(&owner.uid)) {
            self.untrack(&pod).await?;
        }
        Ok(Outcome::Done)
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.jobs.wait_synced().await;
        self.control.pods().wait_synced().await;
        let Some(job) = self.jobs.store().get(key) else { return Ok(Outcome::Done) };
        if managed_elsewhere(&job).is_some() {
            return Ok(Outcome::Done);
        }
        if !plan::knows_mode(&job) {
            let note = "Skipped Job sync because completion mode is unknown";
            self.control.tell(&job, EventType::Warning, "UnknownCompletionMode", "Sync", note.to_owned());
            return Ok(Outcome::Done);
        }
        let settled = self.control.settled(&job) && job.metadata.deletion_timestamp.is_none();
        let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
        if selector.is_none() {
            // Its pods could not be found again, and it would make them without end.
            return Ok(Outcome::Done);
        }
        let Ok(selector) = LabelSelector::from_api(selector) else { return Ok(Outcome::Done) };
        let (started, mut action) = (self.clock.now(), Action::Reconciling);
        let done = self.look(&job, &selector, settled, &mut action).await;
        let took = self.clock.since(started).as_secs_f64();
        metrics::synced(&job, action, done.is_ok(), took);
        done
    }

    /// Looks at a job and its pods; tells in `action` what came of it.
    async fn look(
        &self,
        job: &Arc<Job>,
        selector: &LabelSelector,
        settled: bool,
        action: &mut Action,
    ) -> Result<Outcome, kube::Error> {
        let pods = self.control.claim(job, selector).await?;
        if job.metadata.deletion_timestamp.is_some() {
            return self.end(job, &pods).await;
        }
        // Before the pods, which are to name it.
        let group = match &self.gangs {
            Some(gangs) if !plan::is_over(job) => {
                gangs.ensure(job, &pods, |note| self.tell_made(job, note)).await?
            }
            _ => None,
        };
        let round = Round { settled, forgets_start: self.forgets_start, now: self.clock.now() };
        let plan = plan::plan(job, &pods, round);
        *action = Action::of(&plan);
        self.carry_out(job, plan, group.as_deref()).await
    }

    /// The pods of a job being deleted are let go, so that the collector can take them.
    async fn end(&self, job: &Job, pods: &[Arc<Pod>]) -> Result<Outcome, kube::Error> {
        self.control.forget(job);
        for pod in pods {
            self.untrack(pod).await?;
        }
        Ok(Outcome::Done)
    }

    fn tell_made(&self, job: &Job, note: String) {
        self.control.tell(job, EventType::Normal, "WorkloadCreated", "Create", note);
    }

    async fn carry_out(
        &self,
        job: &Arc<Job>,
        plan: Plan,
        group: Option<&PodGroup>,
    ) -> Result<Outcome, kube::Error> {
        self.write_status(job, &plan).await?;
        for pod in &plan.untrack {
            self.untrack(pod).await?;
        }
        if !plan.kill.is_empty() {
            self.control.delete(job, &plan.kill).await?;
        }
        if !plan.remove.is_empty() {
            for pod in &plan.remove {
                self.untrack(pod).await?;
            }
            self.control.delete(job, &plan.remove).await?;
        }
        if !plan.create.is_empty() {
            let mut pods: Vec<Pod> =
                plan.create.iter().map(|index| pod_for(job, *index, &plan.failures)).collect();
            if let Some(group) = group {
                pods.iter_mut().for_each(|pod| gang::join(pod, group));
            }
            let created = self.control.create(job, pods).await;
            metrics::created(job, &created);
            if let Some(error) = created.error {
                return Err(error);
            }
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    /// Writes the status if it changed, and waits until it is seen: the numbers are made from it.
    async fn write_status(&self, job: &Arc<Job>, plan: &Plan) -> Result<(), kube::Error> {
        if job.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let mut new = (**job).clone();
        new.status = Some(plan.status.clone());
        let namespace = job.metadata.namespace.clone().unwrap_or_default();
        let name = job.metadata.name.clone().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        match api.replace_status(&name, &PostParams::default(), &new).await {
            Ok(written) => {
                let version = written.metadata.resource_version.unwrap_or_default();
                self.jobs.wait_seen(&ObjectKey::new(namespace, name), &version).await;
                metrics::counted(job, &new);
                self.announce(job, &new);
                Ok(())
            }
            Err(e) if client::is_not_found(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn announce(&self, old: &Job, new: &Job) {
        let found = |job: &Job, type_: &str, value: &str| {
            let all = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
            all.into_iter().find(|c| c.type_ == type_ && c.status == value).cloned()
        };
        let became = |type_: &str, value: &str| {
            found(new, type_, value).filter(|_| found(old, type_, value).is_none())
        };
        let normal = |reason: &str, note: &str| {
            self.control.tell(new, EventType::Normal, reason, "Update", note.to_owned());
        };
        if became("Complete", "True").is_some() {
            let wanted = new.spec.as_ref().and_then(|s| s.completions);
            if wanted.is_some() && new.status.as_ref().and_then(|s| s.succeeded) > wanted {
                let note = "Too many succeeded pods running after completion count reached";
                self.control.tell(new, EventType::Warning, "TooManySucceededPods", "Update", note.to_owned());
            }
            normal("Completed", "Job completed");
        }
        if became("Suspended", "True").is_some() {
            normal("Suspended", "Job suspended");
        }
        if became("Suspended", "False").is_some() {
            normal("Resumed", "Job resumed");
        }
        if let Some(why) = became("Failed", "True") {
            let (reason, note) = (why.reason.unwrap_or_default(), why.message.unwrap_or_default());
            self.control.tell(new, EventType::Warning, &reason, "Update", note);
        }
    }

    async fn untrack(&self, pod: &Pod) -> Result<(), kube::Error> {
        self.untrack_as(pod, None).await
    }

    /// Takes the finalizer from a pod, of exactly this version where one is given.
    async fn untrack_as(&self, pod: &Pod, version: Option<String>) -> Result<(), kube::Error> {
        if !has_finalizer(&pod.metadata, TRACKING) {
            return Ok(());
        }
        let kept: Vec<&String> =
            pod.metadata.finalizers.iter().flatten().filter(|f| *f != TRACKING).collect();
        let mut change = json!({"uid": pod.metadata.uid, "finalizers": kept});
        if let Some(version) = version {
            change["resourceVersion"] = version.into();
        }
        self.control.patch(pod, json!({"metadata": change})).await
    }
}

/// A pod of the job, for one of its indexes where it has them.
fn pod_for(job: &Arc<Job>, index: Option<i32>, failures: &BTreeMap<i32, Failures>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pod_control::from_template(&template, job.as_ref());
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let text = index.to_string();
    pod_control::label(&mut pod, INDEX, text.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), text);
    if job.spec.as_ref().is_some_and(|s| s.backoff_limit_per_index.is_some()) {
        let before = failures.get(&index).copied().unwrap_or_default();
        annotations.insert(FAILURES.to_owned(), before.counted.to_string());
        if before.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), before.ignored.to_string());
        }
    }
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        tell_index(container);
    }
    pod
}

/// Gives a container the index as an environment variable, unless it sets one of that name itself.
fn tell_index(container: &mut Container) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|e| e.name == NAME) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: NAME.to_owned(), value: None, value_from: Some(source) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_an_index_knows_it() {
        let job: Arc<Job> = Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}}}))
            .unwrap(),
        );
        let pod = pod_for(&job, Some(3), &BTreeMap::new());
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!(plan::index_of(&pod), Some(3));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
        let mut limited = (*job).clone();
        limited.spec.as_mut().unwrap().backoff_limit_per_index = Some(1);
        let before = BTreeMap::from([(3, Failures { counted: 2, ignored: 1 })]);
        let of = |index: i32, key: &str| {
            let pod = pod_for(&Arc::new(limited.clone()), Some(index), &before);
            pod.metadata.annotations.and_then(|a| a.get(key).cloned())
        };
        assert_eq!((of(3, FAILURES), of(3, IGNORED)), (Some("2".into()), Some("1".into())));
        assert_eq!((of(4, FAILURES), of(4, IGNORED)), (Some("0".into()), None));
        let plain = pod_for(&job, None, &BTreeMap::new());
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("j-"));
        assert!(has_finalizer(&plain.metadata, TRACKING) && plan::index_of(&plain).is_none());
    }
}
