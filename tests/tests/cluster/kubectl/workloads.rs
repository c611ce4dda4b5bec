//! Verbs about workloads: scale, autoscale, rollout, set, expose and run.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fails, fetches, field, pod_names, ready, run, says, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("rollouts have a status, a history, an undo, a restart and a pause", rollout),
    ("a rollout that cannot go on says so and is undone", stuck_rollout),
    ("scale holds to what is expected", scale),
    ("autoscale makes an object, and its lack of metrics is told", autoscale),
    ("set changes images, variables, resources and accounts", set),
    ("expose makes services of pods, deployments and services", expose),
    ("run makes a pod, and cleans up after itself when asked", run_pod),
];

fn rollout(c: &Cluster, ns: &str) -> Result<()> {
    let status = || run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]);
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, ns, &["annotate", "deployment/web", "kubernetes.io/change-cause=first"])?;
    ensure!(status()?.contains("deployment \"web\" successfully rolled out"), "its word");
    run(c, ns, &["set", "image", "deployment/web", "web=keelson.local/web:2"])?;
    run(c, ns, &["annotate", "deployment/web", "kubernetes.io/change-cause=second", "--overwrite"])?;
    status()?;
    let history = run(c, ns, &["rollout", "history", "deployment/web"])?;
    let rows: Vec<Vec<&str>> = history.lines().skip(2).map(|l| l.split_whitespace().collect()).collect();
    ensure!(rows.starts_with(&[vec!["1", "first"], vec!["2", "second"]]), "{history}");
    let one = run(c, ns, &["rollout", "history", "deployment/web", "--revision=1"])?;
    ensure!(one.contains("keelson.local/web:1"), "{one}");
    run(c, ns, &["rollout", "undo", "deployment/web", "--to-revision=1"])?;
    status()?;
    ensure!(
        field(c, ns, "deployment/web", ".spec.template.spec.containers[0].image")? == "keelson.local/web:1",
        "undone"
    );
    ensure!(
        field(c, ns, "deployment/web", ".metadata.annotations.deployment\\.kubernetes\\.io/revision")? == "3",
        "a new revision"
    );
    let before = pod_names(c, ns, "app=web")?;
    run(c, ns, &["rollout", "restart", "deployment/web"])?;
    status()?;
    c.eventually("another pod runs after a restart", 60, |c| {
        let now = pod_names(c, ns, "app=web")?;
        Ok((now.len() == 1 && now != before).then_some(()))
    })?;
    run(c, ns, &["rollout", "pause", "deployment/web"])?;
    let sets = || Ok::<_, anyhow::Error>(run(c, ns, &["get", "replicasets", "-o", "name"])?.lines().count());
    let known = sets()?;
    run(c, ns, &["set", "env", "deployment/web", "A=b"])?;
    fails(c, ns, &["rollout", "undo", "deployment/web"], "cannot rollback a paused deployment")?;
    wait_field(
        c,
        ns,
        "deployment/web",
        ".status.conditions[?(@.type==\"Progressing\")].reason",
        "DeploymentPaused",
    )?;
    ensure!(sets()? == known, "a paused deployment rolled out");
    run(c, ns, &["rollout", "resume", "deployment/web"])?;
    status()?;
    ensure!(sets()? == known + 1, "it did not resume");
    fails(c, ns, &["rollout", "undo", "deployment/web", "--to-revision=77"], "unable to find")
}

fn stuck_rollout(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    run(c, ns, &["patch", "deployment", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":5}}"#])?;
    run(c, ns, &["set", "image", "deployment/web", "web=keelson.local/missing:1"])?;
    fails(
        c,
        ns,
        &["rollout", "status", "deployment/web", "--timeout=25s"],
        "exceeded its progress deadline",
    )?;
    ensure!(field(c, ns, "deployment/web", ".status.availableReplicas")? == "2", "the old pods went");
    run(c, ns, &["rollout", "undo", "deployment/web"])?;
    let told = run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(told.contains("successfully rolled out"), "{told}");
    c.eventually("the pods that could not start are gone", 30, |c| {
        Ok((pod_names(c, ns, "app=web")?.len() == 2).then_some(()))
    })
}

fn scale(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    ensure!(
        run(c, ns, &["scale", "deployment/web", "--replicas=3"])? == "deployment.apps/web scaled\n",
        "its word"
    );
    wait_field(c, ns, "deployment/web", ".status.readyReplicas", "3")?;
    fails(
        c,
        ns,
        &["scale", "deployment/web", "--replicas=1", "--current-replicas=7"],
        "Expected replicas to be 7, was 3",
    )?;
    run(c, ns, &["scale", "deployment/web", "--replicas=0", "--current-replicas=3"])?;
    c.eventually("no pod is left", 60, |c| Ok(pod_names(c, ns, "app=web")?.is_empty().then_some(())))?;
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: bare}\nspec: {replicas: 1, selector: {matchLabels: {app: bare}}, \
        template: {metadata: {labels: {app: bare}}, spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}}}\n",
    )?;
    run(c, ns, &["scale", "replicaset/bare", "--replicas=2"])?;
    wait_field(c, ns, "replicaset/bare", ".status.readyReplicas", "2")?;
    fails(
        c,
        ns,
        &["scale", "configmap/kube-root-ca.crt", "--replicas=2"],
        "could not find the requested resource",
    )
}

fn autoscale(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, ns, &["set", "resources", "deployment/web", "--requests=cpu=10m"])?;
    let told = run(c, ns, &["autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu-percent=80"])?;
    ensure!(told == "horizontalpodautoscaler.autoscaling/web autoscaled\n", "{told}");
    // Bounds hold even where nothing is measured.
    wait_field(c, ns, "deployment/web", ".spec.replicas", "2")?;
    let table = run(c, ns, &["get", "hpa"])?;
    ensure!(says(&table, &["REFERENCE", "MINPODS", "Deployment/web", "cpu: <unknown>/80%"]), "{table}");
    c.eventually("the lack of metrics is told", 60, |c| {
        let said = run(c, ns, &["describe", "hpa", "web"])?;
        ensure!(says(&said, &["AbleToScale", "FailedGetResourceMetric"]), "{said}");
        Ok(Some(()))
    })?;
    ensure!(
        field(c, ns, "hpa/web", ".spec.metrics[0].resource.target.averageUtilization")? == "80",
        "its target"
    );
    let older = run(
        c,
        ns,
        &[
            "get",
            "horizontalpodautoscalers.v1.autoscaling",
            "web",
            "-o",
            "jsonpath={.spec.targetCPUUtilizationPercentage}",
        ],
    )?;
    ensure!(older == "80", "in the older version: {older}");
    Ok(())
}

fn set(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=0"])?;
    run(c, ns, &["create", "serviceaccount", "robot"])?;
    run(c, ns, &["create", "configmap", "settings", "--from-literal=COLOUR=blue"])?;
    run(c, ns, &["set", "image", "deployment/web", "*=keelson.local/web:2"])?;
    run(c, ns, &["set", "env", "deployment/web", "A=b", "--from=configmap/settings"])?;
    run(c, ns, &["set", "resources", "deployment/web", "--limits=cpu=200m,memory=64Mi"])?;
    run(c, ns, &["set", "serviceaccount", "deployment/web", "robot"])?;
    let spec = field(c, ns, "deployment/web", ".spec.template.spec")?;
    let parts = [
        "keelson.local/web:2",
        r#"{"name":"A","value":"b"}"#,
        r#""key":"COLOUR""#,
        r#""cpu":"200m""#,
        r#""serviceAccountName":"robot""#,
    ];
    ensure!(says(&spec, &parts), "{spec}");
    run(c, ns, &["set", "env", "deployment/web", "A-"])?;
    let list = run(c, ns, &["set", "env", "deployment/web", "--list"])?;
    ensure!(list.contains("COLOUR from configmap settings") && !list.contains("A=b"), "{list}");
    run(c, ns, &["create", "service", "clusterip", "front", "--tcp=80"])?;
    run(c, ns, &["set", "selector", "service", "front", "app=web"])?;
    ensure!(field(c, ns, "service/front", ".spec.selector")? == r#"{"app":"web"}"#, "its selector");
    run(c, ns, &["create", "rolebinding", "bound", "--clusterrole=view", "--user=ann"])?;
    run(c, ns, &["set", "subject", "rolebinding", "bound", "--user=bob"])?;
    ensure!(field(c, ns, "rolebinding/bound", ".subjects[*].name")? == "ann bob", "its subjects");
    fails(c, ns, &["set", "image", "deployment/web", "nobody=i"], "unable to find container named \"nobody\"")
}

fn expose(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["run", "web", "--image=keelson.local/web:1", "--port=80", "--labels=app=web"])?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "web")?;
    ready(c, ns, "client")?;
    ensure!(
        run(c, ns, &["expose", "pod", "web", "--name=of-pod"])? == "service/of-pod exposed\n",
        "its word"
    );
    run(c, ns, &["expose", "service", "of-pod", "--name=again", "--port=8080", "--target-port=80"])?;
    fetches(c, ns, "of-pod")?;
    fetches(c, ns, "again:8080")?;
    run(c, ns, &["create", "deployment", "bare", "--image=keelson.local/web:1"])?;
    fails(c, ns, &["expose", "deployment", "bare"], "couldn't find port via --port flag")?;
    run(c, ns, &["expose", "deployment", "bare", "--port=80", "--cluster-ip=None"])?;
    ensure!(field(c, ns, "service/bare", ".spec.clusterIPs[0]")? == "None", "headless");
    Ok(())
}

fn run_pod(c: &Cluster, ns: &str) -> Result<()> {
    run(
        c,
        ns,
        &[
            "run",
            "one",
            "--image=keelson.local/busybox:1",
            "--restart=Never",
            "--env=A=b",
            "--",
            "sh",
            "-c",
            "echo $A; exit 3",
        ],
    )?;
    wait_field(c, ns, "pod/one", ".status.phase", "Failed")?;
    ensure!(run(c, ns, &["logs", "one"])? == "b\n", "its log");
    let table = run(c, ns, &["get", "pod", "one"])?;
    ensure!(table.contains("Error"), "{table}");
    // Interactive, with the exit code of the command, and gone afterwards.
    let args = [
        "run",
        "two",
        "--image=keelson.local/busybox:1",
        "--restart=Never",
        "--rm",
        "-i",
        "--quiet",
        "--",
        "sh",
        "-c",
        "read word; echo heard $word",
    ];
    let mut two = c.kubectl_background(ns, &args, false)?;
    c.eventually("it waits for input", 60, |c| {
        Ok((field(c, ns, "pod/two", ".status.phase")? == "Running").then_some(()))
    })?;
    two.type_line("sesame")?;
    two.line("heard sesame", 30)?;
    two.close_input();
    ensure!(two.end(30)?.success(), "it failed");
    c.eventually("it is removed", 30, |c| Ok(run(c, ns, &["get", "pod", "two"]).is_err().then_some(())))?;
    let dry =
        run(c, ns, &["run", "three", "--image=i", "--dry-run=client", "-o", "name"]).context("a dry run")?;
    ensure!(dry == "pod/three\n", "{dry}");
    Ok(())
}
