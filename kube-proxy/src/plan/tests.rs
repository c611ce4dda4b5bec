//! What happens to connections under a plan: the tables are walked as the kernel would walk them.

use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::{
    model::{Endpoint, Protocol},
    tables::{Command, Field, HookPoint, Key, Part, Statement, Value, Verdict, diff},
};

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn name(service: &str) -> Arc<PortName> {
    Arc::new(PortName {
        namespace: "default".into(),
        service: service.into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    })
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        zones: vec![],
        nodes: vec![],
    }
}

fn local(address: &str) -> Endpoint {
    Endpoint { local: true, ..endpoint(address) }
}

fn dying(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, terminating: true, ..endpoint }
}

fn service() -> ServicePort {
    ServicePort { cluster_ips: smallvec![ip("10.96.0.5")], port: 80, ..ServicePort::default() }
}

fn settings() -> Settings {
    Settings {
        node: "n1".into(),
        zone: "a".into(),
        node_port_ips: vec![ip("192.168.1.1")],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
        pod_interfaces: None,
        masquerade_all: false,
        masquerade_mark: 0x4000,
    }
}

fn one(service: ServicePort, endpoints: Vec<Endpoint>) -> Table {
    let model = Model {
        services: [(name("web"), service.into())].into(),
        endpoints: [(name("web"), endpoints)].into(),
        ..Model::default()
    };
    Planner::of(Family::V4, &settings(), &model).table()
}

/// A first packet.
#[derive(Clone, Copy)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    /// The interface it came in by.
    by: &'static str,
}

fn packet(source: &str, destination: &str, port: u16) -> Packet {
    let by = if source == POD { "veth1" } else { "eth0" };
    Packet { source: ip(source), destination: ip(destination), port, by }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    marked: bool,
    targets: BTreeSet<String>,
    end: Option<&'static str>,
}

/// This machine's own addresses.
const OWN: &str = "192.168.1.1";

fn walk(table: &Table, chain: &str, p: &Packet, state: &mut State) -> bool {
    for rule in &table.chains[chain].rules {
        for statement in &rule.statements {
            match step(table, statement, p, state) {
                Step::Next => {}
                Step::Break => break,
                Step::Into(chain, comes_back) => {
                    if walk(table, &chain, p, state) {
                        return true;
                    }
                    if !comes_back {
                        return false;
                    }
                }
                Step::Return => return false,
                Step::End(why) => {
                    state.end = Some(why);
                    return true;
                }
            }
        }
    }
    false
}

enum Step {
    Next,
    Break,
    Into(String, bool),
    Return,
    End(&'static str),
}

fn step(table: &Table, statement: &Statement, p: &Packet, state: &mut State) -> Step {
    let part = |f: &Field| match f {
        Field::Source => Part::Address(p.source),
        Field::Destination => Part::Address(p.destination),
        Field::Protocol => Part::Protocol(6),
        Field::DestinationPort => Part::Port(p.port),
    };
    let key = |fields: &[Field]| fields.iter().map(part).collect::<Key>();
    let when = |yes: bool| if yes { Step::Next } else { Step::Break };
    let verdict = |v: &Verdict| match v {
        Verdict::Accept => Step::End("accept"),
        Verdict::Drop => Step::End("drop"),
        Verdict::Jump(chain) => Step::Into(chain.clone(), true),
        Verdict::Goto(chain) => Step::Into(chain.clone(), false),
        Verdict::Return => Step::Return,
    };
    match statement {
        Statement::In { key: fields, set, negate } => {
            when(table.sets[set].elements.contains_key(&key(fields)) != *negate)
        }
        Statement::VerdictMap { key: fields, map } => match table.sets[map].elements.get(&key(fields)) {
            Some(Value::Verdict(v)) => verdict(v),
            _ => Step::Break,
        },
        Statement::Within { field, range, negate } => {
            let address = if *field == Field::Source { p.source } else { p.destination };
            when(range.contains(&address) != *negate)
        }
        Statement::CameBy { name, prefix, negate } => {
            when((if *prefix { p.by.starts_with(name) } else { p.by == name }) != *negate)
        }
        Statement::ProtocolIs(n) => when(*n == 6),
        Statement::DestinationIsLocal => when(p.destination == ip(OWN)),
        Statement::SourceIsLocal => when(p.source == ip(OWN)),
        Statement::PortIn(first, last) => when((*first..=*last).contains(&p.port)),
        Statement::NewConnection => Step::Next,
        Statement::Reply | Statement::Related => Step::Break,
        Statement::MarkSet(_) => when(state.marked),
        Statement::SetMark(_) => {
            state.marked = true;
            Step::Next
        }
        Statement::ClearMark(_) => Step::Break,
        Statement::Remember { .. } => Step::Next,
        Statement::SendTo(address, port) => {
            state.targets.insert(format!("{address}:{port}"));
            Step::End("dnat")
        }
        Statement::BalanceOver { map, first, count } => {
            for slot in *first..first + count {
                let Some(Value::Verdict(Verdict::Goto(chain))) =
                    table.sets[map].elements.get(&[Part::Slot(slot)][..])
                else {
                    panic!("slot {slot} leads nowhere");
                };
                walk(table, chain, p, state);
            }
            Step::End("dnat")
        }
        Statement::BalanceAt { key: fields, map, first, count } => {
            for slot in *first..first + count {
                let mut key = key(fields);
                key.push(Part::Slot(slot));
                let Some(Value::Parts(parts)) = table.sets[map].elements.get(&key) else {
                    panic!("{key:?} leads nowhere");
                };
                let [Part::Address(address), Part::Port(port)] = parts[..] else { panic!("{parts:?}") };
                state.targets.insert(format!("{address}:{port}"));
            }
            Step::End("dnat")
        }
        Statement::Masquerade => Step::End("masquerade"),
        Statement::Reject => Step::End("reject"),
        Statement::Verdict(v) => verdict(v),
    }
}

/// What becomes of a connection from outside or from a pod: filters before, then the replaced address.
fn fate(table: &Table, p: Packet) -> String {
    let mut state = State::default();
    let run = |chain: &str, state: &mut State| walk(table, chain, &p, state);
    if run("filter-prerouting-pre-dnat", &mut state) {
        return state.end.unwrap_or_default().to_owned();
    }
    run("nat-prerouting", &mut state);
    if state.end == Some("dnat") {
        let targets: Vec<String> = state.targets.into_iter().collect();
        return format!("{}{}", if state.marked { "masq " } else { "" }, targets.join(","));
    }
    if state.end.is_none() {
        let chain = if p.destination == ip(OWN) { "filter-input" } else { "filter-forward" };
        run(chain, &mut state);
    }
    state.end.unwrap_or("pass").to_owned()
}

const POD: &str = "10.244.0.9";
const OUTSIDE: &str = "172.16.0.9";

#[test]
fn cluster_ips_lead_to_all_endpoints() {
    let table = one(service(), vec![endpoint("10.244.1.1"), local("10.244.0.2")]);
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "10.244.0.2:8080,10.244.1.1:8080");
    assert_eq!(fate(&table, packet(OUTSIDE, "10.96.0.5", 80)), "masq 10.244.0.2:8080,10.244.1.1:8080");
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 81)), "reject", "no such port");
    assert_eq!(fate(&table, packet(POD, "10.96.0.6", 80)), "pass", "no such service");
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut with_all = service();
    with_all.node_port = 30080;
    with_all.external_ips = vec![ip("203.0.113.1")];
    let table = one(with_all, vec![]);
    for (destination, port) in [("10.96.0.5", 80), ("203.0.113.1", 80), (OWN, 30080)] {
        assert_eq!(fate(&table, packet(POD, destination, port)), "reject", "{destination}:{port}");
    }
}

#[test]
fn node_ports_answer_on_the_nodes_addresses_only() {
    let table = one(ServicePort { node_port: 30080, ..service() }, vec![endpoint("10.244.1.1")]);
    assert_eq!(fate(&table, packet(OUTSIDE, OWN, 30080)), "masq 10.244.1.1:8080");
    assert_eq!(fate(&table, packet(OUTSIDE, "192.168.1.2", 30080)), "pass");
    assert_eq!(fate(&table, packet(OUTSIDE, OWN, 30081)), "pass");
}

#[test]
fn the_local_policy_keeps_clients_addresses_and_drops_without_local_endpoints() {
    let external = ServicePort { node_port: 30080, external_local: true, ..service() };
    let table = one(external.clone(), vec![endpoint("10.244.1.1"), local("10.244.0.2")]);
    assert_eq!(fate(&table, packet(OUTSIDE, OWN, 30080)), "10.244.0.2:8080");
    assert_eq!(fate(&table, packet(POD, OWN, 30080)), "10.244.0.2:8080,10.244.1.1:8080");
    assert_eq!(fate(&table, packet(OWN, OWN, 30080)), "masq 10.244.0.2:8080,10.244.1.1:8080");
    let table = one(external, vec![endpoint("10.244.1.1")]);
    assert_eq!(fate(&table, packet(OUTSIDE, OWN, 30080)), "drop");
    assert_eq!(fate(&table, packet(POD, OWN, 30080)), "10.244.1.1:8080");
}

#[test]
fn pods_are_known_by_their_interfaces_where_that_is_asked_for() {
    let external = ServicePort { node_port: 30080, external_local: true, ..service() };
    for (name_of, prefix) in [("veth", true), ("veth1", false)] {
        let settings =
            Settings { pod_ranges: vec![], pod_interfaces: Some((name_of.into(), prefix)), ..settings() };
        let model = Model {
            services: [(name("web"), external.clone().into())].into(),
            endpoints: [(name("web"), vec![endpoint("10.244.1.1"), local("10.244.0.2")])].into(),
            ..Model::default()
        };
        let table = Planner::of(Family::V4, &settings, &model).table();
        let both = "10.244.0.2:8080,10.244.1.1:8080";
        assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), both);
        assert_eq!(fate(&table, packet(OUTSIDE, "10.96.0.5", 80)), format!("masq {both}"));
        assert_eq!(fate(&table, packet(POD, OWN, 30080)), both);
        assert_eq!(fate(&table, packet(OUTSIDE, OWN, 30080)), "10.244.0.2:8080");
    }
}

#[test]
fn the_internal_local_policy_stays_on_the_node() {
    let internal = ServicePort { internal_local: true, ..service() };
    let table = one(internal.clone(), vec![endpoint("10.244.1.1"), local("10.244.0.2")]);
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "10.244.0.2:8080");
    let table = one(internal.clone(), vec![endpoint("10.244.1.1")]);
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "drop");
    assert_eq!(fate(&one(internal, vec![]), packet(POD, "10.96.0.5", 80)), "reject");
}

#[test]
fn load_balancers_keep_strangers_out() {
    let balanced = ServicePort {
        load_balancer_ips: vec![ip("203.0.113.9")],
        source_ranges: vec!["172.16.0.0/24".parse().unwrap()],
        ..service()
    };
    let table = one(balanced, vec![endpoint("10.244.1.1")]);
    assert_eq!(fate(&table, packet(OUTSIDE, "203.0.113.9", 80)), "masq 10.244.1.1:8080");
    assert_eq!(fate(&table, packet("172.17.0.1", "203.0.113.9", 80)), "drop");
    assert_eq!(
        fate(&table, packet("172.17.0.1", "10.96.0.5", 80)),
        "masq 10.244.1.1:8080",
        "the cluster IP is open"
    );
}

#[test]
fn terminating_endpoints_serve_only_when_nothing_else_does() {
    let table = one(service(), vec![endpoint("10.244.1.1"), dying(endpoint("10.244.1.2"))]);
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "10.244.1.1:8080");
    let table = one(service(), vec![dying(endpoint("10.244.1.2"))]);
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "10.244.1.2:8080");
    let mut dead = dying(endpoint("10.244.1.2"));
    dead.serving = false;
    assert_eq!(fate(&one(service(), vec![dead]), packet(POD, "10.96.0.5", 80)), "reject");
}

#[test]
fn hints_of_a_kind_count_when_all_endpoints_have_them_and_some_are_for_here() {
    let hints = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<_>>();
    // Hints of nodes and zones of three endpoints, and the numbers of those that take connections on node n1 in zone a.
    type Hints<'a> = (&'a [&'a str], &'a [&'a str]);
    let cases: &[([Hints<'_>; 3], &[u8])] = &[
        ([(&[], &["a"]), (&[], &["b"]), (&[], &["a", "b"])], &[1, 3]),
        ([(&[], &["b"]), (&[], &[]), (&[], &["a"])], &[1, 2, 3]),
        ([(&[], &["b"]), (&[], &["c"]), (&[], &["b"])], &[1, 2, 3]),
        ([(&["n1"], &["b"]), (&["n2"], &["a"]), (&["n2"], &["a"])], &[1]),
        ([(&["n2"], &["b"]), (&["n2"], &["a"]), (&["n3"], &["a"])], &[2, 3]),
        ([(&["n1"], &["b"]), (&[], &["a"]), (&["n2"], &["b"])], &[2]),
        ([(&["n1"], &[]), (&["n2"], &["a"]), (&["n1"], &["a"])], &[1, 3]),
        ([(&["n1"], &[]), (&[], &["a"]), (&["n1"], &["a"])], &[1, 2, 3]),
        ([(&[], &[]), (&[], &[]), (&[], &[])], &[1, 2, 3]),
    ];
    for (endpoints, want) in cases {
        let made = endpoints.iter().enumerate().map(|(at, (nodes, zones))| Endpoint {
            nodes: hints(nodes),
            zones: hints(zones),
            ..endpoint(&format!("10.244.1.{}", at + 1))
        });
        let all: Vec<Endpoint> = made.collect();
        let want: Vec<String> = want.iter().map(|n| format!("10.244.1.{n}:8080")).collect();
        let table = one(service(), all.clone());
        assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), want.join(","), "{endpoints:?}");
        // The last ones take what comes, whatever they were meant for.
        let table = one(service(), all.into_iter().map(dying).collect());
        let want = "10.244.1.1:8080,10.244.1.2:8080,10.244.1.3:8080";
        assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), want, "{endpoints:?}");
    }
}

#[test]
fn families_do_not_mix() {
    let dual = ServicePort { cluster_ips: smallvec![ip("10.96.0.5"), ip("fd00::5")], ..service() };
    let model = Model {
        services: [(name("web"), dual.into())].into(),
        endpoints: [(name("web"), vec![endpoint("10.244.1.1"), endpoint("fd01::1")])].into(),
        ..Model::default()
    };
    let v6 = Planner::of(Family::V6, &settings(), &model).table();
    assert_eq!(fate(&v6, packet("fd99::1", "fd00::5", 80)), "[fd01::1]:8080".replace(['[', ']'], ""));
    assert_eq!(fate(&v6, packet(POD, "10.96.0.5", 80)), "pass");
}

#[test]
fn affinity_remembers_clients_per_endpoint() {
    let sticky = ServicePort { affinity: Some(10800), ..service() };
    let table = one(sticky, vec![endpoint("10.244.1.1"), endpoint("10.244.1.2")]);
    let memory: Vec<_> = table.sets.iter().filter(|(k, _)| k.starts_with("affinity-")).collect();
    assert_eq!(memory.len(), 2);
    assert!(memory.iter().all(|(_, set)| set.timeout == Some(10_800_000)));
    assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)), "10.244.1.1:8080,10.244.1.2:8080");
}

#[test]
fn everything_led_to_exists_and_base_chains_are_hooked() {
    let full = ServicePort {
        node_port: 30080,
        external_ips: vec![ip("203.0.113.1")],
        load_balancer_ips: vec![ip("203.0.113.9")],
        source_ranges: vec!["172.16.0.0/24".parse().unwrap()],
        affinity: Some(60),
        external_local: true,
        ..service()
    };
    let table = one(full, vec![endpoint("10.244.1.1"), local("10.244.0.2")]);
    for chain in table.references() {
        assert!(table.chains.contains_key(chain), "{chain}");
    }
    let hooked = table.chains.values().filter_map(|c| c.hook).map(|h| h.point);
    assert_eq!(hooked.filter(|p| *p == HookPoint::Prerouting).count(), 2);
}

#[test]
fn one_endpoint_more_is_a_small_change() {
    let mut planner = Planner::new(Family::V4, settings());
    let of = |addresses: &[&str]| addresses.iter().map(|a| endpoint(a)).collect::<Vec<_>>();
    let mut change = |endpoints: &[Endpoint]| {
        let (name, service) = (name("web"), Arc::new(service()));
        let commands = planner.change(&name.key(), &[(&name, &service, endpoints)]);
        let elements = commands.iter().map(|c| match c {
            Command::AddElements(_, e) | Command::DeleteElements(_, e) => e.len(),
            other => panic!("no element: {other:?}"),
        });
        elements.sum::<usize>()
    };
    change(&of(&["10.244.1.1", "10.244.1.2", "10.244.1.3"]));
    assert_eq!(change(&of(&["10.244.1.1", "10.244.1.2", "10.244.1.4"])), 2, "another address in a place");
    assert_eq!(
        change(&of(&["10.244.1.1", "10.244.1.2", "10.244.1.4", "10.244.1.5"])),
        3,
        "one more, so another set"
    );
    assert_eq!(change(&of(&["10.244.1.1", "10.244.1.2", "10.244.1.4", "10.244.1.5"])), 0, "nothing to do");
}

#[test]
fn one_port_may_exchange_endpoints_while_another_gets_more() {
    let ports =
        ["http", "web"].map(|port| Arc::new(PortName { port: port.into(), ..(*name("web")).clone() }));
    let services = [80, 81].map(|port| Arc::new(ServicePort { port, ..service() }));
    let mut planner = Planner::new(Family::V4, settings());
    let mut table = planner.table();
    let mut change = |http: &[&str], web: &[&str]| {
        let endpoints =
            [http, web].map(|all| all.iter().map(|address| endpoint(address)).collect::<Vec<_>>());
        let now: Vec<_> = (0..2).map(|at| (&ports[at], &services[at], &endpoints[at][..])).collect();
        planner.change(&ports[0].key(), &now).into_iter().for_each(|command| table.apply(command));
        assert_eq!(table, planner.table());
        [80, 81].map(|port| fate(&table, packet(POD, "10.96.0.5", port)))
    };
    change(&["10.244.1.1"], &["10.244.1.2"]);
    let [http, web] = change(&["10.244.1.3"], &["10.244.1.2", "10.244.1.4"]);
    assert_eq!((http.as_str(), web.split(',').count()), ("10.244.1.3:8080", 2));
    let [http, web] = change(&["10.244.1.5", "10.244.1.6"], &["10.244.1.2", "10.244.1.7"]);
    assert_eq!((http.split(',').count(), web.split(',').count()), (2, 2));
    assert!(web.contains("10.244.1.7:8080"), "{web}");
}

#[test]
fn the_first_by_name_has_what_several_claim_and_the_next_one_when_it_leaves() {
    let external = |n: u8| ServicePort {
        cluster_ips: smallvec![IpAddr::from([10, 96, 0, n])],
        external_ips: vec![ip("203.0.113.1")],
        ..service()
    };
    let mut planner = Planner::new(Family::V4, settings());
    let mut table = planner.table();
    let mut who = |service: &str, n: u8, there: bool| {
        let endpoints = [endpoint(&format!("10.244.1.{n}"))];
        let (name, service) = (name(service), Arc::new(external(n)));
        let now = there.then_some((&name, &service, &endpoints[..]));
        planner.change(&name.key(), now.as_slice()).into_iter().for_each(|command| table.apply(command));
        assert_eq!(table, planner.table());
        fate(&table, packet(OUTSIDE, "203.0.113.1", 80))
    };
    assert_eq!(who("m", 1, true), "masq 10.244.1.1:8080");
    assert_eq!(who("z", 2, true), "masq 10.244.1.1:8080");
    assert_eq!(who("a", 3, true), "masq 10.244.1.3:8080");
    assert_eq!(who("m", 1, false), "masq 10.244.1.3:8080");
    assert_eq!(who("a", 3, false), "masq 10.244.1.2:8080");
    assert_eq!(who("z", 2, false), "pass");
}

#[test]
fn many_endpoints_are_served_by_a_chain_of_their_number() {
    let all: Vec<Endpoint> = (1..=20).map(|n| endpoint(&format!("10.244.1.{n}"))).collect();
    for count in [1, 8, 9, 20] {
        let table = one(service(), all[..count].to_vec());
        assert_eq!(fate(&table, packet(POD, "10.96.0.5", 80)).split(',').count(), count);
        assert_eq!(table.chains.contains_key(&format!("cluster-ip-{count}")), count > 8);
    }
}

proptest! {
    /// Whatever changes, the commands lead from one table to the other, and nothing is used before it
    /// exists or removed while it is used.
    #[test]
    fn differences_lead_from_any_plan_to_any_other(a in models(), b in models()) {
        let mut planner = Planner::of(Family::V4, &settings(), &a);
        let before = planner.table();
        planner.replace(&settings(), &b);
        let after = planner.table();
        let mut table = before.clone();
        for command in diff(Some(&before), &after) {
            table.apply(command);
        }
        prop_assert_eq!(table, after);
    }

    /// Changes one by one lead to the table that is planned at once, from any state to any other, and clients reach
    /// what a plan from nothing lets them reach.
    #[test]
    fn changes_lead_where_the_whole_plan_does(steps in prop::collection::vec(models(), 1..6)) {
        let mut planner = Planner::new(Family::V4, settings());
        let mut table = planner.table();
        let mut before = Model::default();
        for model in steps {
            let concerned: BTreeSet<_> = before.services.keys().chain(model.services.keys()).map(|n| n.key()).collect();
            for service in concerned {
                for command in planner.change(&service, &model.ports_of(&service).collect::<Vec<_>>()) {
                    prop_assert!(!matches!(command, Command::AddTable | Command::DeleteTable));
                    table.apply(command);
                }
                prop_assert_eq!(&table, &planner.table());
            }
            let mut anew = Table::default();
            planner.anew().for_each(|command| anew.apply(command));
            prop_assert_eq!(&anew, &table);
            let fresh = Planner::of(Family::V4, &settings(), &model).table();
            for source in [POD, OUTSIDE, OWN] {
                for (destination, port) in destinations() {
                    let packet = packet(source, &destination, port);
                    prop_assert_eq!(fate(&table, packet), fate(&fresh, packet), "{} {}", destination, port);
                }
            }
            before = model;
        }
        for name in before.services.keys() {
            planner.change(&name.key(), &[]).into_iter().for_each(|command| table.apply(command));
        }
        prop_assert_eq!(table, skeleton::table(Family::V4, &settings()), "nothing is left");
        prop_assert!(planner.shared.is_empty() && planner.services.is_empty());
    }

    /// Endpoints that take others' places change as many elements as there are places, and the table is the one planned.
    #[test]
    fn endpoints_take_the_places_of_others(
        mut model in models(),
        steps in prop::collection::vec((0..4usize, 0..13usize, 14..40u8), 1..8),
    ) {
        let mut planner = Planner::of(Family::V4, &settings(), &model);
        let mut table = planner.table();
        for (service, endpoint, address) in steps {
            let Some((name, endpoints)) = model.endpoints.iter_mut().nth(service) else { continue };
            let count = endpoints.len();
            let Some(endpoint) = endpoint.checked_rem(count).and_then(|at| endpoints.get_mut(at)) else { continue };
            endpoint.address = IpAddr::from([10, 244, 1, address]);
            let service = name.key();
            for command in planner.change(&service, &model.ports_of(&service).collect::<Vec<_>>()) {
                table.apply(command);
            }
            prop_assert_eq!(&table, &planner.table());
            let fresh = Planner::of(Family::V4, &settings(), &model).table();
            for source in [POD, OUTSIDE, OWN] {
                for (destination, port) in destinations() {
                    let packet = packet(source, &destination, port);
                    prop_assert_eq!(fate(&table, packet), fate(&fresh, packet), "{} {}", destination, port);
                }
            }
        }
    }
}

/// Everything services of [`models`] may be found at.
fn destinations() -> Vec<(String, u16)> {
    let mut out: Vec<(String, u16)> = (0..4).map(|n| (format!("10.96.0.{n}"), 80)).collect();
    out.extend((0..4).map(|n| (OWN.to_owned(), 30080 + n)));
    out.extend([("203.0.113.1".to_owned(), 80), ("203.0.113.2".to_owned(), 80)]);
    out
}

fn models() -> impl Strategy<Value = Model> {
    let endpoint = (1..14u8, any::<bool>(), any::<bool>()).prop_map(|(n, ready, here)| Endpoint {
        ready,
        local: here,
        ..endpoint(&format!("10.244.1.{n}"))
    });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let service = (flags, 0..3u8, any::<bool>()).prop_map(|((sticky, ports, el, il), outer, firewall)| {
        let outer = (outer > 0).then(|| IpAddr::from([203, 0, 113, outer]));
        ServicePort {
            affinity: sticky.then_some(60),
            node_port: if ports { 30080 } else { 0 },
            external_local: el,
            internal_local: il,
            external_ips: outer.into_iter().filter(|_| el).collect(),
            load_balancer_ips: outer.into_iter().filter(|_| !el).collect(),
            source_ranges: if firewall { vec!["172.16.0.0/24".parse().unwrap()] } else { vec![] },
            ..service()
        }
    });
    prop::collection::btree_map(0..4u8, (service, prop::collection::vec(endpoint, 0..13)), 0..4).prop_map(
        |all| {
            let mut model = Model::default();
            for (n, (mut service, endpoints)) in all {
                service.cluster_ips = smallvec![IpAddr::from([10, 96, 0, n])];
                service.node_port += if service.node_port == 0 { 0 } else { n.into() };
                // Two ports are of one service.
                let port = format!("p{}", n % 2).into();
                let name = Arc::new(PortName { port, ..(*name(&format!("s{}", n / 2))).clone() });
                model.services.insert(name.clone(), service.into());
                model.endpoints.insert(name, endpoints);
            }
            model
        },
    )
}
