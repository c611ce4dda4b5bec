//! The client's half of SPDY/3.1, as far as streams into containers need it: opening streams, data both ways, ends, pings.
//!
//! Contract: SPDY Protocol Draft 3.1. Like the servers spoken to (moby/spdystream in kubelets and runtimes), it leaves flow
//! control to TCP. Their answers' headers say nothing that matters here, so they are not read.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const FIN: u8 = 1;
/// Data handed over at once.
const CHUNK: usize = 32 * 1024;
/// Largest control frame read: headers are small.
const MAX_CONTROL: usize = 64 * 1024;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What the peer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A piece of a stream; `end` when it is the last one.
    Data { stream: u32, data: Bytes, end: bool },
    /// A stream broken off.
    Reset { stream: u32 },
    /// To be sent back.
    Ping(u32),
    /// No more new streams.
    GoAway,
}

/// Reads the peer's frames.
pub(super) struct Reader<R> {
    inner: R,
    /// The data frame being read: its stream, the bytes missing, and whether it is the stream's last.
    rest: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, rest: None }
    }

    /// The next event; `None` at the end of the connection between frames.
    ///
    /// # Errors
    /// When the connection breaks or the peer speaks something else.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.piece().await? {
                return Ok(Some(event));
            }
            let mut head = [0; 8];
            if self.inner.read(&mut head[..1]).await? == 0 {
                return Ok(None);
            }
            self.inner.read_exact(&mut head[1..]).await?;
            let [a, b, c, d, flags, len @ ..] = head;
            let length = u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize;
            if a & CONTROL == 0 {
                self.rest = Some((u32::from_be_bytes([a, b, c, d]), length, flags & FIN != 0));
                continue;
            }
            if u16::from_be_bytes([a & !CONTROL, b]) != VERSION {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak SPDY/3"));
            }
            if let Some(event) = self.control(u16::from_be_bytes([c, d]), length).await? {
                return Ok(Some(event));
            }
        }
    }

    async fn piece(&mut self) -> io::Result<Option<Event>> {
        let Some((stream, missing, is_last)) = self.rest.take() else { return Ok(None) };
        let mut data = BytesMut::zeroed(missing.min(CHUNK));
        self.inner.read_exact(&mut data).await?;
        let missing = missing - data.len();
        if missing > 0 {
            self.rest = Some((stream, missing, is_last));
        }
        Ok(Some(Event::Data { stream, data: data.freeze(), end: is_last && missing == 0 }))
    }

    async fn control(&mut self, kind: u16, length: usize) -> io::Result<Option<Event>> {
        if length > MAX_CONTROL {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a control frame is too large"));
        }
        let mut body = vec![0; length];
        self.inner.read_exact(&mut body).await?;
        let first = body.first_chunk::<4>().map(|n| u32::from_be_bytes(*n));
        Ok(match (kind, first) {
            (RST_STREAM, Some(stream)) => Some(Event::Reset { stream }),
            (PING, Some(id)) => Some(Event::Ping(id)),
            (GOAWAY, _) => Some(Event::GoAway),
            // Replies, settings and windows.
            _ => None,
        })
    }
}

/// Writes frames.
pub(super) struct Writer<W> {
    inner: W,
    headers: Compress,
    next: u32,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(inner: W) -> Self {
        // No dictionary: a zlib stream says itself whether it uses one, and these headers are a few dozen bytes.
        Self { inner, headers: Compress::new(Compression::default(), true), next: 1 }
    }

    /// Opens a stream with these headers and returns its id.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or(0));
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        self.headers.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        let mut body = BytesMut::with_capacity(10 + block.len());
        body.put_u32(stream);
        // No associated stream, highest priority, no slot.
        body.put_bytes(0, 6);
        body.put_slice(&block);
        self.control(SYN_STREAM, 0, &body).await?;
        Ok(stream)
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> io::Result<()> {
        let mut frame = BytesMut::with_capacity(8 + body.len());
        frame.put_u16(u16::from(CONTROL) << 8 | VERSION);
        frame.put_u16(kind);
        frame.put_u8(flags);
        frame.put_uint(body.len() as u64, 3);
        frame.put_slice(body);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    /// Sends data on a stream; `end` closes our half of it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) async fn data(&mut self, stream: u32, data: &[u8], end: bool) -> io::Result<()> {
        let mut chunks = data.chunks(CHUNK).peekable();
        if data.is_empty() && end {
            return self.chunk(stream, &[], true).await;
        }
        while let Some(chunk) = chunks.next() {
            self.chunk(stream, chunk, end && chunks.peek().is_none()).await?;
        }
        Ok(())
    }

    async fn chunk(&mut self, stream: u32, chunk: &[u8], end: bool) -> io::Result<()> {
        let mut head = BytesMut::with_capacity(8 + chunk.len());
        head.put_u32(stream);
        head.put_u8(if end { FIN } else { 0 });
        head.put_uint(chunk.len() as u64, 3);
        head.put_slice(chunk);
        self.inner.write_all(&head).await?;
        self.inner.flush().await
    }

    /// Sends a ping back.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) async fn pong(&mut self, id: u32) -> io::Result<()> {
        self.control(PING, 0, &id.to_be_bytes()).await
    }
}

#[cfg(test)]
mod tests;
