//! Controllers and the pods they keep.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fails, fetches, field, pod_names, ready, resolves, run, shell, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("deployments roll out, scale, roll back and take their pods with them", deployments),
    ("deleted pods are replaced and ended containers restarted", healing),
    ("stateful sets have an order and names", stateful_sets),
    ("daemon sets run on every node", daemon_sets),
    ("jobs run to their end", jobs),
    ("jobs in parallel, by index, over their bounds, and of limited time", jobs_of_all_kinds),
    ("cron jobs run on schedule, and not while suspended", cron_jobs),
    ("stateful sets keep a claim for every ordinal, and update from the highest", claims),
    ("replica sets adopt and release pods by their labels", adoption),
    ("jobs adopt and release pods by their labels, and hold none that they released", adoption_by_job),
    ("a deployment that recreates never has both versions", recreate),
    ("config maps reach containers and follow changes", config_maps),
    ("config maps that may not change stay, and optional ones may be missing", immutable),
    ("quotas and limit ranges bound what a namespace takes", bounds),
    ("a disruption budget holds evictions back", budgets),
    ("a pod of higher priority takes the place of lower ones", preemption),
    ("pods are placed by selectors, affinity and hand", placement),
    ("namespaces end with all they hold", namespaces),
    ("objects of a defined kind own others, and again when the kind came back", defined_owners),
];

fn deployments(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    run(c, ns, &["scale", "deployment/web", "--replicas=3"])?;
    wait_field(c, ns, "deployment/web", ".status.readyReplicas", "3")?;
    run(c, ns, &["set", "image", "deployment/web", "web=keelson.local/web:2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let images =
        run(c, ns, &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}"])?;
    ensure!(images.contains("web:2"), "after the update pods run {images}");
    run(c, ns, &["rollout", "undo", "deployment/web"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let image = field(c, ns, "deployment/web", ".spec.template.spec.containers[0].image")?;
    ensure!(image == "keelson.local/web:1", "rolled back to {image}");
    run(c, ns, &["delete", "deployment", "web"])?;
    c.eventually("the pods of a deleted deployment are gone", 60, |c| {
        Ok(pod_names(c, ns, "app=web")?.is_empty().then_some(()))
    })
}

fn healing(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let first = pod_names(c, ns, "app=web")?.pop().context("the deployment has a pod")?;
    run(c, ns, &["delete", "pod", &first, "--wait=false"])?;
    c.eventually("another pod takes the place of a deleted one", 60, |c| {
        let names = pod_names(c, ns, "app=web")?;
        Ok((names.len() == 1 && names[0] != first).then_some(()))
    })?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    apply(c, ns, &busybox("once", ""))?;
    ready(c, ns, "once")?;
    run(c, ns, &["exec", "once", "--", "kill", "1"])?;
    wait_field(c, ns, "pod/once", ".status.containerStatuses[0].restartCount", "1")?;
    ready(c, ns, "once")?;
    let outcome = run(c, ns, &["exec", "once", "--", "sh", "-c", "exit 7"]);
    let said = format!("{:#}", outcome.err().context("the command's failure is told")?);
    ensure!(said.contains("exit code 7"), "{said}");
    Ok(())
}

fn stateful_sets(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}\n\
         ---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  replicas: 2\n  \
         selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    \
         spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}\n",
    )?;
    run(c, ns, &["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    ensure!(pod_names(c, ns, "app=db")? == ["db-0", "db-1"], "pods are named by ordinal");
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    let address = field(c, ns, "pod/db-1", ".status.podIP")?;
    resolves(c, ns, &format!("db-1.db.{ns}.svc.cluster.local"), &address)?;
    fetches(c, ns, &address)?;
    let before = field(c, ns, "pod/db-0", ".metadata.uid")?;
    run(c, ns, &["delete", "pod", "db-0"])?;
    run(c, ns, &["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    ready(c, ns, "db-0")?;
    ensure!(field(c, ns, "pod/db-0", ".metadata.uid")? != before, "a new pod has the old name");
    run(c, ns, &["scale", "statefulset/db", "--replicas=1"])?;
    c.eventually("the highest ordinal goes first", 60, |c| {
        Ok((pod_names(c, ns, "app=db")? == ["db-0"]).then_some(()))
    })
}

fn daemon_sets(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}\n  \
         template:\n    metadata: {labels: {app: agent}}\n    spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}\n",
    )?;
    run(c, ns, &["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    let nodes = run(c, ns, &["get", "nodes", "-o", "name"])?.lines().count();
    ensure!(pod_names(c, ns, "app=agent")?.len() == nodes, "one pod a node");
    run(c, ns, &["set", "image", "daemonset/agent", "web=keelson.local/web:2"])?;
    run(c, ns, &["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    run(c, ns, &["rollout", "undo", "daemonset/agent"])?;
    run(c, ns, &["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    let image = field(c, ns, "daemonset/agent", ".spec.template.spec.containers[0].image")?;
    ensure!(image == "keelson.local/web:1", "rolled back to {image}");
    Ok(())
}

fn jobs(c: &Cluster, ns: &str) -> Result<()> {
    run(
        c,
        ns,
        &["create", "job", "sum", "--image=keelson.local/busybox:1", "--", "sh", "-c", "echo $((40 + 2))"],
    )?;
    run(c, ns, &["wait", "--for=condition=Complete", "job/sum", "--timeout=60s"])?;
    let said = run(c, ns, &["logs", "job/sum"])?;
    ensure!(said.trim() == "42", "the job said {said:?}");
    ensure!(field(c, ns, "job/sum", ".status.succeeded")? == "1", "one pod succeeded, once");
    run(
        c,
        ns,
        &[
            "create",
            "cronjob",
            "tick",
            "--image=keelson.local/busybox:1",
            "--schedule=0 0 1 1 *",
            "--",
            "true",
        ],
    )?;
    run(c, ns, &["create", "job", "now", "--from=cronjob/tick"])?;
    run(c, ns, &["wait", "--for=condition=Complete", "job/now", "--timeout=60s"])?;
    run(c, ns, &["delete", "job", "sum", "now"])?;
    c.eventually("the pods of deleted jobs are gone", 60, |c| {
        Ok(run(c, ns, &["get", "pods", "-o", "name"])?.is_empty().then_some(()))
    })
}

fn config_maps(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    run(c, ns, &["create", "secret", "generic", "password", "--from-literal=word=sesame"])?;
    let more = "    env:\n    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}\n    \
                - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}\n    \
                - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    \
                volumeMounts: [{name: settings, mountPath: /settings}]\n  \
                volumes: [{name: settings, configMap: {name: settings}}]\n";
    apply(c, ns, &busybox("reader", more))?;
    ready(c, ns, "reader")?;
    let said =
        run(c, ns, &["exec", "reader", "--", "sh", "-c", "echo $COLOUR $WORD $NODE; cat /settings/colour"])?;
    let node = field(c, ns, "pod/reader", ".spec.nodeName")?;
    ensure!(said.trim() == format!("blue sesame {node}\nblue"), "the container sees {said:?}");
    run(c, ns, &["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#])?;
    c.eventually("the mounted file follows", 120, |c| {
        let now = run(c, ns, &["exec", "reader", "--", "cat", "/settings/colour"])?;
        Ok((now.trim() == "green").then_some(()))
    })
}

fn namespaces(c: &Cluster, _: &str) -> Result<()> {
    c.kubectl(&["create", "namespace", "short-lived"])?;
    run(c, "short-lived", &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, "short-lived", &["create", "configmap", "settings", "--from-literal=a=b"])?;
    run(c, "short-lived", &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    c.kubectl(&["delete", "namespace", "short-lived", "--timeout=90s", "--request-timeout=100s"])?;
    let gone = c.kubectl(&["get", "namespace", "short-lived"]);
    ensure!(gone.is_err_and(|e| e.to_string().contains("not found")), "the namespace is still there");
    Ok(())
}

fn defined_owners(c: &Cluster, ns: &str) -> Result<()> {
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: hulls.keelson.test}\nspec:\n  \
         group: keelson.test\n  scope: Namespaced\n  names: {plural: hulls, singular: hull, kind: Hull}\n  \
         versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]\n";
    let hull = "apiVersion: keelson.test/v1\nkind: Hull\nmetadata: {name: owner}\n";
    let whole = "hulls.keelson.test";
    for _ in 0..2 {
        apply(c, ns, definition)?;
        run(c, ns, &["wait", "--for=condition=Established", &format!("crd/{whole}"), "--timeout=30s"])?;
        c.eventually("the kind is served", 30, |c| Ok(apply(c, ns, hull).ok()))?;
        let uid = field(c, ns, &format!("{whole}/owner"), ".metadata.uid")?;
        let owned = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cargo\n  \
             ownerReferences: [{{apiVersion: keelson.test/v1, kind: Hull, name: owner, uid: {uid}}}]\n"
        );
        apply(c, ns, &owned)?;
        run(c, ns, &["delete", whole, "owner"])?;
        // New kinds are looked for twice a minute.
        c.eventually("what it owned goes", 90, |c| {
            let left = run(c, ns, &["get", "configmap", "cargo", "--ignore-not-found", "-o", "name"])?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
        run(c, ns, &["delete", "crd", whole, "--timeout=60s"])?;
    }
    Ok(())
}

/// A job of busybox.
fn job(name: &str, spec: &str, pod: &str, command: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n  template:\n    spec:\n      {pod}\n      \
         terminationGracePeriodSeconds: 1\n      containers: [{{name: main, image: 'keelson.local/busybox:1', command: [sh, -c, '{command}']}}]\n"
    )
}

fn jobs_of_all_kinds(c: &Cluster, ns: &str) -> Result<()> {
    let never = "restartPolicy: Never";
    apply(c, ns, &job("many", "parallelism: 2\n  completions: 4", never, "true"))?;
    apply(
        c,
        ns,
        &job(
            "indexed",
            "completionMode: Indexed\n  completions: 3\n  parallelism: 3",
            never,
            "echo index $JOB_COMPLETION_INDEX",
        ),
    )?;
    apply(c, ns, &job("failing", "backoffLimit: 1", never, "exit 3"))?;
    apply(c, ns, &job("late", "activeDeadlineSeconds: 3", never, "sleep 600"))?;
    apply(c, ns, &job("brief", "ttlSecondsAfterFinished: 1", never, "true"))?;
    apply(c, ns, &job("asleep", "suspend: true", never, "true"))?;
    run(c, ns, &["wait", "--for=condition=Complete", "job/many", "job/indexed", "--timeout=90s"])?;
    ensure!(field(c, ns, "job/many", ".status.succeeded")? == "4", "four have succeeded");
    ensure!(field(c, ns, "job/indexed", ".status.completedIndexes")? == "0-2", "every index");
    let mut said: Vec<String> =
        run(c, ns, &["logs", "-l", "job-name=indexed"])?.lines().map(str::to_owned).collect();
    said.sort();
    ensure!(said == ["index 0", "index 1", "index 2"], "{said:?}");
    run(c, ns, &["wait", "--for=condition=Failed", "job/failing", "job/late", "--timeout=90s"])?;
    let reason = ".status.conditions[?(@.type==\"Failed\")].reason";
    ensure!(field(c, ns, "job/failing", reason)? == "BackoffLimitExceeded", "its reason");
    ensure!(field(c, ns, "job/failing", ".status.failed")? == "2", "once more than its limit");
    ensure!(field(c, ns, "job/late", reason)? == "DeadlineExceeded", "its reason");
    c.eventually("the pods of a late job are ended", 30, |c| {
        Ok(run(
            c,
            ns,
            &["get", "pods", "-l", "job-name=late", "--field-selector=status.phase=Running", "-o", "name"],
        )?
        .is_empty()
        .then_some(()))
    })?;
    c.eventually("a finished job goes when its time is over", 60, |c| {
        Ok(run(c, ns, &["get", "job", "brief"]).is_err().then_some(()))
    })?;
    ensure!(pod_names(c, ns, "job-name=asleep")?.is_empty(), "a suspended job has pods");
    run(c, ns, &["patch", "job", "asleep", "-p", r#"{"spec":{"suspend":false}}"#])?;
    run(c, ns, &["wait", "--for=condition=Complete", "job/asleep", "--timeout=60s"])?;
    Ok(())
}

fn cron_jobs(c: &Cluster, ns: &str) -> Result<()> {
    let image = "--image=keelson.local/busybox:1";
    for (name, schedule) in [("tick", "*/1 * * * *"), ("asleep", "*/1 * * * *")] {
        run(
            c,
            ns,
            &["create", "cronjob", name, image, &format!("--schedule={schedule}"), "--", "echo", "tick"],
        )?;
    }
    run(c, ns, &["patch", "cronjob", "asleep", "-p", r#"{"spec":{"suspend":true}}"#])?;
    run(c, ns, &["patch", "cronjob", "tick", "-p", r#"{"spec":{"successfulJobsHistoryLimit":1}}"#])?;
    let job = c.eventually("a job of the schedule has run", 100, |c| {
        let jobs = run(
            c,
            ns,
            &["get", "jobs", "-o", "jsonpath={range .items[?(@.status.succeeded==1)]}{.metadata.name} {end}"],
        )?;
        Ok(jobs.split_whitespace().next().map(str::to_owned))
    })?;
    ensure!(job.starts_with("tick-"), "it belongs to {job}");
    ensure!(field(c, ns, &format!("job/{job}"), ".metadata.ownerReferences[0].name")? == "tick", "its owner");
    ensure!(!field(c, ns, "cronjob/tick", ".status.lastScheduleTime")?.is_empty(), "when it ran");
    wait_field(c, ns, "cronjob/tick", ".status.active", "")?;
    ensure!(field(c, ns, "cronjob/asleep", ".status.lastScheduleTime")?.is_empty(), "it ran while suspended");
    run(c, ns, &["delete", "cronjob", "tick", "asleep"])?;
    c.eventually("its jobs go with it", 30, |c| {
        Ok(run(c, ns, &["get", "jobs", "-o", "name"])?.is_empty().then_some(()))
    })
}

fn claims(c: &Cluster, ns: &str) -> Result<()> {
    for at in 0..2 {
        let path = c.folder().join(format!("{ns}-volume-{at}"));
        apply(
            c,
            ns,
            &format!(
                "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {ns}-{at}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], \
                 persistentVolumeReclaimPolicy: Retain, storageClassName: {ns}, hostPath: {{path: {}, type: DirectoryOrCreate}}}}\n",
                path.display()
            ),
        )?;
    }
    let set = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  replicas: 2\n  selector: {{matchLabels: {{app: db}}}}\n  \
         template:\n    metadata: {{labels: {{app: db}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers: [{{name: main, image: 'keelson.local/busybox:1', command: [sh, -c, 'hostname >> /data/log; trap exit TERM; while true; do sleep 1; done'], volumeMounts: [{{name: data, mountPath: /data}}]}}]\n  \
         volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], storageClassName: {ns}, resources: {{requests: {{storage: 1Gi}}}}}}}}]\n"
    );
    apply(c, ns, &set)?;
    run(c, ns, &["rollout", "status", "statefulset/db", "--timeout=90s"])?;
    for at in 0..2 {
        ensure!(
            field(c, ns, &format!("pvc/data-db-{at}"), ".status.phase")? == "Bound",
            "a claim of its own"
        );
    }
    run(c, ns, &["delete", "pod", "db-0"])?;
    run(c, ns, &["rollout", "status", "statefulset/db", "--timeout=90s"])?;
    ready(c, ns, "db-0")?;
    ensure!(shell(c, ns, "db-0", "cat /data/log")? == "db-0\ndb-0", "what was written is there");
    // A partition holds the lower ordinals back.
    let hold_back = |partition: u32| {
        let patch =
            format!(r#"{{"spec":{{"updateStrategy":{{"rollingUpdate":{{"partition":{partition}}}}}}}}}"#);
        run(c, ns, &["patch", "statefulset", "db", "-p", &patch])
    };
    hold_back(1)?;
    run(c, ns, &["set", "env", "statefulset/db", "A=b"])?;
    run(c, ns, &["rollout", "status", "statefulset/db", "--timeout=90s"])?;
    let env = |pod: &str| field(c, ns, &format!("pod/{pod}"), ".spec.containers[0].env[*].name");
    c.eventually("the highest ordinal is updated", 60, |_| Ok((env("db-1")? == "A").then_some(())))?;
    ensure!(env("db-0")?.is_empty(), "the partition was passed");
    hold_back(0)?;
    c.eventually("then the others are", 60, |_| Ok((env("db-0")? == "A").then_some(())))?;
    run(c, ns, &["delete", "statefulset", "db"])?;
    c.eventually("the pods are gone", 60, |c| Ok(pod_names(c, ns, "app=db")?.is_empty().then_some(())))?;
    ensure!(field(c, ns, "pvc/data-db-0", ".status.phase")? == "Bound", "claims stay without the set");
    run(c, ns, &["delete", "pvc", "--all"])?;
    for at in 0..2 {
        wait_field(c, ns, &format!("pv/{ns}-{at}"), ".status.phase", "Released")?;
        run(c, ns, &["delete", "pv", &format!("{ns}-{at}")])?;
    }
    Ok(())
}

fn adoption(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("orphan", ""))?;
    run(c, ns, &["label", "pod", "orphan", "app=set", "--overwrite"])?;
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: set}\nspec: {replicas: 1, selector: {matchLabels: {app: set}}, \
         template: {metadata: {labels: {app: set}}, spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}}}\n",
    )?;
    wait_field(c, ns, "pod/orphan", ".metadata.ownerReferences[0].name", "set")?;
    wait_field(c, ns, "replicaset/set", ".status.replicas", "1")?;
    ensure!(pod_names(c, ns, "app=set")? == ["orphan"], "it made another");
    run(c, ns, &["label", "pod", "orphan", "app=free", "--overwrite"])?;
    wait_field(c, ns, "pod/orphan", ".metadata.ownerReferences", "")?;
    c.eventually("another takes its place", 30, |c| {
        let names = pod_names(c, ns, "app=set")?;
        Ok((names.len() == 1 && names[0] != "orphan").then_some(()))
    })
}

fn adoption_by_job(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &job("keeper", "parallelism: 1", "restartPolicy: Never", "trap exit TERM; sleep 600 & wait"),
    )?;
    let name = c.eventually("the job has a pod", 30, |c| Ok(pod_names(c, ns, "job-name=keeper")?.pop()))?;
    let pod = format!("pod/{name}");
    ready(c, ns, &name)?;
    let (held, owner) = (".metadata.finalizers[0]", ".metadata.ownerReferences[0].name");
    ensure!(field(c, ns, &pod, held)? == "batch.kubernetes.io/job-tracking", "its pods are held");
    run(c, ns, &["patch", &pod, "--type=merge", "-p", r#"{"metadata":{"ownerReferences":null}}"#])?;
    wait_field(c, ns, &pod, owner, "keeper")?;
    wait_field(c, ns, &pod, held, "batch.kubernetes.io/job-tracking")?;
    let labels = r#"{"metadata":{"labels":null}}"#;
    run(c, ns, &["patch", &pod, "--type=merge", "-p", labels])?;
    wait_field(c, ns, &pod, owner, "")?;
    wait_field(c, ns, &pod, held, "")?;
    run(c, ns, &["delete", &pod, "--timeout=60s"])?;
    // One that nobody owned from the start is not held either.
    let stray = busybox("stray", "").replacen(
        "metadata: {",
        "metadata: {finalizers: [batch.kubernetes.io/job-tracking], ",
        1,
    );
    apply(c, ns, &stray)?;
    wait_field(c, ns, "pod/stray", held, "")
}

fn recreate(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  strategy: {type: Recreate}\n  \
         selector: {matchLabels: {app: web}}\n  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}}\n",
    )?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let path = "jsonpath={.type} {.object.status.phase} {.object.spec.containers[0].image} {.object.metadata.name}{\"\\n\"}";
    let mut watch =
        c.kubectl_background(ns, &["get", "pods", "-w", "--output-watch-events", "-o", path], false)?;
    watch.line("web:1", 20)?;
    run(c, ns, &["set", "image", "deployment/web", "web=keelson.local/web:2"])?;
    let first = watch.line("ADDED Pending keelson.local/web:2", 60)?;
    ensure!(first.contains("web"), "{first}");
    let ended = |l: &&String| {
        let told: Vec<&str> = l.split(' ').collect();
        told.contains(&"keelson.local/web:1")
            && (told[0] == "DELETED" || matches!(told[1], "Succeeded" | "Failed"))
    };
    let mut names: Vec<&str> =
        watch.said().iter().filter(ended).filter_map(|l| l.split(' ').next_back()).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == 2, "before the first new pod only {names:?} had ended: {:?}", watch.said());
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}

fn immutable(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\ndata: {a: b}\nimmutable: true\n",
    )?;
    fails(
        c,
        ns,
        &["patch", "configmap", "fixed", "-p", r#"{"data":{"a":"c"}}"#],
        "field is immutable when `immutable` is set",
    )?;
    fails(c, ns, &["patch", "configmap", "fixed", "-p", r#"{"immutable":false}"#], "field is immutable")?;
    run(c, ns, &["label", "configmap", "fixed", "colour=red"])?;
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Secret\nmetadata: {name: fixed}\nstringData: {a: b}\nimmutable: true\n",
    )?;
    fails(c, ns, &["patch", "secret", "fixed", "-p", r#"{"stringData":{"a":"c"}}"#], "immutable")?;
    let more = "    env:\n    - {name: A, valueFrom: {configMapKeyRef: {name: fixed, key: a}}}\n    \
                - {name: B, valueFrom: {configMapKeyRef: {name: missing, key: b, optional: true}}}\n    \
                - {name: C, valueFrom: {secretKeyRef: {name: fixed, key: missing, optional: true}}}\n";
    apply(c, ns, &busybox("reader", more))?;
    ready(c, ns, "reader")?;
    ensure!(shell(c, ns, "reader", "echo [$A] [$B] [$C]")? == "[b] [] []", "what is there");
    Ok(())
}

fn bounds(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: bounds}\nspec: {hard: {pods: '2', requests.cpu: 300m, 'count/configmaps': '2'}}\n---\n\
         apiVersion: v1\nkind: LimitRange\nmetadata: {name: ranges}\nspec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {cpu: 250m}}]}\n",
    )?;
    c.eventually("the quota is counted", 20, |c| {
        Ok((field(c, ns, "resourcequota/bounds", ".status.used.count/configmaps")? == "1").then_some(()))
    })?;
    apply(c, ns, &busybox("a", ""))?;
    let resources = field(c, ns, "pod/a", ".spec.containers[0].resources")?;
    ensure!(resources == r#"{"limits":{"cpu":"200m"},"requests":{"cpu":"100m"}}"#, "defaults: {resources}");
    let refused = |manifest: &str, why: &str| {
        let told = apply(c, ns, manifest).err().context("it was taken")?.to_string();
        ensure!(told.contains(why), "{told}");
        anyhow::Ok(())
    };
    refused(
        &busybox("b", "    resources: {limits: {cpu: 300m}}\n"),
        "maximum cpu usage per Container is 250m, but limit is 300m",
    )?;
    refused(
        &busybox("b", "    resources: {requests: {cpu: 250m}, limits: {cpu: 250m}}\n"),
        "exceeded quota: bounds, requested: requests.cpu=250m, used: requests.cpu=100m, limited: requests.cpu=300m",
    )?;
    apply(c, ns, &busybox("b", ""))?;
    refused(&busybox("c", ""), "exceeded quota: bounds, requested: pods=1, used: pods=2, limited: pods=2")?;
    run(c, ns, &["create", "configmap", "one"])?;
    fails(c, ns, &["create", "configmap", "two"], "exceeded quota: bounds")?;
    // A deployment tells that it may not have its pods.
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    wait_field(
        c,
        ns,
        "deployment/web",
        ".status.conditions[?(@.type==\"ReplicaFailure\")].reason",
        "FailedCreate",
    )?;
    run(c, ns, &["delete", "pod", "a", "b"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}

fn budgets(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    wait_field(c, ns, "poddisruptionbudget/web", ".status.currentHealthy", "2")?;
    ensure!(field(c, ns, "poddisruptionbudget/web", ".status.disruptionsAllowed")? == "0", "none may go");
    let pod = pod_names(c, ns, "app=web")?.pop().context("a pod")?;
    let body = format!(
        "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{pod}\",\"namespace\":\"{ns}\"}}}}"
    );
    let evict = || {
        c.kubectl_with(
            &["create", "--raw", &format!("/api/v1/namespaces/{ns}/pods/{pod}/eviction"), "-f", "-"],
            &body,
        )
    };
    let told = evict().err().context("it was evicted")?.to_string();
    ensure!(told.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{told}");
    run(c, ns, &["patch", "poddisruptionbudget", "web", "-p", r#"{"spec":{"minAvailable":1}}"#])?;
    wait_field(c, ns, "poddisruptionbudget/web", ".status.disruptionsAllowed", "1")?;
    evict()?;
    c.eventually("the evicted pod goes and another comes", 60, |c| {
        let names = pod_names(c, ns, "app=web")?;
        Ok((names.len() == 2 && !names.contains(&pod)).then_some(()))
    })
}

fn preemption(c: &Cluster, ns: &str) -> Result<()> {
    for (name, value) in [("low", "-10"), ("high", "1000")] {
        run(c, ns, &["create", "priorityclass", &format!("{ns}-{name}"), &format!("--value={value}")])?;
    }
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    // A resource of its own, so that nobody else's pods are in the way.
    let patch = r#"[{"op":"add","path":"/status/capacity/example.test~1seat","value":"1"}]"#;
    run(c, ns, &["patch", "node", &node, "--subresource=status", "--type=json", "-p", patch])?;
    let seated = |name: &str| {
        busybox(
            name,
            &format!(
                "    resources: {{limits: {{example.test/seat: 1}}}}\n  priorityClassName: {ns}-{name}\n"
            ),
        )
    };
    c.eventually("the low one runs", 60, |c| {
        apply(c, ns, &seated("low"))?;
        Ok((field(c, ns, "pod/low", ".status.phase")? == "Running").then_some(()))
    })?;
    apply(c, ns, &seated("high"))?;
    ready(c, ns, "high")?;
    c.eventually("the low one is gone", 30, |c| {
        Ok(run(c, ns, &["get", "pod", "low"]).is_err().then_some(()))
    })?;
    let told = run(
        c,
        ns,
        &["get", "events", "-o", "jsonpath={range .items[*]}{.involvedObject.name} {.reason}\n{end}"],
    )?;
    ensure!(told.contains("low Preempted"), "{told}");
    run(c, ns, &["delete", "priorityclass", &format!("{ns}-low"), &format!("{ns}-high")]).map(drop)
}

fn placement(c: &Cluster, ns: &str) -> Result<()> {
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    apply(c, ns, &busybox("nowhere", "  nodeSelector: {colour: nobody}\n"))?;
    apply(c, ns, &busybox("chosen", &format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")))?;
    apply(c, ns, &busybox("bound", &format!("  nodeName: {node}\n")))?;
    let apart = "  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: chosen}}}]}}\n";
    ready(c, ns, "chosen")?;
    ready(c, ns, "bound")?;
    apply(c, ns, &busybox("apart", apart))?;
    apply(c, ns, &busybox("together", &apart.replace("podAntiAffinity", "podAffinity")))?;
    ready(c, ns, "together")?;
    for (name, why) in [
        ("nowhere", "didn't match Pod's node affinity/selector"),
        ("apart", "didn't match pod anti-affinity rules"),
    ] {
        c.eventually(&format!("{name} says why it waits"), 20, |c| {
            let told = field(
                c,
                ns,
                &format!("pod/{name}"),
                ".status.conditions[?(@.type==\"PodScheduled\")].message",
            )?;
            ensure!(told.starts_with("0/1 nodes are available: 1 node(s)") && told.contains(why), "{told}");
            Ok(Some(()))
        })?;
    }
    apply(c, ns, &busybox("gated", "  schedulingGates: [{name: example.test/wait}]\n"))?;
    wait_field(c, ns, "pod/gated", ".status.conditions[0].reason", "SchedulingGated")?;
    run(
        c,
        ns,
        &[
            "patch",
            "pod",
            "gated",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/schedulingGates/0"}]"#,
        ],
    )?;
    ready(c, ns, "gated")?;
    run(c, ns, &["delete", "pod", "chosen"])?;
    ready(c, ns, "apart").context("once the other is gone there is room")
}
