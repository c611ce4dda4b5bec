//! Priority and fairness: whose rules a request is served by, and who has to wait.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Answer, ControlPlane,
    receiver::{Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("answers tell the flow schema and priority level", classified),
    ("a flow schema tells when its level is missing", dangling),
    ("default objects are there and come back", defaults),
    ("a level without room turns requests away, and others are served", full),
    ("a write takes seats by who watches", watched),
    ("levels are shown in metrics", metrics),
];

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

fn level(name: &str, shares: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
                "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

/// Uids of schema and level in an answer.
fn told(answer: &Answer) -> (String, String) {
    let of = |name: &str| answer.header(name).to_owned();
    (of("x-kubernetes-pf-flowschema-uid"), of("x-kubernetes-pf-prioritylevel-uid"))
}

fn uid(object: &Value) -> Result<String> {
    Ok(object["metadata"]["uid"].as_str().context("it has a uid")?.to_owned())
}

fn classified(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let (jane, joe) = (format!("jane-{ns}"), format!("joe-{ns}"));
    let level = admin.post(LEVELS, &level(ns, 1))?.ok()?;
    let schema = admin.post(SCHEMAS, &schema(ns, ns, &jane))?.ok()?;
    let wanted = (uid(&schema)?, uid(&level)?);
    // Whether they may or not, requests are classified.
    let jane = plane.user(&jane, "")?;
    plane.eventually("answers tell the new schema", 10, || {
        let answer = jane.get("/api/v1/nodes")?;
        ensure!(answer.code == 403, "{}", answer.text());
        Ok((told(&answer) == wanted).then_some(()))
    })?;
    let of = |path: &str, name: &str| uid(&admin.get(&format!("{path}/{name}"))?.ok()?);
    let other = told(&plane.user(&joe, "")?.get("/api/v1/nodes")?);
    ensure!(other == (of(SCHEMAS, "global-default")?, of(LEVELS, "global-default")?), "{other:?}");
    let master = told(&admin.get("/api/v1/nodes")?);
    ensure!(master == (of(SCHEMAS, "exempt")?, of(LEVELS, "exempt")?), "{master:?}");
    let nobody = told(&plane.client(None)?.get("/healthz")?);
    ensure!(nobody == (of(SCHEMAS, "probes")?, of(LEVELS, "exempt")?), "{nobody:?}");
    Ok(())
}

fn dangling(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = format!("{SCHEMAS}/{ns}");
    admin.post(SCHEMAS, &schema(ns, ns, "nobody"))?.ok()?;
    let condition = |status: &str, reason: &str| {
        plane.eventually("the schema tells of its level", 10, || {
            let stored = admin.get(&path)?.ok()?;
            let condition = &stored["status"]["conditions"][0];
            let is = condition["type"] == "Dangling" && condition["status"] == status;
            Ok((is && condition["reason"] == reason).then_some(()))
        })
    };
    condition("True", "NotFound")?;
    admin.post(LEVELS, &level(ns, 1))?.ok()?;
    condition("False", "Found")?;
    admin.delete(&format!("{LEVELS}/{ns}"))?.ok()?;
    condition("True", "NotFound")
}

fn defaults(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let names = |path: &str| -> Result<Vec<String>> {
        let list = admin.get(path)?.ok()?;
        let items = list["items"].as_array().context("a list has items")?;
        Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect())
    };
    let levels = names(LEVELS)?;
    for name in [
        "catch-all",
        "exempt",
        "global-default",
        "leader-election",
        "node-high",
        "system",
        "workload-high",
        "workload-low",
    ] {
        ensure!(levels.iter().any(|level| level == name), "{name} is missing of {levels:?}");
    }
    let schemas = names(SCHEMAS)?;
    for name in ["catch-all", "exempt", "global-default", "probes", "service-accounts", "system-nodes"] {
        ensure!(schemas.iter().any(|schema| schema == name), "{name} is missing of {schemas:?}");
    }
    let exempt = admin.get(&format!("{LEVELS}/exempt"))?.ok()?;
    ensure!(exempt["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] == "true", "{exempt}");
    Ok(())
}

fn full(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let user = format!("jane-{ns}");
    // Few seats, and a webhook that keeps whoever sits on them for two seconds.
    let level = admin.post(LEVELS, &level(ns, 1))?.ok()?;
    let wanted = uid(&level)?;
    admin.post(SCHEMAS, &schema(ns, ns, &user))?.ok()?;
    let jane = plane.user(&user, "")?;
    let binding = json!({"metadata": {"name": "jane"}, "subjects": [{"kind": "User", "name": user}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    admin
        .post(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings"), &binding)?
        .ok()?;
    plane.eventually("jane may and is of her own level", 10, || {
        let answer = jane.get(&config_maps(ns, ""))?;
        Ok((answer.code == 200 && told(&answer).1 == wanted).then_some(()))
    })?;
    let receiver = Receiver::start(&plane.ca, |_| Reply::Silence)?;
    let hook = json!({"metadata": {"name": ns}, "webhooks": [{
        "name": "slow.example.com", "clientConfig": receiver.client_config("/slow"), "timeoutSeconds": 2,
        "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    admin.post(hooks, &hook)?.ok()?;
    let seats = seats(plane, ns)?;
    let codes = thread::scope(|scope| -> Result<Vec<u16>> {
        let one = |at: u64| {
            let jane = jane.clone();
            move || -> Result<u16> {
                Ok(jane.post(&config_maps(ns, ""), &json!({"metadata": {"name": format!("m{at}")}}))?.code)
            }
        };
        let all: Vec<_> = (0..seats + 4).map(|at| scope.spawn(one(at))).collect();
        plane.eventually("the webhook holds them", 10, || {
            Ok((!receiver.calls("/slow").is_empty()).then_some(()))
        })?;
        // Others do not notice.
        admin.get(&config_maps(ns, ""))?.ok()?;
        all.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a client broke"))?).collect()
    })?;
    admin.delete(&format!("{hooks}/{ns}"))?.ok()?;
    let count = |code: u16| codes.iter().filter(|one| **one == code).count();
    ensure!(count(201) >= 1 && count(429) >= 1 && count(201) + count(429) == codes.len(), "{codes:?}");
    Ok(())
}

fn watched(plane: &ControlPlane, ns: &str) -> Result<()> {
    const WATCHES: usize = 25;
    let admin = plane.admin()?;
    let user = format!("joan-{ns}");
    let wanted = uid(&admin.post(LEVELS, &level(ns, 30))?.ok()?)?;
    admin.post(SCHEMAS, &schema(ns, ns, &user))?.ok()?;
    let joan = plane.user(&user, "")?;
    let binding = json!({"metadata": {"name": "joan"}, "subjects": [{"kind": "User", "name": user}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings");
    admin.post(&bindings, &binding)?.ok()?;
    plane.eventually("joan may and is of her own level", 10, || {
        let answer = joan.get(&config_maps(ns, ""))?;
        Ok((answer.code == 200 && told(&answer).1 == wanted).then_some(()))
    })?;
    let sum = |name: &str| -> Result<f64> {
        let metrics = admin.get("/metrics")?.text();
        let of = [format!("flow_schema=\"{ns}\""), format!("priority_level=\"{ns}\"")];
        let mut lines =
            metrics.lines().filter(|line| line.starts_with(&format!("apiserver_flowcontrol_{name}_sum{{")));
        let line = lines.find(|line| of.iter().all(|label| line.contains(label.as_str())));
        Ok(line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_default())
    };
    let mut number = 0;
    // What one more write adds: watches it was told to, and seats it took.
    let mut write = || -> Result<(f64, f64)> {
        let before = (sum("watch_count_samples")?, sum("work_estimated_seats")?);
        number += 1;
        joan.post(&config_maps(ns, ""), &json!({"metadata": {"name": format!("m{number}")}}))?.ok()?;
        Ok((sum("watch_count_samples")? - before.0, sum("work_estimated_seats")? - before.1))
    };
    let path = format!("{}?watch=true", config_maps(ns, ""));
    let watches = (0..WATCHES).map(|_| admin.watch(&path)).collect::<Result<Vec<_>>>()?;
    let (told, seats) = write()?;
    ensure!(told >= 25.0 && seats >= 3.0, "told to {told}, {seats} seats");
    drop(watches);
    plane.eventually("who has gone is not counted", 20, || Ok((write()?.0 < 25.0).then_some(())))
}

fn seats(plane: &ControlPlane, level: &str) -> Result<u64> {
    let metrics = plane.admin()?.get("/metrics")?.text();
    let wanted = format!("apiserver_flowcontrol_nominal_limit_seats{{priority_level=\"{level}\"}} ");
    let line =
        metrics.lines().find_map(|line| line.strip_prefix(&wanted)).context("the level has no metric")?;
    Ok(line.parse()?)
}

fn metrics(plane: &ControlPlane, _: &str) -> Result<()> {
    ensure!(seats(plane, "workload-low")? > seats(plane, "leader-election")?, "shares do not count");
    let metrics = plane.admin()?.get("/metrics")?.text();
    for name in [
        "apiserver_flowcontrol_dispatched_requests_total{",
        "apiserver_flowcontrol_request_wait_duration_seconds_bucket{",
        "apiserver_flowcontrol_request_execution_seconds_bucket{",
        "apiserver_flowcontrol_current_limit_seats{",
        "apiserver_request_total{",
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_current_inflight_requests{",
    ] {
        ensure!(metrics.contains(name), "{name} is missing");
    }
    Ok(())
}
