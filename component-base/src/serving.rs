//! A daemon's own server: health, metrics, version and configz over HTTPS with delegated authentication and authorization,
//! or over plain HTTP for the addresses upstream serves so (kube-proxy's metrics, the kubelet's healthz).
//!
//! connection -> (TLS) -> authenticate -> authorize -> health | page

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::RwLock;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    auth::{Attributes, Authentication, Authorization, Delegated},
    features::{Gate, Gates},
    health::Health,
    metrics,
    task::Tasks,
    tls::{
        self, Protocol, ServingCertificate, TlsError,
        named::{Certificates, NamedPair},
    },
    zpages,
};

/// Connections served at once; each costs some 20 KB.
const CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Where else than at `/statusz` to look, sorted.
const PATHS: &[&str] =
    &["/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];
/// Pages that may be switched off.
const ZPAGES: [(Gate, &str); 2] = [(Gate::ComponentStatusz, "/statusz"), (Gate::ComponentFlagz, "/flagz")];
/// How often certificate files are looked at: who puts new ones there does not wait long for them.
const RELOAD: Duration = Duration::from_secs(5);

/// Where and with which certificate to serve.
#[derive(Clone, Debug)]
pub struct SecureServingOptions {
    pub bind_address: IpAddr,
    /// 0 switches serving off in daemons; [`SecureServer::bind`] takes it as any free port.
    pub port: u16,
    /// Where a self-signed pair is kept; empty keeps it in memory.
    pub cert_dir: PathBuf,
    /// File name of the self-signed pair, such as `kube-scheduler`.
    pub pair_name: String,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Values of `--tls-sni-cert-key`: certificates for those who ask for a name.
    pub named: Vec<String>,
    pub protocol: Protocol,
    /// Requests at once on an HTTP/2 connection; 0 for 250.
    pub max_streams: u32,
    /// Bind with SO_REUSEPORT.
    pub share_port: bool,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serving certificate is not usable")]
    Tls(#[from] TlsError),
    #[error("--tls-cert-file and --tls-private-key-file must be given together")]
    HalfPair,
    #[error("invalid argument {value:?} for \"--tls-sni-cert-key\" flag: {reason}")]
    Named { value: String, reason: String },
}

/// A page's answer.
pub type Reply = Response<Full<Bytes>>;
type Page = Arc<dyn Fn(&Parts) -> Reply + Send + Sync>;

/// What a server serves. Clones share it.
#[derive(Clone)]
pub struct Site {
    health: Health,
    pages: Arc<RwLock<BTreeMap<String, Page>>>,
    configz: Arc<RwLock<BTreeMap<String, serde_json::Value>>>,
}

impl fmt::Debug for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.pages.read().keys()).finish()
    }
}

impl Default for Site {
    fn default() -> Site {
        Site::gated(Gates::default())
    }
}

impl Site {
    /// Health endpoints only.
    pub fn empty() -> Site {
        Site::about(Health::default())
    }

    /// All that a daemon tells of itself, where the gates of pages are on.
    pub fn gated(gates: Gates) -> Site {
        let mut site = Site::empty().with_metrics().with_version().with_configz();
        for (gate, path) in ZPAGES {
            if gates.has(gate) {
                site = site.with_zpage(path, PATHS);
            }
        }
        site
    }

    /// The endpoints of these health checks only, which may be told on other servers, too.
    pub fn about(health: Health) -> Site {
        Site { health, pages: Arc::default(), configz: Arc::default() }
    }

    /// The health checks.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Adds a page at exactly this path.
    pub fn page(&self, path: &str, answer: impl Fn(&Parts) -> Reply + Send + Sync + 'static) {
        self.pages.write().insert(path.to_owned(), Arc::new(answer));
    }

    /// Shows a component's effective configuration under `/configz`.
    pub fn configz(&self, name: &str, config: serde_json::Value) {
        self.configz.write().insert(name.to_owned(), config);
    }

    /// With `/metrics` and `/metrics/slis`.
    #[must_use]
    pub fn with_metrics(self) -> Site {
        let shown = |encoded: prometheus::Result<Vec<u8>>| match encoded {
            Ok(body) => reply(StatusCode::OK, metrics::CONTENT_TYPE, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        };
        self.page("/metrics", move |_| shown(metrics::encode()));
        self.page("/metrics/slis", move |_| shown(metrics::slis::encode()));
        self
    }

    /// With `/version`.
    #[must_use]
    pub fn with_version(self) -> Site {
        self.page("/version", |_| json(StatusCode::OK, &crate::version::info()));
        self
    }

    /// With `/configz`.
    #[must_use]
    pub fn with_configz(self) -> Site {
        let configz = self.configz.clone();
        self.page("/configz", move |_| json(StatusCode::OK, &*configz.read()));
        self
    }

    /// With `/statusz` or `/flagz`, where the process has said what it is; `paths` are where else to look, sorted.
    #[must_use]
    pub fn with_zpage(self, path: &'static str, paths: &'static [&'static str]) -> Site {
        let Some(process) = zpages::described() else { return self };
        self.page(path, move |parts| match process.answer(path, &parts.headers, paths) {
            Some(Ok(page)) => {
                let mut answer = reply(StatusCode::OK, page.content_type, page.body);
                if let Some(warning) = page.warning.and_then(|text| HeaderValue::from_str(&text).ok()) {
                    answer.headers_mut().insert(header::WARNING, warning);
                }
                answer
            }
            Some(Err(error)) => failure(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", &error.to_string()),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
        self
    }

    /// The answer to a request, which is 404 for all but the site's paths.
    pub fn answer(&self, parts: &Parts) -> Reply {
        let path = parts.uri.path();
        if let Some(report) = self.health.answer(path, parts.uri.query().unwrap_or("")) {
            return text(report.status, report.text);
        }
        let page = self.pages.read().get(path).cloned();
        match page {
            Some(_) if parts.method != Method::GET && parts.method != Method::HEAD => {
                text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
            }
            Some(page) => page(parts),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

/// An answer with a body of a content type; never to be sniffed or cached.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A plain text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// What a server shows its clients, and the files it is reloaded from.
#[derive(Debug)]
pub struct Shown {
    /// By name.
    pub certificates: Arc<Certificates>,
    fallback: Arc<ServingCertificate>,
    /// Of the one for all other names.
    files: Option<(PathBuf, PathBuf)>,
}

impl SecureServingOptions {
    /// The certificate of the given files, or a self-signed one, and those for names.
    ///
    /// # Errors
    /// When files are missing or unusable.
    pub fn certificate(&self) -> Result<Shown, ServingError> {
        let files = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ServingError::HalfPair),
        };
        let pair = match &files {
            Some((certificate, key)) => tls::load_pair(certificate, key)?,
            None => tls::self_signed(&self.cert_dir, &self.pair_name, &self_names())?,
        };
        let parse = |value: &String| {
            NamedPair::parse(value).map_err(|reason| ServingError::Named { value: value.clone(), reason })
        };
        let named = self.named.iter().map(parse).collect::<Result<_, _>>()?;
        let fallback = Arc::new(ServingCertificate::new(pair));
        let certificates = Arc::new(Certificates::new(fallback.clone(), named)?);
        Ok(Shown { certificates, fallback, files })
    }
}

/// A bound HTTPS server, not yet serving.
#[derive(Debug)]
pub struct SecureServer {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: Acceptor,
    shown: Shown,
    max_streams: u32,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Acceptor")
    }
}

impl SecureServer {
    /// Binds and loads (or makes) the certificate.
    ///
    /// # Errors
    /// When the address is taken or the certificate is not usable.
    pub fn bind(options: &SecureServingOptions) -> Result<SecureServer, ServingError> {
        tls::install_provider();
        let shown = options.certificate()?;
        let config = tls::server_config(shown.certificates.clone(), &options.protocol)?;
        let (listener, address) =
            listen(SocketAddr::new(options.bind_address, options.port), options.share_port)?;
        let acceptor = Acceptor(TlsAcceptor::from(Arc::new(config)));
        let max_streams = if options.max_streams == 0 { 250 } else { options.max_streams };
        Ok(SecureServer { listener, address, acceptor, shown, max_streams })
    }

    /// The address bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the group drains; certificate files are reloaded when they change.
    pub fn serve(self, site: Site, auth: Arc<Delegated>, tasks: &Tasks) {
        self.shown.spawn_reload(tasks);
        let server = Server { site, auth: Some(auth), max_streams: self.max_streams };
        spawn_accept(tasks, self.listener, Some(self.acceptor), server);
    }
}

/// Binds and serves plain HTTP without authentication; returns the address.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve_plain(address: SocketAddr, site: Site, tasks: &Tasks) -> Result<SocketAddr, ServingError> {
    let (listener, address) = listen(address, false)?;
    spawn_accept(tasks, listener, None, Server { site, auth: None, max_streams: 250 });
    Ok(address)
}

fn self_names() -> Vec<String> {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain(host).collect()
}

/// Binds a TCP port; 0 picks a free one, so that the real address is told too.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr, share_port: bool) -> Result<(TcpListener, SocketAddr), ServingError> {
    let bind = |address: SocketAddr| -> io::Result<(TcpListener, SocketAddr)> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share_port)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let bound = match bind(address) {
        // Without IPv6 in the kernel, all addresses are IPv4's.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    };
    bound.map_err(|source| ServingError::Listen { address, source })
}

impl Shown {
    /// Looks at the files now and then, and serves what they hold when they change.
    pub fn spawn_reload(self, tasks: &Tasks) {
        if let Some((certificate, key)) = self.files {
            let (fallback, files) = (self.fallback, vec![certificate.clone(), key.clone()]);
            spawn_reload(tasks, "serving certificate", files, move || {
                fallback.replace(tls::load_pair(&certificate, &key)?);
                Ok(())
            });
        }
        let (named, files) = (self.certificates.clone(), self.certificates.files());
        if !files.is_empty() {
            spawn_reload(tasks, "serving certificates by name", files, move || named.reload());
        }
    }
}

/// Looks now and then whether files have changed, and has them loaded then.
pub fn spawn_reload(
    tasks: &Tasks,
    what: &'static str,
    files: Vec<PathBuf>,
    load: impl Fn() -> Result<(), TlsError> + Send + Sync + 'static,
) {
    let drain = tasks.drain();
    tasks.spawn(what, async move {
        let modified = || -> Vec<Option<SystemTime>> {
            files.iter().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
        };
        let mut known = modified();
        while drain.run_until_cancelled(tokio::time::sleep(RELOAD)).await.is_some() {
            let now = modified();
            if now == known {
                continue;
            }
            match load() {
                Ok(()) => {
                    known = now;
                    tracing::info!(what, "changed files were loaded");
                }
                Err(error) => {
                    let error = crate::workqueue::chain(&error);
                    tracing::error!(what, error, "changed files are not usable, the old ones stay");
                }
            }
        }
    });
}

#[derive(Clone)]
struct Server {
    site: Site,
    auth: Option<Arc<Delegated>>,
    max_streams: u32,
}

fn spawn_accept(tasks: &Tasks, listener: TcpListener, acceptor: Option<Acceptor>, server: Server) {
    let (group, drain) = (tasks.clone(), tasks.drain());
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    tasks.spawn("server", async move {
        while let Some(Ok(permit)) = drain.run_until_cancelled(permits.clone().acquire_owned()).await {
            let stream = match drain.run_until_cancelled(listener.accept()).await {
                None => return,
                Some(Ok((stream, _))) => stream,
                Some(Err(error)) => {
                    // Out of descriptors, most likely: try again when some may have been closed.
                    tracing::warn!(%error, "connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, server, connection) = (acceptor.clone(), server.clone(), group.clone());
            group.spawn_contained("connection", async move {
                serve_connection(stream, acceptor, server, &connection).await;
                drop(permit);
            });
        }
    });
}

async fn serve_connection(stream: TcpStream, acceptor: Option<Acceptor>, server: Server, tasks: &Tasks) {
    // Without it answers are only a little later.
    let _nodelay = stream.set_nodelay(true).is_ok();
    let Some(acceptor) = acceptor else { return serve_requests(stream, server, Arc::default(), tasks).await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.0.accept(stream)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            serve_requests(stream, server, Arc::new(chain), tasks).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn serve_requests<S>(stream: S, server: Server, chain: Arc<Vec<CertificateDer<'static>>>, tasks: &Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let max_streams = server.max_streams;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (server, chain) = (server.clone(), chain.clone());
        async move {
            let (parts, _body) = request.into_parts();
            Ok::<_, Infallible>(respond(&server, &parts, &chain).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(32));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let drain = tasks.drain();
    let finished = tokio::select! {
        result = &mut connection => result,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = finished {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn respond(server: &Server, parts: &Parts, chain: &[CertificateDer<'static>]) -> Reply {
    let Some(auth) = &server.auth else { return server.site.answer(parts) };
    let user = match auth.authenticate(parts, chain).await {
        Authentication::User(user) => user,
        Authentication::Refused => return failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
    };
    match auth.authorize(&user, &Attributes::path(parts)).await {
        Authorization::Allowed => server.site.answer(parts),
        Authorization::Refused(reason) => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let colon = if reason.is_empty() { "" } else { ": " };
            let (name, path) = (&user.name, parts.uri.path());
            let message = format!("forbidden: User \"{name}\" cannot {verb} path \"{path}\"{colon}{reason}");
            failure(StatusCode::FORBIDDEN, "Forbidden", &message)
        }
        Authorization::Unknown(reason) => {
            tracing::error!(error = reason, "access cannot be reviewed");
            failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "Internal Server Error: authorization is not available",
            )
        }
    }
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Reply {
    let value = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    json(status, &value)
}

#[cfg(test)]
mod tests;
