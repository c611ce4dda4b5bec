//! portforward over a WebSocket: SPDY as it is, cut into messages.
//!
//! Contract: `SPDY/3.1+portforward.k8s.io` (KEP-4006), upstream's `TunnelingHandler`.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Connect,
    dial::{Answer, Target},
    stream::{PROTOCOL_VERSION, dial_failed},
    upgrade,
    websocket::{self, Socket},
};
use crate::{response::Body, status::Status};

const PREFIX: &str = "SPDY/3.1+";
const SUFFIX: &str = ".k8s.io";
const CHUNK: usize = 32 * 1024;

/// The SPDY protocols a WebSocket request wants tunnelled.
pub(super) fn protocols(headers: &HeaderMap) -> Vec<String> {
    if !websocket::is_websocket(headers) {
        return Vec::new();
    }
    let offered = websocket::protocols(headers).filter(|p| p.ends_with(SUFFIX));
    offered.filter_map(|p| p.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

/// Upgrades the kubelet to SPDY and the client to a WebSocket around it.
pub(super) async fn run(mut connect: Connect, kubelet: Target, uri: &str) -> Result<Response<Body>, Status> {
    let offered = protocols(connect.request.headers());
    let request = Connect::spdy_request(&kubelet, uri, &offered)?;
    let answer = kubelet.request(request, &connect.server.tasks).await.map_err(|e| dial_failed(&e))?;
    super::metrics::tunnelled(answer.response.status().as_u16());
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::refused(answer);
    }
    let chosen = answer.response.headers().get(&PROTOCOL_VERSION).and_then(|v| v.to_str().ok());
    let chosen = chosen.or(offered.first().map(String::as_str)).unwrap_or_default();
    let response = websocket::agree(connect.request.headers(), &format!("{PREFIX}{chosen}"))?;
    let client = upgrade::on(&mut connect.request)?;
    let drain = connect.server.tasks.drain();
    connect.server.tasks.spawn_contained("tunnel", async move {
        let serve = async {
            match websocket::open(client).await {
                Ok(socket) => copy(socket, answer).await,
                Err(error) => tracing::debug!(%error, "WebSocket was not upgraded"),
            }
        };
        drain.run_until_cancelled(serve).await;
    });
    Ok(response)
}

async fn copy(socket: Socket, mut answer: Answer) {
    let backend = match hyper::upgrade::on(&mut answer.response).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "the kubelet was not upgraded"),
    };
    let _connection = answer.guard;
    let (mut read, mut write) = tokio::io::split(backend);
    let (mut sink, mut source) = socket.split();
    let down = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        // Reading nothing is the end; an error is one too.
        while matches!(read.read_buf(&mut buffer).await, Ok(n) if n > 0) {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
        if let Err(error) = sink.send(Message::Close(Some(websocket::normal()))).await {
            tracing::debug!(%error, "WebSocket ended");
        }
    };
    let up = async {
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                return;
            }
            let is_data = message.is_binary() || message.is_text();
            if is_data && write.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = down => {}, () = up => {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnelled_protocols_are_told_by_their_prefix() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "sec-websocket-protocol",
            "v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io".parse().unwrap(),
        );
        assert!(protocols(&headers).is_empty());
        headers.insert("connection", "Upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(protocols(&headers), ["portforward.k8s.io"]);
    }
}
