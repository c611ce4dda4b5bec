//! The kubelet beside the runtime it drives: the same pods made by it and by bare calls of CRI, on one containerd in
//! the same run, alone and 110 at once; then what 110 running pods cost it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hack::{images, kubeconfig, layout::Layout, node::Node, process, screen};
use http::Version;
use hyper_util::rt::TokioIo;
use proto::cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    SecurityProfile, StartContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient, security_profile::ProfileType,
};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use super::{
    Figure, Goal, block_on, cluster,
    events::Events,
    http::{Client, Trust},
    median, millis,
    pods::NAMESPACE,
    usage,
};

/// Pods made one after the other, and as many by bare calls; a hundred, so that there is a 99th percentile.
const SINGLE: usize = 100;
/// What a container without a `procMount` of its own does not see, or may not write. Every kubelet asks that of the
/// runtime, and a filter of system calls for the sandbox: the same pod by bare calls asks it too.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Milliseconds that a pod may take longer than the bare calls: half of them, and 99 of a hundred.
const SLOWER: (f64, f64) = (30.0, 100.0);
/// Pods at once: as many as a node takes unless told otherwise.
const BURST: usize = 110;
const BURSTS: usize = 2;
/// How many calls a loop of bare calls has under way, and requests to the API server.
const IN_FLIGHT: usize = 8;
/// Megabytes and percent of a processor that the kubelet may have with them, and how long it is watched.
const MEMORY: f64 = 25.0;
const IDLE: f64 = 1.0;
const WATCHED: Duration = Duration::from_secs(20);
/// How long everything is left alone before.
const SETTLED: Duration = Duration::from_secs(10);

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    cluster::up(layout)?;
    let measured = block_on(measure(layout));
    cluster::down(layout)?;
    measured
}

async fn measure(layout: &Layout) -> Result<Vec<Figure>> {
    let mut bench = Bench::open(layout).await?;
    // What is done for the first time, such as reading the image's layers, is nobody's merit.
    for index in 0..3 {
        bench.pod(&format!("warm-{index}")).await?;
        bench.raw.pod(&format!("warm-{index}")).await?;
    }
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for index in 0..SINGLE {
        raw.push(bench.raw.pod(&format!("raw-{index}")).await?);
        ours.push(bench.pod(&format!("pod-{index}")).await?);
    }
    let mut figures = vec![
        later("one pod, created to Running, half of them", (&ours, &raw), 0.5, SLOWER.0),
        later("one pod, created to Running, 99 %", (&ours, &raw), 0.99, SLOWER.1),
    ];
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for turn in 0..BURSTS {
        raw.push(bench.raw.burst(turn).await?);
        ours.push(bench.burst(turn, turn + 1 == BURSTS).await?);
    }
    let name = format!("{BURST} pods, created to Running");
    let peer = ("bare CRI calls", median(raw));
    figures.push(Figure::new(name, "s", median(ours), peer, Goal::AtMost(1.3)));
    figures.extend(bench.idle(layout).await?);
    bench.clear().await?;
    Ok(figures)
}

/// The percentile of both, the peer's with what a pod may take longer.
fn later(name: &str, (ours, raw): (&[f64], &[f64]), part: f64, slower: f64) -> Figure {
    let peer = ("bare CRI calls and what is granted,", percentile(raw, part) + slower);
    Figure::new(name, "ms", percentile(ours, part), peer, Goal::AtMost(1.0))
}

/// The smallest value that this part of all values does not exceed.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A cluster of one node, an administrator's client, and the node's runtime.
struct Bench {
    client: Client,
    watch: Events,
    raw: Raw,
}

impl Bench {
    async fn open(layout: &Layout) -> Result<Self> {
        let server = kubeconfig::server(&layout.admin_kubeconfig())?;
        let address: SocketAddr = server.trim_start_matches("https://").parse().context("no address")?;
        let file = |name: &str| layout.pki().join(name);
        let identity = Some((file("admin-client.crt"), file("admin-client.key")));
        let mut client =
            Client::connect(address, &Trust { ca: file("ca.crt"), identity }, Version::HTTP_2).await?;
        // Pods are let in only once controllers have made what every namespace has.
        for path in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/{path}");
            let deadline = Instant::now() + Duration::from_secs(30);
            while let Err(error) = client.json("GET", &path, Bytes::new()).await {
                ensure!(Instant::now() < deadline, "{error:#}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let watch = Events::open(&client, &pods()).await?;
        Ok(Self { client, watch, raw: Raw::connect(layout).await? })
    }

    /// Milliseconds until a watch shows a new pod running; it is gone again afterwards.
    async fn pod(&mut self, name: &str) -> Result<f64> {
        let began = Instant::now();
        self.client.json("POST", &pods(), manifest(name)).await?;
        self.watch.until(1, |_, pod| is_running(pod, name)).await?;
        let took = millis(began.elapsed());
        self.client.json("DELETE", &format!("{}/{name}", pods()), Bytes::new()).await?;
        self.watch.until(1, |kind, pod| kind == "DELETED" && pod["metadata"]["name"] == name).await?;
        Ok(took)
    }

    /// Seconds until a watch has shown so many new pods running; they stay if asked for.
    async fn burst(&mut self, turn: usize, keep: bool) -> Result<f64> {
        let prefix = format!("burst-{turn}-");
        let began = Instant::now();
        let client = &self.client;
        let creations = stream::iter((0..BURST).map(|index| manifest(&format!("{prefix}{index}"))))
            .map(|body| async move {
                let mut client = client.share().context("the load needs HTTP/2")?;
                client.json("POST", &pods(), body).await
            })
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|_| async { Ok(()) });
        let shown = self.watch.until(BURST, |_, pod| is_running(pod, &prefix));
        futures::future::try_join(creations, shown).await?;
        let took = began.elapsed().as_secs_f64();
        if !keep {
            self.clear().await?;
        }
        Ok(took)
    }

    /// Removes all pods of a burst and waits until they are gone.
    async fn clear(&mut self) -> Result<()> {
        self.client.json("DELETE", &pods(), Bytes::new()).await?;
        self.watch.until(BURST, |kind, _| kind == "DELETED").await
    }

    /// What the kubelet has and takes while nothing happens.
    async fn idle(&self, layout: &Layout) -> Result<[Figure; 2]> {
        let running = process::running(layout);
        let kubelet = running.iter().find(|r| r.name == "kubelet").context("kubelet does not run")?.pid;
        screen::detail(&format!("leaving {BURST} pods alone"));
        tokio::time::sleep(SETTLED).await;
        let (began, before) = (Instant::now(), usage::cpu(kubelet)?);
        tokio::time::sleep(WATCHED).await;
        let used = usage::cpu(kubelet)?.saturating_sub(before);
        let percent = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
        let memory = usage::memory(kubelet)? as f64 / 1e6;
        Ok([
            Figure::bounded(format!("kubelet, {BURST} pods"), "MB", memory, MEMORY),
            Figure::bounded(format!("kubelet, {BURST} idle pods"), "% cpu", percent, IDLE),
        ])
    }
}

/// The path of the namespace's pods.
fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

/// A pod of one container that waits and ends when it is told to.
fn manifest(name: &str) -> Bytes {
    let container = json!({"name": "main", "image": images::PAUSE, "imagePullPolicy": "IfNotPresent"});
    let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 5});
    Bytes::from(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string(),
    )
}

/// Whether it is one of the pods whose names begin so, and runs.
fn is_running(pod: &serde_json::Value, prefix: &str) -> bool {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    name.starts_with(prefix) && pod["status"]["phase"] == "Running"
}

/// The runtime, spoken to without a kubelet. Its sandboxes have no labels, so that the kubelet minds none of them.
#[derive(Clone)]
struct Raw {
    runtime: RuntimeServiceClient<Channel>,
    cgroup: String,
    logs: PathBuf,
}

impl Raw {
    async fn connect(layout: &Layout) -> Result<Self> {
        let node = Node::all(layout, 1)?.pop().context("no node")?;
        let socket = node.socket(layout);
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://containerd").connect_with_connector(connect).await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel),
            cgroup: format!("{}/bare", node.cgroup_root(layout).trim_end_matches('/')),
            logs: node.dir(layout).join("bare-logs"),
        })
    }

    /// Milliseconds of making a pod; it is gone again afterwards.
    async fn pod(&self, name: &str) -> Result<f64> {
        let began = Instant::now();
        let id = self.start(name).await?;
        let took = millis(began.elapsed());
        self.remove(id).await?;
        Ok(took)
    }

    /// Seconds of making so many pods; they are gone again afterwards.
    async fn burst(&self, turn: usize) -> Result<f64> {
        let began = Instant::now();
        let made: Vec<String> = stream::iter(0..BURST)
            .map(|index| async move { self.start(&format!("bare-{turn}-{index}")).await })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await?;
        let took = began.elapsed().as_secs_f64();
        let removals = stream::iter(made).map(|id| self.remove(id)).buffer_unordered(IN_FLIGHT);
        removals.try_for_each(|()| async { Ok(()) }).await?;
        Ok(took)
    }

    /// The calls that make a pod as [`manifest`] describes it; the sandbox's id.
    async fn start(&self, name: &str) -> Result<String> {
        let mut runtime = self.runtime.clone();
        let config = self.sandbox(name);
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let pod_sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container()),
            sandbox_config: Some(config),
        };
        let container_id = runtime.create_container(request).await?.into_inner().container_id;
        runtime.start_container(StartContainerRequest { container_id }).await?;
        Ok(pod_sandbox_id)
    }

    async fn remove(&self, id: String) -> Result<()> {
        let mut runtime = self.runtime.clone();
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        Ok(())
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(seccomp(ProfileType::RuntimeDefault)),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: images::PAUSE.to_owned(), ..ImageSpec::default() }),
        log_path: "main.log".to_owned(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp(ProfileType::Unconfined)),
                masked_paths: MASKED.map(str::to_owned).into(),
                readonly_paths: READONLY.map(str::to_owned).into(),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

fn seccomp(profile: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: profile as i32, ..SecurityProfile::default() }
}

/// The namespaces of a pod that asks for none of the host's.
fn namespaces() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container as i32, ..NamespaceOption::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
