//! One UDP socket: takes what has arrived at once, answers at once what was answered before, and hands the rest to the
//! server, each question by itself.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use futures::StreamExt;
use hickory_server::{
    net::xfer::{BufDnsStreamHandle, Protocol},
    server::{Request, ResponseHandle},
};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrLike, SockaddrStorage, recvmmsg, sendmmsg,
};
use tokio::{io::Interest, net::UdpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Current;

/// Messages taken at once.
const BATCH: usize = 32;
/// Bytes of a question at the most; what is longer is cut and malformed.
const LONGEST: usize = 4096;
/// Questions under way that wait for somebody; more are not listened to.
const UNDER_WAY: usize = 4096;
/// Bytes of a message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Serves a socket until it is told to stop; what is under way then is still answered.
pub(super) async fn serve(socket: UdpSocket, current: Current, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut batch = Batch::new();
    let mut slow = JoinSet::new();
    loop {
        tokio::select! {
            ready = socket.readable() => if let Err(error) = ready {
                return tracing::error!(%error, "a UDP socket failed");
            },
            // Its result is its answer, which is sent.
            Some(_) = slow.join_next() => continue,
            () = stop.cancelled() => break,
        }
        match socket.try_io(Interest::READABLE, || batch.receive(socket.as_raw_fd())) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            // Of an answer somebody did not want (ICMP): nothing to do with this one.
            Err(error) => {
                tracing::debug!(%error, "nothing received");
                continue;
            }
        }
        let rest = batch.answer(&current);
        // A full socket drops answers, as the network may.
        if let Err(error) = socket.try_io(Interest::WRITABLE, || batch.send(socket.as_raw_fd())) {
            tracing::debug!(%error, "answers not sent");
        }
        for (question, from) in rest {
            if slow.len() < UNDER_WAY {
                slow.spawn(ask(socket.clone(), current.clone(), question, from));
            }
        }
    }
    while slow.join_next().await.is_some() {}
}

/// Answers one question by the server.
async fn ask(socket: Arc<UdpSocket>, current: Current, question: Vec<u8>, from: SocketAddr) {
    let server = current.0.load_full();
    let request = match Request::from_bytes(question.clone(), from, Protocol::Udp) {
        Ok(request) => request,
        Err(_) => return send(&socket, &malformed(&question), from).await,
    };
    let version = server.version_of(&request);
    let (handle, mut answers) = BufDnsStreamHandle::new(from);
    let answering = async {
        let mut handle = ResponseHandle::new(from, handle, Protocol::Udp);
        server.respond(&request, &mut handle).await
    };
    let sending = async {
        let answer = answers.next().await?;
        send(&socket, answer.bytes(), from).await;
        Some(answer)
    };
    if let (Some(counted), Some(answer)) = futures::join!(answering, sending)
        && let Some(version) = version
    {
        server.remember(&question, answer.bytes(), version, counted);
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(client = %to, %error, "response not sent");
    }
}

/// The answer to what is no question: its header, with the code for "format error".
fn malformed(question: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    if let (Some(id), Some(flags)) = (question.get(..2), question.get(2)) {
        out[..2].copy_from_slice(id);
        // An answer, with the operation and the wish for recursion of the question.
        out[2] = 0x80 | (flags & 0x79);
        out[3] = 1;
    }
    out
}

/// Whether somebody can be answered there, and what was said is no answer itself.
fn is_question(message: &[u8], from: &SocketAddr) -> bool {
    let nowhere = match from.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    message.len() >= HEADER && message[2] & 0x80 == 0 && from.port() != 0 && !nowhere
}

/// What has arrived, and the answers to it.
struct Batch {
    buffers: Vec<[u8; LONGEST]>,
    /// Length and sender of what is in the buffers.
    arrived: Vec<(usize, Option<SockaddrStorage>)>,
    /// Answers, one behind the other.
    answers: Vec<u8>,
    ends: Vec<Range<usize>>,
    clients: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    fn new() -> Self {
        Self {
            buffers: vec![[0; LONGEST]; BATCH],
            arrived: Vec::with_capacity(BATCH),
            answers: Vec::new(),
            ends: Vec::with_capacity(BATCH),
            clients: Vec::with_capacity(BATCH),
        }
    }

    fn receive(&mut self, fd: RawFd) -> io::Result<()> {
        self.arrived.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let mut from = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let got = recvmmsg(fd, &mut from, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        self.arrived.extend(got.map(|message| (message.bytes, message.address)));
        Ok(())
    }

    /// Answers what was answered before; the rest.
    fn answer(&mut self, current: &Current) -> Vec<(Vec<u8>, SocketAddr)> {
        self.answers.clear();
        self.ends.clear();
        self.clients.clear();
        let server = current.0.load();
        let began = std::time::Instant::now();
        let mut rest = Vec::new();
        for ((length, client), buffer) in self.arrived.iter().zip(&self.buffers) {
            let question = &buffer[..*length];
            let Some(from) = client.as_ref().and_then(address).filter(|from| is_question(question, from))
            else {
                continue;
            };
            let start = self.answers.len();
            if server.recall(question, from.is_ipv4(), began, &mut self.answers) {
                self.ends.push(start..self.answers.len());
                self.clients.push(*client);
            } else {
                rest.push((question.to_vec(), from));
            }
        }
        rest
    }

    fn send(&mut self, fd: RawFd) -> io::Result<()> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.ends.iter().map(|range| [IoSlice::new(&self.answers[range.clone()])]).collect();
        let none: [ControlMessage<'_>; 0] = [];
        let mut to = MultiHeaders::preallocate(BATCH, None);
        sendmmsg(fd, &mut to, slices.iter(), &self.clients, none, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    debug_assert!(storage.len() > 0, "it has a family, so it has a length");
    Some(std::net::SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}
