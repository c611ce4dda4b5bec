//! The kubelet with another configuration than `hack/up` gives it: the one there is ends, and another one takes its place
//! with the same flags and more, until the test is through.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proto::{drahealth::v1alpha1::HealthStatus, otlp::v1::Span};
use serde_json::{Value, json};
use tests::{
    Client, Cluster,
    collector::{Collector, said},
    csi_driver,
    device_plugin::{self, Devices, Plugin},
    dra_driver::Driver,
    pki::{Authority, Identity},
    runner::Test,
};

use crate::{
    apply, busybox, field, kubeconfig, node_address, only_node, own, ready, run, says, shell, wait_field,
};

/// What takes the node's kubelet away for a while.
pub(crate) const ALONE: &[Test<Cluster>] = &[
    ("a kubelet does what its file says of pods from a URL, cpu limits, ports and pages", configured),
    ("what is kept for the system is enforced in its cgroup", reserved),
    ("a configuration that makes no sense is refused with all that is wrong", refused),
    (
        "credential providers get the tokens of pods' service accounts, and containers their credentials",
        providers,
    ),
    ("a collector is told of the rounds of pods, of calls to the runtime and of requests", traced),
    ("the kubelet's API has its pages, and nothing for strangers", serves),
    ("volumes of a driver are attached, staged, published, grown, counted and given back", driven),
    (
        "a serving certificate of files is taken over when they change, and strangers get no further",
        certified,
    ),
    ("a kubelet that begins anew leaves ready what was, and tells programs of the node of pods", begins_anew),
    ("devices that fall ill show in the status of their pods, also after the kubelet began anew", devices),
    ("devices of claims that fall ill show in the status of their pods with their driver's words", claimed),
];

/// A kubelet in place of the cluster's own.
struct Other<'a> {
    cluster: &'a Cluster,
    child: Child,
    log: PathBuf,
}

/// The command line of the cluster's kubelet.
fn command_line(c: &Cluster) -> Result<Vec<String>> {
    let pid = c.pid("kubelet").context("the kubelet runs")?;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    Ok(line.split_terminator('\0').map(str::to_owned).collect())
}

impl<'a> Other<'a> {
    /// Starts it with this laid over the file, and with these flags besides.
    fn start(c: &'a Cluster, name: &str, file: &str, flags: &[String]) -> Result<Self> {
        let line = command_line(c)?;
        c.stop("kubelet")?;
        let (child, log) = spawn(c, &line, name, file, flags)?;
        let other = Self { cluster: c, child, log };
        c.eventually("the other kubelet is healthy", 60, |c| {
            let told = get("127.0.0.1:10248".parse()?, "/healthz", "")?;
            ensure!(told.ends_with("ok"), "{told}\n{}", other.log());
            let node = only_node(c)?;
            let path = ".status.conditions[?(@.type==\"Ready\")].status";
            ensure!(field(c, "default", &format!("node/{node}"), path)? == "True", "{}", other.log());
            Ok(Some(()))
        })?;
        Ok(other)
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends it, and brings back the one of before.
    fn end(mut self) -> Result<()> {
        self.stop()?;
        self.cluster.up()
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        // A test that fails must not leave it to the next one.
        let _ended = self.stop().is_ok();
        if self.cluster.pid("kubelet").is_none() {
            let _back = self.cluster.up().is_ok();
        }
    }
}

fn spawn(c: &Cluster, line: &[String], name: &str, file: &str, flags: &[String]) -> Result<(Child, PathBuf)> {
    let folder = c.folder().join(format!("{name}.d"));
    fs::create_dir_all(&folder)?;
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    fs::write(folder.join("10.conf"), format!("{head}{file}"))?;
    let log = c.folder().join(format!("{name}.log"));
    let out = fs::File::create(&log)?;
    let (program, arguments) = line.split_first().context("a program")?;
    let child = Command::new(program)
        .args(arguments)
        .arg(format!("--config-dir={}", folder.display()))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    Ok((child, log))
}

/// A plain HTTP request; all of the answer.
fn get(address: SocketAddr, path: &str, headers: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// A plain HTTP server that answers each request as a test says, and keeps the requests; it ends when dropped.
struct Answering {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (asked, ends) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (book, over) = (Arc::clone(&asked), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Who goes away before the answer does not want it.
                let _served =
                    stream.map_err(anyhow::Error::from).and_then(|s| one(s, &book, &answer)).is_ok();
            }
        });
        Ok(Self { address, asked, ends, thread: Some(thread) })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn one(mut stream: TcpStream, book: &Mutex<Vec<String>>, answer: impl Fn(&str) -> String) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut asked, mut byte) = (Vec::new(), [0]);
    while !asked.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        asked.push(byte[0]);
    }
    let asked = String::from_utf8_lossy(&asked).into_owned();
    let answer = answer(&asked);
    book.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    Ok(stream.write_all(answer.as_bytes())?)
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The last connection tells the thread to look.
        let _told = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join().is_ok();
        }
    }
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A file of a container's cgroup.
fn cgroup_file(c: &Cluster, ns: &str, pod: &str, controller: &str, name: &str) -> Result<String> {
    Ok(fs::read_to_string(cgroup_folder(c, ns, pod, controller)?.join(name))?.trim().to_owned())
}

/// The cgroup of a pod's first container, wherever the node has it.
pub(crate) fn cgroup_folder(c: &Cluster, ns: &str, pod: &str, controller: &str) -> Result<PathBuf> {
    let id = field(c, ns, &format!("pod/{pod}"), ".status.containerStatuses[0].containerID")?;
    let id = id.rsplit('/').next().context("an id")?.to_owned();
    let mut folders = vec![Path::new("/sys/fs/cgroup").join(controller)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(&id) {
                return Ok(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    anyhow::bail!("no cgroup of {id}")
}

fn configured(c: &Cluster, ns: &str) -> Result<()> {
    let node = only_node(c)?;
    let manifest = "kind: PodList\napiVersion: v1\nitems:\n- metadata: {name: afar, namespace: NS}\n  spec:\n    \
                    terminationGracePeriodSeconds: 1\n    containers:\n    - {name: main, image: 'keelson.local/busybox:1', \
                    imagePullPolicy: IfNotPresent, command: [sleep, '1000']}\n"
        .replace("NS", ns);
    let gone = Arc::<AtomicBool>::default();
    let empty = Arc::clone(&gone);
    let server = Answering::start(move |asked| {
        if !asked.to_lowercase().contains("x-key: secret") {
            return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned();
        }
        let none = "kind: PodList\napiVersion: v1\nitems: []\n";
        found(if empty.load(Ordering::Relaxed) { none } else { &manifest })
    })?;
    let file = format!(
        "staticPodURL: http://{}/pods\nstaticPodURLHeader: {{X-Key: [secret]}}\nhttpCheckFrequency: 1s\n\
         cpuCFSQuotaPeriod: 20ms\nreadOnlyPort: 10255\nenableProfilingHandler: false\n\
         localStorageCapacityIsolation: false\ncontainerLogMaxWorkers: 3\n",
        server.address
    );
    let other = Other::start(
        c,
        "configured",
        &file,
        &["--feature-gates=ComponentFlagz=false,EventedPLEG=true".to_owned()],
    )?;
    let afar = format!("afar-{node}");
    c.eventually("the pod of the URL has a mirror", 60, |c| {
        Ok(run(c, ns, &["get", "pod", &afar]).is_ok().then_some(()))
    })?;
    ready(c, ns, &afar).context("the pod of the URL runs, and its mirror says so")?;
    ensure!(
        field(c, ns, &format!("pod/{afar}"), ".metadata.annotations.kubernetes\\.io/config\\.source")?
            == "http",
        "where it comes from"
    );
    apply(c, ns, &busybox("limited", "    resources: {limits: {cpu: 500m}}\n"))?;
    ready(c, ns, "limited")?;
    let (period, quota) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => {
            let both = cgroup_file(c, ns, "limited", "", "cpu.max")?;
            let (quota, period) = both.split_once(' ').context("two numbers")?;
            (period.to_owned(), quota.to_owned())
        }
        false => (
            cgroup_file(c, ns, "limited", "cpu", "cpu.cfs_period_us")?,
            cgroup_file(c, ns, "limited", "cpu", "cpu.cfs_quota_us")?,
        ),
    };
    ensure!((period.as_str(), quota.as_str()) == ("20000", "10000"), "{quota} of {period}");
    c.eventually("the node no longer tells its disk", 60, |c| {
        let told = field(c, ns, &format!("node/{node}"), ".status.capacity.ephemeral-storage")?;
        ensure!(told.is_empty(), "it is {told}");
        Ok(Some(()))
    })?;
    pages(c, ns, &node)?;
    gone.store(true, Ordering::Relaxed);
    c.eventually("the pod goes with the URL's list", 60, |c| {
        Ok(run(c, ns, &["get", "pod", &afar, "--ignore-not-found", "-o", "name"])?.is_empty().then_some(()))
    })?;
    run(c, ns, &["delete", "pod", "limited"])?;
    other.end()
}

/// What is served without authentication, and what is switched off.
fn pages(c: &Cluster, ns: &str, node: &str) -> Result<()> {
    let at = node_address(c, node)?;
    let open: SocketAddr = format!("{at}:10255").parse()?;
    for (path, part) in [("/healthz", "ok"), ("/pods", "\"PodList\""), ("/metrics", "kubelet_running_pods")] {
        let told = get(open, path, "")?;
        ensure!(told.starts_with("HTTP/1.0 200") && told.contains(part), "{path}: {told}");
    }
    let told = get(open, "/stats/summary", "")?;
    let summary: Value = serde_json::from_str(told.split_once("\r\n\r\n").context("a body")?.1)?;
    let measures = fs::read_to_string("/proc/pressure/cpu").is_ok_and(|text| text.contains("total="));
    let pressure = &summary["node"]["cpu"]["psi"]["some"]["total"];
    ensure!(
        pressure.is_u64() == measures,
        "the kernel measures pressure: {measures}, the summary says {pressure}"
    );
    // A runtime that tells no events is listed as before; one that does has told of the pods that run by now.
    let told = get(open, "/metrics", "")?;
    let counted = |name: &str| told.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    ensure!(
        counted("kubelet_evented_pleg_connection_error_count")
            || counted("kubelet_evented_pleg_connection_success_count"),
        "whether the runtime tells its events"
    );
    for path in ["/configz", "/runningpods", "/logs/", "/statusz"] {
        let told = get(open, path, "")?;
        ensure!(told.starts_with("HTTP/1.0 404"), "{path} on the port without authentication: {told}");
    }
    let user = format!(
        "{{client-certificate-data: {}, client-key-data: {}}}",
        own(c, ".users[0].user.client-certificate-data")?,
        own(c, ".users[0].user.client-key-data")?
    );
    let admin = kubeconfig(c, &format!("{ns}-kubelet"), &format!("https://{at}:10250"), &user)?;
    let ask = |path: &str| c.kubectl(&["get", "--raw", path, &admin]);
    let config: Value = serde_json::from_str(&ask("/configz")?)?;
    let config = &config["kubeletconfig"];
    ensure!(
        config["cpuCFSQuotaPeriod"] == "20ms"
            && config["httpCheckFrequency"] == "1s"
            && config["maxPods"] == 110,
        "{config}"
    );
    ensure!(says(&ask("/statusz")?, &["kubelet statusz", "Paths: ", "/metrics/cadvisor"]), "its status");
    ensure!(ask("/flagz").is_err(), "the gate of flags is off");
    let profiles = ask("/debug/pprof/").err().context("it is switched off")?.to_string();
    ensure!(
        profiles.contains("profiling endpoint is disabled") || profiles.contains("NotAllowed"),
        "{profiles}"
    );
    Ok(())
}

fn serves(c: &Cluster, ns: &str) -> Result<()> {
    let node = only_node(c)?;
    let probe = "    readinessProbe: {exec: {command: ['true']}}\n";
    apply(c, ns, &busybox("shown", probe).replace("trap exit", "echo hello; trap exit"))?;
    ready(c, ns, "shown")?;
    let logs = format!("/containerLogs/{ns}/shown/main");
    let pages = [
        ("/healthz", "ok"),
        ("/pods", "\"PodList\""),
        ("/runningpods/", "\"PodList\""),
        ("/configz", "\"kubeletconfig\""),
        ("/stats/summary", "\"pods\""),
        ("/metrics", "kubelet_running_pods "),
        ("/metrics/resource", "node_cpu_usage_seconds_total "),
        ("/metrics/cadvisor", "container_cpu_usage_seconds_total{"),
        ("/metrics/probes", "prober_probe_total{"),
        ("/logs/", "<pre>"),
        (&logs, "hello"),
    ];
    let stranger = kubeconfig(
        c,
        &format!("{ns}-stranger"),
        &format!("https://{}:10250", node_address(c, &node)?),
        "{}",
    )?;
    for (path, part) in pages {
        c.eventually(&format!("{path} has {part}"), 60, |c| {
            let said = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy{path}")])?;
            Ok(said.contains(part).then_some(()))
        })?;
        let refused = c.kubectl(&["get", "--raw", path, &stranger]).err().map(|error| error.to_string());
        let refused = refused.with_context(|| format!("{path} is shown to a stranger"))?;
        ensure!(
            // kubectl asks for a user's name where the server wants to know who it is.
            ["Unauthorized", "must be logged in", "enter Username"].iter().any(|part| refused.contains(part)),
            "{path}: {refused}"
        );
    }
    let post = |path: &str| {
        let path = format!("/api/v1/nodes/{node}/proxy{path}");
        c.kubectl_with(&["create", "--raw", &path, "-f", "-"], "")
    };
    let said = post(&format!("/run/{ns}/shown/main?cmd=echo%20from%20inside"))?;
    ensure!(said.contains("from inside"), "{said}");
    run(c, ns, &["delete", "pod", "shown"]).map(drop)
}

fn reserved(c: &Cluster, _: &str) -> Result<()> {
    let (v2, name) = (Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), "keelson-test-system");
    let mount = Path::new("/sys/fs/cgroup");
    let controllers: &[&str] = if v2 { &[""] } else { &["cpu", "cpuset", "memory", "pids", "hugetlb"] };
    let folders: Vec<PathBuf> = controllers
        .iter()
        .map(|controller| mount.join(controller))
        .filter(|folder| folder.exists())
        .map(|folder| folder.join(name))
        .collect();
    for folder in &folders {
        fs::create_dir_all(folder)?;
    }
    let file = format!(
        "systemReserved: {{cpu: 250m, memory: 64Mi}}\nsystemReservedCgroup: /{name}\n\
         enforceNodeAllocatable: [pods, system-reserved]\n"
    );
    let other = Other::start(c, "reserved", &file, &[])?;
    let read = |controller: &str, v1: &str, unified: &str| -> Result<String> {
        let folder = if v2 { mount.join(name) } else { mount.join(controller).join(name) };
        Ok(fs::read_to_string(folder.join(if v2 { unified } else { v1 }))?.trim().to_owned())
    };
    let memory = read("memory", "memory.limit_in_bytes", "memory.max")?;
    ensure!(memory == (64 << 20).to_string(), "the memory of the system is {memory}");
    if !v2 {
        ensure!(read("cpu", "cpu.shares", "")? == "256", "its weight");
    }
    let node = only_node(c)?;
    c.eventually("an event tells of it", 60, |c| {
        let of = ["get", "events", "--field-selector", &format!("involvedObject.name={node}"), "-o"];
        let told = c.kubectl(&[&of[..], &["jsonpath={.items[*].message}", "-A"]].concat())?;
        ensure!(told.contains("Updated limits on system reserved cgroup /keelson-test-system"), "{told}");
        Ok(Some(()))
    })?;
    other.end()?;
    for folder in &folders {
        fs::remove_dir(folder)?;
    }
    Ok(())
}

fn refused(c: &Cluster, _: &str) -> Result<()> {
    let line = command_line(c)?;
    let file = "containerLogMaxWorkers: 0\ncpuCFSQuotaPeriod: 2s\nenforceNodeAllocatable: [kube-reserved]\n";
    let (mut child, log) = spawn(c, &line, "refused", file, &[])?;
    let code = child.wait()?.code();
    let told = fs::read_to_string(log)?;
    ensure!(code == Some(64), "it ended with {code:?}: {told}");
    let all = [
        "containerLogMaxWorkers must be greater than or equal to 1",
        "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) 2s must be between 1ms and 1sec, inclusive",
        "kubeReservedCgroup (--kube-reserved-cgroup) must be specified",
    ];
    ensure!(says(&told, &all), "{told}");
    Ok(())
}

/// A registry that wants to know who asks, and has nothing.
fn registry() -> Result<Answering> {
    Answering::start(|asked| {
        let known = asked.to_lowercase().contains("\r\nauthorization: basic ");
        let code = if known { "404 Not Found" } else { "401 Unauthorized" };
        format!(
            "HTTP/1.1 {code}\r\nWww-Authenticate: Basic realm=\"test\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
    })
}

/// What a token says.
fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("a token has parts")?;
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part)?)?)
}

fn providers(c: &Cluster, ns: &str) -> Result<()> {
    let registry = registry()?;
    let folder = c.folder().join("providers");
    fs::create_dir_all(&folder)?;
    let book = folder.join("book");
    let program = folder.join("giver");
    fs::write(
        &program,
        "#!/bin/sh\nread -r asked\necho \"$asked\" >> \"$BOOK\"\n\
         printf '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
         \"cacheKeyType\":\"Registry\",\"cacheDuration\":\"1h\",\"auth\":{\"%s\":{\"username\":\"who\",\"password\":\"knows\"}}}' \"$1\"\n",
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let config = folder.join("config.yaml");
    fs::write(
        &config,
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: giver\n  \
             matchImages: ['{0}']\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  \
             args: ['{0}']\n  env: [{{name: BOOK, value: '{1}'}}]\n  tokenAttributes:\n    \
             serviceAccountTokenAudience: registry.test\n    cacheType: ServiceAccount\n    requireServiceAccount: true\n    \
             requiredServiceAccountAnnotationKeys: [example.io/role]\n",
            registry.address,
            book.display()
        ),
    )?;
    let flags = [
        format!("--image-credential-provider-config={}", config.display()),
        format!("--image-credential-provider-bin-dir={}", folder.display()),
    ];
    let other = Other::start(c, "providers", "", &flags)?;
    run(c, ns, &["create", "serviceaccount", "puller"])?;
    run(c, ns, &["annotate", "serviceaccount", "puller", "example.io/role=reader", "example.io/other=x"])?;
    // A node may ask for tokens of audiences that volumes of the pod have.
    let volumes = "  volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: t, audience: registry.test}}]}}]\n";
    let pod = |name: &str, account: &str| {
        let image = format!("{}/team/{name}:1", registry.address);
        busybox(name, &format!("  serviceAccountName: {account}\n{volumes}"))
            .replace("keelson.local/busybox:1", &image)
    };
    for (name, account) in [("first", "puller"), ("second", "puller"), ("left-alone", "default")] {
        apply(c, ns, &pod(name, account))?;
        c.eventually("the registry has no such image", 60, |c| {
            let path = ".status.containerStatuses[0].state.waiting.reason";
            let why = field(c, ns, &format!("pod/{name}"), path)?;
            ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&why.as_str()), "{name}: {why:?}");
            Ok(Some(()))
        })?;
    }
    let asked = fs::read_to_string(&book)?;
    let asked: Vec<Value> = asked.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(asked.len() == 1, "once for all pods of the account, and not for others: {asked:?}");
    let asked = &asked[0];
    ensure!(asked["image"] == format!("{}/team/first", registry.address), "{asked}");
    ensure!(asked["serviceAccountAnnotations"] == json!({"example.io/role": "reader"}), "{asked}");
    let said = claims(asked["serviceAccountToken"].as_str().context("a token")?)?;
    ensure!(said["aud"] == json!(["registry.test"]), "{said}");
    ensure!(said["sub"] == format!("system:serviceaccount:{ns}:puller"), "{said}");
    ensure!(said["kubernetes.io"]["pod"]["name"] == "first", "{said}");
    let basic = format!("authorization: basic {}", BASE64_STANDARD.encode("who:knows").to_lowercase());
    let with = |name: &str| {
        let path = format!("/v2/team/{name}/");
        registry.asked().iter().any(|a| a.contains(&path) && a.to_lowercase().contains(&basic))
    };
    ensure!(with("first") && with("second") && !with("left-alone"), "{:?}", registry.asked());
    run(c, ns, &["delete", "pod", "first", "second", "left-alone"])?;
    other.end()
}

fn traced(c: &Cluster, ns: &str) -> Result<()> {
    let collector = Collector::start()?;
    let file = format!("tracing: {{endpoint: '{}', samplingRatePerMillion: 1000000}}\n", collector.address);
    let other = Other::start(c, "traced", &file, &[])?;
    apply(c, ns, &busybox("followed", ""))?;
    ready(c, ns, "followed")?;
    shell(c, ns, "followed", "true")?;
    run(c, ns, &["delete", "pod", "followed", "--grace-period=1"])?;
    let round = |name: &str| {
        c.eventually(&format!("the collector is told of {name}"), 60, |_| {
            let spans = collector.spans();
            let is_it = |s: &&Span| s.name == name && said(s, "k8s.pod") == format!("{ns}/followed");
            let mut all = spans.iter().filter(is_it);
            let with_call = |s: &&Span| spans.iter().any(|c| c.parent_span_id == s.span_id);
            let Some(span) = all.find(with_call).cloned() else { return Ok(None) };
            Ok(Some((span, spans)))
        })
    };
    let (end, _) = round("syncTerminatingPod")?;
    ensure!(end.parent_span_id.is_empty() && said(&end, "k8s.pod.name") == "followed", "{end:?}");
    let (_, spans) = round("syncPod")?;
    let sandbox = "runtime.v1.RuntimeService/RunPodSandbox";
    let of_sandbox: Vec<&Span> = spans.iter().filter(|s| s.name == sandbox).collect();
    let of_pod = |call: &&&Span| {
        let is_it = |s: &&Span| s.span_id == call.parent_span_id && s.trace_id == call.trace_id;
        let whole = spans.iter().find(is_it);
        whole.is_some_and(|s| s.name == "syncPod" && said(s, "k8s.pod") == format!("{ns}/followed"))
    };
    let call = of_sandbox.iter().find(of_pod).with_context(|| format!("{of_sandbox:?}"))?;
    ensure!(said(call, "rpc.system.name") == "grpc", "{call:?}");
    ensure!(said(call, "rpc.response.status_code") == "OK", "{call:?}");
    let exec = "/exec/{podNamespace}/{podID}/{containerName}";
    let asked = spans.iter().find(|s| s.name == exec).with_context(|| format!("no {exec}"))?;
    ensure!(said(asked, "url.path") == format!("/exec/{ns}/followed/main"), "{asked:?}");
    let api =
        spans.iter().find(|s| s.name == "HTTP PATCH" && said(s, "url.full").contains("/followed/status"));
    ensure!(api.is_some(), "the API server is asked");
    other.end()
}

fn driven(c: &Cluster, ns: &str) -> Result<()> {
    let (node, name, store) = (only_node(c)?, format!("{ns}.csi.example.com"), tempfile::tempdir()?);
    let folder = c.state().join("nodes").join(&node).join("kubelet/plugins_registry");
    let driver = csi_driver::Driver::start(&folder, &name, store.path(), 2)?;
    let objects = DRIVEN.replace("NAME", &name).replace("NS", ns);
    apply(c, ns, &objects)?;
    let count = format!(".spec.drivers[?(@.name==\"{name}\")].allocatable.count");
    wait_field(c, ns, &format!("csinode/{node}"), &count, "2")?;
    let pod = "    volumeMounts: [{name: data, mountPath: /data}, {name: own, mountPath: /own}]\n  volumes:\n  - {name: data, \
               persistentVolumeClaim: {claimName: data}}\n  - {name: own, csi: {driver: NAME}}\n"
        .replace("NAME", &name);
    apply(c, ns, &busybox("driven", &pod))?;
    let attachment = c.eventually("the attachment of the volume", 60, |c| {
        let path = "jsonpath={.items[?(@.spec.source.persistentVolumeName==\"NS\")].metadata.name}";
        let found = c.kubectl(&["get", "volumeattachments", "-o", &path.replace("NS", ns)])?;
        Ok(Some(found).filter(|found| !found.is_empty()))
    })?;
    let attachment = format!("volumeattachment/{attachment}");
    let patch = |object: &str, status: bool, change: Value| {
        let more: &[&str] = if status { &["--subresource=status"] } else { &[] };
        let change = change.to_string();
        run(c, ns, &[&["patch", object, "--type=merge", "-p", &change], more].concat()).map(drop)
    };
    // Nobody but this test attaches it.
    let metadata = json!({"device": "/dev/x"});
    patch(&attachment, true, json!({"status": {"attached": true, "attachmentMetadata": metadata}}))?;
    ready(c, ns, "driven")?;
    shell(c, ns, "driven", "echo kept > /data/word; echo lost > /own/word")?;
    let word = |volume: &str| fs::read_to_string(store.path().join(volume).join("word"));
    ensure!((word("h1")?.as_str(), word("inline")?.as_str()) == ("kept\n", "lost\n"), "what the pod wrote");
    let asked = |one: &str| driver.asked().iter().any(|a| a == one);
    for one in ["stage h1 /dev/x", "publish h1 to driven", "publish inline to driven"] {
        ensure!(asked(one), "{one}: {:?}", driver.asked());
    }
    c.eventually("the node says that it uses the volume", 60, |c| {
        let in_use = field(c, ns, &format!("node/{node}"), ".status.volumesInUse")?;
        ensure!(in_use.contains(&format!("{name}^h1")), "{in_use}");
        Ok(Some(()))
    })?;
    c.eventually("the summary shows what the driver says of the volume", 150, |c| {
        let told = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?;
        let told: Value = serde_json::from_str(&told)?;
        let pods = told["pods"].as_array().into_iter().flatten();
        let mut volumes = pods.filter_map(|pod| pod["volume"].as_array()).flatten();
        let volume = volumes.find(|v| v["pvcRef"] == json!({"name": "data", "namespace": ns}));
        Ok(volume.filter(|v| v["usedBytes"] == 5 << 20 && v["capacityBytes"] == 8 << 20).map(drop))
    })?;
    // What resizes volumes would have written this.
    patch("pvc/data", false, json!({"spec": {"resources": {"requests": {"storage": "16Mi"}}}}))?;
    patch(&format!("pv/{ns}"), false, json!({"spec": {"capacity": {"storage": "16Mi"}}}))?;
    let pending = json!({"type": "FileSystemResizePending", "status": "True"});
    patch("pvc/data", true, json!({"status": {"conditions": [pending]}}))?;
    c.eventually("the claim has grown", 120, |c| {
        let has = field(c, ns, "pvc/data", ".status.capacity.storage")?;
        ensure!(has == "16Mi", "it has {has}");
        Ok(Some(()))
    })?;
    ensure!(asked("expand h1 to 16777216"), "{:?}", driver.asked());
    driver.set_most(1);
    wait_field(c, ns, &format!("csinode/{node}"), &count, "1")?;
    run(c, ns, &["delete", "pod", "driven"])?;
    c.eventually("the volumes are given back", 60, |_| {
        Ok((asked("unpublish h1") && asked("unstage h1")).then_some(()))
    })?;
    c.eventually("the attachment is taken back", 120, |c| {
        Ok(run(c, ns, &["get", &attachment, "--ignore-not-found", "-o", "name"])?.is_empty().then_some(()))
    })?;
    run(c, ns, &["delete", "pvc", "data"])?;
    let rest = [format!("pv/{ns}"), format!("storageclass/{ns}"), format!("csidriver/{name}")];
    run(c, ns, &["delete", &rest[0], &rest[1], &rest[2]]).map(drop)
}

/// A driver whose volumes are attached and may grow, and a volume of it with its claim.
const DRIVEN: &str = "\
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: NAME}
spec: {attachRequired: true, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral], nodeAllocatableUpdatePeriodSeconds: 10}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NS}
provisioner: NAME
allowVolumeExpansion: true
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NS}
spec:
  capacity: {storage: 8Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: NS
  persistentVolumeReclaimPolicy: Retain
  csi: {driver: NAME, volumeHandle: h1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: NS
  volumeName: NS
  resources: {requests: {storage: 8Mi}}
";

fn certified(c: &Cluster, _: &str) -> Result<()> {
    let (first, second) = (Authority::new("first")?, Authority::new("second")?);
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    let write = |identity: &Identity| -> Result<()> {
        fs::write(file("tls.key"), &identity.key)?;
        Ok(fs::write(file("tls.crt"), &identity.cert)?)
    };
    write(&first.server()?)?;
    let (crt, key) = (file("tls.crt"), file("tls.key"));
    let config = format!("tlsCertFile: {}\ntlsPrivateKeyFile: {}\n", crt.display(), key.display());
    let other = Other::start(c, "certified", &config, &[])?;
    // Who trusts another authority does not get as far as being a stranger.
    let answers = |authority: &Authority| {
        let answer = Client::new("https://127.0.0.1:10250", &authority.cert, None)?.get("/pods");
        Ok::<_, anyhow::Error>(answer.is_ok_and(|answer| answer.code == 401))
    };
    ensure!(answers(&first)? && !answers(&second)?, "it serves with the certificate of its file");
    fs::write(&crt, "no certificate")?;
    write(&second.server()?)?;
    c.eventually("it serves with the new certificate", 60, |_| {
        ensure!(answers(&second)?, "it does not yet");
        Ok(Some(()))
    })?;
    ensure!(!answers(&first)?, "the old one is gone");
    other.end()
}

fn devices(c: &Cluster, ns: &str) -> Result<()> {
    let (node, resource) = (only_node(c)?, "test.example/gauge");
    let folder = c.state().join("nodes").join(&node).join("kubelet/device-plugins");
    let two = || Devices::from([("one".to_owned(), "Healthy"), ("two".to_owned(), "Healthy")]);
    let plugin = Plugin::start(&folder, resource, two())?;
    let capacity = ".status.allocatable.test\\.example/gauge";
    wait_field(c, ns, &format!("node/{node}"), capacity, "2")?;
    let wants = format!("    resources: {{limits: {{{resource}: 1}}}}\n");
    apply(c, ns, &busybox("measured", &wants))?;
    ready(c, ns, "measured")?;
    let device = shell(c, ns, "measured", "echo $DEVICES")?;
    ensure!(["one", "two"].contains(&device.as_str()), "its device is {device:?}");
    let listed = device_plugin::listed(
        &c.state().join("nodes").join(&node).join("kubelet/pod-resources/kubelet.sock"),
    )?;
    let own = (format!("{ns}/measured/main"), resource.to_owned(), device.clone());
    ensure!(listed.contains(&own), "what pods have is told to agents: {listed:?}");
    let told = |c: &Cluster| {
        let path = ".status.containerStatuses[0].allocatedResourcesStatus";
        Ok::<_, anyhow::Error>(serde_json::from_str::<Value>(&field(c, ns, "pod/measured", path)?)?)
    };
    let is = |c: &Cluster, health: &str| {
        c.eventually(&format!("the device is {health}"), 60, |c| {
            let status = told(c)?;
            let want = json!([
                {"name": resource, "resources": [{"resourceID": device, "health": health}]}
            ]);
            ensure!(status == want, "{status}");
            Ok(Some(()))
        })
    };
    is(c, "Healthy")?;
    plugin.set(&device, "Unhealthy");
    is(c, "Unhealthy")?;
    wait_field(c, ns, &format!("node/{node}"), capacity, "1")?;
    let id = field(c, ns, "pod/measured", ".status.containerStatuses[0].containerID")?;
    c.stop("kubelet")?;
    drop(plugin);
    c.up()?;
    let plugin = c.eventually("the plugin registers with the new kubelet", 60, |_| {
        Plugin::start(&folder, resource, two()).map(Some)
    })?;
    is(c, "Healthy")?;
    wait_field(c, ns, &format!("node/{node}"), capacity, "2")?;
    ensure!(
        field(c, ns, "pod/measured", ".status.containerStatuses[0].containerID")? == id,
        "the same container"
    );
    apply(c, ns, &busybox("other", &wants))?;
    ready(c, ns, "other")?;
    let second = shell(c, ns, "other", "echo $DEVICES")?;
    ensure!(second != device, "{second:?} was given twice");
    plugin.set(&device, "Unhealthy");
    is(c, "Unhealthy")?;
    run(c, ns, &["delete", "pod", "measured", "other"])?;
    drop(plugin);
    Ok(())
}

fn claimed(c: &Cluster, ns: &str) -> Result<()> {
    let (node, name) = (only_node(c)?, format!("{ns}.example.com"));
    let folder = c.state().join("nodes").join(&node).join("kubelet/plugins_registry");
    let gauge = || [("gauge".to_owned(), (HealthStatus::Healthy, ""))].into();
    let driver = Driver::start(&folder, &name, &node, gauge(), Duration::from_secs(600))?;
    let objects = format!(
        "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {{name: {name}}}\nspec:\n  selectors: \
         [{{cel: {{expression: 'device.driver == \"{name}\"'}}}}]\n---\napiVersion: resource.k8s.io/v1\nkind: ResourceSlice\n\
         metadata: {{name: {ns}-slice}}\nspec:\n  driver: {name}\n  nodeName: {node}\n  pool: {{name: {node}, generation: 1, \
         resourceSliceCount: 1}}\n  devices: [{{name: gauge}}]\n---\napiVersion: resource.k8s.io/v1\nkind: ResourceClaim\n\
         metadata: {{name: own, namespace: {ns}}}\nspec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: {name}}}}}]}}}}\n"
    );
    apply(c, ns, &objects)?;
    let claims =
        "    resources: {claims: [{name: g}]}\n  resourceClaims: [{name: g, resourceClaimName: own}]\n";
    apply(c, ns, &busybox("measured", claims))?;
    ready(c, ns, "measured")?;
    let is = |health: &str, message: Option<&str>| {
        c.eventually(&format!("the device is {health}"), 60, |c| {
            let path = ".status.containerStatuses[0].allocatedResourcesStatus";
            let told = field(c, ns, "pod/measured", path)?;
            let mut resource = json!({"resourceID": format!("{name}/{node}/gauge"), "health": health});
            if let Some(message) = message {
                resource["message"] = message.into();
            }
            let want = json!([{"name": "claim:g", "resources": [resource]}]);
            ensure!(serde_json::from_str::<Value>(&told).is_ok_and(|told| told == want), "{told}");
            Ok(Some(()))
        })
    };
    is("Healthy", None)?;
    driver.set("gauge", HealthStatus::Unhealthy, "too hot");
    is("Unhealthy", Some("too hot"))?;
    drop(driver);
    is("Unknown", None)?;
    // The claim is taken back by the driver that has come again.
    let driver = Driver::start(&folder, &name, &node, gauge(), Duration::from_secs(15))?;
    is("Healthy", None)?;
    // It does not say so again.
    is("Unknown", None)?;
    run(c, ns, &["delete", "pod", "measured"])?;
    run(c, ns, &["delete", "resourceclaim", "own"])?;
    run(c, ns, &["delete", &format!("resourceslice/{ns}-slice"), &format!("deviceclass/{name}")])?;
    drop(driver);
    Ok(())
}

fn begins_anew(c: &Cluster, ns: &str) -> Result<()> {
    // A probe that takes its time: what is told before it has answered is not its word. And what has run for less than
    // ten seconds when a kubelet begins may not have been asked by the one of before.
    let slow = "{exec: {command: [sleep, '11']}, timeoutSeconds: 30, periodSeconds: 1000}";
    let once = "{exec: {command: [sh, -c, 'test ! -e /started && touch /started']}, failureThreshold: 1}";
    let probes = format!("    readinessProbe: {slow}\n    startupProbe: {once}\n");
    apply(c, ns, &busybox("calm", &probes))?;
    ready(c, ns, "calm")?;
    let since = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime";
    let (before, uid) = (field(c, ns, "pod/calm", since)?, field(c, ns, "pod/calm", ".metadata.uid")?);
    let line = command_line(c)?;
    let root = line.iter().find_map(|flag| flag.strip_prefix("--root-dir=")).context("a root")?;
    let socket = Path::new(root).join("pods-api/pods-api.sock");
    ensure!(device_plugin::told(&socket, &uid).is_err(), "nobody tells without the gate");
    let other = Other::start(c, "anew", "featureGates: {PodsAPI: true}\n", &[])?;
    c.eventually("programs of the node are told of the pod", 60, |_| {
        let (count, found) = device_plugin::told(&socket, &uid)?;
        ensure!(found, "{count} pods without it");
        Ok(Some(()))
    })?;
    let told = field(c, ns, "pod/calm", ".status.containerStatuses[0].ready")?;
    ensure!(told == "true" && field(c, ns, "pod/calm", since)? == before, "it was not ready in between");
    let restarts = field(c, ns, "pod/calm", ".status.containerStatuses[0].restartCount")?;
    ensure!(restarts == "0", "a container that had started is not asked whether it has");
    other.end()
}
