//! What gates open to the daemons' own identities.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

pub(crate) const TESTS: &[Test<()>] =
    &[("with its gate on, a daemon may do what it has to do with what the gate brings", gated)];

fn account(admin: &Client, controller: &str) -> Result<Client> {
    admin
        .with_header("impersonate-user", &format!("system:serviceaccount:kube-system:{controller}"))?
        .with_header("impersonate-group", "system:serviceaccounts")
}

fn gated(_: &(), _: &str) -> Result<()> {
    let flags = vec![
        "--feature-gates=StorageVersionMigrator=true,GenericWorkload=true".to_owned(),
        "--runtime-config=storagemigration.k8s.io/v1beta1=true,scheduling.k8s.io/v1alpha2=true".to_owned(),
    ];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    migrator(&admin)?;
    scheduler(&admin)
}

fn migrator(admin: &Client) -> Result<()> {
    let own = account(admin, "storage-version-migrator-controller")?;
    let path = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
    let spec = json!({"resource": {"group": "", "resource": "configmaps"}});
    let mut made = admin.post(path, &json!({"metadata": {"name": "m"}, "spec": spec}))?.ok()?;
    made["status"] = json!({"resourceVersion": "1", "conditions": [{"type": "Running", "status": "True",
        "reason": "Migrating", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let written = own.put(&format!("{path}/m/status"), &made)?.ok().context("the migration's status")?;
    ensure!(written["status"]["conditions"][0]["type"] == "Running", "{written}");
    // What it writes anew, and why it may not read one by one or watch.
    let map = "/api/v1/namespaces/default/configmaps";
    let stored = admin.post(map, &json!({"metadata": {"name": "c"}}))?.ok()?;
    own.get(map)?.ok()?;
    let again = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c",
        "uid": stored["metadata"]["uid"], "resourceVersion": stored["metadata"]["resourceVersion"]}});
    let apply = "application/apply-patch+yaml";
    own.patch(&format!("{map}/c?fieldManager=m"), apply, &again)?.ok().context("the object")?;
    own.get(&format!("{map}/c"))?.refused(403, "Forbidden")?;
    own.put(&format!("{path}/m"), &made)?.refused(403, "Forbidden").map(drop)
}

fn scheduler(admin: &Client) -> Result<()> {
    let own = admin.with_header("impersonate-user", "system:kube-scheduler")?;
    let path = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/podgroups";
    own.get(path)?.ok().context("the groups")?;
    let status = own.patch(&format!("{path}/g/status"), "application/merge-patch+json", &json!({}))?;
    status.refused(404, "NotFound").context("a group's status")?;
    own.get("/apis/scheduling.k8s.io/v1alpha2/namespaces/default/workloads")?
        .refused(403, "Forbidden")
        .map(drop)
}
