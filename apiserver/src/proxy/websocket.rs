//! The server's end of a WebSocket: choice of the subprotocol, the answer, and the connection behind it.
//!
//! Contract: RFC 6455.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::upgrade;
use crate::{
    response::{self, Body},
    status::Status,
};

/// Largest message taken from a client: one write of it.
const MAX_MESSAGE: usize = 4 << 20;

/// A WebSocket towards a client.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether the headers ask for a WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    upgrade::is_upgrade(headers) && wanted.eq_ignore_ascii_case("websocket")
}

/// The subprotocols a client offers.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim)
}

/// What a subprotocol that is a bearer token begins with; the rest is the token in URL-safe base64.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// The bearer token among the subprotocols.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    if !is_websocket(headers) {
        return None;
    }
    let encoded = protocols(headers).find_map(|p| p.strip_prefix(TOKEN))?;
    // One that is no text is no one's token.
    Some(URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|t| String::from_utf8(t).ok()).unwrap_or_default())
}

/// Takes the token out of the subprotocols: it is for this server alone.
pub(super) fn remove_token(headers: &mut HeaderMap) {
    if protocols(headers).all(|p| !p.starts_with(TOKEN)) {
        return;
    }
    let left: Vec<&str> = protocols(headers).filter(|p| !p.starts_with(TOKEN)).collect();
    // Parts of a valid header value are one.
    let left = HeaderValue::from_str(&left.join(", ")).ok();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(left) = left.filter(|left| !left.is_empty()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, left);
    }
}

/// Whether this is a WebSocket with a certain subprotocol among those offered.
pub(super) fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    is_websocket(headers) && protocols(headers).any(|offered| offered == protocol)
}

/// The answer that agrees to a WebSocket; an empty subprotocol is none.
///
/// # Errors
/// 400 for requests that are none.
pub(super) fn agree(headers: &HeaderMap, protocol: &str) -> Result<Response<Body>, Status> {
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("no Sec-WebSocket-Key"))?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("unsupported version of the WebSocket protocol"));
    }
    let value = |text: &str| HeaderValue::from_str(text).map_err(Status::internal);
    let mut response = Response::new(response::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, value(&derive_accept_key(key.as_bytes()))?);
    if !protocol.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, value(protocol)?);
    }
    Ok(response)
}

/// How a connection ends that has done its work. Clients take an end without a code for a failure.
pub(super) fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }
}

/// The connection, once the answer is sent.
pub(super) async fn open(upgrade: OnUpgrade) -> Result<Socket, hyper::Error> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let upgraded = TokioIo::new(upgrade.await?);
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols_are_chosen_from_those_offered() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
        headers.insert(header::UPGRADE, "WebSocket".parse().unwrap());
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, "a, b".parse().unwrap());
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, "c".parse().unwrap());
        assert!(offers(&headers, "b") && offers(&headers, "c") && !offers(&headers, "d"));
        assert!(agree(&headers, "b").is_err());
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        headers.insert(header::SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        assert_eq!(token(&headers), None);
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, format!("{TOKEN}YWJj, d").parse().unwrap());
        assert_eq!(token(&headers).as_deref(), Some("abc"));
        remove_token(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "a, b, c, d");
        let response = agree(&headers, "b").unwrap();
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "b");
    }
}
