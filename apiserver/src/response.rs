//! Response bodies and the few ways to build a response.
//!
//! Failures become `v1.Status` objects here; nothing else turns a [`Status`] into HTTP.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::{negotiation::Media, status::Status};

/// Every response's body: whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body sent as it comes.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(chunks.map(|c| c.map(Frame::data))))
}

/// A body made piece by piece, each when the connection has room for it; `length`, where it is known, is what the
/// pieces come to in bytes.
pub fn pieces(
    pieces: impl Iterator<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    length: Option<u64>,
) -> Body {
    Pieces { pieces, left: length }.boxed_unsync()
}

struct Pieces<I> {
    pieces: I,
    left: Option<u64>,
}

impl<I: Iterator<Item = io::Result<Bytes>> + Unpin> http_body::Body for Pieces<I> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.pieces.next();
        if let (Some(Ok(piece)), Some(left)) = (&next, &mut self.left) {
            *left -= piece.len() as u64;
        }
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A response of one content type.
pub fn of(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON.
pub fn json(code: u16, value: &Value) -> Response<Body> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    of(code, "application/json", full(bytes))
}

/// Plain text.
pub fn text(code: u16, text: impl Into<String>) -> Response<Body> {
    let mut response = of(code, "text/plain; charset=utf-8", full(text.into()));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A text that nobody takes for HTML.
pub fn sanitized(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A failure as the client reads it, with `Retry-After` where the status says so.
pub fn failure(status: &Status, media: Media) -> Response<Body> {
    let mut response = if status.is_plain() {
        text(status.code, format!("{status}\n"))
    } else {
        let value = status.to_value();
        match media.encode(&value) {
            Ok(body) => of(status.code, media.content_type(), full(body)),
            Err(_) => json(status.code, &value),
        }
    };
    crate::engine::warning::append(response.headers_mut(), status.warnings());
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}
