//! A network proxy ("konnectivity") on this machine: a gRPC stream of packets for each connection.
//!
//! ```text
//! DIAL_REQ ──→ DIAL_RSP ←── then DATA both ways ──→ CLOSE_REQ ──→ CLOSE_RSP ←──
//! ```
//! Contract: sigs.k8s.io/apiserver-network-proxy, `ProxyService`, as its single-use tunnels speak it.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use component_base::task::Tasks;
use hyper_util::rt::TokioIo;
use proto::konnectivity::client::{
    CloseDial, CloseRequest, Data, DialRequest, Packet, PacketType, packet::Payload,
    proxy_service_client::ProxyServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    net::UnixStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::{ConnectError, PATIENCE, Stream, metrics};

/// How long a closed connection waits for the proxy to say so.
const CLOSING: Duration = Duration::from_secs(10);
/// Bytes under way each way inside this server, and of one packet at the most.
const ROOM: usize = 64 * 1024;
/// Packets that wait for the stream.
const PACKETS: usize = 8;

/// The proxy.
pub(super) struct Konnectivity {
    pub(super) socket: PathBuf,
    pub(super) tasks: Tasks,
}

/// A stream of packets to the proxy.
struct Packets {
    out: mpsc::Sender<Packet>,
    back: Streaming<Packet>,
    gauge: metrics::Connection,
}

impl Konnectivity {
    /// A connection to the proxy.
    pub(super) async fn open(&self) -> Result<Channel, ConnectError> {
        let address = self.socket.display().to_string();
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(PATIENCE)
            .connect_with_connector(connector)
            .await;
        channel.map_err(|error| {
            let source = io::Error::other(component_base::workqueue::chain(&error));
            ConnectError::Dial { network: "unix", address, source }
        })
    }

    /// Has the proxy connect to `address`.
    pub(super) async fn tunnel(&self, channel: Channel, address: &str) -> Result<Stream, ConnectError> {
        let attempt = Attempt { is_settled: false };
        let dialed = tokio::time::timeout(PATIENCE, dial(channel, address)).await;
        let dialed = dialed.unwrap_or(Err(("timeout", "dial timeout, backstop".to_owned())));
        let (packets, id) = attempt.settle(dialed)?;
        let (near, far) = tokio::io::duplex(ROOM);
        let drain = self.tasks.drain();
        self.tasks.spawn_contained("konnectivity-connection", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = carry(packets, id, far) => {}
            }
        });
        Ok(Stream::inside(Near(near)))
    }
}

/// A connection asked for; one that nobody waits for any more counts as failed too.
struct Attempt {
    is_settled: bool,
}

impl Attempt {
    fn settle<T>(mut self, outcome: Result<T, (&'static str, String)>) -> Result<T, ConnectError> {
        self.is_settled = true;
        outcome.map_err(|(reason, why)| {
            metrics::not_dialed(reason);
            ConnectError::Refused(why)
        })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_settled {
            metrics::not_dialed("context");
        }
    }
}

/// Asks for a connection; the stream of its packets and its id, or the reason and the words of a failure.
async fn dial(channel: Channel, address: &str) -> Result<(Packets, i64), (&'static str, String)> {
    let random = i64::from(rand::random::<u32>());
    let (out, outgoing) = mpsc::channel(PACKETS);
    let request = DialRequest { protocol: "tcp".to_owned(), address: address.to_owned(), random };
    // The first packet goes ahead of the call: a server may keep its headers until it has something to say.
    let closed = || ("tunnelclosed", "tunnel closed".to_owned());
    out.try_send(packet(PacketType::DialReq, Payload::DialRequest(request))).map_err(|_| closed())?;
    let mut gauge = metrics::Connection::created();
    gauge.is_now("dialing");
    let back = ProxyServiceClient::new(channel).proxy(ReceiverStream::new(outgoing)).await;
    let back = back.map_err(|status| {
        metrics::broke(&status);
        ("unknown", status.to_string())
    })?;
    let mut packets = Packets { out, back: back.into_inner(), gauge };
    loop {
        match packets.next().await {
            Some(Payload::DialResponse(answer)) if answer.random == random => {
                return match answer.error {
                    none if none.is_empty() => {
                        packets.gauge.is_now("ok");
                        Ok((packets, answer.connect_id))
                    }
                    why => Err(("endpoint", why)),
                };
            }
            Some(Payload::CloseDial(CloseDial { random: of })) if of == random => {
                return Err(("dialclosed", "dial closed".to_owned()));
            }
            Some(_) => {}
            None => return Err(closed()),
        }
    }
}

/// Carries bytes between `far` and the proxy until either end closes.
async fn carry(packets: Packets, id: i64, far: DuplexStream) {
    let Packets { out, mut back, mut gauge } = packets;
    let (mut reader, mut writer) = tokio::io::split(far);
    let up = async {
        let mut buffer = vec![0; ROOM];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let data = Data { connect_id: id, error: String::new(), data: buffer[..count].to_vec() };
            if out.send(packet(PacketType::Data, Payload::Data(data))).await.is_err() {
                return;
            }
        }
        gauge.is_now("closing");
        let close = packet(PacketType::CloseReq, Payload::CloseRequest(CloseRequest { connect_id: id }));
        if out.send(close).await.is_ok() {
            tokio::time::sleep(CLOSING).await;
        }
    };
    let down = async {
        while let Some(payload) = next(&mut back).await {
            match payload {
                Payload::Data(data) if data.connect_id == id => {
                    // Nobody reads any more: what is left is the proxy's word that it has closed.
                    writer.write_all(&data.data).await.ok();
                }
                Payload::CloseResponse(closed) if closed.connect_id == id => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

fn packet(kind: PacketType, payload: Payload) -> Packet {
    metrics::sent(kind);
    Packet { r#type: kind.into(), payload: Some(payload) }
}

impl Packets {
    async fn next(&mut self) -> Option<Payload> {
        next(&mut self.back).await
    }
}

/// What the proxy sends next; nothing at the end of the stream.
async fn next(back: &mut Streaming<Packet>) -> Option<Payload> {
    loop {
        match back.message().await {
            Ok(Some(packet)) => {
                metrics::received(packet.r#type);
                if packet.payload.is_some() {
                    return packet.payload;
                }
            }
            Ok(None) => return None,
            Err(status) => {
                metrics::broke(&status);
                tracing::debug!(%status, "the stream to the network proxy broke");
                return None;
            }
        }
    }
}

/// The end a caller has. The protocol closes both directions at once, so only being dropped closes it.
struct Near(DuplexStream);

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
