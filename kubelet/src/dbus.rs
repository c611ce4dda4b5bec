//! A connection to the system's message bus: calls, signals and the file descriptors that come with answers.
//!
//! As much of D-Bus as a kubelet says to logind and systemd; the messages are in `message`.
//! Contract: D-Bus specification 0.43, transport `unix:path=`, authentication EXTERNAL, UNIX_FDS.

pub mod message;

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
};

use self::message::{Body, Kind, Message, MessageError, Value};

/// Where the system's bus is, unless the environment says otherwise.
const SYSTEM: &str = "/run/dbus/system_bus_socket";
const VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// Most signals that are kept while an answer is waited for: a signal is some hundred bytes, and nobody sends many.
const SIGNALS: usize = 64;

/// The bus, or who is on it, does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The connection.
    #[error("the message bus: {0}")]
    Io(#[from] io::Error),
    /// The bus is somewhere else than at a path.
    #[error("the message bus's address {0:?} is no unix:path=")]
    Address(String),
    /// It does not let the kubelet in.
    #[error("the message bus refuses: {0:?}")]
    Refused(String),
    /// A message makes no sense.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The answer is an error.
    #[error("{member}: {name}: {text}")]
    Failed {
        /// What was called.
        member: &'static str,
        /// The error's name.
        name: String,
        /// Its words.
        text: String,
    },
    /// The answer is something else than was asked for.
    #[error("{0}: unexpected answer")]
    Answer(&'static str),
    /// No answer in time.
    #[error("{0}: no answer")]
    Silence(&'static str),
}

/// Who is called.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its name on the bus.
    pub destination: &'static str,
    /// The object.
    pub path: &'static str,
    /// The interface.
    pub interface: &'static str,
}

const BUS: Peer = Peer {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its values.
    pub values: Vec<Value>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

/// A connection.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    received: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    signals: VecDeque<Message>,
}

/// Connects to the system's bus.
///
/// # Errors
/// When there is none, or it does not let the kubelet in.
pub async fn system() -> Result<Bus, BusError> {
    // Text that is no Unicode is no address, either.
    let path = match std::env::var(VARIABLE).ok().filter(|address| !address.is_empty()) {
        Some(address) => path_of(&address).ok_or(BusError::Address(address))?,
        None => SYSTEM.into(),
    };
    Bus::at(&path).await
}

/// The path in the first usable of the addresses.
fn path_of(addresses: &str) -> Option<PathBuf> {
    let mut paths = addresses.split(';').filter_map(|address| {
        address.strip_prefix("unix:")?.split(',').find_map(|pair| pair.strip_prefix("path="))
    });
    paths.next().map(PathBuf::from)
}

impl Bus {
    /// Connects to the bus at a path, and says hello.
    ///
    /// # Errors
    /// When it does not answer as a bus does.
    pub async fn at(path: &Path) -> Result<Self, BusError> {
        let stream = UnixStream::connect(path).await?;
        let mut bus =
            Self { stream, serial: 0, received: vec![], fds: VecDeque::new(), signals: VecDeque::new() };
        let greeted = async {
            bus.authenticate().await?;
            bus.call(BUS, "Hello", Body::default()).await
        };
        tokio::time::timeout(PATIENCE, greeted).await.map_err(|_| BusError::Silence("Hello"))??;
        Ok(bus)
    }

    async fn authenticate(&mut self) -> Result<(), BusError> {
        let uid = nix::unistd::getuid().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes()).await?;
        self.expect_line("OK").await?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        self.expect_line("AGREE_UNIX_FD").await?;
        Ok(self.stream.write_all(b"BEGIN\r\n").await?)
    }

    async fn expect_line(&mut self, first: &str) -> Result<(), BusError> {
        let end = loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            if self.received.len() > 4096 {
                return Err(BusError::Refused("an endless line".to_owned()));
            }
            self.receive().await?;
        };
        let line: Vec<u8> = self.received.drain(..end + 2).collect();
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        if line.split(' ').next() == Some(first) { Ok(()) } else { Err(BusError::Refused(line)) }
    }

    /// Takes in what has come, and the descriptors with it.
    async fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            self.stream.readable().await?;
            let fds = &mut self.fds;
            let read = self.stream.try_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut chunk)];
                let got = recvmsg(&self.stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
                for extra in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(more) = extra {
                        fds.extend(more);
                    }
                }
                if got.flags.contains(ReturnFlags::CTRUNC) {
                    return Err(io::Error::other("more descriptors than anybody asked for"));
                }
                Ok(got.bytes)
            });
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole message.
    async fn message(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some((message, length)) = Message::decode(&self.received)? {
                self.received.drain(..length);
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    /// Calls a method and waits for its answer; signals that come in between are kept.
    ///
    /// # Errors
    /// When there is no answer, or it is an error.
    pub async fn call(&mut self, peer: Peer, member: &'static str, body: Body) -> Result<Answer, BusError> {
        let answered = self.answer(peer, member, body);
        tokio::time::timeout(PATIENCE, answered).await.map_err(|_| BusError::Silence(member))?
    }

    async fn answer(&mut self, peer: Peer, member: &'static str, body: Body) -> Result<Answer, BusError> {
        // Zero is no serial.
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        let serial = self.serial;
        let call = Message {
            kind: Kind::Call,
            serial,
            path: peer.path.to_owned(),
            interface: peer.interface.to_owned(),
            destination: peer.destination.to_owned(),
            member: member.to_owned(),
            body,
            ..Message::default()
        };
        self.stream.write_all(&call.encode()).await?;
        loop {
            let message = self.message().await?;
            let fds: Vec<OwnedFd> = (0..message.fds.min(64)).filter_map(|_| self.fds.pop_front()).collect();
            match message.kind {
                Kind::Return if message.reply_to == serial => {
                    return Ok(Answer { values: message.body.values()?, fds });
                }
                Kind::Error if message.reply_to == serial => {
                    let values = message.body.values().unwrap_or_default();
                    let text = match values.first() {
                        Some(Value::Text(text)) => text.clone(),
                        _ => String::new(),
                    };
                    return Err(BusError::Failed { member, name: message.error, text });
                }
                Kind::Signal if self.signals.len() < SIGNALS => self.signals.push_back(message),
                // One signal too many; an answer to a call that was given up; or a call: nobody has reason to call a kubelet.
                _ => {}
            }
        }
    }

    /// Has the bus send a signal from now on.
    ///
    /// # Errors
    /// When the bus refuses.
    pub async fn subscribe(&mut self, peer: Peer, member: &str) -> Result<(), BusError> {
        let Peer { path, interface, destination } = peer;
        let rule = format!(
            "type='signal',sender='{destination}',path='{path}',interface='{interface}',member='{member}'"
        );
        self.call(BUS, "AddMatch", Body::default().text(&rule)).await.map(drop)
    }

    /// The next signal.
    ///
    /// # Errors
    /// When the connection ends, or nonsense comes.
    pub async fn signal(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(kept) = self.signals.pop_front() {
                return Ok(kept);
            }
            let message = self.message().await?;
            // Nobody waits for what comes with anything else.
            self.fds.clear();
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }

    /// A property.
    ///
    /// # Errors
    /// When there is none.
    pub async fn property(&mut self, peer: Peer, name: &'static str) -> Result<Value, BusError> {
        let properties = Peer { interface: "org.freedesktop.DBus.Properties", ..peer };
        let body = Body::default().text(peer.interface).text(name);
        let answer = self.call(properties, "Get", body).await?;
        answer.values.into_iter().next().ok_or(BusError::Answer(name))
    }
}

#[cfg(test)]
pub(crate) mod tests;
