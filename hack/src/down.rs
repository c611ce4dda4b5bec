//! `hack/down`: takes away everything `up` made, in the opposite order.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use proto::cri::v1::{
    ListPodSandboxRequest, RemovePodSandboxRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use crate::{
    layout::Layout,
    network,
    node::{Node, cgroup_hierarchies},
    process, screen, up,
};

/// Options of `hack/down`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Remove the data as well: etcd, PKI, images, logs.
    #[arg(long)]
    purge: bool,
    /// Stop the daemons and etcd but leave containers and containerd running, as a host's upgrade would.
    #[arg(long, conflicts_with = "purge")]
    keep_containers: bool,
}

/// Stops and removes.
pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    if !geteuid().is_root() {
        bail!("hack/down must run as root");
    }
    let state = up::load_state(layout)?;
    let nodes = match &state {
        Some(state) => {
            let mut nodes = Node::all(layout, state.nodes)?;
            if let (Some(name), Some(node)) = (&state.joined, nodes.first_mut()) {
                node.name.clone_from(name);
            }
            nodes
        }
        None => Vec::new(),
    };
    screen::step("daemons");
    stop_all(layout, |name| !name.starts_with("containerd"))?;
    if args.keep_containers {
        return Ok(());
    }
    screen::step("containers");
    for node in &nodes {
        remove_sandboxes(&node.socket(layout))
            .with_context(|| format!("cannot remove the pods of {}", node.name))?;
    }
    stop_all(layout, |_| true)?;
    for node in &nodes {
        end_shims(&node.socket(layout))?;
    }
    screen::step("network, mounts, cgroups");
    for node in &nodes {
        if node.netns.is_some() {
            network::remove_namespace(layout, &node.name)?;
        }
    }
    network::remove_bridge(layout)?;
    network::remove_masquerade(layout)?;
    if nodes.iter().any(|n| n.netns.is_none()) {
        network::remove_load_balancer_addresses()?;
        network::remove_host_ports()?;
        for family in ["ip", "ip6"] {
            for table in ["kube-proxy", "kube-proxy-policies"] {
                network::delete_table(family, table)?;
            }
        }
    }
    if state.is_some_and(|state| state.joined.is_some()) {
        network::remove_pod_route()?;
    }
    network::restore_forwarding(layout)?;
    unmount_below(&layout.dir)?;
    unmount_below(&layout.run)?;
    remove_cgroups(layout, &nodes)?;
    remove_dir(&layout.run)?;
    if args.purge {
        screen::step("data");
        remove_dir(&layout.dir)?;
    }
    Ok(())
}

fn stop_all(layout: &Layout, which: impl Fn(&str) -> bool) -> Result<()> {
    let mut names: Vec<String> = process::names(layout).into_iter().filter(|n| which(n)).collect();
    names.sort_by_key(|n| stop_rank(n));
    for name in names {
        process::stop(layout, &name, Duration::from_secs(15))?;
        screen::detail(&format!("stopped {name}"));
    }
    Ok(())
}

/// Those who write go before those who store.
fn stop_rank(name: &str) -> u8 {
    match name {
        "etcd" => 3,
        "kube-apiserver" => 2,
        n if n.starts_with("containerd") => 1,
        _ => 0,
    }
}

/// Stops and removes all pod sandboxes, and with them containers and pod networks.
fn remove_sandboxes(socket: &Path) -> Result<()> {
    if !socket.exists() {
        return Ok(());
    }
    let socket = socket.to_owned();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://containerd").timeout(Duration::from_secs(60));
        let Ok(channel) = endpoint.connect_with_connector(connect).await else {
            screen::detail("containerd does not run: its containers are gone already");
            return Ok(());
        };
        let mut cri = RuntimeServiceClient::new(channel);
        let list = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
        for sandbox in list {
            cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await?;
            cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.id }).await?;
        }
        Ok(())
    })
}

/// Ends shims that outlived their containers and the runtime that started them.
fn end_shims(socket: &Path) -> Result<()> {
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // What has ended meanwhile has no command line any more.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if is_shim_of(&arguments, socket) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => screen::detail(&format!("ended a shim (pid {pid})")),
                Err(error) => return Err(error).with_context(|| format!("cannot end the shim {pid}")),
            }
        }
    }
    Ok(())
}

/// Whether a command line, as /proc has it, is of a shim that a containerd at this socket started.
fn is_shim_of(arguments: &[u8], socket: &Path) -> bool {
    let mut words = arguments.split(|byte| *byte == 0);
    words.next().is_some_and(|program| program.ends_with(b"/containerd-shim-runc-v2"))
        && words.any(|word| word == b"-address")
        && words.next() == Some(socket.as_os_str().as_bytes())
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut targets: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    // Deepest first.
    targets.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for target in targets {
        umount2(&target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    Ok(())
}

fn remove_cgroups(layout: &Layout, nodes: &[Node]) -> Result<()> {
    let mut roots: Vec<String> = Vec::new();
    for node in nodes {
        match node.cgroup_root(layout).as_str() {
            "/" => roots.extend(["kubepods".to_owned(), "k8s.io".to_owned()]),
            root => roots.push(root.trim_start_matches('/').to_owned()),
        }
    }
    roots.push(layout.kernel_name("keelson"));
    for hierarchy in cgroup_hierarchies()? {
        for root in &roots {
            remove_cgroup(&hierarchy.join(root))?;
        }
    }
    Ok(())
}

/// Removes a cgroup and those below it.
fn remove_cgroup(path: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e)
            .with_context(|| format!("cannot remove cgroup {} (does a process live in it?)", path.display())),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_told_by_their_runtimes_socket() {
        let shim = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0a\0-address\0/run/a/containerd.sock\0";
        assert!(is_shim_of(shim, Path::new("/run/a/containerd.sock")));
        assert!(!is_shim_of(shim, Path::new("/run/b/containerd.sock")));
        assert!(!is_shim_of(
            b"/usr/bin/vi\0-address\0/run/a/containerd.sock\0",
            Path::new("/run/a/containerd.sock")
        ));
        assert!(!is_shim_of(b"", Path::new("/run/a/containerd.sock")));
    }

    #[test]
    fn storage_stops_last() {
        let mut names = vec!["etcd", "containerd", "kube-apiserver", "kubelet"];
        names.sort_by_key(|n| stop_rank(n));
        assert_eq!(names, ["kubelet", "containerd", "kube-apiserver", "etcd"]);
    }
}
