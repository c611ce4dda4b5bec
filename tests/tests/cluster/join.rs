//! A second host joins with `hack/join` and leaves with `hack/down`. The host is a network namespace with a link to the
//! first one, a state folder and a runtime of its own.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fetches, field, http, nodes::web_on, ready, run, shell, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[(
    "a second host joins with one command, runs pods that all reach, and leaves nothing when it goes",
    join,
)];

/// The name of the second host's node.
const NODE: &str = "second";
/// The link between the hosts: a range that nothing else here uses.
const FIRST: &str = "10.95.0.1";
const SECOND: &str = "10.95.0.2";
/// The chains of CNI's portmap plugin.
const CHAINS: &str = "CNI-HOSTPORT-";
/// A port of the second host that leads to a pod.
const PORT: u16 = 8086;

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output()?;
    ensure!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// A second host; it goes with all it runs when dropped.
struct Host<'a> {
    cluster: &'a Cluster,
    namespace: String,
    state: PathBuf,
    down: bool,
}

impl<'a> Host<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let namespace = format!("keelson-join-{}", std::process::id());
        let state = cluster.folder().join(NODE);
        // The archives of images are the first host's: they are made from packages, which takes a network.
        copy_files(&cluster.state().join("images"), &state.join("images"))?;
        ip(&["netns", "add", &namespace])?;
        let host = Self { cluster, namespace, state, down: false };
        let link = format!("klj{}", std::process::id());
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &host.namespace])?;
        ip(&["addr", "add", &format!("{FIRST}/24"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        host.ip(&["addr", "add", &format!("{SECOND}/24"), "dev", "eth0"])?;
        host.ip(&["link", "set", "lo", "up"])?;
        host.ip(&["link", "set", "eth0", "up"])?;
        host.ip(&["route", "add", "default", "via", FIRST])?;
        Ok(host)
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.namespace], args].concat())
    }

    fn hack(&self, args: &[&str]) -> Result<String> {
        self.cluster.hack_inside(&self.namespace, &self.state, args)
    }

    /// Takes the node down.
    fn down(&mut self) -> Result<()> {
        self.down = true;
        self.hack(&["down", "--purge"]).map(drop)
    }

    /// All rules of the host's packet filter.
    fn packet_filter(&self) -> Result<String> {
        let namespace = format!("--net=/run/netns/{}", self.namespace);
        let out = Command::new("nsenter").args([&namespace, "--", "nft", "list", "ruleset"]).output()?;
        ensure!(out.status.success(), "nft: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // Whatever failed has been told; what cannot be taken away either shows in the next run.
        if !self.down {
            drop(self.hack(&["down", "--purge"]));
        }
        drop(ip(&["netns", "del", &self.namespace]));
        drop(self.cluster.kubectl(&["delete", "node", NODE]));
    }
}

/// The files of a folder, without the folders in it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let target = to.join(entry.file_name());
        match fs::hard_link(entry.path(), &target) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                fs::copy(entry.path(), &target).map(drop)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn join(c: &Cluster, ns: &str) -> Result<()> {
    let told = c.hack(&["join"])?;
    let line = told.lines().find(|line| line.starts_with("hack/join ")).context("no command to join with")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, server, "--token", token, "--discovery-token-ca-cert-hash", hash] = words[..] else {
        anyhow::bail!("not the command: {line}");
    };
    let mut host = Host::new(c)?;
    let another = format!("sha256:{}", "0".repeat(64));
    let join = |hash: &str| {
        let proof = ["--token", token, "--discovery-token-ca-cert-hash", hash];
        host.hack(&[&["join", server, "--node-name", NODE, "--no-build"], &proof[..]].concat())
    };
    ensure!(join(&another).is_err(), "it joined a cluster that is not the one it was told");
    join(hash)?;
    joined(c, ns)?;
    ensure!(host.packet_filter()?.contains(CHAINS), "the port is not led to its pod as this test expects");
    host.down()?;
    let left = host.packet_filter()?;
    ensure!(!left.contains(CHAINS), "the host's packet filter keeps\n{left}");
    run(c, ns, &["delete", "pods", "--all", "--force", "--grace-period=0"]).map(drop)
}

/// What a node that joined is good for.
fn joined(c: &Cluster, ns: &str) -> Result<()> {
    wait_field(c, ns, &format!("node/{NODE}"), ".status.conditions[?(@.type==\"Ready\")].status", "True")?;
    ensure!(
        field(c, ns, &format!("node/{NODE}"), ".status.addresses[?(@.type==\"InternalIP\")].address")?
            == SECOND,
        "its address"
    );
    let first = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let first = first.split_whitespace().find(|name| *name != NODE).context("one node only")?;
    apply(c, ns, &web_on(NODE, "web"))?;
    apply(c, ns, &busybox("client", &format!("  nodeSelector: {{kubernetes.io/hostname: {first}}}\n")))?;
    apply(
        c,
        ns,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: port}}\nspec: {{nodeSelector: {{kubernetes.io/hostname: {NODE}}}, \
             terminationGracePeriodSeconds: 1, containers: [{{name: web, image: 'keelson.local/web:1', \
             ports: [{{containerPort: 80, hostPort: {PORT}}}]}}]}}\n"
        ),
    )?;
    apply(c, ns, &busybox("inside", &format!("  nodeSelector: {{kubernetes.io/hostname: {NODE}}}\n")))?;
    run(c, ns, &["expose", "pod", "web", "--port=80"])?;
    for pod in ["web", "client", "port", "inside"] {
        ready(c, ns, pod)?;
    }
    fetches(c, ns, &field(c, ns, "pod/web", ".status.podIP")?)?;
    fetches(c, ns, "web")?;
    c.eventually("names and services work on the second host", 30, |c| {
        Ok(shell(c, ns, "inside", "wget -q -O - http://web/")?.contains("Keelson").then_some(()))
    })?;
    c.eventually("a port of the second host leads to its pod", 30, |_| {
        ensure!(http(SECOND, PORT)?.contains("Keelson says hello"), "something else answers");
        Ok(Some(()))
    })?;
    run(c, ns, &["exec", "web", "--", "nginx", "-t"])?;
    run(c, ns, &["logs", "web"]).map(drop)
}
