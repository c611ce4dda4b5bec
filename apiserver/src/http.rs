//! Connections: TLS, HTTP/1.1 and HTTP/2, upgrades, limits, graceful end.
//!
//! A client certificate is asked for and its signature checked, but its chain is not: a bad one must
//! give 401, not a TLS alert (upstream `RequestClientCert`). Authentication judges the chain.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    metrics::{self, Stability},
    serving::{self, SecureServingOptions, ServingError, Shown},
    tls,
};
use futures::FutureExt as _;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use prometheus::IntCounter;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{auth::PeerCertificates, cork::Cork, request_path, server::Server};

/// Streams one HTTP/2 connection may have open unless `--http2-max-streams-per-connection` says otherwise.
const MAX_STREAMS: u32 = 1000;
const MAX_HEADERS: u32 = 64 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);

static HANDSHAKE_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Connections that ended before they were secure.";
    metrics::counter("apiserver_tls_handshake_errors_total", help, Stability::Alpha)
});

/// The bound port with its certificate, not serving yet.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    shown: Shown,
    max_streams: u32,
}

impl Listener {
    /// Binds, and loads or makes the certificate.
    ///
    /// # Errors
    /// When the port is taken or the certificate of no use.
    pub fn bind(options: &SecureServingOptions) -> Result<Self, ServingError> {
        let shown = options.certificate()?;
        let config = tls::server_config(shown.certificates.clone(), &options.protocol)?;
        let wanted = SocketAddr::new(options.bind_address, options.port);
        let (listener, address) = serving::listen(wanted, options.share_port)?;
        let max_streams = if options.max_streams == 0 { MAX_STREAMS } else { options.max_streams };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { listener, address, acceptor, shown, max_streams })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until the server drains, then lets those in flight end for the time of `grace`: a client that
    /// reads nothing any more does not hear that they are to.
    pub async fn serve(self, server: Arc<Server>, grace: Duration) {
        self.shown.spawn_reload(&server.tasks);
        let (connections, end, cut) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = server.drain.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let acceptor = self.acceptor.clone();
                    let one = connection(server.clone(), acceptor, self.max_streams, stream, end.clone());
                    let one = cut.clone().run_until_cancelled_owned(one);
                    server.tasks.spawn_contained("connection", connections.track_future(one.map(drop)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        end.cancel();
        if tokio::time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are cut at the end of the grace period");
            cut.cancel();
            connections.wait().await;
        }
    }
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    max_streams: u32,
    stream: TcpStream,
    end: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let remote = stream.peer_addr().ok().map(|peer| peer.ip());
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            HANDSHAKE_ERRORS.inc();
            return tracing::debug!(%error, "TLS handshake error");
        }
        Err(_) => {
            HANDSHAKE_ERRORS.inc();
            return tracing::debug!("TLS handshake timed out");
        }
    };
    // Only there: tunnels over HTTP/1.1 write and read in tasks of their own.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = Arc::new(PeerCertificates::new(chain.iter().map(|c| c.to_vec()).collect()));
    let peer = Arc::new(request_path::Peer { certificates, address: remote, ..Default::default() });
    let told = peer.clone();
    // Boxed, so that only the body is left of an answered request: a watch may be that for hours.
    let service =
        service_fn(move |request| Box::pin(request_path::handle(server.clone(), peer.clone(), request)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(Duration::from_secs(30));
    if is_http2 {
        builder = builder.http2_only();
    }
    let stream = Cork::only_if(is_http2, TokioIo::new(stream));
    let serving = builder.serve_connection_with_upgrades(stream, service).into_owned();
    let mut serving = std::pin::pin!(serving);
    let ends = async {
        tokio::select! {
            () = end.cancelled() => {}
            () = told.leaves.notified() => {}
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = ends => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}
