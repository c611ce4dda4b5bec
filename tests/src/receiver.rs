//! [`Receiver`]: an HTTPS server of the test's own that the API server calls, such as an admission webhook.
//!
//! It records what it was asked and answers what the test says, by path.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_rustls::TlsAcceptor;

use crate::pki::Authority;

/// What the receiver was asked.
#[derive(Clone, Debug)]
pub struct Call {
    /// The path, without the query.
    pub path: String,
    /// The query, empty for none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null when it is no JSON.
    pub body: Value,
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 and JSON.
    Json(Value),
    /// Any code and JSON.
    Code(u16, Value),
    /// A redirect to a path of its own.
    Redirect(&'static str),
    /// Nothing at all.
    Silence,
}

/// The answer to each call.
pub type Answers = fn(&Call) -> Reply;

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    // Dropping the runtime ends what runs on it.
    _runtime: Runtime,
    address: SocketAddr,
    ca: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Receiver {
    /// A server on a free loopback port with a certificate of `ca`.
    ///
    /// # Errors
    /// When no certificate can be made or no port is free.
    pub fn start(ca: &Authority, answers: Answers) -> Result<Self> {
        let identity = ca.server()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
            )?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("no port is free")?;
        let address = listener.local_addr()?;
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), answers, calls.clone()));
        Ok(Self { _runtime: runtime, address, ca: ca.cert.clone(), calls })
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A webhook's `clientConfig` for a path.
    pub fn client_config(&self, path: &str) -> Value {
        serde_json::json!({"url": self.url(path), "caBundle": BASE64_STANDARD.encode(&self.ca)})
    }

    /// The calls of a path so far, oldest first.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|call| call.path == path).cloned().collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime is the receiver's own and ends with it")]
async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Answers,
    calls: Arc<Mutex<Vec<Call>>>,
) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, calls) = (tls.clone(), calls.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, answers, calls.clone()));
            // A caller that goes away is none of the receiver's business.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    calls: Arc<Mutex<Vec<Call>>>,
) -> Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let call = Call {
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
    let response = Response::builder().header("content-type", "application/json");
    Ok(match answers(&call) {
        Reply::Json(value) => response.body(Full::from(value.to_string()))?,
        Reply::Code(code, value) => response.status(code).body(Full::from(value.to_string()))?,
        Reply::Redirect(path) => response.status(307).header("location", path).body(Full::default())?,
        Reply::Silence => std::future::pending().await,
    })
}
