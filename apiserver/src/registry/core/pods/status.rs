//! The READY, STATUS and RESTARTS cells of a pod: what kubectl users read first.
//!
//! Contract: upstream's `printPod` (printers/internalversion).

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::kit::{items, text},
    table,
};

/// What a row tells of a pod's containers.
#[derive(Default)]
pub(super) struct Shown {
    /// The phase, or what says more: a reason of the pod, of an init container, of a container.
    pub(super) status: String,
    /// Containers that are ready, sidecars among them.
    pub(super) ready: usize,
    /// Containers that should be.
    pub(super) total: usize,
    restarts: i64,
    last: String,
}

impl Shown {
    /// Restarts, with the time since the last one.
    pub(super) fn restarts(&self, now: Timestamp) -> String {
        match (self.restarts, self.last.as_str()) {
            (0, _) | (_, "") => self.restarts.to_string(),
            (count, last) => format!("{count} ({} ago)", table::since(last, now)),
        }
    }

    /// Counts the restarts of a container.
    fn count(&mut self, status: &Value) {
        self.restarts += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let ended = text(status, "/lastState/terminated/finishedAt");
        if ended > self.last.as_str() {
            ended.clone_into(&mut self.last);
        }
    }
}

/// What a row shows of a pod.
pub(super) fn of(obj: &Object) -> Shown {
    let field = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let sidecars = items(obj.pointer("/spec/initContainers")).filter(|c| is_sidecar(c)).count();
    let total = items(obj.pointer("/spec/containers")).count() + sidecars;
    let (mut shown, mut lasting) = (Shown::default(), Shown::default());
    shown.status = match field("/status/reason") {
        "" => field("/status/phase"),
        reason => reason,
    }
    .to_owned();
    if scheduling_gated(obj) {
        shown.status = "SchedulingGated".to_owned();
    }
    let initializing = initialize(obj, &mut shown, &mut lasting);
    if !initializing || is_true(obj, "Initialized") {
        // Init containers that are done count no more.
        shown.restarts = lasting.restarts;
        shown.last = lasting.last;
        run(obj, &mut shown);
    }
    if obj.is_terminating() {
        let phase = field("/status/phase");
        if field("/status/reason") == "NodeLost" {
            shown.status = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            shown.status = "Terminating".to_owned();
        }
    }
    shown.total = total;
    shown
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn is_true(obj: &Object, condition: &str) -> bool {
    items(obj.pointer("/status/conditions"))
        .any(|c| text(c, "/type") == condition && text(c, "/status") == "True")
}

fn scheduling_gated(obj: &Object) -> bool {
    items(obj.pointer("/status/conditions"))
        .any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated")
}

/// Counts init containers, up to the first one that is not done: whether there is one. `lasting` are sidecars.
fn initialize(obj: &Object, shown: &mut Shown, lasting: &mut Shown) -> bool {
    let containers = || items(obj.pointer("/spec/initContainers"));
    for (at, status) in items(obj.pointer("/status/initContainerStatuses")).enumerate() {
        let name = text(status, "/name");
        let sidecar = containers().any(|c| text(c, "/name") == name && is_sidecar(c));
        shown.count(status);
        if sidecar {
            lasting.count(status);
        }
        let done = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0);
        let started = sidecar && status.get("started") == Some(&Value::Bool(true));
        if done || started {
            shown.ready += usize::from(!done && is_ready(status));
            continue;
        }
        shown.status = if status.pointer("/state/terminated").is_some() {
            format!("Init:{}", terminated(status))
        } else {
            match text(status, "/state/waiting/reason") {
                "" | "PodInitializing" => format!("Init:{at}/{}", containers().count()),
                reason => format!("Init:{reason}"),
            }
        };
        return true;
    }
    false
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

/// Counts containers; the reason of the first one that has one is shown.
fn run(obj: &Object, shown: &mut Shown) {
    let (mut running, mut failed) = (false, None);
    let statuses: Vec<&Value> = items(obj.pointer("/status/containerStatuses")).collect();
    for status in statuses.into_iter().rev() {
        shown.count(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut shown.status);
        } else if status.pointer("/state/terminated").is_some() {
            shown.status = terminated(status);
            if status.pointer("/state/terminated/exitCode").and_then(Value::as_i64).unwrap_or(0) != 0 {
                failed = Some(shown.status.clone());
            }
        } else if is_ready(status) && status.pointer("/state/running").is_some() {
            running = true;
            shown.ready += 1;
        }
    }
    if shown.status != "Completed" {
        return;
    }
    if running && is_true(obj, "Ready") {
        shown.status = "Running".to_owned();
    } else if let Some(reason) = failed {
        shown.status = reason;
    } else if running {
        shown.status = "NotReady".to_owned();
    }
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
        of(&Object::from_value(pod).unwrap()).status
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
        assert_eq!(of(&Object::from_value(pod).unwrap()).restarts(now), "2 (65s ago)");
        assert_eq!(of(&Object::new()).restarts(now), "0");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let running = json!({"running": {}});
        let pod = json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}, {"name": "d"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1}],
                "containerStatuses": [{"name": "c", "ready": true, "state": running},
                    {"name": "d", "restartCount": 2, "state": {"terminated": {"reason": "Error", "exitCode": 1}}}]}});
        let shown = of(&Object::from_value(pod).unwrap());
        assert_eq!((shown.ready, shown.total, shown.restarts, shown.status.as_str()), (2, 3, 3, "Error"));
    }
}
