//! What a job's pods mean for it: what is counted, what is made, what goes, and whether it is over. Pure.
//!
//! Every finished pod is counted exactly once, whatever crashes when: its uid is written to the status first, then
//! its finalizer is taken away, and only when that is seen does the uid become part of the number (KEP-2307).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use component_base::meta::{annotation, has_finalizer, is_deleting};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    indexes,
    policy::{self, Verdict},
};
use crate::controllers::{
    pod_disruption::{is_finished, phase},
    replicaset::is_ready,
};

/// The finalizer that keeps a pod until it is counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Which index a pod is of.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often pods of the index of a pod had failed before it was made.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often they had failed without it counting.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Most pods created, deleted or counted in one round.
const BURST: usize = 500;
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;

/// Everything a round comes to. The status is written before finalizers go.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Finished pods in the status whose finalizer may go.
    pub(super) untrack: Vec<Arc<Pod>>,
    /// Pods that end because the job has failed: they count as failed.
    pub(super) kill: Vec<Arc<Pod>>,
    /// Surplus pods, and those that still run when the job has succeeded: they do not count.
    pub(super) remove: Vec<Arc<Pod>>,
    /// Pods to make: their index, where the job has indexes.
    pub(super) create: Vec<Option<i32>>,
    /// Failures by index, where each index has a limit of its own.
    pub(super) failures: BTreeMap<i32, Failures>,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// How often the pods of an index have failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
}

/// A job and its pods, read once.
struct View<'j> {
    job: &'j Job,
    spec: &'j JobSpec,
    now: Timestamp,
    forgets_start: bool,
    active: Vec<Arc<Pod>>,
    terminating: Vec<Arc<Pod>>,
    failed: Vec<Arc<Pod>>,
    succeeded: Vec<Arc<Pod>>,
}

/// When and how a job is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// All earlier creations and deletions have been seen.
    pub(super) settled: bool,
    /// A job that is suspended has no start time any more (`MutableSchedulingDirectivesForSuspendedJobs`).
    pub(super) forgets_start: bool,
    pub(super) now: Timestamp,
}

/// Plans the next step.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], round: Round) -> Plan {
    let Some(spec) = job.spec.as_ref() else { return Plan::default() };
    let mut view = View {
        job,
        spec,
        now: round.now,
        forgets_start: round.forgets_start,
        active: Vec::new(),
        terminating: Vec::new(),
        failed: Vec::new(),
        succeeded: Vec::new(),
    };
    view.sort(pods);
    view.plan(pods, round.settled)
}

/// Whether a job has come to its end.
pub(super) fn is_over(job: &Job) -> bool {
    condition(job.status.as_ref(), "Complete").is_some() || condition(job.status.as_ref(), "Failed").is_some()
}

fn condition<'s>(status: Option<&'s JobStatus>, type_: &str) -> Option<&'s JobCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_ == type_ && c.status == "True")
}

/// The index of a pod.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX).and_then(|text| text.parse().ok()).filter(|i| *i >= 0)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// How a job ends.
struct End {
    succeeds: bool,
    reason: String,
    message: String,
}

impl<'j> View<'j> {
    fn sort(&mut self, pods: &[Arc<Pod>]) {
        let replaces_failed_only = self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some();
        for pod in pods {
            match phase(pod) {
                "Succeeded" => self.succeeded.push(pod.clone()),
                "Failed" => self.failed.push(pod.clone()),
                _ if !is_deleting(&pod.metadata) => self.active.push(pod.clone()),
                _ => {
                    self.terminating.push(pod.clone());
                    // A pod that is deleted may never come to say that it failed.
                    if !replaces_failed_only {
                        self.failed.push(pod.clone());
                    }
                }
            }
        }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    fn plan(&self, pods: &[Arc<Pod>], settled: bool) -> Plan {
        let mut plan = Plan { status: self.job.status.clone().unwrap_or_default(), ..Plan::default() };
        if is_over(self.job) {
            plan.untrack = pods.iter().filter(|p| has_finalizer(&p.metadata, TRACKING)).cloned().collect();
            return plan;
        }
        let suspended = self.spec.suspend == Some(true);
        let told = plan.status.conditions.clone();
        self.clock(&mut plan.status, suspended);
        let tally = self.tally(&mut plan, pods);
        let under_way = condition(Some(&plan.status), "FailureTarget")
            .map(|c| (false, c.clone()))
            .or_else(|| condition(Some(&plan.status), "SuccessCriteriaMet").map(|c| (true, c.clone())));
        let end = match under_way {
            Some((succeeds, c)) => Some(End {
                succeeds,
                reason: c.reason.unwrap_or_default(),
                message: c.message.unwrap_or_default(),
            }),
            None => self.end(&tally, &plan.status),
        };
        match end {
            Some(end) => {
                // Who ends is neither suspended nor resumed any more.
                plan.status.conditions = told;
                self.finish(&mut plan, &tally, &end);
            }
            None if settled => self.manage(&mut plan, &tally, suspended),
            None => {}
        }
        self.figures(&mut plan);
        plan.again = [plan.again, self.deadline(&plan.status)].into_iter().flatten().min();
        plan
    }

    /// Start time and the condition of suspension.
    fn clock(&self, status: &mut JobStatus, suspended: bool) {
        let was = condition(Some(status), "Suspended").is_some();
        if suspended && !was {
            if self.forgets_start {
                status.start_time = None;
            }
            self.say(status, "Suspended", "True", "JobSuspended", "Job suspended");
        } else if !suspended && was {
            self.say(status, "Suspended", "False", "JobResumed", "Job resumed");
            status.start_time = Some(Time(self.now));
        }
        if !suspended && status.start_time.is_none() {
            status.start_time = Some(Time(self.now));
        }
    }

    fn say(&self, status: &mut JobStatus, type_: &str, value: &str, reason: &str, message: &str) {
        let all = status.conditions.get_or_insert_default();
        all.retain(|c| c.type_ != type_);
        all.push(JobCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    /// Brings what is counted up to date.
    fn tally(&self, plan: &mut Plan, pods: &[Arc<Pod>]) -> Tally {
        let status = &mut plan.status;
        let tracked: HashSet<&str> =
            pods.iter().filter(|p| has_finalizer(&p.metadata, TRACKING)).map(|p| uid(p)).collect();
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let (mut waiting_good, good) = split(uncounted.succeeded.unwrap_or_default(), &tracked);
        let (mut waiting_bad, bad) = split(uncounted.failed.unwrap_or_default(), &tracked);
        let mut tally = Tally {
            completed: indexes::parse(
                status.completed_indexes.as_deref().unwrap_or_default(),
                self.completions(),
            ),
            failed_indexes: indexes::parse(
                status.failed_indexes.as_deref().unwrap_or_default(),
                self.completions(),
            ),
            ..Tally::default()
        };
        if !self.is_indexed() {
            status.succeeded = Some(status.succeeded.unwrap_or(0) + count(good));
        }
        status.failed = Some(status.failed.unwrap_or(0) + count(bad));
        let is_new = |p: &&Arc<Pod>| tracked.contains(uid(p));
        for pod in self.succeeded.iter().filter(is_new).take(BURST) {
            match index_of(pod).filter(|_| self.is_indexed()) {
                Some(index) if index < self.completions() => {
                    tally.completed.insert(index);
                }
                _ if self.is_indexed() => {}
                _ => add(&mut waiting_good, uid(pod)),
            }
            plan.untrack.push(pod.clone());
        }
        let new: Vec<(&Arc<Pod>, Verdict)> =
            self.failed.iter().filter(is_new).take(BURST).map(|pod| (pod, self.verdict(pod))).collect();
        for (pod, verdict) in &new {
            match verdict {
                Verdict::FailJob(why) => drop(tally.fails.get_or_insert(why.clone())),
                Verdict::FailIndex => tally.failed_indexes.extend(index_of(pod)),
                Verdict::Ignore | Verdict::Count => {}
            }
        }
        self.fail_indexes(&mut tally);
        let held = self.held(&tally);
        for (pod, verdict) in new {
            let counts = verdict != Verdict::Ignore && self.is_in_range(pod);
            if held.contains(uid(pod)) {
                tally.held.push((pod.clone(), counts));
                continue;
            }
            if counts {
                add(&mut waiting_bad, uid(pod));
            }
            plan.untrack.push(pod.clone());
        }
        let held = tally.held.iter().filter(|(_, counts)| *counts).count();
        tally.failed = status.failed.unwrap_or(0) + count(waiting_bad.len() + held);
        tally.succeeded = if self.is_indexed() {
            count(tally.completed.len())
        } else {
            status.succeeded.unwrap_or(0) + count(waiting_good.len())
        };
        if self.is_indexed() {
            let text = indexes::print(&tally.completed);
            status.completed_indexes = (!text.is_empty()).then_some(text);
            status.succeeded = Some(tally.succeeded);
            if self.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(indexes::print(&tally.failed_indexes));
            }
        }
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: Some(waiting_good), failed: Some(waiting_bad) });
        tally
    }

    /// Whether a pod is of one of the job's indexes, where it has them: others came before there were fewer.
    fn is_in_range(&self, pod: &Pod) -> bool {
        !self.is_indexed() || index_of(pod).is_some_and(|index| index < self.completions())
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        if is_finished(pod) { policy::judge(self.job, pod) } else { Verdict::Count }
    }

    /// Pods that tell how often their index has failed, until another pod of the index does: they stay, and so are not yet
    /// counted.
    fn held(&self, tally: &Tally) -> HashSet<String> {
        if self.spec.backoff_limit_per_index.is_none() {
            return HashSet::new();
        }
        let active: HashSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let mut last: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for pod in &self.failed {
            let open = |i: &i32| {
                *i < self.completions()
                    && !tally.completed.contains(i)
                    && !tally.failed_indexes.contains(i)
                    && !active.contains(i)
            };
            let Some(index) = index_of(pod).filter(open) else { continue };
            let age = |pod: &Pod| (failures_before(pod), finish_time(pod));
            if last.get(&index).is_none_or(|known| age(known) <= age(pod)) {
                last.insert(index, pod);
            }
        }
        last.values().map(|pod| uid(pod).to_owned()).collect()
    }

    /// An index whose pods failed more often than it may has failed.
    fn fail_indexes(&self, tally: &mut Tally) {
        let Some(limit) = self.spec.backoff_limit_per_index else { return };
        let failures = self.failures();
        let over = failures.iter().filter(|(index, n)| n.counted > limit && !tally.completed.contains(index));
        tally.failed_indexes.extend(over.map(|(index, _)| *index));
    }

    /// How often the pods of each index have failed: each pod knows of those before it, so that they may be gone.
    fn failures(&self) -> BTreeMap<i32, Failures> {
        let mut out: BTreeMap<i32, Failures> = BTreeMap::new();
        if self.spec.backoff_limit_per_index.is_none() {
            return out;
        }
        for pod in &self.failed {
            let Some(index) = index_of(pod) else { continue };
            let ignore = policy::judge(self.job, pod) == Verdict::Ignore;
            let known = Failures {
                counted: noted(pod, FAILURES) + i32::from(!ignore),
                ignored: noted(pod, IGNORED) + i32::from(ignore),
            };
            let last = out.entry(index).or_default();
            if known.counted + known.ignored > last.counted + last.ignored {
                *last = known;
            }
        }
        out
    }

    /// Whether the job is to end, and how.
    fn end(&self, tally: &Tally, status: &JobStatus) -> Option<End> {
        let fails = |reason: &str, message: &str| {
            Some(End { succeeds: false, reason: reason.to_owned(), message: message.to_owned() })
        };
        let succeeds = |reason: &str, message: &str| {
            Some(End { succeeds: true, reason: reason.to_owned(), message: message.to_owned() })
        };
        if let Some(why) = &tally.fails {
            return fails("PodFailurePolicy", why);
        }
        if tally.failed > self.backoff_limit() || self.restarts_too_often() {
            return fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.time_left(status).is_some_and(|left| left <= 0) {
            return fails("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some(most) = self.spec.max_failed_indexes
            && count(tally.failed_indexes.len()) > most
        {
            return fails(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        if let Some(wanted) = self.spec.completions
            && !tally.failed_indexes.is_empty()
            && count(tally.failed_indexes.len()) + tally.succeeded >= wanted
        {
            return fails("FailedIndexes", "Job has failed indexes");
        }
        if let Some(why) = policy::success(self.job, &tally.completed).filter(|_| self.is_indexed()) {
            return succeeds("SuccessPolicy", &why);
        }
        let reached = "Reached expected number of succeeded pods";
        match self.spec.completions {
            None if tally.succeeded > 0 && self.active.is_empty() => succeeds("CompletionsReached", reached),
            Some(wanted) if tally.succeeded >= wanted => succeeds("CompletionsReached", reached),
            _ => None,
        }
    }

    fn backoff_limit(&self) -> i32 {
        let usual = if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        self.spec.backoff_limit.unwrap_or(usual)
    }

    /// Containers that restart in place count towards the limit as well.
    fn restarts_too_often(&self) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let limit = self.backoff_limit();
        let restarts: i32 = self
            .active
            .iter()
            .chain(&self.terminating)
            .filter_map(|p| p.status.as_ref())
            .filter(|s| matches!(s.phase.as_deref(), Some("Running" | "Pending")))
            .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten())
            .map(|c| c.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn time_left(&self, status: &JobStatus) -> Option<i64> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| self.spec.suspend != Some(true))?;
        let start = status.start_time.as_ref()?.0.as_second();
        Some(start.saturating_add(seconds) - self.now.as_second())
    }

    fn deadline(&self, status: &JobStatus) -> Option<Duration> {
        let left = self.time_left(status).filter(|l| *l > 0)?;
        u64::try_from(left).ok().map(Duration::from_secs)
    }

    /// First the sign that the job ends, then, when the last pod is gone and counted, the end itself.
    fn finish(&self, plan: &mut Plan, tally: &Tally, end: &End) {
        let (sign, last) =
            if end.succeeds { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        if condition(Some(&plan.status), sign).is_none() {
            self.say(&mut plan.status, sign, "True", &end.reason, &end.message);
        }
        // What is still running when the job has succeeded has not failed.
        let going = if end.succeeds { &mut plan.remove } else { &mut plan.kill };
        going.clone_from(&self.active);
        for (pod, counts) in &tally.held {
            let uncounted = plan.status.uncounted_terminated_pods.get_or_insert_default();
            if *counts {
                add(uncounted.failed.get_or_insert_default(), uid(pod));
            }
            plan.untrack.push(pod.clone());
        }
        if !end.succeeds {
            self.fail_the_rest(plan);
        }
        let uncounted = plan.status.uncounted_terminated_pods.as_ref();
        let all_counted = uncounted.is_none_or(|u| {
            u.succeeded.as_ref().is_none_or(Vec::is_empty) && u.failed.as_ref().is_none_or(Vec::is_empty)
        });
        if !all_counted || !self.active.is_empty() || !self.terminating.is_empty() || !plan.untrack.is_empty()
        {
            return;
        }
        self.say(&mut plan.status, last, "True", &end.reason, &end.message);
        if end.succeeds {
            plan.status.completion_time = Some(Time(self.now));
        }
        plan.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    }

    /// What has not ended when the job fails has failed, however it ends.
    fn fail_the_rest(&self, plan: &mut Plan) {
        let failed = plan.status.uncounted_terminated_pods.get_or_insert_default();
        let failed = failed.failed.get_or_insert_default();
        let known: HashSet<String> = plan.untrack.iter().map(|pod| uid(pod).to_owned()).collect();
        let tracked = |pod: &&Arc<Pod>| has_finalizer(&pod.metadata, TRACKING) && !known.contains(uid(pod));
        for pod in self.active.iter().chain(&self.terminating).filter(tracked) {
            // The others follow when these are counted.
            if plan.untrack.len() >= BURST {
                break;
            }
            if self.is_in_range(pod) && policy::judge(self.job, pod) != Verdict::Ignore {
                add(failed, uid(pod));
            }
            plan.untrack.push(pod.clone());
        }
    }

    /// Brings the number of active pods to what it should be.
    fn manage(&self, plan: &mut Plan, tally: &Tally, suspended: bool) {
        if suspended {
            plan.remove.clone_from(&self.active);
            return;
        }
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        if self.is_indexed() {
            return self.manage_indexed(plan, tally, parallelism);
        }
        let active = self.active.len();
        let wanted = match self.spec.completions {
            // The first success says that the work is done: no more begin, the rest may end.
            None if tally.succeeded > 0 => active,
            None => parallelism,
            Some(n) => parallelism.min(usize::try_from(n - tally.succeeded).unwrap_or(0)),
        };
        if active > wanted {
            plan.remove = self.least_useful(active - wanted, |_| false);
            return;
        }
        let occupied = active + self.held_by_terminating();
        let missing = wanted.saturating_sub(occupied).min(BURST);
        match self.rest(&self.failed, &self.succeeded).filter(|_| missing > 0) {
            Some(wait) => plan.again = Some(wait),
            None => plan.create = vec![None; missing],
        }
    }

    fn held_by_terminating(&self) -> usize {
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some();
        if waits { self.terminating.len() } else { 0 }
    }

    fn manage_indexed(&self, plan: &mut Plan, tally: &Tally, parallelism: usize) {
        let mut seen: BTreeSet<i32> = BTreeSet::new();
        let useless = |index: i32| {
            index >= self.completions()
                || tally.completed.contains(&index)
                || tally.failed_indexes.contains(&index)
        };
        let mut surplus: HashSet<String> = HashSet::new();
        for pod in &self.active {
            // Two pods of one index, or a pod of an index that is done, help nobody.
            if index_of(pod).is_none_or(|i| useless(i) || !seen.insert(i)) {
                surplus.insert(uid(pod).to_owned());
            }
        }
        let good = self.active.len() - surplus.len();
        let too_many = good.saturating_sub(parallelism);
        if too_many + surplus.len() > 0 {
            plan.remove = self.least_useful(too_many + surplus.len(), |p| surplus.contains(uid(p)));
        }
        if too_many > 0 {
            return;
        }
        plan.failures = self.failures();
        let held: BTreeSet<i32> = if self.held_by_terminating() > 0 {
            self.terminating.iter().filter_map(|p| index_of(p)).collect()
        } else {
            BTreeSet::new()
        };
        let room = parallelism.saturating_sub(good + held.len()).min(BURST);
        // Who comes next waits for its turn: those after it do not begin instead.
        let free = (0..self.completions())
            .filter(|i| !useless(*i) && !seen.contains(i) && !held.contains(i))
            .take(room);
        for index in free {
            let rest = if self.spec.backoff_limit_per_index.is_some() {
                self.rest_of(index)
            } else {
                self.rest(&self.failed, &self.succeeded)
            };
            match rest {
                None => plan.create.push(Some(index)),
                Some(wait) => plan.again = Some(plan.again.map_or(wait, |a| a.min(wait))),
            }
        }
    }

    /// How long an index waits after its last failure: its pods know how many there were before.
    fn rest_of(&self, index: i32) -> Option<Duration> {
        let of_index = self.failed.iter().filter(|pod| index_of(pod) == Some(index));
        let last = of_index.max_by_key(|pod| (failures_before(pod), finish_time(pod)))?;
        let count = usize::try_from(failures_before(last)).unwrap_or(0).saturating_add(1);
        self.rest_after(count, finish_time(last)?)
    }

    /// How long to wait before the next pod: 10 s after a failure, doubled with every further one since the last
    /// success.
    fn rest(&self, failed: &[Arc<Pod>], succeeded: &[Arc<Pod>]) -> Option<Duration> {
        let last_success = succeeded.iter().filter_map(|p| finish_time(p)).max();
        let since: Vec<i64> = failed
            .iter()
            .filter_map(|p| finish_time(p))
            .filter(|t| last_success.is_none_or(|s| *t > s))
            .collect();
        self.rest_after(since.len(), *since.iter().max()?)
    }

    /// What is left of the rest after so many failures, the last of them then.
    fn rest_after(&self, count: usize, last: i64) -> Option<Duration> {
        let doublings = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let delay = (FIRST_BACKOFF << doublings).min(LONGEST_BACKOFF);
        let left = last.saturating_add(delay) - self.now.as_second();
        u64::try_from(left).ok().filter(|l| *l > 0).map(Duration::from_secs)
    }

    /// Which active pods go first: those `first` names, then those that have done the least.
    fn least_useful(&self, number: usize, first: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let mut all = self.active.clone();
        all.sort_by_cached_key(|p| {
            let created = p.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
            let placed = p.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
            (!first(p), placed, phase(p) == "Running", is_ready(p), std::cmp::Reverse((index_of(p), created)))
        });
        all.truncate(number);
        all
    }

    fn figures(&self, plan: &mut Plan) {
        let leaving: HashSet<&str> = plan.kill.iter().chain(&plan.remove).map(|p| uid(p)).collect();
        let stays = |p: &&Arc<Pod>| !leaving.contains(uid(p));
        plan.status.active = Some(count(self.active.iter().filter(stays).count()));
        plan.status.ready = Some(count(self.active.iter().filter(stays).filter(|p| is_ready(p)).count()));
        plan.status.terminating = Some(count(self.terminating.len() + leaving.len()));
        plan.status.succeeded.get_or_insert(0);
        plan.status.failed.get_or_insert(0);
    }
}

/// What is counted so far.
#[derive(Debug, Default)]
struct Tally {
    succeeded: i32,
    failed: i32,
    completed: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    /// Why the policy fails the job.
    fails: Option<String>,
    /// Failed pods that are not yet counted, each with whether it will be.
    held: Vec<(Arc<Pod>, bool)>,
}

/// Uids that are still tracked, and how many are not any more.
fn split(uids: Vec<String>, tracked: &HashSet<&str>) -> (Vec<String>, usize) {
    let (waiting, done): (Vec<String>, Vec<String>) =
        uids.into_iter().partition(|uid| tracked.contains(uid.as_str()));
    (waiting, done.len())
}

fn add(list: &mut Vec<String>, uid: &str) {
    if !list.iter().any(|known| known == uid) {
        list.push(uid.to_owned());
    }
}

fn noted(pod: &Pod, key: &str) -> i32 {
    annotation(&pod.metadata, key).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How often pods of its index had failed before a pod was made, whether that counted or not.
fn failures_before(pod: &Pod) -> i32 {
    noted(pod, FAILURES).saturating_add(noted(pod, IGNORED))
}

/// When a pod ended: its last container, if all have; when it was not ready any more; when its deletion was asked for; or
/// else, when it was made.
fn finish_time(pod: &Pod) -> Option<i64> {
    let of_containers = containers_ended(pod);
    let unready = || {
        let mut all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = all.find(|condition| condition.type_ == "Ready" && condition.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0.as_second())
    };
    let meta = &pod.metadata;
    let asked = || {
        let last = meta.deletion_timestamp.as_ref()?.0.as_second();
        Some(last.saturating_sub(meta.deletion_grace_period_seconds.unwrap_or(0)))
    };
    let made = || meta.creation_timestamp.as_ref().map(|time| time.0.as_second());
    of_containers.or_else(unready).or_else(asked).or_else(made)
}

/// When the last container of a pod ended, sidecars among them; nothing while one has not.
fn containers_ended(pod: &Pod) -> Option<i64> {
    let status = pod.status.as_ref()?;
    let spec = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: HashSet<&str> = spec
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let init = status.init_container_statuses.iter().flatten();
    let init = init.filter(|status| sidecars.contains(status.name.as_str()));
    let all = status.container_statuses.iter().flatten().chain(init);
    let ends: Option<Vec<i64>> = all
        .map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0.as_second()))
        .collect();
    ends?.into_iter().max()
}

/// Whether the job's completion mode is one there is.
pub(super) fn knows_mode(job: &Job) -> bool {
    let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref());
    mode.is_none_or(|mode| matches!(mode, "NonIndexed" | "Indexed"))
}

#[cfg(test)]
mod tests;
