//! Probe by an HTTP GET: a status from 200 to 399 is success. Certificates are not verified, as the contract says. Redirects
//! are followed to the same host; one that leads elsewhere is success with a warning.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use component_base::tls::AnyServerCertificate;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

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
    /// A redirect leads nowhere.
    #[error("failed to parse Location header {0:?}")]
    Location(String),
    /// There is no end of redirects.
    #[error("stopped after 10 redirects")]
    Redirects,
    /// A redirect leads out of HTTP.
    #[error("unsupported protocol scheme {0:?}")]
    Scheme(String),
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

/// What a server answered, at the end of all redirects that were followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The beginning of what it said.
    pub body: String,
}

/// Makes the probe.
pub async fn probe(target: &Target<'_>, action: &HTTPGetAction, timeout: Duration) -> Finding {
    let url = match url(target, action) {
        Ok(url) => url,
        Err(error) => return Finding::Unknown(error.to_string()),
    };
    match get(&url, action, timeout, "kube-probe/1.36").await {
        Ok(answer) => judge(answer),
        Err(error) => Finding::Failure(format!("Get \"{}\": {error}", shown(&url))),
    }
}

/// An address as it was given, with its port in any case.
fn shown(url: &Url) -> String {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
    format!("{}://{host}:{port}{}", url.scheme(), &url[url::Position::BeforePath..])
}

/// What an answer means to a probe.
fn judge(answer: Answer) -> Finding {
    match answer.status {
        200..300 => Finding::Success,
        // One that leads elsewhere was not followed.
        300..400 => Finding::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        status => Finding::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// What is asked for.
///
/// # Errors
/// When the port does not exist, or nothing can be asked for there.
pub fn url(target: &Target<'_>, action: &HTTPGetAction) -> Result<Url, HttpError> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let port = port(&action.port, target.container).map_err(HttpError::Port)?;
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(target.ip);
    let path = action.path.as_deref().unwrap_or("/").trim_start_matches('/');
    let text = format!("{scheme}://{}/{path}", join(host, port));
    Url::parse(&text).map_err(|_| HttpError::Name(host.to_owned()))
}

/// How many requests redirects may make of one.
const MAX_REQUESTS: usize = 10;

/// Makes the request. Redirects are followed as long as they stay with the same host.
///
/// # Errors
/// When there is no answer.
pub async fn get(
    url: &Url,
    action: &HTTPGetAction,
    timeout: Duration,
    agent: &str,
) -> Result<Answer, HttpError> {
    let asked = async {
        let (mut at, mut own_host) = (url.clone(), true);
        for _ in 0..MAX_REQUESTS {
            let (answer, location) = once(&at, action, agent, own_host).await?;
            let Some(location) = location.filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308))
            else {
                return Ok(answer);
            };
            let next = at.join(&location).map_err(|_| HttpError::Location(location.clone()))?;
            if next.host_str() != url.host_str() {
                return Ok(answer);
            }
            // A name that was asked for goes along only where it is not said again.
            own_host &= Url::parse(&location).is_err();
            at = next;
        }
        Err(HttpError::Redirects)
    };
    tokio::time::timeout(timeout, asked).await.map_err(|_| HttpError::Timeout)?
}

/// One request: its answer, and where that leads.
async fn once(
    url: &Url,
    action: &HTTPGetAction,
    agent: &str,
    own_host: bool,
) -> Result<(Answer, Option<String>), HttpError> {
    let name = || HttpError::Name(url.to_string());
    let host = url.host_str().ok_or_else(name)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = join(bare, url.port_or_known_default().ok_or_else(name)?);
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = http::Request::get(target).header(http::header::CONNECTION, "close");
    let mut named = false;
    for header in action.http_headers.iter().flatten() {
        let is_host = header.name.eq_ignore_ascii_case("host");
        if is_host && !own_host {
            continue;
        }
        named |= is_host;
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
    let connect = |source| HttpError::Connect { address: address.clone(), source };
    let stream = tokio::net::TcpStream::connect(&address).await.map_err(connect)?;
    match url.scheme() {
        "http" => exchange(stream, request).await,
        "https" => {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| name())?;
            let stream = tokio_rustls::TlsConnector::from(Arc::clone(&TLS)).connect(name, stream).await;
            exchange(stream.map_err(connect)?, request).await
        }
        other => Err(HttpError::Scheme(other.to_owned())),
    }
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
) -> Result<(Answer, Option<String>), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|l| l.to_str().ok()).filter(|l| !l.is_empty()).map(str::to_owned);
        // The body is read so that the server sees an orderly end; how it breaks off is no matter.
        let body = beginning(response.into_body()).await;
        Ok((Answer { status, body }, location))
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

/// As much of a body as is read.
async fn beginning(mut body: hyper::body::Incoming) -> String {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let room = MAX_BODY.saturating_sub(read.len());
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
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

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{Container, HTTPHeader},
        apimachinery::pkg::util::intstr::IntOrString,
    };
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A server that redirects `/to?WHERE` there, and to other paths says who was asked for.
    async fn serve() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tasks = component_base::task::Tasks::new();
        tasks.spawn("server", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut lines, mut path, mut host) =
                    (BufReader::new(stream).lines(), String::new(), String::new());
                while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
                    if let Some(rest) = line.strip_prefix("GET ") {
                        path = rest.split(' ').next().unwrap().to_owned();
                    }
                    if let Some(rest) = line.to_lowercase().strip_prefix("host: ") {
                        host = rest.to_owned();
                    }
                }
                let answer = match path.strip_prefix("/to?") {
                    Some(to) => {
                        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 4\r\n\r\nmove")
                    }
                    None if path == "/bad" => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    None => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.len()),
                };
                lines.into_inner().into_inner().write_all(answer.as_bytes()).await.unwrap();
            }
        });
        // It serves as long as the test goes on.
        std::mem::forget(tasks);
        port
    }

    async fn found(port: u16, path: &str, host: Option<&str>) -> (Finding, Option<String>) {
        let container = Container { name: "c".into(), ..Container::default() };
        let target = Target { id: "1", ip: "127.0.0.1", container: &container };
        let headers = host.map(|host| vec![HTTPHeader { name: "Host".into(), value: host.into() }]);
        let action = HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port.into()),
            http_headers: headers,
            ..HTTPGetAction::default()
        };
        let limit = Duration::from_secs(60);
        let answer = get(&url(&target, &action).unwrap(), &action, limit, "test").await;
        (probe(&target, &action, limit).await, answer.ok().map(|answer| answer.body))
    }

    #[tokio::test]
    async fn redirects_are_followed_to_the_same_host_only() {
        let port = serve().await;
        let own = format!("127.0.0.1:{port}");
        let warning = "Probe terminated redirects, Response body: move".to_owned();
        for (path, host, expected, body) in [
            ("/", None, Finding::Success, Some(own.as_str())),
            ("/ok", Some("a.example"), Finding::Success, Some("a.example")),
            ("/to?/ok", Some("a.example"), Finding::Success, Some("a.example")),
            (&format!("/to?http://{own}/ok"), Some("a.example"), Finding::Success, Some(&own)),
            ("/to?/bad", None, Finding::Failure("HTTP probe failed with statuscode: 500".into()), Some("")),
            ("/to?http://0.0.0.0/ok", None, Finding::Warning(warning), Some("move")),
            ("with space", None, Finding::Success, Some(own.as_str())),
        ] {
            let (finding, said) = found(port, path, host).await;
            assert_eq!((finding, said.as_deref()), (expected, body), "{path}");
        }
        assert_eq!(shown(&Url::parse("http://[::1]:80/a?b").unwrap()), "http://[::1]:80/a?b");
        let again = format!("/to?{}", "/to?".repeat(2));
        assert!(matches!(found(port, &again, None).await.0, Finding::Success | Finding::Warning(_)));
        let (endless, _) = found(port, &format!("{}/ok", "/to?".repeat(20)), None).await;
        assert!(
            matches!(&endless, Finding::Failure(text) if text.ends_with("stopped after 10 redirects")),
            "{endless:?}"
        );
    }
}
