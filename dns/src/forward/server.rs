//! One server that is asked: over UDP from a fresh port each time (RFC 5452), over TCP (RFC 7766) and TLS (RFC 7858)
//! by connections that are kept for a while.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use hickory_proto::op::{Message, MessageType, Query};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    sync::Notify,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::metrics::Metrics;

/// Answers over UDP are at most this long; we say so to servers.
const LONGEST: usize = 4096;

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over UDP, and over TCP once more if the answer was cut.
    Udp,
    /// Over TCP; over TLS where the server is asked so.
    Stream,
}

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    tls: Option<Secure>,
    /// Connections for the next query, the one used last at the end.
    idle: Mutex<Vec<(Connection, Instant)>>,
    expire: Duration,
    max_idle: usize,
    /// Failed checks since it answered last.
    fails: AtomicU32,
    /// It has failed, and no check has gone well since.
    suspect: AtomicBool,
    failed: Notify,
    /// Where is asked from; anywhere when absent.
    source: Option<IpAddr>,
    metrics: Option<Metrics>,
}

struct Secure {
    connector: TlsConnector,
    name: ServerName<'static>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Connection(Box<dyn Stream>);

// === impl Server ===

impl Server {
    pub(super) fn new(address: SocketAddr, expire: Duration, max_idle: usize) -> Self {
        Self {
            address,
            tls: None,
            idle: Mutex::default(),
            expire,
            max_idle,
            fails: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
            failed: Notify::new(),
            source: None,
            metrics: None,
        }
    }

    /// It is asked from this address.
    pub(super) fn from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// Connections to it are counted.
    pub(super) fn counting(self, metrics: Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    fn connected(&self, protocol: &str, is_kept: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.connected(&self.address.to_string(), protocol, is_kept);
        }
    }

    fn stream_protocol(&self) -> &'static str {
        if self.tls.is_some() { "tcp-tls" } else { "tcp" }
    }

    /// The server is asked over TLS, and its certificate must bear the name; its address where there is none.
    pub(super) fn over_tls(self, config: Arc<ClientConfig>, name: Option<ServerName<'static>>) -> Self {
        let name = name.unwrap_or_else(|| ServerName::IpAddress(self.address.ip().into()));
        Self { tls: Some(Secure { connector: config.into(), name }), ..self }
    }

    /// Asks, and takes the answer to this question only.
    pub(super) async fn ask(&self, asked: &Message, way: Way) -> io::Result<Message> {
        let bytes = asked.to_vec().map_err(invalid)?;
        if self.tls.is_none() && way == Way::Udp {
            let answer = self.over_udp(&bytes, asked).await?;
            if !answer.metadata.truncation {
                return Ok(answer);
            }
        }
        self.over_stream(&bytes, asked).await
    }

    /// Whether more checks have failed than may; 0 is any number.
    pub(super) fn is_down(&self, max_fails: u32) -> bool {
        max_fails != 0 && self.fails.load(Ordering::Relaxed) > max_fails
    }

    /// Whether it failed when it was asked last.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// A query failed: checks begin.
    pub(super) fn has_failed(&self) {
        self.suspect.store(true, Ordering::Relaxed);
        self.failed.notify_one();
    }

    /// The outcome of a check.
    pub(super) fn checked(&self, well: bool) {
        if well {
            self.fails.store(0, Ordering::Relaxed);
            self.suspect.store(false, Ordering::Relaxed);
        } else {
            self.fails.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until it is suspect.
    pub(super) async fn wait_suspect(&self) {
        while !self.is_suspect() {
            self.failed.notified().await;
        }
    }

    /// Connections kept for the next query.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.idle.lock().len()
    }

    async fn over_udp(&self, bytes: &[u8], asked: &Message) -> io::Result<Message> {
        let any = match self.address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((self.source.unwrap_or(any), 0)).await?;
        self.connected("udp", false);
        // A connected socket takes datagrams from this server only.
        socket.connect(self.address).await?;
        socket.send(bytes).await?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let size = socket.recv(&mut buffer).await?;
            match Message::from_vec(&buffer[..size]) {
                Ok(answer) if answers(asked, &answer) => return Ok(answer),
                // A forged datagram must not end the wait for the real one.
                _ => {}
            }
        }
    }

    /// A connection that was kept may be closed by now, which says nothing about the server: then a new one is made.
    async fn over_stream(&self, bytes: &[u8], asked: &Message) -> io::Result<Message> {
        while let Some(mut connection) = self.kept_connection() {
            self.connected(self.stream_protocol(), true);
            if let Ok(answer) = connection.exchange(bytes, asked).await {
                self.keep(connection);
                return Ok(answer);
            }
        }
        self.connected(self.stream_protocol(), false);
        let mut connection = self.connect().await?;
        let answer = connection.exchange(bytes, asked).await?;
        self.keep(connection);
        Ok(answer)
    }

    fn kept_connection(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        let over = idle.partition_point(|(_, since)| now.duration_since(*since) >= self.expire);
        idle.drain(..over);
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < self.max_idle {
            idle.push((connection, Instant::now()));
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Connection(Box::new(stream))),
            Some(secure) => {
                let stream = secure.connector.connect(secure.name.clone(), stream).await?;
                Ok(Connection(Box::new(stream)))
            }
        }
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Secure").field(&self.name).finish()
    }
}

// === impl Connection ===

impl Connection {
    /// One query at a time, so the next message is its answer.
    async fn exchange(&mut self, bytes: &[u8], asked: &Message) -> io::Result<Message> {
        let length = u16::try_from(bytes.len()).map_err(invalid)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(bytes);
        self.0.write_all(&framed).await?;
        self.0.flush().await?;
        let mut buffer = vec![0; usize::from(self.0.read_u16().await?)];
        self.0.read_exact(&mut buffer).await?;
        let answer = Message::from_vec(&buffer).map_err(invalid)?;
        if answers(asked, &answer) { Ok(answer) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether `answer` answers `asked`: anything else is noise or an attack.
fn answers(asked: &Message, answer: &Message) -> bool {
    let same = |(a, b): (&Query, &Query)| {
        a.query_type() == b.query_type() && a.name().to_lowercase() == b.name().to_lowercase()
    };
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && asked.queries.len() == answer.queries.len()
        && asked.queries.iter().zip(&answer.queries).all(same)
}
