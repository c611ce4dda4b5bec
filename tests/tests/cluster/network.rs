//! Services, names and the ways to pods.

use anyhow::Result;
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fetches, field, ready, resolves, run};

pub(crate) const TESTS: &[Test<Cluster>] = &[("services are reached by address and by name", services)];

fn services(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=80", "--type=NodePort"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    let address = field(c, ns, "service/web", ".spec.clusterIP")?;
    fetches(c, ns, &address)?;
    for name in ["web", &format!("web.{ns}"), &format!("web.{ns}.svc.cluster.local")] {
        fetches(c, ns, name)?;
    }
    // nslookup leaves the search list out for names with dots.
    resolves(c, ns, "web", &address)?;
    let kubernetes = field(c, "default", "service/kubernetes", ".spec.clusterIP")?;
    resolves(c, ns, "kubernetes.default.svc.cluster.local", &kubernetes)?;
    run(c, ns, &["scale", "deployment/web", "--replicas=0"])?;
    c.eventually("endpoints follow the pods", 60, |c| {
        let path = "jsonpath={.items[*].endpoints[*].addresses[*]}";
        let all = run(c, ns, &["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])?;
        Ok(all.trim().is_empty().then_some(()))
    })
}
