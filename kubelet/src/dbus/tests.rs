use std::{
    io::{IoSlice, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net},
    thread::JoinHandle,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;

/// The other side: a bus with one peer on it, for one connection.
pub(crate) struct FakeBus {
    stream: net::UnixStream,
    received: Vec<u8>,
    serial: u32,
}

/// What a peer answers a call with.
pub(crate) enum Reply {
    /// Values.
    Values(Body),
    /// Values, and a descriptor with them.
    Descriptor(OwnedFd),
    /// A failure.
    Failure(&'static str),
}

impl FakeBus {
    /// Serves one connection at the path: `serve` gets every call but those to the bus itself.
    pub(crate) fn serve(
        path: &Path,
        serve: impl FnMut(&mut Self, &Message) -> Reply + Send + 'static,
    ) -> JoinHandle<()> {
        let listener = net::UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut bus = Self { stream, received: vec![], serial: 0 };
            bus.authenticate();
            bus.answer_all(serve);
        })
    }

    fn authenticate(&mut self) {
        for (expected, answer) in [
            ("\0AUTH EXTERNAL ", "OK 0123456789abcdef\r\n"),
            ("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD\r\n"),
            ("BEGIN", ""),
        ] {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                self.stream.read_exact(&mut byte).unwrap();
                line.extend(byte);
            }
            let line = String::from_utf8(line).unwrap();
            assert!(line.starts_with(expected), "{line:?}");
            self.stream.write_all(answer.as_bytes()).unwrap();
        }
    }

    fn answer_all(&mut self, mut serve: impl FnMut(&mut Self, &Message) -> Reply) {
        while let Some(call) = self.message() {
            let reply = match call.member.as_str() {
                "Hello" => Reply::Values(Body::default().text(":1.1")),
                "AddMatch" => Reply::Values(Body::default()),
                _ => serve(self, &call),
            };
            let answer = Message { kind: Kind::Return, reply_to: call.serial, ..Message::default() };
            match reply {
                Reply::Values(body) => self.send(Message { body, ..answer }, None),
                Reply::Descriptor(fd) => {
                    let body = Body::default().descriptor(0);
                    self.send(Message { body, fds: 1, ..answer }, Some(&fd));
                }
                Reply::Failure(text) => {
                    let body = Body::default().text(text);
                    let error = "org.example.Failed".to_owned();
                    self.send(Message { kind: Kind::Error, error, body, ..answer }, None);
                }
            }
        }
    }

    fn message(&mut self) -> Option<Message> {
        loop {
            if let Some((message, length)) = Message::decode(&self.received).unwrap() {
                self.received.drain(..length);
                return Some(message);
            }
            let mut chunk = [0; 512];
            let count = self.stream.read(&mut chunk).unwrap();
            if count == 0 {
                return None;
            }
            self.received.extend(&chunk[..count]);
        }
    }

    /// Sends a message, and a descriptor with it.
    pub(crate) fn send(&mut self, mut message: Message, fd: Option<&OwnedFd>) {
        self.serial += 1;
        message.serial = self.serial;
        let bytes = message.encode();
        let Some(fd) = fd else { return self.stream.write_all(&bytes).unwrap() };
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut beside, SendFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
    }
}

const PEER: Peer = Peer { destination: "org.example", path: "/org/example", interface: "org.example.Peer" };

#[tokio::test]
async fn calls_are_answered_while_signals_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let server = FakeBus::serve(&path, |bus, call| {
        assert_eq!((call.destination.as_str(), call.path.as_str()), ("org.example", "/org/example"));
        match call.member.as_str() {
            "Open" => {
                let member = "Opened".to_owned();
                let body = Body::default().flag(true);
                bus.send(Message { kind: Kind::Signal, member, body, ..Message::default() }, None);
                Reply::Descriptor(std::fs::File::open("/proc/self/status").unwrap().into())
            }
            "Get" => {
                let texts = [Value::Text("org.example.Peer".into()), Value::Text("Size".into())];
                assert_eq!(call.body.values().unwrap(), texts);
                Reply::Values(Body::default().variant(5))
            }
            _ => Reply::Failure("no such method"),
        }
    });
    let mut bus = Bus::at(&path).await.unwrap();
    bus.subscribe(PEER, "Opened").await.unwrap();
    let answer = bus.call(PEER, "Open", Body::default()).await.unwrap();
    assert_eq!(answer.values, [Value::Descriptor(0)]);
    let mut text = String::new();
    let fd = answer.fds.into_iter().next().unwrap();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("Name:"));
    assert_eq!(bus.property(PEER, "Size").await.unwrap(), Value::Number(5));
    let error = bus.call(PEER, "Close", Body::default()).await.unwrap_err().to_string();
    assert_eq!(error, "Close: org.example.Failed: no such method");
    let signal = bus.signal().await.unwrap();
    assert_eq!((signal.member.as_str(), signal.body.values().unwrap()), ("Opened", vec![Value::Flag(true)]));
    drop(bus);
    server.join().unwrap();
}

#[tokio::test]
async fn a_bus_that_refuses_or_leaves_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (i, answer, expected) in [
        (0, "REJECTED EXTERNAL\r\n", "REJECTED EXTERNAL"),
        (1, "", "end of file"),
        (2, "OK 1\r\nERROR\r\n", "ERROR"),
    ] {
        let path = dir.path().join(i.to_string());
        let listener = net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = [0; 8];
            stream.read_exact(&mut first).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        let error = Bus::at(&path).await.map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        server.join().unwrap();
    }
    assert!(Bus::at(&dir.path().join("none")).await.is_err());
}

#[test]
fn addresses_name_a_path() {
    for (addresses, path) in [
        ("unix:path=/run/bus", Some("/run/bus")),
        ("tcp:host=a;unix:guid=1,path=/b", Some("/b")),
        ("unix:abstract=x", None),
        ("", None),
    ] {
        assert_eq!(path_of(addresses), path.map(PathBuf::from), "{addresses}");
    }
}
