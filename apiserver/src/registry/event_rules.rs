//! What is wrong with an event, in its core/v1 form.
//!
//! Contract: the Event API of core/v1, which lets old recorders pass, and of events.k8s.io/v1, which is stricter.

use serde_json::Value;

use super::kit::{at::At, format};
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
};

/// Bytes of what recorders write: the instance, the action and the reason, and the message.
const MAX: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// Fields of an event that stay as they are, beside its time.
const LASTING: &[&str] = &[
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "reason",
    "type",
];
const LASTING_AFTER_TIME: &[&str] = &["action", "related", "reportingComponent", "reportingInstance"];

/// An event of any recorder; `core` when it comes in the form of the core group.
pub(super) fn check(event: &Object, core: bool, errors: &mut ErrorList) {
    let namespace = At::field(event, "involvedObject").get("namespace");
    let differs = "does not match event.namespace";
    if !is_set(&At::field(event, "eventTime")) {
        let homeless = namespace.is_empty() && matches!(event.namespace(), "" | "default");
        if !homeless && namespace.text() != event.namespace() {
            namespace.invalid_as(errors, namespace.text(), differs);
        }
    } else {
        if namespace.is_empty() && !matches!(event.namespace(), "default" | "kube-system") {
            namespace.invalid_as(errors, namespace.text(), differs);
        }
        let path = Path::new(if core { "reportingComponent" } else { "reportingController" });
        let controller = At::field(event, "reportingComponent").named(path);
        controller.check_required(errors);
        controller.check_format(errors, format::qualified_name);
        for field in ["reportingInstance", "action", "reason"] {
            let at = At::field(event, field);
            at.check_required(errors);
            check_size(&at, MAX, errors);
        }
        check_size(&At::field(event, "message"), MAX_MESSAGE, errors);
    }
    for detail in format::dns_subdomain(event.namespace()) {
        errors.push(Error::invalid(&Path::new("namespace"), event.namespace(), detail));
    }
}

fn check_size(at: &At<'_>, max: usize, errors: &mut ErrorList) {
    if at.text().len() > max {
        at.invalid_as(errors, "", format!("can have at most {max} characters"));
    }
}

/// Whether a time is there.
fn is_set(time: &At<'_>) -> bool {
    !time.is_empty()
}

/// A new event in the form of events.k8s.io: nothing of the old way of counting.
pub(super) fn check_new(event: &Object, errors: &mut ErrorList) {
    let at = |field| At::field(event, field);
    check_series(event, errors);
    at("eventTime").check_required(errors);
    let kind = at("type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        kind.invalid_as(errors, "", format!("has invalid value: {}", kind.text()));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if is_set(&at(field)) {
            at(field).invalid_as(errors, "", "needs to be unset");
        }
    }
    if at("count").int() != 0 {
        at("count").invalid_as(errors, "", "needs to be unset");
    }
    let source = at("source");
    if !source.text_of("component").is_empty() || !source.text_of("host").is_empty() {
        source.invalid_as(errors, "", "needs to be unset");
    }
}

fn check_series(event: &Object, errors: &mut ErrorList) {
    let series = At::field(event, "series");
    if !series.is_set() {
        return;
    }
    if series.get("count").int() < 2 {
        series.get("count").invalid_as(errors, "", "should be at least 2");
    }
    series.get("lastObservedTime").check_required(errors);
}

/// An event in the form of events.k8s.io may go on, and changes in nothing else.
pub(super) fn check_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let at = |event, field| At::field(event, field);
    if at(new, "series").value() != at(old, "series").value() {
        check_series(new, errors);
    }
    let keeps = |field: &&str, errors: &mut ErrorList| {
        let told = if *field == "reportingComponent" { "reportingController" } else { field };
        let now = At::field(new, field).named(Path::new(told));
        let same = now.value() == At::field(old, field).value()
            || is_nothing(&now) && is_nothing(&At::field(old, field));
        if !same {
            now.invalid(errors, "field is immutable");
        }
    };
    LASTING.iter().for_each(|field| keeps(field, errors));
    let micros = |event| at(event, "eventTime").time().map(|time| time.as_microsecond());
    if micros(new) != micros(old) {
        keeps(&"eventTime", errors);
    }
    LASTING_AFTER_TIME.iter().for_each(|field| keeps(field, errors));
}

fn is_nothing(at: &At<'_>) -> bool {
    at.is_empty() || at.number() == Some(0) || *at.value() == Value::Null
}
