//! One node: its containerd, kubelet and kube-proxy, on the host or in a network namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    binaries,
    command::{command, output, try_output},
    control_plane::{ControlPlane, write_if_changed},
    images,
    layout::Layout,
    network, packages,
    pki::{Leaf, Pair},
    process::Process,
    screen,
};

/// A node of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name in the API.
    pub name: String,
    /// 1-based; 0 for the host itself.
    pub index: u32,
    /// Network namespace; `None` for the host.
    pub netns: Option<String>,
    /// Address the API server and other nodes reach it by.
    pub address: String,
}

/// What a node's agents prove who they are with.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Certificate of the CA that API server and clients have theirs from.
    pub authority: PathBuf,
    /// The kubelet's kubeconfig.
    pub kubelet: PathBuf,
    /// Where the kubelet gets its first certificate with; it writes its own kubeconfig then.
    pub bootstrap: Option<PathBuf>,
    /// The kubelet's serving certificate; without one it asks the cluster for it.
    pub serving: Option<Pair>,
    /// The proxy's kubeconfig.
    pub proxy: PathBuf,
}

impl Node {
    /// The nodes of a cluster of `count`: the host alone, or namespaces.
    pub fn all(layout: &Layout, count: u32) -> Result<Vec<Self>> {
        if count == 1 {
            let name = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase();
            let address = network::host_address(layout, 1)?.to_string();
            return Ok(vec![Self { name, index: 0, netns: None, address }]);
        }
        Ok((1..=count)
            .map(|index| {
                let name = format!("node-{index}");
                let netns = Some(network::namespace(layout, &name));
                Self { netns, index, address: network::node_address(layout, index).to_string(), name }
            })
            .collect())
    }

    /// Files that survive.
    pub fn dir(&self, layout: &Layout) -> PathBuf {
        layout.dir.join("nodes").join(&self.name)
    }

    /// Sockets and containerd's state.
    pub fn run(&self, layout: &Layout) -> PathBuf {
        layout.run.join(&self.name)
    }

    /// The CRI socket.
    pub fn socket(&self, layout: &Layout) -> PathBuf {
        self.run(layout).join("containerd.sock")
    }

    /// The cgroup this node's pods live under; the root for the host.
    pub fn cgroup_root(&self, layout: &Layout) -> String {
        match self.netns {
            None if layout.mark.is_empty() => "/".into(),
            _ => format!("/{}/{}", layout.kernel_name("keelson"), self.name),
        }
    }

    /// Makes the network, configuration and certificates, and starts containerd.
    pub fn start_runtime(&self, layout: &Layout) -> Result<Process> {
        if self.netns.is_some() {
            network::ensure_bridge(layout)?;
            network::ensure_namespace(layout, &self.name, self.index)?;
        }
        for dir in ["containerd", "cni", "kubelet"] {
            fs::create_dir_all(self.dir(layout).join(dir))?;
        }
        fs::create_dir_all(self.run(layout))?;
        self.make_cgroups(layout)?;
        let process = self.containerd(layout)?;
        process.ensure(layout)?;
        Ok(process)
    }

    /// Waits for containerd and imports the images it does not have yet.
    pub fn import_images(
        &self,
        layout: &Layout,
        containerd: &Process,
        archives: &[(&str, PathBuf)],
    ) -> Result<()> {
        screen::wait(&format!("{} answering", containerd.name), Duration::from_secs(30), || {
            containerd.check(layout)?;
            let out = try_output(&mut self.ctr(layout, &["version"]))?;
            Ok((!out.status.success()).then(|| "its socket does not answer yet".to_owned()))
        })?;
        let known = output(&mut self.ctr(layout, &["images", "list", "-q"]))?;
        for (reference, archive) in archives {
            if !known.lines().any(|l| l == *reference) {
                let archive = archive.to_string_lossy();
                output(&mut self.ctr(layout, &["images", "import", "--snapshotter", "overlayfs", &archive]))?;
            }
        }
        Ok(())
    }

    /// Starts kubelet and kube-proxy of a node beside its control plane.
    pub fn start_agents(&self, layout: &Layout, plane: &ControlPlane) -> Result<Vec<Process>> {
        let file = format!("kubelet-{}", self.name);
        let user = format!("system:node:{}", self.name);
        let kubelet = plane.kubeconfig(layout, &file, &user, "system:nodes")?;
        let hosts = vec![self.name.clone(), self.address.clone()];
        let serving = plane.ca.leaf(&Leaf {
            file: &format!("{file}-server"),
            name: &user,
            group: "system:nodes",
            hosts,
        })?;
        let proxy = layout.dir.join("proxy.kubeconfig");
        let authority = plane.ca.cert();
        self.start(
            layout,
            &Credentials { authority, kubelet, bootstrap: None, serving: Some(serving), proxy },
        )
    }

    /// Starts kubelet and kube-proxy.
    pub fn start(&self, layout: &Layout, credentials: &Credentials) -> Result<Vec<Process>> {
        let agents = vec![self.kubelet(layout, credentials)?, self.proxy(layout, credentials)?];
        for process in &agents {
            process.ensure(layout)?;
        }
        network::masquerade(layout, self.netns.as_deref())?;
        Ok(agents)
    }

    /// Gives the runtime its pod network once the cluster has assigned the node a range.
    /// Returns why that is not possible yet, or `None` when done.
    pub fn configure_pod_network(&self, layout: &Layout, node: &Value) -> Result<Option<String>> {
        let Some(cidr) = node["spec"]["podCIDR"].as_str() else {
            return Ok(Some(format!(
                "{} has no podCIDR yet (kube-controller-manager assigns it)",
                self.name
            )));
        };
        // A routed point-to-point link per pod: no bridge, so service replies always pass the node's NAT.
        let config = json!({
            "cniVersion": "0.4.0", "name": layout.kernel_name(&format!("keelson-{}", self.name)),
            "plugins": [{
                "type": "ptp", "mtu": 1500,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": cidr}]], "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": self.dir(layout).join("cni-data"),
                },
            }, {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}],
        });
        let text = serde_json::to_string_pretty(&config)?;
        write_if_changed(&self.dir(layout).join("cni/10-keelson.conflist"), &text)?;
        Ok(None)
    }

    /// `ctr` against this node's containerd, in Kubernetes' namespace.
    pub fn ctr(&self, layout: &Layout, args: &[&str]) -> std::process::Command {
        let mut c = command("ctr", ["--address"]);
        c.arg(self.socket(layout)).args(["--namespace", "k8s.io"]).args(args);
        c
    }

    fn containerd(&self, layout: &Layout) -> Result<Process> {
        let (dir, run) = (self.dir(layout), self.run(layout));
        let program = packages::find("containerd").context("containerd is not installed")?;
        let program = program.to_string_lossy().into_owned();
        let plugins = plugin_folder(&output(&mut command(&program, ["--version"]))?);
        let config = dir.join("containerd.toml");
        let quoted = |p: &Path| format!("{:?}", p.to_string_lossy());
        write_if_changed(
            &config,
            &format!(
                "version = 2\nroot = {}\nstate = {}\noom_score = 0\n\
                 disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.btrfs\", \
                 \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \
                 \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.tracing.processor.v1.otlp\"]\n\
                 [grpc]\naddress = {}\n[debug]\nlevel = \"warn\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {:?}\nrestrict_oom_score_adj = true\n\
                 stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".cni]\n{plugins}\nconf_dir = {}\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"overlayfs\"\n\
                 default_runtime_name = \"runc\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
                 runtime_type = \"io.containerd.runc.v2\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n",
                quoted(&dir.join("containerd")),
                quoted(&run.join("containerd")),
                quoted(&self.socket(layout)),
                images::PAUSE,
                quoted(&dir.join("cni")),
            ),
        )?;
        Ok(Process {
            name: self.process_name("containerd"),
            argv: self.entered(&[&program, "--config", &config.to_string_lossy()]),
            env: vec![],
            inputs: vec![config],
            address: self.socket(layout).to_string_lossy().into_owned(),
        })
    }

    fn kubelet(&self, layout: &Layout, credentials: &Credentials) -> Result<Process> {
        let dir = self.dir(layout);
        let config = dir.join("kubelet.json");
        fs::create_dir_all(dir.join("manifests"))?;
        write_if_changed(&config, &serde_json::to_string_pretty(&self.kubelet_config(layout, credentials))?)?;
        let kubelet = binaries::path(layout, "kubelet")?;
        let mut argv = vec![
            kubelet.to_string_lossy().into_owned(),
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", credentials.kubelet.display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address),
            format!("--root-dir={}", dir.join("kubelet").display()),
        ];
        let mut inputs = vec![config];
        match &credentials.bootstrap {
            Some(bootstrap) => {
                argv.push(format!("--bootstrap-kubeconfig={}", bootstrap.display()));
                argv.push(format!("--cert-dir={}", dir.join("pki").display()));
            }
            None => inputs.push(credentials.kubelet.clone()),
        }
        inputs.extend(credentials.serving.iter().map(|pair| pair.cert.clone()));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(Process {
            name: self.process_name("kubelet"),
            argv: self.entered(&argv),
            env: vec![],
            inputs,
            address: format!("https://{}:10250", self.address),
        })
    }

    fn kubelet_config(&self, layout: &Layout, credentials: &Credentials) -> Value {
        let dir = self.dir(layout);
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true},
                "x509": {"clientCAFile": credentials.authority},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.cgroup_root(layout), "failCgroupV1": false,
            "clusterDNS": [network::DNS_IP], "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": format!("unix://{}", self.socket(layout).display()),
            "staticPodPath": dir.join("manifests"), "podLogsDir": dir.join("logs/pods"),
            "failSwapOn": false,
            // A working machine is often nearly full, and images that are removed cannot be pulled again here.
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        });
        match &credentials.serving {
            Some(pair) => {
                config["tlsCertFile"] = json!(pair.cert);
                config["tlsPrivateKeyFile"] = json!(pair.key);
            }
            None => {
                config["serverTLSBootstrap"] = json!(true);
                config["rotateCertificates"] = json!(true);
            }
        }
        config
    }

    fn proxy(&self, layout: &Layout, credentials: &Credentials) -> Result<Process> {
        let program = binaries::path(layout, "kube-proxy")?;
        let argv = self.entered(&[
            &program.to_string_lossy(),
            &format!("--kubeconfig={}", credentials.proxy.display()),
            &format!("--hostname-override={}", self.name),
            "--proxy-mode=nftables",
            &format!("--cluster-cidr={}", network::POD_CIDR),
            "--network-policy",
        ]);
        Ok(Process {
            name: self.process_name("kube-proxy"),
            argv,
            env: vec![],
            inputs: vec![credentials.proxy.clone()],
            address: format!("http://{}:10256", self.address),
        })
    }

    /// Process names carry the node's name where there are several.
    fn process_name(&self, base: &str) -> String {
        if self.netns.is_some() { format!("{base}-{}", self.name) } else { base.to_owned() }
    }

    /// The command line that runs inside this node's network namespace.
    fn entered(&self, argv: &[&str]) -> Vec<String> {
        let c = match argv.split_first() {
            Some((program, args)) => network::inside(self.netns.as_deref(), program, args),
            None => return Vec::new(),
        };
        let program = c.get_program().to_string_lossy().into_owned();
        let program = packages::find(&program).map_or(program, |p| p.to_string_lossy().into_owned());
        std::iter::once(program).chain(c.get_args().map(|a| a.to_string_lossy().into_owned())).collect()
    }

    fn make_cgroups(&self, layout: &Layout) -> Result<()> {
        let root = self.cgroup_root(layout);
        for hierarchy in cgroup_hierarchies()? {
            let path = hierarchy.join(root.trim_start_matches('/'));
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            copy_cpuset(&hierarchy, &root)?;
        }
        Ok(())
    }
}

/// Where containerd finds network plugins, in the words of its version: from 2.1 on there may be several folders, and the
/// word for one goes away. `version` is what it says of itself.
fn plugin_folder(version: &str) -> &'static str {
    let number = |text: &str| -> Option<(u64, u64)> {
        let mut parts = text.trim_start_matches('v').split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    // The name of its module, before that, may end in a version of its own.
    let known = version.split_whitespace().find_map(number);
    if known.is_some_and(|known| known >= (2, 1)) {
        "bin_dirs = [\"/usr/lib/cni\"]"
    } else {
        "bin_dir = \"/usr/lib/cni\""
    }
}

/// A new v1 cpuset is empty and takes no process until it has cpus and memory nodes.
fn copy_cpuset(hierarchy: &Path, root: &str) -> Result<()> {
    let mut at = hierarchy.to_owned();
    for part in root.split('/').filter(|p| !p.is_empty()) {
        let child = at.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (at.join(file), child.join(file));
            let is_v1 = hierarchy.ends_with("cpuset");
            if is_v1 && fs::read_to_string(&to).is_ok_and(|v| v.trim().is_empty()) {
                fs::write(&to, fs::read_to_string(from)?.trim())?;
            }
        }
        at = child;
    }
    Ok(())
}

/// The mounted cgroup hierarchies: one on v2, one per controller on v1, both on a hybrid machine.
pub fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|l| {
            let mut words = l.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            // The unified tree of a hybrid machine has no controllers, but runtimes make groups in it all the same.
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_of_plugins_in_words_it_knows() {
        let of = |name: &str, version: &str| plugin_folder(&format!("containerd {name} {version} \n"));
        let (one, several) = ("bin_dir = \"/usr/lib/cni\"", "bin_dirs = [\"/usr/lib/cni\"]");
        assert_eq!(of("github.com/containerd/containerd", "1.6.20~ds1 1.6.20~ds1-1+deb12u3"), one);
        assert_eq!(of("github.com/containerd/containerd/v2", "v2.0.5 fb4c30d4"), one);
        assert_eq!(of("github.com/containerd/containerd/v2", "2.1.9+unknown"), several);
        assert_eq!(of("github.com/containerd/containerd/v2", "v2.3.0 abc"), several);
        assert_eq!(plugin_folder("unknown"), one);
    }
}
