//! A real etcd for tests: its own data directory and ports, ended by pid.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Entry, ResourceId, SelectablePath, Store, StoreConfig, StoredResource, TlsFiles, scan::Scanner};
use crate::registry::Missing;

/// One etcd member.
pub(crate) struct EtcdServer {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    /// Whether clients need TLS and a certificate of [`EtcdServer::tls`].
    secure: bool,
    process: Option<Child>,
}

/// A store with its task running; both end when it is dropped.
pub(crate) struct Running {
    pub(crate) store: Store,
    _tasks: JoinSet<()>,
}

// === impl EtcdServer ===

impl EtcdServer {
    /// Starts `etcd` from the PATH.
    pub(crate) fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts one that speaks TLS and asks for client certificates.
    pub(crate) fn start_secure() -> Self {
        Self::start_with(true)
    }

    fn start_with(secure: bool) -> Self {
        let [client_port, peer_port] = free_ports();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { directory, client_port, peer_port, secure, process: None };
        if secure {
            server.write_certificates();
        }
        server.restart();
        server
    }

    /// The files of a client it trusts.
    pub(crate) fn tls(&self) -> TlsFiles {
        let file = |name: &str| Some(self.directory.path().join(name));
        TlsFiles { ca: file("ca.crt"), cert: file("client.crt"), key: file("client.key") }
    }

    fn write_certificates(&self) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = authority.self_signed(&ca_key).unwrap();
        let write =
            |name: &str, text: String| std::fs::write(self.directory.path().join(name), text).unwrap();
        write("ca.crt", ca.pem());
        let issuer = Issuer::new(authority, ca_key);
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            // etcd's own gateway connects to it with the server's certificate.
            leaf.extended_key_usages = vec![usage, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            write(&format!("{name}.crt"), leaf.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
    }

    /// Starts it again on its data.
    pub(crate) fn restart(&mut self) {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        if self.secure {
            let path = |name: &str| self.directory.path().join(name);
            command.arg("--cert-file").arg(path("server.crt")).arg("--key-file").arg(path("server.key"));
            command.arg("--trusted-ca-file").arg(path("ca.crt")).arg("--client-cert-auth");
        }
        let process = command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need etcd in the PATH (package etcd-server)");
        self.process = Some(process);
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Its client URL.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Running ===

impl Running {
    /// Opens a store and waits until it serves.
    pub(crate) async fn start(config: StoreConfig) -> Self {
        let store = Store::open(config).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(store.clone().run(CancellationToken::new()));
        tokio::time::timeout(Duration::from_secs(60), store.wait_ready()).await.expect("etcd answers");
        Self { store, _tasks: tasks }
    }
}

/// Pods with their node's name selectable.
pub(crate) fn pods() -> StoredResource {
    StoredResource {
        id: ResourceId::new("", "pods"),
        prefix: "pods".to_owned(),
        namespaced: true,
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        selectable: vec![SelectablePath {
            name: "spec.nodeName".to_owned(),
            pointer: "/spec/nodeName".to_owned(),
            missing: Missing::Is(String::new()),
        }],
        ttl: None,
    }
}

/// Ports nobody listens on, no two servers of this process the same, and below those the kernel gives to connections: one
/// that is only held for a moment may be another server's by the time etcd binds it, and two tests then share an etcd.
fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    [(); N].map(|()| {
        let own = u16::try_from(std::process::id() % 97).unwrap() * 100;
        let mut ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(10_000);
        let port = ports.find_map(|next| {
            let port = 10_000 + own.wrapping_add(next) % 10_000;
            TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
        });
        port.expect("a port is free")
    })
}

/// An object of the cache, made of its JSON.
pub(crate) fn entry(key: &str, rev: u64, json: &str) -> Arc<Entry> {
    let scanner = Arc::new(Scanner::new(Vec::new()));
    Arc::new(Entry::build(key.into(), true, rev, json.as_bytes(), &scanner, None).unwrap())
}
