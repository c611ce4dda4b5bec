//! `jobs` of batch.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

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
    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
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
