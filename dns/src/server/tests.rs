//! Queries over real sockets.

use std::{net::SocketAddr, time::Duration};

use hickory_server::Server as Listener;
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::zone::{Endpoint, EndpointSet, Port, Service, ServiceKind};

/// Serves a Corefile over loopback; `$UPSTREAM` in it is replaced.
struct Running {
    address: SocketAddr,
    _listener: Listener<Shared>,
}

struct Shared(Arc<Server>);

#[async_trait::async_trait]
impl RequestHandler for Shared {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        handle: R,
    ) -> ResponseInfo {
        self.0.handle_request::<R, T>(request, handle).await
    }
}

fn index() -> Arc<RwLock<Index>> {
    let mut index = Index::default();
    index.set_namespace("default", true);
    // The tests' own address is a pod's.
    index.add_pod("default", &["127.0.0.1".parse().unwrap()]);
    let service = |kind| Arc::new(Service { kind, ports: vec![] });
    index.set_service(
        "default",
        "web",
        Some(service(ServiceKind::Cluster(vec!["10.96.0.20".parse().unwrap()]))),
    );
    index.set_service("default", "ext", Some(service(ServiceKind::External("outside.example".into()))));
    index.set_service("default", "many", Some(service(ServiceKind::Headless)));
    let endpoint = |n: u32| Endpoint { address: IpAddr::V4((0x0af4_0000 + n).into()), hostname: None };
    let port = Port { name: "p".into(), protocol: "tcp".into(), number: 1 };
    let set = EndpointSet { endpoints: (1..=100).map(endpoint).collect(), ports: vec![port] };
    index.set_slice("default", "many", "s", Some(set.into()));
    Arc::new(RwLock::new(index))
}

async fn serve(corefile: &str) -> Running {
    serve_with(corefile, Metrics::register(&prometheus::Registry::new()).unwrap()).await
}

async fn serve_with(corefile: &str, metrics: Metrics) -> Running {
    let blocks = corefile::parse(corefile).unwrap();
    let blocks = blocks.iter().map(|block| Block::new(block, &metrics).unwrap()).collect();
    let server = Arc::new(Server::new(blocks, index(), vec![], metrics));
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let mut listener = Listener::new(Shared(server));
    listener.register_socket(udp);
    listener.register_listener(tcp, Duration::from_secs(5), 16);
    Running { address, _listener: listener }
}

const CLUSTER: &str =
    ". {\n kubernetes cluster.local in-addr.arpa {\n fallthrough in-addr.arpa\n ttl 30\n }\n}";

async fn ask(server: &Running, name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    exchange(server, &message.to_vec().unwrap()).await
}

async fn exchange(server: &Running, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server.address).await.unwrap();
    let mut buffer = vec![0; 65535];
    let size =
        tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..size]).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

#[tokio::test]
async fn names_are_rewritten_and_answers_fit_the_question() {
    let text = ". {\n rewrite name suffix .corp.example .default.svc.cluster.local\n any\n \
        template IN A made.example {\n match ^(\\d+)[.]\n answer \"{{ .Name }} 60 IN A 10.0.0.{{ index .Match 1 }}\"\n }\n \
        kubernetes cluster.local\n}";
    let server = serve(text).await;
    let answer = ask(&server, "web.corp.example.", RecordType::A, None).await;
    assert_eq!(data(&answer), ["10.96.0.20"]);
    assert_eq!(answer.answers[0].name.to_ascii(), "web.corp.example.");
    assert_eq!(answer.queries[0].name().to_ascii(), "web.corp.example.");
    assert_eq!(data(&ask(&server, "7.made.example.", RecordType::A, None).await), ["10.0.0.7"]);
    let any = ask(&server, "web.corp.example.", RecordType::ANY, None).await;
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO);
}

#[tokio::test]
async fn the_search_path_of_a_pod_is_walked_for_it() {
    let text = ". {\n autopath @kubernetes\n kubernetes cluster.local {\n pods verified\n }\n \
        hosts {\n 192.0.2.7 outside.example\n fallthrough\n }\n}";
    let server = serve(text).await;
    let owners = |message: &Message| -> Vec<String> {
        message.answers.iter().map(|r| format!("{} {}", r.name.to_ascii(), r.data)).collect()
    };
    let asked = "outside.example.default.svc.cluster.local.";
    let answer = ask(&server, asked, RecordType::A, None).await;
    assert_eq!(
        owners(&answer),
        [format!("{asked} outside.example."), "outside.example. 192.0.2.7".to_owned()]
    );
    let answer = ask(&server, "web.default.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(data(&answer), ["web.default.svc.cluster.local.", "10.96.0.20"]);
    // The client's own namespace comes first in its path; another one is what it says.
    let answer = ask(&server, "outside.example.kube-system.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn services_are_answered_with_authority() {
    let server = serve(CLUSTER).await;
    let answer = ask(&server, "web.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(data(&answer), ["10.96.0.20"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert!(answer.edns.is_none(), "no EDNS unless asked with it");
}

#[tokio::test]
async fn denials_carry_the_soa() {
    let server = serve(CLUSTER).await;
    for (name, code) in [
        ("none.default.svc.cluster.local.", ResponseCode::NXDomain),
        ("default.svc.cluster.local.", ResponseCode::NoError),
    ] {
        let answer = ask(&server, name, RecordType::A, None).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)), "{name}");
    }
}

#[tokio::test]
async fn reverse_names_answer_or_fall_through() {
    let server = serve(CLUSTER).await;
    let answer = ask(&server, "20.0.96.10.in-addr.arpa.", RecordType::PTR, None).await;
    assert_eq!(data(&answer), ["web.default.svc.cluster.local."]);
    let other = ask(&server, "1.1.1.1.in-addr.arpa.", RecordType::PTR, None).await;
    assert_eq!(other.metadata.response_code, ResponseCode::Refused, "nobody to fall through to");
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_with_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = serve(CLUSTER).await;
    let cut = ask(&server, "many.default.svc.cluster.local.", RecordType::A, None).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut message = Message::query();
    message
        .add_query(Query::query(Name::from_ascii("many.default.svc.cluster.local.").unwrap(), RecordType::A));
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer).unwrap().answers.len(), 100);
}

#[tokio::test]
async fn bad_questions_get_a_code_and_the_server_lives_on() {
    let server = serve(CLUSTER).await;
    let mut update = Message::query();
    update.metadata.op_code = OpCode::Update;
    update.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), RecordType::SOA));
    let answer = exchange(&server, &update.to_vec().unwrap()).await;
    assert_ne!(answer.metadata.response_code, ResponseCode::NoError);
    let outside = ask(&server, "example.org.", RecordType::A, None).await;
    assert_eq!(outside.metadata.response_code, ResponseCode::Refused);
    let alive = ask(&server, "web.default.svc.cluster.local.", RecordType::A, Some(4096)).await;
    assert_eq!(alive.answers.len(), 1);
    assert!(alive.edns.is_some());
}

#[tokio::test]
async fn other_names_are_forwarded_cached_and_aliases_followed() {
    // The upstream is a server of ours that knows one host.
    let upstream = serve("example {\n hosts {\n 192.0.2.7 outside.example\n }\n}").await;
    let corefile = format!(
        ". {{\n kubernetes cluster.local\n forward . {}\n cache 30\n loadbalance\n}}",
        upstream.address
    );
    let server = serve(&corefile).await;
    for _ in 0..2 {
        let answer = ask(&server, "outside.example.", RecordType::A, None).await;
        assert_eq!(data(&answer), ["192.0.2.7"]);
    }
    let alias = ask(&server, "ext.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(data(&alias), ["outside.example.", "192.0.2.7"]);
    drop(upstream);
    let cached = ask(&server, "outside.example.", RecordType::A, None).await;
    assert_eq!(data(&cached), ["192.0.2.7"], "from the cache");
}

#[tokio::test]
async fn hosts_win_over_everything() {
    let server = serve(". {\n hosts {\n 10.9.9.9 web.default.svc.cluster.local\n fallthrough\n }\n kubernetes cluster.local\n}").await;
    let answer = ask(&server, "web.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(data(&answer), ["10.9.9.9"]);
}

/// Questions of many kinds: names that exist and that do not, in small and capital letters, types, sizes and flags.
fn question(seed: (usize, usize, usize, bool, bool)) -> Vec<u8> {
    const NAMES: [&str; 10] = [
        "web.default.svc.cluster.local.",
        "WEB.Default.svc.cluster.local.",
        "many.default.svc.cluster.local.",
        "ext.default.svc.cluster.local.",
        "nothing.default.svc.cluster.local.",
        "www.example.com.default.svc.cluster.local.",
        "default.svc.cluster.local.",
        "cluster.local.",
        "10-0-0-1.default.pod.cluster.local.",
        "_p._tcp.many.default.svc.cluster.local.",
    ];
    const KINDS: [RecordType; 6] = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::TXT,
        RecordType::HTTPS,
        RecordType::ANY,
    ];
    let (name, kind, size, recursion, checking) = seed;
    let mut message = Message::query();
    message.metadata.recursion_desired = recursion;
    message.metadata.checking_disabled = checking;
    message.add_query(Query::query(Name::from_ascii(NAMES[name % 10]).unwrap(), KINDS[kind % 6]));
    if let Some(size) = [None, Some(512), Some(1232), Some(4096)][size % 4] {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns.set_dnssec_ok(checking);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// Sends to our own sockets and to hickory's and compares, twice each: the second time ours remember.
#[tokio::test]
async fn our_sockets_say_byte_by_byte_what_hickorys_say() {
    let corefile = "cluster.local {\n kubernetes cluster.local {\n pods insecure\n ttl 30\n }\n}";
    let slow = serve(corefile).await;
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let blocks = corefile::parse(corefile).unwrap();
    let blocks = blocks.iter().map(|block| Block::new(block, &metrics).unwrap()).collect();
    let server = Arc::new(Server::new(blocks, index(), vec![], metrics.clone()));
    let current = crate::listen::Current(Arc::new(arc_swap::ArcSwap::new(server.clone())));
    let sockets = crate::listen::Sockets::bind(current, &["127.0.0.1".parse().unwrap()], 0, None).unwrap();
    let fast = SocketAddr::from(([127, 0, 0, 1], sockets.port()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let exchange = async |to: SocketAddr, bytes: &[u8]| {
        socket.send_to(bytes, to).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let (size, _) = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        buffer.truncate(size);
        buffer
    };
    let mut asked = 0;
    for seed in 0..480 {
        let mut bytes = question((seed, seed / 10, seed / 60, seed % 3 == 0, seed % 7 == 0));
        for id in [1, 2] {
            bytes[0] = id;
            let (ours, theirs) = (exchange(fast, &bytes).await, exchange(slow.address, &bytes).await);
            assert_eq!(ours, theirs, "{bytes:?}");
            asked += 1;
        }
    }
    // What is no question at all.
    for bytes in [vec![7; 12], [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[9; 3]].concat()] {
        let bytes = [&bytes[..2], &[bytes[2] & 0x7f], &bytes[3..]].concat();
        assert_eq!(exchange(fast, &bytes).await, exchange(slow.address, &bytes).await, "{bytes:?}");
    }
    assert!(server.remembered() > 10, "nothing was remembered");
    assert_eq!(metrics.answered(), asked, "every answer is counted");
    // A change of the service is seen at once.
    let bytes = question((0, 0, 0, true, false));
    let before = exchange(fast, &bytes).await;
    let moved = Service { kind: ServiceKind::Cluster(vec!["10.96.0.21".parse().unwrap()]), ports: vec![] };
    server.index.write().set_service("default", "web", Some(moved.into()));
    let after = exchange(fast, &bytes).await;
    assert_eq!(before[before.len() - 1], 20);
    assert_eq!(after[after.len() - 1], 21);
    sockets.shutdown().await;
}

#[tokio::test]
async fn over_tls_the_same_is_answered_to_whom_the_server_lets_in() {
    use crate::{
        corefile::{ClientAuth, Forward, Identity, Upstream},
        secure::{Served, testing::Files},
    };
    let files = Files::new("server");
    let pair = (files.directive.certificate.clone(), files.directive.key.clone());
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    for (client_auth, shown, let_in) in [
        (ClientAuth::None, false, true),
        (ClientAuth::VerifyIfGiven, false, true),
        (ClientAuth::RequireAndVerify, false, false),
        (ClientAuth::RequireAndVerify, true, true),
    ] {
        let directive =
            corefile::Tls { client_auth, authorities: Some(pair.0.clone()), ..files.directive.clone() };
        let (_served, config) = Served::load(&directive).unwrap();
        let text = format!(
            "tls://. {{\n tls {} {}\n kubernetes cluster.local\n}}",
            pair.0.display(),
            pair.1.display()
        );
        let block = Block::new(&corefile::parse(&text).unwrap()[0], &metrics).unwrap();
        let server = Server::new(vec![block], index(), vec![], metrics.clone());
        let current = crate::listen::Current(Arc::new(arc_swap::ArcSwap::from_pointee(server)));
        let host: IpAddr = "127.0.0.1".parse().unwrap();
        let sockets = crate::listen::Sockets::bind(current, &[host], 0, Some(config)).unwrap();
        let name = rustls_pki_types::ServerName::try_from("dns.example").unwrap();
        let upstream = Upstream::Tls(SocketAddr::new(host, sockets.port()), Some(name));
        let identity = Identity { pair: shown.then(|| pair.clone()), authorities: Some(pair.0.clone()) };
        let directive = Forward { tls: identity, ..Forward::new(Labels::parse("."), vec![upstream]) };
        let forwarder = Forwarder::new(&directive, metrics.clone()).unwrap();
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        let answer = forwarder.ask(&Query::query(name, RecordType::A), &Manner::default()).await;
        assert_eq!(
            answer.as_ref().is_ok_and(|a| data(a) == ["10.96.0.20"]),
            let_in,
            "{client_auth:?} {answer:?}"
        );
        sockets.shutdown().await;
    }
}

#[tokio::test]
async fn answers_are_as_long_as_the_block_allows_and_the_client_takes() {
    let limited = serve(". {\n bufsize 700\n log . \"{name} {rsize}\"\n kubernetes cluster.local\n}").await;
    let free = serve(". {\n kubernetes cluster.local\n}").await;
    for (server, asked, want) in [(&limited, 4096, 700), (&limited, 600, 600), (&free, 4096, 1232)] {
        let answer = ask(server, "many.default.svc.cluster.local.", RecordType::A, Some(asked)).await;
        assert_eq!(answer.edns.as_ref().unwrap().max_payload(), want);
        assert!(answer.metadata.truncation && answer.to_vec().unwrap().len() <= usize::from(want));
    }
}

/// A server together with its counters.
async fn serve_counted(corefile: &str) -> (Running, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    (serve_with(corefile, metrics).await, registry)
}

/// The sum of a counter, or how many a histogram has counted, where all of these labels fit.
fn counted(registry: &prometheus::Registry, name: &str, labels: &[(&str, &str)]) -> u64 {
    let families = registry.gather();
    let Some(family) = families.iter().find(|family| family.name() == name) else { return 0 };
    let fits = |metric: &&prometheus::proto::Metric| {
        labels.iter().all(|(k, v)| metric.get_label().iter().any(|l| l.name() == *k && l.value() == *v))
    };
    let all = family.get_metric().iter().filter(fits);
    // Whole numbers, which counters keep as floating point ones.
    let whole = |value: f64| value.to_string().parse::<u64>().unwrap();
    all.map(|m| whole(m.get_counter().get_value()) + m.get_histogram().get_sample_count()).sum()
}

#[tokio::test]
async fn rules_of_access_refuse_filter_and_drop() {
    let text = ". {\n acl {\n block type TXT\n filter type AAAA net 127.0.0.0/8\n drop type MX\n }\n \
        kubernetes cluster.local\n}";
    let (server, registry) = serve_counted(text).await;
    let name = "web.default.svc.cluster.local.";
    let code = |m: &Message| m.edns.as_ref().and_then(|e| e.option(EdnsCode::from(15)).cloned());
    let refused = ask(&server, name, RecordType::TXT, Some(1232)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert_eq!(code(&refused), Some(EdnsOption::Unknown(15, vec![0, 15])));
    let empty = ask(&server, name, RecordType::AAAA, Some(1232)).await;
    assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(code(&empty), Some(EdnsOption::Unknown(15, vec![0, 17])));
    assert_eq!(data(&ask(&server, name, RecordType::A, None).await), ["10.96.0.20"]);
    // What is dropped has no answer: the one that comes is of the question after it.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for kind in [RecordType::MX, RecordType::A] {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        socket.send_to(&message.to_vec().unwrap(), server.address).await.unwrap();
    }
    let mut buffer = [0; 512];
    let size =
        tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..size]).unwrap().queries[0].query_type(), RecordType::A);
    let of = |what: &str| counted(&registry, &format!("coredns_acl_{what}_requests_total"), &[]);
    assert_eq!([of("blocked"), of("filtered"), of("dropped"), of("allowed")], [1, 1, 1, 2]);
}

#[tokio::test]
async fn those_who_ask_are_told_which_server_it_is() {
    let server = serve(". {\n nsid Use The Force\n kubernetes cluster.local\n}").await;
    for (asks, want) in [(true, Some(b"Use The Force".to_vec())), (false, None)] {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), RecordType::SOA));
        let mut edns = Edns::new();
        if asks {
            edns.options_mut().insert(EdnsOption::NSID(NSIDPayload::new(Vec::new()).unwrap()));
        }
        message.set_edns(edns);
        let answer = exchange(&server, &message.to_vec().unwrap()).await;
        let told = answer.edns.unwrap().option(EdnsCode::NSID).map(|o| Vec::<u8>::try_from(o).unwrap());
        assert_eq!(told, want);
    }
}

#[tokio::test]
async fn those_who_ask_in_another_class_are_told_version_host_and_authors() {
    let server = serve(". {\n chaos Fine-1.0 \"A. Author\" another\n kubernetes cluster.local\n}").await;
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    for (name, kind, want) in [
        ("version.bind.", RecordType::TXT, vec!["Fine-1.0"]),
        ("Version.Server.", RecordType::TXT, vec!["Fine-1.0"]),
        ("authors.bind.", RecordType::TXT, vec!["A. Author", "another"]),
        ("id.server.", RecordType::TXT, vec![host.as_str()]),
        ("hostname.bind.", RecordType::TXT, vec![host.as_str()]),
        ("version.bind.", RecordType::A, vec![]),
        ("cluster.local.", RecordType::TXT, vec![]),
    ] {
        let mut message = Message::query();
        let mut query = Query::query(Name::from_ascii(name).unwrap(), kind);
        query.set_query_class(DNSClass::CH);
        message.add_query(query);
        let answer = exchange(&server, &message.to_vec().unwrap()).await;
        assert_eq!(data(&answer), want, "{name} {kind}");
        let code = if want.is_empty() { ResponseCode::Refused } else { ResponseCode::NoError };
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.answers.iter().all(|record| record.dns_class == DNSClass::CH && record.ttl == 0));
    }
}

#[tokio::test]
async fn classes_aliases_and_options_are_rewritten() {
    let upstream = serve("example {\n template IN A example {\n match ^other[.]\n answer \"{{ .Name }} 60 IN A 192.0.2.9\"\n fallthrough\n }\n \
        template IN A example {\n answer \"{{ .Name }} 60 IN CNAME {{ .Name }}cdn.example.\"\n answer \"{{ .Name }}cdn.example. 60 IN A 192.0.2.1\"\n }\n}").await;
    let text = format!(
        ". {{\n rewrite continue class CH IN\n rewrite continue edns0 local set 0xffee abcd\n \
         rewrite cname exact a.example.cdn.example other.example\n forward . {}\n}}",
        upstream.address
    );
    let server = serve(&text).await;
    let mut message = Message::query();
    let mut query = Query::query(Name::from_ascii("other.example.").unwrap(), RecordType::A);
    query.set_query_class(DNSClass::CH);
    message.add_query(query);
    message.set_edns(Edns::new());
    let answer = exchange(&server, &message.to_vec().unwrap()).await;
    assert_eq!(data(&answer), ["192.0.2.9"]);
    let told = answer.edns.unwrap().option(EdnsCode::from(0xffee)).cloned();
    assert_eq!(told, Some(EdnsOption::Unknown(0xffee, b"abcd".to_vec())));
    let answer = ask(&server, "a.example.", RecordType::A, None).await;
    assert_eq!(data(&answer), ["other.example.", "192.0.2.9"], "the alias leads elsewhere");
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_leads_to_the_next_directive() {
    let first = serve("example {\n template ANY ANY {\n rcode NXDOMAIN\n }\n}").await;
    let second = serve("example {\n hosts {\n 192.0.2.7 outside.example\n }\n}").await;
    let text = format!(
        ". {{\n forward . {} {{\n next NXDOMAIN\n }}\n forward . {}\n}}",
        first.address, second.address
    );
    let server = serve(&text).await;
    assert_eq!(data(&ask(&server, "outside.example.", RecordType::A, None).await), ["192.0.2.7"]);
    // Of several directives for a name the first counts.
    let text = format!(". {{\n forward . {}\n forward example {}\n}}", first.address, second.address);
    let answer = ask(&serve(&text).await, "outside.example.", RecordType::A, None).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn sizes_and_the_cache_are_counted() {
    let upstream = serve("example {\n hosts {\n 192.0.2.7 outside.example\n }\n}").await;
    let text = format!("example. corp. {{\n forward . {}\n cache 30\n}}", upstream.address);
    let (server, registry) = serve_counted(&text).await;
    for _ in 0..3 {
        ask(&server, "outside.example.", RecordType::A, Some(1232)).await;
    }
    let of = |name: &str, labels: &[(&str, &str)]| counted(&registry, name, labels);
    let place = [("zone", "example."), ("proto", "udp")];
    assert_eq!(of("coredns_dns_request_size_bytes", &place), 3);
    assert_eq!(of("coredns_dns_response_size_bytes", &place), 3);
    let zones = [("zones", "example.,corp.")];
    assert_eq!(of("coredns_cache_requests_total", &zones), 3);
    assert_eq!(of("coredns_cache_hits_total", &zones), 2);
    assert_eq!(of("coredns_cache_misses_total", &zones), 1);
    assert_eq!(of("coredns_proxy_conn_cache_misses_total", &[("proto", "udp")]), 1);
    let families = registry.gather();
    let sizes = families.iter().find(|f| f.name() == "coredns_dns_response_size_bytes").unwrap();
    let sum = sizes.get_metric()[0].get_histogram().get_sample_sum();
    // Three answers with a header, a question, one record and EDNS.
    assert!((150.0..300.0).contains(&sum), "{sum}");
    let enabled: Vec<String> = families
        .iter()
        .find(|f| f.name() == "coredns_plugin_enabled")
        .unwrap()
        .get_metric()
        .iter()
        .flat_map(|m| m.get_label().iter().filter(|l| l.name() == "name").map(|l| l.value().to_owned()))
        .collect();
    assert_eq!(enabled, ["cache", "cache", "forward", "forward"], "for either zone");
}

#[tokio::test]
async fn this_host_is_answered_for_without_asking_anybody() {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let server = serve_with(". {\n local\n kubernetes cluster.local\n}", metrics).await;
    for (name, expected) in [
        ("localhost.", Some("127.0.0.1")),
        ("localhost.default.svc.cluster.local.", Some("127.0.0.1")),
        ("web.default.svc.cluster.local.", Some("10.96.0.20")),
        ("127.in-addr.arpa.", None),
    ] {
        let reply = ask(&server, name, RecordType::A, None).await;
        assert_eq!(data(&reply).first().map(String::as_str), expected, "{name}");
    }
    let reply = ask(&server, "9.0.0.127.in-addr.arpa.", RecordType::PTR, None).await;
    assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
    let without = serve(CLUSTER).await;
    let reply = ask(&without, "localhost.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn clients_are_told_who_they_are_where_nobody_else_answers() {
    let server = serve(". {\n whoami\n kubernetes cluster.local\n cache\n}").await;
    for _ in 0..2 {
        let reply = ask(&server, "example.org.", RecordType::A, None).await;
        assert!(reply.answers.is_empty() && reply.metadata.authoritative);
        let beside: Vec<String> = reply.additionals.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(beside, ["example.org.", "_udp.example.org."]);
        assert_eq!(reply.additionals[0].data.to_string(), "127.0.0.1");
    }
    let reply = ask(&server, "web.default.svc.cluster.local.", RecordType::A, None).await;
    assert_eq!(data(&reply), ["10.96.0.20"]);
}

#[tokio::test]
async fn addresses_are_made_for_those_who_have_none_of_the_old_kind() {
    let text =
        |options: &str| format!(". {{\n dns64 64:1337::/96 {{\n{options}\n}}\n kubernetes cluster.local\n}}");
    let name = "web.default.svc.cluster.local.";
    let server = serve(&text("allow_ipv4")).await;
    for _ in 0..2 {
        let reply = ask(&server, name, RecordType::AAAA, None).await;
        assert_eq!(data(&reply), ["64:1337::a60:14"]);
        assert!(reply.answers[0].ttl <= 30);
    }
    assert_eq!(data(&ask(&server, name, RecordType::A, None).await), ["10.96.0.20"]);
    let none = ask(&server, "none.default.svc.cluster.local.", RecordType::AAAA, None).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    // Who asks over the old protocol has that.
    let server = serve(&text("")).await;
    assert_eq!(data(&ask(&server, name, RecordType::AAAA, None).await), [""; 0]);
}

#[tokio::test]
async fn blocks_of_one_zone_share_queries_by_their_views() {
    let text = ". {\n view elsewhere {\n expr incidr(client_ip(), '10.0.0.0/8')\n }\n hosts {\n 10.0.0.1 test\n }\n}\n\
        . {\n view addresses {\n expr type() in ['A']\n expr name() endsWith '.'\n }\n hosts {\n 10.0.0.2 test\n }\n}\n\
        . {\n hosts {\n fd00::3 test\n }\n kubernetes cluster.local\n}";
    let server = serve(text).await;
    for _ in 0..2 {
        assert_eq!(data(&ask(&server, "test.", RecordType::A, None).await), ["10.0.0.2"]);
        assert_eq!(data(&ask(&server, "test.", RecordType::AAAA, None).await), ["fd00::3"]);
    }
    // A longer zone comes first if its view lets the query in, and a shorter one if not.
    let text = "a.test {\n view never {\n expr false\n }\n hosts {\n 10.0.0.1 a.test\n }\n}\n. {\n hosts {\n 10.0.0.2 a.test\n }\n}";
    let server = serve(text).await;
    assert_eq!(data(&ask(&server, "a.test.", RecordType::A, None).await), ["10.0.0.2"]);
}

#[tokio::test]
async fn only_so_many_records_are_answered_of_those_there_are() {
    let server = serve(". {\n loadbalance {\n limit_answers 3\n }\n kubernetes cluster.local\n}").await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let reply = ask(&server, "many.default.svc.cluster.local.", RecordType::A, None).await;
        assert_eq!((reply.answers.len(), reply.metadata.truncation), (3, false));
        seen.extend(data(&reply));
    }
    assert!(seen.len() > 3, "others take their turn: {seen:?}");
}
