//! `jobs` of batch.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Propagation, Resource, SelectableField, StrategyContext, Subresource,
        kit::{
            Cell, Plain, Rules, column,
            fill::{self, Fields},
            items, text, workload,
        },
    },
    table,
};

mod indexes;
mod validation;

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Completions", "string"),
    column("Duration", "string"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];
/// Cells that come after those of [`row`].
const CELLS: &[Cell] = &[
    Cell::Each("/spec/template/spec/containers", "name"),
    Cell::Each("/spec/template/spec/containers", "image"),
    Cell::Selector("/spec/selector"),
];
const PLAIN: Plain = Plain { status: true, generation: true, cells: CELLS };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["all"],
        subresources: &[Subresource::Status],
        selectable: const { &[SelectableField::at("status.successful", "/status/succeeded").or("0")] },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create,
            row: Some(row),
            propagation: Propagation::Orphan,
            validate_over: validation::object,
            validate_gated: validation::template_change,
            validate_change: validation::change,
            validate_status: validation::status,
            warnings: |new, old| workload::warnings(new, old, true, &["spec", "template"]),
            ..Rules::new(PLAIN)
        }),
        ..Resource::of("batch", "Job", "jobs", "job")
    }
}

/// One pod at a time until one has succeeded; a retry six times.
fn default(obj: &mut Object) {
    let labels = obj.pointer("/spec/template/metadata/labels").cloned();
    if let Some(Value::Object(labels)) = labels
        && !labels.is_empty()
        && fill::none(obj.metadata_mut(), "labels")
    {
        obj.metadata_mut().insert("labels".to_owned(), labels.into());
    }
    if let Some(spec) = fill::spec(obj) {
        default_spec(spec);
    }
}

fn default_spec(spec: &mut Fields) {
    if !fill::is_set(spec, "completions") && !fill::is_set(spec, "parallelism") {
        fill::missing(spec, "completions", 1);
    }
    fill::missing(spec, "parallelism", 1);
    // Limits per index make the limit of the whole one that is never met.
    let retries = if fill::is_set(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    fill::missing(spec, "backoffLimit", retries);
    fill::absent(spec, "completionMode", "NonIndexed");
    fill::missing(spec, "suspend", false);
    let replaced = if fill::is_set(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    fill::absent(spec, "podReplacementPolicy", replaced);
    fill::missing(spec, "manualSelector", false);
    fill::template(spec, "template");
    policy_conditions(spec);
}

pub(super) use self::validation::spec as check_spec;

/// A failure policy's conditions are about true ones.
pub(super) fn policy_conditions(spec: &mut Fields) {
    let Some(policy) = fill::child(spec, "podFailurePolicy") else { return };
    for rule in fill::members(policy, "rules") {
        fill::members(rule, "onPodConditions").for_each(|c| fill::missing(c, "status", "True"));
    }
}

/// Pods are told from others' by the job's uid, unless the selector is the client's own.
fn create(obj: &mut Object, _ctx: &StrategyContext<'_>) {
    let (name, uid) = (obj.name().to_owned(), obj.uid().to_owned());
    let Some(spec) = fill::spec(obj) else { return };
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let Some(labels) = fill::made(spec, "template")
        .and_then(|template| fill::made(template, "metadata"))
        .and_then(|meta| fill::made(meta, "labels"))
    else {
        return;
    };
    fill::missing(labels, "controller-uid", uid.as_str());
    fill::missing(labels, "batch.kubernetes.io/controller-uid", uid.as_str());
    fill::missing(labels, "job-name", name.as_str());
    fill::missing(labels, "batch.kubernetes.io/job-name", name.as_str());
    if let Some(matched) = fill::made(spec, "selector").and_then(|s| fill::made(s, "matchLabels")) {
        fill::missing(matched, "batch.kubernetes.io/controller-uid", uid);
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let number = |pointer: &str| obj.pointer(pointer).and_then(Value::as_i64);
    let succeeded = number("/status/succeeded").unwrap_or(0);
    let completions = match (number("/spec/completions"), number("/spec/parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let mut cells = vec![
        obj.name().into(),
        phase(obj).into(),
        completions.into(),
        duration(obj, now).into(),
        table::age(obj, now).into(),
    ];
    cells.extend(PLAIN.row(obj, now));
    cells
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
