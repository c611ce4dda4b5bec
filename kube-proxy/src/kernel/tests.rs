//! Against the kernel's real nftables, in network namespaces of this test's own.

mod features;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::linux::net::TcpStreamExt,
    process::Command as Program,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use smallvec::smallvec;

use super::*;
use crate::{
    model::{Endpoint, Model, PortName, Protocol, ServicePort, Settings},
    plan::Planner,
    tables::{Command, diff},
};

fn run(program: &str, args: &[&str]) -> String {
    let out = Program::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs `test` on a thread with a network namespace of its own, with loopback up and service addresses routed.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return;
    }
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        for address in ["10.244.0.1", "10.244.0.2", "10.244.0.3"] {
            run("ip", &["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        // Refusals are sent by the device a packet would leave through, so there must be one.
        run("ip", &["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
        run("ip", &["link", "set", "v1", "up"]);
        run("ip", &["addr", "add", "192.168.1.1/24", "dev", "v0"]);
        run("ip", &["link", "set", "v0", "up"]);
        run("ip", &["route", "add", "default", "via", "192.168.1.254"]);
        test();
    })
    .join()
    .unwrap();
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn name() -> PortName {
    PortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    }
}

fn model(service: ServicePort, endpoints: &[&str]) -> Model {
    let endpoint = |a: &&str| Endpoint {
        address: ip(a),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        local: true,
        zones: vec![],
        nodes: vec![],
    };
    Model {
        services: [(name().into(), service.into())].into(),
        endpoints: [(name().into(), endpoints.iter().map(endpoint).collect())].into(),
        ..Model::default()
    }
}

fn service() -> ServicePort {
    ServicePort { cluster_ips: smallvec![ip("10.96.0.5"), ip("fd00::5")], port: 80, ..ServicePort::default() }
}

fn settings() -> Settings {
    Settings {
        node_port_ips: vec![ip("192.168.1.1")],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
        masquerade_mark: 0x4000,
        ..Settings::default()
    }
}

/// A proxy in miniature: what was committed, and how to get from there to a model.
struct Proxy {
    kernel: Kernel,
    planners: Option<[Planner; 2]>,
}

impl Proxy {
    fn new() -> Self {
        Self { kernel: Kernel::open(SERVICES).unwrap(), planners: None }
    }

    fn sync(&mut self, model: &Model) {
        for at in 0..2 {
            let commands: Vec<Command> = match &mut self.planners {
                Some(planners) => {
                    let old = planners[at].table();
                    planners[at].replace(&settings(), model);
                    diff(Some(&old), &planners[at].table())
                }
                None => Planner::of([Family::V4, Family::V6][at], &settings(), model).anew().collect(),
            };
            let done = self.kernel.commit([Family::V4, Family::V6][at], commands);
            done.unwrap_or_else(|e| panic!("{e}: {:?}", std::error::Error::source(&e)));
        }
        self.planners
            .get_or_insert_with(|| [Family::V4, Family::V6].map(|f| Planner::of(f, &settings(), model)));
    }
}

/// Serves its own address to whoever connects, until the process ends.
fn serve(address: &str) {
    let listener = TcpListener::bind((address, 8080)).unwrap();
    let address = address.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let from = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            // A client that is gone is its own affair.
            drop(write!(stream, "{address} {from}"));
        }
    });
}

/// Who answers, and which address it saw.
fn ask(address: &str) -> Result<(String, String), io::ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|e| e.kind())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    let (who, saw) = text.split_once(' ').unwrap_or_default();
    Ok((who.to_owned(), saw.to_owned()))
}

#[test]
fn nft_shows_interfaces_by_name_and_by_prefix() {
    in_namespace(|| {
        let mut kernel = Kernel::open(SERVICES).unwrap();
        let mut committed = None;
        for (name, prefix, want) in
            [("cni0", false, "iifname != \"cni0\""), ("veth", true, "iifname != \"veth*\"")]
        {
            let settings =
                Settings { pod_ranges: vec![], pod_interfaces: Some((name.into(), prefix)), ..settings() };
            let model = model(service(), &["10.244.0.1"]);
            let table = Planner::of(Family::V4, &settings, &model).table();
            kernel.commit(Family::V4, diff(committed.as_ref(), &table)).unwrap();
            committed = Some(table);
            let text = run("nft", &["list", "table", "ip", "kube-proxy"]);
            assert!(text.contains(&format!("{want} jump mark-for-masquerade")), "{text}");
        }
    });
}

/// Two policies with everything a policy can say, then one of them changed, then none.
#[test]
fn what_others_change_inside_is_noticed_and_set_right_and_connections_live() {
    in_namespace(|| {
        let listener = TcpListener::bind(("10.244.0.1", 8080)).unwrap();
        let mut syncer = crate::sync::Syncer::open().unwrap();
        let served = model(service(), &["10.244.0.1"]);
        syncer.sync(&served, &settings()).unwrap();
        let mut client = TcpStream::connect("10.96.0.5:80").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut now = Instant::now();
        assert!(!syncer.lost(now).unwrap(), "nobody has done anything");
        let before = run("nft", &["list", "table", "ip", SERVICES]);
        let changes = [
            "delete element ip kube-proxy endpoints { 10.96.0.5 . tcp . 80 . 0x00000000 }",
            "add element ip kube-proxy endpoints { 10.96.0.6 . tcp . 80 . 0x00000000 : 10.244.0.1 . 8080 }",
            "flush set ip kube-proxy cluster-ips",
            "insert rule ip kube-proxy services drop",
            "flush chain ip kube-proxy mark-for-masquerade",
            "add chain ip kube-proxy strange; add rule ip kube-proxy strange drop",
        ];
        for change in changes {
            run("nft", &[change]);
            assert!(syncer.lost(now).unwrap() && !syncer.follows(), "{change}");
            syncer.sync(&served, &settings()).unwrap();
            now += Duration::from_secs(60);
            assert!(!syncer.lost(now).unwrap(), "all is right after {change}");
            assert_eq!(run("nft", &["list", "table", "ip", SERVICES]).len(), before.len(), "{change}");
            TcpStream::connect("10.96.0.5:80").unwrap();
            server.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            now += Duration::from_secs(60);
        }
        for _ in 0..5 {
            // Again and again, before there was a look at what was made anew.
            run("nft", &[changes[0]]);
            assert!(syncer.lost(now).unwrap());
            syncer.sync(&served, &settings()).unwrap();
            now += Duration::from_secs(60);
        }
        run("nft", &["add", "table", "ip", "other"]);
        run("nft", &["add", "chain", "ip", "other", "some"]);
        assert!(!syncer.lost(now).unwrap(), "others' tables are theirs");
    });
}

/// Services of all kinds, so that all kinds of rules and elements are in the tables.
fn all_kinds() -> Model {
    let full = |affinity| ServicePort {
        node_port: 30080,
        external_ips: vec![ip("192.168.9.1"), ip("fd00:9::1")],
        load_balancer_ips: vec![ip("192.168.9.2"), ip("fd00:9::2")],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()],
        external_local: true,
        affinity,
        ..service()
    };
    let kinds = [
        (full(None), 2),
        (full(Some(600)), 2),
        (service(), 12),
        (service(), 0),
        (ServicePort { internal_local: true, ..service() }, 1),
        (ServicePort { node_port: 1, ..full(None) }, 0),
    ];
    let mut all = Model::default();
    for (at, (kind, count)) in (1_u8..).zip(kinds) {
        let shifted = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(*v4) + (u32::from(at) << 8)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(*v6) + (u128::from(at) << 16)).into()),
        };
        let all_of = |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().map(shifted).collect() };
        let kind = ServicePort {
            cluster_ips: all_of(&kind.cluster_ips).into(),
            external_ips: all_of(&kind.external_ips),
            load_balancer_ips: all_of(&kind.load_balancer_ips),
            node_port: if kind.node_port == 0 { 0 } else { 30_000 + u16::from(at) },
            ..kind
        };
        let name: Arc<PortName> = PortName { port: format!("p{at}").into(), ..name() }.into();
        let addresses: Vec<String> =
            (0..count).flat_map(|n| [format!("10.244.{at}.{n}"), format!("fd00:2::{at}:{n}")]).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let endpoints = model(service(), &addresses).endpoints.into_values().next().unwrap();
        all.services.insert(name.clone(), kind.into());
        all.endpoints.insert(name, endpoints);
    }
    all
}

#[test]
fn the_kernel_says_of_all_kinds_of_services_what_was_sent() {
    in_namespace(|| {
        let mut kernel = Kernel::open(SERVICES).unwrap();
        for family in [Family::V4, Family::V6] {
            let planner = Planner::of(family, &settings(), &all_kinds());
            kernel.commit(family, planner.anew()).unwrap();
            let planned = Content::of(family, planner.anew());
            assert_eq!(kernel.content(family, &planned).unwrap().unwrap(), planned, "{family:?}");
        }
    });
}

#[test]
fn network_policies_are_taken_and_shown() {
    use crate::policy::{self, Namespaces, Peer, Pod, PodPort, Policies, Policy, Port, PortRef, Rule};
    use component_base::selector::LabelSelector;

    let port = |port| Port { protocol: Protocol::Tcp, port };
    let pod = |n: u8| Pod {
        addresses: vec![ip(&format!("10.244.0.{n}")), ip(&format!("fd00::{n}"))],
        local: true,
        ports: vec![PodPort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
        ..Pod::default()
    };
    let range =
        |range: &str, except: &str| Peer::Range(range.parse().unwrap(), vec![except.parse().unwrap()]);
    let pods = Peer::Pods(Namespaces::Own, LabelSelector::everything());
    let rule = Rule {
        peers: Some(vec![range("0.0.0.0/0", "10.0.0.0/8"), range("::/0", "fd00::/8"), pods]),
        ports: Some(vec![
            port(PortRef::Any),
            port(PortRef::Range(80, 80)),
            port(PortRef::Range(1000, 2000)),
            port(PortRef::Named("web".into())),
        ]),
    };
    let policy = |rules: Vec<Rule>| Policy {
        pods: LabelSelector::everything(),
        ingress: Some(rules.clone()),
        egress: Some(rules),
    };
    let key = |name: &str| ("x".to_owned(), name.to_owned());
    let mut model = Policies {
        pods: [(key("a"), pod(1).into()), (key("b"), pod(2).into())].into(),
        policies: [
            (key("p"), policy(vec![rule.clone()]).into()),
            (key("q"), policy(vec![Rule { peers: None, ports: None }]).into()),
        ]
        .into(),
        ..Policies::default()
    };
    in_namespace(move || {
        let mut kernel = Kernel::open(POLICIES).unwrap();
        let mut committed = [None, None];
        let mut sync = |model: &Policies| {
            for (family, had) in [Family::V4, Family::V6].into_iter().zip(&mut committed) {
                let table = policy::plan(family, model);
                let commands = diff(had.as_ref(), &table);
                kernel
                    .commit(family, commands)
                    .unwrap_or_else(|e| panic!("{e}: {:?}", std::error::Error::source(&e)));
                let planned = Content::of(family, diff(None, &table));
                assert_eq!(kernel.content(family, &planned).unwrap().unwrap(), planned, "{family:?}");
                *had = Some(table);
            }
        };
        sync(&model);
        let text = run("nft", &["list", "table", "ip", POLICIES]);
        for want in [
            "type filter hook forward priority filter; policy accept;",
            "ct direction reply accept",
            "ct state related accept",
            "ip saddr vmap @egress-pods",
            "10.244.0.1 : jump ingress-pods-",
            "flags interval",
            "0.0.0.0-9.255.255.255",
            "11.0.0.0-255.255.255.255",
            "tcp dport 1000-2000 accept",
            "10.244.0.2 . tcp . 8080",
        ] {
            assert!(text.contains(want), "{want} is missing in:\n{text}");
        }
        assert!(run("nft", &["list", "table", "ip6", POLICIES]).contains("fe00::/7"));
        let peers = Some(vec![range("10.0.0.0/8", "10.244.0.0/16")]);
        model.policies.insert(key("p"), policy(vec![Rule { peers, ..rule }]).into());
        model.policies.remove(&key("q"));
        sync(&model);
        let text = run("nft", &["list", "table", "ip", POLICIES]);
        assert!(text.contains("10.0.0.0-10.243.255.255") && !text.contains("11.0.0.0"), "{text}");
        model.policies.clear();
        sync(&model);
        let text = run("nft", &["list", "table", "ip", POLICIES]);
        assert!(!text.contains("drop") && !text.contains("interval"), "{text}");
    });
}

#[test]
fn nft_shows_the_table_as_planned() {
    in_namespace(|| {
        let mut proxy = Proxy::new();
        let full = ServicePort {
            node_port: 30080,
            load_balancer_ips: vec![ip("203.0.113.9")],
            source_ranges: vec!["172.16.0.0/24".parse().unwrap()],
            affinity: Some(60),
            external_local: true,
            ..service()
        };
        proxy.sync(&model(full, &["10.244.0.1", "10.244.0.2"]));
        let text = run("nft", &["list", "table", "ip", "kube-proxy"]);
        for want in [
            "10.96.0.5 . tcp . 80 : goto cluster-",
            "tcp . 30080 : goto external-",
            "203.0.113.9 . tcp . 80 : goto firewall-",
            "ip saddr 172.16.0.0/24 return",
            "type nat hook prerouting priority dstnat; policy accept;",
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "ct state new jump service-endpoints-check",
            "fib saddr type local jump mark-for-masquerade",
            "default/web/tcp/http",
            "10.244.0.1 . 10.244.0.1",
        ] {
            assert!(text.contains(want), "{want} is missing in:\n{text}");
        }
        assert!(run("nft", &["list", "table", "ip6", "kube-proxy"]).contains("fd00::5"));
        let plain = ServicePort { node_port: 30080, external_local: true, ..service() };
        proxy.sync(&model(plain, &["10.244.0.1", "10.244.0.2"]));
        let text = run("nft", &["list", "table", "ip", "kube-proxy"]);
        for want in [
            "ip daddr . meta l4proto . th dport @services-2 dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints",
            "tcp . 30080 : goto nodeport-2-local-2",
            "10.96.0.5 . tcp . 80 . 0x00000001 : 10.244.0.2 . 8080",
        ] {
            assert!(text.contains(want), "{want} is missing in:\n{text}");
        }
    });
}

#[test]
fn connections_reach_every_endpoint_and_follow_changes() {
    in_namespace(|| {
        for address in ["10.244.0.1", "10.244.0.2", "10.244.0.3"] {
            serve(address);
        }
        let mut proxy = Proxy::new();
        let who = |address: &str| -> BTreeSet<String> {
            (0..60).filter_map(|_| ask(address).ok()).map(|a| a.0).collect()
        };
        let exposed = ServicePort { node_port: 30080, ..service() };
        proxy.sync(&model(exposed.clone(), &["10.244.0.1", "10.244.0.2"]));
        assert_eq!(who("10.96.0.5:80"), BTreeSet::from(["10.244.0.1".into(), "10.244.0.2".into()]));
        assert_eq!(who("192.168.1.1:30080").len(), 2, "by node port");
        proxy.sync(&model(exposed.clone(), &["10.244.0.3"]));
        assert_eq!(who("10.96.0.5:80"), BTreeSet::from(["10.244.0.3".into()]));
        proxy.sync(&model(exposed, &[]));
        assert_eq!(ask("10.96.0.5:80"), Err(io::ErrorKind::ConnectionRefused));
    });
}

#[test]
fn tables_taken_away_are_noticed_and_come_back_and_connections_live() {
    in_namespace(|| {
        let listener = TcpListener::bind(("10.244.0.1", 8080)).unwrap();
        let mut syncer = crate::sync::Syncer::open().unwrap();
        let served = model(service(), &["10.244.0.1"]);
        syncer.sync(&served, &settings()).unwrap();
        let mut client = TcpStream::connect("10.96.0.5:80").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut now = Instant::now();
        assert!(!syncer.lost(now).unwrap(), "nobody has done anything");
        syncer.change(&name().key(), &model(service(), &["10.244.0.1", "10.244.0.2"])).unwrap();
        syncer.change(&name().key(), &served).unwrap();
        assert!(!syncer.lost(now).unwrap(), "only the proxy itself has");
        run("nft", &["add", "table", "ip", "other"]);
        assert!(!syncer.lost(now).unwrap(), "others' tables are theirs");
        let takings = [
            &["flush", "ruleset"][..],
            &["flush", "table", "ip", SERVICES],
            &["delete", "table", "ip", SERVICES],
        ];
        for taking in takings {
            run("nft", taking);
            assert!(syncer.lost(now).unwrap() && !syncer.follows(), "{taking:?}");
            syncer.sync(&served, &settings()).unwrap();
            assert!(syncer.follows());
            TcpStream::connect("10.96.0.5:80").unwrap();
            server.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.write_all(b"y").unwrap();
            server.read_exact(&mut [0]).unwrap();
            // An acknowledgement held back would be sent while the kernel translates nothing: it would come
            // from an address the client does not know, and be answered with a reset.
            server.set_quickack(true).unwrap();
            assert!(!syncer.lost(now).unwrap());
            now += Duration::from_secs(60);
        }
    });
}

#[test]
fn affinity_sticks_to_an_endpoint_until_it_leaves() {
    in_namespace(|| {
        for address in ["10.244.0.1", "10.244.0.2", "10.244.0.3"] {
            serve(address);
        }
        let mut proxy = Proxy::new();
        let sticky = ServicePort { affinity: Some(60), ..service() };
        proxy.sync(&model(sticky.clone(), &["10.244.0.1", "10.244.0.2", "10.244.0.3"]));
        let first = ask("10.96.0.5:80").unwrap().0;
        for _ in 0..20 {
            assert_eq!(ask("10.96.0.5:80").unwrap().0, first);
        }
        let rest: Vec<&str> =
            ["10.244.0.1", "10.244.0.2", "10.244.0.3"].into_iter().filter(|a| *a != first).collect();
        proxy.sync(&model(sticky, &rest));
        let second = ask("10.96.0.5:80").unwrap().0;
        assert_ne!(second, first);
        for _ in 0..20 {
            assert_eq!(ask("10.96.0.5:80").unwrap().0, second);
        }
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_names_the_command() {
    in_namespace(|| {
        let mut proxy = Proxy::new();
        proxy.sync(&model(service(), &["10.244.0.1"]));
        let before = run("nft", &["list", "table", "ip", "kube-proxy"]);
        let bad = vec![
            Command::AddTable,
            Command::FlushChain("services".into()),
            Command::DeleteChain("nowhere".into()),
        ];
        let error = proxy.kernel.commit(Family::V4, bad).unwrap_err();
        assert_eq!(error.to_string(), "nftables refused the deletion of the chain \"nowhere\" (1)");
        assert_eq!(run("nft", &["list", "table", "ip", "kube-proxy"]), before);
    });
}

/// So many services with two endpoints each.
fn many(count: u16) -> Model {
    let mut all = Model::default();
    for n in 0..count {
        let [high, low] = n.to_be_bytes();
        let name = Arc::new(PortName { service: format!("s{n}").into(), ..name() });
        let service = ServicePort { cluster_ips: smallvec![IpAddr::from([10, 97, high, low])], ..service() };
        all.services.insert(name.clone(), service.into());
        let one = model(ServicePort::default(), &["10.244.0.1", "10.244.0.2"]);
        all.endpoints.insert(name, one.endpoints.into_values().next().unwrap());
    }
    all
}

#[test]
fn thousands_of_services_go_in_one_batch() {
    in_namespace(|| {
        let mut proxy = Proxy::new();
        proxy.sync(&many(2000));
        let text = run("nft", &["list", "set", "ip", "kube-proxy", "services-2"]);
        assert_eq!(text.matches("tcp").count(), 2000);
    });
}

#[test]
fn a_table_made_in_pieces_is_the_one_made_at_once() {
    in_namespace(|| {
        let planner = Planner::of(Family::V4, &settings(), &many(4000));
        let mut kernel = Kernel::open(SERVICES).unwrap();
        kernel.others_changed().unwrap();
        kernel.make(Family::V4, planner.anew()).unwrap();
        assert!(!kernel.others_changed().unwrap(), "each piece is this conversation's own");
        let planned = Content::of(Family::V4, planner.anew());
        assert_eq!(kernel.content(Family::V4, &planned).unwrap().unwrap(), planned);
    });
}

#[test]
fn no_packet_goes_by_a_table_that_was_not_made_whole_and_the_next_sync_makes_it() {
    in_namespace(|| {
        let all = many(4000);
        let planner = Planner::of(Family::V4, &settings(), &all);
        let mut kernel = Kernel::open(SERVICES).unwrap();
        let bad = [Command::DeleteChain("nowhere".into())];
        let commands = planner.anew().chain(bad);
        let error = kernel.make(Family::V4, commands).unwrap_err();
        assert_eq!(error.to_string(), "nftables refused the deletion of the chain \"nowhere\" (1)");
        let text = run("nft", &["list", "table", "ip", "kube-proxy"]);
        assert!(text.contains("10.244.0.1 . 8080"), "the first piece stays");
        assert!(!text.contains("jump services"), "packets enter no chain that leads anywhere");
        crate::sync::Syncer::open().unwrap().sync(&all, &settings()).unwrap();
        let text = run("nft", &["list", "set", "ip", "kube-proxy", "services-2"]);
        assert_eq!(text.matches("tcp").count(), 4000);
    });
}

/// Answers every datagram with its own address.
fn serve_udp(address: &str) {
    let socket = std::net::UdpSocket::bind((address, 5353)).unwrap();
    let address = address.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            if socket.send_to(address.as_bytes(), from).is_err() {
                return;
            }
        }
    });
}

#[test]
fn udp_flows_follow_their_endpoints() {
    in_namespace(|| {
        for address in ["10.244.0.1", "10.244.0.2"] {
            serve_udp(address);
        }
        let model = |endpoint: &str| {
            let name = Arc::new(PortName { protocol: Protocol::Udp, ..name() });
            let mut model = model(ServicePort { port: 53, ..service() }, &[endpoint]);
            let services = std::mem::take(&mut model.services).into_values();
            let endpoints = std::mem::take(&mut model.endpoints).into_values();
            model.services = services.map(|s| (name.clone(), s)).collect();
            model.endpoints = endpoints.map(|e| (name.clone(), e)).collect();
            model.endpoints.values_mut().flatten().for_each(|e| e.port = 5353);
            model
        };
        let client = std::net::UdpSocket::bind("192.168.1.1:4000").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let who = || {
            client.send_to(b"?", "10.96.0.5:53").unwrap();
            let mut buffer = [0; 16];
            let (size, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(from.to_string(), "10.96.0.5:53");
            String::from_utf8_lossy(&buffer[..size]).into_owned()
        };
        let mut syncer = crate::sync::Syncer::open().unwrap();
        syncer.sync(&model("10.244.0.1"), &settings()).unwrap();
        assert_eq!(who(), "10.244.0.1");
        syncer.sync(&model("10.244.0.2"), &settings()).unwrap();
        assert_eq!(who(), "10.244.0.2", "the same client, from the same port");
    });
}

/// Another machine or pod: a thread in a network namespace of its own.
struct Neighbour {
    thread: i32,
    work: std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Neighbour {
    /// Plugs one end of a new cable (`near` here, `far` there) into a new namespace.
    fn connect(near: (&str, &str), far: (&str, &str)) -> Self {
        let (work, jobs) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        let neighbour = Self { thread: told.recv().unwrap(), work };
        run("ip", &["link", "add", near.0, "type", "veth", "peer", "name", far.0]);
        run("ip", &["link", "set", far.0, "netns", &neighbour.thread.to_string()]);
        run("ip", &["addr", "add", near.1, "dev", near.0]);
        run("ip", &["link", "set", near.0, "up"]);
        let (far, gateway) = ((far.0.to_owned(), far.1.to_owned()), near.1.to_owned());
        neighbour.run(move || {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["addr", "add", &far.1, "dev", &far.0]);
            run("ip", &["link", "set", &far.0, "up"]);
            let gateway = gateway.split('/').next().unwrap();
            run("ip", &["route", "add", "default", "via", gateway]);
        });
        neighbour
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        self.work.send(Box::new(move || tell.send(job()).unwrap())).unwrap();
        told.recv().unwrap()
    }

    /// Which source address the endpoint saw, or why there was no answer.
    fn seen_as(&self, address: &'static str) -> Result<String, io::ErrorKind> {
        self.run(move || ask(address)).map(|(_, saw)| saw)
    }
}

#[test]
fn addresses_are_kept_or_replaced_as_the_policy_says() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let pod = Neighbour::connect(("p0", "10.244.9.1/24"), ("p1", "10.244.9.9/24"));
        let client = Neighbour::connect(("c0", "192.168.7.1/24"), ("c1", "192.168.7.7/24"));
        pod.run(|| serve("10.244.9.9"));
        let settings = Settings { node_port_ips: vec![ip("192.168.7.1")], ..settings() };
        let mut syncer = crate::sync::Syncer::open().unwrap();
        let with = |service| model(service, &["10.244.9.9"]);
        let open = ServicePort {
            node_port: 30080,
            load_balancer_ips: vec![ip("203.0.113.1")],
            external_ips: vec![ip("203.0.113.2")],
            ..service()
        };

        syncer.sync(&with(open.clone()), &settings).unwrap();
        let by_us = Ok("10.244.9.1".to_owned());
        for address in ["192.168.7.1:30080", "203.0.113.1:80", "203.0.113.2:80", "10.96.0.5:80"] {
            assert_eq!(client.seen_as(address), by_us, "{address}: masqueraded");
        }
        assert_eq!(pod.seen_as("10.96.0.5:80"), by_us, "a pod reaches itself");
        assert_eq!(client.seen_as("10.96.0.5:81"), Err(io::ErrorKind::ConnectionRefused), "no such port");

        let local = ServicePort { external_local: true, ..open.clone() };
        syncer.sync(&with(local.clone()), &settings).unwrap();
        for address in ["192.168.7.1:30080", "203.0.113.1:80", "203.0.113.2:80"] {
            assert_eq!(client.seen_as(address), Ok("192.168.7.7".to_owned()), "{address}: kept");
        }
        let mut elsewhere = with(local);
        elsewhere.endpoints.values_mut().flatten().for_each(|e| e.local = false);
        syncer.sync(&elsewhere, &settings).unwrap();
        assert_eq!(client.seen_as("203.0.113.1:80"), Err(io::ErrorKind::TimedOut), "dropped, not refused");
        assert_eq!(client.seen_as("10.96.0.5:80"), by_us, "the cluster IP knows no such policy");

        let guarded = ServicePort { source_ranges: vec!["192.0.2.0/24".parse().unwrap()], ..open };
        syncer.sync(&with(guarded.clone()), &settings).unwrap();
        assert_eq!(client.seen_as("203.0.113.1:80"), Err(io::ErrorKind::TimedOut), "a stranger");
        assert_eq!(client.seen_as("203.0.113.2:80"), by_us, "external IPs have no guard");
        let welcome = ServicePort { source_ranges: vec!["192.168.7.0/24".parse().unwrap()], ..guarded };
        syncer.sync(&with(welcome), &settings).unwrap();
        assert_eq!(client.seen_as("203.0.113.1:80"), by_us);

        syncer.sync(&Model::default(), &settings).unwrap();
        crate::sync::cleanup().unwrap();
        assert_eq!(run("nft", &["list", "tables"]), "");
    });
}
