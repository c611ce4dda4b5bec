//! Calls to webhooks: programs of the cluster's owner that the server asks over HTTPS.
//!
//! ```text
//! clientConfig ──→ Clients (one pooled client per configuration) ──→ service or URL ──→ JSON answer, or CallError
//! ```
//! Connections are kept and reused, HTTP/1.1 only so that the endpoints behind a service share the load; redirects are
//! answers like any other, so never followed; answers are bounded. Contract: `WebhookClientConfig`; upstream's
//! `util/webhook.ClientManager`, whose words the errors have.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use component_base::{traces, workqueue::chain};
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::{
    egress::{Egress, Route},
    metrics,
    objects::Objects,
    status::{Reason, Status},
};

mod connect;
mod failure;
pub mod kubeconfig;
mod tls;

use connect::Connector;
use kubeconfig::{Credentials, Headers};

/// Largest answer, in bytes: a patch of the largest object and some.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Clients kept at most; configurations that change leave theirs behind until then.
const MAX_CLIENTS: usize = 1000;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// `clientConfig`: where a webhook is and whom it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    /// Where it is.
    pub address: Address,
    /// PEM; the system's authorities count when empty.
    pub ca_bundle: Vec<u8>,
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Anywhere.
    Url(String),
    /// Behind a service of the cluster; its certificate is for `<name>.<namespace>.svc`.
    Service {
        /// The service's namespace.
        namespace: String,
        /// The service's name.
        name: String,
        /// Port of the service.
        port: u16,
        /// Path with a leading slash, or empty.
        path: String,
    },
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The code that stands for it in metrics: the answer's own, or 503.
    pub code: u16,
    message: String,
}

/// Why a bundle of authorities cannot be used, in words.
pub fn bundle_error(bundle: &[u8]) -> Option<String> {
    tls::config(bundle).err()
}

type HttpClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// One configuration's client.
struct Known {
    client: HttpClient,
    /// `https://host:port/path`.
    url: String,
    /// What it shows of who it is.
    headers: Headers,
}

/// The clients, by configuration.
pub struct Clients {
    objects: Arc<dyn Objects>,
    by_endpoint: bool,
    egress: Egress,
    user_agent: String,
    credentials: Option<Credentials>,
    known: Mutex<HashMap<ClientConfig, Arc<Known>>>,
}

impl ClientConfig {
    /// Reads a `clientConfig`; `None` when it names neither a service nor a URL.
    pub fn of(config: &Value) -> Option<Self> {
        let text = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let address = match config.get("service").filter(|service| service.is_object()) {
            Some(service) => {
                let port = service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
                Address::Service {
                    namespace: text(service, "namespace"),
                    name: text(service, "name"),
                    port: port.unwrap_or(443),
                    path: text(service, "path"),
                }
            }
            None => Address::Url(config.get("url").and_then(Value::as_str)?.to_owned()),
        };
        let ca_bundle = BASE64_STANDARD.decode(text(config, "caBundle")).unwrap_or_default();
        Some(Self { address, ca_bundle })
    }

    fn url(&self) -> String {
        match &self.address {
            Address::Url(url) => url.clone(),
            Address::Service { namespace, name, port, path } => {
                let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        }
    }
}

impl CallError {
    fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Whether the same question may be answered another time.
    pub fn is_temporary(&self) -> bool {
        self.code == 429 || self.code >= 500
    }

    /// No answer, or none that counts.
    fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, message)
    }
}

impl Clients {
    /// Clients that find services in `objects`; `by_endpoint` goes straight to their endpoints. `caller` is the end of the
    /// user agent, for example `admission`.
    pub fn new(objects: Arc<dyn Objects>, by_endpoint: bool, caller: &str, egress: Egress) -> Self {
        let user_agent = component_base::version::user_agent(&format!("kube-apiserver-{caller}"));
        Self { objects, by_endpoint, egress, user_agent, credentials: None, known: Mutex::default() }
    }

    /// The same, telling webhooks who asks.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self {
            objects: self.objects.clone(),
            by_endpoint: self.by_endpoint,
            egress: self.egress.clone(),
            user_agent: self.user_agent.clone(),
            credentials: Some(credentials),
            known: Mutex::default(),
        }
    }

    /// Posts JSON and reads the JSON of the answer. `timeout` bounds the whole call and is told to the webhook in seconds.
    ///
    /// # Errors
    /// When there is no answer in time, or none that is JSON and says success.
    pub async fn post(
        &self,
        config: &ClientConfig,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let known = self.client(config)?;
        let query = if known.url.contains('?') { '&' } else { '?' };
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let url = format!("{}{query}timeout={seconds}s", known.url);
        let (code, body) =
            exchange(&known, &url, &self.user_agent, known.headers.now().await, body, timeout).await?;
        read(code, &body)
    }

    fn client(&self, config: &ClientConfig) -> Result<Arc<Known>, CallError> {
        if let Some(known) = self.known.lock().get(config) {
            return Ok(known.clone());
        }
        let known = Arc::new(self.make(config)?);
        let mut all = self.known.lock();
        if all.len() >= MAX_CLIENTS {
            all.clear();
        }
        all.insert(config.clone(), known.clone());
        Ok(known)
    }

    fn make(&self, config: &ClientConfig) -> Result<Known, CallError> {
        let unusable = |why: String| CallError::unavailable(why);
        let url = config.url();
        let uri: Uri = url.parse().map_err(|e| unusable(format!("Unparsable URL: {e}")))?;
        if uri.scheme_str().is_none() || uri.authority().is_none() {
            return Err(unusable(format!("Unparsable URL: {url:?} has no host")));
        }
        let (headers, identity) = match &self.credentials {
            Some(credentials) => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let shown = credentials.of(host, uri.port_u16().unwrap_or(443));
                shown.map_err(|error| unusable(chain(&error)))?
            }
            None => Default::default(),
        };
        let tls = tls::config_with(&config.ca_bundle, identity, false).map_err(unusable)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let builder = match &config.address {
            Address::Url(_) => builder,
            Address::Service { namespace, name, .. } => {
                let name = ServerName::try_from(format!("{name}.{namespace}.svc"))
                    .map_err(|e| unusable(format!("service {name:?}: {e}")))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
        };
        let connector = Connector::new(self.objects.clone(), self.by_endpoint, &config.address, &self.egress);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(builder.enable_http1().wrap_connector(connector));
        Ok(Known { client, url, headers })
    }
}

/// Posts JSON; code and body of the answer.
async fn exchange(
    known: &Known,
    url: &str,
    user_agent: &str,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    body: &Value,
    timeout: Duration,
) -> Result<(u16, Bytes), CallError> {
    let failed = |why: String| CallError::unavailable(format!("Post {url:?}: {why}"));
    let bytes = serde_json::to_vec(body).map_err(|e| failed(e.to_string()))?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, user_agent)
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|e| failed(e.to_string()))?;
    request.headers_mut().extend(headers);
    if let Some(parent) = traces::trace_parent() {
        request.headers_mut().insert(traces::TRACE_PARENT, parent);
    }
    let asking = async {
        let response = known.client.request(request).await.map_err(|error| {
            metrics::distrusted(&error, &metrics::WEBHOOK_WITHOUT_NAMES, &metrics::WEBHOOK_SHA1);
            failed(failure::in_words(&error))
        })?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                failed(format!("the answer is larger than {MAX_ANSWER} bytes"))
            } else {
                failed(error.to_string())
            }
        })?;
        Ok((code, body.to_bytes()))
    };
    let begun = std::time::Instant::now();
    let answered = tokio::time::timeout(timeout, asking).await;
    if let Some(context) = crate::audit::current() {
        context.wait(begun.elapsed());
    }
    answered.map_err(|_| failed("context deadline exceeded".to_owned()))?
}

/// The body of a GET that is answered with 200; `bundle` as in [`ClientConfig`], `route` leads to the host.
///
/// # Errors
/// When there is no such answer in time.
pub async fn fetch(url: &str, bundle: &[u8], route: &Route, timeout: Duration) -> Result<Bytes, CallError> {
    let failed = |why: String| CallError::unavailable(format!("Get {url:?}: {why}"));
    let tls = tls::config(bundle).map_err(failed)?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
    let client: HttpClient = Client::builder(TokioExecutor::new())
        .build(connector.wrap_connector(Connector::outside(route.clone())));
    let request = Request::get(url).body(Full::default()).map_err(|e| failed(e.to_string()))?;
    let asking = async {
        let response = client.request(request).await.map_err(|e| failed(failure::in_words(&e)))?;
        if response.status() != 200 {
            return Err(failed(response.status().to_string()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|e| failed(e.to_string()))
    };
    let answered = tokio::time::timeout(timeout, asking).await;
    answered.map_err(|_| failed("context deadline exceeded".to_owned()))?
}

/// The JSON of an answer that says success; else what it says instead.
fn read(code: u16, body: &[u8]) -> Result<Value, CallError> {
    let decoded = serde_json::from_slice::<Value>(body);
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let told = decoded.as_ref().ok().filter(|value| text(value, "kind") == "Status");
    if let Some(told) = told.filter(|told| text(told, "status") != "Success") {
        return Err(CallError::new(code, text(told, "message")));
    }
    if !(200..=206).contains(&code) {
        return Err(failure::of_code(code, body));
    }
    let value = decoded
        .map_err(|e| CallError::unavailable(format!("couldn't get version/kind; json parse error: {e}")))?;
    if text(&value, "kind").is_empty() {
        return Err(CallError::unavailable(format!(
            "Object 'Kind' is missing in '{}'",
            String::from_utf8_lossy(body.get(..body.len().min(512)).unwrap_or_default()).trim()
        )));
    }
    Ok(value)
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let reason = if error.code == 503 { Reason::ServiceUnavailable } else { Reason::Unknown };
        Self::new(error.code, reason, error.message)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the far ends of tests end with their runtime")]
mod tests;
