//! The seven daemons as processes: what they tell of themselves, how they end, and what their absence costs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde_json::Value;
use tests::{
    Cluster,
    runner::{Test, say},
};

use crate::{
    apply, busybox, fetches, field, http, kubeconfig, node_address, only_node, own, pod_names, ready, run,
    says, shell, wait_field, web_behind_port,
};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("every daemon tells its health, version and metrics, and the latter not to everybody", telling),
    ("leaders hold their leases and nodes theirs", leases),
];

/// What stops daemons everybody needs.
pub(crate) const ALONE: &[Test<Cluster>] = &[
    ("daemons end at SIGTERM, at once and in order, and traffic goes on without them", sigterm),
    ("daemons that were killed are back as if nothing had been", killed),
    ("a dead etcd stops writes alone, and its return needs no restart", etcd),
    ("a runtime that hangs stops no container and loses no pod", hanging_runtime),
    ("pods wait for room on a full disk", full_disk),
];

/// A daemon, where it answers, and a metric that upstream's has, too.
const DAEMONS: &[(&str, &str, &[&str])] = &[
    (
        "kube-apiserver",
        "",
        &[
            "apiserver_request_total",
            "apiserver_request_duration_seconds_bucket",
            "apiserver_storage_objects",
        ],
    ),
    (
        "kube-scheduler",
        "https://127.0.0.1:10259",
        &["scheduler_schedule_attempts_total", "scheduler_pending_pods"],
    ),
    (
        "kube-controller-manager",
        "https://127.0.0.1:10257",
        &["workqueue_adds_total", "leader_election_master_status"],
    ),
    (
        "cloud-controller-manager",
        "https://127.0.0.1:10258",
        &["workqueue_adds_total", "leader_election_master_status"],
    ),
    ("kubelet", "https://NODE:10250", &["kubelet_running_pods", "kubelet_node_name"]),
    ("kube-proxy", "http://127.0.0.1:10249", &["kubeproxy_sync_proxy_rules_duration_seconds_bucket"]),
];

/// Flags for asking a daemon, whose certificate may be its own, as the admin or as nobody.
fn asking(c: &Cluster, ns: &str, server: &str, admin: bool) -> Result<String> {
    let name = format!("{ns}-{}-{admin}", server.replace(['/', ':'], "-"));
    let user = match admin {
        true => format!(
            "{{client-certificate-data: {}, client-key-data: {}}}",
            own(c, ".users[0].user.client-certificate-data")?,
            own(c, ".users[0].user.client-key-data")?
        ),
        false => "{}".to_owned(),
    };
    kubeconfig(c, &name, server, &user)
}

fn telling(c: &Cluster, ns: &str) -> Result<()> {
    // Something to count.
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    shell(c, ns, "client", "nslookup kubernetes.default.svc.cluster.local")?;
    let node = node_address(c, &only_node(c)?)?;
    let api = c.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    for (daemon, server, metrics) in DAEMONS {
        let server = if server.is_empty() { api.clone() } else { server.replace("NODE", &node) };
        let (admin, anybody) = (asking(c, ns, &server, true)?, asking(c, ns, &server, false)?);
        let ask = |who: &str, path: &str| {
            c.kubectl(&["get", "--raw", path, who]).with_context(|| format!("{daemon} {path}"))
        };
        for path in ["/healthz", "/livez", "/readyz"] {
            ensure!(ask(&admin, path)?.starts_with("ok"), "{daemon} {path}");
            let verbose = ask(&admin, &format!("{path}?verbose"))?;
            ensure!(says(&verbose, &["[+]", " ok\n", "check passed"]), "{daemon} {path}?verbose: {verbose}");
        }
        let version: Value = serde_json::from_str(&ask(&admin, "/version")?)?;
        ensure!(version["major"] == "1" && version["minor"] == "36", "{daemon}: {version}");
        ensure!(
            version["gitVersion"].as_str().is_some_and(|v| v.starts_with("v1.36")),
            "{daemon}: {version}"
        );
        let told = ask(&admin, "/metrics")?;
        let always = ["# HELP ", "# TYPE ", "process_resident_memory_bytes ", "process_start_time_seconds "];
        for metric in metrics.iter().chain(&always) {
            ensure!(told.contains(metric), "{daemon} tells no {metric:?}");
        }
        ensure!(ask(&admin, "/no-such-page").is_err(), "{daemon} has any page");
        if server.starts_with("https") {
            ensure!(ask(&anybody, "/metrics").is_err(), "{daemon} tells its metrics to anybody");
        }
    }
    let proxy = http(&node, 10256);
    ensure!(proxy.is_ok(), "the proxy's health port: {proxy:?}");
    for (port, path, part) in
        [(8080, "/health", "OK"), (8181, "/ready", "OK"), (9153, "/metrics", "coredns_dns_requests_total")]
    {
        let told = c.kubectl(&[
            "get",
            "--raw",
            path,
            "--server",
            &format!("http://127.0.0.1:{port}"),
            &asking(c, ns, "http://127.0.0.1", false)?,
        ])?;
        ensure!(told.contains(part), "kube-dns {path}: {told}");
    }
    Ok(())
}

fn leases(c: &Cluster, _: &str) -> Result<()> {
    let holder = |namespace: &str, name: &str| {
        let renewed = field(c, namespace, &format!("lease/{name}"), ".spec.renewTime")?;
        ensure!(!renewed.is_empty(), "{name} was never renewed");
        c.eventually(&format!("the lease {name} is renewed"), 30, |c| {
            Ok((field(c, namespace, &format!("lease/{name}"), ".spec.renewTime")? != renewed).then_some(()))
        })?;
        field(c, namespace, &format!("lease/{name}"), ".spec.holderIdentity")
    };
    for name in ["kube-scheduler", "kube-controller-manager", "cloud-controller-manager"] {
        ensure!(!holder("kube-system", name)?.is_empty(), "nobody holds {name}");
    }
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    ensure!(holder("kube-node-lease", &node)? == node, "the node holds its own");
    Ok(())
}

/// Names of pods, their containers and restarts, one a line.
fn containers(c: &Cluster, ns: &str) -> Result<String> {
    run(
        c,
        ns,
        &[
            "get",
            "pods",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}",
        ],
    )
}

/// A deployment behind a node port; returns where it answers.
fn service(c: &Cluster, ns: &str) -> Result<(String, u16)> {
    web_behind_port(c, ns)?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let port = field(c, ns, "service/web", ".spec.ports[0].nodePort")?.parse()?;
    let node = node_address(c, &only_node(c)?)?;
    c.eventually("the service answers", 30, |_| Ok(http(&node, port).is_ok().then_some(())))?;
    Ok((node, port))
}

const ALL: &[&str] = &[
    "kube-scheduler",
    "kube-controller-manager",
    "cloud-controller-manager",
    "kube-dns",
    "kube-proxy",
    "kubelet",
    "kube-apiserver",
];

fn sigterm(c: &Cluster, ns: &str) -> Result<()> {
    let (node, port) = service(c, ns)?;
    let before = containers(c, ns)?;
    for daemon in ALL {
        c.signal(daemon, Signal::SIGTERM)?;
        c.eventually(&format!("{daemon} ends"), 15, |c| Ok(c.pid(daemon).is_none().then_some(())))?;
        let log = c.log(daemon)?;
        ensure!(!log.contains("panicked"), "{daemon} panicked: {log}");
    }
    for _ in 0..20 {
        ensure!(http(&node, port)?.contains("Keelson says hello"), "the service needs a daemon to answer");
    }
    c.up()?;
    works_again(c, ns, &before)
}

fn killed(c: &Cluster, ns: &str) -> Result<()> {
    service(c, ns)?;
    let before = containers(c, ns)?;
    for daemon in ALL {
        c.signal(daemon, Signal::SIGKILL)?;
    }
    c.eventually("all are gone", 10, |c| Ok(ALL.iter().all(|d| c.pid(d).is_none()).then_some(())))?;
    c.up()?;
    works_again(c, ns, &before)
}

/// The same containers run, and what every daemon does is done.
fn works_again(c: &Cluster, ns: &str, before: &str) -> Result<()> {
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(
        containers(c, ns)? == before,
        "containers are not those of before:\n{before}\n{}",
        containers(c, ns)?
    );
    let first = pod_names(c, ns, "app=web")?.pop().context("a pod")?;
    run(c, ns, &["exec", &first, "--", "nginx", "-t"]).context("exec into a container of before")?;
    run(c, ns, &["logs", &first])?;
    run(c, ns, &["scale", "deployment/web", "--replicas=3"])?;
    wait_field(c, ns, "deployment/web", ".status.readyReplicas", "3")?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    fetches(c, ns, "web")?;
    run(c, ns, &["delete", "pod", &first, "client"]).map(drop)
}

/// The runtime does not answer for a while: what runs goes on, the node stays, and what was asked for meanwhile is done once
/// it answers again.
fn hanging_runtime(c: &Cluster, ns: &str) -> Result<()> {
    let at = service(c, ns)?;
    let before = containers(c, ns)?;
    apply(c, ns, &busybox("leaves", ""))?;
    ready(c, ns, "leaves")?;
    c.signal("containerd", Signal::SIGSTOP)?;
    let meanwhile = while_it_hangs(c, ns, &at);
    c.signal("containerd", Signal::SIGCONT)?;
    meanwhile?;
    ready(c, ns, "comes")?;
    c.eventually("the deleted pod is gone", 60, |c| {
        let left = run(c, ns, &["get", "pod", "leaves", "--ignore-not-found", "-o", "name"])?;
        Ok(left.is_empty().then_some(()))
    })?;
    let only = run(c, ns, &["exec", "comes", "--", "ls", "/"]);
    ensure!(only.is_ok(), "exec into the pod that was made meanwhile: {only:?}");
    run(c, ns, &["delete", "pod", "comes"])?;
    works_again(c, ns, &before)
}

/// Everything that needs no runtime works, and what needs it waits.
fn while_it_hangs(c: &Cluster, ns: &str, (node, port): &(String, u16)) -> Result<()> {
    let lease = format!("lease/{}", only_node(c)?);
    let renewed = |c: &Cluster| field(c, "kube-node-lease", &lease, ".spec.renewTime");
    apply(c, ns, &busybox("comes", ""))?;
    run(c, ns, &["delete", "pod", "leaves", "--wait=false"])?;
    // As long as the lease takes to be renewed twice.
    for _ in 0..2 {
        let then = renewed(c)?;
        c.eventually("the node renews its lease", 60, |c| Ok((renewed(c)? != then).then_some(())))?;
        ensure!(http(node, *port)?.contains("Keelson says hello"), "traffic stopped");
    }
    let phase = field(c, ns, "pod/comes", ".status.phase")?;
    ensure!(phase == "Pending", "a pod without a runtime is {phase}");
    let going = field(c, ns, "pod/leaves", ".metadata.deletionTimestamp")?;
    ensure!(!going.is_empty(), "a pod has ended though nobody could end it");
    Ok(())
}

/// A small file system over a folder, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn over(folder: PathBuf) -> Result<Self> {
        let (kind, size) = ("tmpfs", "size=64k");
        mount(Some(kind), &folder, Some(kind), MsFlags::empty(), Some(size)).context("mount")?;
        Ok(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            say(&format!("cannot unmount {}: {error}", self.0.display()));
        }
    }
}

/// The disk of the pods' folders is full: a pod whose volume does not fit waits, and starts once there is room.
fn full_disk(c: &Cluster, ns: &str) -> Result<()> {
    let (node, port) = service(c, ns)?;
    let before = containers(c, ns)?;
    run(c, ns, &["create", "configmap", "large", &format!("--from-literal=file={}", "x".repeat(100_000))])?;
    let pods = c.state().join("nodes").join(only_node(c)?).join("kubelet/pods");
    let small = Small::over(pods)?;
    apply(c, ns, LARGE)?;
    let of_pod =
        ["get", "events", "--field-selector=involvedObject.name=large", "-o", "jsonpath={.items[*].message}"];
    c.eventually("the pod tells that there is no room", 60, |c| {
        Ok(run(c, ns, &of_pod)?.contains("No space left on device").then_some(()))
    })?;
    ensure!(http(&node, port)?.contains("Keelson says hello"), "traffic stopped");
    drop(small);
    ready(c, ns, "large")?;
    let size = run(c, ns, &["exec", "large", "--", "wc", "-c", "/large/file"])?;
    ensure!(size.starts_with("100000 "), "the file has {size}");
    run(c, ns, &["delete", "pod", "large"])?;
    works_again(c, ns, &before)
}

/// A pod with a volume of a hundred kilobytes.
const LARGE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: large}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: large, configMap: {name: large}}]
  containers:
  - name: main
    image: keelson.local/busybox:1
    command: [sleep, '1000']
    volumeMounts: [{name: large, mountPath: /large}]
";

/// Waits until every leader has either renewed its lease, now that it can, or has ended.
fn leaders_have_decided(c: &Cluster) -> Result<()> {
    for leader in ALL.iter().filter(|d| d.contains("scheduler") || d.contains("controller")) {
        let renewed = |c: &Cluster| field(c, "kube-system", &format!("lease/{leader}"), ".spec.renewTime");
        let then = renewed(c)?;
        c.eventually(&format!("{leader} renews its lease or ends"), 60, |c| {
            Ok((c.pid(leader).is_none() || renewed(c)? != then).then_some(()))
        })?;
    }
    Ok(())
}

fn etcd(c: &Cluster, ns: &str) -> Result<()> {
    let (node, port) = service(c, ns)?;
    // Leaders that cannot keep their lease end by themselves.
    let steady = || ALL.iter().filter(|d| !d.contains("scheduler") && !d.contains("controller"));
    let pids = || steady().map(|d| c.pid(d)).collect::<Vec<_>>();
    let before = (pids(), containers(c, ns)?);
    c.signal("etcd", Signal::SIGKILL)?;
    let refused = run(c, ns, &["create", "configmap", "during"])
        .err()
        .context("it was stored without a store")?
        .to_string();
    ensure!(
        refused.contains("etcd")
            || refused.contains("unavailable")
            || refused.contains("timed out")
            || refused.contains("timeout"),
        "{refused}"
    );
    ensure!(http(&node, port)?.contains("Keelson says hello"), "traffic stopped");
    c.up()?;
    c.eventually("writes work again", 30, |c| {
        let made = run(c, ns, &["create", "configmap", "after"]);
        // One that was made by an answer that got lost is there too.
        made.or_else(|_| run(c, ns, &["get", "configmap", "after"])).map(|_| Some(()))
    })?;
    leaders_have_decided(c)?;
    // Starts those that ended.
    c.up()?;
    ensure!(before.0 == pids(), "a daemon was restarted: {:?} {:?}", before.0, pids());
    works_again(c, ns, &before.1)
}
