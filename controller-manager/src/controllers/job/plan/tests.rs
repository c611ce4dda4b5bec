use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"template": {"spec": {"containers": [], "restartPolicy": "Never"}}, "parallelism": 2,
        "completions": 3, "backoffLimit": 2});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "j", "uid": "j"}, "spec": all, "status": status}))
        .unwrap()
}

fn pod(name: &str, phase: &str, more: Value) -> Arc<Pod> {
    let mut value = json!({"metadata": {"name": name, "uid": name, "finalizers": [TRACKING],
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase}});
    for (path, part) in more.as_object().unwrap() {
        let (a, b) = path.split_once('/').unwrap();
        value[a][b] = part.clone();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn round(settled: bool) -> Round {
    Round { settled, forgets_start: true, now: at(NOW) }
}

fn run(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, round(true))
}

fn says(plan: &Plan, type_: &str) -> Option<String> {
    condition(Some(&plan.status), type_).and_then(|c| c.reason.clone())
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|p| uid(p)).collect()
}

#[test]
fn a_new_job_starts_as_many_pods_as_it_may() {
    let plan = run(&job(json!({}), json!({})), &[]);
    assert_eq!(plan.create.len(), 2);
    assert_eq!(plan.status.start_time, Some(Time(at(NOW))));
    let few = run(&job(json!({"completions": 1}), json!({})), &[]);
    assert_eq!(few.create.len(), 1);
    let any = run(&job(json!({"completions": null, "parallelism": 5}), json!({})), &[]);
    assert_eq!(any.create.len(), 5);
}

#[test]
fn nothing_is_made_while_earlier_changes_are_unseen() {
    let plan = plan(&job(json!({}), json!({})), &[], round(false));
    assert!(plan.create.is_empty());
}

/// A job run to its end: each pod is counted once although every step may be repeated.
#[test]
fn every_pod_counts_once() {
    let mut current = job(json!({}), json!({}));
    let mut pods: Vec<Arc<Pod>> = Vec::new();
    let mut made = 0;
    for _ in 0..20 {
        let step = run(&current, &pods);
        // A crash before the finalizers go: the same step again changes nothing.
        current.status = Some(step.status.clone());
        assert_eq!(run(&current, &pods).status, step.status);
        for gone in &step.untrack {
            let at = pods.iter().position(|p| uid(p) == uid(gone)).unwrap();
            let mut free = (*pods[at]).clone();
            free.metadata.finalizers = None;
            pods[at] = Arc::new(free);
        }
        for pod in &mut pods {
            if phase(pod) == "Running" {
                *pod = self::pod(uid(pod), "Succeeded", json!({}));
            }
        }
        for _ in &step.create {
            made += 1;
            pods.push(pod(&format!("p{made}"), "Running", json!({})));
        }
    }
    let status = current.status.as_ref().unwrap();
    assert_eq!((status.succeeded, status.failed, made), (Some(3), Some(0), 3));
    assert!(is_over(&current) && status.completion_time.is_some());
}

#[test]
fn the_end_waits_until_all_is_counted() {
    let done = [pod("a", "Succeeded", json!({}))];
    let one = job(json!({"completions": 1}), json!({}));
    let first = run(&one, &done);
    assert_eq!(says(&first, "SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    assert_eq!((says(&first, "Complete"), names(&first.untrack)), (None, vec!["a"]));
    let free = [pod("a", "Succeeded", json!({"metadata/finalizers": []}))];
    let mut next = one.clone();
    next.status = Some(first.status);
    let second = run(&next, &free);
    assert_eq!(says(&second, "Complete").as_deref(), Some("CompletionsReached"));
    assert_eq!(second.status.succeeded, Some(1));
}

#[test]
fn too_many_failures_end_the_job_and_its_pods() {
    let failed =
        |n: usize| -> Vec<Arc<Pod>> { (0..n).map(|i| pod(&format!("f{i}"), "Failed", json!({}))).collect() };
    let mut pods = failed(3);
    pods.push(pod("busy", "Running", json!({})));
    let plan = run(&job(json!({}), json!({})), &pods);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!((names(&plan.kill), says(&plan, "Failed")), (vec!["busy"], None));
    assert_eq!(names(&plan.untrack), ["f0", "f1", "f2", "busy"]);
    let uncounted = plan.status.uncounted_terminated_pods.unwrap().failed.unwrap();
    assert_eq!(uncounted, ["f0", "f1", "f2", "busy"], "however it ends now");
    let plan = run(&job(json!({}), json!({})), &failed(2));
    assert_eq!(says(&plan, "FailureTarget"), None);
}

#[test]
fn failures_are_followed_by_a_growing_rest() {
    let failed = |name: &str, ended: &str| {
        pod(
            name,
            "Failed",
            json!({"status/containerStatuses": [{"name": "c", "ready": false, "restartCount": 0,
            "image": "", "imageID": "", "state": {"terminated": {"exitCode": 1, "finishedAt": ended}}}]}),
        )
    };
    let job = job(json!({"backoffLimit": 6}), json!({}));
    let plan = run(&job, &[failed("a", "2026-01-01T00:59:55Z")]);
    assert_eq!((plan.create.len(), plan.again), (0, Some(Duration::from_secs(5))));
    let plan = run(&job, &[failed("a", "2026-01-01T00:59:30Z"), failed("b", "2026-01-01T00:59:55Z")]);
    assert_eq!(plan.again, Some(Duration::from_secs(15)));
    let plan = run(&job, &[failed("a", "2026-01-01T00:59:30Z")]);
    assert_eq!(plan.create.len(), 2);
}

#[test]
fn a_deadline_ends_the_job() {
    let spec = json!({"activeDeadlineSeconds": 60});
    let started = |text: &str| job(spec.clone(), json!({"startTime": text}));
    let plan = run(&started("2026-01-01T00:59:00Z"), &[pod("a", "Running", json!({}))]);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("DeadlineExceeded"));
    let plan = run(
        &started("2026-01-01T00:59:30Z"),
        &[pod("a", "Running", json!({})), pod("b", "Running", json!({}))],
    );
    assert_eq!((says(&plan, "FailureTarget"), plan.again), (None, Some(Duration::from_secs(30))));
}

#[test]
fn a_suspended_job_lets_its_pods_go_uncounted_and_starts_anew() {
    let busy = [pod("a", "Running", json!({}))];
    let plan = run(&job(json!({"suspend": true}), json!({"startTime": "2026-01-01T00:00:00Z"})), &busy);
    assert_eq!((names(&plan.remove), plan.kill.len(), plan.create.len()), (vec!["a"], 0, 0));
    assert_eq!((plan.status.start_time.clone(), plan.status.active), (None, Some(0)));
    let mut resumed = job(json!({}), json!({}));
    resumed.status = Some(plan.status);
    let plan = run(&resumed, &[]);
    assert_eq!((plan.create.len(), plan.status.start_time), (2, Some(Time(at(NOW)))));
}

#[test]
fn a_suspended_job_keeps_its_start_where_it_does_not_have_to_forget_it() {
    let start = "2026-01-01T00:00:00Z";
    let suspended = job(json!({"suspend": true}), json!({"startTime": start}));
    let kept = plan(&suspended, &[], Round { forgets_start: false, ..round(true) });
    assert_eq!(kept.status.start_time, Some(Time(at(start))));
    let mut resumed = job(json!({}), json!({}));
    resumed.status = Some(kept.status);
    assert_eq!(run(&resumed, &[]).status.start_time, Some(Time(at(NOW))), "it runs from now");
}

#[test]
fn fewer_at_once_means_that_surplus_pods_go() {
    let pods =
        [pod("a", "Running", json!({})), pod("b", "Pending", json!({})), pod("c", "Running", json!({}))];
    let plan = run(&job(json!({"parallelism": 1}), json!({})), &pods);
    assert_eq!(plan.remove.len(), 2);
    assert!(names(&plan.remove).contains(&"b"));
}

fn indexed(more: Value) -> Job {
    let mut spec = json!({"completionMode": "Indexed"});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    job(spec, json!({}))
}

fn of_index(name: &str, phase: &str, index: i32) -> Arc<Pod> {
    pod(name, phase, json!({"metadata/annotations": {INDEX: index.to_string()}}))
}

#[test]
fn an_indexed_job_runs_every_index_once() {
    let job = indexed(json!({}));
    assert_eq!(run(&job, &[]).create, [Some(0), Some(1)]);
    let pods = [of_index("a", "Succeeded", 0), of_index("b", "Running", 1)];
    let plan = run(&job, &pods);
    assert_eq!((plan.create, plan.status.completed_indexes.as_deref()), (vec![Some(2)], Some("0")));
    let twice = [of_index("a", "Running", 0), of_index("b", "Running", 0)];
    let plan = run(&job, &twice);
    assert_eq!((plan.remove.len(), plan.create), (1, vec![Some(1)]));
}

#[test]
fn an_index_that_fails_too_often_fails_alone() {
    let spec = json!({"backoffLimitPerIndex": 0, "backoffLimit": null, "parallelism": 3});
    let pods = [of_index("a", "Failed", 0), of_index("b", "Succeeded", 1), of_index("c", "Running", 2)];
    let plan = run(&indexed(spec.clone()), &pods);
    assert_eq!((plan.status.failed_indexes.as_deref(), says(&plan, "FailureTarget")), (Some("0"), None));
    let pods = [of_index("a", "Failed", 0), of_index("b", "Succeeded", 1), of_index("c", "Succeeded", 2)];
    let plan = run(&indexed(spec), &pods);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("FailedIndexes"));
    let spec = json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "backoffLimit": null});
    let plan = run(&indexed(spec), &[of_index("a", "Failed", 0)]);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("MaxFailedIndexesExceeded"));
}

#[test]
fn an_index_remembers_failures_of_pods_that_are_gone() {
    let spec = json!({"backoffLimitPerIndex": 2, "backoffLimit": null});
    let failed = |name: &str, before: &str| {
        let annotations = json!({INDEX: "0", FAILURES: before});
        pod(name, "Failed", json!({"metadata/annotations": annotations}))
    };
    let plan = run(&indexed(spec.clone()), &[failed("b", "1")]);
    assert_eq!(plan.failures.get(&0), Some(&Failures { counted: 2, ignored: 0 }));
    assert_eq!(plan.status.failed_indexes.as_deref(), Some(""));
    let plan = run(&indexed(spec), &[failed("a", "0"), failed("c", "2")]);
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
}

#[test]
fn a_finished_job_only_lets_its_pods_go() {
    let over = job(json!({}), json!({"conditions": [{"type": "Failed", "status": "True"}]}));
    let plan = run(&over, &[pod("a", "Running", json!({}))]);
    assert_eq!((names(&plan.untrack), plan.kill.len(), plan.create.len()), (vec!["a"], 0, 0));
    assert_eq!(Some(plan.status), over.status);
}

#[test]
fn replacement_waits_for_the_end_where_the_job_asks_for_it() {
    let ending = pod("a", "Running", json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}));
    let plan = run(
        &job(json!({"podReplacementPolicy": "Failed", "parallelism": 1}), json!({})),
        std::slice::from_ref(&ending),
    );
    assert_eq!((plan.create.len(), plan.status.failed, plan.status.terminating), (0, Some(0), Some(1)));
    let plan = run(&job(json!({"parallelism": 1}), json!({})), &[ending]);
    assert_eq!(names(&plan.untrack), ["a"], "counted as failed although it never says so");
}

#[test]
fn the_pod_that_knows_of_an_indexs_failures_stays_until_another_does() {
    let spec = json!({"backoffLimitPerIndex": 2, "backoffLimit": null, "parallelism": 1, "completions": 2});
    let failed = |name: &str, before: &str| {
        let annotations = json!({INDEX: "0", FAILURES: before});
        pod(name, "Failed", json!({"metadata/annotations": annotations}))
    };
    let (older, last, busy) = (failed("a", "0"), failed("b", "1"), of_index("c", "Running", 0));
    let plan = run(&indexed(spec.clone()), &[older.clone(), last.clone()]);
    assert_eq!((names(&plan.untrack), plan.create), (vec!["a"], vec![Some(0)]));
    let uncounted = plan.status.uncounted_terminated_pods.unwrap();
    assert_eq!(uncounted.failed, Some(vec!["a".to_owned()]));
    let plan = run(&indexed(spec.clone()), &[older.clone(), last.clone(), busy]);
    assert_eq!(names(&plan.untrack), ["a", "b"], "the new one knows");
    // It counts all the same for the limits of the job, and is let go when the job ends.
    let mut over = spec;
    over["backoffLimit"] = json!(1);
    let plan = run(&indexed(over), &[older, last]);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(names(&plan.untrack), ["a", "b"]);
    let uncounted = plan.status.uncounted_terminated_pods.unwrap();
    assert_eq!(uncounted.failed, Some(vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn failures_go_before_success_and_what_runs_when_a_job_succeeds_has_not_failed() {
    let policy = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec = json!({"parallelism": 3, "successPolicy": policy});
    let pods = [of_index("a", "Succeeded", 0), of_index("b", "Running", 1)];
    let plan = run(&indexed(spec.clone()), &pods);
    assert_eq!(says(&plan, "SuccessCriteriaMet").as_deref(), Some("SuccessPolicy"));
    assert_eq!((names(&plan.remove), names(&plan.kill)), (vec!["b"], vec![]));
    let mut late = spec.clone();
    late["activeDeadlineSeconds"] = json!(1);
    let mut late = indexed(late);
    late.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap();
    assert_eq!(says(&run(&late, &pods), "FailureTarget").as_deref(), Some("DeadlineExceeded"));
    let mut strict = spec;
    (strict["backoffLimitPerIndex"], strict["maxFailedIndexes"], strict["backoffLimit"]) =
        (json!(0), json!(0), Value::Null);
    let pods = [of_index("a", "Succeeded", 0), of_index("b", "Failed", 1)];
    let plan = run(&indexed(strict), &pods);
    assert_eq!(says(&plan, "FailureTarget").as_deref(), Some("MaxFailedIndexesExceeded"));
}

#[test]
fn a_job_without_a_number_lets_its_pods_finish_once_one_has() {
    let pods =
        [pod("a", "Succeeded", json!({})), pod("b", "Running", json!({})), pod("c", "Running", json!({}))];
    let plan = run(&job(json!({"completions": null, "parallelism": 1}), json!({})), &pods);
    assert_eq!((plan.remove.len(), plan.create.len(), says(&plan, "SuccessCriteriaMet")), (0, 0, None));
}

#[test]
fn restarts_of_pods_on_their_way_out_count_too() {
    let restarted = |more: Value| {
        let statuses = json!([{"name": "c", "ready": true, "restartCount": 2, "image": "", "imageID": ""}]);
        let mut all = json!({"status/containerStatuses": statuses});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod("a", "Running", all)
    };
    let mut often = job(json!({"podReplacementPolicy": "Failed"}), json!({}));
    often.spec.as_mut().unwrap().template.spec.as_mut().unwrap().restart_policy =
        Some("OnFailure".to_owned());
    let ending = json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
    for pod in [restarted(json!({})), restarted(ending)] {
        assert_eq!(says(&run(&often, &[pod]), "FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    }
}

#[test]
fn what_runs_when_a_job_fails_has_failed_unless_its_policy_says_otherwise() {
    let ignored =
        json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let spec =
        json!({"podFailurePolicy": {"rules": [ignored]}, "backoffLimit": 0, "activeDeadlineSeconds": 60});
    let late = job(spec, json!({"startTime": "2026-01-01T00:00:00Z"}));
    let disrupted = json!({"status/conditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let going = json!({"metadata/deletionTimestamp": "2026-01-01T00:59:59Z"});
    let pods = [
        pod("runs", "Running", json!({})),
        pod("disrupted", "Running", disrupted),
        pod("going", "Running", going),
        pod("counted", "Running", json!({"metadata/finalizers": []})),
    ];
    let plan = run(&late, &pods);
    assert_eq!(names(&plan.kill), ["runs", "disrupted", "counted"]);
    assert_eq!(names(&plan.untrack), ["runs", "disrupted", "going"]);
    let uncounted = plan.status.uncounted_terminated_pods.unwrap();
    assert_eq!(uncounted.failed, Some(vec!["runs".to_owned(), "going".to_owned()]));
    let many: Vec<Arc<Pod>> = (0..600).map(|n| pod(&format!("p{n}"), "Running", json!({}))).collect();
    let plan = run(&late, &many);
    assert_eq!((plan.untrack.len(), plan.kill.len()), (BURST, 600), "the rest is counted afterwards");
}

#[test]
fn pods_of_indexes_that_are_no_more_do_not_count() {
    let none = pod("none", "Failed", json!({}));
    let pods =
        [of_index("in", "Failed", 2), of_index("out", "Failed", 3), of_index("done", "Succeeded", 3), none];
    let plan = run(&indexed(json!({"backoffLimit": 1})), &pods);
    let uncounted = plan.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.failed, Some(vec!["in".to_owned()]));
    assert_eq!(plan.untrack.len(), 4, "nobody waits for them");
    assert_eq!((says(&plan, "FailureTarget"), plan.status.succeeded), (None, Some(0)));
}

#[test]
fn a_job_that_ends_is_not_suspended_as_well() {
    let done: Vec<Arc<Pod>> = ["a", "b", "c"].iter().map(|name| pod(name, "Succeeded", json!({}))).collect();
    let plan = run(&job(json!({"suspend": true}), json!({})), &done);
    assert_eq!(says(&plan, "SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    assert_eq!(says(&plan, "Suspended"), None);
}

#[test]
fn a_pod_has_ended_when_all_of_it_has() {
    let ended = |at: &str| json!({"terminated": {"exitCode": 1, "finishedAt": at}});
    let container = |name: &str, state: Value| json!({"name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
    let second = |text: &str| Some(at(text).as_second());
    let (early, late) = ("2026-01-01T00:10:00Z", "2026-01-01T00:20:00Z");
    let both = json!([container("a", ended(late)), container("b", ended(early))]);
    assert_eq!(finish_time(&pod("p", "Failed", json!({"status/containerStatuses": both}))), second(late));
    let sidecar = json!([{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]);
    let more = json!({"spec/initContainers": sidecar,
        "status/containerStatuses": [container("a", ended(early))],
        "status/initContainerStatuses": [container("s", ended(late)), container("i", json!({}))]});
    assert_eq!(
        finish_time(&pod("p", "Failed", more)),
        second(late),
        "sidecars end last, others do not count"
    );
    let running = json!([container("a", ended(late)), container("b", json!({"running": {}}))]);
    let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": early}]);
    let more = json!({"status/containerStatuses": running, "status/conditions": unready});
    assert_eq!(finish_time(&pod("p", "Failed", more)), second(early));
    let going = json!({"metadata/deletionTimestamp": late, "metadata/deletionGracePeriodSeconds": 600});
    assert_eq!(finish_time(&pod("p", "Running", going)), second(early), "since that was asked for");
    assert_eq!(finish_time(&pod("p", "Failed", json!({}))), second("2026-01-01T00:00:00Z"));
}

#[test]
fn an_index_rests_by_all_its_failures_and_nobody_begins_instead() {
    let spec = json!({"backoffLimitPerIndex": 6, "backoffLimit": null, "parallelism": 1});
    let failed = |index: i32, before: &str, ended: &str| {
        let annotations = json!({INDEX: index.to_string(), FAILURES: before, IGNORED: "1"});
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": ended}]);
        let more = json!({"metadata/annotations": annotations, "status/conditions": ready});
        pod(&format!("f{index}"), "Failed", more)
    };
    let plan = run(&indexed(spec.clone()), &[failed(0, "1", "2026-01-01T00:59:50Z")]);
    assert_eq!((plan.create, plan.again), (vec![], Some(Duration::from_secs(30))), "the third failure");
    let mut two = spec;
    two["parallelism"] = json!(2);
    let plan = run(&indexed(two), &[failed(0, "1", "2026-01-01T00:59:50Z")]);
    assert_eq!((plan.create, plan.again), (vec![Some(1)], Some(Duration::from_secs(30))));
}
