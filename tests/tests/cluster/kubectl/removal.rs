//! delete in its modes: foreground, background, orphan, forced, by selector, and all.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fails, pod_names, ready, run};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("delete in the background, in the foreground, and with orphans", cascades),
    ("delete by name, selector, file and all, and what is not there", choices),
    ("delete waits for finalizers, now means soon and forced means at once", patience),
];

fn cascades(c: &Cluster, ns: &str) -> Result<()> {
    let make = |name: &str| {
        run(c, ns, &["create", "deployment", name, "--image=keelson.local/web:1"])?;
        run(c, ns, &["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"])
    };
    for name in ["behind", "before", "alone"] {
        make(name)?;
    }
    run(c, ns, &["delete", "deployment", "behind"])?;
    fails(c, ns, &["get", "deployment", "behind"], "not found")?;
    run(
        c,
        ns,
        &["delete", "deployment", "before", "--cascade=foreground", "--timeout=60s", "--request-timeout=70s"],
    )?;
    ensure!(pod_names(c, ns, "app=before")?.is_empty(), "in the foreground dependents go first");
    ensure!(run(c, ns, &["get", "replicasets", "-l", "app=before", "-o", "name"])?.is_empty(), "and the set");
    run(c, ns, &["delete", "deployment", "alone", "--cascade=orphan"])?;
    let set = run(c, ns, &["get", "replicasets", "-l", "app=alone", "-o", "name"])?;
    let owners = run(c, ns, &["get", set.trim(), "-o", "jsonpath={.metadata.ownerReferences}"])?;
    ensure!(owners.is_empty(), "an orphan still has owners: {owners}");
    ensure!(pod_names(c, ns, "app=alone")?.len() == 1, "its pod went");
    // A new owner with the same selector takes the orphans in.
    run(c, ns, &["create", "deployment", "alone", "--image=keelson.local/web:1"])?;
    c.eventually("the orphan is adopted", 30, |c| {
        let owner = run(c, ns, &["get", set.trim(), "-o", "jsonpath={.metadata.ownerReferences[0].name}"])?;
        Ok((owner == "alone").then_some(()))
    })?;
    c.eventually("what was deleted in the background goes, too", 60, |c| {
        Ok(pod_names(c, ns, "app=behind")?.is_empty().then_some(()))
    })
}

fn choices(c: &Cluster, ns: &str) -> Result<()> {
    for name in ["a", "b", "c", "d"] {
        run(c, ns, &["create", "configmap", name])?;
    }
    run(c, ns, &["label", "configmap", "a", "b", "colour=red"])?;
    let told = run(c, ns, &["delete", "configmap", "-l", "colour=red"])?;
    ensure!(told.contains("configmap \"a\" deleted") && told.contains("configmap \"b\" deleted"), "{told}");
    fails(c, ns, &["delete", "configmap", "a"], "configmaps \"a\" not found")?;
    run(c, ns, &["delete", "configmap", "a", "--ignore-not-found"])?;
    let by_file = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    c.kubectl_with(&["--namespace", ns, "delete", "-f", "-"], by_file)?;
    ensure!(run(c, ns, &["delete", "configmap/d", "-o", "name"])? == "configmap/d\n", "its name");
    for name in ["e", "f"] {
        run(c, ns, &["create", "secret", "generic", name])?;
    }
    run(c, ns, &["delete", "secrets", "--all"])?;
    ensure!(run(c, ns, &["get", "secrets", "-o", "name"])?.is_empty(), "some are left");
    fails(c, ns, &["delete", "pods"], "resource(s) were provided, but no name was specified")
}

fn patience(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.test/hold]}\n",
    )?;
    fails(c, ns, &["delete", "configmap", "held", "--timeout=1s"], "timed out waiting for the condition")?;
    let stamp = run(c, ns, &["get", "configmap", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"])?;
    ensure!(!stamp.is_empty(), "it is not marked");
    run(c, ns, &["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    fails(c, ns, &["get", "configmap", "held"], "not found")?;
    let deaf =
        busybox("deaf", "").replace("trap exit TERM", "trap \"\" TERM").replace("Seconds: 1", "Seconds: 600");
    apply(c, ns, &deaf)?;
    ready(c, ns, "deaf")?;
    run(c, ns, &["delete", "pod", "deaf", "--now"]).context("now means within a second")?;
    apply(c, ns, &deaf)?;
    ready(c, ns, "deaf")?;
    run(c, ns, &["delete", "pod", "deaf", "--force"])?;
    fails(c, ns, &["get", "pod", "deaf"], "not found")
}
