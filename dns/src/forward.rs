//! Asking other servers (the `forward` directive).
//!
//! Queries go out over UDP with a fresh id from a fresh port each (RFC 5452), over TCP when the answer
//! was cut. A server that fails is asked last for a while; the number of queries under way is bounded.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::corefile::{Forward, Policy, Upstream};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server that failed is asked last, in milliseconds.
const PENALTY: u64 = 10_000;
/// Queries under way at once unless configured.
const DEFAULT_CONCURRENT: usize = 1000;
/// Advertised UDP size (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Too many queries are under way.
    #[error("more than {0} queries are being forwarded")]
    Overloaded(usize),
    /// No server is configured.
    #[error("no upstream server")]
    NoServer,
    /// The last server asked failed.
    #[error("upstream {server} failed")]
    Upstream {
        /// The server.
        server: SocketAddr,
        /// How.
        #[source]
        source: io::Error,
    },
}

/// One `forward` directive at work.
#[derive(Debug)]
pub struct Forwarder {
    servers: Vec<Server>,
    policy: Policy,
    force_tcp: bool,
    permits: Semaphore,
    most: usize,
    turn: AtomicUsize,
    started: std::time::Instant,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Milliseconds since the start until which the server is asked last.
    avoid_until: AtomicU64,
}

impl Forwarder {
    /// Resolves the directive's servers; files are read now.
    pub fn new(directive: &Forward) -> io::Result<Self> {
        let mut servers = Vec::new();
        for upstream in &directive.to {
            match upstream {
                Upstream::Server(address) => servers.push(*address),
                Upstream::File(path) => servers.extend(read_resolv_conf(path)?),
            }
        }
        let servers = servers.into_iter().map(|address| Server { address, avoid_until: AtomicU64::new(0) });
        let most = if directive.max_concurrent == 0 { DEFAULT_CONCURRENT } else { directive.max_concurrent };
        Ok(Self {
            servers: servers.collect(),
            policy: directive.policy,
            force_tcp: directive.force_tcp,
            permits: Semaphore::new(most),
            most,
            turn: AtomicUsize::new(0),
            started: std::time::Instant::now(),
        })
    }

    /// Addresses of the servers.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|s| s.address)
    }

    /// Asks the servers in turn until one answers.
    pub async fn ask(
        &self,
        query: &Query,
        dnssec: bool,
        checking_disabled: bool,
    ) -> Result<Message, ForwardError> {
        let Ok(_permit) = self.permits.try_acquire() else {
            return Err(ForwardError::Overloaded(self.most));
        };
        let mut failure = ForwardError::NoServer;
        for server in self.order() {
            match timeout(PATIENCE, self.ask_one(server.address, query, dnssec, checking_disabled)).await {
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(source)) => failure = ForwardError::Upstream { server: server.address, source },
                Err(_) => {
                    let source = io::Error::from(io::ErrorKind::TimedOut);
                    failure = ForwardError::Upstream { server: server.address, source };
                }
            }
            server.avoid_until.store(self.now() + PENALTY, Ordering::Relaxed);
        }
        Err(failure)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Servers in the policy's order, failed ones last.
    fn order(&self) -> Vec<&Server> {
        let count = self.servers.len().max(1);
        let start = match self.policy {
            Policy::Random => rand::random_range(0..count),
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % count,
            Policy::Sequential => 0,
        };
        let now = self.now();
        let mut out: Vec<&Server> =
            self.servers.iter().cycle().skip(start).take(self.servers.len()).collect();
        out.sort_by_key(|s| s.avoid_until.load(Ordering::Relaxed) > now);
        out
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        query: &Query,
        dnssec: bool,
        checking_disabled: bool,
    ) -> io::Result<Message> {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = checking_disabled;
        message.add_query(query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE);
        edns.set_dnssec_ok(dnssec);
        message.set_edns(edns);
        let bytes = message.to_vec().map_err(invalid)?;
        if !self.force_tcp {
            let answer = over_udp(server, &bytes, &message).await?;
            if !answer.metadata.truncation {
                return Ok(answer);
            }
        }
        over_tcp(server, &bytes, &message).await
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

async fn over_udp(server: SocketAddr, bytes: &[u8], asked: &Message) -> io::Result<Message> {
    let any =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket takes datagrams from this server only.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let size = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..size]) {
            Ok(answer) if answers(asked, &answer) => return Ok(answer),
            // A forged datagram must not end the wait for the real one.
            _ => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(invalid)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(invalid)?;
    if answers(asked, &answer) { Ok(answer) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}

fn read_resolv_conf(path: &Path) -> io::Result<Vec<SocketAddr>> {
    Ok(nameservers(&std::fs::read_to_string(path)?))
}

/// The servers a resolv.conf names.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A};

    use super::*;

    fn directive(to: &[SocketAddr], policy: Policy) -> Forward {
        Forward {
            from: crate::zone::Labels::parse("."),
            to: to.iter().copied().map(Upstream::Server).collect(),
            policy,
            max_concurrent: 0,
            force_tcp: false,
            except: vec![],
        }
    }

    fn query() -> Query {
        Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A)
    }

    fn reply(request: &[u8]) -> Message {
        let asked = Message::from_vec(request).unwrap();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.add_query(asked.queries[0].clone());
        let data = RData::A(A([192, 0, 2, 1].into()));
        answer.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, data));
        answer
    }

    #[test]
    fn servers_come_from_resolv_conf() {
        let text = "# x\nnameserver 10.0.0.1\n search a b\nnameserver  fd00::1 \nnameserver bogus\n";
        let got: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["10.0.0.1:53", "[fd00::1]:53"]);
    }

    #[tokio::test]
    async fn forged_answers_are_ignored_and_cut_ones_asked_for_again_over_tcp() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = tokio::net::TcpListener::bind(address).await.unwrap();
        let server = async {
            let mut buffer = [0; 512];
            let (size, client) = udp.recv_from(&mut buffer).await.unwrap();
            let mut forged = reply(&buffer[..size]);
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            udp.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            let mut cut = reply(&buffer[..size]).truncate();
            cut.metadata.truncation = true;
            udp.send_to(&cut.to_vec().unwrap(), client).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut request = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut request).await.unwrap();
            let bytes = reply(&request).to_vec().unwrap();
            stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        };
        let forwarder = Forwarder::new(&directive(&[address], Policy::Sequential)).unwrap();
        let query = query();
        let (answer, ()) = tokio::join!(forwarder.ask(&query, false, false), server);
        assert_eq!(answer.unwrap().answers.len(), 1);
    }

    #[tokio::test]
    async fn a_dead_server_is_passed_over() {
        // Nobody listens on the first port once the socket is dropped: the kernel says so at once.
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let server = async {
            for _ in 0..2 {
                let mut buffer = [0; 512];
                let (size, client) = udp.recv_from(&mut buffer).await.unwrap();
                udp.send_to(&reply(&buffer[..size]).to_vec().unwrap(), client).await.unwrap();
            }
        };
        let forwarder = Forwarder::new(&directive(&[dead, address], Policy::Sequential)).unwrap();
        let query = query();
        let asks = async {
            assert!(forwarder.ask(&query, false, false).await.is_ok());
            assert_eq!(forwarder.order()[0].address, address, "the dead one is asked last now");
            assert!(forwarder.ask(&query, false, false).await.is_ok());
        };
        tokio::join!(asks, server);
    }

    #[tokio::test]
    async fn more_than_allowed_at_once_is_refused() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut directive = directive(&[silent.local_addr().unwrap()], Policy::Sequential);
        directive.max_concurrent = 1;
        let forwarder = Forwarder::new(&directive).unwrap();
        let _held = forwarder.permits.acquire().await.unwrap();
        assert!(matches!(forwarder.ask(&query(), false, false).await, Err(ForwardError::Overloaded(1))));
    }
}
