//! `hack/join`: makes this machine a node of a cluster that runs elsewhere.
//!
//! ```text
//! token + hash of the cluster's CA → cluster-info (checked) → kubelet asks for its certificates → node is Ready
//! ```
//!
//! Contract: "Authenticating with Bootstrap Tokens" and "TLS bootstrapping"; the flags are those of kubeadm's join.
//! Without a server it prints the command to run elsewhere, which takes the administrator's kubeconfig.

mod discovery;
mod objects;

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use serde_json::Value;

pub use discovery::{Token, authority_hash};
pub use objects::allow_joining;

use crate::{
    command::{command, feed, output, try_output},
    images, kubeconfig,
    layout::Layout,
    network,
    node::{Credentials, Node},
    packages, screen,
    up::{self, State},
};

/// Time a printed token is good for.
const TOKEN_HOURS: i64 = 24;

/// Options of `hack/join`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The cluster's API server, `host:port`; without it, the command to join is printed.
    server: Option<String>,
    /// Bootstrap token.
    #[arg(long, requires = "server")]
    token: Option<Token>,
    /// `sha256:` and the hash of the public key of the cluster's CA.
    #[arg(long, requires = "server")]
    discovery_token_ca_cert_hash: Vec<String>,
    /// Name of this node, the machine's unless given.
    #[arg(long)]
    node_name: Option<String>,
    /// Use the release binaries that are there.
    #[arg(long)]
    no_build: bool,
}

/// Joins, or prints how to.
pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    if !geteuid().is_root() {
        bail!("hack/join must run as root: it starts containers and changes the network");
    }
    match (&args.server, &args.token) {
        (None, _) => print_command(layout),
        (Some(server), Some(token)) => join(layout, args, server, token),
        (Some(_), None) => bail!("--token is missing: run hack/join on the control plane to get one"),
    }
}

/// Makes a token and prints the command another machine joins with.
fn print_command(layout: &Layout) -> Result<()> {
    let admin = layout.admin_kubeconfig();
    ensure!(admin.exists(), "no cluster runs here ({} is missing): run hack/up first", admin.display());
    let kubectl = packages::kubectl(layout)?;
    let token = Token::generate()?;
    let expires = time::OffsetDateTime::now_utc() + time::Duration::hours(TOKEN_HOURS);
    let mut apply = command(&kubectl.to_string_lossy(), ["apply", "-f", "-"]);
    feed(apply.env("KUBECONFIG", &admin), &objects::secret(&token, expires)?.to_string())?;
    let hash = authority_hash(&fs::read(layout.pki().join("ca.crt"))?)?;
    let server = kubeconfig::server(&admin)?;
    let server = server.trim_start_matches("https://");
    screen::line(&format!("hack/join {server} --token {token} --discovery-token-ca-cert-hash {hash}"));
    Ok(())
}

fn join(layout: &Layout, args: &Args, server: &str, token: &Token) -> Result<()> {
    ensure!(
        !layout.pki().join("ca.key").exists(),
        "a control plane lives in {}: a machine that is to join needs a folder of its own (KEELSON_DIR)",
        layout.dir.display()
    );
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase(),
    };
    fs::create_dir_all(layout.pki()).with_context(|| format!("cannot make {}", layout.dir.display()))?;
    fs::create_dir_all(&layout.run)?;
    fs::write(layout.state_file(), serde_json::to_vec(&State { nodes: 1, joined: Some(name.clone()) })?)?;
    let kubectl = up::install(layout, args.no_build)?;
    screen::step("cluster");
    let found = discovery::discover(layout, server, token, &args.discovery_token_ca_cert_hash)?;
    screen::detail(&format!("{} is what the token and the hash say it is", found.server));
    let cluster = Cluster { layout, kubectl: kubectl.to_string_lossy().into_owned() };
    let bootstrap = layout.dir.join("bootstrap-kubelet.kubeconfig");
    kubeconfig::write_token(
        &bootstrap,
        &found.server,
        &found.ca,
        "tls-bootstrap-token-user",
        &token.to_string(),
    )?;
    let proxy = layout.dir.join("proxy.kubeconfig");
    let proxy_token = cluster.run(&bootstrap, objects::PROXY_TOKEN)?;
    kubeconfig::write_token(&proxy, &found.server, &found.ca, "kube-proxy", proxy_token.trim())?;
    screen::step("images");
    let archives = images::ensure(layout)?;
    screen::step("node");
    network::enable_forwarding(layout)?;
    let address = source_address(server)?;
    let node = Node { name, index: 0, netns: None, address: address.to_string() };
    let runtime = node.start_runtime(layout)?;
    node.import_images(layout, &runtime, &archives)?;
    let own = node.dir(layout).join("kubelet.kubeconfig");
    let agents = node.start(
        layout,
        &Credentials {
            authority: found.ca.clone(),
            kubelet: own.clone(),
            bootstrap: Some(bootstrap.clone()),
            serving: None,
            proxy,
        },
    )?;
    screen::wait(&format!("node {} Ready", node.name), Duration::from_secs(120), || {
        for process in [&runtime].into_iter().chain(&agents) {
            process.check(layout)?;
        }
        if !own.exists() {
            return Ok(Some("its certificate has not been signed yet".into()));
        }
        cluster.approve_serving(&bootstrap, &node.name)?;
        let Ok(object) = cluster.node(&own, &node.name) else {
            return Ok(Some("kubelet has not registered it yet".into()));
        };
        if let Some(reason) = node.configure_pod_network(layout, &object)? {
            return Ok(Some(reason));
        }
        Ok(up::not_ready(&object))
    })?;
    // Pods elsewhere are reached by the control plane's machine, which has a route to every node.
    let gateway = server.rsplit_once(':').map_or(server, |(host, _)| host);
    network::route_pods(gateway)
}

/// The address of this machine that traffic to the server leaves with.
fn source_address(server: &str) -> Result<Ipv4Addr> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let route = output(&mut command("ip", ["-4", "-o", "route", "get", host]))?;
    let mut words = route.split_whitespace();
    let source = words.find(|word| *word == "src").and(words.next()).and_then(|a| a.parse().ok());
    source.with_context(|| format!("no way to {host}: {route}"))
}

/// The cluster, spoken to with this machine's own credentials.
struct Cluster<'a> {
    layout: &'a Layout,
    kubectl: String,
}

// === impl Cluster ===

impl Cluster<'_> {
    fn run(&self, kubeconfig: &std::path::Path, args: &[&str]) -> Result<String> {
        let mut c = command(&self.kubectl, args);
        // A home of its own: another cluster's cached discovery would mislead.
        c.env("KUBECONFIG", kubeconfig).env("HOME", &self.layout.dir).arg("--request-timeout=10s");
        let out = try_output(&mut c)?;
        let said = String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr });
        ensure!(out.status.success(), "kubectl {}: {}", args.join(" "), said.trim());
        Ok(said.into_owned())
    }

    fn node(&self, kubeconfig: &std::path::Path, name: &str) -> Result<Value> {
        serde_json::from_str(&self.run(kubeconfig, &["get", "node", name, "-o", "json"])?).context("no JSON")
    }

    /// The kubelet's serving certificate is approved by who brought the node in: nobody else knows its addresses.
    fn approve_serving(&self, kubeconfig: &std::path::Path, name: &str) -> Result<()> {
        let list: Value = serde_json::from_str(&self.run(kubeconfig, &["get", "csr", "-o", "json"])?)?;
        for request in objects::pending_serving(&list, name) {
            self.run(kubeconfig, &["certificate", "approve", request])?;
        }
        Ok(())
    }
}
