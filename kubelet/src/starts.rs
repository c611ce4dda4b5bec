//! How long pods take to start, as its makers feel it: from a pod's creation to the sight of all its containers running in
//! the API server's own words; and what becomes of containers by what their pod's status tells.
//!
//! Contract: SIG Scalability's "Pod startup latency SLI": without the time of image pulls and of init containers, and for
//! pods without volumes of other sources than the kubelet's own.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use parking_lot::Mutex;

use crate::{metrics, pod};

/// Pods that have not started yet.
#[derive(Debug, Default)]
pub struct Starts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pods: HashMap<String, Start>,
    /// A pod with a network of its own has started.
    has_network: bool,
}

#[derive(Debug, Default)]
struct Start {
    /// Pulls that go on, and until when the time of pulls is counted.
    pulling: usize,
    began: Option<Timestamp>,
    /// Seconds of pulls; those at the same time count once.
    pulled: f64,
}

/// A start that is over, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    total: f64,
    /// Without pulls and init containers; nothing for pods with volumes that have to be attached.
    sli: Option<f64>,
}

/// The starts of this node's pods.
pub static STARTS: std::sync::LazyLock<Starts> = std::sync::LazyLock::new(Starts::default);

impl Starts {
    /// A pod of the API server is seen for the first time: its start is followed unless it was one before.
    pub fn follow(&self, pod: &Pod) {
        let status = pod.status.as_ref();
        if status.is_none_or(|status| status.start_time.is_none()) && !is_over(status) {
            self.0.lock().pods.entry(pod::uid(pod).to_owned()).or_default();
        }
    }

    /// An image of the pod is being pulled.
    pub fn pulls(&self, uid: &str, now: Timestamp) {
        if let Some(start) = self.0.lock().pods.get_mut(uid) {
            start.pulling += 1;
            start.began.get_or_insert(now);
        }
    }

    /// That pull is over.
    pub fn has_pulled(&self, uid: &str, now: Timestamp) {
        if let Some(start) = self.0.lock().pods.get_mut(uid) {
            start.pulling = start.pulling.saturating_sub(1);
            if start.pulling == 0
                && let Some(began) = start.began.take()
            {
                start.pulled += seconds(began, now);
            }
        }
    }

    /// The API server tells of a pod.
    pub fn seen(&self, pod: &Pod, now: Timestamp) {
        let Some(told) = self.judge(pod, now) else { return };
        let metrics = metrics::get();
        metrics.pod_start_total.observe(told.total);
        let Some(sli) = told.sli else { return };
        metrics.pod_start_sli.observe(sli);
        if !pod::host_network(pod) && !std::mem::replace(&mut self.0.lock().has_network, true) {
            metrics.first_network_pod.set(sli);
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().pods.remove(uid);
    }

    /// How long the start took, if it is over now.
    fn judge(&self, pod: &Pod, now: Timestamp) -> Option<Told> {
        let status = pod.status.as_ref()?;
        let mut known = self.0.lock();
        let start = known.pods.get(pod::uid(pod))?;
        if is_over(Some(status)) {
            known.pods.remove(pod::uid(pod));
            return None;
        }
        let all = status.container_statuses.as_deref().filter(|all| !all.is_empty())?;
        let runs = |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
        if !all.iter().all(runs) {
            return None;
        }
        let total = seconds(pod.metadata.creation_timestamp.as_ref()?.0, now);
        let initial = status.init_container_statuses.iter().flatten().filter_map(|one| {
            let ended = one.state.as_ref()?.terminated.as_ref()?;
            Some(seconds(ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0))
        });
        let sli = total - start.pulled - initial.sum::<f64>();
        known.pods.remove(pod::uid(pod));
        Some(Told { total, sli: (!is_stateful(pod)).then_some(sli.max(0.0)) })
    }
}

fn seconds(from: Timestamp, until: Timestamp) -> f64 {
    until.duration_since(from).as_secs_f64().max(0.0)
}

fn is_over(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_stateful(pod: &Pod) -> bool {
    pod::spec(pod).volumes.iter().flatten().any(|volume| {
        volume.secret.is_none()
            && volume.config_map.is_none()
            && volume.downward_api.is_none()
            && volume.empty_dir.is_none()
            && volume.projected.is_none()
    })
}

/// Counts containers that have ended since the status before.
pub fn count_ends(before: Option<&PodStatus>, now: &PodStatus) {
    for (kind, code, reason) in ends(before, now) {
        metrics::get().terminated_containers.with_label_values(&[kind, &code.to_string(), reason]).inc();
    }
}

/// Kind, exit code and reason of containers that have ended since.
fn ends<'a>(before: Option<&PodStatus>, now: &'a PodStatus) -> Vec<(&'static str, i32, &'a str)> {
    type List = fn(&PodStatus) -> &[ContainerStatus];
    let lists: [(&str, List); 3] = [
        ("init_container", |status| status.init_container_statuses.as_deref().unwrap_or_default()),
        ("container", |status| status.container_statuses.as_deref().unwrap_or_default()),
        ("ephemeral_container", |status| status.ephemeral_container_statuses.as_deref().unwrap_or_default()),
    ];
    fn ended(status: &ContainerStatus) -> Option<&k8s_openapi::api::core::v1::ContainerStateTerminated> {
        status.state.as_ref()?.terminated.as_ref()
    }
    let mut out = Vec::new();
    for (kind, list) in lists {
        for status in list(now) {
            let old = before.into_iter().flat_map(list).find(|old| old.name == status.name);
            if let Some(end) = ended(status).filter(|_| old.is_none_or(|old| ended(old).is_none())) {
                out.push((kind, end.exit_code, end.reason.as_deref().unwrap_or_default()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(value: serde_json::Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_start_is_told_once_without_pulls_and_init_containers() {
        let starts = Starts::default();
        let mut pod = testing::pod("a").container("c").build();
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
        let uid = pod::uid(&pod).to_owned();
        starts.follow(&pod);
        // Two pulls, at the same time for a second.
        starts.pulls(&uid, at(1));
        starts.pulls(&uid, at(2));
        starts.has_pulled(&uid, at(3));
        starts.has_pulled(&uid, at(5));
        let waiting =
            json!({"phase": "Pending", "containerStatuses": [{"name": "c", "state": {"waiting": {}}}]});
        pod.status = Some(status(waiting));
        assert_eq!(starts.judge(&pod, at(6)), None);
        let running = json!({
            "phase": "Running",
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {
                "exitCode": 0, "startedAt": "1970-01-01T00:00:05Z", "finishedAt": "1970-01-01T00:00:07Z"}}}],
            "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "1970-01-01T00:00:08Z"}}}],
        });
        pod.status = Some(status(running));
        assert_eq!(starts.judge(&pod, at(10)), Some(Told { total: 10.0, sli: Some(4.0) }));
        assert_eq!(starts.judge(&pod, at(11)), None, "that was told");
        // One that ran before this kubelet did is not followed.
        pod.status.as_mut().unwrap().start_time = pod.metadata.creation_timestamp.clone();
        starts.follow(&pod);
        assert_eq!(starts.judge(&pod, at(12)), None);
    }

    #[test]
    fn an_end_is_counted_when_it_is_seen_first() {
        let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let now = status(json!({
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
            "containerStatuses": [{"name": "c", "state": ended}, {"name": "d", "state": {"running": {}}}],
        }));
        let before = status(json!({
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
            "containerStatuses": [{"name": "c", "state": {"running": {}}}],
        }));
        assert_eq!(ends(Some(&before), &now), [("container", 3, "Error")]);
        assert_eq!(ends(None, &now), [("init_container", 0, "Completed"), ("container", 3, "Error")]);
        assert!(ends(Some(&now), &now).is_empty());
    }
}
