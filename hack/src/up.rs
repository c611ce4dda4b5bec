//! `hack/up`: from a source tree to a cluster that answers.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    binaries,
    control_plane::ControlPlane,
    demo, images, join,
    layout::Layout,
    network,
    node::Node,
    objects, packages,
    process::{self, Process},
    screen,
};

/// Options of `hack/up`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Number of nodes: 1 is the host itself, more are network namespaces on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    nodes: u32,
    /// Use the release binaries that are there.
    #[arg(long)]
    no_build: bool,
    /// Leave the demo out.
    #[arg(long)]
    no_demo: bool,
}

/// What was asked for, kept for the next `up` and for `down`.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Number of nodes.
    pub nodes: u32,
    /// The node's name on a machine that joined a cluster elsewhere.
    #[serde(default)]
    pub joined: Option<String>,
}

/// Brings the cluster up, or back to what it should be.
pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    if !geteuid().is_root() {
        bail!("hack/up must run as root: it starts containers and changes the network");
    }
    remember(layout, args.nodes)?;
    let kubectl = install(layout, args.no_build)?;
    screen::step("images");
    let archives = images::ensure(layout)?;
    screen::step("control plane");
    network::enable_forwarding(layout)?;
    if args.nodes > 1 {
        network::ensure_bridge(layout)?;
        network::masquerade(layout, None)?;
    }
    let address = network::host_address(layout, args.nodes)?;
    let plane = ControlPlane::prepare(layout, address, kubectl)?;
    let nodes = Node::all(layout, args.nodes)?;
    let runtimes = nodes.iter().map(|n| n.start_runtime(layout)).collect::<Result<Vec<_>>>()?;
    plane.start_api(layout)?;
    let mut processes = plane.start_rest(layout)?;
    objects::network_policy_role(layout, &plane)?;
    join::allow_joining(layout, &plane)?;
    screen::step(&format!("{} node{}", args.nodes, if args.nodes == 1 { "" } else { "s" }));
    for (node, runtime) in nodes.iter().zip(&runtimes) {
        node.import_images(layout, runtime, &archives)?;
        processes.extend(node.start_agents(layout, &plane)?);
    }
    wait_for_nodes(layout, &plane, &nodes, &processes)?;
    objects::dns_service(layout, &plane)?;
    if !args.no_demo {
        screen::step("demo");
        demo::run(layout, &plane)?;
    }
    table(layout);
    screen::line(&format!("\nexport KUBECONFIG={}", layout.admin_kubeconfig().display()));
    Ok(())
}

/// Installs what is missing and builds the binaries, unless those that are there are to be used; kubectl's path.
pub fn install(layout: &Layout, no_build: bool) -> Result<PathBuf> {
    screen::step("packages");
    packages::ensure()?;
    let kubectl = packages::kubectl(layout)?;
    if !no_build {
        screen::step("binaries (release)");
        binaries::build(layout)?;
    }
    Ok(kubectl)
}

fn remember(layout: &Layout, nodes: u32) -> Result<()> {
    fs::create_dir_all(&layout.dir).with_context(|| format!("cannot make {}", layout.dir.display()))?;
    fs::create_dir_all(&layout.run)?;
    if let Some(state) = load_state(layout)? {
        if let Some(name) = state.joined {
            bail!("this machine is node {name} of another cluster: run hack/down --purge first");
        }
        let running = !process::running(layout).is_empty();
        if running && state.nodes != nodes {
            bail!(
                "a cluster of {} nodes runs here: run hack/down first, or pass --nodes {}",
                state.nodes,
                state.nodes
            );
        }
    }
    fs::write(layout.state_file(), serde_json::to_vec(&State { nodes, joined: None })?)?;
    Ok(())
}

/// What the last `up` was asked for, if there was one.
pub fn load_state(layout: &Layout) -> Result<Option<State>> {
    match fs::read(layout.state_file()) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context("unreadable cluster.json")?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn wait_for_nodes(
    layout: &Layout,
    plane: &ControlPlane,
    nodes: &[Node],
    processes: &[Process],
) -> Result<()> {
    let mut started_again = BTreeSet::new();
    for node in nodes {
        screen::wait(&format!("node {} Ready", node.name), Duration::from_secs(90), || {
            for process in processes {
                process.keep(layout, &mut started_again)?;
            }
            let Ok(object) = plane.get(layout, &["node", &node.name]) else {
                return Ok(Some("kubelet has not registered it yet".into()));
            };
            if let Some(reason) = node.configure_pod_network(layout, &object)? {
                return Ok(Some(reason));
            }
            Ok(not_ready(&object))
        })?;
    }
    Ok(())
}

/// Why a node is not ready, `None` when it is.
pub fn not_ready(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    match conditions.iter().find(|c| c["type"] == "Ready") {
        Some(ready) if ready["status"] == "True" => None,
        Some(ready) => Some(ready["message"].as_str().unwrap_or("NotReady").to_owned()),
        None => Some("no Ready condition yet".into()),
    }
}

fn table(layout: &Layout) {
    let rows = process::running(layout);
    let width = |f: fn(&process::Running) -> usize| rows.iter().map(f).max().unwrap_or(0);
    let (names, addresses) = (width(|r| r.name.len()).max(6), width(|r| r.address.len()).max(7));
    screen::line(&format!(
        "\n{:names$}  {:addresses$}  {:>7}  {:>8}  LOG",
        "DAEMON", "ADDRESS", "PID", "RSS"
    ));
    for row in &rows {
        screen::line(&format!(
            "{:names$}  {:addresses$}  {:>7}  {:>5.1} MB  {}",
            row.name,
            row.address,
            row.pid,
            row.rss as f64 / 1024.0,
            row.log.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_ready_only_when_its_condition_says_so() {
        let with = |status: &str| {
            json!({"status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": status, "message": "cni plugin not initialized"}]}})
        };
        assert_eq!(not_ready(&with("True")), None);
        assert_eq!(not_ready(&with("False")).as_deref(), Some("cni plugin not initialized"));
        assert!(not_ready(&json!({})).is_some());
    }
}
