//! exec and attach over a WebSocket with the newest protocol: its channels become SPDY streams towards the kubelet.
//!
//! ```text
//! client: [channel, bytes...]          kubelet: streams by their `streamtype`
//!   0 stdin, 4 resize, 255 end of a channel ──→ stdin, resize
//!   1 stdout, 2 stderr                      ←── stdout, stderr
//!   3 how it ended (a Status)               ←── error
//! ```
//! Contract: `v5.channel.k8s.io` (KEP-4006), upstream's `StreamTranslatorHandler`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::{
    Connect,
    dial::{Answer, Target},
    metrics,
    spdy::{Event, Reader, Writer},
    upgrade,
    websocket::{self, Socket},
};
use crate::{request_path::info::Query, response::Body, status::Status};

/// The WebSocket protocol translated.
pub(super) const PROTOCOL: &str = "v5.channel.k8s.io";
/// What it becomes; this version reports how commands end as a Status.
const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Most of a Status, or of a kubelet's complaint, that is read.
const MAX_STATUS: usize = 64 * 1024;

/// Which streams a request wants.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Self {
        let tty = query.flag("tty");
        // A terminal has one output.
        let stderr = query.flag("stderr") && !tty;
        Self { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr, tty }
    }

    /// Channels in the order their streams are opened.
    fn channels(self) -> impl Iterator<Item = (u8, &'static str)> {
        let all = [
            (ERROR, "error", true),
            (STDIN, "stdin", self.stdin),
            (STDOUT, "stdout", self.stdout),
            (STDERR, "stderr", self.stderr),
            (RESIZE, "resize", self.tty),
        ];
        all.into_iter().filter(|(.., wanted)| *wanted).map(|(channel, name, _)| (channel, name))
    }

    /// The first channel the client reads: a message on it tells that the connection stands.
    fn first_output(self) -> u8 {
        if self.stdout {
            STDOUT
        } else if self.stderr {
            STDERR
        } else {
            ERROR
        }
    }
}

/// Agrees to the WebSocket; what goes wrong from here on is told through it.
pub(super) async fn run(mut connect: Connect, kubelet: Target, uri: &str) -> Result<Response<Body>, Status> {
    let response = websocket::agree(connect.request.headers(), PROTOCOL)?;
    let upgrade = upgrade::on(&mut connect.request)?;
    let wanted = Wanted::of(&connect.info.query);
    let request = Connect::spdy_request(&kubelet, uri, &[SPDY_PROTOCOL.to_owned()])?;
    let (drain, tasks) = (connect.server.tasks.drain(), connect.server.tasks.clone());
    connect.server.tasks.spawn_contained("stream", async move {
        let serve = async {
            let mut socket = match websocket::open(upgrade).await {
                Ok(socket) => socket,
                Err(error) => return tracing::debug!(%error, "WebSocket was not upgraded"),
            };
            let hello = Message::binary(vec![wanted.first_output()]);
            if let Err(error) = socket.send(hello).await {
                return tracing::debug!(%error, "WebSocket ended");
            }
            let dialed = kubelet.request(request, &tasks).await;
            match dialed {
                Err(error) => {
                    metrics::translated(500);
                    finish(socket, status_of(&Status::internal(super::stream::dial_failed(&error)))).await
                }
                Ok(answer) if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                    finish(socket, refusal(answer).await).await;
                }
                Ok(answer) => translate(socket, answer, wanted).await,
            }
        };
        drain.run_until_cancelled(serve).await;
    });
    Ok(response)
}

fn status_of(status: &Status) -> Bytes {
    status.to_value().to_string().into()
}

/// Why the kubelet did not upgrade: its own Status, or its words.
async fn refusal(answer: Answer) -> Bytes {
    let Answer { response, guard } = answer;
    let body = Limited::new(response.into_body(), MAX_STATUS).collect().await;
    drop(guard);
    let body = body.map(|b| b.to_bytes()).unwrap_or_default();
    if let Ok(status) = serde_json::from_slice::<Value>(&body)
        && status.get("kind").and_then(Value::as_str) == Some("Status")
    {
        return body;
    }
    let text = String::from_utf8_lossy(&body);
    status_of(&Status::internal(format!("unable to upgrade connection: {}", text.trim())))
}

/// Tells why there is no stream, and ends.
async fn finish(mut socket: Socket, status: Bytes) {
    metrics::translated(500);
    let told = async {
        socket.send(message(ERROR, &status)).await?;
        socket.close(Some(websocket::normal())).await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "WebSocket ended before its status was sent");
    }
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

/// A channel and its stream.
type Open = Vec<(u8, u32)>;

async fn translate(socket: Socket, mut answer: Answer, wanted: Wanted) {
    let backend = match hyper::upgrade::on(&mut answer.response).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return finish(socket, status_of(&Status::internal(error))).await,
    };
    let _connection = answer.guard;
    let (read, write) = tokio::io::split(backend);
    let (mut writer, mut open) = (Writer::new(write), Open::new());
    for (channel, name) in wanted.channels() {
        match writer.open(&[("streamtype", name)]).await {
            Ok(stream) => open.push((channel, stream)),
            Err(error) => return finish(socket, status_of(&Status::internal(error))).await,
        }
    }
    let writer = Mutex::new(writer);
    let (mut sink, source) = socket.split();
    let ended = tokio::select! {
        ended = outputs(Reader::new(read), &writer, &open, &mut sink) => ended,
        () = inputs(source, &writer, &open) => return,
    };
    metrics::translated(if ended.is_ok() { 200 } else { 500 });
    let status = match ended {
        Ok(status) if status.is_empty() => {
            Bytes::from(json!({"metadata": {}, "status": "Success"}).to_string())
        }
        Ok(status) => status,
        Err(Broken::Backend(error)) => status_of(&Status::internal(error)),
        Err(Broken::Client(error)) => return tracing::debug!(%error, "WebSocket ended"),
    };
    let told = async {
        sink.send(message(ERROR, &status)).await?;
        sink.send(Message::Close(Some(websocket::normal()))).await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "WebSocket ended before its status was sent");
    }
}

/// Which side broke.
#[derive(Debug)]
enum Broken {
    Backend(io::Error),
    Client(SocketError),
}

/// From the kubelet to the client, until all streams that end have ended. Returns what the error stream said.
async fn outputs<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut reader: Reader<R>,
    writer: &Mutex<Writer<W>>,
    open: &Open,
    sink: &mut SplitSink<Socket, Message>,
) -> Result<Bytes, Broken> {
    let mut status = BytesMut::new();
    let mut left: Vec<u32> = open
        .iter()
        .filter(|(c, _)| matches!(*c, STDOUT | STDERR | ERROR))
        .map(|(_, stream)| *stream)
        .collect();
    while !left.is_empty() {
        let Some(event) = reader.next().await.map_err(Broken::Backend)? else { break };
        match event {
            Event::Data { stream, data, end } => {
                let channel = open.iter().find(|(_, s)| *s == stream).map(|(channel, _)| *channel);
                match channel {
                    Some(ERROR) => status.put_slice(&data[..data.len().min(MAX_STATUS - status.len())]),
                    Some(channel @ (STDOUT | STDERR)) if !data.is_empty() => {
                        sink.send(message(channel, &data)).await.map_err(Broken::Client)?;
                    }
                    _ => {}
                }
                left.retain(|s| !(end && *s == stream));
            }
            Event::Reset { stream } => left.retain(|s| *s != stream),
            Event::Ping(id) => writer.lock().await.pong(id).await.map_err(Broken::Backend)?,
            Event::GoAway => {}
        }
    }
    Ok(status.freeze())
}

/// From the client to the kubelet, until either leaves.
async fn inputs<W: AsyncWrite + Unpin>(
    mut source: futures::stream::SplitStream<Socket>,
    writer: &Mutex<Writer<W>>,
    open: &Open,
) {
    let stream_of = |channel: u8| open.iter().find(|(c, _)| *c == channel).map(|(_, stream)| *stream);
    let mut stdin = stream_of(STDIN);
    while let Some(Ok(message)) = source.next().await {
        if message.is_close() {
            return;
        }
        if !message.is_binary() && !message.is_text() {
            continue;
        }
        let bytes = message.into_data();
        let sent = match bytes.split_first() {
            Some((&STDIN, data)) if !data.is_empty() => send(writer, stdin, data, false).await,
            Some((&RESIZE, data)) => send(writer, stream_of(RESIZE), data, false).await,
            Some((&CLOSE, [STDIN])) => send(writer, stdin.take(), &[], true).await,
            _ => Ok(()),
        };
        if let Err(error) = sent {
            // The reading side sees the same end, after what the kubelet still had to say.
            tracing::debug!(%error, "stream ended");
            return std::future::pending().await;
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(
    writer: &Mutex<Writer<W>>,
    stream: Option<u32>,
    data: &[u8],
    end: bool,
) -> io::Result<()> {
    match stream {
        Some(stream) => writer.lock().await.data(stream, data, end).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_asked_for() {
        let of = |query: &str| -> Vec<u8> {
            Wanted::of(&Query::parse(query)).channels().map(|(channel, _)| channel).collect()
        };
        assert_eq!(of("stdout=true"), [ERROR, STDOUT]);
        assert_eq!(of("stdin=1&stdout=1&stderr=1&tty=0"), [ERROR, STDIN, STDOUT, STDERR]);
        assert_eq!(of("stdin=1&stdout=1&stderr=1&tty=1"), [ERROR, STDIN, STDOUT, RESIZE]);
        assert_eq!(Wanted::of(&Query::parse("stderr=1")).first_output(), STDERR);
        assert_eq!(Wanted::of(&Query::parse("stdin=1")).first_output(), ERROR);
    }
}
