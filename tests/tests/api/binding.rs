//! Pods from their decision to their binding, seen by a watch.

use anyhow::{Result, bail};
use serde_json::json;
use tests::{ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::{Scheduler, node};

pub(crate) const TESTS: &[Test<()>] =
    &[("a pod whose claim is written first tells its node before it is bound, under its gate", foretold)];

fn foretold(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("d")?;
    let admin = plane.admin()?;
    node(&admin, "a")?;
    let api = "/apis/resource.k8s.io/v1";
    admin.post(&format!("{api}/deviceclasses"), &json!({"metadata": {"name": "gpu"}, "spec": {}}))?.ok()?;
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "a",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "one"}, {"name": "two"}]}});
    admin.post(&format!("{api}/resourceslices"), &slice)?.ok()?;
    for (name, gate, expected) in [("on", "true", Some("a")), ("off", "false", None)] {
        let gate = format!("--feature-gates=NominatedNodeNameForExpectation={gate}");
        let _scheduler = Scheduler::start(&plane, &json!({}), &[&gate])?;
        let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}});
        admin.post(&format!("{api}/namespaces/d/resourceclaims"), &claim)?.ok()?;
        let pods = "/api/v1/namespaces/d/pods";
        let mut watch = admin.watch(&format!("{pods}?watch=true&fieldSelector=metadata.name={name}"))?;
        let pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "keelson.local/none:1"}],
            "resourceClaims": [{"name": "d", "resourceClaimName": name}]}});
        admin.post(pods, &pod)?.ok()?;
        watch.expect("ADDED")?;
        let mut told = None;
        loop {
            let pod = watch.expect("MODIFIED")?;
            if pod["spec"]["nodeName"].is_string() {
                break;
            }
            told = pod["status"]["nominatedNodeName"].as_str().map(str::to_owned).or(told);
        }
        if told.as_deref() != expected {
            bail!("{name}: {told:?} was told before the pod was bound");
        }
    }
    Ok(())
}
