//! Verbs that change nothing: get, describe, explain, events, top, wait and what tells of the cluster.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fails, field, ready, run, says};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("get prints tables, wide ones, YAML, JSON, names and chosen columns", get),
    ("get -w tells of every change", get_watch),
    ("describe tells what an object is and what happened to it", describe),
    ("explain knows fields and their types", explain),
    ("resources, versions and the cluster are told", about),
    ("wait waits for conditions, fields and ends", wait),
    ("events are listed for all and for one", events),
    ("top says what it misses", top),
];

/// The words of a table's heading.
fn heading(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split_whitespace().collect()
}

fn get(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=80"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    for (what, columns) in [
        ("pods", "NAME READY STATUS RESTARTS AGE"),
        ("deployments", "NAME READY UP-TO-DATE AVAILABLE AGE"),
        ("replicasets", "NAME DESIRED CURRENT READY AGE"),
        ("services", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        ("endpointslices", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        ("nodes", "NAME STATUS ROLES AGE VERSION"),
        ("namespaces", "NAME STATUS AGE"),
        ("serviceaccounts", "NAME AGE"),
        ("configmaps", "NAME DATA AGE"),
    ] {
        let table = run(c, ns, &["get", what])?;
        ensure!(heading(&table).join(" ") == columns, "{what}: {table}");
        ensure!(table.lines().count() > 1, "{what} has no rows: {table}");
    }
    let wide = run(c, ns, &["get", "pods", "-o", "wide"])?;
    ensure!(
        wide.contains("NODE") && wide.contains("NOMINATED NODE") && wide.contains("READINESS GATES"),
        "{wide}"
    );
    let row = wide.lines().nth(1).context("a pod")?;
    ensure!(row.contains("1/1") && row.contains("Running") && row.contains("10."), "{row}");
    let wide = run(c, ns, &["get", "deployment", "web", "-o", "wide"])?;
    ensure!(wide.contains("web          keelson.local/web:1   app=web"), "{wide}");
    let wide = run(c, ns, &["get", "nodes", "-o", "wide"])?;
    ensure!(wide.contains("containerd://") && wide.contains("KERNEL-VERSION"), "{wide}");
    let columns =
        "custom-columns=WHO:.metadata.name,IMAGE:.spec.template.spec.containers[*].image,N:.spec.replicas";
    let table = run(c, ns, &["get", "deployment", "web", "-o", columns])?;
    ensure!(heading(&table) == ["WHO", "IMAGE", "N"], "{table}");
    ensure!(
        table.lines().nth(1).is_some_and(|r| heading(r) == ["web", "keelson.local/web:1", "2"]),
        "{table}"
    );
    let yaml = run(c, ns, &["get", "deployment", "web", "-o", "yaml"])?;
    ensure!(
        yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n") && !yaml.contains("managedFields"),
        "{yaml}"
    );
    let managed = run(c, ns, &["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"])?;
    ensure!(managed.contains("manager: kubectl-create") && managed.contains("f:replicas"), "{managed}");
    ensure!(
        run(c, ns, &["get", "deploy,svc", "-o", "name"])? == "deployment.apps/web\nservice/web\n",
        "names"
    );
    let all = run(c, ns, &["get", "all"])?;
    ensure!(
        ["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"]
            .iter()
            .all(|k| all.contains(k)),
        "{all}"
    );
    let labels =
        run(c, ns, &["get", "pods", "-L", "app", "--show-labels", "--no-headers", "-l", "app in (web)"])?;
    ensure!(labels.lines().count() == 2 && labels.contains("pod-template-hash="), "{labels}");
    let chosen = run(c, ns, &["get", "pods", "--field-selector=status.phase!=Running", "-o", "name"])?;
    ensure!(chosen.is_empty(), "{chosen}");
    let sorted =
        run(c, ns, &["get", "pods", "--sort-by=.metadata.uid", "-o", "jsonpath={.items[*].metadata.uid}"])?;
    let uids: Vec<&str> = sorted.split_whitespace().collect();
    ensure!(uids.len() == 2 && uids.is_sorted(), "{sorted}");
    let text = run(
        c,
        ns,
        &["get", "svc", "web", "-o", "go-template={{range .spec.ports}}{{.port}}/{{.protocol}}{{end}}"],
    )?;
    ensure!(text == "80/TCP", "{text}");
    ensure!(c.kubectl(&["get", "pods", "-A"])?.contains(ns), "pods of all namespaces");
    ensure!(
        run(c, ns, &["get", "pods", "--chunk-size=1", "-o", "name"])?.lines().count() == 2,
        "pages of one"
    );
    ensure!(run(c, ns, &["get", "--raw", "/version"])?.contains("\"gitVersion\": \"v1.36"), "raw");
    fails(c, ns, &["get", "pods", "missing"], "Error from server (NotFound): pods \"missing\" not found")?;
    fails(c, ns, &["get", "chairs"], "the server doesn't have a resource type \"chairs\"")?;
    fails(c, ns, &["get", "pods", "-l", "a in"], "unable to parse")?;
    fails(c, ns, &["get", "pods", "--field-selector=colour=red"], "field label not supported: colour")
}

fn get_watch(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("first", ""))?;
    ready(c, ns, "first")?;
    let mut watch = c.kubectl_background(ns, &["get", "pods", "-w"], false)?;
    watch.line("NAME", 20)?;
    watch.line("first", 20)?;
    apply(c, ns, &busybox("second", ""))?;
    for status in ["Pending", "ContainerCreating", "Running"] {
        let line = watch.line(status, 60)?;
        ensure!(line.starts_with("second"), "{line}");
    }
    run(c, ns, &["delete", "pod", "second", "--wait=false"])?;
    watch.line("Terminating", 30)?;
    let arguments = [
        "get",
        "pods",
        "--watch-only",
        "--output-watch-events",
        "-o",
        "jsonpath={.type} {.object.metadata.name}{\"\\n\"}",
    ];
    let mut events = c.kubectl_background(ns, &arguments, false)?;
    c.eventually("deletions are told", 30, |c| {
        run(c, ns, &["delete", "pod", "first", "--wait=false", "--ignore-not-found"])?;
        Ok(run(c, ns, &["get", "pods", "-o", "name"])?.is_empty().then_some(()))
    })?;
    events.line("DELETED first", 30).map(drop)
}

fn describe(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    run(c, ns, &["create", "secret", "generic", "password", "--from-literal=word=sesame"])?;
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=80", "--name=front"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let node = run(c, ns, &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    let about = |what: &[&str], parts: &[&str]| {
        c.eventually(&format!("describe {} tells it all", what.join(" ")), 20, |c| {
            let said = run(c, ns, &[&["describe"], what].concat())?;
            let missing: Vec<_> = parts.iter().filter(|p| !said.contains(**p)).collect();
            ensure!(missing.is_empty(), "{missing:?} are not in\n{said}");
            Ok(Some(()))
        })
    };
    let events = ["Scheduled", "Successfully assigned", "Pulled", "Created", "Started", "kubelet"];
    about(
        &["pods", "-l", "app=web"],
        &[
            &["Controlled By:  ReplicaSet/web-", "QoS Class:", "BestEffort", "kube-api-access-", &node],
            &events[..],
        ]
        .concat(),
    )?;
    about(
        &["deployment", "web"],
        &["NewReplicaSet:   web-", "ScalingReplicaSet", "25% max unavailable", "MinimumReplicasAvailable"],
    )?;
    about(&["service", "front"], &["Selector:", "app=web", "Endpoints:", ":80", "Session Affinity:"])?;
    about(&["configmap", "settings"], &["colour:\n----\nblue"])?;
    about(&["secret", "password"], &["word:  6 bytes"])?;
    about(
        &["node", &node],
        &[
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "PodCIDR:",
            "Allocated resources:",
            "Lease:",
            "web-",
        ],
    )?;
    about(&["namespace", ns], &["Status:       Active", "No resource quota."])?;
    about(&["serviceaccount", "default"], &["Name:                default"])?;
    fails(c, ns, &["describe", "pod", "missing"], "pods \"missing\" not found")
}

fn explain(c: &Cluster, ns: &str) -> Result<()> {
    let replicas = run(c, ns, &["explain", "deployment.spec.replicas"])?;
    ensure!(
        says(&replicas, &["GROUP:      apps", "KIND:       Deployment", "FIELD: replicas <integer>"]),
        "{replicas}"
    );
    let pod = run(c, ns, &["explain", "pods"])?;
    ensure!(says(&pod, &["KIND:       Pod", "spec\t<PodSpec>", "status\t<PodStatus>"]), "{pod}");
    let tree = run(c, ns, &["explain", "cronjobs.spec", "--recursive"])?;
    ensure!(
        says(
            &tree,
            &[
                "schedule\t<string> -required-",
                "jobTemplate\t<JobTemplateSpec> -required-",
                "backoffLimit\t<integer>"
            ]
        ),
        "{tree}"
    );
    let older = run(c, ns, &["explain", "hpa", "--api-version=autoscaling/v1"])?;
    ensure!(older.contains("VERSION:    v1"), "{older}");
    fails(c, ns, &["explain", "pod.spec.colour"], "field \"colour\" does not exist")
}

fn about(c: &Cluster, ns: &str) -> Result<()> {
    let resources = run(c, ns, &["api-resources"])?;
    for line in [
        "pods po v1 true Pod",
        "deployments deploy apps/v1 true Deployment",
        "nodes no v1 false Node",
        "horizontalpodautoscalers hpa autoscaling/v2 true HorizontalPodAutoscaler",
        "customresourcedefinitions crd,crds apiextensions.k8s.io/v1 false CustomResourceDefinition",
        "selfsubjectreviews authentication.k8s.io/v1 false SelfSubjectReview",
    ] {
        let known = resources.lines().any(|l| heading(l).join(" ") == line);
        ensure!(known, "no {line:?} in\n{resources}");
    }
    let scoped = run(c, ns, &["api-resources", "--namespaced=false", "--verbs=list", "-o", "name"])?;
    ensure!(scoped.contains("persistentvolumes\n") && !scoped.contains("pods\n"), "{scoped}");
    let versions = run(c, ns, &["api-versions"])?;
    for version in [
        "v1",
        "apps/v1",
        "batch/v1",
        "networking.k8s.io/v1",
        "rbac.authorization.k8s.io/v1",
        "autoscaling/v2",
    ] {
        ensure!(versions.lines().any(|l| l == version), "no {version} in\n{versions}");
    }
    let version = run(c, ns, &["version"])?;
    ensure!(version.contains("Server Version: v1.36"), "{version}");
    let information = run(c, ns, &["cluster-info"])?;
    ensure!(
        information.contains("Kubernetes control plane") && information.contains("https://"),
        "{information}"
    );
    let dump = run(c, ns, &["cluster-info", "dump", "--namespaces", ns])?;
    ensure!(dump.contains("\"kind\": \"NodeList\""), "{dump}");
    Ok(())
}

fn wait(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &busybox("slow", "    readinessProbe: {exec: {command: [test, -f, /tmp/ready]}, periodSeconds: 1}\n"),
    )?;
    run(c, ns, &["wait", "--for=jsonpath={.status.phase}=Running", "pod/slow", "--timeout=60s"])?;
    fails(
        c,
        ns,
        &["wait", "--for=condition=Ready", "pod/slow", "--timeout=1s"],
        "timed out waiting for the condition",
    )?;
    run(c, ns, &["exec", "slow", "--", "touch", "/tmp/ready"])?;
    run(c, ns, &["wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s"])?;
    run(c, ns, &["wait", "--for=jsonpath={.status.podIP}", "pod/slow", "--timeout=5s"])?;
    run(c, ns, &["delete", "pod", "slow", "--wait=false"])?;
    run(c, ns, &["wait", "--for=delete", "pod/slow", "--timeout=30s"])?;
    let mut waiting =
        c.kubectl_background(ns, &["wait", "--for=create", "configmap/late", "--timeout=30s"], false)?;
    run(c, ns, &["create", "configmap", "late"])?;
    waiting.line("configmap/late condition met", 30)?;
    fails(c, ns, &["wait", "--for=condition=Ready", "pod/missing"], "pods \"missing\" not found")
}

fn events(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("told", ""))?;
    ready(c, ns, "told")?;
    c.eventually("events of one object are told", 20, |c| {
        let told = run(c, ns, &["events", "--for", "pod/told"])?;
        ensure!(heading(&told) == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], "{told}");
        ensure!(says(&told, &["Scheduled", "Pulled", "Started", "Pod/told"]), "{told}");
        Ok(Some(()))
    })?;
    let warnings = run(c, ns, &["events", "--types=Warning"])?;
    ensure!(!warnings.contains("Started"), "{warnings}");
    let objects = run(
        c,
        ns,
        &[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=told,reason=Started",
            "-o",
            "jsonpath={.items[*].type} {.items[*].source.component}",
        ],
    )?;
    ensure!(objects == "Normal kubelet", "{objects}");
    let uid = field(c, ns, "pod/told", ".metadata.uid")?;
    let of = run(
        c,
        ns,
        &["get", "events", "--field-selector", &format!("involvedObject.uid={uid}"), "-o", "name"],
    )?;
    ensure!(of.lines().count() >= 4, "{of}");
    Ok(())
}

fn top(c: &Cluster, ns: &str) -> Result<()> {
    fails(c, ns, &["top", "nodes"], "Metrics API not available")?;
    fails(c, ns, &["top", "pods"], "Metrics API not available")
}
