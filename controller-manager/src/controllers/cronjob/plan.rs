//! Which job a CronJob's clock asks for now, which old ones go, and what its status says. Pure.

use std::{collections::HashSet, sync::Arc, time::Duration};

use component_base::{
    cron::{Schedule, zone_of},
    meta::{is_deleting, new_controller_ref},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobStatus, Job},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// Missed times from which a warning is due.
const MANY: usize = 100;
/// Jobs start a little after their minute has begun, so that clocks that differ a little do not matter.
const AFTER: Duration = Duration::from_millis(100);

/// What is said of schedules that name a zone themselves leads here.
const ABOUT_ZONES: &str = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
/// What is wrong with a schedule whose time never comes.
const NEVER: &str = "time difference between two schedules is less than 1 second";

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Say {
    pub(super) warns: bool,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

/// What a round comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Finished jobs beyond the limits of the history.
    pub(super) clean: Vec<Arc<Job>>,
    /// Active jobs that make room for the next.
    pub(super) replace: Vec<Arc<Job>>,
    pub(super) create: Option<Job>,
    /// The time the created job is for.
    pub(super) scheduled: Option<Time>,
    /// Without the job to be created.
    pub(super) status: CronJobStatus,
    pub(super) says: Vec<Say>,
    pub(super) again: Option<Duration>,
}

impl Plan {
    fn say(&mut self, reason: &'static str, note: String) {
        self.says.push(Say { warns: false, reason, note });
    }

    fn warn(&mut self, reason: &'static str, note: String) {
        self.says.push(Say { warns: true, reason, note });
    }
}

fn end_of(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is = |type_: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    if is("Complete") { Some("Complete") } else { is("Failed").then_some("Failed") }
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// Plans the next step.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    follow(&mut plan, jobs);
    clean(&mut plan, cron, jobs);
    let spec = &cron.spec;
    if is_deleting(&cron.metadata) {
        return plan;
    }
    let zone = match spec.time_zone.as_deref().map(zone_of).transpose() {
        Ok(zone) => zone.unwrap_or_else(TimeZone::system),
        Err(_) => {
            let given = spec.time_zone.as_deref().unwrap_or_default();
            plan.warn("UnknownTimeZone", format!("invalid timeZone: {given:?}: unknown time zone {given}"));
            return plan;
        }
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    if spec.schedule.contains("TZ") {
        let note = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see {ABOUT_ZONES} for more details",
            spec.schedule
        );
        plan.warn("UnsupportedSchedule", note);
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            plan.warn("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule));
            return plan;
        }
    };
    let Some(wait) = wait(cron, &schedule, &zone, now) else {
        let note = format!("invalid schedule: {} : {NEVER}", spec.schedule);
        plan.warn("InvalidSchedule", note);
        return plan;
    };
    plan.again = Some(wait);
    if let Some(time) = due(&mut plan, cron, &schedule, &zone, now) {
        begin(&mut plan, cron, jobs, time);
    }
    plan
}

/// Whether a change gives a CronJob other times.
pub(super) fn reschedules(old: &CronJob, new: &CronJob) -> bool {
    old.spec.schedule != new.spec.schedule || old.spec.time_zone != new.spec.time_zone
}

/// How long it is until the next time of a schedule; `None` for a schedule that cannot be read. One whose time never comes
/// is looked at at once.
pub(super) fn first_wait(cron: &CronJob, now: Timestamp) -> Option<Duration> {
    let schedule = Schedule::parse(&cron.spec.schedule).ok()?;
    let zone = cron.spec.time_zone.as_deref().and_then(|zone| zone_of(zone).ok());
    Some(wait(cron, &schedule, &zone.unwrap_or_else(TimeZone::system), now).unwrap_or(Duration::ZERO))
}

/// How long it is until the next time of a schedule, counted on from its latest one, which for `@every` is not the present;
/// `None` if there is none.
fn wait(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Duration> {
    let last = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let since = last.or(cron.metadata.creation_timestamp.as_ref()).map_or(now, |t| t.0);
    let latest = (since <= now).then(|| schedule.latest(since, now, zone, 0)).flatten();
    let next = schedule.next(latest.map_or(since, |(time, _)| time), zone)?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + AFTER)
}

/// Whether there are jobs under way that the CronJob does not know as its own.
pub(super) fn is_surprised(cron: &CronJob, jobs: &[Arc<Job>]) -> bool {
    let active = cron.status.iter().flat_map(|s| s.active.iter().flatten());
    let known: HashSet<&str> = active.filter_map(|r| r.uid.as_deref()).collect();
    let is_known = |job: &Job| known.contains(job.metadata.uid.as_deref().unwrap_or_default());
    jobs.iter().any(|job| end_of(job).is_none() && !is_known(job))
}

/// Keeps the list of active jobs true. Jobs that others made count for nothing but what they left behind.
fn follow(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let mut active = plan.status.active.take().unwrap_or_default();
    let known: HashSet<String> = active.iter().filter_map(|r| r.uid.clone()).collect();
    for job in jobs {
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let end = end_of(job);
        match (known.contains(&uid), end) {
            (true, Some(how)) => {
                active.retain(|r| r.uid.as_deref() != Some(&uid));
                plan.say("SawCompletedJob", format!("Saw completed job: {}, condition: {how}", name(job)));
            }
            (false, None) => {
                let note = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                plan.warn("UnexpectedJob", note);
            }
            _ => {}
        }
        if end == Some("Complete") {
            let ended = job.status.as_ref().and_then(|s| s.completion_time.clone());
            let last = plan.status.last_successful_time.as_ref();
            if ended.as_ref().is_some_and(|e| last.is_none_or(|l| l.0 < e.0)) {
                plan.status.last_successful_time = ended;
            }
        }
    }
    active.retain(|r| {
        let there = jobs.iter().any(|j| j.metadata.uid == r.uid);
        if !there {
            let gone = r.name.clone().unwrap_or_default();
            plan.says.push(Say {
                warns: false,
                reason: "MissingJob",
                note: format!("Active job went missing: {gone}"),
            });
        }
        there
    });
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Finished jobs beyond the limits go, the oldest first.
fn clean(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>]) {
    let spec = &cron.spec;
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    for (how, limit) in limits {
        let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
        let mut ended: Vec<&Arc<Job>> =
            jobs.iter().filter(|j| end_of(j) == Some(how) && !is_deleting(&j.metadata)).collect();
        ended.sort_by_key(|j| {
            let started = j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
            // One that never started counts as the newest.
            (started.is_none(), started, name(j).to_owned())
        });
        plan.clean.extend(ended.iter().take(ended.len().saturating_sub(limit)).map(|j| Arc::clone(j)));
    }
}

/// The time a job is due for, if there is one that was not served and is not too long ago.
fn due(
    plan: &mut Plan,
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<Timestamp> {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let mut since = plan.status.last_schedule_time.as_ref().map_or(created, |t| t.0);
    let deadline = cron.spec.starting_deadline_seconds;
    if let Some(seconds) = deadline {
        let earliest = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(since);
        since = since.max(earliest);
    }
    if since > now {
        return None;
    }
    let (latest, many) = schedule.latest(since, now, zone, MANY)?;
    if many {
        let note =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", note.to_owned());
    }
    let late = deadline.is_some_and(|seconds| latest.as_second().saturating_add(seconds) < now.as_second());
    if late {
        let note =
            format!("Missed scheduled time to start a job: {}", latest.strftime("%a, %d %b %Y %H:%M:%S %z"));
        plan.warn("MissSchedule", note);
        return None;
    }
    Some(latest)
}

fn begin(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>], time: Timestamp) {
    let job = job_for(cron, time);
    let made = name(&job).to_owned();
    let is_active = plan.status.active.iter().flatten().any(|r| r.name.as_deref() == Some(&made));
    if is_active || plan.status.last_schedule_time.as_ref().is_some_and(|t| t.0 >= time) {
        return;
    }
    let policy = cron.spec.concurrency_policy.as_deref().unwrap_or("Allow");
    let active: HashSet<String> = plan.status.active.iter().flatten().filter_map(|r| r.uid.clone()).collect();
    if policy == "Forbid" && !active.is_empty() {
        let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.say("JobAlreadyActive", note.to_owned());
        return;
    }
    if policy == "Replace" {
        let is_active = |j: &&Arc<Job>| j.metadata.uid.as_ref().is_some_and(|u| active.contains(u));
        plan.replace = jobs.iter().filter(is_active).cloned().collect();
        plan.status.active = None;
    }
    plan.create = Some(job);
    plan.scheduled = Some(Time(time));
}

/// A time as clocks show it where the schedule is of, with their offset.
fn local(cron: &CronJob, time: Timestamp) -> String {
    let zone = cron.spec.time_zone.as_deref().and_then(|zone| zone_of(zone).ok()).unwrap_or(TimeZone::UTC);
    let zoned = time.to_zoned(zone);
    let offset = if zoned.offset().is_zero() { "Z" } else { "%:z" };
    zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string()
}

/// The job for a time: `<name>-<minutes since 1970>`.
fn job_for(cron: &CronJob, time: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut job = Job { spec: template.spec, ..Job::default() };
    let minutes = time.as_second() / 60;
    job.metadata.name = Some(format!("{}-{minutes}", cron.metadata.name.as_deref().unwrap_or_default()));
    job.metadata.labels = meta.labels;
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".to_owned(), local(cron, time));
    job.metadata.annotations = Some(annotations);
    job.metadata.owner_references = Some(vec![new_controller_ref(cron)]);
    job
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut all = json!({"schedule": "*/10 * * * *", "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"template": {}}}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "c", "uid": "c", "creationTimestamp": "2026-01-01T00:05:00Z"},
            "spec": all, "status": status}),
        )
        .unwrap()
    }

    fn job(name: &str, end: Option<&str>, started: &str) -> Arc<Job> {
        let conditions: Vec<Value> = end.iter().map(|e| json!({"type": e, "status": "True"})).collect();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "uid": name}, "status": {"startTime": started,
                "completionTime": started, "conditions": conditions}}),
            )
            .unwrap(),
        )
    }

    fn run(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        plan(cron, jobs, now.parse().unwrap())
    }

    fn made(plan: &Plan) -> Option<String> {
        plan.create.as_ref().map(|j| name(j).to_owned())
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.says.iter().map(|s| s.reason).collect()
    }

    #[test]
    fn a_job_is_made_when_its_time_has_come_and_once() {
        let early = run(&cron(json!({}), json!({})), &[], "2026-01-01T00:09:00Z");
        assert_eq!((made(&early), early.again), (None, Some(Duration::from_millis(60_100))));
        let plan = run(&cron(json!({}), json!({})), &[], "2026-01-01T00:10:01Z");
        assert_eq!(made(&plan).as_deref(), Some("c-29453770"));
        let served = cron(json!({}), json!({"lastScheduleTime": "2026-01-01T00:10:00Z"}));
        assert_eq!(made(&run(&served, &[], "2026-01-01T00:10:02Z")), None);
    }

    #[test]
    fn jobs_say_what_time_they_are_for_where_their_schedule_is_of() {
        let shown = |zone: Value| {
            let plan = run(
                &cron(json!({"timeZone": zone, "schedule": "*/5 * * * *"}), json!({})),
                &[],
                "2026-01-01T00:10:01Z",
            );
            let job = plan.create.unwrap();
            job.metadata.annotations.unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"].clone()
        };
        assert_eq!(shown(json!("Etc/UTC")), "2026-01-01T00:10:00Z");
        assert_eq!(shown(json!("Asia/Kathmandu")), "2026-01-01T05:55:00+05:45");
        assert_eq!(shown(json!("America/New_York")), "2025-12-31T19:10:00-05:00");
        assert_eq!(shown(Value::Null), "2026-01-01T00:10:00Z");
    }

    #[test]
    fn another_schedule_begins_with_its_next_time() {
        let now: Timestamp = "2026-01-01T00:07:00Z".parse().unwrap();
        let of =
            |schedule: &str, zone: &str| cron(json!({"schedule": schedule, "timeZone": zone}), json!({}));
        let old = of("*/10 * * * *", "Etc/UTC");
        assert!(!reschedules(&old, &of("*/10 * * * *", "Etc/UTC")));
        assert!(reschedules(&old, &of("*/5 * * * *", "Etc/UTC")));
        assert!(reschedules(&old, &of("*/10 * * * *", "Asia/Kathmandu")));
        let wait = |schedule: &str, zone: &str| first_wait(&of(schedule, zone), now).map(|d| d.as_millis());
        assert_eq!(wait("*/5 * * * *", "Etc/UTC"), Some(180_100));
        assert_eq!(wait("0 6 * * *", "Asia/Kathmandu"), Some(480_100));
        assert_eq!(wait("0 0 31 2 *", "Etc/UTC"), Some(0), "that it never comes is told at once");
        assert_eq!(wait("nonsense", "Etc/UTC"), None);
    }

    #[test]
    fn intervals_count_from_the_last_time_not_from_the_look() {
        let of = |schedule: &str, last: Value| {
            cron(json!({"schedule": schedule}), json!({"lastScheduleTime": last}))
        };
        let wait = |schedule: &str, last: Value, now: &str| {
            first_wait(&of(schedule, last), now.parse().unwrap()).unwrap().as_millis()
        };
        // Since it was made, at 00:05.
        assert_eq!(wait("@every 5m", Value::Null, "2026-01-01T00:07:00Z"), 180_100);
        assert_eq!(wait("@every 5m", Value::Null, "2026-01-01T00:12:00Z"), 180_100);
        assert_eq!(wait("@every 5m", json!("2026-01-01T00:10:00Z"), "2026-01-01T00:12:00Z"), 180_100);
        // Another interval counts from there as well.
        assert_eq!(wait("@every 3m", json!("2026-01-01T00:10:00Z"), "2026-01-01T00:11:00Z"), 120_100);
        assert_eq!(wait("@every 1m", json!("2026-01-01T00:10:00Z"), "2026-01-01T00:12:30Z"), 30_100);
        // A clock that was ahead.
        assert_eq!(wait("@every 1m", json!("2026-01-01T00:14:00Z"), "2026-01-01T00:12:00Z"), 180_100);
        let plan = run(&of("@every 5m", json!("2026-01-01T00:10:00Z")), &[], "2026-01-01T00:14:00Z");
        assert_eq!((made(&plan), plan.again), (None, Some(Duration::from_millis(60_100))));
        let plan = run(&of("@every 5m", json!("2026-01-01T00:10:00Z")), &[], "2026-01-01T00:15:01Z");
        assert_eq!(
            (made(&plan).as_deref(), plan.again),
            (Some("c-29453775"), Some(Duration::from_millis(299_100)))
        );
    }

    #[test]
    fn of_finished_jobs_those_that_started_first_go_first() {
        let cron = cron(json!({"successfulJobsHistoryLimit": 2}), json!({}));
        let mut never = (*job("never", Some("Complete"), "2026-01-01T00:01:00Z")).clone();
        never.status.as_mut().unwrap().start_time = None;
        let jobs = [
            Arc::new(never),
            job("b", Some("Complete"), "2026-01-01T00:01:00Z"),
            job("a", Some("Complete"), "2026-01-01T00:01:00Z"),
            job("late", Some("Complete"), "2026-01-01T00:03:00Z"),
        ];
        let gone: Vec<String> =
            run(&cron, &jobs, "2026-01-01T00:06:00Z").clean.iter().map(|j| name(j).to_owned()).collect();
        assert_eq!(gone, ["a", "b"]);
    }

    #[test]
    fn only_the_latest_of_missed_times_is_made_up_for() {
        let plan = run(&cron(json!({}), json!({})), &[], "2026-01-02T00:14:00Z");
        assert_eq!(made(&plan).as_deref(), Some("c-29455210"));
        assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
        let late = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
        assert_eq!(made(&run(&late, &[], "2026-01-02T00:14:00Z")), None);
    }

    #[test]
    fn concurrency_is_as_the_policy_says() {
        let active =
            json!({"active": [{"name": "c-1", "uid": "c-1"}], "lastScheduleTime": "2026-01-01T00:10:00Z"});
        let jobs = [job("c-1", None, "2026-01-01T00:10:00Z")];
        let with = |policy: &str| {
            run(&cron(json!({"concurrencyPolicy": policy}), active.clone()), &jobs, "2026-01-01T00:20:00Z")
        };
        assert!(made(&with("Allow")).is_some());
        let forbidden = with("Forbid");
        assert_eq!((made(&forbidden), reasons(&forbidden)), (None, vec!["JobAlreadyActive"]));
        let replaced = with("Replace");
        assert_eq!((made(&replaced).is_some(), replaced.replace.len()), (true, 1));
    }

    #[test]
    fn the_status_follows_the_jobs() {
        let before = json!({"active": [{"name": "a", "uid": "a"}, {"name": "gone", "uid": "gone"}],
            "lastScheduleTime": "2026-01-01T00:10:00Z"});
        let jobs =
            [job("a", Some("Complete"), "2026-01-01T00:10:00Z"), job("b", None, "2026-01-01T00:11:00Z")];
        let plan = run(&cron(json!({}), before), &jobs, "2026-01-01T00:11:00Z");
        assert_eq!(reasons(&plan), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
        assert_eq!(plan.status.active, None, "what others made is not the schedule's");
        assert!(plan.status.last_successful_time.is_some());
        let known = cron(json!({}), json!({"active": [{"name": "b", "uid": "b"}]}));
        assert!(!is_surprised(&known, &jobs) && is_surprised(&cron(json!({}), json!({})), &jobs));
    }

    #[test]
    fn history_beyond_the_limits_goes_oldest_first() {
        let jobs = [
            job("new", Some("Complete"), "2026-01-01T00:10:00Z"),
            job("old", Some("Complete"), "2026-01-01T00:01:00Z"),
            job("bad", Some("Failed"), "2026-01-01T00:01:00Z"),
            job("busy", None, "2026-01-01T00:01:00Z"),
        ];
        let limits = json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "suspend": true});
        let plan = run(&cron(limits, json!({})), &jobs, "2026-01-01T00:11:00Z");
        let gone: Vec<&str> = plan.clean.iter().map(|j| name(j)).collect();
        assert_eq!(gone, ["old", "bad"]);
        assert!(plan.create.is_none() && plan.again.is_none(), "suspended");
    }

    #[test]
    fn schedules_and_zones_that_are_none_are_told() {
        let bad = |spec: Value| run(&cron(spec, json!({})), &[], "2026-01-01T00:11:00Z").says[0].reason;
        assert_eq!(bad(json!({"schedule": "x"})), "UnparseableSchedule");
        assert_eq!(bad(json!({"schedule": "0 0 31 2 *"})), "InvalidSchedule");
        assert_eq!(bad(json!({"schedule": "TZ=Etc/UTC 0 0 1 1 *", "timeZone": null})), "UnsupportedSchedule");
        assert_eq!(bad(json!({"suspend": true, "timeZone": "No/Where"})), "UnknownTimeZone");
        assert_eq!(bad(json!({"timeZone": "No/Where"})), "UnknownTimeZone");
    }
}
