//! The HTTPS listener with optional client certificates. Its connections can be upgraded, which is what streams need.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use component_base::{task::Tasks, traces};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Access, Body, Server, auth::Gate, spans};

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves the kubelet's API until the drain.
pub fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    gate: Arc<Gate>,
    server: Arc<Server>,
    tasks: &Arc<Tasks>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let serve = move |stream, peer| {
        connection(stream, peer, acceptor.clone(), Arc::clone(&gate), Arc::clone(&server))
    };
    accept("kubelet-api", listener, serve, tasks);
}

/// Serves what needs no authentication, without TLS, until the drain.
pub fn serve_read_only(listener: TcpListener, server: Arc<Server>, tasks: &Arc<Tasks>) {
    let serve = move |stream, _| plain_connection(stream, Arc::clone(&server));
    accept("kubelet-read-only-api", listener, serve, tasks);
}

async fn plain_connection(stream: tokio::net::TcpStream, server: Arc<Server>) {
    let service =
        service_fn(move |request: Request<Incoming>| Arc::clone(&server).serve(request, Access::ReadOnly));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Accepts connections until the drain, and serves each in a task of its own.
fn accept<F>(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(tokio::net::TcpStream, SocketAddr) -> F + Send + 'static,
    tasks: &Arc<Tasks>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (drain, owner) = (tasks.drain(), Arc::clone(tasks));
    tasks.spawn(name, async move {
        loop {
            let accepted = tokio::select! {
                () = drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (drain, served) = (drain.clone(), serve(stream, peer));
            owner.spawn_contained("kubelet-api-connection", async move {
                tokio::select! {
                    () = drain.cancelled() => {}
                    () = served => {}
                }
            });
        }
    });
}

async fn connection(
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    gate: Arc<Gate>,
    server: Arc<Server>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot switch off delays");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake error");
            return;
        }
        Err(_) => return,
    };
    let chain: Vec<CertificateDer<'static>> = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|c| c.clone().into_owned())
        .collect();
    let chain: Arc<[CertificateDer<'static>]> = chain.into();
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, server, chain) = (Arc::clone(&gate), Arc::clone(&server), Arc::clone(&chain));
        async move { followed(&gate, server, &chain, peer, request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Serves a request and tells of it, if it is to be followed.
async fn followed(
    gate: &Gate,
    server: Arc<Server>,
    chain: &[CertificateDer<'static>],
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Some(tracer) = server.tracer.clone() else { return guarded(gate, server, chain, request).await };
    let trace = tracer.trace();
    let serving = async {
        tracer.begin(request.headers(), false, || spans::describe(&request, peer));
        guarded(gate, server, chain, request).await
    };
    let response = traces::scope(Some(trace.clone()), serving).await?;
    trace.end(response.status().as_u16(), Vec::new);
    Ok(response)
}

async fn guarded(
    gate: &Gate,
    server: Arc<Server>,
    chain: &[CertificateDer<'static>],
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if let Err(refused) = gate.check(&parts, chain).await {
        return Ok(*refused);
    }
    server.serve(Request::from_parts(parts, body), Access::Full).await
}
