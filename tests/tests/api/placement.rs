//! Resources that are kept in an etcd of their own.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{ControlPlane, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] =
    &[("single resources are kept, watched and told of in another etcd", overrides)];

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn secrets(name: &str) -> String {
    format!("/api/v1/namespaces/default/secrets{name}")
}

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    json!({"metadata": {"name": "widgets.placement.test"}, "spec": {"group": "placement.test", "scope": "Cluster",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}})
}

/// The other etcd has an API server of its own, which shows what is in there and nothing else.
fn overrides(_: &(), _: &str) -> Result<()> {
    let other = ControlPlane::start(Options::default())?;
    let url = other.etcd_url();
    let flags = vec![
        format!("--etcd-servers-overrides=/configmaps#{url},coordination.k8s.io/leases#{url}"),
        // Definitions stay where they are, as upstream.
        format!("--etcd-servers-overrides=apiextensions.k8s.io/customresourcedefinitions#{url}"),
    ];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let (here, there) = (plane.admin()?, other.admin()?);
    let mut watch = here.watch(&format!("{}?watch=true", config_maps("default", "")))?;
    let made = json!({"metadata": {"name": "placed"}, "data": {"a": "b"}});
    here.post(&config_maps("default", ""), &made)?.ok()?;
    here.post(&secrets(""), &json!({"metadata": {"name": "kept"}}))?.ok()?;
    here.post(DEFINITIONS, &definition())?.ok()?;
    let seen = watch.expect("ADDED")?;
    ensure!(seen["metadata"]["name"] == "placed", "{seen}");
    let found = there.get(&config_maps("default", "placed"))?.ok()?;
    ensure!(found["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"], "{found} {seen}");
    there.get(&secrets("/kept"))?.refused(404, "NotFound")?;
    there.get(&format!("{DEFINITIONS}/widgets.placement.test"))?.refused(404, "NotFound")?;
    // What others write there is seen here.
    there.post(&config_maps("default", ""), &json!({"metadata": {"name": "elsewhere"}}))?.ok()?;
    let seen = watch.expect("ADDED")?;
    ensure!(seen["metadata"]["name"] == "elsewhere", "{seen}");
    let list = here.get(&config_maps("default", ""))?.ok()?;
    ensure!(list["items"].as_array().is_some_and(|items| items.len() == 2), "{list}");
    here.delete(&config_maps("default", "placed"))?.ok()?;
    there.get(&config_maps("default", "placed"))?.refused(404, "NotFound")?;
    health(&plane, &other)
}

/// Each cluster is told of by itself, and does not take the other's resources with it.
fn health(plane: &ControlPlane, other: &ControlPlane) -> Result<()> {
    let admin = plane.admin()?;
    let well = admin.get("/readyz?verbose")?.text();
    for check in ["[+]etcd ok", "[+]etcd-override-0 ok", "[+]etcd-override-readiness-0 ok"] {
        ensure!(well.contains(check), "{check}: {well}");
    }
    ensure!(!well.contains("etcd-override-1"), "{well}");
    let alive = admin.get("/livez/etcd-override-0")?;
    ensure!(alive.code == 200, "{}", alive.text());
    let statuses = admin.get("/api/v1/componentstatuses")?.ok()?;
    let names = statuses["items"].to_string();
    ensure!(names.contains("etcd-0") && names.contains("etcd-1"), "{names}");
    other.kill_etcd()?;
    let ill = plane.eventually("the server says that it is not ready", 15, || {
        let answer = admin.get("/readyz?verbose")?;
        Ok((answer.code == 500).then(|| answer.text()))
    })?;
    for check in ["[+]etcd ok", "[-]etcd-override-0 failed", "[-]etcd-override-readiness-0 failed"] {
        ensure!(ill.contains(check), "{check}: {ill}");
    }
    admin.post(&secrets(""), &json!({"metadata": {"name": "meanwhile"}}))?.ok()?;
    admin
        .post(&config_maps("default", ""), &json!({"metadata": {"name": "meanwhile"}}))?
        .refused(503, "ServiceUnavailable")?;
    other.start_etcd()?;
    plane.eventually("the server is ready again", 30, || {
        let made = admin.post(&config_maps("default", ""), &json!({"metadata": {"name": "after"}}))?;
        let ready = admin.get("/readyz")?;
        Ok((matches!(made.code, 201 | 409) && ready.code == 200).then_some(()))
    })
}
