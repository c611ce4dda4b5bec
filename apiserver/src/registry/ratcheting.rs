//! Tests of ratcheting: what was stored under older rules may be updated as long as it breaks nothing new.

use serde_json::{Value, json};

use super::testing::{Kind, changed};

/// Makes a good template one that is refused: a name, and changes below the template.
fn faults() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let affinity =
        |kind: &str, term: Value| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    let unlabelled = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["no label"]}]});
    let node = json!({"nodeSelectorTerms": [unlabelled]});
    let pods = json!([{"labelSelector": unlabelled, "topologyKey": "zone"}]);
    let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": unlabelled}]);
    let token = json!([{"name": "t", "projected": {"defaultMode": 420,
        "sources": [{"serviceAccountToken": {"path": "../t", "expirationSeconds": 3600}}]}}]);
    let pages = json!({"limits": {"cpu": "1", "hugepages-2Mi": "1Mi"}, "requests": {"cpu": "1", "hugepages-2Mi": "1Mi"}});
    vec![
        ("pages that are no whole ones", vec![("/spec/containers/0/resources", pages)]),
        ("values no label of a node has", vec![("/spec/affinity", affinity("nodeAffinity", node))]),
        ("values no label of a pod has", vec![("/spec/affinity", affinity("podAffinity", pods))]),
        ("a selector of spreading", vec![("/spec/topologySpreadConstraints", spread)]),
        ("a token outside of its volume", vec![("/spec/volumes", token)]),
        (
            "sysctls of the node",
            vec![
                ("/spec/hostNetwork", json!(true)),
                ("/spec/securityContext", json!({"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]})),
            ],
        ),
        (
            "a cost of deletion that is no number",
            vec![("/metadata/annotations", json!({"controller.kubernetes.io/pod-deletion-cost": "dear"}))],
        ),
    ]
}

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {
        "restartPolicy": restart, "containers": [{"name": "c", "image": "i:1"}]}})
}

/// Kinds that hold a template, an object of each and where its template is.
fn holders() -> Vec<(Kind, Value, &'static str)> {
    let selector = json!({"matchLabels": {"app": "x"}});
    let workload = json!({"metadata": {"name": "w", "uid": "u"},
        "spec": {"selector": selector, "template": template("Always"), "serviceName": "s"}});
    let job = json!({"template": template("Never")});
    vec![
        (Kind::new("apps", "deployments"), workload.clone(), "/spec/template"),
        (Kind::new("apps", "replicasets"), workload.clone(), "/spec/template"),
        (Kind::new("apps", "daemonsets"), workload.clone(), "/spec/template"),
        (Kind::new("apps", "statefulsets"), workload, "/spec/template"),
        (
            Kind::new("", "replicationcontrollers"),
            json!({"metadata": {"name": "w"}, "spec": {"template": template("Always")}}),
            "/spec/template",
        ),
        (
            Kind::new("", "podtemplates"),
            json!({"metadata": {"name": "w"}, "template": template("Always")}),
            "/template",
        ),
        (
            Kind::new("batch", "jobs"),
            json!({"metadata": {"name": "w", "uid": "u"}, "spec": job}),
            "/spec/template",
        ),
        (
            Kind::new("batch", "cronjobs"),
            json!({"metadata": {"name": "w"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
            "/spec/jobTemplate/spec/template",
        ),
    ]
}

#[test]
fn a_template_keeps_the_faults_it_had_and_gets_no_new_ones() {
    for (kind, good, at) in holders() {
        let (good, errors) = kind.create(good);
        assert_eq!(errors, Vec::<String>::new(), "{at} of {good}");
        for (fault, changes) in faults() {
            let changes: Vec<(String, Value)> =
                changes.into_iter().map(|(below, value)| (format!("{at}{below}"), value)).collect();
            let changes: Vec<(&str, Value)> =
                changes.iter().map(|(at, value)| (at.as_str(), value.clone())).collect();
            let bad = kind.defaulted(changed(&good, &changes));
            assert_ne!(kind.errors(bad.clone()), Vec::<String>::new(), "{fault} at {at}");
            let relabelled = changed(&bad, &[("/metadata/labels", json!({"touched": "yes"}))]);
            assert_eq!(
                kind.update(relabelled, bad.clone(), "").1,
                Vec::<String>::new(),
                "{fault} kept at {at}"
            );
            assert_ne!(kind.update(bad, good.clone(), "").1, Vec::<String>::new(), "{fault} brought to {at}");
        }
    }
}

#[test]
fn a_selector_keeps_comparing_with_what_no_label_is() {
    let odd = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["no label"]}]});
    let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Like", "values": ["no label"]}]});
    let hook = json!({"name": "a.b.c", "sideEffects": "None", "clientConfig": {"url": "https://x"},
        "admissionReviewVersions": ["v1"]});
    for (kind, object, at) in [
        (Kind::new("policy", "poddisruptionbudgets"), json!({"spec": {"minAvailable": 1}}), "/spec/selector"),
        (
            Kind::new("networking.k8s.io", "networkpolicies"),
            json!({"spec": {"podSelector": {}}}),
            "/spec/podSelector",
        ),
        (
            Kind::new("storage.k8s.io", "csistoragecapacities"),
            json!({"storageClassName": "s", "nodeTopology": {}}),
            "/nodeTopology",
        ),
        (
            Kind::new("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
            json!({"webhooks": [hook]}),
            "/webhooks/0/objectSelector",
        ),
        (
            Kind::new("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
            json!({"webhooks": [hook]}),
            "/webhooks/0/namespaceSelector",
        ),
    ] {
        let good = kind.create(changed(&object, &[("/metadata", json!({"name": "o"}))])).0;
        let bad = kind.defaulted(changed(&good, &[(at, odd.clone())]));
        assert_ne!(kind.errors(bad.clone()), Vec::<String>::new(), "{at}");
        let relabelled = changed(&bad, &[("/metadata/labels", json!({"touched": "yes"}))]);
        assert_eq!(kind.update(relabelled, bad.clone(), "").1, Vec::<String>::new(), "{at}");
        assert_ne!(kind.update(bad.clone(), good, "").1, Vec::<String>::new(), "{at}");
        // What is wrong beside the values is wrong still.
        let worse = changed(&bad, &[(at, wrong.clone())]);
        assert_ne!(kind.update(worse, bad, "").1, Vec::<String>::new(), "{at}");
    }
}

#[test]
fn a_job_of_before_labels_had_a_prefix_needs_none_with_it() {
    let kind = Kind::new("batch", "jobs");
    let job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": template("Never")}});
    let now = kind.create(job).0;
    let labels = json!({"app": "x", "controller-uid": "u", "job-name": "j"});
    let before = changed(
        &now,
        &[
            ("/spec/template/metadata/labels", labels),
            ("/spec/selector", json!({"matchLabels": {"controller-uid": "u"}})),
        ],
    );
    let suspended = changed(&before, &[("/spec/suspend", json!(true))]);
    assert_eq!(kind.update(suspended, before.clone(), "").1, Vec::<String>::new());
    assert_eq!(
        kind.update(before, now, "").1[..2],
        [
            "spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: Required value: must be 'u'",
            "spec.template.metadata.labels[batch.kubernetes.io/job-name]: Required value: must be 'j'",
        ]
    );
}

#[test]
fn conditions_of_a_policy_are_not_compiled_again_while_they_stay() {
    let rule =
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "c", "expression": "object.of.tomorrow("}]});
    for (plural, more) in [
        ("validatingadmissionpolicies", json!([{"expression": "true"}])),
        (
            "mutatingadmissionpolicies",
            json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: \"test\", path: \"/a\"}]"}}]),
        ),
    ] {
        let kind = Kind::new("admissionregistration.k8s.io", plural);
        let field = if plural.starts_with('v') { "validations" } else { "mutations" };
        let mut policy = json!({"metadata": {"name": "p"}, "spec": spec});
        policy["spec"][field] = more;
        policy["spec"]["reinvocationPolicy"] = json!("Never");
        let (old, errors) = kind.create(policy);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let ignoring = changed(&old, &[("/spec/failurePolicy", json!("Ignore"))]);
        assert_eq!(kind.update(ignoring, old.clone(), "").1, Vec::<String>::new());
        let renamed = changed(&old, &[("/spec/matchConditions/0/name", json!("d"))]);
        assert_eq!(kind.update(renamed, old.clone(), "").1.len(), 1);
        let with_params =
            changed(&old, &[("/spec/paramKind", json!({"apiVersion": "v1", "kind": "ConfigMap"}))]);
        assert_eq!(kind.update(with_params, old, "").1.len(), 1);
    }
}

#[test]
fn parameters_of_before_there_was_a_limit_stay_as_large_as_they_are() {
    let class = |size: usize, selectors: Value| {
        let opaque = json!({"driver": "d.io", "parameters": {"a": "x".repeat(size)}});
        json!({"metadata": {"name": "c"}, "spec": {"selectors": selectors, "config": [{"opaque": opaque}]}})
    };
    let kind = Kind::new("resource.k8s.io", "deviceclasses");
    let large = kind.defaulted(class(20_000, json!([])));
    let too_long = ["spec.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"];
    assert_eq!(kind.errors(large.clone()), too_long);
    let selecting = class(20_000, json!([{"cel": {"expression": "device.driver == 'd.io'"}}]));
    assert_eq!(kind.update(selecting, large.clone(), "").1, Vec::<String>::new());
    assert_eq!(kind.update(class(20_001, json!([])), large, "").1, too_long);
}

#[test]
fn a_template_of_claims_is_looked_at_once() {
    let kind = Kind::new("resource.k8s.io", "resourceclaimtemplates");
    let request = json!({"name": "r", "exactly": {"deviceClassName": "No Name", "allocationMode": "ExactCount", "count": 1}});
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": {"devices": {"requests": [request]}}}});
    let (old, errors) = kind.create(template);
    assert_ne!(errors, Vec::<String>::new());
    let relabelled = changed(&old, &[("/metadata/labels", json!({"touched": "yes"}))]);
    assert_eq!(kind.update(relabelled, old.clone(), "").1, Vec::<String>::new());
    let more = changed(&old, &[("/spec/spec/devices/requests/0/name", json!("s"))]);
    assert_eq!(kind.update(more, old, "").1.len(), 1);
}
