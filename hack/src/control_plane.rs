//! etcd and the daemons of the master: their certificates, kubeconfigs and command lines.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    binaries,
    command::{command, try_output},
    kubeconfig,
    layout::Layout,
    network, packages,
    pki::{self, Authority, Leaf},
    process::{self, Process},
    screen,
};

/// The API server's port.
pub const API_PORT: u16 = 6443;
/// The port the DNS daemon listens on, behind the service's port 53.
pub const DNS_PORT: u16 = 10053;

/// Who the API server is to API servers behind it.
const FRONT_PROXY: &str = "front-proxy-client";

/// What the control plane is made of.
#[derive(Debug)]
pub struct ControlPlane {
    /// Address nodes and pods reach it by.
    pub address: Ipv4Addr,
    /// The cluster's certificate authority.
    pub ca: Authority,
    /// Path of kubectl.
    pub kubectl: PathBuf,
}

impl ControlPlane {
    /// Makes certificates and kubeconfigs; starts nothing.
    pub fn prepare(layout: &Layout, address: Ipv4Addr, kubectl: PathBuf) -> Result<Self> {
        let ca = Authority::load_or_create(&layout.pki(), "ca")?;
        Authority::load_or_create(&layout.pki(), "etcd-ca")?;
        let plane = Self { address, ca, kubectl };
        for (file, user, group) in [
            ("admin", "kubernetes-admin", "system:masters"),
            ("scheduler", "system:kube-scheduler", ""),
            ("controller-manager", "system:kube-controller-manager", ""),
            ("cloud-controller-manager", "system:cloud-controller-manager", "system:masters"),
            ("dns", "system:serviceaccount:kube-system:kube-dns", ""),
            ("proxy", "system:kube-proxy", "system:node-proxier"),
        ] {
            plane.kubeconfig(layout, file, user, group)?;
        }
        Ok(plane)
    }

    /// Writes `<file>.kubeconfig` with a fresh or kept client certificate and returns its path.
    pub fn kubeconfig(&self, layout: &Layout, file: &str, user: &str, group: &str) -> Result<PathBuf> {
        let pair =
            self.ca.leaf(&Leaf { file: &format!("{file}-client"), name: user, group, hosts: vec![] })?;
        let path = layout.dir.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, &self.server(), &self.ca.cert(), user, &pair)?;
        Ok(path)
    }

    /// The API server's URL.
    pub fn server(&self) -> String {
        format!("https://{}:{API_PORT}", self.address)
    }

    /// Starts etcd and the API server and waits until it is ready.
    pub fn start_api(&self, layout: &Layout) -> Result<()> {
        let (etcd, api) = (self.etcd(layout)?, self.apiserver(layout)?);
        let live: Vec<String> = process::running(layout).into_iter().map(|r| r.name).collect();
        if !live.contains(&etcd.name) {
            network::check_port("127.0.0.1", 2379, "etcd")?;
        }
        if !live.contains(&api.name) {
            network::check_port("0.0.0.0", API_PORT, "kube-apiserver")?;
        }
        etcd.ensure(layout)?;
        api.ensure(layout)?;
        screen::wait("kube-apiserver ready", Duration::from_secs(60), || {
            etcd.check(layout)?;
            api.check(layout)?;
            let out = self.kubectl(layout, &["get", "--raw", "/readyz"])?;
            Ok((!out.0).then(|| not_ready(&out.1)))
        })?;
        Ok(())
    }

    /// Starts the scheduler, the controller managers and DNS.
    pub fn start_rest(&self, layout: &Layout) -> Result<Vec<Process>> {
        let all = vec![
            self.scheduler(layout)?,
            self.controller_manager(layout)?,
            self.cloud_controller(layout)?,
            self.dns(layout)?,
        ];
        for process in &all {
            process.ensure(layout)?;
        }
        Ok(all)
    }

    /// Runs kubectl as administrator: (success, output or error).
    pub fn kubectl(&self, layout: &Layout, args: &[&str]) -> Result<(bool, String)> {
        let mut c = command(&self.kubectl.to_string_lossy(), args);
        c.env("KUBECONFIG", layout.admin_kubeconfig()).args(["--request-timeout=10s"]);
        let out = try_output(&mut c)?;
        let text = if out.status.success() { out.stdout } else { out.stderr };
        Ok((out.status.success(), String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// Reads objects as JSON.
    pub fn get(&self, layout: &Layout, args: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        let (ok, text) = self.kubectl(layout, &all)?;
        anyhow::ensure!(ok, "kubectl get {}: {text}", args.join(" "));
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    fn etcd(&self, layout: &Layout) -> Result<Process> {
        let ca = Authority::load_or_create(&layout.pki(), "etcd-ca")?;
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let pair = ca.leaf(&Leaf { file: "etcd-server", name: "etcd", group: "", hosts })?;
        ca.leaf(&Leaf { file: "apiserver-etcd-client", name: "kube-apiserver", group: "", hosts: vec![] })?;
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        Ok(Process {
            name: "etcd".into(),
            argv: vec![
                packages::find("etcd").context("etcd is not installed")?.to_string_lossy().into_owned(),
                flag("name", "keelson"),
                flag("data-dir", &layout.dir.join("etcd").to_string_lossy()),
                flag("listen-client-urls", "https://127.0.0.1:2379"),
                flag("advertise-client-urls", "https://127.0.0.1:2379"),
                flag("listen-peer-urls", "http://127.0.0.1:2380"),
                flag("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
                flag("initial-cluster", "keelson=http://127.0.0.1:2380"),
                flag("cert-file", &pair.cert.to_string_lossy()),
                flag("key-file", &pair.key.to_string_lossy()),
                flag("trusted-ca-file", &ca.cert().to_string_lossy()),
                "--client-cert-auth".into(),
                flag("quota-backend-bytes", "8589934592"),
                flag("logger", "zap"),
                flag("log-level", "warn"),
            ],
            env: vec![],
            inputs: vec![pair.cert],
            address: "https://127.0.0.1:2379".into(),
        })
    }

    /// The API server's process, not started.
    pub fn apiserver(&self, layout: &Layout) -> Result<Process> {
        let pki = layout.pki();
        let hosts = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            network::KUBERNETES_IP,
            &self.address.to_string(),
        ];
        let hosts = hosts.iter().map(|h| (*h).to_owned()).collect();
        let serving = self.ca.leaf(&Leaf { file: "apiserver", name: "kube-apiserver", group: "", hosts })?;
        let client = self.ca.leaf(&Leaf {
            file: "apiserver-kubelet-client",
            name: "kube-apiserver-kubelet-client",
            group: "system:masters",
            hosts: vec![],
        })?;
        let front = Authority::load_or_create(&pki, "front-proxy-ca")?;
        let proxy =
            front.leaf(&Leaf { file: "front-proxy-client", name: FRONT_PROXY, group: "", hosts: vec![] })?;
        let (sa_key, sa_pub) = pki::service_account_keys(&pki)?;
        let ca = self.ca.cert();
        let etcd = |file: &str| pki.join(file);
        let files = [
            ("etcd-cafile", etcd("etcd-ca.crt")),
            ("etcd-certfile", etcd("apiserver-etcd-client.crt")),
            ("etcd-keyfile", etcd("apiserver-etcd-client.key")),
            ("tls-cert-file", serving.cert.clone()),
            ("tls-private-key-file", serving.key),
            ("client-ca-file", ca.clone()),
            ("kubelet-certificate-authority", ca),
            ("kubelet-client-certificate", client.cert),
            ("kubelet-client-key", client.key),
            ("requestheader-client-ca-file", front.cert()),
            ("proxy-client-cert-file", proxy.cert),
            ("proxy-client-key-file", proxy.key),
            ("service-account-key-file", sa_pub),
            ("service-account-signing-key-file", sa_key),
        ];
        let address = self.address.to_string();
        let values = [
            ("etcd-servers", "https://127.0.0.1:2379"),
            ("bind-address", "0.0.0.0"),
            ("secure-port", &API_PORT.to_string()),
            ("advertise-address", &address),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            ("service-cluster-ip-range", network::SERVICE_CIDR),
            ("allow-privileged", "true"),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("kubelet-preferred-address-types", "InternalIP,Hostname"),
            ("requestheader-allowed-names", FRONT_PROXY),
            ("requestheader-username-headers", "X-Remote-User"),
            ("requestheader-uid-headers", "X-Remote-Uid"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            // The host of the control plane need not be a node, so cluster IPs need not lead anywhere from it.
            ("enable-aggregator-routing", "true"),
            ("enable-bootstrap-token-auth", "true"),
        ];
        daemon(layout, "kube-apiserver", &values, &files, &self.server(), vec![serving.cert])
    }

    /// The scheduler's process, not started.
    pub fn scheduler(&self, layout: &Layout) -> Result<Process> {
        let address = "https://127.0.0.1:10259";
        let it = Client { layout, binary: "kube-scheduler", kubeconfig: "scheduler", address };
        self.controller(&it, &[("bind-address", "127.0.0.1")])
    }

    /// The controller manager's process, not started.
    pub fn controller_manager(&self, layout: &Layout) -> Result<Process> {
        let ca = self.ca.cert();
        let (ca_key, (sa_key, _)) = (self.ca.key(), pki::service_account_keys(&layout.pki())?);
        let values = [
            ("bind-address", "127.0.0.1"),
            ("cluster-cidr", network::POD_CIDR),
            ("allocate-node-cidrs", "true"),
            ("controllers", "*,bootstrap-signer-controller,token-cleaner-controller"),
            ("root-ca-file", &ca.to_string_lossy()),
            ("service-account-private-key-file", &sa_key.to_string_lossy()),
            ("cluster-signing-cert-file", &ca.to_string_lossy()),
            ("cluster-signing-key-file", &ca_key.to_string_lossy()),
            ("use-service-account-credentials", "true"),
        ];
        let address = "https://127.0.0.1:10257";
        let it =
            Client { layout, binary: "kube-controller-manager", kubeconfig: "controller-manager", address };
        self.controller(&it, &values)
    }

    fn cloud_controller(&self, layout: &Layout) -> Result<Process> {
        let config = layout.dir.join("cloud.yaml");
        write_if_changed(&config, &format!("loadBalancer:\n  pool: [{}]\n", network::LOAD_BALANCER_CIDR))?;
        let values = [
            ("bind-address", "127.0.0.1"),
            ("cloud-provider", "bare-metal"),
            ("cloud-config", &config.to_string_lossy()),
            ("cluster-cidr", network::POD_CIDR),
        ];
        let (name, address) = ("cloud-controller-manager", "https://127.0.0.1:10258");
        self.controller(&Client { layout, binary: name, kubeconfig: name, address }, &values)
    }

    /// The DNS server's process, not started.
    pub fn dns(&self, layout: &Layout) -> Result<Process> {
        let corefile = layout.dir.join("Corefile");
        write_if_changed(
            &corefile,
            &format!(
                ".:{DNS_PORT} {{\n    errors\n    health 127.0.0.1:8080\n    ready 127.0.0.1:8181\n    \
                 kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        pods insecure\n        \
                 fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    prometheus 127.0.0.1:9153\n    \
                 forward . /etc/resolv.conf\n    cache 30\n    loop\n    reload\n    loadbalance\n}}\n"
            ),
        )?;
        let values = [("conf", corefile.to_string_lossy().into_owned())];
        let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let address = &format!("{}:{DNS_PORT}", self.address);
        Client { layout, binary: "kube-dns", kubeconfig: "dns", address }.process(&values)
    }

    /// A client that serves its metrics to whom the API server allows it, and to holders of certificates.
    fn controller(&self, client: &Client<'_>, values: &[(&str, &str)]) -> Result<Process> {
        let (own, ca) = (client.kubeconfig(), self.ca.cert());
        let (own, ca) = (own.to_string_lossy(), ca.to_string_lossy());
        let serving = [
            ("authentication-kubeconfig", &*own),
            ("authorization-kubeconfig", &*own),
            ("client-ca-file", &*ca),
        ];
        client.process(&[values, &serving].concat())
    }
}

/// A daemon of the control plane that talks to the API server.
struct Client<'a> {
    layout: &'a Layout,
    binary: &'a str,
    /// Whose kubeconfig it uses.
    kubeconfig: &'a str,
    address: &'a str,
}

// === impl Client ===

impl Client<'_> {
    fn kubeconfig(&self) -> PathBuf {
        self.layout.dir.join(format!("{}.kubeconfig", self.kubeconfig))
    }

    fn process(&self, values: &[(&str, &str)]) -> Result<Process> {
        let own = self.kubeconfig();
        daemon(self.layout, self.binary, values, &[("kubeconfig", own.clone())], self.address, vec![own])
    }
}

/// A daemon's process from its flags.
pub fn daemon(
    layout: &Layout,
    binary: &str,
    values: &[(&str, &str)],
    files: &[(&str, PathBuf)],
    address: &str,
    inputs: Vec<PathBuf>,
) -> Result<Process> {
    let mut argv = vec![binaries::path(layout, binary)?.to_string_lossy().into_owned()];
    argv.extend(values.iter().map(|(k, v)| format!("--{k}={v}")));
    argv.extend(files.iter().map(|(k, v)| format!("--{k}={}", v.display())));
    Ok(Process { name: binary.into(), argv, env: vec![], inputs, address: address.into() })
}

/// What an answer of `/readyz` still misses, or the answer itself where it names no check.
fn not_ready(told: &str) -> String {
    let failed: Vec<&str> =
        told.split("[-]").skip(1).filter_map(|check| check.split_whitespace().next()).collect();
    if failed.is_empty() { told.to_owned() } else { format!("not yet: {}", failed.join(", ")) }
}

/// Writes a file only when its text differs, so that nothing restarts for nothing.
pub fn write_if_changed(path: &std::path::Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_named() {
        let told =
            "Error: (\"[+]ping ok\\n[-]informer-sync failed: reason withheld\\n[-]shutdown failed: x\\n\")";
        assert_eq!(not_ready(told), "not yet: informer-sync, shutdown");
        assert_eq!(not_ready("connection refused"), "connection refused");
    }
}
