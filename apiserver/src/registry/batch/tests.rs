//! Jobs through their strategies.

use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}})
}

#[test]
fn a_job_gets_its_numbers_and_its_selector() {
    let (made, _) = Kind::new("batch", "jobs").create(job());
    let spec = &made["spec"];
    assert_eq!((&spec["completions"], &spec["parallelism"]), (&json!(1), &json!(1)));
    assert_eq!(spec["backoffLimit"], 6);
    assert_eq!(spec["completionMode"], "NonIndexed");
    assert_eq!(spec["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({"controller-uid": "u-1", "batch.kubernetes.io/controller-uid": "u-1",
            "job-name": "j", "batch.kubernetes.io/job-name": "j"})
    );
    assert_eq!(made["metadata"]["generation"], 1);
}

#[test]
fn a_selector_of_its_own_stays() {
    let mut own = job();
    own["spec"]["manualSelector"] = json!(true);
    own["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
    let (made, _) = Kind::new("batch", "jobs").create(own);
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
    assert!(made["spec"]["template"].get("metadata").is_none());
}

#[test]
fn a_cron_job_remembers_a_few_runs() {
    let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": job()}});
    let cron = Kind::new("batch", "cronjobs").defaulted(cron);
    assert_eq!(cron["spec"]["successfulJobsHistoryLimit"], 3);
    assert_eq!(cron["spec"]["failedJobsHistoryLimit"], 1);
    assert_eq!(cron["spec"]["concurrencyPolicy"], "Allow");
    assert!(cron["spec"]["jobTemplate"]["spec"].get("backoffLimit").is_none());
}

fn cron() -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job()["spec"]}}})
}

#[test]
fn bad_jobs_are_told_where_and_why() {
    let kind = Kind::new("batch", "jobs");
    assert_eq!(kind.errors(job()), Vec::<String>::new());
    for (changes, want) in [
        (
            vec![("/spec/template/spec/restartPolicy", Value::Null)],
            vec!["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        ),
        (
            vec![("/spec/completionMode", json!("Indexed")), ("/spec/parallelism", json!(1))],
            vec!["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            vec![("/spec/backoffLimitPerIndex", json!(1))],
            vec!["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
        (
            vec![(
                "/spec/podFailurePolicy",
                json!({"rules": [{"action": "x",
            "onExitCodes": {"operator": "In", "values": [0, 0]}}]}),
            )],
            vec![
                "spec.podFailurePolicy.rules[0].action: Unsupported value: \"x\": supported values: \"Count\", \
             \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value: 0",
            ],
        ),
        (
            vec![
                ("/spec/completionMode", json!("Indexed")),
                ("/spec/completions", json!(3)),
                ("/spec/successPolicy", json!({"rules": [{"succeededIndexes": "0,2-5"}]})),
            ],
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0,2-5\": error parsing succeededIndexes: \
             too large index: \"5\"",
            ],
        ),
    ] {
        assert_eq!(kind.errors(changed(&job(), &changes)), want, "{changes:?}");
    }
}

#[test]
fn a_job_is_what_it_was() {
    let kind = Kind::new("batch", "jobs");
    assert_eq!(
        kind.change(&job(), &[("/spec/completions", json!(2))]),
        ["spec.completions: Invalid value: 2: field is immutable",]
    );
    assert!(kind.change(&job(), &[("/spec/parallelism", json!(2))]).is_empty());
    let image = ("/spec/template/spec/containers/0/image", json!("i:2"));
    assert_eq!(kind.change(&job(), &[image]).len(), 1);
    let mut suspended = job();
    suspended["spec"]["suspend"] = json!(true);
    let node = ("/spec/template/spec/nodeSelector", json!({"a": "b"}));
    assert!(kind.change(&suspended, &[node]).is_empty());
}

#[test]
fn gates_say_what_changes_while_a_job_is_suspended() {
    use component_base::features::Gate::{
        MutablePodResourcesForSuspendedJobs as Resources,
        MutableSchedulingDirectivesForSuspendedJobs as Places,
    };
    let (node, more) = (
        ("/spec/template/spec/nodeSelector", json!({"a": "b"})),
        ("/spec/template/spec/containers/0/resources", json!({"requests": {"cpu": "1"}})),
    );
    let suspended = changed(&job(), &[("/spec/suspend", json!(true))]);
    let resumed =
        json!({"startTime": "2020-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let kind = |off: &[_]| Kind::new("batch", "jobs").without(off);
    let places = |kind: Kind, status: &Value, change: &(&str, Value)| {
        let mut old = kind.create(suspended.clone()).0;
        old["status"] = status.clone();
        let told = kind.update(changed(&old, std::slice::from_ref(change)), old, "").1;
        told.first().map(|error| error.split(':').next().unwrap_or_default().to_owned())
    };
    let never = json!({});
    for (off, status, change, refused) in [
        (&[][..], &never, &node, None),
        (&[], &resumed, &node, None),
        (&[], &resumed, &more, None),
        (&[Places][..], &never, &node, None),
        (&[Places], &resumed, &node, Some("spec.template.spec")),
        (&[Places], &resumed, &more, None),
        (&[Resources][..], &never, &more, Some("spec.template")),
        (&[Resources], &resumed, &node, None),
        (&[Places, Resources][..], &resumed, &node, Some("spec.template")),
    ] {
        let told = places(kind(off), status, change);
        assert_eq!(told.as_deref(), refused, "{off:?} {status} {change:?}");
    }
}

#[test]
fn a_finished_job_has_ended() {
    let kind = Kind::new("batch", "jobs");
    let (old, _) = kind.create(job());
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let status = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
    let done = changed(&old, &[("/status", status)]);
    assert_eq!(kind.update(done.clone(), old.clone(), "status").1, Vec::<String>::new());
    let less = changed(&done, &[("/status/succeeded", json!(0))]);
    assert_eq!(
        kind.update(less, done, "status").1,
        ["status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",]
    );
    let bare = changed(&old, &[("/status", json!({"conditions": [condition("Complete")]}))]);
    assert_eq!(
        kind.update(bare, old, "status").1,
        [
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.startTime: Required value: startTime is required for finished job",
        ]
    );
}

#[test]
fn bad_cron_jobs_are_told_where_and_why() {
    let kind = Kind::new("batch", "cronjobs");
    assert_eq!(kind.errors(cron()), Vec::<String>::new());
    for (change, want) in [
        (
            ("/spec/schedule", json!("* *")),
            "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]",
        ),
        (
            ("/spec/schedule", json!("TZ=UTC * * * * *")),
            "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (
            ("/spec/timeZone", json!("Mars/Phobos")),
            "spec.timeZone: Invalid value: \"Mars/Phobos\": unknown time zone Mars/Phobos",
        ),
        (
            ("/spec/concurrencyPolicy", json!("x")),
            "spec.concurrencyPolicy: Unsupported value: \"x\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ),
        (
            ("/metadata/name", json!("a".repeat(53))),
            "metadata.name: Invalid value: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": must be no more than 52 characters",
        ),
        (
            ("/spec/jobTemplate/spec/selector", json!({})),
            "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
        ),
    ] {
        assert_eq!(kind.errors(changed(&cron(), &[change])), [want]);
    }
}
