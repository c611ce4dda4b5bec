//! Probe by an HTTP GET: a status from 200 to 399 is success. Certificates are not verified, as the contract says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use component_base::tls::AnyServerCertificate;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Finding, Target, join, port};

/// Most of a body that is read.
const MAX_BODY: usize = 10 * 1024;

/// Why a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The port does not exist.
    #[error("{0}")]
    Port(String),
    /// No connection.
    #[error("dial tcp {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The request is not one HTTP can carry.
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    /// The exchange failed.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    /// The host is no name TLS can ask for.
    #[error("invalid host name {0:?}")]
    Name(String),
    /// Took too long.
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout,
}

impl HttpError {
    /// The server answered a TLS handshake with something else, as one does that speaks plain HTTP.
    #[must_use]
    pub fn is_plain_answer(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidMessage(_)))
    }
}

/// Makes the probe.
pub async fn probe(target: &Target<'_>, action: &HTTPGetAction, timeout: Duration) -> Finding {
    let url = describe(target, action);
    match get(target, action, timeout, "kube-probe/1.36").await {
        Ok(status) if (200..400).contains(&status) => Finding::Success,
        Ok(status) => Finding::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(HttpError::Port(text)) => Finding::Unknown(text),
        Err(error) => Finding::Failure(format!("Get \"{url}\": {error}")),
    }
}

fn describe(target: &Target<'_>, action: &HTTPGetAction) -> String {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let port = port(&action.port, target.container).unwrap_or(0);
    format!("{scheme}://{}{}", join(host(target, action), port), path(action))
}

fn host<'a>(target: &'a Target<'_>, action: &'a HTTPGetAction) -> &'a str {
    action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(target.ip)
}

fn path(action: &HTTPGetAction) -> String {
    let path = action.path.as_deref().unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Makes the request and answers with its status code.
///
/// # Errors
/// When there is no answer.
pub async fn get(
    target: &Target<'_>,
    action: &HTTPGetAction,
    timeout: Duration,
    agent: &str,
) -> Result<u16, HttpError> {
    let port = port(&action.port, target.container).map_err(HttpError::Port)?;
    let address = join(host(target, action), port);
    let mut request = http::Request::get(path(action)).header(http::header::CONNECTION, "close");
    let mut named = false;
    for header in action.http_headers.iter().flatten() {
        named |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    let has =
        |request: &http::request::Builder, name| request.headers_ref().is_some_and(|h| h.contains_key(name));
    if !named {
        request = request.header(http::header::HOST, &address);
    }
    if !has(&request, http::header::USER_AGENT) {
        request = request.header(http::header::USER_AGENT, agent);
    }
    if !has(&request, http::header::ACCEPT) {
        request = request.header(http::header::ACCEPT, "*/*");
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(&address)
            .await
            .map_err(|source| HttpError::Connect { address: address.clone(), source })?;
        if !secure {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host(target, action).to_owned())
            .map_err(|_| HttpError::Name(host(target, action).to_owned()))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&TLS))
            .connect(name, stream)
            .await
            .map_err(|source| HttpError::Connect { address: address.clone(), source })?;
        exchange_boxed(stream, request).await
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| HttpError::Timeout)?
}

async fn exchange_boxed<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        // The body is read so that the server sees an orderly end; what it says or how it breaks off is no matter.
        drop(Limited::new(response.into_body(), MAX_BODY).collect().await);
        Ok(status)
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

static TLS: std::sync::LazyLock<Arc<rustls::ClientConfig>> = std::sync::LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyServerCertificate::default());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
});
