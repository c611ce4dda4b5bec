//! `jobs` of batch.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, Subresource,
        kit::{Plain, STANDARD_VERBS, column, items, text},
    },
    status::Status,
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Completions", "string"),
    column("Duration", "string"),
    column("Age", "date"),
];
const PLAIN: Plain = Plain { status: true, generation: true, cells: &[] };

/// The label a job selects its pods by.
const OWN_UID: &str = "batch.kubernetes.io/controller-uid";

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "batch",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        short_names: &[],
        categories: &["all"],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "jobs",
        selectable: &[SelectableField {
            name: "status.successful",
            pointer: "/status/succeeded",
            default: "0",
        }],
        columns: COLUMNS,
        strategy: Arc::new(Jobs),
    }
}

/// A job.
struct Jobs;

impl Strategy for Jobs {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        let template = obj.pointer("/spec/template/metadata/labels").cloned();
        if let Some(labels) = template.filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
            && obj.metadata().and_then(|m| m.get("labels")).is_none()
        {
            obj.metadata_mut().insert("labels".to_owned(), labels);
        }
        let Some(spec) = obj.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        let given = |field: &str| spec.get(field).is_some_and(|v| !v.is_null());
        let (one, indexed) = (!given("completions") && !given("parallelism"), given("backoffLimitPerIndex"));
        let by_failure = given("podFailurePolicy");
        let mut fill = |field: &str, value: Value| {
            let slot = spec.entry(field).or_insert(Value::Null);
            if slot.is_null() {
                *slot = value;
            }
        };
        if one {
            fill("completions", 1.into());
        }
        fill("parallelism", 1.into());
        fill("backoffLimit", if indexed { i64::from(i32::MAX).into() } else { 6.into() });
        fill("completionMode", "NonIndexed".into());
        fill("suspend", false.into());
        fill("manualSelector", false.into());
        fill("podReplacementPolicy", if by_failure { "Failed".into() } else { "TerminatingOrFailed".into() });
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        if obj.pointer("/spec/manualSelector") != Some(&Value::Bool(true)) {
            select_own_pods(obj);
        }
        PLAIN.prepare_create(obj, ctx)
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        PLAIN.prepare_update(new, old, ctx)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let number = |pointer: &str| obj.pointer(pointer).and_then(Value::as_i64);
        let succeeded = number("/status/succeeded").unwrap_or(0);
        let completions = match (number("/spec/completions"), number("/spec/parallelism").unwrap_or(0)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            (None, _) => format!("{succeeded}/1"),
        };
        vec![
            obj.name().into(),
            phase(obj).into(),
            completions.into(),
            duration(obj, now).into(),
            table::age(obj, now).into(),
        ]
    }
}

/// Labels the template with the job's name and uid, and selects by the uid: no two jobs share pods.
fn select_own_pods(obj: &mut Object) {
    let (name, uid) = (obj.name().to_owned(), obj.uid().to_owned());
    let Some(spec) = obj.as_map_mut().get_mut("spec").filter(|s| s.is_object()) else { return };
    let labels = &mut spec["template"]["metadata"]["labels"];
    if !labels.is_object() {
        *labels = Value::Object(Map::new());
    }
    for (key, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        (OWN_UID, &uid),
    ] {
        labels[key] = value.as_str().into();
    }
    if !spec["selector"].is_object() {
        spec["selector"] = Value::Object(Map::new());
    }
    spec["selector"]["matchLabels"][OWN_UID] = uid.into();
}

fn phase(obj: &Object) -> &'static str {
    let is = |kind: &str| {
        items(obj.pointer("/status/conditions"))
            .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if obj.is_terminating() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn duration(obj: &Object, now: Timestamp) -> String {
    let at = |pointer: &str| {
        obj.pointer(pointer).and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok())
    };
    match at("/status/startTime") {
        None => String::new(),
        Some(start) => {
            let end = at("/status/completionTime").unwrap_or(now);
            table::human_duration(end.as_second() - start.as_second())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::User;

    #[test]
    fn a_job_selects_the_pods_of_its_own() {
        let job = |spec: Value| {
            let mut job =
                Object::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec})).unwrap();
            Jobs.default(&mut job, "v1").unwrap();
            let user = User::default();
            let ctx =
                StrategyContext { now: Timestamp::UNIX_EPOCH, version: "v1", subresource: "", user: &user };
            Jobs.prepare_create(&mut job, &ctx).unwrap();
            job
        };
        let plain = job(json!({"template": {"spec": {}}}));
        assert_eq!(plain.pointer("/spec/selector"), Some(&json!({"matchLabels": {OWN_UID: "u"}})));
        let labels = plain.pointer("/spec/template/metadata/labels").unwrap();
        assert_eq!((&labels["job-name"], &labels["controller-uid"]), (&json!("j"), &json!("u")));
        for (field, value) in
            [("completions", json!(1)), ("parallelism", json!(1)), ("backoffLimit", json!(6))]
        {
            assert_eq!(plain.pointer(&format!("/spec/{field}")), Some(&value), "{field}");
        }
        let manual =
            job(json!({"manualSelector": true, "parallelism": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}}}));
        assert_eq!(manual.pointer("/spec/selector"), Some(&json!({"matchLabels": {"a": "b"}})));
        assert_eq!(manual.pointer("/spec/completions"), None);
        assert_eq!(manual.pointer("/metadata/labels"), Some(&json!({"a": "b"})));
    }
}
