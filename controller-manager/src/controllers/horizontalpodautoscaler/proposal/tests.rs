//! Metrics over small sets of pods.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::controllers::horizontalpodautoscaler::testing::{at, settings};

/// A running pod that asks for one core and 100 MiB, ready for a day.
fn pod(name: &str, extra: Value) -> Arc<Pod> {
    let long_ago = at(-86_400).to_string();
    let mut v = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "100Mi"}}}]},
        "status": {"phase": "Running", "startTime": long_ago,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": long_ago}]}});
    for (pointer, value) in extra.as_object().into_iter().flatten() {
        let (a, b) = pointer.split_once('/').unwrap();
        v[a][b] = value.clone();
    }
    Arc::new(serde_json::from_value(v).unwrap())
}

fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|n| pod(&format!("p{n}"), json!({}))).collect()
}

/// Samples of the first pods.
fn samples(values: &[i64]) -> Reading {
    let sample = |v: &i64| Sample { value: *v, at: at(0), window: Duration::from_secs(30) };
    Reading::Pods(values.iter().enumerate().map(|(n, v)| (format!("p{n}"), sample(v))).collect())
}

fn ask(spec: Value, reading: Reading, pods: &[Arc<Pod>], current: i32) -> Result<Proposal, String> {
    let spec: MetricSpec = serde_json::from_value(spec).unwrap();
    let settings = settings();
    let target = Target { wanted: current, there: current };
    let view = View { target, pods, tolerance: (0.1, 0.1), settings: &settings, now: at(0) };
    let source = Source::of(&spec).map_err(|f| f.note)?;
    propose(&spec, &source, reading, &view).map_err(|f| f.note)
}

fn cpu(percent: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

#[test]
fn use_is_held_against_requests() {
    // (use of each pod, percent) → size.
    for (used, percent, expected) in [
        (vec![300, 500, 700], 30, 5),
        (vec![100, 100, 100], 50, 1),
        (vec![500, 500, 500], 50, 3),
        (vec![545, 545, 545], 50, 3),
        (vec![560, 560, 560], 50, 4),
    ] {
        let got = ask(cpu(percent), samples(&used), &pods(3), 3).unwrap();
        assert_eq!(got.replicas, expected, "{used:?} at {percent}%");
    }
    let got = ask(cpu(30), samples(&[300, 500, 700]), &pods(3), 3).unwrap();
    let status = serde_json::to_value(&got.status).unwrap();
    assert_eq!(status["resource"]["current"], json!({"averageUtilization": 50, "averageValue": "500m"}));
    assert_eq!(got.name, "cpu resource utilization (percentage of request)");
}

#[test]
fn silent_pods_temper_a_change() {
    let all = pods(4);
    // Four pods, one of them silent: when others are busy it counts as idle, when they idle as busy.
    assert_eq!(ask(cpu(50), samples(&[1000, 1000, 1000]), &all, 4).unwrap().replicas, 6);
    assert_eq!(ask(cpu(50), samples(&[100, 100, 100]), &all, 4).unwrap().replicas, 3);
    assert_eq!(ask(cpu(50), samples(&[600, 600, 600]), &all, 4).unwrap().replicas, 4, "no turn of direction");
}

#[test]
fn pods_that_start_do_not_drive_growth() {
    let starting = json!({"status/startTime": at(-60).to_string(),
        "status/conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at(-60).to_string()}]});
    let all = [pod("p0", json!({})), pod("p1", starting), pod("p2", json!({"status/phase": "Pending"}))];
    // One ready pod at four times its target: the two others count as idle.
    assert_eq!(ask(cpu(25), samples(&[1000, 900]), &all, 3).unwrap().replicas, 4);
    // They say nothing when it shrinks.
    assert_eq!(ask(cpu(50), samples(&[100, 900]), &all, 3).unwrap().replicas, 1);
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Ki"}}});
    let bytes = 2048 * 1000;
    let got = ask(memory, samples(&[bytes, bytes]), &all[..2], 2).unwrap();
    assert_eq!(got.replicas, 4, "only CPU is untrue while a pod starts");
    assert_eq!(serde_json::to_value(got.status).unwrap()["resource"]["current"]["averageValue"], "2Ki");
}

#[test]
fn pods_that_end_do_not_count() {
    let all = [pod("p0", json!({})), pod("p1", json!({"metadata/deletionTimestamp": at(0).to_string()}))];
    let ended = [pod("p0", json!({})), pod("p1", json!({"status/phase": "Failed"}))];
    for all in [all, ended] {
        assert_eq!(ask(cpu(50), samples(&[1000, 0]), &all, 2).unwrap().replicas, 2);
    }
}

#[test]
fn one_container_of_each_pod() {
    let spec = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    assert_eq!(ask(spec.clone(), samples(&[1000]), &pods(1), 1).unwrap().replicas, 2);
    let other = [pod("p0", json!({"spec/containers": [{"name": "x"}]}))];
    let why = "failed to get cpu utilization: container c not found in Pod p0";
    assert_eq!(ask(spec, samples(&[1000]), &other, 1).unwrap_err(), why);
}

#[test]
fn pods_metrics_have_an_average() {
    let spec = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "15"}}});
    let got = ask(spec, samples(&[20_000, 10_000, 30_000]), &pods(3), 3).unwrap();
    assert_eq!((got.replicas, got.name.as_str()), (4, "pods metric qps"));
    assert_eq!(serde_json::to_value(got.status).unwrap()["pods"]["current"]["averageValue"], "20");
}

#[test]
fn totals_are_divided_or_compared() {
    let object = |target: Value| {
        json!({"type": "Object", "object": {"metric": {"name": "queue"},
        "describedObject": {"kind": "Service", "name": "web", "apiVersion": "v1"}, "target": target}})
    };
    let value = |v: &str| json!({"type": "Value", "value": v});
    let average = |v: &str| json!({"type": "AverageValue", "averageValue": v});
    for (target, total, current, expected) in [
        (value("20"), 40_000, 3, 6),
        (value("20"), 21_000, 3, 3),
        (value("20"), 40_000, 0, 2),
        (average("20"), 100_000, 3, 5),
        (average("20"), 61_000, 3, 3),
    ] {
        let got = ask(object(target.clone()), Reading::Total(total), &pods(3), current).unwrap();
        let name =
            if target["type"] == "Value" { "Service metric queue" } else { "external metric queue(nil)" };
        assert_eq!((got.replicas, got.name.as_str()), (expected, name), "{target} {total} {current}");
    }
    let external =
        json!({"type": "External", "external": {"metric": {"name": "jobs"}, "target": average("10")}});
    let got = ask(external, Reading::Total(61_000), &pods(2), 2).unwrap();
    assert_eq!((got.replicas, got.name.as_str()), (7, "external metric jobs(nil)"));
    assert_eq!(serde_json::to_value(got.status).unwrap()["external"]["current"]["averageValue"], "30500m");
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        ask(cpu(50), samples(&[1]), &[], 1).unwrap_err(),
        "failed to get cpu utilization: no pods returned by selector while calculating replica count"
    );
    let other = [pod("other", json!({}))];
    assert!(ask(cpu(50), samples(&[]), &other, 1).unwrap_err().contains("did not receive metrics"));
    let bare = [pod("p0", json!({"spec/containers": [{"name": "x"}]}))];
    assert_eq!(
        ask(cpu(50), samples(&[1]), &bare, 1).unwrap_err(),
        "failed to get cpu utilization: missing request for cpu in container x of Pod p0"
    );
    let pod_level = [pod("p0", json!({"spec/resources": {"requests": {"cpu": "2"}}}))];
    assert_eq!(ask(cpu(50), samples(&[1000]), &pod_level, 1).unwrap().replicas, 1);
    let odd = json!({"type": "Weather"});
    assert!(ask(odd, samples(&[1]), &pods(1), 1).unwrap_err().contains("Weather"));
}
