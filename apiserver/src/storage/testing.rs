//! A real etcd for tests: its own data directory and ports, ended by pid.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ResourceId, SelectablePath, Store, StoreConfig, StoredResource};

/// One etcd member.
pub(crate) struct EtcdServer {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
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
        let [client_port, peer_port] = free_ports();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { directory, client_port, peer_port, process: None };
        server.restart();
        server
    }

    /// Starts it again on its data.
    pub(crate) fn restart(&mut self) {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.directory.path())
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
        format!("http://127.0.0.1:{}", self.client_port)
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
            default: String::new(),
        }],
        ttl: None,
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
