//! The STATUS and RESTARTS cells of a pod: what kubectl users read first.
//!
//! Contract: upstream's `printPod` (printers/internalversion).

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::kit::{items, text},
    table,
};

/// The phase, or what says more: a reason of the pod, of an init container, of a container.
pub(super) fn of(obj: &Object) -> String {
    let field = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut reason = match field("/status/reason") {
        "" => field("/status/phase"),
        reason => reason,
    }
    .to_owned();
    if scheduling_gated(obj) {
        reason = "SchedulingGated".into();
    }
    let initializing = init_reason(obj);
    if let Some(init) = &initializing {
        reason.clone_from(init);
    }
    if initializing.is_none() || is_true(obj, "Initialized") {
        if let Some(of_container) = container_reason(obj) {
            reason = of_container;
        }
        let running = items(obj.pointer("/status/containerStatuses"))
            .any(|c| c.get("ready") == Some(&Value::Bool(true)) && c.pointer("/state/running").is_some());
        if reason == "Completed" && running {
            reason = if is_true(obj, "Ready") { "Running".into() } else { "NotReady".into() };
        }
    }
    if obj.is_terminating() {
        let phase = field("/status/phase");
        if field("/status/reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if phase != "Succeeded" && phase != "Failed" {
            reason = "Terminating".into();
        }
    }
    reason
}

/// Restarts of all containers, with the time since the last one.
pub(super) fn restarts(obj: &Object, now: Timestamp) -> String {
    let sidecar = |name: &str| {
        items(obj.pointer("/spec/initContainers"))
            .any(|c| text(c, "/name") == name && text(c, "/restartPolicy") == "Always")
    };
    let init = items(obj.pointer("/status/initContainerStatuses")).filter(|c| sidecar(text(c, "/name")));
    let (mut count, mut last) = (0, "");
    for status in items(obj.pointer("/status/containerStatuses")).chain(init) {
        count += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        last = last.max(text(status, "/lastState/terminated/finishedAt"));
    }
    if count > 0 && !last.is_empty() {
        format!("{count} ({} ago)", table::since(last, now))
    } else {
        count.to_string()
    }
}

fn is_true(obj: &Object, condition: &str) -> bool {
    items(obj.pointer("/status/conditions"))
        .any(|c| text(c, "/type") == condition && text(c, "/status") == "True")
}

fn scheduling_gated(obj: &Object) -> bool {
    items(obj.pointer("/status/conditions"))
        .any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated")
}

/// `Init:…` while the first init container that is not done is at work.
fn init_reason(obj: &Object) -> Option<String> {
    let sidecar = |name: &str| {
        items(obj.pointer("/spec/initContainers"))
            .any(|c| text(c, "/name") == name && text(c, "/restartPolicy") == "Always")
    };
    let total = items(obj.pointer("/spec/initContainers")).count();
    for (at, status) in items(obj.pointer("/status/initContainerStatuses")).enumerate() {
        let state = |pointer: &str| status.pointer(pointer);
        if state("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0)
            || (sidecar(text(status, "/name")) && status.get("started") == Some(&Value::Bool(true)))
        {
            continue;
        }
        return Some(if state("/state/terminated").is_some() {
            format!("Init:{}", terminated(status))
        } else {
            match text(status, "/state/waiting/reason") {
                "" | "PodInitializing" => format!("Init:{at}/{total}"),
                reason => format!("Init:{reason}"),
            }
        });
    }
    None
}

/// The reason of the first container that has one.
fn container_reason(obj: &Object) -> Option<String> {
    items(obj.pointer("/status/containerStatuses")).find_map(|status| {
        match text(status, "/state/waiting/reason") {
            "" if status.pointer("/state/terminated").is_some() => Some(terminated(status)),
            "" => None,
            reason => Some(reason.to_owned()),
        }
    })
}

fn terminated(status: &Value) -> String {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    match (text(status, "/state/terminated/reason"), number("/state/terminated/signal")) {
        ("", 0) => format!("ExitCode:{}", number("/state/terminated/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(status: Value, extra: Value) -> String {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "a"}, {"name": "b"}],
            "containers": [{"name": "c"}]}, "status": status});
        if let (Some(pod), Some(extra)) = (pod.as_object_mut(), extra.as_object()) {
            pod.extend(extra.clone());
        }
        of(&Object::from_value(pod).unwrap())
    }

    #[test]
    fn the_most_telling_reason_is_shown() {
        let waiting = |reason: &str| json!([{"name": "c", "state": {"waiting": {"reason": reason}}}]);
        let cases = [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": waiting("CrashLoopBackOff")}),
                "CrashLoopBackOff",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (
                json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0}}},
                {"name": "b", "state": {"running": {}}}], "containerStatuses": waiting("PodInitializing")}),
                "Init:1/2",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "Init:CrashLoopBackOff",
            ),
            (
                json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                "SchedulingGated",
            ),
        ];
        for (s, want) in cases {
            assert_eq!(status(s.clone(), json!({})), want, "{s}");
        }
        let ending = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(status(json!({"phase": "Running"}), ending), "Terminating");
    }

    #[test]
    fn restarts_show_when_the_last_one_was() {
        let pod = json!({"status": {"containerStatuses": [
            {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "1970-01-01T00:00:00Z"}}}]}});
        let now = Timestamp::from_second(65).unwrap();
        assert_eq!(restarts(&Object::from_value(pod).unwrap(), now), "2 (65s ago)");
        assert_eq!(restarts(&Object::new(), now), "0");
    }
}
