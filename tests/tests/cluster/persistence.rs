//! What outlives the daemons and the store.

use anyhow::{Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fetches, field, http, ready, run, shell, wait_field, web_behind_port};

pub(crate) const TESTS: &[Test<Cluster>] =
    &[("everything comes back after a restart of all daemons and etcd", persistence)];

/// Every object of a namespace that does not change by itself, with its identity and version.
fn objects(c: &Cluster, ns: &str) -> Result<String> {
    let kinds = "configmaps,secrets,services,serviceaccounts,roles,rolebindings,persistentvolumeclaims,cronjobs,statefulsets,deployments,replicasets,controllerrevisions";
    run(
        c,
        ns,
        &[
            "get",
            kinds,
            "-o",
            "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}\n{end}",
        ],
    )
}

/// Pods with their containers and restarts.
fn containers(c: &Cluster, ns: &str) -> Result<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    run(c, ns, &["get", "pods", "-o", path])
}

fn persistence(c: &Cluster, ns: &str) -> Result<()> {
    web_behind_port(c, ns)?;
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    run(c, ns, &["create", "secret", "generic", "password", "--from-literal=word=sesame"])?;
    run(c, ns, &["create", "role", "reader", "--verb=get", "--resource=pods"])?;
    run(
        c,
        ns,
        &[
            "create",
            "cronjob",
            "yearly",
            "--image=keelson.local/busybox:1",
            "--schedule=0 0 1 1 *",
            "--",
            "true",
        ],
    )?;
    let more = "    volumeMounts: [{name: settings, mountPath: /settings}, {name: scratch, mountPath: /scratch}]\n  \
                volumes: [{name: settings, configMap: {name: settings}}, {name: scratch, emptyDir: {}}]\n";
    apply(c, ns, &busybox("client", more))?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ready(c, ns, "client")?;
    shell(c, ns, "client", "echo kept > /scratch/word; echo said > /proc/1/fd/1")?;
    fetches(c, ns, "web")?;
    let node = field(c, ns, "pod/client", ".status.hostIP")?;
    let port: u16 = field(c, ns, "service/web", ".spec.ports[0].nodePort")?.parse()?;
    let (before, things) = (containers(c, ns)?, objects(c, ns)?);
    c.hack(&["down", "--keep-containers"])?;
    ensure!(c.kubectl(&["get", "nodes"]).is_err(), "the API server still answers");
    ensure!(http(&node, port)?.contains("Keelson says hello"), "pods answer without the daemons");
    c.up()?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ready(c, ns, "client")?;
    ensure!(
        containers(c, ns)? == before,
        "containers are not those of before:\n{before}\n{}",
        containers(c, ns)?
    );
    ensure!(objects(c, ns)? == things, "objects are not those of before:\n{things}\n{}", objects(c, ns)?);
    ensure!(
        shell(c, ns, "client", "cat /scratch/word /settings/colour")? == "kept\nblue",
        "what it wrote and was given"
    );
    ensure!(run(c, ns, &["logs", "client"])?.contains("said"), "its log");
    fetches(c, ns, "web")?;
    // Everything goes on from where it was.
    run(c, ns, &["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#])?;
    run(c, ns, &["scale", "deployment/web", "--replicas=3"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    run(c, ns, &["exec", "client", "--", "kill", "1"])?;
    wait_field(c, ns, "pod/client", ".status.containerStatuses[0].restartCount", "1")?;
    c.eventually("mounted files follow as before", 120, |c| {
        Ok((shell(c, ns, "client", "cat /settings/colour")? == "green").then_some(()))
    })
}
