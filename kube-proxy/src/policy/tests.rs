//! What policies allow: the table is walked as the kernel would, and compared with the API's words read naively.

use std::net::IpAddr;

use component_base::informer::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    model::Protocol,
    objects,
    tables::{Command, Data, Family, Field, Part, Statement, Table, Value, Verdict, diff},
};

const NODE: &str = "n1";

// === objects ===

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// A pod with an address per family, labels `app` and `tier`, and ports named `web` (TCP 80 and SCTP 90) and `dns` (UDP 53).
fn pod(namespace: &str, name: &str, number: u8, app: &str, tier: &str, node: &str) -> Json {
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": app, "tier": tier}},
        "spec": {"nodeName": node, "containers": [{"ports": [
            {"name": "web", "containerPort": 80 + u16::from(number % 2)}, {"name": "web", "containerPort": 90, "protocol": "SCTP"},
            {"containerPort": 7000}]}],
            "initContainers": [{"ports": [{"name": "lost", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": format!("10.244.0.{number}"),
            "podIPs": [{"ip": format!("10.244.0.{number}")}, {"ip": format!("fd00::{number}")}]},
    })
}

/// Four pods in each of two namespaces, half of them here.
fn world() -> Index {
    let mut index = Index::new(NODE);
    for (namespace, team) in [("x", "a"), ("y", "b")] {
        let labels = json!({"metadata": {"name": namespace, "labels": {"team": team, "name": namespace}}});
        index.namespace(&added(labels));
    }
    let mut number = 1;
    for namespace in ["x", "y"] {
        for (app, tier) in [("a", "front"), ("b", "front"), ("a", "back"), ("b", "back")] {
            let node = if tier == "front" { NODE } else { "n2" };
            index.pod(&added(pod(namespace, &format!("{app}-{tier}"), number, app, tier, node)));
            number += 1;
        }
    }
    index
}

fn added<K: serde::de::DeserializeOwned>(object: Json) -> Event<K> {
    Event::Added { new: serde_json::from_value::<K>(object).unwrap().into(), initial: false }
}

fn deleted<K: serde::de::DeserializeOwned>(object: Json) -> Event<K> {
    Event::Deleted { last: serde_json::from_value::<K>(object).unwrap().into(), unknown_state: false }
}

fn policy(namespace: &str, name: &str, spec: Json) -> Json {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn with(policies: &[Json]) -> Index {
    let mut index = world();
    for policy in policies {
        assert!(index.policy(&added(policy.clone())), "a new policy matters");
    }
    index
}

// === the kernel's side ===

#[derive(Clone, Copy, Debug)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: u16,
    /// On the way back.
    reply: bool,
}

fn packet(source: &str, destination: &str, protocol: Protocol, port: u16) -> Packet {
    Packet {
        source: ip(source),
        destination: ip(destination),
        protocol: protocol.number(),
        port,
        reply: false,
    }
}

/// Whether a packet passes both hooks.
fn passes(table: &Table, p: &Packet) -> bool {
    ["egress", "ingress"].into_iter().all(|chain| walk(table, chain, p).unwrap_or(true))
}

/// `None`: the chain has no opinion.
fn walk(table: &Table, chain: &str, p: &Packet) -> Option<bool> {
    'rules: for rule in &table.chains[chain].rules {
        for statement in &rule.statements {
            let key = |fields: &[Field]| fields.iter().map(|f| part(f, p)).collect::<Vec<_>>();
            let verdict = match statement {
                Statement::In { key: fields, set, negate } => {
                    assert!(!negate);
                    if !contains(table, set, &key(fields)) {
                        continue 'rules;
                    }
                    continue;
                }
                Statement::VerdictMap { key: fields, map } => {
                    match table.sets[map].elements.get(&key(fields)[..]) {
                        Some(Value::Verdict(verdict)) => verdict,
                        _ => continue 'rules,
                    }
                }
                Statement::ProtocolIs(n) if *n == p.protocol => continue,
                Statement::PortIn(first, last) if (*first..=*last).contains(&p.port) => continue,
                Statement::Reply if p.reply => continue,
                Statement::ProtocolIs(_) | Statement::PortIn(..) | Statement::Reply | Statement::Related => {
                    continue 'rules;
                }
                Statement::Verdict(verdict) => verdict,
                other => panic!("{other:?} has no place here"),
            };
            match verdict {
                Verdict::Accept => return Some(true),
                Verdict::Drop => return Some(false),
                Verdict::Jump(to) => {
                    if let Some(end) = walk(table, to, p) {
                        return Some(end);
                    }
                }
                Verdict::Goto(_) | Verdict::Return => panic!("{verdict:?} has no place here"),
            }
        }
    }
    None
}

fn part(field: &Field, p: &Packet) -> Part {
    match field {
        Field::Source => Part::Address(p.source),
        Field::Destination => Part::Address(p.destination),
        Field::Protocol => Part::Protocol(p.protocol),
        Field::DestinationPort => Part::Port(p.port),
    }
}

fn contains(table: &Table, set: &str, key: &[Part]) -> bool {
    let set = &table.sets[set];
    if set.data != Data::Ranges {
        return set.elements.contains_key(key);
    }
    let [Part::Address(address)] = key else { panic!("ranges are of addresses") };
    set.elements.iter().any(|(first, last)| match (&first[..], last) {
        ([Part::Address(first)], Value::Until(last)) => (first..=last).contains(&address),
        other => panic!("{other:?}"),
    })
}

// === the API's side ===

/// Whether the API's words let a connection from one address to another be, on node `n1`.
fn allowed(index: &Index, policies: &[Json], p: &Packet) -> bool {
    let model = index.model();
    if p.source == p.destination {
        return true;
    }
    let owner = |address: IpAddr| {
        model
            .pods
            .iter()
            .find(|(_, pod)| pod.addresses.contains(&address))
            .map(|((ns, _), pod)| (ns.clone(), pod.clone()))
    };
    let side = |own: IpAddr, other: IpAddr, kind: &str, rules: &str, peers: &str| {
        let Some((namespace, pod)) = owner(own).filter(|(_, pod)| pod.local) else { return true };
        let selecting: Vec<&Json> = policies
            .iter()
            .filter(|policy| policy["metadata"]["namespace"] == json!(namespace))
            .filter(|policy| policy["spec"]["policyTypes"].as_array().unwrap().contains(&json!(kind)))
            .filter(|policy| selects(&policy["spec"]["podSelector"], &pod.labels))
            .collect();
        let peer = |peer: &Json| {
            if let Some(block) = peer.get("ipBlock") {
                let within =
                    |range: &Json| range.as_str().unwrap().parse::<ipnet::IpNet>().unwrap().contains(&other);
                let except = block["except"].as_array().cloned().unwrap_or_default();
                return within(&block["cidr"]) && !except.iter().any(within);
            }
            let Some((of, pod)) = owner(other) else { return false };
            let there = match peer.get("namespaceSelector") {
                Some(selector) => selects(selector, &model.namespaces[&of]),
                None => of == namespace,
            };
            there && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
        };
        let port = |port: &Json| {
            let protocol = Protocol::parse(port["protocol"].as_str().unwrap_or("TCP")).unwrap();
            let receiver = owner(p.destination).map(|(_, pod)| pod);
            protocol.number() == p.protocol
                && match (&port["port"], port["endPort"].as_u64()) {
                    (Json::Null, _) => true,
                    (Json::String(name), _) => receiver
                        .iter()
                        .flat_map(|pod| &pod.ports)
                        .any(|one| one.name == *name && one.protocol == protocol && one.port == p.port),
                    (number, end) => {
                        let first = number.as_u64().unwrap();
                        (first..=end.unwrap_or(first)).contains(&u64::from(p.port))
                    }
                }
        };
        let none_or = |list: &Json, test: &dyn Fn(&Json) -> bool| {
            list.as_array().is_none_or(|list| list.is_empty() || list.iter().any(test))
        };
        let allows = |policy: &&Json| {
            let rules = policy["spec"][rules].as_array().cloned().unwrap_or_default();
            rules.iter().any(|rule| none_or(&rule[peers], &peer) && none_or(&rule["ports"], &port))
        };
        selecting.is_empty() || selecting.iter().any(allows)
    };
    side(p.source, p.destination, "Egress", "egress", "to")
        && side(p.destination, p.source, "Ingress", "ingress", "from")
}

fn selects(selector: &Json, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.clone().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        && expressions.clone().all(|e| {
            let has = labels.get(e["key"].as_str().unwrap());
            let among = has.is_some_and(|v| e["values"].as_array().unwrap().contains(&json!(v)));
            if e["operator"] == "In" { among } else { !among }
        })
}

/// Every packet of interest: between all pods, the outside and a node, over some ports of all protocols.
fn packets() -> Vec<Packet> {
    let mut addresses: Vec<(String, bool)> = Vec::new();
    for number in 1..=8 {
        addresses.push((format!("10.244.0.{number}"), true));
        addresses.push((format!("fd00::{number}"), false));
    }
    for (v4, v6) in [("172.16.0.9", "2001:db8::9"), ("172.16.0.77", "2001:db8::77")] {
        addresses.extend([(v4.to_owned(), true), (v6.to_owned(), false)]);
    }
    let mut out = Vec::new();
    for (source, v4) in &addresses {
        for (destination, _) in addresses.iter().filter(|(_, other)| other == v4) {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                for port in [53, 80, 81, 90, 7000] {
                    out.push(packet(source, destination, protocol, port));
                }
            }
        }
    }
    out
}

fn agree(policies: &[Json]) -> Result<(), TestCaseError> {
    let index = with(policies);
    let tables = [Family::V4, Family::V6].map(|family| (family, plan(family, index.model())));
    for (_, table) in &tables {
        for name in table.references() {
            prop_assert!(table.chains.contains_key(name), "{name} is led to and not there");
        }
        for name in table.chains.keys().chain(table.sets.keys()) {
            prop_assert!(name.len() < 128, "{name} is too long for the kernel");
        }
    }
    for p in packets() {
        let (_, table) = tables.iter().find(|(family, _)| family.has(&p.source)).unwrap();
        prop_assert_eq!(passes(table, &p), allowed(&index, policies, &p), "{:?} under {:#?}", p, policies);
        prop_assert!(passes(table, &Packet { reply: true, ..p }), "answers pass: {:?}", p);
    }
    Ok(())
}

// === random policies ===

fn selector() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"app": "a"}})),
        Just(json!({"matchLabels": {"tier": "front"}})),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]})),
        Just(json!({"matchLabels": {"app": "none"}})),
    ]
}

fn peer() -> impl Strategy<Value = Json> {
    let namespaces = prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"team": "a"}})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["b", "c"]}]})),
    ];
    let block = prop_oneof![
        Just(json!({"cidr": "0.0.0.0/0", "except": ["172.16.0.64/26"]})),
        Just(json!({"cidr": "172.16.0.0/16"})),
        Just(json!({"cidr": "10.244.0.0/29", "except": ["10.244.0.2/31", "10.244.0.0/31"]})),
        Just(json!({"cidr": "fd00::/64", "except": ["fd00::4/126"]})),
        Just(json!({"cidr": "::/0"})),
    ];
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        namespaces.clone().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (namespaces, selector()).prop_map(|(n, p)| json!({"namespaceSelector": n, "podSelector": p})),
        block.prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!({"protocol": "TCP"})),
        Just(json!({"port": 80})),
        Just(json!({"protocol": "UDP", "port": 53})),
        Just(json!({"port": 79, "endPort": 81})),
        Just(json!({"protocol": "SCTP", "port": 90, "endPort": 65535})),
        Just(json!({"port": "web"})),
        Just(json!({"protocol": "SCTP", "port": "web"})),
        Just(json!({"protocol": "UDP", "port": "dns"})),
        Just(json!({"port": "none"})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Vec<Json>> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3));
    prop::collection::vec(rule.prop_map(move |(of, ports)| json!({peers: of, "ports": ports})), 0..3)
}

fn any_policy() -> impl Strategy<Value = Json> {
    let types =
        prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    (prop_oneof![Just("x"), Just("y")], selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            policy(
                namespace,
                "",
                json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}),
            )
        },
    )
}

/// Names tell policies apart.
fn named(mut policies: Vec<Json>) -> Vec<Json> {
    for (at, policy) in policies.iter_mut().enumerate() {
        policy["metadata"]["name"] = json!(format!("p{at}"));
    }
    policies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_table_allows_what_the_api_says(policies in prop::collection::vec(any_policy(), 0..5)) {
        agree(&named(policies))?;
    }

    /// Ranges never change under their name, whatever follows whatever.
    #[test]
    fn changes_are_ones_the_kernel_takes(
        before in prop::collection::vec(any_policy(), 0..4),
        after in prop::collection::vec(any_policy(), 0..4),
    ) {
        for family in [Family::V4, Family::V6] {
            let old = plan(family, with(&named(before.clone())).model());
            let new = plan(family, with(&named(after.clone())).model());
            for command in diff(Some(&old), &new) {
                let (Command::AddElements(set, _) | Command::DeleteElements(set, _)) = &command else { continue };
                let fresh = !old.sets.contains_key(set.as_str());
                prop_assert!(fresh || new.sets[set.as_str()].data != Data::Ranges, "{command:?}");
            }
            prop_assert!(diff(Some(&new), &new).is_empty());
        }
    }
}

/// What happens in a cluster: a pod, a namespace or a policy comes, changes or goes.
type Happening = (u8, usize, u8, bool, Json);

fn take_in(index: &mut Index, (kind, which, variant, gone, policy): &Happening) {
    let namespace = ["x", "y"][which % 2];
    match kind % 4 {
        0 | 1 => {
            let (app, tier) = (["a", "b", "c"][usize::from(variant % 3)], ["front", "back"][which % 2]);
            let node = if variant % 2 == 0 { NODE } else { "n2" };
            // Now and then two have one address.
            let object = pod(namespace, &format!("p{which}"), variant % 8 + 1, app, tier, node);
            index.pod(&if *gone { deleted(object) } else { added(object) });
        }
        2 => {
            let team = ["a", "b"][usize::from(variant % 2)];
            let object =
                json!({"metadata": {"name": namespace, "labels": {"team": team, "name": namespace}}});
            index.namespace(&if *gone { deleted(object) } else { added(object) });
        }
        _ => {
            let mut object = policy.clone();
            object["metadata"]["name"] = json!(format!("p{}", which % 3));
            index.policy(&if *gone { deleted(object) } else { added(object) });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Planning only what changes concern comes to what planning all does.
    #[test]
    fn changes_lead_where_the_whole_plan_does(
        all in prop::collection::vec((0..4u8, 0..6usize, 0..24u8, prop::bool::weighted(0.3), any_policy()), 1..40),
        together in 1..4usize,
    ) {
        let mut index = world();
        for family in [Family::V4, Family::V6] {
            let mut planner = Planner::new(family);
            let mut table = Table::default();
            let concerned = index.take_concerned();
            planner.change(index.model(), &concerned).into_iter().for_each(|c| table.apply(c));
            for some in all.chunks(together) {
                some.iter().for_each(|happening| take_in(&mut index, happening));
                let concerned = index.take_concerned();
                for command in planner.change(index.model(), &concerned) {
                    prop_assert!(!matches!(command, Command::AddTable | Command::DeleteTable));
                    table.apply(command);
                }
                prop_assert_eq!(&table, &plan(family, index.model()), "{:?} {:?}", some, concerned);
                prop_assert_eq!(&table, &planner.table());
            }
        }
    }
}

#[test]
fn a_pod_concerns_the_policies_that_speak_of_it_alone() {
    let mut index = with(&[
        policy("x", "own", json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{}]})),
        policy("y", "other", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]})),
        policy(
            "y",
            "peer",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}]}),
        ),
    ]);
    assert_eq!(index.take_concerned().len(), 3);
    let mut told = |object: Json| {
        let matters = index.pod(&added(object));
        let names: Vec<String> = index.take_concerned().into_iter().map(|(_, name)| name).collect();
        assert_eq!(matters, !names.is_empty());
        names
    };
    assert_eq!(told(pod("x", "new", 77, "a", "front", NODE)), ["own", "peer"]);
    assert_eq!(told(pod("x", "new", 77, "a", "front", NODE)), [""; 0], "as it was");
    assert_eq!(told(pod("x", "new", 77, "b", "front", NODE)), ["own", "peer"], "it was one of them");
    assert_eq!(told(pod("x", "new", 78, "b", "front", NODE)), ["peer"]);
    assert_eq!(told(pod("z", "new", 79, "a", "front", NODE)), [""; 0]);
}

// === cases ===

const FRONT: &str = "10.244.0.1";
const OTHER: &str = "10.244.0.2";
const OUTSIDE: &str = "172.16.0.9";

fn connects(index: &Index, source: &str, destination: &str, port: u16) -> bool {
    let family = if ip(source).is_ipv4() { Family::V4 } else { Family::V6 };
    passes(&plan(family, index.model()), &packet(source, destination, Protocol::Tcp, port))
}

#[test]
fn without_policies_everything_passes() {
    let index = world();
    assert!(packets().iter().all(|p| {
        let family = if p.source.is_ipv4() { Family::V4 } else { Family::V6 };
        passes(&plan(family, index.model()), p)
    }));
}

#[test]
fn types_that_are_not_said_follow_from_the_rules() {
    for (spec, into, out) in [
        (json!({}), false, true),
        (json!({"podSelector": {}}), false, true),
        (json!({"podSelector": {}, "ingress": [{}]}), true, true),
        (json!({"podSelector": {}, "egress": []}), false, true),
        (
            json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}),
            false,
            false,
        ),
        (json!({"podSelector": {}, "policyTypes": ["Egress"]}), true, false),
        (json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), false, false),
    ] {
        let index = with(&[policy("x", "p", spec.clone())]);
        assert_eq!(connects(&index, OUTSIDE, FRONT, 80), into, "{spec}");
        assert_eq!(connects(&index, FRONT, OUTSIDE, 80), out, "{spec}");
        assert!(connects(&index, FRONT, FRONT, 80), "a pod reaches itself: {spec}");
        assert!(connects(&index, "10.244.0.5", "10.244.0.6", 80), "other namespaces are left alone: {spec}");
    }
}

#[test]
fn what_cannot_be_read_allows_nothing() {
    for rule in [
        json!({"from": [{"ipBlock": {"cidr": "all"}}]}),
        json!({"from": [{"ipBlock": {"cidr": "172.16.0.0/16", "except": ["some"]}}]}),
        json!({"from": [{}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["a"]}]}}]}),
        json!({"ports": [{"protocol": "ICMP"}]}),
        json!({"ports": [{"port": 0}]}),
        json!({"ports": [{"port": 70_000}]}),
        json!({"ports": [{"port": 80, "endPort": -1}]}),
    ] {
        let index = with(&[policy("x", "p", json!({"podSelector": {}, "ingress": [rule.clone()]}))]);
        assert!(!connects(&index, OTHER, FRONT, 80) && !connects(&index, OUTSIDE, FRONT, 80), "{rule}");
    }
}

#[test]
fn pods_and_namespaces_come_change_and_go() {
    let from_a = json!({"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "b"}}}]});
    let mut index = with(&[policy("y", "p", json!({"podSelector": {}, "ingress": [from_a]}))]);
    let to = "10.244.0.5";
    assert!(connects(&index, OTHER, to, 80) && !connects(&index, FRONT, to, 80));
    let relabelled = pod("x", "a-front", 1, "b", "front", NODE);
    assert!(index.pod(&added(relabelled.clone())));
    assert!(!index.pod(&added(relabelled)), "nothing that matters has changed");
    assert!(connects(&index, FRONT, to, 80));
    assert!(index.namespace(&added(json!({"metadata": {"name": "x", "labels": {"team": "c"}}}))));
    assert!(!connects(&index, FRONT, to, 80));
    assert!(!index.namespace(&deleted(json!({"metadata": {"name": "x"}}))), "nobody speaks of its labels");
    // Its address may be another's once a pod has ended, and a pod of the host's network has none of its own.
    let mut ended = pod("y", "a-front", 5, "a", "front", NODE);
    ended["status"]["phase"] = json!("Succeeded");
    assert!(index.pod(&added(ended)));
    assert!(connects(&index, FRONT, to, 80));
    let mut of_host = pod("y", "host", 5, "a", "front", NODE);
    of_host["spec"]["hostNetwork"] = json!(true);
    assert!(!index.pod(&added(of_host)));
    assert!(index.pod(&added(pod("y", "new", 5, "a", "front", NODE))));
    assert!(!connects(&index, FRONT, to, 80));
    assert!(index.policy(&deleted(policy("y", "p", json!({})))));
    assert!(connects(&index, FRONT, to, 80));
    assert!(!index.pod(&deleted(pod("y", "new", 5, "a", "front", NODE))), "no policy, nothing to do");
}

/// Policies of pods elsewhere, and of no pods, take no room; pods with the same policies share their chain.
#[test]
fn the_table_holds_what_this_node_needs() {
    let elsewhere =
        policy("x", "elsewhere", json!({"podSelector": {"matchLabels": {"tier": "back"}}, "ingress": [{}]}));
    let empty = Family::V4;
    assert_eq!(plan(empty, with(std::slice::from_ref(&elsewhere)).model()), plan(empty, world().model()));
    let here = policy("x", "here", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}));
    let table = plan(Family::V4, with(&[elsewhere, here]).model());
    let elements = &table.sets["ingress-pods"].elements;
    assert_eq!(elements.len(), 2);
    assert_eq!(elements.values().collect::<std::collections::BTreeSet<_>>().len(), 1);
    let jumped: Vec<&str> =
        table.chains.keys().map(String::as_str).filter(|name| name.contains("x/")).collect();
    assert!(jumped.iter().all(|name| name.contains("here")), "{jumped:?}");
}

/// One pod more is a few elements, whatever else is there.
#[test]
fn a_pod_more_changes_elements_only() {
    let mut index = with(&[
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]}]}),
        ),
        policy("x", "q", json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]})),
    ]);
    let before = plan(Family::V4, index.model());
    index.pod(&added(pod("x", "more", 99, "a", "front", NODE)));
    let commands = diff(Some(&before), &plan(Family::V4, index.model()));
    let elements = commands.iter().filter(|c| matches!(c, Command::AddElements(..))).count();
    assert_eq!(commands.len(), elements, "{commands:?}");
}

#[test]
fn long_names_are_cut_and_stay_apart() {
    let names = ["a".repeat(253), format!("{}b", "a".repeat(252))];
    let policies = names.map(|name| policy(&"n".repeat(63), &name, json!({"podSelector": {}})));
    let mut index = with(&policies);
    index.pod(&added(pod(&"n".repeat(63), "p", 50, "a", "front", NODE)));
    let table = plan(Family::V4, index.model());
    assert!(table.chains.keys().chain(table.sets.keys()).all(|name| name.len() < 100));
    // Two hooks, one group, two policies.
    assert_eq!(table.chains.len(), 5, "{:?}", table.chains.keys());
}

#[test]
fn pods_are_read_as_the_api_writes_them() {
    let read = |object: Json| Pod::of(&serde_json::from_value::<objects::Pod>(object).unwrap(), NODE);
    let made = read(pod("x", "p", 3, "a", "front", NODE)).unwrap();
    assert_eq!(made.addresses, [ip("10.244.0.3"), ip("fd00::3")]);
    let names: Vec<(&str, u16)> = made.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(names, [("web", 81), ("web", 90), ("dns", 53)], "init containers that end serve nothing");
    let mut only_first = pod("x", "p", 3, "a", "front", "n2");
    only_first["status"]["podIPs"] = json!([]);
    let made = read(only_first).unwrap();
    assert_eq!((made.addresses, made.local), (vec![ip("10.244.0.3")], false));
    let mut unborn = pod("x", "p", 3, "a", "front", NODE);
    unborn["status"] = json!({"phase": "Pending"});
    assert_eq!(read(unborn), None);
    let policy: NetworkPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
    assert!(Policy::of(&policy).pods.is_everything());
}
