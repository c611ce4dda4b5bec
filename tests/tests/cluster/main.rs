//! Workloads, network and persistence on one node, through kubectl.
//!
//! The tests share a cluster and run one after the other; each works in a namespace of its own.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tests::{
    Cluster,
    runner::{Runner, Test, say, skip},
};

const TESTS: &[Test<Cluster>] = &[
    ("deployments roll out, scale, roll back and take their pods with them", deployments),
    ("deleted pods are replaced and ended containers restarted", healing),
    ("stateful sets have an order and names", stateful_sets),
    ("daemon sets run on every node", daemon_sets),
    ("jobs run to their end", jobs),
    ("config maps reach containers and follow changes", config_maps),
    ("services are reached by address and by name", services),
    ("namespaces end with all they hold", namespaces),
    ("everything comes back after a restart of all daemons and etcd", persistence),
];

fn main() -> ExitCode {
    if let Some(why) = tests::obstacle() {
        return skip(why);
    }
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let runner = Runner {
        subject: &cluster,
        parallel: 1,
        prepare: |c, ns| c.kubectl(&["create", "namespace", ns]).map(drop),
        clean: |c, ns| drop(c.kubectl(&["delete", "namespace", ns, "--wait=false"])),
        explain: |c, _| {
            let pods = c.kubectl(&["get", "pods,events", "-A", "-o", "wide"]).unwrap_or_default();
            format!("{pods}\n{}", c.logs())
        },
    };
    let outcome = runner.run("test", TESTS);
    drop(cluster);
    outcome.exit()
}

/// kubectl in a namespace.
fn run(c: &Cluster, namespace: &str, args: &[&str]) -> Result<String> {
    c.kubectl(&[&["--namespace", namespace], args].concat())
}

fn apply(c: &Cluster, namespace: &str, manifest: &str) -> Result<()> {
    c.kubectl_with(&["--namespace", namespace, "apply", "-f", "-"], manifest).map(drop)
}

/// A field of an object by JSONPath.
fn field(c: &Cluster, namespace: &str, object: &str, path: &str) -> Result<String> {
    run(c, namespace, &["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

fn wait_field(c: &Cluster, namespace: &str, object: &str, path: &str, want: &str) -> Result<()> {
    c.eventually(&format!("{object} {path} = {want}"), 60, |c| {
        let found = field(c, namespace, object, path)?;
        ensure!(found == want, "it is {found:?}");
        Ok(Some(()))
    })
}

fn pod_names(c: &Cluster, namespace: &str, selector: &str) -> Result<Vec<String>> {
    let path = "jsonpath={.items[*].metadata.name}";
    let all = run(c, namespace, &["get", "pods", "-l", selector, "-o", path])?;
    Ok(all.split_whitespace().map(str::to_owned).collect())
}

/// A pod of busybox that waits.
fn busybox(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
         command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']\n{more}"
    )
}

fn ready(c: &Cluster, namespace: &str, pod: &str) -> Result<()> {
    run(c, namespace, &["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).map(drop)
}

/// A name leads to an address from inside the pod `client`.
fn resolves(c: &Cluster, ns: &str, name: &str, address: &str) -> Result<()> {
    c.eventually(&format!("{name} is {address}"), 30, |c| {
        // nslookup fails when one of the queries it makes has no answer, such as that for IPv6.
        let ask = format!("nslookup {name} || true");
        let said = run(c, ns, &["exec", "client", "--", "sh", "-c", &ask])?;
        ensure!(said.contains(address), "{said}");
        Ok(Some(()))
    })
}

/// A web server at an address or name answers the pod `client`.
fn fetches(c: &Cluster, ns: &str, host: &str) -> Result<()> {
    c.eventually(&format!("http://{host}/ answers"), 30, |c| {
        let url = format!("http://{host}/");
        let said = run(c, ns, &["exec", "client", "--", "wget", "-q", "-O", "-", &url])?;
        ensure!(said.contains("Keelson"), "{said}");
        Ok(Some(()))
    })
}

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

fn persistence(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    let containers = |c: &Cluster| run(c, ns, &["get", "pods", "-l", "app=web", "-o", path]);
    let before = containers(c)?;
    c.hack(&["down", "--keep-containers"])?;
    ensure!(c.kubectl(&["get", "nodes"]).is_err(), "the API server still answers");
    c.hack(&["up", "--no-build", "--no-demo"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(containers(c)? == before, "containers are not those of before:\n{before}\n{}", containers(c)?);
    run(c, ns, &["scale", "deployment/web", "--replicas=3"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}
