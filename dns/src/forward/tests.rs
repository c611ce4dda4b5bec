//! Servers on loopback that answer, lie, are silent or gone.

use std::sync::Arc;

use hickory_proto::rr::{Name, RData, Record, rdata::A};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::*;
use crate::{corefile::Identity, zone::Labels};

fn forwarder(directive: &Forward) -> Forwarder {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    Forwarder::new(directive, metrics).unwrap()
}

fn directive(to: &[SocketAddr], policy: Policy) -> Forward {
    let to = to.iter().copied().map(Upstream::Server).collect();
    Forward { policy, ..Forward::new(Labels::parse("."), to) }
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

/// Answers `count` queries over UDP with this code.
async fn answer_udp(udp: &UdpSocket, count: usize, code: ResponseCode) {
    for _ in 0..count {
        let mut buffer = [0; 512];
        let (size, client) = udp.recv_from(&mut buffer).await.unwrap();
        let mut answer = reply(&buffer[..size]);
        answer.metadata.response_code = code;
        udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    }
}

/// Answers `count` queries on one connection.
async fn answer_stream(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    count: usize,
) {
    for _ in 0..count {
        let mut request = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut request).await.unwrap();
        let bytes = reply(&request).to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn nobody() -> SocketAddr {
    // Nobody listens there once the socket is dropped: the kernel says so at once.
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
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
    let tcp = TcpListener::bind(address).await.unwrap();
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
        answer_stream(&mut stream, 1).await;
    };
    let forwarder = forwarder(&directive(&[address], Policy::Sequential));
    let (query, manner) = (query(), Manner::default());
    let (answer, ()) = tokio::join!(forwarder.ask(&query, &manner), server);
    assert_eq!(answer.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn connections_are_kept_for_the_next_query_and_made_anew_when_they_were_closed() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let forwarder = forwarder(&directive(&[address], Policy::Sequential));
    // The client came over TCP, so the server is asked so.
    let manner = Manner { stream: true, ..Manner::default() };
    let query = query();
    let (closed, is_closed) = tokio::sync::oneshot::channel();
    let server = async {
        let (mut stream, _) = tcp.accept().await.unwrap();
        answer_stream(&mut stream, 2).await;
        drop(stream);
        closed.send(()).unwrap();
        let (mut stream, _) = tcp.accept().await.unwrap();
        answer_stream(&mut stream, 1).await;
    };
    let asks = async {
        for _ in 0..2 {
            forwarder.ask(&query, &manner).await.unwrap();
            assert_eq!(forwarder.servers[0].kept(), 1);
        }
        is_closed.await.unwrap();
        forwarder.ask(&query, &manner).await.unwrap();
        assert_eq!(forwarder.servers[0].kept(), 1);
    };
    tokio::join!(asks, server);
}

#[tokio::test]
async fn over_tls_only_a_server_of_the_right_name_is_believed() {
    let files = secure::testing::Files::new("forward");
    let certificate = files.directive.certificate.clone();
    let (_served, config) = secure::Served::load(&files.directive).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let with_name = |name: &str| {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut directive = Forward::new(Labels::parse("."), vec![Upstream::Tls(address, None)]);
        directive.server_name = Some(name);
        directive.tls = Identity { pair: None, authorities: Some(certificate.clone()) };
        forwarder(&directive)
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
    let server = async {
        let (stream, _) = tcp.accept().await.unwrap();
        assert!(acceptor.accept(stream).await.is_err(), "the client goes away");
        let (stream, _) = tcp.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        answer_stream(&mut stream, 2).await;
    };
    let (wrong, right, query) = (with_name("other.example"), with_name("dns.example"), query());
    let asks = async {
        assert!(wrong.ask(&query, &Manner::default()).await.is_err());
        for _ in 0..2 {
            assert_eq!(right.ask(&query, &Manner::default()).await.unwrap().answers.len(), 1);
        }
        assert_eq!(right.servers[0].kept(), 1, "the same connection served both");
    };
    tokio::join!(asks, server);
}

#[tokio::test]
async fn a_dead_server_is_passed_over() {
    let dead = nobody().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let forwarder = forwarder(&directive(&[dead, address], Policy::Sequential));
    let query = query();
    let asks = async {
        assert!(forwarder.ask(&query, &Manner::default()).await.is_ok());
        assert_eq!(forwarder.order()[0].address, address, "the dead one is asked last now");
        assert!(forwarder.ask(&query, &Manner::default()).await.is_ok());
    };
    tokio::join!(asks, answer_udp(&udp, 2, ResponseCode::NoError));
}

#[tokio::test]
async fn a_server_whose_checks_fail_is_down_until_one_goes_well() {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let forwarder = forwarder(&Forward { fail_fast: true, ..directive(&[address], Policy::Sequential) });
    let server = &forwarder.servers[0];
    server.has_failed();
    for failed in 0..3 {
        assert!(!server.is_down(2), "{failed}");
        server.checked(false);
    }
    assert!(server.is_down(2) && !server.is_down(0));
    assert!(forwarder.order().is_empty(), "fast to fail");
    let well = async {
        while server.is_suspect() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = forwarder.watch() => {}
        // The queries that come are the checks'.
        () = answer_udp(&udp, usize::MAX, ResponseCode::Refused) => {}
        () = well => {}
    }
    assert!(!server.is_down(2));
    assert_eq!(forwarder.order().len(), 1);
}

#[tokio::test]
async fn when_all_are_down_one_is_asked_all_the_same() {
    let (first, second) = (nobody().await, nobody().await);
    let forwarder = forwarder(&directive(&[first, second], Policy::RoundRobin));
    for server in &forwarder.servers {
        (0..3).for_each(|_| server.checked(false));
    }
    assert_eq!(forwarder.order().len(), 1);
}

#[tokio::test]
async fn with_some_answers_the_next_server_is_asked() {
    let first = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let second = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    let failover = vec![ResponseCode::NXDomain];
    let forwarder = forwarder(&Forward { failover, ..directive(&addresses, Policy::Sequential) });
    let query = query();
    let asks = async {
        let answer = forwarder.ask(&query, &Manner::default()).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        let answer = forwarder.ask(&query, &Manner::default()).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "nobody else knows better");
    };
    let servers = async {
        answer_udp(&first, 1, ResponseCode::NXDomain).await;
        answer_udp(&second, 1, ResponseCode::NoError).await;
        answer_udp(&first, 1, ResponseCode::NXDomain).await;
        answer_udp(&second, 1, ResponseCode::NXDomain).await;
    };
    tokio::join!(asks, servers);
}

#[tokio::test]
async fn more_than_allowed_at_once_is_refused() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut directive = directive(&[silent.local_addr().unwrap()], Policy::Sequential);
    directive.max_concurrent = 1;
    let forwarder = forwarder(&directive);
    let _held = forwarder.permits.acquire().await.unwrap();
    assert!(matches!(forwarder.ask(&query(), &Manner::default()).await, Err(ForwardError::Overloaded(1))));
}
