//! A cluster as `hack/up` makes it, used through kubectl: workloads, pods, network, kubectl itself, daemons, nodes,
//! persistence.
//!
//! Tests of one list share a cluster and run several at a time, each in a namespace of its own. What concerns all of
//! them, such as draining the node, runs alone afterwards; what needs several nodes gets a cluster with two.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tests::{
    Cluster,
    runner::{Outcome, Runner, Test, is_wanted, say, skip},
};

mod daemons;
mod join;
mod kubectl;
mod kubelet;
mod network;
mod nodes;
mod persistence;
mod pods;
mod workloads;

/// Tests of one node that leave each other alone.
const SHARED: &[(&str, &[Test<Cluster>])] = &[
    ("workloads", workloads::TESTS),
    ("pods", pods::TESTS),
    ("network", network::TESTS),
    ("reading", kubectl::reading::TESTS),
    ("writing", kubectl::writing::TESTS),
    ("rollouts", kubectl::workloads::TESTS),
    ("containers", kubectl::containers::TESTS),
    ("removal", kubectl::removal::TESTS),
    ("access", kubectl::access::TESTS),
    ("daemons", daemons::TESTS),
];

fn main() -> ExitCode {
    if let Some(why) = tests::obstacle() {
        return skip(why);
    }
    match all() {
        Ok(outcome) => outcome.exit(),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn all() -> Result<Outcome> {
    let wanted = |prefix: &str, list: &[Test<Cluster>]| list.iter().any(|(name, _)| is_wanted(prefix, name));
    let mut outcome = Outcome::default();
    let mut images = None;
    let alone: &[Test<Cluster>] =
        &[nodes::ALONE, daemons::ALONE, kubelet::ALONE, persistence::TESTS, join::TESTS].concat();
    if wanted("alone", alone) || SHARED.iter().any(|(name, list)| wanted(name, list)) {
        let one = Cluster::start(1, None)?;
        for (name, list) in SHARED {
            outcome = outcome.and(runner(&one, 4).run(name, list));
        }
        outcome = outcome.and(runner(&one, 1).run("alone", alone));
        images = Some(one.end()?);
    }
    if wanted("nodes", nodes::SEVERAL) || wanted("lost", nodes::LOST) {
        let two = Cluster::start(2, images)?;
        outcome = outcome.and(runner(&two, 2).run("nodes", nodes::SEVERAL));
        outcome = outcome.and(runner(&two, 1).run("lost", nodes::LOST));
    }
    Ok(outcome)
}

fn runner(cluster: &Cluster, parallel: usize) -> Runner<'_, Cluster> {
    Runner {
        subject: cluster,
        parallel,
        prepare: |c, ns| {
            c.kubectl(&["create", "namespace", ns])?;
            c.eventually("the namespace has its service account", 30, |c| {
                run(c, ns, &["get", "serviceaccount", "default"]).map(|_| Some(()))
            })
        },
        clean: |c, ns| drop(c.kubectl(&["delete", "namespace", ns, "--wait=false"])),
        explain: |c, ns| {
            let there = run(c, ns, &["get", "pods,events", "-o", "wide"]).unwrap_or_default();
            format!("{there}\n{}", c.logs())
        },
    }
}

/// kubectl in a namespace.
fn run(c: &Cluster, namespace: &str, args: &[&str]) -> Result<String> {
    c.kubectl(&[&["--namespace", namespace], args].concat())
}

/// kubectl in a namespace must fail, and say this.
fn fails(c: &Cluster, namespace: &str, args: &[&str], why: &str) -> Result<()> {
    match run(c, namespace, args) {
        Ok(said) => bail!("kubectl {} did not fail but said {said}", args.join(" ")),
        Err(error) => {
            let told = format!("{error:#}");
            ensure!(told.contains(why), "not {why:?} but {told}");
            Ok(())
        }
    }
}

/// A value of the admin's kubeconfig.
fn own(c: &Cluster, path: &str) -> Result<String> {
    let path = format!("jsonpath={{{path}}}");
    c.kubectl(&["config", "view", "--minify", "--raw", "--flatten", "-o", &path])
}

/// The flag of a kubeconfig for another user, written as YAML, and another server, which is not checked; for the
/// API server where that is empty.
fn kubeconfig(c: &Cluster, name: &str, server: &str, user: &str) -> Result<String> {
    let cluster = if server.is_empty() {
        let authority = own(c, ".clusters[0].cluster.certificate-authority-data")?;
        let server = own(c, ".clusters[0].cluster.server")?;
        format!("{{server: '{server}', certificate-authority-data: {authority}}}")
    } else {
        format!("{{server: '{server}', insecure-skip-tls-verify: true}}")
    };
    let file = c.folder().join(format!("{name}.kubeconfig"));
    fs::write(
        &file,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {cluster}}}]\nusers: [{{name: a, user: {user}}}]\n"
        ),
    )?;
    Ok(format!("--kubeconfig={}", file.display()))
}

/// Whether a text has all these parts.
fn says(text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|p| text.contains(p))
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

/// What an HTTP server says to a plain request from outside the cluster.
fn http(address: &str, port: u16) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&format!("{address}:{port}").parse()?, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// The local port that a line of `kubectl port-forward` names.
fn local_port(line: &str) -> Result<u16> {
    let rest = line.split_once("127.0.0.1:").context("an address")?.1;
    Ok(rest.split_once(' ').context("a port")?.0.parse()?)
}

/// A shell command in a pod's first container.
fn shell(c: &Cluster, ns: &str, pod: &str, command: &str) -> Result<String> {
    Ok(run(c, ns, &["exec", pod, "--", "sh", "-c", command])?.trim().to_owned())
}

/// The name of a cluster's first node.
fn only_node(c: &Cluster) -> Result<String> {
    c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])
}

fn node_address(c: &Cluster, node: &str) -> Result<String> {
    field(c, "default", &format!("node/{node}"), ".status.addresses[?(@.type==\"InternalIP\")].address")
}

/// A deployment of two web servers behind a node port.
fn web_behind_port(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=80", "--type=NodePort"]).map(drop)
}
