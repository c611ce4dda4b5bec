//! `cronjobs` of batch.

use std::sync::Arc;

use component_base::cron::Schedule;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, workload},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Schedule", "string"),
    column("Timezone", "string"),
    column("Suspend", "boolean"),
    column("Active", "integer"),
    column("Last Schedule", "string"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/schedule", ""),
    Cell::Field("/spec/timeZone", "<none>"),
    Cell::With(suspended),
    Cell::Count(&["/status/active"]),
    Cell::Since("/status/lastScheduleTime", "<none>"),
    Cell::Age,
    Cell::Each("/spec/jobTemplate/spec/template/spec/containers", "name"),
    Cell::Each("/spec/jobTemplate/spec/template/spec/containers", "image"),
    Cell::Selector("/spec/jobTemplate/spec/selector"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_over,
            validate_new,
            validate_change,
            warnings,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("batch", "CronJob", "cronjobs", "cronjob")
    }
}

/// Runs may overlap; three good and one bad run are remembered.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "concurrencyPolicy", "Allow");
    fill::missing(spec, "suspend", false);
    fill::missing(spec, "successfulJobsHistoryLimit", 3);
    fill::missing(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = fill::made(spec, "jobTemplate").and_then(|t| fill::made(t, "spec")) {
        fill::template(job, "template");
        super::jobs::policy_conditions(job);
    }
}

fn validate_over(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let at = spec.get("schedule");
    if at.check_required(errors)
        && let Err(why) = Schedule::parse(at.text())
    {
        at.invalid(errors, why.to_string());
    }
    spec.get("startingDeadlineSeconds").check_non_negative(errors);
    spec.get("concurrencyPolicy").check_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let job = spec.get("jobTemplate").get("spec");
    let was = old.map(|old| At::spec(old).get("jobTemplate").get("spec"));
    super::jobs::check_spec(&job, was.as_ref(), errors);
    let selector = job.get("selector");
    if selector.is_set() {
        selector.invalid(errors, "`selector` will be auto-generated");
    }
    if job.get("manualSelector").is_true() {
        let manual = job.get("manualSelector");
        errors.push(crate::field::Error::not_among(manual.path(), true, &["nil", "false"]));
    }
    spec.check_counts(&["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
}

fn validate_new(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    check_zone(&spec.get("timeZone"), errors);
    if spec.get("schedule").text().contains("TZ") {
        spec.get("schedule")
            .invalid(errors, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
    // Jobs are named after it, with eleven more letters.
    if obj.name().len() > 52 {
        At::field(obj, "metadata").get("name").invalid(errors, "must be no more than 52 characters");
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (now, was) = (At::spec(new), At::spec(old));
    let (at, zone) = (now.get("schedule"), now.get("timeZone"));
    if zone.value() != was.get("timeZone").value() {
        check_zone(&zone, errors);
    }
    if !at.text().contains("TZ") {
    } else if !was.get("schedule").text().contains("TZ") {
        at.invalid(errors, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if zone.is_set() {
        at.invalid(errors, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
}

fn check_zone(zone: &At<'_>, errors: &mut ErrorList) {
    if !zone.is_set() {
        return;
    }
    let name = zone.text();
    if name.is_empty() {
        zone.invalid(errors, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        zone.invalid(
            errors,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if !is_zone(name) {
        zone.invalid(errors, format!("unknown time zone {name}"));
    }
}

/// Whether a time zone has this name.
fn is_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let template = ["spec", "jobTemplate", "spec", "template"];
    let mut warnings = workload::warnings(new, old, true, &template);
    let schedule = new.pointer("/spec/schedule").and_then(Value::as_str).unwrap_or_default();
    if old.is_some() && schedule.contains("TZ") {
        warnings.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
    warnings
}

fn suspended(obj: &Object) -> Value {
    match obj.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }
}
