//! What services may ask for, seen by packets: which endpoints take them, in which families and protocols, and what the
//! health check ports tell.

use std::collections::BTreeMap;

use component_base::{meta::ObjectKey, task::Tasks};

use super::*;
use crate::{
    model::HealthCheck,
    server::{Health, ServiceChecks},
    sync::Syncer,
};

/// Who answers at an address, asked many times.
fn answering(address: &str) -> BTreeSet<String> {
    (0..30).filter_map(|_| ask(address).ok()).map(|(who, _)| who).collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|one| (*one).to_owned()).collect()
}

#[test]
fn endpoints_that_end_take_connections_only_when_no_other_is_left() {
    in_namespace(|| {
        ["10.244.0.1", "10.244.0.2"].into_iter().for_each(serve);
        let mut syncer = Syncer::open().unwrap();
        let mut sync = |states: [(bool, bool, bool); 2]| {
            let mut model = model(service(), &["10.244.0.1", "10.244.0.2"]);
            for (endpoint, state) in model.endpoints.values_mut().flatten().zip(states) {
                (endpoint.ready, endpoint.serving, endpoint.terminating) = state;
            }
            syncer.sync(&model, &settings()).unwrap();
            answering("10.96.0.5:80")
        };
        let (ready, ending, gone) = ((true, true, false), (false, true, true), (false, false, true));
        assert_eq!(sync([ready, ending]), set(&["10.244.0.1"]));
        assert_eq!(sync([gone, ending]), set(&["10.244.0.2"]));
        assert_eq!(sync([ending, ending]), set(&["10.244.0.1", "10.244.0.2"]));
        assert_eq!(sync([gone, gone]), set(&[]));
    });
}

#[test]
fn endpoints_meant_for_this_node_or_zone_are_taken() {
    in_namespace(|| {
        ["10.244.0.1", "10.244.0.2"].into_iter().for_each(serve);
        let here = Settings { node: "n1".into(), zone: "z1".into(), ..settings() };
        let mut syncer = Syncer::open().unwrap();
        let mut sync = |zones: [&[&str]; 2], nodes: [&[&str]; 2]| {
            let mut model = model(service(), &["10.244.0.1", "10.244.0.2"]);
            let all = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
            for (at, endpoint) in model.endpoints.values_mut().flatten().enumerate() {
                (endpoint.zones, endpoint.nodes) = (all(zones[at]), all(nodes[at]));
            }
            syncer.sync(&model, &here).unwrap();
            answering("10.96.0.5:80")
        };
        assert_eq!(sync([&["z1"], &["z2"]], [&[], &[]]), set(&["10.244.0.1"]));
        assert_eq!(sync([&["z1"], &["z1"]], [&["n2"], &["n1"]]), set(&["10.244.0.2"]), "nodes before zones");
        let both = set(&["10.244.0.1", "10.244.0.2"]);
        assert_eq!(sync([&["z2"], &["z3"]], [&[], &[]]), both, "none is for here");
        assert_eq!(sync([&["z1"], &[]], [&[], &[]]), both, "not all have hints");
    });
}

#[test]
fn both_families_are_served_each_by_its_own_endpoints() {
    in_namespace(|| {
        run("ip", &["-6", "addr", "add", "fd00:10::1/128", "dev", "lo", "nodad"]);
        run("ip", &["-6", "route", "add", "fd00::/64", "dev", "lo"]);
        ["10.244.0.1", "fd00:10::1"].into_iter().for_each(serve);
        let mut syncer = Syncer::open().unwrap();
        syncer.sync(&model(service(), &["10.244.0.1", "fd00:10::1"]), &settings()).unwrap();
        assert_eq!(answering("10.96.0.5:80"), set(&["10.244.0.1"]));
        assert_eq!(answering("[fd00::5]:80"), set(&["fd00:10::1"]));
        syncer.sync(&model(service(), &["10.244.0.1"]), &settings()).unwrap();
        assert_eq!(answering("10.96.0.5:80"), set(&["10.244.0.1"]));
        assert_eq!(ask("[fd00::5]:80"), Err(io::ErrorKind::ConnectionRefused), "no endpoint of the family");
    });
}

#[test]
fn node_ports_are_not_served_on_localhost() {
    in_namespace(|| {
        serve("10.244.0.1");
        let mut syncer = Syncer::open().unwrap();
        let exposed = ServicePort { node_port: 30080, ..service() };
        syncer.sync(&model(exposed, &["10.244.0.1"]), &settings()).unwrap();
        assert_eq!(answering("192.168.1.1:30080"), set(&["10.244.0.1"]));
        assert_eq!(ask("127.0.0.1:30080"), Err(io::ErrorKind::ConnectionRefused));
        // Others may listen there.
        let _listener = TcpListener::bind("127.0.0.1:30080").unwrap();
        assert!(TcpStream::connect("127.0.0.1:30080").is_ok());
    });
}

/// CRC32c, as SCTP has it (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}

/// The first packet of an association: a common header and an INIT chunk (RFC 9260, sections 3.1 and 3.3.2).
fn association(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

#[test]
fn sctp_is_led_to_an_endpoint_and_its_port() {
    in_namespace(|| {
        if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists() {
            println!("skipped: the kernel does not track SCTP");
            return;
        }
        let mut of_sctp = model(service(), &["10.244.0.1"]);
        let name = Arc::new(PortName { protocol: Protocol::Sctp, ..name() });
        of_sctp.services = of_sctp.services.into_values().map(|port| (name.clone(), port)).collect();
        of_sctp.endpoints = of_sctp.endpoints.into_values().map(|all| (name.clone(), all)).collect();
        Syncer::open().unwrap().sync(&of_sctp, &settings()).unwrap();
        // Without a stack for SCTP, raw sockets see what comes in.
        let raw = || {
            let protocol = socket2::Protocol::from(i32::from(Protocol::Sctp.number()));
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol)).unwrap()
        };
        let (client, server) = (raw(), raw());
        server.bind(&"10.244.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let service: SocketAddr = "10.96.0.5:0".parse().unwrap();
        client.send_to(&association(4000, 80), &service.into()).unwrap();
        let mut buffer = [0; 256];
        let size = (&server).read(&mut buffer).unwrap();
        let packet = &buffer[..size];
        let ports = usize::from(packet[0] & 0x0f) * 4;
        assert_eq!(packet[9], Protocol::Sctp.number());
        assert_eq!(packet[16..20], [10, 244, 0, 1]);
        assert_eq!(packet[ports + 2..ports + 4], 8080_u16.to_be_bytes());
    });
}

#[test]
fn health_check_ports_tell_how_many_endpoints_are_here() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (tasks, health) = (Tasks::new(), Arc::new(Health::new(Duration::from_secs(3600))));
            health.synced(Instant::now(), jiff::Timestamp::UNIX_EPOCH);
            let mut checks = ServiceChecks::new(tasks.clone(), health);
            let key = ObjectKey::new("default", "web");
            let wanted = |local_endpoints| {
                BTreeMap::from([(key.clone(), HealthCheck { port: 31_000, local_endpoints })])
            };
            for (count, code) in [(2, 200), (0, 503), (1, 200)] {
                checks.set(&wanted(count));
                let answer = tell("192.168.1.1:31000").await.unwrap();
                assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
                assert!(
                    answer.contains(&format!("x-load-balancing-endpoint-weight: {count}\r\n")),
                    "{answer}"
                );
                for part in [
                    format!("\"localEndpoints\":{count}"),
                    "\"serviceProxyHealthy\":true".to_owned(),
                    "\"name\":\"web\"".to_owned(),
                ] {
                    assert!(answer.replace(' ', "").contains(&part), "{part} is missing in {answer}");
                }
            }
            checks.set(&BTreeMap::new());
            while tell("192.168.1.1:31000").await.is_ok() {
                // The port closes when its task has its turn.
                tokio::task::yield_now().await;
            }
            tasks.shutdown(Duration::from_secs(1)).await;
        });
    });
}

/// What a page says.
async fn tell(address: &str) -> io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[test]
fn tables_of_others_stay_as_they_are_and_have_their_say() {
    in_namespace(|| {
        serve("10.244.0.1");
        run("nft", &["add table inet filter"]);
        run("nft", &["add set inet filter closed { type inet_service; elements = { 81 }; }"]);
        run("nft", &["add chain inet filter input { type filter hook input priority 0; policy accept; }"]);
        run("nft", &["add rule inet filter input tcp dport @closed drop"]);
        // As a network plugin does, on machines that have it.
        let mut theirs = vec!["inet filter"];
        if Program::new("iptables-nft").arg("--version").output().is_ok() {
            let rule = ["-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "MASQUERADE"];
            run("iptables-nft", &rule);
            theirs.push("ip nat");
        }
        let shown = || -> Vec<String> {
            let of = |table: &&str| {
                run("nft", &[&["list", "table"], &table.split(' ').collect::<Vec<_>>()[..]].concat())
            };
            theirs.iter().map(of).collect()
        };
        let before = shown();
        let mut syncer = Syncer::open().unwrap();
        syncer.sync(&all_kinds(), &settings()).unwrap();
        assert_eq!(shown(), before, "with services of all kinds");
        syncer.sync(&model(service(), &["10.244.0.1"]), &settings()).unwrap();
        assert_eq!(ask("10.96.0.5:80").unwrap().0, "10.244.0.1");
        run("nft", &["add element inet filter closed { 8080 }"]);
        assert_eq!(
            ask("10.96.0.5:80"),
            Err(io::ErrorKind::TimedOut),
            "their filter sees what we have led on"
        );
        run("nft", &["delete element inet filter closed { 8080 }"]);
        assert!(!syncer.lost(Instant::now()).unwrap(), "their changes are none of ours");
        crate::sync::cleanup().unwrap();
        assert_eq!(shown(), before, "after we have left");
        assert!(!run("nft", &["list", "tables"]).contains(SERVICES));
    });
}
