//! A small HTTPS client whose cost is the same for whatever server it speaks to.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

/// Whom a client trusts and who it is.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// PEM of the authority.
    pub(super) ca: PathBuf,
    /// PEM of certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// One connection.
pub(super) struct Client {
    sender: Sender,
    authority: String,
    /// Drives the connection until the last handle on it is gone.
    driver: Arc<JoinSet<()>>,
}

enum Sender {
    One(conn::http1::SendRequest<Full<Bytes>>),
    Many(conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Connects; `version` is HTTP/1.1 or HTTP/2.
    pub(super) async fn connect(address: SocketAddr, trust: &Trust, version: Version) -> Result<Self> {
        let two = version == Version::HTTP_2;
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config(trust, two)?));
        let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
        let io = TokioIo::new(stream);
        let mut driver = JoinSet::new();
        let sender = if two {
            let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .handshake(io)
                .await?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Many(sender)
        } else {
            let (sender, connection) = conn::http1::handshake(io).await?;
            driver.spawn(async move { drop(connection.await) });
            Sender::One(sender)
        };
        Ok(Self { sender, authority: address.to_string(), driver: Arc::new(driver) })
    }

    /// Another handle on an HTTP/2 connection; `None` for HTTP/1.1, which takes one request at a time.
    pub(super) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::One(_) => None,
            Sender::Many(sender) => Some(Self {
                sender: Sender::Many(sender.clone()),
                authority: self.authority.clone(),
                driver: self.driver.clone(),
            }),
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let uri = match self.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Many(_) => format!("https://{}{path}", self.authority),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if matches!(self.sender, Sender::One(_)) {
            request = request.header("host", &self.authority);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Many(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// Sends JSON and returns the answer's body, which must come with a status below 300.
    pub(super) async fn json(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        self.typed(method, path, "application/json", body).await
    }

    /// Sends a merge patch.
    pub(super) async fn patch(&mut self, path: &str, body: Bytes) -> Result<()> {
        self.typed("PATCH", path, "application/merge-patch+json", body).await.map(drop)
    }

    /// Sends a strategic merge patch, which changes single conditions.
    pub(super) async fn strategic(&mut self, path: &str, body: Bytes) -> Result<()> {
        self.typed("PATCH", path, "application/strategic-merge-patch+json", body).await.map(drop)
    }

    async fn typed(&mut self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<Bytes> {
        let headers = [("content-type", kind), ("accept", "application/json")];
        let answer = self.send(method, path, &headers, body).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes));
        Ok(bytes)
    }

    /// Reads an answer to its end without keeping it, and returns its length.
    pub(super) async fn length(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<u64> {
        let answer = self.send("GET", path, headers, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(length)
    }
}

fn config(trust: &Trust, two: bool) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&fs::read(&trust.ca)?) {
        roots.add(cert?)?;
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
    let mut config = match &trust.identity {
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(&fs::read(cert)?).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&fs::read(key)?)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if two { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}
