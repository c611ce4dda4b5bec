//! Ways out: which network is reached directly, and which by a proxy.
//!
//! ```text
//! EgressSelectorConfiguration ──→ Egress ──of(Network)──→ Route ──connect──→ Stream, direct or through the proxy
//!   controlplane  webhooks by URL, webhooks of flags, issuers of tokens that ask for it
//!   etcd          etcd
//!   cluster       webhooks and API servers behind services, kubelets, pods, services
//! ```
//! Contract: KEP-1281; apiserver.k8s.io `EgressSelectorConfiguration`; upstream's `server/egressselector`.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{task::Tasks, traces};
use tokio::net::TcpStream;

mod config;
mod http_connect;
mod konnectivity;
mod metrics;
mod stream;

pub use config::LoadError;
pub use stream::Stream;

use http_connect::HttpConnect;
use konnectivity::Konnectivity;

/// How long a proxy has to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// Other parts of the control plane, and what its owner's flags name.
    ControlPlane,
    /// etcd.
    Etcd,
    /// What the control plane manages: nodes, pods and services.
    Cluster,
}

/// The way to each network.
#[derive(Clone, Default)]
pub struct Egress(Arc<HashMap<Network, Route>>);

/// How hosts of one network are reached: directly unless there is a proxy. Cheap to clone.
#[derive(Clone, Default)]
pub struct Route(Option<Arc<Proxy>>);

/// What stands between this server and a network.
enum Proxy {
    HttpConnect(HttpConnect),
    Konnectivity(Konnectivity),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Without a proxy, or to the proxy itself; worded as Go's dialer does.
    #[error("dial {network} {address}: {}", go_text(.source))]
    Dial {
        /// `tcp` or `unix`.
        network: &'static str,
        /// Host and port, or a path.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The proxy's certificate, or ours.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// The proxy did not make the connection; what it says of that.
    #[error("{0}")]
    Refused(String),
}

// === impl Egress ===

impl Egress {
    /// Reads the configuration. What connections through proxies need ends with `tasks`.
    ///
    /// # Errors
    /// When the file is of no use, or one it names.
    pub fn load(path: &Path, tasks: &Tasks) -> Result<Self, LoadError> {
        config::load(path, tasks)
    }

    /// The way to a network.
    pub fn of(&self, network: Network) -> Route {
        self.selected(network).unwrap_or_default()
    }

    /// The same, if the configuration says anything of that network.
    pub fn selected(&self, network: Network) -> Option<Route> {
        self.0.get(&network).cloned()
    }
}

impl Network {
    /// What a configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Etcd => "etcd",
            Self::Cluster => "cluster",
        }
    }

    /// The one of this name, in whatever case.
    fn named(name: &str) -> Option<Self> {
        let all = [Self::ControlPlane, Self::Etcd, Self::Cluster];
        all.into_iter().find(|network| network.name() == name.to_lowercase())
    }
}

// === impl Route ===

impl Route {
    fn through(proxy: Proxy) -> Self {
        Self(Some(Arc::new(proxy)))
    }

    /// Whether nothing stands between.
    pub fn is_direct(&self) -> bool {
        self.0.is_none()
    }

    /// Connects to a host name or an address without brackets.
    ///
    /// # Errors
    /// When there is no connection; the caller bounds the time of direct ones.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Stream, ConnectError> {
        match &self.0 {
            None => tcp(host, port).await.map(Stream::Tcp),
            Some(proxy) => proxy.connect(&authority(host, port)).await,
        }
    }
}

// === impl Proxy ===

impl Proxy {
    async fn connect(&self, address: &str) -> Result<Stream, ConnectError> {
        let labels = self.labels();
        let mut span = traces::work(match labels {
            ["grpc", _] => "Proxy via grpc protocol over uds",
            [_, "uds"] => "Proxy via http_connect protocol over uds",
            _ => "Proxy via http_connect protocol over tcp",
        });
        if let Some(span) = &mut span {
            span.note("address", address);
        }
        let begun = Instant::now();
        metrics::started(labels);
        let failed = |stage: &'static str| move |error| (stage, error);
        let connecting = async {
            match self {
                Self::HttpConnect(proxy) => {
                    let stream = proxy.open().await.map_err(failed(metrics::CONNECT))?;
                    proxy.tunnel(stream, address).await.map_err(failed(metrics::PROXY))
                }
                Self::Konnectivity(proxy) => {
                    let channel = proxy.open().await.map_err(failed(metrics::CONNECT))?;
                    proxy.tunnel(channel, address).await.map_err(failed(metrics::PROXY))
                }
            }
        };
        let outcome: Result<Stream, (&'static str, ConnectError)> = connecting.await;
        match outcome {
            Ok(stream) => {
                metrics::connected(labels, begun.elapsed());
                Ok(stream)
            }
            Err((stage, error)) => {
                metrics::failed(labels, stage);
                Err(error)
            }
        }
    }

    /// Protocol and transport.
    fn labels(&self) -> [&'static str; 2] {
        match self {
            Self::HttpConnect(proxy) => ["http_connect", proxy.transport()],
            Self::Konnectivity(_) => ["grpc", "uds"],
        }
    }
}

/// A TCP connection on which small writes do not wait for each other.
async fn tcp(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Dial { network: "tcp", address: authority(host, port), source };
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// `host:port`, with brackets around IPv6 addresses.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The words Go's dialer has for the usual failures: people and tests look for them.
fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        io::ErrorKind::NotFound => "connect: no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}
