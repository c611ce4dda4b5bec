//! Jobs whose pods are of use only together ask for being scheduled so: a workload and a group of pods each.
//!
//! ```text
//! Job → Workload (controllerRef) → PodGroup (podGroupTemplateRef) → its pods (schedulingGroup)
//! ```
//! Contract: KEP-5547, upstream's `job_scheduling_manager.go`; only where the gate WorkloadWithJob is on. Where somebody else
//! made a workload for the job, or there is more than one, its pods are scheduled one by one.

use std::sync::Arc;

use component_base::{
    client,
    features::Gate,
    hash::fnv32a,
    informer::{Informer, ListWatch, Object},
    meta::{ObjectKey, is_controlled_by, new_controller_ref},
    names::safe_encode,
    workqueue::WorkQueue,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{Pod, PodSchedulingGroup},
        scheduling::v1alpha2::{
            GangSchedulingPolicy, PodGroup, PodGroupSchedulingPolicy, PodGroupSpec, PodGroupTemplate,
            PodGroupTemplateReference, TypedLocalObjectReference, Workload,
            WorkloadPodGroupTemplateReference, WorkloadSpec,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use serde::Serialize;

use crate::controllers::Context;

/// Longest name of an object, in bytes.
const LONGEST: usize = 253;

/// Workloads and groups of jobs.
#[derive(Clone)]
pub(super) struct Gangs {
    client: Client,
    workloads: Informer<Workload>,
    groups: Informer<PodGroup>,
}

/// What a job has of a kind.
#[derive(Clone, Debug, PartialEq)]
enum Found<K> {
    /// One that is its own.
    Own(Arc<K>),
    /// None.
    Nothing,
    /// What it cannot go by.
    Foreign,
}

impl Gangs {
    /// Where the gate is on. Changes of what belongs to a job lead to the job.
    pub(super) fn new(ctx: &Context, queue: &WorkQueue<ObjectKey>) -> Option<Gangs> {
        if !ctx.settings.gates.has(Gate::WorkloadWithJob) {
            return None;
        }
        let workloads: Informer<Workload> = ctx.informers.get(ListWatch::default());
        let groups: Informer<PodGroup> = ctx.informers.get(ListWatch::default());
        let (of_workload, of_group) = (queue.clone(), queue.clone());
        workloads.on_event(move |event| {
            job_of(&event.object().metadata).into_iter().for_each(|key| of_workload.add(key))
        });
        groups.on_event(move |event| {
            job_of(&event.object().metadata).into_iter().for_each(|key| of_group.add(key))
        });
        Some(Gangs { client: ctx.client.clone(), workloads, groups })
    }

    /// The group that the job's pods belong to, made where there should be one and is none; `tell` is told of a workload
    /// that was made.
    pub(super) async fn ensure(
        &self,
        job: &Job,
        pods: &[Arc<Pod>],
        tell: impl Fn(String),
    ) -> Result<Option<Arc<PodGroup>>, kube::Error> {
        if !is_candidate(job) {
            return Ok(None);
        }
        self.workloads.wait_synced().await;
        self.groups.wait_synced().await;
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let named = |w: &Workload| names_job(w, job);
        let workload = match own(job, self.workloads.store().in_namespace(namespace), named) {
            Found::Own(workload) => workload,
            Found::Nothing if is_new(job, pods) => {
                let Some((made, is_new)) = self.make(&self.workloads, job, workload_for(job)).await? else {
                    return Ok(None);
                };
                if is_new {
                    let (made, name) = (&made.metadata.name, &job.metadata.name);
                    let of = |name: &Option<String>| name.clone().unwrap_or_default();
                    tell(format!("Created Workload {} for Job {}", of(made), of(name)));
                }
                made
            }
            Found::Nothing | Found::Foreign => return Ok(None),
        };
        // A workload of several groups is nothing that is made here.
        let [template] = &workload.spec.pod_group_templates[..] else { return Ok(None) };
        let named = |group: &PodGroup| names_workload(group, &workload);
        match own(job, self.groups.store().in_namespace(namespace), named) {
            Found::Own(group) => Ok(Some(group)),
            Found::Foreign => Ok(None),
            Found::Nothing => {
                let group = group_for(job, &workload, template);
                Ok(self.make(&self.groups, job, group).await?.map(|(group, _)| group))
            }
        }
    }

    /// Makes an object of the job and waits until it is seen; also one that was made before and not seen, unless it is
    /// somebody else's. Whether it was made now.
    async fn make<K>(
        &self,
        informer: &Informer<K>,
        job: &Job,
        object: K,
    ) -> Result<Option<(Arc<K>, bool)>, kube::Error>
    where
        K: Object + Clone + std::fmt::Debug + Serialize,
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> =
            Api::namespaced(self.client.clone(), job.metadata.namespace.as_deref().unwrap_or_default());
        let name = object.meta().name.clone().unwrap_or_default();
        let (made, is_new) = match api.create(&PostParams::default(), &object).await {
            Ok(made) => (made, true),
            Err(error) if client::is_namespace_terminating(&error) => return Ok(None),
            Err(error) if client::is_already_exists(&error) => match api.get_opt(&name).await? {
                Some(there) if is_controlled_by(there.meta(), &job.metadata) => (there, false),
                _ => return Ok(None),
            },
            Err(error) => return Err(error),
        };
        let version = made.meta().resource_version.clone().unwrap_or_default();
        let namespace = made.meta().namespace.clone().unwrap_or_default();
        informer.wait_seen(&ObjectKey::new(namespace, name), &version).await;
        Ok(Some((Arc::new(made), is_new)))
    }
}

/// The job that controls an object.
fn job_of(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = component_base::meta::controller_of(meta).filter(|owner| owner.kind == "Job")?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.as_str()))
}

/// Whether the job's pods are of use only together: each has an index of its own, and all run at once.
fn is_candidate(job: &Job) -> bool {
    let Some(spec) = job.spec.as_ref() else { return false };
    let has_group = spec.template.spec.as_ref().is_some_and(|pod| pod.scheduling_group.is_some());
    spec.parallelism.is_some_and(|parallelism| parallelism > 1)
        && spec.completion_mode.as_deref() == Some("Indexed")
        && spec.completions == spec.parallelism
        && !has_group
}

/// Whether the job has never begun: one that has goes on as it is.
fn is_new(job: &Job, pods: &[Arc<Pod>]) -> bool {
    let Some(status) = job.status.as_ref() else { return pods.is_empty() };
    let was_suspended = status.conditions.iter().flatten().any(|c| c.type_ == "Suspended");
    pods.is_empty()
        && status.start_time.is_none()
        && status.succeeded.unwrap_or(0) == 0
        && status.failed.unwrap_or(0) == 0
        && !was_suspended
}

/// What the job has among these.
fn own<K: kube::Resource>(job: &Job, all: Vec<Arc<K>>, is_named: impl Fn(&K) -> bool) -> Found<K> {
    let mut named = all.into_iter().filter(|one| is_named(one));
    match (named.next(), named.next()) {
        (None, _) => Found::Nothing,
        (Some(one), None) if is_controlled_by(one.meta(), &job.metadata) => Found::Own(one),
        _ => Found::Foreign,
    }
}

fn names_job(workload: &Workload, job: &Job) -> bool {
    let named = workload.spec.controller_ref.as_ref();
    named.is_some_and(|by| {
        by.api_group.as_deref() == Some("batch")
            && by.kind == "Job"
            && Some(&by.name) == job.metadata.name.as_ref()
    })
}

fn names_workload(group: &PodGroup, workload: &Workload) -> bool {
    let named = group.spec.pod_group_template_ref.as_ref().and_then(|by| by.workload.as_ref());
    named.is_some_and(|by| Some(&by.workload_name) == workload.metadata.name.as_ref())
}

/// A name of these parts that no other parts have, shortened where it would be too long.
fn name_of(parts: &[&str], hashed: &str) -> String {
    let hash = safe_encode(&fnv32a(hashed.as_bytes()).to_string());
    let each = (LONGEST - hash.len() - parts.len()) / parts.len();
    let cut = |part: &str| part.chars().take(each).collect::<String>();
    let cut: Vec<String> = parts.iter().map(|part| cut(part)).collect();
    format!("{}-{hash}", cut.join("-"))
}

fn workload_for(job: &Job) -> Workload {
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let min_count = job.spec.as_ref().and_then(|s| s.parallelism).unwrap_or_default();
    let template = PodGroupTemplate {
        name: format!("{name}-pgt-0"),
        scheduling_policy: PodGroupSchedulingPolicy {
            gang: Some(GangSchedulingPolicy { min_count }),
            ..PodGroupSchedulingPolicy::default()
        },
        ..PodGroupTemplate::default()
    };
    Workload {
        metadata: ObjectMeta {
            name: Some(name_of(&[&name], uid)),
            owner_references: Some(vec![new_controller_ref(job)]),
            ..ObjectMeta::default()
        },
        spec: WorkloadSpec {
            controller_ref: Some(TypedLocalObjectReference {
                api_group: Some("batch".to_owned()),
                kind: "Job".to_owned(),
                name,
            }),
            pod_group_templates: vec![template],
        },
    }
}

fn group_for(job: &Job, workload: &Workload, template: &PodGroupTemplate) -> PodGroup {
    let of = workload.metadata.name.clone().unwrap_or_default();
    let mut group = PodGroup::default();
    group.metadata.name = Some(name_of(&[&of, &template.name], &format!("{of}{}", template.name)));
    group.metadata.owner_references = Some(vec![new_controller_ref(job), owner_of(workload)]);
    group.spec = PodGroupSpec {
        pod_group_template_ref: Some(PodGroupTemplateReference {
            workload: Some(WorkloadPodGroupTemplateReference {
                workload_name: of,
                pod_group_template_name: template.name.clone(),
            }),
        }),
        scheduling_policy: template.scheduling_policy.clone(),
        ..PodGroupSpec::default()
    };
    group
}

/// An owner that is no controller and whose deletion waits for nobody.
fn owner_of<K: kube::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// Makes a new pod one of the group.
pub(super) fn join(pod: &mut Pod, group: &PodGroup) {
    let member = PodSchedulingGroup { pod_group_name: group.metadata.name.clone() };
    pod.spec.get_or_insert_default().scheduling_group = Some(member);
    pod.metadata.owner_references.get_or_insert_default().push(owner_of(group));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value) -> Job {
        let mut all = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "template": {"spec":
            {"containers": []}}});
        for (field, value) in spec.as_object().unwrap() {
            all[field] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "d", "uid": "u"}, "spec": all}))
            .unwrap()
    }

    #[test]
    fn only_jobs_whose_pods_all_run_at_once_ask_for_it() {
        let group = json!({"spec": {"containers": [], "schedulingGroup": {"podGroupName": "own"}}});
        for (spec, asks) in [
            (json!({}), true),
            (json!({"parallelism": 1, "completions": 1}), false),
            (json!({"completions": 5}), false),
            (json!({"completions": null}), false),
            (json!({"completionMode": "NonIndexed"}), false),
            (json!({"template": group}), false),
        ] {
            assert_eq!(is_candidate(&job(spec.clone())), asks, "{spec}");
        }
    }

    #[test]
    fn jobs_that_have_begun_go_on_as_they_are() {
        let with = |status: Value| Job { status: serde_json::from_value(status).unwrap(), ..job(json!({})) };
        assert!(is_new(&with(json!({})), &[]) && is_new(&job(json!({})), &[]));
        assert!(!is_new(&with(json!({})), &[Arc::new(Pod::default())]));
        for status in [
            json!({"startTime": "2026-01-01T00:00:00Z"}),
            json!({"failed": 1}),
            json!({"succeeded": 1}),
            json!({"conditions": [{"type": "Suspended", "status": "False"}]}),
        ] {
            assert!(!is_new(&with(status.clone()), &[]), "{status}");
        }
    }

    #[test]
    fn the_group_is_of_the_workload_and_both_of_the_job() {
        let job = job(json!({}));
        let mut workload = workload_for(&job);
        workload.metadata.uid = Some("w".into());
        assert!(names_job(&workload, &job));
        let template = workload.spec.pod_group_templates[0].clone();
        assert_eq!(template.scheduling_policy.gang.as_ref().unwrap().min_count, 3);
        let group = group_for(&job, &workload, &template);
        assert!(names_workload(&group, &workload));
        let owners = group.metadata.owner_references.as_ref().unwrap();
        let kinds: Vec<_> = owners.iter().map(|o| (o.kind.as_str(), o.controller)).collect();
        assert_eq!(kinds, [("Job", Some(true)), ("Workload", None)]);
        let mut pod = Pod::default();
        join(&mut pod, &group);
        assert_eq!(pod.spec.unwrap().scheduling_group.unwrap().pod_group_name, group.metadata.name);
        assert_eq!(pod.metadata.owner_references.unwrap()[0].kind, "PodGroup");
    }

    #[test]
    fn others_workloads_and_several_are_left_alone() {
        let job = job(json!({}));
        let ours = Arc::new(workload_for(&job));
        let mut foreign = workload_for(&job);
        foreign.metadata.owner_references = None;
        let foreign = Arc::new(foreign);
        let find = |all: Vec<Arc<Workload>>| own(&job, all, |w| names_job(w, &job));
        assert_eq!(find(vec![]), Found::Nothing);
        assert_eq!(find(vec![ours.clone()]), Found::Own(ours.clone()));
        assert_eq!(find(vec![foreign.clone()]), Found::Foreign);
        assert_eq!(find(vec![ours, foreign]), Found::Foreign);
    }

    #[test]
    fn names_fit_and_differ() {
        let long = "x".repeat(250);
        assert!(name_of(&[&long], "a").len() <= LONGEST && name_of(&[&long, &long], "a").len() <= LONGEST);
        assert_ne!(name_of(&["j"], "a"), name_of(&["j"], "b"));
        assert!(name_of(&["j"], "a").starts_with("j-"));
    }
}
