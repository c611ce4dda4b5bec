//! Connections to what is behind the server: by the way there is to it, TLS when asked for, and HTTP/1.1 on top.
//!
//! One connection carries one request: upgrades take it over, and a proxied stream may last as long as it likes.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio_rustls::TlsConnector;
use tokio_util::sync::DropGuard;

use component_base::{
    task::Tasks,
    tls::{AnyServerCertificate, ClientCertificate},
};

pub use crate::egress::authority;
use crate::egress::{ConnectError, Route, Stream};

/// Where a request goes.
#[derive(Clone)]
pub struct Target {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `None` for plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// Name the server's certificate must have, where that is not the host.
    pub server_name: Option<String>,
    /// Time to connect, TLS included.
    pub timeout: Duration,
    /// The way there.
    pub route: Route,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is none in time, or not to such a name; worded as Go's dialer does.
    #[error("dial tcp {address}: {reason}")]
    Address {
        /// Host and port.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// TLS.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// An answer with its body still to come. Dropping the guard closes the connection.
pub struct Answer {
    /// The answer.
    pub response: Response<Incoming>,
    /// Keeps the connection.
    pub guard: DropGuard,
}

/// Bodies sent on.
pub type Outgoing = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

/// A body without content.
pub fn empty() -> Outgoing {
    use http_body_util::BodyExt;
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl Target {
    /// `host:port`, with brackets around IPv6 addresses.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    async fn connect(&self) -> Result<Stream, DialError> {
        let failed = |reason: String| DialError::Address { address: self.authority(), reason };
        let connecting = self.route.connect(&self.host, self.port);
        let stream = tokio::time::timeout(self.timeout, connecting)
            .await
            .map_err(|_| failed("i/o timeout".to_owned()))??;
        let Some(tls) = &self.tls else { return Ok(stream) };
        let name = ServerName::try_from(self.server_name.as_ref().unwrap_or(&self.host).clone())
            .map_err(|error| failed(error.to_string()))?;
        let connecting = TlsConnector::from(tls.clone()).connect(name, stream);
        let stream = tokio::time::timeout(self.timeout, connecting)
            .await
            .map_err(|_| failed("net/http: TLS handshake timeout".to_owned()))?
            .map_err(DialError::Tls)?;
        Ok(Stream::inside(stream))
    }

    /// Makes a connection and one request on it. The URI of the request is path and query only.
    ///
    /// # Errors
    /// When there is no connection, or no answer on it.
    pub async fn request(&self, request: Request<Outgoing>, tasks: &Tasks) -> Result<Answer, DialError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let end = tokio_util::sync::CancellationToken::new();
        let (guard, drain) = (end.clone().drop_guard(), tasks.drain());
        tasks.spawn_contained("proxied-connection", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = end.cancelled() => {}
                result = connection.with_upgrades() => if let Err(error) = result {
                    tracing::debug!(%error, "proxied connection ended");
                }
            }
        });
        let response = sender.send_request(request).await?;
        Ok(Answer { response, guard })
    }
}

/// A client's TLS configuration: `roots` to check the server against (none are checked without), and who we are.
///
/// # Errors
/// When the key cannot be used.
pub fn client_tls(
    roots: Option<RootCertStore>,
    pair: Option<&rustls::sign::CertifiedKey>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServerCertificate::default()))
        }
    };
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_cert_resolver(Arc::new(ClientCertificate::new(pair.clone()))),
    };
    Ok(Arc::new(config))
}
