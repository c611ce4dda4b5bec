//! A plain HTTPS client that blocks: requests as a test wants them, good or bad, answers as they came.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use proto::cbor;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::pki::Identity;

/// JSON, as bodies are unless a test says otherwise.
pub const JSON: &str = "application/json";
/// RFC 6902.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// RFC 7386.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// Kubernetes' own patch, with merge keys.
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// Server-side apply.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// No answer takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client with an identity and headers it always sends.
#[derive(Clone, Debug)]
pub struct Client {
    runtime: Arc<Runtime>,
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    headers: HeaderMap,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A stream of JSON documents, one a line, such as a watch.
#[derive(Debug)]
pub struct Watch {
    runtime: Arc<Runtime>,
    body: Incoming,
    buffer: BytesMut,
}

// === impl Client ===

impl Client {
    /// A client of `base` (`https://host:port`) that trusts `ca`; anonymous without an identity.
    ///
    /// # Errors
    /// When certificates cannot be read.
    pub fn new(base: &str, ca: &str, identity: Option<&Identity>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
            )?,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        Ok(Self {
            runtime: Arc::new(Builder::new_current_thread().enable_all().build()?),
            http: Http::builder(TokioExecutor::new()).build(connector),
            base: base.to_owned(),
            headers: HeaderMap::new(),
        })
    }

    /// The same client with one more header.
    ///
    /// # Errors
    /// When name or value are no header.
    pub fn with_header(&self, name: &str, value: &str) -> Result<Self> {
        let mut client = self.clone();
        client.headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        Ok(client)
    }

    /// The same client with a bearer token.
    ///
    /// # Errors
    /// When the token is no header.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        self.with_header("authorization", &format!("Bearer {token}"))
    }

    /// Any request.
    ///
    /// # Errors
    /// When no answer comes; an answer of any code is none.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let request = self.request(method, path, content_type, body.into())?;
        let told = format!("{} {path}", request.method());
        let whole = async {
            let (parts, body) = self.http.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body })
        };
        self.block(whole).with_context(|| told)
    }

    /// GET.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, "", Bytes::new())
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, JSON, body.to_string())
    }

    /// PUT of JSON.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, path, JSON, body.to_string())
    }

    /// PATCH of a kind.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn patch(&self, path: &str, kind: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PATCH, path, kind, body.to_string())
    }

    /// DELETE without options.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, "", Bytes::new())
    }

    /// Opens a watch; `path` asks for one.
    ///
    /// # Errors
    /// When it is refused.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let request = self.request(Method::GET, path, "", Bytes::new())?;
        let answer = self.block(async { Ok(self.http.request(request).await?) })?;
        let code = answer.status();
        let mut watch =
            Watch { runtime: self.runtime.clone(), body: answer.into_body(), buffer: BytesMut::new() };
        if !code.is_success() {
            bail!("GET {path}: {code}: {}", watch.next().unwrap_or_default());
        }
        Ok(watch)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let mut request = request.body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    fn block<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async { timeout(DEADLINE, work).await.context("no answer within 30 s")? })
    }
}

// === impl Answer ===

impl Answer {
    /// The `Warning` headers.
    pub fn warnings(&self) -> Vec<&str> {
        // The server writes them in ASCII.
        self.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).collect()
    }

    /// The body of JSON, or of CBOR where it says that it is.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        if self.header("content-type") == cbor::CONTENT_TYPE {
            return Ok(cbor::decode(&self.body)?.to_value());
        }
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The object of an answer that must be a success.
    ///
    /// # Errors
    /// When it is none, with the answer.
    pub fn ok(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.code), "refused with {}: {}", self.code, self.text());
        self.json()
    }

    /// The Status of an answer that must be a refusal with this code and reason.
    ///
    /// # Errors
    /// When it is anything else, with the answer.
    pub fn refused(&self, code: u16, reason: &str) -> Result<Value> {
        ensure!(self.code == code, "not {code} {reason} but {}: {}", self.code, self.text());
        let status = self.json()?;
        ensure!(
            status["kind"] == "Status" && status["apiVersion"] == "v1" && status["status"] == "Failure",
            "{code} without a Status: {status}"
        );
        let said = status["reason"].as_str().unwrap_or_default();
        ensure!(status["code"] == code && said == reason, "not {code} {reason}: {status}");
        ensure!(status["message"].as_str().is_some_and(|m| !m.is_empty()), "no message: {status}");
        Ok(status)
    }

    /// A refusal whose message contains a text.
    ///
    /// # Errors
    /// When it is anything else, with the answer.
    pub fn refused_with(&self, code: u16, reason: &str, text: &str) -> Result<Value> {
        let status = self.refused(code, reason)?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.contains(text), "the message does not say {text:?}: {message}");
        Ok(status)
    }
}

// === impl Watch ===

impl Watch {
    /// The next document.
    ///
    /// # Errors
    /// When none comes within 30 s, or the stream ends.
    #[expect(clippy::should_implement_trait, reason = "an end is a failure here, an iterator would hide it")]
    pub fn next(&mut self) -> Result<Value> {
        self.more()?.ok_or_else(|| anyhow!("the stream ended"))
    }

    /// The next document, `None` at the stream's end.
    ///
    /// # Errors
    /// When nothing comes within 30 s.
    pub fn more(&mut self) -> Result<Option<Value>> {
        let (runtime, body, buffer) = (&self.runtime, &mut self.body, &mut self.buffer);
        let line = runtime.block_on(async {
            loop {
                if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    return anyhow::Ok(Some(buffer.split_to(end + 1)));
                }
                match timeout(DEADLINE, body.frame()).await.context("nothing came within 30 s")? {
                    Some(frame) => {
                        if let Some(data) = frame?.data_ref() {
                            buffer.extend_from_slice(data);
                        }
                    }
                    None if buffer.is_empty() => return Ok(None),
                    None => return Ok(Some(buffer.split())),
                }
            }
        })?;
        line.map(|l| serde_json::from_slice(&l).context("no JSON in the stream")).transpose()
    }

    /// The next event must be of this type; returns its object.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(&mut self, kind: &str) -> Result<Value> {
        let mut event = self.next()?;
        ensure!(event["type"] == kind, "not {kind}: {event}");
        Ok(event["object"].take())
    }
}
