//! Controllers and the pods they keep.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fetches, field, pod_names, ready, resolves, run, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("deployments roll out, scale, roll back and take their pods with them", deployments),
    ("deleted pods are replaced and ended containers restarted", healing),
    ("stateful sets have an order and names", stateful_sets),
    ("daemon sets run on every node", daemon_sets),
    ("jobs run to their end", jobs),
    ("config maps reach containers and follow changes", config_maps),
    ("namespaces end with all they hold", namespaces),
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
