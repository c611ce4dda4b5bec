//! The specification, section by section.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};

use super::*;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn port(name: &str, protocol: &str, number: u16) -> Port {
    Port { name: name.into(), protocol: protocol.into(), number }
}

fn settings() -> Settings {
    Settings {
        zone: Labels::parse("cluster.local"),
        ttl: 30,
        pods: true,
        verified: false,
        namespaces: vec![],
        ignore_empty: false,
        listed_only: false,
        no_endpoints: false,
    }
}

#[test]
fn without_endpoints_or_their_namespace_names_do_not_exist() {
    let index = index();
    let code = |settings: &Settings, name: &str| {
        let name = Name::from_ascii(name).unwrap();
        match answer(&index, settings, &name, RecordType::A, &[]) {
            Some(Answer::Records { .. }) => "records",
            Some(Answer::NoData) => "nothing",
            Some(Answer::NxDomain) => "no name",
            None => "outside",
        }
    };
    let blind = Settings { no_endpoints: true, ..settings() };
    assert_eq!(code(&settings(), "db.default.svc.cluster.local."), "records");
    assert_eq!(code(&blind, "db.default.svc.cluster.local."), "no name");
    assert_eq!(code(&blind, "web.default.svc.cluster.local."), "records");
    let listed = Settings { listed_only: true, ..settings() };
    assert_eq!(code(&listed, "web.default.svc.cluster.local."), "records");
    let mut index = index.clone();
    index.set_namespace("default", false);
    let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
    assert_eq!(answer(&index, &listed, &name, RecordType::A, &[]), Some(Answer::NxDomain));
}

#[test]
fn verified_pods_have_their_addresses() {
    let mut index = index();
    index.add_pod("default", &[ip("10.244.0.9"), ip("fd00::9")]);
    let settings = Settings { verified: true, ..settings() };
    let exists = |index: &Index, name: &str| {
        let name = Name::from_ascii(name).unwrap();
        matches!(answer(index, &settings, &name, RecordType::A, &[]), Some(Answer::Records { .. }))
    };
    assert!(exists(&index, "10-244-0-9.default.pod.cluster.local."));
    assert!(!exists(&index, "10-244-0-9.kube-system.pod.cluster.local."));
    assert!(!exists(&index, "10-244-0-8.default.pod.cluster.local."));
    index.add_pod("kube-system", &[ip("10.244.0.9")]);
    index.remove_pod("default", &[ip("10.244.0.9"), ip("fd00::9")]);
    assert!(exists(&index, "10-244-0-9.kube-system.pod.cluster.local."), "another pod has it by now");
    index.remove_pod("kube-system", &[ip("10.244.0.9")]);
    assert!(!exists(&index, "10-244-0-9.kube-system.pod.cluster.local."));
}

#[test]
fn namespaces_and_empty_services_may_be_left_out() {
    let with = |change: fn(&mut Settings), name: &str| {
        let mut settings = settings();
        change(&mut settings);
        let name = Name::from_ascii(name).unwrap();
        !matches!(answer(&index(), &settings, &name, RecordType::A, &[]), Some(Answer::NxDomain))
    };
    let only: fn(&mut Settings) = |s| s.namespaces = vec!["kube-system".into()];
    assert!(!with(only, "web.default.svc.cluster.local.") && !with(only, "default.svc.cluster.local."));
    assert!(with(only, "kube-system.svc.cluster.local.") && with(|_| {}, "web.default.svc.cluster.local."));
    let full: fn(&mut Settings) = |s| s.ignore_empty = true;
    assert!(!with(full, "web.default.svc.cluster.local."), "it has no endpoints");
    assert!(with(full, "db.default.svc.cluster.local.") && with(full, "ext.default.svc.cluster.local."));
    let mut settings = settings();
    settings.namespaces = vec!["kube-system".into()];
    let name = Name::from_ascii("20.0.96.10.in-addr.arpa.").unwrap();
    assert!(settings.pointers(&index(), &name, ip("10.96.0.20")).is_empty());
}

fn index() -> Index {
    let mut index = Index::default();
    for namespace in ["default", "kube-system", "empty"] {
        index.set_namespace(namespace, true);
    }
    let web = Service {
        kind: ServiceKind::Cluster(vec![ip("10.96.0.20"), ip("fd00::20")]),
        ports: vec![port("http", "tcp", 80), port("dns", "udp", 53)],
    };
    index.set_service("default", "web", Some(web.into()));
    index.set_service(
        "default",
        "db",
        Some(Service { kind: ServiceKind::Headless, ports: vec![port("sql", "tcp", 5432)] }.into()),
    );
    index.set_service(
        "default",
        "ext",
        Some(Service { kind: ServiceKind::External("example.org".into()), ports: vec![] }.into()),
    );
    index.set_service("default", "bare", Some(Service { kind: ServiceKind::Headless, ports: vec![] }.into()));
    let endpoint = |address: &str, hostname: Option<&str>| Endpoint {
        address: ip(address),
        hostname: hostname.map(Into::into),
    };
    let set = EndpointSet {
        endpoints: vec![endpoint("10.244.0.5", Some("db-0")), endpoint("10.244.0.6", None)],
        ports: vec![port("sql", "tcp", 5432)],
    };
    index.set_slice("default", "db", "db-1", Some(set.into()));
    index
}

fn ask(name: &str, kind: RecordType) -> String {
    ask_of(&index(), name, kind)
}

fn ask_of(index: &Index, name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(name).unwrap();
    match answer(index, &settings(), &name, kind, &[ip("10.96.0.10")]) {
        None => "outside".into(),
        Some(Answer::NoData) => "nodata".into(),
        Some(Answer::NxDomain) => "nxdomain".into(),
        Some(Answer::Records { answers, additionals }) => {
            let text = |records: Vec<hickory_proto::rr::Record>| {
                records
                    .iter()
                    .map(|r| format!("{} {}", r.record_type(), r.data))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (answers, additionals) = (text(answers), text(additionals));
            if additionals.is_empty() { answers } else { format!("{answers} + {additionals}") }
        }
    }
}

#[test]
fn names_answer_as_specified() {
    use RecordType::{A, AAAA, CNAME, MX, NS, SRV, TXT};
    let cases = [
        // 2.2 schema version
        ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
        // 2.3.1 cluster IP
        ("web.default.svc.cluster.local.", A, "A 10.96.0.20"),
        ("WEB.Default.svc.cluster.local.", A, "A 10.96.0.20"),
        ("web.default.svc.cluster.local.", AAAA, "AAAA fd00::20"),
        ("web.default.svc.cluster.local.", MX, "nodata"),
        // 2.3.2 SRV
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "SRV 0 100 80 web.default.svc.cluster.local. + A 10.96.0.20, AAAA fd00::20",
        ),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "nxdomain"),
        ("_tcp.web.default.svc.cluster.local.", SRV, "nodata"),
        ("_http._tcp.web.default.svc.cluster.local.", A, "nodata"),
        // 2.4.1 headless
        ("db.default.svc.cluster.local.", A, "A 10.244.0.5, A 10.244.0.6"),
        ("db.default.svc.cluster.local.", AAAA, "nodata"),
        ("db-0.db.default.svc.cluster.local.", A, "A 10.244.0.5"),
        ("10-244-0-6.db.default.svc.cluster.local.", A, "A 10.244.0.6"),
        ("10-244-0-5.db.default.svc.cluster.local.", A, "nxdomain"),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            SRV,
            "SRV 0 50 5432 db-0.db.default.svc.cluster.local., SRV 0 50 5432 10-244-0-6.db.default.svc.cluster.local. \
             + A 10.244.0.5, A 10.244.0.6",
        ),
        ("bare.default.svc.cluster.local.", A, "nodata"),
        ("x.web.default.svc.cluster.local.", A, "nxdomain"),
        // 2.5 external names
        ("ext.default.svc.cluster.local.", A, "CNAME example.org."),
        ("ext.default.svc.cluster.local.", CNAME, "CNAME example.org."),
        ("ext.default.svc.cluster.local.", SRV, "nodata"),
        // pods
        ("10-244-0-9.default.pod.cluster.local.", A, "A 10.244.0.9"),
        ("10-244-0-9.nowhere.pod.cluster.local.", A, "nxdomain"),
        ("010-244-0-9.default.pod.cluster.local.", A, "nxdomain"),
        // what exists without records, and what does not
        ("cluster.local.", A, "nodata"),
        ("cluster.local.", NS, "NS ns.dns.cluster.local. + A 10.96.0.10"),
        ("ns.dns.cluster.local.", A, "A 10.96.0.10"),
        ("svc.cluster.local.", A, "nodata"),
        ("default.svc.cluster.local.", A, "nodata"),
        ("empty.svc.cluster.local.", A, "nodata"),
        ("nowhere.svc.cluster.local.", A, "nxdomain"),
        ("none.default.svc.cluster.local.", A, "nxdomain"),
        ("*.default.svc.cluster.local.", A, "nxdomain"),
        ("web.*.svc.cluster.local.", A, "nxdomain"),
        ("cluster.local.svc.cluster.local.", A, "nxdomain"),
        ("example.org.", A, "outside"),
        ("notcluster.local.", A, "outside"),
    ];
    for (name, kind, want) in cases {
        assert_eq!(ask(name, kind), want, "{name} {kind}");
    }
}

#[test]
fn addresses_lead_back_to_names() {
    let index = index();
    let name = Name::from_ascii("x.in-addr.arpa.").unwrap();
    let names = |address: &str| -> Vec<String> {
        settings().pointers(&index, &name, ip(address)).iter().map(|r| r.data.to_string()).collect()
    };
    assert_eq!(names("10.96.0.20"), ["web.default.svc.cluster.local."]);
    assert_eq!(names("fd00::20"), ["web.default.svc.cluster.local."]);
    assert_eq!(names("10.244.0.5"), ["db-0.db.default.svc.cluster.local."]);
    assert_eq!(names("10.244.0.6"), ["10-244-0-6.db.default.svc.cluster.local."]);
    assert!(names("10.244.0.99").is_empty());
}

#[test]
fn what_is_taken_away_is_not_answered() {
    let mut index = index();
    index.set_slice("default", "db", "db-1", None);
    assert_eq!(ask_of(&index, "db.default.svc.cluster.local.", RecordType::A), "nodata");
    index.set_service("default", "web", None);
    assert_eq!(ask_of(&index, "web.default.svc.cluster.local.", RecordType::A), "nxdomain");
    assert_eq!(index.by_cluster_ip(ip("10.96.0.20")), None);
    assert_eq!(index.by_endpoint_ip(ip("10.244.0.5")).count(), 0);
}

#[test]
fn an_address_that_moved_belongs_to_its_new_service() {
    let mut index = index();
    let taker = Service { kind: ServiceKind::Cluster(vec![ip("10.96.0.20")]), ports: vec![] };
    index.set_service("default", "taker", Some(taker.into()));
    index.set_service("default", "web", None);
    assert_eq!(index.by_cluster_ip(ip("10.96.0.20")), Some(("default", "taker")));
}

#[test]
fn the_soa_carries_the_negative_ttl() {
    let soa = settings().soa().unwrap();
    assert_eq!((soa.name.to_string().as_str(), soa.ttl), ("cluster.local.", 30));
}
