//! A proxy that is asked with HTTP's CONNECT, over TCP (with TLS) or a socket of this machine.
//!
//! Contract: RFC 9110, section 9.3.6; any answer but 200 is a refusal, as it is to upstream.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::{ConnectError, PATIENCE, Stream, authority, tcp};

/// The proxy.
pub(super) enum HttpConnect {
    Tcp { host: String, port: u16, tls: Option<(Arc<ClientConfig>, ServerName<'static>)> },
    Unix(PathBuf),
}

impl HttpConnect {
    /// What metrics call the way to it.
    pub(super) fn transport(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Unix(_) => "uds",
        }
    }

    /// What errors call it.
    fn name(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } => authority(host, *port),
            Self::Unix(path) => path.display().to_string(),
        }
    }

    /// A connection to the proxy.
    pub(super) async fn open(&self) -> Result<Stream, ConnectError> {
        let opening = async {
            match self {
                Self::Unix(path) => {
                    let failed =
                        |source| ConnectError::Dial { network: "unix", address: self.name(), source };
                    UnixStream::connect(path).await.map(Stream::inside).map_err(failed)
                }
                Self::Tcp { host, port, tls: None } => tcp(host, *port).await.map(Stream::Tcp),
                Self::Tcp { host, port, tls: Some((config, name)) } => {
                    let stream = tcp(host, *port).await?;
                    let stream = TlsConnector::from(config.clone()).connect(name.clone(), stream).await;
                    stream.map(Stream::inside).map_err(ConnectError::Tls)
                }
            }
        };
        self.in_time(opening).await
    }

    /// Has the proxy connect to `address`; what is sent from then on goes there.
    pub(super) async fn tunnel(&self, stream: Stream, address: &str) -> Result<Stream, ConnectError> {
        self.in_time(self.ask(stream, address)).await
    }

    async fn ask(&self, stream: Stream, address: &str) -> Result<Stream, ConnectError> {
        let proxy = self.name();
        let unread = |error: hyper::Error| {
            ConnectError::Refused(format!(
                "reading HTTP response from CONNECT to {address} via proxy {proxy} failed: {error}"
            ))
        };
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(address)
            .header(header::HOST, "127.0.0.1")
            .body(Empty::<Bytes>::new())
            .map_err(|error| ConnectError::Refused(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unread)?;
        let mut asking = std::pin::pin!(sender.send_request(request));
        // The connection gives the stream back when the proxy agrees.
        let mut connection = std::pin::pin!(connection.without_shutdown());
        let mut parts = None;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut asking => break answer.map_err(unread)?,
                ended = &mut connection, if parts.is_none() => parts = Some(ended),
            }
        };
        let code = answer.status();
        if code != StatusCode::OK {
            return Err(ConnectError::Refused(format!(
                "proxy error from {proxy} while dialing {address}, code {}: {code}",
                code.as_u16()
            )));
        }
        let parts = match parts {
            Some(parts) => parts,
            None => connection.await,
        };
        let parts = parts.map_err(unread)?;
        if !parts.read_buf.is_empty() {
            // Whoever is behind the proxy speaks TLS and waits for us.
            let count = parts.read_buf.len();
            return Err(ConnectError::Refused(format!(
                "unexpected {count} bytes of buffered data from CONNECT proxy {proxy:?}"
            )));
        }
        Ok(Stream::inside(parts.io.into_inner()))
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let late = |_| ConnectError::Refused(format!("proxy {} did not answer in time", self.name()));
        tokio::time::timeout(PATIENCE, work).await.map_err(late)?
    }
}
