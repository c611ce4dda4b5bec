//! `pods/log`: what a container wrote, streamed from its kubelet.
//!
//! A client that asks for a WebSocket gets the same bytes as messages: an empty one first, which says that the stream
//! stands, then what the container wrote.
//!
//! Contract: core/v1 PodLogOptions; upstream's `LogREST` and its response checker; the subprotocols `binary.k8s.io` and
//! `base64.binary.k8s.io`.

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use bytes::Bytes;
use component_base::features::Gate;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Connect,
    dial::{self, Answer, DialError, Target},
    metrics,
    stream::{container_of, encode},
    upgrade, websocket,
};
use crate::{
    field::{Error, ErrorList, Path},
    request_path::info::Query,
    response::{self, Body},
    status::{Details, GroupName, Reason, Status},
};

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// The client or the kubelet went away.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    WebSocket(#[from] tokio_tungstenite::tungstenite::Error),
}

/// How much of a kubelet's complaint is read.
const MAX_COMPLAINT: usize = 50_000;
const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

/// The options as the kubelet takes them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    container: String,
    insecure: bool,
    /// Name and value.
    parameters: Vec<(&'static str, String)>,
}

impl Connect {
    pub(super) async fn log(mut self) -> Result<Response<Body>, Status> {
        let name = self.info.name.as_str();
        let streams = self.server.gates.has(Gate::PodLogsQuerySplitStreams);
        let options = parse(&self.info.query, name, streams)?;
        metrics::logs(options.insecure);
        let pod = self.pod().await?;
        let container = container_of(&pod, &options.container)?;
        let node = pod.pointer("/spec/nodeName").and_then(|n| n.as_str()).unwrap_or_default();
        if node.is_empty() {
            return Ok(response::of(200, "text/plain", response::full(Bytes::new())));
        }
        let kubelet = self.server.kubelets.locate(&*self.server.objects, node, options.insecure).await?;
        let path = format!("/containerLogs/{}/{}/{container}", encode(pod.namespace()), encode(pod.name()));
        let answer = self.fetch(&kubelet, &path, &options.parameters).await?;
        let code = answer.response.status().as_u16();
        if !(200..=206).contains(&code) {
            return Err(complaint(code, answer, name).await);
        }
        if websocket::is_websocket(self.request.headers()) {
            return self.log_over_websocket(answer);
        }
        Ok(response::of(200, "text/plain", body(answer)))
    }

    fn log_over_websocket(&mut self, answer: Answer) -> Result<Response<Body>, Status> {
        let protocol = subprotocol(self.request.headers())?;
        let response = websocket::agree(self.request.headers(), protocol)?;
        let (upgrade, drain) = (upgrade::on(&mut self.request)?, self.server.tasks.drain());
        let base64 = protocol == BASE64;
        self.server.tasks.spawn_contained("log", async move {
            let Some(result) = drain.run_until_cancelled(send_all(upgrade, answer, base64)).await else {
                return;
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a log's reader left");
            }
        });
        Ok(response)
    }

    async fn fetch(
        &self,
        kubelet: &Target,
        path: &str,
        parameters: &[(&'static str, String)],
    ) -> Result<Answer, Status> {
        let query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        let request = Request::get(&uri)
            .header(header::HOST, kubelet.authority())
            .header(header::USER_AGENT, component_base::version::user_agent("kube-apiserver"))
            .body(dial::empty())
            .map_err(Status::internal)?;
        kubelet.request(request, &self.server.tasks).await.map_err(|error| {
            if matches!(error, DialError::Tls(_)) {
                metrics::logs_tls_failed();
            }
            let url = format!("https://{}{uri}", kubelet.authority());
            Status::new(500, Reason::Unknown, format!("Get {url:?}: {error}"))
        })
    }
}

/// The subprotocol to speak: the first offered one that is known, or none when none is offered.
fn subprotocol(headers: &HeaderMap) -> Result<&'static str, Status> {
    let mut offered = websocket::protocols(headers).filter(|p| !p.is_empty()).peekable();
    if offered.peek().is_none() {
        return Ok("");
    }
    let known = offered.find_map(|offer| [BINARY, BASE64].into_iter().find(|known| *known == offer));
    known.ok_or_else(|| Status::bad_request("requested protocol(s) are not supported"))
}

/// Sends the log as messages, until it ends or the client leaves.
async fn send_all(upgrade: OnUpgrade, answer: Answer, base64: bool) -> Result<(), SendError> {
    let Answer { response, guard } = answer;
    let _connection = guard;
    let message = |bytes: Bytes| {
        if base64 { Message::text(STANDARD.encode(bytes)) } else { Message::binary(bytes) }
    };
    let (mut client, mut heard) = websocket::open(upgrade).await?.split();
    let mut frames = BodyStream::new(response.into_body());
    client.send(message(Bytes::new())).await?;
    loop {
        tokio::select! {
            frame = frames.next() => match frame {
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        client.send(message(bytes)).await?;
                    }
                }
                None => {
                    client.send(Message::Close(Some(websocket::normal()))).await?;
                    return Ok(());
                }
            },
            // What a reader of a log says is of no interest, except that it goes.
            said = heard.next() => if !matches!(said, Some(Ok(ref m)) if !m.is_close()) { return Ok(()) },
        }
    }
}

/// A body handed on as it comes. The connection lives as long as the reader.
pub(super) fn body(answer: Answer) -> Body {
    let Answer { response, guard } = answer;
    let chunks = BodyStream::new(response.into_body()).filter_map(move |frame| {
        let _connection = &guard;
        let chunk = match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(io::Error::other(error))),
        };
        std::future::ready(chunk)
    });
    response::stream(chunks)
}

/// What a kubelet's failure means to the client.
async fn complaint(code: u16, answer: Answer, name: &str) -> Status {
    let Answer { response, guard } = answer;
    let read = Limited::new(response.into_body(), MAX_COMPLAINT).collect().await;
    drop(guard);
    let text = read.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    refusal(code, &text, name)
}

/// Upstream's words for a backend's failure. Pure.
fn refusal(code: u16, text: &str, name: &str) -> Status {
    let resource = GroupName::new("", "pods/log");
    let (reason, message) = match code {
        400 => return Status::bad_request(text),
        401 => {
            (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned())
        }
        403 => (Reason::Forbidden, text.to_owned()),
        404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        500 => return Status::internal(text),
        503 => {
            (Reason::ServiceUnavailable, "the server is currently unable to handle the request".to_owned())
        }
        501.. => (
            Reason::InternalError,
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
        _ => (
            Reason::Unknown,
            format!("the server responded with the status code {code} but did not return more information"),
        ),
    };
    let details = Details { name: name.to_owned(), kind: resource.name.clone(), ..Details::default() };
    Status::new(code, reason, format!("{message} ( {resource} {name})")).with_details(details)
}

fn parse(query: &Query, name: &str, streams: bool) -> Result<Options, Status> {
    let mut options = Options {
        container: query.get("container").to_owned(),
        insecure: query.flag("insecureSkipTLSVerifyBackend"),
        parameters: Vec::new(),
    };
    let mut errors = ErrorList::new();
    let parameters = &mut options.parameters;
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            parameters.push((flag, "true".to_owned()));
        }
    }
    let since_time = query.get("sinceTime");
    if !query.get("sinceSeconds").is_empty() && !since_time.is_empty() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(Error::forbidden(&Path::new(""), why));
    }
    for (field, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(number) = number(query, field)? else { continue };
        if number < least {
            errors.push(Error::invalid(&Path::new(field), number, why));
        }
        parameters.push((field, number.to_string()));
    }
    if !since_time.is_empty() {
        let at: Timestamp = since_time.parse().map_err(|e| Status::bad_request(format!("sinceTime: {e}")))?;
        parameters.push(("sinceTime", at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    }
    if streams {
        check_stream(query, parameters, &mut errors);
    } else if query.has("stream") {
        errors.push(Error::forbidden(&Path::new("stream"), "may not be specified"));
    }
    if errors.is_empty() {
        return Ok(options);
    }
    Err(Status::invalid(&GroupName::new("", "PodLogOptions"), name, &errors))
}

fn check_stream(query: &Query, parameters: &mut Vec<(&'static str, String)>, errors: &mut ErrorList) {
    let stream = if query.has("stream") { query.get("stream") } else { "All" };
    if !STREAMS.contains(&stream) {
        errors.push(Error::not_supported(&Path::new("stream"), stream, &STREAMS));
    }
    if stream != "All" && !query.get("tailLines").is_empty() {
        let why = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(Error::forbidden(&Path::new(""), why));
    }
    parameters.push(("stream", stream.to_owned()));
}

fn number(query: &Query, field: &str) -> Result<Option<i64>, Status> {
    match query.get(field) {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_subprotocol_is_spoken() {
        let of = |offered: &[&str]| {
            let mut headers = HeaderMap::new();
            for offer in offered {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
            }
            subprotocol(&headers).map_err(|e| e.code)
        };
        assert_eq!(of(&[]), Ok(""));
        assert_eq!(of(&["x, base64.binary.k8s.io", "binary.k8s.io"]), Ok(BASE64));
        assert_eq!(of(&["binary.k8s.io"]), Ok(BINARY));
        assert_eq!(of(&["v5.channel.k8s.io"]), Err(400));
    }

    #[test]
    fn options_are_checked_and_handed_on() {
        let asked = |text: &str, streams: bool| {
            parse(&Query::parse(text), "p", streams).map_err(|e| (e.code, e.message))
        };
        let of = |text: &str| asked(text, true);
        assert_eq!(asked("", false).unwrap().parameters, []);
        let (code, message) = asked("stream=All", false).unwrap_err();
        assert!(code == 422 && message.ends_with("stream: Forbidden: may not be specified"), "{message}");
        let plain = of("").unwrap();
        assert_eq!(plain.parameters, [("stream", "All".to_owned())]);
        let all = "container=c&follow=true&previous=1&timestamps=&tailLines=5&limitBytes=9&sinceSeconds=60\
                   &insecureSkipTLSVerifyBackend=true";
        let all = of(all).unwrap();
        assert!(all.insecure && all.container == "c");
        let names: Vec<&str> = all.parameters.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["follow", "previous", "timestamps", "tailLines", "limitBytes", "sinceSeconds", "stream"]
        );
        let since = of("sinceTime=2024-01-02T03:04:05%2B01:00&follow=false").unwrap();
        assert_eq!(since.parameters[0], ("sinceTime", "2024-01-02T02:04:05Z".to_owned()));
        for (bad, code, part) in [
            ("tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0"),
            (
                "sinceSeconds=1&sinceTime=2024-01-02T03:04:05Z",
                422,
                "at most one of `sinceTime` or `sinceSeconds`",
            ),
            (
                "stream=Foo",
                422,
                "stream: Unsupported value: \"Foo\": supported values: \"All\", \"Stderr\", \"Stdout\"",
            ),
            ("stream=Stdout&tailLines=1", 422, "mutually exclusive"),
            ("tailLines=x", 400, "invalid syntax"),
            ("sinceTime=yesterday", 400, "sinceTime"),
        ] {
            let (got, message) = of(bad).unwrap_err();
            assert!(got == code && message.contains(part), "{bad}: {got} {message}");
        }
    }

    #[test]
    fn complaints_keep_their_meaning() {
        for (code, part) in [
            (400, "container not running"),
            (404, "the server could not find the requested resource ( pods/log p)"),
            (500, "Internal error occurred: container not running"),
            (503, "currently unable to handle"),
            (502, "an error on the server (\"container not running\")"),
        ] {
            let status = refusal(code, "container not running", "p");
            assert!(status.code == code && status.message.contains(part), "{status}");
        }
    }
}
