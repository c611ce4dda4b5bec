//! Static pods from a URL: one pod or a list of pods, asked for again and again.
//!
//! Contract: `staticPodURL`, `staticPodURLHeader` and `httpCheckFrequency` of KubeletConfiguration; what does not answer, or
//! answers nonsense, leaves the pods as they are, and an empty answer is one without pods. Redirects are not followed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use component_base::{task::Tasks, tls::trust};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Host, ManifestError, complete};
use crate::{
    pod,
    pods::{Pods, Source},
    probe::join,
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of an answer.
const MAX_ANSWER: usize = 10 << 20;

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub url: String,
    /// What goes along with the request.
    pub headers: BTreeMap<String, Vec<String>>,
    /// How often.
    pub period: Duration,
}

/// There is no answer that could be used.
#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("{url}: {message}")]
    Exchange { url: String, message: String },
    #[error("{url}: {status}")]
    Status { url: String, status: StatusCode },
    #[error("zero-length data received from {0}")]
    Empty(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Feeds the URL's pods to the workers until the drain.
pub fn run(place: Place, host: Host, pods: Arc<Pods>, tasks: &Tasks) {
    let mut ticks = tasks.ticks(place.period);
    tasks.spawn("manifest-url", async move {
        let mut seen = Bytes::new();
        let mut healthy = true;
        while ticks.next().await {
            match look(&place, &host, &seen).await {
                Ok(found) => {
                    if let Some((bytes, wanted)) = found {
                        seen = bytes;
                        pods.set(Source::Http, wanted.into_iter().map(Arc::new).collect());
                    }
                    if !healthy {
                        tracing::info!(url = place.url, "successfully read pods from URL");
                    }
                    healthy = true;
                }
                Err(error) => {
                    if matches!(error, UrlError::Empty(_)) {
                        seen = Bytes::new();
                        pods.set(Source::Http, vec![]);
                    }
                    // Once is enough, until it works again.
                    if healthy {
                        tracing::warn!(%error, "failed to read pods from URL");
                    }
                    healthy = false;
                }
            }
        }
    });
}

/// Asks, and reads the answer unless it is the one that was seen before.
async fn look(place: &Place, host: &Host, seen: &Bytes) -> Result<Option<(Bytes, Vec<Pod>)>, UrlError> {
    let url = || place.url.clone();
    let exchange = |message: String| UrlError::Exchange { url: url(), message };
    let asked = tokio::time::timeout(PATIENCE, fetch(place)).await;
    let (status, body) =
        asked.map_err(|_| exchange("no answer in time".to_owned()))?.map_err(|e| exchange(e.to_string()))?;
    if status != StatusCode::OK {
        return Err(UrlError::Status { url: url(), status });
    }
    if body.is_empty() {
        return Err(UrlError::Empty(url()));
    }
    if body == *seen {
        return Ok(None);
    }
    let pods = parse(&place.url, &String::from_utf8_lossy(&body), host)?;
    Ok(Some((body, pods)))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn fetch(place: &Place) -> Result<(StatusCode, Bytes), Failure> {
    let uri: Uri = place.url.parse()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let mut request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(header::CONNECTION, "close");
    if let Some(all) = request.headers_mut() {
        for (name, values) in &place.headers {
            let name: HeaderName = name.parse()?;
            // What is asked for wins over what comes of itself.
            all.remove(&name);
            for value in values {
                all.append(&name, HeaderValue::from_str(value)?);
            }
        }
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let stream = tokio::net::TcpStream::connect(join(host, port)).await?;
    if !secure {
        return exchange(stream, request).await;
    }
    let config =
        rustls::ClientConfig::builder().with_root_certificates(trust::system_roots()).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(StatusCode, Bytes), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let ask = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok::<_, Failure>((status, body))
    };
    tokio::pin!(ask, connection);
    // The connection moves the answer, and may be through before it has been read.
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut ask => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// The pods of an answer.
fn parse(url: &str, text: &str, host: &Host) -> Result<Vec<Pod>, ManifestError> {
    let decode = |message: String| ManifestError::Decode { path: url.into(), message };
    let value: Value = serde_saphyr::from_str(text).map_err(|e| decode(e.to_string()))?;
    let items = match value["kind"].as_str() {
        Some("Pod") => vec![value],
        Some("PodList") => value["items"].as_array().cloned().unwrap_or_default(),
        other => {
            let kind = other.unwrap_or_default();
            return Err(decode(format!("couldn't parse as single pod or multiple pods: it is a {kind:?}")));
        }
    };
    let mut all: Vec<Pod> = Vec::new();
    for item in items {
        let text = item.to_string();
        let one = complete(item, "http", &format!("url:{url}\n{text}"), url.as_ref(), host)?;
        if all.iter().any(|other| pod::uid(other) == pod::uid(&one)) {
            return Err(decode(format!("two pods have the uid {}", pod::uid(&one))));
        }
        all.push(one);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    fn host(name: &str) -> Host {
        Host { name: name.to_owned(), strict: true, comparing: false }
    }

    #[test]
    fn one_pod_or_a_list_of_pods_is_taken() {
        let one = parse("http://a/b", POD, &host("node1")).unwrap();
        assert_eq!((pod::name(&one[0]), pod::namespace(&one[0])), ("web-node1", "default"));
        assert_eq!(pod::annotation(&one[0], pod::SOURCE_ANNOTATION), Some("http"));
        assert!(pod::is_static(&one[0]) && pod::spec(&one[0]).tolerations.is_none());
        let list = r#"{"kind":"PodList","apiVersion":"v1","items":[
            {"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}},
            {"metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i"}]}}]}"#;
        let two = parse("http://a/b", list, &host("n")).unwrap();
        assert_eq!(two.iter().map(pod::name).collect::<Vec<_>>(), ["a-n", "b-n"]);
        assert_ne!(pod::uid(&two[0]), pod::uid(&two[1]));
        let elsewhere = parse("http://a/c", POD, &host("node1")).unwrap();
        assert_ne!(pod::uid(&elsewhere[0]), pod::uid(&one[0]), "the same pod of another place is another");
        assert!(parse("u", r#"{"kind":"PodList","items":[]}"#, &host("n")).unwrap().is_empty());
        for bad in ["", "{", "kind: Service", "kind: Pod", &list.replace("\"b\"", "\"\"")] {
            assert!(parse("u", bad, &host("n")).is_err(), "{bad}");
        }
    }

    /// Answers one request with this, and gives back what was asked.
    async fn serve(answer: &'static str) -> (Place, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pods?x=1", listener.local_addr().unwrap());
        let headers = BTreeMap::from([("X-Key".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        #[allow(clippy::disallowed_methods, reason = "a test has no group of tasks")]
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (Place { url, headers, period: Duration::from_secs(1) }, asked)
    }

    #[tokio::test]
    async fn the_url_is_asked_with_its_headers_and_what_was_seen_is_not_read_again() {
        let (place, asked) =
            serve("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nkind: PodList\nitems: []\n").await;
        let (body, pods) = look(&place, &host("n"), &Bytes::new()).await.unwrap().unwrap();
        assert!(pods.is_empty() && body.starts_with(b"kind"));
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("get /pods?x=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-key: a\r\nx-key: b\r\n"), "{asked}");
        let (again, _) =
            serve("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nkind: PodList\nitems: []\n").await;
        assert!(look(&again, &host("n"), &body).await.unwrap().is_none());
        let (empty, _) = serve("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(look(&empty, &host("n"), &body).await, Err(UrlError::Empty(_))));
        let (missing, _) = serve("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(look(&missing, &host("n"), &body).await, Err(UrlError::Status { .. })));
    }
}
