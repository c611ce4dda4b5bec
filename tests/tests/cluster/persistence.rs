//! What outlives the daemons.

use anyhow::{Result, ensure};
use tests::{Cluster, runner::Test};

use crate::run;

pub(crate) const TESTS: &[Test<Cluster>] =
    &[("everything comes back after a restart of all daemons and etcd", persistence)];

fn persistence(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    let containers = |c: &Cluster| run(c, ns, &["get", "pods", "-l", "app=web", "-o", path]);
    let before = containers(c)?;
    c.hack(&["down", "--keep-containers"])?;
    ensure!(c.kubectl(&["get", "nodes"]).is_err(), "the API server still answers");
    c.up()?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(containers(c)? == before, "containers are not those of before:\n{before}\n{}", containers(c)?);
    run(c, ns, &["scale", "deployment/web", "--replicas=3"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}
